package arrowfile

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"
)

// batchBytes is how large the values of a record batch are written to be, and so
// about what writing takes in memory.
const batchBytes = 64 << 20

// Compression is how the buffers of a file are compressed.
type Compression string

// The compressions of the format. Files that are not compressed are read faster.
const (
	None Compression = "none"
	LZ4  Compression = "lz4"
	ZSTD Compression = "zstd"
)

// Writer writes a table to a file, which appears when it is whole.
type Writer struct {
	path    string
	tmp     *os.File
	w       *ipc.FileWriter
	builder *array.RecordBuilder
	columns []Column
	held    int // bytes in builder
	limit   int
	rows    int
	err     error // what every further call returns
	done    bool
}

// Create begins a file with those columns, whose types are binary, string, int64 and
// double, list<T> of a type T, and null.
func Create(path string, columns []Column, c Compression) (_ *Writer, err error) {
	var fields []arrow.Field
	for _, col := range columns {
		t, err := dataType(col.Type)
		if err != nil {
			return nil, fmt.Errorf("arrow: %s: column %q: %w", path, col.Name, err)
		}
		fields = append(fields, arrow.Field{Name: col.Name, Type: t, Nullable: true})
	}
	schema := arrow.NewSchema(fields, nil)
	options := []ipc.Option{ipc.WithSchema(schema)}
	switch c {
	case LZ4:
		options = append(options, ipc.WithLZ4())
	case ZSTD:
		options = append(options, ipc.WithZstd())
	case None, "":
	default:
		return nil, fmt.Errorf("arrow: unknown compression %q", c)
	}
	w := &Writer{path: path, columns: columns, limit: batchBytes}
	if w.tmp, err = os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*"); err != nil {
		return nil, fmt.Errorf("arrow: %w", err)
	}
	if err := w.tmp.Chmod(0o644); err != nil {
		w.Abort()
		return nil, fmt.Errorf("arrow: %w", err)
	}
	if w.w, err = ipc.NewFileWriter(w.tmp, options...); err != nil {
		w.Abort()
		return nil, fmt.Errorf("arrow: %s: %w", path, err)
	}
	w.builder = array.NewRecordBuilder(memory.NewGoAllocator(), schema)
	return w, nil
}

// dataType parses a column's type.
func dataType(s string) (arrow.DataType, error) {
	switch s {
	case "binary":
		return arrow.BinaryTypes.Binary, nil
	case "string":
		return arrow.BinaryTypes.String, nil
	case "int64":
		return arrow.PrimitiveTypes.Int64, nil
	case "double":
		return arrow.PrimitiveTypes.Float64, nil
	case "null":
		return arrow.Null, nil
	}
	if inner, ok := strings.CutPrefix(s, "list<"); ok && strings.HasSuffix(inner, ">") {
		t, err := dataType(strings.TrimSuffix(inner, ">"))
		if err != nil {
			return nil, err
		}
		return arrow.ListOfField(arrow.Field{Name: "item", Type: t, Nullable: true}), nil
	}
	return nil, fmt.Errorf("unknown type %q", s)
}

// Append adds a row: a value for each column, of the Go types that [File.Row]
// returns. The values are copied. After an error the file can only be aborted.
func (w *Writer) Append(values ...any) error {
	if w.err != nil {
		return w.err
	}
	if len(values) != len(w.columns) {
		w.err = fmt.Errorf("arrow: %s: %d values for %d columns", w.path, len(values), len(w.columns))
		return w.err
	}
	for i, v := range values {
		n, err := appendValue(w.builder.Field(i), v)
		if err != nil {
			w.err = fmt.Errorf("arrow: %s: row %d, column %q: %w", w.path, w.rows, w.columns[i].Name, err)
			return w.err
		}
		w.held += n
	}
	w.rows++
	if w.held >= w.limit {
		return w.flush()
	}
	return nil
}

// appendValue appends v to b and returns its size.
func appendValue(b array.Builder, v any) (size int, err error) {
	if v == nil {
		b.AppendNull()
		return 0, nil
	}
	switch b := b.(type) {
	case *array.BinaryBuilder:
		if v, ok := v.([]byte); ok {
			b.Append(v)
			return len(v), nil
		}
	case *array.StringBuilder:
		if v, ok := v.(string); ok {
			b.Append(v)
			return len(v), nil
		}
	case *array.Int64Builder:
		if v, ok := v.(int64); ok {
			b.Append(v)
			return 8, nil
		}
	case *array.Float64Builder:
		if v, ok := v.(float64); ok {
			b.Append(v)
			return 8, nil
		}
	case *array.ListBuilder:
		if v, ok := v.([]any); ok {
			b.Append(true)
			size = 4
			for _, x := range v {
				n, err := appendValue(b.ValueBuilder(), x)
				if err != nil {
					return 0, err
				}
				size += n
			}
			return size, nil
		}
	}
	return 0, fmt.Errorf("a value of Go type %T in a column of %s", v, b.Type())
}

// flush writes what is held as a record batch.
func (w *Writer) flush() error {
	record := w.builder.NewRecordBatch()
	defer record.Release()
	w.held = 0
	if err := w.w.Write(record); err != nil {
		w.err = fmt.Errorf("arrow: %s: %w", w.path, err)
	}
	return w.err
}

// Rows returns how many rows were appended.
func (w *Writer) Rows() int { return w.rows }

// Close writes the rest and gives the file its name.
func (w *Writer) Close() (err error) {
	if w.err == nil && w.builder.Field(0).Len() > 0 {
		w.flush()
	}
	if w.err != nil {
		err := w.err
		w.Abort()
		return err
	}
	if err = w.w.Close(); err == nil {
		if err = w.tmp.Sync(); err == nil {
			if err = w.tmp.Close(); err == nil {
				err = os.Rename(w.tmp.Name(), w.path)
			}
		}
	}
	if err != nil {
		w.Abort()
		return fmt.Errorf("arrow: %s: %w", w.path, bare(err))
	}
	w.done, w.err = true, fmt.Errorf("arrow: %s: closed", w.path)
	return nil
}

// Abort removes what was written. After Close it does nothing.
func (w *Writer) Abort() {
	if !w.done {
		w.tmp.Close()
		os.Remove(w.tmp.Name())
		w.done, w.err = true, fmt.Errorf("arrow: %s: aborted", w.path)
	}
}
