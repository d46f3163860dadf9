// Command cpu measures what a step of VLMo costs on this machine's processors,
// or with the build tag cuda and -device cuda on a GPU:
// pre-training, embedding for retrieval, and the matrix products they are made
// of. It prints a line of JSON for each measurement. peer.py measures the same
// tasks on the same numbers in PyTorch, gemm.py the same products; run.py
// alternates them and writes the results.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"vlmo-train/kernels"
	"vlmo-train/kernels/cpu"
	"vlmo-train/kernels/cuda"
	"vlmo-train/kernels/profile"
	"vlmo-train/train/config"
	"vlmo-train/vlmo"
)

// options are the command line.
type options struct {
	task, precision, model string
	device                 string
	threads, batch, image  int
	gemm                   int
	warmup, steps          int
	clock, profile         string
	savings                string
	maxMemory, maxSeconds  float64
}

// result is what is printed; speeds are in samples a second.
type result struct {
	Task      string    `json:"task"`
	Precision string    `json:"precision"`
	Threads   int       `json:"threads"`
	Clock     string    `json:"clock"`
	Impl      string    `json:"impl"`
	Model     string    `json:"model"`
	Image     int       `json:"image"`
	Batch     int       `json:"batch"`
	Savings   string    `json:"savings,omitempty"`
	Warmup    []float64 `json:"warmup"`
	Seconds   []float64 `json:"seconds"`
	PerSecond float64   `json:"per_second"`
	PeakRSS   int64     `json:"peak_rss"`
	// FLOPs and Memory are a step's and its device memory, counted before it
	// was run.
	FLOPs  int64   `json:"flops"`
	Memory int64   `json:"memory"`
	GFLOPs float64 `json:"gflops"`
	// Peak is the speed of a large product, Share what was reached of it.
	Peak    float64            `json:"gemm_peak"`
	Share   float64            `json:"share"`
	Losses  map[string]float64 `json:"losses,omitempty"`
	Device  string             `json:"device"`
	Ops     []opCost           `json:"ops,omitempty"` // with a profile
	Peaks   map[string]float64 `json:"peaks,omitempty"`
	Skipped string             `json:"skipped,omitempty"` // why nothing was run
}

// opCost is what an op took in all counted steps.
type opCost struct {
	Op     string  `json:"op"`
	Calls  int     `json:"calls"`
	Ms     float64 `json:"ms"`
	GFLOPs float64 `json:"gflops"`
	GBs    float64 `json:"gb_per_s"`
	// Share is the part reached of the time at the ceilings of Peaks: the
	// device's own large products and copies.
	Share float64 `json:"share"`
}

func main() {
	var o options
	flag.StringVar(&o.task, "task", "pretrain", "pretrain, small, embed-image, embed-text or gemm")
	flag.StringVar(&o.precision, "precision", "fp32", "fp32 or bf16")
	flag.StringVar(&o.model, "model", "", "base, base_plus, large or small (the task's)")
	flag.StringVar(&o.device, "device", "cpu", "cpu, cuda or cuda:N")
	flag.IntVar(&o.gemm, "gemm", 2048, "rows, columns and depth of the product whose speed is the peak")
	flag.IntVar(&o.threads, "threads", 2, "threads that compute")
	flag.IntVar(&o.batch, "batch", 0, "samples a step (0: the task's)")
	flag.IntVar(&o.image, "image", 0, "edge of an image in pixels (0: the model's)")
	flag.IntVar(&o.warmup, "warmup", 1, "steps before those that count")
	flag.IntVar(&o.steps, "steps", 2, "steps that count")
	flag.StringVar(&o.clock, "clock", "wall", "wall; or cpu, processor time over threads, for a machine that does other work as well")
	flag.StringVar(&o.savings, "savings", "", "none, or a list with commas of top-rows, drop-rows, distinct, recompute, pack-weights (empty: as in training)")
	flag.StringVar(&o.profile, "profile", "", "write a table and a trace of the counted steps into this folder")
	flag.Float64Var(&o.maxMemory, "max-memory", 0, "GiB; skip what is counted to need more (0: do not)")
	flag.Float64Var(&o.maxSeconds, "max-seconds", 0, "skip steps that would last longer at the speed of products (0: do not)")
	flag.Parse()
	if err := run(&o); err != nil {
		fmt.Fprintln(os.Stderr, "bench/cpu:", err)
		os.Exit(1)
	}
}

