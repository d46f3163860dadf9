package cpu

import (
	"math"

	"vlmo-train/kernels"
	"vlmo-train/rng"
)

type (
	columnSum        kernels.ColumnSum
	residualNormGrad kernels.ResidualNormGrad
	layerNorm        kernels.LayerNorm
	layerNormGrad    kernels.LayerNormGrad
	residual         kernels.Residual
	residualNorm     kernels.ResidualNorm
	residualGrad     kernels.ResidualGrad
	gather           kernels.Gather
	scatterAdd       kernels.ScatterAdd
	patchify         kernels.Patchify
	dropout          kernels.Dropout
	tanh             kernels.Tanh
	tanhGrad         kernels.TanhGrad
	gelu             kernels.Gelu
	geluGrad         kernels.GeluGrad
	copyTo           kernels.Copy
	addScaled        kernels.AddScaled
	fill             kernels.Fill
	normalize        kernels.Normalize
	normalizeGrad    kernels.NormalizeGrad
	argMax           kernels.ArgMax
	sumSquares       kernels.SumSquares
	adamW            kernels.AdamW
)

// combine adds rows of partial sums, at a distance of stride, to y in order.
func (d *device) combine(y, part []float32, stride int) {
	for i := 0; i < len(part); i += stride {
		d.add(y, part[i:][:len(y)])
	}
}

func (d *device) columnSum(o *columnSum) {
	n := blocks(o.X.Rows, reduceRows)
	if n == 0 || o.X.Cols == 0 {
		return
	}
	part := d.zeros(n * o.X.Cols)
	d.each(o, n, o.X.Len())
	d.combine(o.Y.F32(), part, o.X.Cols)
}

func (o *columnSum) do(w *worker, u int) {
	x := w.view(o.X, 0)
	sum := w.part[u*x.cols:][:x.cols]
	lo, hi := span(o.X.Rows, u, reduceRows)
	for r := lo; r < hi; r++ {
		w.add(sum, x.row(r))
	}
}

func (o *layerNorm) do(w *worker, u int) {
	x, y := w.view(o.X, 0), w.view(o.Y, 1)
	from := linesOf(o.Rows, x.rows)
	scale, shift := o.Scale.F32(), o.Shift.F32()
	mean, rstd := o.Mean.F32(), o.Rstd.F32()
	lo, hi := span(y.rows, u, rowsPerUnit(o.Y))
	for r := lo; r < hi; r++ {
		m, s := w.isa.layerNorm(y.fresh(r), x.row(from.at(r)), scale, shift, o.Eps)
		y.put(r)
		if mean != nil {
			mean[r], rstd[r] = m, s
		}
	}
}

func (d *device) layerNormGrad(o *layerNormGrad) {
	n, cols := blocks(o.DY.Rows, reduceRows), o.X.Cols
	if n == 0 || cols == 0 {
		return
	}
	part := d.zeros(n * 2 * cols)
	d.each(o, n, o.DY.Len())
	if !o.DScale.IsZero() {
		d.combine(o.DScale.F32(), part, 2*cols)
		d.combine(o.DShift.F32(), part[cols:], 2*cols)
	}
}

func (o *layerNormGrad) do(w *worker, u int) {
	x, dy, dx := w.view(o.X, 0), w.view(o.DY, 1), view(o.DX)
	at := linesOf(o.Rows, x.rows)
	scale, mean, rstd := o.Scale.F32(), o.Mean.F32(), o.Rstd.F32()
	part := w.part[u*2*x.cols:][:2*x.cols]
	dscale, dshift := part[:x.cols], part[x.cols:]
	tmp := w.scratch(x.cols)
	lo, hi := span(dy.rows, u, reduceRows)
	for i := lo; i < hi; i++ {
		r := at.at(i)
		if o.Accumulate {
			w.isa.layerNormGrad(tmp, dy.row(i), x.row(r), scale, dscale, dshift, mean[i], rstd[i])
			w.add(dx.row(r), tmp)
		} else {
			w.isa.layerNormGrad(dx.row(r), dy.row(i), x.row(r), scale, dscale, dshift, mean[i], rstd[i])
		}
	}
}

