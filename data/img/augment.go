package img

import (
	"fmt"
	"math"

	"vlmo-train/rng"
)

// Augment says how pictures are varied for training. The zero value only
// resizes. The operations run in the order of the fields; those in 8 bits have
// Pillow's arithmetic, their parameters are drawn as torchvision draws them.
type Augment struct {
	// CropArea is the range of the crop's share of the picture's area, and
	// CropRatio the range of its width over its height (random resized crop,
	// bicubic). Zero CropArea: the whole picture. Zero CropRatio: 3/4 to 4/3.
	CropArea, CropRatio [2]float64

	// Flip is the probability of a horizontal flip.
	Flip float64

	// A random affine map about the centre, bilinear. Each is off at zero:
	// Rotate and Shear (along x) are drawn from ± that many degrees, Translate
	// from ± that share of width and of height, Scale from that range.
	Rotate, Translate float64
	Scale             [2]float64
	Shear             float64

	// Fill is the colour (RGB) of what the affine map brings in from outside
	// the picture, and of the erased rectangle.
	Fill [3]byte

	// OnePass samples the source once, bilinearly, under crop, flip and affine
	// map together, in place of a bicubic resize and then an affine resampling.
	// It is faster, and the affine map brings in what lies around the crop
	// instead of Fill. It has no antialiasing: it suits pictures of about the
	// size of the result.
	OnePass bool

	// Colour jitter, in random order. Brightness, Contrast and Saturation v
	// draw a factor from [max(0, 1-v), 1+v]; Hue draws a shift from ± that
	// share of the colour circle, at most 0.5.
	Brightness, Contrast, Saturation, Hue float64

	// Gray is the probability of dropping all colour.
	Gray float64

	// Rand varies the picture by drawn operations.
	Rand RandAugment

	// Erase is the probability of painting a rectangle of 2 to 33 % of the
	// area, height over width 0.3 to 3.3 (random erasing).
	Erase float64
}

// check says what is wrong with a.
func (a *Augment) check() error {
	for _, f := range []struct {
		name   string
		v, max float64
	}{
		{"Flip", a.Flip, 1}, {"Gray", a.Gray, 1}, {"Erase", a.Erase, 1},
		{"Rotate", a.Rotate, 180}, {"Translate", a.Translate, 1}, {"Shear", a.Shear, 80}, {"Hue", a.Hue, 0.5},
		{"Brightness", a.Brightness, 100}, {"Contrast", a.Contrast, 100}, {"Saturation", a.Saturation, 100},
	} {
		if !(f.v >= 0 && f.v <= f.max) {
			return fmt.Errorf("img: augmentation: %s is %v, want 0 to %v", f.name, f.v, f.max)
		}
	}
	for _, f := range []struct {
		name string
		r    [2]float64
		max  float64
	}{{"CropArea", a.CropArea, 1}, {"CropRatio", a.CropRatio, 100}, {"Scale", a.Scale, 100}} {
		if f.r != [2]float64{} && !(f.r[0] > 0 && f.r[0] <= f.r[1] && f.r[1] <= f.max) {
			return fmt.Errorf("img: augmentation: %s is %v, want a rising range above 0 and up to %v", f.name, f.r, f.max)
		}
	}
	return a.Rand.check()
}

func (a *Augment) affine() bool {
	return a.Rotate != 0 || a.Translate != 0 || a.Scale != [2]float64{} || a.Shear != 0
}

// Augmenter applies an [Augment]. It holds scratch memory: one for each
// goroutine.
type Augmenter struct {
	a       Augment
	resizer Resizer
	tmp     Image
	steps   []randStep
}

// NewAugmenter checks a and returns an Augmenter for it.
func NewAugmenter(a Augment) (*Augmenter, error) {
	if err := a.check(); err != nil {
		return nil, err
	}
	if a.CropRatio == [2]float64{} {
		a.CropRatio = [2]float64{3. / 4, 4. / 3}
	}
	return &Augmenter{a: a}, nil
}

// Apply makes a random variation of src in dst, whose W and H say how large. It
// overwrites dst.Pix, which must not share memory with src. All random numbers
// come from s: the same stream gives the same picture.
func (t *Augmenter) Apply(dst, src *Image, s *rng.Source) error {
	if err := dst.check("destination"); err != nil {
		return err
	}
	if err := src.check("source"); err != nil {
		return err
	}
	a := &t.a
	v := variation{crop: rect{0, 0, src.W, src.H}, affine: identity}
	if a.CropArea != [2]float64{} {
		v.crop = randomCrop(s, src.W, src.H, a.CropArea, a.CropRatio)
	}
	v.flip = a.Flip > 0 && s.Float64() < a.Flip
	if a.affine() {
		v.affine = a.inverseAffine(s, float64(dst.W), float64(dst.H))
	}
	t.steps = a.Rand.appendSteps(t.steps[:0], s)
	v.steps = t.steps
	t.vary(dst, src, &v)

	a.jitter(dst, s)
	if a.Gray > 0 && s.Float64() < a.Gray {
		saturate(dst, 0)
	}
	if a.Erase > 0 && s.Float64() < a.Erase {
		erase(dst, s, a.Fill)
	}
	return nil
}

