package conformance

import (
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	"vlmo-train/kernels"
	"vlmo-train/kernels/ref"
)

func TestReference(t *testing.T) {
	Run(t, func() (kernels.Device, error) { return ref.New(), nil })
}

// faulty is ref with a defect, which gets each op's operands and the number of
// ops before it and says whether it found something to spoil.
type faulty struct {
	kernels.Device
	runs    int
	defect  func(operands []kernels.Operand, run int) bool
	spoiled bool
}

func (d *faulty) Run(op kernels.Op) {
	d.Device.Run(op)
	d.spoiled = d.defect(op.Operands(nil), d.runs) || d.spoiled
	d.runs++
}

// elems is n elements of a tensor, gaps between rows included.
type elems struct {
	t kernels.Tensor
	n int
}

// from returns the tensor that begins i elements later.
func (x elems) from(i int) kernels.Tensor {
	x.t.Offset += i * x.t.Type.Size()
	return x.t
}

// at views element i alone.
func (x elems) at(i int) kernels.Tensor {
	t := x.from(i)
	t.Rows, t.Cols, t.Stride = 1, 1, 1
	return t
}

func (x elems) get(i int) int32 {
	if t := x.at(i); t.Type == kernels.BF16 {
		return int32(t.BF16()[0])
	} else {
		t.Type = kernels.I32
		return t.I32()[0]
	}
}

func (x elems) set(i int, v int32) {
	if t := x.at(i); t.Type == kernels.BF16 {
		t.BF16()[0] = uint16(v)
	} else {
		t.Type = kernels.I32
		t.I32()[0] = v
	}
}

// pattern returns word, or half where the elements are BF16.
func (x elems) pattern(word, half int32) int32 {
	if x.t.Type == kernels.BF16 {
		return half
	}
	return word
}

// Every kind of defect is found in every op that can have it.
func TestFindsDefects(t *testing.T) {
	// results calls f with the elements of each result, from the first that
	// was written on.
	results := func(f func(x elems, run int)) func([]kernels.Operand, int) bool {
		return func(l []kernels.Operand, run int) (any bool) {
			for _, o := range l {
				if o.Role == kernels.In || o.Len() == 0 {
					continue
				}
				x := elems{o.Tensor, (o.Rows-1)*o.Stride + o.Cols}
				for x.n > 0 && x.get(0) == x.pattern(red, redHalf) {
					x = elems{x.from(1), x.n - 1}
				}
				if x.n > 0 {
					f(x, run)
					any = true
				}
			}
			return any
		}
	}
	for name, defect := range map[string]func([]kernels.Operand, int) bool{
		"wrong element": results(func(x elems, run int) { x.set(x.n-1, x.get(x.n-1)^x.pattern(1<<30, 1<<14)) }),
		// A stray row, or before the first.
		"write before the view":      results(func(x elems, run int) { elems{x.from(-1), 1}.set(0, 0) }),
		"write behind the view":      results(func(x elems, run int) { elems{x.from(x.n), 1}.set(0, 0) }),
		"not written":                results(func(x elems, run int) { x.set(0, x.pattern(red, redHalf)) }),
		"NaN":                        results(func(x elems, run int) { x.set(0, x.pattern(0x7fc00000, 0x7fc0)) }),
		"other bits the second time": results(func(x elems, run int) { x.set(0, x.get(0)^int32(run)) }),
		"input changed": func(l []kernels.Operand, run int) (any bool) {
			for _, o := range l {
				if o.Role != kernels.In || o.Len() == 0 || slices.ContainsFunc(l, func(p kernels.Operand) bool {
					return p.Role != kernels.In && p.Mem == o.Mem
				}) {
					continue
				}
				x := elems{o.Tensor, o.Cols}
				x.set(o.Cols-1, x.get(o.Cols-1)+1)
				any = true
			}
			return any
		},
	} {
		for _, s := range specs {
			spoiled := 0
			for draw := 1; draw < 10; draw++ {
				dev := &faulty{Device: ref.New(), defect: defect}
				_, err := check(dev, s, draw)
				if dev.spoiled {
					spoiled++
					if err == nil {
						t.Errorf("%s, draw %d: %s not found", s.op, draw, name)
					}
				} else if err != nil {
					t.Errorf("%s, draw %d: %v", s.op, draw, err)
				}
			}
			if spoiled == 0 && !(s.op == "Fill" && name == "input changed") {
				t.Errorf("%s: no draw for %s", s.op, name)
			}
		}
	}
}

