package vlmo

import (
	"fmt"
	"maps"
	"math"
)

// Resize returns a state dict under VLMo's names for the image size and the
// text length of c; the sizes it has follow from its tensors (SPEC §9). The
// square part of the relative position table is interpolated by a cubic
// spline on geometric coordinates, transformer.pos_embed by bicubic
// interpolation with its class row kept, and the text position table is cut.
// Tensors that stay share their data with in.
//
// It is an error if a table's rows fit no square image or, relative, not
// c.MaxTextInit; if the relative table is of an image below 3 × 3 patches,
// where there is no cubic; or if the text positions are too few.
func Resize(in HostTensors, c *Config) (HostTensors, error) {
	out := maps.Clone(in)
	for _, r := range []struct {
		name string
		to   func(HostTensor, *Config) (HostTensor, error)
	}{
		{biasTable, resizeBias},
		{posEmbed, resizePositions},
		{textPosTable, cutText},
	} {
		t, ok := in[r.name]
		if !ok {
			continue
		}
		if err := t.check(r.name); err != nil {
			return nil, err
		}
		t, err := r.to(t, c)
		if err != nil {
			return nil, fmt.Errorf("vlmo: %s of shape %v: %w", r.name, in[r.name].Shape, err)
		}
		out[r.name] = t
	}
	return out, nil
}

func cutText(t HostTensor, c *Config) (HostTensor, error) {
	if len(t.Shape) != 2 {
		return t, fmt.Errorf("want [text length, dim]")
	}
	if t.Shape[0] < c.MaxText {
		return t, fmt.Errorf("too few positions for the text length %d", c.MaxText)
	}
	return HostTensor{[]int{c.MaxText, t.Shape[1]}, t.Data[:c.MaxText*t.Shape[1]]}, nil
}

func resizeBias(t HostTensor, c *Config) (HostTensor, error) {
	if len(t.Shape) != 2 {
		return t, fmt.Errorf("want [rows, layers·heads]")
	}
	rows, cols := t.Shape[0], t.Shape[1]
	tail := 2*c.MaxTextInit + 5
	src, err := side(rows - tail)
	if err != nil {
		return t, fmt.Errorf("with text length %d for the table's layout: %w", c.MaxTextInit, err)
	}
	dst := 2*c.Window() - 1
	if src == dst {
		return t, nil
	}
	if src < 5 {
		return t, fmt.Errorf("an image of %d × %d patches is too small for cubic interpolation", (src+1)/2, (src+1)/2)
	}
	at := make([]float64, dst)
	for i := range at {
		at[i] = float64(i - dst/2)
	}
	b := splineMatrix(geometric(src, dst), at)
	data := resample(b, t.Data[:src*src*cols], src, cols)
	return HostTensor{[]int{dst*dst + tail, cols}, append(data, t.Data[src*src*cols:]...)}, nil
}

func resizePositions(t HostTensor, c *Config) (HostTensor, error) {
	if len(t.Shape) != 3 || t.Shape[0] != 1 || t.Shape[1] < 2 {
		return t, fmt.Errorf("want [1, 1 + patches, dim]")
	}
	patches, dim := t.Shape[1]-1, t.Shape[2]
	src := int(math.Round(math.Sqrt(float64(patches))))
	if src*src != patches {
		return t, fmt.Errorf("%d patches are no square image", patches)
	}
	dst := c.Window()
	if src == dst {
		return t, nil
	}
	data := append([]float32(nil), t.Data[:dim]...)
	data = append(data, resample(bicubicMatrix(src, dst), t.Data[dim:], src, dim)...)
	return HostTensor{[]int{1, 1 + dst*dst, dim}, data}, nil
}

// resample applies b [dst, n] to both axes of the n × n image x of cols
// channels, in float64.
func resample(b [][]float64, x []float32, n, cols int) []float32 {
	dst := len(b)
	out := make([]float32, dst*dst*cols)
	band := make([]float64, n*cols) // one output row before the second axis
	sum := make([]float64, cols)
	for i := range dst {
		clear(band)
		for y, w := range b[i] {
			if w == 0 {
				continue
			}
			for k, v := range x[y*n*cols : (y+1)*n*cols] {
				band[k] += w * float64(v)
			}
		}
		for j := range dst {
			clear(sum)
			for col, w := range b[j] {
				if w == 0 {
					continue
				}
				for k, v := range band[col*cols : (col+1)*cols] {
					sum[k] += w * v
				}
			}
			for k, v := range sum {
				out[(i*dst+j)*cols+k] = float32(v)
			}
		}
	}
	return out
}

