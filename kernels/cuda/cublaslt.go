//go:build cuda

package cuda

/*
#cgo LDFLAGS: -ldl
#include <cublasLt.h>
#include <cuda.h>
#include <dlfcn.h>
#include <stdlib.h>

// The functions of the library that are used.
#define LT_FUNCTIONS(F) \
	F(cublasLtCreate) F(cublasLtDestroy) F(cublasLtGetVersion) F(cublasLtGetStatusString) \
	F(cublasLtMatmul) F(cublasLtMatmulAlgoGetHeuristic) \
	F(cublasLtMatmulDescCreate) F(cublasLtMatmulDescDestroy) F(cublasLtMatmulDescSetAttribute) \
	F(cublasLtMatrixLayoutCreate) F(cublasLtMatrixLayoutDestroy) F(cublasLtMatrixLayoutSetAttribute) \
	F(cublasLtMatmulPreferenceCreate) F(cublasLtMatmulPreferenceDestroy) F(cublasLtMatmulPreferenceSetAttribute)

#define DECLARE(name) static __typeof__(&name) p_##name;
LT_FUNCTIONS(DECLARE)

static const char *missing, *refused;
static const char *lt_missing(void) { return missing; }
static const char *lt_refused(void) { return refused; }

// lt_open opens the library of that name and returns 1, or 0 where it cannot be
// loaded, for the reason lt_refused, or lacks the function lt_missing.
static int lt_open(const char *name) {
	missing = refused = NULL;
	void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
	if (!library) {
		refused = dlerror();
		return 0;
	}
#define FIND(name) if (!(p_##name = (__typeof__(&name))dlsym(library, #name))) missing = #name;
	LT_FUNCTIONS(FIND)
	return missing == NULL;
}

static cublasStatus_t lt_create(cublasLtHandle_t *h) { return p_cublasLtCreate(h); }
static void lt_destroy(cublasLtHandle_t h) { p_cublasLtDestroy(h); }
static size_t lt_version(void) { return p_cublasLtGetVersion(); }
static const char *lt_status(cublasStatus_t s) { return p_cublasLtGetStatusString(s); }

// What products of one class of shapes are called with. b is our A, whose rows,
// columns here, are those of the batch; so many has the other matrix, too.
typedef struct {
	cublasLtMatmulDesc_t desc;
	cublasLtMatrixLayout_t a, b, d, other;
	cublasLtMatmulAlgo_t algo;
	int epilogue;
} lt_plan;

static void lt_drop(lt_plan *p) {
	if (p->desc) p_cublasLtMatmulDescDestroy(p->desc);
	if (p->a) p_cublasLtMatrixLayoutDestroy(p->a);
	if (p->b) p_cublasLtMatrixLayoutDestroy(p->b);
	if (p->d) p_cublasLtMatrixLayoutDestroy(p->d);
	free(p);
}

#define TRY(call) do { cublasStatus_t s_ = (call); if (s_) return s_; } while (0)

static cublasStatus_t lt_set(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t key, const void *value, size_t size) {
	return p_cublasLtMatmulDescSetAttribute(desc, key, value, size);
}

// lt_describe fills p for D[m, n] = op(A) op(B), column-major, and asks the
// library for an algorithm: unless any order will do, for one that adds up the
// parts of a sum in single precision and in an order that the shape determines.
static cublasStatus_t lt_describe(lt_plan *p, cublasLtHandle_t h, int m, int n, int k, int ta, int tb, int64_t lda, int64_t ldb, int64_t ldd,
		int half_in, int half_out, int epilogue, int any_order, uint64_t workspace) {
	cudaDataType in = half_in ? CUDA_R_16BF : CUDA_R_32F, out = half_out ? CUDA_R_16BF : CUDA_R_32F;
	int32_t opa = ta ? CUBLAS_OP_T : CUBLAS_OP_N, opb = tb ? CUBLAS_OP_T : CUBLAS_OP_N, bias = out;
	uint32_t epi = p->epilogue = epilogue;
	TRY(p_cublasLtMatmulDescCreate(&p->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F));
	TRY(lt_set(p->desc, CUBLASLT_MATMUL_DESC_TRANSA, &opa, sizeof opa));
	TRY(lt_set(p->desc, CUBLASLT_MATMUL_DESC_TRANSB, &opb, sizeof opb));
	TRY(lt_set(p->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epi, sizeof epi));
	if (epilogue != CUBLASLT_EPILOGUE_DEFAULT) TRY(lt_set(p->desc, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &bias, sizeof bias));
	TRY(p_cublasLtMatrixLayoutCreate(&p->a, in, ta ? k : m, ta ? m : k, lda));
	TRY(p_cublasLtMatrixLayoutCreate(&p->b, in, tb ? n : k, tb ? k : n, ldb));
	TRY(p_cublasLtMatrixLayoutCreate(&p->d, out, m, n, ldd));
	p->other = tb ? p->a : p->d;
	cublasLtMatmulPreference_t want;
	TRY(p_cublasLtMatmulPreferenceCreate(&want));
	uint32_t schemes = any_order ? CUBLASLT_REDUCTION_SCHEME_MASK : CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
	cublasLtMatmulHeuristicResult_t found;
	int count = 0;
	cublasStatus_t s = p_cublasLtMatmulPreferenceSetAttribute(want, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace);
	if (!s) s = p_cublasLtMatmulPreferenceSetAttribute(want, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes, sizeof schemes);
	if (!s) s = p_cublasLtMatmulAlgoGetHeuristic(h, p->desc, p->a, p->b, p->d, p->d, want, 1, &found, &count);
	p_cublasLtMatmulPreferenceDestroy(want);
	if (s) return s;
	if (!count || found.state) return CUBLAS_STATUS_NOT_SUPPORTED;
	p->algo = found.algo;
	return CUBLAS_STATUS_SUCCESS;
}

// lt_run multiplies with our A of so many rows; 0 is as described.
static cublasStatus_t lt_run(lt_plan *p, cublasLtHandle_t h, uint64_t rows, uint64_t a, uint64_t b, float beta, uint64_t d, uint64_t bias,
		uint64_t workspace, size_t bytes, CUstream stream) {
	float alpha = 1;
	if (rows) {
		TRY(p_cublasLtMatrixLayoutSetAttribute(p->b, CUBLASLT_MATRIX_LAYOUT_COLS, &rows, sizeof rows));
		TRY(p_cublasLtMatrixLayoutSetAttribute(p->other, CUBLASLT_MATRIX_LAYOUT_COLS, &rows, sizeof rows));
	}
	if (p->epilogue != CUBLASLT_EPILOGUE_DEFAULT) TRY(lt_set(p->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias));
	return p_cublasLtMatmul(h, p->desc, &alpha, (void *)a, p->a, (void *)b, p->b, &beta, (void *)d, p->d, (void *)d, p->d,
		&p->algo, (void *)workspace, bytes, (cudaStream_t)stream);
}
*/
import "C"

