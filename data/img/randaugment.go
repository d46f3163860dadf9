package img

import (
	"fmt"
	"math"
	"strconv"

	"vlmo-train/rng"
)

// RandKind says whose arithmetic a [RandAugment] has.
type RandKind uint8

const (
	// RandDefault is the OpenCV and NumPy arithmetic that VLMo was trained
	// with, without its two bugs: AutoContrast stretches every channel, and
	// Sharpness clips.
	RandDefault RandKind = iota
	// RandCompat is that arithmetic to the bit: AutoContrast turns a channel
	// whose minimum is above 0 white, Sharpness wraps around at 0 and 255.
	RandCompat
	// RandPillow is Pillow's, as RandAugment (arXiv 1909.13719) is usually
	// written: nearest neighbour, black outside.
	RandPillow
)

// RandAugment draws operations from ten (identity, autocontrast, equalize,
// brightness, sharpness, shear and translation along x and y, rotation), with
// replacement, and applies them one after the other.
//
// With RandDefault and RandCompat, an operation is applied with probability 0.5
// and Level is of 10: the recipe of VLMo is two operations of level 7, which is
// a factor of 1.36 for brightness and sharpness, a shear of 0.21, a translation
// of 7 pixels (at any size of picture) and a rotation by 21°. With RandPillow,
// every operation is applied and Level is of 30: a factor from 0.1 to 1.9, a
// shear up to 0.3, a translation up to 100 pixels, a rotation up to 30°.
// Directions are drawn.
type RandAugment struct {
	Ops   int // how many operations; 0 is off
	Level float64
	Kind  RandKind
}

// MaxLevel is the strongest level of a kind.
func (k RandKind) MaxLevel() float64 {
	if k == RandPillow {
		return 30
	}
	return 10
}

func (a *RandAugment) check() error {
	switch {
	case a.Ops < 0 || a.Ops > 100:
		return fmt.Errorf("img: RandAugment of %d operations, want 0 to 100", a.Ops)
	case a.Kind > RandPillow:
		return fmt.Errorf("img: RandAugment of kind %d", a.Kind)
	case !(a.Level >= 0 && a.Level <= a.Kind.MaxLevel()):
		return fmt.Errorf("img: RandAugment of level %v, want 0 to %v", a.Level, a.Kind.MaxLevel())
	}
	return nil
}

// randOp is one of the operations.
type randOp uint8

const (
	identityOp randOp = iota
	autoContrastOp
	equalizeOp
	brightnessOp
	sharpnessOp
	shearXOp
	shearYOp
	translateXOp
	translateYOp
	rotateOp
	randOps // their number
)

// randStep is an operation with its argument: a factor for brightness and
// sharpness, the sine-like coefficient of a shear, pixels for a translation,
// degrees counter-clockwise for a rotation, nothing for the others.
type randStep struct {
	op  randOp
	arg float64
}

// appendSteps draws what is applied to one picture.
func (a *RandAugment) appendSteps(steps []randStep, s *rng.Source) []randStep {
	share := a.Level / a.Kind.MaxLevel()
	pixels := 10.
	if a.Kind == RandPillow {
		pixels = 100
	}
	// All operations first and then their fates: the order of the original.
	first := len(steps)
	for range a.Ops {
		steps = append(steps, randStep{op: randOp(s.IntN(int(randOps)))})
	}
	kept := steps[:first]
	for _, t := range steps[first:] {
		if a.Kind != RandPillow && s.Float64() > 0.5 {
			continue
		}
		switch t.op {
		case brightnessOp, sharpnessOp:
			t.arg = float64(share*1.8) + 0.1
		case shearXOp, shearYOp:
			t.arg = share * 0.3
		case translateXOp, translateYOp:
			t.arg = share * pixels
		case rotateOp:
			t.arg = share * 30
		}
		if t.op >= shearXOp && s.Float64() > 0.5 {
			t.arg = -t.arg
		}
		kept = append(kept, t)
	}
	return kept
}

