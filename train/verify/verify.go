// Package verify holds the model against parity cases: folders of weights,
// inputs and the original code's outputs, gradients and trajectories.
package verify

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"vlmo-train/engine"
	"vlmo-train/kernels"
	"vlmo-train/vlmo"
	"vlmo-train/weights"
)

// Limits on the relative error ‖a−b‖/‖b‖.
const (
	lossLimit     = 1e-5
	outputLimit   = 1e-5
	gradientLimit = 1e-4
	weightLimit   = 1e-4
	resizeLimit   = 1e-5
)

// Result is one compared quantity of a case.
type Result struct {
	Case, Quantity string
	Worst          string // the tensor with the largest error
	Err, Limit     float64
	Ref            float64 // in bf16: the error that the reference makes, by which Limit is set
}

// OK reports whether the quantity is within its limit.
func (r Result) OK() bool { return r.Err <= r.Limit } // NaN is not

// caseFile is case.json.
type caseFile struct {
	Task       []string           `json:"task"`
	Losses     map[string]float64 `json:"losses"`
	Total      float64            `json:"total"`
	Trajectory []float64          `json:"trajectory"`
	Negatives  []negatives        `json:"trajectory_negatives"`
	Optimizer  *optimizer         `json:"optimizer"`
	Config     *caseConfig        `json:"config"`
	Codes      int                `json:"codes"`
	Layout     string             `json:"state_dict_layout"`
	FromSize   int                `json:"from_image_size"`
	ToSize     int                `json:"to_image_size"`
	Images     []string           `json:"images"`
}

type negatives struct {
	Image []int32 `json:"image"`
	Text  []int32 `json:"text"`
}

type optimizer struct {
	LR          float64    `json:"lr"`
	WeightDecay float64    `json:"weight_decay"`
	Betas       [2]float64 `json:"betas"`
	Eps         float64    `json:"eps"`
}

type caseConfig struct {
	ImageSize   int  `json:"image_size"`
	Patch       int  `json:"patch_size"`
	Dim         int  `json:"embed_dim"`
	Depth       int  `json:"depth"`
	Heads       int  `json:"num_heads"`
	VLStart     int  `json:"vlffn_start_layer_index"`
	MaxText     int  `json:"max_text_len"`
	MaxTextInit int  `json:"max_text_len_of_initckpt"`
	Vocab       int  `json:"vocab_size"`
	Absolute    bool `json:"abs_pos_embed"`
	LayerScale  bool `json:"layer_scale"`
	VQALabels   int  `json:"vqa_labels"`
}

// runner compares one case on one device.
type runner struct {
	dev     kernels.Device
	dir     string
	name    string
	c       *caseFile
	savings vlmo.Savings
	results []Result

	compute  kernels.DType // of the model
	shake    uint64        // seed by which its weights are moved a little; 0: not
	plain    bool          // leave out the run with all savings
	keep     bool          // compare only notes what it is given, and training is one step
	measured []measured
}

// Cases returns the case folders that the arguments name: each is one, or a
// folder of cases. Plain files, such as a README that a wildcard names too,
// are left out. It is an error if an argument does not exist or holds no case,
// or if none is left.
func Cases(args []string) ([]string, error) {
	var list []string
	isCase := func(dir string) bool {
		_, err := os.Stat(filepath.Join(dir, "case.json"))
		return err == nil
	}
	for _, arg := range args {
		fi, err := os.Stat(arg)
		if err != nil {
			return nil, fmt.Errorf("verify: %w", err)
		}
		if !fi.IsDir() {
			continue
		}
		if isCase(arg) {
			list = append(list, arg)
			continue
		}
		entries, err := os.ReadDir(arg)
		if err != nil {
			return nil, fmt.Errorf("verify: %w", err)
		}
		n := len(list)
		for _, e := range entries {
			if dir := filepath.Join(arg, e.Name()); isCase(dir) {
				list = append(list, dir)
			}
		}
		if len(list) == n {
			return nil, fmt.Errorf("verify: %s is no case and holds none: there is no case.json", arg)
		}
	}
	if len(list) == 0 {
		return nil, errors.New("verify: no folder of a case is named")
	}
	return list, nil
}

// Run compares the case in dir on dev, without the model's savings and with all
// of them. The error is about a case that cannot be read or run; a case that
// runs and differs has a Result that is not OK.
func Run(dev kernels.Device, dir string) ([]Result, error) {
	r, err := newRunner(dir)
	if err != nil {
		return nil, err
	}
	r.dev = dev
	err = r.run()
	return r.results, err
}