import (
	"cmp"
	"errors"
	"fmt"
	"math/bits"
	"strings"
	"sync"
	"unsafe"

	"gorgonia.org/cu"

	"vlmo-train/kernels"
)

// cublasLt multiplies what is large and aligned, where the library is found at
// run time; everything else, and all of it where it is not, goes to our own
// kernels. Of its epilogues BIAS and BGRADB are used; its GELU is the tanh form,
// not ours.

const (
	ltWorkspace = 32 << 20
	ltLeast     = 1 << 24 // multiply-adds from which a product is large
	ltPlans     = 2048    // classes of shapes that are remembered
	ltHint      = "products use our own kernels; for NVIDIA's take libcublasLt.so.12 or .13 into LD_LIBRARY_PATH (CUDA toolkit, or pip install nvidia-cublas-cu12)"
)

var ltNames = []string{"libcublasLt.so.13", "libcublasLt.so.12"}

// ltOpen opens the library once for the process and returns its name.
var ltOpen = sync.OnceValues(func() (string, error) {
	err := errors.New("no libcublasLt was found")
	for _, name := range ltNames {
		s := C.CString(name)
		ok := C.lt_open(s) != 0
		C.free(unsafe.Pointer(s))
		if ok {
			return name, nil
		}
		if f := C.lt_missing(); f != nil {
			err = fmt.Errorf("%s lacks %s", name, C.GoString(f))
		} else if why := C.GoString(C.lt_refused()); !strings.HasPrefix(why, name+": cannot open") { // it is there
			err = errors.New(why)
		}
	}
	return "", err
})

// ltDescribe says which library products use, or what is missing. unusable is why
// a GPU cannot use it.
func ltDescribe(unusable error) string {
	name, err := ltOpen()
	if err == nil && unusable != nil {
		err = fmt.Errorf("%s can't be used: %w", name, unusable)
	}
	if err != nil {
		return fmt.Sprintf("cuBLASLt: %v; %s", err, ltHint)
	}
	return fmt.Sprintf("%s (%s) for large products", ltVersion(), name)
}

// ltProbe reports whether the current context's GPU can use the library, if
// there is one.
func ltProbe() error {
	if _, err := ltOpen(); err != nil {
		return nil
	}
	var h C.cublasLtHandle_t
	if err := ltFailure("cublasLtCreate", C.lt_create(&h)); err != nil {
		return err
	}
	C.lt_destroy(h)
	return nil
}

