package kernels

// Sequence names the rows that attend to each other: TextLen rows from
// TextOff, then ImageLen rows from ImageOff. Either may be empty. Row 0 of
// each part is its [CLS]; the image part is [CLS] and a square of patches.
type Sequence struct {
	TextOff, TextLen, ImageOff, ImageLen int
}

// RelativeBias locates the bias of one layer in VLMo's table (SPEC §4).
type RelativeBias struct {
	Table  Tensor // [A, layers·heads]; zero: no bias
	Column int    // the layer's first column
	Window int    // W, patches along an edge of the image
	Text   int    // T0, max_text_len_of_initckpt
}

// Rows returns A, the rows of the table.
func (b *RelativeBias) Rows() int { return b.image() + 2*b.Text + 2 }

// image returns R, the rows for image–image pairs and the two cross terms.
func (b *RelativeBias) image() int { return (2*b.Window-1)*(2*b.Window-1) + 3 }

// TextText returns the row for text query i and text key j, 0 being [CLS].
func (b *RelativeBias) TextText(i, j int) int {
	a := b.Rows()
	switch {
	case i == 0 && j == 0:
		return a - 1
	case i == 0:
		return a - 3
	case j == 0:
		return a - 2
	}
	return b.image() + b.Text + j - i
}

// ImageImage returns the row for image query i and image key j, 0 being
// [CLS] and 1 + y·W + x the patch at (x, y).
func (b *RelativeBias) ImageImage(i, j int) int {
	r, w := b.image(), b.Window
	switch {
	case i == 0 && j == 0:
		return r - 1
	case i == 0:
		return r - 3
	case j == 0:
		return r - 2
	}
	i, j = i-1, j-1
	return (i/w-j/w+w-1)*(2*w-1) + i%w - j%w + w - 1
}

// TextImage and ImageText return the rows for the cross terms.
func (b *RelativeBias) TextImage() int { return b.image() }
func (b *RelativeBias) ImageText() int { return b.image() + 1 }

// Attention computes, for every sequence and head, softmax(Q·Kᵀ·Scale + bias)·V.
// With Queries, a list of rows in ascending order without repeats, only those
// are computed: row i of Q, Out and LSE belongs to row Queries[i] of K and V.
// Rows of Out and LSE that belong to no sequence are not written.
//
// With BF16 operands a device may round exponentials, and in the backward pass
// the gradients of logits, to BF16 before it multiplies with them.
type Attention struct {
	Q         Tensor // [M, D], heads × head dim; F32 or BF16
	K, V      Tensor // [N, D], of Q's type
	Queries   Tensor // I32 [1, M], optional (all: M = N)
	Heads     int
	Scale     float32
	Sequences []Sequence // of rows of K and V
	Bias      RelativeBias
	Out       Tensor // [M, D] of Q's type, =
	LSE       Tensor // [M, heads], =: log Σ exp of the logits, for the backward pass
}

func (o *Attention) Name() string { return "Attention" }
func (o *Attention) Check() error {
	c := checker{op: "Attention"}
	c.attention(o.Q, o.K, o.V, o.Queries, o.Out, o.LSE, o.Heads, o.Sequences, &o.Bias)
	return c.err
}

func (c *checker) attention(q, k, v, queries, out, lse Tensor, heads int, seqs []Sequence, b *RelativeBias) {
	n, d := k.Rows, k.Cols
	m := n
	if !queries.IsZero() {
		m = queries.Cols
		c.tensor("Queries", queries, I32, 1, -1)
	}
	c.float("Q", q, m, d)
	c.tensor("K", k, q.Type, -1, -1)
	c.tensor("V", v, q.Type, n, d)
	c.tensor("Out", out, q.Type, m, d)
	c.tensor("LSE", lse, F32, m, heads)
	if heads <= 0 || d%heads != 0 {
		c.fail("%d columns do not divide into %d heads", d, heads)
	}
	if !b.Table.IsZero() {
		c.tensor("Bias.Table", b.Table, F32, b.Rows(), -1)
		if b.Column < 0 || b.Column+heads > b.Table.Cols {
			c.fail("bias columns [%d, %d) of %d", b.Column, b.Column+heads, b.Table.Cols)
		}
	}
	for i, s := range seqs {
		if s.TextLen < 0 || s.ImageLen < 0 || s.TextOff < 0 || s.ImageOff < 0 ||
			s.TextOff+s.TextLen > n || s.ImageOff+s.ImageLen > n {
			c.fail("sequence %d is %+v, with %d rows in all", i, s, n)
		}
		if !b.Table.IsZero() && s.TextLen > b.Text {
			c.fail("sequence %d has %d text tokens, the bias table reaches %d", i, s.TextLen, b.Text)
		}
		if !b.Table.IsZero() && s.ImageLen > 1+b.Window*b.Window {
			c.fail("sequence %d has %d image tokens, the bias window is %d", i, s.ImageLen, b.Window)
		}
	}
}

