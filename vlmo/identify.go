package vlmo

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"vlmo-train/weights"
)

// Family is whose names a file's tensors have.
type Family string

// Families that Identify knows.
const (
	VLMo            Family = "VLMo"
	BEiT            Family = "BEiT"
	HuggingFaceBEiT Family = "BEiT (Hugging Face)"
	VQKD            Family = "VQ-KD tokenizer"
	DALLE           Family = "DALL-E encoder"
	Unknown         Family = "unknown"
)

// Identity says what a file of weights is.
type Identity struct {
	Family Family
	// Model is the published size: "base", "base_plus" or "large"; "" for another.
	Model string
	// Task is what the heads are of, such as "pre-training" or "VQA"; "" without heads.
	Task string
	// Config is what the shapes tell; fields that they do not are zero.
	// Of a VLMo file without index buffers MaxTextInit is a guess, see Guessed.
	Config Config
	// Guessed tells that MaxTextInit, and with it ImageSize, fit the relative
	// position table but that other pairs fit as well.
	Guessed bool
}

// String describes the file in a line.
func (id Identity) String() string {
	s := string(id.Family)
	switch {
	case id.Model != "":
		s += " " + strings.ReplaceAll(id.Model, "_plus", "+")
	case id.Config.Dim > 0 && id.Config.Depth > 0:
		s += fmt.Sprintf(" of %d blocks of width %d", id.Config.Depth, id.Config.Dim)
	}
	if id.Config.ImageSize > 0 {
		s += fmt.Sprintf(" at %d pixels", id.Config.ImageSize)
	}
	if id.Task != "" {
		s += ", " + id.Task
	}
	return s
}

// IdentifyFile identifies an open file.
func IdentifyFile(f *weights.File) (Identity, error) {
	shapes := map[string][]int{}
	for _, name := range f.Names() {
		_, shape, err := f.Info(name)
		if err != nil {
			return Identity{}, err
		}
		shapes[name] = shape
	}
	id := Identify(shapes)
	// The text index tells T0, whatever the image size.
	const text, image = "text_relative_position_index", "relative_position_index"
	usable := func(name string) bool {
		dtype, shape, err := f.Info(name)
		return err == nil && dtype == "I64" && len(shape) == 2 && shape[0] == shape[1] && shape[0] > 1
	}
	if id.Family == VLMo && id.Guessed && usable(text) && usable(image) {
		v, _, err := f.Int64(text)
		if err != nil {
			return Identity{}, err
		}
		i, _, err := f.Int64(image)
		if err != nil {
			return Identity{}, err
		}
		n := shapes[text][0]
		w := int(math.Round(math.Sqrt(float64(shapes[image][0] - 1))))
		// Row R + T0 is a word's with itself, R the row after the last of image pairs.
		if t0 := v[n+1] - i[0] - 1; t0 > 0 && t0 < 1<<20 {
			c := id.Config
			c.MaxTextInit, c.ImageSize = int(t0), w*c.Patch
			if table := shapes[biasTable]; c.BiasRows() == table[0] {
				id.Config, id.Guessed = c, false
			}
		}
	}
	return id, nil
}

// Identify tells from names and shapes what the tensors are.
func Identify(shapes map[string][]int) Identity {
	s := shapesOf(shapes)
	switch {
	case s.has("transformer.blocks.0.attn.qkv.weight"):
		return s.vlmo()
	case s.has("blocks.0.attn.qkv.weight"):
		return s.beit()
	case s.has("beit.encoder.layer.0.output.dense.weight"):
		return s.huggingFace("beit.")
	case s.has("encoder.layer.0.output.dense.weight") && s.has("embeddings.patch_embeddings.projection.weight"):
		return s.huggingFace("")
	case s.has("quantize.embedding.weight") && s.has("encoder.blocks.0.attn.qkv.weight"):
		id := Identity{Family: VQKD}
		id.Config = s.backbone("encoder.", "blocks.", "mlp.fc1.weight")
		id.Config.With.Codes = s.dim("quantize.embedding.weight", 0)
		id.Config.ImageSize = s.absoluteSize("encoder.pos_embed", id.Config.Patch)
		id.Model = published(&id.Config)
		id.Task = fmt.Sprintf("%d codes of %d", id.Config.With.Codes, s.dim("quantize.embedding.weight", 1))
		return id
	case s.has("blocks.input.w") && s.has("blocks.output.conv.w"):
		id := Identity{Family: DALLE}
		id.Config.With.Codes = s.dim("blocks.output.conv.w", 0)
		id.Task = fmt.Sprintf("%d codes", id.Config.With.Codes)
		return id
	}
	return Identity{Family: Unknown}
}

type shapesOf map[string][]int

func (s shapesOf) has(name string) bool { _, ok := s[name]; return ok }

// dim returns a size of a tensor, 0 if there is none.
func (s shapesOf) dim(name string, i int) int {
	if shape := s[name]; i < len(shape) {
		return shape[i]
	}
	return 0
}

// backbone reads the sizes of a transformer whose names start with prefix,
// and whose blocks are prefix+blocks+number.
func (s shapesOf) backbone(prefix, blocks, fc1 string) (c Config) {
	c.Dim = s.dim(prefix+"cls_token", 2)
	c.Patch = s.dim(prefix+"patch_embed.proj.weight", 2)
	if c.Dim == 0 {
		c.Dim = s.dim(prefix+"patch_embed.proj.weight", 0)
	}
	c.Hidden = s.dim(prefix+blocks+"0."+fc1, 0)
	for name := range s {
		if rest, ok := strings.CutPrefix(name, prefix+blocks); ok {
			number, _, _ := strings.Cut(rest, ".")
			if i, err := strconv.Atoi(number); err == nil && i >= c.Depth && i < 1<<16 {
				c.Depth = i + 1
			}
		}
	}
	c.LayerScale = s.has(prefix + blocks + "0.gamma_1")
	c.VLStart = c.Depth
	return c
}

