//go:build cuda

package cuda

import (
	"fmt"
	"math"
	"unsafe"

	"vlmo-train/kernels"
)

const maxArgs = 32

// dim is an extent of a grid or block of threads.
type dim struct{ x, y, z int }

// launch is a kernel with its arguments. Every argument has a slot of eight
// bytes, which is how package cu copies them.
type launch struct {
	k           *kernel
	grid, block dim
	slots       [maxArgs]uint64
	sizes       [maxArgs]uint8
	n           int
}

func (l *launch) add(v uint64, size uint8) *launch {
	if l.n < maxArgs {
		l.slots[l.n], l.sizes[l.n] = v, size
	}
	l.n++
	return l
}

// address returns the device address of t's first element, 0 where t is absent.
func address(t kernels.Tensor) uintptr {
	if t.IsZero() {
		return 0
	}
	return t.Mem.Addr + uintptr(t.Offset)
}

// tensor adds the two arguments of a tensor: its address and its layout.
func (l *launch) tensor(t kernels.Tensor) *launch {
	layout := uint64(2 * t.Stride)
	if t.Rows <= 1 {
		layout = 0 // whatever the stride, it does not spoil the alignment
	}
	if t.Type == kernels.BF16 {
		layout++
	}
	return l.ptr(address(t)).add(layout, 8)
}

// vector adds the address of a single row alone.
func (l *launch) vector(t kernels.Tensor) *launch { return l.ptr(address(t)) }

func (l *launch) ptr(p uintptr) *launch { return l.add(uint64(p), 8) }

func (l *launch) long(v int) *launch { return l.add(uint64(v), 8) }

func (l *launch) int(v ...int) *launch {
	for _, v := range v {
		l.add(uint64(uint32(v)), 4)
	}
	return l
}

func (l *launch) bool(v bool) *launch {
	if v {
		return l.int(1)
	}
	return l.int(0)
}

func (l *launch) float(v ...float32) *launch {
	for _, v := range v {
		l.add(uint64(math.Float32bits(v)), 4)
	}
	return l
}

// check compares the arguments with those that the image's kernel takes.
func (l *launch) check() error {
	if l.n > maxArgs {
		return fmt.Errorf("kernel %s: %d arguments, at most %d fit", l.k.name, l.n, maxArgs)
	}
	want := l.k.params
	if len(want) == 0 {
		return nil // an old driver does not tell
	}
	if l.n != len(want) {
		return fmt.Errorf("kernel %s: %d arguments, the image's takes %d", l.k.name, l.n, len(want))
	}
	for i, size := range l.sizes[:l.n] {
		if size != want[i] {
			return fmt.Errorf("kernel %s: argument %d has %d bytes, the image's has %d", l.k.name, i, size, want[i])
		}
	}
	return nil
}

// run enqueues the launch on the owner's compute stream.
func (l *launch) run(o *owner) error {
	args := o.args[:l.n]
	for i := range args {
		args[i] = unsafe.Pointer(&l.slots[i])
	}
	if err := l.k.f.Launch(l.grid.x, l.grid.y, l.grid.z, l.block.x, l.block.y, l.block.z, 0, o.compute, args); err != nil {
		return fmt.Errorf("kernel %s, grid %v, block %v: %w", l.k.name, l.grid, l.block, explain(err))
	}
	return nil
}
