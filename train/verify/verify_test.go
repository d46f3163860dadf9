package verify

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"vlmo-train/kernels"
	"vlmo-train/kernels/cpu"
	"vlmo-train/kernels/ref"
)

// TestCases holds the model on both backends against every parity case.
func TestCases(t *testing.T) {
	root := "../../testdata/parity"
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	devices := map[string]func() (kernels.Device, error){
		"ref": func() (kernels.Device, error) { return ref.New(), nil },
		"cpu": func() (kernels.Device, error) { return cpu.New(cpu.Options{Threads: 2}) },
	}
	cases := 0
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		cases++
		for name, open := range devices {
			t.Run(e.Name()+"/"+name, func(t *testing.T) {
				dev, err := open()
				if err != nil {
					t.Fatal(err)
				}
				results, err := Run(dev, filepath.Join(root, e.Name()))
				if err != nil {
					t.Fatal(err)
				}
				if len(results) == 0 {
					t.Fatal("nothing was compared")
				}
				for _, r := range results {
					if !r.OK() {
						t.Errorf("%s: %s: error %.3g exceeds %.3g", r.Quantity, r.Worst, r.Err, r.Limit)
					} else {
						t.Logf("%s: %s: %.2g of %.2g", r.Quantity, r.Worst, r.Err, r.Limit)
					}
				}
			})
		}
	}
	if cases == 0 {
		t.Fatal("no cases in " + root)
	}
}

func TestCaseFolders(t *testing.T) {
	root := "../../testdata/parity"
	all, err := Cases([]string{root})
	if err != nil {
		t.Fatal(err)
	}
	one := filepath.Join(root, "text_mlm")
	got, err := Cases([]string{filepath.Join(root, "README.md"), one})
	if err != nil || len(got) != 1 || got[0] != one {
		t.Errorf("a file and a case give %q, %v", got, err)
	}
	if len(all) < 10 {
		t.Errorf("the folder of cases gives %d", len(all))
	}
	for _, bad := range [][]string{{t.TempDir()}, {filepath.Join(root, "none")}, {filepath.Join(root, "README.md")}} {
		if got, err := Cases(bad); err == nil {
			t.Errorf("%q gives %q", bad, got)
		}
	}
}

// TestFinds wants a wrong gradient, a wrong output and a touched parameter
// found: the comparison must be able to fail.
func TestFinds(t *testing.T) {
	if e := relative([]float32{1, 2}, []float32{1, 2.1}); e < 0.04 || e > 0.05 {
		t.Errorf("relative error %v, want about 0.043", e)
	}
	r := &runner{name: "x"}
	r.compare("q", 1e-5, map[string][]float32{"a": {1}, "b": {2}}, map[string][]float32{"a": {1}, "b": {2.1}})
	r.compare("missing", 1e-5, map[string][]float32{}, map[string][]float32{"a": {1}})
	r.compare("nothing", 1e-5, map[string][]float32{"a": {1}}, nil)
	for _, res := range r.results {
		if res.OK() {
			t.Errorf("%s passes: %+v", res.Quantity, res)
		}
	}
	if r.results[0].Worst != "b" {
		t.Errorf("the worst tensor is %q, want b", r.results[0].Worst)
	}
}

// TestBF16 holds the CPU backend in bf16 against every case and random models,
// which those in single precision pass too.
func TestBF16(t *testing.T) {
	cases, err := Cases([]string{"../../testdata/parity"})
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range cases {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			t.Parallel()
			list, err := RunBF16(newCPU(t), ref.New(), dir)
			check(t, list, err)
		})
	}
	for _, compute := range []kernels.DType{kernels.F32, kernels.BF16} {
		t.Run("random/"+compute.String(), func(t *testing.T) {
			t.Parallel()
			list, err := Random(newCPU(t), ref.New(), compute)
			check(t, list, err)
		})
	}
}

