package ref

import (
	"math"
	"testing"

	"vlmo-train/kernels"
	"vlmo-train/rng"
)

// bench makes operands on a fresh reference device.
type bench struct {
	*testing.T
	kernels.Device
	rng.Source
}

func newBench(t *testing.T, seed uint64) *bench {
	t.Logf("seed %d", seed)
	return &bench{t, New(), rng.New(rng.Key{Seed: seed})}
}

func (b *bench) empty(typ kernels.DType, rows, cols int) kernels.Tensor {
	m, err := b.Alloc(4 * rows * cols)
	if err != nil {
		b.Fatal(err)
	}
	return kernels.Matrix(m, 0, typ, rows, cols)
}

// put makes an operand of the given elements.
func (b *bench) put(rows, cols int, x ...float32) kernels.Tensor {
	t := b.empty(kernels.F32, rows, cols)
	b.Write(t, x)
	return t
}

func (b *bench) ints(x ...int32) kernels.Tensor {
	t := b.empty(kernels.I32, 1, len(x))
	b.Write(t, x)
	return t
}

// normal makes an operand of normal numbers with deviation 1.
func (b *bench) normal(rows, cols int) kernels.Tensor {
	t := b.empty(kernels.F32, rows, cols)
	for i := range t.F32() {
		t.F32()[i] = float32(b.Norm())
	}
	return t
}

// out makes an operand of NaNs, to be overwritten.
func (b *bench) out(rows, cols int) kernels.Tensor {
	t := b.empty(kernels.F32, rows, cols)
	for i := range t.F32() {
		t.F32()[i] = float32(math.NaN())
	}
	return t
}

// run runs ops and stops the test at an error.
func (b *bench) run(ops ...kernels.Op) {
	b.Helper()
	for _, op := range ops {
		b.Run(op)
	}
	if err := b.Sync(); err != nil {
		b.Fatal(err)
	}
}

// Run runs op; it hides testing.T's.
func (b *bench) Run(op kernels.Op) { b.Device.Run(op) }

// Name hides one of two.
func (b *bench) Name() string { return b.T.Name() }

// close wants got within limit of want.
func (b *bench) close(name string, got float32, want, limit float64) {
	b.Helper()
	if e := math.Abs(float64(got) - want); !(e <= limit) {
		b.Errorf("%s = %v, want %v", name, got, want)
	}
}

// against returns Σ cotangent·t.
func against(t, cotangent kernels.Tensor) float64 {
	sum := 0.0
	for i, v := range t.F32() {
		sum += float64(v) * float64(cotangent.F32()[i])
	}
	return sum
}

// A wrt is an input and the gradient that an op gave for it. What the gradient
// held before, where the op adds to it, is start.
type wrt struct {
	name    string
	x, grad kernels.Tensor
	start   float32
}

// checkGrad holds gradients against fourth-order central differences of the
// objective f, which reads the inputs anew. With a step of 1/16 the truncation
// and the rounding of float32 are both near 1e-5 of the gradient.
func (b *bench) checkGrad(f func() float64, inputs ...wrt) {
	b.Helper()
	const h = 1.0 / 16
	for _, in := range inputs {
		x, grad := in.x.F32(), in.grad.F32()
		var e2, w2 float64
		for i, keep := range x {
			at := func(steps float64) float64 {
				x[i] = float32(float64(keep) + steps*h)
				return f()
			}
			want := (8*(at(1)-at(-1)) - (at(2) - at(-2))) / (12 * h)
			x[i] = keep
			e := float64(grad[i]) - float64(in.start) - want
			e2 += e * e
			w2 += want * want
		}
		rel := math.Sqrt(e2 / w2)
		b.Logf("%s: relative error %.1e of %d elements", in.name, rel, len(x))
		if !(rel < 1e-4) {
			b.Errorf("%s: relative error %.2e against finite differences", in.name, rel)
		}
	}
}

// filled makes an operand that is to be added to.
func (b *bench) filled(rows, cols int, v float32) kernels.Tensor {
	t := b.empty(kernels.F32, rows, cols)
	for i := range t.F32() {
		t.F32()[i] = v
	}
	return t
}

