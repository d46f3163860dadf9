//go:build cuda

package cuda

import (
	"math"

	"vlmo-train/kernels"
)

const (
	chunk     = 8    // elements that a thread treats
	quad      = 4    // the same where all is f32
	threads   = 256  // of a block, where rows do not ask for more
	maxRow    = 4096 // columns that the threads of a block hold in registers
	maxGroups = 512  // blocks whose partial sums are added up, four for an SM of an H100,
	groupRows = 8    // each over this many rows at least
	maxGridYZ = 65535
)

func ceil(n, by int) int { return (n + by - 1) / by }

// kernel begins the launch of a kernel.
func (d *device) kernel(name string, grid, block dim) *launch {
	d.next = launch{k: d.kernels[name], grid: grid, block: block}
	if d.next.k == nil {
		d.fail("there is no kernel %s", name)
	}
	return &d.next
}

// start enqueues a launch whose arguments are complete.
func (d *device) start(l *launch) {
	if d.err != nil {
		return
	}
	if l.grid.y > maxGridYZ || l.grid.z > maxGridYZ {
		d.fail("kernel %s: a grid of %d × %d × %d blocks is too large", l.k.name, l.grid.x, l.grid.y, l.grid.z)
		return
	}
	if err := l.check(); err != nil {
		d.err = err
		return
	}
	d.commands <- command{launch: *l}
}

// elementwise begins the launch of a kernel with a thread for each chunk of
// rows × cols elements.
func (d *device) elementwise(name string, rows, cols int) *launch {
	return d.chunks(name, rows, cols, chunk)
}

// quads is elementwise for kernels of f32 alone.
func (d *device) quads(name string, rows, cols int) *launch { return d.chunks(name, rows, cols, quad) }

func (d *device) chunks(name string, rows, cols, size int) *launch {
	return d.kernel(name, dim{ceil(rows*ceil(cols, size), threads), 1, 1}, dim{threads, 1, 1})
}

// flatten views tensors of one shape as a single row where none has gaps.
func flatten(ts ...*kernels.Tensor) (rows, cols int) {
	rows, cols = ts[0].Rows, ts[0].Cols
	if rows*cols > math.MaxInt32/2 {
		return rows, cols
	}
	for _, t := range ts {
		if !t.Contiguous() {
			return rows, cols
		}
	}
	for _, t := range ts {
		*t = t.Reshape(1, rows*cols)
	}
	return 1, rows * cols
}

// unary runs an elementwise kernel from x to y, whose threads treat size elements.
func (d *device) unary(name string, x, y kernels.Tensor, size int) {
	if rows, cols := flatten(&x, &y); rows*cols > 0 {
		d.start(d.chunks(name, rows, cols, size).tensor(x).tensor(y).int(rows, cols))
	}
}

// binary runs an elementwise kernel from x and dy to dx, whose threads treat
// size elements.
func (d *device) binary(name string, x, dy, dx kernels.Tensor, size int) {
	if rows, cols := flatten(&x, &dy, &dx); rows*cols > 0 {
		d.start(d.chunks(name, rows, cols, size).tensor(x).tensor(dy).tensor(dx).int(rows, cols))
	}
}

// geluGrad computes dx = dy·gelu'(x), of one type.
func (d *device) geluGrad(x, dy, dx kernels.Tensor) {
	if x.Type == kernels.BF16 {
		d.binary("gelu_grad_bf16", x, dy, dx, chunk)
	} else {
		d.binary("gelu_grad", x, dy, dx, quad)
	}
}

// rowBlock returns the threads of a block that share rows of the given length,
// and how many rows it treats.
func rowBlock(rows, cols, limit int) dim {
	x := min((ceil(cols, chunk)+31)&^31, limit)
	return dim{x, max(1, min(threads/x, rows)), 1}
}

// rowKernel begins the launch of a kernel whose blocks hold whole rows.
func (d *device) rowKernel(name string, rows, cols, maxBlocks int) *launch {
	if cols > maxRow {
		d.fail("kernel %s: %d columns, at most %d fit", name, cols, maxRow)
	}
	b := rowBlock(rows, cols, maxRow/chunk)
	return d.kernel(name, dim{min(ceil(rows, b.y), maxBlocks), 1, 1}, b)
}

