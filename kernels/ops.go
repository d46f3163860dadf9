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
type MatMul struct {
	A, B           Tensor // op(A) is [M, K], op(B) is [K, N]
	TransA, TransB bool   // op(X) = Xᵀ
	C              Tensor // [M, N], = (or += with Accumulate)
	Accumulate     bool   // excludes Bias and Act
	Bias           Tensor // [1, N], optional
	Act            Activation
	Pre            Tensor // [M, N]: written by GELU (optional), read by GELUGrad
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
	c.tensor("A", o.A, F32, -1, -1)
	if o.TransB {
		c.tensor("B", o.B, F32, n, k)
	} else {
		c.tensor("B", o.B, F32, k, n)
	}
	c.tensor("C", o.C, F32, m, n)
	c.optional("Bias", o.Bias, F32, 1, n)
	switch {
	case o.Act > GELUGrad:
		c.fail("activation %d is not known", o.Act)
	case o.Accumulate && (o.Act != None || !o.Bias.IsZero()):
		c.fail("Accumulate with a bias or an activation")
	case o.Act == GELUGrad && !o.Bias.IsZero():
		c.fail("GELUGrad with a bias")
	case o.Act == GELUGrad:
		c.tensor("Pre", o.Pre, F32, m, n)
	case o.Act == GELU:
		c.optional("Pre", o.Pre, F32, m, n)
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
		Operand{"C", o.C, role}, Operand{"Pre", o.Pre, pre})
}

// ColumnSum computes Y += Σ_r X[r], a bias's gradient.
type ColumnSum struct {
	X Tensor // [R, N]
	Y Tensor // [1, N], +=
}

func (o *ColumnSum) Name() string { return "ColumnSum" }
func (o *ColumnSum) Check() error {
	c := checker{op: "ColumnSum"}
	c.tensor("X", o.X, F32, -1, -1)
	c.tensor("Y", o.Y, F32, 1, o.X.Cols)
	return c.err
}
func (o *ColumnSum) FLOPs() int64 { return int64(o.X.Len()) }
func (o *ColumnSum) Bytes() int64 { return bytesOf(o) }
func (o *ColumnSum) Operands(l []Operand) []Operand {
	return operands(l, Operand{"X", o.X, In}, Operand{"Y", o.Y, InOut})
}

// LayerNorm computes Y = (X − mean)·rstd ⊙ Scale + Shift row by row, with
// rstd = 1/√(variance + Eps).
type LayerNorm struct {
	X            Tensor // [R, D]
	Scale, Shift Tensor // [1, D]
	Y            Tensor // [R, D], =
	Mean, Rstd   Tensor // [1, R], =; both or neither
	Eps          float32
}

func (o *LayerNorm) Name() string { return "LayerNorm" }
func (o *LayerNorm) Check() error {
	c := checker{op: "LayerNorm"}
	r, d := o.X.Rows, o.X.Cols
	c.tensor("X", o.X, F32, -1, -1)
	c.tensor("Scale", o.Scale, F32, 1, d)
	c.tensor("Shift", o.Shift, F32, 1, d)
	c.tensor("Y", o.Y, F32, r, d)
	c.optional("Mean", o.Mean, F32, 1, r)
	c.optional("Rstd", o.Rstd, F32, 1, r)
	if o.Mean.IsZero() != o.Rstd.IsZero() {
		c.fail("Mean without Rstd, or the reverse")
	}
	return c.err
}
func (o *LayerNorm) FLOPs() int64 { return 8 * int64(o.X.Len()) }
func (o *LayerNorm) Bytes() int64 { return bytesOf(o) }
func (o *LayerNorm) Operands(l []Operand) []Operand {
	return operands(l, Operand{"X", o.X, In}, Operand{"Scale", o.Scale, In}, Operand{"Shift", o.Shift, In},
		Operand{"Y", o.Y, Out}, Operand{"Mean", o.Mean, Out}, Operand{"Rstd", o.Rstd, Out})
}

// LayerNormGrad is the backward pass of LayerNorm.
type LayerNormGrad struct {
	X, DY          Tensor // [R, D]
	Scale          Tensor // [1, D]
	Mean, Rstd     Tensor // [1, R], as LayerNorm wrote them
	DX             Tensor // [R, D], = (or += with Accumulate)
	DScale, DShift Tensor // [1, D], +=; both or neither
	Accumulate     bool
}

