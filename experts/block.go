// Package experts holds Mixture-of-Modality-Experts: blocks that share
// self-attention and route each row to the expert of its modality. Tokens are
// packed, modality-major and without padding, so that an expert's rows are
// contiguous and its feed-forward network is one dense product.
package experts

import (
	"fmt"
	"math"

	"vlmo-train/engine"
	"vlmo-train/kernels"
	"vlmo-train/layers"
)

// Modality selects an expert.
type Modality int

const (
	Text Modality = iota
	Image
	VisionLanguage
	modalities
)

// String returns the modality as it stands in parameter names.
func (m Modality) String() string {
	return [...]string{"text", "imag", "vl"}[m]
}

// Span routes rows Lo to Hi (exclusive) to an expert.
type Span struct {
	Expert Modality
	Lo, Hi int
}

// Expert is a LayerNorm and a feed-forward network of its own.
type Expert struct {
	Norm     layers.LayerNorm
	FC1, FC2 layers.Linear
}

// Names says how a block's parameters are called, which differs between VLMo
// and a plain vision transformer.
type Names struct {
	Norm2, MLP func(Modality) string
}

// VLMoNames are the official names of a block's experts.
func VLMoNames() Names {
	return Names{
		Norm2: func(m Modality) string { return "norm2_" + m.String() },
		MLP:   func(m Modality) string { return "mlp_" + m.String() },
	}
}

// PlainNames are those of a vision transformer with one feed-forward network
// a block (BEiT, timm).
func PlainNames() Names {
	return Names{
		Norm2: func(Modality) string { return "norm2" },
		MLP:   func(Modality) string { return "mlp" },
	}
}

// Config is the shape of a block.
type Config struct {
	Dim, Heads, Hidden int
	LayerScale         bool
	Eps                float32
	Experts            []Modality
	Names              Names
}

// Block is one MoME block (SPEC §2):
//
//	x += keep·γ1·Attention(norm1(x)), then x += keep·γ2·FFN_m(norm2_m(x))
type Block struct {
	Config
	Norm1          layers.LayerNorm
	QKV            *engine.Param // [3·dim, dim]
	QBias, VBias   *engine.Param
	Proj           layers.Linear
	Gamma1, Gamma2 *engine.Param // nil without LayerScale
	Experts        [modalities]*Expert

	Table  *engine.Param // relative position bias, nil without
	Column int           // of this block in Table
}

// NewBlock declares a block's parameters under prefix (without a final dot).
func NewBlock(st *engine.Store, prefix string, c Config) *Block {
	b := &Block{Config: c}
	d := c.Dim
	if c.LayerScale {
		b.Gamma1 = st.Add(prefix+".gamma_1", d)
		b.Gamma2 = st.Add(prefix+".gamma_2", d)
	}
	b.Norm1 = layers.NewLayerNorm(st, prefix+".norm1", d, c.Eps)
	b.QBias = st.Add(prefix+".attn.q_bias", d)
	b.VBias = st.Add(prefix+".attn.v_bias", d)
	b.QKV = st.Add(prefix+".attn.qkv.weight", 3*d, d)
	b.Proj = layers.NewLinear(st, prefix+".attn.proj", d, d, true)
	for _, m := range c.Experts {
		mlp := prefix + "." + c.Names.MLP(m)
		b.Experts[m] = &Expert{
			Norm: layers.NewLayerNorm(st, prefix+"."+c.Names.Norm2(m), d, c.Eps),
			FC1:  layers.NewLinear(st, mlp+".fc1", d, c.Hidden, true),
			FC2:  layers.NewLinear(st, mlp+".fc2", c.Hidden, d, true),
		}
	}
	return b
}

// Pass is what a block needs to know of the rows it is given.
type Pass struct {
	Sequences    []kernels.Sequence
	Route        []Span // covers every row that is kept
	Window, Text int    // of the relative position bias
	// KeepAttention and KeepFFN are the drop path factors of every row,
	// [1, rows]; absent: all ones.
	KeepAttention, KeepFFN kernels.Tensor
	// Rows, where present, names the rows (I32 [1, n], ascending) that
	// anything reads after this block: the rest is not computed past the
	// attention. Route and both factors are then about the kept rows.
	Rows kernels.Tensor
}

type blockRecord struct {
	b    *Block
	p    Pass
	x, z layers.Node

	norm1        layers.Statistics
	h1, qkv, lse kernels.Tensor
	attn         kernels.Tensor // all rows
	kept, proj   kernels.Tensor // kept rows of attn and their projection
	x2           kernels.Tensor
	norm2        layers.Statistics
	h2, pre, act kernels.Tensor
	ffn          kernels.Tensor
}

