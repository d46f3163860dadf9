package img

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"image"
	"image/jpeg"
	"image/png"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

func TestDecodeParity(t *testing.T) {
	var c struct{ Images []string }
	readJSON(t, filepath.Join(parity, "case.json"), &c)
	if len(c.Images) == 0 {
		t.Fatal("no images")
	}
	truth := readTensors(t, filepath.Join(parity, "expected.safetensors"))
	for _, name := range c.Images {
		t.Run(name, func(t *testing.T) {
			got, err := Load(filepath.Join(parity, name), Options{})
			if err != nil {
				t.Fatal(err)
			}
			wantEqual(t, got, truth.image(name+"/decoded_u8"))
		})
	}
}

// TestDecodeFixtures holds every file of files.json to what it says. Those that
// case.json lists as optional may be refused too, with an error that says what
// is not supported.
func TestDecodeFixtures(t *testing.T) {
	dir := fixtures("images")
	var files []struct {
		File, Expected, Pil string
		Sum                 string `json:"sha256_rgb"`
		Width, Height       int
	}
	readJSON(t, filepath.Join(dir, "files.json"), &files)
	var c struct{ Optional []string }
	readJSON(t, filepath.Join(dir, "case.json"), &c)
	truth := readTensors(t, filepath.Join(dir, "expected.safetensors"))
	if len(files) == 0 {
		t.Error("files.json is empty")
	}
	for _, f := range files {
		t.Run(f.File, func(t *testing.T) {
			got, err := Load(filepath.Join(dir, f.File), Options{})
			if err != nil {
				if !strings.Contains(err.Error(), f.File) {
					t.Errorf("error %q does not name the file", err)
				}
				if strings.Contains(err.Error(), "decoder failed") {
					t.Errorf("panic: %v", err)
				}
				if f.Expected == "ok" && !(slices.Contains(c.Optional, f.File) && strings.Contains(err.Error(), "not supported")) {
					t.Error(err)
				}
				return
			}
			switch f.Expected {
			case "error":
				t.Fatalf("decoded, want an error; Pillow: %s", f.Pil)
			case "either":
				if _, ok := truth.header[f.File+"/rgb"]; !ok {
					return
				}
			}
			want := truth.image(f.File + "/rgb")
			if f.Sum != "" && fmt.Sprintf("%x", sha256.Sum256(want.Pix)) != f.Sum {
				t.Fatal("files.json and expected.safetensors disagree")
			}
			wantEqual(t, got, want)
		})
	}
}

func TestDecodePillow(t *testing.T) {
	eachPillow(t, []string{"gif", "webp", "png", "jpeg"}, func(t *testing.T, c pillowCase, truth *tensors, _ *Image) {
		got, err := Decode(truth.bytes(c.File), Options{})
		if err != nil {
			t.Fatal(err)
		}
		wantEqual(t, got, truth.image(c.Name))
	})
}

// JPEG of many kinds.
func TestDecodeJPEG(t *testing.T) {
	eachCase(t, "testdata/jpeg.safetensors", []string{"jpeg"}, func(t *testing.T, c pillowCase, truth *tensors, _ *Image) {
		got, err := Decode(truth.bytes(c.File), Options{})
		if err != nil {
			t.Fatal(err)
		}
		wantEqual(t, got, truth.image(c.Name))
	})
}

// Orientations against Pillow's exif_transpose, and that they are left alone
// unless asked for.
func TestOrient(t *testing.T) {
	sizes := map[[2]int]bool{}
	eachCase(t, "testdata/jpeg.safetensors", []string{"exif"}, func(t *testing.T, c pillowCase, truth *tensors, _ *Image) {
		got, err := Decode(truth.bytes(c.File), Options{Orient: true})
		if err != nil {
			t.Fatal(err)
		}
		wantEqual(t, got, truth.image(c.Name))
		sizes[[2]int{got.W, got.H}] = true
		if got, err = Decode(truth.bytes(c.File), Options{}); err != nil || got.W != 11 || got.H != 7 {
			t.Errorf("as stored: %dx%d, %v", got.W, got.H, err)
		}
	})
	if len(sizes) != 2 {
		t.Errorf("sizes %v", sizes)
	}
	// A directory that is cut, or points outside.
	exif := "II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\x01\x00\x00\x00\x06\x00\x00\x00"
	if o := tiffOrientation([]byte(exif)); o != 6 {
		t.Errorf("orientation %d, want 6", o)
	}
	for n := range len(exif) {
		if o := tiffOrientation([]byte(exif[:n])); o != 1 {
			t.Errorf("cut to %d: orientation %d", n, o)
		}
	}
	for _, format := range []string{"JPEG", "PNG", "WebP"} {
		for n := range 64 {
			orientation(bytes.Repeat([]byte{0xff}, n), format)
			orientation(make([]byte, n), format)
		}
	}
}

