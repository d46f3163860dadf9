package main

import (
	"math"
	"time"

	"vlmo-train/kernels"
)

// productResult is the speed of a matrix product.
type productResult struct {
	Task      string  `json:"task"`
	Precision string  `json:"precision"`
	Threads   int     `json:"threads"`
	Clock     string  `json:"clock"`
	Impl      string  `json:"impl"`
	Kind      string  `json:"kind"` // forward, data or weight
	M         int     `json:"m"`
	N         int     `json:"n"`
	K         int     `json:"k"`
	GFLOPs    float64 `json:"gflops"`
}

// Rows of tokens in a product, and inputs and outputs of the linear layers of
// VLMo-Base and of the small model; gemm.py has the same.
var (
	tokenRows = []int{96, 1576, 1672, 5000}
	layerDims = [][2]int{{768, 768}, {768, 2304}, {768, 3072}, {3072, 768}, {192, 192}, {192, 576}, {192, 768}, {768, 192}}
)

// products measures forward products y = x·wᵀ and the gradients of data,
// dy·w, and weights, += dyᵀ·x.
func products(dev kernels.Device, o *options, now func() float64) error {
	for _, rows := range tokenRows {
		for _, d := range layerDims {
			in, out := d[0], d[1]
			for _, kind := range []string{"forward", "data", "weight"} {
				m, n, k := rows, out, in
				switch kind {
				case "data":
					n, k = in, out
				case "weight":
					m, n, k = out, in, rows
				}
				speed, err := timeProduct(dev, o.precision, now, kind, m, n, k, 100*time.Millisecond)
				if err != nil {
					return err
				}
				r := productResult{"gemm", o.precision, o.threads, o.clock, "vlmo-train", kind, m, n, k, speed}
				if err := emit(r); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// product returns the GFLOP/s of a forward product.
func product(dev kernels.Device, precision string, now func() float64, m, n, k int, d time.Duration) (float64, error) {
	return timeProduct(dev, precision, now, "forward", m, n, k, d)
}

// timeProduct repeats a product for d and returns the GFLOP/s of the fastest.
func timeProduct(dev kernels.Device, precision string, now func() float64, kind string, m, n, k int, d time.Duration) (float64, error) {
	typ, err := dtype(precision)
	if err != nil {
		return 0, err
	}
	op := &kernels.MatMul{TransA: kind == "weight", TransB: kind == "forward", Accumulate: kind == "weight"}
	var mem []*kernels.Memory
	defer func() {
		for _, m := range mem {
			dev.Free(m)
		}
	}()
	matrix := func(t kernels.DType, rows, cols int) kernels.Tensor {
		if err != nil {
			return kernels.Tensor{}
		}
		var x *kernels.Memory
		if x, err = dev.Alloc(rows * cols * t.Size()); err != nil {
			return kernels.Tensor{}
		}
		mem = append(mem, x)
		return kernels.Matrix(x, 0, t, rows, cols)
	}
	if op.A = matrix(typ, m, k); op.TransA {
		op.A = op.A.Reshape(k, m)
	}
	if op.B = matrix(typ, k, n); op.TransB {
		op.B = op.B.Reshape(n, k)
	}
	result := typ
	if op.Accumulate {
		result = kernels.F32 // as gradients of weights are
	}
	op.C = matrix(result, m, n)
	if err != nil {
		return 0, err
	}
	// Not zeros, which cost a processor less power. Both halves of the number
	// are the same, so that it is 0.37 in bfloat16 as well.
	for _, t := range []kernels.Tensor{op.A, op.B} {
		dev.Run(&kernels.Fill{Y: kernels.Matrix(t.Mem, 0, kernels.F32, 1, t.Mem.Bytes/4), Value: math.Float32frombits(0x3ebd3ebd)})
	}
	dev.Run(op)
	var best float64
	began := time.Now()
	for i := 0; i < 3 || time.Since(began) < d; i++ {
		start := now()
		dev.Run(op)
		if err := dev.Sync(); err != nil {
			return 0, err
		}
		if took := now() - start; took > 0 && (best == 0 || took < best) {
			best = took
		}
	}
	return float64(op.FLOPs()) / best / 1e9, nil
}
