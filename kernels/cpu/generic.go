package cpu

import (
	"math"
	"unsafe"

	"vlmo-train/kernels"
)

var generic = isa{
	name: "generic", mr: 4, nr: 4,
	gemm: gemmGeneric, gemmHalf: gemmGeneric, pack: packGeneric, packT: packTGeneric, packCols: packGeneric, packColsSum: packColsSumGeneric, copyRows: copyRowsGeneric, prefetch: func(*byte, int, int, int) {},
	widen: widenGeneric, narrow: narrowGeneric, addHalf: addHalfGeneric,
	narrowAdd: narrowAddGeneric, biasGeluHalf: biasGeluHalfGeneric, geluGradHalf: geluGradHalfGeneric,
	add: addGeneric, axpy: axpyGeneric, scale: scaleGeneric, scaleAdd: scaleAddGeneric,
	mul: mulGeneric, mulAdd: mulAddGeneric, mulAcc: mulAccGeneric,
	gelu: geluGeneric, geluGrad: geluGradGeneric, biasGelu: biasGeluGeneric, tanh: tanhGeneric, tanhGrad: tanhGradGeneric,
	max: maxGeneric, dot: dotGeneric, expSum: expSumGeneric,
	softmaxRows: softmaxRowsGeneric, softmaxGradRows: softmaxGradRowsGeneric, scaleRows: scaleRowsGeneric, dotRows: dotRowsGeneric,
	layerNorm: layerNormGeneric, layerNormGrad: layerNormGradGeneric, adamW: adamWGeneric,
}

func at(p *float32, i int) *float32 {
	return (*float32)(unsafe.Add(unsafe.Pointer(p), i*4))
}

func gemmGeneric(k int, a *float32, ars, acs int, b, c *float32, ldc int, add bool) {
	for i := 0; i < 4; i += 2 {
		var c00, c01, c02, c03, c10, c11, c12, c13 float32
		for l := range k {
			a0, a1 := *at(a, i*ars+l*acs), *at(a, (i+1)*ars+l*acs)
			r := (*[4]float32)(unsafe.Pointer(at(b, 4*l)))
			c00 += a0 * r[0]
			c01 += a0 * r[1]
			c02 += a0 * r[2]
			c03 += a0 * r[3]
			c10 += a1 * r[0]
			c11 += a1 * r[1]
			c12 += a1 * r[2]
			c13 += a1 * r[3]
		}
		d0 := (*[4]float32)(unsafe.Pointer(at(c, i*ldc)))
		d1 := (*[4]float32)(unsafe.Pointer(at(c, (i+1)*ldc)))
		if add {
			c00, c01, c02, c03 = c00+d0[0], c01+d0[1], c02+d0[2], c03+d0[3]
			c10, c11, c12, c13 = c10+d1[0], c11+d1[1], c12+d1[2], c13+d1[3]
		}
		*d0 = [4]float32{c00, c01, c02, c03}
		*d1 = [4]float32{c10, c11, c12, c13}
	}
}

func packGeneric(dst, src *float32, stride, k int) {
	for l := range k {
		*(*[4]float32)(unsafe.Pointer(at(dst, 4*l))) = *(*[4]float32)(unsafe.Pointer(at(src, l*stride)))
	}
}

func packTGeneric(dst, src *float32, stride, k int) {
	for l := range k {
		*(*[4]float32)(unsafe.Pointer(at(dst, 4*l))) = [4]float32{
			*at(src, l), *at(src, stride+l), *at(src, 2*stride+l), *at(src, 3*stride+l)}
	}
}

func packColsSumGeneric(dst, src *float32, stride, k int, sum *float32) {
	packGeneric(dst, src, stride, k)
	total := (*[4]float32)(unsafe.Pointer(sum))
	*total = [4]float32{}
	for i, v := range unsafe.Slice(dst, 4*k) {
		total[i%4] += v
	}
}

func copyRowsGeneric(dst *float32, ldd int, src *float32, lds, rows, cols int) {
	for i := range rows {
		copy(unsafe.Slice(at(dst, i*ldd), cols), unsafe.Slice(at(src, i*lds), cols))
	}
}

func widenGeneric(y []float32, x []uint16) {
	x = x[:len(y)]
	for i, v := range x {
		y[i] = kernels.FromBF16(v)
	}
}

