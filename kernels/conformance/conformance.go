// Package conformance holds a backend of package kernels against kernels/ref:
// random legal ops, drawn from fixed seeds, run on both from equal bytes.
package conformance

import (
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"

	"vlmo-train/kernels"
	"vlmo-train/kernels/ref"
	"vlmo-train/rng"
)

// Run tests the devices that open returns. For every op type it draws ops with
// sizes of 1, odd and prime sizes, empty operands, views with gaps between
// rows at any 4-byte offset, with and without each optional operand, in place
// where the op allows it, and checks that
//
//   - each result is ref's within the op's limits (see [Limit]),
//   - no byte outside the results changes, rows that the op promises not to
//     write included,
//   - what a result held before does not matter unless the op adds to it, and
//     nothing is taken from gaps between rows: both hold NaNs,
//   - the same op on the same bytes gives the same bits again,
//   - the op and the slices in it may be reused as soon as Run returns,
//   - ResidualNorm is, to the bit, the ops that it stands for.
//
// It also tests Alloc, Write, Read and the sticky error. With -test.short it
// draws an eighth of the ops.
func Run(t *testing.T, open func() (kernels.Device, error)) {
	t.Run("Device", func(t *testing.T) { testDevice(t, open) })
	for _, s := range specs {
		s.run(t, open)
	}
	t.Run("ResidualNormParts", func(t *testing.T) { testParts(t, open) })
}

// inParts runs a ResidualNorm as the ops that it stands for.
type inParts struct{ kernels.Device }

func (d inParts) Run(op kernels.Op) {
	o := op.(*kernels.ResidualNorm)
	add := o.Residual
	d.Device.Run(&add)
	for i := range o.Parts {
		if o.Parts[i].Rows > 0 {
			n := o.Norm(i)
			d.Device.Run(&n)
		}
	}
}

func testParts(t *testing.T, open func() (kernels.Device, error)) {
	dev, err := open()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range specs {
		if s.op != "ResidualNorm" {
			continue
		}
		for draw := range s.draws {
			whole, err := play(dev, s, draw)
			if err != nil {
				t.Fatal(err)
			}
			parts, err := play(inParts{dev}, s, draw)
			if err != nil {
				t.Fatalf("seed %d, in parts: %v", draw, err)
			}
			if _, err := compare(whole, parts, Limit{}); err != nil {
				t.Errorf("seed %d: %s: %v", draw, whole.what, err)
			}
		}
	}
}

// RunAligned tests the op of that name alone, with operands whose rows begin at
// multiples of 16 bytes: what some libraries want.
func RunAligned(t *testing.T, name string, open func() (kernels.Device, error)) {
	for _, s := range specs {
		if s.op == name {
			build := s.build
			s.build = func(g *gen) kernels.Op {
				g.aligned = true
				return build(g)
			}
			s.run(t, open)
		}
	}
}

func (s spec) run(t *testing.T, open func() (kernels.Device, error)) {
	t.Run(s.op, func(t *testing.T) {
		dev, err := open()
		if err != nil {
			t.Fatal(err)
		}
		if testing.Short() {
			s.draws = (s.draws + 7) / 8
		}
		failed, worst := 0, 0.0
		for draw := range s.draws {
			used, err := check(dev, s, draw)
			worst = max(worst, used)
			if err != nil {
				t.Errorf("seed %d: %v", draw, err)
				if failed++; failed == 5 {
					t.Fatal("too many failures")
				}
				if dev, err = open(); err != nil { // the last one's error may stick
					t.Fatal(err)
				}
			}
		}
		t.Logf("seeds 0 to %d: the largest error is %.2g of its limit", s.draws-1, worst)
	})
}

// Limit bounds the error of a result of type F32. With e the difference from
// ref's result w, of n elements:
//
//	‖e‖₂ ≤ Norm·max(‖w‖₂, Floor·√n)   max|e| ≤ Max·max(max|w|, Floor)
//
// The floor is for results that cancel to nearly zero; sums of a single
// element have a floor of 1 at least. The zero Limit wants the same bits.
// Half, where it is larger than what rounding the result explains, is Norm for
// results of type BF16.
type Limit struct{ Norm, Max, Floor, Half float64 }