// pairs counts query–key pairs; with Queries, as if each sequence had its
// share of them.
func pairs(seqs []Sequence, n int, queries Tensor) int64 {
	var p int64
	for _, s := range seqs {
		l := int64(s.TextLen + s.ImageLen)
		p += l * l
	}
	if !queries.IsZero() && n > 0 {
		p = int64(float64(p) * float64(queries.Cols) / float64(n))
	}
	return p
}

func (o *Attention) FLOPs() int64 {
	return 4 * pairs(o.Sequences, o.K.Rows, o.Queries) * int64(o.K.Cols)
}
func (o *Attention) Bytes() int64 { return bytesOf(o) }
func (o *Attention) Operands(l []Operand) []Operand {
	return operands(l, Operand{"Q", o.Q, In}, Operand{"K", o.K, In}, Operand{"V", o.V, In}, Operand{"Queries", o.Queries, In},
		Operand{"Bias", o.Bias.Table, In}, Operand{"Out", o.Out, InOut}, Operand{"LSE", o.LSE, InOut})
}

// AttentionGrad is the backward pass of Attention. Rows of DQ, DK and DV that
// belong to no sequence are not written.
type AttentionGrad struct {
	Q          Tensor // [M, D]
	K, V       Tensor // [N, D]
	Queries    Tensor // I32 [1, M], optional
	Out, DOut  Tensor // [M, D] of Q's type; Out as Attention wrote it
	LSE        Tensor // [M, heads], as Attention wrote it
	Heads      int
	Scale      float32
	Sequences  []Sequence
	Bias       RelativeBias
	DQ, DK, DV Tensor // as Q, K, V, =
	DTable     Tensor // as Bias.Table, +=, optional
}

func (o *AttentionGrad) Name() string { return "AttentionGrad" }
func (o *AttentionGrad) Check() error {
	c := checker{op: "AttentionGrad"}
	c.attention(o.Q, o.K, o.V, o.Queries, o.Out, o.LSE, o.Heads, o.Sequences, &o.Bias)
	m, n, d := o.Q.Rows, o.K.Rows, o.K.Cols
	c.tensor("DOut", o.DOut, o.Q.Type, m, d)
	c.tensor("DQ", o.DQ, o.Q.Type, m, d)
	c.tensor("DK", o.DK, o.Q.Type, n, d)
	c.tensor("DV", o.DV, o.Q.Type, n, d)
	c.optional("DTable", o.DTable, F32, o.Bias.Table.Rows, o.Bias.Table.Cols)
	return c.err
}
func (o *AttentionGrad) FLOPs() int64 {
	return 10 * pairs(o.Sequences, o.K.Rows, o.Queries) * int64(o.K.Cols)
}
func (o *AttentionGrad) Bytes() int64 { return bytesOf(o) }
func (o *AttentionGrad) Operands(l []Operand) []Operand {
	return operands(l, Operand{"Q", o.Q, In}, Operand{"K", o.K, In}, Operand{"V", o.V, In}, Operand{"Queries", o.Queries, In},
		Operand{"Out", o.Out, In}, Operand{"DOut", o.DOut, In}, Operand{"LSE", o.LSE, In}, Operand{"Bias", o.Bias.Table, In},
		Operand{"DQ", o.DQ, InOut}, Operand{"DK", o.DK, InOut}, Operand{"DV", o.DV, InOut}, Operand{"DTable", o.DTable, InOut})
}
