// Package loader decides which examples make a batch and prepares batches ahead
// of the training loop.
//
// A [Sampler] puts the examples of an epoch in an order that depends on the run's
// seed and the epoch alone, so its state is a [Position] of a few numbers. A
// [Loader] has examples read by several goroutines and hands batches over in the
// sampler's order: what comes out does not depend on how many there are.
package loader

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"vlmo-train/data/dataset"
	"vlmo-train/rng"
)

// Source is a set to draw examples from.
type Source struct {
	Set dataset.Sharded

	// Weight says how often an example of a mixture is of this set, relative to
	// the others' weights. It has no meaning where there is one source.
	Weight float64
}

// SamplerConfig describes the order of examples.
type SamplerConfig struct {
	// Sources are the sets. With several, each example is of a set that is drawn
	// by weight, and each set goes through its own epochs, one after the other
	// without a gap; [dataset.Join] makes one source of several sets instead.
	Sources []Source

	// Batch is the number of examples in a batch, all ranks together.
	Batch int

	// Seed is the run's seed. Source tells apart the sets of one run, which
	// would otherwise be shuffled alike; less than 2^32.
	Seed, Source uint64

	// InOrder keeps the order of the set: for evaluation.
	InOrder bool

	// DropLast leaves out the examples that do not fill a batch, other ones in
	// each epoch. Without it an epoch's last batch may be smaller.
	DropLast bool

	// Epochs is where the sampler ends; 0 is never. A mixture has no end.
	Epochs int

	// Distinct, if not nil, names the group of each example, and no batch has
	// two examples of a group. Each example still occurs once in an epoch.
	// [dataset.Dataset].Group is such a function. It needs a single set whose
	// length is known, and can't go with InOrder; some 50 bytes an example, and each
	// name, are in memory.
	Distinct func(i int) string

	// Rank is served with its part of each batch of World ranks; World 0
	// means 1. The ranks have the same number of batches, and of examples in
	// each, but for the smaller last batch of an epoch, whose parts differ by
	// one at most.
	Rank, World int

	// Buffer is how many examples of a set in shards are mixed with each other:
	// the shards come in an order drawn for the epoch, and as many of them as
	// have Buffer examples, 256 at most, are shuffled together; the last ones of
	// an epoch with a rest of up to half as many. 0 means 50,000. The shards of
	// two to three such windows are open at a time. It is part of what decides
	// the order.
	Buffer int

	// Patience says how shards that can't be opened are tried again.
	Patience Patience
}

// Position is a place between two batches: the whole state of a sampler.
type Position struct {
	Epoch int `json:"epoch"`
	Index int `json:"index"` // examples served in this epoch, all ranks together

	// Of a set in shards: where in the epoch the shuffled examples begin.
	Shard  int `json:"shard,omitempty"`  // shards before it
	Before int `json:"before,omitempty"` // examples before it

	// Of sets whose length is not known, and of mixtures: batches and examples
	// served in all.
	Batches  int    `json:"batches,omitempty"`
	Examples uint64 `json:"examples,omitempty"`

	// Of a mixture: the sets' own places. Epoch and Index are 0.
	Sources []Position `json:"sources,omitempty"`
}

// Sampler goes through a set, epoch by epoch, batch by batch. An epoch's order is
// the [rng.Permuted] of (Seed, epoch, Order, Source), or with Distinct an arrangement
// drawn from the same stream; see [SamplerConfig].Buffer for sets in shards. Memory does
// not depend on the number of examples, except with Distinct. It is not safe for
// concurrent use.
type Sampler struct {
	cfg      SamplerConfig
	orders   []*order  // one a source
	sums     []float64 // of the weights up to each source
	perEpoch int       // examples served in an epoch; 0 where it is not known
	groups   [][]int   // with Distinct: the examples of each group
	group    []int32   // with Distinct: the group of each example
	batches  int       // served
	examples uint64    // served
}

