package arrowfile

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
)

// checkRecord checks the arrays of a record batch of that many rows: the library
// takes lengths and offsets on trust.
func checkRecord(r arrow.RecordBatch, rows int) error {
	if r.NumRows() != int64(rows) {
		return fmt.Errorf("%d rows, want %d", r.NumRows(), rows)
	}
	for i, a := range r.Columns() {
		if a.Len() != rows {
			return fmt.Errorf("column %q has %d rows, want %d", r.ColumnName(i), a.Len(), rows)
		}
		if err := check(a); err != nil {
			return fmt.Errorf("column %q: %w", r.ColumnName(i), err)
		}
	}
	return nil
}

// check returns what is wrong with an array and those inside it. Types that value
// does not read are not looked into.
func check(a arrow.Array) error {
	d := a.Data()
	if d.Len() < 0 || d.Offset() < 0 || d.Len() > math.MaxInt32*8 {
		return fmt.Errorf("an array of %d values", d.Len())
	}
	end := d.Offset() + d.Len()
	// buffer returns buffer i, at least size bytes long.
	buffer := func(i, size int) ([]byte, error) {
		var b []byte
		if i < len(d.Buffers()) && d.Buffers()[i] != nil {
			b = d.Buffers()[i].Bytes()
		}
		if len(b) < size {
			return nil, fmt.Errorf("buffer %d has %d bytes, want %d", i, len(b), size)
		}
		return b, nil
	}
	if _, ok := a.(*array.Null); !ok && a.NullN() > 0 {
		if _, err := buffer(0, (end+7)/8); err != nil {
			return err
		}
	}
	switch t := a.DataType().(type) {
	case *arrow.StringType, *arrow.BinaryType:
		data, err := buffer(2, 0)
		if err != nil {
			return err
		}
		return checkOffsets[int32](d, len(data))
	case *arrow.LargeStringType, *arrow.LargeBinaryType:
		data, err := buffer(2, 0)
		if err != nil {
			return err
		}
		return checkOffsets[int64](d, len(data))
	case *arrow.ListType, *arrow.LargeListType:
		values := a.(array.ListLike).ListValues()
		if err := check(values); err != nil {
			return err
		}
		// A row's list must not be larger than what it is made of.
		switch {
		case values.DataType().ID() == arrow.DICTIONARY:
			return errors.New("lists of dictionary values are not read")
		case weightless(values.DataType()) && values.Len() > slackRows:
			return fmt.Errorf("lists of %d nulls", values.Len())
		}
		if t.ID() == arrow.LIST {
			return checkOffsets[int32](d, values.Len())
		}
		return checkOffsets[int64](d, values.Len())
	case *arrow.StructType:
		s := a.(*array.Struct)
		for i := range s.NumField() {
			if n := s.Field(i).Len(); n < d.Len() {
				return fmt.Errorf("field %q has %d values, want %d", t.Field(i).Name, n, d.Len())
			}
			if err := check(s.Field(i)); err != nil {
				return fmt.Errorf("field %q: %w", t.Field(i).Name, err)
			}
		}
	case *arrow.DictionaryType:
		if _, err := buffer(1, end*t.IndexType.(arrow.FixedWidthDataType).Bytes()); err != nil {
			return err
		}
		dict := a.(*array.Dictionary)
		if err := check(dict.Dictionary()); err != nil {
			return fmt.Errorf("dictionary: %w", err)
		}
		for i := range dict.Len() {
			if k := dict.IsNull(i); k {
				continue
			}
			if k := dict.GetValueIndex(i); k < 0 || k >= dict.Dictionary().Len() {
				return fmt.Errorf("value %d is number %d of a dictionary of %d", i, k, dict.Dictionary().Len())
			}
		}
	case *arrow.BooleanType:
		_, err := buffer(1, (end+7)/8)
		return err
	case arrow.FixedWidthDataType:
		_, err := buffer(1, end*t.BitWidth()/8)
		return err
	}
	return nil
}

// weightless reports whether arrays of a type have a length and no bytes.
func weightless(t arrow.DataType) bool {
	if s, ok := t.(*arrow.StructType); ok {
		for _, f := range s.Fields() {
			if !weightless(f.Type) {
				return false
			}
		}
		return true
	}
	return t.ID() == arrow.NULL
}

// checkOffsets checks that the offsets in buffer 1 of an array rise from 0 or more
// to most or less.
func checkOffsets[T int32 | int64](d arrow.ArrayData, most int) error {
	if d.Len() == 0 {
		return nil
	}
	var b []byte
	if len(d.Buffers()) > 1 && d.Buffers()[1] != nil {
		b = d.Buffers()[1].Bytes()
	}
	offsets := arrow.GetData[T](b)
	if len(offsets) < d.Offset()+d.Len()+1 {
		return fmt.Errorf("%d offsets for %d values", len(offsets), d.Len())
	}
	last := T(0)
	for i, o := range offsets[d.Offset() : d.Offset()+d.Len()+1] {
		if o < last || int64(o) > int64(most) {
			return fmt.Errorf("offset %d is %d, want %d to %d", i, o, last, most)
		}
		last = o
	}
	return nil
}

// value copies value i out of an array that check has passed.
func value(a arrow.Array, i int) (any, error) {
	if a.IsNull(i) {
		return nil, nil
	}
	switch a := a.(type) {
	case *array.Null:
		return nil, nil
	case *array.Boolean:
		return a.Value(i), nil
	case *array.Int8:
		return int64(a.Value(i)), nil
	case *array.Int16:
		return int64(a.Value(i)), nil
	case *array.Int32:
		return int64(a.Value(i)), nil
	case *array.Int64:
		return a.Value(i), nil
	case *array.Uint8:
		return int64(a.Value(i)), nil
	case *array.Uint16:
		return int64(a.Value(i)), nil
	case *array.Uint32:
		return int64(a.Value(i)), nil
	case *array.Uint64:
		v := a.Value(i)
		if v > math.MaxInt64 {
			return nil, fmt.Errorf("%d is too large", v)
		}
		return int64(v), nil
	case *array.Float16:
		return float64(a.Value(i).Float32()), nil
	case *array.Float32:
		return float64(a.Value(i)), nil
	case *array.Float64:
		return a.Value(i), nil
	case *array.String:
		return strings.Clone(a.Value(i)), nil
	case *array.LargeString:
		return strings.Clone(a.Value(i)), nil
	case *array.Binary:
		return bytes.Clone(a.Value(i)), nil
	case *array.LargeBinary:
		return bytes.Clone(a.Value(i)), nil
	case *array.Dictionary:
		return value(a.Dictionary(), a.GetValueIndex(i))
	case *array.List:
		first, end := a.ValueOffsets(i)
		return list(a.ListValues(), first, end)
	case *array.LargeList:
		first, end := a.ValueOffsets(i)
		return list(a.ListValues(), first, end)
	case *array.Struct:
		t := a.DataType().(*arrow.StructType)
		m := make(map[string]any, a.NumField())
		for k := range a.NumField() {
			v, err := value(a.Field(k), i)
			if err != nil {
				return nil, fmt.Errorf("field %q: %w", t.Field(k).Name, err)
			}
			m[t.Field(k).Name] = v
		}
		return m, nil
	}
	return nil, fmt.Errorf("values of type %s are not read", a.DataType())
}

// list copies values first to end-1.
func list(values arrow.Array, first, end int64) (any, error) {
	l := make([]any, 0, end-first)
	for k := first; k < end; k++ {
		v, err := value(values, int(k))
		if err != nil {
			return nil, err
		}
		l = append(l, v)
	}
	return l, nil
}
