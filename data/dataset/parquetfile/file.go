// Package parquetfile reads Parquet files row by row.
//
// What a row needs is read when it is asked for: of a column with one value a row
// the page that holds it, of a column of lists the row group's part. Pages are
// found by their headers, so files need no page index. The last pages decoded are
// kept as long as there is room.
//
// The library parquet-go reads the metadata. Its readers of pages, and those of
// arrow-go, are not used: without a page index they decode all pages of a row group
// before the wanted one, and here memory is bounded whatever a page claims.
package parquetfile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"sort"

	"github.com/parquet-go/parquet-go/format"

	"vlmo-train/data/dataset/internal/cache"
)

// cacheMemory is how many bytes of decoded pages a file keeps; the page in use is
// kept however large it is.
const cacheMemory = 64 << 20

// Column is a column of a table: a field of the schema's root.
type Column struct {
	Name string
	Type string // "binary", "string", "list<element: string>", "struct<bytes: binary, path: string>"
}

// File is a table in a Parquet file. Its methods are safe for concurrent use, but
// nothing may be read during Close and after it.
type File struct {
	path    string
	r       io.ReaderAt
	size    int64
	closer  io.Closer
	meta    format.FileMetaData
	root    *node
	leaves  []*node
	columns []Column
	first   []int // row of each row group
	rows    int
	held    cache.Cache[key, *part]
}

// key names a part of a file that is kept: a page by its number, or one of the
// following.
type key struct{ group, leaf, page int }

const (
	headers    = -1 // where the pages are
	dictionary = -2
	allPages   = -3 // of a column of lists
)

// part is one of these, decoded.
type part struct {
	chunk  *chunk
	values []any
	cells  []cell
	starts []int32 // with allPages: the first cell of each row, and their number
}

// Open opens a file and reads its metadata. The file must not be changed until
// Close.
func Open(path string) (*File, error) {
	r, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("parquet: %w", err)
	}
	info, err := r.Stat()
	if err == nil && info.IsDir() {
		err = fmt.Errorf("%s is a folder", path)
	}
	if err != nil {
		r.Close()
		return nil, fmt.Errorf("parquet: %w", err)
	}
	f, err := newFile(path, r, info.Size())
	if err != nil {
		r.Close()
		return nil, err
	}
	f.closer = r
	return f, nil
}

// bare removes operation and path from an error of package os.
func bare(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// guard turns a panic, a library's or ours of a damaged file, into an error.
func guard(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("damaged: %v", r)
		}
	}()
	return f()
}

func newFile(path string, r io.ReaderAt, size int64) (*File, error) {
	f := &File{path: path, r: r, size: size}
	f.held.Limit = cacheMemory
	if err := guard(f.open); err != nil {
		return nil, fmt.Errorf("parquet: %s: %w", path, err)
	}
	return f, nil
}

const magic = "PAR1"

func (f *File) open() error {
	if f.size == 0 {
		return errors.New("the file is empty")
	}
	if f.size < 12 {
		return fmt.Errorf("no Parquet file: %d bytes", f.size)
	}
	head, tail := make([]byte, 4), make([]byte, 8)
	if _, err := f.r.ReadAt(head, 0); err != nil {
		return bare(err)
	}
	if _, err := f.r.ReadAt(tail, f.size-8); err != nil {
		return bare(err)
	}
	size := int64(binary.LittleEndian.Uint32(tail))
	switch {
	case string(head) != magic:
		return fmt.Errorf("no Parquet file: it does not begin with %q", magic)
	case string(tail[4:]) != magic:
		return fmt.Errorf("it does not end with %q: is it cut short?", magic)
	case size > f.size-12:
		return fmt.Errorf("metadata of %d bytes in a file of %d", size, f.size)
	}
	b := make([]byte, size)
	if _, err := f.r.ReadAt(b, f.size-8-size); err != nil {
		return bare(err)
	}
	if _, err := unmarshal(b, &f.meta); err != nil {
		return fmt.Errorf("metadata: %w", err)
	}
	var err error
	if f.root, f.leaves, err = parseSchema(f.meta.Schema); err != nil {
		return err
	}
	for _, c := range f.root.children {
		f.columns = append(f.columns, Column{c.name, c.typ()})
	}
	for i := range f.meta.RowGroups {
		g := &f.meta.RowGroups[i]
		if len(g.Columns) != len(f.leaves) {
			return fmt.Errorf("row group %d has %d columns, want %d", i, len(g.Columns), len(f.leaves))
		}
		if g.NumRows < 0 || g.NumRows > math.MaxInt32 {
			return fmt.Errorf("row group %d has %d rows", i, g.NumRows)
		}
		for k := range g.Columns {
			m := &g.Columns[k].MetaData
			if g.Columns[k].FilePath != "" {
				return fmt.Errorf("column %q lies in another file, %s", f.leaves[k].name, g.Columns[k].FilePath)
			}
			if m.Type != f.leaves[k].kind {
				return fmt.Errorf("row group %d: column %q is of type %v, want %v", i, f.leaves[k].name, m.Type, f.leaves[k].kind)
			}
			if m.NumValues < g.NumRows || f.leaves[k].rep == 0 && m.NumValues != g.NumRows {
				return fmt.Errorf("row group %d: column %q has %d values for %d rows", i, f.leaves[k].name, m.NumValues, g.NumRows)
			}
			if most := slackValues + valueRatio*f.size; g.NumRows > most {
				return fmt.Errorf("row group %d has %d rows in a file of %d bytes", i, g.NumRows, f.size)
			}
		}
		f.first = append(f.first, f.rows)
		f.rows += int(g.NumRows)
	}
	return nil
}

