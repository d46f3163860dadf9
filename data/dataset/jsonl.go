package dataset

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"unicode/utf8"

	"vlmo-train/data/img"
	"vlmo-train/data/internal/spill"
)

// JSONL is a set described by a file of JSON objects, one a line:
//
//	{"image": "twitter.webp", "box": [64, 0, 32, 32], "id": "1f600-twitter",
//	 "concept": "1f600", "captions": ["grinning face"], "keywords": ["face", "grin"]}
//
// (on one line). All fields are optional, but there is an image or a caption:
//
//   - image: the picture's file, relative to the folder of the JSONL file
//   - box: [x, y, width, height] in pixels; the example is this part of the picture
//   - caption (a string) or captions (a list)
//   - id: a string or a number; the image's path where there is none
//   - group or concept: a string or a number, see [Example]
//   - keywords: a list of strings
//
// Other fields are ignored, and so are blank lines. In memory are the sheets in use.
type JSONL struct {
	f      *os.File
	dir    string // that pictures are relative to
	decode img.Options
	lines  *spill.Array // extents
	sheets sheets
}

type jsonlRecord struct {
	id, group string
	image     string // as written, "" for none
	box       box
	captions  []string
	keywords  []string
}

// name is a JSON string, or a number taken as it is written.
type name string

func (n *name) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] != '"' {
		var v json.Number
		if err := json.Unmarshal(b, &v); err != nil {
			return errors.New("id, group and concept are strings or numbers")
		}
		*n = name(v)
		return nil
	}
	return json.Unmarshal(b, (*string)(n))
}

type jsonLine struct {
	Image    string    `json:"image"`
	Box      *[]int32  `json:"box"`
	ID       name      `json:"id"`
	Group    name      `json:"group"`
	Concept  name      `json:"concept"`
	Caption  *string   `json:"caption"`
	Captions *[]string `json:"captions"`
	Keywords []string  `json:"keywords"`
}

// OpenJSONL reads the description of a set in o.Path, which must not change until Close. It
// is an error, which names file and line, if a line is not such an object, if an ID
// occurs twice or a picture's file does not exist; and if there is no example at all.
func OpenJSONL(o Options) (_ *JSONL, err error) {
	path := o.Path
	d := &JSONL{dir: filepath.Dir(path), decode: o.decode(), lines: spill.NewArray(2)}
	d.sheets.Limit = sheetMemory
	if d.f, err = openFile(path); err != nil {
		return nil, fmt.Errorf("dataset: %w", err)
	}
	var ids unique
	defer func() {
		ids.Close()
		if err != nil {
			d.Close()
		}
	}()
	seen := make(map[string]bool) // pictures whose files were found of late
	err = eachLine(d.f, maxObject, func(_ int, off int64, line []byte) error {
		r, err := parse(line)
		if err != nil {
			return err
		}
		if err := ids.add(r.id); err != nil {
			return err
		}
		if r.image != "" && !seen[r.image] {
			file := d.picture(r.image)
			if info, err := os.Stat(file); err != nil {
				return fmt.Errorf("picture %s: %w", file, bare(err))
			} else if info.IsDir() {
				return fmt.Errorf("picture %s is a folder", file)
			}
			if len(seen) == maxSeen {
				clear(seen)
			}
			seen[r.image] = true
		}
		return d.lines.Append(extent{off, uint32(len(line))}.numbers()...)
	})
	if err != nil {
		return nil, fmt.Errorf("dataset: %s:%w", path, err)
	}
	if d.Len() == 0 {
		return nil, fmt.Errorf("dataset: %s: no examples", path)
	}
	before, again, ok, err := ids.twice()
	if err == nil && ok {
		err = d.twice(before, again)
	}
	if err != nil {
		return nil, fmt.Errorf("dataset: %s:%w", path, err)
	}
	return d, nil
}

const (
	maxObject = 64 << 20 // bytes of a line
	maxSeen   = 1 << 16  // pictures that OpenJSONL remembers
)

// twice returns the error for two examples with the same ID. It begins with the line of
// the second.
func (d *JSONL) twice(before, again int) error {
	if _, err := d.f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf(" %w", bare(err))
	}
	i, first := -1, 0
	return eachLine(d.f, maxObject, func(n int, _ int64, line []byte) error {
		switch i++; i {
		case before:
			first = n
		case again:
			r, _ := parse(line)
			return fmt.Errorf("id %q is already on line %d", r.id, first)
		}
		return nil
	})
}

// picture returns the file of a picture named in the set.
func (d *JSONL) picture(image string) string {
	file := filepath.FromSlash(image)
	if !filepath.IsAbs(file) {
		file = filepath.Join(d.dir, file)
	}
	return file
}

