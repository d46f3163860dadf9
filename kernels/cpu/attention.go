package cpu

import (
	"math"

	"vlmo-train/kernels"
)

type (
	attention     kernels.Attention
	attentionGrad kernels.AttentionGrad
)

// bias is the relative bias of one op, expanded once for all its sequences:
// what a pair of tokens gets depends on nothing but their positions.
type bias struct {
	on          bool
	text, image int       // tokens in the longest text and image
	size        int       // elements of a head: text² + image² + 2·edge
	edge        int       // max(text, image)
	data        []float32 // a head: text–text, image–image, rows of text–image and image–text
}

// maxChunks is how many parts the sequences are cut into; each has its own
// partial gradient of the bias. It does not depend on the number of threads.
const maxChunks = 16

// queryRows is about the number of query rows whose logits are held at a time.
const queryRows = 96

// measure sets the extents for a list of sequences, and the chunk size.
func (s *shared) measure(seqs []kernels.Sequence, table kernels.Tensor) {
	b := &s.bias
	b.on = !table.IsZero()
	b.text, b.image = 0, 0
	for i := range seqs {
		b.text = max(b.text, seqs[i].TextLen)
		b.image = max(b.image, seqs[i].ImageLen)
	}
	b.edge = max(b.text, b.image)
	b.size = b.text*b.text + b.image*b.image + 2*b.edge
	s.chunk = blocks(len(seqs), maxChunks)
}

// expand fills b.data from the table.
func (b *bias) expand(rel *kernels.RelativeBias, heads int) {
	if !b.on {
		return
	}
	data := grow(&b.data, heads*b.size)
	table := view(rel.Table)
	spread := func(at, row int) {
		for h, v := range table.row(row)[rel.Column:][:heads] {
			data[h*b.size+at] = v
		}
	}
	for i := range b.text {
		for j := range b.text {
			spread(i*b.text+j, rel.TextText(i, j))
		}
	}
	at := b.text * b.text
	for i := range b.image {
		for j := range b.image {
			spread(at+i*b.image+j, rel.ImageImage(i, j))
		}
	}
	at += b.image * b.image
	for j := range b.edge {
		spread(at+j, rel.TextImage())
		spread(at+b.edge+j, rel.ImageText())
	}
}

// collect is the reverse of expand: it adds grad, laid out as data, to the
// table's gradient.
func (b *bias) collect(rel *kernels.RelativeBias, heads int, grad []float32, dtable matrix) {
	gather := func(at, row int) {
		for h := range heads {
			dtable.data[row*dtable.stride+rel.Column+h] += grad[h*b.size+at]
		}
	}
	for i := range b.text {
		for j := range b.text {
			gather(i*b.text+j, rel.TextText(i, j))
		}
	}
	at := b.text * b.text
	for i := range b.image {
		for j := range b.image {
			gather(at+i*b.image+j, rel.ImageImage(i, j))
		}
	}
	at += b.image * b.image
	for j := range b.edge {
		gather(at+j, rel.TextImage())
		gather(at+b.edge+j, rel.ImageText())
	}
}

// rows returns the two parts of the bias of query i among q, for the keys of
// the text and of the image, in an array laid out as b.data.
func (b *bias) rows(data []float32, h, i int, q *kernels.Sequence) (text, image []float32) {
	head := data[h*b.size:][:b.size]
	at := b.text*b.text + b.image*b.image
	if i < q.TextLen {
		return head[i*b.text:][:q.TextLen], head[at:][:q.ImageLen]
	}
	i -= q.TextLen
	return head[at+b.edge:][:q.TextLen], head[b.text*b.text+i*b.image:][:q.ImageLen]
}

// logits turns row i of products into logits.
func (w *worker) logits(s []float32, scale float32, h, i int, q *kernels.Sequence) {
	b := &w.shared.bias
	if !b.on {
		w.scale(s, s, scale)
		return
	}
	text, image := b.rows(b.data, h, i, q)
	n := q.TextLen
	if n > 0 {
		w.scaleAdd(s[:n], s[:n], text, scale)
	}
	if n < len(s) {
		w.scaleAdd(s[n:], s[n:], image, scale)
	}
}

// tokenRow returns the row of the i-th token of q.
func tokenRow(q *kernels.Sequence, i int) int {
	if i < q.TextLen {
		return q.TextOff + i
	}
	return q.ImageOff + i - q.TextLen
}

