package engine

import (
	"errors"
	"math"
	"path/filepath"
	"slices"
	"testing"

	"vlmo-train/kernels"
	"vlmo-train/kernels/ref"
)

// adamw is one update of one element in float64, as in SPEC §8: decay apart
// from the moments, bias correction by the parameter's own number of steps.
func adamw(w, g, m, v float64, step int, lr, decay, b1, b2, eps float64) (float64, float64, float64) {
	m, v = b1*m+(1-b1)*g, b2*v+(1-b2)*g*g
	w -= lr * math.Sqrt(1-math.Pow(b2, float64(step))) / (1 - math.Pow(b1, float64(step))) * m / (math.Sqrt(v) + eps)
	return w - lr*decay*w, m, v
}

func close32(a float32, b, tolerance float64) bool {
	return math.Abs(float64(a)-b) <= tolerance*math.Max(1, math.Abs(b))
}

// The optimiser against its formula: clipping by the norm of the whole
// gradient, decay and rate by parameter, parameters without a gradient.
func TestOptimizer(t *testing.T) {
	const lr, decay, b1, b2, eps = 0.1, 0.5, 0.9, 0.98, 1e-8
	for _, clip := range []float64{0, 0.5, 100} {
		st := NewStore()
		a, b := st.Add("a.weight", 2, 3), st.Add("b.bias", 2)
		idle, frozen := st.Add("idle.weight", 4), st.Add("frozen.weight", 2)
		if err := st.Build(ref.New(), true); err != nil {
			t.Fatal(err)
		}
		b.Decay, b.LRMult = false, 3
		frozen.Frozen = true
		if !frozen.Touch().IsZero() {
			t.Fatal("a frozen parameter has a place for its gradient")
		}
		wa, wb := []float32{1, -2, 3, -4, 5, -6}, []float32{0.5, -0.5}
		st.Set(a, wa)
		st.Set(b, wb)
		st.Set(idle, []float32{1, 2, 3, 4})
		st.Set(frozen, []float32{7, 8})
		type state struct{ w, m, v float64 }
		want := map[*Param][]state{a: make([]state, 6), b: make([]state, 2)}
		for i, w := range wa {
			want[a][i].w = float64(w)
		}
		for i, w := range wb {
			want[b][i].w = float64(w)
		}
		o := Optimizer{Beta1: b1, Beta2: b2, Eps: eps, Decay: decay, Clip: float32(clip)}
		steps := map[*Param]int{}
		for step := 1; step <= 3; step++ {
			st.ZeroGrad()
			grads := map[*Param][]float32{a: {0.1, -0.2, 0.3, 0.4, -0.5, float32(step)}, b: {0.6, 0.7}}
			if step == 1 {
				delete(grads, b) // its first gradient comes later
			}
			sum := 0.0
			for p, g := range grads {
				st.dev.Write(p.Touch(), g)
				for _, x := range g {
					sum += float64(x) * float64(x)
				}
			}
			norm, err := o.Update(st, lr)
			if err != nil || math.Abs(norm-math.Sqrt(sum)) > 1e-6 {
				t.Fatalf("clip %v, step %d: norm %v, %v, want %v", clip, step, norm, err, math.Sqrt(sum))
			}
			scale := 1.0
			if clip > 0 && math.Sqrt(sum) > clip {
				scale = clip / math.Sqrt(sum)
			}
			for p, g := range grads {
				steps[p]++
				rate, d := lr, decay
				if p == b {
					rate, d = 3*lr, 0
				}
				for i, x := range g {
					e := &want[p][i]
					e.w, e.m, e.v = adamw(e.w, float64(x)*scale, e.m, e.v, steps[p], rate, d, b1, b2, eps)
				}
			}
			for p, list := range want {
				if p.Steps != steps[p] {
					t.Errorf("%s has %d steps, want %d", p.Name, p.Steps, steps[p])
				}
				w := st.Get(p)
				m, v := st.Moments(p)
				for i, e := range list {
					if !close32(w[i], e.w, 2e-6) || !close32(m[i], e.m, 2e-6) || !close32(v[i], e.v, 2e-6) {
						t.Errorf("clip %v, step %d, %s[%d]: %v %v %v, want %v", clip, step, p.Name, i, w[i], m[i], v[i], e)
					}
				}
			}
		}
		if !slices.Equal(st.Get(idle), []float32{1, 2, 3, 4}) || !slices.Equal(st.Get(frozen), []float32{7, 8}) || idle.Steps+frozen.Steps != 0 {
			t.Error("a parameter without a gradient has changed")
		}
		if st.Gradient(idle) != nil || st.Gradient(a) == nil {
			t.Error("Gradient tells no gradient from one")
		}
	}
}