func (o *LayerNormGrad) Name() string { return "LayerNormGrad" }
func (o *LayerNormGrad) Check() error {
	c := checker{op: "LayerNormGrad"}
	r, d := o.X.Rows, o.X.Cols
	c.tensor("X", o.X, F32, -1, -1)
	c.tensor("DY", o.DY, F32, r, d)
	c.tensor("Scale", o.Scale, F32, 1, d)
	c.tensor("Mean", o.Mean, F32, 1, r)
	c.tensor("Rstd", o.Rstd, F32, 1, r)
	c.tensor("DX", o.DX, F32, r, d)
	c.optional("DScale", o.DScale, F32, 1, d)
	c.optional("DShift", o.DShift, F32, 1, d)
	if o.DScale.IsZero() != o.DShift.IsZero() {
		c.fail("DScale without DShift, or the reverse")
	}
	return c.err
}
func (o *LayerNormGrad) FLOPs() int64 { return 14 * int64(o.X.Len()) }
func (o *LayerNormGrad) Bytes() int64 { return bytesOf(o) }
func (o *LayerNormGrad) Operands(l []Operand) []Operand {
	return operands(l, Operand{"X", o.X, In}, Operand{"DY", o.DY, In}, Operand{"Scale", o.Scale, In},
		Operand{"Mean", o.Mean, In}, Operand{"Rstd", o.Rstd, In}, Operand{"DX", o.DX, updates(o.Accumulate)},
		Operand{"DScale", o.DScale, InOut}, Operand{"DShift", o.DShift, InOut})
}

func updates(accumulate bool) Role {
	if accumulate {
		return InOut
	}
	return Out
}

// Residual computes Z = X + Keep[r]·Gamma ⊙ Y: a residual connection with
// LayerScale and drop path (SPEC §2).
type Residual struct {
	X, Y  Tensor // [R, D]
	Gamma Tensor // [1, D], optional (ones)
	Keep  Tensor // [1, R], optional (ones): 0 or 1/keep probability
	Z     Tensor // [R, D], =; may be X
}

func (o *Residual) Name() string { return "Residual" }
func (o *Residual) Check() error {
	c := checker{op: "Residual"}
	r, d := o.X.Rows, o.X.Cols
	c.tensor("X", o.X, F32, -1, -1)
	c.tensor("Y", o.Y, F32, r, d)
	c.optional("Gamma", o.Gamma, F32, 1, d)
	c.optional("Keep", o.Keep, F32, 1, r)
	c.tensor("Z", o.Z, F32, r, d)
	return c.err
}
func (o *Residual) FLOPs() int64 { return 3 * int64(o.X.Len()) }
func (o *Residual) Bytes() int64 { return bytesOf(o) }
func (o *Residual) Operands(l []Operand) []Operand {
	return operands(l, Operand{"X", o.X, In}, Operand{"Y", o.Y, In}, Operand{"Gamma", o.Gamma, In},
		Operand{"Keep", o.Keep, In}, Operand{"Z", o.Z, Out})
}

// ResidualGrad is the backward pass of Residual for Y and Gamma; the
// gradient of X is DZ itself.
type ResidualGrad struct {
	DZ     Tensor // [R, D]
	Y      Tensor // [R, D]; read for DGamma only
	Gamma  Tensor // [1, D], optional
	Keep   Tensor // [1, R], optional
	DY     Tensor // [R, D], =
	DGamma Tensor // [1, D], +=, optional
}

func (o *ResidualGrad) Name() string { return "ResidualGrad" }
func (o *ResidualGrad) Check() error {
	c := checker{op: "ResidualGrad"}
	r, d := o.DZ.Rows, o.DZ.Cols
	c.tensor("DZ", o.DZ, F32, -1, -1)
	c.optional("Gamma", o.Gamma, F32, 1, d)
	c.optional("Keep", o.Keep, F32, 1, r)
	c.tensor("DY", o.DY, F32, r, d)
	if !o.DGamma.IsZero() {
		c.tensor("DGamma", o.DGamma, F32, 1, d)
		c.tensor("Y", o.Y, F32, r, d)
	}
	return c.err
}
func (o *ResidualGrad) FLOPs() int64 { return 4 * int64(o.DZ.Len()) }
func (o *ResidualGrad) Bytes() int64 { return bytesOf(o) }
func (o *ResidualGrad) Operands(l []Operand) []Operand {
	return operands(l, Operand{"DZ", o.DZ, In}, Operand{"Y", o.Y, In}, Operand{"Gamma", o.Gamma, In},
		Operand{"Keep", o.Keep, In}, Operand{"DY", o.DY, Out}, Operand{"DGamma", o.DGamma, InOut})
}

