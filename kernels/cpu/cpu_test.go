package cpu

import (
	"fmt"
	"math"
	"runtime"
	"strings"
	"testing"
	"time"

	"vlmo-train/kernels"
	"vlmo-train/kernels/conformance"
	"vlmo-train/rng"
)

func TestConformance(t *testing.T) {
	for _, s := range available() {
		for threads := 1; threads <= 3; threads++ {
			t.Run(fmt.Sprintf("%s/%d", s.name, threads), func(t *testing.T) {
				conformance.Run(t, func() (kernels.Device, error) {
					return New(Options{Threads: threads, ISA: s.name})
				})
			})
		}
	}
}

// allOps returns ops of every type, large enough for several threads, with
// sizes that no tile and no vector divides.
func allOps(l *lab) []kernels.Op {
	const r, d, k = 331, 131, 300
	mat := func() kernels.Tensor { return l.normal(r, d) }
	vec := func(n int) kernels.Tensor { return l.normal(1, n) }
	index := func(n int) kernels.Tensor { return l.ints(r, func(i int) int { return (i*i + 7) % n }) }
	scale := func() kernels.Tensor { return l.normal(1, 1) }
	group := func(n int) kernels.Tensor { return l.ints(n, func(i int) int { return i % 50 }) }
	att, attGrad := attentionOps(l, 37, 5, 17, 3, 3*20)
	images := l.normal(9, 3*32*48)
	rows := l.ints(r, func(i int) int { return i })
	return []kernels.Op{
		&kernels.MatMul{A: l.normal(r, k), B: l.normal(d, k), TransB: true, C: mat(), Bias: vec(d), Act: kernels.GELU, Pre: mat()},
		&kernels.MatMul{A: l.normal(r, k), B: l.normal(k, d), C: mat(), Act: kernels.GELUGrad, Pre: mat()},
		&kernels.MatMul{A: l.normal(1000, r), B: l.normal(1000, d), TransA: true, C: mat(), Accumulate: true},
		&kernels.MatMul{A: l.normal(5, 1700), B: l.normal(1100, 1700), TransB: true, C: l.normal(5, 1100)},
		&kernels.ColumnSum{X: mat(), Y: vec(d)},
		&kernels.LayerNorm{X: mat(), Scale: vec(d), Shift: vec(d), Y: mat(), Mean: vec(r), Rstd: vec(r), Eps: 1e-6},
		&kernels.LayerNormGrad{X: mat(), DY: mat(), Scale: vec(d), Mean: vec(r), Rstd: vec(r), DX: mat(),
			DScale: vec(d), DShift: vec(d), Accumulate: true},
		&kernels.Residual{X: mat(), Y: mat(), Gamma: vec(d), Keep: vec(r), Z: mat()},
		&kernels.ResidualNorm{Residual: kernels.Residual{X: mat(), Y: mat(), Gamma: vec(d), Keep: vec(r), Z: mat()}, H: mat(), Mean: vec(r), Rstd: vec(r),
			Eps: 1e-6, Parts: [3]kernels.NormPart{{Rows: 100, Scale: vec(d), Shift: vec(d)}, {}, {Rows: r - 100, Scale: vec(d), Shift: vec(d)}}},
		&kernels.ResidualGrad{DZ: mat(), Y: mat(), Gamma: vec(d), Keep: vec(r), DY: mat(), DGamma: vec(d)},
		&kernels.ResidualNormGrad{ResidualGrad: kernels.ResidualGrad{DZ: mat(), Y: mat(), Gamma: vec(d), Keep: vec(r), DY: mat(), DGamma: vec(d)}, Z: mat(), DH: mat(),
			Mean: vec(r), Rstd: vec(r), Parts: [3]kernels.NormGradPart{{Rows: 100, Scale: vec(d), DScale: vec(d), DShift: vec(d)}, {}, {Rows: r - 100, Scale: vec(d)}}},
		&kernels.Gather{Table: l.normal(40, d), Index: index(40), Y: mat(), Accumulate: true},
		&kernels.ScatterAdd{Y: mat(), Index: index(40), Table: l.normal(40, d)},
		&kernels.Patchify{X: images, Y: l.normal(9*6, 3*256), Channels: 3, Height: 32, Width: 48, Size: 16},
		&kernels.Dropout{X: mat(), Row: rows, Y: mat(), Rate: 0.1, Key: [2]uint32{1, 2}},
		&kernels.Tanh{X: mat(), Y: mat()},
		&kernels.TanhGrad{Y: mat(), DY: mat(), DX: mat()},
		&kernels.Gelu{X: mat(), Y: mat()},
		&kernels.GeluGrad{X: mat(), DY: mat(), DX: mat()},
		&kernels.AddScaled{X: mat(), Y: mat().Columns(0, d), Alpha: 0.3},
		&kernels.AddScaled{X: mat().Columns(0, d-1), Y: mat().Columns(1, d), Alpha: 0.3},
		&kernels.Fill{Y: mat(), Value: 3},
		&kernels.Normalize{X: mat(), Y: mat(), Norm: vec(r)},
		&kernels.NormalizeGrad{Y: mat(), DY: mat(), Norm: vec(r), DX: mat()},
		att, attGrad,
		&kernels.CrossEntropy{Logits: mat(), Label: index(d), Weight: 0.1, Loss: scale(), DLogits: mat()},
		&kernels.Contrast{Dot: mat(), LogScale: scale(), RowGroup: group(r), ColGroup: group(d), Weight: 0.1,
			Loss: scale(), DDot: mat(), DLogScale: scale()},
		&kernels.SampleNegative{Dot: mat(), LogScale: scale(), RowGroup: group(r), ColGroup: group(d),
			RowID: rows, ColID: group(d), Index: index(d)},
		&kernels.BinaryCrossEntropy{Logits: mat(), Target: mat(), Weight: 0.1, Loss: scale(), DLogits: mat()},
		&kernels.SquaredError{X: mat(), Target: mat(), Weight: 0.1, Loss: scale(), DX: mat()},
		&kernels.ArgMax{X: mat(), Index: index(d)},
		&kernels.SumSquares{X: mat(), Y: scale()},
		&kernels.SumSquares{X: mat().Columns(3, d), Y: scale()},
		&kernels.AdamW{P: vec(r * d), M: vec(r * d), V: l.tensor(kernels.F32, 1, r*d), Grad: vec(r * d),
			Rate: 1e-3, Beta1: 0.9, Beta2: 0.98, Eps: 1e-8, GradScale: 0.5, Step: 3, Decay: 0.1},
	}
}

