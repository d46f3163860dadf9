package kernels

// Activation is what a MatMul applies to its result before storing it.
type Activation uint8

const (
	None Activation = iota
	// GELU stores gelu(v), the erf form x·Φ(x), and v itself in Pre where
	// that is given.
	GELU
	// GELUGrad stores v·gelu'(Pre), the backward pass of GELU.
	GELUGrad
)

// MatMul computes C = act(op(A)·op(B) + Bias), or C += op(A)·op(B).
//
// A and B are both F32 or both BF16; products are accumulated in F32 or wider
// either way. op(A)·op(B) + Bias is rounded to C's type before the activation; a
// device may round Bias to it first.
type MatMul struct {
	A, B           Tensor // op(A) is [M, K], op(B) is [K, N]
	TransA, TransB bool   // op(X) = Xᵀ
	C              Tensor // F32 or BF16 [M, N], = (or, F32 alone, += with Accumulate)
	Accumulate     bool   // excludes Bias and Act
	Bias           Tensor // [1, N], optional
	Act            Activation
	Pre            Tensor // [M, N] of C's type: written by GELU (optional), read by GELUGrad
	// Sum, with TransA, gets the sums over K of op(A): a bias's gradient,
	// where A is the gradient of a layer's result.
	Sum Tensor // [1, M], +=, optional
	// Weights says that B seldom changes, and through ops and Write of this
	// device alone: it may keep a copy in a layout of its own until then.
	Weights bool
}

func (o *MatMul) Name() string { return "MatMul" }

// Dims returns the extents of the product.
func (o *MatMul) Dims() (m, n, k int) {
	m, k = o.A.Rows, o.A.Cols
	if o.TransA {
		m, k = k, m
	}
	n = o.B.Cols
	if o.TransB {
		n = o.B.Rows
	}
	return m, n, k
}

func (o *MatMul) Check() error {
	c := checker{op: "MatMul"}
	m, n, k := o.Dims()
	c.float("A", o.A, -1, -1)
	if o.TransB {
		c.tensor("B", o.B, o.A.Type, n, k)
	} else {
		c.tensor("B", o.B, o.A.Type, k, n)
	}
	c.float("C", o.C, m, n)
	c.optional("Bias", o.Bias, F32, 1, n)
	c.optional("Sum", o.Sum, F32, 1, m)
	switch {
	case !o.Sum.IsZero() && !o.TransA:
		c.fail("Sum without TransA")
	case o.Accumulate && o.C.Type != F32:
		c.fail("Accumulate in %v, want f32", o.C.Type)
	case o.Act > GELUGrad:
		c.fail("activation %d is not known", o.Act)
	case o.Accumulate && (o.Act != None || !o.Bias.IsZero()):
		c.fail("Accumulate with a bias or an activation")
	case o.Act == GELUGrad && !o.Bias.IsZero():
		c.fail("GELUGrad with a bias")
	case o.Act == GELUGrad:
		c.tensor("Pre", o.Pre, o.C.Type, m, n)
	case o.Act == GELU:
		c.optional("Pre", o.Pre, o.C.Type, m, n)
	case !o.Pre.IsZero():
		c.fail("Pre without an activation")
	}
	return c.err
}

func (o *MatMul) FLOPs() int64 {
	m, n, k := o.Dims()
	return 2 * int64(m) * int64(n) * int64(k)
}
func (o *MatMul) Bytes() int64 { return bytesOf(o) }

func (o *MatMul) Operands(l []Operand) []Operand {
	role, pre := Out, Out
	if o.Accumulate {
		role = InOut
	}
	if o.Act == GELUGrad {
		pre = In
	}
	return operands(l, Operand{"A", o.A, In}, Operand{"B", o.B, In}, Operand{"Bias", o.Bias, In},
		Operand{"C", o.C, role}, Operand{"Pre", o.Pre, pre}, Operand{"Sum", o.Sum, InOut})
}

// ColumnSum computes Y += Σ_r X[r], a bias's gradient.
type ColumnSum struct {
	X Tensor // F32 or BF16 [R, N]
	Y Tensor // [1, N], +=
}

func (o *ColumnSum) Name() string { return "ColumnSum" }
func (o *ColumnSum) Check() error {
	c := checker{op: "ColumnSum"}
	c.float("X", o.X, -1, -1)
	c.tensor("Y", o.Y, F32, 1, o.X.Cols)
	return c.err
}
func (o *ColumnSum) FLOPs() int64 { return int64(o.X.Len()) }
func (o *ColumnSum) Bytes() int64 { return bytesOf(o) }
func (o *ColumnSum) Operands(l []Operand) []Operand {
	return operands(l, Operand{"X", o.X, In}, Operand{"Y", o.Y, InOut})
}