// Gather computes Y[i] = Table[Index[i]], or += with Accumulate. A negative
// index stands for a row of zeros (with Accumulate: the row stays).
type Gather struct {
	Table      Tensor // [V, D]
	Index      Tensor // I32 [1, R], each < V
	Y          Tensor // [R, D]
	Accumulate bool
}

func (o *Gather) Name() string { return "Gather" }
func (o *Gather) Check() error {
	c := checker{op: "Gather"}
	c.tensor("Table", o.Table, F32, -1, -1)
	c.tensor("Y", o.Y, F32, -1, o.Table.Cols)
	c.tensor("Index", o.Index, I32, 1, o.Y.Rows)
	return c.err
}
func (o *Gather) FLOPs() int64 {
	if o.Accumulate {
		return int64(o.Y.Len())
	}
	return 0
}

// Bytes counts the rows that are read, not the whole table.
func (o *Gather) Bytes() int64 { return 8*int64(o.Y.Len()) + 4*int64(o.Index.Len()) }
func (o *Gather) Operands(l []Operand) []Operand {
	return operands(l, Operand{"Table", o.Table, In}, Operand{"Index", o.Index, In}, Operand{"Y", o.Y, updates(o.Accumulate)})
}

// ScatterAdd computes Table[Index[i]] += Y[i] for i in ascending order, so
// that the sums do not depend on the number of threads; the backward pass of
// Gather. Negative indices are left out.
type ScatterAdd struct {
	Y     Tensor // [R, D]
	Index Tensor // I32 [1, R], each < V
	Table Tensor // [V, D], +=
}

func (o *ScatterAdd) Name() string { return "ScatterAdd" }
func (o *ScatterAdd) Check() error {
	c := checker{op: "ScatterAdd"}
	c.tensor("Y", o.Y, F32, -1, -1)
	c.tensor("Index", o.Index, I32, 1, o.Y.Rows)
	c.tensor("Table", o.Table, F32, -1, o.Y.Cols)
	return c.err
}
func (o *ScatterAdd) FLOPs() int64 { return int64(o.Y.Len()) }

// Bytes counts the rows that are touched, not the whole table.
func (o *ScatterAdd) Bytes() int64 { return 12*int64(o.Y.Len()) + 4*int64(o.Index.Len()) }
func (o *ScatterAdd) Operands(l []Operand) []Operand {
	return operands(l, Operand{"Y", o.Y, In}, Operand{"Index", o.Index, In}, Operand{"Table", o.Table, InOut})
}

// Patchify cuts images into patches: row b·P + p of Y holds patch p of image
// b, patches in row order, elements in the order (channel, y, x) of a
// convolution's weight.
type Patchify struct {
	X                       Tensor // [B, C·H·W], planes
	Y                       Tensor // [B·(H/S)·(W/S), C·S·S], =
	Channels, Height, Width int
	Size                    int // S, the patch's edge in pixels
}

func (o *Patchify) Name() string { return "Patchify" }
func (o *Patchify) Check() error {
	c := checker{op: "Patchify"}
	if o.Size <= 0 || o.Channels <= 0 || o.Height%o.Size != 0 || o.Width%o.Size != 0 {
		c.fail("%d×%d×%d pixels do not divide into patches of %d", o.Channels, o.Height, o.Width, o.Size)
		return c.err
	}
	c.tensor("X", o.X, F32, -1, o.Channels*o.Height*o.Width)
	c.tensor("Y", o.Y, F32, o.X.Rows*(o.Height/o.Size)*(o.Width/o.Size), o.Channels*o.Size*o.Size)
	return c.err
}
func (o *Patchify) FLOPs() int64 { return 0 }
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
	X, Y Tensor // [R, D]; Y =
}

func (o *Gelu) Name() string { return "Gelu" }
func (o *Gelu) Check() error {
	c := checker{op: "Gelu"}
	c.tensor("X", o.X, F32, -1, -1)
	c.tensor("Y", o.Y, F32, o.X.Rows, o.X.Cols)
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