// apply does t to m in place. tmp is scratch.
func (t randStep) apply(m, tmp *Image, kind RandKind) {
	switch t.op {
	case autoContrastOp:
		autoContrast(m, kind == RandCompat)
	case equalizeOp:
		equalize(m)
	case brightnessOp:
		brighten(m, float32(t.arg))
	case sharpnessOp:
		sharpen(m, tmp, float32(t.arg), kind)
	case shearXOp, shearYOp, translateXOp, translateYOp, rotateOp:
		if kind == RandPillow {
			if t.op != rotateOp || t.arg != 0 {
				tmp.copy(m)
				warpNearest(m, tmp, t.inverse(m.W, m.H))
			}
			return
		}
		tmp.copy(m)
		warpCV(m, tmp, t.forward(m.W, m.H))
	}
}

// histogram counts the values of each channel.
func histogram(m *Image) (h [3][256]int) {
	for p := m.Pix; len(p) >= 3; p = p[3:] {
		h[0][p[0]]++
		h[1][p[1]]++
		h[2][p[2]]++
	}
	return h
}

// tabulate replaces every value by its entry in the channel's table.
func tabulate(m *Image, t *[3][256]byte) {
	for p := m.Pix; len(p) >= 3; p = p[3:] {
		p[0], p[1], p[2] = t[0][p[0]], t[1][p[1]], t[2][p[2]]
	}
}

// autoContrast stretches each channel to 0..255. With wrap, the lowest value is
// negated in 8 bits, as in the original.
func autoContrast(m *Image, wrap bool) {
	h := histogram(m)
	var t [3][256]byte
	for c := range h {
		low, high := 0, 255
		for h[c][low] == 0 {
			low++
		}
		for h[c][high] == 0 {
			high--
		}
		scale, offset := 1., 0.
		if high > low {
			scale = 255 / float64(high-low)
			offset = float64(-low) * scale
			if wrap {
				offset = float64(-low&255) * scale
			}
		}
		for i := range t[c] {
			t[c][i] = byte(min(max(float64(float64(i)*scale)+offset, 0), 255))
		}
	}
	tabulate(m, &t)
}

// equalize flattens each channel's histogram.
func equalize(m *Image) {
	h := histogram(m)
	var t [3][256]byte
	for c := range h {
		high := 255
		for h[c][high] == 0 {
			high--
		}
		step := (m.W*m.H - h[c][high]) / 255
		sum := step / 2
		for i, n := range h[c] {
			t[c][i] = byte(i)
			if step > 0 {
				t[c][i] = byte(min(sum/step, 255))
			}
			sum += n
		}
	}
	tabulate(m, &t)
}

// sharpen blends a picture with its smoothed self: factor 0 is smooth, 1 the
// picture, and more is sharper. The border stays, but for factor 0 of the
// OpenCV kinds, whose smoothing mirrors what it lacks.
func sharpen(m, tmp *Image, factor float32, kind RandKind) {
	if factor == 1 {
		return
	}
	tmp.copy(m)
	wholly := factor == 0 && kind != RandPillow
	stride := 3 * m.W
	mirror := func(i, n int) int { // …2 1 | 0 1 2…
		if n == 1 {
			return 0
		}
		if i < 0 {
			return -i
		} else if i >= n {
			return 2*n - 2 - i
		}
		return i
	}
	for y := range m.H {
		if !wholly && (y == 0 || y == m.H-1) {
			continue
		}
		up := tmp.Pix[mirror(y-1, m.H)*stride:][:stride]
		mid := tmp.Pix[y*stride:][:stride]
		down := tmp.Pix[mirror(y+1, m.H)*stride:][:stride]
		dst := m.Pix[y*stride:][:stride]
		if wholly {
			for i := range dst {
				l, r := 3*mirror(i/3-1, m.W)+i%3, 3*mirror(i/3+1, m.W)+i%3
				dst[i] = smooth(int32(up[l]) + int32(up[i]) + int32(up[r]) + int32(mid[l]) + 5*int32(mid[i]) + int32(mid[r]) +
					int32(down[l]) + int32(down[i]) + int32(down[r]))
			}
			continue
		}
		for i := 3; i < len(dst)-3; i++ {
			v := mid[i]
			base := smooth(int32(up[i-3]) + int32(up[i]) + int32(up[i+3]) + int32(mid[i-3]) + 5*int32(v) + int32(mid[i+3]) +
				int32(down[i-3]) + int32(down[i]) + int32(down[i+3]))
			if kind == RandCompat {
				t := float32(base) + float32(factor*(float32(v)-float32(base)))
				dst[i] = byte(int32(t)) // wraps
				continue
			}
			dst[i] = blend(int32(base), int32(v), factor)
		}
	}
}

