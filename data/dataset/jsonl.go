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
// Other fields are ignored, and so are blank lines.
type JSONL struct {
	records []jsonlRecord
	paths   []string // of the picture files, each once
	sheets  sheets
}

type jsonlRecord struct {
	id, group string
	picture   int32 // index into paths, -1 for none
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

// OpenJSONL reads the description of a set. It is an error, which names file and
// line, if a line is not such an object, if an ID occurs twice or a picture's
// file does not exist; and if there is no example at all.
func OpenJSONL(path string) (*JSONL, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("dataset: %w", err)
	}
	defer f.Close()
	d := new(JSONL)
	d.sheets.Limit = sheetMemory
	pictures := make(map[string]int32)
	lines := make(map[string]int) // where an ID was seen
	err = eachLine(f, 64<<20, func(n int, _ int64, line []byte) error {
		r, image, err := parse(line)
		if err != nil {
			return err
		}
		if first, ok := lines[r.id]; ok {
			return fmt.Errorf("id %q is already on line %d", r.id, first)
		}
		lines[r.id] = n
		r.picture = -1
		if image != "" {
			p, ok := pictures[image]
			if !ok {
				p = int32(len(d.paths))
				pictures[image] = p
				file := filepath.FromSlash(image)
				if !filepath.IsAbs(file) {
					file = filepath.Join(filepath.Dir(path), file)
				}
				if info, err := os.Stat(file); err != nil {
					return fmt.Errorf("picture %s: %w", file, bare(err))
				} else if info.IsDir() {
					return fmt.Errorf("picture %s is a folder", file)
				}
				d.paths = append(d.paths, file)
			}
			r.picture = p
		}
		d.records = append(d.records, r)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("dataset: %s:%w", path, err)
	}
	if len(d.records) == 0 {
		return nil, fmt.Errorf("dataset: %s: no examples", path)
	}
	return d, nil
}

// parse reads one line and returns its record, picture left open, and the
// picture's file as written.
func parse(line []byte) (r jsonlRecord, image string, err error) {
	var j jsonLine
	if err := json.Unmarshal(line, &j); err != nil {
		return r, "", err
	}
	r.id, r.group, r.keywords = string(j.ID), string(j.Group), j.Keywords
	switch {
	case j.Caption != nil && j.Captions != nil:
		return r, "", errors.New("both caption and captions")
	case j.Caption != nil:
		r.captions = []string{*j.Caption}
	case j.Captions != nil:
		r.captions = *j.Captions
	}
	if j.Image == "" && len(r.captions) == 0 {
		return r, "", errors.New("neither image nor caption")
	}
	if r.id == "" {
		if r.id = j.Image; r.id == "" {
			return r, "", errors.New("neither id nor image")
		}
	}
	if j.Concept != "" {
		if j.Group != "" {
			return r, "", errors.New("both group and concept")
		}
		r.group = string(j.Concept)
	}
	if r.group == "" {
		r.group = r.id
	}
	if j.Box != nil {
		b := *j.Box
		if j.Image == "" {
			return r, "", errors.New("box without image")
		}
		if len(b) != 4 || b[0] < 0 || b[1] < 0 || b[2] <= 0 || b[3] <= 0 {
			return r, "", fmt.Errorf("box %v is not [x, y, width, height] in pixels", b)
		}
		r.box = box{b[0], b[1], b[2], b[3]}
	}
	return r, j.Image, nil
}

// Len returns the number of examples.
func (d *JSONL) Len() int { return len(d.records) }

// Group returns the group of example i.
func (d *JSONL) Group(i int) string { return d.records[i].group }

// Words returns example i without its picture.
func (d *JSONL) Words(i int) Example {
	r := &d.records[i]
	return Example{ID: r.id, Group: r.group, Captions: r.captions, Keywords: r.keywords}
}

// Example reads example i. A picture of which examples are parts is decoded once
// and kept, other pictures are decoded at each call. The strings are shared with
// the set, the picture is the caller's own.
func (d *JSONL) Example(i int) (Example, error) {
	if err := checkIndex(i, len(d.records)); err != nil {
		return Example{}, err
	}
	r := &d.records[i]
	e := Example{ID: r.id, Group: r.group, Captions: r.captions, Keywords: r.keywords}
	if r.picture < 0 {
		return e, nil
	}
	path := d.paths[r.picture]
	var err error
	if r.box == (box{}) {
		e.Image, err = readPicture(path)
	} else {
		var m *img.Image
		if m, err = d.sheets.get(path); err == nil {
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
