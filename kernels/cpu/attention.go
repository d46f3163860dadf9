package cpu

import (
	"math"
	"unsafe"

	"vlmo-train/kernels"
)

type (
	attention     kernels.Attention
	attentionGrad kernels.AttentionGrad
)

// A head of a sequence has its keys in the order image, text: then the bias of
// a query is one row of an array whatever the length of its text. Its queries
// are in the order text, image.

// bias is the relative bias of one op, expanded once for all its sequences:
// what a pair of tokens gets depends on nothing but their positions.
type bias struct {
	on          bool
	rel         kernels.RelativeBias
	heads       int
	text, image int // tokens in the longest text and image
	cols, size  int // of a head: text + image columns and rows
	data        []float32
	columns     []float32      // each head's column of the table, backwards
	grad        kernels.Tensor // of the table, while it is collected
	chunks      int            // of sequences; each has a partial gradient laid out as data
}

// units is about how many units of work an op has for each of its heads'
// sequences to be cut into; it does not depend on the number of threads.
const units = 96

// queryRows is about the number of query rows whose logits are held at a time.
const queryRows = 96

// measure sets the extents for a list of sequences, and the chunk size.
func (s *shared) measure(seqs []kernels.Sequence, rel *kernels.RelativeBias, heads int) {
	b := &s.bias
	b.on, b.heads = !rel.Table.IsZero(), heads
	b.rel = *rel
	b.text, b.image = 0, 0
	for i := range seqs {
		b.text = max(b.text, seqs[i].TextLen)
		b.image = max(b.image, seqs[i].ImageLen)
	}
	b.cols = b.text + b.image
	b.size = b.cols * b.cols
	s.chunk = blocks(len(seqs), max(1, units/heads))
	b.chunks = blocks(len(seqs), s.chunk)
}

// expansion fills the bias's data, a head a unit.
type expansion shared

// expand fills b.data from the table.
func (d *device) expand() {
	b := &d.shared.bias
	if !b.on || b.size == 0 {
		return
	}
	grow(&b.data, b.heads*b.size)
	grow(&b.columns, b.heads*b.rel.Rows())
	d.each((*expansion)(&d.shared), b.heads, b.heads*b.size)
}

// runs calls f for every run of pairs of tokens whose table rows follow each
// other: element at+i of a head's data, i < n, has the row row + i·step.
func (b *bias) runs(f func(at, n, row, step int)) {
	rel, w := &b.rel, b.rel.Window
	for i := range b.text { // text queries
		at := i * b.cols
		f(at, b.image, rel.TextImage(), 0)
		at += b.image
		f(at, 1, rel.TextText(i, 0), 0)
		if n := b.text - 1; i == 0 && n > 0 {
			f(at+1, n, rel.TextText(0, 1), 0)
		} else if n > 0 {
			f(at+1, n, rel.TextText(i, 1), 1)
		}
	}
	for i := range b.image {
		at := (b.text + i) * b.cols
		f(at, 1, rel.ImageImage(i, 0), 0)
		for j := 1; j < b.image; j += w {
			n, step := min(w, b.image-j), -1
			if i == 0 {
				step = 0
			}
			f(at+j, n, rel.ImageImage(i, j), step)
		}
		f(at+b.image, b.text, rel.ImageText(), 0)
	}
}

func (e *expansion) do(w *worker, h int) {
	b := &e.bias
	n := b.rel.Rows()
	table := view(b.rel.Table)
	column := b.columns[h*n:][:n]
	for a := range column {
		column[n-1-a] = table.data[a*table.stride+b.rel.Column+h]
	}
	data := b.data[h*b.size:][:b.size]
	b.runs(func(at, k, row, step int) {
		to, first := data[at:][:k], n-1-row
		if step < 0 {
			copy(to, column[first:])
			return
		}
		for i := range to {
			to[i] = column[first-i*step]
		}
	})
}

// collection is the reverse of expansion: it adds the partial gradients to
// the table's, a head a unit.
type collection shared

func (c *collection) do(w *worker, h int) {
	b := &c.bias
	grad := w.part[h*b.size:][:b.size]
	for chunk := 1; chunk < b.chunks; chunk++ {
		w.add(grad, w.part[(chunk*b.heads+h)*b.size:][:b.size])
	}
	n := b.rel.Rows()
	sum := b.columns[h*n:][:n] // backwards
	clear(sum)
	b.runs(func(at, k, row, step int) {
		from, first := grad[at:][:k], n-1-row
		if step < 0 {
			w.add(sum[first:][:k], from)
			return
		}
		for i, v := range from {
			sum[first-i*step] += v
		}
	})
	table := view(b.grad)
	for a, v := range sum {
		table.data[(n-1-a)*table.stride+b.rel.Column+h] += v
	}
}