func newRunner(dir string) (*runner, error) {
	r := &runner{dir: dir, name: filepath.Base(filepath.Clean(dir)), c: new(caseFile)}
	b, err := os.ReadFile(filepath.Join(dir, "case.json"))
	if err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	if err := json.Unmarshal(b, r.c); err != nil {
		return nil, fmt.Errorf("verify: %s: %w", filepath.Join(dir, "case.json"), err)
	}
	return r, nil
}

func (r *runner) run() error {
	run := r.task
	switch {
	case r.c.Images != nil:
		run = r.preprocess
	case r.c.FromSize > 0:
		run = r.resize
	case r.c.Codes > 0:
		run = r.maskedImages
	case len(r.c.Task) == 0 || r.c.Config == nil:
		return fmt.Errorf("verify: %s: case.json names neither a task with its config, a resizing, visual codes nor images", r.dir)
	}
	if err := run(); err != nil {
		return fmt.Errorf("verify: case %s: %w", r.name, err)
	}
	return nil
}

func (r *runner) path(name string) string { return filepath.Join(r.dir, name) }

func (r *runner) read(name string) (vlmo.HostTensors, error) { return vlmo.ReadTensors(r.path(name)) }

// compare adds a Result, the worst relative error over the named pairs, or notes
// the pairs for later.
func (r *runner) compare(quantity string, limit float64, got, want map[string][]float32) {
	saved := r.savings != (vlmo.Savings{})
	names := slices.Sorted(maps.Keys(want))
	if r.keep && len(names) > 0 {
		for _, n := range names {
			r.measured = append(r.measured, measured{quantity, n, saved, limit, got[n], want[n]})
		}
		return
	}
	res := Result{Case: r.name, Quantity: title(quantity, saved), Limit: limit}
	for i, n := range names {
		e := relative(got[n], want[n])
		if i == 0 || e > res.Err || math.IsNaN(e) {
			res.Err, res.Worst = e, n
		}
		if math.IsNaN(e) {
			break
		}
	}
	if len(names) == 0 {
		res.Err, res.Worst = math.NaN(), "nothing to compare"
	}
	r.results = append(r.results, res)
}

func title(quantity string, saved bool) string {
	if saved {
		quantity += ", with all savings"
	}
	return quantity
}

// relative returns ‖a−b‖/‖b‖, absolute where b is zero, infinite where the
// lengths differ.
func relative(a, b []float32) float64 {
	if len(a) != len(b) {
		return math.Inf(1)
	}
	var d, n float64
	for i := range b {
		e := float64(a[i]) - float64(b[i])
		d += e * e
		n += float64(b[i]) * float64(b[i])
	}
	if n == 0 {
		return math.Sqrt(d)
	}
	return math.Sqrt(d / n)
}

func scalar(v float64) []float32 { return []float32{float32(v)} }

// inputs of a task.
type inputs struct {
	texts, masked []vlmo.Text
	labels        [][]int32
	lengths       []int
	padded        int
	pixels        [2][]float32 // image or image_0, image_1
	negI, negT    []int32
	targets       []float32
	nlvr2         []int32
	n             int
}

