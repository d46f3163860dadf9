package main

import (
	"fmt"

	"vlmo-train/engine"
	"vlmo-train/kernels"
	"vlmo-train/vlmo"
)

// task runs steps of one kind, as package train does.
type task struct {
	kind string
	m    *vlmo.Model
	s    *engine.Step
	opt  engine.Optimizer
	buf  *engine.DoubleBuffer
	next kernels.Tensor // pixels of the batch that put brought
}

// newTask makes a task with the savings that package train has on, or others.
func newTask(dev kernels.Device, kind string, c vlmo.Config, drop float64, savings *vlmo.Savings) (*task, error) {
	m, err := vlmo.New(dev, c, training(kind))
	if err != nil {
		return nil, err
	}
	m.DropPath = drop
	m.PackWeights = !training(kind)
	if savings != nil {
		m.Savings = *savings
	}
	m.Init(1)
	return &task{kind: kind, m: m, s: engine.NewStep(dev, 1), buf: engine.NewDoubleBuffer(dev), opt: engine.Optimizer{Beta1: 0.9, Beta2: 0.98, Eps: 1e-8, Decay: 0.01}}, nil
}

func training(kind string) bool { return kind == "pretrain" || kind == "small" }

// put brings the pixels of the batch that step takes next.
func (t *task) put(b *pairs) (err error) {
	t.next, err = t.buf.Put(b.image, len(b.Texts), len(b.image)/len(b.Texts))
	return err
}

// step runs a step on b, which put brought, and returns the losses of a training
// step. While it computes, the pixels of next travel, unless it is nil.
func (t *task) step(number int, b, next *pairs) (map[string]float64, error) {
	b.Pixels = t.next
	if !training(t.kind) {
		if err := t.embed(number, b); err != nil || next == nil {
			return nil, err
		}
		return nil, t.put(next)
	}
	t.s.Begin(uint64(number), true)
	t.m.Store.ZeroGrad()
	l, err := t.m.Pretrain(t.s, &b.Batch, vlmo.Weights{MLM: 0.25, ITC: 1, ITM: 1})
	if err != nil {
		return nil, err
	}
	t.s.Backward()
	if next != nil {
		if err := t.put(next); err != nil {
			return nil, err
		}
	}
	v := l.Values(t.s.Dev)
	if err := t.s.Err(); err != nil {
		return nil, err
	}
	if _, err := t.opt.Update(t.m.Store, 1e-5); err != nil {
		return nil, err
	}
	return map[string]float64{"mlm": v.MLM, "itc": v.ITC, "itm": v.ITM}, nil
}

// embed computes the features that retrieval searches, and reads them.
func (t *task) embed(number int, b *pairs) error {
	t.s.Begin(uint64(number), false)
	var p vlmo.Phase
	var px kernels.Tensor
	modality, n := 0, len(b.Texts)
	if t.kind == "embed-image" {
		modality = 1
		px = b.Pixels
		for i := range n {
			p.Images = append(p.Images, vlmo.Unimodal{Image: i, Sample: uint64(i)})
		}
	} else {
		for i, text := range b.Texts {
			p.Texts = append(p.Texts, vlmo.Unimodal{Text: text, Sample: uint64(i)})
		}
	}
	p.Layout(1 + t.m.Patches())
	rows := make([]int, n)
	for i := range rows {
		if modality == 1 {
			rows[i] = p.ImageRow(i, 0, vlmo.Own)
		} else {
			rows[i] = p.TextRow(i, 0, vlmo.Own)
		}
	}
	f, err := t.m.Encode(t.s, &p, px, rows)
	if err != nil {
		return err
	}
	y := t.m.Project(t.s, vlmo.Own, modality, f).X
	t.s.Dev.Read(make([]float32, y.Len()), y)
	return t.s.Err()
}

// count returns the FLOPs of a step, its activations and all its device
// memory in bytes, without running it.
func count(kind string, c vlmo.Config, drop float64, savings *vlmo.Savings, data func(step int) *pairs) (flops, activations, memory int64, err error) {
	dev := new(kernels.Counter)
	t, err := newTask(dev, kind, c, drop, savings)
	if err != nil {
		return 0, 0, 0, err
	}
	b := data(0)
	for range 2 { // both places
		if err := t.put(b); err != nil {
			return 0, 0, 0, err
		}
	}
	parameters := dev.Peak
	before := dev.FLOPs
	if _, err := t.step(0, b, nil); err != nil {
		return 0, 0, 0, fmt.Errorf("counting a step: %w", err)
	}
	activations = int64(t.s.Arena.Peak())
	return dev.FLOPs - before, activations, parameters + activations, nil
}
