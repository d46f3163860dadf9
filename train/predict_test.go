package train

import (
	"math"
	"strings"
	"testing"

	"vlmo-train/kernels"
	"vlmo-train/train/config"
)

// The predicted time of an op is that of its slower side, worked out by hand.
func TestPredictedSeconds(t *testing.T) {
	g, err := FindGPU("H100")
	check(t, err)
	matrix := func(typ kernels.DType, rows, cols int) kernels.Tensor {
		return kernels.Matrix(&kernels.Memory{Bytes: rows * cols * typ.Size()}, 0, typ, rows, cols)
	}
	square := func(typ kernels.DType, n int) kernels.Op {
		return &kernels.MatMul{A: matrix(typ, n, n), B: matrix(typ, n, n), C: matrix(typ, n, n)}
	}
	gelu := square(kernels.BF16, 4096).(*kernels.MatMul)
	gelu.Act = kernels.GELU // by a kernel that reads the result and writes it
	for _, c := range []struct {
		op   kernels.Op
		want float64
	}{
		{gelu, 137438953472/(0.7*989e12) + 2*33554432/(0.8*3.35e12)},
		{square(kernels.BF16, 4096), 137438953472 / (0.7 * 989e12)},
		{square(kernels.F32, 4096), 137438953472 / (0.7 * 67e12)},
		{square(kernels.BF16, 8), 4e-6},
		{&kernels.Copy{X: matrix(kernels.F32, 1024, 65536), Y: matrix(kernels.F32, 1024, 65536)}, 2 * 268435456 / (0.8 * 3.35e12)},
	} {
		if got := g.seconds(c.op); math.Abs(got/c.want-1) > 1e-9 {
			t.Errorf("%s: %v s, want %v", c.op.Name(), got, c.want)
		}
	}
	// The kernels of attention's backward pass compute 1.9 times what it needs.
	long := kernels.AttentionGrad{Heads: 1, Sequences: []kernels.Sequence{{ImageLen: 8192}}}
	for _, t := range []*kernels.Tensor{&long.Q, &long.K, &long.V, &long.Out, &long.DOut, &long.DQ, &long.DK, &long.DV} {
		*t = matrix(kernels.BF16, 8192, 64)
	}
	if got, want := g.seconds(&long), 1.9*float64(long.FLOPs())/(0.3*989e12); math.Abs(got/want-1) > 1e-9 {
		t.Errorf("AttentionGrad: %v s, want %v", got, want)
	}
	_, err = FindGPU("voodoo")
	wantError(t, err, "voodoo", "h100")
}

// A predicted step is no faster than the peaks allow, grows with the batch, is
// faster in bf16, and says that it is none that was made.
func TestPredict(t *testing.T) {
	c, err := config.Preset("base-vl")
	check(t, err)
	g, err := FindGPU("h100")
	check(t, err)
	predict := func(p config.Precision, batch int) Prediction {
		c.Precision = p
		list, err := Predict(c, g, batch)
		check(t, err)
		if len(list) != 1 {
			t.Fatalf("%d stages", len(list))
		}
		return list[0]
	}
	half := predict(config.BF16, 128)
	if least := half.FLOPs / g.BF16; half.Seconds < least || half.Seconds > 10*least {
		t.Errorf("a step of %.3g FLOPs takes %.3g s, at the peak %.3g s", half.FLOPs, half.Seconds, least)
	}
	if single := predict(config.FP32, 128); single.Seconds < 2*half.Seconds {
		t.Errorf("%v s in f32, %v s in bf16", single.Seconds, half.Seconds)
	}
	quarter := predict(config.BF16, 32)
	if quarter.Seconds*5 < half.Seconds || quarter.Seconds*2 > half.Seconds {
		t.Errorf("batch 32 takes %v s, 128 %v s", quarter.Seconds, half.Seconds)
	}
	if half.Recompute {
		t.Error("batch 128 computes norms and activations again, with memory for them")
	}
	if most := predict(config.BF16, 512); !most.Recompute {
		t.Errorf("batch 512 keeps everything, with %s", bytesText(most.MemoryBytes()))
	}
	c.Recompute = config.RecomputeAlways
	if again := predict(config.BF16, 128); !again.Recompute || again.Seconds <= half.Seconds || again.MemoryBytes() >= half.MemoryBytes() {
		t.Errorf("computing again takes %v s and %s, keeping %v s and %s", again.Seconds, bytesText(again.MemoryBytes()), half.Seconds, bytesText(half.MemoryBytes()))
	}
	if c.Stages[0].Batch == 128 {
		t.Error("the configuration was changed")
	}
	var out strings.Builder
	check(t, WritePredictions(&out, []Prediction{half}))
	for _, w := range []string{"Prediction, not a measurement: H100 SXM", "predicted examples/s", "predicted time by op", "MatMul"} {
		if !strings.Contains(out.String(), w) {
			t.Errorf("%q is not in\n%s", w, &out)
		}
	}
}