// A gradient that is not finite changes nothing.
func TestOptimizerNotFinite(t *testing.T) {
	for _, bad := range []float32{float32(math.NaN()), float32(math.Inf(-1)), 1e30} {
		st := toyStore(t)
		train(t, st, 0, 2)
		want := toyStore(t)
		train(t, want, 0, 2)
		p := st.Params()[0]
		g := make([]float32, p.Len())
		g[7] = bad
		st.dev.Write(p.Touch(), g)
		o := Optimizer{Beta1: 0.9, Beta2: 0.98, Eps: 1e-8, Clip: 1}
		if norm, err := o.Update(st, 0.1); !errors.Is(err, ErrNotFinite) || !(math.IsNaN(norm) || math.IsInf(norm, 1)) {
			t.Errorf("gradient %v: norm %v, error %v", bad, norm, err)
		}
		wantSame(t, st, want)
	}
}

// Views of the store are apart and matrices of the first dimension × the rest.
func TestStoreViews(t *testing.T) {
	st := toyStore(t)
	for i, p := range st.Params() {
		v := make([]float32, p.Len())
		for j := range v {
			v[j] = float32(100*i + j)
		}
		st.Set(p, v)
	}
	n := 0
	for i, p := range st.Params() {
		for j, x := range st.Get(p) {
			if x != float32(100*i+j) {
				t.Errorf("%s[%d] is %v", p.Name, j, x)
			}
		}
		n += p.Len()
	}
	if w := st.Params()[0].Value; w.Rows != 3 || w.Cols != 5 {
		t.Errorf("a matrix of shape 3×5 is viewed as %v", w)
	}
	if st.Len() != n || n != 15+17+1+4 {
		t.Errorf("%d elements, want %d", st.Len(), n)
	}
	if st.Param("logit_scale") != st.Params()[2] || st.Param("none") != nil {
		t.Error("Param finds the wrong one")
	}
}

// The bfloat16 copy holds the values, rounded, after Set, after an update and
// after a checkpoint is loaded, which keeps the values themselves.
func TestHalf(t *testing.T) {
	build := func(compute kernels.DType) (*Store, *Param, *Param) {
		st := NewStore()
		st.Compute = compute
		a, idle := st.Add("a.weight", 3, 7), st.Add("idle.weight", 5)
		if err := st.Build(ref.New(), true); err != nil {
			t.Fatal(err)
		}
		return st, a, idle
	}
	rounded := func(st *Store, p *Param) {
		t.Helper()
		half := make([]uint16, p.Len())
		st.dev.Read(half, p.As(kernels.BF16))
		for i, v := range st.Get(p) {
			if half[i] != kernels.RoundBF16(v) {
				t.Fatalf("%s: element %d is %v, its copy %v", p.Name, i, v, kernels.FromBF16(half[i]))
			}
		}
	}
	st, a, idle := build(kernels.BF16)
	v := make([]float32, a.Len())
	for i := range v {
		v[i] = float32(math.Sin(float64(i) + 1))
	}
	st.Set(a, v)
	st.Set(idle, v[:5])
	rounded(st, a)
	st.dev.Write(a.Touch(), v)
	o := Optimizer{Beta1: 0.9, Beta2: 0.98, Eps: 1e-8}
	if _, err := o.Update(st, 0.1); err != nil {
		t.Fatal(err)
	}
	if slices.Equal(st.Get(a), v) {
		t.Error("the update changed nothing")
	}
	rounded(st, a)
	rounded(st, idle)

	dir := filepath.Join(t.TempDir(), "c")
	if err := SaveCheckpoint(dir, st, struct{}{}); err != nil {
		t.Fatal(err)
	}
	for _, compute := range []kernels.DType{kernels.F32, kernels.BF16} {
		other, b, _ := build(compute)
		if err := LoadCheckpoint(dir, other, &struct{}{}); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(other.Get(b), st.Get(a)) {
			t.Errorf("a store that computes in %v has other values than the checkpoint", compute)
		}
		if compute == kernels.BF16 {
			rounded(other, b)
		} else if !b.As(kernels.BF16).IsZero() || b.As(kernels.F32) != b.Value {
			t.Error("a store in single precision has a copy")
		}
	}
}

// Parts, set one after the other, are the whole, in bfloat16 too.
func TestSetPart(t *testing.T) {
	st := NewStore()
	st.Compute = kernels.BF16
	st.Add("first.weight", 3, 2)
	a := st.Add("a.weight", 2, 3)
	if err := st.Build(ref.New(), true); err != nil {
		t.Fatal(err)
	}
	want := []float32{1, 2, 3, 4, 5, 1.00390625}
	st.SetPart(a, 4, want[4:])
	st.SetPart(a, 0, want[:4])
	if got := st.Get(a); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if a.Half.IsZero() {
		t.Fatal("no bfloat16 values")
	}
	for i, v := range want {
		if got := a.Half.BF16()[i/3*a.Half.Stride+i%3]; got != kernels.RoundBF16(v) {
			t.Errorf("element %d is %#x in bfloat16, want %#x", i, got, kernels.RoundBF16(v))
		}
	}
}