// ahead is the rows that a worker's next sequence reads and writes.
type ahead struct {
	parts   [18]coming
	n, part int
}

// following returns the sequence whose rows are fetched ahead, the first of
// rest, or nil. With a list of queries their rows are not known yet.
func following(rest []kernels.Sequence, queries kernels.Tensor) *kernels.Sequence {
	if len(rest) == 0 || !queries.IsZero() {
		return nil
	}
	return &rest[0]
}

// forget drops what was not fetched.
func (a *ahead) forget() { a.n, a.part = 0, 0 }

// expect adds the rows of a sequence, in columns from col on.
func (a *ahead) expect(m *matrix, q *kernels.Sequence, col, cols int) {
	for _, rows := range [2][2]int{{q.ImageOff, q.ImageLen}, {q.TextOff, q.TextLen}} {
		if rows[1] == 0 || a.n == len(a.parts) {
			continue
		}
		size, first := 4, unsafe.Pointer(nil)
		if at := rows[0]*m.stride + col; m.half != nil {
			size, first = 2, unsafe.Pointer(&m.half[at])
		} else {
			first = unsafe.Pointer(&m.data[at])
		}
		a.parts[a.n] = coming{first: (*byte)(first), stride: m.stride * size, size: cols * size, rows: rows[1],
			together: max(1, 32*64/(cols*size))}
		a.n++
	}
}

// fetch brings some rows closer.
func (a *ahead) fetch(s *isa) {
	if a.part == a.n {
		return
	}
	c := &a.parts[a.part]
	c.fetch(s)
	if c.done == c.rows {
		a.part++
	}
}

// tokenRow returns the row of the i-th token of q.
func tokenRow(q *kernels.Sequence, i int) int {
	if i < q.TextLen {
		return q.TextOff + i
	}
	return q.ImageOff + i - q.TextLen
}

// loadKeys copies the columns from col on of q's rows to dst, which has ld
// columns; the columns after the first cols, and the rows after the last up
// to a total of rows, become zero.
func (w *worker) loadKeys(dst []float32, ld, rows int, m *matrix, col, cols int, q *kernels.Sequence) {
	n := q.TextLen + q.ImageLen
	if ld > cols {
		clear(dst[:n*ld])
	}
	w.loadRows(dst, ld, m, q.ImageOff, q.ImageLen, col, cols)
	w.loadRows(dst[q.ImageLen*ld:], ld, m, q.TextOff, q.TextLen, col, cols)
	clear(dst[n*ld : rows*ld])
}

// loadQueries is loadKeys in the order of queries.
func (w *worker) loadQueries(dst []float32, ld, rows int, m *matrix, col, cols int, q *kernels.Sequence) {
	n := q.TextLen + q.ImageLen
	if ld > cols {
		clear(dst[:n*ld])
	}
	w.loadRows(dst, ld, m, q.TextOff, q.TextLen, col, cols)
	w.loadRows(dst[q.TextLen*ld:], ld, m, q.ImageOff, q.ImageLen, col, cols)
	clear(dst[n*ld : rows*ld])
}

// loadRows copies columns of n rows from row r on.
func (w *worker) loadRows(dst []float32, ld int, m *matrix, r, n, col, cols int) {
	switch {
	case n == 0:
	case m.half != nil:
		for i := range n {
			w.widen(dst[i*ld:][:cols], m.half[(r+i)*m.stride+col:][:cols])
		}
	default:
		w.copyRows(&dst[0], ld, &m.data[r*m.stride+col], m.stride, n, cols)
	}
}

// saveRows stores n rows of src, each times its a, in columns from row r on.
// src is used up for BF16.
func (w *worker) saveRows(m *matrix, r, n, col, cols int, src []float32, ld int, a []float32) {
	switch {
	case n == 0:
	case m.half != nil:
		w.scaleRows(&src[0], ld, &src[0], ld, n, cols, &a[0])
		for i := range n {
			w.narrow(m.half[(r+i)*m.stride+col:][:cols], src[i*ld:][:cols])
		}
	default:
		w.scaleRows(&m.data[r*m.stride+col], m.stride, &src[0], ld, n, cols, &a[0])
	}
}

