// Command gen writes the assembly of package pixel, for AVX2:
//
//	go run ./internal/gen
//
// in the folder of package pixel writes asm_amd64.s and stubs_amd64.go.
package main

import (
	"flag"
	"log"
	"os"
	"path/filepath"

	"github.com/mmcloughlin/avo/attr"
	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/pass"
	"github.com/mmcloughlin/avo/printer"
	"github.com/mmcloughlin/avo/reg"
)

func main() {
	dir := flag.String("dir", ".", "folder to write to")
	flag.Parse()
	files, err := generate()
	if err != nil {
		log.Fatal(err)
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(*dir, name), data, 0o666); err != nil {
			log.Fatal(err)
		}
	}
}

// generate returns the files by name.
func generate() (map[string][]byte, error) {
	g := &gen{build.NewContext()}
	g.ConstraintExpr("amd64")
	g.columns()
	g.row()
	g.convert()
	g.triangle()
	g.inverseDCT()
	f, err := g.Result()
	if err != nil {
		return nil, err
	}
	if err := pass.Compile.Execute(f); err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for name, make := range map[string]printer.Builder{
		"asm_amd64.s": printer.NewGoAsm, "stubs_amd64.go": printer.NewStubs,
	} {
		cfg := printer.Config{Name: "avo", Pkg: "pixel", Argv: []string{"go", "generate"}}
		data, err := make(cfg).Print(f)
		if err != nil {
			return nil, err
		}
		files[name] = data
	}
	return files, nil
}

type gen struct{ *build.Context }

// function begins a function.
func (g *gen) function(name, signature string) {
	g.Function(name)
	g.Attributes(attr.NOSPLIT)
	g.Pragma("noescape")
	g.SignatureExpr(signature)
}

// words returns read-only data of eight 32-bit words: v, repeated.
func (g *gen) words(name string, v ...int32) operand.Mem {
	m := g.StaticGlobal(name)
	g.DataAttributes(attr.RODATA | attr.NOPTR)
	for i := range 8 {
		g.AddDatum(4*i, operand.U32(uint32(v[i%len(v)])))
	}
	return m
}

// bytes returns read-only data of 32 bytes: v, twice.
func (g *gen) bytes(name string, v ...byte) operand.Mem {
	m := g.StaticGlobal(name)
	g.DataAttributes(attr.RODATA | attr.NOPTR)
	for i := range 32 {
		g.AddDatum(i, operand.U8(v[i%16]))
	}
	return m
}

func at(p reg.Register, n int) operand.Mem { return operand.Mem{Base: p, Disp: n} }

// columns filters down columns: 32 samples at a time, all rows of the filter
// for each. n is a multiple of 32.
func (g *gen) columns() {
	g.function("columnsAVX2", "func(dst, src *byte, stride int, coef *int32, taps, n int)")
	dst, src := g.Load(g.Param("dst"), g.GP64()), g.Load(g.Param("src"), g.GP64())
	stride, coef := g.Load(g.Param("stride"), g.GP64()), g.Load(g.Param("coef"), g.GP64())
	taps, n := g.Load(g.Param("taps"), g.GP64()), g.Load(g.Param("n"), g.GP64())
	half := g.words("half22", 1<<21)
	order := g.YMM()
	g.VMOVDQU(g.words("dwords", 0, 4, 1, 5, 2, 6, 3, 7), order)
	p, c, k := g.GP64(), g.GP64(), g.GP64()
	acc := []reg.VecVirtual{g.YMM(), g.YMM(), g.YMM(), g.YMM()}
	w, v := g.YMM(), g.YMM()
	g.Label("columns")
	for _, a := range acc {
		g.VMOVDQU(half, a)
	}
	g.MOVQ(src, p)
	g.MOVQ(coef, c)
	g.MOVQ(taps, k)
	g.Label("taps")
	g.VPBROADCASTD(at(c, 0), w)
	for i, a := range acc {
		g.VPMOVZXBD(at(p, 8*i), v)
		g.VPMULLD(w, v, v)
		g.VPADDD(v, a, a)
	}
	g.ADDQ(stride, p)
	g.ADDQ(operand.I32(4), c)
	g.DECQ(k)
	g.JNZ(operand.LabelRef("taps"))
	for _, a := range acc {
		g.VPSRAD(operand.U8(22), a, a)
	}
	g.VPACKSSDW(acc[1], acc[0], acc[0])
	g.VPACKSSDW(acc[3], acc[2], acc[2])
	g.VPACKUSWB(acc[2], acc[0], acc[0])
	g.VPERMD(acc[0], order, acc[0])
	g.VMOVDQU(acc[0], at(dst, 0))
	g.ADDQ(operand.I32(32), dst)
	g.ADDQ(operand.I32(32), src)
	g.SUBQ(operand.I32(32), n)
	g.JNZ(operand.LabelRef("columns"))
	g.VZEROUPPER()
	g.RET()
}

