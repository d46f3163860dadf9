package img

import (
	"fmt"
	"math"
)

// Box is a rectangle of a picture in pixels, (X0, Y0) inclusive to (X1, Y1)
// exclusive; it may cut pixels. float32 because Pillow's box is.
type Box struct {
	X0, Y0, X1, Y1 float32
}

// Resize returns src resized to w×h, equal to Pillow's
// Image.resize((w, h), BICUBIC) to the byte: cubic convolution (a = -0.5) whose
// support grows with the factor of shrinking, horizontally and then vertically,
// in 22-bit fixed point, rounded to 8 bits between. (From some version after 9.4
// on, Pillow goes vertically first where a picture gets wider and lower.)
func Resize(src *Image, w, h int) (*Image, error) {
	if err := src.check("source"); err != nil {
		return nil, err
	}
	if w <= 0 || h <= 0 {
		return nil, fmt.Errorf("img: resize to %dx%d", w, h)
	}
	dst := New(w, h)
	var r Resizer
	r.resize(dst, src.view(0, 0, src.W, src.H), Box{0, 0, float32(src.W), float32(src.H)})
	return dst, nil
}

// Resizer resizes pictures and keeps its scratch memory and its last filter
// coefficients between calls: in steady state it allocates nothing. The zero
// value is ready for use. A Resizer belongs to one goroutine.
type Resizer struct {
	horizontal, vertical kernel
	tmp                  []byte  // [rows of the source in use, dst.W, 3]
	acc                  []int32 // one row of sums, [dst.W, 3]
}

// Resize resizes the part box of src to the whole of dst, whose W and H say to
// what size; it overwrites dst.Pix, which must not share memory with src.
// Pixels around the box still take part where the filter reaches them. The
// result is that of Pillow's Image.resize(size, BICUBIC, box).
func (r *Resizer) Resize(dst, src *Image, box Box) error {
	if err := dst.check("destination"); err != nil {
		return err
	}
	if err := src.check("source"); err != nil {
		return err
	}
	// Written so that NaN fails too.
	if !(box.X0 >= 0 && box.Y0 >= 0 && box.X1 <= float32(src.W) && box.Y1 <= float32(src.H) && box.X0 < box.X1 && box.Y0 < box.Y1) {
		return fmt.Errorf("img: box %v is empty or not inside the picture of %dx%d", box, src.W, src.H)
	}
	r.resize(dst, src.view(0, 0, src.W, src.H), box)
	return nil
}

// view is a rectangle of a picture, used without copying it.
type view struct {
	pix    []byte // from the first pixel on
	stride int    // bytes from row to row
	w, h   int
}

func (m *Image) view(x, y, w, h int) view {
	return view{m.Pix[3*(y*m.W+x):], 3 * m.W, w, h}
}

func (v view) row(y int) []byte { return v.pix[y*v.stride:][:3*v.w] }

func (r *Resizer) resize(dst *Image, src view, box Box) {
	needH := dst.W != src.w || box.X0 != 0 || box.X1 != float32(dst.W)
	needV := dst.H != src.h || box.Y0 != 0 || box.Y1 != float32(dst.H)
	if !needH && !needV {
		for y := range src.h {
			copy(dst.Pix[3*y*dst.W:], src.row(y))
		}
		return
	}
	first, last := 0, src.h // rows of the source that the result depends on
	if needV {
		r.vertical.set(axis{src.h, box.Y0, box.Y1, dst.H})
		first, last = r.vertical.spans[0].from, r.vertical.spans[dst.H-1].to
	}
	if needH {
		r.horizontal.set(axis{src.w, box.X0, box.X1, dst.W})
		out := view{dst.Pix, 3 * dst.W, dst.W, last - first}
		if needV {
			n := out.stride * out.h
			if cap(r.tmp) < n {
				r.tmp = make([]byte, n)
			}
			out.pix = r.tmp[:n]
		}
		for y := range out.h {
			r.horizontal.alongRow(out.row(y), src.row(first+y))
		}
		src = out
	} else {
		src.pix = src.pix[first*src.stride:]
		src.h = last - first
	}
	if needV {
		if cap(r.acc) < 3*dst.W {
			r.acc = make([]int32, 3*dst.W)
		}
		acc := r.acc[:3*dst.W]
		for y := range dst.H {
			r.vertical.acrossRows(dst.Pix[3*y*dst.W:][:3*dst.W], acc, src, y, first)
		}
	}
}

// axis is a resampling in one direction: [from, to) of size samples to out.
type axis struct {
	size     int
	from, to float32
	out      int
}

