package img

import (
	"fmt"
	"math"

	"vlmo-train/data/img/internal/pixel"
)

// Box is a rectangle of a picture in pixels, (X0, Y0) inclusive to (X1, Y1)
// exclusive; it may cut pixels. float32 because Pillow's box is.
type Box struct {
	X0, Y0, X1, Y1 float32
}

// Resize returns src resized to w×h, equal to Pillow's
// Image.resize((w, h), BICUBIC) to the byte: cubic convolution (a = -0.5) whose
// support grows with the factor of shrinking, horizontally and then vertically,
// in 22-bit fixed point, rounded to 8 bits between. That is Pillow up to 12, which
// the original was trained with; Pillow 13 goes vertically first at some sizes,
// mostly where height shrinks more than width.
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
	tmp                  []byte // [rows of the source in use, dst.W, 3]
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
		if r.horizontal.set(axis{src.w, box.X0, box.X1, dst.W}) && pixel.Vector {
			r.horizontal.pair()
		}
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
		for y := range dst.H {
			r.vertical.acrossRows(dst.Pix[3*y*dst.W:][:3*dst.W], src, y, first)
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
	fixed []int32   // [axis.out, width], scaled by 1<<pixel.Precision
	exact []float64 // [width]

	// The same for pixel.Row, for the outputs but the last, or last ones, for
	// which it would read or write outside of a row.
	from   []int32 // [outputs], in bytes
	paired []int32 // [outputs, pairs, 8]
	pairs  int
}

// span is the range of input samples an output depends on.
type span struct{ from, to int }

// set computes the coefficients for a; it reports false where they are there
// already. The conversions to float64 keep compilers from fusing a product with
// a sum: the coefficients are the same on every platform.
func (k *kernel) set(a axis) bool {
	if k.axis == a {
		return false
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
			fixed[j] = int32(math.Copysign(0.5, v) + float64(v*(1<<pixel.Precision)))
		}
	}
	return true
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
	n := 0
	if pixel.Vector {
		n = len(k.from)
		pixel.Row(dst, src, k.from, k.paired, k.pairs)
	}
	for i := n; i < len(k.spans); i++ {
		s := k.spans[i]
		f := k.fixed[i*k.width:][:s.to-s.from]
		p := src[3*s.from : 3*s.to]
		r, g, b := int32(1)<<(pixel.Precision-1), int32(1)<<(pixel.Precision-1), int32(1)<<(pixel.Precision-1)
		for _, c := range f {
			r += int32(p[0]) * c
			g += int32(p[1]) * c
			b += int32(p[2]) * c
			p = p[3:]
		}
		d := dst[3*i : 3*i+3 : 3*i+3]
		d[0] = pixel.Clip(r >> pixel.Precision)
		d[1] = pixel.Clip(g >> pixel.Precision)
		d[2] = pixel.Clip(b >> pixel.Precision)
	}
}

// pair lays the coefficients out for pixel.Row.
func (k *kernel) pair() {
	most := 0
	for _, s := range k.spans {
		most = max(most, s.to-s.from)
	}
	k.pairs = (most + 1) / 2
	// A pair is read with two bytes more.
	n := 0
	for n < len(k.spans)-1 && 3*k.spans[n].from+6*k.pairs+2 <= 3*k.axis.size {
		n++
	}
	if cap(k.from) < n {
		k.from = make([]int32, n)
	}
	if cap(k.paired) < 8*k.pairs*n {
		k.paired = make([]int32, 8*k.pairs*n)
	}
	k.from, k.paired = k.from[:n], k.paired[:8*k.pairs*n]
	clear(k.paired)
	for i, s := range k.spans[:n] {
		k.from[i] = int32(3 * s.from)
		for j, c := range k.fixed[i*k.width:][:s.to-s.from] {
			p := k.paired[8*(k.pairs*i+j/2)+3*(j%2):]
			p[0], p[1], p[2] = c, c, c
		}
	}
}

// acrossRows computes output row i from the rows of src, whose row 0 is sample
// first of the axis.
func (k *kernel) acrossRows(dst []byte, src view, i, first int) {
	s := k.spans[i]
	pixel.Columns(dst, src.pix[(s.from-first)*src.stride:], src.stride, k.fixed[i*k.width:][:s.to-s.from])
}
