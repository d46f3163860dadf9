// Package layers holds the layers that VLMo is made of, each with an explicit
// forward pass that records its backward pass on the step's tape.
package layers

import (
	"vlmo-train/engine"
	"vlmo-train/kernels"
)

// Node is an activation and the gradient of the loss with respect to it.
// G is absent where no gradient is wanted. Each Node is read by one layer,
// whose backward pass writes G (=); a Shared one is read by several, which
// add to a G that starts at zero.
type Node struct {
	X, G   kernels.Tensor
	Shared bool
}

// NewNode returns an uninitialised rows × cols activation, with a gradient in
// training.
func NewNode(s *engine.Step, rows, cols int) Node {
	n := Node{X: s.Floats(rows, cols)}
	if s.Train {
		n.G = s.Floats(rows, cols)
	}
	return n
}

// Share prepares n to be read by several layers.
func Share(s *engine.Step, n Node) Node {
	if !n.G.IsZero() && n.G.Len() > 0 {
		engine.Run(s, kernels.Fill{Y: n.G})
	}
	n.Shared = true
	return n
}

// PixelMean and PixelStd normalise the three channels of an image, whose bytes
// are parts of 255 (SPEC §10).
const PixelMean, PixelStd = 0.5, 0.5

// Patches cuts images into patches of size × size: pixels are [n, 3·edge·edge]
// in planes, F32 and normalised, or U8; the result is F32
// [n·(edge/size)², 3·size²].
func Patches(s *engine.Step, pixels kernels.Tensor, edge, size int) kernels.Tensor {
	y := s.Floats(pixels.Rows*(edge/size)*(edge/size), 3*size*size)
	engine.Run(s, kernels.Patchify{X: pixels, Y: y, Channels: 3, Height: edge, Width: edge, Size: size, Mean: PixelMean, Std: PixelStd})
	return y
}

// Linear is y = x·Wᵀ + b, with W [out, in] and b [out] or nil.
type Linear struct {
	Weight, Bias *engine.Param
}

// NewLinear declares the parameters prefix.weight and, with bias, prefix.bias.
func NewLinear(st *engine.Store, prefix string, in, out int, bias bool) Linear {
	l := Linear{Weight: st.Add(prefix+".weight", out, in)}
	if bias {
		l.Bias = st.Add(prefix+".bias", out)
	}
	return l
}

// Out returns the width of the result.
func (l *Linear) Out() int { return l.Weight.Shape[0] }

// Forward computes y = act(x·Wᵀ + b); pre is as in kernels.MatMul.
func (l *Linear) Forward(s *engine.Step, x, y kernels.Tensor, act kernels.Activation, pre kernels.Tensor) {
	if x.Rows == 0 {
		return
	}
	engine.Run(s, kernels.MatMul{A: x, B: l.Weight.As(x.Type), TransB: true, Weights: s.PackWeights, C: y, Bias: l.Bias.Tensor(), Act: act, Pre: pre})
}

// Gradients adds the gradients of W and b, given the input and the gradient
// of the result.
func (l *Linear) Gradients(s *engine.Step, x, dy kernels.Tensor) {
	WeightGradients(s, x, dy, l.Weight.Touch(), l.Bias.Touch())
}

// WeightGradients adds dyᵀ·x to dw and the sums of dy's columns to db; either
// may be absent.
func WeightGradients(s *engine.Step, x, dy, dw, db kernels.Tensor) {
	switch {
	case dy.Rows == 0:
	case !dw.IsZero():
		engine.Run(s, kernels.MatMul{A: dy, TransA: true, B: x, C: dw, Accumulate: true, Sum: db})
	case !db.IsZero():
		engine.Run(s, kernels.ColumnSum{X: dy, Y: db})
	}
}

// Input computes dx = dy·W, or += with accumulate.
func (l *Linear) Input(s *engine.Step, dy, dx kernels.Tensor, accumulate bool) {
	if dy.Rows > 0 {
		engine.Run(s, kernels.MatMul{A: dy, B: l.Weight.As(dy.Type), Weights: s.PackWeights, C: dx, Accumulate: accumulate})
	}
}

// Apply is the layer as a node of its own.
func (l *Linear) Apply(s *engine.Step, x Node) Node {
	return l.apply(s, x, NewNode(s, x.X.Rows, l.Out()))
}

// Logits is Apply for the layer before a loss: in training the gradient takes
// the place of the logits, which are the largest tensor of a step and are not
// read again.
func (l *Linear) Logits(s *engine.Step, x Node) Node {
	y := Node{X: s.Floats(x.X.Rows, l.Out())}
	if s.Train {
		y.G = y.X
	}
	return l.apply(s, x, y)
}

func (l *Linear) apply(s *engine.Step, x, y Node) Node {
	l.Forward(s, x.X, y.X, kernels.None, kernels.Tensor{})
	engine.Push(s, linearRecord{l, x, y})
	return y
}

