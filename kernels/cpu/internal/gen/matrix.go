package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// gemm keeps its whole tile, rows × 2 vectors, in registers. The elements of
// A are read where they lie, through addresses of every fifth row: with an
// index of 1, 2, 3 or 4 times the distance of rows each address serves five.
func (g *gen) gemm() {
	g.text("gemm", "func(k int, a *float32, ars, acs int, b, c *float32, ldc int, add bool)",
		fmt.Sprintf("computes a tile of %d × %d elements.", g.rows, 2*g.width))
	multiply := func(b, a, acc reg.VecVirtual) { g.VFMADD231PS(b, a, acc) }
	g.tile(2, multiply)
	g.text("gemmHalf", "func(k int, a *float32, ars, acs int, b, c *float32, ldc int, add bool)",
		fmt.Sprintf("computes the left half of a tile of %d × %d elements.", g.rows, 2*g.width))
	g.tile(1, multiply)
}

// gemmPairs is gemm with pairs of bfloat16s in place of numbers.
func (g *gen) gemmPairs() {
	g.text("gemmPairs", "func(k int, a *float32, ars, acs int, b, c *float32, ldc int, add bool)",
		fmt.Sprintf("computes a tile of %d × %d elements from pairs of bfloat16s.", g.rows, 2*g.width))
	g.tile(2, func(b, a, acc reg.VecVirtual) { g.VFNMSUB231PS(b, a, acc) }) // see spell
}

// tile is the body of gemm for as many vectors of columns, of the panel's two;
// multiply adds the products of its first two operands to the third.
func (g *gen) tile(vectors int, multiply func(b, a, acc reg.VecVirtual)) {
	k := g.Load(g.Param("k"), g.GP64()).(reg.GPVirtual)
	a := g.Load(g.Param("a"), g.GP64()).(reg.GPVirtual)
	rs := g.Load(g.Param("ars"), g.GP64()).(reg.GPVirtual)
	cs := g.Load(g.Param("acs"), g.GP64()).(reg.GPVirtual)
	b := g.Load(g.Param("b"), g.GP64()).(reg.GPVirtual)
	c := g.Load(g.Param("c"), g.GP64()).(reg.GPVirtual)
	ldc := g.Load(g.Param("ldc"), g.GP64()).(reg.GPVirtual)
	add := g.Load(g.Param("add"), g.GP8()).(reg.GPVirtual)

	for _, r := range []reg.GPVirtual{rs, cs, ldc} {
		g.SHLQ(operand.U8(2), r)
	}
	rs3 := g.GP64()
	g.LEAQ(operand.Mem{Base: rs, Index: rs, Scale: 2}, rs3)
	base := []reg.GPVirtual{a}
	for len(base)*5 < g.rows {
		t := g.GP64()
		last := base[len(base)-1]
		g.LEAQ(operand.Mem{Base: last, Index: rs, Scale: 4}, t)
		g.ADDQ(rs, t)
		base = append(base, t)
	}
	element := func(i int) operand.Mem {
		m := operand.Mem{Base: base[i/5]}
		switch i % 5 {
		case 1, 2, 4:
			m.Index, m.Scale = rs, uint8(i%5)
		case 3:
			m.Index, m.Scale = rs3, 1
		}
		return m
	}

	acc := make([][2]reg.VecVirtual, g.rows)
	p := g.GP64()
	g.MOVQ(c, p)
	for i := range acc {
		for v := range vectors {
			acc[i][v] = g.zero()
			if v == 0 || g.wide() {
				g.PREFETCHT0(operand.Mem{Base: p, Disp: 64 * v})
			}
		}
		if i+1 < g.rows {
			g.ADDQ(ldc, p)
		}
	}
	size := g.width * 4
	step := func(u int) {
		var row [2]reg.VecVirtual
		for v := range vectors {
			row[v] = g.vec()
			g.VMOVUPS(operand.Mem{Base: b, Disp: (2*u + v) * size}, row[v])
		}
		for i := range acc {
			x := g.vec()
			g.VBROADCASTSS(element(i), x)
			for v := range vectors {
				multiply(row[v], x, acc[i][v])
			}
		}
		for _, t := range base {
			g.ADDQ(cs, t)
		}
	}
	for _, u := range []int{4, 1} {
		top, next := g.label("loop"), g.label("next")
		g.Label(top)
		g.CMPQ(k, operand.U32(uint64(u)))
		g.JLT(operand.LabelRef(next))
		for i := range u {
			step(i)
		}
		g.ADDQ(operand.U32(uint64(2*u*size)), b)
		g.SUBQ(operand.U32(uint64(u)), k)
		g.JMP(operand.LabelRef(top))
		g.Label(next)
	}

	g.TESTB(add, add)
	g.JEQ(operand.LabelRef("store"))
	g.MOVQ(c, p)
	for i := range acc {
		for v := range vectors {
			g.VADDPS(operand.Mem{Base: p, Disp: v * size}, acc[i][v], acc[i][v])
		}
		if i+1 < g.rows {
			g.ADDQ(ldc, p)
		}
	}
	g.Label("store")
	for i := range acc {
		for v := range vectors {
			g.VMOVUPS(acc[i][v], operand.Mem{Base: c, Disp: v * size})
		}
		if i+1 < g.rows {
			g.ADDQ(ldc, c)
		}
	}
	g.end()
}

