package img

import (
	"errors"
	"math"
	"path/filepath"
	"strings"
	"testing"
)

func TestResizeParity(t *testing.T) {
	truth := readTensors(t, filepath.Join(parity, "expected.safetensors"))
	n := 0
	for name := range truth.header {
		file, what, _ := strings.Cut(name, "/")
		if !strings.HasPrefix(what, "bicubic_") {
			continue
		}
		n++
		t.Run(name, func(t *testing.T) {
			want := truth.image(name)
			got, err := Resize(truth.image(file+"/decoded_u8"), want.W, want.H)
			if err != nil {
				t.Fatal(err)
			}
			wantEqual(t, got, want)
		})
	}
	if n < 10 {
		t.Errorf("%d cases", n)
	}
}

func TestResizeFixtures(t *testing.T) {
	truth := readTensors(t, filepath.Join(fixtures("images"), "expected.safetensors"))
	n := 0
	var r Resizer
	dst := New(64, 64)
	for name := range truth.header {
		file, ok := strings.CutSuffix(name, "/eval64")
		if !ok {
			continue
		}
		n++
		t.Run(file, func(t *testing.T) {
			src := truth.image(file + "/rgb")
			if err := r.Resize(dst, src, Box{0, 0, float32(src.W), float32(src.H)}); err != nil {
				t.Fatal(err)
			}
			want := truth.image(name)
			if largest, _ := difference(t, dst, want); largest > 0 {
				// Pillow 13 goes vertically first at some sizes: then the
				// truth is that of two resizes.
				low := New(src.W, 64)
				err := errors.Join(r.Resize(low, src, Box{0, 0, float32(src.W), float32(src.H)}),
					r.Resize(dst, low, Box{0, 0, float32(src.W), 64}))
				if err != nil {
					t.Fatal(err)
				}
				wantEqual(t, dst, want)
			}
		})
	}
	if n == 0 {
		t.Error("no cases")
	}
}

func TestResizeBox(t *testing.T) {
	var r Resizer
	eachPillow(t, []string{"resize"}, func(t *testing.T, c pillowCase, truth *tensors, src *Image) {
		dst := New(c.W, c.H)
		if err := r.Resize(dst, src, Box{c.Box[0], c.Box[1], c.Box[2], c.Box[3]}); err != nil {
			t.Fatal(err)
		}
		wantEqual(t, dst, truth.image(c.Name))
	})
}

// The portable loops and the vectors' give the same picture.
func TestResizePortable(t *testing.T) {
	for _, size := range [][4]int{{61, 43, 20, 30}, {20, 30, 61, 43}, {9, 7, 64, 64}, {300, 5, 7, 9}, {2, 2, 5, 1}, {1, 1, 9, 9}} {
		src := photo(size[0], size[1])
		a, b := New(size[2], size[3]), New(size[2], size[3])
		var r Resizer
		full := Box{0, 0, float32(src.W), float32(src.H)}
		for _, dst := range []*Image{a, b} {
			if err := r.Resize(dst, src, full); err != nil {
				t.Fatal(err)
			}
			r.horizontal.from = r.horizontal.from[:0] // no outputs for pixel.Row in the second turn
		}
		wantEqual(t, a, b)
	}
}

func TestResizeErrors(t *testing.T) {
	src := photo(8, 6)
	nan := float32(math.NaN())
	for _, b := range []Box{{0, 0, 9, 6}, {-1, 0, 8, 6}, {0, 0, 8, 7}, {3, 0, 3, 6}, {0, 4, 8, 2}, {nan, 0, 8, 6}, {0, 0, nan, 6}} {
		if err := new(Resizer).Resize(New(4, 4), src, b); err == nil {
			t.Errorf("box %v: no error", b)
		}
	}
	full := Box{0, 0, 8, 6}
	for _, m := range []*Image{nil, {}, {W: 2, H: 2, Pix: make([]byte, 11)}, {W: -1, H: -1, Pix: make([]byte, 3)}} {
		if err := new(Resizer).Resize(m, src, full); err == nil {
			t.Errorf("destination %v: no error", m)
		}
		if err := new(Resizer).Resize(New(2, 2), m, full); err == nil {
			t.Errorf("source %v: no error", m)
		}
		if _, err := Resize(m, 2, 2); err == nil {
			t.Errorf("source %v: no error", m)
		}
	}
	if _, err := Resize(src, 0, 4); err == nil {
		t.Error("width 0: no error")
	}
}

func TestResizeAllocs(t *testing.T) {
	src, dst := photo(60, 40), New(33, 22)
	var r Resizer
	i := float32(0)
	n := testing.AllocsPerRun(20, func() {
		i = float32(int(i+1) % 5) // another box every time, as random crops have
		if err := r.Resize(dst, src, Box{i, 0, 50, 40 - i}); err != nil {
			t.Fatal(err)
		}
	})
	if n > 0 {
		t.Errorf("%v allocations a call", n)
	}
}

func benchmarkResize(b *testing.B, w, h, to int) {
	src, dst := photo(w, h), New(to, to)
	var r Resizer
	b.ReportAllocs()
	for b.Loop() {
		if err := r.Resize(dst, src, Box{0, 0, float32(w), float32(h)}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkResize500x375to224(b *testing.B) { benchmarkResize(b, 500, 375, 224) }
func BenchmarkResize64to224(b *testing.B)      { benchmarkResize(b, 64, 64, 224) }
func BenchmarkResize64to32(b *testing.B)       { benchmarkResize(b, 64, 64, 32) }