// rounded is the limit of a result of type BF16: an element that lies between
// two bfloat16s may be rounded to either, 2⁻⁷ of it at most and much less than
// that in the mean, and what was rounded inside the op goes on from there.
func (l Limit) rounded() Limit {
	if l == (Limit{}) {
		return l
	}
	l.Norm, l.Max = max(l.Norm, 4e-3, l.Half), max(l.Max, 1.6e-2, 4*l.Half)
	return l
}

// single is about 80 and 800 times the rounding of float32: room for sums in
// another order and for approximations of exp and erf good to a few units in
// the last place, not for a wrong term.
var single = Limit{Norm: 5e-6, Max: 5e-5, Floor: 1e-2}

// red is the pattern outside of operands and in results that are to be
// overwritten: as a float a NaN with a payload, as an index out of any range.
// redHalf is that of BF16; bytes have none that is not a pixel too.
const (
	red     = 0x7fc0dead
	redHalf = 0x7fde
	redByte = 0xde
)

// spec says how to draw ops of one type.
type spec struct {
	op    string
	draws int
	limit Limit
	build func(g *gen) kernels.Op
}

// block is one allocation, with its elements before and after the op: as
// words, as the halves of BF16 or as bytes.
type block struct {
	mem           *kernels.Memory
	typ           kernels.DType
	before, after []int32
}

// empty is the pattern of elements that nobody has written.
func (b *block) empty() int32 {
	switch b.typ {
	case kernels.BF16:
		return redHalf
	case kernels.U8:
		return redByte
	}
	return red
}

// write brings before to the device.
func (b *block) write(dev kernels.Device) {
	switch b.typ {
	case kernels.BF16:
		writeAs[uint16](dev, b)
	case kernels.U8:
		writeAs[byte](dev, b)
	default:
		writeAs[int32](dev, b)
	}
}

// read brings after from the device.
func (b *block) read(dev kernels.Device) {
	switch b.typ {
	case kernels.BF16:
		readAs[uint16](dev, b)
	case kernels.U8:
		readAs[byte](dev, b)
	default:
		readAs[int32](dev, b)
	}
}

func writeAs[T int32 | uint16 | byte](dev kernels.Device, b *block) {
	v := make([]T, len(b.before))
	for i, w := range b.before {
		v[i] = T(w)
	}
	dev.Write(b.whole(), v)
}

func readAs[T int32 | uint16 | byte](dev kernels.Device, b *block) {
	v := make([]T, len(b.after))
	dev.Read(v, b.whole())
	for i, w := range v {
		b.after[i] = int32(w)
	}
}

// whole views all of the block; F32 travels as words.
func (b *block) whole() kernels.Tensor {
	typ := b.typ
	if typ == kernels.F32 {
		typ = kernels.I32
	}
	return kernels.Matrix(b.mem, 0, typ, 1, len(b.before))
}

// value returns what an element means.
func (b *block) value(word int32) float64 {
	if b.typ == kernels.BF16 {
		return float64(kernels.FromBF16(uint16(word)))
	}
	return float64(math.Float32frombits(uint32(word)))
}

// outcome is what one op did to memory.
type outcome struct {
	what     string // the op and its operands
	operands []kernels.Operand
	blocks   []*block
}

// play draws the op that seed names and runs it on dev.
func play(dev kernels.Device, s spec, seed int) (*outcome, error) {
	g := &gen{dev: dev, Source: rng.New(rng.Key{Seed: uint64(seed), Sample: nameHash(s.op)}), draw: seed}
	defer func() {
		for _, b := range g.blocks {
			dev.Free(b.mem)
		}
	}()
	op := s.build(g)
	if g.err != nil {
		return nil, g.err
	}
	o := &outcome{what: describe(op), operands: op.Operands(nil), blocks: g.blocks}
	if op.Name() != s.op {
		return nil, fmt.Errorf("op %s is named %q", s.op, op.Name())
	}
	dev.Run(op)
	scrub(op)
	for _, b := range g.blocks {
		b.after = make([]int32, len(b.before))
		b.read(dev)
	}
	if err := dev.Sync(); err != nil {
		return nil, fmt.Errorf("%s: %w", o.what, err)
	}
	return o, nil
}