// saveQueries stores rows i0 to i0+n of the queries.
func (w *worker) saveQueries(m *matrix, q *kernels.Sequence, i0, n, col, cols int, src []float32, ld int, a []float32) {
	k := max(0, min(q.TextLen-i0, n))
	w.saveRows(m, q.TextOff+i0, k, col, cols, src, ld, a)
	if k < n {
		w.saveRows(m, q.ImageOff+i0+k-q.TextLen, n-k, col, cols, src[k*ld:], ld, a[k:])
	}
}

// saveKeys stores the rows of the keys.
func (w *worker) saveKeys(m *matrix, q *kernels.Sequence, col, cols int, src []float32, ld int, a []float32) {
	k := q.ImageLen
	w.saveRows(m, q.ImageOff, k, col, cols, src, ld, a)
	w.saveRows(m, q.TextOff, q.TextLen, col, cols, src[k*ld:], ld, a[k:])
}

// loadPanels is loadKeys to panels of nr columns. src is room for n × up(cols, nr)
// elements.
func (w *worker) loadPanels(dst, src []float32, m *matrix, col, cols int, q *kernels.Sequence) {
	n, nr := q.TextLen+q.ImageLen, w.nr
	if cols%nr > 0 || m.half != nil {
		ld := up(cols, nr)
		w.loadKeys(src, ld, n, m, col, cols, q)
		w.packB(dst, src, 0, ld, n, ld)
		return
	}
	for j := 0; j < cols; j += nr {
		panel := dst[j*n:][:n*nr]
		if q.ImageLen > 0 {
			w.pack(&panel[0], &m.data[q.ImageOff*m.stride+col+j], m.stride, q.ImageLen)
		}
		if q.TextLen > 0 {
			w.pack(&panel[q.ImageLen*nr], &m.data[q.TextOff*m.stride+col+j], m.stride, q.TextLen)
		}
	}
}

// logarithm is a quick math.Log for sums of exponentials, good to float32.
//
// With x = 2^e·m and s = (m−1)/(m+1), log m = 2·(s + s³/3 + s⁵/5 + …).
func logarithm(x float32) float32 {
	if !(x >= 1 && x < math.MaxFloat32) {
		return float32(math.Log(float64(x)))
	}
	b := math.Float32bits(x) + (0x3f800000 - 0x3f3504f3) // m is in [√½, √2)
	e := float64(int(b>>23) - 127)
	m := float64(math.Float32frombits(b&0x7fffff + 0x3f3504f3))
	s := (m - 1) / (m + 1)
	q := s * s
	return float32(e*math.Ln2 + 2*s*(1+q*(1.0/3+q*(1.0/5+q*(1.0/7+q*(1.0/9))))))
}

func up(n, to int) int { return blocks(n, to) * to }

// carve returns the first n elements of *buf, rounded up to a cache line, and
// advances it.
func carve(buf *[]float32, n int) []float32 {
	s := (*buf)[:n]
	*buf = (*buf)[up(n, align/4):]
	return s
}

// asked is the queries of one sequence. Their rows in Q and Out follow each
// other like those of a sequence, which rows names.
type asked struct {
	rows kernels.Sequence
	list []int32 // Queries, or nil
}

func askedOf(q *kernels.Sequence, queries kernels.Tensor) asked {
	if queries.IsZero() {
		return asked{rows: *q}
	}
	list := queries.I32()
	part := func(off, n int) (lo, count int) {
		lo = search(list, off)
		return lo, search(list, off+n) - lo
	}
	a := asked{list: list}
	a.rows.TextOff, a.rows.TextLen = part(q.TextOff, q.TextLen)
	a.rows.ImageOff, a.rows.ImageLen = part(q.ImageOff, q.ImageLen)
	return a
}

// search returns the index of the first element of list that is row or more.
func search(list []int32, row int) int {
	lo, hi := 0, len(list)
	for lo < hi {
		if m := (lo + hi) / 2; int(list[m]) < row {
			lo = m + 1
		} else {
			hi = m
		}
	}
	return lo
}

// place returns which token of q query i is.
func (a *asked) place(i int, q *kernels.Sequence) int {
	switch r := tokenRow(&a.rows, i); {
	case a.list == nil:
		return i
	case i < a.rows.TextLen:
		return int(a.list[r]) - q.TextOff
	default:
		return q.TextLen + int(a.list[r]) - q.ImageOff
	}
}

