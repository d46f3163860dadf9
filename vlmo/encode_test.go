package vlmo

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"vlmo-train/engine"
	"vlmo-train/kernels"
	"vlmo-train/kernels/ref"
	"vlmo-train/rng"
)

// tinyConfig has heads of 17, images of 2×2 patches and most heads.
func tinyConfig() Config {
	return Config{ImageSize: 8, Patch: 4, Dim: 34, Depth: 3, Heads: 2, Hidden: 20, VLStart: 2, Vocab: 23, MaxText: 7, MaxTextInit: 9,
		LayerScale: true, LayerScaleInit: 0.5, InitStd: 0.2, TokenTypes: 2, With: HeadSet{MLM: true, ITC: true, ITM: true, Codes: 11}}
}

// bench is a model, a step and a source of inputs.
type bench struct {
	*Model
	s      *engine.Step
	random *rand.Rand
}

// newBench returns a model whose parameters are all random, so that nothing
// vanishes that a wrong gradient could hide behind.
func newBench(t *testing.T, dev kernels.Device, c Config) *bench {
	t.Helper()
	const seed = 3
	t.Logf("seed %d", seed)
	m, err := New(dev, c, true)
	if err != nil {
		t.Fatal(err)
	}
	m.Init(seed)
	b := &bench{m, engine.NewStep(dev, 1), rand.New(rand.NewPCG(seed, 0))}
	for _, p := range m.Store.Params() {
		v := m.Store.Get(p)
		for i := range v {
			v[i] += float32(0.1 * b.random.NormFloat64())
		}
		if len(p.Shape) == 0 {
			v[0] = 1 + 0.1*v[0] // a logit scale
		}
		m.Store.Set(p, v)
	}
	return b
}

func (b *bench) text(n int) Text {
	t := make(Text, n)
	for i := range t {
		t[i] = int32(b.random.IntN(b.Vocab))
	}
	return t
}

func (b *bench) pixels(n int) []float32 {
	v := make([]float32, n*3*b.ImageSize*b.ImageSize)
	for i := range v {
		v[i] = float32(b.random.NormFloat64())
	}
	return v
}

// keep brings images to the device, for all steps.
func (b *bench) keep(v []float32) kernels.Tensor {
	px := 3 * b.ImageSize * b.ImageSize
	m, err := b.s.Dev.Alloc(4 * len(v))
	if err != nil {
		panic(err)
	}
	x := kernels.Matrix(m, 0, kernels.F32, len(v)/px, px)
	b.s.Dev.Write(x, v)
	return x
}

// encode returns the hidden states of the rows that need names.
func (b *bench) encode(t *testing.T, train bool, p *Phase, pixels []float32, need func(p *Phase) []int) []float32 {
	t.Helper()
	px := 3 * b.ImageSize * b.ImageSize
	b.s.Begin(5, train)
	p.Layout(1 + b.Patches())
	f, err := b.Encode(b.s, p, b.s.Upload(pixels, len(pixels)/px, px), need(p))
	if err != nil {
		t.Fatal(err)
	}
	v := make([]float32, f.X.Len())
	b.s.Dev.Read(v, f.X)
	if err := b.s.Err(); err != nil {
		t.Fatal(err)
	}
	return v
}

func textRows(i int, br Branch) func(p *Phase) []int {
	return func(p *Phase) (rows []int) {
		for t := range p.Texts[i].Text {
			rows = append(rows, p.TextRow(i, t, br))
		}
		return rows
	}
}

func imageRows(i int, br Branch) func(p *Phase) []int {
	return func(p *Phase) (rows []int) {
		for t := range p.imageLen {
			rows = append(rows, p.ImageRow(i, t, br))
		}
		return rows
	}
}

func pairRows(i int) func(p *Phase) []int {
	return func(p *Phase) (rows []int) {
		for t := range len(p.Pairs[i].Text) + p.imageLen {
			rows = append(rows, p.PairRow(i, t))
		}
		return rows
	}
}

