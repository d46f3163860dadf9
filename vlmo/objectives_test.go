package vlmo

import (
	"math"
	"slices"
	"testing"

	"vlmo-train/engine"
	"vlmo-train/kernels"
	"vlmo-train/kernels/ref"
)

// batch returns n pairs of texts of mixed lengths with masked tokens, of which
// the first and the last mean the same, and fixed negatives.
func (b *bench) batch(n int) *Batch {
	x := &Batch{Pixels: b.keep(b.pixels(n))}
	for i := range n {
		l := 3 + i%(b.MaxText-2)
		x.Texts = append(x.Texts, b.text(l))
		x.Masked = append(x.Masked, slices.Clone(x.Texts[i]))
		labels := slices.Repeat([]int32{-1}, l)
		for range 1 + i%2 {
			t := 1 + b.random.IntN(l-2)
			labels[t], x.Masked[i][t] = x.Texts[i][t], 4
		}
		x.Labels = append(x.Labels, labels)
		x.Groups = append(x.Groups, int32(i%max(n-1, 1)))
		x.Samples = append(x.Samples, uint64(100+7*i))
		x.NegativeImage = append(x.NegativeImage, int32((i+1)%n))
		x.NegativeText = append(x.NegativeText, int32((i+n-1)%n))
	}
	return x
}

// gradients runs an objective with all gradients and returns the sum of its losses.
func (b *bench) gradients(t *testing.T, run func() (Losses, error)) (float64, map[string][]float32) {
	t.Helper()
	// Everything a step takes is dirty.
	b.s.Begin(0, true)
	engine.Run(b.s, kernels.Fill{Y: b.s.Floats(1, 1<<18), Value: float32(math.NaN())})
	st := b.Store
	fresh := map[string][]float32{}
	b.s.Begin(5, true)
	st.ZeroGrad()
	l, err := run()
	if err != nil {
		t.Fatal(err)
	}
	b.s.Backward()
	if err := b.s.Err(); err != nil {
		t.Fatal(err)
	}
	for _, p := range st.Params() {
		if g := st.Gradient(p); g != nil {
			fresh[p.Name] = g
		}
	}
	return l.Values(b.s.Dev).Total, fresh
}

func (b *bench) pretrain(t *testing.T, x *Batch, w Weights) (float64, map[string][]float32) {
	t.Helper()
	return b.gradients(t, func() (Losses, error) { return b.Pretrain(b.s, x, w) })
}

// The gradient of the whole loss against difference quotients, along a
// direction for each parameter that leans to its gradient, so that the slope
// is not near zero.
func TestPretrainGradient(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"relative":  func(*Config) {},
		"absolute":  func(c *Config) { c.Absolute = true },
		"no γ":      func(c *Config) { c.LayerScale = false },
		"one block": func(c *Config) { c.Depth, c.VLStart = 2, 1 },
	} {
		t.Run(name, func(t *testing.T) {
			c := tinyConfig()
			change(&c)
			b := newBench(t, ref.New(), c)
			x := b.batch(3)
			w := Weights{MLM: 0.25, ITC: 1, ITM: 1}
			_, grads := b.pretrain(t, x, w)
			value := func() float64 {
				b.s.Begin(5, true)
				l, err := b.Pretrain(b.s, x, w)
				if err != nil {
					t.Fatal(err)
				}
				return l.Values(b.s.Dev).Total
			}
			checked := 0
			for _, p := range b.Store.Params() {
				g := grads[p.Name]
				if g == nil || b.random.IntN(3) > 0 && len(p.Shape) > 0 {
					continue
				}
				checked++
				norm, length, slope := 0.0, 0.0, 0.0
				for _, x := range g {
					norm += float64(x) * float64(x)
				}
				dir := make([]float64, len(g))
				for i, x := range g {
					dir[i] = float64(x)/math.Sqrt(norm+1e-30) + b.random.NormFloat64()/math.Sqrt(float64(len(g)))
					length += dir[i] * dir[i]
				}
				for i, x := range g {
					dir[i] /= math.Sqrt(length)
					slope += dir[i] * float64(x)
				}
				v := b.Store.Get(p)
				at := func(h float64) float64 {
					u := slices.Clone(v)
					for i := range u {
						u[i] += float32(h * dir[i])
					}
					b.Store.Set(p, u)
					return value()
				}
				const h = 1e-2
				want := (at(h) - at(-h)) / (2 * h)
				b.Store.Set(p, v)
				if math.Abs(slope-want) > 1e-2*math.Abs(want)+2e-4 {
					t.Errorf("%s: slope %v, difference quotient %v", p.Name, slope, want)
				}
			}
			if checked < 20 {
				t.Errorf("%d parameters checked", checked)
			}
		})
	}
}

