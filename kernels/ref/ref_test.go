package ref

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"vlmo-train/kernels"
	"vlmo-train/rng"
)

// Values of Φ and φ from tables.
func TestGelu(t *testing.T) {
	b := newBench(t, 1)
	x, y, dx := b.put(1, 5, 0, 1, -2, 0.5, 40), b.out(1, 5), b.filled(1, 5, 1)
	b.run(&kernels.Gelu{X: x, Y: y}, &kernels.GeluGrad{X: x, DY: dx, DX: dx})
	for i, want := range []float64{0, 0.8413447460685429, -0.0455002638963584, 0.345731230637007, 40} {
		b.close("gelu", y.F32()[i], want, 1e-7)
	}
	for i, want := range []float64{0.5, 1.0833154705876864, -0.0852318012, 0.8674951246, 1} {
		b.close("gelu'", dx.F32()[i], want, 1e-7)
	}
}

func TestMatMul(t *testing.T) {
	b := newBench(t, 1)
	a := b.put(2, 3, 1, 2, 3, 4, 5, 6)
	at := b.put(3, 2, 1, 4, 2, 5, 3, 6)
	w := b.put(3, 2, 1, 0, -1, 2, 0.5, 1)
	wt := b.put(2, 3, 1, -1, 0.5, 0, 2, 1)
	for i, o := range []kernels.MatMul{{A: a, B: w}, {A: at, B: w, TransA: true}, {A: a, B: wt, TransB: true}, {A: at, B: wt, TransA: true, TransB: true}} {
		plain, bias, sum := o, o, o
		plain.C = b.out(2, 2)
		bias.C, bias.Bias = b.out(2, 2), b.put(1, 2, 10, 20)
		sum.C, sum.Accumulate = b.filled(2, 2, 100), true
		b.run(&plain, &bias, &sum)
		for e, want := range []float32{0.5, 7, 2, 16} {
			got := [3]float32{plain.C.F32()[e], bias.C.F32()[e], sum.C.F32()[e]}
			if got != [3]float32{want, want + float32(10+10*(e%2)), want + 100} {
				t.Errorf("case %d, element %d: %v, want %v", i, e, got, want)
			}
		}
	}
}

func TestLayerNormAndNormalize(t *testing.T) {
	b := newBench(t, 1)
	x := b.put(2, 4, 1, 2, 3, 4, 0, 0, 0, 0)
	y, mean, rstd := b.out(2, 4), b.out(1, 2), b.out(1, 2)
	b.run(&kernels.LayerNorm{X: x, Scale: b.put(1, 4, 1, 1, 2, 1), Shift: b.put(1, 4, 0, 5, 0, 0), Y: y, Mean: mean, Rstd: rstd, Eps: 0.25})
	r := 1 / math.Sqrt(1.5) // the variance is 1.25
	for i, want := range []float64{-1.5 * r, -0.5*r + 5, r, 1.5 * r, 0, 5, 0, 0} {
		b.close("LayerNorm", y.F32()[i], want, 1e-6)
	}
	b.close("mean", mean.F32()[0], 2.5, 0)
	b.close("rstd", rstd.F32()[0], r, 1e-7)
	b.close("rstd", rstd.F32()[1], 2, 0)

	// Rows that the norm skips, rows without a branch, one part left out.
	z, h := b.out(3, 2), b.out(2, 2)
	b.run(&kernels.ResidualNorm{Residual: kernels.Residual{X: b.put(3, 2, 1, 3, 5, 5, 2, 0), Rows: b.ints(2, 1), Y: b.put(2, 2, 1, 2, 7, 7), Gamma: b.put(1, 2, 4, 3),
		Keep: b.put(1, 2, 0.5, 0), Z: z}, NormRows: b.ints(2, 0), H: h, Mean: mean, Rstd: rstd, Eps: 1.25,
		Parts: [3]kernels.NormPart{{Rows: 1, Scale: b.put(1, 2, 1, 3), Shift: b.put(1, 2, 0, 1)}, {}, {Rows: 1, Scale: b.put(1, 2, 1, 1), Shift: b.put(1, 2, 0, -1)}}})
	for i, want := range []float32{1, 3, 5, 5, 4, 3} {
		b.close("Z", z.F32()[i], float64(want), 0)
	}
	// The variances are 1/4 and 1.
	for i, want := range []float64{0.5 / math.Sqrt(1.5), 1 - 1.5/math.Sqrt(1.5), -1 / 1.5, -1 + 1/1.5} {
		b.close("ResidualNorm", h.F32()[i], want, 1e-6)
	}
	for i, want := range []float64{3.5, 2} {
		b.close("mean", mean.F32()[i], want, 0)
	}
	b.close("rstd", rstd.F32()[0], 1/math.Sqrt(1.5), 1e-7)

	b.run(&kernels.Normalize{X: x, Y: y, Norm: mean})
	b.close("norm", mean.F32()[0], math.Sqrt(30), 1e-6)
	b.close("norm", mean.F32()[1], 1e-12, 1e-19)
	b.close("normalized", y.F32()[3], 4/math.Sqrt(30), 1e-7)
	b.close("normalized", y.F32()[7], 0, 0)
}