// Forward runs the block and returns the new hidden state, of the kept rows.
func (b *Block) Forward(s *engine.Step, x layers.Node, p Pass) (layers.Node, error) {
	n, d := x.X.Rows, b.Dim
	r := blockRecord{b: b, p: p, x: x}
	r.norm1 = layers.NewStatistics(s, n)
	r.h1 = s.Floats(n, d)
	b.Norm1.Forward(s, x.X, r.h1, r.norm1)

	// The key has no bias: query and value bias stand in one vector with
	// zeros between, so that the three projections are one product.
	bias := s.Zeros(1, 3*d)
	engine.Run(s, kernels.AddScaled{X: b.QBias.Value, Y: bias.Columns(0, d), Alpha: 1})
	engine.Run(s, kernels.AddScaled{X: b.VBias.Value, Y: bias.Columns(2*d, 3*d), Alpha: 1})
	r.qkv = s.Floats(n, 3*d)
	engine.Run(s, kernels.MatMul{A: r.h1, B: b.QKV.Value, TransB: true, C: r.qkv, Bias: bias})

	r.attn = s.Floats(n, d)
	r.lse = s.Floats(n, b.Heads)
	engine.Run(s, kernels.Attention{Q: r.qkv.Columns(0, d), K: r.qkv.Columns(d, 2*d), V: r.qkv.Columns(2*d, 3*d),
		Heads: b.Heads, Scale: b.scale(), Sequences: p.Sequences,
		Bias: b.bias(p), Out: r.attn, LSE: r.lse})

	in, keep := x.X, p.KeepAttention
	r.kept = r.attn
	m := n
	if !p.Rows.IsZero() {
		m = p.Rows.Cols
		r.kept, in = s.Floats(m, d), s.Floats(m, d)
		engine.Run(s, kernels.Gather{Table: r.attn, Index: p.Rows, Y: r.kept})
		engine.Run(s, kernels.Gather{Table: x.X, Index: p.Rows, Y: in})
	}
	r.proj = s.Floats(m, d)
	b.Proj.Forward(s, r.kept, r.proj, kernels.None, kernels.Tensor{})
	r.x2 = s.Floats(m, d)
	engine.Run(s, kernels.Residual{X: in, Y: r.proj, Gamma: b.Gamma1.Tensor(), Keep: keep, Z: r.x2})

	r.norm2 = layers.NewStatistics(s, m)
	r.h2, r.ffn = s.Floats(m, d), s.Floats(m, d)
	r.act = s.Floats(m, b.Hidden)
	if s.Train {
		r.pre = s.Floats(m, b.Hidden)
	}
	r.z = layers.NewNode(s, m, d)
	if !x.G.IsZero() && p.Rows.IsZero() {
		r.z.G = x.G // the residual stream's gradient flows through in place
	}
	row := 0
	for _, sp := range p.Route {
		e := b.Experts[sp.Expert]
		if e == nil {
			return layers.Node{}, fmt.Errorf("experts: rows [%d, %d) are routed to an expert %q that this block does not have", sp.Lo, sp.Hi, sp.Expert)
		}
		if sp.Lo != row || sp.Hi < sp.Lo {
			return layers.Node{}, fmt.Errorf("experts: the route leaves a gap or overlap before rows [%d, %d)", sp.Lo, sp.Hi)
		}
		row = sp.Hi
		if sp.Lo == sp.Hi {
			continue
		}
		h, a := r.h2.Slice(sp.Lo, sp.Hi), r.act.Slice(sp.Lo, sp.Hi)
		var pre kernels.Tensor
		if s.Train {
			pre = r.pre.Slice(sp.Lo, sp.Hi)
		}
		e.Norm.Forward(s, r.x2.Slice(sp.Lo, sp.Hi), h, r.norm2.Slice(sp.Lo, sp.Hi))
		e.FC1.Forward(s, h, a, kernels.GELU, pre)
		e.FC2.Forward(s, a, r.ffn.Slice(sp.Lo, sp.Hi), kernels.None, kernels.Tensor{})
	}
	if row != m {
		return layers.Node{}, fmt.Errorf("experts: the route covers %d of %d rows", row, m)
	}
	engine.Run(s, kernels.Residual{X: r.x2, Y: r.ffn, Gamma: b.Gamma2.Tensor(), Keep: p.KeepFFN, Z: r.z.X})
	z := r.z
	engine.Push(s, r)
	return z, nil
}

