package vlmo

import (
	"math"
	"testing"

	"vlmo-train/kernels"
	"vlmo-train/kernels/cpu"
	"vlmo-train/kernels/ref"
)

// distance returns ‖a−b‖/‖b‖ over all gradients as one vector.
func distance(a, b map[string][]float32) float64 {
	var d, n float64
	for name, y := range b {
		for i := range y {
			e := float64(a[name][i]) - float64(y[i])
			d += e * e
			n += float64(y[i]) * float64(y[i])
		}
	}
	return math.Sqrt(d / n)
}

// A step in bfloat16 is near the one in single precision, in every objective
// and with drop path: the losses to 1e-2, and the gradient to three times what
// its roundings explain. An operand rounded to 8 bits is off by 2⁻⁹/√3 of
// itself in the mean over where it lies between its neighbours; a block rounds
// its activations about 8 times forward and as often backward, one after the
// other, and its four weights twice each: 24 independent errors a block add up
// to √24 of one. A fast device is no further off than three times the
// reference, which rounds at the same places.
func TestBF16(t *testing.T) {
	fast, err := cpu.New(cpu.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	c := tinyConfig()
	c.TokenTypes, c.With.VQA, c.With.NLVR2 = 3, 3, true
	bound := 3 * math.Sqrt(24*float64(c.Depth)) * 0x1p-9 / math.Sqrt(3)
	for name := range newBench(t, fast, c).objectives() {
		if name == "negatives" {
			continue // which may be others
		}
		run := func(dev kernels.Device, compute kernels.DType, s Savings) (float64, map[string][]float32) {
			c.Compute = compute
			b := newBench(t, dev, c)
			defer b.Store.Close()
			defer b.s.Arena.Close()
			b.DropPath, b.Savings = 0.3, s
			return b.gradients(t, b.objectives()[name])
		}
		want, grads := run(ref.New(), kernels.F32, AllSavings)
		near := func(what string, loss float64, g map[string][]float32, bound float64) float64 {
			if len(g) != len(grads) {
				t.Errorf("%s, %s: %d gradients, want %d", name, what, len(g), len(grads))
			}
			d := distance(g, grads)
			t.Logf("%s, %s: loss %.6f, single precision %.6f, gradients differ by %.2g", name, what, loss, want, d)
			if !(math.Abs(loss-want) <= 1e-2*want) || !(d <= bound) || d < 1e-5 {
				t.Errorf("%s, %s: loss %v, want %v; gradients differ by %.3g, want up to %.3g", name, what, loss, want, d, bound)
			}
			return d
		}
		loss, g := run(ref.New(), kernels.BF16, AllSavings)
		exact := near("ref", loss, g, bound)
		loss, g = run(ref.New(), kernels.BF16, Savings{})
		near("ref without savings", loss, g, bound)
		loss, g = run(fast, kernels.BF16, AllSavings)
		near("cpu", loss, g, 3*exact)
	}
}
