package cpu

import "vlmo-train/kernels"

// matrix is a kernels.Tensor of type F32 whose bounds are known to be right,
// or one of type BF16 whose rows pass through a buffer.
type matrix struct {
	data               []float32
	rows, cols, stride int

	half []uint16  // the elements, for BF16
	buf  []float32 // a row of it
	isa  *isa
}

// view returns a matrix of type F32.
func view(t kernels.Tensor) matrix {
	m := matrix{data: t.F32(), rows: t.Rows, cols: t.Cols, stride: t.Stride}
	if t.Len() == 0 {
		m.stride = 0
	}
	return m
}

// view returns a matrix of either type. Those that are in use at a time have
// different slots, which are their buffers.
func (w *worker) view(t kernels.Tensor, slot int) matrix {
	if t.Type != kernels.BF16 {
		return view(t)
	}
	m := matrix{rows: t.Rows, cols: t.Cols, stride: t.Stride, half: t.BF16(), buf: grow(&w.rowBufs[slot], t.Cols), isa: w.isa}
	if t.Len() == 0 {
		m.stride = 0
	}
	return m
}

// row returns the elements of row r, valid until the next call for BF16.
func (m *matrix) row(r int) []float32 {
	i := r * m.stride
	if m.isa != nil {
		m.isa.widen(m.buf, m.half[i:i+m.cols])
		return m.buf
	}
	return m.data[i : i+m.cols : i+m.cols]
}

// fresh returns where to write row r, which holds anything; put stores it.
func (m *matrix) fresh(r int) []float32 {
	if m.isa != nil {
		return m.buf
	}
	return m.row(r)
}

// put stores what fresh returned for row r, or what row returned and the
// caller changed.
func (m *matrix) put(r int) {
	if m.isa != nil {
		i := r * m.stride
		m.isa.narrow(m.half[i:i+m.cols], m.buf)
	}
}

// lines returns the rows that an op with an optional list of rows treats, and
// what row i is.
type lines struct {
	n    int
	list []int32
}

func linesOf(list kernels.Tensor, all int) lines {
	if list.IsZero() {
		return lines{n: all}
	}
	return lines{list.Cols, list.I32()}
}

func (l *lines) at(i int) int {
	if l.list == nil {
		return i
	}
	return int(l.list[i])
}

// reduceRows is the number of rows in one chunk of a sum over rows.
const reduceRows = 64

// rowsPerUnit returns how many rows of a tensor make a unit of work.
func rowsPerUnit(t kernels.Tensor) int { return max(1, 8192/max(1, t.Cols)) }

// span returns the rows of unit u, of n.
func span(n, u, size int) (lo, hi int) {
	return u * size, min((u+1)*size, n)
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
	lo, hi := f.bounds(t, u)
	return t.F32()[lo:hi]
}

// bounds returns where unit u of t begins and ends.
func (f *flat) bounds(t kernels.Tensor, u int) (from, to int) {
	off := 0
	if !f.one {
		off = u / f.per * t.Stride
		u %= f.per
	}
	lo := u * flatBlock
	hi := min(lo+flatBlock, f.cols)
	return off + lo, off + hi
}

// wide returns the elements of t in unit u, converted where t is BF16.
func (w *worker) wide(t kernels.Tensor, u, slot int) []float32 {
	if t.Type != kernels.BF16 {
		return w.flat.piece(t, u)
	}
	lo, hi := w.flat.bounds(t, u)
	buf := grow(&w.rowBufs[slot], hi-lo)
	w.widen(buf, t.BF16()[lo:hi])
	return buf
}

// into returns where to write the elements of t in unit u; store puts them
// there.
func (w *worker) into(t kernels.Tensor, u, slot int) []float32 {
	if t.Type != kernels.BF16 {
		return w.flat.piece(t, u)
	}
	lo, hi := w.flat.bounds(t, u)
	return grow(&w.rowBufs[slot], hi-lo)
}

func (w *worker) store(t kernels.Tensor, u int, v []float32) {
	if t.Type == kernels.BF16 {
		lo, hi := w.flat.bounds(t, u)
		w.narrow(t.BF16()[lo:hi], v)
	}
}
