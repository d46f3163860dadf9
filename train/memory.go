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
	st, p := &r.Config.Stages[index], r.Config.Precision
	need, err := r.memoryNeeded(index, st.Batch, p)
	if err != nil {
		return "", err
	}
	if need <= budget {
		return fmt.Sprintf("batch %d should do with about %s of the %s that are there for it: see whether other programs take memory meanwhile (nvidia-smi)",
			st.Batch, bytesText(int64(need)), bytesText(int64(budget))), nil
	}
	advice := []string{fmt.Sprintf("batch %d needs about %s and %s are there for it", st.Batch, bytesText(int64(need)), bytesText(int64(budget)))}
	fits := r.batchThatFits(index, budget, p)
	if fits > 0 {
		advice = append(advice, fmt.Sprintf("batch %d fits (--set stages.%s.batch=%d)", fits, st.Name, fits))
	} else {
		advice = append(advice, "no smaller batch fits either")
	}
	if p == config.FP32 && st.Kind != config.Tokenizer {
		if half := r.batchThatFits(index, budget, config.BF16); half > fits {
			advice = append(advice, fmt.Sprintf("with --precision bf16 batch %d does", half))
		}
	}
	return strings.Join(advice, "; "), nil
}

// batchThatFits returns the largest batch of a stage, at most its own, that a
// number of bytes suffices for; 0, if there is none.
func (r *Run) batchThatFits(index, budget int, p config.Precision) int {
	least := 1
	if r.Config.Stages[index].Kind == config.VL {
		least = 2 // for matching
	}
	n := max(0, r.Config.Stages[index].Batch-least+1)
	fits := sort.Search(n, func(i int) bool {
		need, err := r.memoryNeeded(index, least+i, p)
		return err != nil || need > budget
	})
	if fits == 0 {
		return 0
	}
	return least + fits - 1
}

// memoryNeeded returns the bytes of device memory that a stage takes at most,
// with another batch and precision than it has.
func (r *Run) memoryNeeded(index, batch int, precision config.Precision) (int, error) {
	own := *r.Config
	own.Stages = slices.Clone(own.Stages)
	own.Stages[index].Batch, own.Precision = batch, precision
	other := &Run{Config: &own, Dev: &planner{}, tok: r.tok, pairs: r.pairs, texts: r.texts}
	p, err := other.plan(index, true)
	if err != nil {
		return 0, err
	}
	// Without a Plan the arena's first step is made of chunks that don't fill up;
	// ops take scratch memory in any case.
	return int(p.MemoryBytes()+p.ActivationBytes/8) + 8<<20, nil
}
