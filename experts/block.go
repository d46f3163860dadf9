// Package experts holds Mixture-of-Modality-Experts: blocks that share
// self-attention and route each row to the expert of its modality. Tokens are
// packed, modality-major and without padding, so that an expert's rows are
// contiguous and its feed-forward network is one dense product.
package experts

import (
	"errors"
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
	// Compute is the type of what lies between the reads of the hidden state:
	// norms, Q, K and V, attention, feed-forward network, and the gradients of
	// all of these. The hidden state and its gradient, statistics and
	// parameters are F32 always.
	Compute kernels.DType
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

// Pass says which rows a block treats and how. Its lists of rows are I32
// [1, n], ascending and without repeats unless they say otherwise; one that is
// absent names all rows.
type Pass struct {
	Window, Text int // of the relative position bias
	// Base names the row of the input that each row of the result goes on
	// from, in any order, with repeats. The other lists of the result's rows
	// count in its order.
	Base      kernels.Tensor
	Attention AttentionRows
	FFN       FFNRows
	// Recompute keeps no norms and no activations of experts for the backward
	// pass, nor the hidden state between attention and experts: it computes
	// them again.
	Recompute bool
}

// AttentionRows are the rows of a block's attention. Samples whose path is
// dropped have none.
type AttentionRows struct {
	In kernels.Tensor // of the input: those that are normalised and projected to Q, K and V
	// Expand names the projected row of each row that attends, in any order,
	// with repeats. It excludes Queries.
	Expand    kernels.Tensor
	Sequences []kernels.Sequence // of the rows that attend
	Queries   kernels.Tensor     // of the rows that attend: those that have a result
	Out       kernels.Tensor     // of the block's result: those that the attention's is added to
	Keep      kernels.Tensor     // [1, queries]: their drop path factors; absent: ones
}

// FFNRows are the rows of a block's feed-forward networks.
type FFNRows struct {
	Rows kernels.Tensor // of the block's result
	// Route covers them in order. An empty span names an expert whose rows are
	// all dropped, or read by nobody: its gradient is zero, but it has one.
	Route []Span
	Keep  kernels.Tensor // [1, rows]: their drop path factors; absent: ones
}

// counts returns how many of n rows of the input are projected, attend and
// are queried.
func (p *AttentionRows) counts(n int) (projected, attending, queried int) {
	projected = count(p.In, n)
	attending = count(p.Expand, projected)
	return projected, attending, count(p.Queries, attending)
}

// count returns how many of n rows the list names.
func count(list kernels.Tensor, n int) int {
	if list.IsZero() {
		return n
	}
	return list.Cols
}

// blockRecord is what the backward pass of a block reads.
type blockRecord struct {
	b     *Block
	p     Pass
	x, z  layers.Node
	x2    kernels.Tensor // the hidden state between attention and experts
	norm1 layers.Statistics
	h1    kernels.Tensor // with Recompute its memory alone is kept, as h2's; of x2 and act nothing is
	qkv   packed
	attn  kernels.Tensor
	lse   kernels.Tensor
	proj  kernels.Tensor
	norm2 layers.Statistics
	h2    kernels.Tensor
	pre   kernels.Tensor
	act   kernels.Tensor
	ffn   kernels.Tensor

	room kernels.Tensor // for h1 and then h2, where they are not kept

	// left says that the backward pass of norm1 is left to the block before, the
	// one that made h1; there it is after.
	left  bool
	after normGrad
}

// normGrad is the backward pass of a norm of rows of z.
type normGrad struct {
	norm *layers.LayerNorm // nil: none
	rows kernels.Tensor
	h    kernels.Tensor // the gradient of its result
	st   layers.Statistics
}

// Run runs blocks one after another and returns the last one's hidden state.
// Where a block's last op makes the hidden state it makes the norm that the next
// block reads too. Outside training it keeps nothing and, without Base, writes
// the result over the input.
//
// pass returns the pass of a block, of at most most rows; it is asked for one
// after the other, each when the device has the attention before it to do. The
// blocks are of one Dim and Compute.
func Run(s *engine.Step, blocks []*Block, x layers.Node, most int, pass func(block int) Pass) (layers.Node, error) {
	if len(blocks) == 0 {
		return x, nil
	}
	var next blockRecord
	var room kernels.Tensor
	prepare := func(i, rows int) error {
		next = blockRecord{b: blocks[i], p: pass(i)}
		if err := next.b.check(&next.p, rows, most); err != nil {
			return fmt.Errorf("experts: block %d: %w", i, err)
		}
		if room.IsZero() && (!s.Train || next.p.Recompute) {
			room = s.Tensor(next.b.Compute, most, next.b.Dim)
		}
		next.room = room
		return nil
	}
	if err := prepare(0, x.X.Rows); err != nil {
		return layers.Node{}, err
	}
	for i := range blocks {
		r := next
		r.x = x
		r.begin(s)
		next = blockRecord{}
		if i+1 < len(blocks) {
			if err := prepare(i+1, r.z.X.Rows); err != nil {
				return layers.Node{}, err
			}
		}
		r.feed(s, &next)
		if next.left = next.leaves(r.z.X.Rows); next.left {
			r.after = normGrad{&next.b.Norm1, next.p.Attention.In, next.h1, next.norm1}
		}
		x = r.z
		engine.Push(s, r)
	}
	return x, nil
}

// leaves reports whether the block before this one made h1, and can take its
// gradient to that of the hidden state: it is in h1's memory then, unless it is
// the sum of two products.
func (r *blockRecord) leaves(rows int) bool {
	if r.h1.IsZero() {
		return false
	}
	_, attending, queried := r.p.Attention.counts(rows)
	return attending == queried
}

// begin computes the first half of the block.
func (r *blockRecord) begin(s *engine.Step) {
	// The result has x2 before it has z. The gradient of the hidden state
	// flows through the block in place.
	p := &r.p
	r.z = r.x
	if s.Train || !p.Base.IsZero() {
		r.z.X = s.Floats(count(p.Base, r.x.X.Rows), r.b.Dim)
	}
	if s.Train && !p.Base.IsZero() {
		r.z.G = s.Floats(p.Base.Cols, r.b.Dim)
	}
	r.x2 = r.z.X
	r.attend(s)
}

// check wants the route to cover the rows of the feed-forward networks, of a
// pass over an input of rows rows, and at most most rows in each half.
func (b *Block) check(p *Pass, rows, most int) error {
	if !p.Attention.Expand.IsZero() && !p.Attention.Queries.IsZero() {
		return errors.New("a pass with both Expand and Queries")
	}
	if n := len(kernels.ResidualNorm{}.Parts); len(p.FFN.Route) > n {
		return fmt.Errorf("the route has %d spans, want at most %d", len(p.FFN.Route), n)
	}
	row, n := 0, count(p.FFN.Rows, count(p.Base, rows))
	for _, sp := range p.FFN.Route {
		if b.Experts[sp.Expert] == nil {
			return fmt.Errorf("rows [%d, %d) are routed to an expert %q that it does not have", sp.Lo, sp.Hi, sp.Expert)
		}
		if sp.Lo != row || sp.Hi < sp.Lo {
			return fmt.Errorf("the route leaves a gap or overlap before rows [%d, %d)", sp.Lo, sp.Hi)
		}
		row = sp.Hi
	}
	if row != n {
		return fmt.Errorf("the route covers %d of %d rows", row, n)
	}
	if projected, _, _ := p.Attention.counts(rows); max(projected, n) > most {
		return fmt.Errorf("a pass of %d rows, want at most %d", max(projected, n), most)
	}
	return nil
}

// free gives back what nothing reads again: outside training all memory taken
// since all; with Recompute the scratch, that taken since scratch.
func (r *blockRecord) free(s *engine.Step, all, scratch engine.Mark) {
	switch {
	case !s.Train:
		s.Arena.Release(all)
	case r.p.Recompute:
		s.Arena.Release(scratch)
	}
}

// norm returns room for rows rows of a norm.
func (r *blockRecord) norm(s *engine.Step, rows int) kernels.Tensor {
	if s.Train && !r.p.Recompute {
		return s.Tensor(r.b.Compute, rows, r.b.Dim)
	}
	return r.room.Slice(0, rows)
}

// statistics returns room for those of rows rows, which training reads.
func statistics(s *engine.Step, rows int) (st layers.Statistics) {
	if s.Train {
		st = layers.NewStatistics(s, rows)
	}
	return st
}

// first adds to o, whose result is the block's input, the norm that the block
// begins with.
func (r *blockRecord) first(o *kernels.ResidualNorm) {
	n := &r.b.Norm1
	o.NormRows, o.H, o.Mean, o.Rstd, o.Eps = r.p.Attention.In, r.h1, r.norm1.Mean, r.norm1.Rstd, n.Eps
	o.Parts[0] = kernels.NormPart{Rows: r.h1.Rows, Scale: n.Scale.Value, Shift: n.Shift.Value}
}

// run runs what there is of a residual connection and norms of its result:
// without Y it is that of Z, without H there are no norms.
func run(s *engine.Step, o kernels.ResidualNorm) {
	switch {
	case !o.Y.IsZero() && o.H.Rows > 0:
		engine.Run(s, o)
	case !o.Y.IsZero():
		engine.Run(s, o.Residual)
	case o.H.Rows > 0:
		for i := range o.Parts {
			if o.Parts[i].Rows > 0 {
				engine.Run(s, o.Norm(i))
			}
		}
	}
}

// attend computes x2, the first half of the block, and its norm.
func (r *blockRecord) attend(s *engine.Step) {
	b, p, d, t := r.b, &r.p.Attention, r.b.Dim, r.b.Compute
	projected, attending, queried := p.counts(r.x.X.Rows)
	n := count(r.p.FFN.Rows, r.z.X.Rows)
	all := s.Arena.Mark()
	r.norm2 = statistics(s, n)
	if queried == 0 {
		r.h2 = r.norm(s, n)
		r.x2 = r.middle(s, r.x2, r.h2, r.norm2)
		return
	}
	fresh := r.h1.IsZero() // no block before this one made it
	if fresh {
		r.norm1 = statistics(s, projected)
	}
	r.qkv = newPacked(s, t, attending, queried, d)
	r.attn, r.proj = s.Tensor(t, queried, d), s.Tensor(t, queried, d)
	r.lse = s.Floats(queried, b.Heads)
	scratch := s.Arena.Mark()
	if fresh {
		r.h1 = r.norm(s, projected)
		b.Norm1.Forward(s, r.x.X, p.In, r.h1, r.norm1)
	}

	// The key has no bias: query and value bias stand in one vector with
	// zeros between, so that the three projections are one product.
	bias := s.Zeros(1, 3*d)
	engine.Run(s, kernels.AddScaled{X: b.QBias.Value, Y: bias.Columns(0, d), Alpha: 1})
	engine.Run(s, kernels.AddScaled{X: b.VBias.Value, Y: bias.Columns(2*d, 3*d), Alpha: 1})
	to := r.qkv
	if !p.Expand.IsZero() {
		to = newPacked(s, t, projected, projected, d)
	}
	for _, q := range to.products(r.h1, r.queriedRows(s, r.h1)) {
		engine.Run(s, kernels.MatMul{A: q.h, B: b.QKV.As(t).Slice(q.lo, q.hi), TransB: true, Weights: s.PackWeights, C: q.y, Bias: bias.Columns(q.lo, q.hi)})
	}
	if !p.Expand.IsZero() {
		engine.Run(s, kernels.Gather{Table: to.all, Index: p.Expand, Y: r.qkv.all})
	}
	engine.Run(s, kernels.Attention{Q: r.qkv.q, K: r.qkv.k, V: r.qkv.v, Queries: p.Queries, Heads: b.Heads, Scale: b.scale(),
		Sequences: p.Sequences, Bias: b.bias(&r.p), Out: r.attn, LSE: r.lse})
	b.Proj.Forward(s, r.attn, r.proj, kernels.None, kernels.Tensor{})
	r.h2 = r.norm(s, n) // where h1 was, if it is not kept
	r.x2 = r.middle(s, r.x2, r.h2, r.norm2)
	r.free(s, all, scratch)
}

// middle returns x2, computed in to from x and proj, or x itself where
// nothing changes it. h2 and norm2, where given, get its norm.
func (r *blockRecord) middle(s *engine.Step, to, h2 kernels.Tensor, norm2 layers.Statistics) kernels.Tensor {
	p, x := &r.p.Attention, r.x.X
	if !r.p.Base.IsZero() {
		engine.Run(s, kernels.Gather{Table: x, Index: r.p.Base, Y: to})
		x = to
	}
	o := kernels.ResidualNorm{NormRows: r.p.FFN.Rows, H: h2, Mean: norm2.Mean, Rstd: norm2.Rstd, Eps: r.b.Eps}
	for i, sp := range r.p.FFN.Route {
		n := &r.b.Experts[sp.Expert].Norm
		o.Parts[i] = kernels.NormPart{Rows: sp.Hi - sp.Lo, Scale: n.Scale.Value, Shift: n.Shift.Value}
	}
	if _, _, queried := p.counts(r.x.X.Rows); queried == 0 {
		o.Z = x
	} else {
		o.Residual = kernels.Residual{X: x, Rows: p.Out, Y: r.proj, Gamma: r.b.Gamma1.Tensor(), Keep: p.Keep, Z: to}
	}
	run(s, o)
	return o.Z
}

// queriedRows returns those rows of h that are queried.
func (r *blockRecord) queriedRows(s *engine.Step, h kernels.Tensor) kernels.Tensor {
	list := r.p.Attention.Queries
	if list.IsZero() {
		return h
	}
	q := s.Tensor(h.Type, list.Cols, h.Cols)
	engine.Run(s, kernels.Gather{Table: h, Index: list, Y: q})
	return q
}

// packed holds Q, K and V, which are columns of one tensor, all, unless Q has
// fewer rows than K and V; then kv is one.
type packed struct{ all, q, kv, k, v kernels.Tensor }

// newPacked returns room for Q of queries and K and V of rows rows.
func newPacked(s *engine.Step, t kernels.DType, rows, queries, d int) (p packed) {
	if queries == rows {
		p.all = s.Tensor(t, rows, 3*d)
		p.q, p.kv = p.all.Columns(0, d), p.all.Columns(d, 3*d)
	} else {
		p.q, p.kv = s.Tensor(t, queries, d), s.Tensor(t, rows, 2*d)
	}
	p.k, p.v = p.kv.Columns(0, d), p.kv.Columns(d, 2*d)
	return p
}

// product is the product of the rows h with rows lo to hi of the QKV weight.
type product struct {
	h, y   kernels.Tensor
	lo, hi int
}

// products lists those that make p from the rows h, of which the rows q are
// queried.
func (p *packed) products(h, q kernels.Tensor) []product {
	if !p.all.IsZero() {
		return []product{{h, p.all, 0, p.all.Cols}}
	}
	d := p.q.Cols
	return []product{{q, p.q, 0, d}, {h, p.kv, d, 3 * d}}
}

// feed computes z, the second half of the block, and the norm that next begins
// with where next has a block and r's last op can.
func (r *blockRecord) feed(s *engine.Step, next *blockRecord) {
	b, p, d, t := r.b, &r.p.FFN, r.b.Dim, r.b.Compute
	n := count(p.Rows, r.x2.Rows)
	if n == 0 {
		r.z.X = r.x2
		return
	}
	if s.Train && !r.p.Recompute {
		r.z.X = s.Floats(r.x2.Rows, d) // which leaves x2 as it is
	}
	var normed, queried int
	if next.b != nil {
		normed, _, queried = next.p.Attention.counts(r.x2.Rows)
	}

	all := s.Arena.Mark()
	if queried > 0 {
		next.norm1, next.h1 = statistics(s, normed), next.norm(s, normed)
	}
	if s.Train {
		r.pre = s.Tensor(t, n, b.Hidden)
	}
	r.ffn = s.Tensor(t, n, d)
	scratch := s.Arena.Mark()
	r.act = s.Tensor(t, n, b.Hidden)
	for _, sp := range p.Route {
		e, lo, hi := b.Experts[sp.Expert], sp.Lo, sp.Hi
		h, a := r.h2.Slice(lo, hi), r.act.Slice(lo, hi)
		var pre kernels.Tensor
		if s.Train {
			pre = r.pre.Slice(lo, hi)
		}
		e.FC1.Forward(s, h, a, kernels.GELU, pre)
		e.FC2.Forward(s, a, r.ffn.Slice(lo, hi), kernels.None, kernels.Tensor{})
	}
	o := kernels.ResidualNorm{Residual: kernels.Residual{X: r.x2, Rows: p.Rows, Y: r.ffn, Gamma: b.Gamma2.Tensor(), Keep: p.Keep, Z: r.z.X}}
	if queried > 0 {
		next.first(&o)
	}
	run(s, o)
	r.free(s, all, scratch)
}

func (b *Block) scale() float32 { return float32(1 / math.Sqrt(float64(b.Dim/b.Heads))) }

func (b *Block) bias(p *Pass) kernels.RelativeBias {
	return kernels.RelativeBias{Table: b.Table.Tensor(), Column: b.Column, Window: p.Window, Text: p.Text}
}

// runGrad is the backward pass of run: without DY that of norms alone, without
// DH of the residual connection.
func runGrad(s *engine.Step, o kernels.ResidualNormGrad) {
	switch {
	case o.DY.Rows > 0 && o.DH.Rows > 0:
		engine.Run(s, o)
	case o.DY.Rows > 0:
		engine.Run(s, o.ResidualGrad)
	default:
		for i := range o.Parts {
			if o.Parts[i].Rows > 0 {
				engine.Run(s, o.Norm(i))
			}
		}
	}
}

func gradPart(n *layers.LayerNorm, rows int) kernels.NormGradPart {
	return kernels.NormGradPart{Rows: rows, Scale: n.Scale.Value, DScale: n.Scale.Touch(), DShift: n.Shift.Touch()}
}

// Backward turns the gradient of z into that of x.
func (r *blockRecord) Backward(s *engine.Step) {
	b, n := r.b, count(r.p.FFN.Rows, r.z.G.Rows)
	_, _, queried := r.p.Attention.counts(r.x.X.Rows)
	// The gradients of the two branches' results, one after the other.
	branch := s.Tensor(b.Compute, max(n, queried), b.Dim)
	dffn, dproj := branch.Slice(0, n), branch.Slice(0, queried)
	mark := s.Arena.Mark()
	r.feedGrad(s, dffn, dproj)
	s.Arena.Release(mark)
	if !r.p.Base.IsZero() {
		engine.Run(s, kernels.Fill{Y: r.x.G})
		engine.Run(s, kernels.ScatterAdd{Y: r.z.G, Index: r.p.Base, Table: r.x.G})
	}
	r.attendGrad(s, dproj)
}

// feedGrad turns the gradient of z into that of x2, in place, and from there
// into dproj. dffn is room for that of ffn, which may be dproj's.
func (r *blockRecord) feedGrad(s *engine.Step, dffn, dproj kernels.Tensor) {
	b, p, d, t, g := r.b, &r.p.FFN, r.b.Dim, r.b.Compute, r.z.G
	n := dffn.Rows
	o := kernels.ResidualNormGrad{ResidualGrad: kernels.ResidualGrad{DZ: g, Rows: p.Rows, Y: r.ffn, Gamma: b.Gamma2.Tensor(), Keep: p.Keep, DY: dffn, DGamma: b.Gamma2.Touch()}}
	if a := &r.after; a.norm != nil {
		o.Z, o.NormRows, o.DH, o.Mean, o.Rstd = r.z.X, a.rows, a.h, a.st.Mean, a.st.Rstd
		o.Parts[0] = gradPart(a.norm, a.h.Rows)
	}
	runGrad(s, o)

	x2, h2, act := r.x2, r.h2, r.act
	if r.p.Recompute { // in the room that has been read now
		act = s.Tensor(t, n, b.Hidden)
		x2 = r.middle(s, s.Floats(g.Rows, d), h2, layers.Statistics{})
	}
	o = kernels.ResidualNormGrad{Z: x2, NormRows: p.Rows, DH: h2, Mean: r.norm2.Mean, Rstd: r.norm2.Rstd}
	a := &r.p.Attention
	o.ResidualGrad = kernels.ResidualGrad{DZ: g, Rows: a.Out, Y: r.proj, Gamma: b.Gamma1.Tensor(), Keep: a.Keep, DY: dproj, DGamma: b.Gamma1.Touch()}
	for i, sp := range p.Route {
		e, lo, hi := b.Experts[sp.Expert], sp.Lo, sp.Hi
		if lo == hi {
			e.touch()
			continue
		}
		h, a, pre, dy := h2.Slice(lo, hi), act.Slice(lo, hi), r.pre.Slice(lo, hi), dffn.Slice(lo, hi)
		if r.p.Recompute {
			engine.Run(s, kernels.Gelu{X: pre, Y: a})
		}
		// Each gradient takes the place of its activation once that is read.
		e.FC2.Gradients(s, a, dy)
		engine.Run(s, kernels.MatMul{A: dy, B: e.FC2.Weight.As(t), Weights: s.PackWeights, C: a, Act: kernels.GELUGrad, Pre: pre})
		e.FC1.Gradients(s, h, a)
		e.FC1.Input(s, a, h, false)
		o.Parts[i] = gradPart(&e.Norm, hi-lo)
	}
	runGrad(s, o)
}

// attendGrad turns the gradient of x2 into that of x, in place but for Base.
//
// dproj is the gradient of proj; where the block before does the rest, that of
// x stays as it is and h1 has that of norm1's result.
func (r *blockRecord) attendGrad(s *engine.Step, dproj kernels.Tensor) {
	b, p, d, t := r.b, &r.p.Attention, r.b.Dim, r.b.Compute
	projected, attending, queried := p.counts(r.x.X.Rows)
	dtable := b.Table.Touch()
	dw, dq, dv := b.QKV.Touch(), b.QBias.Touch(), b.VBias.Touch()
	if queried == 0 {
		touch(b.Proj.Weight, b.Proj.Bias, b.Norm1.Scale, b.Norm1.Shift)
		return
	}

	dattn := s.Tensor(t, queried, d)
	b.Proj.Gradients(s, r.attn, dproj)
	b.Proj.Input(s, dproj, dattn, false)
	grad := newPacked(s, t, attending, queried, d)
	engine.Run(s, kernels.AttentionGrad{Q: r.qkv.q, K: r.qkv.k, V: r.qkv.v, Queries: p.Queries, Out: r.attn, DOut: dattn, LSE: r.lse,
		Heads: b.Heads, Scale: b.scale(), Sequences: p.Sequences, Bias: b.bias(&r.p),
		DQ: grad.q, DK: grad.k, DV: grad.v, DTable: dtable})
	if !p.Expand.IsZero() {
		grad.all = contract(s, grad.all, p.Expand, projected)
	}

	h := r.h1
	if r.p.Recompute {
		b.Norm1.Forward(s, r.x.X, p.In, h, layers.Statistics{})
	}
	sums := s.Zeros(1, 3*d)
	products := grad.products(h, r.queriedRows(s, h))
	for _, q := range products {
		var part kernels.Tensor
		if !dw.IsZero() {
			part = dw.Slice(q.lo, q.hi)
		}
		layers.WeightGradients(s, q.h, q.y, part, sums.Columns(q.lo, q.hi))
	}
	if !dq.IsZero() {
		engine.Run(s, kernels.AddScaled{X: sums.Columns(0, d), Y: dq, Alpha: 1})
	}
	if !dv.IsZero() {
		engine.Run(s, kernels.AddScaled{X: sums.Columns(2*d, 3*d), Y: dv, Alpha: 1})
	}

	w := b.QKV.As(t)
	if len(products) == 1 {
		engine.Run(s, kernels.MatMul{A: grad.all, B: w, C: h})
	} else {
		q := s.Floats(queried, d)
		h = s.Floats(projected, d)
		engine.Run(s, kernels.MatMul{A: grad.q, B: w.Slice(0, d), C: q})
		engine.Run(s, kernels.MatMul{A: grad.kv, B: w.Slice(d, 3*d), C: h})
		engine.Run(s, kernels.ScatterAdd{Y: q, Index: p.Queries, Table: h})
	}
	if !r.left {
		b.Norm1.Backward(s, r.x.X, p.In, h, r.norm1, r.x.G, true)
	}
}

// contract adds the rows of x that index gives the same number, of n, and
// returns the sums in x's type.
func contract(s *engine.Step, x, index kernels.Tensor, n int) kernels.Tensor {
	sum := s.Zeros(n, x.Cols)
	engine.Run(s, kernels.ScatterAdd{Y: x, Index: index, Table: sum})
	if x.Type == kernels.F32 {
		return sum
	}
	y := s.Tensor(x.Type, n, x.Cols)
	engine.Run(s, kernels.Copy{X: sum, Y: y})
	return y
}

// touch notes gradients of zero.
func touch(list ...*engine.Param) {
	for _, p := range list {
		p.Touch()
	}
}

func (e *Expert) touch() {
	touch(e.Norm.Scale, e.Norm.Shift, e.FC1.Weight, e.FC1.Bias, e.FC2.Weight, e.FC2.Bias)
}