// finishColumns adds count rows of partial sums, stride floats apart, to out.
func (d *device) finishColumns(partial uintptr, stride, count int, out kernels.Tensor) {
	d.start(d.kernel("column_finish", dim{ceil(out.Cols, 32), 1, 1}, dim{32, 32, 1}).
		ptr(partial).int(stride, count).vector(out).int(out.Cols))
}

// finishScalar adds weight times the sum of count numbers to out.
func (d *device) finishScalar(partial uintptr, count int, weight float32, out kernels.Tensor) {
	d.start(d.kernel("scalar_finish", dim{1, 1, 1}, dim{threads, 1, 1}).ptr(partial).int(count).float(weight).vector(out))
}

func (d *device) faultArgs(l *launch, code int) *launch { return l.ptr(uintptr(d.fault)).int(code) }

func (d *device) dispatch(op kernels.Op) {
	switch o := op.(type) {
	case *kernels.MatMul:
		d.matMul(o)
	case *kernels.ColumnSum:
		d.columnSum(o)
	case *kernels.LayerNorm:
		d.layerNorm(o)
	case *kernels.LayerNormGrad:
		d.layerNormGrad(o)
	case *kernels.Residual:
		d.residual(o)
	case *kernels.ResidualNorm:
		d.residualNorm(o)
	case *kernels.ResidualGrad:
		d.residualGrad(o)
	case *kernels.ResidualNormGrad:
		d.residualNormGrad(o)
	case *kernels.Gather:
		d.gather(o)
	case *kernels.ScatterAdd:
		d.scatterAdd(o)
	case *kernels.Patchify:
		d.patchify(o)
	case *kernels.Dropout:
		d.dropout(o)
	case *kernels.Tanh:
		d.unary("tanh_forward", o.X, o.Y, quad)
	case *kernels.TanhGrad:
		d.binary("tanh_grad", o.Y, o.DY, o.DX, quad)
	case *kernels.Gelu:
		d.unary("gelu_forward", o.X, o.Y, chunk)
	case *kernels.GeluGrad:
		d.geluGrad(o.X, o.DY, o.DX)
	case *kernels.Copy:
		d.unary("copy", o.X, o.Y, chunk)
	case *kernels.AddScaled:
		x, y := o.X, o.Y
		if rows, cols := flatten(&x, &y); rows*cols > 0 {
			d.start(d.quads("add_scaled", rows, cols).tensor(x).tensor(y).int(rows, cols).float(o.Alpha))
		}
	case *kernels.Fill:
		y := o.Y
		if rows, cols := flatten(&y); rows*cols > 0 {
			d.start(d.quads("fill", rows, cols).tensor(y).int(rows, cols).float(o.Value))
		}
	case *kernels.Normalize:
		if r, n := o.X.Rows, o.X.Cols; r*n > 0 {
			d.start(d.rowKernel("normalize", r, n, r).tensor(o.X).tensor(o.Y).vector(o.Norm).int(r, n))
		}
	case *kernels.NormalizeGrad:
		if r, n := o.Y.Rows, o.Y.Cols; r*n > 0 {
			d.start(d.rowKernel("normalize_grad", r, n, r).tensor(o.Y).tensor(o.DY).vector(o.Norm).tensor(o.DX).int(r, n))
		}
	case *kernels.Attention:
		d.attention(o)
	case *kernels.AttentionGrad:
		d.attentionGrad(o)
	case *kernels.CrossEntropy:
		d.crossEntropy(o)
	case *kernels.Contrast:
		d.contrast(o)
	case *kernels.SampleNegative:
		if r, n := o.Dot.Rows, o.Dot.Cols; r > 0 {
			d.start(d.lossKernel("sample_negative", r, n).tensor(o.Dot).vector(o.LogScale).vector(o.RowGroup).vector(o.ColGroup).
				vector(o.RowID).vector(o.ColID).int(int(o.Key[0]), int(o.Key[1])).vector(o.Index).int(r, n))
		}
	case *kernels.BinaryCrossEntropy:
		d.elementLoss("binary_cross_entropy", o.Logits, o.Target, o.Weight, o.Loss, o.DLogits)
	case *kernels.SquaredError:
		d.elementLoss("squared_error", o.X, o.Target, o.Weight, o.Loss, o.DX)
	case *kernels.ArgMax:
		if r, n := o.X.Rows, o.X.Cols; r > 0 {
			d.start(d.lossKernel("arg_max", r, n).tensor(o.X).vector(o.Index).int(r, n))
		}
	case *kernels.SumSquares:
		d.sumSquares(o)
	case *kernels.AdamW:
		d.adamW(o)
	default:
		d.fail("unknown op %s (%T)", op.Name(), op)
	}
}