// residual goes through the rows of Z; a list of rows is ascending or not, so
// the rows of a unit are looked up in next.
func (d *device) residual(o *residual) {
	d.shared.next = invert(&d.shared.index, o.Rows, o.X.Rows)
	d.rows(o, o.X)
}

// invert returns the place in list of each of n rows, −1 for none, in the
// memory of buf; nil where the list is absent.
func invert(buf *[]int32, list kernels.Tensor, n int) []int32 {
	if list.IsZero() {
		return nil
	}
	at := growInts(buf, n)
	for i := range at {
		at[i] = -1
	}
	for i, r := range list.I32() {
		at[r] = int32(i)
	}
	return at
}

// place returns the place of row r by what invert returned.
func place(at []int32, r int) int {
	if at == nil {
		return r
	}
	return int(at[r])
}

func (o *residual) do(w *worker, u int) {
	x, y, z := w.view(o.X, 0), w.view(o.Y, 1), w.view(o.Z, 2)
	lo, hi := span(x.rows, u, rowsPerUnit(o.X))
	for r := lo; r < hi; r++ {
		o.row(w, &x, &y, &z, r)
	}
}

// row computes row r of Z.
func (o *residual) row(w *worker, x, y, z *matrix, r int) {
	gamma, keep := o.Gamma.F32(), o.Keep.F32()
	i, to := place(w.next, r), z.fresh(r)
	k := float32(1)
	if keep != nil && i >= 0 {
		k = keep[i]
	}
	switch {
	case i < 0:
		copy(to, x.row(r))
	case gamma != nil:
		w.mulAdd(to, x.row(r), y.row(i), gamma, k)
	default:
		w.scaleAdd(to, y.row(i), x.row(r), k)
	}
	z.put(r)
}

func (d *device) residualNorm(o *residualNorm) {
	d.shared.next = invert(&d.shared.index, o.Rows, o.X.Rows)
	d.shared.normNext = invert(&d.shared.normIndex, o.NormRows, o.X.Rows)
	d.rows(o, o.X)
}

// partOf returns the part of a norm in which row i is.
func partOf(end [3]int, i int) (p int) {
	for i >= end[p] {
		p++
	}
	return p
}

// do computes a row of Z and its norm while it is in the cache.
func (o *residualNorm) do(w *worker, u int) {
	x, y, z, h := w.view(o.X, 0), w.view(o.Y, 1), w.view(o.Z, 2), w.view(o.H, 3)
	add, mean, rstd := (*residual)(&o.Residual), o.Mean.F32(), o.Rstd.F32()
	end := (*kernels.ResidualNorm)(o).Ends()
	lo, hi := span(x.rows, u, rowsPerUnit(o.X))
	for r := lo; r < hi; r++ {
		add.row(w, &x, &y, &z, r)
		i := place(w.normNext, r)
		if i < 0 {
			continue
		}
		p := partOf(end, i)
		m, s := w.isa.layerNorm(h.fresh(i), z.row(r), o.Parts[p].Scale.F32(), o.Parts[p].Shift.F32(), o.Eps)
		h.put(i)
		if mean != nil {
			mean[i], rstd[i] = m, s
		}
	}
}

func (d *device) residualGrad(o *residualGrad) {
	n := blocks(o.DY.Rows, reduceRows)
	if n == 0 || o.DZ.Cols == 0 {
		return
	}
	if o.DGamma.IsZero() {
		d.each(o, n, o.DY.Len())
		return
	}
	part := d.zeros(n * o.DZ.Cols)
	d.each(o, n, o.DY.Len())
	d.combine(o.DGamma.F32(), part, o.DZ.Cols)
}