// row filters along a row of RGB pixels: two taps at a time, whose coefficients
// lie as c c c d d d 0 0. It writes a byte beyond the last of n pixels.
func (g *gen) row() {
	g.function("rowAVX2", "func(dst, src *byte, from *int32, coef *int32, pairs, n int)")
	dst, src := g.Load(g.Param("dst"), g.GP64()), g.Load(g.Param("src"), g.GP64())
	from, coef := g.Load(g.Param("from"), g.GP64()), g.Load(g.Param("coef"), g.GP64())
	pairs, n := g.Load(g.Param("pairs"), g.GP64()), g.Load(g.Param("n"), g.GP64())
	half, second := g.YMM(), g.YMM()
	g.VMOVDQU(g.words("half22x3", 1<<21, 1<<21, 1<<21, 0, 0, 0, 0, 0), half)
	g.VMOVDQU(g.words("second", 3, 4, 5, 6, 6, 6, 6, 6), second)
	p, k := g.GP64(), g.GP64()
	acc, v := g.YMM(), g.YMM()
	g.Label("pixels")
	g.MOVLQSX(at(from, 0), p)
	g.ADDQ(src, p)
	g.MOVQ(pairs, k)
	g.VMOVDQA(half, acc)
	g.Label("pairs")
	g.VPMOVZXBD(at(p, 0), v)
	g.VPMULLD(at(coef, 0), v, v)
	g.VPADDD(v, acc, acc)
	g.ADDQ(operand.I32(6), p)
	g.ADDQ(operand.I32(32), coef)
	g.DECQ(k)
	g.JNZ(operand.LabelRef("pairs"))
	g.VPERMD(acc, second, v)
	x := acc.AsX()
	g.VPADDD(v.AsX(), x, x)
	g.VPSRAD(operand.U8(22), x, x)
	g.VPACKSSDW(x, x, x)
	g.VPACKUSWB(x, x, x)
	g.VMOVD(x, at(dst, 0))
	g.ADDQ(operand.I32(3), dst)
	g.ADDQ(operand.I32(4), from)
	g.DECQ(n)
	g.JNZ(operand.LabelRef("pixels"))
	g.VZEROUPPER()
	g.RET()
}

