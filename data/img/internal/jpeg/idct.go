package jpeg

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

func clip8(v int32) byte {
	if uint32(v) > 255 {
		// All ones where v is positive, so 255, and 0 where it is negative.
		v = ^(v >> 31)
	}
	return byte(v)
}

// inverseDCT writes the 8×8 samples of a block, whose last coefficient in
// zigzag order is last, to dst: row y at y*stride.
func inverseDCT(dst []byte, stride int, b *[64]int16, last int) {
	if last == 0 {
		v := clip8((int32(b[0])+4)>>3 + 128)
		row := [8]byte{v, v, v, v, v, v, v, v}
		for range 7 {
			*(*[8]byte)(dst) = row
			dst = dst[stride:]
		}
		*(*[8]byte)(dst) = row
		return
	}
	inverseDCTBlock(dst, stride, b)
}

// inverseDCTGo is libjpeg's accurate integer method: columns with 2 more bits,
// then rows.
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
		d[0] = clip8((e0 + o3 + half) >> shift)
		d[7] = clip8((e0 - o3 + half) >> shift)
		d[1] = clip8((e1 + o2 + half) >> shift)
		d[6] = clip8((e1 - o2 + half) >> shift)
		d[2] = clip8((e2 + o1 + half) >> shift)
		d[5] = clip8((e2 - o1 + half) >> shift)
		d[3] = clip8((e3 + o0 + half) >> shift)
		d[4] = clip8((e3 - o0 + half) >> shift)
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