// A sequence's hidden states are the same to the bit alone and in any batch,
// in both branches, in training with drop path and dropout as without: no
// padding, no row of another sequence and no place in the batch matters.
func TestEncodeAlone(t *testing.T) {
	for _, absolute := range []bool{false, true} {
		for _, train := range []bool{false, true} {
			c := tinyConfig()
			c.Absolute = absolute
			b := newBench(t, ref.New(), c)
			b.DropPath = 0.4
			pixels := b.pixels(4)
			all := &Phase{VLBranch: true}
			for i, n := range []int{2, 7, 4} {
				all.Texts = append(all.Texts, Unimodal{Text: b.text(n), Sample: uint64(i), Pass: passText})
				all.Images = append(all.Images, Unimodal{Image: i + 1, Sample: uint64(i), Pass: passImage})
				all.Pairs = append(all.Pairs, Pair{Text: b.text(9 - n), Image: 3 - i, Sample: uint64(i), Pass: passMLM})
			}
			whole := func(rows func(*Phase) []int) []float32 { return b.encode(t, train, all, pixels, rows) }
			for i := range all.Texts {
				for _, br := range []Branch{Own, VL} {
					for _, branch := range []bool{true, false} {
						if br == VL && !branch {
							continue
						}
						one := &Phase{VLBranch: branch, Texts: all.Texts[i : i+1]}
						if got := b.encode(t, train, one, pixels, textRows(0, br)); !slices.Equal(got, whole(textRows(i, br))) {
							t.Errorf("text %d, branch %d of %v, training %v: differs alone", i, br, branch, train)
						}
						one = &Phase{VLBranch: branch, Images: all.Images[i : i+1]}
						if got := b.encode(t, train, one, pixels, imageRows(0, br)); !slices.Equal(got, whole(imageRows(i, br))) {
							t.Errorf("image %d, branch %d of %v, training %v: differs alone", i, br, branch, train)
						}
					}
				}
				if !train && (slices.Equal(whole(textRows(i, Own)), whole(textRows(i, VL))) || slices.Equal(whole(imageRows(i, Own)), whole(imageRows(i, VL)))) {
					t.Error("the branches are equal")
				}
				one := &Phase{Pairs: all.Pairs[i : i+1]}
				if got := b.encode(t, train, one, pixels, pairRows(0)); !slices.Equal(got, whole(pairRows(i))) {
					t.Errorf("pair %d, training %v: differs alone", i, train)
				}
			}
			// Another sample draws other numbers, in training alone.
			before := whole(pairRows(1))
			all.Pairs[1].Sample = 77
			if same := slices.Equal(before, whole(pairRows(1))); same == train {
				t.Errorf("training %v: another sample gives the same result: %v", train, same)
			}
		}
	}
}

// sameGradients compares by ‖a−b‖/‖b‖ of each parameter; b may have
// gradients of zero where a has none.
func sameGradients(t *testing.T, what string, a, b map[string][]float32, tolerance float64) {
	t.Helper()
	if len(b) == 0 {
		t.Fatalf("%s: no gradients", what)
	}
	for name, y := range b {
		x := a[name]
		if x == nil {
			x = make([]float32, len(y))
		}
		var d, n float64
		for i := range y {
			d += (float64(x[i]) - float64(y[i])) * (float64(x[i]) - float64(y[i]))
			n += float64(y[i]) * float64(y[i])
		}
		if !(math.Sqrt(d) <= tolerance*math.Sqrt(n)+1e-7) {
			t.Errorf("%s: %s differs by %.3g of %.3g", what, name, math.Sqrt(d), math.Sqrt(n))
		}
	}
	for name := range a {
		if b[name] == nil {
			t.Errorf("%s: %s has a gradient", what, name)
		}
	}
}

