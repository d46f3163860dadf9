package cpu

import (
	"math"

	"vlmo-train/kernels"
	"vlmo-train/rng"
)

type (
	crossEntropy       kernels.CrossEntropy
	contrast           kernels.Contrast
	sampleNegative     kernels.SampleNegative
	binaryCrossEntropy kernels.BinaryCrossEntropy
	squaredError       kernels.SquaredError
)

// The sums of a loss are taken row by row, or piece by piece, in float64.

func (d *device) crossEntropy(o *crossEntropy) {
	sums := d.totals(o.Logits.Rows)
	d.rows(o, o.Logits)
	o.Loss.F32()[0] += float32(float64(o.Weight) * total(sums))
}

func (o *crossEntropy) do(w *worker, u int) {
	x, label := view(o.Logits), o.Label.I32()
	grad := !o.DLogits.IsZero()
	dx := view(o.DLogits)
	p := w.scratch(x.cols)
	lo, hi := span(o.Logits.Rows, u, rowsPerUnit(o.Logits))
	for r := lo; r < hi; r++ {
		x, l := x.row(r), label[r]
		if grad {
			p = dx.row(r)
		}
		at, top := float64(x[l]), w.max(x)
		sum := w.expSum(p, x, top)
		w.sums[r] = float64(top) + math.Log(float64(sum)) - at
		if grad {
			w.scale(p, p, o.Weight/sum)
			p[l] -= o.Weight
		}
	}
}

func (d *device) contrast(o *contrast) {
	n := o.Dot.Rows
	if n == 0 {
		return
	}
	sums := d.totals(3 * n)
	d.rows(o, o.Dot)
	for r, positives := range sums[2*n:] {
		if positives == 0 {
			d.fail("Contrast: row %d, of group %d, has no positive column", r, o.RowGroup.I32()[r])
			return
		}
	}
	o.Loss.F32()[0] += float32(float64(o.Weight) * total(sums[:n]))
	if !o.DLogScale.IsZero() {
		o.DLogScale.F32()[0] += float32(total(sums[n : 2*n]))
	}
}

func (o *contrast) do(w *worker, u int) {
	dot, rowGroup, colGroup := view(o.Dot), o.RowGroup.I32(), o.ColGroup.I32()
	n := dot.cols
	ddot := view(o.DDot)
	s := float32(math.Exp(float64(o.LogScale.F32()[0])))
	buf := w.scratch(2 * n)
	logits, p := buf[:n], buf[n:]
	lo, hi := span(o.Dot.Rows, u, rowsPerUnit(o.Dot))
	for r := lo; r < hi; r++ {
		var positives, at float64
		w.scale(logits, dot.row(r), s)
		for c, g := range colGroup {
			if g == rowGroup[r] {
				positives++
				at += float64(logits[c])
			}
		}
		w.sums[2*dot.rows+r] = positives
		if positives == 0 {
			continue
		}
		top := w.max(logits)
		sum := w.expSum(p, logits, top)
		w.sums[r] = float64(top) + math.Log(float64(sum)) - at/positives
		w.scale(p, p, o.Weight/sum)
		share := float32(float64(o.Weight) / positives)
		for c, g := range colGroup {
			if g == rowGroup[r] {
				p[c] -= share
			}
		}
		w.sums[dot.rows+r] = float64(w.dot(p, logits))
		switch {
		case o.DDot.IsZero():
		case o.Accumulate:
			w.axpy(ddot.row(r), p, s)
		default:
			w.scale(ddot.row(r), p, s)
		}
	}
}

func (o *sampleNegative) do(w *worker, u int) {
	dot := view(o.Dot)
	rowGroup, colGroup := o.RowGroup.I32(), o.ColGroup.I32()
	rowID, colID := o.RowID.I32(), o.ColID.I32()
	index := o.Index.I32()
	s := math.Exp(float64(o.LogScale.F32()[0]))
	lo, hi := span(o.Dot.Rows, u, rowsPerUnit(o.Dot))
	for r := lo; r < hi; r++ {
		best, at := math.Inf(-1), -1
		for c, v := range dot.row(r) {
			if colGroup[c] == rowGroup[r] {
				continue
			}
			word := rng.Philox(o.Key, [4]uint32{uint32(rowID[r]), uint32(colID[c])})[0]
			noise := -math.Log(-math.Log((float64(word) + 0.5) / (1 << 32)))
			if l := s*float64(v) + noise; l > best || at < 0 {
				best, at = l, c
			}
		}
		index[r] = int32(at)
	}
}

func (d *device) binaryCrossEntropy(o *binaryCrossEntropy) {
	sums := d.totals(o.Logits.Rows)
	d.rows(o, o.Logits)
	o.Loss.F32()[0] += float32(float64(o.Weight) * total(sums))
}

func (o *binaryCrossEntropy) do(w *worker, u int) {
	x, target, dx := view(o.Logits), view(o.Target), view(o.DLogits)
	grad := !o.DLogits.IsZero()
	lo, hi := span(o.Logits.Rows, u, rowsPerUnit(o.Logits))
	for r := lo; r < hi; r++ {
		t := target.row(r)
		var sum float64
		for c, v := range x.row(r) {
			v, t := float64(v), float64(t[c])
			e := math.Exp(-math.Abs(v))
			sum += max(v, 0) - v*t + math.Log1p(e)
			if grad {
				sigmoid := 1 / (1 + e)
				if v < 0 {
					sigmoid = e / (1 + e)
				}
				dx.data[r*dx.stride+c] = float32(float64(o.Weight) * (sigmoid - t))
			}
		}
		w.sums[r] = sum
	}
}

func (d *device) squaredError(o *squaredError) {
	sums := d.totals(o.X.Rows)
	d.rows(o, o.X)
	o.Loss.F32()[0] += float32(float64(o.Weight) * total(sums))
}

func (o *squaredError) do(w *worker, u int) {
	x, target, dx := view(o.X), view(o.Target), view(o.DX)
	diff := w.scratch(x.cols)
	lo, hi := span(o.X.Rows, u, rowsPerUnit(o.X))
	for r := lo; r < hi; r++ {
		w.scaleAdd(diff, target.row(r), x.row(r), -1)
		w.sums[r] = float64(w.dot(diff, diff))
		if dx.data != nil {
			w.scale(dx.row(r), diff, 2*o.Weight)
		}
	}
}
