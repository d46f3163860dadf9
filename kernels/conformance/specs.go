package conformance

import (
	"math"
	"slices"

	"vlmo-train/kernels"
	"vlmo-train/kernels/ref"
	"vlmo-train/rng"
)

var specs = []spec{
	{"MatMul", 120, single, buildMatMul},
	{"ColumnSum", 25, single, func(g *gen) kernels.Op {
		r, n := g.extents()
		return &kernels.ColumnSum{X: g.normalAs(g.float(), r, n), Y: g.normal(1, n)}
	}},
	{"LayerNorm", 40, single, func(g *gen) kernels.Op {
		n, d := g.extents()
		list, r := g.list(n, false)
		o := &kernels.LayerNorm{Eps: g.eps(d), X: g.putAs(g.float(), n, d, g.shifted(n, d)), Rows: list,
			Scale: g.normal(1, d), Shift: g.normal(1, d), Y: g.outAs(g.float(), r, d)}
		if g.oneIn(2) {
			o.Mean, o.Rstd = g.out(1, r), g.out(1, r)
		}
		return o
	}},
	{"LayerNormGrad", 40, Limit{Norm: 1e-5, Max: 1e-4, Floor: 1e-2}, buildLayerNormGrad},
	{"Residual", 40, single, func(g *gen) kernels.Op {
		n, d := g.rows(), g.size()
		list, r := g.list(n, true)
		o := &kernels.Residual{X: g.normalAs(g.float(), n, d), Rows: list, Y: g.normalAs(g.float(), r, d),
			Gamma: g.maybe(1, d, true), Keep: g.keep(r)}
		if o.Z = g.over(o.X); g.oneIn(3) {
			o.Z = g.outAs(g.float(), n, d)
		}
		return o
	}},
	{"ResidualNorm", 60, single, buildResidualNorm},
	{"ResidualNormGrad", 60, Limit{Norm: 1e-5, Max: 1e-4, Floor: 1e-2}, buildResidualNormGrad},
	{"ResidualGrad", 40, single, func(g *gen) kernels.Op {
		n, d := g.extents()
		list, r := g.list(n, false)
		o := &kernels.ResidualGrad{DZ: g.normalAs(g.float(), n, d), Rows: list, Gamma: g.maybe(1, d, true), Keep: g.keep(r),
			DY: g.outAs(g.float(), r, d), DGamma: g.maybe(1, d, true)}
		if !o.DGamma.IsZero() || g.oneIn(3) {
			o.Y = g.normalAs(g.float(), r, d)
		}
		return o
	}},
	{"Gather", 30, Limit{}, func(g *gen) kernels.Op {
		v, d, r := g.size(), g.size(), g.rows()
		o := &kernels.Gather{Table: g.normalAs(g.float(), v, d), Index: g.ints(g.index(r, -1, v)), Accumulate: g.oneIn(2)}
		if o.Accumulate {
			o.Y = g.normal(r, d)
		} else {
			o.Y = g.outAs(g.float(), r, d)
		}
		return o
	}},
	{"ScatterAdd", 30, single, func(g *gen) kernels.Op {
		// Few rows in the table make many of Y's meet.
		v, d, r := g.size(), g.size(), g.rows()
		return &kernels.ScatterAdd{Y: g.normalAs(g.float(), r, d), Index: g.ints(g.index(r, -1, v)), Table: g.normal(v, d)}
	}},
	{"Patchify", 30, Limit{}, func(g *gen) kernels.Op {
		b, c, s, h, w := g.IntN(4), g.pick(1, 2, 3), g.pick(1, 2, 3, 8, 16), g.pick(1, 2, 3), g.pick(1, 2, 5)
		switch g.draw {
		case 1:
			b, c, s, h, w = 1, 1, 1, 1, 1
		case 2:
			b = 0
		}
		o := &kernels.Patchify{Y: g.out(b*h*w, c*s*s), Channels: c, Height: h * s, Width: w * s, Size: s}
		if g.oneIn(2) {
			o.X, o.Mean, o.Std = g.bytes(b, c*h*s*w*s), float32(g.Float64()), float32(0.1+g.Float64())
		} else {
			o.X = g.normal(b, c*h*s*w*s)
		}
		return o
	}},
	{"Dropout", 25, single, func(g *gen) kernels.Op {
		r, d := g.rows(), g.size()
		o := &kernels.Dropout{X: g.normal(r, d), Row: g.ints(g.index(r, math.MinInt32, math.MaxInt32)),
			Rate: []float32{0, 0.1, 0.5, 0.9}[g.IntN(4)], Key: [2]uint32{g.Uint32(), g.Uint32()}}
		o.Y = g.over(o.X)
		return o
	}},
	{"Tanh", 15, single, func(g *gen) kernels.Op {
		r, d := g.rows(), g.size()
		o := &kernels.Tanh{X: g.put(r, d, g.floats(r*d, g.spread()))}
		o.Y = g.over(o.X)
		return o
	}},
	{"TanhGrad", 15, single, func(g *gen) kernels.Op {
		r, d := g.rows(), g.size()
		y := g.floats(r*d, 1)
		for i := range y {
			y[i] = float32(math.Tanh(float64(y[i])))
		}
		o := &kernels.TanhGrad{Y: g.put(r, d, y), DY: g.normal(r, d)}
		o.DX = g.over(o.DY)
		return o
	}},
	{"Gelu", 15, single, func(g *gen) kernels.Op {
		r, d := g.rows(), g.size()
		return &kernels.Gelu{X: g.putAs(g.float(), r, d, g.floats(r*d, g.spread())), Y: g.outAs(g.float(), r, d)}
	}},
	{"Copy", 20, Limit{}, func(g *gen) kernels.Op {
		r, d := g.rows(), g.size()
		return &kernels.Copy{X: g.putAs(g.float(), r, d, g.floats(r*d, g.spread())), Y: g.outAs(g.float(), r, d)}
	}},
	{"GeluGrad", 15, single, func(g *gen) kernels.Op {
		r, d := g.rows(), g.size()
		o := &kernels.GeluGrad{X: g.put(r, d, g.floats(r*d, g.spread())), DY: g.normal(r, d)}
		o.DX = g.over(o.DY)
		return o
	}},
	{"AddScaled", 15, single, func(g *gen) kernels.Op {
		r, d := g.rows(), g.size()
		return &kernels.AddScaled{X: g.normal(r, d), Y: g.normal(r, d), Alpha: float32(g.Norm())}
	}},
	{"Fill", 15, Limit{}, func(g *gen) kernels.Op {
		return &kernels.Fill{Y: g.out(g.rows(), g.size()), Value: []float32{0, 1, -2.5}[g.IntN(3)]}
	}},
	{"Normalize", 20, single, func(g *gen) kernels.Op {
		r, d := g.extents()
		x := g.floats(r*d, g.spread())
		if r > 0 && g.oneIn(3) {
			clear(x[(r-1)*d:])
		}
		return &kernels.Normalize{X: g.put(r, d, x), Y: g.out(r, d), Norm: g.out(1, r)}
	}},
	{"NormalizeGrad", 20, single, func(g *gen) kernels.Op {
		r, d := g.extents()
		y, norm := make([]float32, 0, r*d), make([]float32, r)
		for i := range norm {
			x := g.floats(d, 1)
			s := 0.0
			for _, v := range x {
				s += float64(v) * float64(v)
			}
			for _, v := range x {
				y = append(y, float32(float64(v)/math.Sqrt(s)))
			}
			norm[i] = float32(0.5 + g.Float64()) // whatever scale x had
		}
		o := &kernels.NormalizeGrad{Y: g.put(r, d, y), DY: g.normal(r, d), Norm: g.put(1, r, norm)}
		o.DX = g.over(o.DY)
		return o
	}},
	{"Attention", 40, Limit{Norm: 1e-5, Max: 1e-4, Floor: 1e-2}, func(g *gen) kernels.Op { return g.attention() }},
	// The gradients of a query's logits sum to zero: rounded, they err relative
	// to their size and not to that of sums of them.
	{"AttentionGrad", 40, Limit{Norm: 1e-5, Max: 1e-4, Floor: 1e-2, Half: 1.5e-2}, buildAttentionGrad},
	{"CrossEntropy", 30, single, func(g *gen) kernels.Op {
		r, c := g.rows(), g.pick(g.size(), g.size(), 257, 1009)
		o := &kernels.CrossEntropy{Logits: g.put(r, c, g.floats(r*c, g.spread())), Label: g.ints(g.index(r, 0, c)),
			Weight: weight(r), Loss: g.normal(1, 1)}
		if g.oneIn(4) {
			return o
		}
		o.DLogits = g.over(o.Logits)
		return o
	}},
	// The scale multiplies the rounding of the cosines in every term.
	{"Contrast", 30, Limit{Norm: 3e-5, Max: 3e-4, Floor: 1e-1}, func(g *gen) kernels.Op {
		r, c := g.rows(), g.size()
		col := g.index(c, 0, max(1, c*3/4))
		row := make([]int32, r)
		for i := range row {
			row[i] = col[g.IntN(c)]
		}
		o := &kernels.Contrast{Dot: g.put(r, c, g.cosines(r*c)), LogScale: g.put(1, 1, []float32{float32(4 * g.Float64())}),
			RowGroup: g.ints(row), ColGroup: g.ints(col), Weight: weight(r), Loss: g.normal(1, 1), Accumulate: g.oneIn(2)}
		if g.oneIn(4) {
			return o
		}
		o.DDot = g.result(r, c, o.Accumulate)
		o.DLogScale = g.maybe(1, 1, true)
		return o
	}},
	{"SampleNegative", 30, Limit{}, buildSampleNegative},
	{"BinaryCrossEntropy", 20, single, func(g *gen) kernels.Op {
		r, c := g.rows(), g.size()
		target := make([]float32, r*c)
		for i := range target {
			target[i] = []float32{0, 0, 0.3, 0.6, 0.9, 1}[g.IntN(6)]
		}
		o := &kernels.BinaryCrossEntropy{Logits: g.put(r, c, g.floats(r*c, g.spread())), Target: g.put(r, c, target),
			Weight: weight(r * c), Loss: g.normal(1, 1)}
		if g.oneIn(4) {
			return o
		}
		o.DLogits = g.over(o.Logits)
		return o
	}},
	{"SquaredError", 20, single, func(g *gen) kernels.Op {
		r, c := g.rows(), g.size()
		o := &kernels.SquaredError{X: g.normal(r, c), Target: g.normal(r, c), Weight: weight(r * c), Loss: g.normal(1, 1)}
		if g.oneIn(4) {
			return o
		}
		o.DX = g.over(o.X)
		return o
	}},
	{"ArgMax", 25, Limit{}, func(g *gen) kernels.Op {
		r, c := g.rows(), g.size()
		x := g.floats(r*c, 1)
		if g.oneIn(2) { // many equals
			for i := range x {
				x[i] = float32(g.IntN(3) - 3)
			}
		}
		return &kernels.ArgMax{X: g.put(r, c, x), Index: g.place(kernels.I32, 1, r, nil)}
	}},
	{"SumSquares", 20, single, func(g *gen) kernels.Op {
		r, c := g.rows(), g.pick(g.size(), g.size(), 4099)
		if g.draw == 1 {
			c = 1
		}
		return &kernels.SumSquares{X: g.normal(r, c), Y: g.normal(1, 1)}
	}},
	{"AdamW", 30, single, func(g *gen) kernels.Op {
		n := g.pick(g.rows(), g.size(), g.size(), 4099)
		if g.draw == 1 || g.draw == 2 {
			n = 2 - g.draw
		}
		m, v, grad := g.floats(n, 0.1), g.floats(n, 0.1), g.floats(n, 1)
		for i := range v {
			v[i] *= v[i]
			if g.oneIn(7) {
				m[i], v[i], grad[i] = 0, 0, 0
			}
		}
		o := &kernels.AdamW{P: g.normal(1, n), M: g.put(1, n, m), V: g.put(1, n, v), Grad: g.put(1, n, grad),
			Rate: 0.01, Decay: []float32{0, 0.01, 5}[g.IntN(3)], Beta1: 0.9, Beta2: []float32{0.98, 0.999}[g.IntN(2)],
			Eps: 1e-8, GradScale: []float32{1, 0.25}[g.IntN(2)], Step: g.pick(1, 2, 17, 1000, 200000)}
		if g.oneIn(2) {
			o.Half = g.outAs(kernels.BF16, 1, n)
		}
		return o
	}},
}