func narrowGeneric(y []uint16, x []float32) {
	x = x[:len(y)]
	for i, v := range x {
		y[i] = kernels.RoundBF16(v)
	}
}

func addHalfGeneric(y []float32, x []uint16) {
	x = x[:len(y)]
	for i, v := range x {
		y[i] += kernels.FromBF16(v)
	}
}

func addGeneric(y, x []float32) {
	x = x[:len(y)]
	for i := range y {
		y[i] += x[i]
	}
}

func axpyGeneric(y, x []float32, a float32) {
	x = x[:len(y)]
	for i := range y {
		y[i] += a * x[i]
	}
}

func scaleGeneric(y, x []float32, a float32) {
	x = x[:len(y)]
	for i := range y {
		y[i] = a * x[i]
	}
}

func scaleAddGeneric(y, x, b []float32, a float32) {
	x, b = x[:len(y)], b[:len(y)]
	for i := range y {
		y[i] = a*x[i] + b[i]
	}
}

func mulGeneric(y, x, g []float32, a float32) {
	x, g = x[:len(y)], g[:len(y)]
	for i := range y {
		y[i] = a * g[i] * x[i]
	}
}

func mulAddGeneric(z, x, y, g []float32, a float32) {
	x, y, g = x[:len(z)], y[:len(z)], g[:len(z)]
	for i := range z {
		z[i] = x[i] + a*g[i]*y[i]
	}
}

func mulAccGeneric(s, x, y []float32, a float32) {
	x, y = x[:len(s)], y[:len(s)]
	for i := range s {
		s[i] += a * x[i] * y[i]
	}
}

// phi returns the normal distribution function.
func phi(x float64) float64 { return 0.5 * math.Erfc(-x/math.Sqrt2) }

func geluGeneric(y, x []float32) {
	x = x[:len(y)]
	for i, v := range x {
		v := float64(v)
		y[i] = float32(v * phi(v))
	}
}

func biasGeluGeneric(y, pre, b []float32) {
	for i := range y {
		pre[i] = y[i] + b[i]
	}
	geluGeneric(y, pre)
}

func narrowAddGeneric(y []uint16, x, b []float32) {
	x, b = x[:len(y)], b[:len(y)]
	for i, v := range x {
		y[i] = kernels.RoundBF16(v + b[i])
	}
}

func biasGeluHalfGeneric(y, pre []uint16, x, b []float32) {
	y, pre, b = y[:len(x)], pre[:len(x)], b[:len(x)]
	for i, v := range x {
		pre[i] = kernels.RoundBF16(v + b[i])
		v := float64(kernels.FromBF16(pre[i]))
		y[i] = kernels.RoundBF16(float32(v * phi(v)))
	}
}

func geluGradHalfGeneric(dx []uint16, dy []float32, x []uint16) {
	dx, x = dx[:len(dy)], x[:len(dy)]
	for i, v := range dy {
		v := float64(kernels.FromBF16(kernels.RoundBF16(v)))
		dx[i] = kernels.RoundBF16(float32(v * geluSlope(float64(kernels.FromBF16(x[i])))))
	}
}

func geluGradGeneric(dx, dy, x []float32) {
	dy, x = dy[:len(dx)], x[:len(dx)]
	for i, v := range x {
		dx[i] = float32(float64(dy[i]) * geluSlope(float64(v)))
	}
}

func geluSlope(x float64) float64 {
	d := phi(x)
	if e := math.Exp(-0.5 * x * x); e != 0 {
		d += x * e / math.Sqrt(2*math.Pi)
	}
	return d
}

func tanhGeneric(y, x []float32) {
	x = x[:len(y)]
	for i, v := range x {
		y[i] = float32(math.Tanh(float64(v)))
	}
}

func tanhGradGeneric(dx, dy, y []float32) {
	dy, y = dy[:len(dx)], y[:len(dx)]
	for i, v := range y {
		dx[i] = dy[i] * (1 - v*v)
	}
}

func maxGeneric(x []float32) float32 {
	m := x[0]
	for _, v := range x {
		if v > m {
			m = v
		}
	}
	return m
}

