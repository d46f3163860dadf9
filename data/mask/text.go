// Package mask chooses what masked modelling hides: the words of a caption
// and the patches of an image.
package mask

import (
	"math"
	"slices"

	"vlmo-train/data/text"
	"vlmo-train/rng"
)

// Of the tokens of the chosen words, each by itself, a share becomes [MASK], a
// share a random token, and the rest stay as they are (BERT, arXiv 1810.04805,
// section 3.1).
const (
	maskShare   = 0.8
	randomShare = 0.1
)

// DefaultProbability is the share of tokens that Text masks by default.
const DefaultProbability = 0.15

// maxBudget is the most tokens masked in one sequence.
const maxBudget = 512

// TextOptions says how Text chooses words. The zero value is the trainer's
// default.
type TextOptions struct {
	// Probability is the share of tokens to mask; 0 means DefaultProbability.
	Probability float64
	// CompatLen, where positive, chooses as the original VLMo code does, which
	// pads a caption to CompatLen tokens (its max_text_len: 40, or 196 on text
	// alone) before it chooses: the budget is the share of CompatLen, padding
	// and the special tokens are words that use it up, a word longer than what
	// is left is never taken, and a caption may end with no masked token.
	CompatLen int
}

// Text masks whole words of a caption for masked language modelling. ids is
// an unpadded sequence, with or without [CLS] and [SEP], and stays as it is.
// The results are new and as long as ids: masked is what the model reads,
// labels the original id where the model has to predict it and -1 elsewhere.
//
// It takes words in random order until the budget is used, which is the share
// of the maskable tokens (see [Budget]), and leaves out words that would exceed
// it. If that leaves none, it takes the first word of the order, whatever its
// length: every caption with a maskable token has a label. Special tokens are
// never masked; a caption of nothing else has no labels.
//
// A masked token becomes [MASK] with probability 0.8, a uniform token of the
// whole vocabulary with 0.1, and stays with 0.1.
func Text(src *rng.Source, tok *text.Tokenizer, ids []int32, opt TextOptions) (masked, labels []int32) {
	p := opt.Probability
	if p == 0 {
		p = DefaultProbability
	}
	var picked []int
	if opt.CompatLen > 0 {
		picked = pickCompat(src, tok, ids, p, opt.CompatLen)
	} else {
		picked = pickWords(src, tok, ids, p)
	}

	masked = slices.Clone(ids)
	labels = make([]int32, len(ids))
	for i := range labels {
		labels[i] = -1
	}
	for _, i := range picked {
		labels[i] = ids[i]
		switch u := src.Float64(); {
		case u < maskShare:
			masked[i] = tok.MASK()
		case u < maskShare+randomShare:
			masked[i] = int32(src.IntN(tok.VocabSize()))
		}
	}
	return masked, labels
}

// pickWords returns the positions to mask, ascending.
func pickWords(src *rng.Source, tok *text.Tokenizer, ids []int32, p float64) []int {
	groups := WordGroups(tok, ids)
	words, n := groups[:0], 0
	for _, g := range groups {
		if g = dropSpecial(tok, ids, g); len(g) > 0 {
			words = append(words, g)
			n += len(g)
		}
	}
	if n == 0 {
		return nil
	}
	order := src.Perm(len(words))
	picked := Pick(words, order, Budget(n, p))
	if len(picked) == 0 {
		return words[order[0]]
	}
	return picked
}

// pickCompat returns the positions that the original masks, ascending.
func pickCompat(src *rng.Source, tok *text.Tokenizer, ids []int32, p float64, padTo int) []int {
	padded := slices.Clone(ids)
	for len(padded) < padTo {
		padded = append(padded, tok.PAD())
	}
	groups := WordGroups(tok, padded)
	order := src.Perm(len(groups))
	return dropSpecial(tok, padded, Pick(groups, order, Budget(len(padded), p)))
}

// dropSpecial removes the positions of special tokens, in place.
func dropSpecial(tok *text.Tokenizer, ids []int32, positions []int) []int {
	return slices.DeleteFunc(positions, func(i int) bool { return tok.IsSpecial(ids[i]) })
}

// WordGroups returns the positions of each word's tokens in ids. [CLS] and
// [SEP] are in no group; a "##" token belongs to the last group before it,
// whatever lies between, and starts one where there is none; every other
// token starts a group, [PAD], [UNK] and [MASK] too. These are the groups of
// transformers' DataCollatorForWholeWordMask. They share one array, and none
// can grow into the next.
func WordGroups(tok *text.Tokenizer, ids []int32) [][]int {
	all := make([]int, 0, len(ids))
	var groups [][]int
	for i, id := range ids {
		if id == tok.CLS() || id == tok.SEP() {
			continue
		}
		all = append(all, i)
		n := len(all)
		if last := len(groups) - 1; last >= 0 && tok.IsContinuation(id) {
			start := n - 1 - len(groups[last])
			groups[last] = all[start:n:n]
		} else {
			groups = append(groups, all[n-1:n:n])
		}
	}
	return groups
}

// Budget returns how many of n tokens are masked with probability p: n·p
// rounded half to even, from 1 to 512.
func Budget(n int, p float64) int {
	return int(min(maxBudget, max(1, math.RoundToEven(p*float64(n)))))
}

// Pick takes the groups in the given order, a permutation of their indices,
// until it has budget positions, leaving out a group that would exceed the
// budget. It returns the positions taken, ascending, in a new slice.
func Pick(groups [][]int, order []int, budget int) []int {
	var picked []int
	for _, g := range order {
		if len(picked) >= budget {
			break
		}
		if len(picked)+len(groups[g]) <= budget {
			picked = append(picked, groups[g]...)
		}
	}
	slices.Sort(picked)
	return picked
}
