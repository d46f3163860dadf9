package cpu

import "vlmo-train/kernels"

// Attention of bfloat16s where the processor multiplies pairs of them: the
// exponentials and the gradients of the logits are rounded to bfloat16 before
// they are multiplied. Everything else is as in attention.go.

// evenly returns n rounded up to whole pairs.
func evenly(n int) int { return up(n, 2) }

// multiplyPairs is multiply of k pairs.
func (s *isa) multiplyPairs(m, n, k int, a []float32, ars, acs int, b, c []float32, ldc int, add bool) {
	for j := 0; j < n; j += s.nr {
		for i := 0; i < m; i += s.mr {
			s.gemmPairs(k, &a[i*ars], ars, acs, &b[j*k], &c[i*ldc+j], ldc, add)
		}
	}
}

// copyHalves copies columns of a sequence's rows to dst, which has ld columns
// and rows rows, the rest of it zero. Keys have the image first, queries the
// text.
func copyHalves(dst []uint16, ld, rows int, m *matrix, col, cols int, q *kernels.Sequence, keys bool) {
	off, n := [2]int{q.TextOff, q.ImageOff}, [2]int{q.TextLen, q.ImageLen}
	if keys {
		off[0], off[1], n[0], n[1] = off[1], off[0], n[1], n[0]
	}
	at := 0
	for part := range off {
		for i := range n[part] {
			row := dst[at*ld:][:ld]
			copy(row, m.half[(off[part]+i)*m.stride+col:][:cols])
			clear(row[cols:])
			at++
		}
	}
	clear(dst[at*ld : rows*ld])
}

// panelsOf makes panels of nr columns of pairs of rows from k rows of ld
// columns, of which there are zeros up to whole pairs.
func (w *worker) panelsOf(dst []float32, src []uint16, ld, k int) {
	k2 := blocks(k, 2)
	for j := 0; j < ld; j += w.nr {
		w.packPairs(&dst[j*k2], &src[j], ld, k2)
	}
}

// tilesOf makes tiles of mr columns of pairs of rows from k rows of ld columns.
func (w *worker) tilesOf(dst []float32, src []uint16, ld, k, cols int) {
	k2 := blocks(k, 2)
	for i := 0; i < cols; i += w.mr {
		w.packColsPairs(&dst[i*k2], &src[i], ld, k2)
	}
}

// halvesOf rounds m rows of s, of which n columns count, and makes what pads
// them to whole pairs zero: a column, and a row.
func (w *worker) halvesOf(dst []uint16, s []float32, ld, m, n int) {
	if n%2 > 0 {
		for i := range m {
			s[i*ld+n] = 0
		}
	}
	w.narrow(dst[:m*ld], s[:m*ld])
	if m%2 > 0 {
		clear(dst[m*ld:][:ld])
	}
}

func (o *attention) headPairs(w *worker, q *kernels.Sequence, a *asked, h int) {
	qm, km, vm, out, lse := w.view(o.Q, 0), w.view(o.K, 0), w.view(o.V, 0), w.view(o.Out, 0), view(o.LSE)
	n, nq := q.TextLen+q.ImageLen, a.rows.TextLen+a.rows.ImageLen
	hd := out.cols / o.Heads
	col := h * hd
	ld := up(hd, w.nr)
	keys, rows := up(n+1, w.nr), up(nq, w.mr)
	step := min(rows, max(w.mr, queryRows/w.mr*w.mr))

	buf := w.scratch((keys/2+keys/2+blocks(n, 2)+rows/2+1)*ld + step*(keys+keys/2+ld+2+n) + keys + 12*align)
	src := asHalves(carve(&buf, keys*ld/2))
	kT := carve(&buf, keys*ld/2)
	v := carve(&buf, blocks(n, 2)*ld)
	query := carve(&buf, rows*ld/2)
	s := carve(&buf, step*keys)
	p := carve(&buf, (step+1)*keys/2)
	y := carve(&buf, step*ld)
	top := carve(&buf, step)
	sum := carve(&buf, step)
	room := carve(&buf, step*n)

	copyHalves(src, ld, evenly(n), &vm, col, hd, q, true)
	w.panelsOf(v, src, ld, n)
	copyHalves(src, ld, keys, &km, col, hd, q, true)
	w.packBT(kT, asPairs(src), 0, ld/2, blocks(hd, 2), keys)
	copyHalves(asHalves(query), ld, rows, &qm, col, hd, &a.rows, false)
	b := &w.shared.bias
	data := b.headBias(b.data, h)

	for i0 := 0; i0 < nq; i0 += step {
		m := min(step, nq-i0)
		w.multiplyPairs(m, n, blocks(hd, 2), query[i0*ld/2:], ld/2, 1, kT, s, keys, false)
		for i := 0; i < m; {
			r := b.rowsOf(q, a, i0+i, m-i, data, nil, room, nil)
			w.softmaxRows(&s[i*keys], keys, r.bias, r.ld, r.n, n, o.Scale, &top[i], &sum[i])
			i += r.n
		}
		w.halvesOf(asHalves(p), s, keys, m, n)
		w.multiplyPairs(m, ld, blocks(n, 2), p, keys/2, 1, v, y, ld, false)
		for i, total := range sum[:m] {
			lse.data[tokenRow(&a.rows, i0+i)*lse.stride+h] = top[i] + logarithm(total)
			sum[i] = 1 / total
		}
		w.saveQueries(&out, &a.rows, i0, m, col, hd, y, ld, sum)
	}
}

