package jpeg

import (
	"errors"
	"fmt"
)

// arithState is an entry of the estimation of a probability (T.81, table D.3):
// the size of the less probable symbol's part, and the states that follow that
// symbol and the other; flip says that the less probable symbol becomes the more
// probable one.
type arithState struct {
	qe       uint16
	lps, mps uint8
	flip     uint8
}

// arithHalf is a state of its own with a probability of about one half.
const arithHalf = 113

var arithStates = [114]arithState{
	{0x5a1d, 1, 1, 1}, {0x2586, 14, 2, 0}, {0x1114, 16, 3, 0}, {0x080b, 18, 4, 0},
	{0x03d8, 20, 5, 0}, {0x01da, 23, 6, 0}, {0x00e5, 25, 7, 0}, {0x006f, 28, 8, 0},
	{0x0036, 30, 9, 0}, {0x001a, 33, 10, 0}, {0x000d, 35, 11, 0}, {0x0006, 9, 12, 0},
	{0x0003, 10, 13, 0}, {0x0001, 12, 13, 0}, {0x5a7f, 15, 15, 1}, {0x3f25, 36, 16, 0},
	{0x2cf2, 38, 17, 0}, {0x207c, 39, 18, 0}, {0x17b9, 40, 19, 0}, {0x1182, 42, 20, 0},
	{0x0cef, 43, 21, 0}, {0x09a1, 45, 22, 0}, {0x072f, 46, 23, 0}, {0x055c, 48, 24, 0},
	{0x0406, 49, 25, 0}, {0x0303, 51, 26, 0}, {0x0240, 52, 27, 0}, {0x01b1, 54, 28, 0},
	{0x0144, 56, 29, 0}, {0x00f5, 57, 30, 0}, {0x00b7, 59, 31, 0}, {0x008a, 60, 32, 0},
	{0x0068, 62, 33, 0}, {0x004e, 63, 34, 0}, {0x003b, 32, 35, 0}, {0x002c, 33, 9, 0},
	{0x5ae1, 37, 37, 1}, {0x484c, 64, 38, 0}, {0x3a0d, 65, 39, 0}, {0x2ef1, 67, 40, 0},
	{0x261f, 68, 41, 0}, {0x1f33, 69, 42, 0}, {0x19a8, 70, 43, 0}, {0x1518, 72, 44, 0},
	{0x1177, 73, 45, 0}, {0x0e74, 74, 46, 0}, {0x0bfb, 75, 47, 0}, {0x09f8, 77, 48, 0},
	{0x0861, 78, 49, 0}, {0x0706, 79, 50, 0}, {0x05cd, 48, 51, 0}, {0x04de, 50, 52, 0},
	{0x040f, 50, 53, 0}, {0x0363, 51, 54, 0}, {0x02d4, 52, 55, 0}, {0x025c, 53, 56, 0},
	{0x01f8, 54, 57, 0}, {0x01a4, 55, 58, 0}, {0x0160, 56, 59, 0}, {0x0125, 57, 60, 0},
	{0x00f6, 58, 61, 0}, {0x00cb, 59, 62, 0}, {0x00ab, 61, 63, 0}, {0x008f, 61, 32, 0},
	{0x5b12, 65, 65, 1}, {0x4d04, 80, 66, 0}, {0x412c, 81, 67, 0}, {0x37d8, 82, 68, 0},
	{0x2fe8, 83, 69, 0}, {0x293c, 84, 70, 0}, {0x2379, 86, 71, 0}, {0x1edf, 87, 72, 0},
	{0x1aa9, 87, 73, 0}, {0x174e, 72, 74, 0}, {0x1424, 72, 75, 0}, {0x119c, 74, 76, 0},
	{0x0f6b, 74, 77, 0}, {0x0d51, 75, 78, 0}, {0x0bb6, 77, 79, 0}, {0x0a40, 77, 48, 0},
	{0x5832, 80, 81, 1}, {0x4d1c, 88, 82, 0}, {0x438e, 89, 83, 0}, {0x3bdd, 90, 84, 0},
	{0x34ee, 91, 85, 0}, {0x2eae, 92, 86, 0}, {0x299a, 93, 87, 0}, {0x2516, 86, 71, 0},
	{0x5570, 88, 89, 1}, {0x4ca9, 95, 90, 0}, {0x44d9, 96, 91, 0}, {0x3e22, 97, 92, 0},
	{0x3824, 99, 93, 0}, {0x32b4, 99, 94, 0}, {0x2e17, 93, 86, 0}, {0x56a8, 95, 96, 1},
	{0x4f46, 101, 97, 0}, {0x47e5, 102, 98, 0}, {0x41cf, 103, 99, 0}, {0x3c3d, 104, 100, 0},
	{0x375e, 99, 93, 0}, {0x5231, 105, 102, 0}, {0x4c0f, 106, 103, 0}, {0x4639, 107, 104, 0},
	{0x415e, 103, 99, 0}, {0x5627, 105, 106, 1}, {0x50e7, 108, 107, 0}, {0x4b85, 109, 103, 0},
	{0x5597, 110, 109, 0}, {0x504f, 111, 107, 0}, {0x5a10, 110, 111, 1}, {0x5522, 112, 109, 0},
	{0x59eb, 112, 111, 1}, {0x5a1d, 113, 113, 0},
}

