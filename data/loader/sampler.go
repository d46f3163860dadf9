// Package loader decides which examples make a batch and prepares batches ahead
// of the training loop.
//
// A [Sampler] puts the examples of an epoch in an order that depends on the run's
// seed and the epoch alone, so its state is a [Position] of two numbers. A
// [Loader] has batches made by several goroutines and hands them over in the
// sampler's order: what comes out does not depend on how many there are.
package loader

import (
	"container/heap"
	"errors"
	"fmt"
	"slices"

	"vlmo-train/data/dataset"
	"vlmo-train/rng"
)

// SamplerConfig describes the order of examples.
type SamplerConfig struct {
	// Len is the number of examples.
	Len int

	// Batch is the number of examples in a batch, all ranks together.
	Batch int

	// Seed is the run's seed. Source tells apart the sets of one run, which
	// would otherwise be shuffled alike.
	Seed, Source uint64

	// InOrder keeps the order of the set: for evaluation.
	InOrder bool

	// DropLast leaves out the examples that do not fill a batch, other ones in
	// each epoch. Without it an epoch's last batch may be smaller.
	DropLast bool

	// Epochs is where the sampler ends; 0 is never.
	Epochs int

	// Distinct, if not nil, names the group of each example, and no batch has
	// two examples of a group. Each example still occurs once in an epoch.
	// [dataset.Dataset].Group is such a function. It can't go with InOrder.
	Distinct func(i int) string

	// Rank is served with its part of each batch of World ranks; World 0
	// means 1.
	Rank, World int
}

// Position is a place between two batches: the whole state of a sampler.
type Position struct {
	Epoch int `json:"epoch"`
	Index int `json:"index"` // examples served in this epoch, all ranks together
}

// Sampler goes through a set, epoch by epoch, batch by batch. An epoch's order is
// the permutation that package rng names by (Seed, epoch, Order, Source), or with
// Distinct an arrangement drawn from the same stream. It is not safe for
// concurrent use.
type Sampler struct {
	cfg      SamplerConfig
	perEpoch int      // examples served in an epoch
	groups   [][]int  // with Distinct: the examples of each group
	group    []int32  // with Distinct: the group of each example
	pos      Position // of the next batch
	order    []int    // of epoch; shared with batches, so never changed
	epoch    int      // whose order it is, -1 for none
}

