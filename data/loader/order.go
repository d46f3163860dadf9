package loader

import (
	"context"
	"fmt"
	"math"
	"sort"
	"sync/atomic"

	"vlmo-train/data/dataset"
	"vlmo-train/rng"
)

// Streams of rng.Order. A window of an epoch has its number of shards before it
// for the pass; these are two more.
const (
	passShards = math.MaxUint32     // the order of an epoch's shards
	passMix    = math.MaxUint32 - 1 // which set of a mixture the next example is of
)

const (
	// windowShards is the most shards in a window, each an open file.
	windowShards = 256

	// openers is how many shards are opened at a time.
	openers = 4
)

// window is a run of an epoch's shards whose examples are mixed with each other.
// It holds their files open while it has users.
type window struct {
	epoch  int
	shard  int  // shards of the epoch before it
	shards int  // how many it has
	before int  // examples of the epoch before it
	last   bool // no shards of the epoch after it
	sets   []dataset.Shard
	ends   []int // of each set's examples
	n      int   // examples
	order  *rng.Permuted
	dealt  []int   // with Distinct: instead of order
	group  []int32 // with Distinct
	users  atomic.Int32
}

func (w *window) len() int { return w.n }

// at returns the example at place k of the order.
func (w *window) at(k int) int {
	switch {
	case w.dealt != nil:
		return w.dealt[k]
	case w.order != nil:
		return w.order.At(k)
	}
	return k // that of the set
}

// find returns the shard of example i and its number there.
func (w *window) find(i int) (dataset.Shard, int) {
	k := sort.SearchInts(w.ends, i+1)
	if k > 0 {
		i -= w.ends[k-1]
	}
	return w.sets[k], i
}

func (w *window) example(i int) (dataset.Example, error) {
	s, k := w.find(i)
	return s.Example(k)
}

// name names an example that can't be read.
func (w *window) name(i int) string {
	s, k := w.find(i)
	return dataset.Name(s, k)
}

func (w *window) retain() { w.users.Add(1) }

func (w *window) release() {
	if w.users.Add(-1) == 0 {
		for _, s := range w.sets {
			s.Close() // was only read
		}
	}
}

// order goes through the examples of one set, epoch by epoch, window by window.
type order struct {
	set      dataset.Sharded
	whole    dataset.Dataset // nil where the set has shards
	seed     uint64
	source   uint64
	inOrder  bool
	buffer   int
	patience Patience
	arrange  func([]int, *rng.Source) []int // with Distinct
	group    []int32                        // with Distinct

	from   Position // where the first window begins
	w      *window  // nil before the first
	at     int      // place in the window of the next example
	ahead  chan built
	cancel context.CancelFunc
	failed error // what ended reading ahead
}

type built struct {
	w   *window
	err error
}

// position returns the place of the next example.
func (o *order) position() Position {
	if o.w == nil {
		return o.from
	}
	if o.w.last && o.at == o.w.len() {
		return Position{Epoch: o.w.epoch + 1}
	}
	p := Position{Epoch: o.w.epoch, Index: o.w.before + o.at}
	if o.whole == nil {
		p.Shard, p.Before = o.w.shard, o.w.before
	}
	return p
}

// stop ends reading ahead. The order begins anew from the place where it is.
func (o *order) stop() {
	if o.cancel != nil {
		o.from = o.position()
		o.cancel()
		for b := range o.ahead {
			if b.w != nil {
				b.w.release()
			}
		}
		o.cancel = nil
	}
	if o.w != nil {
		o.from = o.position()
		o.w.release()
		o.w = nil
	}
}

// seek goes to p, which position returned.
func (o *order) seek(p Position) error {
	n := o.set.Shards()
	if p.Epoch < 0 || p.Before < 0 || p.Index < p.Before || p.Shard < 0 || p.Shard >= n || o.whole != nil && p.Before > 0 {
		return fmt.Errorf("loader: %+v is no place in a set of %d shards", p, n)
	}
	o.stop()
	o.from = p
	return nil
}

// take returns the next example as its window and place in the window's order.
// At the end of an epoch it goes to the next one and returns no window.
func (o *order) take(ctx context.Context) (w *window, at int, err error) {
	for o.w == nil || o.at == o.w.len() {
		ended := o.w != nil && o.w.last
		if err := o.turn(ctx); err != nil {
			return nil, 0, err
		}
		if ended {
			return nil, 0, nil
		}
	}
	at = o.at
	o.at++
	return o.w, at, nil
}

// settle ends the epoch if it is known to have fewer than need examples left, so
// that a position between two batches is written in one way.
func (o *order) settle(need int) {
	if o.w != nil && o.w.last && o.w.len()-o.at < need {
		o.at = o.w.len()
	}
}

// turn goes to the next window, or the first.
func (o *order) turn(ctx context.Context) error {
	w, err := o.nextWindow(ctx)
	if err != nil {
		return err
	}
	o.at = 0
	if o.w == nil {
		if o.at = o.from.Index - w.before; o.at > w.len() {
			w.release()
			return fmt.Errorf("loader: the set has %d examples up to where example %d of epoch %d was: it has changed", w.before+w.len(), o.from.Index, w.epoch)
		}
	} else {
		o.w.release()
	}
	o.w = w
	return nil
}

