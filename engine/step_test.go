package engine

import (
	"slices"
	"testing"

	"vlmo-train/kernels"
	"vlmo-train/kernels/ref"
)

// note is a Record that notes its turn and takes memory.
type note struct {
	n    int
	list *[]int
}

func (r *note) Backward(s *Step) {
	s.Floats(100, 100)
	*r.list = append(*r.list, r.n)
}

// other is another type of Record.
type other struct{ note }

// The tape runs backward, whatever the types of its records, gives back what
// they take, and holds nothing of the step before.
func TestTape(t *testing.T) {
	s := NewStep(ref.New(), 1)
	for range 3 {
		s.Begin(0, true)
		var got []int
		for i := range 10 {
			if i%3 == 0 {
				Push(s, other{note{i, &got}})
			} else {
				Push(s, note{i, &got})
			}
		}
		if s.Tape.Len() != 10 {
			t.Errorf("%d records, want 10", s.Tape.Len())
		}
		before := s.Arena.Mark()
		s.Backward()
		if want := []int{9, 8, 7, 6, 5, 4, 3, 2, 1, 0}; !slices.Equal(got, want) {
			t.Errorf("order %v, want %v", got, want)
		}
		if s.Arena.Mark() != before {
			t.Error("the backward pass keeps memory")
		}
	}
	s.Begin(1, false)
	Push(s, note{})
	if s.Tape.Len() != 0 {
		t.Error("a step without training records")
	}
}

// idle is a Device that computes nothing.
type idle struct{ kernels.Device }

func (idle) Run(kernels.Op) {}

// A warm step's calls allocate nothing.
func TestStepAllocations(t *testing.T) {
	s := NewStep(idle{ref.New()}, 1)
	var list []int
	run := func() {
		s.Begin(0, true)
		list = list[:0]
		for range 5 {
			x := s.Zeros(3, 4)
			Run(s, kernels.AddScaled{X: x, Y: x, Alpha: 2})
			Push(s, note{1, &list})
		}
		s.Backward()
	}
	run()
	if n := testing.AllocsPerRun(10, run); n > 0 {
		t.Errorf("%v allocations a step, want none", n)
	}
}