// convert turns YCbCr into RGB, eight pixels at a time. It writes four bytes
// beyond the last of n pixels, a multiple of 8.
func (g *gen) convert() {
	g.function("convertAVX2", "func(dst, luma, cb, cr *byte, n int)")
	dst, luma := g.Load(g.Param("dst"), g.GP64()), g.Load(g.Param("luma"), g.GP64())
	cb, cr := g.Load(g.Param("cb"), g.GP64()), g.Load(g.Param("cr"), g.GP64())
	n := g.Load(g.Param("n"), g.GP64())
	const half = 1 << 15
	mid, round := g.YMM(), g.YMM()
	g.VMOVDQU(g.words("mid", 128), mid)
	g.VMOVDQU(g.words("half16", half), round)
	crR, cbB, crG, cbG := g.YMM(), g.YMM(), g.YMM(), g.YMM()
	g.VMOVDQU(g.words("crR", 91881), crR)
	g.VMOVDQU(g.words("cbB", 116130), cbB)
	g.VMOVDQU(g.words("crG", -46802), crG)
	g.VMOVDQU(g.words("cbG", -22554), cbG)
	order := g.YMM()
	g.VMOVDQU(g.bytes("rgb", 0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11, 12, 13, 14, 15), order)
	y, u, v, r, gr, b := g.YMM(), g.YMM(), g.YMM(), g.YMM(), g.YMM(), g.YMM()
	g.Label("pixels")
	g.VPMOVZXBD(at(luma, 0), y)
	g.VPMOVZXBD(at(cb, 0), u)
	g.VPMOVZXBD(at(cr, 0), v)
	g.VPSUBD(mid, u, u)
	g.VPSUBD(mid, v, v)
	g.VPMULLD(crR, v, r)
	g.VPMULLD(cbB, u, b)
	g.VPMULLD(crG, v, v)
	g.VPMULLD(cbG, u, u)
	g.VPADDD(u, v, gr)
	for _, c := range []reg.VecVirtual{r, gr, b} {
		g.VPADDD(round, c, c)
		g.VPSRAD(operand.U8(16), c, c)
		g.VPADDD(y, c, c)
	}
	g.VPACKSSDW(gr, r, r)
	g.VPACKSSDW(b, b, b)
	g.VPACKUSWB(b, r, r)
	g.VPSHUFB(order, r, r)
	g.VMOVDQU(r.AsX(), at(dst, 0))
	g.VEXTRACTI128(operand.U8(1), r, b.AsX())
	g.VMOVDQU(b.AsX(), at(dst, 12))
	g.ADDQ(operand.I32(24), dst)
	g.ADDQ(operand.I32(8), luma)
	g.ADDQ(operand.I32(8), cb)
	g.ADDQ(operand.I32(8), cr)
	g.SUBQ(operand.I32(8), n)
	g.JNZ(operand.LabelRef("pixels"))
	g.VZEROUPPER()
	g.RET()
}

// triangle doubles the row near in both directions, 16 samples at a time; far is
// the row on the other side. sums has room for one sum before and one after n,
// a multiple of 16; last is the index of the last sample of the picture.
func (g *gen) triangle() {
	g.function("triangleAVX2", "func(dst, near, far *byte, sums *uint16, n, last int)")
	dst, near := g.Load(g.Param("dst"), g.GP64()), g.Load(g.Param("near"), g.GP64())
	far, sums := g.Load(g.Param("far"), g.GP64()), g.Load(g.Param("sums"), g.GP64())
	n, last := g.Load(g.Param("n"), g.GP64()), g.Load(g.Param("last"), g.GP64())
	p, k := g.GP64(), g.GP64()
	a, b, c := g.YMM(), g.YMM(), g.YMM()
	g.LEAQ(at(sums, 2), p)
	g.MOVQ(n, k)
	g.Label("sums")
	g.VPMOVZXBW(at(near, 0), a)
	g.VPMOVZXBW(at(far, 0), b)
	g.VPADDW(a, b, b)
	g.VPADDW(a, a, a)
	g.VPADDW(a, b, b)
	g.VMOVDQU(b, at(p, 0))
	g.ADDQ(operand.I32(16), near)
	g.ADDQ(operand.I32(16), far)
	g.ADDQ(operand.I32(32), p)
	g.SUBQ(operand.I32(16), k)
	g.JNZ(operand.LabelRef("sums"))
	edge := g.GP64()
	g.MOVWQZX(at(sums, 2), edge)
	g.MOVW(edge.As16(), at(sums, 0))
	g.LEAQ(operand.Mem{Base: sums, Index: last, Scale: 2, Disp: 2}, p)
	g.MOVWQZX(at(p, 0), edge)
	g.MOVW(edge.As16(), at(p, 2))
	eight, seven := g.YMM(), g.YMM()
	g.VMOVDQU(g.words("eights", 8<<16|8), eight)
	g.VMOVDQU(g.words("sevens", 7<<16|7), seven)
	g.Label("pairs")
	g.VMOVDQU(at(sums, 2), a)
	g.VPADDW(a, a, b)
	g.VPADDW(a, b, a) // three times the sum
	g.VPADDW(at(sums, 0), a, b)
	g.VPADDW(at(sums, 4), a, c)
	g.VPADDW(eight, b, b)
	g.VPADDW(seven, c, c)
	g.VPSRLW(operand.U8(4), b, b)
	g.VPSRLW(operand.U8(4), c, c)
	g.VPSLLW(operand.U8(8), c, c)
	g.VPOR(b, c, c)
	g.VMOVDQU(c, at(dst, 0))
	g.ADDQ(operand.I32(32), dst)
	g.ADDQ(operand.I32(32), sums)
	g.SUBQ(operand.I32(16), n)
	g.JNZ(operand.LabelRef("pairs"))
	g.VZEROUPPER()
	g.RET()
}