func (r *runner) inputs() (in inputs, err error) {
	f, err := weights.Open(r.path("inputs.safetensors"))
	if err != nil {
		return in, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	ints := func(name string) []int32 {
		if err != nil || !f.Has(name) {
			return nil
		}
		var v []int32
		v, _, err = f.Int32(name)
		return v
	}
	floats := func(name string) []float32 {
		if err != nil || !f.Has(name) {
			return nil
		}
		var v []float32
		v, _, err = f.Float32(name)
		return v
	}
	in.pixels[0], in.pixels[1] = floats("image"), floats("image_1")
	if in.pixels[0] == nil {
		in.pixels[0] = floats("image_0")
	}
	in.negI, in.negT = ints("itm_neg_image_idx"), ints("itm_neg_text_idx")
	in.targets, in.nlvr2 = floats("vqa_targets"), ints("nlvr2_labels")
	ids, mask := ints("text_ids"), ints("text_masks")
	mlm, labels := ints("text_ids_mlm"), ints("text_labels_mlm")
	if err != nil {
		return in, err
	}
	if ids != nil {
		_, shape, err := f.Info("text_ids")
		if err != nil {
			return in, err
		}
		if len(shape) != 2 || len(mask) != len(ids) || len(mlm) != len(ids) || len(labels) != len(ids) {
			return in, fmt.Errorf("%s: text_ids has shape %v, with %d mask, %d masked and %d label values", r.path("inputs.safetensors"), shape, len(mask), len(mlm), len(labels))
		}
		in.n, in.padded = shape[0], shape[1]
		for i := range in.n {
			lo := i * in.padded
			k := 0
			for k < in.padded && mask[lo+k] != 0 {
				k++
			}
			for t := k; t < in.padded; t++ {
				if mask[lo+t] != 0 {
					return in, fmt.Errorf("%s: text %d has a token after its padding", r.path("inputs.safetensors"), i)
				}
			}
			ls := make([]int32, k)
			for t := range ls {
				ls[t] = max(labels[lo+t], -1)
			}
			in.lengths = append(in.lengths, k)
			in.texts = append(in.texts, ids[lo:lo+k])
			in.masked = append(in.masked, mlm[lo:lo+k])
			in.labels = append(in.labels, ls)
		}
	}
	return in, nil
}

// model builds the model of the case with the heads that its weights have.
func (r *runner) model(w vlmo.HostTensors, imageSize int) (*vlmo.Model, error) {
	c := r.c.Config
	has := func(name string) bool { _, ok := w[name]; return ok }
	cfg := vlmo.Config{ImageSize: imageSize, Patch: c.Patch, Dim: c.Dim, Depth: c.Depth, Heads: c.Heads, Hidden: 4 * c.Dim,
		VLStart: c.VLStart, Vocab: c.Vocab, MaxText: c.MaxText, MaxTextInit: c.MaxTextInit, Absolute: c.Absolute, LayerScale: c.LayerScale,
		TokenTypes: 2, Compute: r.compute}
	if fc1, ok := w["transformer.blocks.0.mlp_imag.fc1.weight"]; ok {
		cfg.Hidden = fc1.Shape[0]
	}
	if t, ok := w["token_type_embeddings.weight"]; ok {
		cfg.TokenTypes = t.Shape[0]
	}
	cfg.With = vlmo.HeadSet{MLM: has("mlm_score.bias"), ITM: has("itm_score.fc.weight"), Pooler: has("pooler.dense.weight"),
		ITC: has("itc_vl_text_proj.fc.weight"), RetrievalScale: has("itc_text_proj.fc.weight"), NLVR2: has("nlvr2_classifier.0.weight"), Codes: r.c.Codes}
	if has("vqa_classifier.3.bias") {
		cfg.With.VQA = w["vqa_classifier.3.bias"].Shape[0]
	}
	m, err := vlmo.New(r.dev, cfg, true)
	if err != nil {
		return nil, err
	}
	m.Init(0)
	h, err := vlmo.Assign(m, w)
	if err != nil {
		return nil, err
	}
	if len(h.Left) > 0 {
		return nil, fmt.Errorf("weights that the model has no place for: %s", strings.Join(h.Left, ", "))
	}
	shake(m, r.shake)
	return m, nil
}

func (r *runner) task() error {
	w, err := r.read("weights.safetensors")
	if err != nil {
		return err
	}
	in, err := r.inputs()
	if err != nil {
		return err
	}
	for _, savings := range r.variants() {
		m, err := r.model(w, r.c.Config.ImageSize)
		if err != nil {
			return err
		}
		r.savings, m.Savings = savings, savings
		s := engine.NewStep(r.dev, 0)
		if err := r.outputs(m, s, &in); err != nil {
			return err
		}
		if err := r.train(m, s, &in); err != nil {
			return err
		}
		s.Arena.Close()
		m.Store.Close()
	}
	return nil
}

// variants are the sets of savings that a model is compared with.
func (r *runner) variants() []vlmo.Savings {
	if r.plain {
		return []vlmo.Savings{{}}
	}
	return []vlmo.Savings{{}, vlmo.AllSavings}
}

func (r *runner) is(task string) bool {
	for _, t := range r.c.Task {
		if t == task {
			return true
		}
	}
	return false
}

// upload brings normalised images to the step, those of all lists one after the
// other.
func upload(m *vlmo.Model, s *engine.Step, lists ...[]float32) kernels.Tensor {
	all := slices.Concat(lists...)
	px := 3 * m.ImageSize * m.ImageSize
	return s.Upload(all, len(all)/px, px)
}

// losses runs the forward pass of the case's task.
func (r *runner) losses(m *vlmo.Model, s *engine.Step, in *inputs, neg negatives) (vlmo.Losses, error) {
	b := &vlmo.Batch{Texts: in.texts, Masked: in.masked, Labels: in.labels, Pixels: upload(m, s, in.pixels[0]), NegativeImage: neg.Image, NegativeText: neg.Text}
	switch {
	case r.is("textmlm"):
		return m.TextMLM(s, in.masked, in.labels, nil)
	case r.is("irtr"):
		return m.Retrieval(s, b)
	case r.is("vqa"):
		l, _, err := m.VQA(s, b, in.targets)
		return l, err
	case r.is("nlvr2"):
		l, _, err := m.NLVR2(s, in.texts, upload(m, s, in.pixels[0], in.pixels[1]), in.nlvr2)
		return l, err
	}
	var w vlmo.Weights
	if r.is("mlm") {
		w.MLM = 0.25
	}
	if r.is("itc") {
		w.ITC = 1
	}
	if r.is("itm") {
		w.ITM = 1
	}
	if w == (vlmo.Weights{}) {
		return vlmo.Losses{}, fmt.Errorf("task %v is not known", r.c.Task)
	}
	return m.Pretrain(s, b, w)
}

func lossMap(v vlmo.LossValues, want map[string]float64, total float64) (got, ref map[string][]float32) {
	got = map[string][]float32{"mlm_loss": scalar(v.MLM), "itc_loss": scalar(v.ITC), "itm_loss": scalar(v.ITM), "irtr_loss": scalar(v.ITC),
		"vqa_loss": scalar(v.VQA), "nlvr2_loss": scalar(v.NLVR2), "total": scalar(v.Total)}
	ref = map[string][]float32{"total": scalar(total)}
	for k, x := range want {
		ref[k] = scalar(x)
	}
	return got, ref
}

// train compares losses, gradients and the trajectory.
func (r *runner) train(m *vlmo.Model, s *engine.Step, in *inputs) error {
	before := vlmo.Export(m)
	steps := max(len(r.c.Trajectory), 1)
	if r.keep {
		steps = 1
	}
	opt := engine.Optimizer{}
	if o := r.c.Optimizer; o != nil {
		opt = engine.Optimizer{Beta1: float32(o.Betas[0]), Beta2: float32(o.Betas[1]), Eps: float32(o.Eps), Decay: float32(o.WeightDecay)}
	}
	got, want := map[string][]float32{}, map[string][]float32{}
	for step := range steps {
		neg := negatives{in.negI, in.negT}
		if step < len(r.c.Negatives) {
			neg = r.c.Negatives[step]
		}
		s.Begin(uint64(step), true)
		m.Store.ZeroGrad()
		l, err := r.losses(m, s, in, neg)
		if err != nil {
			return err
		}
		s.Backward()
		if err := s.Err(); err != nil {
			return err
		}
		v := l.Values(r.dev)
		if step == 0 {
			g, ref := lossMap(v, r.c.Losses, r.c.Total)
			r.compare("losses", lossLimit, g, ref)
			grads, err := r.read("grads.safetensors")
			if err != nil {
				return err
			}
			r.gradients(m, grads)
		}
		if steps > 1 {
			key := fmt.Sprintf("step %d", step)
			got[key], want[key] = scalar(v.Total), scalar(r.c.Trajectory[step])
		}
		if r.c.Optimizer == nil {
			return nil
		}
		if _, err := opt.Update(m.Store, float32(r.c.Optimizer.LR)); err != nil {
			return err
		}
	}
	if steps > 1 {
		r.compare("trajectory", lossLimit, got, want)
		after, err := r.read("weights_after.safetensors")
		if err != nil {
			return err
		}
		r.compare("weights after", weightLimit, values(vlmo.Export(m)), values(after))
	}
	return r.untouched(m, before)
}

func values(t vlmo.HostTensors) map[string][]float32 {
	v := make(map[string][]float32, len(t))
	for n, x := range t {
		v[n] = x.Data
	}
	return v
}

func (r *runner) gradients(m *vlmo.Model, grads vlmo.HostTensors) {
	got := make(map[string][]float32)
	for _, p := range m.Store.Params() {
		g := m.Store.Gradient(p)
		if g != nil {
			got[p.Name] = g
		}
	}
	r.compare("gradients", gradientLimit, got, values(grads))
}

// untouched wants every parameter without a gradient in the case bit-equal
// after the optimiser's steps.
func (r *runner) untouched(m *vlmo.Model, before vlmo.HostTensors) error {
	grads, err := r.read("grads.safetensors")
	if err != nil {
		return err
	}
	res := Result{Case: r.name, Quantity: "untouched", Limit: 0}
	for n, t := range vlmo.Export(m) {
		if _, ok := grads[n]; ok {
			continue
		}
		if e := relative(t.Data, before[n].Data); e > res.Err || math.IsNaN(e) {
			res.Err, res.Worst = e, n
		}
	}
	r.results = append(r.results, res)
	return nil
}

// outputs compares the features and logits that outputs.safetensors has.
func (r *runner) outputs(m *vlmo.Model, s *engine.Step, in *inputs) error {
	want, err := r.read("outputs.safetensors")
	if err != nil {
		return err
	}
	got, ref := map[string][]float32{}, map[string][]float32{}
	has := func(name string) bool { _, ok := want[name]; return ok }
	put := func(name string, v []float32) {
		if has(name) {
			got[name], ref[name] = v, want[name].Data
		}
	}
	// putText compares the rows that the text mask keeps.
	putText := func(name string, v []float32) {
		if !has(name) {
			return
		}
		w := want[name]
		d := w.Shape[len(w.Shape)-1]
		var keep []float32
		for i, k := range in.lengths {
			keep = append(keep, w.Data[i*in.padded*d:(i*in.padded+k)*d]...)
		}
		got[name], ref[name] = v, keep
	}
	n := in.n
	if n == 0 {
		return errors.New("inputs.safetensors has no text_ids")
	}
	read := func(t kernels.Tensor) []float32 {
		v := make([]float32, t.Len())
		r.dev.Read(v, t)
		return v
	}
	tokens := 1 + m.Patches()

	if has("vl.text_feats") || has("vl.cls_feats") {
		s.Begin(0, false)
		text, image, cls, err := fusion(m, s, in.texts, upload(m, s, in.pixels[0]), tokens)
		if err != nil {
			return err
		}
		putText("vl.text_feats", read(text))
		put("vl.image_feats", read(image))
		put("vl.cls_feats", read(cls))
	}
	if has("mlm_logits") {
		s.Begin(0, false)
		p := &vlmo.Phase{}
		for i, t := range in.masked {
			if r.is("textmlm") {
				p.Texts = append(p.Texts, vlmo.Unimodal{Text: t})
			} else {
				p.Pairs = append(p.Pairs, vlmo.Pair{Text: t, Image: i, Type: 1})
			}
		}
		p.Layout(tokens)
		var rows []int
		for i, t := range in.masked {
			for k := range t {
				if r.is("textmlm") {
					rows = append(rows, p.TextRow(i, k, vlmo.Own))
				} else {
					rows = append(rows, p.PairRow(i, k))
				}
			}
		}
		f, err := m.Encode(s, p, upload(m, s, in.pixels[0]), rows)
		if err != nil {
			return err
		}
		putText("mlm_logits", read(m.MLMLogits(s, f).X))
	}
	if has("text.cls_feats") || has("irtr_i2t_logits") {
		s.Begin(0, false)
		p := &vlmo.Phase{VLBranch: m.With.ITC}
		for i, t := range in.texts {
			p.Texts = append(p.Texts, vlmo.Unimodal{Text: t})
			p.Images = append(p.Images, vlmo.Unimodal{Image: i})
		}
		p.Layout(tokens)
		branches := 1
		if m.With.ITC {
			branches = 2
		}
		var rows []int
		for b := range vlmo.Branch(branches) {
			for i := range n {
				rows = append(rows, p.TextRow(i, 0, b))
			}
			for i := range n {
				rows = append(rows, p.ImageRow(i, 0, b))
			}
		}
		cls := len(rows)
		for i, t := range in.texts {
			for k := range t {
				rows = append(rows, p.TextRow(i, k, vlmo.Own))
			}
		}
		image := len(rows)
		for i := range n {
			for k := range tokens {
				rows = append(rows, p.ImageRow(i, k, vlmo.Own))
			}
		}
		f, err := m.Encode(s, p, upload(m, s, in.pixels[0]), rows)
		if err != nil {
			return err
		}
		putText("text.text_feats", read(f.X.Slice(cls, image)))
		put("image.image_feats", read(f.X.Slice(image, len(rows))))
		ft, fi := read(m.Project(s, vlmo.Own, 0, f.Slice(0, n)).X), read(m.Project(s, vlmo.Own, 1, f.Slice(n, 2*n)).X)
		put("text.cls_feats", ft)
		put("image.cls_feats", fi)
		if branches == 2 {
			put("text.cls_vlffn_feats", read(m.Project(s, vlmo.VL, 0, f.Slice(2*n, 3*n)).X))
			put("image.cls_vlffn_feats", read(m.Project(s, vlmo.VL, 1, f.Slice(3*n, 4*n)).X))
		}
		scale := math.Exp(float64(m.Store.Get(m.Store.Param("logit_scale"))[0]))
		for _, prefix := range []string{"itc", "irtr"} {
			put(prefix+"_i2t_logits", logits(fi, ft, n, scale))
			put(prefix+"_t2i_logits", logits(ft, fi, n, scale))
		}
	}
	if has("itm_logits") {
		s.Begin(0, false)
		p := &vlmo.Phase{}
		for i, t := range in.texts {
			p.Pairs = append(p.Pairs, vlmo.Pair{Text: t, Image: i})
		}
		for i, t := range in.texts {
			p.Pairs = append(p.Pairs, vlmo.Pair{Text: t, Image: int(in.negI[i])})
		}
		for i := range in.texts {
			p.Pairs = append(p.Pairs, vlmo.Pair{Text: in.texts[in.negT[i]], Image: i})
		}
		l, err := m.MatchLogits(s, p, upload(m, s, in.pixels[0]))
		if err != nil {
			return err
		}
		put("itm_logits", read(l))
	}
	if has("vqa_logits") {
		s.Begin(0, false)
		b := &vlmo.Batch{Texts: in.texts, Pixels: upload(m, s, in.pixels[0])}
		_, l, err := m.VQA(s, b, in.targets)
		if err != nil {
			return err
		}
		put("vqa_logits", read(l))
	}
	if has("nlvr2_logits") {
		s.Begin(0, false)
		_, l, err := m.NLVR2(s, in.texts, upload(m, s, in.pixels[0], in.pixels[1]), in.nlvr2)
		if err != nil {
			return err
		}
		put("nlvr2_logits", read(l))
	}
	if err := s.Err(); err != nil {
		return err
	}
	for name := range want {
		_, done := got[name]
		if !done && !strings.HasPrefix(name, "loss.") && name != "itm_labels" && r.c.FromSize == 0 {
			return fmt.Errorf("outputs.safetensors has %q, which nothing computes", name)
		}
	}
	r.compare("outputs", outputLimit, got, ref)
	return nil
}

// fusion returns the hidden states of all text tokens, all image tokens and
// the pooled [CLS] of the pairs (text i, image i).
func fusion(m *vlmo.Model, s *engine.Step, texts []vlmo.Text, pixels kernels.Tensor, tokens int) (text, image, cls kernels.Tensor, err error) {
	p := &vlmo.Phase{}
	for i, t := range texts {
		p.Pairs = append(p.Pairs, vlmo.Pair{Text: t, Image: i})
	}
	p.Layout(tokens)
	var rows []int
	for i, t := range texts {
		for k := range t {
			rows = append(rows, p.PairRow(i, k))
		}
	}
	nt := len(rows)
	for i, t := range texts {
		for k := range tokens {
			rows = append(rows, p.PairRow(i, len(t)+k))
		}
	}
	ni := len(rows)
	for i := range texts {
		rows = append(rows, p.PairRow(i, 0))
	}
	f, err := m.Encode(s, p, pixels, rows)
	if err != nil {
		return text, image, cls, err
	}
	return f.X.Slice(0, nt), f.X.Slice(nt, ni), m.Pool(s, f.Slice(ni, len(rows))).X, nil
}

func logits(a, b []float32, n int, scale float64) []float32 {
	d := len(a) / n
	l := make([]float32, n*n)
	for i := range n {
		for j := range n {
			var sum float64
			for k := range d {
				sum += float64(a[i*d+k]) * float64(b[j*d+k])
			}
			l[i*n+j] = float32(scale * sum)
		}
	}
	return l
}
