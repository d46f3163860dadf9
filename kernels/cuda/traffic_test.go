//go:build cuda

package cuda

import (
	"math"
	"strings"
	"testing"

	"vlmo-train/kernels"
	"vlmo-train/kernels/cuda/emu"
	"vlmo-train/rng"
)

// traffic makes the operands of an op in VLMo-Base's shapes, each in memory of
// its own.
type traffic struct {
	t   *testing.T
	d   *device
	src rng.Source
}

func (g *traffic) tensor(typ kernels.DType, rows, cols int) kernels.Tensor {
	m, err := g.d.Alloc(rows * cols * typ.Size())
	if err != nil {
		g.t.Fatal(err)
	}
	x := kernels.Matrix(m, 0, typ, rows, cols)
	floats, halves := make([]float32, rows*cols), make([]uint16, rows*cols)
	for i := range floats {
		floats[i] = g.src.Float32()
		halves[i] = kernels.RoundBF16(floats[i])
	}
	switch typ {
	case kernels.BF16:
		g.d.Write(x, halves)
	case kernels.U8:
		g.d.Write(x, make([]byte, len(floats)))
	default:
		g.d.Write(x, floats)
	}
	return x
}

func (g *traffic) f32(rows, cols int) kernels.Tensor { return g.tensor(kernels.F32, rows, cols) }
func (g *traffic) u8(rows, cols int) kernels.Tensor  { return g.tensor(kernels.U8, rows, cols) }
func (g *traffic) b16(rows, cols int) kernels.Tensor { return g.tensor(kernels.BF16, rows, cols) }

// count runs op and returns what its launches did.
func (g *traffic) count(op kernels.Op) []emu.Counters {
	g.d.Sync()
	return emu.Count(func() {
		g.d.Run(op)
		g.d.Sync()
	})
}

// index makes n indices, f(i) the i-th.
func (g *traffic) index(n int, f func(i int) int) kernels.Tensor {
	m, err := g.d.Alloc(4 * n)
	if err != nil {
		g.t.Fatal(err)
	}
	x, v := kernels.Matrix(m, 0, kernels.I32, 1, n), make([]int32, n)
	for i := range v {
		v[i] = int32(f(i))
	}
	g.d.Write(x, v)
	return x
}

// residualNorm is what joins the halves of a block of text and image experts.
func (g *traffic) residualNorm(n, c int, rows, normRows kernels.Tensor) *kernels.ResidualNorm {
	r, normed := n, n
	var keep kernels.Tensor
	if !rows.IsZero() {
		r, keep = rows.Cols, g.f32(1, rows.Cols)
	}
	if !normRows.IsZero() {
		normed = normRows.Cols
	}
	o := &kernels.ResidualNorm{Residual: kernels.Residual{X: g.f32(n, c), Rows: rows, Y: g.b16(r, c), Gamma: g.f32(1, c), Keep: keep, Z: g.f32(n, c)},
		NormRows: normRows, H: g.b16(normed, c), Mean: g.f32(1, normed), Rstd: g.f32(1, normed), Eps: 1e-6}
	o.Parts[0] = kernels.NormPart{Rows: normed / 5, Scale: g.f32(1, c), Shift: g.f32(1, c)}
	o.Parts[2] = kernels.NormPart{Rows: normed - normed/5, Scale: g.f32(1, c), Shift: g.f32(1, c)}
	return o
}

// residualNormGrad is the backward pass of residualNorm.
func (g *traffic) residualNormGrad(n, c int, rows, normRows kernels.Tensor) *kernels.ResidualNormGrad {
	f := g.residualNorm(n, c, rows, normRows)
	r := f.Y.Rows
	o := &kernels.ResidualNormGrad{ResidualGrad: kernels.ResidualGrad{DZ: f.X, Rows: rows, Y: f.Y, Gamma: f.Gamma, Keep: f.Keep, DY: g.b16(r, c), DGamma: g.f32(1, c)},
		Z: f.Z, NormRows: normRows, DH: f.H, Mean: f.Mean, Rstd: f.Rstd}
	for i, p := range f.Parts {
		o.Parts[i] = kernels.NormGradPart{Rows: p.Rows, Scale: p.Scale}
		if p.Rows > 0 {
			o.Parts[i].DScale, o.Parts[i].DShift = g.f32(1, c), g.f32(1, c)
		}
	}
	return o
}