// smooth is the sum of a 3×3 neighbourhood, the middle counted five times,
// over 13, rounded. 13 is odd, so there are no ties.
func smooth(sum int32) byte { return byte((2*sum + 13) / 26) }

// forward returns the map from source to result pixels that the original hands
// to OpenCV; its shears and translations are float32.
func (t randStep) forward(w, h int) affine {
	arg := float64(float32(t.arg))
	switch t.op {
	case shearXOp:
		return affine{1, arg, 0, 0, 1, 0}
	case shearYOp:
		return affine{1, 0, 0, arg, 1, 0}
	case translateXOp:
		return affine{1, 0, -arg, 0, 1, 0}
	case translateYOp:
		return affine{1, 0, 0, 0, 1, -arg}
	}
	cx, cy := float64(w)/2, float64(h)/2
	sin, cos := math.Sincos(t.arg * (math.Pi / 180))
	return affine{
		cos, sin, float64((1-cos)*cx) - float64(sin*cy),
		-sin, cos, float64(sin*cx) + float64((1-cos)*cy),
	}
}

// inverse returns the map from result to source pixels that Pillow is handed.
func (t randStep) inverse(w, h int) affine {
	switch t.op {
	case shearXOp:
		return affine{1, t.arg, 0, 0, 1, 0}
	case shearYOp:
		return affine{1, 0, 0, t.arg, 1, 0}
	case translateXOp:
		return affine{1, 0, t.arg, 0, 1, 0}
	case translateYOp:
		return affine{1, 0, 0, 0, 1, t.arg}
	}
	degrees := math.Mod(t.arg, 360)
	if degrees < 0 {
		degrees += 360
	}
	sin, cos := math.Sincos(-degrees * (math.Pi / 180))
	a, b, d := round15(cos), round15(sin), round15(-sin)
	cx, cy := float64(w)/2, float64(h)/2
	return affine{
		a, b, float64(a*-cx) + float64(b*-cy) + cx,
		d, a, float64(d*-cx) + float64(a*-cy) + cy,
	}
}

// round15 rounds to 15 decimals.
func round15(x float64) float64 {
	r, err := strconv.ParseFloat(strconv.FormatFloat(x, 'f', 15, 64), 64)
	if err != nil {
		return x
	}
	return r
}