// LayerNorm computes Y = (X − mean)·rstd ⊙ Scale + Shift row by row, with
// rstd = 1/√(variance + Eps). With Rows, row i of Y belongs to row Rows[i] of X.
type LayerNorm struct {
	X            Tensor // F32 or BF16 [N, D]
	Rows         Tensor // I32 [1, R], optional (all: R = N)
	Scale, Shift Tensor // [1, D]
	Y            Tensor // F32 or BF16 [R, D], =
	Mean, Rstd   Tensor // [1, R], =; both or neither
	Eps          float32
}

func (o *LayerNorm) Name() string { return "LayerNorm" }
func (o *LayerNorm) Check() error {
	c := checker{op: "LayerNorm"}
	r, d := c.rows("Rows", o.Rows, o.X.Rows), o.X.Cols
	c.float("X", o.X, -1, -1)
	c.tensor("Scale", o.Scale, F32, 1, d)
	c.tensor("Shift", o.Shift, F32, 1, d)
	c.float("Y", o.Y, r, d)
	c.optional("Mean", o.Mean, F32, 1, r)
	c.optional("Rstd", o.Rstd, F32, 1, r)
	if o.Mean.IsZero() != o.Rstd.IsZero() {
		c.fail("Mean without Rstd, or the reverse")
	}
	return c.err
}
func (o *LayerNorm) FLOPs() int64 { return 8 * int64(o.Y.Len()) }
func (o *LayerNorm) Bytes() int64 { return listed(bytesOf(o), o.X, o.Rows, 1) }
func (o *LayerNorm) Operands(l []Operand) []Operand {
	return operands(l, Operand{"X", o.X, In}, Operand{"Rows", o.Rows, In}, Operand{"Scale", o.Scale, In}, Operand{"Shift", o.Shift, In},
		Operand{"Y", o.Y, Out}, Operand{"Mean", o.Mean, Out}, Operand{"Rstd", o.Rstd, Out})
}

// LayerNormGrad is the backward pass of LayerNorm. With Rows, which are
// distinct, the other rows of DX stay as they are.
type LayerNormGrad struct {
	X              Tensor // F32 or BF16 [N, D]
	Rows           Tensor // I32 [1, R], optional (all: R = N)
	DY             Tensor // F32 or BF16 [R, D]
	Scale          Tensor // [1, D]
	Mean, Rstd     Tensor // [1, R], as LayerNorm wrote them
	DX             Tensor // [N, D], = (or += with Accumulate)
	DScale, DShift Tensor // [1, D], +=; both or neither
	Accumulate     bool
}

func (o *LayerNormGrad) Name() string { return "LayerNormGrad" }
func (o *LayerNormGrad) Check() error {
	c := checker{op: "LayerNormGrad"}
	r, d := c.rows("Rows", o.Rows, o.X.Rows), o.X.Cols
	c.float("X", o.X, -1, -1)
	c.float("DY", o.DY, r, d)
	c.tensor("Scale", o.Scale, F32, 1, d)
	c.tensor("Mean", o.Mean, F32, 1, r)
	c.tensor("Rstd", o.Rstd, F32, 1, r)
	c.tensor("DX", o.DX, F32, o.X.Rows, d)
	c.optional("DScale", o.DScale, F32, 1, d)
	c.optional("DShift", o.DShift, F32, 1, d)
	if o.DScale.IsZero() != o.DShift.IsZero() {
		c.fail("DScale without DShift, or the reverse")
	}
	return c.err
}
func (o *LayerNormGrad) FLOPs() int64 { return 14 * int64(o.DY.Len()) }
func (o *LayerNormGrad) Bytes() int64 {
	n := listed(bytesOf(o), o.X, o.Rows, 1)
	if o.Accumulate || !o.Rows.IsZero() {
		return listed(n, o.DX, o.Rows, 2)
	}
	return n
}
func (o *LayerNormGrad) Operands(l []Operand) []Operand {
	return operands(l, Operand{"X", o.X, In}, Operand{"Rows", o.Rows, In}, Operand{"DY", o.DY, In}, Operand{"Scale", o.Scale, In},
		Operand{"Mean", o.Mean, In}, Operand{"Rstd", o.Rstd, In}, Operand{"DX", o.DX, updates(o.Accumulate || !o.Rows.IsZero())},
		Operand{"DScale", o.DScale, InOut}, Operand{"DShift", o.DShift, InOut})
}

