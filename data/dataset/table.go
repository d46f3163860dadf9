package dataset

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"vlmo-train/data/img"
)

// Table is a set described by a TSV or CSV file: a line for each pair of a picture
// and a caption. The first line names the columns, unless [Columns] does. The lines
// of one picture are one example with all their captions; blank captions are left
// out. In TSV there is no quoting, in CSV that of RFC 4180.
//
// A picture's path is relative to the option Images, or to the file's folder; of a
// URL, as Conceptual Captions lists have them, its base name is.
type Table struct {
	f       io.ReaderAt
	path    string
	images  string
	decode  img.Options
	comma   bool
	columns [numFields][]int
	width   int // number of columns
	lines   grouped
}

// OpenTSV indexes a TSV file, which must not change until Close.
func OpenTSV(o Options) (*Table, error) { return openTable(o, false) }

// OpenCSV indexes a CSV file, which must not change until Close.
func OpenCSV(o Options) (*Table, error) { return openTable(o, true) }

func openTable(o Options, comma bool) (*Table, error) {
	f, err := openFile(o.Path)
	if err != nil {
		return nil, fmt.Errorf("dataset: %w", err)
	}
	d := &Table{f: f, path: o.Path, images: o.Images, decode: o.decode(), comma: comma}
	if d.images == "" {
		d.images = filepath.Dir(o.Path)
	}
	if err := d.index(f, &o.Columns); err != nil {
		d.Close()
		return nil, fmt.Errorf("dataset: %s:%w", o.Path, err)
	}
	if d.Len() == 0 {
		d.Close()
		return nil, fmt.Errorf("dataset: %s: no examples", o.Path)
	}
	return d, nil
}

// index reads all lines. Errors begin with the line's number.
func (d *Table) index(r io.Reader, c *Columns) error {
	header := true
	names := c.Names
	if names != nil {
		if err := d.find(c, names); err != nil {
			return fmt.Errorf(" %w", err)
		}
		header = false
	}
	line := func(n int, x extent, fields []string) error {
		if header {
			header = false
			for i := range fields {
				fields[i] = strings.TrimSpace(fields[i])
			}
			return d.find(c, fields)
		}
		if len(fields) != d.width {
			return fmt.Errorf("%d columns, want %d", len(fields), d.width)
		}
		key := fmt.Sprintf("line %d", n)
		if i := d.columns[fieldImage]; i != nil {
			if key = "picture " + fields[i[0]]; fields[i[0]] == "" {
				return errors.New("no picture")
			}
		}
		return d.lines.add(key, x)
	}
	var err error
	if d.comma {
		err = eachCSV(r, line)
	} else {
		err = eachRawLine(r, maxLine, func(n int, off int64, b []byte) error {
			if len(b) == 0 {
				return nil
			}
			return line(n, extent{off, uint32(len(b))}, strings.Split(string(b), "\t"))
		})
	}
	if err != nil {
		return err
	}
	if err := d.lines.done(nil); err != nil {
		return fmt.Errorf(" %w", err)
	}
	return nil
}

func (d *Table) find(c *Columns, names []string) (err error) {
	d.width = len(names)
	d.columns, err = c.find(names)
	return err
}

// eachCSV calls f for each record, with the number of its first line and where it
// is. Errors begin with the line's number.
func eachCSV(r io.Reader, f func(n int, x extent, fields []string) error) error {
	br, skipped := skipBOM(r)
	cr := csvReader(br)
	for {
		off := cr.InputOffset()
		fields, err := cr.Read()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			var pe *csv.ParseError
			if errors.As(err, &pe) {
				return fmt.Errorf("%d: %w", pe.Line, pe.Err)
			}
			return fmt.Errorf(" %w", bare(err))
		}
		n, _ := cr.FieldPos(0)
		size := cr.InputOffset() - off
		if size > maxLine {
			return fmt.Errorf("%d: record of more than %d bytes", n, maxLine)
		}
		for _, s := range fields {
			if !utf8.ValidString(s) {
				return fmt.Errorf("%d: not UTF-8", n)
			}
		}
		if err := f(n, extent{skipped + off, uint32(size)}, fields); err != nil {
			return fmt.Errorf("%d: %w", n, err)
		}
	}
}