// Results are the same bits for any number of threads.
func TestThreads(t *testing.T) {
	for _, s := range available() {
		var want []kernels.Op
		for _, threads := range []int{1, 2, 5} {
			l := newLab(t, threads, s.name)
			ops := allOps(l)
			l.run(ops...)
			if want == nil {
				want = ops
				continue
			}
			for i, op := range ops {
				var got, ref []kernels.Operand
				got, ref = op.Operands(got), want[i].Operands(ref)
				for j, o := range got {
					x, y := o.Mem.Host, ref[j].Mem.Host
					for b := range x {
						if x[b] != y[b] {
							t.Errorf("%s, op %d (%s), %s: byte %d with %d threads is %#x, with one %#x",
								s.name, i, op.Name(), o.Name, b, threads, x[b], y[b])
							break
						}
					}
				}
			}
		}
	}
}

func TestNoAllocation(t *testing.T) {
	for _, s := range available() {
		for threads := 1; threads <= 2; threads++ {
			l := newLab(t, threads, s.name)
			for _, op := range allOps(l) {
				// The average is rounded down: the runtime's own allocations, of
				// which there is one now and then, do not count.
				if n := testing.AllocsPerRun(5, func() { l.dev.Run(op) }); n != 0 {
					t.Errorf("%s: %s allocates %v times", l.dev.Name(), op.Name(), n)
				}
			}
			l.run()
		}
	}
}

// The functions of single elements are within 1e-6 of the truth, relative,
// wherever the result is a normal number, in vectors of any length.
func TestAccuracy(t *testing.T) {
	for _, s := range available() {
		accuracy(t, s)
	}
}

