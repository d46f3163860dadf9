package pixel

import "golang.org/x/sys/cpu"

// Vector reports whether [Row] may be called.
var Vector = cpu.X86.HasAVX2

// Columns filters down columns: dst[x] is the sum over k of
// src[k*stride+x]*coef[k], rounded to Precision fraction bits and clipped.
func Columns(dst, src []byte, stride int, coef []int32) {
	n := len(dst)
	if !Vector || n < 32 || len(coef) == 0 {
		columnsGo(dst, src, stride, coef)
		return
	}
	_ = src[(len(coef)-1)*stride+n-1]
	columnsAVX2(&dst[0], &src[0], stride, &coef[0], len(coef), n&^31)
	if n&31 != 0 { // the last 32 again
		columnsAVX2(&dst[n-32], &src[n-32], stride, &coef[0], len(coef), 32)
	}
}

// Row filters along a row of RGB pixels: pixel i of dst is a sum of pixels of
// src from byte from[i] on, two at a time. Their coefficients are
// coef[8*(pairs*i+k):], three times each and then two zeros. It writes a byte
// beyond the len(from) pixels, and reads two beyond the last pair's.
func Row(dst, src []byte, from, coef []int32, pairs int) {
	n := len(from)
	if n == 0 {
		return
	}
	_, _, _ = dst[3*n], src[int(from[n-1])+6*pairs+1], coef[8*pairs*n-1]
	rowAVX2(&dst[0], &src[0], &from[0], &coef[0], pairs, n)
}

// InverseDCT writes the 8×8 samples of a block of coefficients, less 128, to
// dst, row y at y*stride: libjpeg's accurate integer method.
func InverseDCT(dst []byte, stride int, b *[64]int16) {
	if !Vector {
		inverseDCTGo(dst, stride, b)
		return
	}
	_ = dst[7*stride+7]
	inverseDCTAVX2(&dst[0], stride, &b[0])
}

// Convert turns a row of YCbCr into RGB as libjpeg does.
func Convert(out, luma, cb, cr []byte) {
	n := len(luma)
	_, _, _ = out[:3*n], cb[:n], cr[:n]
	k := 0
	if Vector && n >= 16 {
		k = (n - 2) &^ 7 // the last eight leave room for four bytes more
		convertAVX2(&out[0], &luma[0], &cb[0], &cr[0], k)
	}
	convertGo(out[3*k:], luma[k:], cb[k:n], cr[k:n])
}

// Triangle doubles a row of samples in both directions with libjpeg's triangle
// filter: far is the row on the other side of the result. All of near's and
// far's capacity up to a multiple of 16 is read; out needs room for twice that,
// sums for that and two more.
func Triangle(out, near, far []byte, sums []uint16) {
	n := len(near)
	m := (n + 15) &^ 15
	if !Vector || cap(near) < m || cap(far) < m || len(out) < 2*m || len(sums) < m+2 {
		triangleGo(out, near, far, sums)
		return
	}
	_ = far[n-1]
	triangleAVX2(&out[0], &near[0], &far[0], &sums[0], m, n-1)
}
