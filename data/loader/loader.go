package loader

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"sync"

	"vlmo-train/data/dataset"
	"vlmo-train/data/internal/spill"
)

// ErrClosed is what Next returns after Close.
var ErrClosed = errors.New("loader: closed")

// Config says how batches are prepared. It has no influence on what they hold.
type Config struct {
	// Workers is the number of goroutines that read examples, at least 1. They
	// work on one batch together, and on the next when nothing is left to begin.
	Workers int

	// Prefetch is how many batches may be in work or ready at a time; 0 means 3.
	// More are not begun until one is taken.
	Prefetch int

	// MaxBad is how many examples may be unreadable and replaced (see
	// [Batch.Each]), each counted once; with one more, Next fails. 0 is strict:
	// the first is an error.
	MaxBad int

	// MaxBadShare raises MaxBad by this share of the examples served: for sets
	// whose length is not known.
	MaxBadShare float64

	// Patience says how reads that fail or hang are tried again.
	Patience Patience
}

// A MakeFunc makes a batch of the caller's type, its examples by [Batch.Each].
// old is a batch that was given to Recycle, whose memory may be used again, or
// the zero value. b and what is in it are valid until MakeFunc returns. It is
// called by several goroutines at a time, for different batches; all that is
// random in it must be keyed by b.Samples or b.Step, or the result depends on the
// number of workers.
type MakeFunc[T any] func(ctx context.Context, b *Batch, old T) (T, error)

// Loader prepares batches ahead of who uses them. Next, Position, Skipped and
// Recycle are for one goroutine at a time; Close may come from another.
type Loader[T any] struct {
	cfg    Config
	ctx    context.Context
	cancel context.CancelFunc
	queue  chan *job[T] // in the sampler's order
	wait   sync.WaitGroup

	pos     Position
	err     error                      // Next's answer from now on
	served  int                        // examples
	bad     int                        // examples that can't be read
	skipped []*dataset.BadExampleError // the first of them
	known   map[badKey]bool            // all of them

	mu     sync.Mutex
	closed bool
	free   []T
	jobs   []*job[T]
}

// maxSkipped is how many examples that can't be read are kept with what is wrong.
const maxSkipped = 100

// badKey stands for an example that can't be read, by a hash: of a large set there may be
// many.
type badKey [2]uint64

func keyOf(e *dataset.BadExampleError) badKey {
	hi, lo := spill.Hash(fmt.Appendf(nil, "%d %q %s", e.Index, e.ID, e.Path))
	return badKey{hi, lo}
}

// job is a batch in work.
type job[T any] struct {
	batch Batch
	old   T
	value T
	err   error         // io.EOF: no batch, but the sampler's end
	done  chan struct{} // receives one value when the rest is filled in
}

// New starts to prepare the batches that s would return, with a copy of s. The
// caller must Close the loader. When ctx ends, Next returns its error.
func New[T any](ctx context.Context, s *Sampler, cfg Config, makeBatch MakeFunc[T]) (*Loader[T], error) {
	if cfg.Workers < 1 || cfg.Prefetch < 0 || cfg.MaxBad < 0 || cfg.MaxBadShare < 0 {
		return nil, fmt.Errorf("loader: %d workers, %d batches ahead, %d and %v of the examples bad", cfg.Workers, cfg.Prefetch, cfg.MaxBad, cfg.MaxBadShare)
	}
	if cfg.Prefetch == 0 {
		cfg.Prefetch = 3
	}
	l := &Loader[T]{
		cfg: cfg,
		// The dispatcher holds one job more than is in the queue.
		queue: make(chan *job[T], cfg.Prefetch-1),
		pos:   s.Position(),
		known: make(map[badKey]bool),
	}
	l.ctx, l.cancel = context.WithCancel(ctx)
	work := make(chan *job[T], cfg.Prefetch)
	r := newReads(l.ctx)
	sampler := s.clone()
	l.wait.Go(func() {
		defer sampler.Close()
		defer close(work)
		l.dispatch(sampler, r, work)
	})
	var makers sync.WaitGroup
	for range cfg.Prefetch {
		makers.Go(func() {
			for j := range work {
				if j.err = l.ctx.Err(); j.err == nil {
					j.value, j.err = makeBatch(l.ctx, &j.batch, j.old)
				}
				j.batch.end()
				j.batch.Release()
				j.done <- struct{}{}
			}
		})
	}
	l.wait.Go(func() {
		makers.Wait()
		close(r.tasks)
	})
	for range cfg.Workers {
		l.wait.Go(func() {
			in := newReader(cfg.Patience.withDefaults())
			defer in.close()
			for t := range r.tasks {
				t.run(l.ctx, in)
			}
		})
	}
	return l, nil
}

