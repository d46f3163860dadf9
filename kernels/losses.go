package kernels

// CrossEntropy computes Loss += Weight·Σ_r −log softmax(Logits[r])[Label[r]]
// and, where DLogits is given, DLogits = Weight·(softmax − one-hot).
type CrossEntropy struct {
	Logits  Tensor // [R, C]
	Label   Tensor // I32 [1, R], each in [0, C)
	Weight  float32
	Loss    Tensor // [1, 1], +=
	DLogits Tensor // [R, C], =, optional; may be Logits
}

func (o *CrossEntropy) Name() string { return "CrossEntropy" }
func (o *CrossEntropy) Check() error {
	c := checker{op: "CrossEntropy"}
	c.tensor("Logits", o.Logits, F32, -1, -1)
	c.tensor("Label", o.Label, I32, 1, o.Logits.Rows)
	c.tensor("Loss", o.Loss, F32, 1, 1)
	c.optional("DLogits", o.DLogits, F32, o.Logits.Rows, o.Logits.Cols)
	return c.err
}
func (o *CrossEntropy) FLOPs() int64 { return 6 * int64(o.Logits.Len()) }
func (o *CrossEntropy) Bytes() int64 { return bytesOf(o) }
func (o *CrossEntropy) Operands(l []Operand) []Operand {
	return operands(l, Operand{"Logits", o.Logits, In}, Operand{"Label", o.Label, In},
		Operand{"Loss", o.Loss, InOut}, Operand{"DLogits", o.DLogits, Out})
}

// Contrast is the image–text contrastive loss in one direction (SPEC §7).
// With s = exp(LogScale), l = s·Dot and the positives of row r being the
// columns of the same group, uniformly weighted:
//
//	Loss += Weight·Σ_r CE(l[r], positives)
//	DDot (= or +=) Weight·s·(softmax − positives), DLogScale += Σ dl·l
//
// Every row has a positive column.
type Contrast struct {
	Dot                Tensor // [R, C]: cosines
	LogScale           Tensor // [1, 1]
	RowGroup, ColGroup Tensor // I32 [1, R], [1, C]
	Weight             float32
	Loss               Tensor // [1, 1], +=
	DDot               Tensor // [R, C], = (or += with Accumulate), optional
	Accumulate         bool
	DLogScale          Tensor // [1, 1], +=, optional
}

func (o *Contrast) Name() string { return "Contrast" }
func (o *Contrast) Check() error {
	c := checker{op: "Contrast"}
	r, n := o.Dot.Rows, o.Dot.Cols
	c.tensor("Dot", o.Dot, F32, -1, -1)
	c.tensor("LogScale", o.LogScale, F32, 1, 1)
	c.tensor("RowGroup", o.RowGroup, I32, 1, r)
	c.tensor("ColGroup", o.ColGroup, I32, 1, n)
	c.tensor("Loss", o.Loss, F32, 1, 1)
	c.optional("DDot", o.DDot, F32, r, n)
	c.optional("DLogScale", o.DLogScale, F32, 1, 1)
	return c.err
}
func (o *Contrast) FLOPs() int64 { return 9 * int64(o.Dot.Len()) }
func (o *Contrast) Bytes() int64 { return bytesOf(o) }
func (o *Contrast) Operands(l []Operand) []Operand {
	return operands(l, Operand{"Dot", o.Dot, In}, Operand{"LogScale", o.LogScale, In},
		Operand{"RowGroup", o.RowGroup, In}, Operand{"ColGroup", o.ColGroup, In}, Operand{"Loss", o.Loss, InOut},
		Operand{"DDot", o.DDot, updates(o.Accumulate)}, Operand{"DLogScale", o.DLogScale, InOut})
}