// heads sets the heads of a model without relative bias, whose shapes do not
// tell: those of the published sizes, else 64 columns each.
func heads(c *Config) {
	switch {
	case c.Heads > 0:
	case c.Dim == 544:
		c.Heads = 16
	case c.Dim%64 == 0:
		c.Heads = c.Dim / 64
	}
}

// published names a published size.
func published(c *Config) string {
	switch {
	case c.Dim == 768 && c.Depth == 12:
		return "base"
	case c.Dim == 544 && c.Depth == 24:
		return "base_plus"
	case c.Dim == 1024 && c.Depth == 24:
		return "large"
	}
	return ""
}

// absoluteSize returns the image size of a position table with a class row.
func (s shapesOf) absoluteSize(name string, patch int) int {
	n := s.dim(name, 1) - 1
	if w := int(math.Round(math.Sqrt(float64(max(n, 0))))); w > 0 && w*w == n {
		return w * patch
	}
	return 0
}

func (s shapesOf) vlmo() Identity {
	id := Identity{Family: VLMo}
	c := s.backbone("transformer.", "blocks.", "mlp_imag.fc1.weight")
	for i := c.Depth - 1; i >= 0 && s.has(fmt.Sprintf("transformer.blocks.%d.mlp_vl.fc1.weight", i)); i-- {
		c.VLStart = i
	}
	c.Vocab, c.MaxText = s.dim("text_embeddings.word_embeddings.weight", 0), s.dim(textPosTable, 0)
	c.TokenTypes = s.dim(tokenTypes, 0)
	c.Absolute = s.has(posEmbed) && !s.has(biasTable)
	if c.Absolute {
		c.ImageSize = s.absoluteSize(posEmbed, c.Patch)
	} else if c.Depth > 0 {
		c.Heads = s.dim(biasTable, 1) / c.Depth
		c.MaxTextInit, c.ImageSize = s.layout(c.Patch, c.MaxText)
		id.Guessed = c.ImageSize > 0
	}
	heads(&c)
	w := &c.With
	w.MLM, w.ITM, w.Pooler = s.has("mlm_score.bias"), s.has("itm_score.fc.weight"), s.has("pooler.dense.weight")
	w.ITC = s.has("itc_vl_text_proj.fc.weight")
	w.RetrievalScale = s.has("itc_text_proj.fc.weight") && !w.ITC
	w.VQA, w.NLVR2 = s.dim("vqa_classifier.3.weight", 0), s.has("nlvr2_classifier.3.weight")
	w.Codes = s.dim("lm_head.weight", 0)
	switch {
	case w.VQA > 0:
		id.Task = fmt.Sprintf("fine-tuned for VQA (%d answers)", w.VQA)
	case w.NLVR2:
		id.Task = "fine-tuned for NLVR2"
	case w.RetrievalScale:
		id.Task = "fine-tuned for retrieval"
	case w.ITC || w.ITM:
		id.Task = "vision-language pre-training"
	case w.MLM:
		id.Task = "text pre-training"
	case w.Codes > 0:
		id.Task = "image pre-training"
	}
	id.Config, id.Model = c, published(&c)
	return id
}

// layout finds T0 and the image size that make the rows of the relative
// position table: T0 = 196, that of the released models, where it fits, else
// the largest image whose T0 holds the text length.
func (s shapesOf) layout(patch, maxText int) (t0, size int) {
	rows := s.dim(biasTable, 0) - 5
	edge := func(t0 int) int {
		e, err := side(rows - 2*t0)
		if err != nil || t0 < maxText {
			return 0
		}
		return e
	}
	const released = 196
	if e := edge(released); e >= 3 {
		return released, (e + 1) / 2 * patch
	}
	for t0 := maxText; 2*t0 < rows; t0++ {
		if e := edge(t0); e >= 3 {
			return t0, (e + 1) / 2 * patch
		}
	}
	return 0, 0
}

func (s shapesOf) beit() Identity {
	id := Identity{Family: BEiT}
	c := s.backbone("", "blocks.", "mlp.fc1.weight")
	table := "blocks.0.attn." + biasTable
	if !s.has(table) {
		table = "rel_pos_bias." + biasTable
	}
	c.Heads = s.dim(table, 1)
	if e, err := side(s.dim(table, 0) - 3); err == nil {
		c.ImageSize = (e + 1) / 2 * c.Patch
	}
	if s.has("pos_embed") {
		c.Absolute = !s.has(table)
		c.ImageSize = s.absoluteSize("pos_embed", c.Patch)
	}
	heads(&c)
	c.With.Codes = s.dim("lm_head.weight", 0)
	switch {
	case c.With.Codes > 0:
		id.Task = fmt.Sprintf("masked image modelling (%d codes)", c.With.Codes)
	case s.has("head.weight"):
		id.Task = fmt.Sprintf("fine-tuned for classification (%d classes)", s.dim("head.weight", 0))
	}
	id.Config, id.Model = c, published(&c)
	return id
}

// huggingFace identifies a BEiT by the shapes under its own names.
func (s shapesOf) huggingFace(prefix string) Identity {
	own := shapesOf{}
	for name, shape := range s {
		short := strings.TrimPrefix(name, prefix)
		if after, ok := strings.CutPrefix(short, "encoder.layer."); ok {
			number, rest, _ := strings.Cut(after, ".")
			own["blocks."+number+"."+hfBlock[rest]] = shape
		} else if known, ok := hfOutside[short]; ok {
			own[known] = shape
		} else {
			own[short] = shape
		}
	}
	id := own.beit()
	id.Family = HuggingFaceBEiT
	return id
}
