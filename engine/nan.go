package engine

import (
	"fmt"
	"math"

	"vlmo-train/kernels"
)

// Finder is a Device that looks for the first op with a result that is not
// finite. It is slow: it reads back every result.
type Finder struct {
	kernels.Device
	// Found describes the first such op, empty while there is none.
	Found string

	buf  []float32
	half []uint16
	list []kernels.Operand
}

// Run runs op and inspects what it wrote.
func (f *Finder) Run(op kernels.Op) {
	f.Device.Run(op)
	if f.Found != "" {
		return
	}
	f.list = op.Operands(f.list[:0])
	for _, o := range f.list {
		if o.Role == kernels.In || o.Type == kernels.I32 || o.Type == kernels.U8 {
			continue
		}
		for r := range o.Rows {
			for c, v := range f.row(o.Tensor.Slice(r, r+1)) {
				if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
					f.Found = fmt.Sprintf("%s wrote %v into %s %v at row %d, column %d", op.Name(), v, o.Name, o.Tensor, r, c)
					return
				}
			}
		}
	}
}

// row reads a row of F32 or BF16.
func (f *Finder) row(t kernels.Tensor) []float32 {
	if cap(f.buf) < t.Cols {
		f.buf, f.half = make([]float32, t.Cols), make([]uint16, t.Cols)
	}
	row, half := f.buf[:t.Cols], f.half[:t.Cols]
	if t.Type == kernels.F32 {
		f.Device.Read(row, t)
		return row
	}
	f.Device.Read(half, t)
	for i, h := range half {
		row[i] = kernels.FromBF16(h)
	}
	return row
}
