package engine

import (
	"math"
	"strings"
	"testing"

	"vlmo-train/kernels"
	"vlmo-train/kernels/ref"
)

// The Finder names the op that makes the first value that is not finite, and
// not one that only reads it.
func TestFinder(t *testing.T) {
	f := &Finder{Device: ref.New()}
	s := NewStep(f, 1)
	s.Begin(0, true)
	x := s.Upload([]float32{1, 2, 3, 4, 5, 6}, 2, 3)
	y := s.Zeros(2, 3)
	Run(s, kernels.AddScaled{X: x, Y: y, Alpha: 1})
	if f.Found != "" {
		t.Fatalf("found %q in finite values", f.Found)
	}
	v := []float32{1, 2, 3, 4, float32(math.Inf(1)), 6}
	s.Dev.Write(x, v)
	wide := s.Zeros(2, 6)
	Run(s, kernels.AddScaled{X: y, Y: wide.Columns(0, 3), Alpha: 1})
	if f.Found != "" {
		t.Fatalf("found %q though nothing has read it", f.Found)
	}
	Run(s, kernels.AddScaled{X: x, Y: wide.Columns(2, 5), Alpha: 1})
	Run(s, kernels.Tanh{X: wide, Y: wide})
	if want := "AddScaled wrote +Inf into Y"; !strings.HasPrefix(f.Found, want) || !strings.HasSuffix(f.Found, "at row 1, column 1") {
		t.Errorf("found %q, want %q at row 1, column 1", f.Found, want)
	}
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}
}
