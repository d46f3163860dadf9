package loader

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"vlmo-train/data/dataset"
)

// maxTries is how many examples are tried for one place of a batch before the
// error is that none can be read.
const maxTries = 100

// badExample is an example that can't be read, and the place it was read for.
type badExample struct {
	place int
	err   *dataset.BadExampleError
}

// Each reads the examples of the batch and calls put for each, with its place in
// Indices. In a loader its workers read, and put is called by several goroutines
// at a time, for different places, not in their order. Where an example can't be
// read, or put returns a *dataset.BadExampleError, and the loader may skip
// examples, Each puts another in its place. Any other error ends it: it returns
// that of the first place that has one.
//
// The substitute comes from the same epoch's order, or the part of it that is
// shuffled together, and then from those of the batch's other examples: for place
// p of the global batch, the examples 1, 2, ... batches on from there, around the
// end, until one can be read that is not in the batch, nor any of its group with
// Distinct. So it depends on neither workers nor ranks. (Two substitutes in one
// batch do not look at each other.)
func (b *Batch) Each(put func(place int, e dataset.Example) error) error {
	n := len(b.Indices)
	defer func() { slices.SortStableFunc(b.bad, func(x, y badExample) int { return x.place - y.place }) }()
	if b.reads == nil {
		read := func(w *window, i int) (dataset.Example, error) { return w.example(i) }
		for place := range n {
			if err := b.one(place, read, put); err != nil {
				return err
			}
		}
		return nil
	}
	e := &each{b: b, put: put, failed: n}
	b.reads.wait(b.turn)
	for place := range n {
		e.pending.Add(1)
		select {
		case b.reads.tasks <- task{e, place}:
		case <-b.reads.ctx.Done():
			e.pending.Done()
			e.fail(place, b.reads.ctx.Err())
		}
	}
	b.end()
	e.pending.Wait()
	return e.err
}

// end lets the next batch begin its reads. It is harmless after Each.
func (b *Batch) end() {
	if b.reads != nil {
		b.reads.wait(b.turn)
		b.reads.pass(b.turn)
		b.reads = nil
	}
}

// one reads the example for a place.
func (b *Batch) one(place int, read func(*window, int) (dataset.Example, error), put func(int, dataset.Example) error) error {
	w := b.all[b.First+place].w
	next := substitutes{b: b, from: b.all[b.First+place], run: -1}
	for tries := 1; ; tries++ {
		e, err := read(w, b.Indices[place])
		if err == nil {
			err = put(place, e)
		}
		if err == nil {
			return nil
		}
		var bad *dataset.BadExampleError
		if !errors.As(err, &bad) {
			return err
		}
		b.mu.Lock()
		b.bad = append(b.bad, badExample{place, bad})
		b.mu.Unlock()
		if tries > min(b.maxBad, maxTries) {
			return err
		}
		var ok bool
		if w, b.Indices[place], ok = next.next(); !ok {
			return fmt.Errorf("loader: batch %d of epoch %d: nothing in the set can replace an example: %w", b.Step, b.Epoch, err)
		}
	}
}

// substitutes are what may replace an example of a batch, see [Batch.Each].
type substitutes struct {
	b    *Batch
	from spot // the example
	run  int  // in b.runs, whose window it takes them from after from's own; -1 for that
	step int  // batches on from the first that is asked for
}

// next returns the next substitute; false when there are no more.
func (s *substitutes) next() (w *window, i int, ok bool) {
	for ; s.run < len(s.b.runs); s.run, s.step = s.run+1, 0 {
		w, start := s.from.w, s.from.at+s.b.stride
		if s.run >= 0 {
			// The windows that the rest of the batch is from.
			if w = s.b.runs[s.run].w; w == s.from.w {
				continue
			}
			start = s.from.at
		}
		n := w.len()
		// Steps of a batch come back to where they began after n of them, or
		// n over the common divisor: then they go on one further, so that all
		// examples have their turn, each once.
		round := n / gcd(n, s.b.stride)
		for s.step < n {
			at := (start + s.step*s.b.stride + s.step/round) % n
			s.step++
			if s.b.allows(w, at) {
				return w, w.at(at), true
			}
		}
	}
	return nil, 0, false
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// allows reports whether place at of w may replace an example: neither it nor,
// with Distinct, one of its group is in the batch.
func (b *Batch) allows(w *window, at int) bool {
	for _, r := range b.runs {
		if r.w != w {
			continue
		}
		if at >= r.lo && at < r.hi {
			return false
		}
		if w.group != nil && slices.ContainsFunc(w.dealt[r.lo:r.hi], func(k int) bool { return w.group[k] == w.group[w.dealt[at]] }) {
			return false
		}
	}
	return true
}

// reads is what the batches of a loader share: the workers, and whose turn it is
// to give them work, so that they finish one batch before they begin the next.
type reads struct {
	ctx   context.Context
	tasks chan task

	mu   sync.Mutex
	cond sync.Cond
	turn int
}

func newReads(ctx context.Context) *reads {
	r := &reads{ctx: ctx, tasks: make(chan task)}
	r.cond.L = &r.mu
	return r
}

// wait returns when it is turn n, or was.
func (r *reads) wait(n int) {
	r.mu.Lock()
	for r.turn < n {
		r.cond.Wait()
	}
	r.mu.Unlock()
}

// pass ends turn n.
func (r *reads) pass(n int) {
	r.mu.Lock()
	if r.turn == n {
		r.turn++
		r.cond.Broadcast()
	}
	r.mu.Unlock()
}

// each is a call of Each under way.
type each struct {
	b       *Batch
	put     func(int, dataset.Example) error
	pending sync.WaitGroup

	mu     sync.Mutex
	failed int // first place that failed, the number of places if none did
	err    error
}

// task is a place to be read.
type task struct {
	e     *each
	place int
}

func (t task) run(ctx context.Context, in *reader) {
	defer t.e.pending.Done()
	// What comes after a failure is of no use; what comes before decides which
	// failure is reported.
	if t.e.failedBefore(t.place) {
		return
	}
	read := func(w *window, i int) (dataset.Example, error) { return in.read(ctx, w, i) }
	if err := t.e.b.one(t.place, read, t.e.put); err != nil {
		t.e.fail(t.place, err)
	}
}

func (e *each) failedBefore(place int) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.failed < place
}

func (e *each) fail(place int, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if place < e.failed {
		e.failed, e.err = place, err
	}
}
