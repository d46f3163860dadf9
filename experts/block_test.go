package experts

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"vlmo-train/engine"
	"vlmo-train/kernels"
	"vlmo-train/kernels/ref"
	"vlmo-train/layers"
)

const (
	dim, heads = 34, 2 // heads of 17: no multiple of a vector
	window     = 2
	maxText    = 4
)

type bench struct {
	s  *engine.Step
	st *engine.Store
	b  *Block
	b2 *Block        // nil where there is one alone
	x  *engine.Param // the input
}

func newBench(t *testing.T, random *rand.Rand, rows int, scale, bias bool) *bench {
	t.Helper()
	return newBenchOn(t, ref.New(), random, rows, 1, scale, bias)
}

// newBenchOn is newBench on dev with one block or two.
func newBenchOn(t *testing.T, dev kernels.Device, random *rand.Rand, rows, blocks int, scale, bias bool) *bench {
	t.Helper()
	st := engine.NewStore()
	var table *engine.Param
	if bias {
		r := kernels.RelativeBias{Window: window, Text: maxText}
		table = st.Add("table", r.Rows(), 2*heads)
	}
	c := Config{Dim: dim, Heads: heads, Hidden: 20, LayerScale: scale, Eps: 1e-6,
		Experts: []Modality{Text, Image, VisionLanguage}, Names: VLMoNames()}
	b := NewBlock(st, "b", c)
	b.Table, b.Column = table, heads
	var b2 *Block
	if blocks == 2 {
		b2 = NewBlock(st, "b2", c)
		b2.Table = table
	}
	x := st.Add("x", rows, dim)
	if err := st.Build(dev, true); err != nil {
		t.Fatal(err)
	}
	for _, p := range st.Params() {
		v := make([]float32, p.Len())
		for i := range v {
			v[i] = float32(0.3 * random.NormFloat64())
			if p == x || strings.Contains(p.Name, "norm") || strings.Contains(p.Name, "gamma") {
				v[i] += 0.7
			}
		}
		st.Set(p, v)
	}
	return &bench{engine.NewStep(dev, 1), st, b, b2, x}
}

// run returns the block's result and Σ result·w; back also leaves gradients.
func (b *bench) run(t *testing.T, pass func(s *engine.Step) Pass, back bool) (out []float32, loss float64) {
	t.Helper()
	s := b.s
	s.Begin(0, true)
	b.st.ZeroGrad()
	x := layers.NewNode(s, b.x.Shape[0], dim)
	s.Dev.Write(x.X, b.st.Get(b.x))
	s.Dev.Write(x.G, slices.Repeat([]float32{1e9}, x.G.Len()))
	y, err := Run(s, []*Block{b.b}, x, 64, func(int) Pass { return pass(s) })
	if err != nil {
		t.Fatal(err)
	}
	out = make([]float32, y.X.Len())
	w := make([]float32, len(out))
	s.Dev.Read(out, y.X)
	for i := range out {
		w[i] = float32(math.Sin(float64(i*i) + 1))
		loss += float64(out[i]) * float64(w[i])
	}
	if back {
		s.Dev.Write(y.G, w)
		s.Backward()
		dx := make([]float32, x.G.Len())
		s.Dev.Read(dx, x.G)
		s.Dev.Write(b.x.Touch(), dx)
	}
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}
	return out, loss
}

// rows are forms of a pass.
type rows struct {
	keep      bool // drop path factors
	some      bool // anything reads some rows only
	drop      bool // samples are left out of the branches
	repeat    bool // rows of the input occur several times
	recompute bool
}

