package cpu

import "vlmo-train/kernels"

// Blocks of a product. A panel of B, depth × nr, stays in the first-level
// cache while the tiles of a block of A, blockRows × depth in the second,
// pass it.
const (
	depth     = 256
	blockRows = 96
	blockCols = 1024
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
	d.shared.split = d.cut(m, n, min(len(d.workers), 1+work/minProduct))
	d.each(o, d.shared.split.rows*d.shared.split.cols, work)
}

// minProduct is how many multiplications repay a further thread.
const minProduct = 1 << 20

// cut finds a grid of at most threads rectangles whose largest is smallest,
// and among those the one with the shortest edges, since each thread packs
// its own part of A and B.
func (s *isa) cut(m, n, threads int) split {
	mt, nt := blocks(m, s.mr), blocks(n, s.nr)
	var best split
	bestArea, bestEdge := 0, 0
	for r := 1; r <= min(threads, mt); r++ {
		c := min(threads/r, nt)
		h, w := blocks(mt, r), blocks(nt, c)
		area, edge := h*w, h*s.mr+w*s.nr
		if r == 1 || area < bestArea || area == bestArea && edge < bestEdge {
			bestArea, bestEdge = area, edge
			best = split{blocks(mt, h), blocks(nt, w), h * s.mr, w * s.nr}
		}
	}
	return best
}

func (o *matMul) do(w *worker, u int) {
	s := w.split
	m, n, k := (*kernels.MatMul)(o).Dims()
	i0, j0 := u/s.cols*s.m, u%s.cols*s.n
	i1, j1 := min(i0+s.m, m), min(j0+s.n, n)
	mr, nr := w.mr, w.nr

	a, b, c := o.A.F32(), o.B.F32(), o.C.F32()
	kc := min(depth, k)
	ncMax := min(blockCols, blocks(j1-j0, nr)*nr)
	mcMax := blockRows / mr * mr
	buf := w.scratch(kc*ncMax + mcMax*kc + mr*nr + align)
	bBuf, buf := buf[:kc*ncMax], buf[kc*ncMax:]
	aBuf, tile := buf[:mcMax*kc], buf[mcMax*kc:mcMax*kc+mr*nr]

	for j := j0; j < j1; j += ncMax {
		nc := min(ncMax, j1-j)
		for l := 0; l == 0 || l < k; l += depth {
			kc := min(depth, k-l)
			if o.TransB {
				w.packBT(bBuf, b, j*o.B.Stride+l, o.B.Stride, kc, nc)
			} else {
				w.packB(bBuf, b, l*o.B.Stride+j, o.B.Stride, kc, nc)
			}
			add := l > 0 || o.Accumulate
			for i := i0; i < i1; i += mcMax {
				mc := min(mcMax, i1-i)
				// Rows of A, kc elements each, serve where they lie if they
				// follow each other closely, and else in a copy: rows a page
				// apart compete for the same few lines of the cache.
				var ap *float32
				ars, acs := kc, 1
				switch {
				case kc == 0:
				case o.TransA:
					ars, acs = 1, mr
					w.packA(aBuf, a, l*o.A.Stride+i, o.A.Stride, kc, mc)
					ap = &aBuf[0]
				case o.A.Stride < 2*kc && mc%mr == 0:
					ap, ars = &a[i*o.A.Stride+l], o.A.Stride
				default:
					w.copyRows(&aBuf[0], kc, &a[i*o.A.Stride+l], o.A.Stride, mc, kc)
					clear(aBuf[mc*kc:][:(up(mc, mr)-mc)*kc])
					ap = &aBuf[0]
				}
				panel := mr * ars // elements from one panel of A to the next
				if o.TransA {
					panel = mr * kc
				}
				for jj := 0; jj < nc; jj += nr {
					var bp *float32
					if kc > 0 {
						bp = &bBuf[jj*kc]
					}
					for ii := 0; ii < mc; ii += mr {
						ap := at(ap, ii/mr*panel)
						cAt := (i+ii)*o.C.Stride + j + jj
						if ii+mr <= mc && jj+nr <= nc {
							w.gemm(kc, ap, ars, acs, bp, &c[cAt], o.C.Stride, add)
							continue
						}
						w.gemm(kc, ap, ars, acs, bp, &tile[0], nr, false)
						cols := min(nr, nc-jj)
						for r := range min(mr, mc-ii) {
							row, t := c[cAt+r*o.C.Stride:][:cols], tile[r*nr:][:cols]
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
				if l+depth >= k {
					o.finish(w, i, i+mc, j, j+nc)
				}
			}
		}
	}
}

// finish applies bias and activation to rows i0 to i1, columns j0 to j1 of C.
func (o *matMul) finish(w *worker, i0, i1, j0, j1 int) {
	if o.Act == kernels.None && o.Bias.IsZero() {
		return
	}
	var bias, pre []float32
	if !o.Bias.IsZero() {
		bias = o.Bias.F32()[j0:j1]
	}
	if !o.Pre.IsZero() {
		pre = o.Pre.F32()
	}
	c := o.C.F32()
	for i := i0; i < i1; i++ {
		row := c[i*o.C.Stride+j0:][:j1-j0]
		if bias != nil {
			w.add(row, bias)
		}
		switch o.Act {
		case kernels.GELU:
			if pre != nil {
				copy(pre[i*o.Pre.Stride+j0:][:len(row)], row)
			}
			w.isa.gelu(row, row)
		case kernels.GELUGrad:
			w.isa.geluGrad(row, row, pre[i*o.Pre.Stride+j0:][:len(row)])
		}
	}
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
// transpose of the k × m matrix at src[off], the last one filled up with zeros.
func (s *isa) packA(dst, src []float32, off, stride, k, m int) {
	mr := s.mr
	for i := 0; i < m; i += mr {
		panel := dst[i*k:][:k*mr]
		if i+mr <= m {
			s.packCols(&panel[0], &src[off+i], stride, k)
			continue
		}
		for l := range k {
			p := panel[l*mr:][:mr]
			clear(p[copy(p, src[off+i+l*stride:][:m-i]):])
		}
	}
}

// product sets (or adds to) c, rows at a distance of ldc, to the m × k matrix
// a times the n columns in panels b. It computes whole tiles: a and c reach
// to the next multiples of mr and nr.
func (s *isa) product(m, n, k int, a []float32, ars, acs int, b, c []float32, ldc int, add bool) {
	for j := 0; j < n; j += s.nr {
		for i := 0; i < m; i += s.mr {
			s.gemm(k, &a[i*ars], ars, acs, &b[j*k], &c[i*ldc+j], ldc, add)
		}
	}
}
