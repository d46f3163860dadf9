package layers

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"vlmo-train/engine"
	"vlmo-train/kernels"
	"vlmo-train/kernels/ref"
)

// bench holds a layer under test: its parameters and the function that
// applies it. The parameter "x" stands for the input.
type bench struct {
	s     *engine.Step
	st    *engine.Store
	x     *engine.Param
	apply func(s *engine.Step, x Node) Node
}

// loss is Σ y·w of the layer's result, with fixed w. With gradients it leaves
// them in the store, the input's in that of "x".
func (b *bench) loss(t *testing.T, gradients bool) (sum float64) {
	t.Helper()
	s := b.s
	s.Begin(3, true)
	b.st.ZeroGrad()
	x := NewNode(s, b.x.Shape[0], b.x.Shape[1])
	s.Dev.Write(x.X, b.st.Get(b.x))
	// What a layer does not write must not be read.
	garbage := slices.Repeat([]float32{1e9}, x.G.Len())
	s.Dev.Write(x.G, garbage)
	y := b.apply(s, x)
	v, w := make([]float32, y.X.Len()), make([]float32, y.X.Len())
	s.Dev.Read(v, y.X)
	for i := range v {
		w[i] = float32(math.Sin(float64(i*i) + 1))
		sum += float64(v[i]) * float64(w[i])
	}
	if gradients {
		s.Dev.Write(y.G, w)
		s.Backward()
		dx := make([]float32, x.G.Len())
		s.Dev.Read(dx, x.G)
		s.Dev.Write(b.x.Touch(), dx)
	}
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}
	return sum
}

// check compares every parameter's gradient with the difference quotient
// along a random direction that leans to the gradient, so that the slope is
// not near zero.
func (b *bench) check(t *testing.T, random *rand.Rand) {
	t.Helper()
	b.loss(t, true)
	grads := map[*engine.Param][]float32{}
	for _, p := range b.st.Params() {
		if grads[p] = b.st.Gradient(p); grads[p] == nil {
			t.Errorf("%s has no gradient", p.Name)
		}
	}
	for p, g := range grads {
		dir, norm := make([]float64, len(g)), 0.0
		for _, x := range g {
			norm += float64(x) * float64(x)
		}
		slope, length := 0.0, 0.0
		for i, x := range g {
			dir[i] = float64(x)/math.Sqrt(norm+1e-30) + random.NormFloat64()/math.Sqrt(float64(len(g)))
			length += dir[i] * dir[i]
		}
		for i, x := range g {
			dir[i] /= math.Sqrt(length)
			slope += dir[i] * float64(x)
		}
		const h = 5e-3
		v := b.st.Get(p)
		at := func(h float64) float64 {
			w := slices.Clone(v)
			for i := range w {
				w[i] += float32(h * dir[i])
			}
			b.st.Set(p, w)
			defer b.st.Set(p, v)
			return b.loss(t, false)
		}
		want := (at(h) - at(-h)) / (2 * h)
		if math.Abs(slope-want) > 2e-3*math.Abs(want)+5e-4 {
			t.Errorf("%s: slope %v, difference quotient %v", p.Name, slope, want)
		}
	}
}