// warpCV is OpenCV 4.6's warpAffine(INTER_LINEAR, BORDER_CONSTANT 128): source
// positions to 1/32 of a pixel, weights to 1/1024. m maps source to result.
func warpCV(dst, src *Image, m affine) {
	const fill = 128
	det := 1 / (float64(m[0]*m[4]) - float64(m[1]*m[3]))
	a, e, b, d := m[4]*det, m[0]*det, -m[1]*det, -m[3]*det
	c := float64(-a*m[2]) - float64(b*m[5])
	f := float64(-d*m[2]) - float64(e*m[5])
	const scale = 1024
	w, h := src.W, src.H
	stride := 3 * w
	for y := range dst.H {
		x0 := int(math.RoundToEven((float64(b*float64(y))+c)*scale)) + 16
		y0 := int(math.RoundToEven((float64(e*float64(y))+f)*scale)) + 16
		row := dst.Pix[3*y*dst.W:][:3*dst.W]
		for x := range dst.W {
			p := row[3*x : 3*x+3 : 3*x+3]
			u := (x0 + int(math.RoundToEven(float64(a*float64(x))*scale))) >> 5
			v := (y0 + int(math.RoundToEven(float64(d*float64(x))*scale))) >> 5
			sx, sy, fx, fy := u>>5, v>>5, u&31, v&31
			w00, w01, w10, w11 := (32-fx)*(32-fy), fx*(32-fy), (32-fx)*fy, fx*fy
			if uint(sx) < uint(w-1) && uint(sy) < uint(h-1) {
				s := src.Pix[sy*stride+3*sx:]
				s, t := s[:6], s[stride:][:6]
				p[0] = byte((int(s[0])*w00 + int(s[3])*w01 + int(t[0])*w10 + int(t[3])*w11 + 512) >> 10)
				p[1] = byte((int(s[1])*w00 + int(s[4])*w01 + int(t[1])*w10 + int(t[4])*w11 + 512) >> 10)
				p[2] = byte((int(s[2])*w00 + int(s[5])*w01 + int(t[2])*w10 + int(t[5])*w11 + 512) >> 10)
				continue
			}
			if sx < -1 || sx >= w || sy < -1 || sy >= h {
				p[0], p[1], p[2] = fill, fill, fill
				continue
			}
			tap := func(x, y, c int) int {
				if uint(x) >= uint(w) || uint(y) >= uint(h) {
					return fill
				}
				return int(src.Pix[y*stride+3*x+c])
			}
			for c := range p {
				p[c] = byte((tap(sx, sy, c)*w00 + tap(sx+1, sy, c)*w01 + tap(sx, sy+1, c)*w10 + tap(sx+1, sy+1, c)*w11 + 512) >> 10)
			}
		}
	}
}

// warpNearest is Pillow's transform(AFFINE, NEAREST), black outside: positions
// step in 16.16 fixed point, or in float64 where the map keeps the axes. m maps
// result to source.
func warpNearest(dst, src *Image, m affine) {
	if m[1] == 0 && m[3] == 0 {
		v := float64(m[4]*0.5) + m[5]
		for y := range dst.H {
			u := float64(m[0]*0.5) + m[2]
			for x := range dst.W {
				copyPixel(dst, src, x, y, floor0(u), floor0(v))
				u += m[0]
			}
			v += m[4]
		}
		return
	}
	fix := func(v float64) int { return int(math.Floor(float64(v*65536) + 0.5)) }
	du, dv := fix(m[0]), fix(m[3])
	u0 := fix(m[2] + float64(m[0]*0.5) + float64(m[1]*0.5))
	v0 := fix(m[5] + float64(m[3]*0.5) + float64(m[4]*0.5))
	for y := range dst.H {
		u, v := u0, v0
		for x := range dst.W {
			copyPixel(dst, src, x, y, u>>16, v>>16)
			u += du
			v += dv
		}
		u0 += fix(m[1])
		v0 += fix(m[4])
	}
}

// floor0 cuts v to a whole number; what is below 0 is -1.
func floor0(v float64) int {
	if v < 0 {
		return -1
	}
	return int(v)
}

// copyPixel sets pixel (x, y) of dst to pixel (u, v) of src, black where that
// is outside.
func copyPixel(dst, src *Image, x, y, u, v int) {
	p := dst.Pix[3*(y*dst.W+x):][:3]
	if uint(u) >= uint(src.W) || uint(v) >= uint(src.H) {
		p[0], p[1], p[2] = 0, 0, 0
		return
	}
	q := src.Pix[3*(v*src.W+u):][:3]
	p[0], p[1], p[2] = q[0], q[1], q[2]
}