// list draws an optional list of some of n rows, and how many they are. Distinct
// rows are in any order, others may repeat.
func (g *gen) list(n int, distinct bool) (kernels.Tensor, int) {
	if g.oneIn(2) {
		return kernels.Tensor{}, n
	}
	var rows []int32
	for r := range n {
		if !g.oneIn(3) {
			rows = append(rows, int32(r))
		}
	}
	if g.oneIn(2) {
		g.Shuffle(len(rows), func(i, j int) { rows[i], rows[j] = rows[j], rows[i] })
	}
	if !distinct && len(rows) > 1 && g.oneIn(2) {
		rows[0] = rows[len(rows)-1]
	}
	return g.ints(rows), len(rows)
}

// spread draws the deviation of an input: usual, small, or far into the tails.
func (g *gen) spread() float64 { return []float64{1, 0.01, 6}[g.IntN(3)] }

// weight is the weight of a mean over n.
func weight(n int) float32 { return 1 / float32(max(n, 1)) }

// index draws n integers in [lo, hi).
func (g *gen) index(n, lo, hi int) []int32 {
	x := make([]int32, n)
	for i := range x {
		x[i] = int32(lo + g.IntN(hi-lo))
	}
	return x
}

func (g *gen) cosines(n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = 2*g.Float32() - 1
	}
	return x
}

