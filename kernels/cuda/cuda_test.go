//go:build cuda

package cuda

import (
	"io"
	"math"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"gorgonia.org/cu"

	"vlmo-train/kernels"
	"vlmo-train/kernels/conformance"
	"vlmo-train/kernels/cuda/emu"
	"vlmo-train/kernels/ref"
	"vlmo-train/rng"
)

func open(t *testing.T) *device {
	d, err := New(0, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.(io.Closer).Close() })
	return d.(*device)
}

func TestConformance(t *testing.T) {
	if noDriver() {
		t.Skip("no driver")
	}
	conformance.Run(t, func() (kernels.Device, error) { return New(0, Options{}) })
}

// The same with products of every size in cublasLt, where it is found.
func TestConformanceLt(t *testing.T) {
	if noDriver() {
		t.Skip("no driver")
	}
	if _, err := ltOpen(); err != nil {
		t.Skip(err)
	}
	products := 0
	for _, refused := range []bool{false, true} {
		if refused {
			t.Setenv("CUEMU_LT_EXACT", "1") // no algorithm does for another shape
		}
		var last *device
		conformance.RunAligned(t, "MatMul", func() (kernels.Device, error) {
			if last != nil {
				products += last.lt.calls
				last.Close()
			}
			last = open(t)
			last.lt.least, last.lt.noBgrad = 0, refused
			return last, nil
		})
		products += last.lt.calls
	}
	if products < 100 {
		t.Errorf("%d products went to cublasLt, too few to show anything", products)
	}
	t.Logf("%d products went to cublasLt", products)
}

// Products with numbers of rows that are close share an algorithm, so that a step
// whose rows are drawn asks the library for nothing new.
func TestClassesLt(t *testing.T) {
	for rows, want := range map[int]int{1: 1, 31: 31, 32: 32, 33: 34, 1000: 1024, 1024: 1024, 1025: 1088, 25000: 25600} {
		forward, exact := ltShape{m: rows, n: 5, k: 7}.class()
		back, _ := ltShape{m: 5, n: 7, k: rows, transA: true}.class()
		other, none := ltShape{m: 5, n: 7, k: rows, transA: true, transB: true}.class()
		if forward.m != want || forward.n != 5 || forward.k != 7 || exact != rows || back.k != want || back.m != 5 || other.k != rows || none != 0 {
			t.Errorf("%d rows: %+v of %d, %+v, %+v of %d", rows, forward, exact, back, other, none)
		}
	}
	if noDriver() {
		t.Skip("no driver")
	}
	if _, err := ltOpen(); err != nil {
		t.Skip(err)
	}
	const n, most = 64, 1000
	d := open(t)
	d.lt.least = 0
	m, err := d.Alloc(4 * (2*most*n + n*n))
	if err != nil {
		t.Fatal(err)
	}
	for rows := most - 20; rows <= most; rows++ {
		x, y := kernels.Matrix(m, 0, kernels.F32, rows, n), kernels.Matrix(m, 4*most*n, kernels.F32, rows, n)
		w := kernels.Matrix(m, 8*most*n, kernels.F32, n, n)
		d.Run(&kernels.MatMul{A: x, B: w, C: y})
		d.Run(&kernels.MatMul{A: y, TransA: true, B: x, C: w})
	}
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	if d.lt.calls != 42 || len(d.lt.plans) != 4 {
		t.Errorf("%d products took %d plans, want 42 and 4", d.lt.calls, len(d.lt.plans))
	}
}

// A product in cublasLt has the same bits each time, unless any order will do:
// then the library may take an algorithm whose sums have another order each
// time, as the emulated one does.
func TestOrderLt(t *testing.T) {
	if noDriver() {
		t.Skip("no driver")
	}
	if _, err := ltOpen(); err != nil {
		t.Skip(err)
	}
	const n, times = 64, 16
	for _, any := range []bool{false, true} {
		dev, err := New(0, Options{AnyOrder: any, LtLeast: 1})
		if err != nil {
			t.Fatal(err)
		}
		d := dev.(*device)
		m, err := d.Alloc(4 * 3 * n * n)
		if err != nil {
			t.Fatal(err)
		}
		var x [3]kernels.Tensor
		src, v := rng.New(rng.Key{Seed: 9}), make([]float32, n*n)
		for i := range x {
			x[i] = kernels.Matrix(m, i*4*n*n, kernels.F32, n, n)
			for j := range v {
				v[j] = float32(src.Norm())
			}
			d.Write(x[i], v)
		}
		results := map[string]bool{}
		for range times {
			d.Run(&kernels.MatMul{A: x[0], B: x[1], C: x[2]})
			d.Read(v, x[2])
			results[string(bytesOf(v))] = true
		}
		if d.lt.calls != times {
			t.Errorf("%d products of %d went to cublasLt", d.lt.calls, times)
		}
		if err := d.Sync(); err != nil {
			t.Fatal(err)
		}
		d.Close()
		if !any && len(results) != 1 || any && emu.Present() && len(results) == 1 {
			t.Errorf("any order %v: %d different results", any, len(results))
		}
	}
}

