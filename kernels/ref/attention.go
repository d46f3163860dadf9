package ref

import (
	"fmt"
	"math"
	"slices"

	"vlmo-train/kernels"
)

// tokens lists the rows of s in order, text first.
func tokens(s kernels.Sequence) []int {
	var rows []int
	for i := range s.TextLen {
		rows = append(rows, s.TextOff+i)
	}
	for i := range s.ImageLen {
		rows = append(rows, s.ImageOff+i)
	}
	return rows
}

// biasRow returns the row of the bias table for query i and key j of s, both
// counted over text and image.
func biasRow(b *kernels.RelativeBias, s kernels.Sequence, i, j int) int {
	t := s.TextLen
	switch {
	case i < t && j < t:
		return b.TextText(i, j)
	case i < t:
		return b.TextImage()
	case j < t:
		return b.ImageText()
	}
	return b.ImageImage(i-t, j-t)
}

// logit returns the logit of query i and key j of s in one head.
func logit(q, k []float32, scale float32, b *kernels.RelativeBias, s kernels.Sequence, head, i, j int) float64 {
	v := dot(q, k) * float64(scale)
	if !b.Table.IsZero() {
		v += float64(b.Table.Row(biasRow(b, s, i, j))[b.Column+head])
	}
	return v
}

func dot(a, b []float32) float64 {
	v := 0.0
	for i := range a {
		v += float64(a[i]) * float64(b[i])
	}
	return v
}

// query is a token whose output is computed: its place in the sequence, and
// its row of Q.
type query struct{ place, row int }

// queries lists those of a sequence whose tokens are the given rows.
func queries(rows []int, list kernels.Tensor) (q []query) {
	for i, r := range rows {
		if list.IsZero() {
			q = append(q, query{i, r})
			continue
		}
		if at, ok := slices.BinarySearch(list.I32(), int32(r)); ok {
			q = append(q, query{i, at})
		}
	}
	return q
}

// checkQueries wants rows of n, ascending and distinct.
func checkQueries(op kernels.Op, list kernels.Tensor, n int) error {
	last := int32(-1)
	for i, r := range list.I32() {
		if r <= last || int(r) >= n {
			return fmt.Errorf("%s: Queries[%d] is %d after %d, of %d rows", op.Name(), i, r, last, n)
		}
		last = r
	}
	return nil
}

func attention(o *kernels.Attention) error {
	if err := checkQueries(o, o.Queries, o.K.Rows); err != nil {
		return err
	}
	hd := o.K.Cols / o.Heads
	qs, ks, vs := loadAll(o.Q), loadAll(o.K), loadAll(o.V)
	for _, s := range o.Sequences {
		rows := tokens(s)
		logits := make([]float64, len(rows))
		for head := range o.Heads {
			c := head * hd
			for _, q := range queries(rows, o.Queries) {
				top := math.Inf(-1)
				for j, rj := range rows {
					logits[j] = logit(qs[q.row][c:c+hd], ks[rj][c:c+hd], o.Scale, &o.Bias, s, head, q.place, j)
					top = max(top, logits[j])
				}
				sum := 0.0
				for _, l := range logits {
					sum += math.Exp(l - top)
				}
				lse := top + math.Log(sum)
				o.LSE.Row(q.row)[head] = float32(lse)
				acc := make([]float64, hd)
				for j, rj := range rows {
					p := math.Exp(logits[j] - lse)
					for e, v := range vs[rj][c : c+hd] {
						acc[e] += p * float64(v)
					}
				}
				for e, v := range acc {
					save(o.Out, q.row, c+e, v)
				}
			}
		}
	}
	return nil
}

// attentionGrad: with p = exp(logit − lse), dp = dOut·v and
// dl = p·(dp − dOut·out), the gradients are dv += p·dOut, dq += Scale·dl·k,
// dk += Scale·dl·q and, for the bias, dl itself.
func attentionGrad(o *kernels.AttentionGrad) error {
	if err := checkQueries(o, o.Queries, o.K.Rows); err != nil {
		return err
	}
	hd := o.K.Cols / o.Heads
	qs, ks, vs := loadAll(o.Q), loadAll(o.K), loadAll(o.V)
	outs, douts := loadAll(o.Out), loadAll(o.DOut)
	var dtable []float64 // [A, heads], of this layer
	if !o.DTable.IsZero() {
		dtable = make([]float64, o.DTable.Rows*o.Heads)
	}
	for _, s := range o.Sequences {
		rows := tokens(s)
		for head := range o.Heads {
			c := head * hd
			dk, dv := make([]float64, len(rows)*hd), make([]float64, len(rows)*hd)
			for _, qi := range queries(rows, o.Queries) {
				q, dout := qs[qi.row][c:c+hd], douts[qi.row][c:c+hd]
				lse := float64(o.LSE.Row(qi.row)[head])
				delta := dot(dout, outs[qi.row][c:c+hd])
				dq := make([]float64, hd)
				for j, rj := range rows {
					k, v := ks[rj][c:c+hd], vs[rj][c:c+hd]
					p := math.Exp(logit(q, k, o.Scale, &o.Bias, s, head, qi.place, j) - lse)
					dl := p * (dot(dout, v) - delta)
					for e := range hd {
						dq[e] += float64(o.Scale) * dl * float64(k[e])
						dk[j*hd+e] += float64(o.Scale) * dl * float64(q[e])
						dv[j*hd+e] += p * float64(dout[e])
					}
					if dtable != nil {
						dtable[biasRow(&o.Bias, s, qi.place, j)*o.Heads+head] += dl
					}
				}
				for e, v := range dq {
					save(o.DQ, qi.row, c+e, v)
				}
			}
			for j, rj := range rows {
				for e := range hd {
					save(o.DK, rj, c+e, dk[j*hd+e])
					save(o.DV, rj, c+e, dv[j*hd+e])
				}
			}
		}
	}
	for i, v := range dtable {
		add(&o.DTable.Row(i / o.Heads)[o.Bias.Column+i%o.Heads], v)
	}
	return nil
}
