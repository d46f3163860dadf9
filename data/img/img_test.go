package img

import (
	"bytes"
	"image/png"
	"math"
	"testing"
)

func TestToCHW(t *testing.T) {
	m := New(16, 16)
	for i := range m.Pix {
		m.Pix[i] = byte(i / 3 * (1 + 2*(i%3))) // every byte in every channel
	}
	got := make([]float32, 3*256)
	if err := ToCHW(got, m); err != nil {
		t.Fatal(err)
	}
	for c := range 3 {
		for i := range 256 {
			v := m.Pix[3*i+c]
			// Each float32 operation is the float64 one, rounded.
			want := float32(float64(v) / 255)
			want = float32(float64(want) - 0.5)
			want = float32(float64(want) / 0.5)
			if g := got[c*256+i]; g != want || math.Abs(float64(g)-(float64(v)/127.5-1)) > 1.2e-7 {
				t.Fatalf("channel %d: byte %d gives %v, want %v", c, v, g, want)
			}
		}
	}
	if got[0] != -1 {
		t.Errorf("0 gives %v", got[0])
	}
	if err := ToCHW(got[1:], m); err == nil {
		t.Error("short destination: no error")
	}
	if err := ToCHW(got, &Image{W: 16, H: 16}); err == nil {
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

func BenchmarkToCHW224(b *testing.B) {
	m := photo(224, 224)
	dst := make([]float32, len(m.Pix))
	for b.Loop() {
		if err := ToCHW(dst, m); err != nil {
			b.Fatal(err)
		}
	}
}
