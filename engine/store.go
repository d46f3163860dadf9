package engine

import (
	"errors"
	"fmt"
	"math"

	"vlmo-train/kernels"
)

// Param is a named view of a Store's flat arrays. Value and Grad are matrices
// of the first dimension × the rest; a vector or a scalar is one row.
type Param struct {
	Name  string // official state-dict name (SPEC §9)
	Shape []int

	Value, Grad kernels.Tensor // valid after Store.Build
	Half        kernels.Tensor // Value in bfloat16, in a store that computes in it

	Decay  bool    // weight decay applies
	LRMult float32 // multiplies the learning rate
	Frozen bool    // gets no gradient

	// Steps counts the optimiser's updates. A parameter that gets no gradient
	// in a run stays at 0 and is not touched: no decay, no moments (SPEC §8).
	Steps int

	offset  int // elements from the start of the flat arrays
	touched bool
}

// Len returns the number of elements.
func (p *Param) Len() int {
	n := 1
	for _, d := range p.Shape {
		n *= d
	}
	return n
}

// Touch returns where to add p's gradient and notes that it has one. The
// tensor is absent for a frozen parameter and for a nil p.
func (p *Param) Touch() kernels.Tensor {
	if p == nil || p.Frozen {
		return kernels.Tensor{}
	}
	p.touched = true
	return p.Grad
}

// Tensor returns p's value, absent for a nil p.
func (p *Param) Tensor() kernels.Tensor {
	if p == nil {
		return kernels.Tensor{}
	}
	return p.Value
}

// As returns p's value in the type of the activations that it is multiplied
// with.
func (p *Param) As(t kernels.DType) kernels.Tensor {
	if t == kernels.BF16 {
		return p.Half
	}
	return p.Value
}

// Store keeps all parameters of a model, their gradients and the optimiser's
// moments in four flat arrays.
type Store struct {
	// Compute is the type that products read weights in. With BF16, set before
	// Build, a fifth array holds the values rounded to it; Set and the
	// optimiser keep it in step. Values, gradients and moments are F32 always.
	Compute kernels.DType

	dev    kernels.Device
	params []*Param
	byName map[string]*Param
	total  int

	Value, Grad, M, V kernels.Tensor // [1, total]
	Half              kernels.Tensor // BF16 [1, total], absent without Compute BF16
}

// NewStore returns an empty store.
func NewStore() *Store { return &Store{byName: make(map[string]*Param)} }

// Add declares a parameter, decayed and trainable. Names are unique.
func (st *Store) Add(name string, shape ...int) *Param {
	if st.byName[name] != nil {
		panic("engine: parameter " + name + " declared twice")
	}
	p := &Param{Name: name, Shape: shape, Decay: true, LRMult: 1, offset: st.total}
	st.total += (p.Len() + 31) / 32 * 32 // views are aligned in both types
	st.params = append(st.params, p)
	st.byName[name] = p
	return p
}

// Build allocates the flat arrays on dev, zeroed, and sets every view. With
// train unset there are values only.
func (st *Store) Build(dev kernels.Device, train bool) error {
	st.dev = dev
	flat := []*kernels.Tensor{&st.Value}
	if train {
		flat = append(flat, &st.Grad, &st.M, &st.V)
	}
	if st.Compute == kernels.BF16 {
		flat = append(flat, &st.Half)
	}
	for _, t := range flat {
		typ := kernels.F32
		if t == &st.Half {
			typ = kernels.BF16
		}
		m, err := dev.Alloc(max(st.total, 1) * typ.Size())
		if err != nil {
			return fmt.Errorf("engine: %d parameters: %w", st.total, err)
		}
		*t = kernels.Matrix(m, 0, typ, 1, st.total)
	}
	for _, p := range st.params {
		p.Value = st.view(st.Value, p)
		if !st.Half.IsZero() {
			p.Half = st.view(st.Half, p)
		}
		if train {
			p.Grad = st.view(st.Grad, p)
		}
	}
	return nil
}

func (st *Store) view(flat kernels.Tensor, p *Param) kernels.Tensor {
	rows := 1
	if len(p.Shape) > 1 {
		rows = p.Shape[0]
	}
	cols := p.Len()
	if rows > 0 {
		cols /= rows
	}
	return kernels.Matrix(flat.Mem, p.offset*flat.Type.Size(), flat.Type, rows, cols)
}

// Params returns the parameters in the order of their declaration.
func (st *Store) Params() []*Param { return st.params }

// Param returns the parameter of that name, or nil.
func (st *Store) Param(name string) *Param { return st.byName[name] }

// Len returns the number of elements of all parameters.
func (st *Store) Len() int {
	n := 0
	for _, p := range st.params {
		n += p.Len()
	}
	return n
}

