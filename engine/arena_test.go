package engine

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"vlmo-train/kernels"
	"vlmo-train/kernels/ref"
)

// counting is a Device that counts what is asked of it and fails beyond limit bytes.
type counting struct {
	kernels.Device
	limit, allocs, bytes int
}

func (d *counting) Alloc(n int) (*kernels.Memory, error) {
	if d.limit > 0 && d.bytes+n > d.limit {
		return nil, errors.New("no memory left")
	}
	d.allocs++
	d.bytes += n
	return d.Device.Alloc(n)
}

func (d *counting) Free(m *kernels.Memory) {
	d.bytes -= m.Bytes
	d.Device.Free(m)
}

// Tensors that live at the same time do not overlap, whatever the order in
// which memory is taken and released, and come aligned.
func TestArenaTensorsDoNotOverlap(t *testing.T) {
	const seed = 5
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	dev := ref.New()
	a := NewArena(dev)
	type level struct {
		mark Mark
		live []kernels.Tensor
		fill []float32
	}
	for range 5 {
		a.Reset()
		stack := []level{{mark: a.Mark()}}
		for range 300 {
			top := &stack[len(stack)-1]
			switch k := random.IntN(10); {
			case k == 0:
				stack = append(stack, level{mark: a.Mark()})
			case k == 1 && len(stack) > 1:
				a.Release(top.mark)
				stack = stack[:len(stack)-1]
			default:
				x := a.Tensor(kernels.F32, 1+random.IntN(50), random.IntN(400))
				v := random.Float32()
				dev.Run(&kernels.Fill{Y: x, Value: v})
				top.live, top.fill = append(top.live, x), append(top.fill, v)
			}
		}
		for _, l := range stack {
			for i, x := range l.live {
				v := make([]float32, x.Len())
				dev.Read(v, x)
				if slices.ContainsFunc(v, func(y float32) bool { return y != l.fill[i] }) {
					t.Fatalf("%v was overwritten", x)
				}
			}
		}
	}
	if err := dev.Sync(); err != nil {
		t.Fatal(err)
	}
}

// After the first step the arena is one chunk that no smaller step outgrows.
func TestArenaSettles(t *testing.T) {
	dev := &counting{Device: ref.New()}
	a := NewArena(dev)
	step := func(n int) {
		a.Reset()
		for i := range n {
			m := a.Mark()
			a.Tensor(kernels.F32, 300, 100+i)
			if i%3 == 0 {
				a.Release(m)
			}
		}
	}
	step(40)
	if a.Allocations() < 2 {
		t.Fatalf("%d allocations: the warm-up is too small for the test", a.Allocations())
	}
	step(40)
	warm := a.Allocations()
	if warm != dev.allocs {
		t.Errorf("the arena counts %d allocations, the device %d", warm, dev.allocs)
	}
	peak := a.Peak()
	if peak <= 0 || peak > dev.bytes {
		t.Errorf("peak of %d bytes with %d allocated", peak, dev.bytes)
	}
	for n := range 41 {
		step(n)
		if n < 40 && n > 0 && a.Peak() >= peak {
			t.Errorf("peak of %d tensors is %d, of 40 %d", n, a.Peak(), peak)
		}
	}
	if a.Allocations() != warm || dev.allocs != warm {
		t.Errorf("%d allocations after smaller steps, %d before", dev.allocs, warm)
	}
	a.Close()
	if dev.bytes != 0 {
		t.Errorf("%d bytes are not given back", dev.bytes)
	}
}

// Out of memory is an error of the step, with the amount, and no panic.
func TestArenaOutOfMemory(t *testing.T) {
	dev := &counting{Device: ref.New(), limit: 4 << 20}
	s := NewStep(dev, 1)
	s.Begin(0, true)
	for range 20 {
		x := s.Floats(100, 1000)
		Run(s, kernels.Fill{Y: x.Slice(10, 20)})
	}
	if err := s.Err(); err == nil || !strings.Contains(err.Error(), "no memory left") || !strings.Contains(err.Error(), fmt.Sprint(1<<20)) {
		t.Errorf("error %v", err)
	}
}

// A reserved arena takes its memory at once and never more than asked.
func TestArenaReserve(t *testing.T) {
	dev := &counting{Device: ref.New()}
	a := NewArena(dev)
	a.Reserve(3 << 20)
	for range 2 {
		for range 3 {
			a.Tensor(kernels.F32, 1<<10, 1<<8)
		}
		if err := a.Err(); err != nil || a.Allocations() != 1 || dev.bytes != 3<<20 {
			t.Fatalf("%d allocations, %d bytes, error %v; want 1, %d, nil", a.Allocations(), dev.bytes, err, 3<<20)
		}
		a.Reset()
	}
	a.Reserve(1 << 30) // in use already
	a.Tensor(kernels.F32, 1<<10, 1<<10)
	if a.Allocations() != 2 {
		t.Errorf("%d allocations, want 2", a.Allocations())
	}
	small := NewArena(&counting{Device: ref.New(), limit: 1 << 20})
	small.Reserve(2 << 20)
	if err := small.Err(); err == nil || !strings.Contains(err.Error(), "2097152 bytes") {
		t.Errorf("error %v", err)
	}
}
