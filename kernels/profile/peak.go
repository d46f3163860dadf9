package profile

import (
	"fmt"
	"math"
	"time"

	"vlmo-train/kernels"
)

// Peak is what a device reaches in its own ops: FLOPs a second in a large
// product of each type of operand, and bytes a second in a large copy.
type Peak struct {
	FLOPs map[kernels.DType]float64
	Bytes float64
}

// products are the types that peaks are measured of.
var products = [...]kernels.DType{kernels.F32, kernels.BF16}

// Measure times a product of 1024³ and the copy of 64 MiB, the fastest of
// several times each.
func Measure(dev kernels.Device) (Peak, error) {
	p := Peak{FLOPs: map[kernels.DType]float64{}}
	const n = 1024
	for _, t := range products {
		op := &kernels.MatMul{TransB: true}
		free, err := matrices(dev, t, n, n, &op.A, &op.B, &op.C)
		if err != nil {
			return p, err
		}
		best, err := fastest(dev, op)
		free()
		if err != nil {
			return p, err
		}
		p.FLOPs[t] = float64(op.FLOPs()) / best.Seconds()
	}

	op := new(kernels.Gather)
	free, err := matrices(dev, kernels.F32, 16*n, n, &op.Table, &op.Y)
	if err != nil {
		return p, err
	}
	defer free()
	freeIndex, err := matrices(dev, kernels.I32, 1, 16*n, &op.Index)
	if err != nil {
		return p, err
	}
	defer freeIndex()
	rows := make([]int32, op.Index.Cols)
	for i := range rows {
		rows[i] = int32(i)
	}
	dev.Write(op.Index, rows)
	best, err := fastest(dev, op)
	if err != nil {
		return p, err
	}
	p.Bytes = float64(op.Bytes()) / best.Seconds()
	return p, nil
}

// matrices allocates tensors of one shape; free gives them back.
func matrices(dev kernels.Device, t kernels.DType, rows, cols int, list ...*kernels.Tensor) (free func(), err error) {
	var mem []*kernels.Memory
	free = func() {
		for _, m := range mem {
			dev.Free(m)
		}
	}
	for _, x := range list {
		m, err := dev.Alloc(rows * cols * t.Size())
		if err != nil {
			free()
			return nil, fmt.Errorf("profile: %w", err)
		}
		mem = append(mem, m)
		*x = kernels.Matrix(m, 0, t, rows, cols)
	}
	return free, nil
}

func fastest(dev kernels.Device, op kernels.Op) (best time.Duration, err error) {
	began := time.Now()
	for i := 0; i < 3 || time.Since(began) < 100*time.Millisecond; i++ {
		start := time.Now()
		dev.Run(op)
		if err := dev.Sync(); err != nil {
			return 0, fmt.Errorf("profile: %w", err)
		}
		if took := max(time.Since(start), 1); i == 1 || i > 1 && took < best {
			best = took // the first one warms up
		}
	}
	return best, nil
}

// best returns the time that an op on operands of these types needs at least.
func (p *Peak) best(types []kernels.DType, flops, bytes int64) time.Duration {
	fastest := p.FLOPs[kernels.F32]
	for _, t := range types {
		fastest = max(fastest, p.FLOPs[t])
	}
	var s float64
	if fastest > 0 {
		s = float64(flops) / fastest
	}
	if p.Bytes > 0 {
		s = max(s, float64(bytes)/p.Bytes)
	}
	return time.Duration(math.Round(s * 1e9))
}

// String gives the peaks in GFLOP/s and GB/s.
func (p Peak) String() string {
	s := ""
	for _, t := range products {
		s += fmt.Sprintf("%.0f GFLOP/s in %v products, ", p.FLOPs[t]/1e9, t)
	}
	return s + fmt.Sprintf("%.1f GB/s in copies", p.Bytes/1e9)
}
