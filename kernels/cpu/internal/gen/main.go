// Command gen writes the assembly of kernels/cpu, for AVX2 with FMA and for
// AVX-512, from one description that knows the vectors' width:
//
//	go run ./internal/gen
//
// in the folder of package cpu writes asm_amd64.s and stubs_amd64.go.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"

	"github.com/mmcloughlin/avo/attr"
	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/ir"
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
	ctx := build.NewContext()
	ctx.ConstraintExpr("amd64")
	consts, tables := map[uint32]operand.Mem{}, map[string]operand.Mem{}
	for _, g := range []*gen{
		{Context: ctx, consts: consts, suffix: "AVX2", width: 8, rows: 6},
		{Context: ctx, consts: consts, suffix: "AVX512", width: 16, rows: 14, tables: tables},
	} {
		g.masks()
		g.gemm()
		g.pack("pack", g.width*2)
		g.pack("packCols", g.rows)
		g.packSum("packColsSum", g.rows)
		g.packT()
		g.copyRows()
		g.prefetch()
		if g.wide() {
			g.packPairs("packPairs", g.width*2)
			g.packPairs("packColsPairs", g.rows)
			g.gemmPairs()
		}
		g.conversions()
		g.elementwise()
		g.reductions()
		g.attention()
		g.layerNorm()
		g.layerNormGrad()
		g.adamW()
	}
	native := &gen{Context: ctx, consts: consts, suffix: "AVX512BF16", width: 16, tables: tables, native: true}
	native.narrow()
	native.roundedGelus()
	f, err := ctx.Result()
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
		cfg := printer.Config{Name: "avo", Pkg: "cpu", Argv: []string{"go", "generate"}}
		data, err := make(cfg).Print(f)
		if err != nil {
			return nil, err
		}
		if name == "asm_amd64.s" {
			if data, err = spell(data); err != nil {
				return nil, err
			}
		}
		if !bytes.Contains(data[:min(len(data), 200)], []byte("DO NOT EDIT")) {
			return nil, fmt.Errorf("%s has no header", name)
		}
		files[name] = data
	}
	return files, nil
}

// gen writes the functions of one instruction set.
type gen struct {
	*build.Context
	suffix string
	width  int // elements in a vector
	rows   int // of gemm's tile; it has 2 vectors of columns
	consts map[uint32]operand.Mem
	tables map[string]operand.Mem // of pieces, by name
	mask   operand.Mem            // AVX2: 8 words of ones, 8 of zeros
	native bool                   // AVX512-BF16 rounds
	labels int
}

func (g *gen) wide() bool { return g.width == 16 }

// vec returns a new vector register.
func (g *gen) vec() reg.VecVirtual {
	if g.wide() {
		return g.ZMM()
	}
	return g.YMM()
}

// masks emits the table from which AVX2 loads the mask of a last, partial
// vector. AVX-512 computes its masks.
func (g *gen) masks() {
	if g.wide() {
		return
	}
	g.mask = g.StaticGlobal("mask")
	g.DataAttributes(attr.RODATA | attr.NOPTR)
	for i := range 16 {
		v := uint32(0xffffffff)
		if i >= 8 {
			v = 0
		}
		g.AppendDatum(operand.U32(v))
	}
}

// word returns 16 copies of a word in memory.
func (g *gen) word(v uint32) operand.Mem {
	m, ok := g.consts[v]
	if !ok {
		m = g.StaticGlobal(fmt.Sprintf("c%08x", v))
		g.DataAttributes(attr.RODATA | attr.NOPTR)
		for range 16 {
			g.AppendDatum(operand.U32(v))
		}
		g.consts[v] = m
	}
	return m
}

// text begins a function.
func (g *gen) text(name, signature, doc string) {
	g.Function(name + g.suffix)
	g.Attributes(attr.NOSPLIT)
	g.Pragma("noescape")
	g.SignatureExpr(signature)
	g.Doc(fmt.Sprintf("%s%s %s", name, g.suffix, doc))
	g.labels = 0
}

