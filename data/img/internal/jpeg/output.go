package jpeg

import (
	"errors"

	"vlmo-train/data/img/internal/pixel"
)

// allocate takes the memory of the picture.
func (d *decoder) allocate() {
	d.pix = make([]byte, 3*d.w*d.h)
	for i := range d.comps {
		c := &d.comps[i]
		// Upsampling works on 16 samples at a time.
		n := (c.w + 15) &^ 15
		c.samples = make([]byte, 16*c.v*c.stride+16)
		if c.fx > 1 || c.fy > 1 {
			c.line = make([]byte, c.fx*n)
		}
		if len(d.sums) < n+2 {
			d.sums = make([]uint16, n+2)
		}
	}
}

// finish is called at the end of the file: it makes the picture of stored
// coefficients.
func (d *decoder) finish() error {
	if d.comps == nil {
		return errors.New("no frame")
	}
	if d.done {
		return nil
	}
	for i := range d.comps {
		if !d.comps[i].latched {
			return errors.New("no scan of a component")
		}
	}
	d.allocate()
	var block [64]int16
	for my := range d.my {
		for i := range d.comps {
			c := &d.comps[i]
			for v := range c.v {
				row := c.samples[(my&1*c.v+v)*8*c.stride:]
				coefs := c.coefs[64*(my*c.v+v)*c.bw:]
				for bx := range c.bw {
					b := (*[64]int16)(coefs[64*bx:])
					for k, q := range c.quant {
						block[k] = b[k] * int16(q)
					}
					inverseDCT(row[8*bx:], c.stride, &block, 63)
				}
			}
		}
		d.emit(my)
	}
	return nil
}

// emit writes the rows of the picture that can be upsampled once row my of MCUs
// is decoded: the last waits for the samples below it.
func (d *decoder) emit(my int) {
	from, to := max(8*d.maxV*my-1, 0), 8*d.maxV*(my+1)-1
	if my == d.my-1 {
		to = d.h
	}
	for y := from; y < to; y++ {
		var rows [4][]byte
		for i := range d.comps {
			rows[i] = d.upsample(&d.comps[i], y)[:d.w]
		}
		out := d.pix[3*y*d.w:][:3*d.w]
		switch d.space() {
		case gray:
			for x, v := range rows[0] {
				p := out[3*x : 3*x+3 : 3*x+3]
				p[0], p[1], p[2] = v, v, v
			}
		case rgb:
			r, g, b := rows[0], rows[1], rows[2]
			for x := range r {
				p := out[3*x : 3*x+3 : 3*x+3]
				p[0], p[1], p[2] = r[x], g[x], b[x]
			}
		case yCbCr:
			pixel.Convert(out, rows[0], rows[1], rows[2])
		case cmyk:
			for x, k := range rows[3] {
				white := 255 - int(^k)
				for c := range 3 {
					out[3*x+c] = ink(^rows[c][x], white)
				}
			}
		case ycck:
			pixel.Convert(out, rows[0], rows[1], rows[2])
			for x, k := range rows[3] {
				white := 255 - int(^k)
				for c := range 3 {
					// libjpeg's CMY is 255 less RGB, which Pillow inverts again.
					out[3*x+c] = ink(out[3*x+c], white)
				}
			}
		}
	}
}

// ink is Pillow's CMYK to RGB conversion of one ink, with white = 255 less the
// black.
func ink(c byte, white int) byte {
	t := int(c)*white + 128
	return byte(max(white-(t+t>>8)>>8, 0))
}

type space uint8

const (
	gray space = iota
	yCbCr
	rgb
	cmyk
	ycck
)

// space is what the components are, by libjpeg's rules. Four components are
// stored inverted, as Adobe does; Pillow takes that for granted.
func (d *decoder) space() space {
	switch len(d.comps) {
	case 1:
		return gray
	case 4:
		if d.adobe == 2 {
			return ycck
		}
		return cmyk
	}
	switch {
	case d.jfif:
	case d.adobe == 0:
		return rgb
	case d.adobe < 0 && d.comps[0].id == 'R' && d.comps[1].id == 'G' && d.comps[2].id == 'B':
		return rgb
	}
	return yCbCr
}

// row is row y of c's samples, y not beyond the picture.
func (c *component) row(y int) []byte {
	return c.samples[y%(16*c.v)*c.stride:][:c.w]
}

// upsample returns row y of the picture for component c: triangle-filtered
// where the factors are 2×1, 1×2 or 2×2, else replicated, and replicated where a
// row has at most two samples.
func (d *decoder) upsample(c *component, y int) []byte {
	if c.fx == 1 && c.fy == 1 {
		return c.row(y)
	}
	cy := y / c.fy
	row := c.row(cy)
	near := row
	if c.fy == 2 {
		near = c.row(min(max(cy+y%2*2-1, 0), c.rows-1))
	}
	switch {
	case c.fx == 2 && c.fy == 2 && c.w > 2:
		pixel.Triangle(c.line, row, near, d.sums)
	case c.fx == 2 && c.fy == 1 && c.w > 2:
		triangle(c.line, row)
	case c.fx == 1 && c.fy == 2:
		bias := int32(1 + y%2)
		for x, v := range row {
			c.line[x] = byte((3*int32(v) + int32(near[x]) + bias) >> 2)
		}
	case c.fx == 1:
		return row
	default:
		for x := range c.line[:c.fx*c.w] {
			c.line[x] = row[x/c.fx]
		}
	}
	return c.line
}

// triangle doubles a row: out[2i] is (3 in[i] + in[i-1] + 1) >> 2, out[2i+1] is
// (3 in[i] + in[i+1] + 2) >> 2, where the first and the last take in[i] for the
// neighbour they lack.
func triangle(out, in []byte) {
	n := len(in)
	prev := int32(in[0])
	for i, b := range in {
		v, next := int32(b), int32(in[min(i+1, n-1)])
		p := out[2*i : 2*i+2 : 2*i+2]
		p[0] = byte((3*v + prev + 1) >> 2)
		p[1] = byte((3*v + next + 2) >> 2)
		prev = v
	}
}