// mixed is a pass of a text, a pair and an image, packed modality-major: text
// rows [0, 3) and [3, 5), the pair's image [5, 10), the image [10, 15).
func mixed(f rows) func(s *engine.Step) Pass {
	return func(s *engine.Step) Pass {
		p := Pass{
			Attention: AttentionRows{Sequences: []kernels.Sequence{{TextLen: 3}, {TextOff: 3, TextLen: 2, ImageOff: 5, ImageLen: 5}, {ImageOff: 10, ImageLen: 5}}},
			FFN:       FFNRows{Route: []Span{{Text, 0, 3}, {VisionLanguage, 3, 10}, {Image, 10, 15}}},
			Window:    window, Text: maxText, Recompute: f.recompute,
		}
		a, ffn := &p.Attention, &p.FFN
		queries, experts := 15, 15
		switch {
		case f.repeat:
			// The pair's text is the text's beginning, its image the image.
			p.Base = s.Indices([]int32{0, 1, 2, 0, 1, 10, 11, 12, 13, 14, 10, 11, 12, 13, 14})
			a.Expand = p.Base
		case f.some:
			p.Base = s.Indices([]int32{0, 3, 4, 9, 10})
			a.Queries = p.Base
			ffn.Route = []Span{{Text, 0, 1}, {VisionLanguage, 1, 4}, {Image, 4, 5}}
			queries, experts = 5, 5
		}
		if f.drop {
			// The text has no attention, the pair no feed-forward network.
			ffn.Rows = s.Indices([]int32{0, 1, 2, 10, 11, 12, 13, 14})
			ffn.Route = []Span{{Text, 0, 3}, {VisionLanguage, 3, 3}, {Image, 3, 8}}
			experts = 8
			if !f.repeat {
				a.In = s.Indices([]int32{3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14})
				a.Sequences = []kernels.Sequence{{TextLen: 2, ImageOff: 2, ImageLen: 5}, {ImageOff: 7, ImageLen: 5}}
				a.Out = a.In
				queries = 12
			}
			if f.some {
				a.Queries, a.Out = s.Indices([]int32{0, 1, 6, 7}), s.Indices([]int32{1, 2, 3, 4})
				ffn.Rows = s.Indices([]int32{0, 4})
				ffn.Route = []Span{{Text, 0, 1}, {VisionLanguage, 1, 1}, {Image, 1, 2}}
				queries, experts = 4, 2
			}
		}
		if f.keep {
			k1, k2 := make([]float32, queries), make([]float32, experts)
			for i := range k1 {
				k1[i] = []float32{0, 2, 1}[i%3]
			}
			for i := range k2 {
				k2[i] = []float32{1.5, 0, 2, 1}[i%4]
			}
			a.Keep, ffn.Keep = s.Upload(k1, 1, queries), s.Upload(k2, 1, experts)
		}
		return p
	}
}

// Every parameter's gradient and the input's against difference quotients,
// with and without γ, relative bias, drop path factors, rows that nobody
// reads, dropped samples, repeated rows and recomputing.
func TestBlockGradients(t *testing.T) {
	const seed = 12
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for k := range 32 {
		// γ and bias take turns, the rows' forms all come together.
		scale, bias := k&1 == 0, k>>1&1 == k>>3&1
		form := rows{keep: k&1 != 0, some: k&2 != 0, drop: k&4 != 0, repeat: k&8 != 0, recompute: k&16 != 0}
		if form.some && form.repeat {
			continue
		}
		b := newBench(t, random, 15, scale, bias)
		pass := mixed(form)
		b.run(t, pass, true)
		grads := map[*engine.Param][]float32{}
		for _, p := range b.st.Params() {
			if grads[p] = b.st.Gradient(p); grads[p] == nil {
				t.Fatalf("%s has no gradient", p.Name)
			}
		}
		for p, g := range grads {
			norm, length, slope := 0.0, 0.0, 0.0
			for _, x := range g {
				norm += float64(x) * float64(x)
			}
			dir := make([]float64, len(g))
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
				_, loss := b.run(t, pass, false)
				return loss
			}
			want := (at(h) - at(-h)) / (2 * h)
			b.st.Set(p, v)
			if math.Abs(slope-want) > 3e-3*math.Abs(want)+1e-3 {
				t.Errorf("γ %v, bias %v, %+v: %s: slope %v, difference quotient %v", scale, bias, form, p.Name, slope, want)
			}
		}
	}
}

// noted is a device that notes what it ran.
type noted struct {
	kernels.Device
	ops map[string]int
}

func (d *noted) Run(op kernels.Op) {
	d.ops[op.Name()]++
	d.Device.Run(op)
}

// none is a pass whose samples are all dropped, from attention, from the
// feed-forward networks or from both.
func none(attention, ffn bool) func(s *engine.Step) Pass {
	return func(s *engine.Step) Pass {
		p := mixed(rows{})(s)
		if attention {
			p.Attention = AttentionRows{In: s.Indices(nil), Out: s.Indices(nil)}
		}
		if ffn {
			p.FFN = FFNRows{Rows: s.Indices(nil), Route: []Span{{Text, 0, 0}, {VisionLanguage, 0, 0}}}
		}
		return p
	}
}

