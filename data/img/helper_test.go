package img

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"

	"vlmo-train/rng"
)

const parity = "../../testdata/parity/preprocess"

// own is the folder of this repository's fixtures; tests that take a file of a
// certain name out of it use it.
const own = "../../testdata/fixtures"

// fixtures is a folder of fixtures: this repository's, or one of the same form
// that the environment names.
func fixtures(kind string) string {
	root := os.Getenv("VLMO_FIXTURES")
	if root == "" {
		root = own
	}
	return filepath.Join(root, kind)
}

// readLines decodes a file of JSON lines, of which there has to be one at least.
func readLines[T any](t testing.TB, path string) []T {
	t.Helper()
	var all []T
	for d := json.NewDecoder(bytes.NewReader(readFile(t, path))); d.More(); {
		var v T
		if err := d.Decode(&v); err != nil {
			t.Fatalf("%s: entry %d: %v", path, len(all)+1, err)
		}
		all = append(all, v)
	}
	if len(all) == 0 {
		t.Fatalf("%s is empty", path)
	}
	return all
}

func loadImage(t testing.TB, path string) *Image {
	t.Helper()
	m, err := Load(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// tensors is a safetensors file of bytes.
type tensors struct {
	t      testing.TB
	header map[string]struct {
		Shape  []int  `json:"shape"`
		Dtype  string `json:"dtype"`
		Offset [2]int `json:"data_offsets"`
	}
	meta map[string]string
	data []byte
}

func readTensors(t testing.TB, path string) *tensors {
	t.Helper()
	b := readFile(t, path)
	n := binary.LittleEndian.Uint64(b)
	f := &tensors{t: t, data: b[8+n:]}
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(b[8:8+n], &raw); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	if m, ok := raw["__metadata__"]; ok {
		if err := json.Unmarshal(m, &f.meta); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		delete(raw, "__metadata__")
	}
	rest, err := json.Marshal(raw)
	if err == nil {
		err = json.Unmarshal(rest, &f.header)
	}
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return f
}

func (f *tensors) bytes(name string) []byte {
	f.t.Helper()
	h, ok := f.header[name]
	if !ok || h.Dtype != "U8" {
		f.t.Fatalf("no U8 tensor %q", name)
	}
	return f.data[h.Offset[0]:h.Offset[1]]
}

func (f *tensors) image(name string) *Image {
	f.t.Helper()
	b := f.bytes(name)
	s := f.header[name].Shape
	if len(s) != 3 || s[2] != 3 {
		f.t.Fatalf("tensor %q has shape %v", name, s)
	}
	return &Image{W: s[1], H: s[0], Pix: b}
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func readJSON(t testing.TB, path string, v any) {
	t.Helper()
	if err := json.Unmarshal(readFile(t, path), v); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// difference returns the largest and the mean absolute difference.
func difference(t testing.TB, got, want *Image) (largest int, mean float64) {
	t.Helper()
	if got.W != want.W || got.H != want.H || len(got.Pix) != len(want.Pix) {
		t.Fatalf("size %dx%d, want %dx%d", got.W, got.H, want.W, want.H)
	}
	sum := 0
	for i, v := range got.Pix {
		d := int(v) - int(want.Pix[i])
		d = max(d, -d)
		largest = max(largest, d)
		sum += d
	}
	return largest, float64(sum) / float64(len(got.Pix))
}

func wantEqual(t testing.TB, got, want *Image) {
	t.Helper()
	if largest, mean := difference(t, got, want); largest != 0 {
		t.Errorf("differs by up to %d, %.4f on average", largest, mean)
	}
}

func clone(m *Image) *Image { return &Image{W: m.W, H: m.H, Pix: bytes.Clone(m.Pix)} }

func stream(seed, sample uint64) *rng.Source {
	s := rng.New(rng.Key{Seed: seed, Purpose: rng.Augment, Sample: sample})
	return &s
}

// photo is a picture with structure at every scale.
func photo(w, h int) *Image {
	m := New(w, h)
	s := stream(9, 0)
	for y := range h {
		for x := range w {
			for c := range 3 {
				f := float64(c + 1)
				v := 128 + 60*math.Sin(float64(x)/(7*f)) + 50*math.Cos(float64(x+2*y)/(31*f)) + 8*s.Norm()
				m.Pix[3*(y*w+x)+c] = byte(min(max(v, 0), 255))
			}
		}
	}
	return m
}

// pillowCase is one entry of testdata/pillow.safetensors.
type pillowCase struct {
	Kind   string     `json:"kind"`
	Name   string     `json:"name"`
	W      int        `json:"w"`
	H      int        `json:"h"`
	Box    [4]float32 `json:"box"`
	Matrix affine     `json:"matrix"`
	Fill   [3]byte    `json:"fill"`
	Factor float64    `json:"factor"`
	File   string     `json:"file"`
}

// eachPillow runs f for the cases of the given kinds. src is a copy of the
// picture they were made from.
func eachPillow(t *testing.T, kinds []string, f func(t *testing.T, c pillowCase, truth *tensors, src *Image)) {
	eachCase(t, "testdata/pillow.safetensors", kinds, f)
}

// eachCase is eachPillow with the cases of a file, whose pictures may have been
// made from none.
func eachCase(t *testing.T, path string, kinds []string, f func(t *testing.T, c pillowCase, truth *tensors, src *Image)) {
	truth := readTensors(t, path)
	var cases []pillowCase
	if err := json.Unmarshal([]byte(truth.meta["cases"]), &cases); err != nil {
		t.Fatal(err)
	}
	for _, kind := range kinds {
		n := 0
		for _, c := range cases {
			if c.Kind == kind {
				n++
				src := &Image{}
				if _, ok := truth.header["source"]; ok {
					src = clone(truth.image("source"))
				}
				t.Run(c.Name, func(t *testing.T) { f(t, c, truth, src) })
			}
		}
		if n == 0 {
			t.Errorf("no case of kind %q", kind)
		}
	}
}
