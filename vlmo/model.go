package vlmo

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

// Model is a VLMo model. Its parameters live in Store under the official
// names (SPEC §9). It is used by one goroutine at a time.
type Model struct {
	Config
	Store *engine.Store

	// Savings are all on in a new model.
	Savings
	// DropPath is the rate of the last block (linear from 0) and the dropout
	// of the text embedding.
	DropPath float64

	word, textPos, textType *engine.Param
	textNorm                layers.LayerNorm
	types, cls, pos, mask   *engine.Param
	patch                   layers.Linear
	blocks                  []*experts.Block
	norm                    layers.LayerNorm

	pooler     layers.Linear
	mlm        layers.Transform
	decoder    layers.Linear
	itm        layers.Linear
	proj       [2][2]layers.Linear // [branch][text, image]
	scale      [2]*engine.Param
	vqa, nlvr2 layers.Classifier
	codes      layers.Linear

	host hostLists
}

// Savings are ways to compute or to keep less. They change no result but for
// the rounding of sums that are added up in another order.
type Savings struct {
	// TopRows computes, in the last block, only the rows that a head reads.
	TopRows bool
	// DropRows leaves the rows of a sample out of a branch whose path is
	// dropped, instead of multiplying its result by 0.
	DropRows bool
	// Distinct embeds an image or a text that occurs several times in a phase
	// once, and so takes it to the first block's Q, K and V.
	Distinct bool
	// Recompute keeps no norms and no activations of experts, but computes
	// them again in the backward pass.
	Recompute bool
	// PackWeights lays weights out for products when they have changed and not
	// at every use. It takes their memory again, and in training, where they
	// are used in two ways, twice.
	PackWeights bool
}

// AllSavings has all of them on but PackWeights, which pays where a step has
// few rows, as in embedding texts.
var AllSavings = Savings{TopRows: true, DropRows: true, Distinct: true, Recompute: true}

// New declares the parameters of a model and allocates them on dev, with room
// for gradients and moments if train is set. The values are zero until Init
// or a checkpoint sets them.
func New(dev kernels.Device, c Config, train bool) (*Model, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	st := engine.NewStore()
	m := &Model{Config: c, Store: st, Savings: AllSavings}
	st.Compute = c.Compute
	d := c.Dim

	var table *engine.Param
	if !c.Absolute {
		table = st.Add("relative_position_bias_table", c.BiasRows(), c.Depth*c.Heads)
	}
	if c.With.ITC || c.With.RetrievalScale {
		m.scale[0] = st.Add("logit_scale")
	}
	if c.With.ITC {
		m.scale[1] = st.Add("logit_vl_scale")
	}
	m.cls = st.Add("transformer.cls_token", 1, 1, d)
	if c.Absolute {
		m.pos = st.Add("transformer.pos_embed", 1, 1+c.Patches(), d)
	}
	if c.With.Codes > 0 {
		m.mask = st.Add("mask_token", 1, 1, d)
	}
	m.patch = layers.Linear{Weight: st.Add("transformer.patch_embed.proj.weight", d, 3, c.Patch, c.Patch), Bias: st.Add("transformer.patch_embed.proj.bias", d)}
	for i := range c.Depth {
		ex := []experts.Modality{experts.Text, experts.Image}
		if i >= c.VLStart {
			ex = append(ex, experts.VisionLanguage)
		}
		b := experts.NewBlock(st, fmt.Sprintf("transformer.blocks.%d", i), experts.Config{
			Dim: d, Heads: c.Heads, Hidden: c.Hidden, LayerScale: c.LayerScale, Eps: 1e-6,
			Experts: ex, Names: experts.VLMoNames(), Compute: c.Compute,
		})
		b.Table, b.Column = table, i*c.Heads
		m.blocks = append(m.blocks, b)
	}
	m.norm = layers.NewLayerNorm(st, "transformer.norm", d, 1e-6)
	m.word = st.Add("text_embeddings.word_embeddings.weight", c.Vocab, d)
	m.textPos = st.Add("text_embeddings.position_embeddings.weight", c.MaxText, d)
	m.textType = st.Add("text_embeddings.token_type_embeddings.weight", 2, d)
	m.textNorm = layers.NewLayerNorm(st, "text_embeddings.LayerNorm", d, 1e-12)
	m.types = st.Add("token_type_embeddings.weight", c.TokenTypes, d)

	w := c.With
	if w.Pooler || w.ITM || w.VQA > 0 || w.NLVR2 {
		m.pooler = layers.NewLinear(st, "pooler.dense", d, d, true)
	}
	if w.MLM {
		m.mlm = layers.Transform{Dense: layers.NewLinear(st, "mlm_score.transform.dense", d, d, true),
			Norm: layers.NewLayerNorm(st, "mlm_score.transform.LayerNorm", d, 1e-12)}
		m.decoder = layers.Linear{Weight: st.Add("mlm_score.decoder.weight", c.Vocab, d), Bias: st.Add("mlm_score.bias", c.Vocab)}
	}
	if w.ITM {
		m.itm = layers.NewLinear(st, "itm_score.fc", d, 2, true)
	}
	if w.ITC || w.RetrievalScale {
		m.proj[0] = [2]layers.Linear{layers.NewLinear(st, "itc_text_proj.fc", d, d, false), layers.NewLinear(st, "itc_image_proj.fc", d, d, false)}
	}
	if w.ITC {
		m.proj[1] = [2]layers.Linear{layers.NewLinear(st, "itc_vl_text_proj.fc", d, d, false), layers.NewLinear(st, "itc_vl_image_proj.fc", d, d, false)}
	}
	if w.VQA > 0 {
		m.vqa = layers.NewClassifier(st, "vqa_classifier", d, 2*d, w.VQA)
	}
	if w.NLVR2 {
		m.nlvr2 = layers.NewClassifier(st, "nlvr2_classifier", 2*d, 2*d, 2)
	}
	if w.Codes > 0 {
		m.codes = layers.NewLinear(st, "lm_head", d, w.Codes, true)
	}
	for _, p := range st.Params() {
		p.Decay = Decayed(p.Name)
	}
	return m, st.Build(dev, train)
}