// Drop path's rate rises linearly from 0 at the first block to DropPath at the
// last; what is kept is scaled so that the mean stays 1; a sequence is dropped
// whole, its two branches, attention and feed-forward independently.
func TestDropPathDraws(t *testing.T) {
	c := tinyConfig()
	c.Depth, c.VLStart = 5, 3
	b := newBench(t, ref.New(), c)
	b.DropPath = 0.4
	b.s.Begin(9, true)
	const n = 2000
	p := &Phase{VLBranch: true}
	for i := range n {
		p.Texts = append(p.Texts, Unimodal{Text: Text{1, 2, 3}, Sample: uint64(i), Pass: passText})
		p.Pairs = append(p.Pairs, Pair{Text: Text{1, 2}, Image: i, Sample: uint64(i), Pass: passMLM})
		p.Images = append(p.Images, Unimodal{Image: i, Sample: uint64(i), Pass: passImage})
	}
	p.Layout(1 + b.Patches())
	for block := range c.Depth {
		branch := block >= c.VLStart
		bp := b.draw(b.s, p, block, branch)
		rate := 0.4 * float64(block) / 4
		if block == 0 {
			if bp.keepA != nil {
				t.Error("the first block drops")
			}
			continue
		}
		// Each part of a sequence, the rows that have one draw.
		type part struct {
			name  string
			keep  []float32
			first func(i int) (row, rows int)
		}
		shift, last := 0, 0
		if branch {
			shift, last = p.nDT, p.nDI
		}
		text := func(i int) (int, int) { return p.textOff[i], 3 }
		copied := func(i int) (int, int) { return p.nDT + p.textOff[i], 3 }
		image := func(i int) (int, int) { return shift + last + p.imageOff[i], p.imageLen }
		imageCopy := func(i int) (int, int) { return shift + p.imageOff[i], p.imageLen }
		pairText := func(i int) (int, int) { return shift + p.pairText[i], 2 }
		pairImage := func(i int) (int, int) { return shift + p.pairImage[i], p.imageLen }
		parts := []part{{"text, attention", bp.keepA, text}, {"text, feed-forward", bp.keepF, text},
			{"image, attention", bp.keepA, image}, {"image, feed-forward", bp.keepF, image},
			{"pair, attention", bp.keepA, pairText}, {"pair, feed-forward", bp.keepF, pairText}}
		if branch {
			parts = append(parts, part{"text copy, attention", bp.keepA, copied}, part{"text copy, feed-forward", bp.keepF, copied},
				part{"image copy, attention", bp.keepA, imageCopy}, part{"image copy, feed-forward", bp.keepF, imageCopy})
		} else {
			// Two experts, so two draws.
			parts = append(parts, part{"pair, feed-forward of the image", bp.keepF, pairImage})
		}
		for i := range n {
			a, _ := pairText(i)
			v, _ := pairImage(i)
			if bp.keepA[a] != bp.keepA[v] || branch && bp.keepF[a] != bp.keepF[v] {
				t.Fatalf("block %d: pair %d is dropped in part", block, i)
			}
		}
		dropped := make([][]bool, len(parts))
		for k, q := range parts {
			count := 0
			for i := range n {
				row, rows := q.first(i)
				v := q.keep[row]
				if slices.ContainsFunc(q.keep[row:row+rows], func(x float32) bool { return x != v }) {
					t.Fatalf("block %d: %s %d is dropped in part", block, q.name, i)
				}
				if v == 0 {
					count++
				} else if math.Abs(float64(v)-1/(1-rate)) > 1e-6 {
					t.Fatalf("block %d: what is kept is scaled by %v", block, v)
				}
				dropped[k] = append(dropped[k], v == 0)
			}
			if math.Abs(float64(count)-n*rate) > 4.5*math.Sqrt(n*rate*(1-rate)) {
				t.Errorf("block %d, %s: %d of %d dropped, the rate is %v", block, q.name, count, n, rate)
			}
		}
		for k := range parts {
			for j := range k {
				both := 0
				for i := range n {
					if dropped[k][i] && dropped[j][i] {
						both++
					}
				}
				if r := rate * rate; math.Abs(float64(both)-n*r) > 4.5*math.Sqrt(n*r*(1-r)) {
					t.Errorf("block %d: %s and %s are dropped together %d times, want about %v", block, parts[k].name, parts[j].name, both, n*r)
				}
			}
		}
	}
	b.s.Begin(9, false)
	if bp := b.draw(b.s, p, 4, true); bp.keepA != nil || bp.keepF != nil {
		t.Error("drop path outside training")
	}
}

// Pair and Unimodal of one sample, and two steps, draw different numbers.
func TestDrawKeys(t *testing.T) {
	b := newBench(t, ref.New(), tinyConfig())
	seen := map[rng.Key]string{}
	for _, step := range []uint64{1, 2} {
		b.s.Begin(step, true)
		for pass := passText; pass <= passNegativeText; pass++ {
			for _, purpose := range []rng.Purpose{rng.DropPath, rng.Dropout} {
				k := b.s.Key(purpose, pass, 3)
				what := fmt.Sprint(step, pass, purpose)
				if seen[k] != "" {
					t.Errorf("%s and %s share a key", seen[k], what)
				}
				seen[k] = what
			}
		}
	}
	if len(seen) != 24 {
		t.Errorf("%d keys", len(seen))
	}
}

// What does not fit the model is said with its place.
func TestEncodeErrors(t *testing.T) {
	b := newBench(t, ref.New(), tinyConfig())
	for _, test := range []struct {
		p    Phase
		want string
	}{
		{Phase{}, "an empty phase"},
		{Phase{Texts: []Unimodal{{Text: Text{1}}, {}}}, "text 1 has no tokens"},
		{Phase{Texts: []Unimodal{{Text: make(Text, 8)}}}, "text 0 has 8 tokens, the model reads 7"},
		{Phase{Texts: []Unimodal{{Text: Text{1, 23}}}}, "text 0 has token id 23, the vocabulary has 23"},
		{Phase{Pairs: []Pair{{Text: Text{-1}}}}, "the text of pair 0 has token id -1"},
		{Phase{Pairs: []Pair{{Text: Text{1}, Image: 2}}}, "pair 0 names image 2 of 2"},
		{Phase{Images: []Unimodal{{Image: -1}}}, "sequence 0 names image -1 of 2"},
	} {
		b.s.Begin(0, false)
		px := 3 * b.ImageSize * b.ImageSize
		_, err := b.Encode(b.s, &test.p, b.s.Upload(b.pixels(2), 2, px), []int{0})
		wantError(t, err, test.want)
	}
	c := tinyConfig()
	c.VLStart = c.Depth
	b = newBench(t, ref.New(), c)
	b.s.Begin(0, false)
	_, err := b.Encode(b.s, &Phase{VLBranch: true, Texts: []Unimodal{{Text: Text{1}}}}, kernels.Tensor{}, []int{0})
	wantError(t, err, "no", "vision-language experts")
}