// listed takes off n the rows of t that rows, where present, does not name;
// each was counted times over.
func listed(n int64, t, rows Tensor, times int) int64 {
	if rows.IsZero() {
		return n
	}
	return n - int64(times*(t.Rows-rows.Cols)*t.Cols*t.Type.Size())
}

func updates(accumulate bool) Role {
	if accumulate {
		return InOut
	}
	return Out
}

// Residual computes Z = X + Keep[r]·Gamma ⊙ Y: a residual connection with
// LayerScale and drop path (SPEC §2). With Rows, which are distinct, row i of
// Y is added to row Rows[i] of X, and the other rows of Z are those of X:
// samples whose path is dropped have no rows in Y.
type Residual struct {
	X     Tensor // F32 or BF16 [N, D]
	Rows  Tensor // I32 [1, R], optional (all: R = N)
	Y     Tensor // F32 or BF16 [R, D]
	Gamma Tensor // [1, D], optional (ones)
	Keep  Tensor // [1, R], optional (ones): 0 or 1/keep probability
	Z     Tensor // F32 or BF16 [N, D], =; may be X
}

func (o *Residual) Name() string { return "Residual" }
func (o *Residual) Check() error {
	c := checker{op: "Residual"}
	o.check(&c)
	return c.err
}
func (o *Residual) check(c *checker) {
	r, d := c.rows("Rows", o.Rows, o.X.Rows), o.X.Cols
	c.float("X", o.X, -1, -1)
	c.float("Y", o.Y, r, d)
	c.optional("Gamma", o.Gamma, F32, 1, d)
	c.optional("Keep", o.Keep, F32, 1, r)
	c.float("Z", o.Z, o.X.Rows, d)
}
func (o *Residual) FLOPs() int64 { return 3 * int64(o.Y.Len()) }
func (o *Residual) Bytes() int64 { return bytesOf(o) }
func (o *Residual) Operands(l []Operand) []Operand {
	return operands(l, Operand{"X", o.X, In}, Operand{"Rows", o.Rows, In}, Operand{"Y", o.Y, In}, Operand{"Gamma", o.Gamma, In},
		Operand{"Keep", o.Keep, In}, Operand{"Z", o.Z, Out})
}

// ResidualGrad is the backward pass of Residual for Y and Gamma; the
// gradient of X is DZ itself.
type ResidualGrad struct {
	DZ     Tensor // F32 or BF16 [N, D]
	Rows   Tensor // I32 [1, R], optional (all: R = N)
	Y      Tensor // F32 or BF16 [R, D]; read for DGamma only
	Gamma  Tensor // [1, D], optional
	Keep   Tensor // [1, R], optional
	DY     Tensor // F32 or BF16 [R, D], =
	DGamma Tensor // [1, D], +=, optional
}

func (o *ResidualGrad) Name() string { return "ResidualGrad" }
func (o *ResidualGrad) Check() error {
	c := checker{op: "ResidualGrad"}
	o.check(&c)
	return c.err
}
func (o *ResidualGrad) check(c *checker) {
	r, d := c.rows("Rows", o.Rows, o.DZ.Rows), o.DZ.Cols
	c.float("DZ", o.DZ, -1, -1)
	c.optional("Gamma", o.Gamma, F32, 1, d)
	c.optional("Keep", o.Keep, F32, 1, r)
	c.float("DY", o.DY, r, d)
	if !o.DGamma.IsZero() {
		c.tensor("DGamma", o.DGamma, F32, 1, d)
		c.float("Y", o.Y, r, d)
	}
}
func (o *ResidualGrad) FLOPs() int64 { return 4 * int64(o.DY.Len()) }
func (o *ResidualGrad) Bytes() int64 { return listed(bytesOf(o), o.DZ, o.Rows, 1) }
func (o *ResidualGrad) Operands(l []Operand) []Operand {
	return operands(l, Operand{"DZ", o.DZ, In}, Operand{"Rows", o.Rows, In}, Operand{"Y", o.Y, In}, Operand{"Gamma", o.Gamma, In},
		Operand{"Keep", o.Keep, In}, Operand{"DY", o.DY, Out}, Operand{"DGamma", o.DGamma, InOut})
}

// ResidualNorm is a Residual and LayerNorms of its result as one op, which
// does not read Z again: H = (Z − mean)·rstd ⊙ Scale + Shift row by row, with
// rstd = 1/√(variance + Eps). With NormRows, which are distinct, row i of H
// belongs to row NormRows[i] of Z. The rows of H fall into parts with scales
// and shifts of their own: those of a block's experts.
//
// On every device the results are, to the bit, those of the Residual and of
// the LayerNorms that [ResidualNorm.Norm] returns: the norm is that of Z as it
// is stored.
type ResidualNorm struct {
	Residual
	NormRows   Tensor // I32 [1, R2], optional (all: R2 = N)
	H          Tensor // F32 or BF16 [R2, D], =
	Mean, Rstd Tensor // [1, R2], =; both or neither
	Eps        float32
	Parts      [3]NormPart // the rows of H in order
}

