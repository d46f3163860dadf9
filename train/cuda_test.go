//go:build cuda

package train

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"

	"vlmo-train/kernels"
	"vlmo-train/kernels/cuda"
	"vlmo-train/kernels/cuda/emu"
	"vlmo-train/train/config"
)

// These tests train on a GPU, or in an emulated one (make test-cuda).

// openCUDA opens the first GPU.
func openCUDA(t *testing.T) kernels.Device {
	t.Helper()
	dev, err := cuda.New(0, cuda.Options{})
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { dev.(io.Closer).Close() })
	return dev
}

// threeStages is a run of the three stages of pre-training, and of the visual
// tokenizer that the first of them needs, in as little as shows everything.
func threeStages(pairs, out string) *config.Run {
	c := allStages(pairs, out)
	c.Stages = c.Stages[:4]
	for i, steps := range []int{2, 2, 2, 4} {
		c.Stages[i].Steps, c.Stages[i].Batch, c.Stages[i].Warmup = steps, 4, 1
	}
	c.Stage("vl").MLMEvery, c.Stage("vl").ITMEvery = 2, 2
	return c
}

// until trains c on dev, up to step steps of the stage vl.
func until(t *testing.T, dev kernels.Device, c *config.Run, resume bool, steps int, hooks ...Hook) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	last := steps == c.Stage("vl").Steps
	r := &Run{Config: c, Dev: dev, Resume: resume, Hooks: append(hooks, watch(func(s *Stage, p *Progress) error {
		if s.Kind == config.VL && p.Step == steps {
			cancel()
		}
		return nil
	}))}
	if err := r.Train(ctx); !last && !errors.Is(err, ErrInterrupted) || last && err != nil {
		t.Fatal(err)
	}
}

// losses collects what each step of a run reports.
type losses map[string][]float64

func (l losses) hook() Hook {
	return watch(func(s *Stage, p *Progress) error {
		values := []float64{p.GradNorm}
		for _, x := range p.Losses {
			values = append(values, x.Value)
		}
		l[fmt.Sprintf("%s %d", s.Name, p.Step)] = values
		return nil
	})
}

// near compares two runs step by step, to a relative error; what is tiny is
// nothing but rounding, as a loss of 1e-16 is.
func near(t *testing.T, what string, got, want losses, limit float64) {
	t.Helper()
	worst, where := 0.0, ""
	if len(got) != len(want) {
		t.Errorf("%s: %d steps, want %d", what, len(got), len(want))
	}
	for key, w := range want {
		g := got[key]
		if len(g) != len(w) {
			t.Errorf("%s: %s has %d values, want %d", what, key, len(g), len(w))
			continue
		}
		for i := range w {
			if e := math.Abs(g[i]-w[i]) / max(math.Abs(w[i]), 1e-3); !(e <= worst) {
				worst, where = e, fmt.Sprintf("%s, value %d: %v, want %v", key, i, g[i], w[i])
			}
		}
	}
	t.Logf("%s: largest relative difference %.2g (%s)", what, worst, where)
	if !(worst <= limit) {
		t.Errorf("%s: %.2g exceeds %.2g", what, worst, limit)
	}
}

// A run of three stages gives on a GPU the losses and gradient norms that it
// gives on the CPU, up to rounding. It goes on from its own checkpoints to the
// bit, and each device from those of the other.
func TestCUDA(t *testing.T) {
	for _, test := range []struct {
		precision config.Precision
		limit     float64
	}{{config.FP32, 1e-5}, {config.BF16, 1e-2}} {
		t.Run(string(test.precision), func(t *testing.T) {
			gpu, host := openCUDA(t), newCPU(t)
			pairs := writePairs(t, t.TempDir(), 28)
			run := func() *config.Run {
				c := threeStages(pairs, t.TempDir())
				c.Precision = test.precision
				if test.precision == config.BF16 {
					c.Stages = c.Stages[3:] // the one with every pass
				}
				return c
			}
			reference, want := run(), losses{}
			n := reference.Stage("vl").Steps
			until(t, host, reference, false, n, want.hook())

			whole, got, bits := run(), losses{}, journal{}
			until(t, gpu, whole, false, n, got.hook(), bits.hook())
			near(t, "cuda", got, want, test.limit)

			parts, again := run(), journal{}
			until(t, gpu, parts, false, 1, again.hook())
			// The first part kept what this one computes again: there is memory.
			parts.Recompute = config.RecomputeAlways
			until(t, gpu, parts, true, n, again.hook())
			sameJournal(t, again, bits)
			sameResults(t, results(t, parts), results(t, whole))

			for _, x := range []struct {
				name          string
				first, second kernels.Device
			}{{"cuda then cpu", gpu, host}, {"cpu then cuda", host, gpu}} {
				c, mixed := run(), losses{}
				until(t, x.first, c, false, 2, mixed.hook())
				until(t, x.second, c, true, n, mixed.hook())
				near(t, x.name, mixed, want, test.limit)
			}
		})
	}
}

// The same with products of every size in cuBLASLt, where it is found, also by
// algorithms that add in any order.
func TestCUDALt(t *testing.T) {
	pairs := writePairs(t, t.TempDir(), 28)
	for _, precision := range []config.Precision{config.FP32, config.BF16} {
		run := func() *config.Run {
			c := threeStages(pairs, t.TempDir())
			c.Precision, c.Stages = precision, c.Stages[3:]
			c.Stage("vl").Steps = 2
			return c
		}
		limit := 1e-5
		if precision == config.BF16 {
			limit = 1e-2
		}
		want := losses{}
		until(t, newCPU(t), run(), false, 2, want.hook())
		own := 0
		for _, options := range []cuda.Options{{}, {LtLeast: 1}, {LtLeast: 1, AnyOrder: true}} {
			dev, err := cuda.New(0, options)
			if err != nil {
				t.Skip(err)
			}
			if !strings.Contains(dev.Name(), "cuBLASLt") {
				t.Skip("there is no cuBLASLt")
			}
			got, products := losses{}, 0
			launches := emu.Count(func() { until(t, dev, run(), false, 2, got.hook()) })
			check(t, dev.(io.Closer).Close())
			near(t, fmt.Sprintf("%s, %+v", precision, options), got, want, limit)
			for _, l := range launches {
				if strings.HasPrefix(l.Kernel, "gemm_") {
					products++
				}
			}
			t.Logf("%d launches, %d of our products", len(launches), products)
			if options.LtLeast == 0 {
				own = products
			} else if emu.Present() && products > own/4 {
				t.Errorf("%+v: our kernels still compute %d products of %d", options, products, own)
			}
		}
	}
}
