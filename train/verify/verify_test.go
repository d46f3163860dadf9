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
