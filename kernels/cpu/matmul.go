package cpu

import (
	"unsafe"

	"vlmo-train/kernels"
)

// Blocks of a product. The tiles of a block of A, blockRows × depth, stay in
// the second-level cache while panels of B, depth × nr, pass them.
const (
	depth      = 256
	pairsDepth = 512 // of pairs of BF16s
	blockRows  = 96
	blockCols  = 1024
	// narrowCols is the columns of a block of BF16 results, whose sums, in
	// float32, and part of B stay in the second-level cache.
	narrowCols = 256
)

type matMul kernels.MatMul

// split cuts C into rows × cols rectangles, one a unit, of sizes m × n.
type split struct{ rows, cols, m, n int }

func (d *device) matMul(o *matMul) {
	m, n, k := (*kernels.MatMul)(o).Dims()
	if m == 0 || n == 0 {
		return
	}
	work := m * n * max(k, 1)
	d.shared.weights = d.find(o)
	d.shared.split = d.cut(m, n, min(len(d.workers), 1+work/minProduct))
	d.each(o, d.shared.split.rows*d.shared.split.cols, work)
}

// minProduct is how many multiplications repay a further thread.
const minProduct = 1 << 20

// packCost is how many multiplications take as long as packing an element.
const packCost = 16

// cut finds a grid of at most threads rectangles whose largest takes least:
// its multiplications, and packing its own part of A and B.
func (s *isa) cut(m, n, threads int) split {
	mt, nt := blocks(m, s.mr), blocks(n, s.nr)
	var best split
	least := 0
	for r := 1; r <= min(threads, mt); r++ {
		c := min(threads/r, nt)
		h, w := blocks(mt, r), blocks(nt, c)
		rows, cols := h*s.mr, w*s.nr
		if cost := rows*cols + packCost*(rows+cols); r == 1 || cost < least {
			least = cost
			best = split{blocks(mt, h), blocks(nt, w), rows, cols}
		}
	}
	return best
}

// product holds what the blocks of one MatMul have in common.
//
// BF16 operands are multiplied two by two along the inner dimension where the
// instruction set can: a step is then a pair, which is as wide as a float32,
// and pairs are packed and moved like float32s. Elsewhere they are widened
// while they are packed.
type product struct {
	*matMul
	w       *worker
	m, n, k int
	half    bool // A and B are BF16
	pairs   bool // a step of the inner dimension is a pair
	steps   int  // of the inner dimension
	depth   int  // steps in a block
	gemm    func(k int, a *float32, ars, acs int, b, c *float32, ldc int, add bool)
	temp    []float32 // for widening one block
	sums    []float32 // room for those of a block's panels of A, sumLanes each
	next    [4]coming // what is fetched meanwhile
}

// sumLanes is the distance of the sums of two panels: mr, up to whole vectors.
const sumLanes = 16

// product returns o as w computes it.
func (o *matMul) product(w *worker) product {
	p := product{matMul: o, w: w, half: o.A.Type == kernels.BF16, gemm: w.isa.gemm}
	p.m, p.n, p.k = (*kernels.MatMul)(o).Dims()
	p.steps, p.depth = w.steps(o, p.k)
	if p.half && w.gemmPairs != nil {
		p.pairs, p.gemm = true, w.gemmPairs
	}
	return p
}

func (o *matMul) do(w *worker, u int) {
	s, p := w.split, o.product(w)
	i, j := u/s.cols*s.m, u%s.cols*s.n
	r := region{i, min(i+s.m, p.m), j, min(j+s.n, p.n)}
	if o.C.Type == kernels.BF16 {
		p.narrow(r)
	} else {
		p.wide(r)
	}
}

// region is rows i0 to i1, columns j0 to j1 of a result.
type region struct{ i0, i1, j0, j1 int }

