package main

import (
	"math"
	"math/bits"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"vlmo-train/kernels"
	"vlmo-train/kernels/cpu"
	"vlmo-train/kernels/profile"
	"vlmo-train/vlmo"
)

// TestSynthetic compares with what peer.py's Batch(BASE, 3, 4, 40) holds.
func TestSynthetic(t *testing.T) {
	c, _, err := model("base", "fp32")
	if err != nil {
		t.Fatal(err)
	}
	b := synthetic(&c, 3, 4, 0)
	for i, want := range []int{9, 16, 13, 8} {
		if len(b.Texts[i]) != want || len(b.Masked[i]) != want || len(b.Labels[i]) != want {
			t.Errorf("caption %d has %d tokens, %d masked ones and %d labels, want %d", i, len(b.Texts[i]), len(b.Masked[i]), len(b.Labels[i]), want)
		}
	}
	ids := vlmo.Text{101, 19235, 6321, 9378, 1941, 19496, 27530, 3652, 21967, 28987, 13386, 12097, 6435, 26442, 15308, 102}
	masked, labels := slices.Clone(ids), slices.Repeat([]int32{-1}, 16)
	masked[1], labels[1] = 103, 19235
	if !slices.Equal(b.Texts[1], ids) || !slices.Equal(b.Masked[1], masked) || !slices.Equal(b.Labels[1], labels) {
		t.Errorf("caption 1 is\n%v, masked\n%v, labels\n%v", b.Texts[1], b.Masked[1], b.Labels[1])
	}
	for i, want := range map[int]byte{0: 254, 1: 87, 150527: 80, 150528: 253, 602111: 146} {
		if b.image[i] != want {
			t.Errorf("pixel value %d is %v, want %v", i, b.image[i], want)
		}
	}
}

// tiny is a model of the small one's kind.
func tiny(t *testing.T, precision string) vlmo.Config {
	t.Helper()
	c, _, err := model("small", precision)
	if err != nil {
		t.Fatal(err)
	}
	c.ImageSize, c.Dim, c.Depth, c.Hidden, c.VLStart, c.Vocab = 48, 24, 3, 96, 2, 2000
	return c
}

// The profiler's sums over steps of a model are what the counter device
// expects of them.
func TestStepsCostWhatIsCounted(t *testing.T) {
	for _, precision := range []string{"fp32", "bf16"} {
		t.Run(precision, func(t *testing.T) { testSteps(t, tiny(t, precision)) })
	}
}