// NewSampler returns a sampler at the beginning of epoch 0.
func NewSampler(cfg SamplerConfig) (*Sampler, error) {
	if cfg.World == 0 {
		cfg.World = 1
	}
	s := &Sampler{cfg: cfg, perEpoch: cfg.Len, epoch: -1}
	switch {
	case cfg.Len <= 0:
		return nil, fmt.Errorf("loader: a set of %d examples", cfg.Len)
	case cfg.Batch <= 0:
		return nil, fmt.Errorf("loader: batches of %d examples", cfg.Batch)
	case cfg.Epochs < 0:
		return nil, fmt.Errorf("loader: %d epochs", cfg.Epochs)
	case cfg.World < 0 || cfg.Rank < 0 || cfg.Rank >= cfg.World:
		return nil, fmt.Errorf("loader: rank %d of %d", cfg.Rank, cfg.World)
	case cfg.Batch%cfg.World != 0:
		return nil, fmt.Errorf("loader: a batch of %d examples does not divide into %d ranks", cfg.Batch, cfg.World)
	}
	if cfg.DropLast {
		s.perEpoch -= cfg.Len % cfg.Batch
		if s.perEpoch == 0 {
			return nil, fmt.Errorf("loader: %d examples do not fill one batch of %d", cfg.Len, cfg.Batch)
		}
	}
	if cfg.Distinct != nil {
		if cfg.InOrder {
			return nil, errors.New("loader: Distinct needs another order than InOrder's")
		}
		if err := s.findGroups(); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// findGroups fills in groups and group, and checks that an arrangement exists.
func (s *Sampler) findGroups() error {
	n := s.cfg.Len
	number := make(map[string]int32)
	s.group = make([]int32, n)
	for i := range n {
		name := s.cfg.Distinct(i)
		g, ok := number[name]
		if !ok {
			g = int32(len(s.groups))
			number[name] = g
			s.groups = append(s.groups, nil)
		}
		s.group[i] = g
		s.groups[g] = append(s.groups[g], i)
	}
	// An epoch can take no more examples of a group than it has batches. By the Gale-Ryser theorem that suffices for equal batches; a
	// smaller last one must hold one of each group that needs all batches.
	batches := s.BatchesPerEpoch()
	full := 0
	for g, members := range s.groups {
		if len(members) > batches {
			return fmt.Errorf("loader: group %q has %d examples, but an epoch has %d batches of %d, which may have one of them each",
				s.cfg.Distinct(s.groups[g][0]), len(members), batches, s.cfg.Batch)
		}
		if len(members) == batches {
			full++
		}
	}
	if last := s.perEpoch - (batches-1)*s.cfg.Batch; last < s.cfg.Batch && full > last {
		return fmt.Errorf("loader: %d groups need a place in each of an epoch's %d batches, but the last has %d",
			full, batches, last)
	}
	return nil
}

// BatchesPerEpoch returns the number of batches in an epoch.
func (s *Sampler) BatchesPerEpoch() int {
	return (s.perEpoch + s.cfg.Batch - 1) / s.cfg.Batch
}

// Position returns the place before the batch that Next returns next.
func (s *Sampler) Position() Position { return s.pos }

// Seek goes to a place that Position returned, of a sampler with the same
// configuration but for Rank, World and Epochs.
func (s *Sampler) Seek(p Position) error {
	if p.Epoch < 0 || p.Index < 0 || p.Index >= s.perEpoch || p.Index%s.cfg.Batch != 0 {
		return fmt.Errorf("loader: epoch %d, index %d is not between two batches of %d in epochs of %d examples",
			p.Epoch, p.Index, s.cfg.Batch, s.perEpoch)
	}
	s.pos = p
	return nil
}

// Batch is the part of a batch that one rank prepares.
type Batch struct {
	// Step counts batches from 0 over all epochs.
	Step int

	// Epoch is the epoch, and Index the number of its examples in earlier
	// batches.
	Epoch, Index int

	// Global is the number of examples in the batch, all ranks together, and
	// First the place in it of this rank's first example.
	Global, First int

	// Indices are the examples of this rank. There are none where a smaller
	// last batch has fewer examples than there are ranks. [Batch.Each]
	// replaces what can't be read.
	Indices []int

	// Samples are the examples' numbers in the whole run, counted from 0: what
	// keys the random numbers drawn for each. They do not depend on the ranks.
	Samples []uint64

	order  []int   // the epoch's; read only
	group  []int32 // with Distinct
	batch  int     // SamplerConfig.Batch
	maxBad int
	bad    []*dataset.BadExampleError
	next   Position // after this batch
}

// Next returns the next batch, or false after the last epoch. The batch is the
// caller's own.
func (s *Sampler) Next() (*Batch, bool) {
	b := new(Batch)
	return b, s.fill(b)
}

// fill makes b the next batch, in its old memory.
func (s *Sampler) fill(b *Batch) bool {
	if s.cfg.Epochs > 0 && s.pos.Epoch >= s.cfg.Epochs {
		return false
	}
	if s.epoch != s.pos.Epoch {
		s.order = s.arrange(s.pos.Epoch)
		s.epoch = s.pos.Epoch
	}
	at := s.pos.Index
	n := min(s.cfg.Batch, s.perEpoch-at)
	lo, hi := n*s.cfg.Rank/s.cfg.World, n*(s.cfg.Rank+1)/s.cfg.World
	*b = Batch{
		Step:    s.pos.Epoch*s.BatchesPerEpoch() + at/s.cfg.Batch,
		Epoch:   s.pos.Epoch,
		Index:   at,
		Global:  n,
		First:   lo,
		Indices: append(b.Indices[:0], s.order[at+lo:at+hi]...),
		Samples: b.Samples[:0],
		order:   s.order,
		group:   s.group,
		batch:   s.cfg.Batch,
		bad:     b.bad[:0],
	}
	sample := uint64(s.pos.Epoch)*uint64(s.perEpoch) + uint64(at)
	for i := lo; i < hi; i++ {
		b.Samples = append(b.Samples, sample+uint64(i))
	}
	s.pos.Index += n
	if s.pos.Index == s.perEpoch {
		s.pos = Position{Epoch: s.pos.Epoch + 1}
	}
	b.next = s.pos
	return true
}

// arrange returns the order of an epoch's examples, those that DropLast leaves
// out at the end.
func (s *Sampler) arrange(epoch int) []int {
	if s.cfg.InOrder {
		order := make([]int, s.cfg.Len)
		for i := range order {
			order[i] = i
		}
		return order
	}
	r := rng.New(rng.Key{Seed: s.cfg.Seed, Step: uint64(epoch), Purpose: rng.Order, Sample: s.cfg.Source})
	order := r.Perm(s.cfg.Len)
	if s.groups == nil {
		return order
	}
	return s.deal(order, &r)
}

// deal rearranges order so that no batch has two examples of a group: it deals
// one group after another, each to the batches that have most places left. That
// finds an arrangement whenever there is one (Gale-Ryser). Among equal batches
// chance decides, anew each time.
func (s *Sampler) deal(order []int, r *rng.Source) []int {
	// The examples of each group that are served, groups by first occurrence.
	members := make([][]int, len(s.groups))
	var groups []int32
	for _, i := range order[:s.perEpoch] {
		g := s.group[i]
		if members[g] == nil {
			members[g] = make([]int, 0, len(s.groups[g]))
			groups = append(groups, g)
		}
		members[g] = append(members[g], i)
	}

	out := make([]int, 0, s.cfg.Len)
	open := make(hands, 0, s.BatchesPerEpoch())
	for at := 0; at < s.perEpoch; at += s.cfg.Batch {
		open = append(open, hand{at: at, left: min(s.cfg.Batch, s.perEpoch-at), tie: r.Uint32()})
	}
	heap.Init(&open)
	out = append(out, order...)
	var taken []hand
	for _, g := range groups {
		taken = taken[:0]
		for _, i := range members[g] {
			h := heap.Pop(&open).(hand)
			out[h.at] = i
			h.at++
			h.left--
			h.tie = r.Uint32()
			taken = append(taken, h)
		}
		for _, h := range taken {
			if h.left > 0 {
				heap.Push(&open, h)
			}
		}
	}
	// Within a batch the examples lie in the order of dealing.
	for at := 0; at < s.perEpoch; at += s.cfg.Batch {
		b := out[at:min(at+s.cfg.Batch, s.perEpoch)]
		r.Shuffle(len(b), func(i, j int) { b[i], b[j] = b[j], b[i] })
	}
	return out
}

// hand is a batch being dealt.
type hand struct {
	at   int // where its next example goes
	left int // places left
	tie  uint32
}

// hands is a heap with the batch of most places left on top.
type hands []hand

func (h hands) Len() int      { return len(h) }
func (h hands) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *hands) Push(x any)   { *h = append(*h, x.(hand)) }
func (h *hands) Pop() any {
	x := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return x
}
func (h hands) Less(i, j int) bool {
	a, b := h[i], h[j]
	switch {
	case a.left != b.left:
		return a.left > b.left
	case a.tie != b.tie:
		return a.tie < b.tie
	}
	return a.at < b.at
}

// Each calls read for each example of the batch, in order, with its place in
// Indices and its index. Where read fails with a *dataset.BadExampleError and
// the loader may skip examples, Each puts another index in its place and calls
// read again. Any other error ends it.
//
// The substitute comes from the same epoch's order: for place p of the global
// batch, the examples 1, 2, ... batches on from there, around the end, until one
// can be read that is not in the batch, nor any of its group with Distinct. So it
// depends on neither workers nor ranks. (Two substitutes in one batch do not look
// at each other.)
func (b *Batch) Each(read func(place, index int) error) error {
	for place := range b.Indices {
		err := read(place, b.Indices[place])
		for step := 1; err != nil; step++ {
			var bad *dataset.BadExampleError
			if !errors.As(err, &bad) {
				return err
			}
			b.bad = append(b.bad, bad)
			if len(b.bad) > b.maxBad {
				return err
			}
			var ok bool
			if step, ok = b.replace(place, step); !ok {
				return fmt.Errorf("loader: batch %d of epoch %d: nothing in the set can replace an example: %w", b.Step, b.Epoch, err)
			}
			err = read(place, b.Indices[place])
		}
	}
	return nil
}

// replace puts the next substitute at place, at least step batches on, and
// returns how many batches on it was.
func (b *Batch) replace(place, step int) (int, bool) {
	n := len(b.order)
	whole := b.order[b.Index : b.Index+b.Global]
	from := b.Index + b.First + place
	// Steps of a batch alone come back to the same few examples where batch
	// and n have a common divisor: each time around goes one further.
	for ; step <= n; step++ {
		walked := step * b.batch
		i := b.order[(from+walked+walked/n)%n]
		if slices.ContainsFunc(whole, func(w int) bool {
			return w == i || b.group != nil && b.group[w] == b.group[i]
		}) {
			continue
		}
		b.Indices[place] = i
		return step, true
	}
	return 0, false
}
