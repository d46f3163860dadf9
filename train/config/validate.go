package config

import (
	"errors"
	"fmt"
	"slices"
)

// problems collects what is wrong with a configuration.
type problems []error

// require notes a problem with the value at key unless ok holds.
func (p *problems) require(ok bool, key, format string, args ...any) {
	if !ok {
		*p = append(*p, fmt.Errorf("%s: %s", key, fmt.Sprintf(format, args...)))
	}
}

// Validate reports every value that makes no sense by itself or beside the
// others, one a line. It asks neither for stages nor for data: a preset may
// be a model alone. See [Run.Ready].
func (r *Run) Validate() error {
	var p problems
	p.require(r.Threads >= 0, "threads", "is %d, must not be negative", r.Threads)
	enumerated(&p, "precision", string(r.Precision), r.Precision.legal())
	enumerated(&p, "recompute", string(r.Recompute), r.Recompute.legal())
	p.require(r.Data.Workers >= 0, "data.workers", "is %d, must not be negative", r.Data.Workers)
	p.require(r.Data.Shuffle >= 0, "data.shuffle", "is %d, must not be negative; 0 takes the default", r.Data.Shuffle)
	validateSets(&p, "data.pairs", r.Data.Pairs)
	validateSets(&p, "data.test", r.Data.Test)
	validateSets(&p, "data.text", r.Data.Text)
	for i, s := range r.Data.Test {
		p.require(s.Weight == 0, fmt.Sprintf("data.test.%d.weight", i), "is %v, but evaluation uses each example once", s.Weight)
	}
	r.Model.validate(&p)
	r.Visual.validate(&p)
	seen := map[string]bool{}
	tokenizer := r.Visual.Weights != ""
	for i := range r.Stages {
		s := &r.Stages[i]
		key := "stages." + s.Name
		p.require(s.Name != "", fmt.Sprintf("stages.%d", i), "has no name")
		p.require(!seen[s.Name], key, "two stages have this name")
		seen[s.Name] = true
		s.validate(&p, key)
		switch s.Kind {
		case Tokenizer:
			p.require(r.Visual.Kind == VQKD, key, "a tokenizer stage trains a visual tokenizer of kind %s, but visual.kind is %s", VQKD, r.Visual.Kind)
			tokenizer = true
		case Vision:
			p.require(r.Visual.Kind != NoVisual, key, "a vision stage predicts the codes of a visual tokenizer: set visual.kind")
			p.require(r.Visual.Kind == NoVisual || tokenizer || r.Visual.Weights != "", key, "the visual tokenizer is untrained: put a tokenizer stage before, or set visual.weights")
		}
	}
	return errors.Join(p...)
}

// Ready reports what else a run needs before it can start: stages, and the
// files they read.
func (r *Run) Ready() error {
	var p problems
	if err := r.Validate(); err != nil {
		p = append(p, err)
	}
	p.require(len(r.Stages) > 0, "stages", "there is none to run")
	p.require(r.Out != "", "out", "name the folder for the results")
	for _, s := range r.Stages {
		if s.Kind == Text {
			p.require(len(r.Data.Text) > 0, "data.text", "stage %s needs texts", s.Name)
		} else {
			p.require(len(r.Data.Pairs) > 0, "data.pairs", "stage %s needs pictures", s.Name)
		}
		p.require(s.EvalEvery == 0 || s.Kind != VL && s.Kind != Retrieval || len(r.Data.Test) > 0, "data.test", "stage %s evaluates every %d steps and needs pictures", s.Name, s.EvalEvery)
	}
	return errors.Join(p...)
}

func validateSets(p *problems, key string, list []Set) {
	weighted := 0
	for i, s := range list {
		at := fmt.Sprintf("%s.%d", key, i)
		p.require(len(s.Path) > 0 && !slices.Contains(s.Path, ""), at+".path", "names no file")
		p.require(s.Weight >= 0, at+".weight", "is %v, must be above 0", s.Weight)
		if s.Weight > 0 {
			weighted++
		}
		if s.Format != "" {
			enumerated(p, at+".format", string(s.Format), s.Format.legal())
		}
	}
	p.require(weighted == 0 || weighted == len(list), key, "%d of %d sets have a weight: either all have one or none", weighted, len(list))
}

