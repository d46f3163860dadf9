package cpu

// isa is one implementation of the inner loops. All slices of a call have the
// length of the first; outputs may be inputs.
type isa struct {
	name string

	// mr × nr is the tile of gemm.
	mr, nr int
	// gemm sets the tile c, of mr rows at a distance of ldc elements, to the
	// product of a, mr × k with element (i, l) at i·ars + l·acs, and the panel
	// b, k × nr without gaps; or adds it.
	gemm func(k int, a *float32, ars, acs int, b, c *float32, ldc int, add bool)
	// gemmHalf is gemm of, at least, the left half of the tile's columns.
	gemmHalf func(k int, a *float32, ars, acs int, b, c *float32, ldc int, add bool)
	// pack copies k rows of nr elements at a distance of stride to the panel dst.
	pack func(dst, src *float32, stride, k int)
	// packT copies the transpose of nr rows of k elements at a distance of
	// stride to the panel dst.
	packT func(dst, src *float32, stride, k int)
	// packCols is pack for rows of mr elements.
	packCols func(dst, src *float32, stride, k int)
	// packColsSum is packCols that also sets the mr elements at sum to the sum
	// of the rows, and may touch others, up to a multiple of 8. So many can be
	// read behind the panel.
	packColsSum func(dst, src *float32, stride, k int, sum *float32)
	// copyRows copies rows of cols elements, from a distance of lds to one of ldd.
	copyRows func(dst *float32, ldd int, src *float32, lds, rows, cols int)
	// prefetch brings rows of size bytes, at least one, at a distance of stride
	// bytes to the second-level cache.
	prefetch func(p *byte, stride, rows, size int)

	// gemmPairs is gemm of pairs of bfloat16s, k pairs deep; nil where the
	// processor has no such instruction. packPairs and packColsPairs then make
	// k rows of nr or mr pairs from twice as many rows of elements.
	gemmPairs                func(k int, a *float32, ars, acs int, b, c *float32, ldc int, add bool)
	packPairs, packColsPairs func(dst *float32, src *uint16, stride, k int)

	widen   func(y []float32, x []uint16) // y = x
	narrow  func(y []uint16, x []float32) // y = x, rounded to the nearest, ties to even
	addHalf func(y []float32, x []uint16) // y += x

	// Of numbers that are rounded first:
	narrowAdd    func(y []uint16, x, b []float32)            // y = x + b
	biasGeluHalf func(y, pre []uint16, x, b []float32)       // pre = x + b, y = gelu(pre); y and pre may be one
	geluGradHalf func(dx []uint16, dy []float32, x []uint16) // dx = dy·gelu'(x)

	add      func(y, x []float32)                  // y += x
	axpy     func(y, x []float32, a float32)       // y += a·x
	scale    func(y, x []float32, a float32)       // y = a·x
	scaleAdd func(y, x, b []float32, a float32)    // y = a·x + b
	mul      func(y, x, g []float32, a float32)    // y = a·g·x
	mulAdd   func(z, x, y, g []float32, a float32) // z = x + a·g·y
	mulAcc   func(s, x, y []float32, a float32)    // s += a·x·y

	gelu     func(y, x []float32)
	geluGrad func(dx, dy, x []float32)
	biasGelu func(y, pre, b []float32) // pre = y + b, y = gelu(pre)
	tanh     func(y, x []float32)
	tanhGrad func(dx, dy, y []float32)

	max func(x []float32) float32 // of at least one element
	dot func(x, y []float32) float32
	// expSum sets y = exp(x − m) and returns its sum.
	expSum func(y, x []float32, m float32) float32

	// Of rows, which begin ld elements apart:
	//
	// softmaxRows turns products s into e = exp(l − top) with
	// l = scale·s + bias, top = max l and sum = Σ e.
	softmaxRows func(s *float32, lds int, bias *float32, ldb, rows, n int, scale float32, top, sum *float32)
	// softmaxGradRows turns products s into p = exp(scale·s + bias − lse) and
	// ds into p·(ds − delta), and adds that to dbias, laid out as bias.
	softmaxGradRows func(s, ds *float32, lds int, bias *float32, ldb, rows, n int, scale float32, lse, delta, dbias *float32)
	// scaleRows sets y to x times the row's a.
	scaleRows func(y *float32, ldy int, x *float32, ldx, rows, n int, a *float32)
	// dotRows sets sum to the products of the rows of x and y.
	dotRows func(sum, x *float32, ldx int, y *float32, ldy, rows, n int)

	layerNorm func(y, x, scale, shift []float32, eps float32) (mean, rstd float32)
	// layerNormGrad sets dx and adds to dscale and dshift.
	layerNormGrad func(dx, dy, x, scale, dscale, dshift []float32, mean, rstd float32)

	adamW func(p, m, v, g []float32, c *adamConst)
}

// adamConst is the numbers of an AdamW step: the scale of the gradient, β₁,
// 1−β₁, β₂, 1−β₂, the learning rate with its bias correction, ε, and the
// learning rate times the decay.
type adamConst = [8]float32
