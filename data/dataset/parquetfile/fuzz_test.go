package parquetfile

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"vlmo-train/data/dataset/internal/fixture"
)

// allocated returns how many bytes f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// readAny opens and reads whatever data is: that gives rows or errors, no panic, and
// takes no more memory than the package's constants say.
func readAny(t *testing.T, data []byte) {
	// A page's content and its values as cells, of which each takes some 64
	// bytes while it is decoded.
	most := uint64(4*slack + 64*slackValues + (4*ratio+64*valueRatio)*len(data))
	var file *File
	var err error
	if n := allocated(func() { file, err = newFile("fuzz.parquet", bytes.NewReader(data), int64(len(data))) }); n > most {
		t.Fatalf("opening %d bytes allocates %d", len(data), n)
	}
	if err != nil {
		return
	}
	for c := range file.Columns() {
		most := most * uint64(max(1, len(file.root.children[c].leaves)))
		for i := range min(file.NumRows(), 10) {
			if n := allocated(func() { file.Row(i, c) }); n > most {
				t.Fatalf("reading column %d of row %d of a file of %d bytes allocates %d", c, i, len(data), n)
			}
		}
	}
}

func FuzzFile(f *testing.F) {
	for _, pattern := range []string{"*.parquet", "*/*.parquet"} {
		paths, err := filepath.Glob(filepath.Join(fixture.Dir("parquet"), pattern))
		if err != nil || len(paths) == 0 {
			f.Fatal("no seeds", err)
		}
		for _, path := range paths {
			data, err := os.ReadFile(path)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	f.Fuzz(readAny)
}

func TestDamaged(t *testing.T) {
	fixture.Damaged(t, fixture.Dir("parquet"), []string{"*.parquet", "*/*.parquet"}, readAny)
}
