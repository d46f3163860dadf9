package main

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// placeholders are instructions that nothing else here uses. They stand for
// VDPBF16PS and VCVTNEPS2BF16, which neither avo nor Go's assembler knows, and
// have the same operands.
var placeholders = regexp.MustCompile(`VFNMSUB231PS\s+Z(\d+), Z(\d+), Z(\d+)|VCVTPD2PS\s+Z(\d+), Y(\d+)`)

// spell writes them in bytes, EVEX.512.F3.0F38.W0 52 /r and 72 /r. A comment
// says what they mean.
func spell(asm []byte) ([]byte, error) {
	asm = placeholders.ReplaceAllFunc(asm, func(line []byte) []byte {
		var r [5]uint32
		for i, m := range placeholders.FindSubmatch(line)[1:] {
			if n, err := strconv.ParseUint(string(m), 10, 5); err == nil {
				r[i] = uint32(n)
			}
		}
		if bytes.HasPrefix(line, []byte("VFN")) {
			return fmt.Appendf(nil, "%s // VDPBF16PS Z%d, Z%d, Z%d", evex(0x52, r[0], r[1], r[2]), r[0], r[1], r[2])
		}
		return fmt.Appendf(nil, "%s // VCVTNEPS2BF16 Z%d, Y%d", evex(0x72, r[3], 0, r[4]), r[3], r[4])
	})
	for _, name := range []string{"VFNMSUB231PS", "VCVTPD2PS"} {
		if bytes.Contains(asm, []byte(name)) {
			return nil, fmt.Errorf("what %s stands for was not spelt out", name)
		}
	}
	return asm, nil
}

// evex returns an instruction of registers, of that group, in bytes. src1 is 0
// where there is none.
func evex(op, src2, src1, dst uint32) string {
	not := func(v, bit uint32) uint32 { return v>>bit&1 ^ 1 }
	p0 := not(dst, 3)<<7 | not(src2, 4)<<6 | not(src2, 3)<<5 | not(dst, 4)<<4 | 2
	p1 := (src1&15^15)<<3 | 1<<2 | 2
	p2 := uint32(2)<<5 | not(src1, 4)<<3
	modrm := 3<<6 | dst&7<<3 | src2&7
	return fmt.Sprintf("LONG $0x%08x; WORD $0x%04x", p2<<24|p1<<16|p0<<8|0x62, modrm<<8|op)
}

// packPairs makes k rows of n pairs from 2k rows of elements: the first of a
// pair is of the even row.
func (g *gen) packPairs(name string, n int) {
	g.text(name, "func(dst *float32, src *uint16, stride, k int)",
		fmt.Sprintf("makes k rows of %d pairs from 2·k rows of elements.", n))
	dst := g.Load(g.Param("dst"), g.GP64()).(reg.GPVirtual)
	src := g.Load(g.Param("src"), g.GP64()).(reg.GPVirtual)
	stride := g.Load(g.Param("stride"), g.GP64()).(reg.GPVirtual)
	k := g.Load(g.Param("k"), g.GP64()).(reg.GPVirtual)
	g.SHLQ(operand.U8(1), stride)
	var mask reg.OpmaskVirtual
	if n%g.width > 0 {
		bits := g.GP32()
		g.MOVL(operand.U32(1<<(n%g.width)-1), bits)
		mask = g.K()
		g.KMOVW(bits, mask)
	}
	g.Label("row")
	g.TESTQ(k, k)
	g.JEQ(operand.LabelRef("end"))
	for c := 0; c < n; c += g.width {
		even, odd := g.ZMM(), g.ZMM()
		from, next := operand.Mem{Base: src, Disp: 2 * c}, operand.Mem{Base: src, Index: stride, Scale: 1, Disp: 2 * c}
		to := operand.Mem{Base: dst, Disp: 4 * c}
		if c+g.width > n {
			g.VPMOVZXWD_Z(from, mask, even)
			g.VPMOVZXWD_Z(next, mask, odd)
		} else {
			g.VPMOVZXWD(from, even)
			g.VPMOVZXWD(next, odd)
		}
		g.VPSLLD(operand.U8(16), odd, odd)
		g.VPORD(odd, even, even)
		if c+g.width > n {
			g.VMOVUPS(even, mask, to)
		} else {
			g.VMOVUPS(even, to)
		}
	}
	g.LEAQ(operand.Mem{Base: src, Index: stride, Scale: 2}, src)
	g.ADDQ(operand.U32(uint64(4*n)), dst)
	g.DECQ(k)
	g.JMP(operand.LabelRef("row"))
	g.Label("end")
	g.end()
}