func TestGray16High(t *testing.T) {
	data := readFile(t, filepath.Join(own, "images", "png_gray16.png"))
	m, err := Decode(data, Options{Gray16High: true})
	if err != nil {
		t.Fatal(err)
	}
	p, err := png.Decode(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range m.Pix {
		if want := byte(p.(*image.Gray16).Gray16At(i/3%m.W, i/3/m.W).Y >> 8); v != want {
			t.Fatalf("sample %d is %d, want %d", i, v, want)
		}
	}
}

// TestBomb checks that the pixel limit is on the header, in every format:
// files of a few hundred bytes that claim large pictures are refused without
// taking memory for them.
func TestBomb(t *testing.T) {
	// Every format's 16-bit fields at their largest.
	huge := func(name string, at ...int) []byte {
		data := bytes.Clone(readFile(t, filepath.Join(own, "images", name)))
		for _, i := range at {
			data[i], data[i+1] = 0x3f, 0x3f
		}
		return data
	}
	sof := bytes.Index(readFile(t, filepath.Join(own, "images", "jpeg_420.jpg")), []byte{0xff, 0xc0})
	large := huge("png_rgb.png", 18, 22)
	binary.BigEndian.PutUint32(large[29:], crc32.ChecksumIEEE(large[12:29]))
	for _, c := range []struct {
		name string
		data []byte
	}{
		{"png", large},
		{"jpeg", huge("jpeg_420.jpg", sof+5, sof+7)},
		{"gif", huge("gif_interlaced.gif", 6, 8)},
		{"webp lossy", huge("webp_lossy.webp", 26, 28)},
		{"webp extended", huge("webp_lossy_alpha.webp", 24, 27)},
		{"bmp", huge("bmp_24.bmp", 18, 22)},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, limit := range []int{0, 1 << 20} {
				_, err := Decode(c.data, Options{MaxPixels: limit})
				if !errors.Is(err, ErrTooLarge) {
					t.Errorf("limit %d: %v", limit, err)
				}
			}
		})
	}
	// Exactly at the limit is fine.
	data := readFile(t, filepath.Join(own, "images", "png_rgb.png"))
	if _, err := Decode(data, Options{MaxPixels: 93 * 70}); err != nil {
		t.Error(err)
	}
	if _, err := Decode(data, Options{MaxPixels: 93*70 - 1}); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
}

