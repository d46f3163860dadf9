package cpu

import (
	"fmt"
	"math"
	"sort"
	"testing"
	"time"

	"vlmo-train/kernels"
	"vlmo-train/rng"
)

// lab makes tensors with normal numbers.
type lab struct {
	testing.TB
	dev kernels.Device
	rng rng.Source
}

func newLab(t testing.TB, threads int, isa string) *lab {
	dev, err := New(Options{Threads: threads, ISA: isa})
	if err != nil {
		t.Fatal(err)
	}
	return &lab{t, dev, rng.New(rng.Key{Seed: 1})}
}

func (l *lab) tensor(typ kernels.DType, rows, cols int) kernels.Tensor {
	m, err := l.dev.Alloc(rows * cols * typ.Size())
	if err != nil {
		l.Fatal(err)
	}
	return kernels.Matrix(m, 0, typ, rows, cols)
}

// normal returns a tensor of normal numbers.
func (l *lab) normal(rows, cols int) kernels.Tensor {
	t := l.tensor(kernels.F32, rows, cols)
	x := t.F32()
	for i := range x {
		x[i] = float32(l.rng.Norm())
	}
	return t
}

// ints returns n integers, the i-th being f(i).
func (l *lab) ints(n int, f func(i int) int) kernels.Tensor {
	t := l.tensor(kernels.I32, 1, n)
	for i := range n {
		t.I32()[i] = int32(f(i))
	}
	return t
}

func (l *lab) run(ops ...kernels.Op) {
	for _, op := range ops {
		l.dev.Run(op)
	}
	if err := l.dev.Sync(); err != nil {
		l.Fatal(err)
	}
}

// bench reports the speed of the fastest run, which tells more than the mean
// on a machine with other work.
func bench(b *testing.B, l *lab, ops ...kernels.Op) {
	l.run(ops...)
	best := math.Inf(1)
	for b.Loop() {
		start := time.Now()
		for _, op := range ops {
			l.dev.Run(op)
		}
		best = min(best, time.Since(start).Seconds())
	}
	var flops, bytes int64
	for _, op := range ops {
		flops += op.FLOPs()
		bytes += op.Bytes()
	}
	b.ReportMetric(float64(flops)/best/1e9, "GFLOP/s")
	b.ReportMetric(float64(bytes)/best/1e9, "GB/s")
}

// BenchmarkPeak is the inner loop alone, on data in the first-level cache:
// about what the core can do.
func BenchmarkPeak(b *testing.B) {
	for _, s := range available() {
		gemm, products := s.gemm, 1
		if s.gemmPairs != nil {
			gemm, products = s.gemmPairs, 2
		}
		b.Run(s.name, func(b *testing.B) {
			const k, n = 256, 100
			x := make([]float32, (k+s.nr)*(s.mr+s.nr))
			for i := range x {
				x[i] = math.Float32frombits(0x3ebd3ebd)
			}
			best := math.Inf(1)
			for b.Loop() {
				start := time.Now()
				for range n {
					gemm(k, &x[0], 1, s.mr, &x[k*s.mr], &x[k*(s.mr+s.nr)], s.nr, false)
				}
				best = min(best, time.Since(start).Seconds())
			}
			b.ReportMetric(float64(2*products*n*k*s.mr*s.nr)/best/1e9, "GFLOP/s")
		})
	}
}

