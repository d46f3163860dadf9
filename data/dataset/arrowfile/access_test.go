package arrowfile

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// writeRows writes n rows of a picture of size bytes and its number.
func writeRows(t *testing.T, n, size, limit int, c Compression) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "rows.arrow")
	w, err := Create(path, []Column{{"image", "binary"}, {"number", "list<int64>"}}, c)
	if err != nil {
		t.Fatal(err)
	}
	w.limit = limit
	for i := range n {
		if err := w.Append(content(i, size), []any{int64(i), nil}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// content returns bytes that stand for picture i and can't be compressed much.
func content(i, size int) []byte {
	b := make([]byte, size)
	r := rand.New(rand.NewPCG(uint64(i), 7))
	for k := 0; k+8 <= len(b); k += 8 {
		binary.LittleEndian.PutUint64(b[k:], r.Uint64())
	}
	return b
}

// Several goroutines read rows of many batches in a random order, with and without
// room for the decompressed ones.
func TestRandomAccess(t *testing.T) {
	const n, size = 200, 500
	for _, c := range []Compression{None, LZ4, ZSTD} {
		for _, room := range []int64{cacheMemory, 1} {
			f, err := Open(writeRows(t, n, size, 10*size, c))
			if err != nil {
				t.Fatal(err)
			}
			if len(f.Batches()) < 10 {
				t.Errorf("%d batches", len(f.Batches()))
			}
			f.held.Limit = room
			var wg sync.WaitGroup
			for g := range 4 {
				wg.Go(func() {
					order := rand.New(rand.NewPCG(uint64(g), 1)).Perm(n)
					for _, i := range order[:100] {
						row, err := f.Row(i, 1, 0)
						if err != nil || !reflect.DeepEqual(row[0], []any{int64(i), nil}) || !bytes.Equal(row[1].([]byte), content(i, size)) {
							t.Errorf("%s: row %d: %v, %v", c, i, row, err)
							return
						}
					}
				})
			}
			wg.Wait()
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// A file of many megabytes is read in a heap of a few: mapped where it is not
// compressed, a batch at a time where it is.
func TestFlatMemory(t *testing.T) {
	const n, size = 40, 1 << 20
	for _, c := range []Compression{None, LZ4} {
		path := writeRows(t, n, size, 4<<20, c)
		runtime.GC()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		f, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		f.held.Limit = 4 << 20
		for i := range n {
			row, err := f.Row(i, 0)
			if err != nil || len(row[0].([]byte)) != size {
				t.Fatalf("row %d: %v", i, err)
			}
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 12<<20 {
			t.Errorf("%s: a file of %d bytes holds %d of the heap", c, n*size, grown)
		}
		runtime.KeepAlive(f)
		f.Close()
	}
}

// A file that another program cuts short while it is mapped gives errors.
func TestCutWhileOpen(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows does not let others change a file that is mapped")
	}
	const n = 100
	path := writeRows(t, n, 4000, 1<<30, None)
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.Truncate(path, 8192); err != nil {
		t.Fatal(err)
	}
	if row, err := f.Row(n-1, 0); err == nil || !strings.Contains(err.Error(), "row 99: damaged") {
		t.Errorf("%v, %v", row, err)
	}
}

func TestWriterErrors(t *testing.T) {
	dir := t.TempDir()
	if _, err := Create(filepath.Join(dir, "a"), []Column{{"a", "list<map>"}}, None); err == nil || !strings.Contains(err.Error(), `column "a": unknown type "map"`) {
		t.Errorf("error %v", err)
	}
	if _, err := Create(filepath.Join(dir, "a"), nil, "xz"); err == nil {
		t.Error("compression xz is accepted")
	}
	for _, row := range [][]any{{"a"}, {int64(1), "x"}, {"a", []any{"x", int64(2)}}} {
		w, err := Create(filepath.Join(dir, "b.arrow"), []Column{{"s", "string"}, {"l", "list<string>"}}, None)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Append(row...); err == nil || !strings.Contains(err.Error(), "b.arrow") {
			t.Errorf("%v: error %v", row, err)
		}
		if err := w.Close(); err == nil {
			t.Errorf("%v: Close succeeds after an error", row)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func ExampleFile_Row() {
	path := filepath.Join(os.TempDir(), "example.arrow")
	defer os.Remove(path)
	w, err := Create(path, []Column{{"caption", "list<string>"}, {"image_id", "int64"}}, None)
	if err != nil {
		fmt.Println(err)
		return
	}
	w.Append([]any{"a cat", "an animal"}, int64(7))
	if err := w.Close(); err != nil {
		fmt.Println(err)
		return
	}
	f, err := Open(path)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer f.Close()
	fmt.Println(f.Row(0, 0, 1))
	// Output: [[a cat an animal] 7] <nil>
}