// An FFN: gelu(x·w1 + b1)·w2 + b2, with the weights as [out, in].
func TestMatMulGrad(t *testing.T) {
	b := newBench(t, 1)
	const n, d, e = 3, 5, 7
	x, w1, b1, w2, b2 := b.normal(n, d), b.normal(e, d), b.normal(1, e), b.normal(d, e), b.normal(1, d)
	pre, hidden, y, dy := b.out(n, e), b.out(n, e), b.out(n, d), b.normal(n, d)
	f := func() float64 {
		b.run(&kernels.MatMul{A: x, B: w1, TransB: true, C: hidden, Bias: b1, Act: kernels.GELU, Pre: pre},
			&kernels.MatMul{A: hidden, B: w2, TransB: true, C: y, Bias: b2})
		return against(y, dy)
	}
	f()
	dpre, dx := b.out(n, e), b.out(n, d)
	dw1, db1, dw2, db2 := b.filled(e, d, 1), b.filled(1, e, 1), b.filled(d, e, 1), b.filled(1, d, 1)
	b.run(&kernels.MatMul{A: dy, TransA: true, B: hidden, C: dw2, Accumulate: true},
		&kernels.ColumnSum{X: dy, Y: db2},
		&kernels.MatMul{A: dy, B: w2, C: dpre, Act: kernels.GELUGrad, Pre: pre},
		&kernels.MatMul{A: dpre, TransA: true, B: x, C: dw1, Accumulate: true},
		&kernels.ColumnSum{X: dpre, Y: db1},
		&kernels.MatMul{A: dpre, B: w1, C: dx})
	b.checkGrad(f, wrt{"x", x, dx, 0}, wrt{"w1", w1, dw1, 1}, wrt{"b1", b1, db1, 1}, wrt{"w2", w2, dw2, 1}, wrt{"b2", b2, db2, 1})
}

func TestLayerNormGrad(t *testing.T) {
	for _, accumulate := range []bool{false, true} {
		b := newBench(t, 2)
		const n, d = 3, 9
		x, scale, shift := b.normal(n, d), b.normal(1, d), b.normal(1, d)
		y, mean, rstd, dy := b.out(n, d), b.out(1, n), b.out(1, n), b.normal(n, d)
		f := func() float64 {
			b.run(&kernels.LayerNorm{X: x, Scale: scale, Shift: shift, Y: y, Mean: mean, Rstd: rstd, Eps: 0.1})
			return against(y, dy)
		}
		f()
		dx, start := b.out(n, d), float32(0)
		if accumulate {
			dx, start = b.filled(n, d, 2), 2
		}
		dscale, dshift := b.filled(1, d, 1), b.filled(1, d, -1)
		b.run(&kernels.LayerNormGrad{X: x, DY: dy, Scale: scale, Mean: mean, Rstd: rstd, DX: dx, DScale: dscale, DShift: dshift, Accumulate: accumulate})
		b.checkGrad(f, wrt{"x", x, dx, start}, wrt{"scale", scale, dscale, 1}, wrt{"shift", shift, dshift, -1})
	}
}

func TestResidualGrad(t *testing.T) {
	for _, full := range []bool{false, true} {
		b := newBench(t, 3)
		const n, d = 4, 6
		x, y, z, dz, dy := b.normal(n, d), b.normal(n, d), b.out(n, d), b.normal(n, d), b.out(n, d)
		var gamma, keep, dgamma kernels.Tensor
		inputs := []wrt{{"x", x, dz, 0}, {"y", y, dy, 0}}
		if full {
			gamma, keep, dgamma = b.normal(1, d), b.put(1, n, 1.25, 0, 1.25, 1.25), b.filled(1, d, 1)
			inputs = append(inputs, wrt{"gamma", gamma, dgamma, 1})
		}
		b.run(&kernels.ResidualGrad{DZ: dz, Y: y, Gamma: gamma, Keep: keep, DY: dy, DGamma: dgamma})
		b.checkGrad(func() float64 {
			b.run(&kernels.Residual{X: x, Y: y, Gamma: gamma, Keep: keep, Z: z})
			return against(z, dz)
		}, inputs...)
	}
}