// BenchmarkLoops is the loops with long chains of instructions, on data in the
// first-level cache.
func BenchmarkLoops(b *testing.B) {
	const n, repeat = 512, 20
	l := newLab(b, 1, "")
	x, y, z := l.normal(1, n).F32(), l.normal(1, n).F32(), make([]float32, n)
	h, h2 := make([]uint16, n), make([]uint16, n)
	for _, s := range available() {
		if s == &generic {
			continue
		}
		for _, c := range []struct {
			name string
			f    func()
		}{
			{"gelu", func() { s.gelu(z, x) }},
			{"geluGrad", func() { s.geluGrad(z, x, y) }},
			{"biasGelu", func() { copy(z, x); s.biasGelu(z, z, y) }},
			{"biasGeluHalf", func() { s.biasGeluHalf(h, h2, x, y) }},
			{"geluGradHalf", func() { s.geluGradHalf(h, x, h2) }},
			{"narrow", func() { s.narrow(h, x) }},
			{"narrowAdd", func() { s.narrowAdd(h, x, y) }},
			{"expSum", func() { s.expSum(z, x, 3) }},
			{"tanh", func() { s.tanh(z, x) }},
			{"softmaxRows", func() { copy(z, x); s.softmaxRows(&z[0], n/2, &y[0], 0, 2, n/2, 0.1, &y[0], &y[2]) }},
			{"layerNorm", func() { s.layerNorm(z, x, y, y, 1e-6) }},
		} {
			b.Run(c.name+"/"+s.name, func(b *testing.B) {
				best := math.Inf(1)
				for b.Loop() {
					start := time.Now()
					for range repeat {
						c.f()
					}
					best = min(best, time.Since(start).Seconds())
				}
				b.ReportMetric(best/repeat/n*1e9, "ns/element")
			})
		}
	}
}

// each runs f as a sub-benchmark for every instruction set and 1 and 2 threads.
func each(b *testing.B, f func(b *testing.B, l *lab)) {
	for _, s := range available() {
		if s == &generic {
			continue
		}
		for threads := 1; threads <= 2; threads++ {
			b.Run(fmt.Sprintf("%s/%d", s.name, threads), func(b *testing.B) { f(b, newLab(b, threads, s.name)) })
		}
	}
}

func BenchmarkMatMul(b *testing.B) {
	for _, c := range []struct {
		m, n, k        int
		transA, transB bool
		act            kernels.Activation
	}{
		{5888, 512, 128, false, true, kernels.None},
		{5888, 512, 128, false, true, kernels.GELU},
		{5888, 128, 512, false, true, kernels.None},
		{5888, 384, 128, false, true, kernels.None},
		{5888, 128, 512, false, false, kernels.None},
		{5888, 512, 128, false, false, kernels.GELUGrad},
		{512, 128, 5888, true, false, kernels.None},
		{128, 512, 5888, true, false, kernels.None},
		{2048, 3072, 768, false, true, kernels.None},
		{2048, 768, 3072, false, true, kernels.None},
		{768, 768, 2048, true, false, kernels.None},
		{64, 64, 64, false, true, kernels.None},
	} {
		name := fmt.Sprintf("%dx%dx%d", c.m, c.n, c.k)
		if c.transA {
			name += "T"
		}
		if c.transB {
			name += "t"
		}
		name += []string{"", "GELU", "GELUGrad"}[c.act]
		b.Run(name, func(b *testing.B) {
			each(b, func(b *testing.B, l *lab) {
				o := &kernels.MatMul{A: l.normal(c.m, c.k), B: l.normal(c.k, c.n), C: l.tensor(kernels.F32, c.m, c.n),
					TransA: c.transA, TransB: c.transB, Act: c.act}
				if c.transA {
					o.A = o.A.Reshape(c.k, c.m)
				}
				if c.transB {
					o.B = o.B.Reshape(c.n, c.k)
				}
				if c.act != kernels.None {
					o.Pre = l.normal(c.m, c.n)
				}
				if c.act == kernels.GELU {
					o.Bias = l.normal(1, c.n)
				}
				bench(b, l, o)
			})
		})
	}
}

// half returns t's numbers as bfloat16s.
func (l *lab) half(t kernels.Tensor) kernels.Tensor {
	h := l.tensor(kernels.BF16, t.Rows, t.Cols)
	l.run(&kernels.Copy{X: t, Y: h})
	return h
}