// conversions emits what turns float32s into bfloat16s and back.
func (g *gen) conversions() {
	g.text("widen", "func(y []float32, x []uint16)", "sets y to x.")
	g.halves("y", "x", 4, func(l *halfLanes) { l.storeFloat(l.loadHalf("x"), "y") })

	g.text("addHalf", "func(y []float32, x []uint16)", "adds x to y.")
	g.halves("y", "x", 4, func(l *halfLanes) {
		v := l.loadHalf("x")
		g.VADDPS(l.loadFloat("y"), v, v)
		l.storeFloat(v, "y")
	})

	g.narrow()
}

// narrow emits what rounds numbers.
func (g *gen) narrow() {
	g.text("narrow", "func(y []uint16, x []float32)", "sets y to x, rounded.")
	g.halves("x", "y", 4, func(l *halfLanes) { l.storeHalf(g.round(l.loadFloat("x")), "y") })

	g.text("narrowAdd", "func(y []uint16, x, b []float32)", "sets y to x + b, rounded.")
	g.halves("x b", "y", 4, func(l *halfLanes) {
		v := l.loadFloat("x")
		g.VADDPS(l.loadFloat("b"), v, v)
		l.storeHalf(g.round(v), "y")
	})
}

// round returns x as bfloat16s, in the lower halves of its elements: the bits
// of a number, half of the last place that stays less one, and that place's
// own bit, so that ties go to even. The native instruction does the same but
// for numbers below the smallest normal one, which it takes for zero.
func (g *gen) round(x reg.VecVirtual) reg.VecVirtual {
	if g.native {
		h, r := g.YMM(), g.ZMM()
		g.VCVTPD2PS(x, h) // see spell
		g.VPMOVZXWD(h, r)
		return r
	}
	top, r, t := g.vec(), g.vec(), g.vec()
	g.VPSRLD(operand.U8(16), x, top)
	g.and(g.word(1), top, r)
	g.VPADDD(x, r, r)
	g.VPADDD(g.word(0x7fff), r, r)
	g.VPSRLD(operand.U8(16), r, r)
	// NaNs, whose magnitude exceeds infinity's bits, keep their upper half
	// and become quiet.
	nan := g.vec()
	g.or(g.word(0x40), top, nan)
	g.and(g.word(0x7fffffff), x, t)
	inf := g.vec()
	g.VMOVUPS(g.word(0x7f800000), inf)
	g.VPSUBD(t, inf, t)
	g.choose(t, nan, r, r)
	return r
}

// widened returns as numbers what round returned.
func (g *gen) widened(h reg.VecVirtual) reg.VecVirtual {
	v := g.vec()
	g.VPSLLD(operand.U8(16), h, v)
	return v
}

// halfLanes is one step of a loop over slices of float32s and of bfloat16s.
type halfLanes struct {
	g      *gen
	base   map[string]reg.GPVirtual
	vector int
	k      reg.OpmaskVirtual // of a partial vector
	single bool              // one element, on AVX2
}

func (l *halfLanes) floats(name string) operand.Mem {
	return operand.Mem{Base: l.base[name], Disp: 4 * l.vector * l.g.width}
}
func (l *halfLanes) bits(name string) operand.Mem {
	return operand.Mem{Base: l.base[name], Disp: 2 * l.vector * l.g.width}
}