// Two blocks at once are, to the bit, one after the other: the norm that the
// first makes for the second is the one that the second makes, whichever rows
// either of them treats.
func TestRun(t *testing.T) {
	const seed = 14
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	dev := &noted{ref.New(), map[string]int{}}
	b := newBenchOn(t, dev, random, 15, 2, true, true)
	passes := map[string]func(s *engine.Step) Pass{"no attention": none(true, false), "no experts": none(false, true), "nothing": none(true, true)}
	for k := range 16 {
		f := rows{keep: k&1 != 0, some: k&2 != 0, drop: k&4 != 0, repeat: k&8 != 0}
		if !(f.some && f.repeat) {
			passes[fmt.Sprintf("%+v", f)] = mixed(f)
		}
	}
	names := slices.Sorted(maps.Keys(passes))
	plain := fmt.Sprintf("%+v", rows{})
	for _, first := range names {
		if strings.Contains(first, "some:true") {
			continue // leaves too few rows for the second
		}
		for _, second := range names {
			pass, pass2 := passes[first], passes[second]
			for _, train := range []bool{false, true} {
				recompute := [2]bool{random.IntN(2) == 0, random.IntN(2) == 0}
				run := func(together bool) (all [][]float32, ops map[string]int) {
					s := b.s
					s.Begin(0, train)
					b.st.ZeroGrad()
					clear(dev.ops)
					x := layers.NewNode(s, 15, dim)
					s.Dev.Write(x.X, b.st.Get(b.x))
					p := []Pass{pass(s), pass2(s)}
					p[0].Recompute, p[1].Recompute = recompute[0], recompute[1]
					y, err := x, error(nil)
					if together {
						y, err = Run(s, []*Block{b.b, b.b2}, y, 64, func(i int) Pass { return p[i] })
					} else if y, err = Run(s, []*Block{b.b}, y, 64, func(int) Pass { return p[0] }); err == nil {
						y, err = Run(s, []*Block{b.b2}, y, 64, func(int) Pass { return p[1] })
					}
					if err != nil {
						t.Fatal(err)
					}
					read := func(x kernels.Tensor) {
						v := make([]float32, x.Len())
						s.Dev.Read(v, x)
						all = append(all, v)
					}
					read(y.X)
					if train {
						w := make([]float32, y.G.Len())
						for i := range w {
							w[i] = float32(math.Sin(float64(i*i) + 1))
						}
						s.Dev.Write(y.G, w)
						s.Backward()
						read(x.G)
						for _, p := range b.st.Params() {
							all = append(all, b.st.Gradient(p))
						}
					}
					if err := s.Err(); err != nil {
						t.Fatal(err)
					}
					return all, maps.Clone(dev.ops)
				}
				apart, _ := run(false)
				got, ops := run(true)
				for i := range apart {
					if !slices.Equal(got[i], apart[i]) {
						t.Fatalf("%s, then %s, train %v, recompute %v: result %d differs", first, second, train, recompute, i)
					}
				}
				// With all rows, ops of their own are the first norm and the
				// last residual connection, their backward passes, and norms
				// of attention's input that are computed again.
				want := map[string]int{"LayerNorm": 1, "Residual": 1}
				if train {
					want["LayerNormGrad"], want["ResidualGrad"] = 1, 1
					for _, r := range recompute {
						if r {
							want["LayerNorm"]++
						}
					}
				}
				if first != plain || second != plain {
					continue
				}
				for _, op := range []string{"LayerNorm", "Residual", "LayerNormGrad", "ResidualGrad"} {
					if ops[op] != want[op] {
						t.Errorf("train %v, recompute %v: %d ops %s, want %d", train, recompute, ops[op], op, want[op])
					}
				}
			}
		}
	}
}

// Only the rows of an expert depend on it, and a sequence on no other: a row
// is what it is when its sequence is alone.
func TestRouting(t *testing.T) {
	const seed = 13
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	b := newBench(t, random, 15, true, true)
	pass := mixed(rows{})
	before, _ := b.run(t, pass, false)
	for m, rows := range map[Modality][2]int{Text: {0, 3}, VisionLanguage: {3, 10}, Image: {10, 15}} {
		w := b.b.Experts[m].FC1.Weight
		v := b.st.Get(w)
		b.st.Set(w, make([]float32, len(v)))
		after, _ := b.run(t, pass, false)
		b.st.Set(w, v)
		for r := range 15 {
			same := slices.Equal(after[r*dim:(r+1)*dim], before[r*dim:(r+1)*dim])
			if in := r >= rows[0] && r < rows[1]; same == in {
				t.Errorf("expert %v: row %d is unchanged: %v", m, r, same)
			}
		}
	}
	x := b.st.Get(b.x)
	for i := 3 * dim; i < 10*dim; i++ { // the pair
		x[i] += float32(random.NormFloat64())
	}
	b.st.Set(b.x, x)
	after, _ := b.run(t, pass, false)
	for r := range 15 {
		same := slices.Equal(after[r*dim:(r+1)*dim], before[r*dim:(r+1)*dim])
		if in := r >= 3 && r < 10; same == in {
			t.Errorf("another pair: row %d is unchanged: %v", r, same)
		}
	}
	kept, _ := b.run(t, mixed(rows{some: true}), false)
	for i, r := range []int{0, 3, 4, 9, 10} {
		if !slices.Equal(kept[i*dim:(i+1)*dim], after[r*dim:(r+1)*dim]) {
			t.Errorf("row %d differs where others are left out", r)
		}
	}
}

