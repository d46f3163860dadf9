// Package arrowfile reads Arrow IPC files row by row, and writes them.
//
// A [File] is mapped into memory: what is not compressed is read where it lies,
// and record batches that are compressed (LZ4, ZSTD) are decompressed when one of
// their rows is wanted and kept as long as there is room.
package arrowfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"runtime/debug"
	"sort"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/edsrzf/mmap-go"
	flatbuffers "github.com/google/flatbuffers/go"

	"vlmo-train/data/dataset/internal/cache"
)

// What a file may make us allocate, so that a damaged one does no harm.
const (
	// cacheMemory is how many bytes of decompressed batches a file keeps; the
	// batch in use is kept however large it is.
	cacheMemory = 256 << 20

	// A batch may be decompressed to ratio times the file's size and slack
	// bytes, and may have ratio rows a byte of its body and slackRows.
	ratio     = 256
	slack     = 1 << 20
	slackRows = 1 << 16
)

// Column is a column of a table.
type Column struct {
	Name string
	Type string // as the Arrow library writes it: "binary", "list<item: utf8, nullable>"
}

// File is a table in an Arrow IPC file. Its methods are safe for concurrent use,
// but nothing may be read during Close and after it.
type File struct {
	path    string
	mapped  mmap.MMap // nil if the file isn't mapped
	data    []byte
	copied  bool // batches are read through the cache, compressed or not
	columns []Column
	batches []batch
	rows    int
	held    cache.Cache[int, arrow.RecordBatch]
}

// batch is a record batch of a file.
type batch struct {
	first  int               // its first row
	record arrow.RecordBatch // nil where it is in the cache
}

// Open opens a file and checks its structure: all offsets in it that can be seen
// without decompressing. The file must not be changed until Close.
func Open(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("arrow: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("arrow: %w", err)
	}
	if info.IsDir() {
		return nil, fmt.Errorf("arrow: %s is a folder", path)
	}
	if info.Size() == 0 {
		return nil, fmt.Errorf("arrow: %s: the file is empty", path)
	}
	m, err := mmap.Map(f, mmap.RDONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("arrow: %s: %w", path, bare(err))
	}
	t, err := newFile(path, m)
	if err != nil {
		m.Unmap()
		return nil, err
	}
	t.mapped = m
	return t, nil
}

// bare removes operation and path from an error of package os.
func bare(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// guard turns a panic of the Arrow library into an error. What is mapped may also
// be gone when it is looked at, if another program cuts the file short.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("damaged: %v", r)
		}
	}()
	return f()
}

// newFile opens the file with that content.
func newFile(path string, data []byte) (*File, error) {
	f := &File{path: path, data: data}
	f.held.Limit = cacheMemory
	if err := guard(f.open); err != nil {
		return nil, fmt.Errorf("arrow: %s: %w", path, err)
	}
	return f, nil
}

const magic = "ARROW1"

func (f *File) open() error {
	n := len(f.data)
	switch {
	case n >= 8 && string(f.data[:6]) != magic && binary.LittleEndian.Uint32(f.data) == 0xffffffff:
		return errors.New("an Arrow stream and no Arrow file: it has no index of its batches; write it as a file")
	case n < 6 || string(f.data[:6]) != magic:
		return fmt.Errorf("no Arrow file: it does not begin with %q", magic)
	case n < 8+4+len(magic) || string(f.data[n-len(magic):]) != magic:
		return fmt.Errorf("it does not end with %q: is it cut short?", magic)
	}
	end := n - len(magic) - 4
	size := int(binary.LittleEndian.Uint32(f.data[end:]))
	if size <= 0 || size > end-8 {
		return fmt.Errorf("metadata of %d bytes in a file of %d", size, n)
	}
	verifyFooter(f.data[end-size:end], n)
	mem := &bounded{left: f.limit()}
	f.copied = true
	r, err := f.reader(mem)
	if err != nil {
		return err
	}
	if !r.Schema().IsNativeEndian() {
		return errors.New("written on a machine of the other byte order")
	}
	for _, c := range r.Schema().Fields() {
		f.columns = append(f.columns, Column{c.Name, c.Type.String()})
	}
	// The library's reader of mapped files panics where there are dictionaries
	// (arrow-go 18.8).
	if f.copied = hasDictionary(r.Schema().Fields()); !f.copied {
		if r, err = f.reader(mem); err != nil {
			return err
		}
	}
	for i := range r.NumRecords() {
		head, err := f.head(i)
		if err != nil {
			return fmt.Errorf("record batch %d: %w", i, err)
		}
		b := batch{first: f.rows}
		if !head.compressed && !f.copied {
			if b.record, err = r.RecordBatchAt(i); err != nil {
				return fmt.Errorf("record batch %d: %w", i, err)
			}
			if err := checkRecord(b.record, head.rows); err != nil {
				return fmt.Errorf("record batch %d: %w", i, err)
			}
		}
		f.batches = append(f.batches, b)
		f.rows += head.rows
	}
	return nil
}

// limit returns how many bytes reading a batch may allocate.
func (f *File) limit() int64 { return slack + ratio*int64(len(f.data)) }

// reader returns a reader of the library that allocates from mem.
func (f *File) reader(mem *bounded) (*ipc.FileReader, error) {
	options := []ipc.Option{ipc.WithAllocator(mem), ipc.WithEnsureNativeEndian(false), ipc.WithBodySizeLimit(0), ipc.WithMetadataSizeLimit(0)}
	if f.copied {
		return ipc.NewFileReader(bytes.NewReader(f.data), options...)
	}
	return ipc.NewMappedFileReader(f.data, options...)
}