// scrub destroys op and the slices in it.
func scrub(op kernels.Op) {
	switch o := op.(type) {
	case *kernels.Attention:
		clear(o.Sequences)
	case *kernels.AttentionGrad:
		clear(o.Sequences)
	}
	reflect.ValueOf(op).Elem().SetZero()
}

func nameHash(name string) uint64 {
	h := uint64(14695981039346656037) // FNV-1a
	for i := range len(name) {
		h = (h ^ uint64(name[i])) * 1099511628211
	}
	return h
}

// describe names op, its operands and its plain fields.
func describe(op kernels.Op) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s{", op.Name())
	for _, o := range op.Operands(nil) {
		fmt.Fprintf(&b, "%s: %v, ", o.Name, o.Tensor)
	}
	v := reflect.ValueOf(op).Elem()
	for i := range v.NumField() {
		switch f := v.Field(i); f.Kind() {
		case reflect.Bool, reflect.Int, reflect.Uint8, reflect.Float32, reflect.Slice:
			fmt.Fprintf(&b, "%s: %v, ", v.Type().Field(i).Name, f)
		}
	}
	return strings.TrimSuffix(b.String(), ", ") + "}"
}

// check runs the op that draw names on ref once and on dev twice, and says
// what is wrong with dev's results and how much of the limit the largest error
// takes.
func check(dev kernels.Device, s spec, draw int) (used float64, err error) {
	want, err := play(ref.New(), s, draw)
	if err != nil {
		return 0, fmt.Errorf("reference: %w", err)
	}
	got, err := play(dev, s, draw)
	if err != nil {
		return 0, err
	}
	again, err := play(dev, s, draw)
	if err != nil {
		return 0, fmt.Errorf("second run: %w", err)
	}
	if used, err = compare(got, want, s.limit); err != nil {
		return used, fmt.Errorf("%s: %w", got.what, err)
	}
	for i, b := range got.blocks {
		for e, v := range again.blocks[i].after {
			if v != b.after[e] {
				return used, fmt.Errorf("%s: %s: run again, word %d is %#x, was %#x", got.what, got.owner(b), e, uint32(v), uint32(b.after[e]))
			}
		}
	}
	return used, nil
}

// find returns the block of t's memory, and its number.
func (o *outcome) find(t kernels.Tensor) (int, *block) {
	for i, b := range o.blocks {
		if b.mem == t.Mem {
			return i, b
		}
	}
	panic("conformance: an operand in memory of its own")
}

// owner names the operands in b.
func (o *outcome) owner(b *block) string {
	var names []string
	for _, x := range o.operands {
		if x.Mem == b.mem {
			names = append(names, x.Name)
		}
	}
	return strings.Join(names, ", ")
}

// elements calls f with the number of each element's word in its block.
func elements(t kernels.Tensor, f func(r, c, word int)) {
	for r := range t.Rows {
		for c := range t.Cols {
			f(r, c, t.Offset/t.Type.Size()+r*t.Stride+c)
		}
	}
}

func compare(got, want *outcome, limit Limit) (used float64, err error) {
	written := make([][]bool, len(got.blocks))
	for i, b := range got.blocks {
		written[i] = make([]bool, len(b.before))
	}
	for n, x := range got.operands {
		if x.Role == kernels.In {
			continue
		}
		i, b := got.find(x.Tensor)
		elements(x.Tensor, func(r, c, word int) { written[i][word] = true })
		w := want.operands[n]
		_, wb := want.find(w.Tensor)
		u, err := compareOperand(x, b, wb, limit)
		used = max(used, u)
		if err != nil {
			return used, err
		}
	}
	for i, b := range got.blocks {
		for e, v := range b.after {
			if !written[i][e] && v != b.before[e] {
				return used, fmt.Errorf("%s: word %d outside the result changed from %#x to %#x", got.owner(b), e, uint32(b.before[e]), uint32(v))
			}
		}
	}
	return used, nil
}