// NormPart is a run of rows of a norm, possibly none.
type NormPart struct {
	Rows         int
	Scale, Shift Tensor // [1, D]; optional where there are no rows
}

func (o *ResidualNorm) Name() string { return "ResidualNorm" }
func (o *ResidualNorm) Check() error {
	c := checker{op: "ResidualNorm"}
	o.Residual.check(&c)
	r, d := c.rows("NormRows", o.NormRows, o.Z.Rows), o.Z.Cols
	c.float("H", o.H, r, d)
	c.optional("Mean", o.Mean, F32, 1, r)
	c.optional("Rstd", o.Rstd, F32, 1, r)
	if o.Mean.IsZero() != o.Rstd.IsZero() {
		c.fail("Mean without Rstd, or the reverse")
	}
	covered := 0
	for i, p := range o.Parts {
		switch {
		case p.Rows < 0:
			c.fail("Parts[%d] has %d rows", i, p.Rows)
		case p.Rows > 0:
			c.tensor(partNames[i].scale, p.Scale, F32, 1, d)
			c.tensor(partNames[i].shift, p.Shift, F32, 1, d)
		default:
			c.optional(partNames[i].scale, p.Scale, F32, 1, d)
			c.optional(partNames[i].shift, p.Shift, F32, 1, d)
		}
		covered += p.Rows
	}
	if covered != r {
		c.fail("Parts have %d rows, H has %d", covered, r)
	}
	return c.err
}
func (o *ResidualNorm) FLOPs() int64 { return o.Residual.FLOPs() + 8*int64(o.H.Len()) }
func (o *ResidualNorm) Bytes() int64 { return bytesOf(o) }
func (o *ResidualNorm) Operands(l []Operand) []Operand {
	l = operands(o.Residual.Operands(l), Operand{"NormRows", o.NormRows, In}, Operand{"H", o.H, Out},
		Operand{"Mean", o.Mean, Out}, Operand{"Rstd", o.Rstd, Out})
	for i, p := range o.Parts {
		l = operands(l, Operand{partNames[i].scale, p.Scale, In}, Operand{partNames[i].shift, p.Shift, In})
	}
	return l
}

var partNames = [...]struct{ scale, shift, dscale, dshift string }{
	{"Parts[0].Scale", "Parts[0].Shift", "Parts[0].DScale", "Parts[0].DShift"},
	{"Parts[1].Scale", "Parts[1].Shift", "Parts[1].DScale", "Parts[1].DShift"},
	{"Parts[2].Scale", "Parts[2].Shift", "Parts[2].DScale", "Parts[2].DShift"}}

// Ends returns the row of H at which each part ends, exclusive.
func (o *ResidualNorm) Ends() [3]int {
	return ends(o.Parts[0].Rows, o.Parts[1].Rows, o.Parts[2].Rows)
}

func ends(a, b, c int) [3]int { return [3]int{a, a + b, a + b + c} }

// Norm returns the LayerNorm of Parts[i] as an op of its own.
func (o *ResidualNorm) Norm(i int) LayerNorm {
	p, hi := &o.Parts[i], o.Ends()[i]
	lo := hi - p.Rows
	n := LayerNorm{X: o.Z, Rows: o.NormRows, Scale: p.Scale, Shift: p.Shift, Y: o.H.Slice(lo, hi), Eps: o.Eps}
	if n.Rows.IsZero() {
		n.X = n.X.Slice(lo, hi)
	} else {
		n.Rows = n.Rows.Columns(lo, hi)
	}
	if !o.Mean.IsZero() {
		n.Mean, n.Rstd = o.Mean.Columns(lo, hi), o.Rstd.Columns(lo, hi)
	}
	return n
}

// ResidualNormGrad is the backward pass of ResidualNorm as one op, in which
// DZ is the gradient of Z but for its norms: it adds what comes through these,
// as LayerNormGrad with Accumulate does, and does what ResidualGrad does with
// the sum. The row lists are distinct.
type ResidualNormGrad struct {
	ResidualGrad        // DZ is F32 and +=
	Z            Tensor // F32 or BF16 [N, D]
	NormRows     Tensor // I32 [1, R2], optional (all: R2 = N)
	DH           Tensor // F32 or BF16 [R2, D]
	Mean, Rstd   Tensor // [1, R2], as ResidualNorm wrote them
	Parts        [3]NormGradPart
}