// labels lists the rows of the bias table in order, by what they stand for.
func labels(window, text int) map[string]int {
	row := make(map[string]int)
	next := func(format string, args ...any) { row[fmt.Sprintf(format, args...)] = len(row) }
	for dy := -(window - 1); dy < window; dy++ {
		for dx := -(window - 1); dx < window; dx++ {
			next("image %d %d", dy, dx)
		}
	}
	next("image cls to patch")
	next("image patch to cls")
	next("image cls to cls")
	next("text to image")
	next("image to text")
	for key := -(text - 2); key <= text-2; key++ {
		next("text %d", key)
	}
	next("text cls to word")
	next("text word to cls")
	next("text cls to cls")
	return row
}

// pairLabel names the pair of tokens i and j, of which the first t are text.
func pairLabel(window, t, i, j int) string {
	kind := func(i, j int) string {
		switch {
		case i == 0 && j == 0:
			return "cls to cls"
		case i == 0:
			return "cls to "
		case j == 0:
			return " to cls"
		}
		return ""
	}
	switch {
	case i < t && j >= t:
		return "text to image"
	case i >= t && j < t:
		return "image to text"
	case i < t:
		switch k := kind(i, j); k {
		case "cls to cls":
			return "text " + k
		case "cls to ":
			return "text cls to word"
		case " to cls":
			return "text word to cls"
		}
		return fmt.Sprintf("text %d", j-i)
	}
	i, j = i-t, j-t
	switch k := kind(i, j); k {
	case "cls to cls":
		return "image " + k
	case "cls to ":
		return "image cls to patch"
	case " to cls":
		return "image patch to cls"
	}
	yi, xi := (i-1)/window, (i-1)%window
	yj, xj := (j-1)/window, (j-1)%window
	return fmt.Sprintf("image %d %d", yi-yj, xi-xj)
}

// The rows that SPEC §4 describes, enumerated in the table's order.
func TestRelativeBiasRows(t *testing.T) {
	for _, c := range []struct{ window, text, r, a int }{{14, 196, 732, 1126}, {24, 196, 2212, 2606}, {30, 196, 3484, 3878}} {
		b := &kernels.RelativeBias{Window: c.window, Text: c.text}
		row := labels(c.window, c.text)
		if b.Rows() != c.a || len(row) != c.a || b.TextImage() != c.r || row["text to image"] != c.r {
			t.Fatalf("W=%d: %d rows, %d labels, want %d; cross terms from %d and %d, want %d",
				c.window, b.Rows(), len(row), c.a, b.TextImage(), row["text to image"], c.r)
		}
		if c.window > 14 {
			continue
		}
		s := kernels.Sequence{TextLen: c.text, ImageLen: 1 + c.window*c.window}
		seen := make(map[int]bool)
		for i := range s.TextLen + s.ImageLen {
			for j := range s.TextLen + s.ImageLen {
				label := pairLabel(c.window, s.TextLen, i, j)
				want, ok := row[label]
				if got := biasRow(b, s, i, j); !ok || got != want {
					t.Fatalf("W=%d, query %d, key %d (%s): row %d, want %d", c.window, i, j, label, got, want)
				}
				seen[want] = true
			}
		}
		if len(seen) != c.a {
			t.Errorf("W=%d: %d of %d rows are used", c.window, len(seen), c.a)
		}
	}
}

