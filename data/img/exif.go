package img

import (
	"bytes"
	"encoding/binary"
)

// orientation returns the EXIF orientation (1 to 8) of a JPEG, PNG or WebP
// file, 1 where it says none.
func orientation(data []byte, format string) int {
	switch format {
	case "JPEG":
		for at := 2; at+4 <= len(data) && data[at] == 0xff; {
			m := data[at+1]
			if m == 0xff { // fill byte
				at++
				continue
			}
			n := int(data[at+2])<<8 | int(data[at+3])
			if m == 0xda || at+2+n > len(data) || n < 2 {
				break
			}
			if body := data[at+4 : at+2+n]; m == 0xe1 && bytes.HasPrefix(body, []byte("Exif\x00\x00")) {
				return tiffOrientation(body[6:])
			}
			at += 2 + n
		}
	case "PNG":
		for at := uint64(8); at+12 <= uint64(len(data)); {
			n := uint64(binary.BigEndian.Uint32(data[at:]))
			if at+12+n > uint64(len(data)) {
				break
			}
			if string(data[at+4:at+8]) == "eXIf" {
				return tiffOrientation(data[at+8 : at+8+n])
			}
			at += 12 + n
		}
	case "WebP":
		for at := uint64(12); at+8 <= uint64(len(data)); {
			n := uint64(binary.LittleEndian.Uint32(data[at+4:]))
			if at+8+n > uint64(len(data)) {
				break
			}
			if string(data[at:at+4]) == "EXIF" {
				return tiffOrientation(bytes.TrimPrefix(data[at+8:at+8+n], []byte("Exif\x00\x00")))
			}
			at += 8 + n + n&1
		}
	}
	return 1
}

// tiffOrientation returns tag 0x112 of the first directory of a TIFF header, 1
// where there is none.
func tiffOrientation(b []byte) int {
	var order binary.ByteOrder = binary.LittleEndian
	switch {
	case len(b) < 8:
		return 1
	case string(b[:4]) == "MM\x00*":
		order = binary.BigEndian
	case string(b[:4]) != "II*\x00":
		return 1
	}
	at := uint64(order.Uint32(b[4:]))
	if at+2 > uint64(len(b)) {
		return 1
	}
	n := int(order.Uint16(b[at:]))
	for e := b[at+2:]; n > 0 && len(e) >= 12; n-- {
		if order.Uint16(e) == 0x112 && order.Uint16(e[2:]) == 3 { // SHORT
			if v := int(order.Uint16(e[8:])); v >= 1 && v <= 8 {
				return v
			}
			return 1
		}
		e = e[12:]
	}
	return 1
}

// turned returns m as the orientation o says it is to be seen; m itself for 1.
func turned(m *Image, o int) *Image {
	if o <= 1 || o > 8 {
		return m
	}
	w, h := m.W, m.H
	out := New(w, h)
	if o >= 5 {
		out.W, out.H = h, w
	}
	for y := range out.H {
		for x := range out.W {
			// (u, v) is the stored pixel that is seen at (x, y).
			u, v := x, y
			if o >= 5 {
				u, v = y, x
			}
			if o == 2 || o == 3 || o == 7 || o == 8 {
				u = w - 1 - u
			}
			if o == 3 || o == 4 || o == 6 || o == 7 {
				v = h - 1 - v
			}
			copy(out.Pix[3*(y*out.W+x):][:3], m.Pix[3*(v*w+u):][:3])
		}
	}
	return out
}
