package parquetfile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"

	"github.com/parquet-go/parquet-go/format"
)

// The decoders of this file give the values a page header promises and no more,
// whatever a page claims. Source of the encodings: apache/parquet-format,
// Encodings.md.

var errPage = errors.New("the page ends inside its values")

// hybrid decodes n numbers of width bits from the mix of runs and bit-packed groups
// that levels and dictionary indices are stored in.
func hybrid(b []byte, width, n int) ([]int32, error) {
	if width < 0 || width > 32 {
		return nil, fmt.Errorf("numbers of %d bits", width)
	}
	out := make([]int32, 0, n)
	for len(out) < n {
		head, k := binary.Uvarint(b)
		if k <= 0 {
			return nil, errPage
		}
		b = b[k:]
		if head&1 == 0 { // a run
			size := (width + 7) / 8
			if len(b) < size {
				return nil, errPage
			}
			var v uint32
			for i := range size {
				v |= uint32(b[i]) << (8 * i)
			}
			b = b[size:]
			if head>>1 == 0 {
				return nil, errors.New("a run of no values")
			}
			for range min(head>>1, uint64(n-len(out))) {
				out = append(out, int32(v))
			}
			continue
		}
		count := head >> 1 // groups of eight
		if count == 0 {
			return nil, errors.New("no bit-packed values")
		}
		values := n - len(out)
		if count < uint64(values+7)/8 {
			values = int(count) * 8
		}
		if len(b) < (values*width+7)/8 {
			return nil, errPage
		}
		for i := range values {
			out = append(out, int32(unpack(b, i*width, width)))
		}
		if used := count * uint64(width); used < uint64(len(b)) {
			b = b[used:]
		} else {
			b = nil
		}
	}
	return out, nil
}

// unpack returns the number of width bits, at most 64, that begins at that bit.
func unpack(b []byte, bit, width int) uint64 {
	var v uint64
	for got := 0; got < width; {
		at := bit + got
		take := min(8-at%8, width-got)
		v |= uint64(b[at/8]>>(at%8)&(1<<take-1)) << got
		got += take
	}
	return v
}

// plain decodes n values of a leaf as they lie in memory.
func plain(leaf *node, b []byte, n int) ([]any, error) {
	if leaf.kind == format.Boolean {
		if len(b) < (n+7)/8 {
			return nil, errPage
		}
		out := make([]any, n)
		for i := range out {
			out[i] = b[i/8]>>(i%8)&1 == 1
		}
		return out, nil
	}
	size, ok := map[format.Type]int{format.Int32: 4, format.Int64: 8, format.Float: 4, format.Double: 8,
		format.FixedLenByteArray: leaf.length, format.ByteArray: 4}[leaf.kind]
	if !ok {
		return nil, fmt.Errorf("values of %s are not read", leaf.typ())
	}
	if n > len(b)/size {
		return nil, errPage
	}
	out := make([]any, n)
	for i := range out {
		if len(b) < size {
			return nil, errPage
		}
		v := b[:size]
		b = b[size:]
		switch leaf.kind {
		case format.Int32:
			out[i] = int64(int32(binary.LittleEndian.Uint32(v)))
		case format.Int64:
			out[i] = int64(binary.LittleEndian.Uint64(v))
		case format.Float:
			out[i] = float64(math.Float32frombits(binary.LittleEndian.Uint32(v)))
		case format.Double:
			out[i] = math.Float64frombits(binary.LittleEndian.Uint64(v))
		case format.FixedLenByteArray:
			out[i] = v
		default:
			k := binary.LittleEndian.Uint32(v)
			if uint64(k) > uint64(len(b)) {
				return nil, errPage
			}
			out[i] = leaf.bytes(b[:k:k])
			b = b[k:]
		}
	}
	return out, nil
}

// bytes returns the value of a ByteArray leaf.
func (n *node) bytes(b []byte) any {
	if n.text {
		return string(b)
	}
	return b
}

// deltas decodes n numbers of DELTA_BINARY_PACKED and returns what follows them.
func deltas(b []byte, n int) (out []int64, rest []byte, err error) {
	next := func() (v uint64) {
		k := 0
		if v, k = binary.Uvarint(b); k <= 0 {
			err = errPage
			return 0
		}
		b = b[k:]
		return v
	}
	zigzag := func() int64 {
		v := next()
		return int64(v>>1) ^ -int64(v&1)
	}
	block, minis, total, value := next(), next(), next(), zigzag()
	switch {
	case err != nil:
		return nil, nil, err
	case total != uint64(n):
		return nil, nil, fmt.Errorf("%d deltas for %d values", total, n)
	case n == 0:
		return nil, b, nil
	case minis == 0 || minis > 1<<16 || block == 0 || block > 1<<24 || block%minis != 0:
		return nil, nil, fmt.Errorf("delta blocks of %d values in %d parts", block, minis)
	}
	per := int(block / minis)
	out = append(make([]int64, 0, n), value)
	for len(out) < n {
		least := zigzag()
		if err != nil {
			return nil, nil, err
		}
		if uint64(len(b)) < minis {
			return nil, nil, errPage
		}
		widths := b[:minis]
		b = b[minis:]
		for _, w := range widths {
			if len(out) == n {
				break // parts after the last value are not stored
			}
			if w > 64 {
				return nil, nil, fmt.Errorf("deltas of %d bits", w)
			}
			// The last part may be cut off after its last value.
			use := min(per, n-len(out))
			if len(b) < (use*int(w)+7)/8 {
				return nil, nil, errPage
			}
			for i := range use {
				value += least + int64(unpack(b, i*int(w), int(w)))
				out = append(out, value)
			}
			b = b[min(len(b), (per*int(w)+7)/8):]
		}
	}
	return out, b, nil
}

// deltaLengths decodes n byte arrays of DELTA_LENGTH_BYTE_ARRAY.
func deltaLengths(b []byte, n int) ([][]byte, error) {
	lengths, b, err := deltas(b, n)
	if err != nil {
		return nil, err
	}
	out := make([][]byte, n)
	for i, k := range lengths {
		if k < 0 || k > int64(len(b)) {
			return nil, errPage
		}
		out[i] = b[:k:k]
		b = b[k:]
	}
	return out, nil
}

// deltaArrays decodes n byte arrays of DELTA_BYTE_ARRAY, which share the beginning
// with the one before; together they may have most bytes.
func deltaArrays(b []byte, n, most int) ([][]byte, error) {
	prefixes, b, err := deltas(b, n)
	if err != nil {
		return nil, err
	}
	out, err := deltaLengths(b, n)
	if err != nil {
		return nil, err
	}
	var last []byte
	for i, suffix := range out {
		k := prefixes[i]
		if k < 0 || k > int64(len(last)) {
			return nil, fmt.Errorf("a value that begins with %d bytes of one of %d", k, len(last))
		}
		if most -= int(k) + len(suffix); most < 0 {
			return nil, errors.New("values far larger than their page")
		}
		last = append(append(make([]byte, 0, int(k)+len(suffix)), last[:k]...), suffix...)
		out[i] = last
	}
	return out, nil
}

// width returns the number of bits that levels up to most take.
func width(most byte) int { return bits.Len8(most) }
