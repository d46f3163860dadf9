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
		if o.Role == kernels.In || o.Type != kernels.F32 {
			continue
		}
		for r := range o.Rows {
			if cap(f.buf) < o.Cols {
				f.buf = make([]float32, o.Cols)
			}
			row := f.buf[:o.Cols]
			f.Device.Read(row, o.Tensor.Slice(r, r+1))
			for c, v := range row {
				if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
					f.Found = fmt.Sprintf("%s wrote %v into %s %v at row %d, column %d", op.Name(), v, o.Name, o.Tensor, r, c)
					return
				}
			}
		}
	}
}