// ascending reports whether list, the Queries of an op, is as it must be.
func (d *device) ascending(op string, list []int32, rows int) bool {
	last := int32(-1)
	for i, r := range list {
		if r <= last || int(r) >= rows {
			d.fail("%s: query %d is %d after %d, of %d rows", op, i, r, last, rows)
			return false
		}
		last = r
	}
	return true
}

// rows is the bias of some queries of a head: row i begins i·ld elements
// after the first, and so does grad, what is to be added to its gradient.
type rows struct {
	n        int // queries
	bias     *float32
	grad     *float32
	ld       int
	from, to int // in a head's data: the first element, that of the text keys
	copied   bool
}

// rowsOf returns the bias of queries from i0 on, of at most m: as many as are
// of one modality and follow each other in q. data and grad are the head's,
// grad may be nil; room and junk have space for a row of q's keys for each of m
// queries. The forward pass has neither grad nor junk.
func (b *bias) rowsOf(q *kernels.Sequence, a *asked, i0, m int, data, grad, room, junk []float32) rows {
	place, text := a.place(i0, q), a.rows.TextLen
	r := rows{n: 1, bias: &room[0]}
	if junk != nil {
		r.grad = &junk[0]
	}
	for r.n < m && (i0+r.n < text) == (i0 < text) && a.place(i0+r.n, q) == place+r.n {
		r.n++
	}
	keys := q.TextLen + q.ImageLen
	if !b.on {
		clear(room[:keys])
		return r
	}
	if place >= q.TextLen {
		place += b.text - q.TextLen
	}
	r.from, r.to, r.ld = place*b.cols, place*b.cols+b.image, b.cols
	switch {
	case q.ImageLen == 0:
		r.from = r.to
	case q.TextLen > 0 && q.ImageLen < b.image:
		// The keys are no run of the data's: rows of their own.
		r.copied, r.ld = true, keys
		for i := range r.n {
			row := room[i*keys:][:keys]
			copy(row, data[r.from+i*b.cols:][:q.ImageLen])
			copy(row[q.ImageLen:], data[r.to+i*b.cols:])
		}
		if junk != nil {
			clear(junk[:r.n*keys])
		}
		return r
	}
	r.bias = &data[r.from]
	switch {
	case grad != nil:
		r.grad = &grad[r.from]
	case junk != nil:
		r.n = 1 // each adds to the same row
	}
	return r
}

// settle adds a copied gradient to the head's.
func (r *rows) settle(w *worker, q *kernels.Sequence, grad, junk []float32) {
	if !r.copied || grad == nil {
		return
	}
	keys, cols := q.TextLen+q.ImageLen, w.shared.bias.cols
	for i := range r.n {
		row := junk[i*keys:][:keys]
		w.add(grad[r.from+i*cols:][:q.ImageLen], row[:q.ImageLen])
		w.add(grad[r.to+i*cols:][:q.TextLen], row[q.ImageLen:])
	}
}

// headBias returns the part of data for head h, nil without a bias.
func (b *bias) headBias(data []float32, h int) []float32 {
	if !b.on || data == nil {
		return nil
	}
	return data[h*b.size:][:b.size]
}

func (d *device) attention(o *attention) {
	if len(o.Sequences) == 0 || !d.ascending("Attention", o.Queries.I32(), o.K.Rows) {
		return
	}
	d.shared.measure(o.Sequences, &o.Bias, o.Heads)
	d.expand()
	d.each(o, d.shared.bias.chunks*o.Heads, int((*kernels.Attention)(o).FLOPs()/8))
}

func (o *attention) do(w *worker, u int) {
	h := u % o.Heads
	lo := u / o.Heads * w.chunk
	hi := min(lo+w.chunk, len(o.Sequences))
	for i := lo; i < hi; i++ {
		q := &o.Sequences[i]
		a := askedOf(q, o.Queries)
		switch {
		case a.rows.TextLen+a.rows.ImageLen == 0:
		case w.gemmPairs != nil && o.Q.Type == kernels.BF16:
			o.headPairs(w, q, &a, h)
		default:
			o.head(w, q, &a, h, following(o.Sequences[i+1:hi], o.Queries))
		}
	}
}

