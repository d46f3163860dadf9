package verify

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"vlmo-train/engine"
	"vlmo-train/kernels"
	"vlmo-train/rng"
	"vlmo-train/vlmo"
)

// In bf16 a tensor's error is that of many roundings, and no fixed limit tells
// a rounding from a mistake. The yardstick is the error that the reference
// backend makes, which rounds where the contract of the ops says so and nowhere
// else: a device may be bf16Factor times as far from the truth in single
// precision. What is within the limits of single precision passes in any case.
//
// That holds for each tensor by itself. But the error of a single number may be
// next to nothing by chance, so few numbers are compared with the largest error
// that the reference makes at this point and at neighbours of it: the same case
// with weights moved by less than what bf16 tells apart, which rounds to other
// numbers everywhere; each has a truth of its own, by the reference in single
// precision.
const (
	bf16Factor = 3
	fewNumbers = 16 // a tensor of fewer has the neighbours' yardstick
	neighbours = 4
)

// measured is a tensor that was computed, and its truth.
type measured struct {
	quantity, tensor string
	saved            bool    // with all of the model's savings
	limit            float64 // of the relative error in single precision
	got, want        []float32
}

// id identifies a tensor in several runs.
type id struct {
	quantity, tensor string
	saved            bool
}

func (m *measured) id() id { return id{m.quantity, m.tensor, m.saved} }

// distance returns ‖a−b‖, infinite where the lengths differ.
func distance(a, b []float32) float64 {
	if len(a) != len(b) {
		return math.Inf(1)
	}
	d := 0.0
	for i := range b {
		e := float64(a[i]) - float64(b[i])
		d += e * e
	}
	return math.Sqrt(d)
}

// trial runs a case: shaken with a seed that is not 0, and then without the
// model's savings only.
type trial func(dev kernels.Device, compute kernels.DType, shaken uint64) ([]measured, error)

// judge compares what a device computes in bf16 with the truth, by what the
// reference makes of it.
func judge(name string, dev, reference kernels.Device, run trial) ([]Result, error) {
	got, err := run(dev, kernels.BF16, 0)
	if err != nil {
		return nil, err
	}
	own, err := run(reference, kernels.BF16, 0)
	if err != nil {
		return nil, err
	}
	yard := map[id]float64{} // ‖error‖
	for _, m := range own {
		yard[m.id()] = distance(m.got, m.want)
	}
	for i := range uint64(neighbours) {
		rounded, err := run(reference, kernels.BF16, 1+i)
		if err != nil {
			return nil, err
		}
		single, err := run(reference, kernels.F32, 1+i)
		if err != nil {
			return nil, err
		}
		truth := map[id][]float32{}
		for _, m := range single {
			truth[m.id()] = m.got
		}
		for _, m := range rounded {
			if len(m.got) >= fewNumbers {
				continue
			}
			d := distance(m.got, truth[m.id()])
			for _, saved := range []bool{false, true} {
				at := id{m.quantity, m.tensor, saved}
				yard[at] = max(yard[at], d)
			}
		}
	}
	return worst(name, got, yard), nil
}

// worst returns a Result for each quantity: of the tensor whose error is
// the largest multiple of its limit.
func worst(name string, all []measured, yard map[id]float64) (list []Result) {
	share := func(r Result) float64 {
		if r.Err == 0 {
			return 0
		}
		return r.Err / r.Limit
	}
	for _, m := range all {
		size := distance(m.want, make([]float32, len(m.want)))
		if size == 0 {
			size = 1
		}
		y, known := yard[m.id()]
		if !known {
			y = math.NaN()
		}
		r := Result{Case: name, Quantity: title(m.quantity, m.saved), Worst: m.tensor, Err: distance(m.got, m.want) / size, Ref: y / size}
		r.Limit = max(bf16Factor*r.Ref, m.limit) // NaN, where the reference lacks the tensor, stays
		i := slices.IndexFunc(list, func(x Result) bool { return x.Quantity == r.Quantity })
		switch {
		case i < 0:
			list = append(list, r)
		case list[i].OK() && !r.OK() || list[i].OK() == r.OK() && cmp.Compare(share(r), share(list[i])) > 0:
			list[i] = r
		}
	}
	return list
}

// shake moves the parameters by up to ±2⁻⁹ of themselves: half of what bf16
// tells apart.
func shake(m *vlmo.Model, seed uint64) {
	if seed == 0 {
		return
	}
	for i, p := range m.Store.Params() {
		src := rng.New(rng.Key{Seed: seed, Purpose: rng.Init, Sample: uint64(i)})
		v := m.Store.Get(p)
		for j := range v {
			v[j] *= 1 + float32(0x1p-9*(2*src.Float64()-1))
		}
		m.Store.Set(p, v)
	}
}

// RunBF16 compares the case in dir on dev, which computes in bf16, without the
// model's savings and with all of them: outputs, losses and gradients may be
// three times as far from the original's as those that reference (kernels/ref)
// computes in bf16. Errors are as with [Run].
func RunBF16(dev, reference kernels.Device, dir string) ([]Result, error) {
	first, err := newRunner(dir)
	if err != nil {
		return nil, err
	}
	if first.c.Images != nil {
		return Run(dev, dir) // no model is concerned
	}
	var exact []Result // of dev: what must hold to the bit
	list, err := judge(first.name, dev, reference, func(d kernels.Device, compute kernels.DType, shaken uint64) ([]measured, error) {
		r := *first
		r.dev, r.compute, r.shake, r.plain, r.keep = d, compute, shaken, shaken != 0, true
		err := r.run()
		if d == dev {
			exact = r.results
		}
		return r.measured, err
	})
	return append(list, exact...), err
}

