package arrowfile

import (
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
	// A batch's bytes, the library's objects, and what is copied of a row.
	most := uint64(4*slack + 4*ratio*len(data))
	var file *File
	var err error
	if n := allocated(func() { file, err = newFile("fuzz.arrow", data) }); n > most {
		t.Fatalf("opening %d bytes allocates %d", len(data), n)
	}
	if err != nil {
		return
	}
	var all []int
	for i := range file.Columns() {
		all = append(all, i)
	}
	for i := range min(file.NumRows(), 20) {
		if n := allocated(func() { file.Row(i, all...) }); n > most {
			t.Fatalf("reading row %d of a file of %d bytes allocates %d", i, len(data), n)
		}
	}
}

func FuzzFile(f *testing.F) {
	for _, pattern := range []string{"*.arrow", "*/*.arrow"} {
		paths, err := filepath.Glob(filepath.Join(fixture.Dir("arrow"), pattern))
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
	fixture.Damaged(t, fixture.Dir("arrow"), []string{"*.arrow", "*/*.arrow"}, readAny)
}