// geometric returns src coordinates, odd in number and symmetric about 0,
// whose spacings grow by a factor q per step outward. q in [1.01, 1.5] is
// bisected to 1e-6 such that they reach out to dst/2.
func geometric(src, dst int) []float64 {
	half := src / 2
	lo, hi := 1.01, 1.5
	var q float64
	for hi-lo > 1e-6 {
		q = (lo + hi) / 2
		if (1-math.Pow(q, float64(half)))/(1-q) > float64(dst/2) {
			hi = q
		} else {
			lo = q
		}
	}
	x := make([]float64, src)
	at, step := 0.0, 1.0
	for i := range half {
		at += step
		step *= q
		x[half+1+i], x[half-1-i] = at, -at
	}
	return x
}

// splineMatrix returns the matrix [len(at), len(x)] that takes values at the
// ascending knots x, at least 4, to the values at the points at of their
// interpolating cubic spline with not-a-knot ends. Points outside are clamped.
func splineMatrix(x, at []float64) [][]float64 {
	n := len(x)
	m := moments(x)
	b := make([][]float64, len(at))
	for k, p := range at {
		p = min(max(p, x[0]), x[n-1])
		i := 0
		for i < n-2 && p > x[i+1] {
			i++
		}
		h := x[i+1] - x[i]
		u, v := (x[i+1]-p)/h, (p-x[i])/h
		row := make([]float64, n)
		for j := range row {
			row[j] = h * h / 6 * ((u*u*u-u)*m[i][j] + (v*v*v-v)*m[i+1][j])
		}
		row[i] += u
		row[i+1] += v
		b[k] = row
	}
	return b
}

// moments returns the matrix [n, n] that takes values at the knots x to the
// second derivatives there of their not-a-knot spline.
func moments(x []float64) [][]float64 {
	n := len(x)
	// Each row holds an equation in the n second derivatives and, to its
	// right, how the equation's other side depends on the n values.
	a := make([][]float64, n)
	for i := range a {
		a[i] = make([]float64, 2*n)
	}
	h := func(i int) float64 { return x[i+1] - x[i] }
	for i := 1; i < n-1; i++ {
		l, r := h(i-1), h(i)
		a[i][i-1], a[i][i], a[i][i+1] = l, 2*(l+r), r
		a[i][n+i-1], a[i][n+i], a[i][n+i+1] = 6/l, -6/l-6/r, 6/r
	}
	// The third derivative is continuous at the second knot and the last but one.
	for _, e := range [...]struct{ row, i int }{{0, 1}, {n - 1, n - 2}} {
		l, r := h(e.i-1), h(e.i)
		a[e.row][e.i-1], a[e.row][e.i], a[e.row][e.i+1] = r, -(l + r), l
	}
	for i := range n { // Gauss-Jordan with row pivoting
		p := i
		for r := i + 1; r < n; r++ {
			if math.Abs(a[r][i]) > math.Abs(a[p][i]) {
				p = r
			}
		}
		a[i], a[p] = a[p], a[i]
		f := 1 / a[i][i]
		for k := i; k < 2*n; k++ {
			a[i][k] *= f
		}
		for r := range n {
			f := a[r][i]
			if r == i || f == 0 {
				continue
			}
			for k := i; k < 2*n; k++ {
				a[r][k] -= f * a[i][k]
			}
		}
	}
	for i := range a {
		a[i] = a[i][n:]
	}
	return a
}

// bicubicMatrix returns the matrix [dst, src] of cubic convolution with
// a = −0.75, pixel centres at half-integers and edges repeated.
func bicubicMatrix(src, dst int) [][]float64 {
	const a = -0.75
	near := func(d float64) float64 { return ((a+2)*d-(a+3))*d*d + 1 }
	far := func(d float64) float64 { return ((a*d-5*a)*d+8*a)*d - 4*a }
	b := make([][]float64, dst)
	for i := range b {
		p := (float64(i)+0.5)*float64(src)/float64(dst) - 0.5
		base := math.Floor(p)
		f := p - base
		b[i] = make([]float64, src)
		for k, w := range [...]float64{far(1 + f), near(f), near(1 - f), far(2 - f)} {
			b[i][min(max(int(base)-1+k, 0), src-1)] += w
		}
	}
	return b
}