// wide computes results in float32, which gather the products of one block of
// steps after the other.
func (p *product) wide(r region) {
	w, mr, nr := p.w, p.w.mr, p.w.nr
	kcMax, mcMax := min(p.depth, p.steps), blockRows/mr*mr
	ncMax := min(blockCols, up(r.j1-r.j0, nr))
	b := p.buffers(kcMax*ncMax, kcMax, mcMax, ncMax, mr*nr)
	for j := r.j0; j < r.j1; j += ncMax {
		nc := min(ncMax, r.j1-j)
		c := p.C.F32()[min(j, p.C.Stride):]
		p.sumUp(j == 0, b.sums)
		for l := 0; l == 0 || l < p.steps; l += p.depth {
			kc := min(p.depth, p.steps-l)
			panels := p.packed(l, kc, j)
			if panels == nil {
				panels = b.b
				p.packB(panels, l, kc, j, nc)
			}
			add := l > 0 || p.Accumulate
			for i := r.i0; i < r.i1; i += mcMax {
				mc := min(mcMax, r.i1-i)
				ap := p.packA(b.a, l, kc, i, mc)
				ni, nl, nj := i+mcMax, l, j
				if ni >= r.i1 {
					ni, nl = r.i0, l+p.depth
				}
				if nl >= p.steps {
					nl, nj = 0, j+ncMax
				}
				p.expect(region{ni, min(ni+mcMax, r.i1), nj, min(nj+ncMax, r.j1)}, nl, nl != l || nj != j, blocks(nc, nr)*blocks(mc, mr))
				p.tiles(kc, mc, nc, ap, panels, c[i*p.C.Stride:], p.C.Stride, b.tile, add)
				if l+p.depth < p.steps {
					continue
				}
				for x := range mc {
					p.finish(w, c[(i+x)*p.C.Stride:][:nc], b.row[:nc], i+x, j)
				}
			}
		}
	}
}

// narrow computes results in BF16, a block with all steps after the other.
func (p *product) narrow(r region) {
	w, mr, nr := p.w, p.w.mr, p.w.nr
	kcMax, mcMax := min(p.depth, p.steps), blockRows/mr*mr
	ncMax := min(narrowCols, up(r.j1-r.j0, nr))
	b := p.buffers(p.steps*ncMax, kcMax, mcMax, ncMax, mcMax*ncMax)
	for j := r.j0; j < r.j1; j += ncMax {
		nc := min(ncMax, r.j1-j)
		ldc := up(nc, nr)
		p.sumUp(j == 0, b.sums)
		if w.weights == nil {
			for l := 0; l < p.steps; l += p.depth {
				p.packB(b.b[l*ldc:], l, min(p.depth, p.steps-l), j, nc)
			}
		}
		for i := r.i0; i < r.i1; i += mcMax {
			mc := min(mcMax, r.i1-i)
			for l := 0; l == 0 || l < p.steps; l += p.depth {
				kc := min(p.depth, p.steps-l)
				panels := p.packed(l, kc, j)
				if panels == nil {
					panels = b.b[l*ldc:]
				}
				ap := p.packA(b.a, l, kc, i, mc)
				ni, nl, nj := i, l+p.depth, j
				if nl >= p.steps {
					ni, nl = i+mcMax, 0
				}
				if ni >= r.i1 {
					ni, nj = r.i0, j+ncMax
				}
				tiles := blocks(nc, nr) * blocks(mc, mr)
				p.expect(region{ni, min(ni+mcMax, r.i1), nj, min(nj+ncMax, r.j1)}, nl, nj != j, tiles)
				if l+p.depth >= p.steps {
					p.expectResults(region{i, i + mc, j, j + nc}, tiles)
				}
				p.tiles(kc, up(mc, mr), ldc, ap, panels, b.tile, ldc, nil, l > 0)
			}
			for x := range mc {
				p.finish(w, b.tile[x*ldc:][:nc], b.row[:nc], i+x, j)
			}
		}
	}
}

// sumUp has packA sum up rows of A, in sums, where Sum wants it and they have not
// been: with the first columns of B.
func (p *product) sumUp(first bool, sums []float32) {
	p.sums = nil
	if first && !p.Sum.IsZero() {
		p.sums = sums
	}
}

// buffers is a worker's memory for blocks.
type buffers struct {
	a, b []float32 // packed
	tile []float32 // results
	row  []float32 // of zeros where there is no bias
	sums []float32 // of rows of A
}

