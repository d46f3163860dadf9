package ref

import (
	"fmt"
	"math"

	"vlmo-train/kernels"
	"vlmo-train/rng"
)

func gelu(x float64) float64 { return 0.5 * x * (1 + math.Erf(x/math.Sqrt2)) }

// geluSlope is the derivative of gelu, Φ(x) + x·φ(x).
func geluSlope(x float64) float64 {
	return 0.5*(1+math.Erf(x/math.Sqrt2)) + x*math.Exp(-x*x/2)/math.Sqrt(2*math.Pi)
}

// add is x += v with one rounding.
func add(x *float32, v float64) { *x = float32(float64(*x) + v) }

// store is x = v, or x += v where accumulate is set.
func store(x *float32, v float64, accumulate bool) {
	if accumulate {
		v += float64(*x)
	}
	*x = float32(v)
}

func matMul(o *kernels.MatMul) {
	m, n, k := o.Dims()
	a, b, bias := o.A.F32(), o.B.F32(), o.Bias.F32()
	// Element (i, j) of op(A) is at i·arow + j·acol.
	arow, acol := o.A.Stride, 1
	if o.TransA {
		arow, acol = acol, arow
	}
	brow, bcol := o.B.Stride, 1
	if o.TransB {
		brow, bcol = bcol, brow
	}
	for i := range m {
		c := o.C.Row(i)
		var pre []float32
		if !o.Pre.IsZero() {
			pre = o.Pre.Row(i)
		}
		for j := range n {
			v := 0.0
			for l := range k {
				v += float64(a[i*arow+l*acol]) * float64(b[l*brow+j*bcol])
			}
			if bias != nil {
				v += float64(bias[j])
			}
			switch o.Act {
			case kernels.GELU:
				if pre != nil {
					pre[j] = float32(v)
				}
				v = gelu(v)
			case kernels.GELUGrad:
				v *= geluSlope(float64(pre[j]))
			}
			store(&c[j], v, o.Accumulate)
		}
	}
}

func columnSum(o *kernels.ColumnSum) {
	y := o.Y.F32()
	sum := make([]float64, o.X.Cols)
	for r := range o.X.Rows {
		for c, x := range o.X.Row(r) {
			sum[c] += float64(x)
		}
	}
	for c := range sum {
		add(&y[c], sum[c])
	}
}

func layerNorm(o *kernels.LayerNorm) {
	scale, shift := o.Scale.F32(), o.Shift.F32()
	d := float64(o.X.Cols)
	for r := range o.X.Rows {
		x, y := o.X.Row(r), o.Y.Row(r)
		mean, variance := 0.0, 0.0
		for _, v := range x {
			mean += float64(v) / d
		}
		for _, v := range x {
			variance += (float64(v) - mean) * (float64(v) - mean) / d
		}
		rstd := 1 / math.Sqrt(variance+float64(o.Eps))
		for c, v := range x {
			y[c] = float32((float64(v)-mean)*rstd*float64(scale[c]) + float64(shift[c]))
		}
		if !o.Mean.IsZero() {
			o.Mean.F32()[r], o.Rstd.F32()[r] = float32(mean), float32(rstd)
		}
	}
}

// layerNormGrad: with n = (x − mean)·rstd and g = dy ⊙ scale,
// dx = rstd·(g − avg(g) − n·avg(g ⊙ n)).
func layerNormGrad(o *kernels.LayerNormGrad) {
	scale, means, rstds := o.Scale.F32(), o.Mean.F32(), o.Rstd.F32()
	d := float64(o.X.Cols)
	dscale, dshift := make([]float64, o.X.Cols), make([]float64, o.X.Cols)
	for r := range o.X.Rows {
		x, dy, dx := o.X.Row(r), o.DY.Row(r), o.DX.Row(r)
		mean, rstd := float64(means[r]), float64(rstds[r])
		avg, avgN := 0.0, 0.0
		for c := range x {
			n, g := (float64(x[c])-mean)*rstd, float64(dy[c])*float64(scale[c])
			avg += g / d
			avgN += g * n / d
			dscale[c] += float64(dy[c]) * n
			dshift[c] += float64(dy[c])
		}
		for c := range x {
			n, g := (float64(x[c])-mean)*rstd, float64(dy[c])*float64(scale[c])
			store(&dx[c], rstd*(g-avg-n*avgN), o.Accumulate)
		}
	}
	if !o.DScale.IsZero() {
		ds, db := o.DScale.F32(), o.DShift.F32()
		for c := range dscale {
			add(&ds[c], dscale[c])
			add(&db[c], dshift[c])
		}
	}
}

// at returns element i of a vector, or 1 where the vector is absent.
func at(v []float32, i int) float64 {
	if v == nil {
		return 1
	}
	return float64(v[i])
}

func residual(o *kernels.Residual) {
	gamma, keep := o.Gamma.F32(), o.Keep.F32()
	for r := range o.X.Rows {
		x, y, z := o.X.Row(r), o.Y.Row(r), o.Z.Row(r)
		for c := range x {
			z[c] = float32(float64(x[c]) + at(keep, r)*at(gamma, c)*float64(y[c]))
		}
	}
}

