package dataset

import (
	"fmt"
	"io"
	"os"
	"sort"
)

// maxLine is the longest line of text in bytes: what is longer is no sentence
// but a file of another kind.
const maxLine = 1 << 20

// Lines is a set of texts: each line of its files that is not blank is an
// example with one caption and no picture, named "file:line". The text stays on
// disk; 16 bytes a line are in memory.
type Lines struct {
	files []textFile
	lines []textLine
}

type textFile struct {
	f     *os.File
	first int // index of the file's first line in Lines.lines
}

type textLine struct {
	off    int64
	length uint32
	number uint32
}

// OpenLines indexes text files, which must be UTF-8. They stay open and must not
// change until Close. Errors name file and line.
func OpenLines(paths ...string) (_ *Lines, err error) {
	d := new(Lines)
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
		first := len(d.lines)
		d.files = append(d.files, textFile{f, first})
		err = eachLine(f, maxLine, func(n int, off int64, line []byte) error {
			d.lines = append(d.lines, textLine{off, uint32(len(line)), uint32(n)})
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("dataset: %s:%w", path, err)
		}
		if len(d.lines) == first {
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
	var first error
	for _, t := range d.files {
		if err := t.f.Close(); err != nil && first == nil {
			first = fmt.Errorf("dataset: %w", err)
		}
	}
	return first
}

// Len returns the number of lines.
func (d *Lines) Len() int { return len(d.lines) }

// file returns the file of line i.
func (d *Lines) file(i int) *os.File {
	k := sort.Search(len(d.files), func(k int) bool { return d.files[k].first > i }) - 1
	return d.files[k].f
}

// Group returns the group of line i, its ID.
func (d *Lines) Group(i int) string {
	return fmt.Sprintf("%s:%d", d.file(i).Name(), d.lines[i].number)
}

// Example reads line i.
func (d *Lines) Example(i int) (Example, error) {
	if err := checkIndex(i, len(d.lines)); err != nil {
		return Example{}, err
	}
	id := d.Group(i)
	l, f := d.lines[i], d.file(i)
	b := make([]byte, l.length)
	if _, err := f.ReadAt(b, l.off); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF // the file has become shorter
		}
		return Example{}, &BadExampleError{Index: i, ID: id, Path: f.Name(), Err: bare(err)}
	}
	return Example{ID: id, Group: id, Captions: []string{string(b)}}, nil
}
