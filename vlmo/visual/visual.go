// Package visual holds the visual tokenizers that turn the patches of an
// image into codes, the targets of masked image modelling (SPEC §7).
//
// [Tokenizer] has the shape of BEiT v2's vector-quantised knowledge
// distillation (VQ-KD, Peng et al. 2022) and learns from pixels: a vision
// transformer encodes each patch as a unit vector, the nearest code of a
// codebook replaces it, and a smaller transformer draws the patch again.
package visual

import (
	"fmt"
	"math"
	"strings"

	"vlmo-train/engine"
	"vlmo-train/experts"
	"vlmo-train/kernels"
	"vlmo-train/layers"
	"vlmo-train/rng"
)

// Config is the shape of a Tokenizer and the constants of its codebook.
type Config struct {
	ImageSize, Patch          int     // pixels along an edge of the image, of a patch
	Dim, Depth, Heads, Hidden int     // of the encoder; Hidden is the feed-forward width
	DecoderDepth              int     // the decoder has the encoder's Dim, Heads and Hidden
	Codes, CodeDim            int     // size of the codebook, width of a code
	Momentum                  float32 // of the codebook's moving averages, in [0, 1)
	Commitment                float32 // β, the weight of the commitment loss
	// Dead revives a code whose moving count is below this share of a
	// batch's mean count; 0: never.
	Dead float32
}

// Base returns the shape of VQ-KD's base tokenizer at 224 pixels.
func Base() Config {
	return Config{ImageSize: 224, Patch: 16, Dim: 768, Depth: 12, Heads: 12, Hidden: 3072, DecoderDepth: 3,
		Codes: 8192, CodeDim: 32, Momentum: 0.99, Commitment: 1, Dead: 0.03}
}

// Patches returns the number of patches, and so of codes, of an image.
func (c *Config) Patches() int { return (c.ImageSize / c.Patch) * (c.ImageSize / c.Patch) }

// pixels returns the length of an image's row of pixels.
func (c *Config) pixels() int { return 3 * c.ImageSize * c.ImageSize }

// Validate reports what is wrong with c.
func (c *Config) Validate() error {
	for _, e := range [...]struct {
		name string
		v    int
	}{{"ImageSize", c.ImageSize}, {"Patch", c.Patch}, {"Dim", c.Dim}, {"Depth", c.Depth}, {"Heads", c.Heads},
		{"Hidden", c.Hidden}, {"DecoderDepth", c.DecoderDepth}, {"Codes", c.Codes}, {"CodeDim", c.CodeDim}} {
		if e.v <= 0 {
			return fmt.Errorf("visual: %s is %d, want a positive number", e.name, e.v)
		}
	}
	switch {
	case c.ImageSize%c.Patch != 0:
		return fmt.Errorf("visual: images of %d pixels do not divide into patches of %d", c.ImageSize, c.Patch)
	case c.Dim%c.Heads != 0:
		return fmt.Errorf("visual: %d columns do not divide into %d heads", c.Dim, c.Heads)
	case !(c.Momentum >= 0 && c.Momentum < 1):
		return fmt.Errorf("visual: momentum %v is not in [0, 1)", c.Momentum)
	case !(c.Commitment >= 0):
		return fmt.Errorf("visual: commitment weight %v is negative", c.Commitment)
	case !(c.Dead >= 0 && c.Dead < 1):
		return fmt.Errorf("visual: a code is dead below %v of the mean count, want a share in [0, 1)", c.Dead)
	}
	return nil
}

// Tokenizer is a visual tokenizer. Its parameters and its codebook live in
// Store. It is used by one goroutine at a time.
//
// The transformers have learned absolute positions and no [CLS]: every row is
// a patch. The codebook is four parameters that never get a gradient, so that
// the optimiser leaves them alone and a checkpoint keeps them:
// quantize.embedding.weight (the codes, unit vectors), quantize.cluster_size
// and quantize.embed_avg (moving averages of the rows a code stands for, their
// number and their sum) and quantize.initted (1 once there are codes).
type Tokenizer struct {
	Config
	Store *engine.Store

	patch           layers.Linear
	position        *engine.Param
	encoder         []*experts.Block
	norm            layers.LayerNorm
	hidden, code    layers.Linear
	codebook        *engine.Param // [codes, code dim]
	size, sum       *engine.Param // [codes], [codes, code dim]
	ready           *engine.Param // [1]
	expand          layers.Linear
	decoderPosition *engine.Param
	decoder         []*experts.Block
	decoderNorm     layers.LayerNorm
	out             layers.Linear

	train bool
	host  hostState
}

