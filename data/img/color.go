package img

import "math"

// The colour operations of Pillow's ImageEnhance and of torchvision on 8-bit
// pictures, to the byte. All work in place. Conversions to float32 keep
// compilers from fusing a product with a sum.

// luma is Pillow's convert("L"): ITU-R 601 in 16-bit fixed point.
func luma(r, g, b byte) int32 {
	return (int32(r)*19595 + int32(g)*38470 + int32(b)*7471 + 1<<15) >> 16
}

// blend is Pillow's Image.blend: base + factor*(v-base), clipped and cut to a
// byte.
func blend(base, v int32, factor float32) byte {
	t := float32(base) + float32(factor*float32(v-base))
	if t <= 0 {
		return 0
	} else if t >= 255 {
		return 255
	}
	return byte(t)
}

// blendWith blends every sample with the same value.
func blendWith(m *Image, base int32, factor float32) {
	var t [256]byte
	for v := range t {
		t[v] = blend(base, int32(v), factor)
	}
	for i, v := range m.Pix {
		m.Pix[i] = t[v]
	}
}

func brighten(m *Image, factor float32) { blendWith(m, 0, factor) }

// contrast blends with the mean of the gray picture.
func contrast(m *Image, factor float32) {
	sum := int64(0)
	for p := m.Pix; len(p) >= 3; p = p[3:] {
		sum += int64(luma(p[0], p[1], p[2]))
	}
	mean := float64(sum) / float64(m.W*m.H)
	blendWith(m, int32(mean+0.5), factor)
}

// saturate blends with the gray picture; factor 0 is the gray picture.
func saturate(m *Image, factor float32) {
	for p := m.Pix; len(p) >= 3; p = p[3:] {
		l := luma(p[0], p[1], p[2])
		for c, v := range p[:3] {
			p[c] = blend(l, int32(v), factor)
		}
	}
}

// shiftHue turns the hue by a share of the colour circle, through Pillow's
// 8-bit HSV.
func shiftHue(m *Image, share float64) {
	shift := byte(int(share * 255)) // wraps, as the hue does
	for p := m.Pix; len(p) >= 3; p = p[3:] {
		h, s, v := toHSV(p[0], p[1], p[2])
		p[0], p[1], p[2] = fromHSV(h+shift, s, v)
	}
}

// toHSV is Pillow's RGB to HSV conversion: all three in 0..255.
func toHSV(r, g, b byte) (h, s, v byte) {
	v = max(r, g, b)
	low := min(r, g, b)
	if v == low {
		return 0, 0, v
	}
	span := float32(v - low)
	rc, gc, bc := float32(v-r)/span, float32(v-g)/span, float32(v-b)/span
	var turn float32 // in sixths of the circle
	switch v {
	case r:
		turn = bc - gc
	case g:
		turn = float32(2 + float64(rc) - float64(bc))
	default:
		turn = float32(4 + float64(gc) - float64(rc))
	}
	turn = float32(math.Mod(float64(turn)/6+1, 1))
	return byte(float64(turn) * 255), byte(float64(span/float32(v)) * 255), v
}

// fromHSV is Pillow's HSV to RGB conversion.
func fromHSV(h, s, v byte) (r, g, b byte) {
	if s == 0 {
		return v, v, v
	}
	turn := float64(float32(h)) * 6 / 255
	sixth := math.Floor(turn)
	f := float64(float32(turn - sixth))
	fs := float64(float32(float64(s) / 255))
	x := float64(v)
	p := byte(math.Round(x * (1 - fs)))
	q := byte(math.Round(x * (1 - float64(fs*f))))
	t := byte(math.Round(x * (1 - float64(fs*(1-f)))))
	switch int(sixth) % 6 {
	case 0:
		return v, t, p
	case 1:
		return q, v, p
	case 2:
		return p, v, t
	case 3:
		return p, q, v
	case 4:
		return t, p, v
	}
	return v, p, q
}
