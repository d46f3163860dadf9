package visual

import (
	"fmt"

	"vlmo-train/engine"
	"vlmo-train/experts"
	"vlmo-train/kernels"
	"vlmo-train/layers"
)

// Losses are weighted losses on the device, [1, 1] each.
type Losses struct {
	// Reconstruction is the mean squared error of the pixels.
	Reconstruction kernels.Tensor
	// Commitment is β times the mean squared error between what the encoder
	// says and the code that replaces it.
	Commitment kernels.Tensor
}

// Values reads the losses.
func (l *Losses) Values(dev kernels.Device) (reconstruction, commitment float64) {
	var r, c [1]float32
	dev.Read(r[:], l.Reconstruction)
	dev.Read(c[:], l.Commitment)
	return float64(r[0]), float64(c[0])
}

// Train runs the forward pass on a batch of images, pixels [images,
// 3·size·size] as in layers.Patches. In a training step it records the backward pass and
// adds the batch to what the next UpdateCodebook takes in; the first batch
// makes the codebook. Otherwise the losses are those of a validation batch.
// Train waits for the device.
//
// The code takes the place of the encoder's result, whose gradient is that of
// the code (straight-through) and the commitment loss's.
func (t *Tokenizer) Train(s *engine.Step, pixels kernels.Tensor) (l Losses, err error) {
	if err := t.check(pixels); err != nil {
		return l, err
	}
	if s.Train && !t.train {
		return l, fmt.Errorf("visual: a training step with a tokenizer that has no room for gradients")
	}
	ready, err := t.isReady(s)
	if err != nil {
		return l, err
	}
	if !ready && !s.Train {
		return l, errNoCodes
	}
	patches := layers.Patches(s, pixels, t.ImageSize, t.Patch)
	z, err := t.encode(s, patches)
	if err != nil {
		return l, err
	}
	if !ready {
		if err := t.cluster(s, z.X); err != nil {
			return l, err
		}
	}
	index := s.Arena.Tensor(kernels.I32, 1, z.X.Rows)
	t.nearest(s, z.X, index)

	q := layers.NewNode(s, z.X.Rows, t.CodeDim)
	engine.Run(s, kernels.Gather{Table: t.codebook.Value, Index: index, Y: q.X})
	l.Commitment = s.Zeros(1, 1)
	engine.Run(s, kernels.SquaredError{X: z.X, Target: q.X, Weight: t.Commitment / float32(z.X.Len()), Loss: l.Commitment, DX: z.G})
	engine.Push(s, straightThrough{z, q})

	y, err := t.decode(s, q)
	if err != nil {
		return l, err
	}
	l.Reconstruction = s.Zeros(1, 1)
	engine.Run(s, kernels.SquaredError{X: y.X, Target: patches, Weight: 1 / float32(y.X.Len()), Loss: l.Reconstruction, DX: y.G})
	if s.Train {
		if err := t.observe(s, z.X, index); err != nil {
			return l, err
		}
	}
	return l, s.Err()
}

// straightThrough passes the gradient of the code q on to the encoder's
// result z, whose gradient already holds the commitment loss's.
type straightThrough struct{ z, q layers.Node }

func (r *straightThrough) Backward(s *engine.Step) {
	engine.Run(s, kernels.AddScaled{X: r.q.G, Y: r.z.G, Alpha: 1})
}

// check wants pixels to be images of the configuration's size.
func (c *Config) check(pixels kernels.Tensor) error {
	if pixels.Rows == 0 || pixels.Cols != c.pixels() {
		return fmt.Errorf("visual: %d rows of %d pixel values are no images of 3×%d×%d", pixels.Rows, pixels.Cols, c.ImageSize, c.ImageSize)
	}
	return nil
}

// encode returns a unit vector for each patch, [rows, code dim].
func (t *Tokenizer) encode(s *engine.Step, patches kernels.Tensor) (layers.Node, error) {
	x, err := t.transform(s, t.patch.Apply(s, layers.Node{X: patches}), t.position, t.encoder)
	if err != nil {
		return x, err
	}
	x = t.hidden.Apply(s, t.norm.Apply(s, x))
	return layers.Normalize(s, t.code.Apply(s, layers.Tanh(s, x))), nil
}

// decode returns the pixels of each patch, [rows, 3·patch²], from codes.
func (t *Tokenizer) decode(s *engine.Step, q layers.Node) (layers.Node, error) {
	x, err := t.transform(s, t.expand.Apply(s, q), t.decoderPosition, t.decoder)
	if err != nil {
		return x, err
	}
	return t.out.Apply(s, t.decoderNorm.Apply(s, x)), nil
}