// NewSampler returns a sampler at the beginning of epoch 0. It opens no shard.
func NewSampler(cfg SamplerConfig) (*Sampler, error) {
	if cfg.World == 0 {
		cfg.World = 1
	}
	if cfg.Buffer == 0 {
		cfg.Buffer = 50_000
	}
	s := &Sampler{cfg: cfg}
	switch {
	case len(cfg.Sources) == 0:
		return nil, errors.New("loader: no sets")
	case cfg.Batch <= 0:
		return nil, fmt.Errorf("loader: batches of %d examples", cfg.Batch)
	case cfg.Epochs < 0:
		return nil, fmt.Errorf("loader: %d epochs", cfg.Epochs)
	case cfg.Buffer < 0:
		return nil, fmt.Errorf("loader: %d examples to mix", cfg.Buffer)
	case cfg.World < 0 || cfg.Rank < 0 || cfg.Rank >= cfg.World:
		return nil, fmt.Errorf("loader: rank %d of %d", cfg.Rank, cfg.World)
	case cfg.Batch%cfg.World != 0:
		return nil, fmt.Errorf("loader: a batch of %d examples does not divide into %d ranks", cfg.Batch, cfg.World)
	case cfg.Source >= 1<<32:
		return nil, fmt.Errorf("loader: source %d", cfg.Source)
	case len(cfg.Sources) > 1 && (cfg.Epochs > 0 || cfg.InOrder || cfg.Distinct != nil):
		return nil, errors.New("loader: a mixture has no end and no order of its own, and can't keep groups apart")
	}
	sum := 0.0
	for i, src := range cfg.Sources {
		whole, ok := dataset.AsDataset(src.Set)
		if ok && whole.Len() <= 0 {
			return nil, fmt.Errorf("loader: a set of %d examples", whole.Len())
		}
		if len(cfg.Sources) > 1 && !(src.Weight > 0) {
			return nil, fmt.Errorf("loader: set %d of the mixture has the weight %v", i+1, src.Weight)
		}
		sum += src.Weight
		s.sums = append(s.sums, sum)
		s.orders = append(s.orders, &order{
			set: src.Set, whole: whole, seed: cfg.Seed, source: cfg.Source | uint64(i)<<32,
			inOrder: cfg.InOrder, buffer: cfg.Buffer, patience: cfg.Patience.withDefaults(),
		})
	}
	o := s.orders[0]
	if len(s.orders) == 1 && o.whole != nil {
		s.perEpoch = o.whole.Len()
		if cfg.DropLast {
			s.perEpoch -= s.perEpoch % cfg.Batch
			if s.perEpoch == 0 {
				return nil, fmt.Errorf("loader: %d examples do not fill one batch of %d", o.whole.Len(), cfg.Batch)
			}
		}
	}
	if cfg.Distinct != nil {
		if cfg.InOrder {
			return nil, errors.New("loader: Distinct needs another order than InOrder's")
		}
		if o.whole == nil {
			return nil, errors.New("loader: Distinct needs a set whose length is known")
		}
		if err := s.findGroups(o.whole.Len()); err != nil {
			return nil, err
		}
		o.arrange, o.group = s.deal, s.group
	}
	return s, nil
}

// clone returns a sampler of its own at the same place.
func (s *Sampler) clone() *Sampler {
	c := *s
	c.orders = make([]*order, len(s.orders))
	for i, o := range s.orders {
		c.orders[i] = &order{
			set: o.set, whole: o.whole, seed: o.seed, source: o.source, inOrder: o.inOrder, buffer: o.buffer,
			patience: o.patience, arrange: o.arrange, group: o.group, from: o.position(),
		}
		if o.arrange != nil {
			c.orders[i].arrange = c.deal
		}
	}
	return &c
}

// Close closes the shards that are open, but for those of batches that are not
// released. The sampler can be used on.
func (s *Sampler) Close() {
	for _, o := range s.orders {
		o.stop()
	}
}

