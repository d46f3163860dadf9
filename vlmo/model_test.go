package vlmo

import (
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"

	"vlmo-train/engine"
	"vlmo-train/kernels"
	"vlmo-train/kernels/cpu"
	"vlmo-train/kernels/ref"
)

// counting is a Device that counts the tensor memory it is asked for.
type counting struct {
	kernels.Device
	allocs int
}

func (d *counting) Alloc(n int) (*kernels.Memory, error) {
	d.allocs++
	return d.Device.Alloc(n)
}

// warmHeap bounds the allocations on Go's heap of one warm pre-training step
// of three blocks, in number and in bytes for a pair of the batch. They are
// lists of sequences and row numbers, none of them of tensors: the same
// number for every batch but for the growth of the lists.
const (
	warmAllocations = 300
	warmBytesAPair  = 8_000
)

// A warm step takes no tensor memory, for batches up to the size of those it
// is warm from, and next to nothing of Go's heap.
func TestWarmStep(t *testing.T) {
	device, err := cpu.New(cpu.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	dev := &counting{Device: device}
	b := newBench(t, dev, tinyConfig())
	b.DropPath = 0.2
	opt := engine.Optimizer{Beta1: 0.9, Beta2: 0.98, Eps: 1e-8, Decay: 0.01, Clip: 1}
	number := uint64(0)
	step := func(x *Batch) {
		b.s.Begin(number, true)
		number++
		b.Store.ZeroGrad()
		l, err := b.Pretrain(b.s, x, Weights{MLM: 0.25, ITC: 1, ITM: 1})
		if err != nil {
			t.Fatal(err)
		}
		b.s.Backward()
		if v := l.Values(dev).Total; math.IsNaN(v) {
			t.Fatal("the loss is NaN")
		}
		if _, err := opt.Update(b.Store, 1e-3); err != nil {
			t.Fatal(err)
		}
	}
	const n = 16
	pixels := b.keep(b.pixels(n))
	batch := func(most int) *Batch {
		x := &Batch{Pixels: pixels}
		for range n {
			l := 3 + b.random.IntN(most-2)
			text := b.text(l)
			labels := slices.Repeat([]int32{-1}, l)
			labels[1] = text[1]
			x.Texts, x.Masked, x.Labels = append(x.Texts, text), append(x.Masked, text), append(x.Labels, labels)
		}
		return x
	}
	large := batch(3)
	for i := range large.Texts { // the most that there can be
		large.Texts[i] = b.text(b.MaxText)
		large.Labels[i] = slices.Repeat([]int32{-1}, b.MaxText)
		large.Labels[i][1], large.Labels[i][2] = 3, 4
		large.Masked[i] = large.Texts[i]
	}
	step(large)
	step(large) // the arena's chunks have become one
	allocs, arena := dev.allocs, b.s.Arena.Allocations()
	for range 12 {
		step(batch(b.MaxText))
	}
	if dev.allocs != allocs || b.s.Arena.Allocations() != arena {
		t.Errorf("warm steps took tensor memory %d times", dev.allocs-allocs)
	}

	const runs = 10
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range runs {
		step(large)
	}
	runtime.ReadMemStats(&after)
	count, bytes := (after.Mallocs-before.Mallocs)/runs, (after.TotalAlloc-before.TotalAlloc)/runs
	t.Logf("a warm step of %d pairs allocates %d times, %d bytes", n, count, bytes)
	if count > warmAllocations || bytes > n*warmBytesAPair {
		t.Errorf("a warm step allocates %d times and %d bytes, want at most %d and %d", count, bytes, warmAllocations, n*warmBytesAPair)
	}
}

// Fresh values are those of SPEC §8, and depend on the seed alone.
func TestInit(t *testing.T) {
	c := tinyConfig()
	c.InitStd = 0
	c.With.VQA = 5
	m := newModel(t, c)
	other := newModel(t, c)
	other.Init(2)
	for i, p := range m.Store.Params() {
		v := m.Store.Get(p)
		constant := math.NaN()
		switch n := p.Name; {
		case n == "relative_position_bias_table":
			constant = 0
		case strings.HasPrefix(n, "logit_"):
			constant = math.Log(1 / 0.07)
		case strings.Contains(n, ".gamma_"):
			constant = float64(c.LayerScaleInit)
		case strings.Contains(n, "patch_embed"):
			bound := 1 / math.Sqrt(3*4*4)
			if x := slices.Max(v); float64(x) > bound || float64(slices.Min(v)) < -bound || float64(x) < 0.7*bound {
				t.Errorf("%s: from %v to %v, want up to ±%v", n, slices.Min(v), x, bound)
			}
		case strings.HasSuffix(n, "bias"):
			constant = 0
		case strings.Contains(n, "norm") || strings.Contains(n, "LayerNorm") || n == "vqa_classifier.1.weight":
			constant = 1
		default:
			sq := 0.0
			for _, x := range v {
				sq += float64(x) * float64(x)
			}
			if std, n := math.Sqrt(sq/float64(len(v))), float64(len(v)); math.Abs(std/0.02-1) > 5/math.Sqrt(2*n) {
				t.Errorf("%s: deviation %v of %v values, want 0.02", p.Name, std, n)
			}
			if slices.Equal(v, other.Store.Get(other.Store.Params()[i])) {
				t.Errorf("%s: the same for two seeds", p.Name)
			}
		}
		if !math.IsNaN(constant) && slices.ContainsFunc(v, func(x float32) bool { return x != float32(constant) }) {
			t.Errorf("%s: %v, want %v", p.Name, v[:1], constant)
		}
	}
}

// Which parameters decay: the original's substrings, whatever they hit.
func TestDecayed(t *testing.T) {
	for name, want := range map[string]bool{
		"transformer.blocks.0.norm1.weight":      false,
		"transformer.blocks.0.norm1.bias":        false,
		"transformer.blocks.0.norm2_text.weight": true,
		"transformer.blocks.0.norm2_vl.bias":     false,
		"transformer.blocks.0.gamma_1":           true,
		"transformer.blocks.0.attn.q_bias":       false,
		"transformer.blocks.0.attn.qkv.weight":   true,
		"transformer.norm.weight":                false,
		"transformer.cls_token":                  true,
		"text_embeddings.LayerNorm.weight":       false,
		"mlm_score.transform.LayerNorm.weight":   false,
		"mlm_score.decoder.weight":               true,
		"logit_scale":                            true,
		"vqa_classifier.1.weight":                true,
		"relative_position_bias_table":           false,
		"text_embeddings.word_embeddings.weight": true,
	} {
		if got := Decayed(name); got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}

func TestValidate(t *testing.T) {
	for _, test := range []struct {
		change func(c *Config)
		want   string
	}{
		{func(c *Config) { c.Patch = 3 }, "image size 8 is no multiple of patch size 3"},
		{func(c *Config) { c.Heads = 3 }, "dim 34 does not divide into 3 heads"},
		{func(c *Config) { c.Depth = 0 }, "depth 0"},
		{func(c *Config) { c.VLStart = 4 }, "start at block 4"},
		{func(c *Config) { c.MaxTextInit = 6 }, "text length 7 exceeds that of the relative position table, 6"},
		{func(c *Config) { c.With.NLVR2 = true }, "NLVR2 needs 3 token types, not 2"},
		{func(c *Config) { c.Vocab = 0 }, "vocabulary of 0"},
	} {
		c := tinyConfig()
		test.change(&c)
		_, err := New(ref.New(), c, false)
		wantError(t, err, test.want)
	}
}