// hasDictionary reports whether a field or one inside it is a dictionary's.
func hasDictionary(fields []arrow.Field) bool {
	for _, c := range fields {
		if c.Type.ID() == arrow.DICTIONARY {
			return true
		}
		if n, ok := c.Type.(arrow.NestedType); ok && hasDictionary(n.Fields()) {
			return true
		}
	}
	return false
}

// bounded is an allocator that refuses to hand out more than it has left. It is
// for one goroutine.
type bounded struct{ left int64 }

func (b *bounded) Allocate(size int) []byte {
	if size < 0 || int64(size) > b.left {
		panic(fmt.Errorf("a batch that claims %d bytes and more", size))
	}
	b.left -= int64(size)
	return make([]byte, size)
}

func (b *bounded) Reallocate(size int, old []byte) []byte {
	if size <= cap(old) {
		return old[:size]
	}
	buf := b.Allocate(size)
	copy(buf, old)
	return buf
}

func (b *bounded) Free([]byte) {}

// batchHead is what the message of a record batch says about it.
type batchHead struct {
	rows       int
	compressed bool
}

// head reads the message of batch i, which the library does not show without
// reading the batch: Arrow's format/File.fbs and format/Message.fbs.
func (f *File) head(i int) (h batchHead, err error) {
	end := len(f.data) - len(magic) - 4
	size := int(binary.LittleEndian.Uint32(f.data[end:]))
	footer := table(f.data[end-size : end])
	blocks := footer.Offset(10)
	if blocks == 0 {
		return h, errors.New("no list of batches")
	}
	block := footer.Vector(flatbuffers.UOffsetT(blocks)) + flatbuffers.UOffsetT(24*i)
	offset, metaSize, bodySize := footer.GetInt64(block), int64(footer.GetInt32(block+8)), footer.GetInt64(block+16)
	if offset < 0 || metaSize < 8 || bodySize < 0 || offset > int64(len(f.data)) || metaSize+bodySize > int64(len(f.data))-offset {
		return h, fmt.Errorf("it lies outside the file: %d and %d bytes at %d of %d", metaSize, bodySize, offset, len(f.data))
	}
	meta := f.data[offset : offset+metaSize]
	prefix := 4 // the length alone, as before Arrow 0.15
	if binary.LittleEndian.Uint32(meta) == 0xffffffff {
		prefix = 8
	}
	message := table(meta[prefix:])
	verifyMessage(message)
	o := message.Offset(8)
	if o == 0 {
		return h, errors.New("a message without header")
	}
	var record flatbuffers.Table
	message.Union(&record, flatbuffers.UOffsetT(o))
	if o := record.Offset(4); o != 0 {
		rows := record.GetInt64(record.Pos + flatbuffers.UOffsetT(o))
		if rows < 0 || rows > slackRows+ratio*bodySize || rows > math.MaxInt-int64(f.rows) {
			return h, fmt.Errorf("%d rows in %d bytes", rows, bodySize)
		}
		h.rows = int(rows)
	}
	h.compressed = record.Offset(10) != 0
	return h, nil
}

// table returns the root table of a flatbuffer.
func table(b []byte) flatbuffers.Table {
	return flatbuffers.Table{Bytes: b, Pos: flatbuffers.GetUOffsetT(b)}
}

// Close gives the memory back.
func (f *File) Close() error {
	f.batches = nil
	if f.mapped == nil {
		return nil
	}
	if err := f.mapped.Unmap(); err != nil {
		return fmt.Errorf("arrow: %s: %w", f.path, err)
	}
	return nil
}

// Path returns the path the file was opened with.
func (f *File) Path() string { return f.path }

// NumRows returns the number of rows.
func (f *File) NumRows() int { return f.rows }

// Batches returns the number of rows of each record batch.
func (f *File) Batches() []int {
	rows := make([]int, len(f.batches))
	for i, b := range f.batches {
		next := f.rows
		if i+1 < len(f.batches) {
			next = f.batches[i+1].first
		}
		rows[i] = next - b.first
	}
	return rows
}

// Columns returns the columns, which are not to be changed.
func (f *File) Columns() []Column { return f.columns }

// Row reads columns of a row, given by their numbers. A value is nil for null, or
// a bool, int64, float64, string, []byte, []any for a list, or map[string]any for
// a struct, and belongs to the caller. Errors do not name the file.
func (f *File) Row(row int, columns ...int) ([]any, error) {
	if row < 0 || row >= f.rows {
		return nil, fmt.Errorf("no row %d in a table of %d", row, f.rows)
	}
	i := sort.Search(len(f.batches), func(i int) bool { return f.batches[i].first > row }) - 1
	values := make([]any, len(columns))
	err := guard(func() error {
		record, err := f.record(i)
		if err != nil {
			return err
		}
		for k, c := range columns {
			if c < 0 || c >= len(f.columns) {
				return fmt.Errorf("no column %d in a table of %d", c, len(f.columns))
			}
			if values[k], err = value(record.Column(c), row-f.batches[i].first); err != nil {
				return fmt.Errorf("column %q: %w", f.columns[c].Name, err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("row %d: %w", row, err)
	}
	return values, nil
}

// record returns record batch i.
func (f *File) record(i int) (arrow.RecordBatch, error) {
	if r := f.batches[i].record; r != nil {
		return r, nil
	}
	return f.held.Get(i, func() (record arrow.RecordBatch, size int64, err error) {
		err = guard(func() error {
			head, err := f.head(i)
			if err != nil {
				return err
			}
			mem := &bounded{left: f.limit()}
			r, err := f.reader(mem)
			if err != nil {
				return err
			}
			if record, err = r.RecordBatchAt(i); err != nil {
				return err
			}
			size = f.limit() - mem.left
			return checkRecord(record, head.rows)
		})
		if err != nil {
			return nil, 0, fmt.Errorf("record batch %d: %w", i, err)
		}
		return record, size, nil
	})
}
