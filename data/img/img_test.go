package img

import (
	"bytes"
	"image/png"
	"testing"
)

func TestPlanes(t *testing.T) {
	m := New(16, 16)
	for i := range m.Pix {
		m.Pix[i] = byte(i / 3 * (1 + 2*(i%3))) // every byte in every channel
	}
	got := make([]byte, 3*256)
	if err := Planes(got, m); err != nil {
		t.Fatal(err)
	}
	for c := range 3 {
		for y := range 16 {
			for x := range 16 {
				if g, want := got[(c*16+y)*16+x], m.Pix[(y*16+x)*3+c]; g != want {
					t.Fatalf("channel %d, row %d, column %d: %d, want %d", c, y, x, g, want)
				}
			}
		}
	}
	if err := Planes(got[1:], m); err == nil {
		t.Error("short destination: no error")
	}
	if err := Planes(got, &Image{W: 16, H: 16}); err == nil {
		t.Error("picture without pixels: no error")
	}
}

func TestEncodePNG(t *testing.T) {
	m := photo(37, 11)
	data, err := EncodePNG(m)
	if err != nil {
		t.Fatal(err)
	}
	p, err := png.Decode(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	for y := range m.H {
		for x := range m.W {
			r, g, b, a := p.At(x, y).RGBA()
			i := 3 * (y*m.W + x)
			if byte(r>>8) != m.Pix[i] || byte(g>>8) != m.Pix[i+1] || byte(b>>8) != m.Pix[i+2] || a != 0xffff {
				t.Fatalf("pixel (%d, %d) is %d %d %d %d", x, y, r>>8, g>>8, b>>8, a>>8)
			}
		}
	}
	if _, err := EncodePNG(&Image{}); err == nil {
		t.Error("empty picture: no error")
	}
}

func BenchmarkPlanes224(b *testing.B) {
	m := photo(224, 224)
	dst := make([]byte, len(m.Pix))
	for b.Loop() {
		if err := Planes(dst, m); err != nil {
			b.Fatal(err)
		}
	}
}