// keep draws a drop path mask, or none.
func (g *gen) keep(rows int) kernels.Tensor {
	if g.oneIn(2) {
		return kernels.Tensor{}
	}
	x := make([]float32, rows)
	for i := range x {
		if !g.oneIn(3) {
			x[i] = 1.25
		}
	}
	return g.put(1, rows, x)
}

// eps draws a LayerNorm's Eps. Among few elements the variance is often tiny
// and the gradient cancels: a large Eps keeps the problem well-posed.
func (g *gen) eps(d int) float32 {
	if d < 8 {
		return 0.5
	}
	return []float32{1e-12, 1e-6, 1e-5}[g.IntN(3)]
}

// shifted draws rows of which each has a mean and a deviation of its own.
func (g *gen) shifted(r, d int) []float32 {
	x := g.floats(r*d, 1)
	for i := range r {
		shift, scale := float32(4*g.Norm()), 0.5+2*g.Float32()
		for c := range d {
			x[i*d+c] = x[i*d+c]*scale + shift
		}
	}
	return x
}

func buildResidualNorm(g *gen) kernels.Op {
	n, d := g.extents()
	list, r := g.list(n, true)
	rows, normed := g.list(n, true)
	typ := g.float()
	o := &kernels.ResidualNorm{NormRows: rows, Eps: g.eps(d)}
	o.Residual = kernels.Residual{X: g.putAs(typ, n, d, g.shifted(n, d)), Rows: list, Y: g.normalAs(g.float(), r, d),
		Gamma: g.maybe(1, d, true), Keep: g.keep(r)}
	if o.Z = g.over(o.X); g.oneIn(3) {
		o.Z = g.outAs(g.float(), n, d)
	}
	// Z may be rounded to either neighbour, which the limits of H allow for
	// only if it is rounded too.
	half := g.float()
	if o.Z.Type == kernels.BF16 {
		half = kernels.BF16
	}
	o.H = g.outAs(half, normed, d)
	if g.oneIn(2) {
		o.Mean, o.Rstd = g.out(1, normed), g.out(1, normed)
	}
	for i, m := range g.parts(normed) {
		if o.Parts[i].Rows = m; m > 0 || g.oneIn(2) {
			o.Parts[i].Scale, o.Parts[i].Shift = g.normal(1, d), g.normal(1, d)
		}
	}
	return o
}

