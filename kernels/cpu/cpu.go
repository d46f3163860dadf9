// Package cpu computes the ops of package kernels on the machine's
// processors: in Go assembly for AVX2 with FMA and for AVX-512, in portable Go
// elsewhere.
//
// Results are the same to the bit for any number of threads: products are
// split along their rows and columns and never along the inner dimension, and
// sums over rows are taken in chunks of a fixed size and added in order.
package cpu

import (
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"vlmo-train/kernels"
)

// Options chooses how a device computes.
type Options struct {
	// Threads is the number of goroutines that compute, 0 for GOMAXPROCS.
	Threads int
	// ISA is the instruction set: "generic", "avx2", "avx512" or "avx512bf16",
	// which differs from "avx512" in products of bfloat16s alone. Empty means
	// what the environment variable VLMO_CPU_ISA says, or else the best that
	// the processor has.
	ISA string
}

// New returns a device that computes in host memory. It fails where the
// processor lacks the instruction set that is asked for. Its goroutines end
// when the device is garbage.
func New(opts Options) (kernels.Device, error) {
	name := opts.ISA
	if name == "" {
		name = os.Getenv("VLMO_CPU_ISA")
	}
	s, err := choose(name)
	if err != nil {
		return nil, err
	}
	threads := opts.Threads
	if threads == 0 {
		threads = runtime.GOMAXPROCS(0)
	}
	if threads < 0 {
		return nil, fmt.Errorf("kernels/cpu: %d threads", threads)
	}
	d := &device{isa: s, pool: newPool(s, threads)}
	d.name = fmt.Sprintf("cpu (%s, %d threads)", s.name, threads)
	if threads == 1 {
		d.name = fmt.Sprintf("cpu (%s, 1 thread)", s.name)
	}
	runtime.AddCleanup(d, (*pool).close, d.pool)
	return d, nil
}

// choose returns the named instruction set, or the best for "".
func choose(name string) (*isa, error) {
	for _, s := range available() {
		if name == "" || s.name == name {
			return s, nil
		}
	}
	switch name {
	case "avx2", "avx512", "avx512bf16":
		return nil, fmt.Errorf("kernels/cpu: this processor has no %s", name)
	}
	return nil, fmt.Errorf("kernels/cpu: unknown instruction set %q, want generic, avx2, avx512 or avx512bf16", name)
}

type device struct {
	*isa
	*pool
	name     string
	operands []kernels.Operand // reused by Run
	packs    packs
	err      error
}

func (d *device) Name() string { return d.name }

const (
	align    = 64
	maxAlloc = 1 << 46
)

func (d *device) Alloc(n int) (*kernels.Memory, error) {
	if d.err != nil {
		return nil, d.err
	}
	if n < 0 || n > maxAlloc {
		d.fail("cannot allocate %d bytes", n)
		return nil, d.err
	}
	host := make([]byte, n+align)
	adviseHuge(host)
	skip := -int(uintptr(unsafe.Pointer(&host[0]))) & (align - 1)
	return &kernels.Memory{Host: host[skip : skip+n : skip+n], Bytes: n}, nil
}

func (d *device) Free(m *kernels.Memory) {
	delete(d.packs.byMemory, m)
	release(m.Host)
	m.Host = nil
}

func (d *device) Sync() error { return d.err }

func (d *device) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("kernels/cpu: "+format, args...)
	}
}

func (d *device) Write(dst kernels.Tensor, src any) {
	if d.err != nil {
		return
	}
	d.changed(dst)
	switch src := src.(type) {
	case []float32:
		if d.transfer("Write to", dst, kernels.F32, len(src)) {
			copy(dst.F32(), src)
		}
	case []int32:
		if d.transfer("Write to", dst, kernels.I32, len(src)) {
			copy(dst.I32(), src)
		}
	case []uint16:
		if d.transfer("Write to", dst, kernels.BF16, len(src)) {
			copy(dst.BF16(), src)
		}
	case []byte:
		if d.transfer("Write to", dst, kernels.U8, len(src)) {
			copy(dst.U8(), src)
		}
	default:
		d.fail("Write of a %T, want []float32, []int32, []uint16 or []byte", src)
	}
}

func (d *device) Read(dst any, src kernels.Tensor) {
	if d.err != nil {
		return
	}
	switch dst := dst.(type) {
	case []float32:
		if d.transfer("Read of", src, kernels.F32, len(dst)) {
			copy(dst, src.F32())
		}
	case []int32:
		if d.transfer("Read of", src, kernels.I32, len(dst)) {
			copy(dst, src.I32())
		}
	case []uint16:
		if d.transfer("Read of", src, kernels.BF16, len(dst)) {
			copy(dst, src.BF16())
		}
	case []byte:
		if d.transfer("Read of", src, kernels.U8, len(dst)) {
			copy(dst, src.U8())
		}
	default:
		d.fail("Read into a %T, want []float32, []int32, []uint16 or []byte", dst)
	}
}

// transfer reports whether n elements of type typ can be copied from or to t.
func (d *device) transfer(what string, t kernels.Tensor, typ kernels.DType, n int) bool {
	switch {
	case t.Len() == 0 && n == 0:
		return true
	case t.IsZero() || t.Type != typ || t.Len() != n || !t.Contiguous():
		d.fail("%s %v with %d elements of %v", what, t, n, typ)
	case !inHost(t):
		d.fail("%s %v outside of its memory, or in none of this device", what, t)
	}
	return d.err == nil
}