// check wants results, all of them within their limits.
func check(t *testing.T, list []Result, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if len(list) == 0 {
		t.Error("nothing was compared")
	}
	for _, r := range list {
		if r.Case != "preprocess" {
			t.Logf("%s, %s: %s: error %.2g, ref's %.2g, limit %.2g", r.Case, r.Quantity, r.Worst, r.Err, r.Ref, r.Limit)
		}
		if !r.OK() {
			t.Errorf("%s, %s: %s: error %.2g exceeds %.2g", r.Case, r.Quantity, r.Worst, r.Err, r.Limit)
		}
	}
}

func newCPU(t *testing.T) kernels.Device {
	dev, err := cpu.New(cpu.Options{Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	return dev
}

// spoiled is a device whose ops of one kind go wrong.
type spoiled struct {
	kernels.Device
	spoil func(dev kernels.Device, op kernels.Op)
}

func (s *spoiled) Run(op kernels.Op) {
	s.Device.Run(op)
	s.spoil(s.Device, op)
}

// change puts what f makes of them into the elements of a bf16 tensor.
func change(dev kernels.Device, x kernels.Tensor, f func(row, col int, v float32) float32) {
	for i := range x.Rows {
		row, h := x.Slice(i, i+1), make([]uint16, x.Cols)
		dev.Read(h, row)
		for j := range h {
			h[j] = kernels.RoundBF16(f(i, j, kernels.FromBF16(h[j])))
		}
		dev.Write(row, h)
	}
}

// TestBF16Finds wants mistakes found that are small beside a result: the rule
// must be able to fail, and not only where all is wrong.
func TestBF16Finds(t *testing.T) {
	dir := "../../testdata/parity/text_mlm"
	coarse := func(_, _ int, v float32) float32 { // 5 bits of 8
		return math.Float32frombits((math.Float32bits(v) + 1<<18) &^ (1<<19 - 1))
	}
	for name, spoil := range map[string]func(dev kernels.Device, op kernels.Op){
		"LayerNorm rounds to 5 bits": func(dev kernels.Device, op kernels.Op) {
			if o, ok := op.(*kernels.LayerNorm); ok && o.Y.Type == kernels.BF16 {
				change(dev, o.Y, coarse)
			}
			if o, ok := op.(*kernels.ResidualNorm); ok && o.H.Type == kernels.BF16 {
				change(dev, o.H, coarse)
			}
		},
		"attention loses 2 %": func(dev kernels.Device, op kernels.Op) {
			if o, ok := op.(*kernels.Attention); ok {
				change(dev, o.Out, func(_, _ int, v float32) float32 { return 0.98 * v })
			}
		},
		"DQ lacks the last column of a head": func(dev kernels.Device, op kernels.Op) {
			if o, ok := op.(*kernels.AttentionGrad); ok {
				change(dev, o.DQ, func(_, j int, v float32) float32 {
					if j == o.DQ.Cols-1 {
						return 0
					}
					return v
				})
			}
		},
		"a loss is 0.1 % too large": func(dev kernels.Device, op kernels.Op) {
			if o, ok := op.(*kernels.CrossEntropy); ok {
				dev.Run(&kernels.AddScaled{X: o.Loss, Y: o.Loss, Alpha: 1e-3})
			}
		},
		"the gradient of a bias is left out": func(dev kernels.Device, op kernels.Op) {
			if o, ok := op.(*kernels.MatMul); ok && !o.Sum.IsZero() {
				dev.Run(&kernels.Fill{Y: o.Sum})
			}
		},
		"nothing": func(kernels.Device, kernels.Op) {},
	} {
		list, err := RunBF16(&spoiled{newCPU(t), spoil}, ref.New(), dir)
		if err != nil {
			t.Fatal(err)
		}
		found := ""
		for _, r := range list {
			if !r.OK() {
				found += fmt.Sprintf(" %s of %s is %.1f × ref's;", r.Quantity, r.Worst, r.Err/r.Ref)
			}
		}
		t.Logf("%s:%s", name, found)
		if (found == "") != (name == "nothing") {
			t.Errorf("%s: found%s", name, found)
		}
	}
}