// pack copies rows of n elements. It moves whole vectors, and what one writes
// too much the next row overwrites; only the last row is copied exactly. To
// read too much is safe since rows follow that are no shorter than n.
func (g *gen) pack(name string, n int) {
	g.text(name, "func(dst, src *float32, stride, k int)",
		fmt.Sprintf("copies k rows of %d elements at a distance of at least %[1]d.", n))
	g.packRows(n, nil)
}

// packSum is pack that also adds the rows up, in as many vectors as a row has.
func (g *gen) packSum(name string, n int) {
	g.text(name, "func(dst, src *float32, stride, k int, sum *float32)",
		fmt.Sprintf("copies k rows of %d elements at a distance of at least %[1]d, and sets %d elements from sum on to their sum and anything.", n, (n+7)/8*8))
	sums := make([]reg.VecVirtual, (n+7)/8)
	for i := range sums {
		v := g.YMM()
		g.VXORPS(v, v, v)
		sums[i] = v
	}
	g.packRows(n, sums)
}

// packRows is the body of pack, and of packSum if there are sums.
func (g *gen) packRows(n int, sums []reg.VecVirtual) {
	dst := g.Load(g.Param("dst"), g.GP64()).(reg.GPVirtual)
	src := g.Load(g.Param("src"), g.GP64()).(reg.GPVirtual)
	stride := g.Load(g.Param("stride"), g.GP64()).(reg.GPVirtual)
	k := g.Load(g.Param("k"), g.GP64()).(reg.GPVirtual)
	g.SHLQ(operand.U8(2), stride)
	row := func(exact bool) {
		for i := 0; i < n; {
			from, to := operand.Mem{Base: src, Disp: 4 * i}, operand.Mem{Base: dst, Disp: 4 * i}
			switch left := n - i; {
			case left >= 8 || !exact:
				v := g.YMM()
				g.VMOVUPS(from, v)
				g.VMOVUPS(v, to)
				if sums != nil && !exact {
					g.VADDPS(v, sums[i/8], sums[i/8])
				}
				i += 8
			case left >= 4:
				v := g.XMM()
				g.VMOVUPS(from, v)
				g.VMOVUPS(v, to)
				i += 4
			default:
				v := g.GP64()
				g.MOVQ(from, v)
				g.MOVQ(v, to)
				i += 2
			}
		}
		if sums != nil && exact { // of the copy, behind which there is more to read
			for i, v := range sums {
				g.VADDPS(operand.Mem{Base: dst, Disp: 32 * i}, v, v)
			}
		}
		g.ADDQ(stride, src)
		g.ADDQ(operand.U32(uint64(4*n)), dst)
	}
	for _, u := range []int{4, 1} {
		top, next := g.label("loop"), g.label("next")
		g.Label(top)
		g.CMPQ(k, operand.U32(uint64(u)))
		g.JLE(operand.LabelRef(next))
		for range u {
			row(false)
		}
		g.SUBQ(operand.U32(uint64(u)), k)
		g.JMP(operand.LabelRef(top))
		g.Label(next)
	}
	g.TESTQ(k, k)
	g.JEQ(operand.LabelRef("done"))
	row(true)
	g.Label("done")
	if sums != nil {
		sum := g.Load(g.Param("sum"), g.GP64()).(reg.GPVirtual)
		for i, v := range sums {
			g.VMOVUPS(v, operand.Mem{Base: sum, Disp: 32 * i})
		}
	}
	g.end()
}

