package img

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"image"

	"golang.org/x/image/vp8"
	"golang.org/x/image/vp8l"

	"vlmo-train/data/img/internal/pixel"
)

// webpFrame is the first frame of a WebP file.
type webpFrame struct {
	canvasW, canvasH int // 0 where the file has no VP8X header
	x, y             int // of the frame on the canvas
	lossless         bool
	data             []byte // payload of its VP8 or VP8L chunk
}

// scanWebP walks the chunks of a RIFF file up to its first picture, into the
// first frame of an animation. The alpha of a lossy picture is passed over. A
// file that is shorter than it says is refused, whatever it lacks, as by libwebp.
func scanWebP(data []byte) (f webpFrame, err error) {
	if n := uint64(binary.LittleEndian.Uint32(data[4:])); n > uint64(len(data)-8) {
		return f, fmt.Errorf("truncated: file of %d bytes, %d are there", n+8, len(data))
	}
	u24 := func(b []byte) int { return int(b[0]) | int(b[1])<<8 | int(b[2])<<16 }
	for rest := data[12:]; len(rest) >= 8; {
		id, n := string(rest[:4]), uint64(binary.LittleEndian.Uint32(rest[4:]))
		rest = rest[8:]
		if n > uint64(len(rest)) {
			return f, fmt.Errorf("truncated: chunk %q of %d bytes, %d left", id, n, len(rest))
		}
		body := rest[:n]
		switch id {
		case "VP8X":
			if n < 10 {
				return f, fmt.Errorf("chunk VP8X has %d bytes, want 10", n)
			}
			f.canvasW, f.canvasH = u24(body[4:])+1, u24(body[7:])+1
		case "ANMF":
			if n < 16 {
				return f, fmt.Errorf("chunk ANMF has %d bytes, want 16 or more", n)
			}
			f.x, f.y = 2*u24(body), 2*u24(body[3:])
			rest = body[16:]
			continue
		case "VP8 ", "VP8L":
			f.lossless = id == "VP8L"
			f.data = body
			return f, nil
		}
		rest = rest[min(n+n&1, uint64(len(rest))):]
	}
	return f, errors.New("truncated: no picture")
}

func decodeWebP(data []byte, opt Options) (*Image, error) {
	f, err := scanWebP(data)
	if err != nil {
		return nil, err
	}
	var w, h int
	r := bytes.NewReader(f.data)
	lossy := vp8.NewDecoder()
	if f.lossless {
		c, err := vp8l.DecodeConfig(r)
		if err != nil {
			return nil, err
		}
		r.Reset(f.data)
		w, h = c.Width, c.Height
	} else {
		lossy.Init(r, len(f.data))
		c, err := lossy.DecodeFrameHeader()
		if err != nil {
			return nil, err
		}
		w, h = c.Width, c.Height
	}
	if f.canvasW == 0 {
		f.canvasW, f.canvasH = w, h
	}
	if err := opt.check(f.canvasW, f.canvasH); err != nil {
		return nil, err
	}
	if w <= 0 || h <= 0 || f.x+w > f.canvasW || f.y+h > f.canvasH {
		return nil, fmt.Errorf("frame of %dx%d at (%d, %d) is not inside the canvas of %dx%d", w, h, f.x, f.y, f.canvasW, f.canvasH)
	}

	var m *Image
	if f.lossless {
		src, err := vp8l.Decode(r)
		if err != nil {
			return nil, err
		}
		if m, err = convert(src, false); err != nil {
			return nil, err
		}
	} else {
		src, err := lossy.DecodeFrame()
		if err != nil {
			return nil, err
		}
		m = fromVP8(src)
	}
	if m.W == f.canvasW && m.H == f.canvasH {
		return m, nil
	}
	canvas := New(f.canvasW, f.canvasH)
	for y := range m.H {
		copy(canvas.Pix[3*((f.y+y)*canvas.W+f.x):], m.Pix[3*y*m.W:][:3*m.W])
	}
	return canvas, nil
}

// fromVP8 converts the planes of a decoded VP8 frame as libwebp does by
// default: its two-step 9-3-3-1 chroma filter, then 14-bit fixed-point BT.601
// with studio range.
func fromVP8(m *image.YCbCr) *Image {
	w, h := m.Rect.Dx(), m.Rect.Dy()
	cw, ch := (w+1)/2, (h+1)/2
	dst := New(w, h)
	for y := range h {
		// A row lies between chroma row near, of weight 3, and far.
		near := y / 2
		far := min(max(near+y%2*2-1, 0), ch-1)
		un, uf := m.Cb[near*m.CStride:][:cw], m.Cb[far*m.CStride:][:cw]
		vn, vf := m.Cr[near*m.CStride:][:cw], m.Cr[far*m.CStride:][:cw]
		luma := m.Y[y*m.YStride:][:w]
		d := dst.Pix[3*y*w:][:3*w]
		for x, l := range luma {
			c := x / 2
			e := min(max(c+x%2*2-1, 0), cw-1)
			var u, v int32
			if c == e { // the left or the right edge
				u = (3*int32(un[c]) + int32(uf[c]) + 2) >> 2
				v = (3*int32(vn[c]) + int32(vf[c]) + 2) >> 2
			} else {
				u = filterVP8(un[c], un[e], uf[c], uf[e])
				v = filterVP8(vn[c], vn[e], vf[c], vf[e])
			}
			t := int32(l) * 19077 >> 8
			p := d[3*x : 3*x+3 : 3*x+3]
			p[0] = pixel.Clip((t + v*26149>>8 - 14234) >> 6)
			p[1] = pixel.Clip((t - u*6419>>8 - v*13320>>8 + 8708) >> 6)
			p[2] = pixel.Clip((t + u*33050>>8 - 17685) >> 6)
		}
	}
	return dst
}

// filterVP8 weighs four chroma samples: nn, in the near row and column, 9; nf,
// in the near row and the far column, and fn 3; ff 1. libwebp rounds twice.
func filterVP8(nn, nf, fn, ff byte) int32 {
	a, b, c, d := int32(nn), int32(nf), int32(fn), int32(ff)
	diag := (a + 3*b + 3*c + d + 8) >> 3
	return (diag + a) >> 1
}
