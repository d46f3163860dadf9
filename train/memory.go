package train

import (
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"

	"vlmo-train/engine"
	"vlmo-train/kernels"
	"vlmo-train/train/config"
)

// keepShare is the part of a device's free memory that a step which keeps
// everything may take: evaluation and what ops need besides have the rest.
const keepShare = 7. / 8

// settle decides whether a stage, whose parameters have their memory, computes
// norms and activations again, and returns its plan, if the run has one.
func (r *Run) settle(s *Stage) *StagePlan {
	var p *StagePlan
	if r.Plan != nil {
		p = &r.Plan.Stages[s.Index]
	}
	if s.model == nil {
		return p
	}
	s.model.Recompute = r.Config.Recompute != config.RecomputeNever
	if r.Config.Recompute != config.RecomputeAuto {
		return p
	}
	free, known := kernels.FreeMemory(r.Dev)
	if !known {
		return p
	}
	kept, err := r.altered(func(c *config.Run) { c.Recompute = config.RecomputeNever }).plan(s.Index, true)
	if err != nil || float64(kept.stepBytes()) > keepShare*float64(free) {
		return p
	}
	s.model.Recompute = false
	return &kept
}

// altered returns a run that only counts, of a changed configuration.
func (r *Run) altered(change func(*config.Run)) *Run {
	own := *r.Config
	own.Stages = slices.Clone(own.Stages)
	change(&own)
	return &Run{Config: &own, Dev: &planner{}, tok: r.tok, pairs: r.pairs, texts: r.texts}
}

// explainDevice adds to the error of a stage that its device caused where to go
// on and, if memory was short, what would fit.
func (r *Run) explainDevice(index int, err error) error {
	if r.Dev.Sync() == nil {
		return err
	}
	last, lerr := engine.Latest(r.checkpoints(index))
	if lerr == nil {
		err = fmt.Errorf("%w\nlast checkpoint: %s; --resume goes on from it", err, last)
	} else {
		err = fmt.Errorf("%w\nno checkpoint of this stage was made", err)
	}
	var short *kernels.OutOfMemory
	if !errors.As(err, &short) {
		return err
	}
	advice, aerr := r.memoryAdvice(index, short.Held+short.Free)
	if aerr != nil {
		return err
	}
	return fmt.Errorf("%w\n%s", err, advice)
}

// memoryAdvice says what would let a stage run in a number of bytes.
func (r *Run) memoryAdvice(index, budget int) (string, error) {
	st := &r.Config.Stages[index]
	same := func(*config.Run) {}
	need, err := r.memoryNeeded(index, st.Batch, same)
	if err != nil {
		return "", err
	}
	if need <= budget {
		return fmt.Sprintf("batch %d should do with about %s of the %s that are there for it: see whether other programs take memory meanwhile (nvidia-smi)",
			st.Batch, bytesText(int64(need)), bytesText(int64(budget))), nil
	}
	advice := []string{fmt.Sprintf("batch %d needs about %s and %s are there for it", st.Batch, bytesText(int64(need)), bytesText(int64(budget)))}
	fits := r.batchThatFits(index, budget, same)
	if fits > 0 {
		advice = append(advice, fmt.Sprintf("batch %d fits (--set stages.%s.batch=%d)", fits, st.Name, fits))
	} else {
		advice = append(advice, "no smaller batch fits either")
	}
	if st.Kind != config.Tokenizer {
		for _, other := range []struct {
			flag   string
			is     bool
			change func(*config.Run)
		}{
			{"--set recompute=auto", r.Config.Recompute != config.RecomputeNever, func(c *config.Run) { c.Recompute = config.RecomputeAuto }},
			{"--precision bf16", r.Config.Precision == config.BF16, func(c *config.Run) { c.Precision = config.BF16 }},
		} {
			if other.is {
				continue
			}
			if n := r.batchThatFits(index, budget, other.change); n > fits {
				advice = append(advice, fmt.Sprintf("with %s batch %d does", other.flag, n))
			}
		}
	}
	return strings.Join(advice, "; "), nil
}

// batchThatFits returns the largest batch of a stage, at most its own, that a
// number of bytes suffices for after a change; 0, if there is none.
func (r *Run) batchThatFits(index, budget int, change func(*config.Run)) int {
	least := 1
	if r.Config.Stages[index].Kind == config.VL {
		least = 2 // for matching
	}
	n := max(0, r.Config.Stages[index].Batch-least+1)
	fits := sort.Search(n, func(i int) bool {
		need, err := r.memoryNeeded(index, least+i, change)
		return err != nil || need > budget
	})
	if fits == 0 {
		return 0
	}
	return least + fits - 1
}

// memoryNeeded returns the bytes of device memory that a stage takes at most,
// with a batch and after a change.
func (r *Run) memoryNeeded(index, batch int, change func(*config.Run)) (int, error) {
	p, err := r.altered(func(c *config.Run) {
		c.Stages[index].Batch = batch
		change(c)
	}).plan(index, true)
	if err != nil {
		return 0, err
	}
	// Without a Plan the arena's first step is made of chunks that don't fill up;
	// ops take scratch memory in any case.
	return int(p.MemoryBytes()+p.ActivationBytes/8) + 8<<20, nil
}