// Where the library can't be used, products go to our kernels.
func TestWithoutLt(t *testing.T) {
	if noDriver() {
		t.Skip("no driver")
	}
	t.Setenv("CUEMU_NO_CUBLASLT", "1")
	d := open(t)
	if d.lt.handle != nil && emu.Present() {
		t.Fatal("the library is used")
	}
	if _, err := ltOpen(); err == nil && emu.Present() {
		text := strings.Join(Describe(), "\n")
		for _, w := range []string{"can't be used: cublasLtCreate: CUBLAS_STATUS_NOT_INITIALIZED", "pip install nvidia-cublas-cu12"} {
			if !strings.Contains(text, w) {
				t.Errorf("%q is not in\n%s", w, text)
			}
		}
	}
	m, err := d.Alloc(4 * 3 * 64 * 64)
	if err != nil {
		t.Fatal(err)
	}
	var x [3]kernels.Tensor
	for i := range x {
		x[i] = kernels.Matrix(m, i*4*64*64, kernels.F32, 64, 64)
	}
	d.lt.least = 0
	d.Run(&kernels.Fill{Y: x[0], Value: 2})
	d.Run(&kernels.Fill{Y: x[1], Value: 3})
	d.Run(&kernels.MatMul{A: x[0], B: x[1], C: x[2]})
	got := make([]float32, 64*64)
	d.Read(got, x[2])
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	for i, v := range got {
		if v != 384 {
			t.Fatalf("element %d is %v, want 384", i, v)
		}
	}
}

func noDriver() bool {
	_, err := cu.NumDevices()
	return err != nil
}

// Without a driver the program runs and says what is missing.
func TestNoDriver(t *testing.T) {
	if !noDriver() {
		t.Skip("there is a driver")
	}
	if _, err := New(0, Options{}); err == nil || !strings.Contains(err.Error(), "libcuda.so.1") {
		t.Errorf("New: %v", err)
	}
	if lines := Describe(); len(lines) != 2 || !strings.Contains(lines[0], "install the NVIDIA driver") {
		t.Errorf("Describe: %q", lines)
	}
}

