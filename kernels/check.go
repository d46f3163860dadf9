package kernels

import "fmt"

// checker collects the first complaint about an op's operands.
type checker struct {
	op  string
	err error
}

func (c *checker) fail(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf("kernels: %s: %s", c.op, fmt.Sprintf(format, args...))
	}
}

// float is tensor for an operand that may be F32 or BF16.
func (c *checker) float(name string, t Tensor, rows, cols int) {
	typ := F32
	if t.Type == BF16 {
		typ = BF16
	}
	c.tensor(name, t, typ, rows, cols)
}

// rows returns how many rows an op treats that may be given a list of them.
// list, where present, is the I32 [1, n] operand that names n of the all rows.
func (c *checker) rows(name string, list Tensor, all int) int {
	if list.IsZero() {
		return all
	}
	c.tensor(name, list, I32, 1, -1)
	return list.Cols
}

// tensor wants t present, of the given type and shape. A negative rows or
// cols leaves that extent free.
func (c *checker) tensor(name string, t Tensor, typ DType, rows, cols int) {
	if t.Mem == nil {
		if rows != 0 {
			c.fail("%s is missing", name)
		}
		return
	}
	if t.Rows < 0 || t.Cols < 0 {
		c.fail("%s has a negative extent, %d×%d", name, t.Rows, t.Cols)
	}
	if t.Type != typ {
		c.fail("%s is %v, want %v", name, t.Type, typ)
	}
	if rows >= 0 && t.Rows != rows || cols >= 0 && t.Cols != cols {
		c.fail("%s is %d×%d, want %s×%s", name, t.Rows, t.Cols, extent(rows), extent(cols))
	}
	if t.Stride < t.Cols && t.Rows > 1 {
		c.fail("%s has stride %d for %d columns", name, t.Stride, t.Cols)
	}
	if end := t.Offset + t.span()*t.Type.Size(); t.Offset < 0 || end > t.Mem.Bytes {
		c.fail("%s reaches byte %d of %d", name, end, t.Mem.Bytes)
	}
	if t.Offset%t.Type.Size() != 0 {
		c.fail("%s begins at byte %d, not a multiple of %d", name, t.Offset, t.Type.Size())
	}
}

// optional is like tensor for an operand that may be absent.
func (c *checker) optional(name string, t Tensor, typ DType, rows, cols int) {
	if !t.IsZero() {
		c.tensor(name, t, typ, rows, cols)
	}
}

func extent(n int) string {
	if n < 0 {
		return "any"
	}
	return fmt.Sprint(n)
}

// bytesOf counts each In and Out operand once, each InOut twice.
func bytesOf(op Op) int64 {
	var n int64
	var buf [24]Operand
	for _, o := range op.Operands(buf[:0]) {
		b := int64(o.Len() * o.Type.Size())
		if o.Role == InOut {
			b *= 2
		}
		n += b
	}
	return n
}

// operands drops the absent ones.
func operands(list []Operand, all ...Operand) []Operand {
	for _, o := range all {
		if !o.IsZero() {
			list = append(list, o)
		}
	}
	return list
}