// arith decodes the entropy-coded data of one interval (T.81, annex D). A bin of
// statistics is a state, and in its top bit the more probable symbol.
type arith struct {
	buf  []byte
	pos  int
	c, a uint32
	ct   int

	dc      [4][64]uint8
	ac      [4][256]uint8
	half    uint8
	context [4]uint8 // of the last difference, by component
}

// reset begins an interval.
func (r *arith) reset(buf []byte) {
	*r = arith{buf: buf, ct: -16, half: arithHalf}
}

// bit decodes a decision with the statistics of bin. What is missing at the end
// of the data is 0.
func (r *arith) bit(bin *uint8) int {
	for r.a < 0x8000 {
		if r.ct--; r.ct < 0 {
			r.c <<= 8
			if r.pos < len(r.buf) {
				r.c |= uint32(r.buf[r.pos])
				r.pos++
			}
			if r.ct += 8; r.ct < 0 {
				// The first two bytes.
				if r.ct++; r.ct == 0 {
					r.a = 0x8000
				}
			}
		}
		r.a <<= 1
	}
	s := &arithStates[*bin&127]
	qe, more := uint32(s.qe), int(*bin>>7)
	r.a -= qe
	exchanged := r.a < qe // the less probable symbol has the larger part
	if upper := r.a << uint(r.ct); r.c >= upper {
		r.c -= upper
		r.a = qe
		if exchanged {
			*bin = *bin&0x80 | s.mps
			return more
		}
	} else {
		if r.a >= 0x8000 {
			return more
		}
		if !exchanged {
			*bin = *bin&0x80 | s.mps
			return more
		}
	}
	*bin = (*bin&0x80 ^ s.flip<<7) | s.lps
	return 1 - more
}

var errMagnitude = errors.New("arithmetic-coded value is too large")

// magnitude decodes the rest of a value whose first decisions gave m, with the
// bins from x on for its size and from there 14 further on for its bits.
func (r *arith) magnitude(bins []uint8, x, m int) (v int, err error) {
	for ; r.bit(&bins[x]) != 0; x++ {
		if m <<= 1; m == 0x8000 {
			return 0, errMagnitude
		}
	}
	return r.low(&bins[x+14], m), nil
}

// low decodes the bits below the highest of a value less 1.
func (r *arith) low(bin *uint8, m int) int {
	v := m
	for m >>= 1; m > 0; m >>= 1 {
		if r.bit(bin) != 0 {
			v |= m
		}
	}
	return v + 1
}

// difference decodes a DC difference (T.81, F.2.4.1) of component i.
func (r *arith) difference(i int, table byte, conditioning byte) (v int, err error) {
	bins := r.dc[table][:]
	at := int(r.context[i])
	if r.bit(&bins[at]) == 0 {
		r.context[i] = 0
		return 0, nil
	}
	sign := r.bit(&bins[at+1])
	at += 2 + sign
	m := r.bit(&bins[at])
	high := m // the power of two of the magnitude less 1
	if m == 0 {
		v = r.low(&bins[at+14], 0)
	} else {
		x := 20
		for ; r.bit(&bins[x]) != 0; x++ {
			if high <<= 1; high == 0x8000 {
				return 0, errMagnitude
			}
		}
		v = r.low(&bins[x+14], high)
	}
	lower, upper := conditioning&15, conditioning>>4
	switch {
	case high < 1<<lower>>1:
		r.context[i] = 0
	case high > 1<<upper>>1:
		r.context[i] = uint8(12 + 4*sign)
	default:
		r.context[i] = uint8(4 + 4*sign)
	}
	if sign != 0 {
		v = -v
	}
	return v, nil
}

