package vlmo

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"vlmo-train/kernels"
	"vlmo-train/kernels/cpu"
	"vlmo-train/kernels/ref"
)

// objectives are steps of all kinds, in which images and texts occur several
// times in a phase where the objective has that.
func (b *bench) objectives() map[string]func() (Losses, error) {
	x := b.batch(5)
	drawn := *x
	drawn.NegativeImage, drawn.NegativeText = nil, nil
	masked := [][]bool{{true, false, true, false}, {false, true, false, false}, {true, true, true, true}, {false, false, false, true}, {true, false, false, false}}
	codes := []int32{3, 1, 4, 1, 5, 9, 2, 6, 5}
	targets := make([]float32, 5*3)
	for i := range targets {
		targets[i] = float32(i%3) / 2
	}
	v := make([]float32, x.Pixels.Len())
	b.s.Dev.Read(v, x.Pixels)
	pairs := b.keep(append(b.rotate(v), v...))
	return map[string]func() (Losses, error){
		"pretrain":  func() (Losses, error) { return b.Pretrain(b.s, x, Weights{MLM: 0.25, ITC: 1, ITM: 1}) },
		"negatives": func() (Losses, error) { return b.Pretrain(b.s, &drawn, Weights{ITM: 1}) },
		"text":      func() (Losses, error) { return b.TextMLM(b.s, x.Masked, x.Labels, x.Samples) },
		"vision": func() (Losses, error) {
			return b.MaskedImages(b.s, x.Pixels, masked, codes, x.Samples)
		},
		"retrieval": func() (Losses, error) { return b.Retrieval(b.s, x) },
		"vqa": func() (Losses, error) {
			l, _, err := b.VQA(b.s, x, targets)
			return l, err
		},
		"nlvr2": func() (Losses, error) {
			l, _, err := b.NLVR2(b.s, x.Texts, pairs, []int32{0, 1, 1, 0, 1})
			return l, err
		},
	}
}

// rotate returns a copy of v with the first image last.
func (b *bench) rotate(v []float32) []float32 {
	px := 3 * b.ImageSize * b.ImageSize
	return append(append([]float32(nil), v[px:]...), v[:px]...)
}

// Each saving, and all together, give the losses and the gradients of a step
// without savings, in every objective, with drop path and without.
func TestSavings(t *testing.T) {
	fast, err := cpu.New(cpu.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	savings := map[string]Savings{"top rows": {TopRows: true}, "drop rows": {DropRows: true}, "distinct": {Distinct: true},
		"recompute": {Recompute: true}, "packed weights": {PackWeights: true}, "top and drop rows": {TopRows: true, DropRows: true}, "all": AllSavings}
	for _, test := range []struct {
		name   string
		dev    kernels.Device
		change func(*Config)
	}{
		{"ref", ref.New(), func(*Config) {}},
		{"cpu", fast, func(*Config) {}},
		{"cpu, absolute", fast, func(c *Config) { c.Absolute, c.LayerScale = true, false }},
		{"cpu, two blocks", fast, func(c *Config) { c.Depth, c.VLStart = 2, 1 }},
		{"cpu, one block", fast, func(c *Config) { c.Depth, c.VLStart = 1, 1 }},
	} {
		for _, drop := range []float64{0, 0.6} {
			c := tinyConfig()
			c.TokenTypes, c.With.VQA, c.With.NLVR2 = 3, 3, true
			test.change(&c)
			for name := range newBench(t, test.dev, c).objectives() {
				if c.VLStart == c.Depth && (name == "pretrain" || name == "negatives") {
					continue // no VL branch
				}
				// Every objective has a model of its own: one that was
				// trained in one remembers which parameters have a gradient.
				run := func(s Savings) (float64, map[string][]float32) {
					b := newBench(t, test.dev, c)
					defer b.Store.Close()
					defer b.s.Arena.Close()
					b.DropPath, b.Savings = drop, s
					return b.gradients(t, b.objectives()[name])
				}
				loss, grads := run(Savings{})
				for what, s := range savings {
					if drop == 0 && what != "all" && what != "distinct" {
						continue
					}
					what = fmt.Sprintf("%s, %s, drop path %v, %s", test.name, name, drop, what)
					loss2, grads2 := run(s)
					if !(math.Abs(loss-loss2) <= 1e-6*math.Abs(loss)) {
						t.Errorf("%s: loss %v, want %v", what, loss2, loss)
					}
					sameGradients(t, what, grads2, grads, 1e-5)
					for name := range grads {
						if grads2[name] == nil {
							t.Errorf("%s: %s has no gradient", what, name)
						}
					}
				}
			}
		}
	}
}

// Outside training, the memory of a pass does not grow with the depth.
func TestEvaluationMemory(t *testing.T) {
	peak := func(depth int, train bool) int {
		c := tinyConfig()
		c.Depth = depth
		b := newBench(t, ref.New(), c)
		b.random = rand.New(rand.NewPCG(1, 0)) // the batch must not depend on the depth
		x := b.batch(3)
		b.s.Begin(0, train)
		if _, err := b.Pretrain(b.s, x, Weights{MLM: 0.25, ITC: 1, ITM: 1}); err != nil {
			t.Fatal(err)
		}
		if err := b.s.Err(); err != nil {
			t.Fatal(err)
		}
		return b.s.Arena.Peak()
	}
	if a, b := peak(4, false), peak(8, false); a != b {
		t.Errorf("4 blocks take %d bytes, 8 blocks %d", a, b)
	}
	if a, b := peak(4, true), peak(8, true); a >= b {
		t.Errorf("in training 4 blocks take %d bytes, 8 blocks %d", a, b)
	}
}