func TestGradients(t *testing.T) {
	const seed = 11
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	const rows, d = 5, 6
	index := func(s *engine.Step, i ...int32) kernels.Tensor { return s.Indices(i) }
	for name, layer := range map[string]func(st *engine.Store) func(s *engine.Step, x Node) Node{
		"Linear": func(st *engine.Store) func(s *engine.Step, x Node) Node {
			l := NewLinear(st, "l", d, 4, true)
			return l.Apply
		},
		"Linear without bias": func(st *engine.Store) func(s *engine.Step, x Node) Node {
			l := NewLinear(st, "l", d, 4, false)
			return l.Apply
		},
		"LayerNorm": func(st *engine.Store) func(s *engine.Step, x Node) Node {
			l := NewLayerNorm(st, "l", d, 1e-6)
			return l.Apply
		},
		"Transform": func(st *engine.Store) func(s *engine.Step, x Node) Node {
			l := Transform{NewLinear(st, "dense", d, d, true), NewLayerNorm(st, "norm", d, 1e-12)}
			return l.Apply
		},
		"Classifier": func(st *engine.Store) func(s *engine.Step, x Node) Node {
			l := NewClassifier(st, "c", d, 2*d, 3)
			return l.Apply
		},
		"GELU":      func(*engine.Store) func(s *engine.Step, x Node) Node { return GELU },
		"Tanh":      func(*engine.Store) func(s *engine.Step, x Node) Node { return Tanh },
		"Normalize": func(*engine.Store) func(s *engine.Step, x Node) Node { return Normalize },
		"Select, a row twice and one never": func(*engine.Store) func(s *engine.Step, x Node) Node {
			return func(s *engine.Step, x Node) Node { return Select(s, x, index(s, 4, 0, 0, 2, 1)) }
		},
		"Select, shared": func(*engine.Store) func(s *engine.Step, x Node) Node {
			return func(s *engine.Step, x Node) Node {
				x = Share(s, x)
				y := NewNode(s, 4, d)
				SelectInto(s, x, index(s, 1, 2), y.Slice(0, 2))
				SelectInto(s, x, index(s, 2, 3), y.Slice(2, 4))
				return y
			}
		},
		"Linear, shared": func(st *engine.Store) func(s *engine.Step, x Node) Node {
			a, b := NewLinear(st, "a", d, d, true), NewLinear(st, "b", d, d, true)
			return func(s *engine.Step, x Node) Node {
				x = Share(s, x)
				y, all := [2]Node{a.Apply(s, x), b.Apply(s, x)}, NewNode(s, 2, d)
				SelectInto(s, y[0], index(s, 1), all.Slice(0, 1))
				SelectInto(s, y[1], index(s, 3), all.Slice(1, 2))
				return all
			}
		},
		"Lookup": func(st *engine.Store) func(s *engine.Step, x Node) Node {
			table := st.Add("table", 1, 3, d)
			return func(s *engine.Step, x Node) Node {
				y := Select(s, x, index(s, 0, 1, 2, 3, 4))
				Lookup(s, table, index(s, 2, -1, 0, 2, 1), y)
				return y
			}
		},
		"Dropout": func(*engine.Store) func(s *engine.Step, x Node) Node {
			return func(s *engine.Step, x Node) Node {
				return Dropout(s, x, 0.4, [2]uint32{1, 2}, index(s, 0, 1, 2, 3, 4))
			}
		},
		"Reshape": func(st *engine.Store) func(s *engine.Step, x Node) Node {
			l := NewLinear(st, "l", d/2, 4, true)
			return func(s *engine.Step, x Node) Node { return l.Apply(s, x.Reshape(2*rows, d/2)) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			dev, st := ref.New(), engine.NewStore()
			b := &bench{s: engine.NewStep(dev, 1), st: st, apply: layer(st), x: st.Add("x", rows, d)}
			if err := st.Build(dev, true); err != nil {
				t.Fatal(err)
			}
			for _, p := range st.Params() {
				v := make([]float32, p.Len())
				for i := range v {
					v[i] = float32(random.NormFloat64())
				}
				st.Set(p, v)
			}
			b.check(t, random)
		})
	}
}

// Dropout keeps elements by their row's number, wherever the row lies, scales
// them so that the mean stays, and does nothing outside training.
func TestDropout(t *testing.T) {
	const rows, cols, rate = 200, 64, 0.3
	s := engine.NewStep(ref.New(), 1)
	draw := func(train bool, row []int32) []float32 {
		s.Begin(0, train)
		x := NewNode(s, len(row), cols)
		engine.Run(s, kernels.Fill{Y: x.X, Value: 1})
		y := Dropout(s, x, rate, [2]uint32{3, 4}, s.Indices(row))
		v := make([]float32, y.X.Len())
		s.Dev.Read(v, y.X)
		return v
	}
	row := make([]int32, rows)
	for i := range row {
		row[i] = int32(i)
	}
	all := draw(true, row)
	kept := 0
	for _, v := range all {
		if v != 0 {
			kept++
			if math.Abs(float64(v)-1/(1-rate)) > 1e-6 {
				t.Fatalf("a kept element is %v", v)
			}
		}
	}
	// Five deviations of a binomial draw.
	n := float64(rows * cols)
	if math.Abs(float64(kept)-n*(1-rate)) > 5*math.Sqrt(n*rate*(1-rate)) {
		t.Errorf("%d of %v elements are kept", kept, n)
	}
	if !slices.Equal(draw(true, []int32{7})[:cols], all[7*cols:8*cols]) {
		t.Error("a row's mask depends on where it lies")
	}
	if slices.ContainsFunc(draw(false, row), func(v float32) bool { return v != 1 }) {
		t.Error("elements are dropped outside training")
	}
}

// Frozen parameters and inputs without a gradient get none.
func TestFrozen(t *testing.T) {
	dev, st := ref.New(), engine.NewStore()
	l, n := NewLinear(st, "l", 3, 3, true), NewLayerNorm(st, "n", 3, 1e-6)
	table := st.Add("table", 2, 3)
	if err := st.Build(dev, true); err != nil {
		t.Fatal(err)
	}
	for _, p := range st.Params() {
		st.Set(p, slices.Repeat([]float32{0.5}, p.Len()))
		p.Frozen = true
	}
	l.Bias.Frozen = false
	s := engine.NewStep(dev, 1)
	s.Begin(0, true)
	x := Node{X: s.Upload([]float32{1, 2, 3, 4, 5, 7}, 2, 3)}
	y := l.Apply(s, x)
	Lookup(s, table, s.Indices([]int32{1, 0}), y)
	z := n.Apply(s, y)
	engine.Run(s, kernels.Fill{Y: z.G, Value: 1})
	s.Backward()
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}
	for _, p := range st.Params() {
		if got := st.Gradient(p) != nil; got != (p == l.Bias) {
			t.Errorf("%s has a gradient: %v", p.Name, got)
		}
	}
}
