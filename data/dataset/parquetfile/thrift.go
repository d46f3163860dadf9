package parquetfile

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/parquet-go/parquet-go/encoding/thrift"
)

// unmarshal decodes the thrift struct at the beginning of b into v and returns its
// length. The library allocates lists of any length that a file claims, so measure
// looks at it first.
func unmarshal(b []byte, v any) (int, error) {
	n, err := measure(b)
	if err != nil {
		return 0, err
	}
	return n, thrift.Unmarshal(new(thrift.CompactProtocol), b[:n], v)
}

// errShort says that a thrift struct goes on after the bytes there are.
var errShort = errors.New("cut short")

// maxNesting is how deep structs and lists may lie in each other: in the format
// it is less than ten.
const maxNesting = 32

// measure returns the length of the struct at the beginning of b, in thrift's
// compact protocol, and checks that no list is longer than the bytes for it.
func measure(b []byte) (int, error) {
	w := walker{b: b}
	if err := w.structure(0); err != nil {
		return 0, err
	}
	return w.pos, nil
}

type walker struct {
	b   []byte
	pos int
}

func (w *walker) byte() (byte, error) {
	if w.pos >= len(w.b) {
		return 0, errShort
	}
	w.pos++
	return w.b[w.pos-1], nil
}

func (w *walker) varint() (uint64, error) {
	v, n := binary.Uvarint(w.b[w.pos:])
	if n == 0 {
		return 0, errShort
	}
	if n < 0 {
		return 0, errors.New("a number of more than 64 bits")
	}
	w.pos += n
	return v, nil
}

func (w *walker) skip(n uint64) error {
	if n > uint64(len(w.b)-w.pos) {
		return errShort
	}
	w.pos += int(n)
	return nil
}

func (w *walker) structure(depth int) error {
	if depth > maxNesting {
		return errors.New("structs nested too deep")
	}
	for {
		head, err := w.byte()
		if err != nil || head == 0 {
			return err
		}
		if head>>4 == 0 { // the field's number follows
			if _, err := w.varint(); err != nil {
				return err
			}
		}
		if t := head & 15; t > 2 { // 1 and 2 are true and false
			if err := w.value(t, depth); err != nil {
				return err
			}
		}
	}
}

func (w *walker) value(t byte, depth int) error {
	switch t {
	case 1, 2, 3: // bool in a list, byte
		return w.skip(1)
	case 4, 5, 6: // integers
		_, err := w.varint()
		return err
	case 7: // double
		return w.skip(8)
	case 8: // bytes
		n, err := w.varint()
		if err != nil {
			return err
		}
		return w.skip(n)
	case 9, 10: // list, set
		head, err := w.byte()
		if err != nil {
			return err
		}
		n := uint64(head >> 4)
		if n == 15 {
			if n, err = w.varint(); err != nil {
				return err
			}
		}
		if n > uint64(len(w.b)-w.pos) {
			return errShort
		}
		if depth >= maxNesting {
			return errors.New("lists nested too deep")
		}
		for range n {
			if err := w.value(head&15, depth+1); err != nil {
				return err
			}
		}
		return nil
	case 12:
		return w.structure(depth + 1)
	}
	return fmt.Errorf("a value of thrift type %d", t)
}
