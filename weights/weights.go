// Package weights reads and writes files of tensors: safetensors, also in
// shards, and the files of torch.save, .pt, .pth and .ckpt, zip or legacy.
//
// A safetensors file is an 8-byte little-endian header length, a JSON header
// that gives every tensor's dtype, shape and byte range, and the tensors'
// bytes, little-endian and without holes. A torch file is a pickle whose
// tensors are views of storages beside it; package pickle decodes it without
// running anything.
//
// Files are memory-mapped and read a piece at a time, so that reading takes
// little more memory than what is kept.
package weights

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"unsafe"
)

// Array is one named tensor.
type Array struct {
	// Name is the tensor's name; "__metadata__" is reserved by the format.
	Name string
	// DType is the element type as the format spells it, such as "F32", "BF16" or "I64".
	DType string
	// Shape lists the sizes, outermost first; an empty shape is a scalar.
	Shape []int
	// Data holds the elements in row-major order, little-endian.
	Data []byte
	// Load makes the Data of an array that is written, if it is not nil. It is
	// called when the array's turn comes, so that a large model is never in
	// memory as a whole.
	Load func() ([]byte, error)
}

// Elem is the set of Go types that have a dtype of the same layout.
type Elem interface {
	int8 | uint8 | int16 | uint16 | int32 | uint32 | int64 | uint64 | float32 | float64
}

// Of returns values as an Array of the matching dtype. On a little-endian
// machine the array shares values' memory, which must then stay unchanged
// until the array has been written. Whether shape fits values is checked by
// Write.
func Of[T Elem](name string, shape []int, values []T) Array {
	var zero T
	dtype := ""
	switch any(zero).(type) {
	case int8:
		dtype = "I8"
	case uint8:
		dtype = "U8"
	case int16:
		dtype = "I16"
	case uint16:
		dtype = "U16"
	case int32:
		dtype = "I32"
	case uint32:
		dtype = "U32"
	case int64:
		dtype = "I64"
	case uint64:
		dtype = "U64"
	case float32:
		dtype = "F32"
	case float64:
		dtype = "F64"
	}
	a := Array{Name: name, DType: dtype, Shape: slices.Clone(shape)}
	if nativeLittle() {
		a.Data = asBytes(values)
	} else {
		a.Data, _ = binary.Append(nil, binary.LittleEndian, values)
	}
	return a
}

// dtypeSize gives the bytes of one element. Types narrower than a byte are
// not read.
var dtypeSize = map[string]int64{
	"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1,
	"U16": 2, "I16": 2, "F16": 2, "BF16": 2,
	"U32": 4, "I32": 4, "F32": 4,
	"U64": 8, "I64": 8, "F64": 8, "C64": 8,
}

// knownDTypes lists the dtypes for error messages, narrow to wide.
const knownDTypes = "BOOL, U8, I8, F8_E4M3, F8_E5M2, U16, I16, F16, BF16, U32, I32, F32, U64, I64, F64, C64"

// File is an open file of tensors, or several that belong together. What the
// tensors are is in memory; their values are read when asked for. Methods may
// be called from several goroutines at once.
type File struct {
	// Metadata is the "__metadata__" map of a safetensors file; nil when there is none.
	Metadata map[string]string

	path    string
	format  Format
	names   []string
	entries map[string]entry
	closers []io.Closer
	inflate inflater
}

// Format is a kind of file that Open knows.
type Format string

// Formats.
const (
	Safetensors Format = "safetensors"
	TorchZip    Format = "torch zip"
	TorchLegacy Format = "torch legacy"
	Sharded     Format = "sharded"
)

// entry is one tensor. begin and end are the bytes of its record that it
// spans; strides, in elements, is nil where they are the tensor in row-major
// order.
type entry struct {
	dtype      string
	shape      []int
	strides    []int64
	record     *record
	begin, end int64
}

// Close closes the underlying files. Slices handed out stay valid.
func (f *File) Close() error {
	var errs []error
	for _, c := range f.closers {
		errs = append(errs, c.Close())
	}
	f.closers = nil
	return errors.Join(errs...)
}

// Format returns the kind of file.
func (f *File) Format() Format { return f.format }

// Path returns the path that the file was opened by.
func (f *File) Path() string { return f.path }

// Names returns the tensors' names: in the order of their bytes in a
// safetensors file, in the order of the dictionary in a torch file. The caller
// owns the slice.
func (f *File) Names() []string { return slices.Clone(f.names) }

// Has reports whether the file holds a tensor of that name.
func (f *File) Has(name string) bool {
	_, ok := f.entries[name]
	return ok
}