type linearRecord struct {
	l    *Linear
	x, y Node
}

func (r *linearRecord) Backward(s *engine.Step) {
	r.l.Gradients(s, r.x.X, r.y.G)
	if !r.x.G.IsZero() {
		r.l.Input(s, r.y.G, r.x.G, r.x.Shared)
	}
}

// LayerNorm normalises rows; Eps differs from place to place (SPEC §2).
type LayerNorm struct {
	Scale, Shift *engine.Param
	Eps          float32
}

// NewLayerNorm declares prefix.weight and prefix.bias.
func NewLayerNorm(st *engine.Store, prefix string, dim int, eps float32) LayerNorm {
	return LayerNorm{st.Add(prefix+".weight", dim), st.Add(prefix+".bias", dim), eps}
}

// Statistics are what the backward pass of a LayerNorm needs, [1, rows] each.
type Statistics struct{ Mean, Rstd kernels.Tensor }

// NewStatistics returns room for the statistics of rows rows.
func NewStatistics(s *engine.Step, rows int) Statistics {
	return Statistics{s.Floats(1, rows), s.Floats(1, rows)}
}

// Slice returns the statistics of rows lo to hi.
func (st Statistics) Slice(lo, hi int) Statistics {
	return Statistics{st.Mean.Columns(lo, hi), st.Rstd.Columns(lo, hi)}
}

// Forward computes y from x, or from those of its rows that rows names, and
// fills st where it is given.
func (l *LayerNorm) Forward(s *engine.Step, x, rows, y kernels.Tensor, st Statistics) {
	if y.Rows == 0 {
		return
	}
	engine.Run(s, kernels.LayerNorm{X: x, Rows: rows, Scale: l.Scale.Value, Shift: l.Shift.Value, Y: y, Mean: st.Mean, Rstd: st.Rstd, Eps: l.Eps})
}

// Backward adds the parameters' gradients and computes dx (or += with
// accumulate), of the rows that Forward was given.
func (l *LayerNorm) Backward(s *engine.Step, x, rows, dy kernels.Tensor, st Statistics, dx kernels.Tensor, accumulate bool) {
	dscale, dshift := l.Scale.Touch(), l.Shift.Touch()
	if dy.Rows == 0 {
		return
	}
	engine.Run(s, kernels.LayerNormGrad{X: x, Rows: rows, DY: dy, Scale: l.Scale.Value, Mean: st.Mean, Rstd: st.Rstd,
		DX: dx, Accumulate: accumulate, DScale: dscale, DShift: dshift})
}

// Apply is the layer as a node of its own.
func (l *LayerNorm) Apply(s *engine.Step, x Node) Node {
	y := NewNode(s, x.X.Rows, x.X.Cols)
	st := NewStatistics(s, x.X.Rows)
	l.Forward(s, x.X, kernels.Tensor{}, y.X, st)
	engine.Push(s, normRecord{l, x, y, st})
	return y
}

type normRecord struct {
	l    *LayerNorm
	x, y Node
	st   Statistics
}

func (r *normRecord) Backward(s *engine.Step) {
	if !r.x.G.IsZero() {
		r.l.Backward(s, r.x.X, kernels.Tensor{}, r.y.G, r.st, r.x.G, r.x.Shared)
	}
}

// Select returns the rows of x that index names. Its backward pass adds the
// gradients of a row that is named more than once.
func Select(s *engine.Step, x Node, index kernels.Tensor) Node {
	y := NewNode(s, index.Cols, x.X.Cols)
	SelectInto(s, x, index, y)
	return y
}

// SelectInto is Select with the result in y, such as a range of rows of a
// larger node.
func SelectInto(s *engine.Step, x Node, index kernels.Tensor, y Node) {
	if index.Cols > 0 {
		engine.Run(s, kernels.Gather{Table: x.X, Index: index, Y: y.X})
	}
	engine.Push(s, selectRecord{x, y, index})
}

type selectRecord struct {
	x, y  Node
	index kernels.Tensor
}

func (r *selectRecord) Backward(s *engine.Step) {
	if r.x.G.IsZero() {
		return
	}
	if !r.x.Shared && r.x.G.Len() > 0 {
		engine.Run(s, kernels.Fill{Y: r.x.G})
	}
	if r.index.Cols > 0 {
		engine.Run(s, kernels.ScatterAdd{Y: r.y.G, Index: r.index, Table: r.x.G})
	}
}

// Slice returns rows lo to hi of n.
func (n Node) Slice(lo, hi int) Node {
	n.X = n.X.Slice(lo, hi)
	if !n.G.IsZero() {
		n.G = n.G.Slice(lo, hi)
	}
	return n
}

// Reshape views n as rows × cols.
func (n Node) Reshape(rows, cols int) Node {
	n.X = n.X.Reshape(rows, cols)
	if !n.G.IsZero() {
		n.G = n.G.Reshape(rows, cols)
	}
	return n
}