// SampleNegative draws one column a row with probability proportional to
// softmax(exp(LogScale)·Dot[r]) over the columns of other groups: the arg-max
// of logit + Gumbel noise, so nothing under- or overflows (SPEC §7). The
// noise of (r, c) is word 0 of the Philox block with key Key and counter
// (RowID[r], ColID[c], 0, 0), so it does not depend on the order of rows.
// A row without a candidate gets −1.
type SampleNegative struct {
	Dot                Tensor // [R, C]
	LogScale           Tensor // [1, 1]
	RowGroup, ColGroup Tensor // I32 [1, R], [1, C]
	RowID, ColID       Tensor // I32 [1, R], [1, C]
	Key                [2]uint32
	Index              Tensor // I32 [1, R], =
}

func (o *SampleNegative) Name() string { return "SampleNegative" }
func (o *SampleNegative) Check() error {
	c := checker{op: "SampleNegative"}
	r, n := o.Dot.Rows, o.Dot.Cols
	c.tensor("Dot", o.Dot, F32, -1, -1)
	c.tensor("LogScale", o.LogScale, F32, 1, 1)
	c.tensor("RowGroup", o.RowGroup, I32, 1, r)
	c.tensor("ColGroup", o.ColGroup, I32, 1, n)
	c.tensor("RowID", o.RowID, I32, 1, r)
	c.tensor("ColID", o.ColID, I32, 1, n)
	c.tensor("Index", o.Index, I32, 1, r)
	return c.err
}
func (o *SampleNegative) FLOPs() int64 { return 30 * int64(o.Dot.Len()) }
func (o *SampleNegative) Bytes() int64 { return bytesOf(o) }
func (o *SampleNegative) Operands(l []Operand) []Operand {
	return operands(l, Operand{"Dot", o.Dot, In}, Operand{"LogScale", o.LogScale, In},
		Operand{"RowGroup", o.RowGroup, In}, Operand{"ColGroup", o.ColGroup, In},
		Operand{"RowID", o.RowID, In}, Operand{"ColID", o.ColID, In}, Operand{"Index", o.Index, Out})
}

// BinaryCrossEntropy computes Loss += Weight·Σ BCE(sigmoid(Logits), Target)
// over all elements and DLogits = Weight·(sigmoid − Target).
type BinaryCrossEntropy struct {
	Logits, Target Tensor // [R, C]; targets in [0, 1]
	Weight         float32
	Loss           Tensor // [1, 1], +=
	DLogits        Tensor // [R, C], =, optional; may be Logits
}

func (o *BinaryCrossEntropy) Name() string { return "BinaryCrossEntropy" }
func (o *BinaryCrossEntropy) Check() error {
	c := checker{op: "BinaryCrossEntropy"}
	c.tensor("Logits", o.Logits, F32, -1, -1)
	c.tensor("Target", o.Target, F32, o.Logits.Rows, o.Logits.Cols)
	c.tensor("Loss", o.Loss, F32, 1, 1)
	c.optional("DLogits", o.DLogits, F32, o.Logits.Rows, o.Logits.Cols)
	return c.err
}
func (o *BinaryCrossEntropy) FLOPs() int64 { return 8 * int64(o.Logits.Len()) }
func (o *BinaryCrossEntropy) Bytes() int64 { return bytesOf(o) }
func (o *BinaryCrossEntropy) Operands(l []Operand) []Operand {
	return operands(l, Operand{"Logits", o.Logits, In}, Operand{"Target", o.Target, In},
		Operand{"Loss", o.Loss, InOut}, Operand{"DLogits", o.DLogits, Out})
}

// SquaredError computes Loss += Weight·Σ (X − Target)² and
// DX = 2·Weight·(X − Target).
type SquaredError struct {
	X, Target Tensor // [R, C]
	Weight    float32
	Loss      Tensor // [1, 1], +=
	DX        Tensor // [R, C], =, optional; may be X
}