func inHost(t kernels.Tensor) bool {
	if t.Len() == 0 {
		return true
	}
	last := (t.Rows-1)*t.Stride + t.Cols
	return t.Offset >= 0 && t.Offset+last*t.Type.Size() <= len(t.Mem.Host)
}

func (d *device) Run(op kernels.Op) {
	if d.err != nil {
		return
	}
	if err := op.Check(); err != nil {
		d.err = err
		return
	}
	d.operands = op.Operands(d.operands[:0])
	for i := range d.operands {
		if t := d.operands[i].Tensor; !inHost(t) {
			d.fail("%s: %s lies in no memory of this device", op.Name(), d.operands[i].Name)
		} else if d.operands[i].Role != kernels.In {
			d.changed(t)
		}
	}
	clear(d.operands) // keeps no memory alive
	if d.err != nil {
		return
	}
	switch o := op.(type) {
	case *kernels.MatMul:
		d.matMul((*matMul)(o))
	case *kernels.ColumnSum:
		d.columnSum((*columnSum)(o))
	case *kernels.LayerNorm:
		if d.indices("LayerNorm", "row", o.Rows.I32(), 0, o.X.Rows) {
			d.rows((*layerNorm)(o), o.Y)
		}
	case *kernels.LayerNormGrad:
		if d.indices("LayerNormGrad", "row", o.Rows.I32(), 0, o.X.Rows) {
			d.layerNormGrad((*layerNormGrad)(o))
		}
	case *kernels.Residual:
		if d.indices("Residual", "row", o.Rows.I32(), 0, o.X.Rows) {
			d.residual((*residual)(o))
		}
	case *kernels.ResidualNorm:
		if d.indices("ResidualNorm", "row", o.Rows.I32(), 0, o.X.Rows) && d.indices("ResidualNorm", "row of the norm", o.NormRows.I32(), 0, o.X.Rows) {
			d.residualNorm((*residualNorm)(o))
		}
	case *kernels.ResidualGrad:
		if d.indices("ResidualGrad", "row", o.Rows.I32(), 0, o.DZ.Rows) {
			d.residualGrad((*residualGrad)(o))
		}
	case *kernels.ResidualNormGrad:
		if d.indices("ResidualNormGrad", "row", o.Rows.I32(), 0, o.DZ.Rows) && d.indices("ResidualNormGrad", "row of the norm", o.NormRows.I32(), 0, o.DZ.Rows) {
			d.residualNormGrad((*residualNormGrad)(o))
		}
	case *kernels.Gather:
		if d.indices("Gather", "index", o.Index.I32(), -1<<31, o.Table.Rows) {
			d.rows((*gather)(o), o.Y)
		}
	case *kernels.ScatterAdd:
		if d.indices("ScatterAdd", "index", o.Index.I32(), -1<<31, o.Table.Rows) {
			d.each((*scatterAdd)(o), blocks(o.Y.Cols, d.shared.scatterCols(o.Y.Cols)), o.Y.Len())
		}
	case *kernels.Patchify:
		d.patchify((*patchify)(o))
	case *kernels.Dropout:
		d.rows((*dropout)(o), o.X)
	case *kernels.Tanh:
		d.elements((*tanh)(o), o.X, o.Y)
	case *kernels.TanhGrad:
		d.elements((*tanhGrad)(o), o.Y, o.DY, o.DX)
	case *kernels.Gelu:
		d.elements((*gelu)(o), o.X, o.Y)
	case *kernels.GeluGrad:
		d.elements((*geluGrad)(o), o.X, o.DY, o.DX)
	case *kernels.Copy:
		d.elements((*copyTo)(o), o.X, o.Y)
	case *kernels.AddScaled:
		d.elements((*addScaled)(o), o.X, o.Y)
	case *kernels.Fill:
		d.elements((*fill)(o), o.Y)
	case *kernels.Normalize:
		d.rows((*normalize)(o), o.X)
	case *kernels.NormalizeGrad:
		d.rows((*normalizeGrad)(o), o.Y)
	case *kernels.Attention:
		d.attention((*attention)(o))
	case *kernels.AttentionGrad:
		d.attentionGrad((*attentionGrad)(o))
	case *kernels.CrossEntropy:
		if d.indices("CrossEntropy", "label", o.Label.I32(), 0, o.Logits.Cols) {
			d.crossEntropy((*crossEntropy)(o))
		}
	case *kernels.Contrast:
		d.contrast((*contrast)(o))
	case *kernels.SampleNegative:
		d.rows((*sampleNegative)(o), o.Dot)
	case *kernels.BinaryCrossEntropy:
		d.binaryCrossEntropy((*binaryCrossEntropy)(o))
	case *kernels.SquaredError:
		d.squaredError((*squaredError)(o))
	case *kernels.ArgMax:
		d.rows((*argMax)(o), o.X)
	case *kernels.SumSquares:
		d.sumSquares((*sumSquares)(o))
	case *kernels.AdamW:
		d.elements((*adamW)(o), o.P, o.M, o.V, o.Grad)
	default:
		d.fail("unknown op %s (%T)", op.Name(), op)
	}
}

// indices reports whether all of list are in [lo, hi).
func (d *device) indices(op, what string, list []int32, lo, hi int) bool {
	for i, v := range list {
		if int(v) < lo || int(v) >= hi {
			d.fail("%s: %s %d is %d, want less than %d", op, what, i, v, hi)
			return false
		}
	}
	return true
}