func buildMatMul(g *gen) kernels.Op {
	m, n, k := g.rows(), g.size(), g.rows()
	switch g.IntN(8) { // beyond the blocks that kernels cut matrices into
	case 0:
		m, n, k = g.pick(257, 389), g.pick(1, 19, 64), g.pick(3, 16, 65)
	case 1:
		m, n, k = g.pick(1, 7, 33), g.pick(521, 1031), g.pick(5, 17)
	case 2:
		m, n, k = g.pick(1, 6, 29), g.pick(1, 16, 37), g.pick(257, 512, 1009)
	}
	o := &kernels.MatMul{TransA: g.oneIn(2), TransB: g.oneIn(2)}
	typ := g.float()
	if o.TransA {
		o.A = g.normalAs(typ, k, m)
	} else {
		o.A = g.normalAs(typ, m, k)
	}
	switch {
	case g.oneIn(12): // a Gram matrix
		o.TransB, o.B, n = !o.TransA, o.A, m
	case o.TransB:
		o.B = g.normalAs(typ, n, k)
	default:
		o.B = g.normalAs(typ, k, n)
	}
	to := g.float()
	switch g.IntN(4) {
	case 0:
		o.Accumulate, to = true, kernels.F32
	case 1:
		o.Bias = g.maybe(1, n, true)
	case 2:
		o.Act, o.Bias = kernels.GELU, g.maybe(1, n, true)
		if g.oneIn(2) {
			o.Pre = g.outAs(to, m, n)
		}
	case 3:
		o.Act, o.Pre = kernels.GELUGrad, g.normalAs(to, m, n)
	}
	if o.Accumulate {
		o.C = g.normal(m, n)
	} else {
		o.C = g.outAs(to, m, n)
	}
	if o.TransA {
		o.Sum = g.maybe(1, m, true)
	}
	return o
}

