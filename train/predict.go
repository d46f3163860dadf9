package train

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"vlmo-train/kernels"
	"vlmo-train/train/config"
)

// GPU is what NVIDIA's data sheets say of a GPU: dense tensor-core rates with
// f32 sums, no sparsity.
type GPU struct {
	Name      string  // as --gpu takes it
	Model     string  // what is sold
	BF16, F32 float64 // FLOPs a second: tensor cores, plain cores
	Bandwidth float64 // bytes a second
	Memory    int64   // bytes
	Source    string
}

// GPUs are those that predictions know.
var GPUs = []GPU{
	{"h200", "H200 SXM", 989e12, 67e12, 4.8e12, 141e9, "NVIDIA H200 data sheet"},
	{"h100", "H100 SXM", 989e12, 67e12, 3.35e12, 80e9, "NVIDIA H100 data sheet"},
	{"h100-pcie", "H100 PCIe", 756e12, 51e12, 2.0e12, 80e9, "NVIDIA H100 PCIe product brief"},
	{"a100", "A100 80 GB SXM", 312e12, 19.5e12, 2.039e12, 80e9, "NVIDIA A100 data sheet"},
	{"l40s", "L40S", 362e12, 91.6e12, 864e9, 48e9, "NVIDIA L40S data sheet"},
	{"l4", "L4", 121e12, 30.3e12, 300e9, 24e9, "NVIDIA L4 data sheet"},
	{"rtx4090", "GeForce RTX 4090", 165.2e12, 82.6e12, 1.008e12, 24e9, "NVIDIA Ada GPU architecture white paper"},
	{"rtx3090", "GeForce RTX 3090", 71e12, 35.6e12, 936e9, 24e9, "NVIDIA GA102 GPU architecture white paper"},
}

// FindGPU returns the GPU of that name.
func FindGPU(name string) (GPU, error) {
	var names []string
	for _, g := range GPUs {
		if g.Name == strings.ToLower(name) {
			return g, nil
		}
		names = append(names, g.Name)
	}
	return GPU{}, fmt.Errorf("train: no data of GPU %q, there are those of %s", name, strings.Join(names, ", "))
}

// What a prediction assumes, since no GPU was at hand to measure it.
const (
	assumedProducts  = 0.70 // share of the peak in large products (cuBLASLt)
	assumedSmall     = 0.25 // in others
	assumedAttention = 0.30 // in attention, on mma.sync
	backProducts     = 1.9  // of what attention's backward pass needs, its kernels compute so much: counted
	assumedMemory    = 0.80 // share of the bandwidth in all else
	assumedLaunch    = 4e-6 // seconds that an op takes at least
	largeProduct     = 1 << 24
)

// seconds returns what an op is predicted to take on g: the larger of the times
// for its FLOPs and for its bytes at the assumed shares of the peaks.
func (g *GPU) seconds(op kernels.Op) float64 {
	rate, extra := g.F32*assumedSmall, 0.0
	switch o := op.(type) {
	case *kernels.MatMul:
		m, n, k := o.Dims()
		share := assumedSmall
		if m*n*k >= largeProduct {
			share = assumedProducts
			extra = float64(activationPasses[o.Act] * o.C.Len() * o.C.Type.Size())
		}
		rate = g.F32 * share
		if o.A.Type == kernels.BF16 {
			rate = g.BF16 * share
		}
	case *kernels.Attention:
		if o.Q.Type == kernels.BF16 {
			rate = g.BF16 * assumedAttention
		}
	case *kernels.AttentionGrad:
		if o.Q.Type == kernels.BF16 {
			rate = g.BF16 * assumedAttention / backProducts
		}
	}
	memory := g.Bandwidth * assumedMemory
	return max(assumedLaunch, float64(op.FLOPs())/rate, float64(op.Bytes())/memory) + extra/memory
}

// activationPasses is how often the kernel that follows a product in cuBLASLt,
// which has no GELU by erf, goes over a tensor of the result's size.
var activationPasses = map[kernels.Activation]int{kernels.GELU: 2, kernels.GELUGrad: 3}

// Prediction is what a stage's step might take on a GPU. Nothing of it is
// measured.
type Prediction struct {
	StagePlan
	GPU     GPU
	Seconds float64            // a step's
	Ops     map[string]float64 // seconds by op
}

// predictBatch is the largest batch that is counted as it is; steps of larger
// ones take proportionally longer.
const predictBatch = 256

