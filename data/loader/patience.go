package loader

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"vlmo-train/data/dataset"
)

// Patience says how a file that can't be read is tried again: one whose error
// may pass, such as a network file system's, and one that does not answer.
type Patience struct {
	// Tries is how often a read is tried; 0 means 4.
	Tries int

	// Wait is the time before the second try; 0 means 200 ms. It doubles with
	// each further one, up to a hundred times as long.
	Wait time.Duration

	// Stall is how long an example may take before its read is left to itself
	// and tried anew; 0 means a minute. A shard, which is opened, and unpacked
	// where it is compressed, may take ten times as long.
	Stall time.Duration
}

func (p Patience) withDefaults() Patience {
	if p.Tries <= 0 {
		p.Tries = 4
	}
	if p.Wait <= 0 {
		p.Wait = 200 * time.Millisecond
	}
	if p.Stall <= 0 {
		p.Stall = time.Minute
	}
	return p
}

// pause waits before try n, counted from 0.
func (p Patience) pause(ctx context.Context, n int) error {
	if n == 0 {
		return ctx.Err()
	}
	t := time.NewTimer(min(p.Wait<<min(n-1, 20), 100*p.Wait))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// mayPass reports whether a read that ended with err may succeed later: the
// operating system failed, and not because there is no such file or no right to
// read it.
func mayPass(err error) bool {
	var timeout interface{ Timeout() bool }
	if errors.As(err, &timeout) && timeout.Timeout() {
		return true
	}
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return false
	}
	switch errno {
	case syscall.ENOENT, syscall.EACCES, syscall.EPERM, syscall.EISDIR, syscall.ENOTDIR, syscall.ELOOP, syscall.ENAMETOOLONG, syscall.EINVAL, syscall.ENOSPC:
		return false
	}
	return true
}

// stalledError says what did not answer.
type stalledError struct {
	what  string
	tries int
	stall time.Duration
}

func (e *stalledError) Error() string {
	return fmt.Sprintf("loader: %s: no answer in %v, tried %d times", e.what, e.stall, e.tries)
}

// reader reads examples in a goroutine of its own, so that one that does not
// come back can be left alone.
type reader struct {
	patience Patience
	ask      chan question
	answers  chan answer
	timer    *time.Timer
}

type question struct {
	w *window
	i int
}

type answer struct {
	e   dataset.Example
	err error
}

func newReader(p Patience) *reader {
	return &reader{patience: p, timer: time.NewTimer(time.Hour)}
}

// start starts a goroutine to read with.
func (r *reader) start() {
	ask, answers := make(chan question), make(chan answer, 1)
	r.ask, r.answers = ask, answers
	go func() {
		for q := range ask {
			e, err := q.w.example(q.i)
			q.w.release()
			answers <- answer{e, err}
		}
	}()
}

// close ends the goroutine when it has finished what it does.
func (r *reader) close() {
	if r.ask != nil {
		close(r.ask)
		r.ask = nil
	}
}

// read reads example i of w.
func (r *reader) read(ctx context.Context, w *window, i int) (e dataset.Example, err error) {
	p := r.patience
	for n := range p.Tries {
		if perr := p.pause(ctx, n); perr != nil {
			return dataset.Example{}, perr
		}
		if r.ask == nil {
			r.start()
		}
		w.retain()
		r.ask <- question{w, i}
		r.timer.Reset(p.Stall)
		select {
		case a := <-r.answers:
			if a.err == nil || !mayPass(a.err) {
				return a.e, a.err
			}
			err = a.err
		case <-ctx.Done():
			r.close()
			return dataset.Example{}, ctx.Err()
		case <-r.timer.C:
			r.close()
			err = &stalledError{w.name(i), n + 1, p.Stall}
		}
	}
	return dataset.Example{}, err
}

// open opens shard k of s.
func (p Patience) open(ctx context.Context, s dataset.Sharded, k int) (shard dataset.Shard, err error) {
	type opened struct {
		s   dataset.Shard
		err error
	}
	stall := 10 * p.Stall
	for n := range p.Tries {
		if perr := p.pause(ctx, n); perr != nil {
			return nil, perr
		}
		once, cancel := context.WithCancel(ctx)
		c := make(chan opened, 1)
		go func() {
			s, err := s.Shard(once, k)
			c <- opened{s, err}
		}()
		t := time.NewTimer(stall)
		var o opened
		select {
		case o = <-c:
		case <-t.C:
			o.err = &stalledError{dataset.ShardName(s, k), n + 1, stall}
			leave(c, func(o opened) dataset.Shard { return o.s })
		case <-ctx.Done():
			o.err = ctx.Err()
			leave(c, func(o opened) dataset.Shard { return o.s })
		}
		t.Stop()
		cancel()
		if o.err == nil {
			return o.s, nil
		}
		err = o.err
		if ctx.Err() != nil || !mayPass(err) && !errors.As(err, new(*stalledError)) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("loader: tried %d times: %w", p.Tries, err)
}

// leave closes a shard that nobody waits for any more when it comes.
func leave[T any](c <-chan T, shard func(T) dataset.Shard) {
	go func() {
		if s := shard(<-c); s != nil {
			s.Close()
		}
	}()
}

// Part is an open shard of a set, for who goes through a set once, in its order,
// by no [Sampler].
type Part struct{ w *window }

// Open opens shard k of s with patience. The caller closes the part.
func (p Patience) Open(ctx context.Context, s dataset.Sharded, k int) (*Part, error) {
	d, err := p.withDefaults().open(ctx, s, k)
	if err != nil {
		return nil, err
	}
	w := &window{sets: []dataset.Shard{d}, ends: []int{d.Len()}}
	w.retain()
	return &Part{w}, nil
}

// Len returns the number of examples, which may be 0.
func (p *Part) Len() int { return p.w.ends[0] }

// Close closes the shard as soon as no read of it is under way, such as one that
// hangs.
func (p *Part) Close() { p.w.release() }

// Reader reads examples with patience, as a [Loader] does. It belongs to one
// goroutine, which closes it.
type Reader struct{ r *reader }

// NewReader returns a Reader.
func NewReader(p Patience) *Reader { return &Reader{newReader(p.withDefaults())} }

// Read reads example i of p, which is open, 0 <= i < p.Len(). The error may be a
// *dataset.BadExampleError, see [dataset.Dataset].
func (r *Reader) Read(ctx context.Context, p *Part, i int) (dataset.Example, error) {
	return r.r.read(ctx, p.w, i)
}

// Close ends what the Reader reads with.
func (r *Reader) Close() { r.r.close() }