// findGroups fills in groups and group, and checks that an arrangement exists.
func (s *Sampler) findGroups(n int) error {
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

// BatchesPerEpoch returns the number of batches in an epoch; 0 where it is not
// known: a mixture has none, and a set in shards would have to be read.
func (s *Sampler) BatchesPerEpoch() int {
	return (s.perEpoch + s.cfg.Batch - 1) / s.cfg.Batch
}

// Position returns the place before the batch that Next returns next.
func (s *Sampler) Position() Position {
	if len(s.orders) == 1 {
		p := s.orders[0].position()
		if s.perEpoch == 0 {
			p.Batches, p.Examples = s.batches, s.examples
		}
		return p
	}
	p := Position{Batches: s.batches, Examples: s.examples}
	for _, o := range s.orders {
		p.Sources = append(p.Sources, o.position())
	}
	return p
}

// Seek goes to a place that Position returned, of a sampler with the same
// configuration but for Rank, World and Epochs; the zero Position is the
// beginning.
func (s *Sampler) Seek(p Position) error {
	if s.perEpoch > 0 {
		if p.Epoch < 0 || p.Index < 0 || p.Index >= s.perEpoch || p.Index%s.cfg.Batch != 0 || p.Batches != 0 || p.Sources != nil {
			return fmt.Errorf("loader: epoch %d, index %d is not between two batches of %d in epochs of %d examples",
				p.Epoch, p.Index, s.cfg.Batch, s.perEpoch)
		}
		s.batches = p.Epoch*s.BatchesPerEpoch() + p.Index/s.cfg.Batch
		s.examples = uint64(p.Epoch)*uint64(s.perEpoch) + uint64(p.Index)
		return s.orders[0].seek(p)
	}
	places := p.Sources
	switch {
	case len(s.orders) > 1 && places == nil && p.Batches == 0:
		places = make([]Position, len(s.orders))
	case len(s.orders) == 1:
		if places != nil {
			return errors.New("loader: the place is that of a mixture")
		}
		one := p
		one.Batches, one.Examples = 0, 0
		places = []Position{one}
	}
	if len(places) != len(s.orders) || p.Batches < 0 || p.Examples > uint64(p.Batches)*uint64(s.cfg.Batch) || p.Batches == 0 && p.Index > 0 {
		return fmt.Errorf("loader: %+v is no place of batches of %d from %d sets", p, s.cfg.Batch, len(s.orders))
	}
	for i, o := range s.orders {
		if err := o.seek(places[i]); err != nil {
			return err
		}
	}
	s.batches, s.examples = p.Batches, p.Examples
	return nil
}

// Batch is the part of a batch that one rank prepares.
type Batch struct {
	// Step counts batches from 0 over all epochs.
	Step int

	// Epoch is the epoch, and Index the number of its examples in earlier
	// batches. A mixture is all one epoch.
	Epoch, Index int

	// Global is the number of examples in the batch, all ranks together, and
	// First the place in it of this rank's first example.
	Global, First int

	// Indices are the examples of this rank: numbers in the set, or among the
	// examples of several shards that are shuffled together. There are none
	// where a smaller last batch has fewer examples than there are ranks.
	// [Batch.Each] replaces what can't be read.
	Indices []int

	// Samples are the examples' numbers in the whole run, counted from 0: what
	// keys the random numbers drawn for each. They do not depend on the ranks.
	Samples []uint64

	all    []spot // of all ranks
	runs   []run  // what of which windows the batch has
	stride int    // SamplerConfig.Batch
	maxBad int
	next   Position // after this batch
	reads  *reads   // nil outside of a loader
	turn   int      // in reads

	mu  sync.Mutex
	bad []badExample
}

// spot is an example: a place in a window's order.
type spot struct {
	w  *window
	at int
}

// run is the part of a window's order that a batch has, from lo to before hi.
type run struct {
	w      *window
	lo, hi int
}

// Next returns the next batch, or io.EOF after the last epoch. The batch is the
// caller's own, and holds files open until it is released. ctx is also that of
// reading ahead: the same for every call.
func (s *Sampler) Next(ctx context.Context) (*Batch, error) {
	b := new(Batch)
	if err := s.fill(ctx, b); err != nil {
		return nil, err
	}
	return b, nil
}

// Release lets the files go that the batch's examples are in. Each can't be
// called any more.
func (b *Batch) Release() {
	for i := range b.runs {
		b.runs[i].w.release()
		b.runs[i].w = nil
	}
	b.runs = b.runs[:0]
	clear(b.all)
}

// fill makes b the next batch, in its old memory. b is released.
func (s *Sampler) fill(ctx context.Context, b *Batch) error {
	one := s.orders[0]
	for {
		start := one.position()
		if len(s.orders) > 1 {
			start = Position{}
		}
		if s.cfg.Epochs > 0 && start.Epoch >= s.cfg.Epochs {
			return io.EOF
		}
		b.all = b.all[:0]
		for len(b.all) < s.cfg.Batch {
			o := one
			if len(s.orders) > 1 {
				o = s.orders[s.draw(s.examples+uint64(len(b.all)))]
			}
			w, at, err := o.take(ctx)
			if err != nil {
				b.Release()
				return err
			}
			if w != nil {
				b.add(w, at)
			} else if len(s.orders) == 1 {
				break
			}
		}
		n := len(b.all)
		if n < s.cfg.Batch && (n == 0 || s.cfg.DropLast) {
			// The end of an epoch whose length was not known.
			b.Release()
			if start.Index == 0 && n > 0 {
				return fmt.Errorf("loader: %d examples do not fill one batch of %d", n, s.cfg.Batch)
			}
			continue
		}
		need := 1
		if s.cfg.DropLast && len(s.orders) == 1 {
			need = s.cfg.Batch
		}
		for _, o := range s.orders {
			o.settle(need)
		}
		lo, hi := n*s.cfg.Rank/s.cfg.World, n*(s.cfg.Rank+1)/s.cfg.World
		b.Step, b.Epoch, b.Index, b.Global, b.First = s.batches, start.Epoch, start.Index, n, lo
		b.Indices, b.Samples = b.Indices[:0], b.Samples[:0]
		for i := lo; i < hi; i++ {
			b.Indices = append(b.Indices, b.all[i].w.at(b.all[i].at))
			b.Samples = append(b.Samples, s.examples+uint64(i))
		}
		b.stride, b.bad = s.cfg.Batch, b.bad[:0]
		s.batches++
		s.examples += uint64(n)
		b.next = s.Position()
		return nil
	}
}

// add makes place at of w the batch's next example.
func (b *Batch) add(w *window, at int) {
	b.all = append(b.all, spot{w, at})
	for i := range b.runs {
		if r := &b.runs[i]; r.w == w {
			r.hi = at + 1
			return
		}
	}
	w.retain()
	b.runs = append(b.runs, run{w, at, at + 1})
}

// draw returns the source that an example of a mixture is of.
func (s *Sampler) draw(example uint64) int {
	r := rng.New(rng.Key{Seed: s.cfg.Seed, Step: example, Pass: passMix, Purpose: rng.Order, Sample: s.cfg.Source})
	x := r.Float64() * s.sums[len(s.sums)-1]
	for i, sum := range s.sums {
		if x < sum {
			return i
		}
	}
	return len(s.sums) - 1
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

	out := make([]int, 0, len(order))
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
