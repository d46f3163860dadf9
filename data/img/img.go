// Package img decodes, resizes and augments the pictures a model is fed with.
//
// Decoding and resizing follow Pillow, so that a picture gives the same input
// here as in the original training code: [Decode] is
// Image.open(f).convert("RGB"), [Resize] is Image.resize(size, BICUBIC).
// [Augmenter] is the random training transform, [Planes] the last step to the
// model's input.
//
// Pictures are 8-bit RGB throughout. Functions do not keep references to their
// arguments and are safe for concurrent use; a [Resizer] and an [Augmenter] hold
// scratch memory and belong to one goroutine each.
package img

import (
	"bytes"
	"fmt"
	"image"
	"image/png"
)

// Image is a picture of W×H pixels, 8-bit RGB, rows from top to bottom,
// interleaved: channel c of pixel (x, y) is Pix[3*(y*W+x)+c].
// len(Pix) is 3*W*H.
type Image struct {
	W, H int
	Pix  []byte
}

// New returns a black picture.
func New(w, h int) *Image {
	return &Image{W: w, H: h, Pix: make([]byte, 3*w*h)}
}

// reshape makes m a w×h picture, in its old memory where that is large enough.
// The content is undefined afterwards.
func (m *Image) reshape(w, h int) {
	n := 3 * w * h
	if cap(m.Pix) < n {
		m.Pix = make([]byte, n)
	}
	m.W, m.H, m.Pix = w, h, m.Pix[:n]
}

// copy makes m a copy of src.
func (m *Image) copy(src *Image) {
	m.reshape(src.W, src.H)
	copy(m.Pix, src.Pix)
}

// check says what is wrong with m as a picture called name.
func (m *Image) check(name string) error {
	switch {
	case m == nil:
		return fmt.Errorf("img: %s picture is nil", name)
	case m.W <= 0 || m.H <= 0:
		return fmt.Errorf("img: %s picture has size %dx%d", name, m.W, m.H)
	case len(m.Pix) != 3*m.W*m.H:
		return fmt.Errorf("img: %s picture of %dx%d has %d bytes, want %d", name, m.W, m.H, len(m.Pix), 3*m.W*m.H)
	}
	return nil
}

// Planes writes src as three planes, dst = [3, H, W], as the model takes it. It
// overwrites dst, whose length must be 3*W*H.
func Planes(dst []byte, src *Image) error {
	if err := src.check("source"); err != nil {
		return err
	}
	n := src.W * src.H
	if len(dst) != 3*n {
		return fmt.Errorf("img: destination has %d values, a %dx%d picture needs %d", len(dst), src.W, src.H, 3*n)
	}
	r, g, b := dst[:n], dst[n:2*n], dst[2*n:]
	pix := src.Pix
	for i := range r {
		p := pix[3*i : 3*i+3 : 3*i+3]
		r[i], g[i], b[i] = p[0], p[1], p[2]
	}
	return nil
}

// EncodePNG returns m as a PNG file.
func EncodePNG(m *Image) ([]byte, error) {
	if err := m.check("source"); err != nil {
		return nil, err
	}
	rgba := image.NewNRGBA(image.Rect(0, 0, m.W, m.H))
	for i, o := 0, 0; i < len(m.Pix); i, o = i+3, o+4 {
		copy(rgba.Pix[o:o+3], m.Pix[i:i+3])
		rgba.Pix[o+3] = 255
	}
	var b bytes.Buffer
	if err := png.Encode(&b, rgba); err != nil {
		return nil, fmt.Errorf("img: PNG: %w", err)
	}
	return b.Bytes(), nil
}