// A sequence whose branches are dropped passes through unchanged.
func TestDropPathSkips(t *testing.T) {
	b := newBench(t, rand.New(rand.NewPCG(1, 0)), 15, true, true)
	out, _ := b.run(t, func(s *engine.Step) Pass {
		p := mixed(rows{})(s)
		keep := slices.Repeat([]float32{1}, 15)
		clear(keep[:3])
		p.Attention.Keep, p.FFN.Keep = s.Upload(keep, 1, 15), s.Upload(keep, 1, 15)
		return p
	}, false)
	x := b.st.Get(b.x)
	for r := range 15 {
		if same := slices.Equal(out[r*dim:(r+1)*dim], x[r*dim:(r+1)*dim]); same != (r < 3) {
			t.Errorf("row %d passes through: %v", r, same)
		}
	}
}

func TestRouteErrors(t *testing.T) {
	for name, test := range map[string]struct {
		route []Span
		want  string
	}{
		"long":    {[]Span{{Text, 0, 3}, {Image, 3, 15}, {Text, 15, 15}, {Image, 15, 15}}, "the route has 4 spans, want at most 3"},
		"gap":     {[]Span{{Text, 0, 3}, {Image, 4, 15}}, "gap or overlap before rows [4, 15)"},
		"overlap": {[]Span{{Text, 0, 3}, {Image, 2, 15}}, "gap or overlap before rows [2, 15)"},
		"short":   {[]Span{{Text, 0, 3}, {Image, 3, 14}}, "covers 14 of 15 rows"},
		"expert":  {[]Span{{Text, 0, 3}, {VisionLanguage, 3, 15}}, `rows [3, 15) are routed to an expert "vl"`},
	} {
		b := newBench(t, rand.New(rand.NewPCG(1, 0)), 15, true, true)
		b.b.Experts[VisionLanguage] = nil
		b.s.Begin(0, true)
		p := mixed(rows{})(b.s)
		p.FFN.Route = test.route
		_, err := Run(b.s, []*Block{b.b}, layers.NewNode(b.s, 15, dim), 64, func(int) Pass { return p })
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want %s", name, err, test.want)
		}
	}
	b := newBench(t, rand.New(rand.NewPCG(1, 0)), 15, true, true)
	b.s.Begin(0, true)
	p := mixed(rows{})(b.s)
	_, err := Run(b.s, []*Block{b.b}, layers.NewNode(b.s, 15, dim), 14, func(int) Pass { return p })
	if want := "a pass of 15 rows, want at most 14"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want %s", err, want)
	}
}

// The names of VLMo's and of a plain transformer's blocks (SPEC §9).
func TestNames(t *testing.T) {
	b := newBench(t, rand.New(rand.NewPCG(1, 0)), 15, true, false)
	for _, name := range []string{"b.gamma_1", "b.norm1.weight", "b.attn.q_bias", "b.attn.v_bias", "b.attn.qkv.weight", "b.attn.proj.bias",
		"b.norm2_text.weight", "b.mlp_text.fc1.weight", "b.norm2_imag.bias", "b.mlp_imag.fc2.bias", "b.norm2_vl.weight", "b.mlp_vl.fc2.weight"} {
		if b.st.Param(name) == nil {
			t.Errorf("no parameter %q", name)
		}
	}
	st := engine.NewStore()
	NewBlock(st, "b", Config{Dim: 4, Heads: 1, Hidden: 8, Experts: []Modality{Image}, Names: PlainNames()})
	for _, name := range []string{"b.norm2.weight", "b.mlp.fc1.weight"} {
		if st.Param(name) == nil {
			t.Errorf("no parameter %q", name)
		}
	}
}
