package jpeg

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	lutBits  = 9
	fastBits = 10
)

// huffman decodes one table's codes.
type huffman struct {
	// lut has symbol<<8 | length for codes of up to lutBits bits, by the bits
	// to come; 0 where the code is longer.
	lut [1 << lutBits]uint16
	// fast has, for AC tables, value<<16 | run<<8 | length where code and value
	// have up to fastBits bits together. An end of block has run 64.
	fast [1 << fastBits]int32

	maxCode [17]int32 // by length, -1 where there is none
	offset  [17]int32 // index in vals of a code, less the code
	vals    [256]uint8
}

func (d *decoder) huffmanTables(b []byte) error {
	for len(b) > 0 {
		if len(b) < 17 || b[0]&15 > 3 || b[0]>>4 > 1 {
			return errors.New("bad DHT marker")
		}
		counts, total := b[1:17], 0
		for _, n := range counts {
			total += int(n)
		}
		if total > 256 || len(b) < 17+total {
			return errors.New("bad DHT marker")
		}
		t := new(huffman)
		if err := t.init(counts, b[17:17+total]); err != nil {
			return err
		}
		if b[0]>>4 == 0 {
			for _, v := range b[17 : 17+total] {
				if v > 15 {
					return fmt.Errorf("DC table has a value of %d bits", v)
				}
			}
			d.dcTab[b[0]&15] = t
		} else {
			t.initFast()
			d.acTab[b[0]&15] = t
		}
		b = b[17+total:]
	}
	return nil
}

func (t *huffman) init(counts, vals []byte) error {
	copy(t.vals[:], vals)
	code, k := int32(0), int32(0)
	for l := 1; l <= 16; l++ {
		t.offset[l], t.maxCode[l] = k-code, -1
		n := int32(counts[l-1])
		if code+n > 1<<l {
			return errors.New("too many codes in a Huffman table")
		}
		if l <= lutBits {
			for i := range n {
				first := (code + i) << (lutBits - l)
				for j := range int32(1) << (lutBits - l) {
					t.lut[first+j] = uint16(t.vals[k+i])<<8 | uint16(l)
				}
			}
		}
		code, k = code+n, k+n
		if n > 0 {
			t.maxCode[l] = code - 1
		}
		code <<= 1
	}
	return nil
}

func (t *huffman) initFast() {
	for i := range t.fast {
		e := t.lut[i>>(fastBits-lutBits)]
		length, run, size := int(e&255), int32(e>>12), int(e>>8&15)
		switch {
		case length == 0 || length+size > fastBits:
		case size > 0:
			v := int32(i>>(fastBits-length-size)) & (1<<size - 1)
			if v < 1<<(size-1) {
				v += -1<<size + 1
			}
			t.fast[i] = v<<16 | run<<8 | int32(length+size)
		case run == 0:
			t.fast[i] = 64<<8 | int32(length)
		}
	}
}

// bits reads a segment of entropy-coded data without its stuffing. The n top
// bits of acc are what comes next; below may be more of the same, never else.
type bits struct {
	buf     []byte
	pos     int
	acc     uint64
	n       uint
	missing uint // bits of acc and before it that stand in for what the segment lacks
}

// refill makes n at least 56.
func (b *bits) refill() {
	if b.pos+8 <= len(b.buf) {
		b.acc |= binary.BigEndian.Uint64(b.buf[b.pos:]) >> b.n
		k := (63 - b.n) >> 3
		b.pos += int(k)
		b.n += 8 * k
		return
	}
	for b.n <= 56 {
		if b.pos < len(b.buf) {
			b.acc |= uint64(b.buf[b.pos]) << (56 - b.n)
			b.pos++
		} else {
			b.missing += 8
		}
		b.n += 8
	}
}

// overrun reports whether more was read than there is.
func (b *bits) overrun() bool { return b.missing > b.n }

// take returns the next k bits, at most 16. The caller has refilled.
func (b *bits) take(k uint) int32 {
	v := int32(b.acc >> 1 >> (63 - k))
	b.acc <<= k
	b.n -= k
	return v
}

// extended returns the next k bits as a signed value (T.81, F.2.2.1).
func (b *bits) extended(k uint) int32 {
	v := b.take(k)
	if k > 0 && v < 1<<(k-1) {
		v += -1<<k + 1
	}
	return v
}

// symbol decodes a code. The caller has refilled.
func (b *bits) symbol(t *huffman) (byte, error) {
	if e := t.lut[b.acc>>(64-lutBits)]; e != 0 {
		b.acc <<= e & 255
		b.n -= uint(e & 255)
		return byte(e >> 8), nil
	}
	return b.longSymbol(t)
}

var errCode = errors.New("bad Huffman code")

func (b *bits) longSymbol(t *huffman) (byte, error) {
	for l := uint(lutBits + 1); l <= 16; l++ {
		if code := int32(b.acc >> (64 - l)); code <= t.maxCode[l] {
			b.acc <<= l
			b.n -= l
			return t.vals[(code+t.offset[l])&255], nil
		}
	}
	return 0, errCode
}

// segment returns the entropy-coded bytes up to the next marker, without
// stuffing, valid until the next call, and leaves the decoder at that marker.
func (d *decoder) segment() []byte {
	out := d.seg[:0]
	for {
		rest := d.data[d.at:]
		i := bytes.IndexByte(rest, 0xff)
		if i < 0 {
			out = append(out, rest...)
			d.at = len(d.data)
			break
		}
		j := i + 1
		for j < len(rest) && rest[j] == 0xff { // fill bytes
			j++
		}
		if j == len(rest) || rest[j] != 0 {
			out = append(out, rest[:i]...)
			d.at += i
			break
		}
		out = append(append(out, rest[:i]...), 0xff)
		d.at += j + 1
	}
	d.seg = out
	return out
}