// copyRows copies a matrix.
func (g *gen) copyRows() {
	g.text("copyRows", "func(dst *float32, ldd int, src *float32, lds, rows, cols int)", "copies rows of cols elements.")
	base := map[string]reg.GPVirtual{
		"dst": g.Load(g.Param("dst"), g.GP64()).(reg.GPVirtual),
		"src": g.Load(g.Param("src"), g.GP64()).(reg.GPVirtual),
	}
	ldd := g.Load(g.Param("ldd"), g.GP64()).(reg.GPVirtual)
	lds := g.Load(g.Param("lds"), g.GP64()).(reg.GPVirtual)
	rows := g.Load(g.Param("rows"), g.GP64()).(reg.GPVirtual)
	cols := g.Load(g.Param("cols"), g.GP64()).(reg.GPVirtual)
	g.SHLQ(operand.U8(2), ldd)
	g.SHLQ(operand.U8(2), lds)
	g.Label("row")
	g.TESTQ(rows, rows)
	g.JEQ(operand.LabelRef("end"))
	g.loop(base, cols, 4, func(l *lanes) { l.store(l.load("src"), "dst") })
	g.ADDQ(ldd, base["dst"])
	g.ADDQ(lds, base["src"])
	g.DECQ(rows)
	g.JMP(operand.LabelRef("row"))
	g.Label("end")
	g.end()
}

// prefetch asks for rows of a matrix to be brought to the second-level cache.
func (g *gen) prefetch() {
	g.text("prefetch", "func(p *byte, stride, rows, size int)",
		"brings rows of size bytes at a distance of stride bytes to the second-level cache.")
	p := g.Load(g.Param("p"), g.GP64()).(reg.GPVirtual)
	stride := g.Load(g.Param("stride"), g.GP64()).(reg.GPVirtual)
	rows := g.Load(g.Param("rows"), g.GP64()).(reg.GPVirtual)
	size := g.Load(g.Param("size"), g.GP64()).(reg.GPVirtual)
	at := g.GP64()
	g.DECQ(size)
	g.Label("row")
	g.TESTQ(rows, rows)
	g.JEQ(operand.LabelRef("end"))
	g.MOVQ(size, at)
	g.Label("line") // from the last byte to the first, so that every line of the row is met
	g.PREFETCHT1(operand.Mem{Base: p, Index: at, Scale: 1})
	g.SUBQ(operand.U8(64), at)
	g.CMPQ(at, operand.U32(0))
	g.JLT(operand.LabelRef("first"))
	g.JMP(operand.LabelRef("line"))
	g.Label("first")
	g.PREFETCHT1(operand.Mem{Base: p})
	g.ADDQ(stride, p)
	g.DECQ(rows)
	g.JMP(operand.LabelRef("row"))
	g.Label("end")
	g.end()
}