// BenchmarkMatMulBF16 is the products of a block of VLMo-Base over 4,000 rows,
// forward, and of the gradients of data and weights, with results as the
// model has them.
func BenchmarkMatMulBF16(b *testing.B) {
	for _, c := range []struct {
		m, n, k        int
		transA, transB bool
		act            kernels.Activation
	}{
		{4000, 2304, 768, false, true, kernels.None},
		{4000, 3072, 768, false, true, kernels.GELU},
		{4000, 768, 3072, false, true, kernels.None},
		{4000, 768, 768, false, true, kernels.None},
		{96, 3072, 768, false, true, kernels.GELU},
		{4000, 3072, 768, false, false, kernels.GELUGrad},
		{4000, 768, 3072, false, false, kernels.None},
		{4000, 768, 2304, false, false, kernels.None},
		{3072, 768, 4000, true, false, kernels.None},
		{768, 3072, 4000, true, false, kernels.None},
		{2304, 768, 4000, true, false, kernels.None},
	} {
		name := fmt.Sprintf("%dx%dx%d", c.m, c.n, c.k)
		if c.transA {
			name += "T"
		}
		if c.transB {
			name += "t"
		}
		name += []string{"", "GELU", "GELUGrad"}[c.act]
		b.Run(name, func(b *testing.B) {
			each(b, func(b *testing.B, l *lab) {
				o := &kernels.MatMul{A: l.half(l.normal(c.m, c.k)), B: l.half(l.normal(c.k, c.n)), TransA: c.transA, TransB: c.transB, Act: c.act}
				if c.transA {
					o.A, o.C, o.Accumulate = o.A.Reshape(c.k, c.m), l.normal(c.m, c.n), true
				} else {
					o.C = l.tensor(kernels.BF16, c.m, c.n)
				}
				if c.transB {
					o.B = o.B.Reshape(c.n, c.k)
				}
				if c.act != kernels.None {
					o.Pre = l.half(l.normal(c.m, c.n))
				}
				if c.act == kernels.GELU {
					o.Bias = l.normal(1, c.n)
				}
				bench(b, l, o)
			})
		})
	}
}

// BenchmarkMatMulCold is the products of a block of a model with 192 features
// over 12,288 rows, each time with other operands, which no cache holds.
func BenchmarkMatMulCold(b *testing.B) {
	const rows, d, hidden, sets = 12288, 192, 768, 4
	l := newLab(b, 2, "")
	type set struct{ x, h, pre, w, b, dw kernels.Tensor }
	var all [sets]set
	for i := range all {
		all[i] = set{l.normal(rows, d), l.normal(rows, hidden), l.normal(rows, hidden), l.normal(hidden, d), l.normal(1, hidden), l.normal(hidden, d)}
	}
	square := l.normal(d, d)
	qkv := func(t kernels.Tensor, n int) kernels.Tensor { t.Cols = n; return t }
	for _, c := range []struct {
		name string
		op   func(s *set) *kernels.MatMul
	}{
		{"fc1", func(s *set) *kernels.MatMul {
			return &kernels.MatMul{A: s.x, B: s.w, TransB: true, C: s.h, Bias: s.b, Act: kernels.GELU, Pre: s.pre}
		}},
		{"qkv", func(s *set) *kernels.MatMul {
			w := s.w
			w.Rows = 3 * d
			return &kernels.MatMul{A: s.x, B: w, TransB: true, C: qkv(s.h, 3*d)}
		}},
		{"fc2", func(s *set) *kernels.MatMul { return &kernels.MatMul{A: s.h, B: s.w, C: s.x} }},
		{"proj", func(s *set) *kernels.MatMul {
			return &kernels.MatMul{A: s.x, B: square, C: s.pre.Reshape(rows*hidden/d, d).Slice(0, rows)}
		}},
		{"fc2/data", func(s *set) *kernels.MatMul {
			return &kernels.MatMul{A: s.x, B: s.w, TransB: true, C: s.h, Act: kernels.GELUGrad, Pre: s.pre}
		}},
		{"fc1/data", func(s *set) *kernels.MatMul { return &kernels.MatMul{A: s.h, B: s.w, C: s.x} }},
		{"fc1/weight", func(s *set) *kernels.MatMul {
			return &kernels.MatMul{A: s.h, TransA: true, B: s.x, C: s.dw, Accumulate: true, Sum: s.b}
		}},
		{"fc2/weight", func(s *set) *kernels.MatMul {
			return &kernels.MatMul{A: s.x, TransA: true, B: s.h, C: s.dw.Reshape(d, hidden), Accumulate: true}
		}},
		{"proj/weight", func(s *set) *kernels.MatMul {
			return &kernels.MatMul{A: s.x, TransA: true, B: s.pre.Reshape(rows*hidden/d, d).Slice(0, rows), C: square, Accumulate: true}
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			var took []float64
			for i := 0; b.Loop(); i++ {
				op := c.op(&all[i%sets])
				start := time.Now()
				l.run(op)
				took = append(took, time.Since(start).Seconds())
			}
			sort.Float64s(took)
			b.ReportMetric(float64(c.op(&all[0]).FLOPs())/took[len(took)/2]/1e9, "GFLOP/s")
		})
	}
}