// The loss of a batch of mixed lengths is the mean over its masked tokens,
// whichever sequences they come from, and so are its gradients: texts alone
// and added up (as micro-batches) give the same. Padding could not.
func TestTextMLMAlone(t *testing.T) {
	b := newBench(t, ref.New(), tinyConfig())
	b.DropPath = 0.3
	x := b.batch(5)
	loss, grads := b.gradients(t, func() (Losses, error) { return b.TextMLM(b.s, x.Masked, x.Labels, x.Samples) })
	tokens := func(labels ...[]int32) (n float64) {
		for _, l := range labels {
			for _, id := range l {
				if id >= 0 {
					n++
				}
			}
		}
		return n
	}
	total, sum := 0.0, map[string][]float32{}
	for i := range x.Masked {
		share := tokens(x.Labels[i]) / tokens(x.Labels...)
		l, g := b.gradients(t, func() (Losses, error) {
			return b.TextMLM(b.s, x.Masked[i:i+1], x.Labels[i:i+1], x.Samples[i:i+1])
		})
		total += share * l
		for name, v := range g {
			if sum[name] == nil {
				sum[name] = make([]float32, len(v))
			}
			for j, y := range v {
				sum[name][j] += float32(share) * y
			}
		}
	}
	if math.Abs(loss-total) > 1e-5 {
		t.Errorf("loss %v, of the texts alone %v", loss, total)
	}
	sameGradients(t, "texts alone", sum, grads, 1e-5)
}

// The same for MLM on pairs, where image and text meet.
func TestPairMLMAlone(t *testing.T) {
	b := newBench(t, ref.New(), tinyConfig())
	b.DropPath = 0.3
	x := b.batch(4)
	for i := range x.Labels { // one masked token each, so that the shares are equal
		l := slices.Repeat([]int32{-1}, len(x.Labels[i]))
		l[1] = 5
		x.Labels[i] = l
	}
	w := Weights{MLM: 1}
	loss, grads := b.pretrain(t, x, w)
	total, sum := 0.0, map[string][]float32{}
	for i := range x.Texts {
		one := &Batch{Texts: x.Texts[i : i+1], Masked: x.Masked[i : i+1], Labels: x.Labels[i : i+1], Pixels: x.Pixels.Slice(i, i+1), Samples: x.Samples[i : i+1]}
		l, g := b.pretrain(t, one, w)
		total += l / 4
		for name, v := range g {
			if sum[name] == nil {
				sum[name] = make([]float32, len(v))
			}
			for j, y := range v {
				sum[name][j] += y / 4
			}
		}
	}
	if math.Abs(loss-total) > 1e-5 {
		t.Errorf("loss %v, of the pairs alone %v", loss, total)
	}
	sameGradients(t, "pairs alone", sum, grads, 1e-5)
}