func run(o *options) error {
	if flag.NArg() > 0 {
		return fmt.Errorf("no argument %q is known", flag.Arg(0))
	}
	if o.threads < 1 || o.steps < 1 || o.gemm < 1 || o.warmup < 0 || o.batch < 0 || o.image < 0 {
		return errors.New("-threads, -steps and -gemm are at least 1, -warmup, -batch and -image at least 0")
	}
	now, err := newClock(o.clock, o.threads)
	if err != nil {
		return err
	}
	dev, err := open(o)
	if err != nil {
		return err
	}
	if c, ok := dev.(io.Closer); ok {
		defer c.Close()
	}
	if o.task == "gemm" {
		return products(dev, o, now)
	}
	return steps(dev, o, now)
}

// open opens the device.
func open(o *options) (kernels.Device, error) {
	name := config.Device(o.device)
	if n, ok := name.GPU(); ok {
		return cuda.New(n, cuda.Options{})
	}
	if name != config.CPU {
		return nil, fmt.Errorf("unknown device %q, want cpu, cuda or cuda:N", o.device)
	}
	return cpu.New(cpu.Options{Threads: o.threads})
}

// newClock returns a clock that tells seconds.
func newClock(name string, threads int) (func() float64, error) {
	switch name {
	case "wall":
		start := time.Now()
		return func() float64 { return time.Since(start).Seconds() }, nil
	case "cpu":
		return func() float64 { return processorTime().Seconds() / float64(threads) }, nil
	}
	return nil, fmt.Errorf("unknown clock %q, want wall or cpu", name)
}

// dtype returns the type that products multiply in.
func dtype(precision string) (kernels.DType, error) {
	switch precision {
	case "fp32":
		return kernels.F32, nil
	case "bf16":
		return kernels.BF16, nil
	}
	return 0, fmt.Errorf("unknown precision %q, want fp32 or bf16", precision)
}

// model returns the configuration of a model and the drop path rate to train
// it with.
func model(name, precision string) (c vlmo.Config, drop float64, err error) {
	compute, err := dtype(precision)
	if err != nil {
		return c, 0, err
	}
	c = vlmo.Config{Compute: compute, ImageSize: 224, Patch: 16, Dim: 768, Depth: 12, Heads: 12, VLStart: 10, Vocab: 30522, MaxText: 40, MaxTextInit: 196,
		LayerScale: true, LayerScaleInit: 0.1, TokenTypes: 2, With: vlmo.HeadSet{MLM: true, ITC: true, ITM: true}}
	drop = 0.1
	switch name {
	case "base":
	case "base_plus":
		c.Dim, c.Depth, c.Heads, c.VLStart = 544, 24, 16, 21
		c.Absolute, c.LayerScale = true, false
	case "large":
		c.Dim, c.Depth, c.Heads, c.VLStart = 1024, 24, 16, 21
	case "small":
		c.ImageSize, c.Dim, c.Depth, c.Heads, c.VLStart, c.MaxText = 128, 192, 6, 3, 4, 16
		drop = 0
	default:
		return c, 0, fmt.Errorf("unknown model %q, want base, base_plus, large or small", name)
	}
	c.Hidden = 4 * c.Dim
	return c, drop, nil
}

// savings reads the list of those that are on.
func savings(list string) (*vlmo.Savings, error) {
	s := new(vlmo.Savings)
	if list == "none" {
		return s, nil
	}
	for _, name := range strings.Split(list, ",") {
		switch name {
		case "top-rows":
			s.TopRows = true
		case "drop-rows":
			s.DropRows = true
		case "distinct":
			s.Distinct = true
		case "recompute":
			s.Recompute = true
		case "pack-weights":
			s.PackWeights = true
		default:
			return nil, fmt.Errorf("unknown saving %q, want top-rows, drop-rows, distinct, recompute or pack-weights", name)
		}
	}
	return s, nil
}