// compareOperand holds operand x, in block got, against the same one in want.
func compareOperand(x kernels.Operand, got, want *block, limit Limit) (used float64, err error) {
	fail := func(format string, args ...any) {
		if err == nil {
			err = fmt.Errorf("%s: %s", x.Name, fmt.Sprintf(format, args...))
		}
	}
	var e2, w2, eMax, wMax float64
	var worst string
	elements(x.Tensor, func(r, c, word int) {
		g, w := got.after[word], want.after[word]
		switch {
		case g == w:
			if x.Type == kernels.I32 || w == want.empty() {
				return
			}
		case w == want.empty():
			fail("element (%d, %d), which is not to be written, became %v", r, c, got.value(g))
		case g == got.empty():
			fail("element (%d, %d) was not written, want %v", r, c, want.value(w))
		case x.Type == kernels.I32:
			fail("element (%d, %d) = %d, want %d", r, c, g, w)
		case limit == Limit{}:
			fail("element (%d, %d) = %v, want %v to the bit", r, c, got.value(g), want.value(w))
		}
		e, v := math.Abs(got.value(g)-want.value(w)), math.Abs(want.value(w))
		if math.IsNaN(v) || math.IsInf(v, 0) {
			fail("the reference has %v at (%d, %d)", want.value(w), r, c)
		}
		if math.IsNaN(e) || math.IsInf(e, 0) {
			fail("element (%d, %d) = %v, want %v", r, c, got.value(g), want.value(w))
		}
		e2 += e * e
		w2 += v * v
		wMax = max(wMax, v)
		if e > eMax {
			eMax, worst = e, fmt.Sprintf("element (%d, %d) = %v, want %v", r, c, got.value(g), want.value(w))
		}
	})
	if err != nil || x.Type == kernels.I32 || (limit == Limit{}) || x.Len() == 0 {
		return 0, err
	}
	if x.Type == kernels.BF16 {
		limit = limit.rounded()
	}
	n := float64(x.Len())
	floor := limit.Floor
	if n == 1 {
		floor = max(floor, 1)
	}
	norm, bound := math.Sqrt(e2), limit.Norm*max(math.Sqrt(w2), floor*math.Sqrt(n))
	if norm > bound {
		fail("norm of the error %.3g, limit %.3g; worst: %s", norm, bound, worst)
	}
	boundMax := limit.Max * max(wMax, floor)
	if eMax > boundMax {
		fail("error %.3g, limit %.3g; %s", eMax, boundMax, worst)
	}
	if norm > 0 { // the bounds may be 0
		used = max(norm/bound, eMax/boundMax)
	}
	return used, err
}

// gen draws the operands of one op into memory of dev. Its draws depend on the
// seed alone, so the same seed gives two devices equal bytes.
type gen struct {
	rng.Source
	dev    kernels.Device
	draw   int // number of the draw, for what must come up at least once
	blocks []*block
	err    error

	aligned bool // rows begin at multiples of 16 bytes
}

// oneIn is true once in n times.
func (g *gen) oneIn(n int) bool { return g.IntN(n) == 0 }

func (g *gen) pick(list ...int) int { return list[g.IntN(len(list))] }

// size draws an extent: 1 in draw 1.
func (g *gen) size() int {
	if g.draw == 1 {
		return 1
	}
	return g.pick(1, 2, 3, 5, 7, 8, 11, 13, 16, 17, 23, 31, 32, 33, 34, 48, 61, 64, 67, 96, 101, 128, 131)
}

// rows is like size, and sometimes 0, for one in draw 2: a modality that a
// batch lacks.
func (g *gen) rows() int {
	if g.draw == 2 || g.draw > 2 && g.oneIn(16) {
		return 0
	}
	return g.size()
}

// extents draws the rows and columns of an op that treats rows, now and then
// more of either than backends treat at once.
func (g *gen) extents() (rows, cols int) {
	switch g.IntN(10) {
	case 0:
		return g.pick(1, 3, 9), g.pick(257, 768, 1031)
	case 1:
		return g.pick(2053, 2500), g.pick(5, 8, 13)
	}
	return g.rows(), g.size()
}

// floats draws n normal numbers with deviation scale.
func (g *gen) floats(n int, scale float64) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(scale * g.Norm())
	}
	return x
}