func TestDecodeErrors(t *testing.T) {
	for _, data := range []string{"", "GIF", "hello, world", "RIFF\x00\x00\x00\x00WAVE"} {
		if _, err := Decode([]byte(data), Options{}); !errors.Is(err, ErrUnknownFormat) {
			t.Errorf("%q: %v", data, err)
		}
	}
	if _, err := Load("testdata/absent.png", Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	// A WebP file that lacks its last frames is no whole file, though the first is
	// there.
	data := readFile(t, filepath.Join(own, "images", "webp_animated.webp"))
	for _, n := range []int{len(data) - 1, len(data) * 2 / 3} {
		if _, err := Decode(data[:n], Options{}); err == nil || !strings.Contains(err.Error(), "truncated") {
			t.Errorf("webp_animated.webp cut to %d of %d bytes: %v", n, len(data), err)
		}
	}
	// Every prefix of a file of every format, up to its picture data.
	for _, name := range []string{"png_palette_4bit.png", "jpeg_8x8.jpg", "gif_interlaced.gif", "webp_lossy_alpha.webp", "webp_animated.webp", "bmp_8.bmp"} {
		data := readFile(t, filepath.Join(own, "images", name))
		for n := range min(len(data), 1200) {
			if n > len(data)/2 {
				break
			}
			if _, err := Decode(data[:n], Options{}); err == nil {
				t.Errorf("%s cut to %d of %d bytes decodes", name, n, len(data))
			} else if !strings.HasPrefix(err.Error(), "img: ") {
				t.Errorf("%s cut to %d bytes: %v", name, n, err)
			} else if strings.Contains(err.Error(), "decoder failed") {
				t.Errorf("%s cut to %d bytes: panic: %v", name, n, err)
			}
		}
	}
}

// TestUnsupported makes files of the kinds that Pillow reads and this package
// does not out of good ones.
func TestUnsupported(t *testing.T) {
	patch := func(name string, at int, v ...byte) []byte {
		data := bytes.Clone(readFile(t, filepath.Join(own, "images", name)))
		copy(data[at:], v)
		return data
	}
	sof := bytes.Index(readFile(t, filepath.Join(own, "images", "jpeg_444.jpg")), []byte{0xff, 0xc0})
	for _, c := range []struct {
		name string
		data []byte
		want string
	}{
		{"JPEG, lossless", patch("jpeg_444.jpg", sof+1, 0xc3), "img: jpeg: lossless JPEG (marker 0xffc3) is not supported"},
		{"JPEG, 12 bits", patch("jpeg_444.jpg", sof+4, 12), "img: jpeg: 12 bits a sample are not supported"},
		{"JPEG, factors 2 beside 3", patch("jpeg_444.jpg", sof+11, 0x21, 0, 2, 0x31), "img: jpeg: sampling factors 2, 1 beside 3, 1 are not supported"},
		{"BMP, 16 bits", patch("bmp_24.bmp", 28, 16), "img: bmp: unsupported BMP image"},
		{"BMP, run-length coded", patch("bmp_8.bmp", 30, 1), "img: bmp: unsupported BMP image"},
	} {
		if _, err := Decode(c.data, Options{}); err == nil || err.Error() != c.want {
			t.Errorf("%s: error %v, want %q", c.name, err, c.want)
		}
	}
}

// FuzzDecode looks for panics, and for memory beyond what the limit on pixels
// and the size of the file account for. It is best run with -fuzzminimizetime
// 10x: the seeds are large, and to minimise them takes most of the time
// otherwise.
func FuzzDecode(f *testing.F) {
	for _, pattern := range []string{"*.*", "broken/*"} {
		names, err := filepath.Glob(filepath.Join(own, "images", pattern))
		if err != nil {
			f.Fatal(err)
		}
		for _, name := range names {
			if filepath.Ext(name) != ".json" && filepath.Ext(name) != ".safetensors" {
				f.Add(readFile(f, name))
			}
		}
	}
	truth := readTensors(f, "testdata/jpeg.safetensors")
	for name := range truth.header {
		if strings.HasPrefix(name, "file/") {
			f.Add(truth.bytes(name))
		}
	}
	const limit = 1 << 16
	f.Fuzz(func(t *testing.T, data []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		m, err := Decode(data, Options{MaxPixels: limit, Orient: true})
		runtime.ReadMemStats(&after)
		if got, most := after.TotalAlloc-before.TotalAlloc, uint64(4<<20+32*limit+1536*len(data)); got > most {
			t.Errorf("%d bytes of memory for a file of %d, want at most %d", got, len(data), most)
		}
		if err != nil {
			if strings.Contains(err.Error(), "decoder failed") {
				t.Error(err) // a panic that Decode caught
			}
			return
		}
		if err := m.check("decoded"); err != nil {
			t.Error(err)
		}
		if m.W*m.H > limit {
			t.Errorf("%dx%d is beyond the limit", m.W, m.H)
		}
	})
}

func toRGBA(m *Image) *image.RGBA {
	r := image.NewRGBA(image.Rect(0, 0, m.W, m.H))
	for i := range m.W * m.H {
		copy(r.Pix[4*i:], m.Pix[3*i:3*i+3])
		r.Pix[4*i+3] = 255
	}
	return r
}

func benchmarkDecode(b *testing.B, data []byte) {
	b.ReportAllocs()
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, err := Decode(data, Options{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodePNG64(b *testing.B) {
	data, err := EncodePNG(photo(64, 64))
	if err != nil {
		b.Fatal(err)
	}
	benchmarkDecode(b, data)
}

func BenchmarkDecodeJPEG500x375(b *testing.B) {
	var buf bytes.Buffer
	if err := jpeg.Encode(&buf, toRGBA(photo(500, 375)), &jpeg.Options{Quality: 90}); err != nil {
		b.Fatal(err)
	}
	benchmarkDecode(b, buf.Bytes())
}