// coefficients decodes AC coefficients first to last (T.81, F.2.4.2), shifted
// left by low.
func (r *arith) coefficients(b *[64]int16, quant *[64]uint16, table, kx byte, first, last int, low uint) (end int, err error) {
	bins := r.ac[table][:]
	for k := first; k <= last; k++ {
		at := 3 * (k - 1)
		if r.bit(&bins[at]) != 0 { // end of block
			break
		}
		for r.bit(&bins[at+1]) == 0 {
			at += 3
			if k++; k > last {
				return 0, errors.New("arithmetic-coded coefficient beyond the block")
			}
		}
		sign := r.bit(&r.half)
		at += 2
		v := 0
		if r.bit(&bins[at]) == 0 {
			v = 1
		} else if r.bit(&bins[at]) == 0 {
			v = r.low(&bins[at+14], 1)
		} else {
			x := 189
			if k > int(kx) {
				x = 217
			}
			if v, err = r.magnitude(bins, x, 2); err != nil {
				return 0, err
			}
		}
		if sign != 0 {
			v = -v
		}
		z := natural[k]
		b[z] = int16(v<<low) * int16(quant[z])
		end = k
	}
	return end, nil
}

// refine adds a bit to AC coefficients (T.81, G.2.3.2).
func (r *arith) refine(b *[64]int16, table byte, first, last int, low uint) error {
	bins := r.ac[table][:]
	plus, minus := int16(1)<<low, int16(-1)<<low
	known := last // the last coefficient that is not 0 yet
	for known > 0 && b[natural[known]] == 0 {
		known--
	}
	for k := first; k <= last; k++ {
		at := 3 * (k - 1)
		if k > known && r.bit(&bins[at]) != 0 {
			break
		}
		for {
			p := &b[natural[k]]
			if *p != 0 {
				if r.bit(&bins[at+2]) != 0 {
					if *p > 0 {
						*p += plus
					} else {
						*p += minus
					}
				}
				break
			}
			if r.bit(&bins[at+1]) != 0 {
				*p = plus
				if r.bit(&r.half) != 0 {
					*p = minus
				}
				break
			}
			at += 3
			if k++; k > last {
				return errors.New("arithmetic-coded coefficient beyond the block")
			}
		}
	}
	return nil
}

// conditioning reads a DAC marker.
func (d *decoder) conditioning(b []byte) error {
	for ; len(b) >= 2; b = b[2:] {
		class, id := b[0]>>4, b[0]&15
		switch {
		case class > 1 || id > 3 || class == 0 && b[1]&15 > b[1]>>4 || class == 1 && (b[1] < 1 || b[1] > 63):
			return fmt.Errorf("bad DAC marker: 0x%02x, %d", b[0], b[1])
		case class == 0:
			d.dcCond[id] = b[1]
		default:
			d.acCond[id] = b[1]
		}
	}
	if len(b) > 0 {
		return errors.New("bad DAC marker")
	}
	return nil
}

// arithBlock decodes what the scan has of a block.
func (s *scanner) arithBlock(b *[64]int16, c *component, quant *[64]uint16) (last int, err error) {
	r := s.arith
	if s.first == 0 && s.high == 0 {
		v, err := r.difference(c.index, c.td, s.d.dcCond[c.td])
		if err != nil {
			return 0, err
		}
		c.pred += int32(v)
		b[0] = int16(c.pred<<s.low) * int16(quant[0])
	} else if s.first == 0 {
		b[0] |= int16(r.bit(&r.half) << s.low)
	}
	switch {
	case s.last == 0:
		return 0, nil
	case s.high == 0:
		return r.coefficients(b, quant, c.ta, s.d.acCond[c.ta], max(s.first, 1), s.last, s.low)
	}
	return 0, r.refine(b, c.ta, s.first, s.last, s.low)
}