// buffers returns memory for so many elements of packed B and of results, and
// for blocks of at most kc steps, mc rows and nc columns.
func (p *product) buffers(packed, kc, mc, nc, results int) buffers {
	if p.w.weights != nil {
		packed = 0
	}
	temp := 0
	if p.half && !p.pairs {
		temp = kc * max(nc, mc)
	}
	sums := mc / p.w.mr * sumLanes
	buf := p.w.scratch(packed + mc*kc + results + temp + nc + sums + 8*align)
	b := buffers{b: carve(&buf, packed), a: carve(&buf, mc*kc), tile: carve(&buf, results), row: carve(&buf, nc), sums: carve(&buf, sums)}
	p.temp = carve(&buf, temp)
	return b
}

// packed returns the panels of steps l to l+kc, from column j on, of weights
// that are kept packed, or nil.
func (p *product) packed(l, kc, j int) []float32 {
	if p.w.weights == nil {
		return nil
	}
	return p.w.weights[l*up(p.n, p.w.nr)+j*kc:]
}

// tiles sets the block c, mc × nc at a distance of ldc, to the product of A's
// tiles and B's panels, kc deep, or adds it. What the next block packs is
// fetched meanwhile. One tile is room for those of which c has only a part.
func (p *product) tiles(kc, mc, nc int, a packedA, panels, c []float32, ldc int, tile []float32, add bool) {
	w, mr, nr := p.w, p.w.mr, p.w.nr
	for jj := 0; jj < nc; jj += nr {
		var b *float32
		if kc > 0 {
			b = &panels[jj*kc]
		}
		for ii := 0; ii < mc; ii += mr {
			a0 := at(a.first, ii/mr*a.panel)
			for i := range p.next {
				p.next[i].fetch(w.isa)
			}
			if ii+mr <= mc && jj+nr <= nc {
				p.gemm(kc, a0, a.rows, a.steps, b, &c[ii*ldc+jj], ldc, add)
				continue
			}
			p.gemm(kc, a0, a.rows, a.steps, b, &tile[0], nr, false)
			cols := min(nr, nc-jj)
			for r := range min(mr, mc-ii) {
				row, t := c[(ii+r)*ldc+jj:][:cols], tile[r*nr:][:cols]
				if add {
					for x, v := range t {
						row[x] += v
					}
				} else {
					copy(row, t)
				}
			}
		}
	}
}

// expect has what the next block packs fetched while the present one computes
// so many tiles: A's rows, and B's columns if they are others, from step l on.
// The region is empty after the last block.
func (p *product) expect(next region, l int, others bool, tiles int) {
	p.next = [4]coming{}
	if next.j0 >= next.j1 {
		return
	}
	kc := min(p.depth, p.steps-l)
	p.next[0] = p.coming(p.A, p.TransA, next.i0, next.i1-next.i0, l, kc, tiles)
	if p.w.weights == nil && others {
		p.next[1] = p.coming(p.B, !p.TransB, next.j0, next.j1-next.j0, l, kc, tiles)
	}
}

// expectResults has the rows of C and Pre fetched that are written, or read,
// after so many tiles.
func (p *product) expectResults(r region, tiles int) {
	p.next[2] = rowsOf(p.C, r, tiles)
	if !p.Pre.IsZero() {
		p.next[3] = rowsOf(p.Pre, r, tiles)
	}
}

// coming is the rows of an operand that are packed next. They are fetched a
// few at a time while tiles are computed: waiting for memory would cost a
// tenth of the time where a block has few columns.
type coming struct {
	first        *byte
	stride, size int // of rows, in bytes
	rows, done   int
	together     int // rows fetched at a time
}

// coming returns rows i to i+m of t, steps l to l+k, or of its transpose, to
// be fetched in so many times.
func (p *product) coming(t kernels.Tensor, trans bool, i, m, l, k, times int) coming {
	if p.pairs {
		l, k = 2*l, min(2*k, p.k-2*l)
	}
	if trans {
		i, m, l, k = l, k, i, m
	}
	if m <= 0 || k <= 0 {
		return coming{}
	}
	return rowsOf(t, region{i, i + m, l, l + k}, times)
}