func (o *residualGrad) do(w *worker, u int) {
	dz, dy := w.view(o.DZ, 0), w.view(o.DY, 1)
	at := linesOf(o.Rows, dz.rows)
	var y matrix
	var dgamma []float32
	if !o.DGamma.IsZero() {
		y = w.view(o.Y, 2)
		dgamma = w.part[u*dz.cols:][:dz.cols]
	}
	lo, hi := span(dy.rows, u, reduceRows)
	for i := lo; i < hi; i++ {
		o.row(w, dz.row(at.at(i)), &y, &dy, dgamma, i)
	}
}

// row computes row i of DY from its row of DZ, and adds to dgamma where that
// is given.
func (o *residualGrad) row(w *worker, dz []float32, y, dy *matrix, dgamma []float32, i int) {
	gamma, k := o.Gamma.F32(), float32(1)
	if !o.Keep.IsZero() {
		k = o.Keep.F32()[i]
	}
	if dgamma != nil {
		w.mulAcc(dgamma, dz, y.row(i), k)
	}
	if gamma != nil {
		w.mul(dy.fresh(i), dz, gamma, k)
	} else {
		w.scale(dy.fresh(i), dz, k)
	}
	dy.put(i)
}

// sums returns how many sums over rows the op takes before those of part p:
// those of Gamma, and of Scale and Shift of each part with rows.
func (o *residualNormGrad) sums(p int) int {
	n := 1
	for _, q := range o.Parts[:p] {
		if q.Rows > 0 {
			n += 2
		}
	}
	return n
}

// residualNormGrad goes through the rows of DZ.
func (d *device) residualNormGrad(o *residualNormGrad) {
	n, cols := blocks(o.DZ.Rows, reduceRows), o.DZ.Cols
	if n == 0 || cols == 0 {
		return
	}
	d.shared.next = invert(&d.shared.index, o.Rows, o.DZ.Rows)
	d.shared.normNext = invert(&d.shared.normIndex, o.NormRows, o.DZ.Rows)
	stride := o.sums(len(o.Parts)) * cols
	part := d.zeros(n * stride)
	d.each(o, n, o.DZ.Len())
	if !o.DGamma.IsZero() {
		d.combine(o.DGamma.F32(), part, stride)
	}
	for i, p := range o.Parts {
		if at := o.sums(i) * cols; p.Rows > 0 && !p.DScale.IsZero() {
			d.combine(p.DScale.F32(), part[at:], stride)
			d.combine(p.DShift.F32(), part[at+cols:], stride)
		}
	}
}

func (o *residualNormGrad) do(w *worker, u int) {
	z, dh, dz, dy := w.view(o.Z, 0), w.view(o.DH, 1), view(o.DZ), w.view(o.DY, 2)
	mean, rstd := o.Mean.F32(), o.Rstd.F32()
	end := (*kernels.ResidualNormGrad)(o).Ends()
	stride := o.sums(len(o.Parts)) * dz.cols
	part := w.part[u*stride:][:stride]
	var y matrix
	var dgamma []float32
	if !o.DGamma.IsZero() {
		y, dgamma = w.view(o.Y, 3), part[:dz.cols]
	}
	tmp := w.scratch(dz.cols)
	lo, hi := span(dz.rows, u, reduceRows)
	for r := lo; r < hi; r++ {
		if i := place(w.normNext, r); i >= 0 {
			p := partOf(end, i)
			at := o.sums(p) * dz.cols
			w.isa.layerNormGrad(tmp, dh.row(i), z.row(r), o.Parts[p].Scale.F32(), part[at:][:dz.cols], part[at+dz.cols:][:dz.cols], mean[i], rstd[i])
			w.add(dz.row(r), tmp)
		}
		if i := place(w.next, r); i >= 0 {
			(*residualGrad)(&o.ResidualGrad).row(w, dz.row(r), &y, &dy, dgamma, i)
		}
	}
}

func (o *gather) do(w *worker, u int) {
	table, y, index := w.view(o.Table, 0), w.view(o.Y, 1), o.Index.I32()
	lo, hi := span(o.Y.Rows, u, rowsPerUnit(o.Y))
	for r := lo; r < hi; r++ {
		i := int(index[r])
		switch {
		case i < 0 && o.Accumulate:
		case i < 0:
			clear(y.fresh(r))
			y.put(r)
		case o.Accumulate:
			w.add(y.row(r), table.row(i))
		case y.half != nil && table.half != nil:
			copy(y.half[r*y.stride:][:y.cols], table.half[i*table.stride:][:table.cols])
		default:
			copy(y.fresh(r), table.row(i))
			y.put(r)
		}
	}
}