// Random compares random models with heads of 34, 64 and 128 columns on dev with
// what reference (kernels/ref) computes in single precision; in bf16 by the rule
// of [RunBF16]. All passes of pre-training take part, with paths dropped and
// with sequences of more than one tile of the kernels for GPUs.
func Random(dev, reference kernels.Device, compute kernels.DType) ([]Result, error) {
	var all []Result
	for _, c := range randomModels() {
		name := fmt.Sprintf("random, heads of %d", c.Dim/c.Heads)
		truth, err := randomStep(reference, c, kernels.F32, 0, false)
		if err != nil {
			return all, fmt.Errorf("verify: %s: %w", name, err)
		}
		run := func(d kernels.Device, compute kernels.DType, shaken uint64) (list []measured, err error) {
			for _, saved := range []bool{false, true} {
				if saved && shaken != 0 {
					break
				}
				result, err := randomStep(d, c, compute, shaken, saved)
				if err != nil {
					return nil, fmt.Errorf("verify: %s: %w", name, err)
				}
				got := map[id][]float32{}
				for _, m := range result {
					got[m.id()] = m.got
				}
				for _, m := range truth { // a gradient that d lacks is infinitely wrong
					m.got, m.want, m.saved = got[m.id()], m.got, saved
					list = append(list, m)
				}
			}
			return list, nil
		}
		var list []Result
		if compute == kernels.BF16 {
			list, err = judge(name, dev, reference, run)
		} else {
			var got []measured
			got, err = run(dev, kernels.F32, 0)
			yard := map[id]float64{}
			for _, m := range got {
				yard[m.id()] = 0
			}
			list = worst(name, got, yard)
		}
		all = append(all, list...)
		if err != nil {
			return all, err
		}
	}
	return all, nil
}

// randomModels are tiny in all but their heads.
func randomModels() (list []vlmo.Config) {
	for _, c := range []struct{ dim, heads, image int }{{68, 2, 32}, {64, 1, 16}, {128, 1, 12}} {
		list = append(list, vlmo.Config{ImageSize: c.image, Patch: 4, Dim: c.dim, Depth: 2, Heads: c.heads, Hidden: 48, VLStart: 1,
			Vocab: 50, MaxText: 9, MaxTextInit: 11, LayerScale: true, TokenTypes: 2, With: vlmo.HeadSet{MLM: true, ITC: true, ITM: true}, Compute: kernels.F32})
	}
	return list
}

// randomStep computes the losses and gradients of a step of pre-training a
// random model, as measured.got.
func randomStep(dev kernels.Device, c vlmo.Config, compute kernels.DType, shaken uint64, saved bool) (list []measured, err error) {
	const seed, pairs = 3, 2
	c.Compute = compute
	m, err := vlmo.New(dev, c, true)
	if err != nil {
		return nil, err
	}
	defer m.Store.Close()
	for i, p := range m.Store.Params() {
		src := rng.New(rng.Key{Seed: seed, Purpose: rng.Init, Sample: uint64(i)})
		mean, deviation := 0.0, 0.3
		switch {
		case p.Name == "relative_position_bias_table":
			deviation = 1
		case len(p.Shape) == 0: // a logit scale
			mean, deviation = 1, 0.1
		case len(p.Shape) == 1 && !p.Decay, strings.Contains(p.Name, "bias"):
			deviation = 0.1
		case len(p.Shape) == 1: // γ
			mean, deviation = 0.5, 0.1
		case len(p.Shape) > 1 && p.Shape[0] > 1:
			deviation = 1 / math.Sqrt(float64(p.Len()/p.Shape[0]))
		}
		if strings.HasSuffix(p.Name, "orm.weight") {
			mean = 1
		}
		v := make([]float32, p.Len())
		for j := range v {
			v[j] = float32(mean + deviation*src.Norm())
		}
		m.Store.Set(p, v)
	}
	shake(m, shaken)
	m.DropPath, m.Savings = 0.3, vlmo.Savings{}
	if saved {
		m.Savings = vlmo.AllSavings
	}

	src := rng.New(rng.Key{Seed: seed, Purpose: rng.Order})
	b := &vlmo.Batch{NegativeImage: []int32{1, 0}, NegativeText: []int32{1, 0}}
	pixels := make([]float32, pairs*3*c.ImageSize*c.ImageSize)
	for i := range pixels {
		pixels[i] = float32(src.Norm())
	}
	for i := range pairs {
		text := make(vlmo.Text, c.MaxText-4*i)
		labels := make([]int32, len(text))
		for j := range text {
			text[j], labels[j] = int32(src.IntN(c.Vocab)), -1
		}
		masked := slices.Clone(text)
		masked[1], labels[1] = 0, text[1]
		b.Texts, b.Masked, b.Labels = append(b.Texts, text), append(b.Masked, masked), append(b.Labels, labels)
	}
	s := engine.NewStep(dev, seed)
	defer s.Arena.Close()
	s.Begin(1, true)
	m.Store.ZeroGrad()
	b.Pixels = upload(m, s, pixels)
	l, err := m.Pretrain(s, b, vlmo.Weights{MLM: 0.25, ITC: 1, ITM: 1})
	if err != nil {
		return nil, err
	}
	s.Backward()
	v := l.Values(dev)
	for _, x := range []struct {
		name  string
		value float64
	}{{"mlm", v.MLM}, {"itc", v.ITC}, {"itm", v.ITM}, {"total", v.Total}} {
		list = append(list, measured{quantity: "losses", tensor: x.name, limit: lossLimit, got: scalar(x.value)})
	}
	for _, p := range m.Store.Params() {
		if g := m.Store.Gradient(p); g != nil {
			list = append(list, measured{quantity: "gradients", tensor: p.Name, limit: gradientLimit, got: g})
		}
	}
	return list, s.Err()
}
