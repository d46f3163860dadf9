// Package engine holds what a training step stands on: the arena for
// activations, the flat parameter store, the tape of backward passes, the
// optimiser and checkpoint directories.
package engine

import (
	"fmt"

	"vlmo-train/kernels"
)

const alignment = 64 // bytes; the start of every tensor

// Arena hands out device memory stack-wise. A step allocates upward and
// Reset takes everything back, so a warm step asks the device for nothing.
type Arena struct {
	dev    kernels.Device
	chunks []*kernels.Memory
	chunk  int // the chunk in use
	used   int // bytes of it handed out, or skipped
	height int // bytes handed out, of all chunks
	peak   int // the largest height since the last Reset
	allocs int // chunks ever asked for
	err    error
}

// Mark is a height of an Arena's stack.
type Mark struct{ chunk, used, height int }

const (
	minChunk = 1 << 20
	growth   = 8  // a new chunk has at least this part of what is in use
	slack    = 64 // one chunk for all has this part more, for steps that differ a little
)

// NewArena returns an empty arena on dev.
func NewArena(dev kernels.Device) *Arena { return &Arena{dev: dev} }

// Tensor returns an uninitialised rows × cols tensor that lives until Reset,
// or until Release of an earlier mark. Out of memory is kept for Err; the
// tensor then has a shape, so that a pass can run to its end, and no memory.
func (a *Arena) Tensor(t kernels.DType, rows, cols int) kernels.Tensor {
	if a.err != nil {
		return kernels.Matrix(&kernels.Memory{}, 0, t, rows, cols)
	}
	n := (rows*cols*t.Size() + alignment - 1) / alignment * alignment
	if n == 0 {
		n = alignment
	}
	for a.chunk < len(a.chunks) && a.used+n > a.chunks[a.chunk].Bytes {
		a.chunk++
		a.used = 0
	}
	if a.chunk == len(a.chunks) {
		size := max(n, minChunk, a.height/growth/alignment*alignment)
		m, err := a.dev.Alloc(size)
		if err != nil {
			a.err = fmt.Errorf("engine: activations need %d more bytes: %w", size, err)
			return kernels.Matrix(&kernels.Memory{}, 0, t, rows, cols)
		}
		a.chunks = append(a.chunks, m)
		a.allocs++
	}
	x := kernels.Matrix(a.chunks[a.chunk], a.used, t, rows, cols)
	a.used += n
	a.height += n
	a.peak = max(a.peak, a.height)
	return x
}

// Mark returns the present height, for Release.
func (a *Arena) Mark() Mark { return Mark{a.chunk, a.used, a.height} }

// Release takes back everything handed out since m.
func (a *Arena) Release(m Mark) { a.chunk, a.used, a.height = m.chunk, m.used, m.height }

// Reset takes everything back. If the last step needed several chunks they
// are replaced by one that holds as much as the step did.
func (a *Arena) Reset() {
	if len(a.chunks) > 1 {
		for _, c := range a.chunks {
			a.dev.Free(c)
		}
		a.chunks = a.chunks[:0]
		if m, err := a.dev.Alloc(a.peak + a.peak/slack); err == nil {
			a.chunks = append(a.chunks, m)
			a.allocs++
		}
	}
	a.chunk, a.used, a.height, a.peak = 0, 0, 0, 0
}

// Reserve asks the device for one chunk of n bytes, for steps whose need is
// known beforehand: growing takes up to an eighth more. The arena is unused
// yet, or the call changes nothing. Out of memory is kept for Err.
func (a *Arena) Reserve(n int) {
	if len(a.chunks) > 0 || n <= 0 {
		return
	}
	m, err := a.dev.Alloc(n)
	if err != nil {
		a.err = fmt.Errorf("engine: activations need %d bytes: %w", n, err)
		return
	}
	a.chunks = append(a.chunks, m)
	a.allocs++
}

// Peak returns the most bytes in use at once since the last Reset.
func (a *Arena) Peak() int { return a.peak }

// Allocations counts the arena's calls of the device's Alloc.
func (a *Arena) Allocations() int { return a.allocs }

// Err returns why the arena could not grow, or nil.
func (a *Arena) Err() error { return a.err }

// Close gives the memory back to the device.
func (a *Arena) Close() {
	for _, c := range a.chunks {
		a.dev.Free(c)
	}
	a.chunks = nil
	a.chunk, a.used, a.height = 0, 0, 0
}
