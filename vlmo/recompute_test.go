package vlmo

import (
	"fmt"
	"slices"
	"testing"

	"vlmo-train/kernels"
	"vlmo-train/kernels/cpu"
	"vlmo-train/kernels/ref"
)

// What is computed again has the bits that it had, so that a run may be resumed
// with Recompute or without it, as memory allows.
func TestRecomputeIsExact(t *testing.T) {
	fast, err := cpu.New(cpu.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	for name, dev := range map[string]kernels.Device{"ref": ref.New(), "cpu": fast} {
		for _, compute := range []kernels.DType{kernels.F32, kernels.BF16} {
			c := tinyConfig()
			c.TokenTypes, c.With.VQA, c.With.NLVR2, c.Compute = 3, 3, true, compute
			for objective := range newBench(t, dev, c).objectives() {
				run := func(recompute bool) (float64, map[string][]float32) {
					b := newBench(t, dev, c)
					defer b.Store.Close()
					defer b.s.Arena.Close()
					b.DropPath, b.Savings = 0.3, AllSavings
					b.Recompute = recompute
					return b.gradients(t, b.objectives()[objective])
				}
				what := fmt.Sprintf("%s, %v, %s", name, compute, objective)
				loss, grads := run(false)
				loss2, grads2 := run(true)
				if loss != loss2 {
					t.Errorf("%s: loss %v and, with Recompute, %v", what, loss, loss2)
				}
				for p, g := range grads {
					if !slices.Equal(g, grads2[p]) {
						t.Errorf("%s: %s has another gradient with Recompute", what, p)
					}
				}
			}
		}
	}
}
