package cpu

import "vlmo-train/kernels"

// matrix is a kernels.Tensor of type F32 whose bounds are known to be right.
type matrix struct {
	data               []float32
	rows, cols, stride int
}

func view(t kernels.Tensor) matrix {
	m := matrix{t.F32(), t.Rows, t.Cols, t.Stride}
	if t.Len() == 0 {
		m.stride = 0
	}
	return m
}

func (m *matrix) row(r int) []float32 {
	i := r * m.stride
	return m.data[i : i+m.cols : i+m.cols]
}

// reduceRows is the number of rows in one chunk of a sum over rows.
const reduceRows = 64

// rowsPerUnit returns how many rows of a tensor make a unit of work.
func rowsPerUnit(t kernels.Tensor) int { return max(1, 8192/max(1, t.Cols)) }

// span returns the rows of unit u.
func span(t kernels.Tensor, u, size int) (lo, hi int) {
	return u * size, min((u+1)*size, t.Rows)
}

// rows does a task whose units are rowsPerUnit(t) rows of t.
func (d *device) rows(k task, t kernels.Tensor) {
	d.each(k, blocks(t.Rows, rowsPerUnit(t)), t.Len())
}

// flat is how an op that treats all elements alike is cut into units: pieces
// of rows, all tensors being one long row where that is possible.
type flat struct {
	one       bool // all tensors are contiguous
	cols, per int  // elements in a row, units in a row
}

const flatBlock = 1 << 13

// elements does a task whose units are those of flat. All tensors have the
// same shape.
func (d *device) elements(k task, tensors ...kernels.Tensor) {
	n := d.flatten(tensors...)
	d.each(k, n, tensors[0].Len())
}

func (s *shared) flatten(tensors ...kernels.Tensor) (units int) {
	t := tensors[0]
	f := flat{one: true, cols: t.Cols}
	for i := range tensors {
		f.one = f.one && tensors[i].Contiguous()
	}
	rows := t.Rows
	if f.one {
		rows, f.cols = 1, t.Len()
	}
	f.per = blocks(f.cols, flatBlock)
	s.flat = f
	return rows * f.per
}

// piece returns the elements of t in unit u.
func (f *flat) piece(t kernels.Tensor, u int) []float32 {
	off := 0
	if !f.one {
		off = u / f.per * t.Stride
		u %= f.per
	}
	lo := u * flatBlock
	hi := min(lo+flatBlock, f.cols)
	return t.F32()[off+lo : off+hi]
}