// inverseDCT is the accurate integer inverse DCT, in 32-bit lanes: a column of
// the block in each lane, then a row.
func (g *gen) inverseDCT() {
	g.function("inverseDCTAVX2", "func(dst *byte, stride int, block *int16)")
	dst, stride := g.Load(g.Param("dst"), g.GP64()), g.Load(g.Param("stride"), g.GP64())
	block := g.Load(g.Param("block"), g.GP64())
	f := func(v int32) operand.Mem { return g.constant(v) }
	consts := map[int32]operand.Mem{}
	for _, v := range []int32{2446, 3196, 4433, 6270, 7373, 9633, 12299, 15137, 16069, 16819, 20995, 25172, 1 << 10, 1<<17 + 128<<18} {
		consts[v] = f(v)
	}
	r := make([]reg.VecVirtual, 8)
	for i := range r {
		r[i] = g.YMM()
		g.VPMOVSXWD(at(block, 16*i), r[i])
	}
	r = g.pass(r, consts, 1<<10, 11)
	r = g.transpose(r)
	r = g.pass(r, consts, 1<<17+128<<18, 18)
	// r[x] has the samples of column x, a row in each lane: to bytes, and back.
	g.VPACKSSDW(r[1], r[0], r[0]) // rows 0-3 of columns 0, 1 | rows 4-7
	g.VPACKSSDW(r[3], r[2], r[2])
	g.VPACKSSDW(r[5], r[4], r[4])
	g.VPACKSSDW(r[7], r[6], r[6])
	g.VPACKUSWB(r[2], r[0], r[0]) // columns 0 to 3, four rows each
	g.VPACKUSWB(r[6], r[4], r[4])
	order := g.bytes("columns4", 0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)
	g.VPSHUFB(order, r[0], r[0]) // rows, four columns each
	g.VPSHUFB(order, r[4], r[4])
	g.VPUNPCKLDQ(r[4], r[0], r[1]) // rows 0, 1 | 4, 5
	g.VPUNPCKHDQ(r[4], r[0], r[2]) // rows 2, 3 | 6, 7
	x := r[3].AsX()
	for half := range 2 {
		for _, v := range []reg.VecVirtual{r[1], r[2]} {
			w := v.AsX()
			if half == 1 {
				g.VEXTRACTI128(operand.U8(1), v, x)
				w = x
			}
			g.VMOVQ(w, at(dst, 0))
			g.ADDQ(stride, dst)
			g.VPEXTRQ(operand.U8(1), w, at(dst, 0))
			g.ADDQ(stride, dst)
		}
	}
	g.VZEROUPPER()
	g.RET()
}

func (g *gen) constant(v int32) operand.Mem {
	return g.words("dct"+itoa(v), v)
}

func itoa(v int32) string {
	if v < 10 {
		return string(rune('0' + v))
	}
	return itoa(v/10) + string(rune('0'+v%10))
}

