package img

import "image"

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

func clip8(v int32) byte {
	if uint32(v) > 255 {
		// All ones where v is positive, so 255, and 0 where it is negative.
		v = ^(v >> 31)
	}
	return byte(v)
}

// fromJPEG converts the planes of a decoded JPEG as libjpeg does with its
// default settings: triangle-filtered ("fancy") chroma upsampling for 4:2:2,
// 4:4:0 and 4:2:0, replication for the rest and for chroma planes of at most
// two columns.
func fromJPEG(m *image.YCbCr) *Image {
	w, h := m.Rect.Dx(), m.Rect.Dy()
	dst := New(w, h)
	fx, fy := 1, 1 // subsampling factors
	switch m.SubsampleRatio {
	case image.YCbCrSubsampleRatio422:
		fx = 2
	case image.YCbCrSubsampleRatio420:
		fx, fy = 2, 2
	case image.YCbCrSubsampleRatio440:
		fy = 2
	case image.YCbCrSubsampleRatio411:
		fx = 4
	case image.YCbCrSubsampleRatio410:
		fx, fy = 4, 2
	}
	// The planes are padded to whole blocks; the filter sees what belongs to
	// the picture alone and repeats its edge.
	cw, ch := (w+fx-1)/fx, (h+fy-1)/fy
	fancyX := fx == 2 && cw > 2
	fancyY := fy == 2 && (fx == 1 || fancyX)

	up := make([]byte, 2*(w+1))
	cb, cr := up[:w+1], up[w+1:] // one more, for the second half of the last pair
	sums := make([]int32, cw)
	for y := range h {
		cy := y / fy
		near := min(max(cy+y%2*2-1, 0), ch-1)
		for i, plane := range [2][]byte{m.Cb, m.Cr} {
			out := [2][]byte{cb, cr}[i]
			row, other := plane[cy*m.CStride:][:cw], plane[near*m.CStride:][:cw]
			switch {
			case fancyX && fancyY:
				for x, v := range row {
					sums[x] = 3*int32(v) + int32(other[x])
				}
				triangle(out, sums, 8, 7, 4)
			case fancyX:
				for x, v := range row {
					sums[x] = int32(v)
				}
				triangle(out, sums, 1, 2, 2)
			case fancyY:
				bias := int32(1 + y%2)
				for x, v := range row {
					out[x] = byte((3*int32(v) + int32(other[x]) + bias) >> 2)
				}
			case fx == 1:
				copy(out, row)
			default:
				for x := range w {
					out[x] = row[x/fx]
				}
			}
		}
		luma := m.Y[y*m.YStride:][:w]
		d := dst.Pix[3*y*w:][:3*w]
		cb, cr := cb[:len(luma)], cr[:len(luma)]
		for x, v := range luma {
			l, b, r := int32(v), cb[x], cr[x]
			p := d[3*x : 3*x+3 : 3*x+3]
			p[0] = clip8(l + ycc.crR[r])
			p[1] = clip8(l + (ycc.cbG[b]+ycc.crG[r])>>16)
			p[2] = clip8(l + ycc.cbB[b])
		}
	}
	return dst
}

// triangle doubles the row in: out[2i] is (3 in[i] + in[i-1] + left) >> shift,
// out[2i+1] is (3 in[i] + in[i+1] + right) >> shift, where the first and the
// last take in[i] for the neighbour they lack. in has at least two values, out
// holds 2*len(in) or one less.
func triangle(out []byte, in []int32, left, right int32, shift uint) {
	n := len(in)
	prev := in[0]
	for i, v := range in[:n-1] {
		next := in[i+1]
		out[2*i] = byte((3*v + prev + left) >> shift)
		out[2*i+1] = byte((3*v + next + right) >> shift)
		prev = v
	}
	v := in[n-1]
	out[2*n-2] = byte((3*v + prev + left) >> shift)
	if 2*n-1 < len(out) {
		out[2*n-1] = byte((4*v + right) >> shift)
	}
}