// Attention against the definition, probabilities without a stable softmax.
func TestAttention(t *testing.T) {
	b := newBench(t, 9)
	const window, text, heads, hd, n, d = 3, 5, 2, 4, 18, 8
	bias := kernels.RelativeBias{Window: window, Text: text, Column: 2}
	bias.Table = b.normal(bias.Rows(), 6)
	seqs := []kernels.Sequence{{TextOff: 1, TextLen: 4, ImageOff: 8, ImageLen: 10}, {TextOff: 5, TextLen: 3}}
	qkv, out, lse := b.normal(n, 3*d), b.filled(n, d, 77), b.filled(n, heads, 77)
	b.run(&kernels.Attention{Q: qkv.Columns(0, d), K: qkv.Columns(d, 2*d), V: qkv.Columns(2*d, 3*d), Heads: heads, Scale: 0.5, Sequences: seqs, Bias: bias, Out: out, LSE: lse})
	row := labels(window, text)
	at := func(token, part, head, e int) float64 {
		return float64(qkv.F32()[token*3*d+part*d+head*hd+e])
	}
	for s, list := range [][]int{{1, 2, 3, 4, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17}, {5, 6, 7}} {
		for head := range heads {
			for i, ri := range list {
				sum := 0.0
				var acc [hd]float64
				for j, rj := range list {
					l := float64(bias.Table.F32()[row[pairLabel(window, seqs[s].TextLen, i, j)]*6+2+head])
					for e := range hd {
						l += at(ri, 0, head, e) * at(rj, 1, head, e) / 2
					}
					sum += math.Exp(l)
					for e := range hd {
						acc[e] += math.Exp(l) * at(rj, 2, head, e)
					}
				}
				b.close("LSE", lse.F32()[ri*heads+head], math.Log(sum), 1e-6)
				for e := range hd {
					b.close("Out", out.F32()[ri*d+head*hd+e], acc[e]/sum, 1e-6)
				}
			}
		}
	}
	if out.F32()[0] != 77 || lse.F32()[0] != 77 {
		t.Error("row 0, of no sequence, was written")
	}
}

func TestLosses(t *testing.T) {
	b := newBench(t, 1)
	ln := func(x float64) float32 { return float32(math.Log(x)) }
	loss := b.filled(1, 1, 1)
	b.run(&kernels.CrossEntropy{Logits: b.put(2, 3, ln(1), ln(2), ln(5), 1000, 1000, -1000), Label: b.ints(1, 0), Weight: 0.5, Loss: loss})
	b.close("CrossEntropy", loss.F32()[0], 1+0.5*(math.Log(4)+math.Log(2)), 1e-6)

	// exp(LogScale) = 2: probabilities 1/8, 2/8, 5/8; the positives are columns 0 and 2.
	loss = b.filled(1, 1, 0)
	b.run(&kernels.Contrast{Dot: b.put(1, 3, ln(1)/2, ln(2)/2, ln(5)/2), LogScale: b.put(1, 1, ln(2)),
		RowGroup: b.ints(7), ColGroup: b.ints(7, 8, 7), Weight: 1, Loss: loss})
	b.close("Contrast", loss.F32()[0], -(math.Log(1./8)+math.Log(5./8))/2, 1e-6)

	loss = b.filled(1, 1, 0)
	b.run(&kernels.BinaryCrossEntropy{Logits: b.put(1, 3, ln(3), 200, -200), Target: b.put(1, 3, 0.25, 1, 1), Weight: 1, Loss: loss})
	b.close("BinaryCrossEntropy", loss.F32()[0], -0.25*math.Log(0.75)-0.75*math.Log(0.25)+200, 1e-4)

	loss = b.filled(1, 1, 0)
	b.run(&kernels.SquaredError{X: b.put(1, 2, 1, 5), Target: b.put(1, 2, 3, 2), Weight: 0.5, Loss: loss},
		&kernels.SumSquares{X: b.put(1, 2, 3, 4), Y: loss})
	b.close("SquaredError and SumSquares", loss.F32()[0], 6.5+25, 0)

	index := b.ints(9, 9, 9)
	b.run(&kernels.ArgMax{X: b.put(3, 3, 1, 3, 3, -5, -6, -7, 0, 0, 0), Index: index})
	if got := [3]int32(index.I32()); got != [3]int32{1, 0, 0} {
		t.Errorf("ArgMax = %v", got)
	}
}