func (m *Model) validate(p *problems) {
	positive(p, "model.image_size", m.ImageSize)
	positive(p, "model.patch", m.Patch)
	if m.ImageSize > 0 && m.Patch > 0 {
		p.require(m.ImageSize%m.Patch == 0, "model.image_size", "is %d, not a multiple of the patch edge %d", m.ImageSize, m.Patch)
	}
	width(p, "model", m.Dim, m.Depth, m.Heads)
	positive(p, "model.ffn_ratio", m.FFNRatio)
	p.require(m.VLStart >= 1 && (m.VLStart < m.Depth || m.Depth < 1), "model.vl_start", "is %d, must be from 1 to the last of %d blocks, %d", m.VLStart, m.Depth, m.Depth-1)
	p.require(m.Vocab >= 0, "model.vocab", "is %d, must not be negative", m.Vocab)
	p.require(m.MaxText >= 3, "model.max_text", "is %d, must be at least 3: [CLS], a token and [SEP]", m.MaxText)
	if m.Position == Relative {
		p.require(m.MaxTextInit >= m.MaxText, "model.max_text_init", "is %d, must be at least model.max_text, %d: it sizes the relative bias table", m.MaxTextInit, m.MaxText)
	}
	enumerated(p, "model.position", string(m.Position), m.Position.legal())
	p.require(m.LayerScale >= 0, "model.layer_scale", "is %v, must not be negative; 0 is without", m.LayerScale)
}

func (v *Visual) validate(p *problems) {
	enumerated(p, "visual.kind", string(v.Kind), v.Kind.legal())
	if v.Kind == NoVisual {
		return
	}
	p.require(v.Codes >= 2, "visual.codes", "is %d, must be at least 2", v.Codes)
	if v.Kind != VQKD {
		return
	}
	positive(p, "visual.code_dim", v.CodeDim)
	width(p, "visual", v.Dim, v.Depth, v.Heads)
	positive(p, "visual.decoder_depth", v.DecoderDepth)
	p.require(v.Decay >= 0 && v.Decay < 1, "visual.decay", "is %v, must be from 0 to below 1", v.Decay)
}