// NormGradPart is a NormPart's backward pass.
type NormGradPart struct {
	Rows           int
	Scale          Tensor // [1, D]; optional where there are no rows
	DScale, DShift Tensor // [1, D], +=; both or neither
}

func (o *ResidualNormGrad) Name() string { return "ResidualNormGrad" }
func (o *ResidualNormGrad) Check() error {
	c := checker{op: "ResidualNormGrad"}
	o.ResidualGrad.check(&c)
	n, d := o.DZ.Rows, o.DZ.Cols
	r := c.rows("NormRows", o.NormRows, n)
	c.tensor("DZ", o.DZ, F32, n, d)
	c.float("Z", o.Z, n, d)
	c.float("DH", o.DH, r, d)
	c.tensor("Mean", o.Mean, F32, 1, r)
	c.tensor("Rstd", o.Rstd, F32, 1, r)
	covered := 0
	for i, p := range o.Parts {
		name := partNames[i]
		switch {
		case p.Rows < 0:
			c.fail("Parts[%d] has %d rows", i, p.Rows)
		case p.Rows > 0:
			c.tensor(name.scale, p.Scale, F32, 1, d)
		default:
			c.optional(name.scale, p.Scale, F32, 1, d)
		}
		c.optional(name.dscale, p.DScale, F32, 1, d)
		c.optional(name.dshift, p.DShift, F32, 1, d)
		if p.DScale.IsZero() != p.DShift.IsZero() {
			c.fail("%s without %s, or the reverse", name.dscale, name.dshift)
		}
		covered += p.Rows
	}
	if covered != r {
		c.fail("Parts have %d rows, DH has %d", covered, r)
	}
	return c.err
}
func (o *ResidualNormGrad) FLOPs() int64 { return o.ResidualGrad.FLOPs() + 14*int64(o.DH.Len()) }

// Bytes counts the rows of DZ that the norm has twice, and once as many as Y
// has beyond these.
func (o *ResidualNormGrad) Bytes() int64 {
	n := listed(bytesOf(o), o.Z, o.NormRows, 1) - 2*int64(o.DZ.Len()*o.DZ.Type.Size())
	return n + int64((2*o.DH.Rows+max(0, o.DY.Rows-o.DH.Rows))*o.DZ.Cols*o.DZ.Type.Size())
}
func (o *ResidualNormGrad) Operands(l []Operand) []Operand {
	l = operands(l, Operand{"DZ", o.DZ, InOut}, Operand{"Rows", o.Rows, In}, Operand{"Y", o.Y, In}, Operand{"Gamma", o.Gamma, In},
		Operand{"Keep", o.Keep, In}, Operand{"DY", o.DY, Out}, Operand{"DGamma", o.DGamma, InOut},
		Operand{"Z", o.Z, In}, Operand{"NormRows", o.NormRows, In}, Operand{"DH", o.DH, In}, Operand{"Mean", o.Mean, In}, Operand{"Rstd", o.Rstd, In})
	for i, p := range o.Parts {
		name := partNames[i]
		l = operands(l, Operand{name.scale, p.Scale, In}, Operand{name.dscale, p.DScale, InOut}, Operand{name.dshift, p.DShift, InOut})
	}
	return l
}

// Ends returns the row of DH at which each part ends, exclusive.
func (o *ResidualNormGrad) Ends() [3]int {
	return ends(o.Parts[0].Rows, o.Parts[1].Rows, o.Parts[2].Rows)
}

// Norm returns the LayerNormGrad of Parts[i] as an op of its own.
func (o *ResidualNormGrad) Norm(i int) LayerNormGrad {
	p, hi := &o.Parts[i], o.Ends()[i]
	lo := hi - p.Rows
	n := LayerNormGrad{X: o.Z, Rows: o.NormRows, DY: o.DH.Slice(lo, hi), Scale: p.Scale, Mean: o.Mean.Columns(lo, hi), Rstd: o.Rstd.Columns(lo, hi),
		DX: o.DZ, DScale: p.DScale, DShift: p.DShift, Accumulate: true}
	if n.Rows.IsZero() {
		n.X, n.DX = n.X.Slice(lo, hi), n.DX.Slice(lo, hi)
	} else {
		n.Rows = n.Rows.Columns(lo, hi)
	}
	return n
}

// Gather computes Y[i] = Table[Index[i]], or += with Accumulate. A negative
// index stands for a row of zeros (with Accumulate: the row stays).
type Gather struct {
	Table      Tensor // F32 or BF16 [V, D]
	Index      Tensor // I32 [1, R], each < V
	Y          Tensor // F32 or BF16 [R, D], = (or, F32 alone, += with Accumulate)
	Accumulate bool
}

