package vlmo

import (
	"math"
	"slices"
	"testing"
)

func relError(t *testing.T, got, want HostTensor) float64 {
	t.Helper()
	if !slices.Equal(got.Shape, want.Shape) {
		t.Fatalf("shape %v, want %v", got.Shape, want.Shape)
	}
	var worst, scale float64
	for i, w := range want.Data {
		worst = max(worst, math.Abs(float64(got.Data[i]-w)))
		scale = max(scale, math.Abs(float64(w)))
	}
	return worst / scale
}

func TestResizeParity(t *testing.T) {
	for _, tc := range []struct{ dir, name string }{
		{"resize_rel/", biasTable},
		{"resize_abs/", posEmbed},
	} {
		in := readParity(t, tc.dir+"weights_small.safetensors")
		c := importConfig()
		c.ImageSize, c.MaxText = 40, 9
		out, err := Resize(in, &c)
		if err != nil {
			t.Fatal(err)
		}
		e := relError(t, out[tc.name], readParity(t, tc.dir+"outputs.safetensors")[tc.name])
		t.Logf("%s: relative error %.1e", tc.name, e)
		if !(e < 1e-6) {
			t.Errorf("%s: relative error %g", tc.name, e)
		}
		text := out[textPosTable]
		if dim := in[textPosTable].Shape[1]; !slices.Equal(text.Shape, []int{9, dim}) || !slices.Equal(text.Data, in[textPosTable].Data[:9*dim]) {
			t.Errorf("%s: text positions are not the first 9 rows", tc.dir)
		}
		if in[tc.name].Shape[len(in[tc.name].Shape)-2] == out[tc.name].Shape[len(out[tc.name].Shape)-2] {
			t.Errorf("%s: the input was changed", tc.name)
		}
		// At the size it has, a checkpoint stays as it is.
		c.ImageSize, c.MaxText = 24, 12
		if out, err = Resize(in, &c); err != nil {
			t.Fatal(err)
		}
		for name := range in {
			if !equalTensor(in[name], out[name]) {
				t.Errorf("%s changed at the same size", name)
			}
		}
	}
}

// A not-a-knot spline reproduces every cubic polynomial; outside it is clamped.
func TestSplineMatrix(t *testing.T) {
	f := func(x float64) float64 { return 2 - x + 0.5*x*x - 0.25*x*x*x }
	for _, n := range []int{4, 5, 27, 59} {
		x := geometric(n|1, n+20)[:n]
		at := []float64{x[0] - 3, x[0], (x[0] + x[1]) / 2, x[2], 0.3, x[n-1], x[n-1] + 9}
		for k, row := range splineMatrix(x, at) {
			var got float64
			for j, w := range row {
				got += w * f(x[j])
			}
			want := f(min(max(at[k], x[0]), x[n-1]))
			if math.Abs(got-want) > 1e-9*(1+math.Abs(want)) {
				t.Errorf("%d knots at %g: %g, want %g", n, at[k], got, want)
			}
		}
	}
	// Two cubics through 1, 0, 0 | 0, 0, joined at 2 with equal first and
	// second derivatives: the left one has the value −3/64 at 1.5.
	row := splineMatrix([]float64{0, 1, 2, 3, 4}, []float64{1.5})[0]
	if math.Abs(row[0]+3.0/64) > 1e-15 {
		t.Errorf("weight of the end value at 1.5 is %g, want −3/64", row[0])
	}
}

func TestGeometric(t *testing.T) {
	for _, s := range [][2]int{{27, 47}, {27, 59}, {47, 59}} {
		x := geometric(s[0], s[1])
		n := len(x)
		if n != s[0] || x[n/2] != 0 || x[n/2+1] != 1 {
			t.Fatalf("%v: coordinates %v", s, x)
		}
		if reach := x[n-1]; math.Abs(reach-float64(s[1]/2)) > 1e-3 {
			t.Errorf("%v: reach %g, want %d", s, reach, s[1]/2)
		}
		for i := range x {
			if x[i] != -x[n-1-i] {
				t.Errorf("%v: not symmetric at %d", s, i)
			}
		}
	}
}

func TestResizeErrors(t *testing.T) {
	rel := readParity(t, "resize_rel/weights_small.safetensors")
	abs := readParity(t, "resize_abs/weights_small.safetensors")
	c := importConfig()
	c.ImageSize = 40
	c.MaxTextInit = 196
	_, err := Resize(rel, &c)
	wantError(t, err, biasTable, "[70 6]", "196")
	c = importConfig()
	c.MaxText = 13
	_, err = Resize(abs, &c)
	wantError(t, err, textPosTable, "[12 36]", "13")
	abs[posEmbed] = HostTensor{[]int{1, 9, 36}, abs[posEmbed].Data[:9*36]}
	_, err = Resize(abs, &c)
	wantError(t, err, posEmbed, "8 patches")
	rel[biasTable] = HostTensor{[]int{9 + 45, 1}, make([]float32, 54)}
	_, err = Resize(rel, &c)
	wantError(t, err, biasTable, "2 × 2 patches")
}