func testSteps(t *testing.T, c vlmo.Config) {
	dev, err := cpu.New(cpu.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"pretrain", "embed-image", "embed-text"} {
		data := func(step int) *pairs { return synthetic(&c, step, 4, 16) }
		flops, _, memory, err := count(kind, c, 0, nil, data)
		if err != nil {
			t.Fatal(err)
		}
		prof := profile.New(dev, profile.Peak{}, 1)
		k, err := newTask(prof, kind, c, 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		const steps = 2
		for range steps {
			if err := k.put(data(0)); err != nil {
				t.Fatal(err)
			}
			prof.Start()
			losses, err := k.step(0, data(0), nil)
			prof.Stop()
			if err != nil {
				t.Fatal(err)
			}
			for name, v := range losses {
				if math.IsNaN(v) || v <= 0 {
					t.Errorf("%s: loss %s is %v", kind, name, v)
				}
			}
			if kind == "pretrain" && len(losses) != 3 {
				t.Errorf("losses %v", losses)
			}
		}
		var got int64
		p := prof.Profile()
		for _, r := range p.Rows {
			got += r.FLOPs
		}
		if got != steps*flops || memory <= 0 {
			t.Errorf("%s: %d FLOPs in %d steps, counted were %d in one, and %d bytes", kind, got, steps, flops, memory)
		}
	}
}

func TestProduct(t *testing.T) {
	dev, err := cpu.New(cpu.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	now, err := newClock("wall", 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, precision := range []string{"fp32", "bf16"} {
		for _, kind := range []string{"forward", "data", "weight"} {
			if v, err := timeProduct(dev, precision, now, kind, 40, 24, 16, 0); err != nil || !(v > 0 && v < 1e4) {
				t.Errorf("%s %s: %v GFLOP/s, %v", kind, precision, v, err)
			}
		}
	}
}

func TestRun(t *testing.T) {
	dir := t.TempDir()
	o := options{task: "small", device: "cpu", gemm: 256, precision: "fp32", threads: 1, batch: 1, image: 32, steps: 1, clock: "cpu", profile: dir}
	if err := run(&o); err != nil {
		t.Fatal(err)
	}
	table, err := os.ReadFile(filepath.Join(dir, "profile.txt"))
	if err != nil || !strings.Contains(string(table), "MatMul") {
		t.Errorf("profile: %v\n%s", err, table)
	}
	if fi, err := os.Stat(filepath.Join(dir, "trace.json")); err != nil || fi.Size() == 0 {
		t.Errorf("trace: %v", err)
	}
	for name, spoil := range map[string]func(*options){
		"task": func(o *options) { o.task = "x" }, "precision": func(o *options) { o.precision = "fp8" },
		"model": func(o *options) { o.model = "huge" }, "clock": func(o *options) { o.clock = "sun" },
		"threads": func(o *options) { o.threads = 0 }, "device": func(o *options) { o.device = "tpu" }, "image": func(o *options) { o.image = 100 },
	} {
		bad := o
		spoil(&bad)
		if err := run(&bad); err == nil {
			t.Errorf("no error for a wrong %s", name)
		}
	}
	o.maxMemory, o.profile = 1e-3, filepath.Join(dir, "none")
	if err := run(&o); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(o.profile); err == nil {
		t.Error("what needs too much memory was run")
	}
}

// BenchmarkHost measures what a step of VLMo-Base with 128 pairs takes of the host,
// on a device that computes nothing: the least that a GPU may take for one. It
// counts the large products, and those of a shape that no step before had: as it
// is, and with the rows rounded up to five binary digits as kernels/cuda does.
func BenchmarkHost(b *testing.B) {
	c, drop, err := model("base", "bf16")
	if err != nil {
		b.Fatal(err)
	}
	dev := &shapes{exact: map[kernels.MatMul]bool{}, rounded: map[kernels.MatMul]bool{}}
	k, err := newTask(dev, "pretrain", c, drop, nil)
	if err != nil {
		b.Fatal(err)
	}
	const n, warm = 128, 10
	var data [warm]*pairs
	for s := range data {
		data[s] = synthetic(&c, s, n, 0)
		for i := range n {
			// The counter can't draw them.
			data[s].NegativeImage, data[s].NegativeText = append(data[s].NegativeImage, int32((i+1)%n)), append(data[s].NegativeText, int32((i+5)%n))
		}
	}
	step := func(i int) {
		x := data[i%warm]
		if err := k.put(x); err != nil {
			b.Fatal(err)
		}
		if _, err := k.step(i, x, nil); err != nil {
			b.Fatal(err)
		}
	}
	for i := range warm {
		step(i)
	}
	known, classes := len(dev.exact), len(dev.rounded)
	dev.products = 0
	for i := warm; b.Loop(); i++ {
		step(i)
	}
	b.ReportMetric(float64(dev.products)/float64(b.N), "products/op")
	b.ReportMetric(float64(len(dev.exact)-known)/float64(b.N), "shapes/op")
	b.ReportMetric(float64(len(dev.rounded)-classes)/float64(b.N), "classes/op")
}

// shapes is a Counter that notes the shapes of large products.
type shapes struct {
	kernels.Counter
	exact, rounded map[kernels.MatMul]bool
	products       int
}

func (d *shapes) Run(op kernels.Op) {
	d.Counter.Run(op)
	o, ok := op.(*kernels.MatMul)
	if !ok {
		return
	}
	if m, n, k := o.Dims(); m*n*k < 1<<24 {
		return
	}
	d.products++
	shape := *o
	for _, t := range []*kernels.Tensor{&shape.A, &shape.B, &shape.C, &shape.Pre, &shape.Bias, &shape.Sum} {
		t.Mem, t.Offset = nil, 0
	}
	d.exact[shape] = true
	up := func(n *int) {
		step := 1 << max(0, bits.Len(uint(*n))-5)
		*n = (*n + step - 1) / step * step
	}
	up(&shape.A.Rows)
	if shape.TransA {
		up(&shape.B.Rows)
	} else {
		up(&shape.C.Rows)
		shape.Pre = shape.C
	}
	d.rounded[shape] = true
}