func (o *Gather) Name() string { return "Gather" }
func (o *Gather) Check() error {
	c := checker{op: "Gather"}
	c.float("Table", o.Table, -1, -1)
	c.float("Y", o.Y, -1, o.Table.Cols)
	c.tensor("Index", o.Index, I32, 1, o.Y.Rows)
	if o.Accumulate && o.Y.Type != F32 {
		c.fail("Accumulate in %v, want f32", o.Y.Type)
	}
	return c.err
}
func (o *Gather) FLOPs() int64 {
	if o.Accumulate {
		return int64(o.Y.Len())
	}
	return 0
}

// Bytes counts the rows that are read, not the whole table.
func (o *Gather) Bytes() int64 {
	return int64(o.Table.Type.Size()+o.Y.Type.Size())*int64(o.Y.Len()) + 4*int64(o.Index.Len())
}
func (o *Gather) Operands(l []Operand) []Operand {
	return operands(l, Operand{"Table", o.Table, In}, Operand{"Index", o.Index, In}, Operand{"Y", o.Y, updates(o.Accumulate)})
}

// ScatterAdd computes Table[Index[i]] += Y[i] for i in ascending order, so
// that the sums do not depend on the number of threads; the backward pass of
// Gather. Negative indices are left out.
type ScatterAdd struct {
	Y     Tensor // F32 or BF16 [R, D]
	Index Tensor // I32 [1, R], each < V
	Table Tensor // [V, D], +=
}

func (o *ScatterAdd) Name() string { return "ScatterAdd" }
func (o *ScatterAdd) Check() error {
	c := checker{op: "ScatterAdd"}
	c.float("Y", o.Y, -1, -1)
	c.tensor("Index", o.Index, I32, 1, o.Y.Rows)
	c.tensor("Table", o.Table, F32, -1, o.Y.Cols)
	return c.err
}
func (o *ScatterAdd) FLOPs() int64 { return int64(o.Y.Len()) }

// Bytes counts the rows that are touched, not the whole table.
func (o *ScatterAdd) Bytes() int64 {
	return int64(8+o.Y.Type.Size())*int64(o.Y.Len()) + 4*int64(o.Index.Len())
}
func (o *ScatterAdd) Operands(l []Operand) []Operand {
	return operands(l, Operand{"Y", o.Y, In}, Operand{"Index", o.Index, In}, Operand{"Table", o.Table, InOut})
}

// Patchify cuts images into patches: row b·P + p of Y holds patch p of image
// b, patches in row order, elements in the order (channel, y, x) of a
// convolution's weight. Bytes are normalised on the way: see Value.
type Patchify struct {
	X                       Tensor // F32 or U8 [B, C·H·W], planes
	Y                       Tensor // [B·(H/S)·(W/S), C·S·S], =
	Channels, Height, Width int
	Size                    int     // S, the patch's edge in pixels
	Mean, Std               float32 // of bytes as parts of 255
}

// Value returns what stands for byte b in Y: (b/255 − Mean)/Std, each step
// rounded to float32, as torchvision's ToTensor and Normalize do.
func (o *Patchify) Value(b byte) float32 {
	x := float32(b) / 255
	x -= o.Mean
	return x / o.Std
}

func (o *Patchify) Name() string { return "Patchify" }
func (o *Patchify) Check() error {
	c := checker{op: "Patchify"}
	if o.Size <= 0 || o.Channels <= 0 || o.Height%o.Size != 0 || o.Width%o.Size != 0 {
		c.fail("%d×%d×%d pixels do not divide into patches of %d", o.Channels, o.Height, o.Width, o.Size)
		return c.err
	}
	typ := F32
	if o.X.Type == U8 {
		typ = U8
		if !(o.Std > 0) {
			c.fail("bytes with the deviation %v", o.Std)
		}
	}
	c.tensor("X", o.X, typ, -1, o.Channels*o.Height*o.Width)
	c.tensor("Y", o.Y, F32, o.X.Rows*(o.Height/o.Size)*(o.Width/o.Size), o.Channels*o.Size*o.Size)
	return c.err
}
func (o *Patchify) FLOPs() int64 {
	if o.X.Type == U8 {
		return 3 * int64(o.Y.Len())
	}
	return 0
}
func (o *Patchify) Bytes() int64 { return bytesOf(o) }
func (o *Patchify) Operands(l []Operand) []Operand {
	return operands(l, Operand{"X", o.X, In}, Operand{"Y", o.Y, Out})
}

