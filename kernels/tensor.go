// Package kernels is the contract between the training engine and the code
// that computes: tensor views, the ops, and the Device that runs them.
//
// An op is a value: a small struct that names its operands. It says what it
// costs ([Op.FLOPs], [Op.Bytes]), which tensors it reads and writes
// ([Op.Operands]) and whether its operands fit together ([Op.Check]). The
// backends kernels/ref and kernels/cpu implement all of them; the suite in
// kernels/conformance holds every backend against ref.
package kernels

import (
	"fmt"
	"math"
	"unsafe"
)

// DType is the type of a tensor's elements.
type DType uint8

const (
	F32  DType = iota // IEEE 754 single precision
	I32               // two's complement 32-bit integer: row indices, labels, token ids
	BF16              // bfloat16, the upper half of a single: activations and weights of products
	U8                // byte: pixels as decoded
)

// Size returns the bytes of one element.
func (t DType) Size() int {
	switch t {
	case BF16:
		return 2
	case U8:
		return 1
	}
	return 4
}

func (t DType) String() string {
	switch t {
	case F32:
		return "f32"
	case I32:
		return "i32"
	case BF16:
		return "bf16"
	case U8:
		return "u8"
	}
	return fmt.Sprintf("DType(%d)", uint8(t))
}

// Memory is one allocation of a [Device].
type Memory struct {
	// Host holds the bytes where the device computes in host memory, aligned
	// to 64 bytes. It is nil for memory that the host cannot address.
	Host []byte
	// Addr is the device address where Host is nil.
	Addr uintptr
	// Bytes is the size of the allocation.
	Bytes int
}

// Tensor is a view of device memory: a matrix of Rows × Cols elements whose
// row r begins r·Stride elements after the first. A vector is one row. The
// zero Tensor means "no such operand".
type Tensor struct {
	Mem                *Memory
	Offset             int // bytes from the start of Mem to the first element
	Type               DType
	Rows, Cols, Stride int
}

// Matrix returns the contiguous rows × cols view that begins offset bytes into m.
func Matrix(m *Memory, offset int, t DType, rows, cols int) Tensor {
	return Tensor{Mem: m, Offset: offset, Type: t, Rows: rows, Cols: cols, Stride: cols}
}

// IsZero reports whether t is the absent operand.
func (t Tensor) IsZero() bool { return t.Mem == nil }

// Len returns the number of elements.
func (t Tensor) Len() int { return t.Rows * t.Cols }

// Contiguous reports whether the rows follow each other without gaps.
func (t Tensor) Contiguous() bool { return t.Stride == t.Cols || t.Rows <= 1 }

// Slice returns rows lo to hi (exclusive) of t.
func (t Tensor) Slice(lo, hi int) Tensor {
	if lo < 0 || hi < lo || hi > t.Rows {
		panic(fmt.Sprintf("kernels: rows [%d, %d) of a tensor with %d rows", lo, hi, t.Rows))
	}
	t.Offset += lo * t.Stride * t.Type.Size()
	t.Rows = hi - lo
	return t
}

// Columns returns columns lo to hi (exclusive) of t.
func (t Tensor) Columns(lo, hi int) Tensor {
	if lo < 0 || hi < lo || hi > t.Cols {
		panic(fmt.Sprintf("kernels: columns [%d, %d) of a tensor with %d columns", lo, hi, t.Cols))
	}
	t.Offset += lo * t.Type.Size()
	t.Cols = hi - lo
	return t
}

// Reshape returns the same elements as a rows × cols matrix. t is contiguous.
func (t Tensor) Reshape(rows, cols int) Tensor {
	if !t.Contiguous() || rows*cols != t.Len() {
		panic(fmt.Sprintf("kernels: cannot view %v as %d×%d", t, rows, cols))
	}
	t.Rows, t.Cols, t.Stride = rows, cols, cols
	return t
}

// F32 returns the elements from the first to the last of t, gaps between rows
// included: element (r, c) is at r·Stride + c. t lies in host memory.
func (t Tensor) F32() []float32 {
	n := t.span()
	if n == 0 {
		return nil
	}
	return unsafe.Slice((*float32)(unsafe.Pointer(&t.Mem.Host[t.Offset])), n)
}