// Close gives the memory back to the device.
func (st *Store) Close() {
	for _, t := range []*kernels.Tensor{&st.Value, &st.Grad, &st.M, &st.V, &st.Half} {
		if !t.IsZero() {
			st.dev.Free(t.Mem)
			*t = kernels.Tensor{}
		}
	}
}

// Set writes the values of p.
func (st *Store) Set(p *Param, v []float32) {
	st.dev.Write(p.Value, v)
	if !p.Half.IsZero() {
		st.dev.Run(&kernels.Copy{X: p.Value, Y: p.Half})
	}
}

// SetPart writes len(v) values of p from element first on.
func (st *Store) SetPart(p *Param, first int, v []float32) {
	part := func(t kernels.Tensor) kernels.Tensor {
		return kernels.Matrix(t.Mem, t.Offset+first*t.Type.Size(), t.Type, 1, len(v))
	}
	x := part(p.Value)
	st.dev.Write(x, v)
	if !p.Half.IsZero() {
		st.dev.Run(&kernels.Copy{X: x, Y: part(p.Half)})
	}
}

// Get reads the values of p.
func (st *Store) Get(p *Param) []float32 {
	v := make([]float32, p.Len())
	st.dev.Read(v, p.Value)
	return v
}

// Moments reads the first and second moment of p.
func (st *Store) Moments(p *Param) (m, v []float32) {
	m, v = make([]float32, p.Len()), make([]float32, p.Len())
	st.dev.Read(m, st.view(st.M, p))
	st.dev.Read(v, st.view(st.V, p))
	return m, v
}

// SetMoments writes the first and second moment of p.
func (st *Store) SetMoments(p *Param, m, v []float32) {
	st.dev.Write(st.view(st.M, p), m)
	st.dev.Write(st.view(st.V, p), v)
}

// Gradient reads the gradient of p, nil where p got none in this run.
func (st *Store) Gradient(p *Param) []float32 {
	if !p.touched {
		return nil
	}
	g := make([]float32, p.Len())
	st.dev.Read(g, p.Grad)
	return g
}

// ZeroGrad sets all gradients to zero.
func (st *Store) ZeroGrad() { st.dev.Run(&kernels.Fill{Y: st.Grad}) }

// ErrNotFinite is returned for a gradient whose norm is NaN or infinite.
var ErrNotFinite = errors.New("engine: the gradient's norm is not finite")

// Optimizer is AdamW as in SPEC §8.
type Optimizer struct {
	Beta1, Beta2, Eps, Decay float32
	// Clip bounds the norm of the whole gradient; 0 does not.
	Clip float32

	op   kernels.AdamW
	sum  kernels.SumSquares
	fill kernels.Fill
	norm kernels.Tensor
	dev  kernels.Device // that norm is on
}

// Close gives the optimiser's own memory back to the device.
func (o *Optimizer) Close() {
	if !o.norm.IsZero() {
		o.dev.Free(o.norm.Mem)
		o.norm = kernels.Tensor{}
	}
}

// Update applies one step with the learning rate lr to every parameter that
// got a gradient in this run, and returns the gradient's norm before clipping.
// A norm that is not finite is ErrNotFinite, and nothing changes.
func (o *Optimizer) Update(st *Store, lr float32) (norm float64, err error) {
	if o.norm.IsZero() {
		m, err := st.dev.Alloc(4)
		if err != nil {
			return 0, err
		}
		o.norm, o.dev = kernels.Matrix(m, 0, kernels.F32, 1, 1), st.dev
	}
	o.fill = kernels.Fill{Y: o.norm}
	st.dev.Run(&o.fill)
	o.sum = kernels.SumSquares{X: st.Grad, Y: o.norm}
	st.dev.Run(&o.sum)
	var sq [1]float32
	st.dev.Read(sq[:], o.norm)
	norm = math.Sqrt(float64(sq[0]))
	if math.IsNaN(norm) || math.IsInf(norm, 0) {
		return norm, errors.Join(ErrNotFinite, st.dev.Sync())
	}
	scale := float32(1)
	if o.Clip > 0 && norm > float64(o.Clip) {
		scale = float32(float64(o.Clip) / (norm + 1e-6))
	}
	for _, p := range st.params {
		if !p.touched || p.Frozen {
			continue
		}
		p.Steps++
		decay := float32(0)
		if p.Decay {
			decay = o.Decay
		}
		o.op = kernels.AdamW{
			P: flatten(p.Value), Grad: flatten(p.Grad), M: flatten(st.view(st.M, p)), V: flatten(st.view(st.V, p)),
			Rate: lr * p.LRMult, Decay: decay, Beta1: o.Beta1, Beta2: o.Beta2, Eps: o.Eps,
			GradScale: scale, Step: p.Steps,
		}
		if !p.Half.IsZero() {
			o.op.Half = flatten(p.Half)
		}
		st.dev.Run(&o.op)
	}
	return norm, st.dev.Sync()
}

func flatten(t kernels.Tensor) kernels.Tensor { return t.Reshape(1, t.Len()) }