func (o *attention) head(w *worker, q *kernels.Sequence, a *asked, h int, next *kernels.Sequence) {
	qm, km, vm, out, lse := w.view(o.Q, 0), w.view(o.K, 0), w.view(o.V, 0), w.view(o.Out, 0), view(o.LSE)
	n, nq := q.TextLen+q.ImageLen, a.rows.TextLen+a.rows.ImageLen
	hd := out.cols / o.Heads
	col := h * hd
	ld := up(hd, w.nr)
	keys, rows := up(n, w.nr), up(nq, w.mr)
	step := min(rows, max(w.mr, queryRows/w.mr*w.mr))

	buf := w.scratch((2*keys+n+rows)*ld + step*(keys+ld+2+n) + 9*align)
	src := carve(&buf, keys*ld)
	kT := carve(&buf, keys*hd)
	v := carve(&buf, n*ld)
	query := carve(&buf, rows*ld)
	s := carve(&buf, step*keys)
	y := carve(&buf, step*ld)
	top := carve(&buf, step)
	sum := carve(&buf, step)
	room := carve(&buf, step*n)

	w.loadPanels(v, src, &vm, col, hd, q)
	w.loadKeys(src, ld, keys, &km, col, hd, q)
	w.packBT(kT, src, 0, ld, hd, keys)
	w.loadQueries(query, ld, rows, &qm, col, hd, &a.rows)
	b := &w.shared.bias
	data := b.headBias(b.data, h)

	w.ahead.forget()
	if next != nil {
		w.ahead.expect(&vm, next, col, hd)
		w.ahead.expect(&km, next, col, hd)
		w.ahead.expect(&qm, next, col, hd)
		w.ahead.expect(&out, next, col, hd)
	}
	for i0 := 0; i0 < nq; i0 += step {
		m := min(step, nq-i0)
		w.multiply(m, n, hd, query[i0*ld:], ld, 1, kT, s, keys, false)
		for i := 0; i < m; {
			r := b.rowsOf(q, a, i0+i, m-i, data, nil, room, nil)
			w.softmaxRows(&s[i*keys], keys, r.bias, r.ld, r.n, n, o.Scale, &top[i], &sum[i])
			i += r.n
		}
		w.multiply(m, ld, n, s, keys, 1, v, y, ld, false)
		for i, total := range sum[:m] {
			lse.data[tokenRow(&a.rows, i0+i)*lse.stride+h] = top[i] + logarithm(total)
			sum[i] = 1 / total
		}
		w.saveQueries(&out, &a.rows, i0, m, col, hd, y, ld, sum)
	}
}

func (d *device) attentionGrad(o *attentionGrad) {
	if len(o.Sequences) == 0 || !d.ascending("AttentionGrad", o.Queries.I32(), o.K.Rows) {
		return
	}
	d.shared.measure(o.Sequences, &o.Bias, o.Heads)
	d.expand()
	b := &d.shared.bias
	wanted := b.on && !o.DTable.IsZero() && b.size > 0
	if wanted {
		grow(&d.shared.part, b.chunks*b.heads*b.size)
	}
	d.each(o, b.chunks*o.Heads, int((*kernels.AttentionGrad)(o).FLOPs()/8))
	if wanted {
		b.grad = o.DTable
		d.each((*collection)(&d.shared), b.heads, b.chunks*b.heads*b.size)
		b.grad = kernels.Tensor{}
	}
}

func (o *attentionGrad) do(w *worker, u int) {
	h, chunk := u%o.Heads, u/o.Heads
	lo := chunk * w.chunk
	hi := min(lo+w.chunk, len(o.Sequences))
	var grad []float32
	if b := &w.shared.bias; b.on && !o.DTable.IsZero() && b.size > 0 {
		grad = w.part[(chunk*b.heads+h)*b.size:][:b.size]
		clear(grad)
	}
	for i := lo; i < hi; i++ {
		q := &o.Sequences[i]
		switch {
		case q.TextLen+q.ImageLen == 0:
		case w.gemmPairs != nil && o.Q.Type == kernels.BF16:
			o.headPairs(w, q, h, grad)
		default:
			o.head(w, q, h, grad, following(o.Sequences[i+1:hi], o.Queries))
		}
	}
}

