package cpu

import (
	"fmt"
	"slices"
	"testing"

	"vlmo-train/kernels"
)

// A product with packed weights gives the bits of one without, again after a
// Write to the weights, after an op on a part of them, and after the memory
// was given back.
func TestPackedWeights(t *testing.T) {
	for _, s := range available() {
		for _, typ := range []kernels.DType{kernels.F32, kernels.BF16} {
			for _, trans := range []bool{false, true} {
				for _, k := range []int{1, 33, 700} {
					t.Run(fmt.Sprintf("%s/%v/%v/%d", s.name, typ, trans, k), func(t *testing.T) {
						l := newLab(t, 2, s.name)
						const m, n = 37, 1100
						a, wide := l.normal(m, k), l.normal(n, k)
						if !trans {
							wide = wide.Reshape(k, n)
						}
						b := wide
						if typ == kernels.BF16 {
							a, b = l.half(a), l.half(wide)
						}
						c := l.tensor(kernels.F32, m, n)
						product := func(weights bool) []float32 {
							l.run(&kernels.Fill{Y: c, Value: 7}, &kernels.MatMul{A: a, B: b, TransB: trans, C: c, Weights: weights})
							return slices.Clone(c.F32())
						}
						same := func(when string) {
							want := product(false)
							for range 2 {
								if got := product(true); !slices.Equal(got, want) {
									t.Fatalf("%s: other bits with packed weights", when)
								}
							}
						}
						same("at first")
						changed := l.normal(b.Rows, b.Cols).F32()
						if typ == kernels.BF16 {
							half := make([]uint16, len(changed))
							for i, v := range changed {
								half[i] = kernels.RoundBF16(v)
							}
							l.dev.Write(b, half)
						} else {
							l.dev.Write(b, changed)
						}
						same("after a Write")
						last := b.Slice(b.Rows-1, b.Rows)
						l.run(&kernels.Copy{X: l.normal(1, b.Cols), Y: last})
						same("after an op")
						l.dev.Free(b.Mem)
						if d := l.dev.(*device); len(d.packs.byMemory) != 0 {
							t.Error("packed weights outlive their memory")
						}
					})
				}
			}
		}
	}
}