// Close closes the file.
func (f *File) Close() error {
	if f.closer == nil {
		return nil
	}
	if err := f.closer.Close(); err != nil {
		return fmt.Errorf("parquet: %w", err)
	}
	return nil
}

// Path returns the path the file was opened with.
func (f *File) Path() string { return f.path }

// NumRows returns the number of rows.
func (f *File) NumRows() int { return f.rows }

// Groups returns the number of rows of each row group.
func (f *File) Groups() []int {
	rows := make([]int, len(f.meta.RowGroups))
	for i := range rows {
		rows[i] = int(f.meta.RowGroups[i].NumRows)
	}
	return rows
}

// Columns returns the columns, which are not to be changed.
func (f *File) Columns() []Column { return f.columns }

// Row reads columns of a row, given by their numbers. A value is nil for null, or
// a bool, int64, float64, string, []byte, []any for a list, or map[string]any for
// a struct, and belongs to the caller. Errors do not name the file.
func (f *File) Row(i int, columns ...int) ([]any, error) {
	if i < 0 || i >= f.rows {
		return nil, fmt.Errorf("no row %d in a table of %d", i, f.rows)
	}
	group := sort.Search(len(f.first), func(g int) bool { return f.first[g] > i }) - 1
	values := make([]any, len(columns))
	for k, c := range columns {
		if c < 0 || c >= len(f.columns) {
			return nil, fmt.Errorf("row %d: no column %d in a table of %d", i, c, len(f.columns))
		}
		err := guard(func() (err error) {
			values[k], err = f.value(group, i-f.first[group], f.root.children[c])
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("row %d: column %q: %w", i, f.columns[c].Name, err)
		}
	}
	return values, nil
}

// value reads a column in a row of a row group.
func (f *File) value(group, i int, n *node) (any, error) {
	r := make(row, len(n.leaves))
	lists := n.repeated(f.leaves)
	for _, leaf := range n.leaves {
		var cells []cell
		var err error
		if lists {
			cells, err = f.rowOfLists(group, leaf, i)
		} else {
			cells, err = f.cell(group, leaf, i)
		}
		if err != nil {
			return nil, err
		}
		r[leaf] = &cursor{cells: cells}
	}
	v := r.field(n)
	for _, c := range r {
		if c.pos != len(c.cells) {
			return nil, errShape
		}
	}
	return v, nil
}

// chunk returns where the pages of a column of a row group are.
func (f *File) chunk(group, leaf int) (*chunk, error) {
	p, err := f.held.Get(key{group, leaf, headers}, func() (*part, int64, error) {
		c, err := f.scan(group, leaf)
		if err != nil {
			return nil, 0, err
		}
		return &part{chunk: c}, int64(400 * len(c.pages)), nil
	})
	if err != nil {
		return nil, err
	}
	return p.chunk, nil
}

// dict returns the dictionary of a column of a row group.
func (f *File) dict(group, leaf int, c *chunk) ([]any, error) {
	if c.dict == nil {
		return nil, errors.New("its dictionary is missing")
	}
	p, err := f.held.Get(key{group, leaf, dictionary}, func() (p *part, size int64, err error) {
		err = guard(func() error {
			values, err := f.dictionary(group, leaf, c.dict)
			p = &part{values: values}
			size = int64(40*len(values)) + int64(c.dict.header.UncompressedPageSize)
			return err
		})
		return p, size, err
	})
	if err != nil {
		return nil, err
	}
	return p.values, nil
}

// page decodes page k of a column of a row group.
func (f *File) page(group, leaf int, c *chunk, k int) (cells []cell, size int64, err error) {
	err = guard(func() (err error) {
		cells, err = f.cells(group, leaf, &c.pages[k], func() ([]any, error) { return f.dict(group, leaf, c) })
		return err
	})
	if err != nil {
		return nil, 0, fmt.Errorf("page %d: %w", k, err)
	}
	return cells, int64(40*len(cells)) + int64(c.pages[k].header.UncompressedPageSize), nil
}

// cell returns the one cell of a row in a leaf without lists.
func (f *File) cell(group, leaf, i int) ([]cell, error) {
	c, err := f.chunk(group, leaf)
	if err != nil {
		return nil, err
	}
	k := sort.Search(len(c.pages), func(k int) bool { return c.pages[k].firstCell > i }) - 1
	p, err := f.held.Get(key{group, leaf, k}, func() (*part, int64, error) {
		cells, size, err := f.page(group, leaf, c, k)
		return &part{cells: cells}, size, err
	})
	if err != nil {
		return nil, err
	}
	i -= c.pages[k].firstCell
	return p.cells[i : i+1], nil
}

// rowOfLists returns the cells of a row in a leaf of lists.
func (f *File) rowOfLists(group, leaf, i int) ([]cell, error) {
	p, err := f.held.Get(key{group, leaf, allPages}, func() (*part, int64, error) {
		c, err := f.chunk(group, leaf)
		if err != nil {
			return nil, 0, err
		}
		p := new(part)
		var size int64
		for k := range c.pages {
			cells, n, err := f.page(group, leaf, c, k)
			if err != nil {
				return nil, 0, err
			}
			p.cells = append(p.cells, cells...)
			size += n
		}
		for k := range p.cells {
			if p.cells[k].rep == 0 {
				p.starts = append(p.starts, int32(k))
			}
		}
		if rows := f.meta.RowGroups[group].NumRows; int64(len(p.starts)) != rows || len(p.cells) > 0 && p.cells[0].rep != 0 {
			return nil, 0, fmt.Errorf("%d rows, want %d", len(p.starts), rows)
		}
		p.starts = append(p.starts, int32(len(p.cells)))
		return p, size + int64(4*len(p.starts)), nil
	})
	if err != nil {
		return nil, err
	}
	return p.cells[p.starts[i]:p.starts[i+1]], nil
}
