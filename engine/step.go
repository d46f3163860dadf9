package engine

import (
	"vlmo-train/kernels"
	"vlmo-train/rng"
)

// Step is what the layers compute in: a device, memory for activations, a
// tape and the keys of this step's randomness. One Step serves a whole run;
// Begin starts the next one. It belongs to one goroutine.
type Step struct {
	Dev   kernels.Device
	Arena *Arena
	Tape  Tape
	// Train says that gradients are wanted and that drop path and dropout
	// draw; otherwise nothing is recorded.
	Train bool
	// PackWeights lets the device keep weights in the layout of its products
	// (kernels.MatMul.Weights).
	PackWeights bool
	// Seed and Number key the randomness of the step.
	Seed, Number uint64

	ops map[any]kernels.Op
}

// NewStep returns a Step that computes on dev.
func NewStep(dev kernels.Device, seed uint64) *Step {
	return &Step{Dev: dev, Arena: NewArena(dev), Seed: seed, ops: make(map[any]kernels.Op)}
}

// Begin forgets the last step's activations and records.
func (s *Step) Begin(number uint64, train bool) {
	s.Arena.Reset()
	s.Tape.Reset()
	s.Number, s.Train = number, train
}

// Key returns the key for a draw in this step.
func (s *Step) Key(p rng.Purpose, pass uint32, sample uint64) rng.Key {
	return rng.Key{Seed: s.Seed, Step: s.Number, Pass: pass, Purpose: p, Sample: sample}
}

// Run runs op on the step's device. The op is copied into a slot that is
// kept from step to step, so a call allocates nothing.
func Run[T any, P interface {
	*T
	kernels.Op
}](s *Step, op T) {
	key := any((*T)(nil))
	slot, ok := s.ops[key]
	if !ok {
		slot = P(new(T))
		s.ops[key] = slot
	}
	p := slot.(P)
	*p = op
	s.Dev.Run(slot)
}

// Tensor returns an uninitialised rows × cols activation of type t.
func (s *Step) Tensor(t kernels.DType, rows, cols int) kernels.Tensor {
	return s.Arena.Tensor(t, rows, cols)
}

// Floats returns an uninitialised rows × cols activation.
func (s *Step) Floats(rows, cols int) kernels.Tensor { return s.Arena.Tensor(kernels.F32, rows, cols) }

// Zeros returns a rows × cols activation filled with zeros.
func (s *Step) Zeros(rows, cols int) kernels.Tensor {
	t := s.Floats(rows, cols)
	if t.Len() > 0 {
		Run(s, kernels.Fill{Y: t})
	}
	return t
}

// Upload copies host floats into a new activation of the given shape.
func (s *Step) Upload(v []float32, rows, cols int) kernels.Tensor {
	t := s.Floats(rows, cols)
	s.Dev.Write(t, v)
	return t
}

// Indices copies row indices or labels into a new 1 × n activation.
func (s *Step) Indices(v []int32) kernels.Tensor {
	t := s.Arena.Tensor(kernels.I32, 1, len(v))
	if len(v) > 0 {
		s.Dev.Write(t, v)
	}
	return t
}

// Bytes copies pixels into a new activation of the given shape.
func (s *Step) Bytes(v []byte, rows, cols int) kernels.Tensor {
	t := s.Arena.Tensor(kernels.U8, rows, cols)
	s.Dev.Write(t, v)
	return t
}

// Backward runs the tape from its end to its beginning.
func (s *Step) Backward() { s.Tape.run(s) }

// Err waits for the device and returns the first error of device or arena.
func (s *Step) Err() error {
	if err := s.Arena.Err(); err != nil {
		return err
	}
	return s.Dev.Sync()
}

// Record is one entry of a Tape: what a layer's forward pass keeps for its
// backward pass.
type Record interface {
	// Backward adds the layer's parameter gradients and writes the gradient
	// of its input. Memory it takes from the step's arena is released after.
	Backward(s *Step)
}

// Tape is the list of records of a step. The records live in slabs, one a
// type, that are kept from step to step.
type Tape struct {
	records []Record
	slabs   map[any]slab
}

type slab interface{ reset() }

type slabOf[T any] struct {
	items []*T
	used  int
}

func (s *slabOf[T]) reset() { s.used = 0 }

// Push appends rec to the tape of a training step and does nothing otherwise.
func Push[T any, P interface {
	*T
	Record
}](s *Step, rec T) {
	if !s.Train {
		return
	}
	t := &s.Tape
	key := any((*T)(nil))
	sl, ok := t.slabs[key]
	if !ok {
		if t.slabs == nil {
			t.slabs = make(map[any]slab)
		}
		sl = new(slabOf[T])
		t.slabs[key] = sl
	}
	of := sl.(*slabOf[T])
	if of.used == len(of.items) {
		of.items = append(of.items, new(T))
	}
	p := of.items[of.used]
	of.used++
	*p = rec
	t.records = append(t.records, P(p))
}

// Len returns the number of records.
func (t *Tape) Len() int { return len(t.records) }

// Reset forgets the records.
func (t *Tape) Reset() {
	t.records = t.records[:0]
	for _, s := range t.slabs {
		s.reset()
	}
}

func (t *Tape) run(s *Step) {
	for i := len(t.records) - 1; i >= 0; i-- {
		m := s.Arena.Mark()
		t.records[i].Backward(s)
		s.Arena.Release(m)
	}
}