// variation is what was drawn for a picture, as far as it moves pixels, and its
// RandAugment.
type variation struct {
	crop   rect
	flip   bool
	affine affine // result to source
	steps  []randStep
}

// vary makes dst of src.
func (t *Augmenter) vary(dst, src *Image, v *variation) {
	a := &t.a
	if a.OnePass {
		warp(dst, src, v.affine.then(v.crop.fromOutput(dst.W, dst.H, v.flip)), a.Fill)
	} else {
		out := dst
		if a.affine() {
			t.tmp.reshape(dst.W, dst.H)
			out = &t.tmp
		}
		// The crop is a picture of its own: the filter does not reach out of it.
		c := v.crop
		t.resizer.resize(out, src.view(c.x, c.y, c.w, c.h), Box{0, 0, float32(c.w), float32(c.h)})
		if v.flip {
			flipRows(out)
		}
		if a.affine() {
			warp(dst, out, v.affine, a.Fill)
		}
	}
	for _, s := range v.steps {
		s.apply(dst, &t.tmp, a.Rand.Kind)
	}
}

func uniform(s *rng.Source, lo, hi float64) float64 { return lo + float64(s.Float64()*(hi-lo)) }

func logUniform(s *rng.Source, r [2]float64) float64 {
	return math.Exp(uniform(s, math.Log(r[0]), math.Log(r[1])))
}

type rect struct{ x, y, w, h int }

// randomCrop draws the rectangle of torchvision's RandomResizedCrop: ten tries
// of an area and an aspect ratio, then the largest central rectangle of an
// allowed ratio.
func randomCrop(s *rng.Source, w, h int, area, ratio [2]float64) rect {
	for range 10 {
		share := s.Float64()
		if cw, ch, ok := cropSize(w, h, area, ratio, share, s.Float64()); ok {
			y := s.IntN(h - ch + 1)
			x := s.IntN(w - cw + 1)
			return rect{x, y, cw, ch}
		}
	}
	return centralCrop(w, h, ratio)
}

// cropSize is one try: the size of a crop whose area is at share of its range
// and whose ratio is at place of its logarithmic range, both in [0, 1), and
// whether it fits.
func cropSize(w, h int, area, ratio [2]float64, share, place float64) (cw, ch int, ok bool) {
	target := float64(w) * float64(h) * (area[0] + float64(share*(area[1]-area[0])))
	lo, hi := math.Log(ratio[0]), math.Log(ratio[1])
	aspect := math.Exp(lo + float64(place*(hi-lo)))
	cw = int(math.RoundToEven(math.Sqrt(target * aspect)))
	ch = int(math.RoundToEven(math.Sqrt(target / aspect)))
	return cw, ch, 0 < cw && cw <= w && 0 < ch && ch <= h
}

// centralCrop is the largest rectangle of an allowed ratio, in the middle.
func centralCrop(w, h int, ratio [2]float64) rect {
	cw, ch := w, h
	if r := float64(w) / float64(h); r < ratio[0] {
		ch = max(1, int(math.RoundToEven(float64(w)/ratio[0])))
	} else if r > ratio[1] {
		cw = max(1, int(math.RoundToEven(float64(h)*ratio[1])))
	}
	return rect{(w - cw) / 2, (h - ch) / 2, cw, ch}
}

// affine maps (x, y) to (a[0]x + a[1]y + a[2], a[3]x + a[4]y + a[5]). Pixel i
// covers [i, i+1).
type affine [6]float64

var identity = affine{1, 0, 0, 0, 1, 0}

func (a affine) at(x, y float64) (float64, float64) {
	return float64(a[0]*x) + float64(a[1]*y) + a[2], float64(a[3]*x) + float64(a[4]*y) + a[5]
}

// then returns the map that applies a and then b.
func (a affine) then(b affine) (c affine) {
	c[2], c[5] = b.at(a[2], a[5])
	x, y := b.at(0, 0)
	for i := range 2 {
		u, v := b.at(a[i], a[3+i])
		c[i], c[3+i] = u-x, v-y
	}
	return c
}

// fromOutput maps a w×h result to the source pixels of the crop r.
func (r rect) fromOutput(w, h int, flip bool) affine {
	sx, sy := float64(r.w)/float64(w), float64(r.h)/float64(h)
	m := affine{sx, 0, float64(r.x), 0, sy, float64(r.y)}
	if flip {
		m[0], m[2] = -sx, float64(r.x+r.w)
	}
	return m
}