func buildLayerNormGrad(g *gen) kernels.Op {
	n, d := g.extents()
	x, list, mean, rstd := g.normalised(n, d)
	r := mean.Cols
	o := &kernels.LayerNormGrad{X: x, Rows: list, DY: g.normalAs(g.float(), r, d), Scale: g.normal(1, d),
		Mean: mean, Rstd: rstd, Accumulate: g.oneIn(2)}
	o.DX = g.result(n, d, o.Accumulate)
	if g.oneIn(2) {
		o.DScale, o.DShift = g.normal(1, d), g.normal(1, d)
	}
	return o
}

// normalised draws the input of a LayerNorm, the rows that it treats, and their
// statistics.
func (g *gen) normalised(n, d int) (in, list, means, rstds kernels.Tensor) {
	eps := float64(g.eps(d))
	x, typ := g.shifted(n, d), g.float()
	if typ == kernels.BF16 {
		for i, v := range x {
			x[i] = kernels.FromBF16(kernels.RoundBF16(v))
		}
	}
	rows := make([]int32, n)
	for i := range rows {
		rows[i] = int32(i)
	}
	list, r := g.list(n, true)
	if !list.IsZero() {
		rows = g.blocks[len(g.blocks)-1].before[list.Offset/4:][:r]
	}
	mean, rstd := make([]float32, r), make([]float32, r)
	for i, at := range rows {
		row := x[int(at)*d : (int(at)+1)*d]
		m, v := 0.0, 0.0
		for _, e := range row {
			m += float64(e) / float64(d)
		}
		for _, e := range row {
			v += (float64(e) - m) * (float64(e) - m) / float64(d)
		}
		mean[i], rstd[i] = float32(m), float32(1/math.Sqrt(v+eps))
	}
	return g.putAs(typ, n, d, x), list, g.put(1, r, mean), g.put(1, r, rstd)
}

func buildResidualNormGrad(g *gen) kernels.Op {
	n, d := g.extents()
	list, r := g.list(n, true)
	o := &kernels.ResidualNormGrad{}
	o.ResidualGrad = kernels.ResidualGrad{DZ: g.normal(n, d), Rows: list, Gamma: g.maybe(1, d, true), Keep: g.keep(r),
		DY: g.outAs(g.float(), r, d), DGamma: g.maybe(1, d, true)}
	if !o.DGamma.IsZero() || g.oneIn(3) {
		o.Y = g.normalAs(g.float(), r, d)
	}
	o.Z, o.NormRows, o.Mean, o.Rstd = g.normalised(n, d)
	o.DH = g.normalAs(g.float(), o.Mean.Cols, d)
	for i, m := range g.parts(o.Mean.Cols) {
		p := &o.Parts[i]
		if p.Rows = m; m > 0 || g.oneIn(2) {
			p.Scale = g.normal(1, d)
		}
		if g.oneIn(2) {
			p.DScale, p.DShift = g.normal(1, d), g.normal(1, d)
		}
	}
	return o
}

