package train

import (
	"slices"
	"testing"

	"vlmo-train/kernels"
	"vlmo-train/kernels/cpu"
	"vlmo-train/train/config"
)

// traffic is a Device that watches the pixels on their way to it.
type traffic struct {
	kernels.Device
	busy     []*kernels.Memory // what ops use that nobody has waited for
	operands []kernels.Operand
	beside   int // writes of pixels while ops run, into memory that none of them uses
	behind   int // and others
}

func (d *traffic) Run(op kernels.Op) {
	d.operands = op.Operands(d.operands[:0])
	for _, o := range d.operands {
		if !slices.Contains(d.busy, o.Mem) {
			d.busy = append(d.busy, o.Mem)
		}
	}
	d.Device.Run(op)
}

func (d *traffic) Write(dst kernels.Tensor, src any) {
	if dst.Type == kernels.U8 {
		if len(d.busy) > 0 && !slices.Contains(d.busy, dst.Mem) {
			d.beside++
		} else {
			d.behind++
		}
	}
	d.Device.Write(dst, src)
}

func (d *traffic) Read(dst any, src kernels.Tensor) {
	d.busy = nil
	d.Device.Read(dst, src)
}

func (d *traffic) Sync() error {
	d.busy = nil
	return d.Device.Sync()
}

// The pixels of every batch but a stage's first travel while the step before is
// computed.
func TestNextBatchTravels(t *testing.T) {
	pairs := writePairs(t, t.TempDir(), 24)
	for _, kind := range []config.Kind{config.Tokenizer, config.VL, config.Retrieval} {
		c := only(allStages(pairs, t.TempDir()), kind)
		dev, err := cpu.New(cpu.Options{Threads: 1})
		if err != nil {
			t.Fatal(err)
		}
		d := &traffic{Device: dev}
		if err := (&Run{Config: c, Dev: d}).Train(t.Context()); err != nil {
			t.Fatal(err)
		}
		if steps := c.Stages[0].Steps; d.beside != steps-1 || d.behind != 1 {
			t.Errorf("%s: %d batches travelled beside ops and %d did not, of %d", kind, d.beside, d.behind, steps)
		}
	}
}
