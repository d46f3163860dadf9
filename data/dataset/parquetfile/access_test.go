package parquetfile

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"

	"vlmo-train/data/dataset/internal/fixture"
)

// Several goroutines read rows in a random order, with and without room for decoded
// pages.
func TestRandomAccess(t *testing.T) {
	dir := fixture.Dir("parquet")
	var expected map[string]expectation
	fixture.ReadJSON(t, filepath.Join(dir, "expected.json"), &expected)
	for name, e := range expected {
		if e.Expected != "ok" || e.Optional {
			continue
		}
		want := e.Rows
		for _, room := range []int64{cacheMemory, 1} {
			f, err := Open(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			f.held.Limit = room
			var wg sync.WaitGroup
			for g := range 4 {
				wg.Go(func() {
					for _, i := range rand.New(rand.NewPCG(uint64(g), 1)).Perm(len(want)) {
						for k, c := range f.Columns() {
							row, err := f.Row(i, k)
							if err != nil || !reflect.DeepEqual(fixture.Plain(row[0]), want[i][c.Name]) {
								t.Errorf("%s: row %d: %s is %v, %v, want %v", name, i, c.Name, row, err, want[i][c.Name])
							}
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

// counting counts the bytes read.
type counting struct {
	*os.File
	n atomic.Int64
}

func (c *counting) ReadAt(p []byte, off int64) (int, error) {
	c.n.Add(int64(len(p)))
	return c.File.ReadAt(p, off)
}

// One row of a file with many pages costs its pages and their headers, not the
// column; also where headers are longer than pages, as those of pyarrow with the
// least and the largest value of each (testdata/long_statistics.parquet: ten
// pages of a random value).
func TestReadsPagesOnDemand(t *testing.T) {
	testReadsPages(t, filepath.Join(fixture.Own("parquet"), "small_pages.parquet"))
	testReadsPages(t, filepath.Join("testdata", "long_statistics.parquet"))
}

func testReadsPages(t *testing.T, path string) {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	c := &counting{File: file}
	f, err := newFile(path, c, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	image := -1
	for i, col := range f.Columns() {
		if col.Name == "image" {
			image = i
		}
	}
	read := func(row int) int64 {
		before := c.n.Load()
		if _, err := f.Row(row, image); err != nil {
			t.Fatal(err)
		}
		return c.n.Load() - before
	}
	last := f.NumRows() - 1
	first := read(last) // headers, and the dictionary if there is one
	if again := read(last); again != 0 {
		t.Errorf("a row that was read just now takes %d bytes", again)
	}
	if n := read(0); n >= info.Size()/2 || first >= info.Size() {
		t.Errorf("two rows take %d and %d bytes of a file of %d", first, n, info.Size())
	}
}

func TestHybrid(t *testing.T) {
	// The example of apache/parquet-format's Encodings.md: 0 to 7 in 3 bits.
	got, err := hybrid([]byte{0x03, 0x88, 0xc6, 0xfa}, 3, 8)
	if want := []int32{0, 1, 2, 3, 4, 5, 6, 7}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
	// A run of five, then three of a group.
	got, err = hybrid([]byte{5 << 1, 0x02, 0x03, 0x88, 0xc6, 0xfa}, 3, 8)
	if want := []int32{2, 2, 2, 2, 2, 0, 1, 2}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
	for _, b := range [][]byte{nil, {0x03, 0x88}, {0x00}, {0x01}, {5 << 1}} {
		if got, err := hybrid(b, 3, 8); err == nil {
			t.Errorf("%x gives %v", b, got)
		}
	}
}

func TestDeltas(t *testing.T) {
	// The examples of apache/parquet-format's Encodings.md, in blocks of 8 in one
	// part of 8.
	for _, c := range []struct {
		b    []byte
		want []int64
	}{
		// 1, 2, 3, 4, 5: deltas of 1, so no bits.
		{[]byte{8, 1, 5, 2, 2, 0}, []int64{1, 2, 3, 4, 5}},
		// 7, 5, 3, 1, 2, 3, 4, 5: least delta -2, then 0, 0, 0, 3, 3, 3, 3 in 2 bits.
		{[]byte{8, 1, 8, 14, 3, 2, 0b11000000, 0b00111111}, []int64{7, 5, 3, 1, 2, 3, 4, 5}},
	} {
		got, rest, err := deltas(append(c.b, 0xff), len(c.want))
		if err != nil || !reflect.DeepEqual(got, c.want) || len(rest) != 1 {
			t.Errorf("%v, %x, %v, want %v", got, rest, err, c.want)
		}
		if _, _, err := deltas(c.b[:len(c.b)-1], len(c.want)); err == nil {
			t.Error("a page cut short is decoded")
		}
	}
}
