package jpeg

import (
	"bytes"
	"errors"
	"image"
	"image/color"
	stdjpeg "image/jpeg"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"testing"
)

func anySize(int, int) error { return nil }

// The inverse DCT against its definition in float64: the integer method is
// within a level of it.
func TestInverseDCT(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	off := 0
	for range 500 {
		var b [64]int16
		last := r.IntN(64)
		for k := 0; k <= last; k++ {
			b[natural[k]] = int16(r.NormFloat64() * 200 / float64(1+k))
		}
		got := make([]byte, 7*11+8)
		inverseDCT(got, 11, &b, last)
		for y := range 8 {
			for x := range 8 {
				sum := 0.
				for v := range 8 {
					for u := range 8 {
						c := 1.
						if u == 0 {
							c /= math.Sqrt2
						}
						if v == 0 {
							c /= math.Sqrt2
						}
						sum += c / 4 * float64(b[8*v+u]) * math.Cos(float64((2*x+1)*u)*math.Pi/16) * math.Cos(float64((2*y+1)*v)*math.Pi/16)
					}
				}
				want := min(max(sum+128, 0), 255)
				if math.Abs(float64(got[11*y+x])-want) > 0.51 {
					off++
				}
				if math.Abs(float64(got[11*y+x])-want) > 1 {
					t.Fatalf("sample (%d, %d) is %d, want %.3f; block %v", x, y, got[11*y+x], want, b)
				}
			}
		}
	}
	if off > 500*64/100 {
		t.Errorf("%d of %d samples are rounded the other way", off, 500*64)
	}
}

// file returns a JPEG of some structure.
func file(t testing.TB, w, h int) []byte {
	m := image.NewRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			m.SetRGBA(x, y, color.RGBA{byte(x * 7), byte(y*5 + x), byte(x * y), 255})
		}
	}
	var b bytes.Buffer
	if err := stdjpeg.Encode(&b, m, &stdjpeg.Options{Quality: 80}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestErrors(t *testing.T) {
	good := file(t, 40, 30)
	if _, w, h, err := Decode(good, anySize); err != nil || w != 40 || h != 30 {
		t.Fatal(w, h, err)
	}
	find := func(marker byte) int {
		i := bytes.Index(good, []byte{0xff, marker})
		if i < 0 {
			t.Fatalf("no marker %x", marker)
		}
		return i
	}
	patch := func(at int, v ...byte) []byte {
		b := bytes.Clone(good)
		copy(b[at:], v)
		return b
	}
	without := func(marker byte) []byte { return patch(find(marker)+1, 0xfe) } // a comment in its place
	sof, sos, dht, dqt := find(mSOF0), find(mSOS), find(mDHT), find(mDQT)
	tooLarge := errors.New("too large")
	if _, _, _, err := Decode(good, func(w, h int) error { return tooLarge }); err != tooLarge {
		t.Errorf("size's error is lost: %v", err)
	}
	for _, c := range []struct {
		name string
		data []byte
		want string
	}{
		{"empty", nil, "no SOI marker"},
		{"only SOI", good[:2], "no EOI marker"},
		{"no frame", without(mSOF0), "scan before the frame"},
		{"two frames", append(bytes.Clone(good[:sof]), append(bytes.Clone(good[sof:sof+19]), good[sof:]...)...), "more than one frame"},
		{"no quantisation", without(mDQT), "no quantisation table"},
		{"no Huffman tables", without(mDHT), "without its Huffman tables"},
		{"cut in a header", good[:dht+40], "within marker 0xffc4"},
		{"cut in the data", good[:len(good)-20], "truncated"},
		{"12 bits", patch(sof+4, 12), "12 bits a sample"},
		{"two components", patch(sof+9, 2), "frame header"},
		{"no sampling", patch(sof+11, 0x02), "sampling factors 0, 2"},
		{"same numbers", patch(sof+13, good[sof+10]), "two components have the number"},
		{"scan of a stranger", patch(sos+5, 77), "scan of component 77"},
		{"bad DQT", patch(dqt+4, 0x20), "bad DQT"},
		{"bad DHT", patch(dht+4, 0x20), "bad DHT"},
		{"too many codes", patch(dht+5, 3), "too many codes"},
		{"length 1", patch(dht+2, 0, 1), "has length 1"},
		{"lossless", patch(sof+1, 0xc3), "lossless JPEG (marker 0xffc3) is not supported"},
		{"bad conditioning", append(bytes.Clone(good[:sof]), append([]byte{0xff, mDAC, 0, 4, 0x10, 64}, good[sof:]...)...), "bad DAC marker"},
		{"no scan", append(bytes.Clone(good[:sos]), 0xff, mEOI), "no scan"},
		{"huge", patch(sof+5, 0xff, 0xff, 0xff, 0xff), "truncated"},
	} {
		_, _, _, err := Decode(c.data, anySize)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", c.name, err, c.want)
		}
	}
}

// A header alone takes no memory, whatever size it claims.
func TestMemory(t *testing.T) {
	data := file(t, 40, 30)
	at := bytes.Index(data, []byte{0xff, mSOF0})
	copy(data[at+5:], []byte{0xf0, 0, 0xf0, 0})
	for _, marker := range []byte{mSOF0, mSOF2} {
		data[at+1] = marker
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, _, _, err := Decode(data, anySize)
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; err == nil || n > 1<<20 {
			t.Errorf("marker %x: error %v, %d bytes", marker, err, n)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, name := range []string{"jpeg_444", "jpeg_420", "jpeg_progressive", "jpeg_cmyk_adobe", "jpeg_restart", "jpeg_gray", "jpeg_411"} {
		data, err := os.ReadFile("../../../../testdata/fixtures/images/" + name + ".jpg")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add(file(f, 9, 20))
	tooLarge := errors.New("too large")
	f.Fuzz(func(t *testing.T, data []byte) {
		pix, w, h, err := Decode(data, func(w, h int) error {
			if w*h > 1<<16 {
				return tooLarge
			}
			return nil
		})
		if err == nil && len(pix) != 3*w*h {
			t.Fatalf("%d bytes for %dx%d", len(pix), w, h)
		}
	})
}