func (d *device) columnSum(o *kernels.ColumnSum) {
	r, n := o.X.Rows, o.X.Cols
	if r*n == 0 {
		return
	}
	groups := min(ceil(r, 64), 128)
	partial := d.reserve(&d.scratch, 4*groups*n)
	d.start(d.kernel("column_partials", dim{ceil(n, 32*chunk), groups, 1}, dim{32, 8, 1}).tensor(o.X).ptr(partial).int(r, n))
	d.finishColumns(partial, n, groups, o.Y)
}

func (d *device) layerNorm(o *kernels.LayerNorm) {
	r, n := o.Y.Rows, o.Y.Cols
	if r*n == 0 {
		return
	}
	l := d.rowKernel("layernorm", r, n, r).tensor(o.X).vector(o.Rows).vector(o.Scale).vector(o.Shift).tensor(o.Y).
		vector(o.Mean).vector(o.Rstd).int(r, n, o.X.Rows).float(o.Eps)
	d.start(d.faultArgs(l, faultRows))
}

func (d *device) layerNormGrad(o *kernels.LayerNormGrad) {
	r, n := o.DY.Rows, o.DY.Cols
	if r*n == 0 {
		return
	}
	l := d.rowKernel("layernorm_grad", r, n, min(maxGroups, ceil(r, groupRows)))
	groups := l.grid.x
	var partial uintptr
	if !o.DScale.IsZero() {
		partial = d.reserve(&d.scratch, 4*2*groups*n)
	}
	l.tensor(o.X).vector(o.Rows).tensor(o.DY).vector(o.Scale).vector(o.Mean).vector(o.Rstd).tensor(o.DX).
		ptr(partial).int(r, n, o.X.Rows).bool(o.Accumulate)
	d.start(d.faultArgs(l, faultRows))
	if partial != 0 {
		d.finishColumns(partial, 2*n, groups, o.DScale)
		d.finishColumns(partial+uintptr(4*n), 2*n, groups, o.DShift)
	}
}

func (d *device) residual(o *kernels.Residual) {
	n := o.X.Cols
	if o.X.Len() == 0 {
		return
	}
	rows, list := o.X.Rows, o.Rows
	var from uintptr
	if !list.IsZero() {
		if o.Z == o.X { // the other rows are in place
			rows = list.Cols
		} else {
			_, at := d.inverted(rows, 0, list)
			from = at[0]
			list = kernels.Tensor{}
		}
	}
	if rows == 0 {
		return
	}
	l := d.elementwise("residual", rows, n).tensor(o.X).ptr(from).vector(list).tensor(o.Y).vector(o.Gamma).vector(o.Keep).
		tensor(o.Z).int(rows, n, o.X.Rows)
	d.start(d.faultArgs(l, faultRows))
}

// inverted returns extra bytes of scratch memory, and the addresses in it of the
// place in each list of each of n rows, −1 for none; 0 where the list is absent.
func (d *device) inverted(n, extra int, lists ...kernels.Tensor) (first uintptr, at [2]uintptr) {
	count := 0
	for _, list := range lists {
		if !list.IsZero() {
			count++
		}
	}
	if extra+count == 0 {
		return 0, at
	}
	first = d.reserve(&d.scratch, extra+4*count*n)
	if count == 0 {
		return first, at
	}
	next := first + uintptr(extra)
	d.start(d.kernel("rows_clear", dim{ceil(count*n, threads), 1, 1}, dim{threads, 1, 1}).ptr(next).int(count * n))
	for i, list := range lists {
		if list.IsZero() {
			continue
		}
		at[i] = next
		if list.Cols > 0 {
			l := d.kernel("rows_invert", dim{ceil(list.Cols, threads), 1, 1}, dim{threads, 1, 1}).
				vector(list).ptr(next).int(list.Cols, n)
			d.start(d.faultArgs(l, faultRows))
		}
		next += uintptr(4 * n)
	}
	return first, at
}