// Patchify, from the side of the pixels.
func TestPatchify(t *testing.T) {
	b := newBench(t, 10)
	const images, c, h, w, s = 2, 3, 4, 6, 2
	x, y := b.normal(images, c*h*w), b.out(images*(h/s)*(w/s), c*s*s)
	b.run(&kernels.Patchify{X: x, Y: y, Channels: c, Height: h, Width: w, Size: s})
	i := 0
	for image := range images {
		for ch := range c {
			for py := range h {
				for px := range w {
					row := image*(h/s)*(w/s) + py/s*(w/s) + px/s
					if got := y.F32()[row*c*s*s+ch*s*s+py%s*s+px%s]; got != x.F32()[i] {
						t.Fatalf("image %d, channel %d, pixel (%d, %d) = %v, want %v", image, ch, px, py, got, x.F32()[i])
					}
					i++
				}
			}
		}
	}
}

// Bytes are normalised by three operations, each rounded to float32.
func TestPatchifyBytes(t *testing.T) {
	b := newBench(t, 10)
	for _, norm := range [][2]float32{{0.5, 0.5}, {0.485, 0.229}} {
		x, y := b.empty(kernels.U8, 1, 256), b.out(1, 256)
		for i := range x.U8() {
			x.U8()[i] = byte(i)
		}
		b.run(&kernels.Patchify{X: x, Y: y, Channels: 1, Height: 16, Width: 16, Size: 16, Mean: norm[0], Std: norm[1]})
		for i, got := range y.F32() {
			// float64 has more than twice float32's digits: rounding twice is rounding once.
			part := float32(float64(i) / 255)
			rest := float32(float64(part) - float64(norm[0]))
			if want := float32(float64(rest) / float64(norm[1])); got != want {
				t.Fatalf("byte %d becomes %v, want %v", i, got, want)
			}
		}
	}
}

// A row's mask depends on its id alone, its words are those of the blocks in
// order, and the share of zeros is the rate.
func TestDropout(t *testing.T) {
	b := newBench(t, 11)
	const n, d, rate = 64, 301, 0.3
	key := [2]uint32{3, 4}
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = int32(-i * 1000)
	}
	x, y, part := b.filled(n, d, 1), b.out(n, d), b.out(1, d)
	b.run(&kernels.Dropout{X: x, Row: b.ints(ids...), Y: y, Rate: rate, Key: key},
		&kernels.Dropout{X: x.Slice(0, 1), Row: b.ints(ids[5]), Y: part, Rate: rate, Key: key})
	zeros := 0.0
	for r := range n {
		for c4 := 0; c4 < d; c4 += 4 {
			block := rng.Philox(key, [4]uint32{uint32(ids[r]), uint32(c4 / 4)})
			for c := c4; c < min(c4+4, d); c++ {
				want := 0.0
				if float64(block[c-c4]) >= float64(float32(rate))*(1<<32) {
					want = 1 / 0.7
				} else {
					zeros++
				}
				b.close("Dropout", y.F32()[r*d+c], want, 1e-6)
			}
		}
	}
	if z := (zeros - n*d*rate) / math.Sqrt(n*d*rate*(1-rate)); math.Abs(z) > 5 {
		t.Errorf("%v zeros of %d, %.1f standard errors off", zeros, n*d, z)
	}
	for c, v := range part.F32() {
		if v != y.Row(5)[c] {
			t.Fatal("the mask depends on the place of the row")
		}
	}
}