// packT transposes 8 × 8 elements at a time, in YMM registers on either
// instruction set.
func (g *gen) packT() {
	n := 2 * g.width
	g.text("packT", "func(dst, src *float32, stride, k int)",
		fmt.Sprintf("copies the transpose of %d rows of k elements.", n))
	dst0 := g.Load(g.Param("dst"), g.GP64()).(reg.GPVirtual)
	src0 := g.Load(g.Param("src"), g.GP64()).(reg.GPVirtual)
	stride := g.Load(g.Param("stride"), g.GP64()).(reg.GPVirtual)
	k := g.Load(g.Param("k"), g.GP64()).(reg.GPVirtual)
	groups := g.GP64()
	g.MOVQ(operand.U32(uint64(n/8)), groups)
	g.SHLQ(operand.U8(2), stride)
	stride3 := g.GP64()
	g.LEAQ(operand.Mem{Base: stride, Index: stride, Scale: 2}, stride3)

	g.Label("group")
	dst, src, half, rest := g.GP64(), g.GP64(), g.GP64(), g.GP64()
	g.MOVQ(dst0, dst)
	g.MOVQ(src0, src)
	g.MOVQ(k, rest)
	g.LEAQ(operand.Mem{Base: src, Index: stride, Scale: 4}, half)
	row := func(i int) operand.Mem {
		m := operand.Mem{Base: src}
		if i >= 4 {
			m.Base = half
		}
		switch i % 4 {
		case 1, 2:
			m.Index, m.Scale = stride, uint8(i%4)
		case 3:
			m.Index, m.Scale = stride3, 1
		}
		return m
	}

	g.Label("block")
	g.CMPQ(rest, operand.U32(8))
	g.JLT(operand.LabelRef("single"))
	var r [8]reg.VecVirtual
	for i := range r {
		r[i] = g.YMM()
		g.VMOVUPS(row(i), r[i])
	}
	var t [8]reg.VecVirtual // pairs of rows: elements 0, 1 and 2, 3 of each half
	for i := 0; i < 8; i += 2 {
		t[i], t[i+1] = g.YMM(), g.YMM()
		g.VUNPCKLPS(r[i+1], r[i], t[i])
		g.VUNPCKHPS(r[i+1], r[i], t[i+1])
	}
	var q [8]reg.VecVirtual // four rows: element i%4 of each half
	for i := 0; i < 8; i += 4 {
		for j := range 2 {
			q[i+2*j], q[i+2*j+1] = g.YMM(), g.YMM()
			g.VSHUFPS(operand.U8(0x44), t[i+2+j], t[i+j], q[i+2*j])
			g.VSHUFPS(operand.U8(0xee), t[i+2+j], t[i+j], q[i+2*j+1])
		}
	}
	for i := range 4 {
		lo, hi := g.YMM(), g.YMM()
		g.VPERM2F128(operand.U8(0x20), q[i+4], q[i], lo)
		g.VPERM2F128(operand.U8(0x31), q[i+4], q[i], hi)
		g.VMOVUPS(lo, operand.Mem{Base: dst, Disp: i * n * 4})
		g.VMOVUPS(hi, operand.Mem{Base: dst, Disp: (i + 4) * n * 4})
	}
	g.ADDQ(operand.U8(32), src)
	g.ADDQ(operand.U8(32), half)
	g.ADDQ(operand.U32(uint64(8*n*4)), dst)
	g.SUBQ(operand.U8(8), rest)
	g.JMP(operand.LabelRef("block"))

	g.Label("single")
	g.TESTQ(rest, rest)
	g.JEQ(operand.LabelRef("next"))
	for i := range 8 {
		v := g.GP32()
		g.MOVL(row(i), v)
		g.MOVL(v, operand.Mem{Base: dst, Disp: 4 * i})
	}
	g.ADDQ(operand.U8(4), src)
	g.ADDQ(operand.U8(4), half)
	g.ADDQ(operand.U32(uint64(n*4)), dst)
	g.DECQ(rest)
	g.JMP(operand.LabelRef("single"))

	g.Label("next")
	g.ADDQ(operand.U8(32), dst0)
	g.LEAQ(operand.Mem{Base: src0, Index: stride, Scale: 8}, src0)
	g.DECQ(groups)
	g.JNE(operand.LabelRef("group"))
	g.end()
}