func accuracy(t *testing.T, s *isa) {
	cdf := func(x float64) float64 { return 0.5 * math.Erfc(-x/math.Sqrt2) }
	one := func(n int) []float32 {
		x := make([]float32, n)
		for i := range x {
			x[i] = 1
		}
		return x
	}
	// AVX-512 has GELU from a table, whose error in the left tail is relative
	// to this: 3e-11 there, where gelu(−4.5) is −1.5e-5. It is still a
	// hundredth of what 1 + erf leaves of a float32.
	tail := 1e-36
	if strings.Contains(s.name, "avx512") {
		tail = 3e-5
	}
	for _, c := range []struct {
		name   string
		f      func(y, x []float32)
		want   func(x float64) float64
		lo, hi float64
		floor  float64 // the error is relative to at least this
	}{
		{"exp", func(y, x []float32) { s.expSum(y, x, 0) }, math.Exp, -86.6, 88.7, 1e-38},
		{"exp of nothing", func(y, x []float32) { s.expSum(y, x, 0) }, math.Exp, -1000, -87, 1},
		{"tanh", s.tanh, math.Tanh, -12, 12, 1e-30},
		{"gelu", s.gelu, func(x float64) float64 { return x * cdf(x) }, -13, 20, tail},
		{"gelu of nothing", s.gelu, func(x float64) float64 { return 0 }, -1e30, -14, 1},
		{"geluGrad", func(y, x []float32) { s.geluGrad(y, one(len(x)), x) },
			func(x float64) float64 { return cdf(x) + x*math.Exp(-x*x/2)/math.Sqrt(2*math.Pi) }, -13, 20, 3 * tail},
	} {
		// The derivative of gelu has a zero at −0.75; near it the error is
		// relative to the terms.
		bound := func(x, want float64) float64 {
			scale := max(math.Abs(want), c.floor)
			if c.name == "geluGrad" && x < 0 {
				scale = max(scale, 2*cdf(x))
			}
			return 1e-6 * scale
		}
		const n = 100003
		x, y := make([]float32, n), make([]float32, n)
		for i := range x {
			x[i] = float32(c.lo + (c.hi-c.lo)*float64(i)/(n-1))
			if i%3 == 0 && c.lo < 0 && c.hi > 0 {
				x[i] *= float32(math.Exp(-float64(i%64) / 4)) // close to 0
			}
		}
		c.f(y, x)
		worst := 0.0
		for i, v := range x {
			want := c.want(float64(v))
			e := math.Abs(float64(y[i])-want) / bound(float64(v), want)
			if worst = max(worst, e); e > 1 || math.IsNaN(e) {
				t.Errorf("%s: %s(%v) = %v, want %v", s.name, c.name, v, y[i], want)
				break
			}
		}
		t.Logf("%s: %s is within %.2g", s.name, c.name, worst*1e-6)
		for n := range 70 {
			z := make([]float32, n+2)
			z[0], z[n+1] = -5, -5
			c.f(z[1:n+1], x[500:500+n])
			for i, v := range z[1 : n+1] {
				if v != y[500+i] {
					t.Fatalf("%s: %s of %d elements: element %d is %v, else %v", s.name, c.name, n, i, v, y[500+i])
				}
			}
			if z[0] != -5 || z[n+1] != -5 {
				t.Fatalf("%s: %s of %d elements wrote outside", s.name, c.name, n)
			}
		}
	}
}

func TestLogarithm(t *testing.T) {
	for x := float32(1); x < 1e6; x *= 1.0007 {
		want := math.Log(float64(x))
		if e := math.Abs(float64(logarithm(x)) - want); e > 1e-7*max(want, 1e-2) {
			t.Fatalf("logarithm(%v) = %v, want %v", x, logarithm(x), want)
		}
	}
	if v := logarithm(float32(math.NaN())); v == v {
		t.Errorf("logarithm(NaN) = %v", v)
	}
}

// NaNs come through, and infinities have their limits.
func TestSpecial(t *testing.T) {
	for _, s := range available() {
		special(t, s)
	}
}

func special(t *testing.T, s *isa) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	same := func(a, b float32) bool { return a == b || a != a && b != b }
	x := []float32{nan, inf, -inf, 0, 1e30, -1e30}
	y := make([]float32, len(x))
	ones := []float32{1, 1, 1, 1, 1, 1}
	for _, c := range []struct {
		name string
		f    func()
		want []float32
	}{
		{"gelu", func() { s.gelu(y, x) }, []float32{nan, inf, 0, 0, 1e30, 0}},
		{"geluGrad", func() { s.geluGrad(y, ones, x) }, []float32{nan, 1, 0, 0.5, 1, 0}},
		{"tanh", func() { s.tanh(y, x) }, []float32{nan, 1, -1, 0, 1, -1}},
		{"exp", func() { s.expSum(y, x, 0) }, []float32{nan, inf, 0, 1, inf, 0}},
	} {
		if c.f(); s == &generic && c.name == "gelu" {
			y[2] = 0 // −Inf·0 there
		}
		for i := range y {
			if !same(y[i], c.want[i]) {
				t.Errorf("%s: %s(%v) = %v, want %v", s.name, c.name, x[i], y[i], c.want[i])
			}
		}
	}
	for n := 1; n < 70; n++ {
		x := make([]float32, n)
		for i := range x {
			x[i] = -float32(100 - i)
		}
		if got := s.max(x); got != x[n-1] {
			t.Errorf("%s: max of %d = %v, want %v", s.name, n, got, x[n-1])
		}
		x[n/2] = inf
		if got := s.max(x); got != inf {
			t.Errorf("%s: max of %d = %v, want %v", s.name, n, got, inf)
		}
	}
	// A NaN in a logit spoils its row.
	row := make([]float32, 21)
	row[13] = nan
	if sum := s.expSum(row, row, s.max(row)); sum == sum {
		t.Errorf("%s: a NaN among logits sums to %v", s.name, sum)
	}
}