// kernel holds the filter coefficients of an axis.
type kernel struct {
	axis  axis
	width int       // coefficients reserved for an output
	spans []span    // [axis.out]
	fixed []int32   // [axis.out, width], scaled by 1<<precision
	exact []float64 // [width]
}

// span is the range of input samples an output depends on.
type span struct{ from, to int }

// precision leaves 8 bits for the sample and 2 for the sum's overshoot.
const precision = 32 - 8 - 2

// set computes the coefficients for a, unless they are there already. The
// conversions to float64 keep compilers from fusing a product with a sum: the
// coefficients are the same on every platform.
func (k *kernel) set(a axis) {
	if k.axis == a {
		return
	}
	k.axis = a
	scale := float64(a.to-a.from) / float64(a.out)
	stretch := max(scale, 1)
	support := 2 * stretch
	k.width = int(math.Ceil(support))*2 + 1
	if cap(k.spans) < a.out {
		k.spans = make([]span, a.out)
	}
	if n := a.out * k.width; cap(k.fixed) < n {
		k.fixed = make([]int32, n)
	}
	if cap(k.exact) < k.width {
		k.exact = make([]float64, k.width)
	}
	k.spans, k.fixed = k.spans[:a.out], k.fixed[:a.out*k.width]
	inv := 1 / stretch
	for i := range k.spans {
		center := float64(a.from) + float64((float64(i)+0.5)*scale)
		from := max(int(center-support+0.5), 0)
		to := min(int(center+support+0.5), a.size)
		k.spans[i] = span{from, to}
		exact := k.exact[:to-from]
		sum := 0.0
		for j := range exact {
			exact[j] = cubic((float64(from+j) - center + 0.5) * inv)
			sum += exact[j]
		}
		fixed := k.fixed[i*k.width:]
		for j, v := range exact {
			if sum != 0 {
				v /= sum
			}
			fixed[j] = int32(math.Copysign(0.5, v) + float64(v*(1<<precision)))
		}
	}
}

// cubic is Keys' convolution kernel with a = -0.5 (1981), as Pillow writes it.
func cubic(x float64) float64 {
	const a = -0.5
	x = math.Abs(x)
	switch {
	case x < 1:
		return float64(float64(float64((a+2)*x)-(a+3))*x*x) + 1
	case x < 2:
		return (float64((float64((x-5)*x)+8)*x) - 4) * a
	}
	return 0
}

// alongRow filters a row of RGB pixels.
func (k *kernel) alongRow(dst, src []byte) {
	for i, s := range k.spans {
		f := k.fixed[i*k.width:][:s.to-s.from]
		p := src[3*s.from : 3*s.to]
		r, g, b := int32(1)<<(precision-1), int32(1)<<(precision-1), int32(1)<<(precision-1)
		for _, c := range f {
			r += int32(p[0]) * c
			g += int32(p[1]) * c
			b += int32(p[2]) * c
			p = p[3:]
		}
		d := dst[3*i : 3*i+3 : 3*i+3]
		d[0] = clip8(r >> precision)
		d[1] = clip8(g >> precision)
		d[2] = clip8(b >> precision)
	}
}

// acrossRows computes output row i from the rows of src, whose row 0 is sample
// first of the axis. acc is scratch of dst's length.
func (k *kernel) acrossRows(dst []byte, acc []int32, src view, i, first int) {
	s := k.spans[i]
	f := k.fixed[i*k.width:][:s.to-s.from]
	acc = acc[:len(dst)]
	for x := range acc {
		acc[x] = 1 << (precision - 1)
	}
	j := 0
	// Four rows a pass: the sums travel through memory less often.
	for ; j+4 <= len(f); j += 4 {
		c0, c1, c2, c3 := f[j], f[j+1], f[j+2], f[j+3]
		y := s.from - first + j
		r0, r1, r2, r3 := src.row(y)[:len(acc)], src.row(y + 1)[:len(acc)], src.row(y + 2)[:len(acc)], src.row(y + 3)[:len(acc)]
		for x := range acc {
			acc[x] += int32(r0[x])*c0 + int32(r1[x])*c1 + int32(r2[x])*c2 + int32(r3[x])*c3
		}
	}
	for ; j < len(f); j++ {
		c := f[j]
		row := src.row(s.from - first + j)[:len(acc)]
		for x, v := range row {
			acc[x] += int32(v) * c
		}
	}
	for x, v := range acc {
		dst[x] = clip8(v >> precision)
	}
}

func clip8(v int32) byte {
	if uint32(v) > 255 {
		// All ones where v is positive, so 255, and 0 where it is negative.
		v = ^(v >> 31)
	}
	return byte(v)
}