// Decayed reports whether the original applies weight decay to a parameter:
// not where the name contains one of five substrings (SPEC §8), so that γ's,
// the experts' norms, the class token and the logit scales are decayed.
func Decayed(name string) bool {
	for _, s := range [...]string{"bias", "LayerNorm.weight", "norm.weight", "norm1.weight", "norm2.weight"} {
		if strings.Contains(name, s) {
			return false
		}
	}
	return true
}

// Init sets every parameter as SPEC §8 says ("Init").
func (m *Model) Init(seed uint64) {
	std := m.InitStd
	if std == 0 {
		std = 0.02
	}
	buf := make([]float32, initPiece)
	zero := func(v []float32) { clear(v) }
	for i, p := range m.Store.Params() {
		src := rng.New(rng.Key{Seed: seed, Purpose: rng.Init, Sample: uint64(i)})
		draw := func(v []float32) {
			for j := range v {
				v[j] = float32(std * src.Norm())
			}
		}
		switch name := p.Name; {
		case name == "relative_position_bias_table":
			draw = zero
		case strings.HasPrefix(name, "logit_"):
			draw = func(v []float32) { fill(v, float32(math.Log(1/0.07))) }
		case strings.Contains(name, ".gamma_"):
			draw = func(v []float32) { fill(v, m.LayerScaleInit) }
		case name == "transformer.patch_embed.proj.bias", name == "transformer.patch_embed.proj.weight":
			// Kaiming uniform with a = √5 is uniform in ±1/√fan-in.
			draw = func(v []float32) { uniform(v, &src, 1/math.Sqrt(float64(3*m.Patch*m.Patch))) }
		case strings.HasSuffix(name, "bias"):
			draw = zero
		case isNorm(name):
			draw = func(v []float32) { fill(v, 1) }
		}
		for lo := 0; lo < p.Len(); lo += initPiece {
			v := buf[:min(initPiece, p.Len()-lo)]
			draw(v)
			m.Store.SetPart(p, lo, v)
		}
	}
}

// initPiece is how many values are drawn at a time: all of an embedding's
// would stay in memory for a step that needs it.
const initPiece = 1 << 18

func isNorm(name string) bool {
	return strings.Contains(name, "norm") || strings.Contains(name, "LayerNorm") || strings.Contains(name, "classifier.1.")
}

func fill(v []float32, x float32) {
	for i := range v {
		v[i] = x
	}
}

func uniform(v []float32, src *rng.Source, bound float64) {
	for i := range v {
		v[i] = float32((2*src.Float64() - 1) * bound)
	}
}