const (
	trafficRows  = 2 * (40 + 197) // two samples of text and image
	trafficCols  = 768
	trafficHeads = 2 // of 64 columns, which is enough for attention
)

// memoryLists returns two lists of rows: four samples in five, and others.
func memoryLists(g *traffic) (list, other kernels.Tensor) {
	const n = trafficRows
	return g.index(n-n/5, func(i int) int { return i + i/4 }), g.index(n-n/6, func(i int) int { return i + (i+2)/5 })
}

// memoryBound lists the ops whose time is that of their traffic.
func memoryBound(g *traffic) []kernels.Op {
	const n, c, ffn, words = trafficRows, trafficCols, 3072, 30522
	f, h := g.f32, g.b16
	list, other := memoryLists(g)
	logits, pixels := f(24, words), f(2, 3*224*224)
	residual, grad := f(n, c), f(n, c)
	return []kernels.Op{
		&kernels.ColumnSum{X: h(n, ffn), Y: f(1, ffn)},
		&kernels.LayerNorm{X: residual, Scale: f(1, c), Shift: f(1, c), Y: h(n, c), Mean: f(1, n), Rstd: f(1, n), Eps: 1e-6},
		&kernels.LayerNorm{X: residual, Rows: list, Scale: f(1, c), Shift: f(1, c), Y: h(list.Cols, c), Mean: f(1, list.Cols), Rstd: f(1, list.Cols), Eps: 1e-6},
		&kernels.LayerNormGrad{X: residual, DY: h(n, c), Scale: f(1, c), Mean: f(1, n), Rstd: f(1, n), DX: grad, DScale: f(1, c), DShift: f(1, c), Accumulate: true},
		&kernels.LayerNormGrad{X: residual, Rows: list, DY: h(list.Cols, c), Scale: f(1, c), Mean: f(1, list.Cols), Rstd: f(1, list.Cols), DX: grad, DScale: f(1, c), DShift: f(1, c), Accumulate: true},
		&kernels.Residual{X: residual, Y: h(n, c), Gamma: f(1, c), Z: f(n, c)},
		&kernels.Residual{X: residual, Rows: list, Y: h(list.Cols, c), Gamma: f(1, c), Keep: f(1, list.Cols), Z: f(n, c)},
		g.residualNorm(n, c, kernels.Tensor{}, kernels.Tensor{}),
		g.residualNorm(n, c, list, other),
		g.residualNormGrad(n, c, kernels.Tensor{}, kernels.Tensor{}),
		g.residualNormGrad(n, c, list, other),
		&kernels.ResidualGrad{DZ: grad, Y: h(n, c), Gamma: f(1, c), DY: h(n, c), DGamma: f(1, c)},
		&kernels.ResidualGrad{DZ: grad, Rows: list, Y: h(list.Cols, c), Gamma: f(1, c), Keep: f(1, list.Cols), DY: h(list.Cols, c), DGamma: f(1, c)},
		&kernels.Gather{Table: residual, Index: list, Y: f(list.Cols, c)},
		&kernels.ScatterAdd{Y: f(list.Cols, c), Index: list, Table: f(n, c)},
		&kernels.Patchify{X: pixels, Y: f(2*196, 768), Channels: 3, Height: 224, Width: 224, Size: 16},
		&kernels.Patchify{X: g.u8(2, 3*224*224), Y: f(2*196, 768), Channels: 3, Height: 224, Width: 224, Size: 16, Mean: 0.5, Std: 0.5},
		&kernels.Dropout{X: residual, Row: g.index(n, func(i int) int { return i }), Y: f(n, c), Rate: 0.1},
		&kernels.Tanh{X: residual, Y: f(n, c)},
		&kernels.TanhGrad{Y: residual, DY: grad, DX: f(n, c)},
		&kernels.Gelu{X: h(n, ffn), Y: h(n, ffn)},
		&kernels.GeluGrad{X: residual, DY: grad, DX: f(n, c)},
		&kernels.Copy{X: residual, Y: h(n, c)},
		&kernels.AddScaled{X: residual, Y: grad, Alpha: 0.5},
		&kernels.Fill{Y: grad},
		&kernels.Normalize{X: residual, Y: f(n, c), Norm: f(1, n)},
		&kernels.NormalizeGrad{Y: residual, DY: grad, Norm: f(1, n), DX: f(n, c)},
		&kernels.CrossEntropy{Logits: logits, Label: g.index(24, func(i int) int { return 1000 * i }), Weight: 1, Loss: f(1, 1), DLogits: logits},
		&kernels.Contrast{Dot: f(256, 256), LogScale: f(1, 1), RowGroup: g.index(256, func(i int) int { return i }),
			ColGroup: g.index(256, func(i int) int { return i }), Weight: 1, Loss: f(1, 1), DDot: f(256, 256), DLogScale: f(1, 1)},
		&kernels.SampleNegative{Dot: f(256, 256), LogScale: f(1, 1), RowGroup: g.index(256, func(i int) int { return i }),
			ColGroup: g.index(256, func(i int) int { return i }), RowID: g.index(256, func(i int) int { return i }),
			ColID: g.index(256, func(i int) int { return i }), Index: g.index(256, func(int) int { return 0 })},
		&kernels.BinaryCrossEntropy{Logits: f(32, 3129), Target: f(32, 3129), Weight: 1, Loss: f(1, 1), DLogits: f(32, 3129)},
		&kernels.SquaredError{X: residual, Target: grad, Weight: 1, Loss: f(1, 1), DX: f(n, c)},
		&kernels.ArgMax{X: f(24, words), Index: g.index(24, func(int) int { return 0 })},
		&kernels.SumSquares{X: f(1, n*c), Y: f(1, 1)},
		&kernels.AdamW{P: f(1, n*c), M: f(1, n*c), V: f(1, n*c), Grad: f(1, n*c), Rate: 1e-3, Beta1: 0.9, Beta2: 0.98, Eps: 1e-6, GradScale: 1, Step: 7, Half: h(1, n*c)},
	}
}

