// Package jpeg decodes JPEG files to RGB, to the byte as libjpeg-turbo does
// with its default settings, which Pillow keeps: its accurate integer inverse
// DCT, its triangle ("fancy") chroma upsampling and its colour conversion.
//
// It is there beside image/jpeg because that has another inverse DCT, which
// differs from libjpeg's by up to three levels, hands out planes that are still
// to be upsampled, and takes more than three times as long.
//
// Baseline, extended and progressive JPEG with Huffman or arithmetic coding and
// 8 bits a sample, of one, three or four components, with sampling factors of
// which each divides the largest. A progressive file whose scans leave bits out
// is decoded as it is; libjpeg smooths it.
//
// With the build tag turbo and cgo, libjpeg-turbo decodes what is not
// progressive; the results are the same.
package jpeg

import (
	"bytes"
	"errors"
	"fmt"
)

// Markers (ITU-T T.81, table B.1).
const (
	mSOF0 = 0xc0
	mSOF1 = 0xc1
	mSOF2 = 0xc2
	mSOF9 = 0xc9 // arithmetic coding, sequential
	mSOFA = 0xca // arithmetic coding, progressive
	mDHT  = 0xc4
	mDAC  = 0xcc
	mRST0 = 0xd0
	mRST7 = 0xd7
	mSOI  = 0xd8
	mEOI  = 0xd9
	mSOS  = 0xda
	mDQT  = 0xdb
	mDRI  = 0xdd
	mAPP0 = 0xe0
	mAPPE = 0xee
	mTEM  = 0x01
)

// unsupported names the coding processes that this package lacks, by the start
// of frame marker.
var unsupported = map[byte]string{
	0xc3: "lossless",
	0xc5: "hierarchical", 0xc6: "hierarchical", 0xc7: "hierarchical",
	0xcb: "lossless", 0xcd: "hierarchical", 0xce: "hierarchical", 0xcf: "hierarchical",
}

var errTruncated = errors.New("truncated")

// component is one of a frame's.
type component struct {
	index   int
	id      byte
	h, v    int // sampling factors
	fx, fy  int // the largest factors over these
	tq      byte
	w, rows int // samples of the picture, without padding
	bw, bh  int // blocks, whole MCUs

	quant   [64]uint16 // natural order, as of its first scan
	latched bool

	coefs []int16 // [bh, bw, 64] in natural order; nil where blocks go straight to the samples

	// samples holds two rows of MCUs, the one in work and the one before, each
	// of 8v rows of stride samples: row y is at y mod 16v.
	samples []byte
	stride  int

	line []byte // one row of the picture, upsampled

	// of the scan
	dc, ac *huffman
	td, ta byte // their numbers
	pred   int32
}

type decoder struct {
	data []byte
	at   int

	w, h         int
	progressive  bool
	comps        []component
	maxH, maxV   int
	mx, my       int // MCUs
	quant        [4]*[64]uint16
	dcTab, acTab [4]*huffman
	arithmetic   bool
	dcCond       [4]byte // conditioning of arithmetic coding
	acCond       [4]byte
	interval     int // MCUs between restart markers; 0: none
	jfif         bool
	adobe        int // colour transform of the Adobe marker; -1: no marker
	seg          []byte
	sums         []uint16
	done         bool // the picture is complete
	whole        bool // libjpeg-turbo has read the file to its end
	plain        bool // without libjpeg-turbo, for tests

	pix []byte
}

// Decode decodes a JPEG file to w×h RGB pixels. size is told the size that the
// header claims before memory is taken for it; its error is returned.
func Decode(data []byte, size func(w, h int) error) (pix []byte, w, h int, err error) {
	return decode(newDecoder(data), size)
}

func newDecoder(data []byte) *decoder {
	return &decoder{data: data, adobe: -1, dcCond: [4]byte{0x10, 0x10, 0x10, 0x10}, acCond: [4]byte{5, 5, 5, 5}}
}

func decode(d *decoder, size func(w, h int) error) (pix []byte, w, h int, err error) {
	data := d.data
	if len(data) < 2 || data[0] != 0xff || data[1] != mSOI {
		return nil, 0, 0, errors.New("no SOI marker")
	}
	d.at = 2
	if err := d.file(size); err != nil {
		return nil, 0, 0, err
	}
	return d.pix, d.w, d.h, nil
}

// file reads the markers up to EOI.
func (d *decoder) file(size func(w, h int) error) error {
	for {
		m, err := d.marker()
		if err != nil {
			return err
		}
		switch {
		case m == mEOI:
			return d.finish()
		case m == mSOI, m == mTEM, m >= mRST0 && m <= mRST7:
			continue // no parameters
		}
		if d.at+2 > len(d.data) {
			return errTruncated
		}
		n := int(d.data[d.at])<<8 | int(d.data[d.at+1])
		if n < 2 {
			return fmt.Errorf("marker 0xff%02x has length %d", m, n)
		}
		if d.at+n > len(d.data) {
			return fmt.Errorf("%w within marker 0xff%02x", errTruncated, m)
		}
		body := d.data[d.at+2 : d.at+n]
		d.at += n
		switch m {
		case mSOF0, mSOF1, mSOF2, mSOF9, mSOFA:
			err = d.frame(body, m, size)
		case mDHT:
			err = d.huffmanTables(body)
		case mDAC:
			err = d.conditioning(body)
		case mDQT:
			err = d.quantTables(body)
		case mDRI:
			if len(body) != 2 {
				return fmt.Errorf("DRI marker has %d bytes, want 2", len(body))
			}
			d.interval = int(body[0])<<8 | int(body[1])
		case mSOS:
			if err = d.scan(body); d.whole {
				return err
			}
		case mAPP0:
			d.jfif = d.jfif || bytes.HasPrefix(body, []byte("JFIF\x00"))
		case mAPPE:
			if len(body) >= 12 && bytes.HasPrefix(body, []byte("Adobe")) {
				d.adobe = int(body[11])
			}
		default:
			if name := unsupported[m]; name != "" {
				return fmt.Errorf("%s JPEG (marker 0xff%02x) is not supported", name, m)
			}
		}
		if err != nil {
			return err
		}
	}
}