func (d *device) residualNorm(o *kernels.ResidualNorm) {
	r, n := o.X.Rows, o.X.Cols
	if r*n == 0 {
		return
	}
	_, at := d.inverted(r, 0, o.Rows, o.NormRows)
	l := d.rowKernel("residual_norm", r, n, r).tensor(o.X).ptr(at[0]).tensor(o.Y).vector(o.Gamma).vector(o.Keep).
		tensor(o.Z).ptr(at[1]).tensor(o.H).vector(o.Mean).vector(o.Rstd)
	for _, p := range o.Parts {
		l.vector(p.Scale).vector(p.Shift)
	}
	end := o.Ends()
	d.start(l.int(end[0], end[1], r, n).float(o.Eps))
}

func (d *device) residualGrad(o *kernels.ResidualGrad) {
	r, n := o.DY.Rows, o.DY.Cols
	if r*n == 0 {
		return
	}
	l := d.rowKernel("residual_grad", r, n, min(maxGroups, ceil(r, groupRows)))
	groups := l.grid.x
	var partial uintptr
	if !o.DGamma.IsZero() {
		partial = d.reserve(&d.scratch, 4*groups*n)
	}
	l.tensor(o.DZ).vector(o.Rows).tensor(o.Y).vector(o.Gamma).vector(o.Keep).tensor(o.DY).ptr(partial).int(r, n, o.DZ.Rows)
	d.start(d.faultArgs(l, faultRows))
	if partial != 0 {
		d.finishColumns(partial, n, groups, o.DGamma)
	}
}

func (d *device) residualNormGrad(o *kernels.ResidualNormGrad) {
	rows, n := o.DZ.Rows, o.DZ.Cols
	if rows*n == 0 {
		return
	}
	// The blocks of each part, and of the rows without a norm.
	work := [4]int{o.Parts[0].Rows, o.Parts[1].Rows, o.Parts[2].Rows}
	if o.DY.Rows > 0 {
		work[3] = rows - o.DH.Rows
	}
	all := work[0] + work[1] + work[2] + work[3]
	sums := !o.DGamma.IsZero()
	var end [5]int
	for i, w := range work {
		end[i+1] = end[i] + min(ceil(w, 2*groupRows), max(1, maxGroups*w/max(1, all)))
		sums = sums || i < 3 && w > 0 && !o.Parts[i].DScale.IsZero()
	}
	if end[4] == 0 {
		return
	}
	extra := 0
	if sums {
		extra = 4 * 3 * end[4] * n
	}
	partial, at := d.inverted(rows, extra, o.Rows, o.NormRows)
	if !sums {
		partial = 0
	}
	var y kernels.Tensor
	if !o.DGamma.IsZero() {
		y = o.Y
	}
	rowEnd := o.Ends()
	l := d.rowKernel("residual_norm_grad", rows, n, end[4])
	l.grid.x = end[4]
	l.tensor(o.Z).vector(o.NormRows).ptr(at[1]).tensor(o.DH).vector(o.Mean).vector(o.Rstd)
	for _, p := range o.Parts {
		l.vector(p.Scale)
	}
	d.start(l.tensor(o.DZ).ptr(at[0]).tensor(y).vector(o.Gamma).vector(o.Keep).tensor(o.DY).ptr(partial).
		int(end[1:4]...).int(rowEnd[:]...).int(rows, n))
	if !sums {
		return
	}
	for i, p := range o.Parts {
		if from := partial + uintptr(4*3*n*end[i]); p.Rows > 0 && !p.DScale.IsZero() {
			d.finishColumns(from, 3*n, end[i+1]-end[i], p.DScale)
			d.finishColumns(from+uintptr(4*n), 3*n, end[i+1]-end[i], p.DShift)
		}
	}
	if !o.DGamma.IsZero() {
		d.finishColumns(partial+uintptr(4*2*n), 3*n, end[4], o.DGamma)
	}
}

