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

// load returns row r of t as float32, converted where t is BF16.
func load(t kernels.Tensor, r int) []float32 {
	if t.Type != kernels.BF16 {
		return t.Row(r)
	}
	h := t.Slice(r, r+1).BF16()
	x := make([]float32, len(h))
	for i, v := range h {
		x[i] = kernels.FromBF16(v)
	}
	return x
}

// loadAll returns the rows of t.
func loadAll(t kernels.Tensor) [][]float32 {
	x := make([][]float32, t.Rows)
	for r := range x {
		x[r] = load(t, r)
	}
	return x
}

// round returns v rounded to t's type.
func round(t kernels.Tensor, v float64) float64 {
	if t.Type == kernels.BF16 {
		return float64(kernels.FromBF16(kernels.RoundBF16(float32(v))))
	}
	return float64(float32(v))
}

// save stores v as element (r, c) of t.
func save(t kernels.Tensor, r, c int, v float64) {
	if t.Type == kernels.BF16 {
		t.BF16()[r*t.Stride+c] = kernels.RoundBF16(float32(v))
	} else {
		t.F32()[r*t.Stride+c] = float32(v)
	}
}

func matMul(o *kernels.MatMul) {
	m, n, k := o.Dims()
	a, b, bias := loadAll(o.A), loadAll(o.B), o.Bias.F32()
	left := func(i, l int) float64 {
		if o.TransA {
			return float64(a[l][i])
		}
		return float64(a[i][l])
	}
	right := func(l, j int) float64 {
		if o.TransB {
			return float64(b[j][l])
		}
		return float64(b[l][j])
	}
	for i := range m {
		var pre []float32
		if o.Act == kernels.GELUGrad {
			pre = load(o.Pre, i)
		}
		for j := range n {
			v := 0.0
			for l := range k {
				v += left(i, l) * right(l, j)
			}
			if bias != nil {
				v += float64(bias[j])
			}
			switch o.Act {
			case kernels.GELU:
				if !o.Pre.IsZero() {
					save(o.Pre, i, j, v)
				}
				v = gelu(round(o.C, v))
			case kernels.GELUGrad:
				v = round(o.C, v) * geluSlope(float64(pre[j]))
			}
			if o.Accumulate {
				v += float64(o.C.Row(i)[j])
			}
			save(o.C, i, j, v)
		}
	}
	sum := o.Sum.F32()
	for i := range sum {
		v := 0.0
		for l := range k {
			v += left(i, l)
		}
		add(&sum[i], v)
	}
}

func columnSum(o *kernels.ColumnSum) {
	y := o.Y.F32()
	sum := make([]float64, o.X.Cols)
	for r := range o.X.Rows {
		for c, x := range load(o.X, r) {
			sum[c] += float64(x)
		}
	}
	for c := range sum {
		add(&y[c], sum[c])
	}
}

// listed returns the rows that an op treats, of n: all, or those of list.
func listed(op kernels.Op, list kernels.Tensor, n int) ([]int32, error) {
	if list.IsZero() {
		rows := make([]int32, n)
		for r := range rows {
			rows[r] = int32(r)
		}
		return rows, nil
	}
	rows := list.I32()
	for i, r := range rows {
		if r < 0 || int(r) >= n {
			return nil, fmt.Errorf("%s: Rows[%d] is %d, of %d rows", op.Name(), i, r, n)
		}
	}
	return rows, nil
}

func layerNorm(o *kernels.LayerNorm) error {
	rows, err := listed(o, o.Rows, o.X.Rows)
	if err != nil {
		return err
	}
	scale, shift := o.Scale.F32(), o.Shift.F32()
	d := float64(o.X.Cols)
	for i, r := range rows {
		x := load(o.X, int(r))
		mean, variance := 0.0, 0.0
		for _, v := range x {
			mean += float64(v) / d
		}
		for _, v := range x {
			variance += (float64(v) - mean) * (float64(v) - mean) / d
		}
		rstd := 1 / math.Sqrt(variance+float64(o.Eps))
		for c, v := range x {
			save(o.Y, i, c, (float64(v)-mean)*rstd*float64(scale[c])+float64(shift[c]))
		}
		if !o.Mean.IsZero() {
			o.Mean.F32()[i], o.Rstd.F32()[i] = float32(mean), float32(rstd)
		}
	}
	return nil
}