// Predict predicts the stages of c on a GPU; with a batch other than 0 instead
// of theirs.
func Predict(c *config.Run, gpu GPU, batch int) ([]Prediction, error) {
	own := *c
	own.Stages = slices.Clone(c.Stages)
	if batch > 0 {
		for i := range own.Stages {
			own.Stages[i].Batch = batch
		}
	}
	plan, err := NewPlan(&own)
	if err != nil {
		return nil, err
	}
	kept := plan
	if own.Recompute == config.RecomputeAuto {
		never := own
		never.Recompute = config.RecomputeNever
		if kept, err = NewPlan(&never); err != nil {
			return nil, err
		}
	}
	var list []Prediction
	for i := range plan.Stages {
		chosen := own
		p := Prediction{StagePlan: plan.Stages[i], GPU: gpu, Ops: map[string]float64{}}
		// As settle does with what is free.
		if k := &kept.Stages[i]; kept != plan && float64(k.stepBytes()) <= keepShare*float64(gpu.Memory-k.MemoryBytes()+k.stepBytes()) {
			p.StagePlan, chosen.Recompute = *k, config.RecomputeNever
		}
		t := &planner{gpu: &gpu, seconds: map[string]float64{}}
		r := &Run{Config: &chosen, Dev: t}
		if err := r.openVocabulary(); err != nil {
			return nil, err
		}
		st := &own.Stages[i]
		s, _, err := r.planned(i)
		if err != nil {
			return nil, fmt.Errorf("train: prediction of stage %s: %w", st.Name, err)
		}
		n := min(st.Batch, predictBatch)
		cycle := lossCycle(st)
		for step := range cycle {
			clear(t.seconds)
			if _, _, err := r.countStep(s, step, n, p.TextLen); err != nil {
				return nil, fmt.Errorf("train: prediction of stage %s: %w", st.Name, err)
			}
			for name, sec := range t.seconds {
				p.Ops[name] += sec * float64(st.Batch) / float64(n) / float64(cycle)
			}
		}
		for _, sec := range p.Ops {
			p.Seconds += sec
		}
		list = append(list, p)
	}
	return list, nil
}

// WritePredictions prints predictions, labelled as such.
func WritePredictions(w io.Writer, list []Prediction) error {
	if len(list) == 0 {
		return nil
	}
	g := list[0].GPU
	fmt.Fprintf(w, "Prediction, not a measurement: %s (%.0f TFLOP/s bf16, %.1f TFLOP/s f32, %.2f TB/s, %.0f GB; %s).\n", g.Model, g.BF16/1e12, g.F32/1e12, g.Bandwidth/1e12, float64(g.Memory)/1e9, g.Source)
	fmt.Fprintf(w, "Assumed: large products reach %.0f %% of the peak, small ones %.0f %%, attention %.0f %%, all else %.0f %% of the bandwidth; an op takes %.0f µs at least; the data keeps up.\n\n",
		100*assumedProducts, 100*assumedSmall, 100*assumedAttention, 100*assumedMemory, 1e6*assumedLaunch)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "stage\tprecision\tbatch\tpredicted memory\tfits\trecompute\tFLOPs a step\tpredicted step\tpredicted examples/s\tof bf16 peak\t")
	for i := range list {
		p := &list[i]
		answer := map[bool]string{true: "yes", false: "no"}
		fits := answer[p.MemoryBytes() <= g.Memory*95/100]
		fmt.Fprintf(tw, "%s\t%s\t%d\t%s\t%s\t%s\t%s\t%.1f ms\t%.0f\t%.0f %%\t\n", p.Name, p.Precision, p.Batch, bytesText(p.MemoryBytes()), fits, answer[p.Recompute], flopsText(p.FLOPs),
			1e3*p.Seconds, float64(p.Batch)/p.Seconds, 100*p.FLOPs/p.Seconds/g.BF16)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for i := range list {
		p := &list[i]
		fmt.Fprintf(w, "\nstage %s, predicted time by op\n", p.Name)
		tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
		names := slices.SortedFunc(maps.Keys(p.Ops), func(a, b string) int { return cmp.Or(cmp.Compare(p.Ops[b], p.Ops[a]), cmp.Compare(a, b)) })
		for _, name := range names {
			fmt.Fprintf(tw, "%s\t%.2f ms\t%.1f %%\t\n", name, 1e3*p.Ops[name], 100*p.Ops[name]/p.Seconds)
		}
		if err := tw.Flush(); err != nil {
			return err
		}
	}
	return nil
}
