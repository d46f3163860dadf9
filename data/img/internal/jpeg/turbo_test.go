//go:build turbo && cgo

package jpeg

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// TestTurbo holds libjpeg-turbo against the decoder in Go: the same files, the
// same bytes, whole and cut.
func TestTurbo(t *testing.T) {
	names, err := filepath.Glob("../../../../testdata/fixtures/images/*.jpg")
	if err != nil || len(names) == 0 {
		t.Fatal(err, len(names))
	}
	size := func(int, int) error { return nil }
	used := 0
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range []int{len(data), len(data) - 1, len(data) - 2, len(data) - 30, len(data) / 2} {
			fast := newDecoder(data[:n])
			got, _, _, gotErr := decode(fast, size)
			slow := newDecoder(data[:n])
			slow.plain = true
			want, _, _, wantErr := decode(slow, size)
			if !bytes.Equal(got, want) || (gotErr == nil) != (wantErr == nil) {
				t.Errorf("%s, %d of %d bytes: error %v, in Go %v; pictures equal: %v", name, n, len(data), gotErr, wantErr, bytes.Equal(got, want))
			}
			if fast.whole {
				used++
			}
		}
	}
	if used < 10 {
		t.Errorf("libjpeg-turbo decoded %d files", used)
	}
}
