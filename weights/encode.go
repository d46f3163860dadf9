package weights

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Encode returns values as the bytes of a tensor of dtype F32, F16 or BF16,
// rounded to nearest, ties to even. A finite value that the dtype has no
// finite number for is an error.
func Encode(dtype string, values []float32) ([]byte, error) {
	switch dtype {
	case "F32":
		out := make([]byte, 4*len(values))
		for i, v := range values {
			binary.LittleEndian.PutUint32(out[4*i:], math.Float32bits(v))
		}
		return out, nil
	case "F16", "BF16":
		round := toHalf
		infinity := uint16(0x7c00)
		if dtype == "BF16" {
			round, infinity = toBrain, 0x7f80
		}
		out := make([]byte, 2*len(values))
		for i, v := range values {
			h := round(v)
			if h&0x7fff == infinity && !math.IsInf(float64(v), 0) {
				return nil, fmt.Errorf("element %d is %v, beyond the range of %s", i, v, dtype)
			}
			binary.LittleEndian.PutUint16(out[2*i:], h)
		}
		return out, nil
	}
	return nil, fmt.Errorf("dtype %s cannot be written from float32; F32, F16 and BF16 can", dtype)
}

// toHalf rounds to an IEEE 754 binary16.
func toHalf(v float32) uint16 {
	b := math.Float32bits(v)
	sign := uint16(b>>16) & 0x8000
	abs := b & 0x7fffffff
	switch {
	case abs > 0x7f800000: // NaN keeps its upper bits and stays one
		return sign | 0x7e00 | uint16(abs>>13)&0x3ff
	case abs >= 0x477ff000: // from halfway above the largest number on
		return sign | 0x7c00
	case abs < 0x38800000: // subnormal: a multiple of 2⁻²⁴
		return sign | uint16(math.RoundToEven(float64(math.Float32frombits(abs))*0x1p24))
	}
	abs += 0xfff + abs>>13&1
	return sign | uint16((abs-0x38000000)>>13)
}

// toBrain rounds to the upper half of a float32.
func toBrain(v float32) uint16 {
	b := math.Float32bits(v)
	if b&0x7fffffff > 0x7f800000 {
		return uint16(b>>16) | 0x40
	}
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}