// end ends a function.
func (g *gen) end() {
	g.VZEROUPPER()
	g.RET()
}

func (g *gen) label(name string) string {
	g.labels++
	return fmt.Sprintf("%s%d", name, g.labels)
}

// param loads a scalar float parameter into all elements of a vector.
func (g *gen) param(name string) reg.VecVirtual {
	p, err := g.Param(name).Resolve()
	if err != nil {
		panic(err)
	}
	v := g.vec()
	g.VBROADCASTSS(p.Addr, v)
	return v
}

// bases loads the addresses of slice parameters.
func (g *gen) bases(names string) map[string]reg.GPVirtual {
	m := map[string]reg.GPVirtual{}
	for _, n := range strings.Fields(names) {
		m[n] = g.Load(g.Param(n).Base(), g.GP64()).(reg.GPVirtual)
	}
	return m
}

// loop emits code that goes through the slices named by the keys of base.
// body is emitted for a group of unroll vectors, for one vector, and for a
// last vector of fewer elements.
func (g *gen) loop(base map[string]reg.GPVirtual, n reg.GPVirtual, unroll int, body func(l *lanes)) {
	i, rest := g.GP64(), g.GP64()
	g.XORQ(i, i)
	g.MOVQ(n, rest)
	l := &lanes{g: g, base: base, index: i}
	for _, u := range []int{unroll, 1} {
		top, next := g.label("loop"), g.label("next")
		g.Label(top)
		g.CMPQ(rest, operand.U32(uint64(u*g.width)))
		g.JLT(operand.LabelRef(next))
		g.interleave(u, func(i int) {
			l.vector = i
			body(l)
		})
		g.ADDQ(operand.U32(uint64(u*g.width*4)), i)
		g.SUBQ(operand.U32(uint64(u*g.width)), rest)
		g.JMP(operand.LabelRef(top))
		g.Label(next)
		if u == 1 {
			break
		}
	}
	done := g.label("done")
	g.TESTQ(rest, rest)
	g.JEQ(operand.LabelRef(done))
	l.vector = 0
	if g.wide() {
		one := g.GP32()
		g.MOVL(operand.U32(1), one)
		g.SHLXL(rest.As32(), one, one)
		g.DECL(one)
		l.k = g.K()
		g.KMOVW(one, l.k)
	} else {
		t := g.GP64()
		g.LEAQ(g.mask.Offset(32), t)
		g.NEGQ(rest)
		l.m = g.YMM()
		g.VMOVDQU(operand.Mem{Base: t, Index: rest, Scale: 4}, l.m)
	}
	body(l)
	g.Label(done)
}

// interleave emits n bodies, which have no labels. On AVX-512, which has the
// registers, they take turns with each instruction: a processor looks less far
// ahead than a chain of instructions that wait for each other is long.
func (g *gen) interleave(n int, body func(i int)) {
	file, _ := g.Result()
	var f *ir.Function // the last
	for _, s := range file.Sections {
		if s, ok := s.(*ir.Function); ok {
			f = s
		}
	}
	begin := len(f.Nodes)
	var bodies [][]ir.Node
	for i := range n {
		at := len(f.Nodes)
		body(i)
		bodies = append(bodies, f.Nodes[at:])
	}
	if !g.wide() {
		return
	}
	var mixed []ir.Node
	for i := 0; len(mixed) < len(f.Nodes)-begin; i++ {
		for _, b := range bodies {
			if i < len(b) {
				mixed = append(mixed, b[i])
			}
		}
	}
	copy(f.Nodes[begin:], mixed)
}

// chains is how many bodies with long chains are interleaved.
func (g *gen) chains() int {
	if g.wide() {
		return 2
	}
	return 1
}

// lanes is one step of a loop.
type lanes struct {
	g      *gen
	base   map[string]reg.GPVirtual
	index  reg.GPVirtual
	vector int            // within the group
	m      reg.VecVirtual // mask of a partial vector on AVX2
	k      reg.OpmaskVirtual
}