// Dropout computes Y = X·m/(1−Rate), where m is 0 with probability Rate.
// Element (r, c) uses word c%4 of the Philox block with key Key and counter
// (Row[r], c/4, 0, 0) and keeps the element where word·2⁻³² ≥ Rate, so a row draws the
// same mask wherever it lies in the batch. The backward pass is the same op.
type Dropout struct {
	X    Tensor // [R, D]
	Row  Tensor // I32 [1, R]: identifies the row within the whole step
	Y    Tensor // [R, D], =; may be X
	Rate float32
	Key  [2]uint32
}

func (o *Dropout) Name() string { return "Dropout" }
func (o *Dropout) Check() error {
	c := checker{op: "Dropout"}
	c.tensor("X", o.X, F32, -1, -1)
	c.tensor("Row", o.Row, I32, 1, o.X.Rows)
	c.tensor("Y", o.Y, F32, o.X.Rows, o.X.Cols)
	if !(o.Rate >= 0 && o.Rate < 1) {
		c.fail("rate %v is not in [0, 1)", o.Rate)
	}
	return c.err
}
func (o *Dropout) FLOPs() int64 { return 2 * int64(o.X.Len()) }
func (o *Dropout) Bytes() int64 { return bytesOf(o) }
func (o *Dropout) Operands(l []Operand) []Operand {
	return operands(l, Operand{"X", o.X, In}, Operand{"Row", o.Row, In}, Operand{"Y", o.Y, Out})
}

// Tanh computes Y = tanh(X).
type Tanh struct {
	X, Y Tensor // [R, D]; Y =, may be X
}

func (o *Tanh) Name() string { return "Tanh" }
func (o *Tanh) Check() error {
	c := checker{op: "Tanh"}
	c.tensor("X", o.X, F32, -1, -1)
	c.tensor("Y", o.Y, F32, o.X.Rows, o.X.Cols)
	return c.err
}
func (o *Tanh) FLOPs() int64 { return 10 * int64(o.X.Len()) }
func (o *Tanh) Bytes() int64 { return bytesOf(o) }
func (o *Tanh) Operands(l []Operand) []Operand {
	return operands(l, Operand{"X", o.X, In}, Operand{"Y", o.Y, Out})
}

// TanhGrad computes DX = DY·(1 − Y²).
type TanhGrad struct {
	Y, DY Tensor // [R, D]
	DX    Tensor // [R, D], =; may be DY
}

func (o *TanhGrad) Name() string { return "TanhGrad" }
func (o *TanhGrad) Check() error {
	c := checker{op: "TanhGrad"}
	c.tensor("Y", o.Y, F32, -1, -1)
	c.tensor("DY", o.DY, F32, o.Y.Rows, o.Y.Cols)
	c.tensor("DX", o.DX, F32, o.Y.Rows, o.Y.Cols)
	return c.err
}
func (o *TanhGrad) FLOPs() int64 { return 3 * int64(o.Y.Len()) }
func (o *TanhGrad) Bytes() int64 { return bytesOf(o) }
func (o *TanhGrad) Operands(l []Operand) []Operand {
	return operands(l, Operand{"Y", o.Y, In}, Operand{"DY", o.DY, In}, Operand{"DX", o.DX, Out})
}

// Gelu computes Y = gelu(X), the erf form, where no MatMul precedes it.
type Gelu struct {
	X, Y Tensor // F32 or BF16 [R, D]; Y =
}

func (o *Gelu) Name() string { return "Gelu" }
func (o *Gelu) Check() error {
	c := checker{op: "Gelu"}
	c.float("X", o.X, -1, -1)
	c.float("Y", o.Y, o.X.Rows, o.X.Cols)
	return c.err
}
func (o *Gelu) FLOPs() int64 { return 20 * int64(o.X.Len()) }
func (o *Gelu) Bytes() int64 { return bytesOf(o) }
func (o *Gelu) Operands(l []Operand) []Operand {
	return operands(l, Operand{"X", o.X, In}, Operand{"Y", o.Y, Out})
}

// GeluGrad computes DX = DY·gelu'(X).
type GeluGrad struct {
	X, DY Tensor // [R, D]
	DX    Tensor // [R, D], =; may be DY
}

func (o *GeluGrad) Name() string { return "GeluGrad" }
func (o *GeluGrad) Check() error {
	c := checker{op: "GeluGrad"}
	c.tensor("X", o.X, F32, -1, -1)
	c.tensor("DY", o.DY, F32, o.X.Rows, o.X.Cols)
	c.tensor("DX", o.DX, F32, o.X.Rows, o.X.Cols)
	return c.err
}
func (o *GeluGrad) FLOPs() int64 { return 25 * int64(o.X.Len()) }
func (o *GeluGrad) Bytes() int64 { return bytesOf(o) }
func (o *GeluGrad) Operands(l []Operand) []Operand {
	return operands(l, Operand{"X", o.X, In}, Operand{"DY", o.DY, In}, Operand{"DX", o.DX, Out})
}

