package cpu

import (
	"math"

	"vlmo-train/kernels"
	"vlmo-train/rng"
)

type (
	columnSum     kernels.ColumnSum
	layerNorm     kernels.LayerNorm
	layerNormGrad kernels.LayerNormGrad
	residual      kernels.Residual
	residualGrad  kernels.ResidualGrad
	gather        kernels.Gather
	scatterAdd    kernels.ScatterAdd
	patchify      kernels.Patchify
	dropout       kernels.Dropout
	tanh          kernels.Tanh
	tanhGrad      kernels.TanhGrad
	gelu          kernels.Gelu
	geluGrad      kernels.GeluGrad
	addScaled     kernels.AddScaled
	fill          kernels.Fill
	normalize     kernels.Normalize
	normalizeGrad kernels.NormalizeGrad
	argMax        kernels.ArgMax
	sumSquares    kernels.SumSquares
	adamW         kernels.AdamW
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
	x := view(o.X)
	sum := w.part[u*x.cols:][:x.cols]
	lo, hi := span(o.X, u, reduceRows)
	for r := lo; r < hi; r++ {
		w.add(sum, x.row(r))
	}
}

func (o *layerNorm) do(w *worker, u int) {
	x, y := view(o.X), view(o.Y)
	scale, shift := o.Scale.F32(), o.Shift.F32()
	mean, rstd := o.Mean.F32(), o.Rstd.F32()
	lo, hi := span(o.X, u, rowsPerUnit(o.X))
	for r := lo; r < hi; r++ {
		m, s := w.isa.layerNorm(y.row(r), x.row(r), scale, shift, o.Eps)
		if mean != nil {
			mean[r], rstd[r] = m, s
		}
	}
}

func (d *device) layerNormGrad(o *layerNormGrad) {
	n, cols := blocks(o.X.Rows, reduceRows), o.X.Cols
	if n == 0 || cols == 0 {
		return
	}
	part := d.zeros(n * 2 * cols)
	d.each(o, n, o.X.Len())
	if !o.DScale.IsZero() {
		d.combine(o.DScale.F32(), part, 2*cols)
		d.combine(o.DShift.F32(), part[cols:], 2*cols)
	}
}

func (o *layerNormGrad) do(w *worker, u int) {
	x, dy, dx := view(o.X), view(o.DY), view(o.DX)
	scale, mean, rstd := o.Scale.F32(), o.Mean.F32(), o.Rstd.F32()
	part := w.part[u*2*x.cols:][:2*x.cols]
	dscale, dshift := part[:x.cols], part[x.cols:]
	tmp := w.scratch(x.cols)
	lo, hi := span(o.X, u, reduceRows)
	for r := lo; r < hi; r++ {
		if o.Accumulate {
			w.isa.layerNormGrad(tmp, dy.row(r), x.row(r), scale, dscale, dshift, mean[r], rstd[r])
			w.add(dx.row(r), tmp)
		} else {
			w.isa.layerNormGrad(dx.row(r), dy.row(r), x.row(r), scale, dscale, dshift, mean[r], rstd[r])
		}
	}
}

func (o *residual) do(w *worker, u int) {
	x, y, z := view(o.X), view(o.Y), view(o.Z)
	gamma, keep := o.Gamma.F32(), o.Keep.F32()
	lo, hi := span(o.X, u, rowsPerUnit(o.X))
	for r := lo; r < hi; r++ {
		k := float32(1)
		if keep != nil {
			k = keep[r]
		}
		if gamma != nil {
			w.mulAdd(z.row(r), x.row(r), y.row(r), gamma, k)
		} else {
			w.scaleAdd(z.row(r), y.row(r), x.row(r), k)
		}
	}
}

func (d *device) residualGrad(o *residualGrad) {
	n := blocks(o.DZ.Rows, reduceRows)
	if n == 0 || o.DZ.Cols == 0 {
		return
	}
	if o.DGamma.IsZero() {
		d.each(o, n, o.DZ.Len())
		return
	}
	part := d.zeros(n * o.DZ.Cols)
	d.each(o, n, o.DZ.Len())
	d.combine(o.DGamma.F32(), part, o.DZ.Cols)
}

