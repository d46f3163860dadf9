package dataset

import (
	"fmt"
	"io"
	"os"
	"sort"

	"vlmo-train/data/internal/spill"
)

// maxLine is the longest line of text in bytes: what is longer is no sentence
// but a file of another kind.
const maxLine = 1 << 20

// Lines is a set of texts: each line of its files that is not blank is an
// example with one caption and no picture, named "file:line".
type Lines struct {
	files []textFile
	lines *spill.Array // extents, and the numbers of the lines
}

type textFile struct {
	f     *os.File
	first int // index of the file's first line in Lines.lines
}

// OpenLines indexes text files, which must be UTF-8. They stay open and must not
// change until Close. Errors name file and line.
func OpenLines(paths ...string) (_ *Lines, err error) {
	d := &Lines{lines: spill.NewArray(3)}
	defer func() {
		if err != nil {
			d.Close()
		}
	}()
	seen := make(map[string]bool)
	for _, path := range paths {
		if seen[path] {
			return nil, fmt.Errorf("dataset: %s is named twice", path)
		}
		seen[path] = true
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("dataset: %w", err)
		}
		first := d.Len()
		d.files = append(d.files, textFile{f, first})
		err = eachLine(f, maxLine, func(n int, off int64, line []byte) error {
			return d.lines.Append(extent{off, uint32(len(line))}.numbers(uint64(n))...)
		})
		if err != nil {
			return nil, fmt.Errorf("dataset: %s:%w", path, err)
		}
		if d.Len() == first {
			return nil, fmt.Errorf("dataset: %s: no text", path)
		}
	}
	if len(d.files) == 0 {
		return nil, fmt.Errorf("dataset: no text files")
	}
	return d, nil
}

// Close closes the files.
func (d *Lines) Close() error {
	list := []io.Closer{d.lines}
	for _, t := range d.files {
		list = append(list, t.f)
	}
	return closeAll(list...)
}

// Len returns the number of lines.
func (d *Lines) Len() int { return d.lines.Len() }

// file returns the file of line i.
func (d *Lines) file(i int) *os.File {
	k := sort.Search(len(d.files), func(k int) bool { return d.files[k].first > i }) - 1
	return d.files[k].f
}

// find returns where line i is in its file, and its name.
func (d *Lines) find(i int) (x extent, name string, err error) {
	var at [3]uint64
	path := d.file(i).Name()
	if err := d.lines.At(i, at[:]); err != nil {
		return x, path, err
	}
	return extentOf(at[:]), fmt.Sprintf("%s:%d", path, at[2]), nil
}

// Group returns the group of line i, its ID.
func (d *Lines) Group(i int) string {
	_, name, err := d.find(i)
	if err != nil {
		return fmt.Sprintf("example %d", i)
	}
	return name
}

// Example reads line i.
func (d *Lines) Example(i int) (Example, error) {
	if err := checkIndex(i, d.Len()); err != nil {
		return Example{}, err
	}
	f := d.file(i)
	x, id, err := d.find(i)
	var line []byte
	if err == nil {
		line, err = x.read(f)
	}
	if err != nil {
		return Example{}, &BadExampleError{Index: i, ID: id, Path: f.Name(), Err: err}
	}
	return Example{ID: id, Group: id, Captions: []string{string(line)}}, nil
}