// Every memory-bound op moves at most 1.15 × Bytes(): counted at DRAM over all
// its launches, scratch memory included, as if nothing stayed in the cache from
// one launch to the next; and counted as bytes that threads ask for, for each
// operand that matters, so that none is read or written twice.
func TestTraffic(t *testing.T) {
	if noDriver() || !emu.Present() {
		t.Skip("the driver does not count")
	}
	const limit = 1.15
	g := &traffic{t, open(t), rng.New(rng.Key{Seed: 1})}
	t.Logf("%-20s %10s %6s %6s %6s  %s", "op", "Bytes()", "DRAM", "asked", "L2", "launches")
	for _, op := range memoryBound(g) {
		all := g.count(op)
		if err := g.d.Sync(); err != nil {
			t.Fatal(err)
		}
		var dram, l2 int64
		names := ""
		for _, c := range all {
			dram, l2, names = dram+c.DRAM, l2+c.L2, names+" "+c.Kernel
		}
		want, worst, name := float64(op.Bytes()), 0.0, ""
		needed := map[*kernels.Memory]int64{}
		operands := op.Operands(nil)
		for _, x := range operands {
			n := int64(x.Len() * x.Type.Size())
			if x.Role == kernels.InOut {
				n *= 2
			}
			needed[x.Mem] += n
		}
		for _, x := range operands {
			if n := needed[x.Mem]; float64(n) > want/20 {
				if r := float64(emu.Asked(x.Mem.Addr)) / float64(n); r > worst {
					worst, name = r, x.Name
				}
			}
		}
		t.Logf("%-20s %10d %6.3f %6.3f %6.3f %s", op.Name(), op.Bytes(), float64(dram)/want, worst, float64(l2)/want, names)
		if float64(dram) > limit*want {
			t.Errorf("%s moves %d bytes, %.2f × Bytes()", op.Name(), dram, float64(dram)/want)
		}
		if worst > limit {
			t.Errorf("%s asks for %.2f × the bytes of %s", op.Name(), worst, name)
		}
	}
}