func (o *order) nextWindow(ctx context.Context) (*window, error) {
	if o.whole != nil {
		epoch := o.from.Epoch
		if o.w != nil {
			epoch = o.w.epoch + 1
		}
		w := &window{epoch: epoch, last: true, shards: 1, group: o.group}
		s, err := o.set.Shard(ctx, 0)
		if err != nil {
			return nil, err
		}
		o.complete(w, []dataset.Shard{s})
		return w, nil
	}
	if o.cancel == nil {
		ctx, o.cancel = context.WithCancel(ctx)
		o.ahead = make(chan built)
		go o.build(ctx, o.from, o.ahead)
	}
	select {
	case b, ok := <-o.ahead:
		if ok {
			o.failed = b.err
			return b.w, b.err
		}
		if o.failed != nil {
			return nil, o.failed
		}
	case <-ctx.Done():
	}
	return nil, context.Cause(ctx)
}

// build sends one window after another, from p on. Since out has no buffer, one
// is ready while its predecessor is in use, and no more.
func (o *order) build(ctx context.Context, p Position, out chan<- built) {
	defer close(out)
	for {
		var list []int
		n := o.set.Shards()
		if !o.inOrder {
			list = rng.Permutation(rng.Key{Seed: o.seed, Step: uint64(p.Epoch), Pass: passShards, Purpose: rng.Order, Sample: o.source}, n)
		}
		pending := opening{ctx: ctx, o: o, list: list, next: p.Shard}
		for p.Shard < n {
			w, err := o.window(&pending, p)
			select {
			case out <- built{w, err}:
			case <-ctx.Done():
				if w != nil {
					w.release()
				}
				err = ctx.Err()
			}
			if err != nil {
				pending.leave()
				return
			}
			p.Shard += w.shards
			p.Before += w.len()
		}
		if p.Before == 0 {
			select {
			case out <- built{nil, dataset.NoExamples(o.set)}:
			case <-ctx.Done():
			}
			return
		}
		p = Position{Epoch: p.Epoch + 1}
	}
}

// window opens shards from p on until there are enough examples. It takes the
// rest of the epoch, too, where that is less than half of its own shards: a last
// window of a few examples would neither be mixed nor have substitutes.
func (o *order) window(from *opening, p Position) (*window, error) {
	w := &window{epoch: p.Epoch, shard: p.Shard, before: p.Before}
	var sets []dataset.Shard
	n, full := 0, 0
	left := o.set.Shards() - p.Shard
	for len(sets) < left {
		if full == 0 && (n >= o.buffer || len(sets) == windowShards) {
			full = len(sets)
		}
		if full > 0 && 2*(left-full) > full {
			break
		}
		s, err := from.shard()
		if err != nil {
			for _, s := range sets {
				s.Close()
			}
			return nil, err
		}
		sets = append(sets, s)
		n += s.Len()
	}
	w.shards = len(sets)
	w.last = p.Shard+len(sets) == o.set.Shards()
	o.complete(w, sets)
	return w, nil
}

// complete fills in what follows from a window's sets.
func (o *order) complete(w *window, sets []dataset.Shard) {
	w.users.Store(1)
	w.sets = sets
	for _, s := range sets {
		w.n += s.Len()
		w.ends = append(w.ends, w.n)
	}
	if o.inOrder {
		return
	}
	key := rng.Key{Seed: o.seed, Step: uint64(w.epoch), Pass: uint32(w.shard), Purpose: rng.Order, Sample: o.source}
	if o.arrange == nil {
		w.order = rng.NewPermuted(key, w.n)
		return
	}
	r := rng.New(key)
	w.dealt = o.arrange(r.Perm(w.n), &r)
}

// opening opens an epoch's shards in order, several at a time.
type opening struct {
	ctx     context.Context
	o       *order
	list    []int // the epoch's order, nil for that of the set
	next    int   // place in it of the next to be opened
	pending []chan openedShard
}

type openedShard struct {
	s   dataset.Shard
	err error
}

// shard returns the next shard.
func (p *opening) shard() (dataset.Shard, error) {
	for len(p.pending) < openers && p.next < p.o.set.Shards() {
		k := p.next
		if p.list != nil {
			k = p.list[k]
		}
		p.next++
		c := make(chan openedShard, 1)
		p.pending = append(p.pending, c)
		go func() {
			s, err := p.o.patience.open(p.ctx, p.o.set, k)
			c <- openedShard{s, err}
		}()
	}
	r := <-p.pending[0]
	p.pending = p.pending[1:]
	return r.s, r.err
}

// leave closes the shards that were opened ahead.
func (p *opening) leave() {
	for _, c := range p.pending {
		leave(c, func(r openedShard) dataset.Shard { return r.s })
	}
}