// Lookup adds table rows to y: y[i] += table[index[i]], skipping negative
// indices. The table's leading dimensions are flattened to rows as wide as y,
// so that a class token of shape [1, 1, dim] is a table of one row. The
// backward pass adds to the table's gradient.
func Lookup(s *engine.Step, table *engine.Param, index kernels.Tensor, y Node) {
	if index.Cols == 0 {
		return
	}
	d := y.X.Cols
	v := table.Value.Reshape(table.Len()/d, d)
	engine.Run(s, kernels.Gather{Table: v, Index: index, Y: y.X, Accumulate: true})
	engine.Push(s, lookupRecord{table, index, y})
}

type lookupRecord struct {
	table *engine.Param
	index kernels.Tensor
	y     Node
}

func (r *lookupRecord) Backward(s *engine.Step) {
	if g := r.table.Touch(); !g.IsZero() {
		d := r.y.G.Cols
		engine.Run(s, kernels.ScatterAdd{Y: r.y.G, Index: r.index, Table: g.Reshape(g.Len()/d, d)})
	}
}

// Tanh is the pooler's activation.
func Tanh(s *engine.Step, x Node) Node {
	y := NewNode(s, x.X.Rows, x.X.Cols)
	engine.Run(s, kernels.Tanh{X: x.X, Y: y.X})
	engine.Push(s, tanhRecord{x, y})
	return y
}

type tanhRecord struct{ x, y Node }

func (r *tanhRecord) Backward(s *engine.Step) {
	engine.Run(s, kernels.TanhGrad{Y: r.y.X, DY: r.y.G, DX: r.x.G})
}

// GELU is the erf form as a layer of its own.
func GELU(s *engine.Step, x Node) Node {
	y := NewNode(s, x.X.Rows, x.X.Cols)
	if x.X.Rows > 0 {
		engine.Run(s, kernels.Gelu{X: x.X, Y: y.X})
	}
	engine.Push(s, geluRecord{x, y})
	return y
}

type geluRecord struct{ x, y Node }

func (r *geluRecord) Backward(s *engine.Step) {
	if r.x.X.Rows > 0 {
		engine.Run(s, kernels.GeluGrad{X: r.x.X, DY: r.y.G, DX: r.x.G})
	}
}

// Normalize scales rows to length 1.
func Normalize(s *engine.Step, x Node) Node {
	y := NewNode(s, x.X.Rows, x.X.Cols)
	norm := s.Floats(1, x.X.Rows)
	engine.Run(s, kernels.Normalize{X: x.X, Y: y.X, Norm: norm})
	engine.Push(s, normalizeRecord{x, y, norm})
	return y
}

type normalizeRecord struct {
	x, y Node
	norm kernels.Tensor
}

func (r *normalizeRecord) Backward(s *engine.Step) {
	engine.Run(s, kernels.NormalizeGrad{Y: r.y.X, DY: r.y.G, Norm: r.norm, DX: r.x.G})
}

// Dropout drops elements of x in training; row identifies each row within
// the pass, key the pass.
func Dropout(s *engine.Step, x Node, rate float32, key [2]uint32, row kernels.Tensor) Node {
	if !s.Train || rate == 0 || x.X.Rows == 0 {
		return x
	}
	y := NewNode(s, x.X.Rows, x.X.Cols)
	op := kernels.Dropout{X: x.X, Y: y.X, Row: row, Rate: rate, Key: key}
	engine.Run(s, op)
	op.X, op.Y = y.G, x.G
	engine.Push(s, dropoutRecord{op})
	return y
}

type dropoutRecord struct{ op kernels.Dropout }

func (r *dropoutRecord) Backward(s *engine.Step) { engine.Run(s, r.op) }

// Transform is BERT's head: dense, GELU, LayerNorm.
type Transform struct {
	Dense Linear
	Norm  LayerNorm
}

// Apply runs the three layers.
func (t *Transform) Apply(s *engine.Step, x Node) Node {
	return t.Norm.Apply(s, GELU(s, t.Dense.Apply(s, x)))
}

// Classifier is the head of VQA and NLVR2: linear, LayerNorm, GELU, linear.
type Classifier struct {
	Hidden Linear
	Norm   LayerNorm
	Out    Linear
}

// NewClassifier declares prefix.{0,1,3}.
func NewClassifier(st *engine.Store, prefix string, in, hidden, out int) Classifier {
	return Classifier{NewLinear(st, prefix+".0", in, hidden, true), NewLayerNorm(st, prefix+".1", hidden, 1e-5),
		NewLinear(st, prefix+".3", hidden, out, true)}
}

// Apply returns the logits.
func (c *Classifier) Apply(s *engine.Step, x Node) Node {
	return c.Out.Apply(s, GELU(s, c.Norm.Apply(s, c.Hidden.Apply(s, x))))
}