// rowsOf returns a part of t to be fetched in so many times.
func rowsOf(t kernels.Tensor, r region, times int) coming {
	n, size := r.i1-r.i0, t.Type.Size()
	c := coming{stride: t.Stride * size, size: (r.j1 - r.j0) * size, rows: n, together: blocks(n, times)}
	if at := r.i0*t.Stride + r.j0; t.Type == kernels.BF16 {
		c.first = (*byte)(unsafe.Pointer(&t.BF16()[at]))
	} else {
		c.first = (*byte)(unsafe.Pointer(&t.F32()[at]))
	}
	return c
}

func (c *coming) fetch(s *isa) {
	n := min(c.together, c.rows-c.done)
	if n <= 0 {
		return
	}
	s.prefetch((*byte)(unsafe.Add(unsafe.Pointer(c.first), c.done*c.stride)), c.stride, n, c.size)
	c.done += n
}

// finish applies bias and activation to v, the columns from j on of row i, and
// stores them where C is BF16. tmp is as long as v.
func (o *matMul) finish(w *worker, v, tmp []float32, i, j int) {
	if o.C.Type == kernels.BF16 {
		o.finishHalf(w, v, tmp, i, j)
		return
	}
	if o.Act == kernels.GELU && !o.Bias.IsZero() && !o.Pre.IsZero() {
		w.biasGelu(v, o.Pre.F32()[i*o.Pre.Stride+j:][:len(v)], o.Bias.F32()[j:][:len(v)])
		return
	}
	if !o.Bias.IsZero() {
		w.add(v, o.Bias.F32()[j:][:len(v)])
	}
	switch o.Act {
	case kernels.GELU:
		if !o.Pre.IsZero() {
			copy(o.Pre.F32()[i*o.Pre.Stride+j:][:len(v)], v)
		}
		w.isa.gelu(v, v)
	case kernels.GELUGrad:
		w.isa.geluGrad(v, v, o.Pre.F32()[i*o.Pre.Stride+j:][:len(v)])
	}
}

func (o *matMul) finishHalf(w *worker, v, tmp []float32, i, j int) {
	c := o.C.BF16()[i*o.C.Stride+j:][:len(v)]
	pre := c
	if !o.Pre.IsZero() {
		pre = o.Pre.BF16()[i*o.Pre.Stride+j:][:len(v)]
	}
	bias := tmp
	if !o.Bias.IsZero() {
		bias = o.Bias.F32()[j:][:len(v)]
	} else if o.Act == kernels.GELU {
		clear(tmp)
	}
	switch {
	case o.Act == kernels.GELU:
		w.biasGeluHalf(c, pre, v, bias)
	case o.Act == kernels.GELUGrad:
		if !o.Bias.IsZero() {
			w.add(v, bias)
		}
		w.geluGradHalf(c, v, pre)
	case !o.Bias.IsZero():
		w.narrowAdd(c, v, bias)
	default:
		w.narrow(c, v)
	}
}

// packB makes panels of nr columns from steps l to l+kc, columns j to j+nc of
// op(B), the last one filled up with zeros.
func (p *product) packB(dst []float32, l, kc, j, nc int) {
	w, t := p.w, p.B
	if kc == 0 {
		return
	}
	switch {
	case !p.half && p.TransB:
		w.packBT(dst, t.F32(), j*t.Stride+l, t.Stride, kc, nc)
	case !p.half:
		w.packB(dst, t.F32(), l*t.Stride+j, t.Stride, kc, nc)
	case !p.pairs && p.TransB:
		widenBlock(w, p.temp, t, j, nc, l, kc)
		w.packBT(dst, p.temp, 0, kc, kc, nc)
	case !p.pairs:
		widenBlock(w, p.temp, t, l, kc, j, nc)
		w.packB(dst, p.temp, 0, nc, kc, nc)
	case p.TransB && p.whole(t, l, kc):
		w.packBT(dst, asPairs(t.BF16()[j*t.Stride+2*l:]), 0, t.Stride/2, kc, nc)
	default:
		src := t.BF16()
		for jj := 0; jj < nc; jj += w.nr {
			panel := dst[jj*kc:][:kc*w.nr]
			if !p.TransB && jj+w.nr <= nc && 2*(l+kc) <= p.k {
				w.packPairs(&panel[0], &src[2*l*t.Stride+j+jj], t.Stride, kc)
			} else {
				pairUp(panel, w.nr, t, p.TransB, l, kc, j+jj, min(w.nr, nc-jj), p.k)
			}
		}
	}
}