// strange is an op that no device knows.
type strange struct{ kernels.Fill }

func (strange) Name() string { return "Strange" }

func TestErrors(t *testing.T) {
	for _, c := range []struct {
		want string
		op   func(l *lab) kernels.Op
	}{
		{"Gather: index 2 is 4, want less than 4", func(l *lab) kernels.Op {
			return &kernels.Gather{Table: l.normal(4, 3), Index: l.ints(5, func(i int) int { return i + 2 }), Y: l.normal(5, 3)}
		}},
		{"ScatterAdd: index 1 is 9", func(l *lab) kernels.Op {
			return &kernels.ScatterAdd{Table: l.normal(4, 3), Index: l.ints(2, func(i int) int { return i * 9 }), Y: l.normal(2, 3)}
		}},
		{"CrossEntropy: label 0 is -1", func(l *lab) kernels.Op {
			return &kernels.CrossEntropy{Logits: l.normal(1, 3), Label: l.ints(1, func(int) int { return -1 }), Loss: l.normal(1, 1)}
		}},
		{"Contrast: row 1, of group 1, has no positive", func(l *lab) kernels.Op {
			zero := func(int) int { return 0 }
			return &kernels.Contrast{Dot: l.normal(2, 3), LogScale: l.normal(1, 1), Loss: l.normal(1, 1),
				RowGroup: l.ints(2, func(i int) int { return i }), ColGroup: l.ints(3, zero)}
		}},
		{"unknown op Strange", func(l *lab) kernels.Op { return &strange{kernels.Fill{Y: l.normal(1, 1)}} }},
		{"Fill: Y lies in no memory", func(l *lab) kernels.Op {
			y := l.normal(1, 1)
			l.dev.Free(y.Mem)
			return &kernels.Fill{Y: y}
		}},
	} {
		l := newLab(t, 1, "")
		op := c.op(l)
		l.dev.Run(op)
		if err := l.dev.Sync(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error is %v, want %q", op.Name(), err, c.want)
		}
	}
	l := newLab(t, 1, "")
	if _, err := l.dev.Alloc(-1); err == nil {
		t.Error("Alloc(-1) has no error")
	}
}

func TestNew(t *testing.T) {
	d, err := New(Options{Threads: 1, ISA: "generic"})
	if err != nil || d.Name() != "cpu (generic, 1 thread)" {
		t.Errorf("New: %v, %v", d, err)
	}
	for _, o := range []Options{{Threads: -1}, {ISA: "mmx"}} {
		if _, err := New(o); err == nil {
			t.Errorf("New(%+v) has no error", o)
		}
	}
	t.Setenv("VLMO_CPU_ISA", "generic")
	if d, err = New(Options{Threads: 2}); err != nil || d.Name() != "cpu (generic, 2 threads)" {
		t.Errorf("New with VLMO_CPU_ISA=generic: %v, %v", d, err)
	}
	t.Setenv("VLMO_CPU_ISA", "mmx")
	if _, err := New(Options{}); err == nil {
		t.Error("New with VLMO_CPU_ISA=mmx has no error")
	}
}

// A device that is garbage takes its goroutines with it.
func TestClose(t *testing.T) {
	before := runtime.NumGoroutine()
	for range 5 {
		l := newLab(t, 4, "")
		x := l.normal(512, 512)
		l.run(&kernels.AddScaled{X: x, Y: x, Alpha: 1})
	}
	for range 200 {
		runtime.GC()
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d goroutines, %d before", runtime.NumGoroutine(), before)
}

// Many short ops in a row find every worker spinning, parked or in between.
func TestPool(t *testing.T) {
	l := newLab(t, 3, "")
	x, y := l.normal(256, 256), l.tensor(kernels.F32, 256, 256)
	n := 3000
	src := rng.New(rng.Key{Seed: 2})
	for range n {
		l.dev.Run(&kernels.AddScaled{X: x, Y: y, Alpha: 1})
		if src.IntN(100) == 0 {
			time.Sleep(time.Duration(src.IntN(200)) * time.Microsecond)
		}
	}
	l.run()
	for i, v := range y.F32() {
		want := float64(n) * float64(x.F32()[i])
		if math.Abs(float64(v)-want) > 1e-3*math.Abs(want) {
			t.Fatalf("element %d = %v, want %v", i, v, want)
		}
	}
}