func (d *device) gather(o *kernels.Gather) {
	r, n := o.Y.Rows, o.Y.Cols
	if r*n == 0 {
		return
	}
	l := d.elementwise("gather", r, n).tensor(o.Table).vector(o.Index).tensor(o.Y).int(r, n, o.Table.Rows).bool(o.Accumulate)
	d.start(d.faultArgs(l, faultIndex))
}

func (d *device) scatterAdd(o *kernels.ScatterAdd) {
	r, n := o.Y.Rows, o.Y.Cols
	if r*n == 0 {
		return
	}
	l := d.kernel("scatter_add", dim{r, ceil(n, 32*chunk), 1}, dim{32, 8, 1}).
		tensor(o.Y).vector(o.Index).tensor(o.Table).int(r, n, o.Table.Rows)
	d.start(d.faultArgs(l, faultIndex))
}

func (d *device) patchify(o *kernels.Patchify) {
	if o.Y.Len() == 0 {
		return
	}
	shape := []int{o.Y.Rows, o.Channels, o.Height, o.Width, o.Size}
	if o.X.Type == kernels.U8 {
		d.start(d.chunks("patchify_bytes", o.Y.Rows, o.Y.Cols, 2*chunk).vector(o.X).long(o.X.Stride).tensor(o.Y).int(shape...).float(o.Mean, o.Std))
		return
	}
	d.start(d.elementwise("patchify", o.Y.Rows, o.Y.Cols).tensor(o.X).tensor(o.Y).int(shape...))
}

func (d *device) dropout(o *kernels.Dropout) {
	r, n := o.X.Rows, o.X.Cols
	if r*n == 0 {
		return
	}
	rate := float64(o.Rate)
	threshold := uint32(math.Ceil(rate * (1 << 32))) // Rate < 1: at most 2³² − 2⁸
	d.start(d.quads("dropout", r, n).tensor(o.X).vector(o.Row).tensor(o.Y).int(r, n).
		int(int(o.Key[0]), int(o.Key[1]), int(threshold)).float(float32(1 / (1 - rate))))
}

// lossKernel begins the launch of a kernel whose threads walk along rows of
// any length.
func (d *device) lossKernel(name string, rows, cols int) *launch {
	b := rowBlock(rows, cols, threads)
	return d.kernel(name, dim{ceil(rows, b.y), 1, 1}, b)
}

// heldKernel begins the launch of a kernel whose threads, at most 512 a row,
// keep so many elements of it each.
func (d *device) heldKernel(name string, rows, cols, held int) *launch {
	x := min((ceil(cols, held)+31)&^31, 512)
	y := max(1, min(threads/x, rows))
	return d.kernel(name, dim{ceil(rows, y), 1, 1}, dim{x, y, 1})
}

func (d *device) crossEntropy(o *kernels.CrossEntropy) {
	r, n := o.Logits.Rows, o.Logits.Cols
	if r == 0 {
		return
	}
	partial := d.reserve(&d.scratch, 4*r)
	l := d.heldKernel("cross_entropy", r, n, 64).tensor(o.Logits).vector(o.Label).float(o.Weight).ptr(partial).tensor(o.DLogits).int(r, n)
	d.start(d.faultArgs(l, faultLabel))
	d.finishScalar(partial, r, o.Weight, o.Loss)
}

func (d *device) contrast(o *kernels.Contrast) {
	r, n := o.Dot.Rows, o.Dot.Cols
	if r == 0 {
		return
	}
	partial := d.reserve(&d.scratch, 2*4*r)
	back := partial + uintptr(4*r)
	l := d.heldKernel("contrast", r, n, 32).tensor(o.Dot).vector(o.LogScale).vector(o.RowGroup).vector(o.ColGroup).float(o.Weight).
		ptr(partial).ptr(back).tensor(o.DDot).int(r, n).bool(o.Accumulate)
	d.start(d.faultArgs(l, faultPositive))
	d.finishScalar(partial, r, 1, o.Loss)
	if !o.DLogScale.IsZero() {
		d.finishScalar(back, r, 1, o.DLogScale)
	}
}