func (o *SquaredError) Name() string { return "SquaredError" }
func (o *SquaredError) Check() error {
	c := checker{op: "SquaredError"}
	c.tensor("X", o.X, F32, -1, -1)
	c.tensor("Target", o.Target, F32, o.X.Rows, o.X.Cols)
	c.tensor("Loss", o.Loss, F32, 1, 1)
	c.optional("DX", o.DX, F32, o.X.Rows, o.X.Cols)
	return c.err
}
func (o *SquaredError) FLOPs() int64 { return 4 * int64(o.X.Len()) }
func (o *SquaredError) Bytes() int64 { return bytesOf(o) }
func (o *SquaredError) Operands(l []Operand) []Operand {
	return operands(l, Operand{"X", o.X, In}, Operand{"Target", o.Target, In},
		Operand{"Loss", o.Loss, InOut}, Operand{"DX", o.DX, Out})
}

// ArgMax finds the column of each row's largest element, the first of equals.
type ArgMax struct {
	X     Tensor // [R, C]
	Index Tensor // I32 [1, R], =
}

func (o *ArgMax) Name() string { return "ArgMax" }
func (o *ArgMax) Check() error {
	c := checker{op: "ArgMax"}
	c.tensor("X", o.X, F32, -1, -1)
	c.tensor("Index", o.Index, I32, 1, o.X.Rows)
	if o.X.Cols == 0 {
		c.fail("rows without elements have no maximum")
	}
	return c.err
}
func (o *ArgMax) FLOPs() int64 { return int64(o.X.Len()) }
func (o *ArgMax) Bytes() int64 { return bytesOf(o) }
func (o *ArgMax) Operands(l []Operand) []Operand {
	return operands(l, Operand{"X", o.X, In}, Operand{"Index", o.Index, Out})
}

// SumSquares computes Y += Σ X², for the gradient norm.
type SumSquares struct {
	X Tensor // [R, C]
	Y Tensor // [1, 1], +=
}

func (o *SumSquares) Name() string { return "SumSquares" }
func (o *SumSquares) Check() error {
	c := checker{op: "SumSquares"}
	c.tensor("X", o.X, F32, -1, -1)
	c.tensor("Y", o.Y, F32, 1, 1)
	return c.err
}
func (o *SumSquares) FLOPs() int64 { return 2 * int64(o.X.Len()) }
func (o *SumSquares) Bytes() int64 { return bytesOf(o) }
func (o *SumSquares) Operands(l []Operand) []Operand {
	return operands(l, Operand{"X", o.X, In}, Operand{"Y", o.Y, InOut})
}

// AdamW is one update of a range of parameters (SPEC §8), as the original's
// (Hugging Face's) AdamW:
//
//	M = b1·M + (1−b1)·g, V = b2·V + (1−b2)·g², g = GradScale·Grad
//	P −= Rate·√(1−b2^Step)/(1−b1^Step) · M/(√V + Eps)
//	P −= Rate·Decay·P
type AdamW struct {
	P, M, V      Tensor // [1, N], updated in place
	Grad         Tensor // [1, N]
	Rate, Decay  float32
	Beta1, Beta2 float32
	Eps          float32
	GradScale    float32
	Step         int    // from 1, counts updates of these parameters
	Half         Tensor // BF16 [1, N], =, optional: P after the update, rounded
}

func (o *AdamW) Name() string { return "AdamW" }
func (o *AdamW) Check() error {
	c := checker{op: "AdamW"}
	n := o.P.Cols
	c.tensor("P", o.P, F32, 1, -1)
	c.tensor("M", o.M, F32, 1, n)
	c.tensor("V", o.V, F32, 1, n)
	c.tensor("Grad", o.Grad, F32, 1, n)
	c.optional("Half", o.Half, BF16, 1, n)
	if o.Step < 1 {
		c.fail("step %d, want 1 or more", o.Step)
	}
	return c.err
}
func (o *AdamW) FLOPs() int64 { return 14 * int64(o.P.Len()) }
func (o *AdamW) Bytes() int64 { return bytesOf(o) }
func (o *AdamW) Operands(l []Operand) []Operand {
	return operands(l, Operand{"P", o.P, InOut}, Operand{"M", o.M, InOut}, Operand{"V", o.V, InOut}, Operand{"Grad", o.Grad, In},
		Operand{"Half", o.Half, Out})
}