// ltVersion names the library, which is open.
func ltVersion() string {
	v := int(C.lt_version())
	return fmt.Sprintf("cuBLASLt %d.%d.%d", v/10000, v/100%100, v%100)
}

func ltFailure(call string, s C.cublasStatus_t) error {
	if s == C.CUBLAS_STATUS_SUCCESS {
		return nil
	}
	return fmt.Errorf("%s: %s", call, C.GoString(C.lt_status(s)))
}

// ltShape is all that the choice of an algorithm depends on, but for the class.
type ltShape struct {
	m, n, k          int // of the op: C is m by n
	transA, transB   bool
	strideA, strideB int
	strideC          int
	halfIn, halfOut  bool
	epilogue         ltEpilogue
}

// class returns the shape whose algorithm s has, and the rows of A where that
// one's are others: rounded up to five binary digits, since drop path and texts
// give nearly every product of a step a number of rows of its own. The rows lie
// at the strides' distance, so no alignment depends on their number.
func (s ltShape) class() (class ltShape, rows int) {
	up := func(n *int) {
		rows = *n
		step := 1 << max(0, bits.Len(uint(rows))-5)
		*n = (rows + step - 1) / step * step
	}
	class = s
	switch {
	case !s.transA:
		up(&class.m)
	case !s.transB:
		up(&class.k)
	}
	return class, rows
}

type ltEpilogue C.cublasLtEpilogue_t

const (
	ltPlain ltEpilogue = C.CUBLASLT_EPILOGUE_DEFAULT
	ltBias  ltEpilogue = C.CUBLASLT_EPILOGUE_BIAS
	ltBgrad ltEpilogue = C.CUBLASLT_EPILOGUE_BGRADB
)

// product is a call of cublasLt: what it is called with, and where.
type product struct {
	plan          *C.lt_plan
	shape         ltShape
	rows          int // of A; 0: those of plan
	a, b, c, bias uintptr
	beta          float32
}

// lt is the library as a device uses it. Its functions are called on the owner's
// thread; the device's goroutine reads the rest.
type lt struct {
	handle    C.cublasLtHandle_t
	workspace cu.DevicePtr
	plans     map[ltShape]*C.lt_plan // by class; nil where the library has no algorithm
	least     int
	anyOrder  bool
	noBgrad   bool // for tests: as where the library has no algorithm with BGRADB
	calls     int  // products that went to it
}

// openLt opens the library for the owner's context. A machine without it is no error.
func (o *owner) openLt(options Options) error {
	o.lt = lt{plans: make(map[ltShape]*C.lt_plan), least: cmp.Or(options.LtLeast, ltLeast), anyOrder: options.AnyOrder}
	if _, err := ltOpen(); err != nil {
		return nil
	}
	if s := C.lt_create(&o.lt.handle); s != C.CUBLAS_STATUS_SUCCESS {
		o.lt.handle = nil // no usable library, as for a GPU that it does not know
		return nil
	}
	var err error
	o.lt.workspace, err = o.alloc(ltWorkspace)
	return err
}

// closeLt gives the library's objects back; the workspace goes with all memory.
func (o *owner) closeLt() {
	o.dropPlans()
	if o.lt.handle != nil {
		C.lt_destroy(o.lt.handle)
		o.lt.handle = nil
	}
}

// describe returns how to multiply matrices of a shape, nil where the library
// cannot.
func (o *owner) describe(s ltShape) *C.lt_plan {
	flag := func(b bool) C.int {
		if b {
			return 1
		}
		return 0
	}
	p := (*C.lt_plan)(C.calloc(1, C.sizeof_lt_plan))
	// The library is column-major: Cᵀ = op(B)ᵀ op(A)ᵀ.
	if C.lt_describe(p, o.lt.handle, C.int(s.n), C.int(s.m), C.int(s.k), flag(s.transB), flag(s.transA), C.int64_t(s.strideB), C.int64_t(s.strideA), C.int64_t(s.strideC),
		flag(s.halfIn), flag(s.halfOut), C.int(s.epilogue), flag(o.lt.anyOrder), ltWorkspace) != C.CUBLAS_STATUS_SUCCESS {
		C.lt_drop(p)
		return nil
	}
	return p
}

// dropPlans forgets all plans. No product that uses one is waiting.
func (o *owner) dropPlans() {
	for _, p := range o.lt.plans {
		if p != nil {
			C.lt_drop(p)
		}
	}
	clear(o.lt.plans)
}

// run enqueues the product. Should the class's algorithm not do for its shape, it
// asks for one that does.
func (p *product) run(o *owner) error {
	s := p.with(o, p.plan, p.rows)
	if s == C.CUBLAS_STATUS_SUCCESS || p.rows == 0 {
		return ltFailure("cublasLtMatmul", s)
	}
	if plan := o.describe(p.shape); plan != nil {
		s = p.with(o, plan, 0)
		C.lt_drop(plan)
	}
	return ltFailure("cublasLtMatmul", s)
}