// Copy computes Y = X, rounded to Y's type.
type Copy struct {
	X, Y Tensor // F32 or BF16 [R, D]; Y =
}

func (o *Copy) Name() string { return "Copy" }
func (o *Copy) Check() error {
	c := checker{op: "Copy"}
	c.float("X", o.X, -1, -1)
	c.float("Y", o.Y, o.X.Rows, o.X.Cols)
	return c.err
}
func (o *Copy) FLOPs() int64 { return 0 }
func (o *Copy) Bytes() int64 { return bytesOf(o) }
func (o *Copy) Operands(l []Operand) []Operand {
	return operands(l, Operand{"X", o.X, In}, Operand{"Y", o.Y, Out})
}

// AddScaled computes Y += Alpha·X.
type AddScaled struct {
	X, Y  Tensor // [R, D]; Y +=
	Alpha float32
}

func (o *AddScaled) Name() string { return "AddScaled" }
func (o *AddScaled) Check() error {
	c := checker{op: "AddScaled"}
	c.tensor("X", o.X, F32, -1, -1)
	c.tensor("Y", o.Y, F32, o.X.Rows, o.X.Cols)
	return c.err
}
func (o *AddScaled) FLOPs() int64 { return 2 * int64(o.X.Len()) }
func (o *AddScaled) Bytes() int64 { return bytesOf(o) }
func (o *AddScaled) Operands(l []Operand) []Operand {
	return operands(l, Operand{"X", o.X, In}, Operand{"Y", o.Y, InOut})
}

// Fill sets every element of Y to Value.
type Fill struct {
	Y     Tensor // [R, D], =
	Value float32
}

func (o *Fill) Name() string { return "Fill" }
func (o *Fill) Check() error {
	c := checker{op: "Fill"}
	c.tensor("Y", o.Y, F32, -1, -1)
	return c.err
}
func (o *Fill) FLOPs() int64                   { return 0 }
func (o *Fill) Bytes() int64                   { return bytesOf(o) }
func (o *Fill) Operands(l []Operand) []Operand { return operands(l, Operand{"Y", o.Y, Out}) }

// Normalize computes Y = X/‖X‖ row by row, ‖X‖ clamped from below at 1e-12
// as in PyTorch's functional.normalize.
type Normalize struct {
	X    Tensor // [R, D]
	Y    Tensor // [R, D], =
	Norm Tensor // [1, R], =: ‖X‖ after clamping
}

func (o *Normalize) Name() string { return "Normalize" }
func (o *Normalize) Check() error {
	c := checker{op: "Normalize"}
	c.tensor("X", o.X, F32, -1, -1)
	c.tensor("Y", o.Y, F32, o.X.Rows, o.X.Cols)
	c.tensor("Norm", o.Norm, F32, 1, o.X.Rows)
	return c.err
}
func (o *Normalize) FLOPs() int64 { return 3 * int64(o.X.Len()) }
func (o *Normalize) Bytes() int64 { return bytesOf(o) }
func (o *Normalize) Operands(l []Operand) []Operand {
	return operands(l, Operand{"X", o.X, In}, Operand{"Y", o.Y, Out}, Operand{"Norm", o.Norm, Out})
}

// NormalizeGrad computes DX = (DY − Y·⟨Y, DY⟩)/Norm.
type NormalizeGrad struct {
	Y, DY Tensor // [R, D]
	Norm  Tensor // [1, R]
	DX    Tensor // [R, D], =; may be DY
}

func (o *NormalizeGrad) Name() string { return "NormalizeGrad" }
func (o *NormalizeGrad) Check() error {
	c := checker{op: "NormalizeGrad"}
	c.tensor("Y", o.Y, F32, -1, -1)
	c.tensor("DY", o.DY, F32, o.Y.Rows, o.Y.Cols)
	c.tensor("Norm", o.Norm, F32, 1, o.Y.Rows)
	c.tensor("DX", o.DX, F32, o.Y.Rows, o.Y.Cols)
	return c.err
}
func (o *NormalizeGrad) FLOPs() int64 { return 5 * int64(o.Y.Len()) }
func (o *NormalizeGrad) Bytes() int64 { return bytesOf(o) }
func (o *NormalizeGrad) Operands(l []Operand) []Operand {
	return operands(l, Operand{"Y", o.Y, In}, Operand{"DY", o.DY, In}, Operand{"Norm", o.Norm, In}, Operand{"DX", o.DX, Out})
}
