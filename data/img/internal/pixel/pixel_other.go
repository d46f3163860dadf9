//go:build !amd64

package pixel

// Vector reports whether [Row] may be called.
const Vector = false

// Columns filters down columns: dst[x] is the sum over k of
// src[k*stride+x]*coef[k], rounded to Precision fraction bits and clipped.
func Columns(dst, src []byte, stride int, coef []int32) { columnsGo(dst, src, stride, coef) }

// Row is for processors with vectors.
func Row(dst, src []byte, from, coef []int32, pairs int) { panic("pixel: no vectors") }

// InverseDCT writes the 8×8 samples of a block of coefficients, less 128, to
// dst, row y at y*stride: libjpeg's accurate integer method.
func InverseDCT(dst []byte, stride int, b *[64]int16) { inverseDCTGo(dst, stride, b) }

// Convert turns a row of YCbCr into RGB as libjpeg does.
func Convert(out, luma, cb, cr []byte) { convertGo(out, luma, cb, cr) }

// Triangle doubles a row of samples in both directions with libjpeg's triangle
// filter: far is the row on the other side of the result.
func Triangle(out, near, far []byte, sums []uint16) { triangleGo(out, near, far, sums) }