// parts cuts n rows into parts, often empty ones.
func (g *gen) parts(n int) [3]int {
	a, b := g.pick(0, n, g.IntN(n+1)), g.pick(0, n, g.IntN(n+1))
	a, b = min(a, b), max(a, b)
	return [...]int{a, b - a, n - b}
}

// attention draws an Attention. Rows that belong to no sequence hold NaNs.
func (g *gen) attention() *kernels.Attention {
	heads, hd := g.pick(1, 2, 3), g.pick(1, 8, 17, 34, 48, 64)
	b := kernels.RelativeBias{Window: g.pick(1, 2, 3, 5), Text: g.pick(3, 7, 40)}
	var seqs []kernels.Sequence
	switch g.draw {
	case 0: // as the model has it
		heads, hd = 2, 64
		b.Window, b.Text = 14, 196
		seqs = []kernels.Sequence{{TextLen: 40, ImageLen: 197}}
	case 1: // one number in all
		heads, hd = 1, 1
		seqs = []kernels.Sequence{{TextLen: 1}}
	case 2: // no rows
		seqs = []kernels.Sequence{{}}
	default:
		for range 1 + g.IntN(4) {
			var s kernels.Sequence
			text, image := 1+g.IntN(b.Text), 1+b.Window*b.Window
			if g.oneIn(4) {
				image = 1 + g.IntN(image)
			}
			switch g.IntN(9) {
			case 0, 1:
				s.TextLen = text
			case 2, 3:
				s.ImageLen = image
			case 4:
				s.TextLen = 1
			case 5:
				s.ImageLen = 1
			case 6:
				if g.oneIn(4) {
					break // empty
				}
				s.TextLen, s.ImageLen = 1, 1
			default:
				s.TextLen, s.ImageLen = text, image
			}
			seqs = append(seqs, s)
		}
	}
	// All text rows come first, with strays between.
	n := 0
	stray := func(limit int) {
		if g.draw > 2 {
			n += g.IntN(limit)
		}
	}
	stray(3)
	for i := range seqs {
		seqs[i].TextOff = n
		n += seqs[i].TextLen
		stray(2)
	}
	for i := range seqs {
		seqs[i].ImageOff = n
		n += seqs[i].ImageLen
		stray(2)
	}
	g.Shuffle(len(seqs), func(i, j int) { seqs[i], seqs[j] = seqs[j], seqs[i] })

	d := heads * hd
	m, typ := n, g.float()
	o := &kernels.Attention{Heads: heads, Scale: float32(1 / math.Sqrt(float64(hd))), Sequences: seqs}
	asked := make([]int32, n)
	for i := range asked {
		asked[i] = int32(i)
	}
	if g.oneIn(3) { // some of the queries
		asked = slices.DeleteFunc(asked, func(int32) bool { return g.oneIn(2) })
		o.Queries, m = g.ints(asked), len(asked)
	}
	spread := float64(g.pick(1, 1, 2)) // 2: sharp attention
	all := func(cols int) []float32 {
		x := g.floats(n*cols, spread)
		strays(seqs, n, cols, x)
		return x
	}
	q, kv := all(d), all(2*d)
	for i, r := range asked {
		copy(q[i*d:(i+1)*d], q[int(r)*d:])
	}
	o.Q = g.putAs(typ, m, d, q[:m*d])
	both := g.putAs(typ, n, 2*d, kv)
	o.K, o.V = both.Columns(0, d), both.Columns(d, 2*d)
	if !g.oneIn(3) {
		layers := g.pick(1, 2, 3)
		b.Table = g.normal(b.Rows(), layers*heads)
		b.Column = heads * g.IntN(layers)
	}
	o.Bias = b
	o.Out, o.LSE = g.outAs(typ, m, d), g.out(m, heads)
	return o
}

// strays fills the rows of x, n × cols, that belong to no sequence.
func strays(seqs []kernels.Sequence, n, cols int, x []float32) {
	used := make([]bool, n)
	for _, s := range seqs {
		for i := range s.TextLen {
			used[s.TextOff+i] = true
		}
		for i := range s.ImageLen {
			used[s.ImageOff+i] = true
		}
	}
	for r, u := range used {
		for c := range cols {
			if !u {
				x[r*cols+c] = math.Float32frombits(red)
			}
		}
	}
}