func (l *halfLanes) loadFloat(name string) reg.VecVirtual {
	g, v := l.g, l.g.vec()
	switch {
	case l.single:
		g.VMOVSS(l.floats(name), v.AsX())
	case l.k != nil:
		g.VMOVUPS_Z(l.floats(name), l.k, v)
	default:
		g.VMOVUPS(l.floats(name), v)
	}
	return v
}

func (l *halfLanes) storeFloat(v reg.VecVirtual, name string) {
	switch {
	case l.single:
		l.g.VMOVSS(v.AsX(), l.floats(name))
	case l.k != nil:
		l.g.VMOVUPS(v, l.k, l.floats(name))
	default:
		l.g.VMOVUPS(v, l.floats(name))
	}
}

func (l *halfLanes) loadHalf(name string) reg.VecVirtual {
	g, v := l.g, l.g.vec()
	switch {
	case l.single:
		r := g.GP32()
		g.MOVWLZX(l.bits(name), r)
		g.VMOVD(r, v.AsX())
	case l.k != nil:
		g.VPMOVZXWD_Z(l.bits(name), l.k, v)
	default:
		g.VPMOVZXWD(l.bits(name), v)
	}
	g.VPSLLD(operand.U8(16), v, v)
	return v
}

// storeHalf stores the lower halves of v's elements.
func (l *halfLanes) storeHalf(v reg.VecVirtual, name string) {
	g := l.g
	switch {
	case l.single:
		r := g.GP32()
		g.VMOVD(v.AsX(), r)
		g.MOVW(r.As16(), l.bits(name))
	case l.k != nil:
		g.VPMOVDW(v, l.k, l.bits(name))
	case g.wide():
		g.VPMOVDW(v, l.bits(name))
	default:
		t := g.XMM()
		g.VEXTRACTF128(operand.U8(1), v, t)
		g.VPACKUSDW(t, v.AsX(), t)
		g.VMOVDQU(t, l.bits(name))
	}
}

// halves goes through the slices with the given names, of float32s, of which
// the first has the length, and of bfloat16s.
func (g *gen) halves(floats, halves string, unroll int, body func(l *halfLanes)) {
	l := &halfLanes{g: g, base: make(map[string]reg.GPVirtual)}
	type slice struct {
		base reg.GPVirtual
		size int
	}
	var slices []slice
	load := func(names string, size int) {
		for _, name := range strings.Fields(names) {
			l.base[name] = g.Load(g.Param(name).Base(), g.GP64()).(reg.GPVirtual)
			slices = append(slices, slice{l.base[name], size})
		}
	}
	load(floats, 4)
	load(halves, 2)
	advance := func(elements int) {
		for _, s := range slices {
			g.ADDQ(operand.U32(uint64(s.size*elements)), s.base)
		}
	}
	n := g.Load(g.Param(first(floats)).Len(), g.GP64()).(reg.GPVirtual)
	for _, u := range []int{unroll, 1} {
		top, next := g.label("loop"), g.label("next")
		g.Label(top)
		g.CMPQ(n, operand.U32(uint64(u*g.width)))
		g.JLT(operand.LabelRef(next))
		g.interleave(u, func(i int) {
			l.vector = i
			body(l)
		})
		advance(u * g.width)
		g.SUBQ(operand.U32(uint64(u*g.width)), n)
		g.JMP(operand.LabelRef(top))
		g.Label(next)
		if u == 1 {
			break
		}
	}
	l.vector = 0
	g.Label("rest")
	g.TESTQ(n, n)
	g.JEQ(operand.LabelRef("end"))
	if g.wide() {
		one := g.GP32()
		g.MOVL(operand.U32(1), one)
		g.SHLXL(n.As32(), one, one)
		g.DECL(one)
		l.k = g.K()
		g.KMOVW(one, l.k)
		body(l)
	} else {
		l.single = true
		body(l)
		advance(1)
		g.DECQ(n)
		g.JMP(operand.LabelRef("rest"))
	}
	g.Label("end")
	g.end()
}