func (p *product) with(o *owner, plan *C.lt_plan, rows int) C.cublasStatus_t {
	return C.lt_run(plan, o.lt.handle, C.uint64_t(rows), C.uint64_t(p.b), C.uint64_t(p.a), C.float(p.beta), C.uint64_t(p.c), C.uint64_t(p.bias),
		C.uint64_t(o.lt.workspace), ltWorkspace, *(*C.CUstream)(unsafe.Pointer(&o.compute)))
}

// ltAligned reports whether every row of t begins at a multiple of 16 bytes, as
// the algorithms are chosen for.
func ltAligned(t kernels.Tensor) bool {
	return address(t)%16 == 0 && (t.Rows <= 1 || t.Stride*t.Type.Size()%16 == 0)
}

// stride returns t's, which is any for a single row.
func ltStride(t kernels.Tensor) int { return max(t.Stride, t.Cols) }

// ltMatMul runs o with cublasLt and reports whether it did.
func (d *device) ltMatMul(o *kernels.MatMul) bool {
	m, n, k := o.Dims()
	if d.lt.handle == nil || m == 0 || n == 0 || k == 0 || m*n*k < d.lt.least || !ltAligned(o.A) || !ltAligned(o.B) || !ltAligned(o.C) {
		return false
	}
	half := o.C.Type == kernels.BF16
	s := ltShape{m: m, n: n, k: k, transA: o.TransA, transB: o.TransB, strideA: ltStride(o.A), strideB: ltStride(o.B), strideC: ltStride(o.C),
		halfIn: o.A.Type == kernels.BF16, halfOut: half, epilogue: ltPlain}
	p := product{a: address(o.A), b: address(o.B), c: address(o.C)}
	if o.Accumulate {
		p.beta = 1
	}
	sum := o.Sum
	toPre := o.Act == kernels.GELU && !o.Pre.IsZero()
	if toPre {
		if !ltAligned(o.Pre) {
			return false
		}
		p.c, s.strideC = address(o.Pre), ltStride(o.Pre)
	}
	var scratch kernels.Tensor // a bias in C's type, or the sums
	switch {
	case !o.Bias.IsZero():
		s.epilogue = ltBias
	case !sum.IsZero() && !half && o.Act == kernels.None && !d.lt.noBgrad:
		s.epilogue = ltBgrad
	}
	p.plan = d.plan(s)
	if p.plan == nil && s.epilogue == ltBgrad {
		s.epilogue = ltPlain
		p.plan = d.plan(s)
	}
	if p.plan == nil {
		return false
	}
	switch {
	case s.epilogue == ltBias && half:
		scratch = d.scratchRow(kernels.BF16, n)
		d.unary("copy", o.Bias, scratch, chunk)
		p.bias = address(scratch)
	case s.epilogue == ltBias:
		p.bias = address(o.Bias)
	case s.epilogue == ltBgrad:
		scratch = d.scratchRow(kernels.F32, m)
		p.bias = address(scratch)
	}
	if d.err != nil {
		return true
	}
	_, p.rows = s.class()
	p.shape = s
	d.lt.calls++
	d.commands <- command{product: p}
	switch o.Act {
	case kernels.GELU:
		x := o.C
		if toPre {
			x = o.Pre
		}
		d.unary("gelu_forward", x, o.C, chunk)
	case kernels.GELUGrad:
		d.geluGrad(o.Pre, o.C, o.C)
	}
	switch {
	case sum.IsZero():
	case s.epilogue == ltBgrad:
		d.start(d.elementwise("add_scaled", 1, m).tensor(scratch).tensor(sum).int(1, m).float(1))
	default:
		d.columnSum(&kernels.ColumnSum{X: o.A, Y: sum})
	}
	return true
}

// plan returns how to multiply matrices of a shape, nil where the library
// cannot. Only a class that is not known yet waits for the owner's thread.
func (d *device) plan(s ltShape) *C.lt_plan {
	s, _ = s.class()
	p, known := d.lt.plans[s]
	if !known {
		d.call(func() error {
			if len(d.lt.plans) >= ltPlans {
				d.dropPlans()
			}
			p = d.describe(s)
			d.lt.plans[s] = p
			return nil
		})
	}
	return p
}

// scratchRow returns a row of n elements in memory that lasts for the op.
func (d *device) scratchRow(t kernels.DType, n int) kernels.Tensor {
	d.reserve(&d.scratch, n*t.Size())
	return kernels.Matrix(&kernels.Memory{Addr: uintptr(d.scratch.addr), Bytes: d.scratch.bytes}, 0, t, 1, n)
}