func (b *Block) scale() float32 { return float32(1 / math.Sqrt(float64(b.Dim/b.Heads))) }

func (b *Block) bias(p Pass) kernels.RelativeBias {
	return kernels.RelativeBias{Table: b.Table.Tensor(), Column: b.Column, Window: p.Window, Text: p.Text}
}

// Backward turns the gradient of z into that of x.
func (r *blockRecord) Backward(s *engine.Step) {
	b, p, d := r.b, &r.p, r.b.Dim
	n, m := r.x.X.Rows, r.z.X.Rows
	g := r.z.G

	mark := s.Arena.Mark()
	dffn := s.Floats(m, d)
	engine.Run(s, kernels.ResidualGrad{DZ: g, Y: r.ffn, Gamma: b.Gamma2.Tensor(), Keep: p.KeepFFN, DY: dffn, DGamma: b.Gamma2.Touch()})
	dpre, dh2 := s.Floats(m, b.Hidden), s.Floats(m, d)
	for _, sp := range p.Route {
		if sp.Lo == sp.Hi {
			continue
		}
		e := b.Experts[sp.Expert]
		dy, dp, dh := dffn.Slice(sp.Lo, sp.Hi), dpre.Slice(sp.Lo, sp.Hi), dh2.Slice(sp.Lo, sp.Hi)
		e.FC2.Gradients(s, r.act.Slice(sp.Lo, sp.Hi), dy)
		engine.Run(s, kernels.MatMul{A: dy, B: e.FC2.Weight.Value, C: dp, Act: kernels.GELUGrad, Pre: r.pre.Slice(sp.Lo, sp.Hi)})
		e.FC1.Gradients(s, r.h2.Slice(sp.Lo, sp.Hi), dp)
		e.FC1.Input(s, dp, dh, false)
		e.Norm.Backward(s, r.x2.Slice(sp.Lo, sp.Hi), dh, r.norm2.Slice(sp.Lo, sp.Hi), g.Slice(sp.Lo, sp.Hi), true)
	}
	s.Arena.Release(mark)

	dproj, dkept := s.Floats(m, d), s.Floats(m, d)
	engine.Run(s, kernels.ResidualGrad{DZ: g, Y: r.proj, Gamma: b.Gamma1.Tensor(), Keep: p.KeepAttention, DY: dproj, DGamma: b.Gamma1.Touch()})
	b.Proj.Gradients(s, r.kept, dproj)
	b.Proj.Input(s, dproj, dkept, false)
	dattn, dx := dkept, r.x.G
	if !p.Rows.IsZero() {
		dattn = s.Zeros(n, d)
		engine.Run(s, kernels.ScatterAdd{Y: dkept, Index: p.Rows, Table: dattn})
		engine.Run(s, kernels.Fill{Y: dx})
		engine.Run(s, kernels.ScatterAdd{Y: g, Index: p.Rows, Table: dx})
	}
	dqkv, dh1 := s.Floats(n, 3*d), s.Floats(n, d)
	engine.Run(s, kernels.AttentionGrad{Q: r.qkv.Columns(0, d), K: r.qkv.Columns(d, 2*d), V: r.qkv.Columns(2*d, 3*d),
		Out: r.attn, DOut: dattn, LSE: r.lse, Heads: b.Heads, Scale: b.scale(), Sequences: p.Sequences, Bias: b.bias(*p),
		DQ: dqkv.Columns(0, d), DK: dqkv.Columns(d, 2*d), DV: dqkv.Columns(2*d, 3*d), DTable: b.Table.Touch()})
	if dw := b.QKV.Touch(); !dw.IsZero() {
		engine.Run(s, kernels.MatMul{A: dqkv, TransA: true, B: r.h1, C: dw, Accumulate: true})
	}
	if db := b.QBias.Touch(); !db.IsZero() {
		engine.Run(s, kernels.ColumnSum{X: dqkv.Columns(0, d), Y: db})
	}
	if db := b.VBias.Touch(); !db.IsZero() {
		engine.Run(s, kernels.ColumnSum{X: dqkv.Columns(2*d, 3*d), Y: db})
	}
	engine.Run(s, kernels.MatMul{A: dqkv, B: b.QKV.Value, C: dh1})
	b.Norm1.Backward(s, r.x.X, dh1, r.norm1, dx, true)
}
