package tarfile

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/metrics"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func TestSplitKey(t *testing.T) {
	for name, want := range map[string][2]string{
		"a.jpg":           {"a", "jpg"},
		"d/e.f/a.Seg.PNG": {"d/e.f/a", "seg.png"},
		"a.":              {"a", ""},
		"__x/a.txt":       {"__x/a", "txt"},
		"_/a.txt":         {"_/a", "txt"},
	} {
		key, ext, ok := SplitKey(name)
		if !ok || key != want[0] || ext != want[1] {
			t.Errorf("%s: %q, %q, %v, want %q", name, key, ext, ok, want)
		}
	}
	for _, name := range []string{"README", ".hidden", "d/.hidden.txt", "__meta__/a.txt", "____/a.txt", "__a.b__", "d.e/f", ""} {
		if key, ext, ok := SplitKey(name); ok {
			t.Errorf("%s: %q, %q", name, key, ext)
		}
	}
}

// failing reads up to n bytes and then fails.
type failing struct {
	r io.ReaderAt
	n int64
}

func (f failing) ReadAt(b []byte, off int64) (int, error) {
	if off+int64(len(b)) > f.n {
		return 0, syscall.EIO
	}
	return f.r.ReadAt(b, off)
}

// An error of the reader is no damage.
func TestReaderFails(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	content := make([]byte, 9000)
	for _, name := range []string{"a", "b", "c"} {
		if err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(content)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	n := 0
	err := Each(failing{bytes.NewReader(b.Bytes()), 15000}, int64(b.Len()), func(Member) { n++ })
	if !errors.Is(err, syscall.EIO) || errors.As(err, new(DamageError)) || n != 2 {
		t.Errorf("%d members, %v", n, err)
	}
}

// maxGrowth is how many bytes Each allocates at most for a byte of the file,
// and 64 KiB besides.
const maxGrowth = 16

// checkGrowth holds what Each allocates, garbage included, against the promise.
// The count is the process's, so that a figure above the limit is taken again.
func checkGrowth(t *testing.T, b []byte) {
	t.Helper()
	s := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	var got uint64
	for range 3 {
		metrics.Read(s)
		before := s[0].Value.Uint64()
		Each(bytes.NewReader(b), int64(len(b)), func(Member) {})
		metrics.Read(s)
		if got = s[0].Value.Uint64() - before; got <= 1<<16+maxGrowth*uint64(len(b)) {
			return
		}
	}
	t.Errorf("%d bytes of a tar file made %d", len(b), got)
}

// Headers that announce more than there is.
func TestGrowth(t *testing.T) {
	header := func(kind byte, size string) []byte {
		h := make([]byte, 512)
		copy(h, "a.txt")
		copy(h[100:], "0000644\x000000000\x000000000\x00"+size+"\x0000000000000\x00        ")
		h[156] = kind
		copy(h[257:], "ustar\x0000")
		sum := 0
		for _, c := range h {
			sum += int(c)
		}
		copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
		return h
	}
	for _, kind := range "0xgLKS" {
		for _, size := range []string{"00000000000", "00000001000", "00003777777", "77777777777"} {
			for _, n := range []int{1, 100, 3000} {
				checkGrowth(t, bytes.Repeat(header(byte(kind), size), n))
				checkGrowth(t, bytes.Repeat(append(header(byte(kind), "00000000020"), bytes.Repeat([]byte("16 path=abcdefg\n"), 32)...), n))
			}
		}
	}
}

// Whatever a file holds, the reader finds what archive/tar finds when it reads
// the file as a stream, up to the damage, and allocates no more than its share.
func FuzzTar(f *testing.F) {
	root := os.Getenv("VLMO_FIXTURES")
	if root == "" {
		root = "../../../../testdata/fixtures"
	}
	names, err := filepath.Glob(filepath.Join(root, "webdataset", "*.tar"))
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	if len(names) == 0 {
		f.Fatal("no fixtures")
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		checkGrowth(t, b)
		type found struct {
			name string
			data string
		}
		var want []found
		tr := tar.NewReader(bytes.NewReader(b))
		for {
			h, err := tr.Next()
			if err != nil {
				break
			}
			if h.Typeflag != tar.TypeReg || isSparse(h) {
				continue
			}
			data, err := io.ReadAll(tr)
			if err != nil {
				break
			}
			want = append(want, found{h.Name, string(data)})
		}
		var got []found
		err := Each(bytes.NewReader(b), int64(len(b)), func(m Member) {
			if m.Off < 0 || m.Size < 0 || m.Off+m.Size > int64(len(b)) {
				t.Fatalf("%+v is not in a file of %d bytes", m, len(b))
			}
			got = append(got, found{m.Name, string(b[m.Off : m.Off+m.Size])})
		})
		if err != nil && !errors.As(err, new(DamageError)) {
			t.Fatal(err)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("%q, %v\nwant %q", got, err, want)
		}
		for _, m := range got {
			key, ext, ok := SplitKey(m.name)
			if ok && (!strings.EqualFold(key+"."+ext, m.name) || strings.Contains(ext, "/") || strings.HasSuffix(key, "/")) {
				t.Fatalf("%q is %q and %q", m.name, key, ext)
			}
		}
	})
}