// layerNormGrad: with n = (x − mean)·rstd and g = dy ⊙ scale,
// dx = rstd·(g − avg(g) − n·avg(g ⊙ n)).
func layerNormGrad(o *kernels.LayerNormGrad) error {
	rows, err := listed(o, o.Rows, o.X.Rows)
	if err != nil {
		return err
	}
	scale, means, rstds := o.Scale.F32(), o.Mean.F32(), o.Rstd.F32()
	d := float64(o.X.Cols)
	dscale, dshift := make([]float64, o.X.Cols), make([]float64, o.X.Cols)
	for i, r := range rows {
		x, dy, dx := load(o.X, int(r)), load(o.DY, i), o.DX.Row(int(r))
		mean, rstd := float64(means[i]), float64(rstds[i])
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
	return nil
}

// at returns element i of a vector, or 1 where the vector is absent.
func at(v []float32, i int) float64 {
	if v == nil {
		return 1
	}
	return float64(v[i])
}

func residual(o *kernels.Residual) error {
	rows, err := listed(o, o.Rows, o.X.Rows)
	if err != nil {
		return err
	}
	gamma, keep := o.Gamma.F32(), o.Keep.F32()
	from := make(map[int]int, len(rows)) // row of Y by row of X
	for i, r := range rows {
		from[int(r)] = i
	}
	for r := range o.X.Rows {
		var y []float32
		i, ok := from[r]
		if ok {
			y = load(o.Y, i)
		}
		for c, x := range load(o.X, r) {
			v := float64(x)
			if ok {
				v += at(keep, i) * at(gamma, c) * float64(y[c])
			}
			save(o.Z, r, c, v)
		}
	}
	return nil
}

// residualNorm is the ops that its result is defined by.
func residualNorm(o *kernels.ResidualNorm) error {
	if _, err := listed(o, o.NormRows, o.Z.Rows); err != nil {
		return err
	}
	if err := residual(&o.Residual); err != nil {
		return err
	}
	for i := range o.Parts {
		if o.Parts[i].Rows > 0 {
			n := o.Norm(i)
			if err := layerNorm(&n); err != nil {
				return err
			}
		}
	}
	return nil
}

func residualGrad(o *kernels.ResidualGrad) error {
	rows, err := listed(o, o.Rows, o.DZ.Rows)
	if err != nil {
		return err
	}
	gamma, keep, dgamma := o.Gamma.F32(), o.Keep.F32(), o.DGamma.F32()
	sum := make([]float64, o.DZ.Cols)
	for i, r := range rows {
		dz := load(o.DZ, int(r))
		if dgamma != nil {
			for c, y := range load(o.Y, i) {
				sum[c] += float64(dz[c]) * at(keep, i) * float64(y)
			}
		}
		for c := range dz {
			save(o.DY, i, c, float64(dz[c])*at(keep, i)*at(gamma, c))
		}
	}
	for c := range dgamma {
		add(&dgamma[c], sum[c])
	}
	return nil
}

// residualNormGrad is the ops that its result is defined by.
func residualNormGrad(o *kernels.ResidualNormGrad) error {
	if _, err := listed(o, o.NormRows, o.Z.Rows); err != nil {
		return err
	}
	if _, err := listed(o, o.Rows, o.DZ.Rows); err != nil {
		return err
	}
	for i := range o.Parts {
		if o.Parts[i].Rows > 0 {
			n := o.Norm(i)
			if err := layerNormGrad(&n); err != nil {
				return err
			}
		}
	}
	return residualGrad(&o.ResidualGrad)
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
		row := make([]float32, o.Y.Cols)
		if v >= 0 {
			row = load(o.Table, int(v))
		}
		for c, x := range row {
			v := float64(x)
			if o.Accumulate {
				v += float64(o.Y.Row(i)[c])
			}
			save(o.Y, i, c, v)
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
		for c, y := range load(o.Y, i) {
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

// pixels returns image b, normalised.
func pixels(o *kernels.Patchify, b int) []float32 {
	if o.X.Type == kernels.F32 {
		return o.X.Row(b)
	}
	v := make([]float32, o.X.Cols)
	for i, p := range o.X.Slice(b, b+1).U8() {
		v[i] = o.Value(p)
	}
	return v
}

func patchify(o *kernels.Patchify) {
	s, h, w := o.Size, o.Height, o.Width
	row := 0
	for b := range o.X.Rows {
		image := pixels(o, b)
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
		for c, x := range load(o.X, r) {
			save(o.Y, r, c, gelu(float64(x)))
		}
	}
}

func copyOp(o *kernels.Copy) {
	for r := range o.X.Rows {
		for c, x := range load(o.X, r) {
			save(o.Y, r, c, float64(x))
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