// scatterCols returns the columns of a unit: threads share columns, not rows,
// so that each table row gets its sums in order.
func (s *shared) scatterCols(cols int) int { return max(32, up(blocks(cols, s.threads), 16)) }

func (o *scatterAdd) do(w *worker, u int) {
	table := view(o.Table)
	strip := w.scatterCols(o.Y.Cols)
	lo, hi := u*strip, min((u+1)*strip, o.Y.Cols)
	if o.Y.Type == kernels.BF16 {
		y := o.Y.BF16()
		for r, i := range o.Index.I32() {
			if i >= 0 {
				w.addHalf(table.row(int(i))[lo:hi], y[r*o.Y.Stride+lo:r*o.Y.Stride+hi])
			}
		}
		return
	}
	y := view(o.Y)
	for r, i := range o.Index.I32() {
		if i >= 0 {
			w.add(table.row(int(i))[lo:hi], y.row(r)[lo:hi])
		}
	}
}

func (d *device) patchify(o *patchify) {
	if o.X.Type == kernels.U8 {
		d.shared.values = d.shared.values[:0]
		for b := range 256 {
			d.shared.values = append(d.shared.values, (*kernels.Patchify)(o).Value(byte(b)))
		}
	}
	d.rows(o, o.Y)
}

func (o *patchify) do(w *worker, u int) {
	y := view(o.Y)
	s := o.Size
	across := o.Width / s
	each := o.Height / s * across
	lo, hi := span(o.Y.Rows, u, rowsPerUnit(o.Y))
	for r := lo; r < hi; r++ {
		dst, image := y.row(r), o.X.Slice(r/each, r/each+1)
		p := r % each
		top, left := p/across*s, p%across*s
		for c := range o.Channels {
			for v := range s {
				from := (c*o.Height+top+v)*o.Width + left
				to := dst[(c*s+v)*s:][:s]
				if o.X.Type == kernels.F32 {
					copy(to, image.F32()[from:])
					continue
				}
				for i, b := range image.U8()[from:][:s] {
					to[i] = w.values[b]
				}
			}
		}
	}
}

func (o *dropout) do(w *worker, u int) {
	x, y, id := view(o.X), view(o.Y), o.Row.I32()
	least := uint64(math.Ceil(float64(o.Rate) * (1 << 32)))
	scale := float32(1 / (1 - float64(o.Rate)))
	lo, hi := span(o.X.Rows, u, rowsPerUnit(o.X))
	for r := lo; r < hi; r++ {
		x, y := x.row(r), y.row(r)
		for c := 0; c < len(x); c += 4 {
			words := rng.Philox(o.Key, [4]uint32{uint32(id[r]), uint32(c / 4)})
			for i := c; i < min(c+4, len(x)); i++ {
				if uint64(words[i-c]) >= least {
					y[i] = x[i] * scale
				} else {
					y[i] = 0
				}
			}
		}
	}
}

func (o *tanh) do(w *worker, u int) {
	w.isa.tanh(w.flat.piece(o.Y, u), w.flat.piece(o.X, u))
}

func (o *tanhGrad) do(w *worker, u int) {
	w.isa.tanhGrad(w.flat.piece(o.DX, u), w.flat.piece(o.DY, u), w.flat.piece(o.Y, u))
}

func (o *gelu) do(w *worker, u int) {
	y := w.into(o.Y, u, 1)
	w.isa.gelu(y, w.wide(o.X, u, 0))
	w.store(o.Y, u, y)
}

