package visual

import (
	"fmt"
	"slices"

	"vlmo-train/engine"
	"vlmo-train/kernels"
	"vlmo-train/weights"
)

// Coder turns the patches of images into codes. A Tokenizer is one, and so
// are the published tokenizers that Open reads.
type Coder interface {
	// Codes returns the codes of images, pixels [n, 3·size·size] as in
	// layers.Patches: n times the patches of an image, in row order. It records
	// nothing and gives back the memory that it takes from the step.
	Codes(s *engine.Step, pixels kernels.Tensor) ([]int32, error)
}

// Open reads the visual tokenizer at path, of any format that weights.Open
// knows: one that was trained here, of shape c; BEiT v2's (VQ-KD); or DALL-E's
// encoder. Its codes are for images of c.ImageSize cut into patches of
// c.Patch, and c.Codes in number. It is for inference.
func Open(dev kernels.Device, path string, c Config) (Coder, error) {
	f, err := weights.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var coder Coder
	switch {
	case f.Has("blocks.input.w") && f.Has("blocks.output.conv.w"):
		coder, err = newDALLE(dev, f, c)
	case f.Has("encoder.cls_token"):
		coder, err = newDistilled(dev, f, c)
	default:
		coder, err = newTrained(dev, f, c)
	}
	if err != nil {
		return nil, fmt.Errorf("visual: %s: %w", path, err)
	}
	return coder, nil
}

func newTrained(dev kernels.Device, f *weights.File, c Config) (Coder, error) {
	t, err := New(dev, c, false)
	if err == nil {
		err = load(t.Store, f)
	}
	if err != nil {
		return nil, err
	}
	return t, nil
}

// load sets every parameter of st from the tensor of its name.
func load(st *engine.Store, f *weights.File) error {
	for _, p := range st.Params() {
		if !f.Has(p.Name) {
			return fmt.Errorf("no tensor %q: is it a visual tokenizer?", p.Name)
		}
		v, shape, err := f.Float32(p.Name)
		if err != nil {
			return err
		}
		if !slices.Equal(shape, p.Shape) {
			return fmt.Errorf("%s has shape %v, the configuration wants %v", p.Name, shape, p.Shape)
		}
		st.Set(p, v)
	}
	return nil
}

// shapeOf returns a tensor's shape, which must have so many sizes.
func shapeOf(f *weights.File, name string, dims int) ([]int, error) {
	_, shape, err := f.Info(name)
	if err == nil && len(shape) != dims {
		err = fmt.Errorf("%s has shape %v, want %d sizes", name, shape, dims)
	}
	return shape, err
}