func (s *Stage) validate(p *problems, key string) {
	enumerated(p, key+".kind", string(s.Kind), s.Kind.legal())
	enumerated(p, key+".schedule", string(s.Schedule), s.Schedule.legal())
	positive(p, key+".steps", s.Steps)
	positive(p, key+".batch", s.Batch)
	p.require(s.LR > 0, key+".lr", "is %v, must be above 0", s.LR)
	p.require(s.Warmup >= 0 && s.Warmup <= max(s.Steps, 0), key+".warmup", "is %d, must be from 0 to the %d steps of the stage", s.Warmup, s.Steps)
	p.require(s.MinLR >= 0 && s.MinLR <= s.LR, key+".min_lr", "is %v, must be from 0 to lr, %v", s.MinLR, s.LR)
	p.require(s.Decay >= 0, key+".decay", "is %v, must not be negative", s.Decay)
	for i, b := range s.Betas {
		p.require(b >= 0 && b < 1, fmt.Sprintf("%s.betas.%d", key, i), "is %v, must be from 0 to below 1", b)
	}
	p.require(s.Eps > 0, key+".eps", "is %v, must be above 0", s.Eps)
	p.require(s.Clip >= 0, key+".clip", "is %v, must not be negative; 0 does not clip", s.Clip)
	p.require(s.DropPath >= 0 && s.DropPath < 1, key+".drop_path", "is %v, must be from 0 to below 1", s.DropPath)

	w := s.LossWeights
	p.require(w.MLM >= 0 && w.ITC >= 0 && w.ITM >= 0, key+".loss_weights", "must not be negative")
	switch s.Kind {
	case VL:
		p.require(w != LossWeights{}, key+".loss_weights", "are all 0: the stage has no loss")
	case Retrieval:
		p.require(w.ITC > 0, key+".loss_weights.itc", "is %v, must be above 0: retrieval trains by contrast", w.ITC)
		p.require(w.MLM == 0, key+".loss_weights.mlm", "is %v, must be 0: retrieval has no masked words", w.MLM)
	default:
		p.require(w == LossWeights{}, key+".loss_weights", "belong to stages of kind vl or retrieval; a %s stage has one loss", s.Kind)
	}
	if w.ITC > 0 || w.ITM > 0 {
		p.require(s.Batch != 1, key+".batch", "is 1, but contrast and matching need other pairs: at least 2")
	}
	positive(p, key+".mlm_every", s.MLMEvery)
	positive(p, key+".itm_every", s.ITMEvery)
	positive(p, key+".original_world", s.OriginalWorld)
	p.require(s.Compat || s.OriginalWorld <= 1, key+".original_world", "is %d, but has no effect unless compat is true", s.OriginalWorld)
	s.Augment.validate(p, key+".augment")
	for _, c := range []struct {
		key string
		n   int
	}{
		{"max_keywords", s.MaxKeywords}, {"checkpoint_every", s.CheckpointEvery},
		{"eval_every", s.EvalEvery}, {"log_every", s.LogEvery},
	} {
		p.require(c.n >= 0, key+"."+c.key, "is %d, must not be negative", c.n)
	}
}

func (a *Augment) validate(p *problems, key string) {
	for _, c := range []struct {
		key string
		x   float64
		max float64
	}{
		{"flip", a.Flip, 1}, {"rotate", a.Rotate, 180}, {"translate", a.Translate, 1}, {"shear", a.Shear, 80},
		{"brightness", a.Brightness, 1}, {"contrast", a.Contrast, 1}, {"saturation", a.Saturation, 1},
		{"hue", a.Hue, 0.5}, {"gray", a.Gray, 1}, {"erase", a.Erase, 1},
	} {
		p.require(c.x >= 0 && c.x <= c.max, key+"."+c.key, "is %v, must be from 0 to %v", c.x, c.max)
	}
	for _, c := range []struct {
		key string
		r   [2]float64
		max float64
	}{{"crop_area", a.CropArea, 1}, {"crop_ratio", a.CropRatio, 100}, {"scale", a.Scale, 100}} {
		ok := c.r == [2]float64{} || c.r[0] > 0 && c.r[0] <= c.r[1] && c.r[1] <= c.max
		p.require(ok, key+"."+c.key, "is %v, must be a rising range above 0 and up to %v", c.r, c.max)
	}
	r, key := a.RandAugment, key+".rand_augment"
	most := 10.
	if r.Kind == RandPillow {
		most = 30
	}
	if r.Ops != 0 || r.Kind != "" {
		enumerated(p, key+".kind", string(r.Kind), r.Kind.legal())
	}
	p.require(r.Ops >= 0 && r.Ops <= 100, key+".ops", "is %d, must be from 0 to 100", r.Ops)
	p.require(r.Level >= 0 && r.Level <= most, key+".level", "is %v, must be from 0 to %v", r.Level, most)
}

func positive(p *problems, key string, n int) {
	p.require(n >= 1, key, "is %d, must be at least 1", n)
}

func enumerated(p *problems, key, text string, legal []string) {
	err := oneOf(text, legal)
	p.require(err == nil, key, "%v", err)
}

// width checks a transformer's shape.
func width(p *problems, key string, dim, depth, heads int) {
	positive(p, key+".dim", dim)
	positive(p, key+".depth", depth)
	positive(p, key+".heads", heads)
	if dim > 0 && heads > 0 {
		p.require(dim%heads == 0, key+".dim", "is %d, not a multiple of %d heads", dim, heads)
	}
}