// steps measures steps of a task.
func steps(dev kernels.Device, o *options, now func() float64) error {
	name, batch := "base", 8
	switch o.task {
	case "pretrain":
	case "small":
		name, batch = "small", 64
	case "embed-image", "embed-text":
		batch = 32
	default:
		return fmt.Errorf("unknown task %q, want pretrain, small, embed-image, embed-text or gemm", o.task)
	}
	if o.model != "" {
		name = o.model
	}
	if o.batch > 0 {
		batch = o.batch
	}
	c, drop, err := model(name, o.precision)
	if err != nil {
		return err
	}
	if o.image > 0 {
		c.ImageSize = o.image
	}
	var on *vlmo.Savings
	if o.savings != "" {
		if on, err = savings(o.savings); err != nil {
			return err
		}
	}
	fixed := 0
	if name == "small" {
		fixed = c.MaxText
	}
	r := result{Task: o.task, Precision: o.precision, Threads: o.threads, Clock: o.clock, Impl: "vlmo-train", Model: name, Image: c.ImageSize,
		Batch: batch, Savings: o.savings, Warmup: []float64{}, Seconds: []float64{}, Device: dev.Name()}
	data := func(step int) *pairs { return synthetic(&c, step, batch, fixed) }

	if free, known := kernels.FreeMemory(dev); known && on == nil {
		// As in training, where there is memory nothing is computed again.
		kept := vlmo.AllSavings
		kept.Recompute = false
		_, _, memory, err := count(o.task, c, drop, &kept, data)
		if err != nil {
			return err
		}
		if float64(memory) <= 7./8*float64(free) {
			on, r.Savings = &kept, "top-rows,drop-rows,distinct"
		}
	}

	var activations int64
	if r.FLOPs, activations, r.Memory, err = count(o.task, c, drop, on, data); err != nil {
		return err
	}
	if gib := float64(r.Memory) / (1 << 30); o.maxMemory > 0 && gib > o.maxMemory {
		r.Skipped = fmt.Sprintf("needs %.1f GiB", gib)
		return emit(r)
	}
	if r.Peak, err = product(dev, o.precision, now, o.gemm, o.gemm, o.gemm, time.Second); err != nil {
		return err
	}
	if s := float64(r.FLOPs) / (r.Peak * 1e9); o.maxSeconds > 0 && s > o.maxSeconds {
		r.Skipped = fmt.Sprintf("a step takes %.0f s or more", s)
		return emit(r)
	}

	var prof *profile.Device
	var peak profile.Peak
	if o.profile != "" {
		if err := os.MkdirAll(o.profile, 0o777); err != nil {
			return err
		}
		if peak, err = profile.Measure(dev); err != nil {
			return err
		}
		prof = profile.New(dev, peak, o.steps)
		dev = prof
	}
	t, err := newTask(dev, o.task, c, drop, on)
	if err != nil {
		return err
	}
	t.s.Arena.Reserve(int(activations + activations/16)) // steps differ by what drop path drops
	next := data(0)
	if err := t.put(next); err != nil {
		return err
	}
	for i := range o.warmup + o.steps {
		b := next
		next = data(i + 1)
		if prof != nil && i >= o.warmup {
			prof.Start()
		}
		start := now()
		r.Losses, err = t.step(i, b, next)
		took := now() - start
		if prof != nil {
			prof.Stop()
		}
		if err != nil {
			return err
		}
		fmt.Fprintf(os.Stderr, "vlmo-train %s %s: step %d %.2f s %v\n", o.task, o.precision, i, took, r.Losses)
		if i < o.warmup {
			r.Warmup = append(r.Warmup, took)
		} else {
			r.Seconds = append(r.Seconds, took)
		}
	}
	if prof != nil {
		if err := writeProfile(prof, o.profile); err != nil {
			return err
		}
		p := prof.Profile()
		for _, row := range p.ByOp() {
			r.Ops = append(r.Ops, opCost{row.Op, row.Calls, float64(row.Time.Microseconds()) / 1e3, row.GFLOPs(), row.GBs(), row.Share()})
		}
		r.Peaks = map[string]float64{"gb_per_s": peak.Bytes / 1e9}
		for t, x := range peak.FLOPs {
			r.Peaks["gflops_"+t.String()] = x / 1e9
		}
	}
	s := median(r.Seconds)
	r.PerSecond = float64(batch) / s
	r.GFLOPs = float64(r.FLOPs) / s / 1e9
	r.Share = r.GFLOPs / r.Peak
	r.PeakRSS = peakMemory()
	return emit(r)
}

func writeProfile(d *profile.Device, dir string) error {
	p := d.Profile()
	table, err := os.Create(filepath.Join(dir, "profile.txt"))
	if err != nil {
		return err
	}
	if err := errors.Join(p.WriteTable(table), table.Close()); err != nil {
		return err
	}
	trace, err := os.Create(filepath.Join(dir, "trace.json"))
	if err != nil {
		return err
	}
	return errors.Join(d.WriteTrace(trace), trace.Close())
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	n := len(s)
	if n == 0 {
		return math.NaN()
	}
	return (s[(n-1)/2] + s[n/2]) / 2
}

// emit prints v as a line of JSON.
func emit(v any) error { return json.NewEncoder(os.Stdout).Encode(v) }
