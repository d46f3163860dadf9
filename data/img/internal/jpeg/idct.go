package jpeg

import "vlmo-train/data/img/internal/pixel"

// inverseDCT writes the 8×8 samples of a block, whose last coefficient in
// zigzag order is last, to dst: row y at y*stride.
func inverseDCT(dst []byte, stride int, b *[64]int16, last int) {
	if last == 0 {
		v := pixel.Clip((int32(b[0])+4)>>3 + 128)
		row := [8]byte{v, v, v, v, v, v, v, v}
		for range 7 {
			*(*[8]byte)(dst) = row
			dst = dst[stride:]
		}
		*(*[8]byte)(dst) = row
		return
	}
	pixel.InverseDCT(dst, stride, b)
}
