package train

import (
	"context"
	"testing"

	"vlmo-train/kernels"
	"vlmo-train/kernels/cpu"
	"vlmo-train/train/config"
)

// sized is a Device with a certain amount of memory left.
type sized struct {
	kernels.Device
	free int
}

func (d *sized) FreeMemory() (int, bool) { return d.free, true }

// A stage keeps norms and activations where there is memory for them, or where
// it is told to, and gives the same bits either way.
func TestRecompute(t *testing.T) {
	pairs := writePairs(t, t.TempDir(), 28)
	c := only(allStages(pairs, ""), config.VL)
	counter := &Run{Config: c}
	check(t, counter.Open())
	kept, err := counter.altered(func(c *config.Run) { c.Recompute = config.RecomputeNever }).plan(0, true)
	check(t, err)
	again, err := counter.altered(func(c *config.Run) { c.Recompute = config.RecomputeAlways }).plan(0, true)
	check(t, err)
	if again.stepBytes() >= kept.stepBytes() {
		t.Fatalf("%d bytes where norms and activations are computed again, %d where they are kept", again.stepBytes(), kept.stepBytes())
	}
	enough := int(float64(kept.stepBytes()) / keepShare)
	first := journal{}
	for _, test := range []struct {
		recompute config.Recompute
		free      int // 0: the device does not tell
		want      bool
	}{
		{config.RecomputeAuto, 0, true},
		{config.RecomputeAuto, enough * 99 / 100, true},
		{config.RecomputeAuto, enough * 101 / 100, false},
		{config.RecomputeAlways, 10 * enough, true},
		{config.RecomputeNever, enough / 2, false},
	} {
		c.Recompute, c.Out = test.recompute, t.TempDir()
		dev, err := cpu.New(cpu.Options{Threads: 1})
		check(t, err)
		if test.free > 0 {
			dev = &sized{dev, test.free}
		}
		r := &Run{Config: c, Dev: dev}
		r.Plan, err = NewPlan(c)
		check(t, err)
		r.Hooks = []Hook{first.hook(), watch(func(s *Stage, p *Progress) error {
			if got := s.Model().Recompute; got != test.want {
				t.Errorf("%s with %d bytes: Recompute is %v", test.recompute, test.free, got)
			}
			// The first step takes what was reserved, or a little more.
			if n := s.step.Arena.Allocations(); p.Step == 1 && n > 2 {
				t.Errorf("%s with %d bytes: %d allocations", test.recompute, test.free, n)
			}
			return nil
		})}
		check(t, r.Train(context.Background()))
	}
}