// whole reports whether steps l to l+kc of rows of t are complete pairs at
// whole distances.
func (p *product) whole(t kernels.Tensor, l, kc int) bool {
	return 2*(l+kc) <= p.k && (t.Stride%2 == 0 || t.Rows == 1)
}

// packedA is where a block of op(A) lies: the tiles of mr rows are panel
// elements apart, a tile's rows and steps as many as their names say.
type packedA struct {
	first              *float32
	rows, steps, panel int
}

// packA returns rows i to i+mc, steps l to l+kc of op(A). Rows, kc steps each, serve where they lie, but in a copy if they are
// so far apart that those of a tile compete for fewer than four lines of the
// first-level cache, each in as many ways as that has.
func (p *product) packA(dst []float32, l, kc, i, mc int) packedA {
	w, t, mr := p.w, p.A, p.w.mr
	if kc == 0 {
		return packedA{}
	}
	if p.TransA {
		switch {
		case !p.half:
			w.packA(dst, t.F32(), l*t.Stride+i, t.Stride, kc, mc, p.sums)
		case !p.pairs:
			widenBlock(w, p.temp, t, l, kc, i, mc)
			w.packA(dst, p.temp, 0, mc, kc, mc, p.sums)
		default:
			src := t.BF16()
			for ii := 0; ii < mc; ii += mr {
				tile := dst[ii*kc:][:kc*mr]
				if ii+mr <= mc && 2*(l+kc) <= p.k {
					w.packColsPairs(&tile[0], &src[2*l*t.Stride+i+ii], t.Stride, kc)
				} else {
					pairUp(tile, mr, t, false, l, kc, i+ii, min(mr, mc-ii), p.k)
				}
			}
		}
		if p.sums != nil {
			p.addSums(l, kc, i, mc)
		}
		return packedA{&dst[0], 1, mr, mr * kc}
	}
	stride := t.Stride
	var src []float32
	switch {
	case !p.half:
		src = t.F32()[i*stride+l:]
	case p.pairs && p.whole(t, l, kc):
		src, stride = asPairs(t.BF16()[i*stride+2*l:]), stride/2
	case p.pairs:
		for r := range mc {
			halves := asHalves(dst[r*kc:][:kc])
			row := t.BF16()[(i+r)*stride+2*l:][:min(2*kc, p.k-2*l)]
			clear(halves[copy(halves, row):])
		}
	default:
		widenBlock(w, dst, t, i, mc, l, kc)
	}
	if src != nil {
		if (stride < 2*kc || stride%512 != 0) && mc%mr == 0 {
			return packedA{&src[0], stride, 1, mr * stride}
		}
		w.copyRows(&dst[0], kc, &src[0], stride, mc, kc)
	}
	clear(dst[mc*kc:][:(up(mc, mr)-mc)*kc])
	return packedA{&dst[0], kc, 1, mr * kc}
}

// addSums adds the sums of rows i to i+mc of op(A), steps l to l+kc, to Sum.
// packA has made them but for those of pairs.
func (p *product) addSums(l, kc, i, mc int) {
	w, to := p.w, p.Sum.F32()[i:][:mc]
	if p.pairs {
		sum := p.sums[:mc]
		clear(sum)
		for r := 2 * l; r < min(2*(l+kc), p.k); r++ {
			w.addHalf(sum, p.A.BF16()[r*p.A.Stride+i:][:mc])
		}
		w.add(to, sum)
		return
	}
	for ii := 0; ii < mc; ii += w.mr {
		n := min(w.mr, mc-ii)
		w.add(to[ii:][:n], p.sums[ii/w.mr*sumLanes:][:n])
	}
}

// widenBlock copies rows × cols elements of t, from row r and column c on.
func widenBlock(w *worker, dst []float32, t kernels.Tensor, r, rows, c, cols int) {
	src := t.BF16()
	for i := range rows {
		w.widen(dst[i*cols:][:cols], src[(r+i)*t.Stride+c:][:cols])
	}
}