// parse reads one line.
func parse(line []byte) (r jsonlRecord, err error) {
	var j jsonLine
	if err := json.Unmarshal(line, &j); err != nil {
		return r, err
	}
	r.image = j.Image
	r.id, r.group, r.keywords = string(j.ID), string(j.Group), j.Keywords
	switch {
	case j.Caption != nil && j.Captions != nil:
		return r, errors.New("both caption and captions")
	case j.Caption != nil:
		r.captions = []string{*j.Caption}
	case j.Captions != nil:
		r.captions = *j.Captions
	}
	if j.Image == "" && len(r.captions) == 0 {
		return r, errors.New("neither image nor caption")
	}
	if r.id == "" {
		if r.id = j.Image; r.id == "" {
			return r, errors.New("neither id nor image")
		}
	}
	if j.Concept != "" {
		if j.Group != "" {
			return r, errors.New("both group and concept")
		}
		r.group = string(j.Concept)
	}
	if r.group == "" {
		r.group = r.id
	}
	if j.Box != nil {
		b := *j.Box
		if j.Image == "" {
			return r, errors.New("box without image")
		}
		if len(b) != 4 || b[0] < 0 || b[1] < 0 || b[2] <= 0 || b[3] <= 0 {
			return r, fmt.Errorf("box %v is not [x, y, width, height] in pixels", b)
		}
		r.box = box{b[0], b[1], b[2], b[3]}
	}
	return r, nil
}

// Close closes the files.
func (d *JSONL) Close() error { return closeAll(d.f, d.lines) }

// Len returns the number of examples.
func (d *JSONL) Len() int { return d.lines.Len() }

// read reads line i.
func (d *JSONL) read(i int) (r jsonlRecord, err error) {
	var at [2]uint64
	if err := d.lines.At(i, at[:]); err != nil {
		return r, err
	}
	line, err := extentOf(at[:]).read(d.f)
	if err != nil {
		return r, err
	}
	return parse(line)
}

// Group returns the group of example i.
func (d *JSONL) Group(i int) string {
	r, err := d.read(i)
	if err != nil {
		return fmt.Sprintf("example %d", i)
	}
	return r.group
}

// ReadWords reads example i without its picture.
func (d *JSONL) ReadWords(i int) (Example, error) {
	e, _, err := d.words(i)
	return e, err
}

func (d *JSONL) words(i int) (Example, jsonlRecord, error) {
	if err := checkIndex(i, d.Len()); err != nil {
		return Example{}, jsonlRecord{}, err
	}
	r, err := d.read(i)
	if err != nil {
		return Example{}, r, &BadExampleError{Index: i, ID: r.id, Path: d.f.Name(), Err: err}
	}
	e := Example{ID: r.id, Group: r.group, Captions: r.captions, Keywords: r.keywords}
	if r.box == (box{}) {
		e.ImageID = r.image
	}
	return e, r, nil
}

// Example reads example i. A picture of which examples are parts is decoded once
// and kept, other pictures are decoded at each call.
func (d *JSONL) Example(i int) (Example, error) {
	e, r, err := d.words(i)
	if err != nil || r.image == "" {
		return e, err
	}
	path := d.picture(r.image)
	if r.box == (box{}) {
		e.Image, err = readPicture(path, d.decode)
	} else {
		var m *img.Image
		if m, err = d.sheets.get(path, d.decode); err == nil {
			e.Image, err = crop(m, r.box)
		}
	}
	if err != nil {
		return Example{}, &BadExampleError{Index: i, ID: r.id, Path: path, Err: err}
	}
	return e, nil
}

// eachLine calls f for every line of r that is not blank, with its number from 1,
// its offset in bytes and its content, valid until f returns, without the
// surrounding white space. Errors, f's included, begin with the line's number.
func eachLine(r io.Reader, limit int, f func(n int, off int64, line []byte) error) error {
	return eachRawLine(r, limit, func(n int, off int64, line []byte) error {
		const space = " \t\r\n\v\f"
		trimmed := bytes.TrimLeft(line, space)
		off += int64(len(line) - len(trimmed))
		if trimmed = bytes.TrimRight(trimmed, space); len(trimmed) == 0 {
			return nil
		}
		return f(n, off, trimmed)
	})
}

// eachRawLine is eachLine with all lines as they are, but for what ends them, LF or
// CR LF.
func eachRawLine(r io.Reader, limit int, f func(n int, off int64, line []byte) error) error {
	br := bufio.NewReaderSize(r, 64<<10)
	var long []byte
	var off int64
	for n := 1; ; n++ {
		line, err := br.ReadSlice('\n')
		if err == bufio.ErrBufferFull {
			long = append(long[:0], line...)
			for err == bufio.ErrBufferFull {
				if len(long) > limit {
					return fmt.Errorf("%d: line of more than %d bytes", n, limit)
				}
				line, err = br.ReadSlice('\n')
				long = append(long, line...)
			}
			line = long
		}
		if err != nil && err != io.EOF {
			return fmt.Errorf("%d: %w", n, bare(err))
		}
		start := off
		off += int64(len(line))
		if n == 1 {
			// Some editors start a UTF-8 file with a byte order mark.
			if cut := bytes.TrimPrefix(line, []byte("\uFEFF")); len(cut) < len(line) {
				start += int64(len(line) - len(cut))
				line = cut
			}
		}
		if len(line) > limit {
			return fmt.Errorf("%d: line of more than %d bytes", n, limit)
		}
		if err == io.EOF && len(line) == 0 {
			return nil
		}
		if bytes.HasSuffix(line, []byte("\n")) {
			line = bytes.TrimSuffix(line[:len(line)-1], []byte("\r"))
		}
		if !utf8.Valid(line) {
			return fmt.Errorf("%d: not UTF-8", n)
		}
		if err := f(n, start, line); err != nil {
			return fmt.Errorf("%d: %w", n, err)
		}
		if err == io.EOF {
			return nil
		}
	}
}

// bare removes operation and path from an error of package os, where the
// message around it says them.
func bare(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
