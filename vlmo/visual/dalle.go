package visual

import (
	"errors"
	"fmt"
	"math"

	"vlmo-train/engine"
	"vlmo-train/kernels"
	"vlmo-train/layers"
	"vlmo-train/weights"
)

// DALLE is the encoder of DALL-E's discrete variational autoencoder, the
// tokenizer of the first BEiT (SPEC §7): a convolution of 7 × 7, four groups
// of residual blocks with a max-pool after each of the first three, and a
// convolution of 1 × 1 to a logit for each code. Its patches are 8 pixels
// wide, so that it sees an image at 8 pixels for each patch of the model, 112
// for 224; the smaller view is made of the model's own by a Lanczos filter.
//
// Convolutions are products of unfolded rows, a few at a time: good for a
// frozen tokenizer's forward pass, and no more.
type DALLE struct {
	Store *engine.Store

	size, grid int // pixels along an edge of the model's image, codes along it
	codes      int
	input      convolution
	groups     [4][]dalleBlock
	output     convolution
}

// dalleStride is the pixels of a code along an edge: three pools.
const dalleStride = 8

// convolution keeps the size of its input.
type convolution struct {
	weight, bias *engine.Param // [out, in, edge, edge], [out]
}

// dalleBlock is x → id(x) + gain·conv_4(… relu(conv_1(relu(x)))).
type dalleBlock struct {
	id   convolution // none where the widths are equal
	path [4]convolution
}

func newDALLE(dev kernels.Device, f *weights.File, want Config) (*DALLE, error) {
	st := engine.NewStore()
	add := func(name string) (c convolution, err error) {
		shape, err := shapeOf(f, name+".w", 4)
		if err == nil && (shape[2] != shape[3] || shape[2]%2 == 0) {
			err = fmt.Errorf("%s.w has shape %v, want an odd square", name, shape)
		}
		if err != nil {
			return c, err
		}
		return convolution{st.Add(name+".w", shape...), st.Add(name+".b", shape[0])}, nil
	}
	t := &DALLE{Store: st, size: want.ImageSize, grid: want.ImageSize / want.Patch}
	var err error
	if t.input, err = add("blocks.input"); err != nil {
		return nil, err
	}
	width := t.input.weight.Shape[0]
	if in := t.input.weight.Shape[1]; in != 3 {
		return nil, fmt.Errorf("the encoder is for images of %d channels, not 3", in)
	}
	for g := range t.groups {
		for i := 1; ; i++ {
			name := fmt.Sprintf("blocks.group_%d.block_%d", g+1, i)
			if !f.Has(name + ".res_path.conv_1.w") {
				break
			}
			var b dalleBlock
			in := width
			for k := range b.path {
				if b.path[k], err = add(fmt.Sprintf("%s.res_path.conv_%d", name, k+1)); err != nil {
					return nil, err
				}
				if got := b.path[k].weight.Shape[1]; got != in {
					return nil, fmt.Errorf("%s.res_path.conv_%d.w takes %d channels and gets %d", name, k+1, got, in)
				}
				in = b.path[k].weight.Shape[0]
			}
			if in != width {
				if b.id, err = add(name + ".id_path"); err != nil {
					return nil, err
				}
				if s := b.id.weight.Shape; s[0] != in || s[1] != width {
					return nil, fmt.Errorf("%s.id_path.w has shape %v, want %d × %d channels", name, s, in, width)
				}
			}
			width = in
			t.groups[g] = append(t.groups[g], b)
		}
		if len(t.groups[g]) == 0 {
			return nil, fmt.Errorf("no blocks in group %d", g+1)
		}
	}
	if t.output, err = add("blocks.output.conv"); err != nil {
		return nil, err
	}
	if s := t.output.weight.Shape; s[1] != width {
		return nil, fmt.Errorf("blocks.output.conv.w has shape %v, want %d channels in", s, width)
	}
	if t.codes = t.output.weight.Shape[0]; t.codes != want.Codes {
		return nil, fmt.Errorf("a tokenizer of %d codes, the configuration has %d", t.codes, want.Codes)
	}
	if err := st.Build(dev, false); err != nil {
		return nil, err
	}
	return t, load(st, f)
}