func csvReader(r io.Reader) *csv.Reader {
	cr := csv.NewReader(r)
	cr.FieldsPerRecord = -1
	return cr
}

// Close closes the files.
func (d *Table) Close() error {
	list := []io.Closer{&d.lines}
	if c, ok := d.f.(io.Closer); ok {
		list = append(list, c)
	}
	return closeAll(list...)
}

// Len returns the number of pictures, or of lines where there are none.
func (d *Table) Len() int { return d.lines.len() }

func (d *Table) where(int) string { return d.path }

// Group returns the group of example i, read from its first line.
func (d *Table) Group(i int) string {
	r := d.identify(i)
	return r.Group
}

// fields reads a line.
func (d *Table) fields(x extent) ([]string, error) {
	b, err := x.read(d.f)
	if err != nil {
		return nil, err
	}
	var fields []string
	if d.comma {
		if fields, err = csvReader(bytes.NewReader(b)).Read(); err != nil {
			return nil, err
		}
	} else {
		fields = strings.Split(string(b), "\t")
	}
	if len(fields) != d.width {
		return nil, errors.New("the file has changed since it was opened")
	}
	return fields, nil
}

// identify returns example i with no more than ID, ImageID and Group.
func (d *Table) identify(i int) (r record) {
	at, err := d.lines.first(i)
	r.ID = fmt.Sprintf("%s@%d", filepath.Base(d.path), at.off)
	if err == nil {
		if fields, err := d.fields(at); err == nil {
			d.name(&r, fields)
		}
	}
	if r.Group == "" {
		r.Group = r.ID
	}
	return r
}

func (d *Table) name(r *record, fields []string) {
	if c := d.columns[fieldImage]; c != nil {
		r.ImageID = fields[c[0]]
		r.ID = r.ImageID
	}
	if c := d.columns[fieldID]; c != nil && fields[c[0]] != "" {
		r.ID = fields[c[0]]
	}
	if c := d.columns[fieldGroup]; c != nil {
		r.Group = fields[c[0]]
	}
}

// Example reads example i.
func (d *Table) Example(i int) (Example, error) { return readExample(d, i, d.decode) }

// ReadWords reads example i without its picture.
func (d *Table) ReadWords(i int) (Example, error) { return readWords(d, i) }

func (d *Table) record(i int, pictures bool) (record, error) {
	r := d.identify(i)
	image := ""
	err := d.lines.group(i, func(x extent) error {
		fields, err := d.fields(x)
		if err != nil {
			return err
		}
		if c := d.columns[fieldImage]; c != nil {
			image = fields[c[0]]
		}
		for _, c := range d.columns[fieldCaptions] {
			if s := fields[c]; strings.TrimSpace(s) != "" {
				r.Captions = append(r.Captions, s)
			}
		}
		for _, c := range d.columns[fieldKeywords] {
			if s := strings.TrimSpace(fields[c]); s != "" {
				r.Keywords = append(r.Keywords, s)
			}
		}
		return nil
	})
	if err != nil {
		return r, err
	}
	switch {
	case image != "":
		r.pictures[0].path = d.picture(image)
	case len(r.Captions) == 0:
		return r, errors.New("a blank text")
	}
	return r, nil
}

// picture returns the file of a picture named in the table.
func (d *Table) picture(name string) string {
	if strings.Contains(name, "://") {
		if u, err := url.Parse(name); err == nil {
			name = path.Base(u.Path)
		} else {
			name = path.Base(name)
		}
	}
	name = filepath.FromSlash(name)
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(d.images, name)
}