// An approximation at the limits passes and one beyond does not.
func TestLimits(t *testing.T) {
	for _, c := range []struct {
		limit    Limit
		got      []float32
		want     []float32
		accepted bool
	}{
		{Limit{Norm: 1e-3, Max: 1e-2, Floor: 0}, []float32{1, 100.09}, []float32{1, 100}, true},
		{Limit{Norm: 1e-3, Max: 1e-2, Floor: 0}, []float32{1, 100.11}, []float32{1, 100}, false},
		{Limit{Norm: 1, Max: 1e-2, Floor: 0}, []float32{1.99, 100}, []float32{1, 100}, true},
		{Limit{Norm: 1, Max: 1e-2, Floor: 0}, []float32{2.01, 100}, []float32{1, 100}, false},
		{Limit{Norm: 1e-3, Max: 1e-3, Floor: 1}, []float32{9e-4, 0}, []float32{0, 0}, true},
		{Limit{Norm: 1e-3, Max: 1e-3, Floor: 1}, []float32{2e-3, 0}, []float32{0, 0}, false},
		{Limit{Norm: 1e-3, Max: 1e-3, Floor: 1e-9}, []float32{9e-4}, []float32{0}, true},
		{Limit{}, []float32{1}, []float32{1}, true},
		{Limit{}, []float32{1}, []float32{math.Nextafter32(1, 2)}, false},
		{Limit{Norm: 1, Max: 1, Floor: 1}, []float32{float32(math.NaN())}, []float32{1}, false},
		{Limit{Norm: 1, Max: 1, Floor: 1}, []float32{float32(math.Inf(1))}, []float32{1}, false},
	} {
		words := func(x []float32) *block {
			b := &block{}
			for _, v := range x {
				b.after = append(b.after, int32(math.Float32bits(v)))
			}
			return b
		}
		x := kernels.Operand{Name: "x", Tensor: kernels.Tensor{Rows: 1, Cols: len(c.got), Stride: len(c.got)}, Role: kernels.Out}
		if _, err := compareOperand(x, words(c.got), words(c.want), c.limit); (err == nil) != c.accepted {
			t.Errorf("%+v: %v for %v: error %v", c.limit, c.got, c.want, err)
		}
	}
}

// Draws reach the shapes and the optional operands that the suite promises.
func TestCoverage(t *testing.T) {
	types := map[string]bool{}
	for _, s := range specs {
		var gaps, dense, empty, one bool
		absent, present := map[string]bool{}, map[string]bool{}
		for draw := range s.draws {
			o, err := play(ref.New(), s, draw)
			if err != nil {
				t.Fatal(err)
			}
			has := map[string]bool{}
			types[s.op] = types[s.op] || slices.ContainsFunc(o.operands, func(x kernels.Operand) bool { return x.Type == kernels.BF16 })
			for _, x := range o.operands {
				gaps = gaps || !x.Contiguous()
				dense = dense || x.Contiguous() && x.Rows > 1
				empty = empty || x.Len() == 0
				one = one || x.Len() == 1
				has[x.Name] = true
				present[x.Name] = true
			}
			for name := range present {
				absent[name] = absent[name] || !has[name]
			}
		}
		if s.op != "AdamW" && !(gaps && dense) || !empty || !one {
			t.Errorf("%s: draws with gaps %v, without %v, empty %v, of one element %v", s.op, gaps, dense, empty, one)
		}
		for name := range present {
			optional := map[string]bool{"Gamma": true, "Keep": true, "DGamma": true, "DScale": true, "DShift": true,
				"DLogits": true, "DDot": true, "DLogScale": true, "DTable": true, "Pre": true}[name] ||
				name == "Bias" || name == "Rows" || name == "Queries" || name == "Sum" || name == "Half" || name == "NormRows" || strings.HasPrefix(name, "Parts") ||
				name == "Mean" && !strings.HasSuffix(s.op, "Grad") || name == "DX" && s.op == "SquaredError"
			if optional && !absent[name] {
				t.Errorf("%s: %s is always there", s.op, name)
			}
		}
	}
	for _, op := range []string{"MatMul", "ColumnSum", "LayerNorm", "LayerNormGrad", "Residual", "ResidualNorm", "ResidualNormGrad", "ResidualGrad", "Gather",
		"ScatterAdd", "Gelu", "Copy", "Attention", "AttentionGrad", "AdamW"} {
		if !types[op] {
			t.Errorf("%s: no draw has an operand of type bf16", op)
		}
	}
}

func TestScrub(t *testing.T) {
	seqs := []kernels.Sequence{{TextLen: 3}}
	op := &kernels.Attention{Heads: 2, Sequences: seqs}
	scrub(op)
	if !reflect.DeepEqual(*op, kernels.Attention{}) || seqs[0].TextLen != 0 {
		t.Errorf("left %+v, %v", *op, seqs)
	}
}
