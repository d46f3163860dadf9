package spill

import (
	"crypto/sha256"
	"encoding/binary"
)

// Array is a list of rows of the same number of numbers. At is safe for concurrent
// use when nobody appends.
type Array struct {
	width int
	n     int
	data  blob
	row   []byte
}

// NewArray returns an empty array with rows of width numbers.
func NewArray(width int) *Array { return &Array{width: width, row: make([]byte, 0, 8*width)} }

// Append appends a row. It panics if that has another width. The error is that of a
// temporary file.
func (a *Array) Append(row ...uint64) error {
	if len(row) != a.width {
		panic("spill: a row of another width")
	}
	a.row = Encode(a.row[:0], row...)
	if _, err := a.data.append(a.row); err != nil {
		return err
	}
	a.n++
	return nil
}

// Len returns the number of rows.
func (a *Array) Len() int { return a.n }

// At reads the first numbers of row i, 0 <= i < Len(), as many as row has room for. The
// error is that of a temporary file.
func (a *Array) At(i int, row []uint64) error {
	var space [64]byte
	b := space[:]
	if n := 8 * len(row); n <= len(b) {
		b = b[:n]
	} else {
		b = make([]byte, n)
	}
	if err := a.data.readAt(b, int64(i)*int64(8*a.width)); err != nil {
		return err
	}
	Decode(b, row)
	return nil
}

// Close gives the array's file back. A nil array is closed.
func (a *Array) Close() error {
	if a == nil {
		return nil
	}
	return a.data.close()
}

// Encode appends numbers to b so that their bytes are in the order of the numbers.
func Encode(b []byte, v ...uint64) []byte {
	for _, x := range v {
		b = binary.BigEndian.AppendUint64(b, x)
	}
	return b
}

// Decode reads the numbers at the end of b, as many as v has room for, and returns
// what is before them.
func Decode(b []byte, v []uint64) []byte {
	rest, b := b[:len(b)-8*len(v)], b[len(b)-8*len(v):]
	for i := range v {
		v[i] = binary.BigEndian.Uint64(b[8*i:])
	}
	return rest
}

// Hash returns 128 bits of the SHA-256 of b, which stand for it: of a thousand million
// names, two have the same with a probability of 1e-21.
func Hash(b []byte) (hi, lo uint64) {
	s := sha256.Sum256(b)
	return binary.BigEndian.Uint64(s[:]), binary.BigEndian.Uint64(s[8:])
}

// HashLen is how many bytes of a record the two numbers of a Hash are.
const HashLen = 16

// Strings is a list of strings. At is safe for concurrent use when nobody appends.
type Strings struct {
	data   blob
	places *Array // offset and length
}

// NewStrings returns an empty list.
func NewStrings() *Strings { return &Strings{places: NewArray(2)} }

// Append appends a string. The error is that of a temporary file.
func (s *Strings) Append(x string) error {
	off, err := s.data.append([]byte(x))
	if err != nil {
		return err
	}
	return s.places.Append(uint64(off), uint64(len(x)))
}

// Len returns the number of strings.
func (s *Strings) Len() int { return s.places.Len() }

// At returns string i, 0 <= i < Len(). The error is that of a temporary file.
func (s *Strings) At(i int) (string, error) {
	var at [2]uint64
	if err := s.places.At(i, at[:]); err != nil {
		return "", err
	}
	b := make([]byte, at[1])
	err := s.data.readAt(b, int64(at[0]))
	return string(b), err
}

// Close gives the list's files back. A nil list is closed.
func (s *Strings) Close() error {
	if s == nil {
		return nil
	}
	err := s.data.close()
	if e := s.places.Close(); err == nil {
		err = e
	}
	return err
}