// ResidualNorm and its backward pass move less than the ops that they stand for
// by a reading of the rows of Z that are normed, or by most of a reading of those
// of DZ that Y has.
func TestResidualNormTraffic(t *testing.T) {
	if noDriver() || !emu.Present() {
		t.Skip("the driver does not count")
	}
	const n, c = trafficRows, trafficCols
	g := &traffic{t, open(t), rng.New(rng.Key{Seed: 1})}
	moved := func(op kernels.Op) (n int64) {
		for _, l := range g.count(op) {
			n += l.DRAM
		}
		return n
	}
	list, other := memoryLists(g)
	for _, rows := range [][2]kernels.Tensor{{}, {list, other}} {
		o, b := g.residualNorm(n, c, rows[0], rows[1]), g.residualNormGrad(n, c, rows[0], rows[1])
		one, parts := moved(o), moved(&o.Residual)
		oneGrad, partsGrad := moved(b), moved(&b.ResidualGrad)
		for i := range o.Parts {
			if o.Parts[i].Rows > 0 {
				norm, grad := o.Norm(i), b.Norm(i)
				parts += moved(&norm)
				partsGrad += moved(&grad)
			}
		}
		t.Logf("rows %v, of the norm %v: %d bytes, in parts %d; backward %d, in parts %d", rows[0], rows[1], one, parts, oneGrad, partsGrad)
		if saved := int64(4 * o.H.Rows * c); parts-one < saved*98/100 {
			t.Errorf("%d bytes, in parts %d: less by %d, want %d but for 2 %%", one, parts, parts-one, saved)
		}
		if saved := int64(4 * b.DY.Rows * c); partsGrad-oneGrad < saved*8/10 {
			t.Errorf("backward %d bytes, in parts %d: less by %d, want %d but for 20 %%", oneGrad, partsGrad, partsGrad-oneGrad, saved)
		}
	}
}

// Attention's products and traffic beside what they are at least.
func TestAttentionTraffic(t *testing.T) {
	if noDriver() || !emu.Present() {
		t.Skip("the driver does not count")
	}
	const n, cols, dim = trafficRows, 64 * trafficHeads, 64
	g := &traffic{t, open(t), rng.New(rng.Key{Seed: 1})}
	h := func() kernels.Tensor { return g.b16(n, cols) }
	bias := kernels.RelativeBias{Window: 14, Text: 196}
	bias.Table = g.f32(bias.Rows(), 12*trafficHeads)
	sequences := []kernels.Sequence{{TextOff: 0, TextLen: 40, ImageOff: 80, ImageLen: 197}, {TextOff: 40, TextLen: 40, ImageOff: 277, ImageLen: 197}}
	o := &kernels.Attention{Q: h(), K: h(), V: h(), Heads: trafficHeads, Scale: float32(1 / math.Sqrt(dim)), Sequences: sequences, Bias: bias,
		Out: h(), LSE: g.f32(n, trafficHeads)}
	b := &kernels.AttentionGrad{Q: o.Q, K: o.K, V: o.V, Out: o.Out, DOut: h(), LSE: o.LSE, Heads: trafficHeads, Scale: o.Scale, Sequences: sequences,
		Bias: bias, DQ: h(), DK: h(), DV: h(), DTable: g.f32(bias.Table.Rows, bias.Table.Cols)}
	for _, c := range []struct {
		op    kernels.Op
		flops float64 // mma.sync, as a multiple of FLOPs()
		dram  float64 // of the kernels whose traffic grows with the batch, as a multiple of Bytes()
	}{{o, 1.15, 1.15}, {b, 2, 1.15}} {
		t.Logf("%s: %d FLOPs, %d bytes", c.op.Name(), c.op.FLOPs(), c.op.Bytes())
		var flops, dram float64
		for _, l := range g.count(c.op) {
			share := func(n, of int64) float64 { return float64(n) / float64(of) }
			t.Logf("  %-28s FLOPs %.3f, DRAM %.3f, L2 %.3f; %d bank conflicts in %d KiB, %d exp", l.Kernel,
				share(l.FLOPs, c.op.FLOPs()), share(l.DRAM, c.op.Bytes()), share(l.L2, c.op.Bytes()), l.Conflicts, l.Shared>>10, l.Special)
			flops += share(l.FLOPs, c.op.FLOPs())
			if strings.HasPrefix(l.Kernel, "attention_bf16") {
				dram += share(l.DRAM, c.op.Bytes())
			}
		}
		t.Logf("  %-28s FLOPs %.3f, DRAM %.3f", "all, attention_bf16", flops, dram)
		if flops > c.flops || dram > c.dram {
			t.Errorf("%s: %.2f × FLOPs(), %.2f × Bytes(), want at most %.2f and %.2f", c.op.Name(), flops, dram, c.flops, c.dram)
		}
	}
}