// load copies the columns from col on of q's rows to dst, which has ld
// columns; the columns after the first cols, and the rows after the last up
// to a total of rows, become zero.
func (w *worker) load(dst []float32, ld, rows int, m *matrix, col, cols int, q *kernels.Sequence) {
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

// saveRow stores v·a in columns of row r; v is used up for BF16.
func (w *worker) saveRow(m *matrix, r, col int, v []float32, a float32) {
	if m.half != nil {
		w.scale(v, v, a)
		w.narrow(m.half[r*m.stride+col:][:len(v)], v)
		return
	}
	w.scale(m.data[r*m.stride+col:][:len(v)], v, a)
}

// loadPanels is load to panels of nr columns. src is room for n × up(cols, nr)
// elements.
func (w *worker) loadPanels(dst, src []float32, m *matrix, col, cols int, q *kernels.Sequence) {
	n, nr := q.TextLen+q.ImageLen, w.nr
	if cols%nr > 0 || m.half != nil {
		ld := up(cols, nr)
		w.load(src, ld, n, m, col, cols, q)
		w.packB(dst, src, 0, ld, n, ld)
		return
	}
	for j := 0; j < cols; j += nr {
		panel := dst[j*n:][:n*nr]
		if q.TextLen > 0 {
			w.pack(&panel[0], &m.data[q.TextOff*m.stride+col+j], m.stride, q.TextLen)
		}
		if q.ImageLen > 0 {
			w.pack(&panel[q.TextLen*nr], &m.data[q.ImageOff*m.stride+col+j], m.stride, q.ImageLen)
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

func (d *device) attention(o *attention) {
	if len(o.Sequences) == 0 || !d.ascending("Attention", o.Queries.I32(), o.K.Rows) {
		return
	}
	d.shared.measure(o.Sequences, o.Bias.Table)
	d.shared.bias.expand(&o.Bias, o.Heads)
	d.each(o, blocks(len(o.Sequences), d.shared.chunk)*o.Heads, int((*kernels.Attention)(o).FLOPs()/8))
}

func (o *attention) do(w *worker, u int) {
	h := u % o.Heads
	lo := u / o.Heads * w.chunk
	hi := min(lo+w.chunk, len(o.Sequences))
	for i := lo; i < hi; i++ {
		q := &o.Sequences[i]
		a := askedOf(q, o.Queries)
		if a.rows.TextLen+a.rows.ImageLen > 0 {
			o.head(w, q, &a, h)
		}
	}
}

func (o *attention) head(w *worker, q *kernels.Sequence, a *asked, h int) {
	qm, km, vm, out, lse := w.view(o.Q, 0), w.view(o.K, 0), w.view(o.V, 0), w.view(o.Out, 0), view(o.LSE)
	n, nq := q.TextLen+q.ImageLen, a.rows.TextLen+a.rows.ImageLen
	hd := out.cols / o.Heads
	col := h * hd
	ld := up(hd, w.nr)
	keys, rows := up(n, w.nr), up(nq, w.mr)
	step := min(rows, max(w.mr, queryRows/w.mr*w.mr))

	buf := w.scratch((2*keys+n+rows)*ld + step*(keys+ld+1) + 8*align)
	src := carve(&buf, keys*ld)
	kT := carve(&buf, keys*hd)
	v := carve(&buf, n*ld)
	query := carve(&buf, rows*ld)
	s := carve(&buf, step*keys)
	y := carve(&buf, step*ld)
	share := carve(&buf, step) // 1/Σ exp of a row

	w.loadPanels(v, src, &vm, col, hd, q)
	w.load(src, ld, keys, &km, col, hd, q)
	w.packBT(kT, src, 0, ld, hd, keys)
	w.load(query, ld, rows, &qm, col, hd, &a.rows)

	for i0 := 0; i0 < nq; i0 += step {
		m := min(step, nq-i0)
		w.multiply(m, n, hd, query[i0*ld:], ld, 1, kT, s, keys, false)
		for i := range m {
			l := s[i*keys:][:n]
			w.logits(l, o.Scale, h, a.place(i0+i, q), q)
			top := w.max(l)
			sum := w.expSum(l, l, top)
			share[i] = 1 / sum
			lse.data[tokenRow(&a.rows, i0+i)*lse.stride+h] = top + logarithm(sum)
		}
		w.multiply(m, ld, n, s, keys, 1, v, y, ld, false)
		for i := range m {
			w.saveRow(&out, tokenRow(&a.rows, i0+i), col, y[i*ld:][:hd], share[i])
		}
	}
}

func (d *device) attentionGrad(o *attentionGrad) {
	if len(o.Sequences) == 0 || !d.ascending("AttentionGrad", o.Queries.I32(), o.K.Rows) {
		return
	}
	d.shared.measure(o.Sequences, o.Bias.Table)
	b := &d.shared.bias
	b.expand(&o.Bias, o.Heads)
	chunks := blocks(len(o.Sequences), d.shared.chunk)
	var part []float32
	if b.on && !o.DTable.IsZero() {
		part = d.zeros(chunks * o.Heads * b.size)
	}
	d.each(o, chunks*o.Heads, int((*kernels.AttentionGrad)(o).FLOPs()/8))
	if part != nil && b.size > 0 {
		n := o.Heads * b.size
		d.combine(part[:n], part[n:], n)
		b.collect(&o.Bias, o.Heads, part[:n], view(o.DTable))
	}
}

func (o *attentionGrad) do(w *worker, u int) {
	h, chunk := u%o.Heads, u/o.Heads
	lo := chunk * w.chunk
	hi := min(lo+w.chunk, len(o.Sequences))
	var dbias []float32
	if w.shared.bias.on && !o.DTable.IsZero() {
		n := o.Heads * w.shared.bias.size
		dbias = w.part[chunk*n:][:n]
	}
	for i := lo; i < hi; i++ {
		if q := &o.Sequences[i]; q.TextLen+q.ImageLen > 0 {
			o.head(w, q, h, dbias)
		}
	}
}

func (o *attentionGrad) head(w *worker, q *kernels.Sequence, h int, dbias []float32) {
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

	buf := w.scratch((2*asking+2*rows+3*cols+n+2*step)*ld + 2*step*keys + hd + 20*align)
	query := carve(&buf, asking*ld)
	dy := carve(&buf, asking*ld)
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
	result := carve(&buf, hd)

	w.loadPanels(k, src, &km, col, hd, q)
	w.load(src, ld, cols, &vm, col, hd, q)
	w.packBT(vT, src, 0, ld, hd, cols)
	w.load(src, ld, cols, &km, col, hd, q)
	w.packBT(kT, src, 0, ld, hd, cols)
	w.load(query, ld, asking, &qm, col, hd, &a.rows)
	w.load(dy, ld, asking, &dout, col, hd, &a.rows)
	if nq == 0 {
		clear(dk)
		clear(dv)
	}

	for i0 := 0; i0 < nq; i0 += step {
		m := min(step, nq-i0)
		w.multiply(m, n, hd, query[i0*ld:], ld, 1, kT, s, keys, false)
		w.multiply(m, n, hd, dy[i0*ld:], ld, 1, vT, ds, keys, false)
		for i := range m {
			r, place := tokenRow(&a.rows, i0+i), a.place(i0+i, q)
			p, dp := s[i*keys:][:n], ds[i*keys:][:n]
			w.logits(p, o.Scale, h, place, q)
			w.expSum(p, p, lse.data[r*lse.stride+h])
			w.loadRows(result, hd, &out, r, 1, col, hd)
			delta := w.dot(result, dy[(i0+i)*ld:][:hd])
			w.softmaxGrad(dp, p, dp, delta)
			if dbias != nil {
				text, image := w.shared.bias.rows(dbias, h, place, q)
				w.add(text, dp[:q.TextLen])
				w.add(image, dp[q.TextLen:])
			}
		}
		w.multiply(m, ld, n, ds, keys, 1, k, dq, ld, false)
		for i := range m {
			w.saveRow(&dqm, tokenRow(&a.rows, i0+i), col, dq[i*ld:][:hd], o.Scale)
		}
		w.packB(panel, query, i0*ld, ld, m, ld)
		w.multiply(n, ld, m, ds, 1, keys, panel, dk, ld, i0 > 0)
		w.packB(panel, dy, i0*ld, ld, m, ld)
		w.multiply(n, ld, m, s, 1, keys, panel, dv, ld, i0 > 0)
	}
	for i := range n {
		r := tokenRow(q, i)
		w.saveRow(&dkm, r, col, dk[i*ld:][:hd], o.Scale)
		w.saveRow(&dvm, r, col, dv[i*ld:][:hd], 1)
	}
}