// Codes implements Coder.
func (t *DALLE) Codes(s *engine.Step, pixels kernels.Tensor) ([]int32, error) {
	n, px := pixels.Rows, 3*t.size*t.size
	if n == 0 || pixels.Cols != px {
		return nil, fmt.Errorf("visual: %d rows of %d pixel values are no images of 3×%d×%d", n, pixels.Cols, t.size, t.size)
	}
	defer evaluate(s)()
	per := t.grid * t.grid
	codes := make([]int32, n*per)
	values := make([]float32, px)
	for i := range n {
		readPixels(s, values, pixels.Slice(i, i+1))
		logits, err := t.logits(s, values)
		if err != nil {
			return nil, err
		}
		for k := range per {
			best := 0
			row := logits[k*t.codes : (k+1)*t.codes]
			for j, v := range row {
				if v > row[best] {
					best = j
				}
			}
			codes[i*per+k] = int32(best)
		}
	}
	return codes, s.Err()
}

// readPixels reads images back, normalised.
func readPixels(s *engine.Step, dst []float32, pixels kernels.Tensor) {
	if pixels.Type == kernels.F32 {
		s.Dev.Read(dst, pixels)
		return
	}
	b := make([]byte, len(dst))
	s.Dev.Read(b, pixels)
	norm := kernels.Patchify{Mean: layers.PixelMean, Std: layers.PixelStd}
	for i, v := range b {
		dst[i] = norm.Value(v)
	}
}

// picture is an image of channels, [edge·edge, channels], on the host.
type picture struct {
	edge, channels int
	v              []float32
}

// logits returns the logits of an image's codes, [grid², codes].
func (t *DALLE) logits(s *engine.Step, pixels []float32) ([]float32, error) {
	edge := dalleStride * t.grid
	small := lanczos(pixels, 3, t.size, edge)
	x := picture{edge, 3, make([]float32, len(small))}
	for c := range 3 {
		for i := range edge * edge {
			// From [−1, 1] to [0, 1], and away from its ends.
			x.v[i*3+c] = 0.8*(small[c*edge*edge+i]+1)/2 + 0.1
		}
	}
	x, err := t.input.apply(s, x)
	if err != nil {
		return nil, err
	}
	blocks := 0
	for _, g := range t.groups {
		blocks += len(g)
	}
	gain := 1 / float32(blocks*blocks)
	for g, group := range t.groups {
		for _, b := range group {
			if x, err = b.apply(s, x, gain); err != nil {
				return nil, err
			}
		}
		if g < len(t.groups)-1 {
			x = pool(x)
		}
	}
	x, err = t.output.apply(s, relu(x))
	return x.v, err
}

func (b *dalleBlock) apply(s *engine.Step, x picture, gain float32) (picture, error) {
	y := x
	var err error
	for _, c := range b.path {
		if y, err = c.apply(s, relu(y)); err != nil {
			return y, err
		}
	}
	if b.id.weight != nil {
		if x, err = b.id.apply(s, x); err != nil {
			return x, err
		}
	}
	for i, v := range x.v {
		y.v[i] = v + gain*y.v[i]
	}
	return y, nil
}

// unfolded is the most elements that a convolution unfolds at a time.
const unfolded = 4 << 20