// marker skips to the next marker, over what does not belong there, and returns
// its second byte.
func (d *decoder) marker() (byte, error) {
	for {
		i := bytes.IndexByte(d.data[d.at:], 0xff)
		if i < 0 {
			return 0, fmt.Errorf("%w: no EOI marker", errTruncated)
		}
		d.at += i
		for d.at < len(d.data) && d.data[d.at] == 0xff {
			d.at++
		}
		if d.at == len(d.data) {
			return 0, fmt.Errorf("%w: no EOI marker", errTruncated)
		}
		m := d.data[d.at]
		d.at++
		if m != 0 {
			return m, nil
		}
	}
}

func (d *decoder) frame(b []byte, marker byte, size func(w, h int) error) error {
	if d.comps != nil {
		return errors.New("more than one frame")
	}
	if len(b) < 6 || len(b) != 6+3*int(b[5]) {
		return fmt.Errorf("frame header has %d bytes", len(b))
	}
	if b[0] != 8 {
		return fmt.Errorf("%d bits a sample are not supported", b[0])
	}
	d.h, d.w = int(b[1])<<8|int(b[2]), int(b[3])<<8|int(b[4])
	n := int(b[5])
	if n != 1 && n != 3 && n != 4 {
		return fmt.Errorf("%d components are not supported", n)
	}
	d.progressive = marker == mSOF2 || marker == mSOFA
	d.arithmetic = marker >= mSOF9
	d.comps = make([]component, n)
	for i := range d.comps {
		c := &d.comps[i]
		p := b[6+3*i:]
		c.index = i
		c.id, c.h, c.v, c.tq = p[0], int(p[1]>>4), int(p[1]&15), p[2]
		if n == 1 && c.h >= 1 && c.h <= 4 && c.v >= 1 && c.v <= 4 {
			c.h, c.v = 1, 1 // only the relation to other components counts
		}
		if c.h < 1 || c.h > 4 || c.v < 1 || c.v > 4 || c.tq > 3 {
			return fmt.Errorf("component %d has sampling factors %d, %d and quantisation table %d", i, c.h, c.v, c.tq)
		}
		for _, o := range d.comps[:i] {
			if o.id == c.id {
				return fmt.Errorf("two components have the number %d", c.id)
			}
		}
		d.maxH, d.maxV = max(d.maxH, c.h), max(d.maxV, c.v)
	}
	if err := size(d.w, d.h); err != nil {
		return err
	}
	d.mx, d.my = (d.w+8*d.maxH-1)/(8*d.maxH), (d.h+8*d.maxV-1)/(8*d.maxV)
	for i := range d.comps {
		c := &d.comps[i]
		if d.maxH%c.h != 0 || d.maxV%c.v != 0 {
			return fmt.Errorf("sampling factors %d, %d beside %d, %d are not supported", c.h, c.v, d.maxH, d.maxV)
		}
		c.fx, c.fy = d.maxH/c.h, d.maxV/c.v
		c.w, c.rows = (d.w*c.h+d.maxH-1)/d.maxH, (d.h*c.v+d.maxV-1)/d.maxV
		c.bw, c.bh = d.mx*c.h, d.my*c.v
		c.stride = 8 * c.bw
	}
	return nil
}

func (d *decoder) quantTables(b []byte) error {
	for len(b) > 0 {
		id, wide := b[0]&15, int(b[0]>>4)
		n := 64 << wide
		if id > 3 || wide > 1 || len(b) < 1+n {
			return errors.New("bad DQT marker")
		}
		t := new([64]uint16)
		for k := range t {
			if wide == 0 {
				t[natural[k]] = uint16(b[1+k])
			} else {
				t[natural[k]] = uint16(b[1+2*k])<<8 | uint16(b[2+2*k])
			}
		}
		d.quant[id] = t
		b = b[1+n:]
	}
	return nil
}

// natural is the position in the block of the k-th coefficient of the zigzag
// order.
var natural = [64]uint8{
	0, 1, 8, 16, 9, 2, 3, 10,
	17, 24, 32, 25, 18, 11, 4, 5,
	12, 19, 26, 33, 40, 48, 41, 34,
	27, 20, 13, 6, 7, 14, 21, 28,
	35, 42, 49, 56, 57, 50, 43, 36,
	29, 22, 15, 23, 30, 37, 44, 51,
	58, 59, 52, 45, 38, 31, 39, 46,
	53, 60, 61, 54, 47, 55, 62, 63,
}