// With a driver that shows no GPU, too.
func TestNoGPU(t *testing.T) {
	if os.Getenv("CUEMU_NODEVICE") == "" {
		if noDriver() || !emu.Present() {
			t.Skip("no emulator")
		}
		cmd := exec.Command(os.Args[0], "-test.run=^TestNoGPU$")
		cmd.Env = append(os.Environ(), "CUEMU_NODEVICE=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	if _, err := New(0, Options{}); err == nil || !strings.Contains(err.Error(), "CUDA_VISIBLE_DEVICES") {
		t.Errorf("New: %v", err)
	}
	if text := strings.Join(Describe(), "\n"); !strings.Contains(text, "CUDA error 100") || !strings.Contains(text, "CUDA_VISIBLE_DEVICES") {
		t.Errorf("Describe: %s", text)
	}
}

func TestNoSuchGPU(t *testing.T) {
	if noDriver() {
		t.Skip("no driver")
	}
	if _, err := New(99, Options{}); err == nil || !strings.Contains(err.Error(), "no GPU 99") {
		t.Error(err)
	}
}

// A wrong argument is an error that names the kernel; nothing is launched.
func TestWrongArguments(t *testing.T) {
	if noDriver() {
		t.Skip("no driver")
	}
	for name, c := range map[string]struct {
		spoil func(l *launch) *launch
		want  string
	}{
		"too few":  {func(l *launch) *launch { return l.int(1, 4) }, "kernel fill: 4 arguments, the image's takes 5"},
		"too many": {func(l *launch) *launch { return l.int(1, 4).float(1, 1) }, "kernel fill: 6 arguments"},
		"too wide": {func(l *launch) *launch { return l.int(1, 4).ptr(0) }, "kernel fill: argument 4 has 8 bytes, the image's has 4"},
	} {
		d := open(t)
		m, err := d.Alloc(16)
		if err != nil {
			t.Fatal(err)
		}
		y := kernels.Matrix(m, 0, kernels.F32, 1, 4)
		d.start(c.spoil(d.quads("fill", 1, 4).tensor(y)))
		if err := d.Sync(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// Mistakes in indices, which only the kernels see, are errors of the next Sync.
func TestFaults(t *testing.T) {
	if noDriver() {
		t.Skip("no driver")
	}
	for _, c := range []struct {
		code  int
		build func(x, s, loss, index kernels.Tensor) kernels.Op
	}{
		{faultRows, func(x, s, _, index kernels.Tensor) kernels.Op {
			return &kernels.LayerNorm{X: x, Rows: index, Scale: s, Shift: s, Y: x}
		}},
		{faultRows, func(x, s, _, index kernels.Tensor) kernels.Op {
			h := x
			h.Offset += 32
			return &kernels.ResidualNorm{Residual: kernels.Residual{X: x, Y: x, Z: x}, NormRows: index, H: h, Parts: [3]kernels.NormPart{{Rows: 2, Scale: s, Shift: s}}}
		}},
		{faultRows, func(x, s, _, index kernels.Tensor) kernels.Op {
			at := func(offset, rows, cols int) kernels.Tensor {
				return kernels.Matrix(x.Mem, offset, kernels.F32, rows, cols)
			}
			return &kernels.ResidualNormGrad{ResidualGrad: kernels.ResidualGrad{DZ: x, DY: at(32, 2, 4)}, Z: at(160, 2, 4), NormRows: index, DH: at(192, 2, 4),
				Mean: at(224, 1, 2), Rstd: at(232, 1, 2), Parts: [3]kernels.NormGradPart{{Rows: 2, Scale: s}}}
		}},
		{faultIndex, func(x, _, _, index kernels.Tensor) kernels.Op {
			return &kernels.Gather{Table: x, Index: index, Y: x}
		}},
		{faultLabel, func(x, _, loss, index kernels.Tensor) kernels.Op {
			return &kernels.CrossEntropy{Logits: x, Label: index, Loss: loss}
		}},
		{faultPositive, func(x, s, loss, index kernels.Tensor) kernels.Op {
			return &kernels.Contrast{Dot: x, LogScale: loss, RowGroup: index, ColGroup: kernels.Tensor{Mem: s.Mem, Type: kernels.I32, Rows: 1, Cols: 4, Stride: 4}, Loss: loss}
		}},
	} {
		d := open(t)
		m, err := d.Alloc(256)
		if err != nil {
			t.Fatal(err)
		}
		index := kernels.Matrix(m, 128, kernels.I32, 1, 2)
		d.Write(index, []int32{0, 7})
		d.Run(c.build(kernels.Matrix(m, 0, kernels.F32, 2, 4), kernels.Matrix(m, 64, kernels.F32, 1, 4), kernels.Matrix(m, 96, kernels.F32, 1, 1), index))
		if err := d.Sync(); err == nil || !strings.Contains(err.Error(), faults[c.code]) {
			t.Errorf("fault %d: %v, want %q", c.code, err, faults[c.code])
		}
	}
}

// Uploads go around the staging slots more than once and land in order, among
// ops that read what earlier ones brought.
func TestUploads(t *testing.T) {
	if noDriver() {
		t.Skip("no driver")
	}
	d := open(t)
	const n, tail = slotBytes/4 + 1000, 2000 // a bit more than a slot; what is looked at
	m, err := d.Alloc(8 * n)
	if err != nil {
		t.Fatal(err)
	}
	x, sum := kernels.Matrix(m, 0, kernels.F32, 1, n), kernels.Matrix(m, 4*n, kernels.F32, 1, tail)
	src := make([]float32, n)
	for round := range 2*slots + 1 {
		for i := range src {
			src[i] = float32(round*3 + i%7)
		}
		d.Write(x, src)
		clear(src)
		d.Run(&kernels.AddScaled{X: x.Columns(n-tail, n), Y: sum, Alpha: 1})
	}
	got := make([]float32, tail)
	d.Read(got, sum)
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	for i, v := range got {
		rounds := 2*slots + 1
		if want := float32(3*rounds*(rounds-1)/2 + rounds*((n-tail+i)%7)); v != want {
			t.Fatalf("element %d = %v, want %v", i, v, want)
		}
	}
}

// What is written into memory that no op under way uses is there before those
// ops have run.
func TestWriteBesideOps(t *testing.T) {
	if !emu.Present() {
		t.Skip("no emulator")
	}
	seed, _ := strconv.Atoi(os.Getenv("CUEMU_SEED"))
	emu.Seed(0)
	defer emu.Seed(seed)
	d := open(t)
	var x [2]kernels.Tensor
	for i := range x {
		m, err := d.Alloc(5 * slotBytes)
		if err != nil {
			t.Fatal(err)
		}
		x[i] = kernels.Matrix(m, 0, kernels.F32, 1, 5*slotBytes/4)
	}
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	src := make([]float32, x[1].Len())
	for i := range src {
		src[i] = float32(i)
	}
	last := make([]float32, 4)
	var before int
	all := emu.Count(func() {
		d.Run(&kernels.Fill{Y: x[0], Value: 7})
		d.Write(x[1], src)
		err := d.do(func() error {
			from := cu.DevicePtr(x[1].Mem.Addr) + 5*slotBytes - 16
			if err := cu.MemcpyDtoHAsync(unsafe.Pointer(&d.back[0]), from, 16, d.copies); err != nil {
				return err
			}
			if err := d.copies.Synchronize(); err != nil {
				return err
			}
			copy(bytesOf(last), d.back)
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		before = emu.Launches()
		d.Sync()
	})
	if !slices.Equal(last, src[len(src)-4:]) {
		t.Errorf("the copy stream ends with %v, want %v", last, src[len(src)-4:])
	}
	if before != 0 || len(all) != 1 {
		t.Errorf("%d of %d launches had run, want none of one", before, len(all))
	}
	got := make([]float32, len(src))
	if d.Read(got, x[1]); !slices.Equal(got, src) {
		t.Error("a part of what was written is something else")
	}
}

// Writes, ops and reads in any order have the results of that order, whatever
// memory a write goes to.
func TestWriteOrder(t *testing.T) {
	if noDriver() {
		t.Skip("no driver")
	}
	const memories, n = 3, 3000
	for seed := range uint64(20) {
		d, src := open(t), rng.New(rng.Key{Seed: seed})
		var x [memories]kernels.Tensor
		var want [memories][]float32
		for i := range x {
			m, err := d.Alloc(4 * n)
			if err != nil {
				t.Fatal(err)
			}
			x[i], want[i] = kernels.Matrix(m, 0, kernels.F32, 1, n), make([]float32, n)
		}
		for range 60 {
			i, k := src.IntN(memories), src.IntN(memories)
			lo := src.IntN(n)
			switch src.IntN(5) {
			case 0, 1:
				v := make([]float32, n-lo)
				for j := range v {
					v[j] = float32(src.IntN(8))
				}
				copy(want[i][lo:], v)
				d.Write(x[i].Columns(lo, n), v)
			case 2, 3:
				if i == k {
					continue
				}
				for j, v := range want[i] {
					want[k][j] += v / 2
				}
				d.Run(&kernels.AddScaled{X: x[i], Y: x[k], Alpha: 0.5})
			default:
				got := make([]float32, n)
				d.Read(got, x[i])
				if !slices.Equal(got, want[i]) {
					t.Fatalf("seed %d: memory %d is not what was written and added", seed, i)
				}
			}
		}
		if err := d.Sync(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		d.Close()
	}
}

// Close gives all memory back, and later calls fail.
func TestClose(t *testing.T) {
	if noDriver() {
		t.Skip("no driver")
	}
	used := func() int64 {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		dev, err := cu.GetDevice(0)
		if err != nil {
			t.Fatal(err)
		}
		ctx, err := dev.RetainPrimaryCtx()
		if err != nil {
			t.Fatal(err)
		}
		defer dev.ReleasePrimaryCtx()
		if err := cu.SetCurrentContext(ctx); err != nil {
			t.Fatal(err)
		}
		free, total, err := cu.MemInfo()
		if err != nil {
			t.Fatal(err)
		}
		return total - free
	}
	keep := open(t) // the context stays
	if err := keep.Sync(); err != nil {
		t.Fatal(err)
	}
	before := used()
	d := open(t)
	m, err := d.Alloc(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	d.Run(&kernels.SumSquares{X: kernels.Matrix(m, 4, kernels.F32, 1, 1000), Y: kernels.Matrix(m, 0, kernels.F32, 1, 1)})
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if after := used(); after != before {
		t.Errorf("%d bytes in use before, %d after", before, after)
	}
	if d.Sync() == nil {
		t.Error("a closed device has no error")
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// Every variant of the attention kernels, against ref: head dims with and without
// columns to fill up, several tiles of queries and keys, sequences of one part
// and of none, some of the queries, K and V in one tensor and in two.
func TestAttentionHeads(t *testing.T) {
	if noDriver() {
		t.Skip("no driver")
	}
	for _, c := range []struct {
		typ  kernels.DType
		dims []int
	}{
		{kernels.F32, []int{65, 128}},
		{kernels.BF16, []int{17, 34, 48, 64, 96, 128}},
	} {
		for i, dim := range c.dims {
			some, apart := i%2 == 0, i%3 == 0
			want, got := attentionHeads(t, ref.New(), c.typ, dim, some, apart), attentionHeads(t, open(t), c.typ, dim, some, apart)
			for i, w := range want {
				limit := 1e-5
				if c.typ == kernels.BF16 {
					limit = 1.5e-2
				}
				if attentionResults[i] == "LSE" {
					limit = 1e-5
				}
				var e2, w2 float64
				for j := range w {
					e2 += (got[i][j] - w[j]) * (got[i][j] - w[j])
					w2 += w[j] * w[j]
				}
				if err := math.Sqrt(e2 / w2); !(err < limit) {
					t.Errorf("%v, dim %d, some queries: %v, %s: relative error %.2g, limit %.2g", c.typ, dim, some, attentionResults[i], err, limit)
				}
			}
		}
	}
}

var attentionResults = []string{"Out", "LSE", "DQ", "DK", "DV", "DTable"}

// attentionHeads runs attention and its gradients on fixed random operands and
// returns the results.
func attentionHeads(t *testing.T, dev kernels.Device, typ kernels.DType, dim int, some, apart bool) (results [][]float64) {
	const heads, window, text = 2, 6, 70
	sequences := []kernels.Sequence{
		{TextOff: 1, TextLen: 45, ImageOff: 117, ImageLen: 1 + window*window}, // row 0 belongs to none
		{TextOff: 46, TextLen: 70},
		{},
		{ImageOff: 155, ImageLen: 1 + window*window},
		{TextOff: 116, TextLen: 1, ImageOff: 154, ImageLen: 1},
	}
	const n = 155 + 1 + window*window
	src := rng.New(rng.Key{Seed: uint64(dim)})
	place := func(typ kernels.DType, rows, cols int, fill func() float64) kernels.Tensor {
		m, err := dev.Alloc(rows * cols * typ.Size())
		if err != nil {
			t.Fatal(err)
		}
		x := kernels.Matrix(m, 0, typ, rows, cols)
		floats, halves := make([]float32, rows*cols), make([]uint16, rows*cols)
		for i := range floats {
			floats[i] = float32(fill())
			halves[i] = kernels.RoundBF16(floats[i])
		}
		if typ == kernels.BF16 {
			dev.Write(x, halves)
		} else {
			dev.Write(x, floats)
		}
		return x
	}
	normal := func(typ kernels.DType, rows, cols int) kernels.Tensor { return place(typ, rows, cols, src.Norm) }
	// A result holds zeros, in rows that are not to be written too.
	zero := func(typ kernels.DType, rows, cols int) kernels.Tensor {
		return place(typ, rows, cols, func() float64 { return 0 })
	}
	d, m := heads*dim, n
	bias := kernels.RelativeBias{Window: window, Text: text, Column: 1}
	bias.Table = normal(kernels.F32, bias.Rows(), heads+1)
	var queries kernels.Tensor
	if some {
		var list []int32
		for i := int32(2); i < n; i += 2 {
			list = append(list, i)
		}
		m = len(list)
		memory, err := dev.Alloc(4 * m)
		if err != nil {
			t.Fatal(err)
		}
		queries = kernels.Matrix(memory, 0, kernels.I32, 1, m)
		dev.Write(queries, list)
	}
	var k, v, dk, dv kernels.Tensor
	if apart {
		k, v, dk, dv = normal(typ, n, d), normal(typ, n, d), zero(typ, n, d), zero(typ, n, d)
	} else {
		kv, dkv := normal(typ, n, 2*d), zero(typ, n, 2*d)
		k, v, dk, dv = kv.Columns(0, d), kv.Columns(d, 2*d), dkv.Columns(0, d), dkv.Columns(d, 2*d)
	}
	o := &kernels.Attention{Q: normal(typ, m, d), K: k, V: v, Queries: queries, Heads: heads, Scale: float32(1 / math.Sqrt(float64(dim))),
		Sequences: sequences, Bias: bias, Out: zero(typ, m, d), LSE: zero(kernels.F32, m, heads)}
	g := &kernels.AttentionGrad{Q: o.Q, K: k, V: v, Queries: queries, Out: o.Out, DOut: normal(typ, m, d), LSE: o.LSE, Heads: heads, Scale: o.Scale,
		Sequences: sequences, Bias: bias, DQ: zero(typ, m, d), DK: dk, DV: dv, DTable: normal(kernels.F32, bias.Rows(), heads+1)}
	dev.Run(o)
	dev.Run(g)
	for _, x := range []kernels.Tensor{o.Out, o.LSE, g.DQ, g.DK, g.DV, g.DTable} {
		if !x.Contiguous() {
			whole := zero(typ, x.Rows, x.Cols)
			dev.Run(&kernels.Copy{X: x, Y: whole})
			x = whole
		}
		values, floats, halves := make([]float64, x.Len()), make([]float32, x.Len()), make([]uint16, x.Len())
		if x.Type == kernels.BF16 {
			dev.Read(halves, x)
		} else {
			dev.Read(floats, x)
		}
		for i := range values {
			values[i] = float64(floats[i]) + float64(kernels.FromBF16(halves[i]))
		}
		results = append(results, values)
	}
	if err := dev.Sync(); err != nil {
		t.Fatal(err)
	}
	return results
}

// A deep product of few tiles, as a weight's gradient is, in parts: with a bias's
// gradient, added to what was there, or with bias and activation.
func TestSplitProducts(t *testing.T) {
	if noDriver() {
		t.Skip("no driver")
	}
	for _, c := range []struct{ tiles, k, want int }{
		{1, 511, 511}, {1, 512, 256}, {36, 4096, 608}, {129, 1 << 16, 1 << 16}, {1, 1 << 16, 1 << 11}, {1, 600, 320},
	} {
		if got := splitDepth(c.tiles, c.k); got != c.want {
			t.Errorf("splitDepth(%d, %d) = %d, want %d", c.tiles, c.k, got, c.want)
		}
	}
	const m, n, k = 70, 50, 1100
	for _, typ := range []kernels.DType{kernels.F32, kernels.BF16} {
		run := func(dev kernels.Device) (results [][]float32) {
			src := rng.New(rng.Key{Seed: 5})
			tensor := func(typ kernels.DType, rows, cols int) kernels.Tensor {
				mem, err := dev.Alloc(4 * rows * cols)
				if err != nil {
					t.Fatal(err)
				}
				x, floats, halves := kernels.Matrix(mem, 0, typ, rows, cols), make([]float32, rows*cols), make([]uint16, rows*cols)
				for i := range floats {
					floats[i] = float32(src.Norm())
					halves[i] = kernels.RoundBF16(floats[i])
				}
				if typ == kernels.BF16 {
					dev.Write(x, halves)
				} else {
					dev.Write(x, floats)
				}
				return x
			}
			a, b, at := tensor(typ, k, m), tensor(typ, k, n), tensor(typ, m, k)
			grad, sum := tensor(kernels.F32, m, n), tensor(kernels.F32, 1, m)
			y, pre := tensor(kernels.F32, m, n), tensor(kernels.F32, m, n)
			dev.Run(&kernels.MatMul{A: a, B: b, TransA: true, C: grad, Accumulate: true, Sum: sum})
			dev.Run(&kernels.MatMul{A: at, B: b, C: y, Bias: tensor(kernels.F32, 1, n), Act: kernels.GELU, Pre: pre})
			for _, x := range []kernels.Tensor{grad, sum, y, pre} {
				v := make([]float32, x.Len())
				dev.Read(v, x)
				results = append(results, v)
			}
			if err := dev.Sync(); err != nil {
				t.Fatal(err)
			}
			return results
		}
		want, got := run(ref.New()), run(open(t))
		for i := range want {
			for j, w := range want[i] {
				if e := math.Abs(float64(got[i][j] - w)); !(e < 2e-4) { // elements are about 30
					t.Fatalf("%v, result %d: element %d is %v, want %v", typ, i, j, got[i][j], w)
				}
			}
		}
	}
}

// Describe names the GPU, what its memory and code are, and the library or how
// to get it.
func TestDescribe(t *testing.T) {
	if noDriver() {
		t.Skip("no driver")
	}
	text := strings.Join(Describe(), "\n")
	want := []string{"driver for CUDA 1", "cuda:0: ", " MiB free, kernels: "}
	if _, err := ltOpen(); err == nil {
		want = append(want, "cuBLASLt 1", "for large products")
	} else {
		want = append(want, "no libcublasLt was found", "pip install nvidia-cublas-cu12")
	}
	if emu.Present() {
		want = append(want, "cuemu sm_80, ", "kernels: sm_80")
		if l := emu.Alive(); l.Contexts != 0 {
			t.Errorf("left behind: %+v", l)
		}
	}
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("%q is not in\n%s", w, text)
		}
	}
	if name := codeName(120); !strings.Contains(name, "from PTX") || !strings.Contains(name, "sm_80") {
		t.Errorf("an image without sm_120 has %q", name)
	}
}

// Rows of logits longer than a block's registers hold, aligned and not, in place.
func TestLongRows(t *testing.T) {
	if noDriver() {
		t.Skip("no driver")
	}
	const rows = 2
	for _, n := range []int{32769, 40000} {
		run := func(dev kernels.Device) []float32 {
			src := rng.New(rng.Key{Seed: uint64(n)})
			m, err := dev.Alloc(4 * (2*rows*n + 2*rows + n + 2))
			if err != nil {
				t.Fatal(err)
			}
			at := 0
			tensor := func(typ kernels.DType, r, c int) kernels.Tensor {
				x := kernels.Matrix(m, at, typ, r, c)
				at += 4 * r * c
				return x
			}
			logits, dots := tensor(kernels.F32, rows, n), tensor(kernels.F32, rows, n)
			sums, label, group := tensor(kernels.F32, 1, 2), tensor(kernels.I32, 1, rows), tensor(kernels.I32, 1, n)
			x := make([]float32, 2*rows*n)
			for i := range x {
				x[i] = float32(src.Norm())
			}
			dev.Write(kernels.Matrix(m, 0, kernels.F32, 1, len(x)), x)
			dev.Write(label, []int32{7, int32(n - 2)})
			groups := make([]int32, n)
			for i := range groups {
				groups[i] = int32(i)
			}
			dev.Write(group, groups)
			dev.Run(&kernels.CrossEntropy{Logits: logits, Label: label, Weight: 3, Loss: sums.Columns(0, 1), DLogits: logits})
			dev.Run(&kernels.Contrast{Dot: dots, LogScale: sums.Columns(1, 2), RowGroup: label, ColGroup: group, Weight: 3, Loss: sums.Columns(0, 1),
				DDot: logits, Accumulate: true, DLogScale: kernels.Tensor{}})
			y := make([]float32, rows*n+2)
			dev.Read(y[:rows*n], logits)
			dev.Read(y[rows*n:], sums)
			if err := dev.Sync(); err != nil {
				t.Fatal(err)
			}
			return y
		}
		want, got := run(ref.New()), run(open(t))
		for i, w := range want {
			if e := math.Abs(float64(got[i] - w)); !(e <= 1e-5*max(math.Abs(float64(w)), 1e-3)) {
				t.Fatalf("rows of %d: element %d is %v, want %v", n, i, got[i], w)
			}
		}
	}
}