// inverseAffine draws an affine map about the centre of a w×h picture - shear,
// then scale, rotation and translation - and returns its inverse, from result
// to source.
func (a *Augment) inverseAffine(s *rng.Source, w, h float64) affine {
	angle, dx, dy, scale, shear := 0.0, 0.0, 0.0, 1.0, 0.0
	const radian = math.Pi / 180
	if a.Rotate != 0 {
		angle = uniform(s, -a.Rotate, a.Rotate) * radian
	}
	if a.Translate != 0 {
		dx = uniform(s, -a.Translate, a.Translate) * w
		dy = uniform(s, -a.Translate, a.Translate) * h
	}
	if a.Scale != [2]float64{} {
		scale = uniform(s, a.Scale[0], a.Scale[1])
	}
	if a.Shear != 0 {
		shear = uniform(s, -a.Shear, a.Shear) * radian
	}
	sin, cos := math.Sincos(angle)
	toCentre := affine{1, 0, -w/2 - dx, 0, 1, -h/2 - dy}
	unrotate := affine{cos / scale, sin / scale, 0, -sin / scale, cos / scale, 0}
	unshear := affine{1, math.Tan(shear), 0, 0, 1, 0}
	back := affine{1, 0, w / 2, 0, 1, h / 2}
	return toCentre.then(unrotate).then(unshear).then(back)
}

// warp resamples src bilinearly: the pixel of dst around p is that of src
// around m(p). What lies outside src is fill; inside, the border pixel is
// repeated. The arithmetic is that of Pillow's Image.transform(AFFINE,
// BILINEAR), results cut to a byte and not rounded.
func warp(dst, src *Image, m affine, fill [3]byte) {
	w, h := float64(src.W), float64(src.H)
	stride := 3 * src.W
	for y := range dst.H {
		row := dst.Pix[3*y*dst.W:][:3*dst.W]
		for x := range dst.W {
			d := row[3*x : 3*x+3 : 3*x+3]
			u, v := m.at(float64(x)+0.5, float64(y)+0.5)
			if !(u >= 0 && u < w && v >= 0 && v < h) {
				d[0], d[1], d[2] = fill[0], fill[1], fill[2]
				continue
			}
			// floor(u - 0.5) for u >= 0, as the conversion cuts towards 0
			x0, y0 := int(u+0.5)-1, int(v+0.5)-1
			fx, fy := u-0.5-float64(x0), v-0.5-float64(y0)
			left, right := 3*max(x0, 0), 3*min(x0+1, src.W-1)
			up, down := stride*max(y0, 0), stride*min(y0+1, src.H-1)
			a := src.Pix[up+left:][:3]
			b := src.Pix[up+right:][:3]
			e := src.Pix[down+left:][:3]
			f := src.Pix[down+right:][:3]
			for c := range d {
				top := float64(a[c]) + float64(float64(int(b[c])-int(a[c]))*fx)
				low := float64(e[c]) + float64(float64(int(f[c])-int(e[c]))*fx)
				d[c] = byte(top + float64((low-top)*fy))
			}
		}
	}
}

func flipRows(m *Image) {
	for y := range m.H {
		row := m.Pix[3*y*m.W:][:3*m.W]
		for i, j := 0, len(row)-3; i < j; i, j = i+3, j-3 {
			row[i], row[j] = row[j], row[i]
			row[i+1], row[j+1] = row[j+1], row[i+1]
			row[i+2], row[j+2] = row[j+2], row[i+2]
		}
	}
}

// jitter is torchvision's ColorJitter.
func (a *Augment) jitter(m *Image, s *rng.Source) {
	if a.Brightness == 0 && a.Contrast == 0 && a.Saturation == 0 && a.Hue == 0 {
		return
	}
	order := [4]int{0, 1, 2, 3}
	s.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	factor := func(v float64) float32 { return float32(uniform(s, max(0, 1-v), 1+v)) }
	for _, op := range order {
		switch {
		case op == 0 && a.Brightness != 0:
			brighten(m, factor(a.Brightness))
		case op == 1 && a.Contrast != 0:
			contrast(m, factor(a.Contrast))
		case op == 2 && a.Saturation != 0:
			saturate(m, factor(a.Saturation))
		case op == 3 && a.Hue != 0:
			shiftHue(m, uniform(s, -a.Hue, a.Hue))
		}
	}
}

// erase paints the rectangle of torchvision's RandomErasing, if one of ten
// tries fits.
func erase(m *Image, s *rng.Source, fill [3]byte) {
	for range 10 {
		area := float64(m.W) * float64(m.H) * uniform(s, 0.02, 0.33)
		aspect := logUniform(s, [2]float64{0.3, 3.3})
		h := int(math.RoundToEven(math.Sqrt(area * aspect)))
		w := int(math.RoundToEven(math.Sqrt(area / aspect)))
		if h >= m.H || w >= m.W {
			continue
		}
		y := s.IntN(m.H - h + 1)
		x := s.IntN(m.W - w + 1)
		for r := y; r < y+h; r++ {
			row := m.Pix[3*(r*m.W+x):][:3*w]
			for i := range row {
				row[i] = fill[i%3]
			}
		}
		return
	}
}
