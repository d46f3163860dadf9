package spill

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Records come out as slices.Sort has them, from memory and merged from files.
func TestSorter(t *testing.T) {
	for _, limit := range []int{0, 64, 1000, 20000} {
		seed := rand.Uint64()
		t.Logf("limit %d, seed %d", limit, seed)
		r := rand.New(rand.NewPCG(seed, 1))
		s := Sorter{limit: limit}
		for round := range 2 { // Each leaves an empty sorter
			var want []string
			for range 2000 {
				b := make([]byte, r.IntN(24))
				for i := range b {
					b[i] = byte(r.IntN(3))
				}
				want = append(want, string(b))
				if err := s.Add(b); err != nil {
					t.Fatal(err)
				}
			}
			if limit == 64 {
				want = append(want, strings.Repeat("long", buffer)) // larger than all buffers
				if err := s.Add([]byte(want[len(want)-1])); err != nil {
					t.Fatal(err)
				}
			}
			if limit > 0 != (s.f != nil) {
				t.Fatalf("file %v", s.f)
			}
			slices.Sort(want)
			var got []string
			if err := s.Each(func(rec []byte) error { got = append(got, string(rec)); return nil }); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, want) {
				t.Fatalf("limit %d, round %d: %d records, want %d, or their order differs", limit, round, len(got), len(want))
			}
		}
	}
}

func TestSorterStops(t *testing.T) {
	for _, limit := range []int{0, 64} {
		s := Sorter{limit: limit}
		for i := range uint64(100) {
			if err := s.Add(Encode(nil, i)); err != nil {
				t.Fatal(err)
			}
		}
		stop, n := errors.New("stop"), 0
		err := s.Each(func([]byte) error {
			if n++; n == 3 {
				return stop
			}
			return nil
		})
		if err != stop || n != 3 || s.f != nil || s.buf != nil {
			t.Errorf("%v after %d records, %+v", err, n, s)
		}
	}
}

func TestArrayAndStrings(t *testing.T) {
	for _, n := range []int{0, 1, 100, 20000} {
		a, s := NewArray(3), NewStrings()
		long := strings.Repeat("x", 3*block)
		text := func(i int) string {
			if i == 50 {
				return long
			}
			return fmt.Sprint("name ", i)[:i%7]
		}
		for i := range n {
			if err := errors.Join(a.Append(uint64(i), 1<<63+uint64(i), 7), s.Append(text(i))); err != nil {
				t.Fatal(err)
			}
		}
		if a.Len() != n || s.Len() != n {
			t.Fatalf("%d and %d, want %d", a.Len(), s.Len(), n)
		}
		if n == 20000 != (a.data.f != nil) || n == 20000 != (s.places.data.f != nil) {
			t.Errorf("%d rows: file %v", n, a.data.f)
		}
		var wait sync.WaitGroup
		for k := range 3 {
			wait.Go(func() {
				for i := k; i < n; i += 3 {
					var row [3]uint64
					err := a.At(i, row[:])
					x, err2 := s.At(i)
					if err != nil || err2 != nil || row != [3]uint64{uint64(i), 1<<63 + uint64(i), 7} || x != text(i) {
						t.Errorf("row %d: %v, %.20q, %v, %v", i, row, x, err, err2)
						return
					}
				}
			})
		}
		wait.Wait()
		if err := errors.Join(a.Close(), s.Close(), a.Close()); err != nil {
			t.Error(err)
		}
	}
}

func TestEncode(t *testing.T) {
	x, y := Encode([]byte("a"), 1, 1<<40), Encode([]byte("a"), 2, 0)
	var v [2]uint64
	if rest := Decode(x, v[:]); string(rest) != "a" || v != [2]uint64{1, 1 << 40} || bytes.Compare(x, y) >= 0 {
		t.Errorf("%q, %v", rest, v)
	}
}

// A temporary file has no name while it is open, or at least none after it.
func TestNothingIsLeft(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	t.Setenv("TMP", dir) // of Windows
	a, s := NewArray(1), Sorter{limit: 64}
	for i := range uint64(20000) {
		if err := errors.Join(a.Append(i), s.Add(Encode(nil, i))); err != nil {
			t.Fatal(err)
		}
	}
	files := []*File{a.data.f, s.f}
	if err := errors.Join(a.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if filepath.Dir(f.Name()) != dir {
			t.Errorf("%s is not in %s", f.Name(), dir)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("left in the folder: %v, %v", entries, err)
	}
}

// Errors name the folder and how to choose another.
func TestErrors(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "none")
	t.Setenv("TMPDIR", dir)
	t.Setenv("TMP", dir)
	a := NewArray(1)
	var err error
	for i := range uint64(2 * block) {
		if err = a.Append(i); err != nil {
			break
		}
	}
	s := Sorter{limit: 64}
	for i := range uint64(10) {
		if err2 := s.Add(Encode(nil, i)); err2 != nil {
			err = errors.Join(err, err2)
			break
		}
	}
	if !errors.Is(err, fs.ErrNotExist) || strings.Count(err.Error(), "temporary file in "+dir+" (TMPDIR names another folder): ") != 2 {
		t.Errorf("%v", err)
	}
}