func (o *attentionGrad) head(w *worker, q *kernels.Sequence, h int, grad []float32, next *kernels.Sequence) {
	qm, km, vm := w.view(o.Q, 0), w.view(o.K, 0), w.view(o.V, 0)
	out, dout, lse := w.view(o.Out, 0), w.view(o.DOut, 0), view(o.LSE)
	dqm, dkm, dvm := w.view(o.DQ, 0), w.view(o.DK, 0), w.view(o.DV, 0)
	a := askedOf(q, o.Queries)
	n, nq := q.TextLen+q.ImageLen, a.rows.TextLen+a.rows.ImageLen
	hd := out.cols / o.Heads
	col := h * hd
	ld := up(hd, w.nr)
	// Whole tiles, with keys as their columns or rows.
	cols, rows, asking := up(n, w.nr), up(n, w.mr), up(nq, w.mr)
	keys := max(cols, rows)
	step := min(max(asking, w.mr), max(w.mr, queryRows/w.mr*w.mr))

	buf := w.scratch((3*asking+2*rows+3*cols+n+2*step)*ld + step*(2*keys+2*n+2) + max(n, step) + 24*align)
	query := carve(&buf, asking*ld)
	dy := carve(&buf, asking*ld)
	y := carve(&buf, asking*ld)
	src := carve(&buf, cols*ld)
	kT := carve(&buf, cols*hd)
	vT := carve(&buf, cols*hd)
	k := carve(&buf, n*ld)
	panel := carve(&buf, step*ld)
	dq := carve(&buf, step*ld)
	dk := carve(&buf, rows*ld)
	dv := carve(&buf, rows*ld)
	s := carve(&buf, step*keys)
	ds := carve(&buf, step*keys)
	room := carve(&buf, step*n)
	junk := carve(&buf, step*n)
	shift := carve(&buf, step)
	delta := carve(&buf, step)
	factor := carve(&buf, max(n, step))

	w.loadPanels(k, src, &km, col, hd, q)
	w.loadKeys(src, ld, cols, &vm, col, hd, q)
	w.packBT(vT, src, 0, ld, hd, cols)
	w.loadKeys(src, ld, cols, &km, col, hd, q)
	w.packBT(kT, src, 0, ld, hd, cols)
	w.loadQueries(query, ld, asking, &qm, col, hd, &a.rows)
	w.loadQueries(dy, ld, asking, &dout, col, hd, &a.rows)
	w.loadQueries(y, ld, asking, &out, col, hd, &a.rows)
	if nq == 0 {
		clear(dk)
		clear(dv)
	}
	b := &w.shared.bias
	data := b.headBias(b.data, h)
	clear(junk)
	for i := range factor {
		factor[i] = o.Scale
	}

	w.ahead.forget()
	if next != nil {
		for _, m := range [...]*matrix{&km, &vm, &qm, &dout, &out, &dqm, &dkm, &dvm} {
			w.ahead.expect(m, next, col, hd)
		}
	}
	for i0 := 0; i0 < nq; i0 += step {
		m := min(step, nq-i0)
		w.multiply(m, n, hd, query[i0*ld:], ld, 1, kT, s, keys, false)
		w.multiply(m, n, hd, dy[i0*ld:], ld, 1, vT, ds, keys, false)
		w.dotRows(&delta[0], &y[i0*ld], ld, &dy[i0*ld], ld, m, hd)
		for i := range m {
			shift[i] = lse.data[tokenRow(&a.rows, i0+i)*lse.stride+h]
		}
		for i := 0; i < m; {
			r := b.rowsOf(q, &a, i0+i, m-i, data, grad, room, junk)
			w.softmaxGradRows(&s[i*keys], &ds[i*keys], keys, r.bias, r.ld, r.n, n, o.Scale, &shift[i], &delta[i], r.grad)
			r.settle(w, q, grad, junk)
			i += r.n
		}
		w.multiply(m, ld, n, ds, keys, 1, k, dq, ld, false)
		w.saveQueries(&dqm, &a.rows, i0, m, col, hd, dq, ld, factor)
		w.packB(panel, query, i0*ld, ld, m, ld)
		w.multiply(n, ld, m, ds, 1, keys, panel, dk, ld, i0 > 0)
		w.packB(panel, dy, i0*ld, ld, m, ld)
		w.multiply(n, ld, m, s, 1, keys, panel, dv, ld, i0 > 0)
	}
	w.saveKeys(&dkm, q, col, hd, dk, ld, factor)
	for i := range n {
		factor[i] = 1
	}
	w.saveKeys(&dvm, q, col, hd, dv, ld, factor)
}