// attentionOps is a batch of n sequences, each of text and image tokens.
func attentionOps(l *lab, n, text, image, heads, d int) (*kernels.Attention, *kernels.AttentionGrad) {
	rows := n * (text + image)
	var seqs []kernels.Sequence
	for i := range n {
		seqs = append(seqs, kernels.Sequence{TextOff: i * text, TextLen: text, ImageOff: n*text + i*image, ImageLen: image})
	}
	rel := kernels.RelativeBias{Window: int(math.Sqrt(float64(image - 1))), Text: text}
	rel.Table = l.normal(rel.Rows(), heads)
	qkv, dqkv := l.normal(rows, 3*d), l.normal(rows, 3*d)
	f := &kernels.Attention{Q: qkv.Columns(0, d), K: qkv.Columns(d, 2*d), V: qkv.Columns(2*d, 3*d), Heads: heads,
		Scale: float32(1 / math.Sqrt(float64(d/heads))), Sequences: seqs, Bias: rel, Out: l.normal(rows, d), LSE: l.normal(rows, heads)}
	g := &kernels.AttentionGrad{Q: f.Q, K: f.K, V: f.V, Out: f.Out, DOut: l.normal(rows, d), LSE: f.LSE, Heads: heads, Scale: f.Scale,
		Sequences: seqs, Bias: rel, DQ: dqkv.Columns(0, d), DK: dqkv.Columns(d, 2*d), DV: dqkv.Columns(2*d, 3*d),
		DTable: l.normal(rel.Rows(), heads)}
	return f, g
}

// attentionHalves is the same in BF16.
func attentionHalves(l *lab, f *kernels.Attention, g *kernels.AttentionGrad) [2]kernels.Op {
	a, b := *f, *g
	a.Q, a.K, a.V, a.Out = l.half(f.Q), l.half(f.K), l.half(f.V), l.half(f.Out)
	b.Q, b.K, b.V, b.Out, b.DOut = a.Q, a.K, a.V, a.Out, l.half(g.DOut)
	b.DQ, b.DK, b.DV = l.half(g.DQ), l.half(g.DK), l.half(g.DV)
	return [2]kernels.Op{&a, &b}
}

func BenchmarkAttention(b *testing.B) {
	for _, c := range []struct{ n, text, image, heads, d int }{{256, 6, 17, 4, 128}, {64, 16, 65, 3, 192}, {8, 40, 197, 12, 768}} {
		b.Run(fmt.Sprintf("%dx%d", c.n, c.text+c.image), func(b *testing.B) {
			each(b, func(b *testing.B, l *lab) {
				f, g := attentionOps(l, c.n, c.text, c.image, c.heads, c.d)
				halves := attentionHalves(l, f, g)
				b.Run("ForwardBF16", func(b *testing.B) { bench(b, l, halves[0]) })
				b.Run("BackwardBF16", func(b *testing.B) { bench(b, l, halves[1]) })
				b.Run("Forward", func(b *testing.B) { bench(b, l, f) })
				b.Run("Backward", func(b *testing.B) { bench(b, l, g) })
			})
		})
	}
}