// dispatch puts the sampler's batches into the queue and gives them to the makers.
func (l *Loader[T]) dispatch(s *Sampler, r *reads, work chan<- *job[T]) {
	for n := 0; ; n++ {
		j := l.newJob()
		j.err = s.fill(l.ctx, &j.batch)
		j.batch.reads, j.batch.turn = r, n
		j.batch.maxBad = l.cfg.MaxBad
		if l.cfg.MaxBadShare > 0 {
			j.batch.maxBad = math.MaxInt // Next decides
		}
		select {
		case l.queue <- j: // blocks while enough is ahead
		case <-l.ctx.Done():
			j.batch.Release()
			return
		}
		if j.err != nil {
			j.done <- struct{}{}
			return
		}
		work <- j // has room for all that the queue lets in, plus what Next took
	}
}

// newJob returns a job with the memory of an old one, and of an old batch.
func (l *Loader[T]) newJob() *job[T] {
	l.mu.Lock()
	defer l.mu.Unlock()
	var j *job[T]
	if n := len(l.jobs); n > 0 {
		j, l.jobs = l.jobs[n-1], l.jobs[:n-1]
	} else {
		j = &job[T]{done: make(chan struct{}, 1)}
	}
	var zero T
	j.old, j.value, j.err = zero, zero, nil
	if n := len(l.free); n > 0 {
		j.old = l.free[n-1]
		l.free[n-1] = zero
		l.free = l.free[:n-1]
	}
	return j
}

// Next returns the next batch, waiting for it if need be, or io.EOF after the
// last. After any error it returns that error again: a batch that can't be made
// is never left out.
func (l *Loader[T]) Next() (T, error) {
	var zero T
	if l.err != nil {
		return zero, l.err
	}
	v, err := l.next()
	if err != nil {
		l.err = err
		l.cancel()
		return zero, err
	}
	return v, nil
}

func (l *Loader[T]) next() (T, error) {
	var zero T
	var j *job[T]
	// A loader that is closed has no more batches, even if some are ready.
	if l.ctx.Err() != nil {
		return zero, l.stopped()
	}
	select {
	case j = <-l.queue:
	case <-l.ctx.Done():
		return zero, l.stopped()
	}
	select {
	case <-j.done:
	case <-l.ctx.Done():
		return zero, l.stopped()
	}
	if j.err == io.EOF {
		return zero, io.EOF
	}
	if j.err != nil && l.ctx.Err() != nil {
		return zero, l.stopped()
	}
	b := &j.batch
	for _, e := range b.bad {
		key := keyOf(e.err)
		if l.known[key] {
			continue
		}
		l.known[key] = true
		if l.bad++; len(l.skipped) < maxSkipped {
			l.skipped = append(l.skipped, e.err)
		}
	}
	l.served += b.Global
	if n := l.maxBad(); n > 0 && l.bad > n {
		return zero, l.tooMany(n)
	}
	if j.err != nil {
		return zero, fmt.Errorf("loader: batch at epoch %d, index %d: %w", b.Epoch, b.Index, j.err)
	}
	l.pos = b.next
	v := j.value
	l.mu.Lock()
	l.jobs = append(l.jobs, j)
	l.mu.Unlock()
	return v, nil
}

// stopped returns why the context is done.
func (l *Loader[T]) stopped() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return ErrClosed
	}
	return context.Cause(l.ctx)
}

// maxBad returns how many bad examples there may be by now.
func (l *Loader[T]) maxBad() int {
	return l.cfg.MaxBad + int(l.cfg.MaxBadShare*float64(l.served))
}

// tooMany returns the error for more than n bad examples.
func (l *Loader[T]) tooMany(n int) error {
	const most = 10
	var names strings.Builder
	for i, e := range l.skipped {
		if i == most {
			fmt.Fprintf(&names, "\n\tand %d more", l.bad-most)
			break
		}
		fmt.Fprintf(&names, "\n\t%v", e)
	}
	return fmt.Errorf("loader: more than %d examples can't be read:%s", n, &names)
}

// Position returns the place after the last batch that Next returned: where a
// sampler must go on after a restart, whatever is prepared already.
func (l *Loader[T]) Position() Position { return l.pos }

// Skipped returns how many examples were found unreadable and replaced in the batches
// that Next returned, each counted once, and the first hundred of them.
func (l *Loader[T]) Skipped() (n int, first []*dataset.BadExampleError) {
	return l.bad, slices.Clone(l.skipped)
}

// Recycle gives back a batch that Next returned and that nobody uses any more,
// so that its memory serves another.
func (l *Loader[T]) Recycle(v T) {
	l.mu.Lock()
	defer l.mu.Unlock()
	// No more can be in use at a time.
	if len(l.free) <= l.cfg.Prefetch {
		l.free = append(l.free, v)
	}
}

// Close stops the workers and waits until they have ended: a MakeFunc in work
// should mind its context. A read that hangs is left alone. It may be called more
// than once.
func (l *Loader[T]) Close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.cancel()
	l.wait.Wait()
}