func buildAttentionGrad(g *gen) kernels.Op {
	f := g.attention()
	if g.err != nil {
		return f
	}
	m, n, d := f.Q.Rows, f.K.Rows, f.K.Cols
	// The forward pass, on ref.
	host := &gen{Source: rng.New(rng.Key{Seed: 1}), dev: ref.New()}
	mirror := func(t kernels.Tensor) kernels.Tensor {
		if t.IsZero() {
			return t
		}
		x := make([]int32, t.Len())
		for _, b := range g.blocks {
			if b.mem == t.Mem {
				elements(t, func(r, c, word int) { x[r*t.Cols+c] = b.before[word] })
			}
		}
		return host.place(t.Type, t.Rows, t.Cols, x)
	}
	fwd := *f
	fwd.Q, fwd.K, fwd.V, fwd.Queries, fwd.Bias.Table = mirror(f.Q), mirror(f.K), mirror(f.V), mirror(f.Queries), mirror(f.Bias.Table)
	fwd.Out, fwd.LSE = host.outAs(f.Q.Type, m, d), host.out(m, f.Heads)
	host.dev.Run(&fwd)
	if g.err = host.dev.Sync(); g.err != nil {
		return f
	}
	again := func(t kernels.Tensor) kernels.Tensor { // t of host, on g's device
		x := make([]int32, t.Len())
		elements(t, func(r, c, word int) {
			if t.Type == kernels.BF16 {
				x[r*t.Cols+c] = int32(t.BF16()[r*t.Stride+c])
			} else {
				x[r*t.Cols+c] = int32(math.Float32bits(t.F32()[r*t.Stride+c]))
			}
		})
		return g.place(t.Type, t.Rows, t.Cols, x)
	}
	dout := g.floats(n*d, 1)
	strays(f.Sequences, n, d, dout)
	if !f.Queries.IsZero() {
		for i, r := range fwd.Queries.I32() {
			copy(dout[i*d:(i+1)*d], dout[int(r)*d:])
		}
	}
	dkv := g.outAs(f.Q.Type, n, 2*d)
	o := &kernels.AttentionGrad{Q: f.Q, K: f.K, V: f.V, Queries: f.Queries, Out: again(fwd.Out), DOut: g.putAs(f.Q.Type, m, d, dout[:m*d]),
		LSE: again(fwd.LSE), Heads: f.Heads, Scale: f.Scale, Sequences: f.Sequences, Bias: f.Bias,
		DQ: g.outAs(f.Q.Type, m, d), DK: dkv.Columns(0, d), DV: dkv.Columns(d, 2*d)}
	if !f.Bias.Table.IsZero() && !g.oneIn(4) {
		o.DTable = g.normal(f.Bias.Table.Rows, f.Bias.Table.Cols)
	}
	return o
}

// buildSampleNegative draws until no row's choice hangs on rounding.
func buildSampleNegative(g *gen) kernels.Op {
	r, c := g.rows(), g.size()
	groups := g.pick(1, 2, 3, 1+c)
	for {
		dot, logScale := g.cosines(r*c), float32(4*g.Float64())
		row, col := g.index(r, 0, groups), g.index(c, 0, groups)
		rowID, colID := g.index(r, 0, math.MaxInt32), g.index(c, math.MinInt32, 0)
		key := [2]uint32{g.Uint32(), g.Uint32()}
		settled := true
		for i := range row {
			scores := []float64{math.Inf(-1), math.Inf(-1)}
			for j := range col {
				if row[i] != col[j] {
					u := rng.Philox(key, [4]uint32{uint32(rowID[i]), uint32(colID[j])})[0]
					noise := -math.Log(-math.Log((float64(u) + 0.5) / (1 << 32)))
					scores = append(scores, math.Exp(float64(logScale))*float64(dot[i*c+j])+noise)
				}
			}
			slices.Sort(scores)
			n := len(scores)
			settled = settled && (n < 4 || scores[n-1]-scores[n-2] > 1e-3)
		}
		if settled {
			return &kernels.SampleNegative{Dot: g.put(r, c, dot), LogScale: g.put(1, 1, []float32{logScale}),
				RowGroup: g.ints(row), ColGroup: g.ints(col), RowID: g.ints(rowID), ColID: g.ints(colID),
				Key: key, Index: g.place(kernels.I32, 1, r, nil)}
		}
	}
}