// pass is one dimension of the inverse DCT: half is added before the shift.
func (g *gen) pass(c []reg.VecVirtual, f map[int32]operand.Mem, half int32, shift uint8) []reg.VecVirtual {
	// Odd part.
	z3, z4, t := g.YMM(), g.YMM(), g.YMM()
	g.VPADDD(c[7], c[3], z3)
	g.VPADDD(c[5], c[1], z4)
	g.VPADDD(z3, z4, t)
	g.VPMULLD(f[9633], t, t)
	g.VPMULLD(f[16069], z3, z3)
	g.VPSUBD(z3, t, z3)
	g.VPMULLD(f[3196], z4, z4)
	g.VPSUBD(z4, t, z4)
	z1, z2 := g.YMM(), g.YMM()
	g.VPADDD(c[7], c[1], z1)
	g.VPMULLD(f[7373], z1, z1)
	g.VPADDD(c[5], c[3], z2)
	g.VPMULLD(f[20995], z2, z2)
	g.VPMULLD(f[2446], c[7], c[7])
	g.VPSUBD(z1, c[7], c[7])
	g.VPADDD(z3, c[7], c[7]) // o0
	g.VPMULLD(f[16819], c[5], c[5])
	g.VPSUBD(z2, c[5], c[5])
	g.VPADDD(z4, c[5], c[5]) // o1
	g.VPMULLD(f[25172], c[3], c[3])
	g.VPSUBD(z2, c[3], c[3])
	g.VPADDD(z3, c[3], c[3]) // o2
	g.VPMULLD(f[12299], c[1], c[1])
	g.VPSUBD(z1, c[1], c[1])
	g.VPADDD(z4, c[1], c[1]) // o3
	o0, o1, o2, o3 := c[7], c[5], c[3], c[1]
	// Even part.
	t2, t3 := z1, z2
	g.VPADDD(c[2], c[6], t)
	g.VPMULLD(f[4433], t, t)
	g.VPMULLD(f[15137], c[6], t2)
	g.VPSUBD(t2, t, t2)
	g.VPMULLD(f[6270], c[2], t3)
	g.VPADDD(t3, t, t3)
	t0, t1 := c[2], c[6]
	g.VPADDD(c[4], c[0], t0)
	g.VPSUBD(c[4], c[0], t1)
	g.VPSLLD(operand.U8(13), t0, t0)
	g.VPSLLD(operand.U8(13), t1, t1)
	g.VPADDD(f[half], t0, t0)
	g.VPADDD(f[half], t1, t1)
	e0, e3, e1, e2 := c[0], c[4], z3, z4
	g.VPADDD(t3, t0, e0)
	g.VPSUBD(t3, t0, e3)
	g.VPADDD(t2, t1, e1)
	g.VPSUBD(t2, t1, e2)
	out := make([]reg.VecVirtual, 8)
	for i, p := range [][2]reg.VecVirtual{{e0, o3}, {e1, o2}, {e2, o1}, {e3, o0}} {
		out[i], out[7-i] = g.YMM(), g.YMM()
		g.VPADDD(p[1], p[0], out[i])
		g.VPSUBD(p[1], p[0], out[7-i])
		g.VPSRAD(operand.U8(shift), out[i], out[i])
		g.VPSRAD(operand.U8(shift), out[7-i], out[7-i])
	}
	return out
}

// transpose turns 8×8 words.
func (g *gen) transpose(r []reg.VecVirtual) []reg.VecVirtual {
	t := make([]reg.VecVirtual, 8)
	for i := range 4 {
		t[2*i], t[2*i+1] = g.YMM(), g.YMM()
		g.VPUNPCKLDQ(r[2*i+1], r[2*i], t[2*i])
		g.VPUNPCKHDQ(r[2*i+1], r[2*i], t[2*i+1])
	}
	u := make([]reg.VecVirtual, 8)
	for i := range 2 {
		a := t[4*i:]
		for j := range 2 {
			u[4*i+2*j], u[4*i+2*j+1] = g.YMM(), g.YMM()
			g.VPUNPCKLQDQ(a[2+j], a[j], u[4*i+2*j])
			g.VPUNPCKHQDQ(a[2+j], a[j], u[4*i+2*j+1])
		}
	}
	out := make([]reg.VecVirtual, 8)
	for i := range 4 {
		out[i], out[4+i] = g.YMM(), g.YMM()
		g.VPERM2I128(operand.U8(0x20), u[4+i], u[i], out[i])
		g.VPERM2I128(operand.U8(0x31), u[4+i], u[i], out[4+i])
	}
	return out
}
