package ref

import (
	"fmt"
	"math"

	"vlmo-train/kernels"
	"vlmo-train/rng"
)

// logSumExp returns log Σ exp(scale·x).
func logSumExp(x []float32, scale float64) float64 {
	top := math.Inf(-1)
	for _, v := range x {
		top = max(top, scale*float64(v))
	}
	sum := 0.0
	for _, v := range x {
		sum += math.Exp(scale*float64(v) - top)
	}
	return top + math.Log(sum)
}

func crossEntropy(o *kernels.CrossEntropy) error {
	label := o.Label.I32()
	for r, l := range label {
		if l < 0 || int(l) >= o.Logits.Cols {
			return fmt.Errorf("%s: Label[%d] is %d, want [0, %d)", o.Name(), r, l, o.Logits.Cols)
		}
	}
	w, loss := float64(o.Weight), 0.0
	for r, l := range label {
		x := o.Logits.Row(r)
		lse := logSumExp(x, 1)
		loss += lse - float64(x[l])
		if o.DLogits.IsZero() {
			continue
		}
		dx := o.DLogits.Row(r)
		for c, v := range x {
			p := math.Exp(float64(v) - lse)
			if c == int(l) {
				p--
			}
			dx[c] = float32(w * p)
		}
	}
	add(&o.Loss.F32()[0], w*loss)
	return nil
}

func contrast(o *kernels.Contrast) error {
	rows, cols := o.RowGroup.I32(), o.ColGroup.I32()
	positives := make([]float64, len(rows))
	for r, g := range rows {
		for _, h := range cols {
			if g == h {
				positives[r]++
			}
		}
		if positives[r] == 0 {
			return fmt.Errorf("%s: RowGroup[%d] is %d, no column is of that group", o.Name(), r, g)
		}
	}
	scale := math.Exp(float64(o.LogScale.F32()[0]))
	w, loss, dlog := float64(o.Weight), 0.0, 0.0
	for r, g := range rows {
		x := o.Dot.Row(r)
		lse := logSumExp(x, scale)
		for c, h := range cols {
			l := scale * float64(x[c])
			dl := math.Exp(l - lse)
			if g == h {
				loss += (lse - l) / positives[r]
				dl -= 1 / positives[r]
			}
			dl *= w
			dlog += dl * l
			if !o.DDot.IsZero() {
				store(&o.DDot.Row(r)[c], scale*dl, o.Accumulate)
			}
		}
	}
	add(&o.Loss.F32()[0], w*loss)
	if !o.DLogScale.IsZero() {
		add(&o.DLogScale.F32()[0], dlog)
	}
	return nil
}

// gumbel turns a uniform word into standard Gumbel noise.
func gumbel(u uint32) float64 { return -math.Log(-math.Log((float64(u) + 0.5) * 0x1p-32)) }

func sampleNegative(o *kernels.SampleNegative) {
	rows, cols := o.RowGroup.I32(), o.ColGroup.I32()
	rowID, colID, index := o.RowID.I32(), o.ColID.I32(), o.Index.I32()
	scale := math.Exp(float64(o.LogScale.F32()[0]))
	for r, g := range rows {
		best := math.Inf(-1)
		index[r] = -1
		for c, h := range cols {
			if g == h {
				continue
			}
			noise := gumbel(rng.Philox(o.Key, [4]uint32{uint32(rowID[r]), uint32(colID[c]), 0, 0})[0])
			if v := scale*float64(o.Dot.Row(r)[c]) + noise; v > best {
				best, index[r] = v, int32(c)
			}
		}
	}
}

func binaryCrossEntropy(o *kernels.BinaryCrossEntropy) {
	w, loss := float64(o.Weight), 0.0
	for r := range o.Logits.Rows {
		x, target := o.Logits.Row(r), o.Target.Row(r)
		for c := range x {
			v, t := float64(x[c]), float64(target[c])
			// −t·log σ(v) − (1−t)·log σ(−v), without overflow.
			loss += max(v, 0) - v*t + math.Log1p(math.Exp(-math.Abs(v)))
			if !o.DLogits.IsZero() {
				o.DLogits.Row(r)[c] = float32(w * (1/(1+math.Exp(-v)) - t))
			}
		}
	}
	add(&o.Loss.F32()[0], w*loss)
}

func squaredError(o *kernels.SquaredError) {
	w, loss := float64(o.Weight), 0.0
	for r := range o.X.Rows {
		x, target := o.X.Row(r), o.Target.Row(r)
		for c := range x {
			e := float64(x[c]) - float64(target[c])
			loss += e * e
			if !o.DX.IsZero() {
				o.DX.Row(r)[c] = float32(2 * w * e)
			}
		}
	}
	add(&o.Loss.F32()[0], w*loss)
}

func argMax(o *kernels.ArgMax) {
	index := o.Index.I32()
	for r := range o.X.Rows {
		x := o.X.Row(r)
		best := 0
		for c := range x {
			if x[c] > x[best] {
				best = c
			}
		}
		index[r] = int32(best)
	}
}

func sumSquares(o *kernels.SumSquares) {
	sum := 0.0
	for r := range o.X.Rows {
		for _, x := range o.X.Row(r) {
			sum += float64(x) * float64(x)
		}
	}
	add(&o.Y.F32()[0], sum)
}

func adamW(o *kernels.AdamW) {
	p, m, v, grad := o.P.F32(), o.M.F32(), o.V.F32(), o.Grad.F32()
	b1, b2, step := float64(o.Beta1), float64(o.Beta2), float64(o.Step)
	rate := float64(o.Rate) * math.Sqrt(1-math.Pow(b2, step)) / (1 - math.Pow(b1, step))
	for i := range p {
		g := float64(o.GradScale) * float64(grad[i])
		mi := b1*float64(m[i]) + (1-b1)*g
		vi := b2*float64(v[i]) + (1-b2)*g*g
		pi := float64(p[i]) - rate*mi/(math.Sqrt(vi)+float64(o.Eps))
		pi -= float64(o.Rate) * float64(o.Decay) * pi
		p[i], m[i], v[i] = float32(pi), float32(mi), float32(vi)
		if !o.Half.IsZero() {
			save(o.Half, 0, i, float64(p[i]))
		}
	}
}