// I32 is like [Tensor.F32] for integers.
func (t Tensor) I32() []int32 {
	n := t.span()
	if n == 0 {
		return nil
	}
	return unsafe.Slice((*int32)(unsafe.Pointer(&t.Mem.Host[t.Offset])), n)
}

// BF16 is like [Tensor.F32] for bfloat16.
func (t Tensor) BF16() []uint16 {
	n := t.span()
	if n == 0 {
		return nil
	}
	return unsafe.Slice((*uint16)(unsafe.Pointer(&t.Mem.Host[t.Offset])), n)
}

// U8 is like [Tensor.F32] for bytes.
func (t Tensor) U8() []byte {
	n := t.span()
	if n == 0 {
		return nil
	}
	return t.Mem.Host[t.Offset:][:n:n]
}

// RoundBF16 returns the bfloat16 nearest to x, of two equally near ones the
// even. A NaN stays one.
func RoundBF16(x float32) uint16 {
	b := math.Float32bits(x)
	if x != x {
		return uint16(b>>16) | 0x40
	}
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}

// FromBF16 returns the value of a bfloat16.
func FromBF16(h uint16) float32 { return math.Float32frombits(uint32(h) << 16) }

// Row returns row r of a host tensor of type F32.
func (t Tensor) Row(r int) []float32 { return t.Slice(r, r+1).F32() }

func (t Tensor) span() int {
	if t.Mem == nil || t.Rows == 0 || t.Cols == 0 {
		return 0
	}
	return (t.Rows-1)*t.Stride + t.Cols
}

func (t Tensor) String() string {
	if t.IsZero() {
		return "none"
	}
	if t.Contiguous() {
		return fmt.Sprintf("%v[%d, %d]", t.Type, t.Rows, t.Cols)
	}
	return fmt.Sprintf("%v[%d, %d; stride %d]", t.Type, t.Rows, t.Cols, t.Stride)
}

// Role says what an op does with an operand.
type Role uint8

const (
	In    Role = iota // read
	Out               // overwritten, whatever it held (=)
	InOut             // read and updated (+= or in place)
)

// Operand is one tensor of an op, for code that treats all ops alike: the
// conformance suite, the NaN finder, the profiler.
type Operand struct {
	Name string
	Tensor
	Role Role
}

// Op is a kernel call. Implementations are pointers to the structs of this
// package. An Out or InOut operand overlaps another operand only where the
// op's documentation says that it may be that operand.
type Op interface {
	// Name returns the op's type name, such as "LayerNorm".
	Name() string
	// Check returns what is wrong with the operands, or nil.
	Check() error
	// FLOPs counts the floating-point operations that the op needs at least.
	FLOPs() int64
	// Bytes counts the memory traffic that the op needs at least: each input
	// read once, each output written once.
	Bytes() int64
	// Operands appends the op's tensors, absent ones left out, to list.
	Operands(list []Operand) []Operand
}

// Device allocates memory and runs ops in the order they are given.
//
// A Device belongs to one goroutine at a time. The first error of any call
// sticks: later calls do nothing, and Sync returns it, as with bufio.Writer.
type Device interface {
	// Name identifies the device to people, such as "cpu (avx2, 2 threads)".
	Name() string
	// Alloc returns zeroed memory of n bytes.
	Alloc(n int) (*Memory, error)
	// Free gives memory back. Tensors that view it must not be used again.
	Free(m *Memory)
	// Run enqueues op. It keeps no reference to op or to slices in it.
	Run(op Op)
	// Write copies src into the contiguous tensor dst, after the ops before it
	// and before those that follow. src is a []float32, []int32, []byte or, for
	// BF16, []uint16 of dst's type and length, and may be reused at once.
	Write(dst Tensor, src any)
	// Read waits for all ops before it and copies the contiguous tensor src
	// into dst, a []float32, []int32, []byte or []uint16 of its type and
	// length.
	Read(dst any, src Tensor)
	// Sync waits for all ops and returns the first error of the device.
	Sync() error
}