// transform adds the positions to x and runs the blocks, each image by itself.
func (t *Tokenizer) transform(s *engine.Step, x layers.Node, position *engine.Param, blocks []*experts.Block) (layers.Node, error) {
	rows := x.X.Rows
	layers.Lookup(s, position, s.Indices(t.host.positions(rows, t.Patches())), x)
	p := experts.Pass{
		Attention: experts.AttentionRows{Sequences: t.host.sequences(rows, t.Patches())},
		FFN:       experts.FFNRows{Route: []experts.Span{{Expert: experts.Image, Lo: 0, Hi: rows}}},
		Recompute: true,
	}
	return experts.Run(s, blocks, x, rows, func(int) experts.Pass { return p })
}

// chunk is how many images the evaluation takes at a time, which bounds its
// memory and changes no result.
const chunk = 32

// Codes implements Coder: Patches codes for each image, in row order. It may be called in the midst of a training step,
// records nothing and gives back the memory it takes from the step. The codes
// of an image do not depend on the others.
func (t *Tokenizer) Codes(s *engine.Step, pixels kernels.Tensor) ([]int32, error) {
	if err := t.check(pixels); err != nil {
		return nil, err
	}
	if ready, err := t.isReady(s); err != nil {
		return nil, err
	} else if !ready {
		return nil, errNoCodes
	}
	defer evaluate(s)()
	p, n := t.Patches(), pixels.Rows
	codes := make([]int32, n*p)
	for lo := 0; lo < n; lo += chunk {
		hi := min(lo+chunk, n)
		m := s.Arena.Mark()
		z, err := t.encode(s, layers.Patches(s, pixels.Slice(lo, hi), t.ImageSize, t.Patch))
		if err != nil {
			return nil, err
		}
		index := s.Arena.Tensor(kernels.I32, 1, z.X.Rows)
		t.nearest(s, z.X, index)
		s.Dev.Read(codes[lo*p:hi*p], index)
		s.Arena.Release(m)
	}
	return codes, s.Err()
}

// evaluate stops the recording of s and returns what goes back to where s was.
func evaluate(s *engine.Step) func() {
	train, mark := s.Train, s.Arena.Mark()
	s.Train = false
	return func() {
		s.Train = train
		s.Arena.Release(mark)
	}
}

// Decode draws images from their codes, Patches each: [images, 3·size·size]
// in planes. Like Codes it leaves s as it was.
func (t *Tokenizer) Decode(s *engine.Step, codes []int32) ([]float32, error) {
	p := t.Patches()
	n := len(codes) / p
	if n == 0 || len(codes) != n*p {
		return nil, fmt.Errorf("visual: %d codes, an image has %d", len(codes), p)
	}
	for i, c := range codes {
		if c < 0 || int(c) >= t.Config.Codes {
			return nil, fmt.Errorf("visual: patch %d of image %d has code %d of %d", i%p, i/p, c, t.Config.Codes)
		}
	}
	defer evaluate(s)()
	pixels := make([]float32, n*t.pixels())
	rows := make([]float32, min(n, chunk)*t.pixels())
	for lo := 0; lo < n; lo += chunk {
		hi := min(lo+chunk, n)
		m := s.Arena.Mark()
		q := s.Floats((hi-lo)*p, t.CodeDim)
		engine.Run(s, kernels.Gather{Table: t.codebook.Value, Index: s.Indices(codes[lo*p : hi*p]), Y: q})
		y, err := t.decode(s, layers.Node{X: q})
		if err != nil {
			return nil, err
		}
		out := rows[:(hi-lo)*t.pixels()]
		s.Dev.Read(out, y.X)
		t.join(pixels[lo*t.pixels():hi*t.pixels()], out)
		s.Arena.Release(m)
	}
	return pixels, s.Err()
}

// join puts patches together to images: the reverse of kernels.Patchify.
func (t *Tokenizer) join(pixels, patches []float32) {
	e, size := t.Patch, t.ImageSize
	edge := size / e
	for i := 0; i*e < len(patches); i++ { // runs of e pixels
		y := i % e
		c := i / e % 3
		patch := i / (3 * e)
		px, py, image := patch%edge, patch/edge%edge, patch/(edge*edge)
		at := ((image*3+c)*size+py*e+y)*size + px*e
		copy(pixels[at:at+e], patches[i*e:])
	}
}

// Reconstruct draws images again from their codes.
func (t *Tokenizer) Reconstruct(s *engine.Step, pixels kernels.Tensor) ([]float32, error) {
	codes, err := t.Codes(s, pixels)
	if err != nil {
		return nil, err
	}
	return t.Decode(s, codes)
}
