package ref

import (
	"math"

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

func attention(o *kernels.Attention) {
	d := o.QKV.Cols / 3
	hd := d / o.Heads
	for _, s := range o.Sequences {
		rows := tokens(s)
		logits := make([]float64, len(rows))
		for head := range o.Heads {
			c := head * hd
			for i, ri := range rows {
				q := o.QKV.Row(ri)[c : c+hd]
				top := math.Inf(-1)
				for j, rj := range rows {
					k := o.QKV.Row(rj)[d+c : d+c+hd]
					logits[j] = logit(q, k, o.Scale, &o.Bias, s, head, i, j)
					top = max(top, logits[j])
				}
				sum := 0.0
				for _, l := range logits {
					sum += math.Exp(l - top)
				}
				lse := top + math.Log(sum)
				o.LSE.Row(ri)[head] = float32(lse)
				acc := make([]float64, hd)
				for j, rj := range rows {
					p := math.Exp(logits[j] - lse)
					for e, v := range o.QKV.Row(rj)[2*d+c : 2*d+c+hd] {
						acc[e] += p * float64(v)
					}
				}
				out := o.Out.Row(ri)[c : c+hd]
				for e := range out {
					out[e] = float32(acc[e])
				}
			}
		}
	}
}

// attentionGrad: with p = exp(logit − lse), dp = dOut·v and
// dl = p·(dp − dOut·out), the gradients are dv += p·dOut, dq += Scale·dl·k,
// dk += Scale·dl·q and, for the bias, dl itself.
func attentionGrad(o *kernels.AttentionGrad) {
	d := o.QKV.Cols / 3
	hd := d / o.Heads
	var dtable []float64 // [A, heads], of this layer
	if !o.DTable.IsZero() {
		dtable = make([]float64, o.DTable.Rows*o.Heads)
	}
	for _, s := range o.Sequences {
		rows := tokens(s)
		for head := range o.Heads {
			c := head * hd
			grad := make([][3][]float64, len(rows)) // of q, k, v
			for i := range grad {
				grad[i] = [3][]float64{make([]float64, hd), make([]float64, hd), make([]float64, hd)}
			}
			for i, ri := range rows {
				q := o.QKV.Row(ri)[c : c+hd]
				dout := o.DOut.Row(ri)[c : c+hd]
				lse := float64(o.LSE.Row(ri)[head])
				delta := dot(dout, o.Out.Row(ri)[c:c+hd])
				for j, rj := range rows {
					k := o.QKV.Row(rj)[d+c : d+c+hd]
					v := o.QKV.Row(rj)[2*d+c : 2*d+c+hd]
					p := math.Exp(logit(q, k, o.Scale, &o.Bias, s, head, i, j) - lse)
					dl := p * (dot(dout, v) - delta)
					for e := range hd {
						grad[i][0][e] += float64(o.Scale) * dl * float64(k[e])
						grad[j][1][e] += float64(o.Scale) * dl * float64(q[e])
						grad[j][2][e] += p * float64(dout[e])
					}
					if dtable != nil {
						dtable[biasRow(&o.Bias, s, i, j)*o.Heads+head] += dl
					}
				}
			}
			for i, ri := range rows {
				dqkv := o.DQKV.Row(ri)
				for part, g := range grad[i] {
					for e, v := range g {
						dqkv[part*d+c+e] = float32(v)
					}
				}
			}
		}
	}
	for i, v := range dtable {
		add(&o.DTable.Row(i / o.Heads)[o.Bias.Column+i%o.Heads], v)
	}
}
