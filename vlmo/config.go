// Package vlmo is the model: its configuration, embeddings, forward modes,
// heads and objectives, under the official state-dict names.
package vlmo

import (
	"fmt"

	"vlmo-train/kernels"
)

// Config is the shape of a model (SPEC §1).
type Config struct {
	ImageSize int // pixels along an edge
	Patch     int // pixels along a patch's edge
	Dim       int
	Depth     int
	Heads     int
	Hidden    int // width of the experts; 4·Dim in the paper
	VLStart   int // first block with a vision-language expert; Depth: none
	Vocab     int
	MaxText   int // rows of the text position table
	// MaxTextInit is max_text_len_of_initckpt: the text length that the
	// relative position table was laid out for (SPEC §4).
	MaxTextInit int
	Absolute    bool // absolute positions instead of relative bias
	LayerScale  bool
	// LayerScaleInit is γ's initial value.
	LayerScaleInit float32
	// InitStd is the deviation of fresh weights; 0 means 0.02 (SPEC §8).
	InitStd    float64
	TokenTypes int // rows of token_type_embeddings: 2, or 3 for NLVR2
	With       HeadSet
	// Compute is the type of the blocks' activations and products, F32 or
	// BF16. Embeddings, hidden states and heads are F32 always.
	Compute kernels.DType
}

// HeadSet says which heads a model carries.
type HeadSet struct {
	MLM, ITC, ITM  bool
	Pooler         bool // implied by ITM, VQA, NLVR2
	VQA            int  // answers; 0: no head
	NLVR2          bool
	Codes          int  // visual codes of masked image modelling; 0: no head
	RetrievalScale bool // logit_scale alone, as in retrieval fine-tuning
}

// Window returns the patches along an edge of the image.
func (c *Config) Window() int { return c.ImageSize / c.Patch }

// Patches returns the patches of an image.
func (c *Config) Patches() int { return c.Window() * c.Window() }

// BiasRows returns the rows of the relative position table (SPEC §4).
func (c *Config) BiasRows() int {
	w := 2*c.Window() - 1
	return w*w + 3 + 2*c.MaxTextInit + 2
}

// Validate says what is wrong with the configuration.
func (c *Config) Validate() error {
	switch {
	case c.Patch <= 0 || c.ImageSize <= 0 || c.ImageSize%c.Patch != 0:
		return fmt.Errorf("vlmo: image size %d is no multiple of patch size %d", c.ImageSize, c.Patch)
	case c.Dim <= 0 || c.Heads <= 0 || c.Dim%c.Heads != 0:
		return fmt.Errorf("vlmo: dim %d does not divide into %d heads", c.Dim, c.Heads)
	case c.Hidden <= 0:
		return fmt.Errorf("vlmo: hidden width %d of the experts", c.Hidden)
	case c.Depth <= 0:
		return fmt.Errorf("vlmo: depth %d", c.Depth)
	case c.VLStart < 1 || c.VLStart > c.Depth:
		return fmt.Errorf("vlmo: the vision-language experts start at block %d, want 1 to depth (%d, none)", c.VLStart, c.Depth)
	case c.Vocab <= 0:
		return fmt.Errorf("vlmo: vocabulary of %d", c.Vocab)
	case c.MaxText < 2:
		return fmt.Errorf("vlmo: text length %d has no room for [CLS] and [SEP]", c.MaxText)
	case !c.Absolute && c.MaxTextInit < c.MaxText:
		return fmt.Errorf("vlmo: text length %d exceeds that of the relative position table, %d", c.MaxText, c.MaxTextInit)
	case c.Compute != kernels.F32 && c.Compute != kernels.BF16:
		return fmt.Errorf("vlmo: activations of type %v, want f32 or bf16", c.Compute)
	case c.TokenTypes < 2:
		return fmt.Errorf("vlmo: %d token types, want 2 or 3", c.TokenTypes)
	case c.With.NLVR2 && c.TokenTypes < 3:
		return fmt.Errorf("vlmo: NLVR2 needs 3 token types, not %d", c.TokenTypes)
	}
	return nil
}
