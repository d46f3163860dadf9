// Package ref is the reference backend: every op of package kernels as plain
// loops in host memory, with float64 accumulation and one rounding where a
// result is stored. Other backends are held against it; it is written to be
// read, not to be fast.
package ref

import (
	"fmt"
	"unsafe"

	"vlmo-train/kernels"
)

// align is the alignment of memory in bytes: a cache line.
const align = 64

type device struct{ err error }

// New returns a device that computes in host memory, on the calling goroutine,
// before Run returns. Besides what an op's Check finds, Run rejects row
// indices and labels out of range, rows of a Contrast without a positive
// column, and operands that are not in host memory; such an op writes nothing.
func New() kernels.Device { return &device{} }

func (d *device) Name() string { return "ref (float64 accumulation)" }

func (d *device) Alloc(n int) (*kernels.Memory, error) {
	if d.err == nil && n < 0 {
		d.fail("Alloc of %d bytes", n)
	}
	if d.err != nil {
		return nil, d.err
	}
	b := make([]byte, n+align)
	skip := int(-uintptr(unsafe.Pointer(&b[0])) % align)
	return &kernels.Memory{Host: b[skip : skip+n : skip+n], Bytes: n}, nil
}

// Free makes m empty, so that Check finds ops that still use it.
func (d *device) Free(m *kernels.Memory) {
	if m != nil {
		m.Host, m.Bytes = nil, 0
	}
}

func (d *device) Write(dst kernels.Tensor, src any) { d.copy("Write", dst, src, true) }

func (d *device) Read(dst any, src kernels.Tensor) { d.copy("Read", src, dst, false) }

// copy moves elements between t and the slice host, into t where write is set.
func (d *device) copy(call string, t kernels.Tensor, host any, write bool) {
	if d.err != nil {
		return
	}
	if !t.Contiguous() {
		d.fail("%s: %v is not contiguous", call, t)
		return
	}
	if err := inHost(t); err != nil {
		d.fail("%s: %v", call, err)
		return
	}
	switch s := host.(type) {
	case []float32:
		move(d, call, t, kernels.F32, t.F32, s, write)
	case []int32:
		move(d, call, t, kernels.I32, t.I32, s, write)
	case []uint16:
		move(d, call, t, kernels.BF16, t.BF16, s, write)
	case []byte:
		move(d, call, t, kernels.U8, t.U8, s, write)
	default:
		d.fail("%s: %v and a %T", call, t, host)
	}
}

// move is copy for host elements of the type typ, which elements finds in t.
func move[T any](d *device, call string, t kernels.Tensor, typ kernels.DType, elements func() []T, host []T, write bool) {
	switch {
	case t.Type != typ || len(host) != t.Len():
		d.fail("%s: %v and %d numbers of type %v", call, t, len(host), typ)
	case write:
		copy(elements(), host)
	default:
		copy(host, elements())
	}
}

func (d *device) Sync() error { return d.err }

func (d *device) fail(format string, args ...any) {
	d.err = fmt.Errorf("kernels/ref: %s", fmt.Sprintf(format, args...))
}

// inHost reports what keeps the host from addressing t.
func inHost(t kernels.Tensor) error {
	if t.Rows < 0 || t.Cols < 0 || t.Offset < 0 {
		return fmt.Errorf("%v at byte %d has a negative extent", t, t.Offset)
	}
	if t.Len() == 0 {
		return nil
	}
	if t.IsZero() {
		return fmt.Errorf("%d×%d elements without memory", t.Rows, t.Cols)
	}
	end := t.Offset + ((t.Rows-1)*t.Stride+t.Cols)*t.Type.Size()
	if end > len(t.Mem.Host) {
		return fmt.Errorf("%v reaches byte %d of %d in host memory", t, end, len(t.Mem.Host))
	}
	return nil
}

func (d *device) Run(op kernels.Op) {
	if d.err != nil {
		return
	}
	if err := op.Check(); err != nil {
		d.err = err
		return
	}
	for _, o := range op.Operands(nil) {
		if err := inHost(o.Tensor); err != nil {
			d.fail("%s: %s: %v", op.Name(), o.Name, err)
			return
		}
	}
	var err error
	switch o := op.(type) {
	case *kernels.MatMul:
		matMul(o)
	case *kernels.ColumnSum:
		columnSum(o)
	case *kernels.LayerNorm:
		err = layerNorm(o)
	case *kernels.LayerNormGrad:
		err = layerNormGrad(o)
	case *kernels.Residual:
		err = residual(o)
	case *kernels.ResidualNorm:
		err = residualNorm(o)
	case *kernels.ResidualGrad:
		err = residualGrad(o)
	case *kernels.ResidualNormGrad:
		err = residualNormGrad(o)
	case *kernels.Gather:
		err = gather(o)
	case *kernels.ScatterAdd:
		err = scatterAdd(o)
	case *kernels.Patchify:
		patchify(o)
	case *kernels.Dropout:
		dropout(o)
	case *kernels.Tanh:
		tanh(o)
	case *kernels.TanhGrad:
		tanhGrad(o)
	case *kernels.Gelu:
		geluOp(o)
	case *kernels.GeluGrad:
		geluGradOp(o)
	case *kernels.Copy:
		copyOp(o)
	case *kernels.AddScaled:
		addScaled(o)
	case *kernels.Fill:
		fill(o)
	case *kernels.Normalize:
		normalize(o)
	case *kernels.NormalizeGrad:
		normalizeGrad(o)
	case *kernels.Attention:
		err = attention(o)
	case *kernels.AttentionGrad:
		err = attentionGrad(o)
	case *kernels.CrossEntropy:
		err = crossEntropy(o)
	case *kernels.Contrast:
		err = contrast(o)
	case *kernels.SampleNegative:
		sampleNegative(o)
	case *kernels.BinaryCrossEntropy:
		binaryCrossEntropy(o)
	case *kernels.SquaredError:
		squaredError(o)
	case *kernels.ArgMax:
		argMax(o)
	case *kernels.SumSquares:
		sumSquares(o)
	case *kernels.AdamW:
		adamW(o)
	default:
		err = fmt.Errorf("%s: no such op (%T)", op.Name(), op)
	}
	if err != nil {
		d.fail("%v", err)
	}
}