// Choices follow the softmax over the other groups, over rows and over keys,
// and belong to ids, not places.
func TestSampleNegative(t *testing.T) {
	b := newBench(t, 12)
	const n = 20000
	dots := []float32{0.3, -0.2, 0.9, 0.1, 0.5, -0.4, 0.05, 0.35}
	groups := []int32{1, 2, 0, 3, 4, 5, 0, 6} // a row of group 0 may not draw columns 2 and 6
	const logScale = 1.2
	var p [8]float64
	sum := 0.0
	for c, v := range dots {
		if groups[c] != 0 {
			p[c] = math.Exp(math.Exp(logScale) * float64(v))
			sum += p[c]
		}
	}
	chi := func(what string, draw func(i int) int32) {
		var count [8]float64
		for i := range n {
			count[draw(i)]++
		}
		x := 0.0
		for c := range p {
			want := p[c] / sum * n
			if want == 0 {
				if count[c] > 0 {
					t.Errorf("%s: %v draws of a positive", what, count[c])
				}
				continue
			}
			x += (count[c] - want) * (count[c] - want) / want
		}
		t.Logf("%s: chi-square %.1f", what, x)
		if x > 30.9 { // 5 degrees of freedom: p = 1e-5
			t.Errorf("%s: chi-square %.1f against the softmax", what, x)
		}
	}

	all := make([]float32, 0, n*8)
	ids, rowGroup := make([]int32, n), make([]int32, n)
	for i := range n {
		all = append(all, dots...)
		ids[i] = int32(i)
	}
	colID := []int32{10, 11, 12, 13, 14, 15, 16, 17}
	o := kernels.SampleNegative{Dot: b.put(n, 8, all...), LogScale: b.put(1, 1, logScale), RowGroup: b.ints(rowGroup...),
		ColGroup: b.ints(groups...), RowID: b.ints(ids...), ColID: b.ints(colID...), Key: [2]uint32{5, 6}, Index: b.ints(ids...)}
	b.run(&o)
	chi("rows", func(i int) int32 { return o.Index.I32()[i] })

	one := o
	one.Dot, one.RowGroup, one.RowID, one.Index = o.Dot.Slice(0, 1), b.ints(0), b.ints(77), b.ints(0)
	chi("keys", func(i int) int32 {
		one.Key[0] = uint32(i)
		b.run(&one)
		return one.Index.I32()[0]
	})

	// The columns in reverse, the rows from the middle.
	mirrored := make([]float32, 8)
	mirroredGroup, mirroredID := make([]int32, 8), make([]int32, 8)
	for c := range 8 {
		mirrored[c], mirroredGroup[c], mirroredID[c] = dots[7-c], groups[7-c], colID[7-c]
	}
	m := o
	m.Dot, m.ColGroup, m.ColID = b.put(1, 8, mirrored...), b.ints(mirroredGroup...), b.ints(mirroredID...)
	m.RowGroup, m.Index = b.ints(0), b.ints(0)
	for i := 100; i < 200; i++ {
		m.RowID = b.ints(ids[i])
		b.run(&m)
		if got, want := 7-m.Index.I32()[0], o.Index.I32()[i]; got != want {
			t.Fatalf("row %d draws column %d, in another order %d", i, want, got)
		}
	}

	// Everything but the own pair underflows; a row without candidates.
	index := b.ints(9, 9)
	b.run(&kernels.SampleNegative{Dot: b.put(2, 3, 1, -1, -0.5, 1, 1, 1), LogScale: b.put(1, 1, 8), RowGroup: b.ints(0, 1), ColGroup: b.ints(0, 1, 1),
		RowID: b.ints(0, 1), ColID: b.ints(0, 1, 2), Index: index},
		&kernels.SampleNegative{Dot: b.put(1, 1, 1), LogScale: b.put(1, 1, 8), RowGroup: b.ints(4), ColGroup: b.ints(4),
			RowID: b.ints(0), ColID: b.ints(0), Index: kernels.Matrix(index.Mem, 4, kernels.I32, 1, 1)})
	if got := [2]int32(index.I32()); got != [2]int32{2, -1} {
		t.Errorf("draws %v, want [2 -1]", got)
	}
}

