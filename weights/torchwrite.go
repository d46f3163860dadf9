package weights

import (
	"archive/zip"
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"strconv"
)

// storageClass gives the torch storage class of a dtype.
var storageClass = map[string]string{
	"F32": "FloatStorage", "F64": "DoubleStorage", "F16": "HalfStorage", "BF16": "BFloat16Storage",
	"I64": "LongStorage", "I32": "IntStorage", "I16": "ShortStorage", "I8": "CharStorage", "U8": "ByteStorage",
	"BOOL": "BoolStorage", "C64": "ComplexFloatStorage",
}

// torchAlign is the alignment of the records' bytes, so that torch.load can
// map them.
const torchAlign = 64

// WriteTorch writes arrays as torch.save writes a state dict: a zip file of
// an OrderedDict of contiguous CPU tensors, in their order, that torch.load
// reads with weights_only. The file at path is replaced whole or not at all,
// as by Write.
func WriteTorch(path string, arrays []Array) error {
	if err := checkArrays(arrays); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	object, err := pickleArrays(arrays)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return replaceFile(path, func(w *bufio.Writer) error {
		out := &counter{w: w}
		z := zip.NewWriter(out)
		var trailer int64 // bytes that the zip writer has yet to put after the last record
		record := func(name string, data []byte) error {
			if err := z.Flush(); err != nil {
				return err
			}
			h := &zip.FileHeader{Name: "archive/" + name, Method: zip.Store}
			const local, id = 30, 4 // bytes of a local header and of an extra field's
			start := out.n + trailer + local + int64(len(h.Name)) + id
			pad := (torchAlign - start%torchAlign) % torchAlign
			h.Extra = binary.LittleEndian.AppendUint16([]byte("FB"), uint16(pad))
			h.Extra = append(h.Extra, make([]byte, pad)...)
			f, err := z.CreateHeader(h)
			trailer = 16
			if uint64(len(data)) >= math.MaxUint32 {
				trailer = 24
			}
			if err == nil {
				_, err = f.Write(data)
			}
			return err
		}
		if err := record("data.pkl", object); err != nil {
			return err
		}
		if err := record("byteorder", []byte("little")); err != nil {
			return err
		}
		for i := range arrays {
			data, err := arrays[i].load()
			if err == nil {
				err = record("data/"+strconv.Itoa(i), data)
			}
			if err != nil {
				return err
			}
		}
		if err := record("version", []byte("3\n")); err != nil {
			return err
		}
		return z.Close()
	})
}

// counter counts what goes through.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// pickleArrays returns the pickle of the state dict, of protocol 2: record i
// is the storage of array i.
func pickleArrays(arrays []Array) ([]byte, error) {
	var b []byte
	global := func(module, name string) { b = append(b, "c"+module+"\n"+name+"\n"...) }
	text := func(s string) {
		b = binary.LittleEndian.AppendUint32(append(b, 'X'), uint32(len(s)))
		b = append(b, s...)
	}
	number := func(v int64) {
		if v == int64(int32(v)) {
			b = binary.LittleEndian.AppendUint32(append(b, 'J'), uint32(v))
			return
		}
		b = binary.LittleEndian.AppendUint64(append(b, 0x8a, 8), uint64(v))
	}
	numbers := func(v []int64) {
		b = append(b, '(')
		for _, x := range v {
			number(x)
		}
		b = append(b, 't')
	}
	b = append(b, 0x80, 2)
	global("collections", "OrderedDict")
	b = append(b, ")R("...)
	for i, a := range arrays {
		class, ok := storageClass[a.DType]
		if !ok {
			return nil, fmt.Errorf("tensor %q: torch files hold no %s", a.Name, a.DType)
		}
		n := int64(1)
		shape, strides := make([]int64, len(a.Shape)), make([]int64, len(a.Shape))
		for k := len(a.Shape) - 1; k >= 0; k-- {
			shape[k], strides[k] = int64(a.Shape[k]), n
			n *= max(int64(a.Shape[k]), 1)
		}
		size, err := byteSize(a.DType, a.Shape)
		if err != nil {
			return nil, fmt.Errorf("tensor %q: %w", a.Name, err)
		}
		text(a.Name)
		global("torch._utils", "_rebuild_tensor_v2")
		b = append(b, "(("...)
		text("storage")
		global("torch", class)
		text(strconv.Itoa(i))
		text("cpu")
		number(size / dtypeSize[a.DType])
		b = append(b, "tQ"...)
		number(0)
		numbers(shape)
		numbers(strides)
		b = append(b, 0x89) // requires_grad
		global("collections", "OrderedDict")
		b = append(b, ")RtR"...)
	}
	return append(b, "u."...), nil
}
