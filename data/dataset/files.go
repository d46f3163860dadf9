package dataset

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"vlmo-train/data/internal/spill"
)

// lacking counts the examples of a raw set that are left out because their picture
// has no file, as the original does.
type lacking struct {
	n     int
	first string
}

// Incomplete returns how many examples were left out because there is no file for
// their picture, and the name of one such picture.
func (l *lacking) Incomplete() (n int, picture string) { return l.n, l.first }

// openFile opens a file that is no folder.
func openFile(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.IsDir() {
		err = fmt.Errorf("%s is a folder", path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// closeAll closes what a set holds and returns the first error.
func closeAll(list ...io.Closer) error {
	var first error
	for _, c := range list {
		if err := c.Close(); err != nil && first == nil {
			first = fmt.Errorf("dataset: %w", err)
		}
	}
	return first
}

// presence finds out which files there are by listing their folders once.
type presence struct {
	sorter  spill.Sorter // path, whether it is asked for, number
	folders map[string]bool
	rec     []byte
}

// pathKey stands for a path.
type pathKey [2]uint64

// file prepares asking for a file by its key.
func (p *presence) file(path string) pathKey {
	if p.folders == nil {
		p.folders = make(map[string]bool)
	}
	dir, _ := filepath.Split(path)
	if !p.folders[dir] {
		p.folders[strings.Clone(dir)] = true
	}
	hi, lo := spill.Hash([]byte(path))
	return pathKey{hi, lo}
}

// ask asks for a file by a number.
func (p *presence) ask(k pathKey, n uint64) error {
	p.rec = spill.Encode(p.rec[:0], k[0], k[1], 1, n)
	return p.sorter.Add(p.rec)
}

// each calls f for all files asked for in the order of their numbers. A folder that
// does not exist has none.
func (p *presence) each(f func(n uint64, there bool) error) error {
	for _, dir := range slices.Sorted(maps.Keys(p.folders)) {
		err := eachEntry(dir, func(e fs.DirEntry) error {
			if e.IsDir() {
				return nil
			}
			hi, lo := spill.Hash([]byte(dir + e.Name()))
			p.rec = spill.Encode(p.rec[:0], hi, lo, 0, 0)
			return p.sorter.Add(p.rec)
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	var answers spill.Sorter
	defer answers.Close()
	there := uint64(0)
	var v [2]uint64
	err := p.sorter.EachRun(spill.HashLen, func(begins bool, rec []byte) error {
		if spill.Decode(rec, v[:]); begins {
			there = 1 - v[0]
		}
		if v[0] == 0 {
			return nil
		}
		p.rec = spill.Encode(p.rec[:0], v[1], there)
		return answers.Add(p.rec)
	})
	if err != nil {
		return err
	}
	return answers.Each(func(rec []byte) error {
		spill.Decode(rec, v[:])
		return f(v[0], v[1] == 1)
	})
}

// Close gives files back.
func (p *presence) Close() error { return p.sorter.Close() }

// eachEntry calls f for what is in a folder, in no order. It has no more than some of
// it in memory.
func eachEntry(dir string, f func(e fs.DirEntry) error) error {
	if dir == "" {
		dir = "."
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	for {
		entries, err := d.ReadDir(512)
		for _, e := range entries {
			if err := f(e); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// sortedEntries calls f for the pictures in a folder and for the folders in it, in the
// order of their names or, if apart, the pictures first. What begins with a dot is left
// out.
func sortedEntries(dir string, apart, links bool, f func(name string, folder bool) error) error {
	var sorter spill.Sorter
	defer sorter.Close()
	var rec []byte
	err := eachEntry(dir, func(e fs.DirEntry) error {
		name, folder := e.Name(), e.IsDir()
		if strings.HasPrefix(name, ".") {
			return nil
		}
		if links && e.Type()&fs.ModeSymlink != 0 {
			info, err := os.Stat(filepath.Join(dir, name))
			folder = err == nil && info.IsDir()
		}
		if !folder && !isPicture(name) {
			return nil
		}
		rec = rec[:0]
		kind := byte(0)
		if folder {
			kind = 1
		}
		if apart {
			rec = append(rec, kind)
		}
		return sorter.Add(append(append(rec, name...), 0, kind))
	})
	if err != nil {
		return err
	}
	return sorter.Each(func(rec []byte) error {
		if apart {
			rec = rec[1:]
		}
		return f(string(rec[:len(rec)-2]), rec[len(rec)-1] == 1)
	})
}