// Twenty steps against SPEC §8 in its textbook form: bias-corrected moments,
// Eps added to √v before the correction, decay of the updated parameter.
func TestAdamW(t *testing.T) {
	for _, c := range []struct{ decay, eps, scale float64 }{{0, 1e-8, 1}, {0.01, 1e-8, 0.5}, {5, 0.3, 1}} {
		b := newBench(t, 13)
		const n, rate, b1, b2 = 9, 0.0625, 0.9, 0.98
		p, m, v := b.normal(1, n), b.filled(1, n, 0), b.filled(1, n, 0)
		var wantP, wantM, wantV [n]float64
		for i, x := range p.F32() {
			wantP[i] = float64(x)
		}
		for step := 1; step <= 20; step++ {
			grad := b.normal(1, n)
			b.run(&kernels.AdamW{P: p, M: m, V: v, Grad: grad, Rate: rate, Decay: float32(c.decay), Beta1: b1, Beta2: b2,
				Eps: float32(c.eps), GradScale: float32(c.scale), Step: step})
			for i, x := range grad.F32() {
				g := c.scale * float64(x)
				wantM[i] += (1 - b1) * (g - wantM[i])
				wantV[i] += (1 - b2) * (g*g - wantV[i])
				mHat := wantM[i] / (1 - math.Pow(b1, float64(step)))
				root := (math.Sqrt(wantV[i]) + c.eps) / math.Sqrt(1-math.Pow(b2, float64(step)))
				wantP[i] = (wantP[i] - rate*mHat/root) * (1 - rate*c.decay)
				b.close("P", p.F32()[i], wantP[i], 4e-6)
				b.close("M", m.F32()[i], wantM[i], 1e-6)
				b.close("V", v.F32()[i], wantV[i], 1e-6)
			}
		}
	}
}

func TestErrors(t *testing.T) {
	const big = 1 << 20
	for _, c := range []struct {
		want string
		op   func(b *bench) (kernels.Op, kernels.Tensor)
	}{
		{"Gather: Index[2] is 5, the table has 5 rows", func(b *bench) (kernels.Op, kernels.Tensor) {
			y := b.filled(3, 2, 7)
			return &kernels.Gather{Table: b.normal(5, 2), Index: b.ints(4, -1, 5), Y: y}, y
		}},
		{"ScatterAdd: Index[1] is 1048576, the table has 5 rows", func(b *bench) (kernels.Op, kernels.Tensor) {
			y := b.filled(5, 2, 7)
			return &kernels.ScatterAdd{Y: b.normal(2, 2), Index: b.ints(0, big), Table: y}, y
		}},
		{"CrossEntropy: Label[1] is -1, want [0, 3)", func(b *bench) (kernels.Op, kernels.Tensor) {
			y := b.filled(2, 3, 7)
			return &kernels.CrossEntropy{Logits: b.normal(2, 3), Label: b.ints(0, -1), Loss: b.filled(1, 1, 0), DLogits: y}, y
		}},
		{"CrossEntropy: Label[0] is 3, want [0, 3)", func(b *bench) (kernels.Op, kernels.Tensor) {
			y := b.filled(1, 1, 7)
			return &kernels.CrossEntropy{Logits: b.normal(2, 3), Label: b.ints(3, 0), Loss: y}, y
		}},
		{"Contrast: RowGroup[1] is 9, no column is of that group", func(b *bench) (kernels.Op, kernels.Tensor) {
			y := b.filled(1, 1, 7)
			return &kernels.Contrast{Dot: b.normal(2, 2), LogScale: b.filled(1, 1, 0), RowGroup: b.ints(1, 9), ColGroup: b.ints(1, 2), Loss: y}, y
		}},
		{"Fill: Y", func(b *bench) (kernels.Op, kernels.Tensor) {
			y := b.filled(1, 1, 7)
			return &kernels.Fill{Y: kernels.Tensor{Mem: &kernels.Memory{Addr: 64, Bytes: 4}, Rows: 1, Cols: 1, Stride: 1}}, y
		}},
	} {
		b := newBench(t, 1)
		op, y := c.op(b)
		b.Run(op)
		if err := b.Sync(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want %q", err, c.want)
		}
		for _, v := range y.F32() {
			if v != 7 {
				t.Errorf("%s: wrote a result", c.want)
				break
			}
		}
	}
	d := New()
	if _, err := d.Alloc(-1); err == nil || d.Sync() == nil {
		t.Error("Alloc(-1) has no error")
	}
}

// A use after Free is an error, not a fault.
func TestFree(t *testing.T) {
	b := newBench(t, 1)
	y := b.filled(1, 4, 0)
	b.Free(y.Mem)
	b.Run(&kernels.Fill{Y: y})
	if b.Sync() == nil {
		t.Error("an op wrote to freed memory")
	}
}