// Info returns a tensor's dtype and shape without reading it.
func (f *File) Info(name string) (dtype string, shape []int, err error) {
	e, err := f.entry(name)
	if err != nil {
		return "", nil, err
	}
	return e.dtype, slices.Clone(e.shape), nil
}

// Array reads one tensor as it is stored. The caller owns its Data.
func (f *File) Array(name string) (Array, error) {
	e, err := f.entry(name)
	if err != nil {
		return Array{}, err
	}
	data, err := f.bytes(name, e)
	if err != nil {
		return Array{}, err
	}
	return Array{Name: name, DType: e.dtype, Shape: slices.Clone(e.shape), Data: data}, nil
}

// Float32 reads a tensor of dtype F32, F16, BF16 or F64 as float32. F64 is
// rounded to nearest, the others convert exactly. The caller owns the values.
func (f *File) Float32(name string) (values []float32, shape []int, err error) {
	e, err := f.entry(name)
	if err != nil {
		return nil, nil, err
	}
	size := dtypeSize[e.dtype]
	values = make([]float32, e.len())
	var convert func(dst []float32, src []byte)
	switch e.dtype {
	case "F32":
		if nativeLittle() && e.strides == nil {
			err := f.readAt(name, e, asBytes(values), e.begin)
			return values, slices.Clone(e.shape), err
		}
		convert = func(dst []float32, src []byte) {
			for i := range dst {
				dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
			}
		}
	case "F64":
		convert = func(dst []float32, src []byte) {
			for i := range dst {
				dst[i] = float32(math.Float64frombits(binary.LittleEndian.Uint64(src[8*i:])))
			}
		}
	case "F16":
		convert = func(dst []float32, src []byte) {
			for i := range dst {
				dst[i] = half(binary.LittleEndian.Uint16(src[2*i:]))
			}
		}
	case "BF16":
		convert = func(dst []float32, src []byte) {
			for i := range dst {
				dst[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(src[2*i:])) << 16)
			}
		}
	default:
		return nil, nil, fmt.Errorf("%s: tensor %q is %s, not one of F32, F16, BF16, F64", f.path, name, e.dtype)
	}
	err = f.chunks(name, e, func(first int64, src []byte) error {
		convert(values[first:first+int64(len(src))/size], src)
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	return values, slices.Clone(e.shape), nil
}

// Int64 reads a tensor of an integer dtype or BOOL as int64. A U64 value
// above the range is an error. The caller owns the values.
func (f *File) Int64(name string) (values []int64, shape []int, err error) {
	return integers[int64](f, name, math.MinInt64, math.MaxInt64)
}

// Int32 reads a tensor of an integer dtype or BOOL as int32. A value out of
// range is an error. The caller owns the values.
func (f *File) Int32(name string) (values []int32, shape []int, err error) {
	return integers[int32](f, name, math.MinInt32, math.MaxInt32)
}

// integers reads a tensor of an integer dtype as T, whose range is [lo, hi].
func integers[T int32 | int64](f *File, name string, lo, hi int64) ([]T, []int, error) {
	e, err := f.entry(name)
	if err != nil {
		return nil, nil, err
	}
	le := binary.LittleEndian
	var at func(src []byte) int64
	switch e.dtype {
	case "BOOL", "U8":
		at = func(s []byte) int64 { return int64(s[0]) }
	case "I8":
		at = func(s []byte) int64 { return int64(int8(s[0])) }
	case "U16":
		at = func(s []byte) int64 { return int64(le.Uint16(s)) }
	case "I16":
		at = func(s []byte) int64 { return int64(int16(le.Uint16(s))) }
	case "U32":
		at = func(s []byte) int64 { return int64(le.Uint32(s)) }
	case "I32":
		at = func(s []byte) int64 { return int64(int32(le.Uint32(s))) }
	case "U64", "I64":
		at = func(s []byte) int64 { return int64(le.Uint64(s)) }
	default:
		return nil, nil, fmt.Errorf("%s: tensor %q is %s, not an integer type", f.path, name, e.dtype)
	}
	size := dtypeSize[e.dtype]
	values := make([]T, e.len())
	err = f.chunks(name, e, func(first int64, src []byte) error {
		for i := int64(0); i*size < int64(len(src)); i++ {
			v := at(src[i*size:])
			if v < lo || v > hi || e.dtype == "U64" && v < 0 {
				text := fmt.Sprint(v)
				if e.dtype == "U64" {
					text = fmt.Sprint(uint64(v))
				}
				return fmt.Errorf("%s: tensor %q: element %d is %s, outside %d … %d", f.path, name, first+i, text, lo, hi)
			}
			values[first+i] = T(v)
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	return values, slices.Clone(e.shape), nil
}

func (f *File) entry(name string) (entry, error) {
	e, ok := f.entries[name]
	if !ok {
		return entry{}, fmt.Errorf("%s: no tensor %q among its %d", f.path, name, len(f.names))
	}
	return e, nil
}

// len returns the number of elements.
func (e *entry) len() int {
	n := 1
	for _, d := range e.shape {
		n *= d
	}
	return n
}

// pieceBytes is how much is read at once.
const pieceBytes = 4 << 20

// readAt fills dst from the bytes of e's record that start at begin.
func (f *File) readAt(name string, e entry, dst []byte, begin int64) error {
	if len(dst) == 0 {
		return nil
	}
	r, base, err := f.inflate.open(e.record)
	if err != nil {
		return fmt.Errorf("%s: tensor %q: %w", f.path, name, err)
	}
	for done := 0; done < len(dst); {
		piece := dst[done:min(done+pieceBytes, len(dst))]
		n, err := r.ReadAt(piece, base+begin+int64(done))
		done += n
		if n < len(piece) {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("%s: tensor %q: byte %d of %d: %w", f.path, name, done, len(dst), err)
		}
	}
	return nil
}

// bytes returns a tensor's bytes in row-major order.
func (f *File) bytes(name string, e entry) ([]byte, error) {
	span := make([]byte, e.end-e.begin)
	if err := f.readAt(name, e, span, e.begin); err != nil || e.strides == nil {
		return span, err
	}
	size := dtypeSize[e.dtype]
	out := make([]byte, int64(e.len())*size)
	if len(out) == 0 {
		return out, nil
	}
	index := make([]int, len(e.shape))
	last := len(e.shape) - 1
	var at int64 // of the row's first element in span
	for to := int64(0); to < int64(len(out)); {
		from := at * size
		for range e.shape[last] {
			copy(out[to:to+size], span[from:from+size])
			to += size
			from += e.strides[last] * size
		}
		for k := last - 1; k >= 0; k-- {
			index[k]++
			at += e.strides[k]
			if index[k] < e.shape[k] {
				break
			}
			at -= int64(index[k]) * e.strides[k]
			index[k] = 0
		}
	}
	return out, nil
}

// chunks reads a tensor a piece at a time, so that a conversion never holds
// both forms of a tensor that lies in the file in row-major order. first is
// the index of the piece's first element.
func (f *File) chunks(name string, e entry, do func(first int64, src []byte) error) error {
	if e.strides != nil {
		src, err := f.bytes(name, e)
		if err != nil {
			return err
		}
		return do(0, src)
	}
	size := dtypeSize[e.dtype]
	buf := make([]byte, min(e.end-e.begin, 1<<18))
	for at := e.begin; at < e.end; {
		src := buf[:min(e.end-at, int64(len(buf)))]
		if err := f.readAt(name, e, src, at); err != nil {
			return err
		}
		if err := do((at-e.begin)/size, src); err != nil {
			return err
		}
		at += int64(len(src))
	}
	return nil
}

// half converts an IEEE 754 binary16.
func half(h uint16) float32 {
	sign := uint32(h>>15) << 31
	exp := uint32(h>>10) & 31
	frac := uint32(h) & 1023
	switch exp {
	case 0: // zero and subnormals: frac · 2⁻²⁴, exact in float32
		return math.Float32frombits(sign | math.Float32bits(float32(frac)*0x1p-24))
	case 31: // infinity and NaN
		return math.Float32frombits(sign | 0xff<<23 | frac<<13)
	}
	return math.Float32frombits(sign | (exp+127-15)<<23 | frac<<13)
}

func nativeLittle() bool { return binary.NativeEndian.Uint16([]byte{1, 0}) == 1 }

// asBytes returns v's memory as bytes.
func asBytes[T Elem](v []T) []byte {
	if len(v) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(&v[0])), len(v)*int(unsafe.Sizeof(v[0])))
}

// byteSize returns the bytes of a tensor, or an error if there is no such
// dtype or the shape has no such number of elements.
func byteSize(dtype string, shape []int) (int64, error) {
	size, ok := dtypeSize[dtype]
	if !ok {
		return 0, fmt.Errorf("unknown dtype %q; known are %s", dtype, knownDTypes)
	}
	if slices.Contains(shape, 0) {
		size = 0
	}
	for _, d := range shape {
		if d < 0 {
			return 0, fmt.Errorf("shape %v has a negative size", shape)
		}
		if size != 0 && int64(d) > math.MaxInt64/size {
			return 0, fmt.Errorf("shape %s is too large", shapeText(shape))
		}
		size *= int64(d)
	}
	return size, nil
}

func shapeText(shape []int) string {
	return strings.ReplaceAll(fmt.Sprint(shape), " ", "×")
}