func (o *residualGrad) do(w *worker, u int) {
	dz, dy := view(o.DZ), view(o.DY)
	gamma, keep := o.Gamma.F32(), o.Keep.F32()
	var y matrix
	var dgamma []float32
	if !o.DGamma.IsZero() {
		y = view(o.Y)
		dgamma = w.part[u*dz.cols:][:dz.cols]
	}
	lo, hi := span(o.DZ, u, reduceRows)
	for r := lo; r < hi; r++ {
		k := float32(1)
		if keep != nil {
			k = keep[r]
		}
		if dgamma != nil {
			w.mulAcc(dgamma, dz.row(r), y.row(r), k)
		}
		if gamma != nil {
			w.mul(dy.row(r), dz.row(r), gamma, k)
		} else {
			w.scale(dy.row(r), dz.row(r), k)
		}
	}
}

func (o *gather) do(w *worker, u int) {
	table, y, index := view(o.Table), view(o.Y), o.Index.I32()
	lo, hi := span(o.Y, u, rowsPerUnit(o.Y))
	for r := lo; r < hi; r++ {
		i := int(index[r])
		switch {
		case i < 0 && !o.Accumulate:
			clear(y.row(r))
		case i < 0:
		case o.Accumulate:
			w.add(y.row(r), table.row(i))
		default:
			copy(y.row(r), table.row(i))
		}
	}
}

// scatterCols is the columns of a unit: threads share columns, not rows, so
// that each table row gets its sums in order.
const scatterCols = 32

func (o *scatterAdd) do(w *worker, u int) {
	table, y := view(o.Table), view(o.Y)
	lo, hi := u*scatterCols, min((u+1)*scatterCols, y.cols)
	for r, i := range o.Index.I32() {
		if i >= 0 {
			w.add(table.row(int(i))[lo:hi], y.row(r)[lo:hi])
		}
	}
}

func (o *patchify) do(w *worker, u int) {
	x, y := view(o.X), view(o.Y)
	s := o.Size
	across := o.Width / s
	each := o.Height / s * across
	lo, hi := span(o.Y, u, rowsPerUnit(o.Y))
	for r := lo; r < hi; r++ {
		dst, img := y.row(r), x.row(r/each)
		p := r % each
		top, left := p/across*s, p%across*s
		for c := range o.Channels {
			for v := range s {
				from := (c*o.Height+top+v)*o.Width + left
				copy(dst[(c*s+v)*s:][:s], img[from:][:s])
			}
		}
	}
}

func (o *dropout) do(w *worker, u int) {
	x, y, id := view(o.X), view(o.Y), o.Row.I32()
	least := uint64(math.Ceil(float64(o.Rate) * (1 << 32)))
	scale := float32(1 / (1 - float64(o.Rate)))
	lo, hi := span(o.X, u, rowsPerUnit(o.X))
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
	w.isa.gelu(w.flat.piece(o.Y, u), w.flat.piece(o.X, u))
}

func (o *geluGrad) do(w *worker, u int) {
	w.isa.geluGrad(w.flat.piece(o.DX, u), w.flat.piece(o.DY, u), w.flat.piece(o.X, u))
}

func (o *addScaled) do(w *worker, u int) {
	w.axpy(w.flat.piece(o.Y, u), w.flat.piece(o.X, u), o.Alpha)
}

func (o *fill) do(w *worker, u int) {
	y := w.flat.piece(o.Y, u)
	for i := range y {
		y[i] = o.Value
	}
}

// minNorm is PyTorch's eps of functional.normalize.
const minNorm = 1e-12

func (o *normalize) do(w *worker, u int) {
	x, y, norm := view(o.X), view(o.Y), o.Norm.F32()
	lo, hi := span(o.X, u, rowsPerUnit(o.X))
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
	lo, hi := span(o.Y, u, rowsPerUnit(o.Y))
	for r := lo; r < hi; r++ {
		s := w.dot(y.row(r), dy.row(r))
		w.scale(dx.row(r), dy.row(r), 1/norm[r])
		w.axpy(dx.row(r), y.row(r), -s/norm[r])
	}
}

func (o *argMax) do(w *worker, u int) {
	x, index := view(o.X), o.Index.I32()
	lo, hi := span(o.X, u, rowsPerUnit(o.X))
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
	w.isa.adamW(f.piece(o.P, u), f.piece(o.M, u), f.piece(o.V, u), f.piece(o.Grad, u), &w.adam)
}