func (o *attentionGrad) headPairs(w *worker, q *kernels.Sequence, h int, grad []float32) {
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
	keys := max(up(n+1, w.nr), rows+w.nr)
	step := min(max(asking, w.mr), max(w.mr, queryRows/w.mr*w.mr))

	buf := w.scratch((4*asking+2*rows+3*cols+2*step+2)*ld + step*(4*keys+2*n+2) + 2*keys + rows*step + max(n, step) + 32*align)
	query := carve(&buf, (asking+1)*ld/2)
	dy := carve(&buf, (asking+1)*ld/2)
	dyWide := carve(&buf, asking*ld)
	y := carve(&buf, asking*ld)
	src := asHalves(carve(&buf, (cols+1)*ld/2))
	kT := carve(&buf, cols*ld/2)
	vT := carve(&buf, cols*ld/2)
	k := carve(&buf, blocks(n, 2)*ld)
	panel := carve(&buf, blocks(step, 2)*ld)
	dq := carve(&buf, step*ld)
	dk := carve(&buf, rows*ld)
	dv := carve(&buf, rows*ld)
	s := carve(&buf, step*keys)
	ds := carve(&buf, step*keys)
	p := carve(&buf, (step+1)*keys/2)
	dp := carve(&buf, (step+1)*keys/2)
	tiles := carve(&buf, rows*blocks(step, 2))
	room := carve(&buf, step*n)
	junk := carve(&buf, step*n)
	shift := carve(&buf, step)
	delta := carve(&buf, step)
	factor := carve(&buf, max(n, step))

	copyHalves(src, ld, cols, &vm, col, hd, q, true)
	w.packBT(vT, asPairs(src), 0, ld/2, blocks(hd, 2), cols)
	copyHalves(src, ld, cols, &km, col, hd, q, true)
	w.packBT(kT, asPairs(src), 0, ld/2, blocks(hd, 2), cols)
	if n == cols {
		clear(src[n*ld:][:ld])
	}
	w.panelsOf(k, src, ld, n)
	copyHalves(asHalves(query), ld, asking+1, &qm, col, hd, &a.rows, false)
	copyHalves(asHalves(dy), ld, asking+1, &dout, col, hd, &a.rows, false)
	w.loadQueries(dyWide, ld, asking, &dout, col, hd, &a.rows)
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
	hd2 := blocks(hd, 2)

	for i0 := 0; i0 < nq; i0 += step {
		m := min(step, nq-i0)
		w.multiplyPairs(m, n, hd2, query[i0*ld/2:], ld/2, 1, kT, s, keys, false)
		w.multiplyPairs(m, n, hd2, dy[i0*ld/2:], ld/2, 1, vT, ds, keys, false)
		w.dotRows(&delta[0], &y[i0*ld], ld, &dyWide[i0*ld], ld, m, hd)
		for i := range m {
			shift[i] = lse.data[tokenRow(&a.rows, i0+i)*lse.stride+h]
		}
		for i := 0; i < m; {
			r := b.rowsOf(q, &a, i0+i, m-i, data, grad, room, junk)
			w.softmaxGradRows(&s[i*keys], &ds[i*keys], keys, r.bias, r.ld, r.n, n, o.Scale, &shift[i], &delta[i], r.grad)
			r.settle(w, q, grad, junk)
			i += r.n
		}
		w.halvesOf(asHalves(p), s, keys, m, n)
		w.halvesOf(asHalves(dp), ds, keys, m, n)
		w.multiplyPairs(m, ld, blocks(n, 2), dp, keys/2, 1, k, dq, ld, false)
		w.saveQueries(&dqm, &a.rows, i0, m, col, hd, dq, ld, factor)
		m2 := blocks(m, 2)
		w.tilesOf(tiles, asHalves(dp), keys, m, rows)
		w.panelsOf(panel, asHalves(query[i0*ld/2:]), ld, m)
		w.multiplyTiles(n, ld, m2, tiles, panel, dk, i0 > 0)
		w.tilesOf(tiles, asHalves(p), keys, m, rows)
		w.panelsOf(panel, asHalves(dy[i0*ld/2:]), ld, m)
		w.multiplyTiles(n, ld, m2, tiles, panel, dv, i0 > 0)
	}
	w.saveKeys(&dkm, q, col, hd, dk, ld, factor)
	for i := range n {
		factor[i] = 1
	}
	w.saveKeys(&dvm, q, col, hd, dv, ld, factor)
}

// multiplyTiles is multiplyPairs of tiles of mr rows, k pairs deep.
func (s *isa) multiplyTiles(m, n, k int, tiles, b, c []float32, add bool) {
	for j := 0; j < n; j += s.nr {
		for i := 0; i < m; i += s.mr {
			s.gemmPairs(k, &tiles[i*k], 1, s.mr, &b[j*k], &c[i*n+j], n, add)
		}
	}
}
