package verify

import (
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
