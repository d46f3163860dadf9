package visual

import (
	"fmt"

	"vlmo-train/engine"
	"vlmo-train/experts"
	"vlmo-train/kernels"
	"vlmo-train/layers"
	"vlmo-train/weights"
)

// Distilled is BEiT v2's tokenizer as it was published (VQ-KD): a vision
// transformer with a class token, which has no code, a normalisation after it
// and two layers to the width of a code. Only the encoder and the codes are
// read.
type Distilled struct {
	Config
	Store *engine.Store

	tokenizer Tokenizer // lends nearest
	cls, pos  *engine.Param
	patch     layers.Linear
	blocks    []*experts.Block
	norm      layers.LayerNorm
	hidden    layers.Linear
	code      layers.Linear
}

func newDistilled(dev kernels.Device, f *weights.File, want Config) (*Distilled, error) {
	proj, err := shapeOf(f, "encoder.patch_embed.proj.weight", 4)
	if err != nil {
		return nil, err
	}
	pos, err := shapeOf(f, "encoder.pos_embed", 3)
	if err != nil {
		return nil, err
	}
	codes, err := shapeOf(f, "quantize.embedding.weight", 2)
	if err != nil {
		return nil, err
	}
	fc1, err := shapeOf(f, "encoder.blocks.0.mlp.fc1.weight", 2)
	if err != nil {
		return nil, err
	}
	c := Config{ImageSize: want.ImageSize, Patch: proj[2], Dim: proj[0], Hidden: fc1[0], Codes: codes[0], CodeDim: codes[1]}
	for f.Has(fmt.Sprintf("encoder.blocks.%d.norm1.weight", c.Depth)) {
		c.Depth++
	}
	// The shapes do not tell the heads: the published sizes have 64 columns
	// each. A width that is no multiple has those of the configuration.
	if c.Heads = c.Dim / 64; c.Dim%64 != 0 {
		c.Heads = want.Heads
	}
	switch {
	case c.Patch != want.Patch || pos[1] != 1+want.Patches():
		return nil, fmt.Errorf("a tokenizer of patches of %d pixels, %d to an image; the configuration has patches of %d, %d to an image", c.Patch, pos[1]-1, want.Patch, want.Patches())
	case c.Codes != want.Codes:
		return nil, fmt.Errorf("a tokenizer of %d codes, the configuration has %d", c.Codes, want.Codes)
	case c.Heads == 0 || c.Dim%c.Heads != 0:
		return nil, fmt.Errorf("%d columns do not divide into %d heads", c.Dim, c.Heads)
	}
	st := engine.NewStore()
	d := c.Dim
	t := &Distilled{Config: c, Store: st}
	t.cls = st.Add("encoder.cls_token", 1, 1, d)
	t.pos = st.Add("encoder.pos_embed", 1, 1+c.Patches(), d)
	t.patch = layers.Linear{Weight: st.Add("encoder.patch_embed.proj.weight", d, 3, c.Patch, c.Patch), Bias: st.Add("encoder.patch_embed.proj.bias", d)}
	for i := range c.Depth {
		t.blocks = append(t.blocks, experts.NewBlock(st, fmt.Sprintf("encoder.blocks.%d", i), experts.Config{
			Dim: d, Heads: c.Heads, Hidden: c.Hidden, Eps: 1e-6, LayerScale: f.Has("encoder.blocks.0.gamma_1"),
			Experts: []experts.Modality{experts.Image}, Names: experts.PlainNames(),
		}))
	}
	name := "encoder.fc_norm"
	if !f.Has(name + ".weight") {
		name = "encoder.norm"
	}
	t.norm = layers.NewLayerNorm(st, name, d, 1e-6)
	t.hidden = layers.NewLinear(st, "encode_task_layer.0", d, d, true)
	t.code = layers.NewLinear(st, "encode_task_layer.2", d, c.CodeDim, true)
	t.tokenizer = Tokenizer{Config: c, Store: st, codebook: st.Add("quantize.embedding.weight", c.Codes, c.CodeDim)}
	if err := st.Build(dev, false); err != nil {
		return nil, err
	}
	return t, load(st, f)
}

// Codes implements Coder. The codes of an image do not depend on the others.
func (t *Distilled) Codes(s *engine.Step, pixels kernels.Tensor) ([]int32, error) {
	if err := t.check(pixels); err != nil {
		return nil, err
	}
	defer evaluate(s)()
	p, n := t.Patches(), pixels.Rows
	codes := make([]int32, n*p)
	for lo := 0; lo < n; lo += chunk {
		hi := min(lo+chunk, n)
		m := s.Arena.Mark()
		z, err := t.encode(s, pixels.Slice(lo, hi))
		if err != nil {
			return nil, err
		}
		index := s.Arena.Tensor(kernels.I32, 1, z.Rows)
		t.tokenizer.nearest(s, z, index)
		s.Dev.Read(codes[lo*p:hi*p], index)
		s.Arena.Release(m)
	}
	return codes, s.Err()
}

// encode returns a unit vector for each patch, [n·patches, code dim].
func (t *Distilled) encode(s *engine.Step, pixels kernels.Tensor) (kernels.Tensor, error) {
	p, n := t.Patches(), pixels.Rows
	rows := n * (1 + p)
	proj := t.patch.Apply(s, layers.Node{X: layers.Patches(s, pixels, t.ImageSize, t.Patch)})
	from, cls, pos, back := make([]int32, rows), make([]int32, rows), make([]int32, rows), make([]int32, 0, n*p)
	pass := experts.Pass{FFN: experts.FFNRows{Route: []experts.Span{{Expert: experts.Image, Lo: 0, Hi: rows}}}, Recompute: true}
	for i := range rows {
		image, k := i/(1+p), i%(1+p)
		from[i], cls[i], pos[i] = int32(image*p+k-1), -1, int32(k)
		if k == 0 {
			from[i], cls[i] = -1, 0
			pass.Attention.Sequences = append(pass.Attention.Sequences, kernels.Sequence{ImageOff: i, ImageLen: 1 + p})
		} else {
			back = append(back, int32(i))
		}
	}
	x := layers.NewNode(s, rows, t.Dim)
	engine.Run(s, kernels.Gather{Table: proj.X, Index: s.Indices(from), Y: x.X})
	layers.Lookup(s, t.cls, s.Indices(cls), x)
	layers.Lookup(s, t.pos, s.Indices(pos), x)
	x, err := experts.Run(s, t.blocks, x, rows, func(int) experts.Pass { return pass })
	if err != nil {
		return kernels.Tensor{}, err
	}
	patches := layers.NewNode(s, n*p, t.Dim)
	engine.Run(s, kernels.Gather{Table: x.X, Index: s.Indices(back), Y: patches.X})
	h := t.hidden.Apply(s, t.norm.Apply(s, patches))
	return layers.Normalize(s, t.code.Apply(s, layers.Tanh(s, h))).X, nil
}