// pairUp makes one panel, pair s of column x at s·width + x, from steps l to
// l+kc and n columns from j on of a matrix with k rows: t, or its transpose.
// What is missing of the panel, or of a last pair, is zero.
func pairUp(panel []float32, width int, t kernels.Tensor, trans bool, l, kc, j, n, k int) {
	clear(panel)
	dst, src := asHalves(panel), t.BF16()
	for s := 2 * l; s < min(2*(l+kc), k); s++ {
		for x := range n {
			at := s*t.Stride + j + x
			if trans {
				at = (j+x)*t.Stride + s
			}
			dst[((s/2-l)*width+x)*2+s%2] = src[at]
		}
	}
}

// asPairs views bfloat16s two by two as float32s, which only moves of words
// may touch.
func asPairs(h []uint16) []float32 {
	return unsafe.Slice((*float32)(unsafe.Pointer(&h[0])), max(1, len(h)/2))
}

// asHalves is the reverse of asPairs.
func asHalves(p []float32) []uint16 {
	return unsafe.Slice((*uint16)(unsafe.Pointer(&p[0])), 2*len(p))
}

// packB makes panels of nr columns from the k × n matrix at src[off], the
// last one filled up with zeros.
func (s *isa) packB(dst, src []float32, off, stride, k, n int) {
	if k == 0 {
		return
	}
	nr := s.nr
	for j := 0; j < n; j += nr {
		panel := dst[j*k:][:k*nr]
		if j+nr <= n {
			s.pack(&panel[0], &src[off+j], stride, k)
			continue
		}
		for l := range k {
			p := panel[l*nr:][:nr]
			clear(p[copy(p, src[off+l*stride+j:][:n-j]):])
		}
	}
}

// packBT is packB of the transpose of the n × k matrix at src[off].
func (s *isa) packBT(dst, src []float32, off, stride, k, n int) {
	if k == 0 {
		return
	}
	nr := s.nr
	for j := 0; j < n; j += nr {
		panel := dst[j*k:][:k*nr]
		if j+nr <= n {
			s.packT(&panel[0], &src[off+j*stride], stride, k)
			continue
		}
		clear(panel)
		for i := range n - j {
			for l, v := range src[off+(j+i)*stride:][:k] {
				panel[l*nr+i] = v
			}
		}
	}
}

// packA makes panels of mr rows, element (i, l) at l·mr + i, from the
// transpose of the k × m matrix at src[off], the last one filled up with zeros;
// and the sum of each row, those of a panel in sumLanes elements of sums if
// that is not nil.
func (s *isa) packA(dst, src []float32, off, stride, k, m int, sums []float32) {
	mr := s.mr
	for i := 0; i < m; i += mr {
		panel := dst[i*k:][:k*mr]
		switch {
		case i+mr > m:
			for l := range k {
				p := panel[l*mr:][:mr]
				clear(p[copy(p, src[off+i+l*stride:][:m-i]):])
			}
			if sums != nil {
				sum := sums[i/mr*sumLanes:][:mr]
				clear(sum)
				for l := range k {
					s.add(sum, panel[l*mr:][:mr])
				}
			}
		case sums != nil:
			s.packColsSum(&panel[0], &src[off+i], stride, k, &sums[i/mr*sumLanes])
		default:
			s.packCols(&panel[0], &src[off+i], stride, k)
		}
	}
}

// multiply sets (or adds to) c, rows at a distance of ldc, to the m × k matrix
// a times the n columns in panels b. It computes whole tiles, or the left half
// of one: a and c reach to the next multiples of mr and nr. What the worker
// expects is fetched meanwhile.
func (w *worker) multiply(m, n, k int, a []float32, ars, acs int, b, c []float32, ldc int, add bool) {
	for j := 0; j < n; j += w.nr {
		gemm := w.gemm
		if n-j <= w.nr/2 {
			gemm = w.gemmHalf
		}
		for i := 0; i < m; i += w.mr {
			w.ahead.fetch(w.isa)
			gemm(k, &a[i*ars], ars, acs, &b[j*k], &c[i*ldc+j], ldc, add)
		}
	}
}