func dotGeneric(x, y []float32) float32 {
	y = y[:len(x)]
	var s [4]float32
	i := 0
	for ; i+4 <= len(x); i += 4 {
		s[0] += x[i] * y[i]
		s[1] += x[i+1] * y[i+1]
		s[2] += x[i+2] * y[i+2]
		s[3] += x[i+3] * y[i+3]
	}
	for ; i < len(x); i++ {
		s[0] += x[i] * y[i]
	}
	return s[0] + s[1] + (s[2] + s[3])
}

func expSumGeneric(y, x []float32, m float32) float32 {
	x = x[:len(y)]
	var s float64
	for i, v := range x {
		e := math.Exp(float64(v) - float64(m))
		s += e
		y[i] = float32(e)
	}
	return float32(s)
}

// floats returns n elements from p on.
func floats(p *float32, n int) []float32 { return unsafe.Slice(p, n) }

func softmaxRowsGeneric(s *float32, lds int, bias *float32, ldb, rows, n int, scale float32, top, sum *float32) {
	for r := range rows {
		x := floats(at(s, r*lds), n)
		scaleAddGeneric(x, x, floats(at(bias, r*ldb), n), scale)
		m := maxGeneric(x)
		*at(top, r), *at(sum, r) = m, expSumGeneric(x, x, m)
	}
}

func softmaxGradRowsGeneric(s, ds *float32, lds int, bias *float32, ldb, rows, n int, scale float32, lse, delta, dbias *float32) {
	for r := range rows {
		p, dp := floats(at(s, r*lds), n), floats(at(ds, r*lds), n)
		db, d := floats(at(dbias, r*ldb), n), *at(delta, r)
		scaleAddGeneric(p, p, floats(at(bias, r*ldb), n), scale)
		expSumGeneric(p, p, *at(lse, r))
		for i := range dp {
			dp[i] = p[i] * (dp[i] - d)
			db[i] += dp[i]
		}
	}
}

func scaleRowsGeneric(y *float32, ldy int, x *float32, ldx, rows, n int, a *float32) {
	for r := range rows {
		scaleGeneric(floats(at(y, r*ldy), n), floats(at(x, r*ldx), n), *at(a, r))
	}
}

func dotRowsGeneric(sum, x *float32, ldx int, y *float32, ldy, rows, n int) {
	for r := range rows {
		*at(sum, r) = dotGeneric(floats(at(x, r*ldx), n), floats(at(y, r*ldy), n))
	}
}

func layerNormGeneric(y, x, scale, shift []float32, eps float32) (mean, rstd float32) {
	x, scale, shift = x[:len(y)], scale[:len(y)], shift[:len(y)]
	n := float32(len(y))
	for _, v := range x {
		mean += v
	}
	mean /= n
	var q float32
	for _, v := range x {
		q += (v - mean) * (v - mean)
	}
	rstd = 1 / float32(math.Sqrt(float64(q/n+eps)))
	for i, v := range x {
		y[i] = (v-mean)*rstd*scale[i] + shift[i]
	}
	return mean, rstd
}

func layerNormGradGeneric(dx, dy, x, scale, dscale, dshift []float32, mean, rstd float32) {
	n := len(dx)
	dy, x, scale, dscale, dshift = dy[:n], x[:n], scale[:n], dscale[:n], dshift[:n]
	var s, t float32
	for i, v := range x {
		h, d := (v-mean)*rstd, dy[i]
		dscale[i] += d * h
		dshift[i] += d
		d *= scale[i]
		s += d
		t += d * h
	}
	s /= float32(n)
	t /= float32(n)
	for i, v := range x {
		h := (v - mean) * rstd
		dx[i] = rstd * (dy[i]*scale[i] - s - h*t)
	}
}

func adamWGeneric(p, m, v, g []float32, c *adamConst) {
	m, v, g = m[:len(p)], v[:len(p)], g[:len(p)]
	gradScale, beta1, rest1, beta2, rest2, rate, eps, decay := c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]
	for i := range p {
		g := gradScale * g[i]
		a := beta1*m[i] + rest1*g
		b := beta2*v[i] + rest2*g*g
		m[i], v[i] = a, b
		q := p[i] - rate*a/(float32(math.Sqrt(float64(b)))+eps)
		p[i] = q - decay*q
	}
}
