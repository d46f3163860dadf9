package visual

import (
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"vlmo-train/engine"
	"vlmo-train/kernels/ref"
	"vlmo-train/weights"
)

func openFile(t *testing.T, path ...string) *weights.File {
	t.Helper()
	f, err := weights.Open(filepath.Join(append([]string{"..", "..", "testdata", "tokenizers"}, path...)...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func floats(t *testing.T, f *weights.File, name string) []float32 {
	t.Helper()
	v, _, err := f.Float32(name)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func near(t *testing.T, what string, got, want []float32, limit float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d values, want %d", what, len(got), len(want))
	}
	var worst float64
	for i, w := range want {
		worst = max(worst, math.Abs(float64(got[i]-w)))
	}
	t.Logf("%s: largest error %.1e", what, worst)
	if !(worst <= limit) {
		t.Errorf("%s: largest error %g, want at most %g", what, worst, limit)
	}
}

// Tokenizers of the published form, written by the original code, give its
// codes.
func TestPublished(t *testing.T) {
	c := Config{ImageSize: 32, Patch: 8, Heads: 2, Codes: 64}
	for _, name := range []string{"vqkd/vqkd.pth", "dalle/encoder.pkl"} {
		path := filepath.Join("..", "..", "testdata", "tokenizers", filepath.FromSlash(name))
		coder, err := Open(ref.New(), path, c)
		if err != nil {
			t.Fatal(err)
		}
		truth := openFile(t, filepath.Dir(name), "expected.safetensors")
		pixels := floats(t, truth, "image")
		want, _, err := truth.Int32("codes")
		if err != nil {
			t.Fatal(err)
		}
		s := engine.NewStep(ref.New(), 1)
		s.Begin(0, true)
		on := upload(s, pixels, c.ImageSize)
		got, err := coder.Codes(s, on)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: codes %v, want %v", name, got, want)
		}
		if !s.Train {
			t.Error("Codes changed the step")
		}
		switch coder := coder.(type) {
		case *Distilled:
			z, err := coder.encode(s, on)
			if err != nil {
				t.Fatal(err)
			}
			v := make([]float32, z.Len())
			s.Dev.Read(v, z)
			near(t, name, v, floats(t, truth, "z"), 1e-5)
		case *DALLE:
			all := floats(t, truth, "logits") // [n, codes, patches]
			for i := range on.Rows {
				l, err := coder.logits(s, pixels[i*3*32*32:][:3*32*32])
				if err != nil {
					t.Fatal(err)
				}
				turned := make([]float32, len(l))
				for k := range 16 {
					for j := range 64 {
						turned[j*16+k] = l[k*64+j]
					}
				}
				near(t, name, turned, all[i*64*16:][:64*16], 1e-5)
			}
		}
		bytes, values := make([]byte, len(pixels)), make([]float32, len(pixels))
		for i, v := range pixels {
			bytes[i] = byte(min(max(127.5*(v+1), 0), 255))
			values[i] = (float32(bytes[i])/255 - 0.5) / 0.5
		}
		fromBytes, err := coder.Codes(s, s.Bytes(bytes, on.Rows, on.Cols))
		if err != nil {
			t.Fatal(err)
		}
		fromValues, err := coder.Codes(s, upload(s, values, c.ImageSize))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(fromBytes, fromValues) {
			t.Errorf("%s: bytes have codes %v, the same normalised %v", name, fromBytes, fromValues)
		}
		if _, err := coder.Codes(s, on.Columns(1, on.Cols)); err == nil {
			t.Errorf("%s: a pixel less is no error", name)
		}
		for _, bad := range []Config{{ImageSize: 32, Patch: 8, Heads: 2, Codes: 65}, {ImageSize: 32, Patch: 4, Heads: 2, Codes: 63}} {
			if _, err := Open(ref.New(), path, bad); err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("%s: opened for %+v: %v", name, bad, err)
			}
		}
	}
}

// The filter is Pillow's, for images of numbers with a point.
func TestLanczos(t *testing.T) {
	truth := openFile(t, "dalle", "expected.safetensors")
	image := floats(t, truth, "image")[:3*32*32]
	near(t, "32 to 16", lanczos(image, 3, 32, 16), floats(t, truth, "lanczos_16"), 1e-6)
	near(t, "32 to 24", lanczos(image, 3, 32, 24), floats(t, truth, "lanczos_24"), 1e-6)
	near(t, "32 to 40", lanczos(image, 3, 32, 40), floats(t, truth, "lanczos_40"), 1e-6)
}
