// Package pixel has the inner loops of packages img and jpeg: in Go, and in
// assembly where the processor has AVX2. Both give the same bytes.
package pixel

//go:generate go run ./internal/gen

// Precision is the number of fraction bits of a filter's coefficients: 8 bits
// are left for the sample and 2 for the sum's overshoot.
const Precision = 32 - 8 - 2

// Clip cuts v to a byte.
func Clip(v int32) byte {
	if uint32(v) > 255 {
		// All ones where v is positive, so 255, and 0 where it is negative.
		v = ^(v >> 31)
	}
	return byte(v)
}

// columnsGo is [Columns].
func columnsGo(dst, src []byte, stride int, coef []int32) {
	var sums [64]int32
	for len(dst) > 0 {
		n := min(len(dst), len(sums))
		acc := sums[:n]
		for x := range acc {
			acc[x] = 1 << (Precision - 1)
		}
		j := 0
		// Four rows a pass: the sums travel through memory less often.
		for ; j+4 <= len(coef); j += 4 {
			c0, c1, c2, c3 := coef[j], coef[j+1], coef[j+2], coef[j+3]
			r0, r1, r2, r3 := src[j*stride:][:n], src[(j+1)*stride:][:n], src[(j+2)*stride:][:n], src[(j+3)*stride:][:n]
			for x := range acc {
				acc[x] += int32(r0[x])*c0 + int32(r1[x])*c1 + int32(r2[x])*c2 + int32(r3[x])*c3
			}
		}
		for ; j < len(coef); j++ {
			c := coef[j]
			for x, v := range src[j*stride:][:n] {
				acc[x] += int32(v) * c
			}
		}
		for x, v := range acc {
			dst[x] = Clip(v >> Precision)
		}
		dst, src = dst[n:], src[n:]
	}
}

// Constants of the inverse DCT, 13 bits of fraction (libjpeg, jidctint.c; the
// method is that of Loeffler, Ligtenberg and Moschytz, 1989).
const (
	f0298 = 2446  // 0.298631336
	f0390 = 3196  // 0.390180644
	f0541 = 4433  // 0.541196100
	f0765 = 6270  // 0.765366865
	f0899 = 7373  // 0.899976223
	f1175 = 9633  // 1.175875602
	f1501 = 12299 // 1.501321110
	f1847 = 15137 // 1.847759065
	f1961 = 16069 // 1.961570560
	f2053 = 16819 // 2.053119869
	f2562 = 20995 // 2.562915447
	f3072 = 25172 // 3.072711026
)

// inverseDCTGo is [InverseDCT]: columns with 2 more bits, then rows.
func inverseDCTGo(dst []byte, stride int, b *[64]int16) {
	var w [64]int32
	for x := range 8 {
		c0, c1, c2, c3 := int32(b[x]), int32(b[8+x]), int32(b[16+x]), int32(b[24+x])
		c4, c5, c6, c7 := int32(b[32+x]), int32(b[40+x]), int32(b[48+x]), int32(b[56+x])
		if c1|c2|c3|c4|c5|c6|c7 == 0 {
			v := c0 << 2
			w[x], w[8+x], w[16+x], w[24+x], w[32+x], w[40+x], w[48+x], w[56+x] = v, v, v, v, v, v, v, v
			continue
		}
		e0, e1, e2, e3, o0, o1, o2, o3 := butterfly(c0, c1, c2, c3, c4, c5, c6, c7)
		const half, shift = 1 << 10, 11
		w[x] = (e0 + o3 + half) >> shift
		w[56+x] = (e0 - o3 + half) >> shift
		w[8+x] = (e1 + o2 + half) >> shift
		w[48+x] = (e1 - o2 + half) >> shift
		w[16+x] = (e2 + o1 + half) >> shift
		w[40+x] = (e2 - o1 + half) >> shift
		w[24+x] = (e3 + o0 + half) >> shift
		w[32+x] = (e3 - o0 + half) >> shift
	}
	for y := range 8 {
		r := (*[8]int32)(w[8*y:])
		d := (*[8]byte)(dst[y*stride:])
		e0, e1, e2, e3, o0, o1, o2, o3 := butterfly(r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7])
		const half, shift = 1<<17 + 128<<18, 18
		d[0] = Clip((e0 + o3 + half) >> shift)
		d[7] = Clip((e0 - o3 + half) >> shift)
		d[1] = Clip((e1 + o2 + half) >> shift)
		d[6] = Clip((e1 - o2 + half) >> shift)
		d[2] = Clip((e2 + o1 + half) >> shift)
		d[5] = Clip((e2 - o1 + half) >> shift)
		d[3] = Clip((e3 + o0 + half) >> shift)
		d[4] = Clip((e3 - o0 + half) >> shift)
	}
}

// butterfly is the one-dimensional transform less the last sums: e are the even
// part's, o the odd part's.
func butterfly(c0, c1, c2, c3, c4, c5, c6, c7 int32) (e0, e1, e2, e3, o0, o1, o2, o3 int32) {
	z := (c2 + c6) * f0541
	t2 := z - c6*f1847
	t3 := z + c2*f0765
	t0 := (c0 + c4) << 13
	t1 := (c0 - c4) << 13
	e0, e3, e1, e2 = t0+t3, t0-t3, t1+t2, t1-t2

	z1, z2, z3, z4 := c7+c1, c5+c3, c7+c3, c5+c1
	z5 := (z3 + z4) * f1175
	z1 *= -f0899
	z2 *= -f2562
	z3 = z5 - z3*f1961
	z4 = z5 - z4*f0390
	o0 = c7*f0298 + z1 + z3
	o1 = c5*f2053 + z2 + z4
	o2 = c3*f3072 + z2 + z3
	o3 = c1*f1501 + z1 + z4
	return
}

// ycc holds libjpeg's YCbCr to RGB tables (jdcolor.c): 16-bit fixed point, red
// and blue rounded on their own, green as a sum whose rounding term is in cbG.
var ycc = func() (t struct{ crR, cbB, crG, cbG [256]int32 }) {
	const half = 1 << 15
	fix := func(x float64) int32 { return int32(x*(1<<16) + 0.5) }
	for i := range int32(256) {
		x := i - 128
		t.crR[i] = (fix(1.40200)*x + half) >> 16
		t.cbB[i] = (fix(1.77200)*x + half) >> 16
		t.crG[i] = -fix(0.71414) * x
		t.cbG[i] = -fix(0.34414)*x + half
	}
	return t
}()

// convertGo is [Convert].
func convertGo(out, luma, cb, cr []byte) {
	cb, cr = cb[:len(luma)], cr[:len(luma)]
	for x, v := range luma {
		l, b, r := int32(v), cb[x], cr[x]
		p := out[3*x : 3*x+3 : 3*x+3]
		p[0] = Clip(l + ycc.crR[r])
		p[1] = Clip(l + (ycc.cbG[b]+ycc.crG[r])>>16)
		p[2] = Clip(l + ycc.cbB[b])
	}
}

// triangleGo is [Triangle].
func triangleGo(out, near, far []byte, sums []uint16) {
	n := len(near)
	far, sums = far[:n], sums[:n]
	for x, v := range near {
		sums[x] = 3*uint16(v) + uint16(far[x])
	}
	prev := sums[0]
	for i, v := range sums {
		next := sums[min(i+1, n-1)]
		p := out[2*i : 2*i+2 : 2*i+2]
		p[0] = byte((3*v + prev + 8) >> 4)
		p[1] = byte((3*v + next + 7) >> 4)
		prev = v
	}
}