func (d *device) elementLoss(name string, x, target kernels.Tensor, weight float32, loss, dx kernels.Tensor) {
	r, n := x.Rows, x.Cols
	if r*n == 0 {
		return
	}
	partial := d.reserve(&d.scratch, 4*r)
	d.start(d.lossKernel(name, r, n).tensor(x).tensor(target).float(weight).ptr(partial).tensor(dx).int(r, n))
	d.finishScalar(partial, r, weight, loss)
}

func (d *device) sumSquares(o *kernels.SumSquares) {
	x := o.X
	rows, cols := flatten(&x)
	if rows*cols == 0 {
		return
	}
	groups := min(ceil(rows*ceil(cols, quad), 4*threads), 1024)
	partial := d.reserve(&d.scratch, 4*groups)
	d.start(d.kernel("square_partials", dim{groups, 1, 1}, dim{threads, 1, 1}).tensor(x).ptr(partial).int(rows, cols))
	d.finishScalar(partial, groups, 1, o.Y)
}

func (d *device) adamW(o *kernels.AdamW) {
	n := o.P.Cols
	if n == 0 {
		return
	}
	b1, b2, step := float64(o.Beta1), float64(o.Beta2), float64(o.Step)
	rate := float64(o.Rate) * math.Sqrt(1-math.Pow(b2, step)) / (1 - math.Pow(b1, step))
	d.start(d.quads("adamw", 1, n).tensor(o.P).tensor(o.M).tensor(o.V).tensor(o.Grad).tensor(o.Half).int(n).
		float(float32(rate), float32(float64(o.Rate)*float64(o.Decay)), o.Beta1, float32(1-b1), o.Beta2, float32(1-b2), o.Eps, o.GradScale))
}

// Tiles of the matrix products.
const (
	tileF32, threadsF32   = 64, 64
	tileBF16, threadsBF16 = 128, 256
)

func (d *device) matMul(o *kernels.MatMul) {
	m, n, k := o.Dims()
	if m == 0 || n == 0 && o.Sum.IsZero() {
		return
	}
	if d.ltMatMul(o) {
		return
	}
	name, tile, size := "gemm_f32_", tileF32, threadsF32
	if o.A.Type == kernels.BF16 {
		name, tile, size = "gemm_bf16_", tileBF16, threadsBF16
	}
	switch {
	case o.TransA && o.TransB:
		name += "tt"
	case o.TransA:
		name += "tn"
	case o.TransB:
		name += "nt"
	default:
		name += "nn"
	}
	grid := dim{max(1, ceil(n, tile)), ceil(m, tile), 1}
	part := splitDepth(grid.x*grid.y, k)
	sum, partial := address(o.Sum), uintptr(0)
	if n > 0 && part < k {
		grid.z = ceil(k, part)
		partial = d.reserve(&d.scratch, 4*grid.z*m*(n+1))
		if sum != 0 {
			sum = partial + uintptr(4*grid.z*m*n)
		}
	}
	d.start(d.kernel(name, grid, dim{size, 1, 1}).tensor(o.A).tensor(o.B).tensor(o.C).vector(o.Bias).tensor(o.Pre).
		ptr(sum).int(m, n, k, int(o.Act)).bool(o.Accumulate).ptr(partial).int(part))
	if partial == 0 {
		return
	}
	d.start(d.quads("gemm_finish", m, n).ptr(partial).int(grid.z).tensor(o.C).vector(o.Bias).tensor(o.Pre).
		int(m, n, int(o.Act)).bool(o.Accumulate))
	if sum != 0 {
		d.finishColumns(sum, m, grid.z, o.Sum)
	}
}

// splitDepth returns how deep a part of a product of k is whose result has so
// many tiles: k itself where they fill a GPU. It depends on the shape alone, so
// that sums are the same on all of them.
func splitDepth(tiles, k int) int {
	const blocks, least, most = 256, 256, 32
	parts := min(blocks/tiles, k/least, most)
	if parts < 2 {
		return k
	}
	return (ceil(k, parts) + 31) &^ 31 // whole tiles
}