func (l *lanes) mem(name string) operand.Mem {
	b, ok := l.base[name]
	if !ok {
		panic("no slice " + name)
	}
	return operand.Mem{Base: b, Index: l.index, Scale: 1, Disp: l.vector * l.g.width * 4}
}

// load loads a vector of a slice, zeros beyond its end.
func (l *lanes) load(name string) reg.VecVirtual {
	g, v := l.g, l.g.vec()
	switch {
	case l.m != nil:
		g.VMASKMOVPS(l.mem(name), l.m, v)
	case l.k != nil:
		g.VMOVUPS_Z(l.mem(name), l.k, v)
	default:
		g.VMOVUPS(l.mem(name), v)
	}
	return v
}

func (l *lanes) store(v reg.VecVirtual, name string) {
	g := l.g
	switch {
	case l.m != nil:
		g.VMASKMOVPS(v, l.m, l.mem(name))
	case l.k != nil:
		g.VMOVUPS(v, l.k, l.mem(name))
	default:
		g.VMOVUPS(v, l.mem(name))
	}
}

// clip makes the elements of v beyond the end of a slice zero.
func (l *lanes) clip(v reg.VecVirtual) {
	switch {
	case l.m != nil:
		l.g.VANDPS(l.m, v, v)
	case l.k != nil:
		l.g.VMOVAPS_Z(v, l.k, v)
	}
}

// copyOf returns a copy of v.
func (g *gen) copyOf(v reg.VecVirtual) reg.VecVirtual {
	c := g.vec()
	g.VMOVAPS(v, c)
	return c
}

// f returns 16 copies of a number in memory, r in a register.
func (g *gen) f(v float64) operand.Mem { return g.word(bits(v)) }

func (g *gen) r(v float64) reg.VecVirtual {
	x := g.vec()
	g.VMOVUPS(g.f(v), x)
	return x
}

func (g *gen) zero() reg.VecVirtual {
	v := g.vec()
	if g.wide() {
		g.VPXORD(v, v, v)
	} else {
		g.VXORPS(v, v, v)
	}
	return v
}

func (g *gen) and(a operand.Op, b, dst reg.VecVirtual) {
	if g.wide() {
		g.VPANDD(a, b, dst)
	} else {
		g.VANDPS(a, b, dst)
	}
}

func (g *gen) or(a operand.Op, b, dst reg.VecVirtual) {
	if g.wide() {
		g.VPORD(a, b, dst)
	} else {
		g.VORPS(a, b, dst)
	}
}

// choose sets dst to neg where the sign of v is set and to pos elsewhere.
func (g *gen) choose(v, neg, pos, dst reg.VecVirtual) {
	if g.wide() {
		k := g.K()
		g.VPMOVD2M(v, k)
		g.VBLENDMPS(neg, pos, k, dst)
	} else {
		g.VBLENDVPS(v, neg, pos, dst)
	}
}

// fold reduces the elements of v to its first with op: halves upon halves.
func (g *gen) fold(v reg.VecVirtual, op func(...operand.Op)) reg.VecVirtual {
	t := g.YMM()
	if g.wide() {
		g.VEXTRACTF64X4(operand.U8(1), v, t)
		op(t, v.AsY(), t)
	} else {
		g.VMOVAPS(v, t)
	}
	x, y := g.XMM(), g.XMM()
	g.VEXTRACTF128(operand.U8(1), t, x)
	op(x, t.AsX(), x)
	g.VMOVHLPS(x, x, y)
	op(y, x, x)
	g.VPSRLDQ(operand.U8(4), x, y)
	op(y, x, x)
	return x
}

// sum adds vectors, and then the elements of the total.
func (g *gen) sum(v ...reg.VecVirtual) reg.VecVirtual {
	for n := len(v); n > 1; n /= 2 {
		for i := range n / 2 {
			g.VADDPS(v[i+n/2], v[i], v[i])
		}
	}
	return g.fold(v[0], func(o ...operand.Op) { g.VADDPS(o[0], o[1], o[2]) })
}

func (g *gen) spread(x reg.VecVirtual) reg.VecVirtual {
	v := g.vec()
	g.VBROADCASTSS(x, v)
	return v
}