// Each loss alone adds up to all: with fixed negatives and no drop path the
// phases share nothing but parameters.
func TestLossesAddUp(t *testing.T) {
	b := newBench(t, ref.New(), tinyConfig())
	x := b.batch(4)
	whole, grads := b.pretrain(t, x, Weights{MLM: 0.25, ITC: 1, ITM: 1})
	total, sum := 0.0, map[string][]float32{}
	for _, w := range []Weights{{MLM: 0.25}, {ITC: 1}, {ITM: 1}} {
		// A gradient stays on the list of an earlier loss, as zeros.
		l, g := b.pretrain(t, x, w)
		total += l
		for name, v := range g {
			if sum[name] == nil {
				sum[name] = make([]float32, len(v))
			}
			for j, y := range v {
				sum[name][j] += y
			}
		}
	}
	if math.Abs(whole-total) > 1e-5 {
		t.Errorf("loss %v, one by one %v", whole, total)
	}
	sameGradients(t, "one by one", sum, grads, 1e-5)
}

// The contrastive loss in float64 from the features: pairs of a group are
// positives of each other, with equal shares (SPEC §7).
func TestContrastGroups(t *testing.T) {
	b := newBench(t, ref.New(), tinyConfig())
	x := b.batch(4)
	x.Groups = []int32{9, 5, 9, 5}
	want := func(groups []int32) float64 {
		b.s.Begin(0, false)
		txt, img, err := b.CLS(b.s, x)
		if err != nil {
			t.Fatal(err)
		}
		var f [2][]float32
		for k, n := range []kernels.Tensor{b.Project(b.s, Own, 0, txt).X, b.Project(b.s, Own, 1, img).X} {
			f[k] = make([]float32, n.Len())
			b.s.Dev.Read(f[k], n)
		}
		scale := math.Exp(float64(b.Store.Get(b.Store.Param("logit_scale"))[0]))
		loss := 0.0
		for d := range 2 {
			for i := range 4 {
				logits, sum, positives := make([]float64, 4), 0.0, 0.0
				for j := range 4 {
					for k := range b.Dim {
						logits[j] += scale * float64(f[d][i*b.Dim+k]) * float64(f[1-d][j*b.Dim+k])
					}
					sum += math.Exp(logits[j])
					if groups[i] == groups[j] {
						positives++
					}
				}
				for j := range 4 {
					if groups[i] == groups[j] {
						loss += (math.Log(sum) - logits[j]) / positives / 4 / 2
					}
				}
			}
		}
		return loss
	}
	for _, groups := range [][]int32{{9, 5, 9, 5}, {0, 1, 2, 3}, {1, 1, 1, 1}} {
		x.Groups = groups
		got, _ := b.gradients(t, func() (Losses, error) { return b.Retrieval(b.s, x) })
		if w := want(groups); math.Abs(got-w) > 1e-5 {
			t.Errorf("groups %v: loss %v, want %v", groups, got, w)
		}
	}
}

// OriginalWorld divides the gradient that ITC sends to the encoder, not that
// of the logit scale, and no loss.
func TestOriginalWorld(t *testing.T) {
	b := newBench(t, ref.New(), tinyConfig())
	x := b.batch(4)
	run := func(world int) (float64, map[string][]float32) {
		x.OriginalWorld = world
		return b.pretrain(t, x, Weights{ITC: 1})
	}
	loss, one := run(1)
	loss4, four := run(4)
	if loss != loss4 {
		t.Errorf("losses %v and %v", loss, loss4)
	}
	for name, g := range four {
		if name == "logit_scale" || name == "logit_vl_scale" {
			if !slices.Equal(g, one[name]) {
				t.Errorf("%s: gradient %v, want %v", name, g, one[name])
			}
			delete(four, name)
			delete(one, name)
			continue
		}
		for i := range g {
			g[i] *= 4
		}
	}
	sameGradients(t, "4 ranks", four, one, 1e-5)
}