func TestResidualNormGrad(t *testing.T) {
	b := newBench(t, 5)
	const n, d = 5, 7
	rows, normRows := b.ints(3, 0, 1), b.ints(4, 1, 3, 2)
	x, y, gamma, keep := b.normal(n, d), b.normal(3, d), b.normal(1, d), b.put(1, 3, 1.25, 0, 1.25)
	scale, shift, scale2, shift2 := b.normal(1, d), b.normal(1, d), b.normal(1, d), b.normal(1, d)
	z, h, mean, rstd := b.out(n, d), b.out(4, d), b.out(1, 4), b.out(1, 4)
	dz, dh := b.normal(n, d), b.normal(4, d)
	seed := b.out(n, d) // the gradient of Z but for its norms
	b.run(&kernels.Copy{X: dz, Y: seed})
	f := func() float64 {
		b.run(&kernels.ResidualNorm{Residual: kernels.Residual{X: x, Rows: rows, Y: y, Gamma: gamma, Keep: keep, Z: z}, NormRows: normRows, H: h, Mean: mean, Rstd: rstd, Eps: 0.1,
			Parts: [3]kernels.NormPart{{Rows: 1, Scale: scale, Shift: shift}, {}, {Rows: 3, Scale: scale2, Shift: shift2}}})
		return against(z, seed) + against(h, dh)
	}
	f()
	dy, dgamma := b.out(3, d), b.filled(1, d, 1)
	dscale, dshift, dscale2, dshift2 := b.filled(1, d, 1), b.filled(1, d, 2), b.filled(1, d, 3), b.filled(1, d, 4)
	b.run(&kernels.ResidualNormGrad{ResidualGrad: kernels.ResidualGrad{DZ: dz, Rows: rows, Y: y, Gamma: gamma, Keep: keep, DY: dy, DGamma: dgamma},
		Z: z, NormRows: normRows, DH: dh, Mean: mean, Rstd: rstd,
		Parts: [3]kernels.NormGradPart{{Rows: 1, Scale: scale, DScale: dscale, DShift: dshift}, {}, {Rows: 3, Scale: scale2, DScale: dscale2, DShift: dshift2}}})
	b.checkGrad(f, wrt{"x", x, dz, 0}, wrt{"y", y, dy, 0}, wrt{"gamma", gamma, dgamma, 1}, wrt{"scale", scale, dscale, 1}, wrt{"shift", shift, dshift, 2},
		wrt{"scale of the last part", scale2, dscale2, 3}, wrt{"its shift", shift2, dshift2, 4})
}

func TestScatterAddGrad(t *testing.T) {
	for _, accumulate := range []bool{false, true} {
		b := newBench(t, 4)
		const v, d = 5, 3
		table, index := b.normal(v, d), b.ints(4, 1, -1, 4, 0, 4)
		y, dy, dtable := b.filled(6, d, 0.5), b.normal(6, d), b.filled(v, d, 1)
		b.run(&kernels.ScatterAdd{Y: dy, Index: index, Table: dtable})
		b.checkGrad(func() float64 {
			b.run(&kernels.Fill{Y: y, Value: 0.5}, &kernels.Gather{Table: table, Index: index, Y: y, Accumulate: accumulate})
			return against(y, dy)
		}, wrt{"table", table, dtable, 1})
	}
}

// The element-wise ops and Normalize: forward, then backward in place.
func TestUnaryGrad(t *testing.T) {
	const n, d = 4, 7
	b := newBench(t, 5)
	y, norm, rows := b.out(n, d), b.out(1, n), b.ints(5, -1, 9, 7)
	drop := func(x, y kernels.Tensor) kernels.Op {
		return &kernels.Dropout{X: x, Row: rows, Y: y, Rate: 0.4, Key: [2]uint32{1, 2}}
	}
	for _, op := range []struct {
		name     string
		forward  func(x kernels.Tensor) kernels.Op
		backward func(x, dx kernels.Tensor) kernels.Op
	}{
		{"Tanh", func(x kernels.Tensor) kernels.Op { return &kernels.Tanh{X: x, Y: y} },
			func(x, dx kernels.Tensor) kernels.Op { return &kernels.TanhGrad{Y: y, DY: dx, DX: dx} }},
		{"Gelu", func(x kernels.Tensor) kernels.Op { return &kernels.Gelu{X: x, Y: y} },
			func(x, dx kernels.Tensor) kernels.Op { return &kernels.GeluGrad{X: x, DY: dx, DX: dx} }},
		{"Normalize", func(x kernels.Tensor) kernels.Op { return &kernels.Normalize{X: x, Y: y, Norm: norm} },
			func(x, dx kernels.Tensor) kernels.Op {
				return &kernels.NormalizeGrad{Y: y, DY: dx, Norm: norm, DX: dx}
			}},
		{"Dropout", func(x kernels.Tensor) kernels.Op { return drop(x, y) },
			func(x, dx kernels.Tensor) kernels.Op { return drop(dx, dx) }},
	} {
		x, dy, dx := b.normal(n, d), b.normal(n, d), b.empty(kernels.F32, n, d)
		copy(dx.F32(), dy.F32())
		b.run(op.forward(x), op.backward(x, dx))
		b.checkGrad(func() float64 {
			b.run(op.forward(x))
			return against(y, dy)
		}, wrt{op.name, x, dx, 0})
	}
}