func BenchmarkRows(b *testing.B) {
	const r, d = 5888, 128
	each(b, func(b *testing.B, l *lab) {
		x, y, z := l.normal(r, d), l.normal(r, d), l.normal(r, d)
		v, w, dv, dw := l.normal(1, d), l.normal(1, d), l.normal(1, d), l.normal(1, d)
		mean, rstd := l.normal(1, r), l.normal(1, r)
		for _, op := range []kernels.Op{
			&kernels.LayerNorm{X: x, Scale: v, Shift: w, Y: y, Mean: mean, Rstd: rstd, Eps: 1e-6},
			&kernels.LayerNormGrad{X: x, DY: z, Scale: v, Mean: mean, Rstd: rstd, DX: y, DScale: dv, DShift: dw},
			&kernels.ColumnSum{X: x, Y: dv},
			&kernels.Residual{X: x, Y: y, Gamma: v, Keep: rstd, Z: z},
			&kernels.ResidualGrad{DZ: x, Y: y, Gamma: v, Keep: rstd, DY: z, DGamma: dv},
			&kernels.Gelu{X: x, Y: y},
			&kernels.GeluGrad{X: x, DY: z, DX: y},
			&kernels.Tanh{X: x, Y: y},
			&kernels.Dropout{X: x, Row: l.ints(r, func(i int) int { return i }), Y: y, Rate: 0.1},
			&kernels.SumSquares{X: x, Y: l.normal(1, 1)},
			&kernels.AdamW{P: x.Reshape(1, r*d), M: y.Reshape(1, r*d), V: l.tensor(kernels.F32, 1, r*d), Grad: z.Reshape(1, r*d),
				Rate: 1e-3, Beta1: 0.9, Beta2: 0.98, Eps: 1e-8, GradScale: 1, Step: 1},
			&kernels.CrossEntropy{Logits: l.normal(128, 5888), Label: l.ints(128, func(i int) int { return i }),
				Weight: 1, Loss: l.normal(1, 1), DLogits: l.normal(128, 5888)},
		} {
			b.Run(op.Name(), func(b *testing.B) { bench(b, l, op) })
		}
	})
}

// versus runs op and the ops that it stands for in turn, since other work on the
// machine comes and goes, and reports the medians and their ratio.
func versus(b *testing.B, l *lab, op kernels.Op, parts ...kernels.Op) {
	var took [2][]float64
	sides := [2][]kernels.Op{{op}, parts}
	for b.Loop() {
		for i, ops := range sides {
			start := time.Now()
			l.run(ops...)
			took[i] = append(took[i], 1e3*time.Since(start).Seconds())
		}
	}
	for i := range took {
		sort.Float64s(took[i])
	}
	one, more := took[0][len(took[0])/2], took[1][len(took[1])/2]
	b.ReportMetric(one, "ms/one")
	b.ReportMetric(more, "ms/parts")
	b.ReportMetric(one/more, "one/parts")
}

// BenchmarkResidualNorm has the rows of VLMo-Base: the op and its backward pass
// beside the ops that they stand for.
func BenchmarkResidualNorm(b *testing.B) {
	const r, d = 4096, 768
	each(b, func(b *testing.B, l *lab) {
		for _, typ := range []kernels.DType{kernels.F32, kernels.BF16} {
			as := func() kernels.Tensor {
				y := l.tensor(typ, r, d)
				l.run(&kernels.Copy{X: l.normal(r, d), Y: y})
				return y
			}
			v := func() kernels.Tensor { return l.normal(1, d) }
			f := &kernels.ResidualNorm{Residual: kernels.Residual{X: l.normal(r, d), Y: as(), Gamma: v(), Z: l.normal(r, d)}, H: as(),
				Mean: l.normal(1, r), Rstd: l.normal(1, r), Eps: 1e-6, Parts: [3]kernels.NormPart{{Rows: r, Scale: v(), Shift: v()}}}
			norm := f.Norm(0)
			b.Run(typ.String()+"/Forward", func(b *testing.B) { versus(b, l, f, &f.Residual, &norm) })
			g := &kernels.ResidualNormGrad{ResidualGrad: kernels.ResidualGrad{DZ: l.normal(r, d), Y: f.Y, Gamma: f.Gamma, DY: as(), DGamma: v()},
				Z: f.Z, DH: f.H, Mean: f.Mean, Rstd: f.Rstd, Parts: [3]kernels.NormGradPart{{Rows: r, Scale: v(), DScale: v(), DShift: v()}}}
			normGrad := g.Norm(0)
			b.Run(typ.String()+"/Backward", func(b *testing.B) { versus(b, l, g, &normGrad, &g.ResidualGrad) })
		}
	})
}