// place makes a tensor with the given words, or the red pattern where words is
// nil, somewhere inside memory of its own.
func (g *gen) place(typ kernels.DType, rows, cols int, words []int32) kernels.Tensor {
	const zone = 32 // words before and after
	lead, stride := zone, cols
	if g.oneIn(2) {
		lead += g.IntN(20)
	}
	if g.oneIn(2) {
		stride += g.pick(1, 3, 8, 16, cols)
	}
	if g.aligned {
		lead, stride = lead/8*8, (stride+7)/8*8
	}
	n := lead + rows*stride + zone
	b := &block{typ: typ, before: make([]int32, n+n%2)}
	for i := range b.before {
		b.before[i] = b.empty()
	}
	if words != nil {
		for r := range rows {
			copy(b.before[lead+r*stride:], words[r*cols:(r+1)*cols])
		}
	}
	if g.err != nil {
		return kernels.Tensor{}
	}
	b.mem, g.err = g.dev.Alloc(typ.Size() * len(b.before))
	if g.err != nil {
		return kernels.Tensor{}
	}
	b.write(g.dev)
	g.blocks = append(g.blocks, b)
	return kernels.Tensor{Mem: b.mem, Offset: typ.Size() * lead, Type: typ, Rows: rows, Cols: cols, Stride: stride}
}

// put makes an F32 operand of the given elements, row by row.
func (g *gen) put(rows, cols int, x []float32) kernels.Tensor {
	return g.putAs(kernels.F32, rows, cols, x)
}

// putAs makes an F32 or BF16 operand of the given elements, rounded.
func (g *gen) putAs(typ kernels.DType, rows, cols int, x []float32) kernels.Tensor {
	words := make([]int32, len(x))
	for i, v := range x {
		if typ == kernels.BF16 {
			words[i] = int32(kernels.RoundBF16(v))
		} else {
			words[i] = int32(math.Float32bits(v))
		}
	}
	return g.place(typ, rows, cols, words)
}

// float draws a type for an operand that may be F32 or BF16.
func (g *gen) float() kernels.DType {
	if g.oneIn(3) {
		return kernels.BF16
	}
	return kernels.F32
}

// ints makes an index operand.
func (g *gen) ints(x []int32) kernels.Tensor { return g.place(kernels.I32, 1, len(x), x) }

// bytes makes an operand of any bytes.
func (g *gen) bytes(rows, cols int) kernels.Tensor {
	words := make([]int32, rows*cols)
	for i := range words {
		words[i] = int32(g.IntN(256))
	}
	return g.place(kernels.U8, rows, cols, words)
}

// normal makes an operand of standard normal numbers: an input or one that is
// added to.
func (g *gen) normal(rows, cols int) kernels.Tensor {
	return g.put(rows, cols, g.floats(rows*cols, 1))
}

// normalAs is normal for an operand of either type.
func (g *gen) normalAs(typ kernels.DType, rows, cols int) kernels.Tensor {
	return g.putAs(typ, rows, cols, g.floats(rows*cols, 1))
}

// out makes an F32 operand to be overwritten.
func (g *gen) out(rows, cols int) kernels.Tensor { return g.place(kernels.F32, rows, cols, nil) }

// outAs makes an operand of either type to be overwritten.
func (g *gen) outAs(typ kernels.DType, rows, cols int) kernels.Tensor {
	return g.place(typ, rows, cols, nil)
}

// result makes an operand to be overwritten or, with accumulate, added to.
func (g *gen) result(rows, cols int, accumulate bool) kernels.Tensor {
	if accumulate {
		return g.normal(rows, cols)
	}
	return g.out(rows, cols)
}

// maybe returns an operand half the time.
func (g *gen) maybe(rows, cols int, accumulate bool) kernels.Tensor {
	if g.oneIn(2) {
		return kernels.Tensor{}
	}
	return g.result(rows, cols, accumulate)
}

// over returns in itself half the time, for an op that works in place, and
// else an operand to be overwritten.
func (g *gen) over(in kernels.Tensor) kernels.Tensor {
	if g.oneIn(2) {
		return in
	}
	return g.outAs(in.Type, in.Rows, in.Cols)
}