func residualGrad(o *kernels.ResidualGrad) {
	gamma, keep, dgamma := o.Gamma.F32(), o.Keep.F32(), o.DGamma.F32()
	sum := make([]float64, o.DZ.Cols)
	for r := range o.DZ.Rows {
		dz, dy := o.DZ.Row(r), o.DY.Row(r)
		if dgamma != nil {
			for c, y := range o.Y.Row(r) {
				sum[c] += float64(dz[c]) * at(keep, r) * float64(y)
			}
		}
		for c := range dz {
			dy[c] = float32(float64(dz[c]) * at(keep, r) * at(gamma, c))
		}
	}
	for c := range dgamma {
		add(&dgamma[c], sum[c])
	}
}

// checkIndex wants every index below rows.
func checkIndex(op kernels.Op, index []int32, rows int) error {
	for i, v := range index {
		if int(v) >= rows {
			return fmt.Errorf("%s: Index[%d] is %d, the table has %d rows", op.Name(), i, v, rows)
		}
	}
	return nil
}

func gather(o *kernels.Gather) error {
	index := o.Index.I32()
	if err := checkIndex(o, index, o.Table.Rows); err != nil {
		return err
	}
	for i, v := range index {
		y := o.Y.Row(i)
		if v < 0 {
			if !o.Accumulate {
				clear(y)
			}
			continue
		}
		for c, x := range o.Table.Row(int(v)) {
			store(&y[c], float64(x), o.Accumulate)
		}
	}
	return nil
}

func scatterAdd(o *kernels.ScatterAdd) error {
	index := o.Index.I32()
	if err := checkIndex(o, index, o.Table.Rows); err != nil {
		return err
	}
	sums := make(map[int32][]float64) // by row of the table
	for i, v := range index {
		if v < 0 {
			continue
		}
		if sums[v] == nil {
			sums[v] = make([]float64, o.Y.Cols)
		}
		for c, y := range o.Y.Row(i) {
			sums[v][c] += float64(y)
		}
	}
	for v, sum := range sums {
		row := o.Table.Row(int(v))
		for c := range row {
			add(&row[c], sum[c])
		}
	}
	return nil
}

func patchify(o *kernels.Patchify) {
	s, h, w := o.Size, o.Height, o.Width
	row := 0
	for b := range o.X.Rows {
		image := o.X.Row(b)
		for py := range h / s {
			for px := range w / s {
				patch := o.Y.Row(row)
				row++
				i := 0
				for c := range o.Channels {
					for y := range s {
						for x := range s {
							patch[i] = image[(c*h+py*s+y)*w+px*s+x]
							i++
						}
					}
				}
			}
		}
	}
}

func dropout(o *kernels.Dropout) {
	rate := float64(o.Rate)
	ids := o.Row.I32()
	for r := range o.X.Rows {
		x, y := o.X.Row(r), o.Y.Row(r)
		for c := range x {
			block := rng.Philox(o.Key, [4]uint32{uint32(ids[r]), uint32(c / 4), 0, 0})
			if float64(block[c%4])*0x1p-32 >= rate {
				y[c] = float32(float64(x[c]) / (1 - rate))
			} else {
				y[c] = 0
			}
		}
	}
}

func tanh(o *kernels.Tanh) {
	for r := range o.X.Rows {
		y := o.Y.Row(r)
		for c, x := range o.X.Row(r) {
			y[c] = float32(math.Tanh(float64(x)))
		}
	}
}

func tanhGrad(o *kernels.TanhGrad) {
	for r := range o.Y.Rows {
		dy, dx := o.DY.Row(r), o.DX.Row(r)
		for c, y := range o.Y.Row(r) {
			dx[c] = float32(float64(dy[c]) * (1 - float64(y)*float64(y)))
		}
	}
}

func geluOp(o *kernels.Gelu) {
	for r := range o.X.Rows {
		y := o.Y.Row(r)
		for c, x := range o.X.Row(r) {
			y[c] = float32(gelu(float64(x)))
		}
	}
}

func geluGradOp(o *kernels.GeluGrad) {
	for r := range o.X.Rows {
		dy, dx := o.DY.Row(r), o.DX.Row(r)
		for c, x := range o.X.Row(r) {
			dx[c] = float32(float64(dy[c]) * geluSlope(float64(x)))
		}
	}
}

func addScaled(o *kernels.AddScaled) {
	for r := range o.X.Rows {
		y := o.Y.Row(r)
		for c, x := range o.X.Row(r) {
			add(&y[c], float64(o.Alpha)*float64(x))
		}
	}
}

func fill(o *kernels.Fill) {
	for r := range o.Y.Rows {
		y := o.Y.Row(r)
		for c := range y {
			y[c] = o.Value
		}
	}
}

func normalize(o *kernels.Normalize) {
	norms := o.Norm.F32()
	for r := range o.X.Rows {
		x, y := o.X.Row(r), o.Y.Row(r)
		norm := 0.0
		for _, v := range x {
			norm += float64(v) * float64(v)
		}
		norm = max(math.Sqrt(norm), 1e-12)
		norms[r] = float32(norm)
		for c, v := range x {
			y[c] = float32(float64(v) / norm)
		}
	}
}

func normalizeGrad(o *kernels.NormalizeGrad) {
	norms := o.Norm.F32()
	for r := range o.Y.Rows {
		y, dy, dx := o.Y.Row(r), o.DY.Row(r), o.DX.Row(r)
		dot := 0.0
		for c := range y {
			dot += float64(y[c]) * float64(dy[c])
		}
		for c := range y {
			dx[c] = float32((float64(dy[c]) - float64(y[c])*dot) / float64(norms[r]))
		}
	}
}