// Negatives drawn are never of the pair's own group, vary from step to step,
// depend on the sample and not on its place, and train as fixed ones do, with
// ITC and without.
func TestNegatives(t *testing.T) {
	for _, w := range []Weights{{ITM: 1}, {ITM: 1, ITC: 1}, {MLM: 1, ITM: 1}} {
		b := newBench(t, ref.New(), tinyConfig())
		x := b.batch(5)
		x.NegativeImage, x.NegativeText = nil, nil
		draw := func(step uint64) (image, text []int32) {
			b.s.Begin(step, true)
			group := b.s.Indices(x.groups())
			dot, err := b.cosines(b.s, x, group)
			if err != nil {
				t.Fatal(err)
			}
			if image, text, err = b.negatives(b.s, x, dot, group); err != nil {
				t.Fatal(err)
			}
			return image, text
		}
		seen := map[int32]bool{}
		for step := range uint64(40) {
			image, text := draw(step)
			for i := range image {
				if x.Groups[image[i]] == x.Groups[i] || x.Groups[text[i]] == x.Groups[i] {
					t.Fatalf("step %d: pair %d has the negatives %d and %d, groups %v", step, i, image[i], text[i], x.Groups)
				}
			}
			seen[image[1]] = true
		}
		if len(seen) != 4 {
			t.Errorf("pair 1 has drawn %d different images in 40 steps, want all 4", len(seen))
		}
		drawn, grads := b.pretrain(t, x, w)
		x.NegativeImage, x.NegativeText = draw(5)
		fixed, grads2 := b.pretrain(t, x, w)
		if drawn != fixed {
			t.Errorf("weights %v: loss %v with drawn negatives, %v with the same ones given", w, drawn, fixed)
		}
		sameGradients(t, "drawn negatives", grads, grads2, 0)
	}
}

func TestPretrainErrors(t *testing.T) {
	b := newBench(t, ref.New(), tinyConfig())
	all := Weights{MLM: 1, ITC: 1, ITM: 1}
	for _, test := range []struct {
		n      int
		change func(x *Batch)
		want   string
	}{
		{1, func(x *Batch) { x.NegativeImage, x.NegativeText = nil, nil }, "pair 0 of 1 has no negative in its batch: matching needs at least two different pairs"},
		{3, func(x *Batch) { x.NegativeImage, x.NegativeText, x.Groups = nil, nil, []int32{1, 1, 1} }, "pair 0 of 3 has no negative"},
		{3, func(x *Batch) { x.NegativeImage = nil }, "negatives given for one modality only"},
		{3, func(x *Batch) { x.NegativeText[1] = 3 }, "negative text 3 of 3"},
		{3, func(x *Batch) { x.NegativeImage[1] = 3 }, "pair 1 names image 3 of 3"},
		{3, func(x *Batch) { x.Pixels = x.Pixels.Columns(1, 192) }, "3 rows of 191 pixel values for 3 images of 8×8"},
		{3, func(x *Batch) { x.Pixels = x.Pixels.Slice(1, 3) }, "2 rows of 192 pixel values for 3 images of 8×8"},
		{3, func(x *Batch) { x.Groups = x.Groups[1:] }, "2 groups and 3 samples for 3 pairs"},
		{3, func(x *Batch) { x.Labels = nil }, "3 masked texts and 0 label rows for 3 texts"},
		{3, func(x *Batch) { x.Texts[2] = nil }, "text 2 has no tokens"},
		{3, func(x *Batch) { *x = Batch{} }, "an empty batch"},
	} {
		x := b.batch(test.n)
		test.change(x)
		b.s.Begin(0, true)
		_, err := b.Pretrain(b.s, x, all)
		wantError(t, err, test.want)
	}
	for want, w := range map[string]Weights{"no MLM head": {MLM: 1}, "no ITC heads": {ITC: 1}, "no ITM head": {ITM: 1}} {
		c := tinyConfig()
		c.With = HeadSet{Codes: 3}
		b := newBench(t, ref.New(), c)
		b.s.Begin(0, true)
		_, err := b.Pretrain(b.s, b.batch(2), w)
		wantError(t, err, want)
	}
	c := tinyConfig()
	c.With = HeadSet{ITM: true}
	b = newBench(t, ref.New(), c)
	x := b.batch(2)
	x.NegativeImage, x.NegativeText = nil, nil
	_, err := b.Pretrain(b.s, x, Weights{ITM: 1})
	wantError(t, err, "negatives are drawn by ITC features")
}