// New declares the parameters of a tokenizer and allocates them on dev, with
// room for gradients and moments if train is set. The values are zero until
// Init or a checkpoint sets them.
func New(dev kernels.Device, c Config, train bool) (*Tokenizer, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	st := engine.NewStore()
	t := &Tokenizer{Config: c, Store: st, train: train}
	d := c.Dim
	blocks := func(prefix string, depth int) (list []*experts.Block) {
		for i := range depth {
			list = append(list, experts.NewBlock(st, fmt.Sprintf("%s.blocks.%d", prefix, i), experts.Config{
				Dim: d, Heads: c.Heads, Hidden: c.Hidden, Eps: 1e-6,
				Experts: []experts.Modality{experts.Image}, Names: experts.PlainNames(),
			}))
		}
		return list
	}
	t.position = st.Add("encoder.pos_embed", 1, c.Patches(), d)
	t.patch = layers.Linear{Weight: st.Add("encoder.patch_embed.proj.weight", d, 3, c.Patch, c.Patch), Bias: st.Add("encoder.patch_embed.proj.bias", d)}
	t.encoder = blocks("encoder", c.Depth)
	t.norm = layers.NewLayerNorm(st, "encoder.norm", d, 1e-6)
	t.hidden = layers.NewLinear(st, "encode_task_layer.0", d, d, true)
	t.code = layers.NewLinear(st, "encode_task_layer.2", d, c.CodeDim, true)

	t.codebook = st.Add("quantize.embedding.weight", c.Codes, c.CodeDim)
	t.size = st.Add("quantize.cluster_size", c.Codes)
	t.sum = st.Add("quantize.embed_avg", c.Codes, c.CodeDim)
	t.ready = st.Add("quantize.initted", 1)

	t.decoderPosition = st.Add("decoder.pos_embed", 1, c.Patches(), d)
	t.expand = layers.NewLinear(st, "decoder.patch_embed.proj", c.CodeDim, d, true)
	t.decoder = blocks("decoder", c.DecoderDepth)
	t.decoderNorm = layers.NewLayerNorm(st, "decoder.norm", d, 1e-6)
	t.out = layers.NewLinear(st, "decode_task_layer.0", d, 3*c.Patch*c.Patch, true)

	for _, p := range st.Params() {
		p.Decay = len(p.Shape) > 1 && !strings.HasSuffix(p.Name, "pos_embed") && !isCodebook(p.Name)
	}
	return t, st.Build(dev, train)
}

func isCodebook(name string) bool { return strings.HasPrefix(name, "quantize.") }

// Init draws every parameter (normal 0.02, the patch embedding uniform in
// ±1/√fan-in, LayerNorm 1 and biases 0) and forgets the codes: the first
// training batch makes new ones.
func (t *Tokenizer) Init(seed uint64) {
	for i, p := range t.Store.Params() {
		src := rng.New(rng.Key{Seed: seed, Purpose: rng.Init, Sample: uint64(i)})
		v := make([]float32, p.Len())
		switch name := p.Name; {
		case isCodebook(name), strings.HasSuffix(name, "bias"):
		case strings.Contains(name, "norm"):
			for j := range v {
				v[j] = 1
			}
		case name == "encoder.patch_embed.proj.weight":
			bound := 1 / math.Sqrt(float64(3*t.Patch*t.Patch))
			for j := range v {
				v[j] = float32((2*src.Float64() - 1) * bound)
			}
		default:
			for j := range v {
				v[j] = float32(0.02 * src.Norm())
			}
		}
		t.Store.Set(p, v)
	}
	t.host.forget()
}
