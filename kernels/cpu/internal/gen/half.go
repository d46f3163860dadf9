package main

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// placeholder is an instruction that nothing else here uses. It stands for
// VDPBF16PS, which neither avo nor Go's assembler knows, and has the same
// operands.
var placeholder = regexp.MustCompile(`VFNMSUB231PS\s+Z(\d+), Z(\d+), Z(\d+)`)

// spell writes VDPBF16PS in bytes: EVEX.512.F3.0F38.W0 52 /r. A comment says
// what they mean.
func spell(asm []byte) ([]byte, error) {
	asm = placeholder.ReplaceAllFunc(asm, func(line []byte) []byte {
		var r [3]uint32
		for i, m := range placeholder.FindSubmatch(line)[1:] {
			n, err := strconv.ParseUint(string(m), 10, 5)
			if err != nil {
				return line
			}
			r[i] = uint32(n)
		}
		src2, src1, dst := r[0], r[1], r[2]
		not := func(v, bit uint32) uint32 { return v>>bit&1 ^ 1 }
		p0 := not(dst, 3)<<7 | not(src2, 4)<<6 | not(src2, 3)<<5 | not(dst, 4)<<4 | 2
		p1 := (src1&15^15)<<3 | 1<<2 | 2
		p2 := uint32(2)<<5 | not(src1, 4)<<3
		modrm := 3<<6 | dst&7<<3 | src2&7
		return fmt.Appendf(nil, "LONG $0x%08x; WORD $0x%04x // VDPBF16PS Z%d, Z%d, Z%d",
			p2<<24|p1<<16|p0<<8|0x62, modrm<<8|0x52, src2, src1, dst)
	})
	if bytes.Contains(asm, []byte("VFNMSUB231PS")) {
		return nil, fmt.Errorf("a VDPBF16PS was not spelt out")
	}
	return asm, nil
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
	g.halves("y", "x", func(l *halfLanes) { l.storeFloat(l.loadHalf()) })

	g.text("addHalf", "func(y []float32, x []uint16)", "adds x to y.")
	g.halves("y", "x", func(l *halfLanes) {
		v := l.loadHalf()
		g.VADDPS(l.loadFloat(), v, v)
		l.storeFloat(v)
	})

	// The bits of a number, half of the last place that stays less one, and
	// that place's own bit: ties go to even.
	g.text("narrow", "func(y []uint16, x []float32)", "sets y to x, rounded.")
	g.halves("x", "y", func(l *halfLanes) {
		x := l.loadFloat()
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
		l.storeHalf(r)
	})
}

// halfLanes is one step of a loop over a slice of float32s and one of
// bfloat16s.
type halfLanes struct {
	g           *gen
	float, half reg.GPVirtual
	vector      int
	k           reg.OpmaskVirtual // of a partial vector
	single      bool              // one element, on AVX2
}

func (l *halfLanes) floats() operand.Mem {
	return operand.Mem{Base: l.float, Disp: 4 * l.vector * l.g.width}
}
func (l *halfLanes) bits() operand.Mem {
	return operand.Mem{Base: l.half, Disp: 2 * l.vector * l.g.width}
}

func (l *halfLanes) loadFloat() reg.VecVirtual {
	g, v := l.g, l.g.vec()
	switch {
	case l.single:
		g.VMOVSS(l.floats(), v.AsX())
	case l.k != nil:
		g.VMOVUPS_Z(l.floats(), l.k, v)
	default:
		g.VMOVUPS(l.floats(), v)
	}
	return v
}

func (l *halfLanes) storeFloat(v reg.VecVirtual) {
	switch {
	case l.single:
		l.g.VMOVSS(v.AsX(), l.floats())
	case l.k != nil:
		l.g.VMOVUPS(v, l.k, l.floats())
	default:
		l.g.VMOVUPS(v, l.floats())
	}
}

func (l *halfLanes) loadHalf() reg.VecVirtual {
	g, v := l.g, l.g.vec()
	switch {
	case l.single:
		r := g.GP32()
		g.MOVWLZX(l.bits(), r)
		g.VMOVD(r, v.AsX())
	case l.k != nil:
		g.VPMOVZXWD_Z(l.bits(), l.k, v)
	default:
		g.VPMOVZXWD(l.bits(), v)
	}
	g.VPSLLD(operand.U8(16), v, v)
	return v
}

// storeHalf stores the lower halves of v's elements.
func (l *halfLanes) storeHalf(v reg.VecVirtual) {
	g := l.g
	switch {
	case l.single:
		r := g.GP32()
		g.VMOVD(v.AsX(), r)
		g.MOVW(r.As16(), l.bits())
	case l.k != nil:
		g.VPMOVDW(v, l.k, l.bits())
	case g.wide():
		g.VPMOVDW(v, l.bits())
	default:
		t := g.XMM()
		g.VEXTRACTF128(operand.U8(1), v, t)
		g.VPACKUSDW(t, v.AsX(), t)
		g.VMOVDQU(t, l.bits())
	}
}

// halves goes through the slice named float and the one named half, which has
// the same length.
func (g *gen) halves(float, half string, body func(l *halfLanes)) {
	l := &halfLanes{g: g}
	l.float = g.Load(g.Param(float).Base(), g.GP64()).(reg.GPVirtual)
	l.half = g.Load(g.Param(half).Base(), g.GP64()).(reg.GPVirtual)
	n := g.Load(g.Param(float).Len(), g.GP64()).(reg.GPVirtual)
	for _, u := range []int{4, 1} {
		top, next := g.label("loop"), g.label("next")
		g.Label(top)
		g.CMPQ(n, operand.U32(uint64(u*g.width)))
		g.JLT(operand.LabelRef(next))
		for l.vector = range u {
			body(l)
		}
		g.ADDQ(operand.U32(uint64(4*u*g.width)), l.float)
		g.ADDQ(operand.U32(uint64(2*u*g.width)), l.half)
		g.SUBQ(operand.U32(uint64(u*g.width)), n)
		g.JMP(operand.LabelRef(top))
		g.Label(next)
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
		g.ADDQ(operand.U8(4), l.float)
		g.ADDQ(operand.U8(2), l.half)
		g.DECQ(n)
		g.JMP(operand.LabelRef("rest"))
	}
	g.Label("end")
	g.end()
}
