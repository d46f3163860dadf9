package engine

import (
	"fmt"

	"vlmo-train/kernels"
)

// DoubleBuffer takes the pixels of batches to the device, into two places by
// turns: while the ops of a step read one, the next batch travels to the other
// (see [kernels.Device.Write]). It belongs to one goroutine.
type DoubleBuffer struct {
	dev    kernels.Device
	places [2]*kernels.Memory
	turn   int
}

// NewDoubleBuffer returns a buffer on dev, which takes no memory yet.
func NewDoubleBuffer(dev kernels.Device) *DoubleBuffer { return &DoubleBuffer{dev: dev} }

// Put copies v, rows × cols bytes, to the device. The result is valid until the
// second Put after this one, which must not come before the ops that read it
// are enqueued.
func (b *DoubleBuffer) Put(v []byte, rows, cols int) (kernels.Tensor, error) {
	if len(v) != rows*cols {
		return kernels.Tensor{}, fmt.Errorf("engine: %d bytes for %d × %d pixels", len(v), rows, cols)
	}
	m := &b.places[b.turn]
	b.turn = 1 - b.turn
	if *m == nil || (*m).Bytes < len(v) {
		if *m != nil {
			b.dev.Free(*m)
			*m = nil
		}
		fresh, err := b.dev.Alloc(len(v))
		if err != nil {
			return kernels.Tensor{}, fmt.Errorf("engine: a batch's pixels need %d bytes: %w", len(v), err)
		}
		*m = fresh
	}
	t := kernels.Matrix(*m, 0, kernels.U8, rows, cols)
	b.dev.Write(t, v)
	return t, nil
}

// Close gives the memory back.
func (b *DoubleBuffer) Close() {
	for i, m := range b.places {
		if m != nil {
			b.dev.Free(m)
			b.places[i] = nil
		}
	}
}