// apply computes the convolution: rows of unfolded windows times the weight.
func (c *convolution) apply(s *engine.Step, x picture) (picture, error) {
	out, in, k := c.weight.Shape[0], c.weight.Shape[1], c.weight.Shape[2]
	if in != x.channels {
		return x, errors.New("visual: a convolution of another width than its input")
	}
	window := in * k * k
	rows := x.edge * x.edge
	y := picture{x.edge, out, make([]float32, rows*out)}
	weight := c.weight.Value.Reshape(out, window)
	step := min(max(unfolded/window, 1), rows)
	buf := make([]float32, step*window)
	for lo := 0; lo < rows; lo += step {
		hi := min(lo+step, rows)
		a := buf[:(hi-lo)*window]
		clear(a)
		for r := lo; r < hi; r++ {
			row := a[(r-lo)*window : (r-lo+1)*window]
			for dy := range k {
				yy := r/x.edge + dy - k/2
				if yy < 0 || yy >= x.edge {
					continue
				}
				for dx := range k {
					xx := r%x.edge + dx - k/2
					if xx < 0 || xx >= x.edge {
						continue
					}
					// In the order of the weight: channel, row, column.
					src := x.v[(yy*x.edge+xx)*in:][:in]
					at := dy*k + dx
					for _, v := range src {
						row[at] = v
						at += k * k
					}
				}
			}
		}
		m := s.Arena.Mark()
		z := s.Floats(hi-lo, out)
		engine.Run(s, kernels.MatMul{A: s.Upload(a, hi-lo, window), B: weight, TransB: true, C: z, Bias: c.bias.Value.Reshape(1, out)})
		s.Dev.Read(y.v[lo*out:hi*out], z)
		s.Arena.Release(m)
		if err := s.Err(); err != nil {
			return y, err
		}
	}
	return y, nil
}

func relu(x picture) picture {
	y := picture{x.edge, x.channels, make([]float32, len(x.v))}
	for i, v := range x.v {
		y.v[i] = max(v, 0)
	}
	return y
}

// pool halves the edge: the largest of 2 × 2.
func pool(x picture) picture {
	e, c := x.edge/2, x.channels
	y := picture{e, c, make([]float32, e*e*c)}
	for i := range e {
		for j := range e {
			for k := range c {
				at := (2*i*x.edge+2*j)*c + k
				y.v[(i*e+j)*c+k] = max(x.v[at], x.v[at+c], x.v[at+x.edge*c], x.v[at+x.edge*c+c])
			}
		}
	}
	return y
}

// lanczos resizes planes of from × from pixels with a Lanczos filter of three
// lobes, which widens when the image shrinks, as Pillow does.
func lanczos(pixels []float32, planes, from, to int) []float32 {
	if from == to {
		return pixels
	}
	sinc := func(x float64) float64 {
		if x == 0 {
			return 1
		}
		return math.Sin(math.Pi*x) / (math.Pi * x)
	}
	scale := float64(from) / float64(to)
	wide := max(scale, 1)
	first, taps := make([]int, to), make([][]float64, to)
	for i := range to {
		centre := (float64(i) + 0.5) * scale
		lo, hi := max(int(centre-3*wide+0.5), 0), min(int(centre+3*wide+0.5), from)
		var sum float64
		for j := lo; j < hi; j++ {
			x := (float64(j) - centre + 0.5) / wide
			w := 0.0
			if math.Abs(x) < 3 {
				w = sinc(x) * sinc(x/3)
			}
			taps[i] = append(taps[i], w)
			sum += w
		}
		for j := range taps[i] {
			taps[i][j] /= sum
		}
		first[i] = lo
	}
	out := make([]float32, planes*to*to)
	mid := make([]float64, from*to)
	for p := range planes {
		src := pixels[p*from*from:][:from*from]
		for y := range from {
			for x := range to {
				var v float64
				for k, w := range taps[x] {
					v += w * float64(src[y*from+first[x]+k])
				}
				mid[y*to+x] = v
			}
		}
		for y := range to {
			for x := range to {
				var v float64
				for k, w := range taps[y] {
					v += w * mid[(first[y]+k)*to+x]
				}
				out[(p*to+y)*to+x] = float32(v)
			}
		}
	}
	return out
}
