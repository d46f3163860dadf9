package cpu

import (
	"sync/atomic"
	"unsafe"
)

// A task computes units of work, in any order and each independent of the
// others. The ops themselves are the tasks, so that none has to be made.
type task interface {
	do(w *worker, unit int)
}

// pool is the device's goroutines and what they share during an op.
type pool struct {
	workers []*worker // 0 is the goroutine that calls Run

	// The current task. Written before the workers are woken.
	task    task
	units   int
	next    atomic.Int64 // first unit that nobody has taken
	pending atomic.Int32 // workers that have not finished
	waiting atomic.Bool  // whether the caller has parked
	done    chan struct{}
	closed  bool

	shared
}

// shared is memory that an op's units write to and the caller then reads.
// It grows and is kept.
type shared struct {
	threads int
	flat    flat
	sums    []float64 // one or two a unit or row
	part    []float32 // partial gradients, one row a chunk
	bias    bias
	next    []int32   // of Residual: the row of Y by row of X, or nil
	index   []int32   // room for next
	values  []float32 // of Patchify: what stands for each byte
	// Of ResidualNorm: the row of H by row of Z, or nil; and room for it.
	normNext, normIndex []int32
	// chunk is the number of sequences in one unit of attention.
	chunk   int
	split   split
	weights []float32 // B of a product, packed, or nil
}

type worker struct {
	*isa
	*shared
	buf     []float32    // scratch
	rowBufs [4][]float32 // rows of BF16 operands in float32
	adam    adamConst
	ahead   ahead
	state   atomic.Int32
	wake    chan struct{}
}

// States of a worker.
const (
	idle int32 = iota // finished, and looking for the next task
	posted
	parked
)

// spins is how often a goroutine looks for news before it parks: some hundred
// microseconds. That is longer than the time between two ops or the difference
// of two workers' shares, and waking a thread takes about as long.
const spins = 200000

func newPool(s *isa, threads int) *pool {
	p := &pool{done: make(chan struct{}, 1), shared: shared{threads: threads}}
	for i := range threads {
		w := &worker{isa: s, shared: &p.shared, wake: make(chan struct{}, 1)}
		p.workers = append(p.workers, w)
		if i > 0 {
			go p.serve(w)
		}
	}
	return p
}

func (p *pool) close() {
	p.closed = true
	for _, w := range p.workers[1:] {
		w.post()
	}
}

func (w *worker) post() {
	if w.state.Swap(posted) == parked {
		w.wake <- struct{}{}
	}
}

func (p *pool) serve(w *worker) {
	for {
		for i := 0; i < spins && w.state.Load() != posted; i++ {
		}
		if w.state.CompareAndSwap(idle, parked) {
			<-w.wake
		}
		w.state.Store(idle)
		if p.closed {
			return
		}
		p.work(w)
		if p.pending.Add(-1) == 0 && p.waiting.CompareAndSwap(true, false) {
			p.done <- struct{}{}
		}
	}
}

func (p *pool) work(w *worker) {
	for {
		u := int(p.next.Add(1)) - 1
		if u >= p.units {
			return
		}
		p.task.do(w, u)
	}
}

// minWork is the number of elements from which on more than one thread helps.
const minWork = 1 << 15

// each does all units of t, which together touch work elements.
func (p *pool) each(t task, units, work int) {
	helpers := min(len(p.workers), units) - 1
	if helpers <= 0 || work < minWork {
		for u := range units {
			t.do(p.workers[0], u)
		}
		return
	}
	p.task, p.units = t, units
	p.next.Store(0)
	p.pending.Store(int32(helpers))
	for _, w := range p.workers[1 : 1+helpers] {
		w.post()
	}
	p.work(p.workers[0])
	p.wait()
	p.task = nil
}

func (p *pool) wait() {
	for range spins {
		if p.pending.Load() == 0 {
			return
		}
	}
	p.waiting.Store(true)
	if p.pending.Load() == 0 && p.waiting.CompareAndSwap(true, false) {
		return
	}
	<-p.done
}

// grow returns *buf with n elements at least, aligned to 64 bytes. What it
// held may be lost.
func grow(buf *[]float32, n int) []float32 {
	if len(*buf) < n {
		b := make([]float32, n+n/4+align/4)
		*buf = b[alignSkip(b):]
	}
	return (*buf)[:n]
}

// growInts is grow without alignment.
func growInts(buf *[]int32, n int) []int32 {
	if cap(*buf) < n {
		*buf = make([]int32, n+n/4)
	}
	*buf = (*buf)[:n]
	return *buf
}

// alignSkip returns the elements before the first that is aligned.
func alignSkip(b []float32) int {
	return (-int(uintptr(unsafe.Pointer(&b[0]))) & (align - 1)) / 4
}

// scratch returns n elements with any content, valid until the next call.
func (w *worker) scratch(n int) []float32 { return grow(&w.buf, n) }

// zeros returns n elements of the shared partial sums, all 0.
func (s *shared) zeros(n int) []float32 {
	p := grow(&s.part, n)
	clear(p)
	return p
}

// totals returns n zero sums.
func (s *shared) totals(n int) []float64 {
	if cap(s.sums) < n {
		s.sums = make([]float64, n+n/4)
	}
	s.sums = s.sums[:n]
	clear(s.sums)
	return s.sums
}

func blocks(n, size int) int { return (n + size - 1) / size }