func (o *copyTo) do(w *worker, u int) {
	switch from, to := o.X.Type == kernels.BF16, o.Y.Type == kernels.BF16; {
	case !from && to:
		lo, hi := w.flat.bounds(o.Y, u)
		w.narrow(o.Y.BF16()[lo:hi], w.flat.piece(o.X, u))
	case from && !to:
		lo, hi := w.flat.bounds(o.X, u)
		w.widen(w.flat.piece(o.Y, u), o.X.BF16()[lo:hi])
	case from:
		lo, hi := w.flat.bounds(o.Y, u)
		at, end := w.flat.bounds(o.X, u)
		copy(o.Y.BF16()[lo:hi], o.X.BF16()[at:end])
	default:
		copy(w.flat.piece(o.Y, u), w.flat.piece(o.X, u))
	}
}

func (o *geluGrad) do(w *worker, u int) {
	w.isa.geluGrad(w.flat.piece(o.DX, u), w.flat.piece(o.DY, u), w.flat.piece(o.X, u))
}

func (o *addScaled) do(w *worker, u int) {
	w.axpy(w.flat.piece(o.Y, u), w.flat.piece(o.X, u), o.Alpha)
}

func (o *fill) do(w *worker, u int) {
	y := w.flat.piece(o.Y, u)
	if o.Value == 0 {
		clear(y)
		return
	}
	for i := range y {
		y[i] = o.Value
	}
}

// minNorm is PyTorch's eps of functional.normalize.
const minNorm = 1e-12

func (o *normalize) do(w *worker, u int) {
	x, y, norm := view(o.X), view(o.Y), o.Norm.F32()
	lo, hi := span(o.X.Rows, u, rowsPerUnit(o.X))
	for r := lo; r < hi; r++ {
		n := float32(math.Sqrt(float64(w.dot(x.row(r), x.row(r)))))
		if n < minNorm {
			n = minNorm
		}
		norm[r] = n
		w.scale(y.row(r), x.row(r), 1/n)
	}
}

func (o *normalizeGrad) do(w *worker, u int) {
	y, dy, dx, norm := view(o.Y), view(o.DY), view(o.DX), o.Norm.F32()
	lo, hi := span(o.Y.Rows, u, rowsPerUnit(o.Y))
	for r := lo; r < hi; r++ {
		s := w.dot(y.row(r), dy.row(r))
		w.scale(dx.row(r), dy.row(r), 1/norm[r])
		w.axpy(dx.row(r), y.row(r), -s/norm[r])
	}
}

func (o *argMax) do(w *worker, u int) {
	x, index := view(o.X), o.Index.I32()
	lo, hi := span(o.X.Rows, u, rowsPerUnit(o.X))
	for r := lo; r < hi; r++ {
		row := x.row(r)
		best := 0
		for c, v := range row {
			if v > row[best] {
				best = c
			}
		}
		index[r] = int32(best)
	}
}

func (d *device) sumSquares(o *sumSquares) {
	n := d.flatten(o.X)
	sums := d.totals(n)
	d.each(o, n, o.X.Len())
	o.Y.F32()[0] += float32(total(sums))
}

func (o *sumSquares) do(w *worker, u int) {
	x := w.flat.piece(o.X, u)
	w.sums[u] = float64(w.dot(x, x))
}

func total(sums []float64) float64 {
	var t float64
	for _, v := range sums {
		t += v
	}
	return t
}

func (o *adamW) do(w *worker, u int) {
	b1, b2, step := float64(o.Beta1), float64(o.Beta2), float64(o.Step)
	rate := float64(o.Rate) * math.Sqrt(1-math.Pow(b2, step)) / (1 - math.Pow(b1, step))
	w.adam = adamConst{o.GradScale, o.Beta1, float32(1 - b1), o.Beta2, float32(1 - b2),
		float32(rate), o.Eps, o.Rate * o.Decay}
	f := &w.flat
	p := f.piece(o.P, u)
	w.isa.adamW(p, f.piece(o.M, u), f.piece(o.V, u), f.piece(o.Grad, u), &w.adam)
	if !o.Half.IsZero() {
		lo, hi := f.bounds(o.Half, u)
		w.narrow(o.Half.BF16()[lo:hi], p)
	}
}