func TestAttentionGrad(t *testing.T) {
	b := newBench(t, 6)
	const heads, hd, n = 2, 3, 14
	const d = heads * hd
	bias := kernels.RelativeBias{Window: 2, Text: 4, Column: 2}
	bias.Table = b.normal(bias.Rows(), 3*heads)
	// Both modalities, text alone, image alone; row 3 belongs to nothing.
	seqs := []kernels.Sequence{{TextOff: 0, TextLen: 3, ImageOff: 6, ImageLen: 5}, {TextOff: 4, TextLen: 2}, {ImageOff: 11, ImageLen: 3}}
	for _, list := range []kernels.Tensor{{}, b.ints(0, 2, 3, 5, 6, 9, 13)} {
		m := n
		if !list.IsZero() {
			m = list.Cols
		}
		q, kv := b.normal(m, d), b.normal(n, 2*d)
		out, lse, dout := b.filled(m, d, 0), b.out(m, heads), b.normal(m, d)
		f := func() float64 {
			b.run(&kernels.Attention{Q: q, K: kv.Columns(0, d), V: kv.Columns(d, 2*d), Queries: list, Heads: heads, Scale: 0.6,
				Sequences: seqs, Bias: bias, Out: out, LSE: lse})
			return against(out, dout)
		}
		f()
		dq, dkv, dtable := b.filled(m, d, 0), b.filled(n, 2*d, 0), b.filled(bias.Table.Rows, bias.Table.Cols, 1)
		b.run(&kernels.AttentionGrad{Q: q, K: kv.Columns(0, d), V: kv.Columns(d, 2*d), Queries: list, Out: out, DOut: dout, LSE: lse,
			Heads: heads, Scale: 0.6, Sequences: seqs, Bias: bias, DQ: dq, DK: dkv.Columns(0, d), DV: dkv.Columns(d, 2*d), DTable: dtable})
		b.checkGrad(f, wrt{"q", q, dq, 0}, wrt{"kv", kv, dkv, 0}, wrt{"table", bias.Table, dtable, 1})
	}
}

func TestLossGrad(t *testing.T) {
	const n, d, weight = 3, 5, 0.7
	b := newBench(t, 7)
	x, target, dx := b.normal(n, d), b.put(n, d, make([]float32, n*d)...), b.out(n, d)
	for i := range target.F32() {
		target.F32()[i] = b.Float32()
	}
	label := b.ints(4, 0, 4)
	for name, op := range map[string]func(loss, dx kernels.Tensor) kernels.Op{
		"CrossEntropy": func(loss, dx kernels.Tensor) kernels.Op {
			return &kernels.CrossEntropy{Logits: x, Label: label, Weight: weight, Loss: loss, DLogits: dx}
		},
		"BinaryCrossEntropy": func(loss, dx kernels.Tensor) kernels.Op {
			return &kernels.BinaryCrossEntropy{Logits: x, Target: target, Weight: weight, Loss: loss, DLogits: dx}
		},
		"SquaredError": func(loss, dx kernels.Tensor) kernels.Op {
			return &kernels.SquaredError{X: x, Target: target, Weight: weight, Loss: loss, DX: dx}
		},
	} {
		b.run(op(b.filled(1, 1, 0), dx))
		b.checkGrad(func() float64 {
			loss := b.filled(1, 1, 0)
			b.run(op(loss, kernels.Tensor{}))
			return float64(loss.F32()[0])
		}, wrt{name, x, dx, 0})
	}
}

func TestContrastGrad(t *testing.T) {
	for _, accumulate := range []bool{false, true} {
		b := newBench(t, 8)
		const n, d = 4, 6
		x, logScale, dlog := b.normal(n, d), b.put(1, 1, 0.6), b.filled(1, 1, 2)
		rows, cols := b.ints(0, 1, 2, 2), b.ints(0, 1, 2, 2, 1, 7)
		dx, start := b.out(n, d), float32(0)
		if accumulate {
			dx, start = b.filled(n, d, 1), 1
		}
		op := kernels.Contrast{Dot: x, LogScale: logScale, RowGroup: rows, ColGroup: cols, Weight: 0.7}
		f := func() float64 {
			o := op
			o.Loss = b.filled(1, 1, 0)
			b.run(&o)
			return float64(o.Loss.F32()[0])
		}
		g := op
		g.Loss, g.DDot, g.DLogScale, g.Accumulate = b.filled(1, 1, 0), dx, dlog, accumulate
		b.run(&g)
		b.checkGrad(f, wrt{"dot", x, dx, start}, wrt{"log scale", logScale, dlog, 2})
	}
}
