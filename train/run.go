// Package train is what a run is: stages of one loop over batches, with hooks
// that log, save, evaluate and report.
package train

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"vlmo-train/data/dataset"
	"vlmo-train/data/loader"
	"vlmo-train/data/text"
	"vlmo-train/engine"
	"vlmo-train/kernels"
	"vlmo-train/train/config"
	"vlmo-train/vlmo"
	"vlmo-train/vlmo/visual"
)

// ErrInterrupted is wrapped by Run's error when the context ended: the state
// is saved and the run can be resumed.
var ErrInterrupted = errors.New("interrupted")

// Run is a training run: a configuration and what it opens.
type Run struct {
	Config *config.Run
	Dev    kernels.Device
	// Hooks are told of the run's progress, in order.
	Hooks []Hook
	// Resume goes on from the last checkpoint in Config.Out. Without it, a
	// folder that holds checkpoints is refused.
	Resume bool
	// Strict makes the first unreadable picture an error; otherwise up to 1 %
	// of a set are skipped and counted.
	Strict bool
	// Plan, if there is one, tells each stage how much memory to reserve.
	Plan *Plan

	tok    *text.Tokenizer
	pairs  sets
	texts  sets
	test   dataset.Dataset
	visual *visual.Tokenizer // trained here, if it was
	coder  visual.Coder      // for vision stages: visual, or a published tokenizer
	latest vlmo.HostTensors  // the last stage's weights
}

// Hook follows a run. An error of a hook ends the run.
type Hook interface {
	StageStart(s *Stage) error
	Step(s *Stage, p *Progress) error
	StageEnd(s *Stage) error
}

// Stage is a stage under way.
type Stage struct {
	*config.Stage
	Index      int
	First      int // steps done before, of a resumed stage
	Parameters int
	Handover   vlmo.Handover
	Unreadable int      // examples that can't be read and were replaced
	Skipped    []string // the first hundred of them

	// Incomplete is how many samples of tar files lack a picture or a caption
	// and were left out, and AnIncomplete the name of one.
	Incomplete   int
	AnIncomplete string

	model *vlmo.Model // nil in a tokenizer stage
	vis   *visual.Tokenizer
	store *engine.Store
	step  *engine.Step
}

// Loss is a named, weighted loss of a step.
type Loss struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
}

// Progress is a step that has been made.
type Progress struct {
	Step     int // from 1
	Losses   []Loss
	LR       float64
	GradNorm float64
	Seconds  float64 // since the stage began in this process
	Batch    int
}

// Total returns the sum of the losses.
func (p *Progress) Total() (v float64) {
	for _, l := range p.Losses {
		v += l.Value
	}
	return v
}

// state is what a checkpoint keeps beside weights and moments.
type state struct {
	Stage    string          `json:"stage"`
	Kind     config.Kind     `json:"kind"`
	Step     int             `json:"step"`
	Position loader.Position `json:"position"`
	Config   string          `json:"config"` // resolved, YAML
	Epoch    int             `json:"epoch"`
}

// openVocabulary reads the vocabulary of the configuration.
func (r *Run) openVocabulary() (err error) {
	c := r.Config
	if c.Model.VocabFile != "" {
		r.tok, err = text.LoadVocab(c.Model.VocabFile)
	} else {
		r.tok = text.BertBaseUncased()
	}
	if err != nil {
		return err
	}
	if c.Model.Vocab == 0 {
		c.Model.Vocab = r.tok.VocabSize()
	} else if c.Model.Vocab < r.tok.VocabSize() {
		return fmt.Errorf("train: model.vocab is %d, the vocabulary has %d entries", c.Model.Vocab, r.tok.VocabSize())
	}
	return nil
}

// Open reads the vocabulary and the data sets of the configuration.
func (r *Run) Open() (err error) {
	if err := r.openVocabulary(); err != nil {
		return err
	}
	c := r.Config
	needPairs, needText := false, false
	for _, st := range c.Stages {
		needPairs = needPairs || st.Kind != config.Text
		needText = needText || st.Kind == config.Text
	}
	if len(c.Data.Pairs) > 0 {
		if r.pairs, err = openSets("data.pairs", c.Data.Pairs); err != nil {
			return err
		}
	} else if needPairs {
		return errors.New("train: data.pairs is empty, and a stage needs pictures")
	}
	if len(c.Data.Test) > 0 {
		test, err := openSets("data.test", c.Data.Test)
		if err != nil {
			return err
		}
		if r.test, err = test.one(context.Background()); err != nil {
			return err
		}
	}
	if needText {
		text, err := openSets("data.text", c.Data.Text)
		if err != nil {
			return err
		}
		if r.texts = textsOf(text, r.pairs); len(r.texts) == 0 {
			return errors.New("train: a text stage needs data.text or data.pairs")
		}
	}
	return nil
}

// backbone returns the model without heads.
func (r *Run) backbone() *vlmo.Config {
	c := r.modelConfig(&config.Stage{})
	return &c
}

// loadVisual reads a visual tokenizer: one that was trained here, or one of
// the published ones.
func (r *Run) loadVisual(path string) (err error) {
	if r.coder, err = visual.Open(r.Dev, path, r.visualConfig()); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	if own, ok := r.coder.(*visual.Tokenizer); ok {
		r.visual = own
	}
	return nil
}

// modelConfig returns the model of a stage: the configuration's backbone with
// the tensors that the original's checkpoints of that task have.
func (r *Run) modelConfig(st *config.Stage) vlmo.Config {
	m := &r.Config.Model
	c := vlmo.Config{ImageSize: m.ImageSize, Patch: m.Patch, Dim: m.Dim, Depth: m.Depth, Heads: m.Heads, Hidden: m.FFNRatio * m.Dim,
		VLStart: m.VLStart, Vocab: m.Vocab, MaxText: m.MaxText, MaxTextInit: m.MaxTextInit, Absolute: m.Position == config.Absolute,
		LayerScale: m.LayerScale != 0, LayerScaleInit: float32(m.LayerScale), InitStd: m.InitStd, TokenTypes: 2}
	if r.Config.Precision == config.BF16 {
		c.Compute = kernels.BF16
	}
	// The original's models have a pooler whether they use it or not, and no
	// vision-language experts before there are pairs.
	switch st.Kind {
	case config.Vision:
		c.With.Codes, c.VLStart = r.Config.Visual.Codes, c.Depth
	case config.Text:
		c.With.MLM, c.With.Pooler, c.VLStart = true, true, c.Depth
	case config.VL:
		c.With.MLM, c.With.ITC, c.With.ITM = true, true, true
	case config.Retrieval:
		c.With.RetrievalScale, c.With.Pooler = true, true
	}
	return c
}

func (r *Run) visualConfig() visual.Config {
	v, m := &r.Config.Visual, &r.Config.Model
	base := visual.Base()
	return visual.Config{ImageSize: m.ImageSize, Patch: m.Patch, Dim: v.Dim, Depth: v.Depth, Heads: v.Heads, Hidden: 4 * v.Dim,
		DecoderDepth: v.DecoderDepth, Codes: v.Codes, CodeDim: v.CodeDim, Momentum: float32(v.Decay),
		Commitment: base.Commitment, Dead: base.Dead}
}

// checkpoints returns the folder of a stage's checkpoints.
func (r *Run) checkpoints(index int) string {
	return filepath.Join(r.Config.Out, "checkpoints", fmt.Sprintf("%d-%s", index, r.Config.Stages[index].Name))
}

// Train runs all stages. When ctx ends it saves and returns an error that
// wraps ErrInterrupted.
func (r *Run) Train(ctx context.Context) error {
	if err := r.Config.Ready(); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	if err := r.Open(); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(r.Config.Out, "checkpoints")); err == nil && !r.Resume {
		return fmt.Errorf("train: %s holds a run already: resume it, or choose another folder", r.Config.Out)
	}
	if err := os.MkdirAll(r.Config.Out, 0o777); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	if err := r.writeConfig(); err != nil {
		return err
	}
	if r.Config.Init != "" {
		var err error
		if r.latest, err = vlmo.Import(r.Config.Init, r.backbone()); err != nil {
			return fmt.Errorf("train: %w", err)
		}
	}
	if path := r.Config.Visual.Weights; path != "" {
		if err := r.loadVisual(path); err != nil {
			return err
		}
	}
	for i := range r.Config.Stages {
		if err := r.stage(ctx, i); err != nil {
			return fmt.Errorf("stage %s: %w", r.Config.Stages[i].Name, r.explainDevice(i, err))
		}
	}
	return nil
}

// writeConfig stores the resolved configuration, and refuses to resume a run
// of another one.
func (r *Run) writeConfig() error {
	y, err := r.Config.Marshal()
	if err != nil {
		return err
	}
	path := filepath.Join(r.Config.Out, "config.yaml")
	if old, err := os.ReadFile(path); err == nil && r.Resume {
		// What another version wrote may say the same in other words.
		if c, err := config.Parse(path, old); err == nil {
			if old, err = c.Marshal(); err != nil {
				return err
			}
		}
		if d := firstDifference(string(old), string(y)); d != "" {
			return fmt.Errorf("train: %s is of another configuration than this run's: %s", path, d)
		}
	}
	return replaceFile(path, y)
}

// replaceFile writes a file that is the old or the new one whenever the
// process dies.
func replaceFile(path string, content []byte) error {
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, content, 0o666); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	return nil
}

// firstDifference compares two configurations line by line. What does not
// change results may differ: where the run lies, its device, the
// threads, and how often it saves, evaluates and logs.
func firstDifference(a, b string) string {
	la, lb := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range max(len(la), len(lb)) {
		var x, y string
		if i < len(la) {
			x = strings.TrimSpace(la[i])
		}
		if i < len(lb) {
			y = strings.TrimSpace(lb[i])
		}
		key, _, _ := strings.Cut(y, ":")
		switch key {
		case "out", "device", "threads", "workers", "recompute", "checkpoint_every", "eval_every", "log_every":
			if strings.HasPrefix(x, key+":") {
				continue
			}
		}
		if x != y {
			return fmt.Sprintf("line %d was %q and is %q", i+1, x, y)
		}
	}
	return ""
}

// build makes the stage's model, with the weights of the stage before.
func (r *Run) build(s *Stage, train bool) error {
	s.step = engine.NewStep(r.Dev, r.Config.Seed)
	if s.Kind == config.Tokenizer {
		v, err := visual.New(r.Dev, r.visualConfig(), train)
		if err != nil {
			return err
		}
		v.Init(r.Config.Seed)
		s.vis, s.store = v, v.Store
	} else {
		m, err := vlmo.New(r.Dev, r.modelConfig(s.Stage), train)
		if err != nil {
			return err
		}
		m.DropPath = s.DropPath
		m.Init(r.Config.Seed)
		if r.latest != nil {
			if s.Handover, err = vlmo.Assign(m, r.latest); err != nil {
				return err
			}
		}
		s.model, s.store = m, m.Store
		for _, p := range m.Store.Params() {
			p.Frozen = frozen(s.Kind, p.Name)
			if s.Kind == config.Vision {
				p.Decay = decayedVision(p)
			}
		}
	}
	for _, p := range s.store.Params() {
		s.Parameters += p.Len()
	}
	return nil
}

// frozen says which parameters a stage leaves alone (SPEC §8 "Stages").
func frozen(k config.Kind, name string) bool {
	switch k {
	case config.Vision:
		// BEiT has no type embedding: row 1 starts to train with the pairs.
		return name == "token_type_embeddings.weight"
	case config.Text:
		for _, s := range []string{"text_embeddings.", "token_type_embeddings.", "mlm_score.", "relative_position_bias_table", "transformer.norm."} {
			if strings.HasPrefix(name, s) {
				return false
			}
		}
		return !strings.Contains(name, ".mlp_text.") && !strings.Contains(name, ".norm2_text.")
	}
	return false
}

// decayedVision is BEiT's rule: no decay for vectors, class token and
// positions; bias tables are decayed.
func decayedVision(p *engine.Param) bool {
	return len(p.Shape) > 1 && p.Name != "transformer.cls_token" && p.Name != "transformer.pos_embed"
}

func (r *Run) stage(ctx context.Context, index int) error {
	s := &Stage{Stage: &r.Config.Stages[index], Index: index}
	if err := r.build(s, true); err != nil {
		return err
	}
	defer func() {
		s.step.Arena.Close()
		if s.vis == nil || s.vis != r.visual {
			s.store.Close()
		}
	}()
	if p := r.settle(s); p != nil {
		s.step.Arena.Reserve(int(p.ActivationBytes + p.ActivationBytes/planSlack))
	}
	var st state
	dir := r.checkpoints(index)
	if r.Resume {
		last, err := engine.Latest(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err == nil {
			if err := engine.LoadCheckpoint(last, s.store, &st); err != nil {
				return err
			}
			s.First = st.Step
		}
	}
	if s.First < s.Steps {
		if err := r.loop(ctx, s, &st); err != nil {
			return err
		}
	}
	if s.vis != nil {
		r.visual, r.coder = s.vis, s.vis
	} else {
		r.latest = vlmo.Export(s.model)
	}
	return nil
}

// sets returns the examples of a stage.
func (r *Run) sets(s *config.Stage) sets {
	if s.Kind == config.Text {
		return r.texts
	}
	return r.pairs
}

// workers returns how many goroutines read examples.
func (r *Run) workers() int {
	switch {
	case r.Config.Data.Workers > 0:
		return r.Config.Data.Workers
	case r.Config.Threads > 0:
		return r.Config.Threads
	}
	return runtime.GOMAXPROCS(0)
}

func (r *Run) sampler(s *Stage) (*loader.Sampler, error) {
	set := r.sets(s.Stage)
	if n, known := set.length(); known && s.Batch > n {
		return nil, fmt.Errorf("batch %d exceeds the %d examples of the data", s.Batch, n)
	}
	return loader.NewSampler(loader.SamplerConfig{Sources: set, Batch: s.Batch, Seed: r.Config.Seed, Source: uint64(s.Index), DropLast: true, Buffer: r.Config.Data.Shuffle})
}

func (r *Run) loop(ctx context.Context, s *Stage, st *state) (err error) {
	sampler, err := r.sampler(s)
	if err != nil {
		return err
	}
	if s.First > 0 {
		if err := sampler.Seek(st.Position); err != nil {
			return err
		}
	}
	lc := loader.Config{Workers: r.workers()}
	if !r.Strict {
		// 1 % of the set may be unreadable, or of what was read by then.
		if n, known := r.sets(s.Stage).length(); known {
			lc.MaxBad = max(1, n/100)
		} else {
			lc.MaxBad, lc.MaxBadShare = 100, 0.01
		}
	}
	// The loader outlives ctx so that an interrupted step can be finished.
	ld, err := loader.New(context.Background(), sampler, lc, newMaker(r, s.Index).make)
	if err != nil {
		return err
	}
	defer ld.Close()

	opt := engine.Optimizer{Beta1: float32(s.Betas[0]), Beta2: float32(s.Betas[1]), Eps: float32(s.Eps), Decay: float32(s.Decay), Clip: float32(s.Clip)}
	defer opt.Close()
	sched := engine.Schedule{Base: s.LR, Min: s.MinLR, Warmup: s.Warmup, Steps: s.Steps, Cosine: s.Schedule == config.Cosine}
	for _, h := range r.Hooks {
		if err := h.StageStart(s); err != nil {
			return err
		}
	}
	start := time.Now()
	feed := &feed{loader: ld, buffer: engine.NewDoubleBuffer(r.Dev)}
	defer feed.buffer.Close()
	feed.fetch()
	for step := s.First; step < s.Steps; step++ {
		b, pos, err := feed.take()
		if err != nil {
			return err
		}
		// The device is busy with this step while the next batch is fetched and
		// travels. A run that is to stop waits for no further one.
		ahead := func() {
			if step+1 < s.Steps && ctx.Err() == nil {
				feed.fetch()
			}
		}
		losses, err := r.forwardBackward(s, step, b, ahead)
		if err != nil {
			return fmt.Errorf("step %d: %w", step+1, err)
		}
		p := &Progress{Step: step + 1, Losses: losses, LR: sched.Rate(step), Batch: s.Batch}
		if v := p.Total(); math.IsNaN(v) || math.IsInf(v, 0) {
			return r.explainNaN(s, step, b, fmt.Sprintf("the loss is %v", v))
		}
		if p.GradNorm, err = opt.Update(s.store, float32(p.LR)); errors.Is(err, engine.ErrNotFinite) {
			return r.explainNaN(s, step, b, fmt.Sprintf("the gradient's norm is %v", p.GradNorm))
		} else if err != nil {
			return err
		}
		if s.vis != nil {
			if err := s.vis.UpdateCodebook(s.step); err != nil {
				return err
			}
		}
		ld.Recycle(b)
		p.Seconds = time.Since(start).Seconds()
		var bad []*dataset.BadExampleError
		s.Unreadable, bad = ld.Skipped()
		for _, e := range bad[len(s.Skipped):] {
			s.Skipped = append(s.Skipped, e.Error())
		}
		s.Incomplete, s.AnIncomplete = r.sets(s.Stage).incomplete()
		for _, h := range r.Hooks {
			if err := h.Step(s, p); err != nil {
				return err
			}
		}
		done := step+1 == s.Steps
		stop := ctx.Err() != nil && !done
		if done || stop || s.CheckpointEvery > 0 && (step+1)%s.CheckpointEvery == 0 {
			if err := r.save(s, step+1, pos); err != nil {
				return err
			}
		}
		if stop {
			return fmt.Errorf("%w after step %d of %d; the state is saved in %s, go on with --resume", ErrInterrupted, step+1, s.Steps, r.checkpoints(s.Index))
		}
	}
	for _, h := range r.Hooks {
		if err := h.StageEnd(s); err != nil {
			return err
		}
	}
	return nil
}

func (r *Run) save(s *Stage, step int, pos loader.Position) error {
	y, err := r.Config.Marshal()
	if err != nil {
		return err
	}
	parent := r.checkpoints(s.Index)
	dir := filepath.Join(parent, engine.CheckpointName(step))
	if err := engine.SaveCheckpoint(dir, s.store, state{Stage: s.Name, Kind: s.Kind, Step: step, Position: pos, Config: string(y)}); err != nil {
		return err
	}
	return engine.Prune(parent, 2)
}

// feed is the way of a stage's batches from the loader to the device.
type feed struct {
	loader *loader.Loader[*batch]
	buffer *engine.DoubleBuffer

	// What fetch found, for take.
	next     *batch
	position loader.Position // after next
	err      error
}

// fetch waits for the next batch and lets its pixels travel to the device.
func (f *feed) fetch() {
	if f.next, f.err = f.loader.Next(); f.err != nil {
		return
	}
	f.position = f.loader.Position()
	if b := f.next; len(b.image) > 0 {
		n := len(b.Samples)
		b.Pixels, f.err = f.buffer.Put(b.image, n, len(b.image)/n)
	}
}

// take returns the batch that was fetched, or else the next one, and the
// position after it.
func (f *feed) take() (*batch, loader.Position, error) {
	if f.next == nil && f.err == nil {
		f.fetch()
	}
	b := f.next
	f.next = nil
	return b, f.position, f.err
}

// forwardBackward runs one step up to the gradients. While the device is busy
// it calls ahead.
func (r *Run) forwardBackward(s *Stage, step int, b *batch, ahead func()) ([]Loss, error) {
	// Steps of different stages draw different numbers.
	s.step.Begin(uint64(s.Index)<<32|uint64(step), true)
	s.store.ZeroGrad()
	losses, err := r.forward(s, step, b)
	if err != nil {
		return nil, err
	}
	s.step.Backward()
	ahead()
	return losses(), s.step.Err()
}

// forward runs the stage's objective; the result reads the losses.
func (r *Run) forward(s *Stage, step int, b *batch) (func() []Loss, error) {
	if s.Kind == config.Tokenizer {
		l, err := s.vis.Train(s.step, b.Pixels)
		if err != nil {
			return nil, err
		}
		return func() []Loss {
			return []Loss{{"reconstruction", readLoss(r.Dev, l.Reconstruction)}, {"commitment", readLoss(r.Dev, l.Commitment)}}
		}, nil
	}
	var l vlmo.Losses
	var err error
	m := s.model
	switch s.Kind {
	case config.Vision:
		l, err = r.maskedImages(s, b)
	case config.Text:
		l, err = m.TextMLM(s.step, b.Masked, b.Labels, b.Samples)
	case config.Retrieval:
		b.OriginalWorld = world(s.Stage)
		l, err = m.Retrieval(s.step, &b.Batch)
	case config.VL:
		b.OriginalWorld = world(s.Stage)
		w := vlmo.Weights{MLM: float32(s.LossWeights.MLM), ITC: float32(s.LossWeights.ITC), ITM: float32(s.LossWeights.ITM)}
		if s.MLMEvery > 1 && step%s.MLMEvery != 0 {
			w.MLM = 0
		}
		if s.ITMEvery > 1 && step%s.ITMEvery != 0 {
			w.ITM = 0
		}
		l, err = m.Pretrain(s.step, &b.Batch, w)
	}
	if err != nil {
		return nil, err
	}
	return func() (list []Loss) {
		v := l.Values(r.Dev)
		add := func(name string, t kernels.Tensor, x float64) {
			if !t.IsZero() {
				list = append(list, Loss{name, x})
			}
		}
		add("mim", l.MIM, v.MIM)
		add("itc", l.ITC, v.ITC)
		add("itm", l.ITM, v.ITM)
		add("mlm", l.MLM, v.MLM)
		return list
	}, nil
}

func world(st *config.Stage) int {
	if st.Compat {
		return st.OriginalWorld
	}
	return 1
}

func readLoss(dev kernels.Device, t kernels.Tensor) float64 {
	if t.IsZero() {
		return 0
	}
	var x [1]float32
	dev.Read(x[:], t)
	return float64(x[0])
}

// maskedImages asks the visual tokenizer for the codes of the masked patches.
func (r *Run) maskedImages(s *Stage, b *batch) (vlmo.Losses, error) {
	if r.coder == nil {
		return vlmo.Losses{}, errors.New("a vision stage needs a visual tokenizer: a stage of kind tokenizer before it, or visual.weights")
	}
	train := s.step.Train
	s.step.Train = false
	all, err := r.coder.Codes(s.step, b.Pixels)
	s.step.Train = train
	if err != nil {
		return vlmo.Losses{}, err
	}
	var codes []int32
	for i, ms := range b.masks {
		for k, masked := range ms {
			if masked {
				codes = append(codes, all[i*len(ms)+k])
			}
		}
	}
	return s.model.MaskedImages(s.step, b.Pixels, b.masks, codes, b.Samples)
}

// explainNaN runs the step again and names the first op that went wrong. The
// parameters are those before the step.
func (r *Run) explainNaN(s *Stage, step int, b *batch, what string) error {
	f := &engine.Finder{Device: s.step.Dev}
	s.step.Dev = f
	defer func() { s.step.Dev = f.Device }()
	_, err := r.forwardBackward(s, step, b, func() {})
	where := f.Found
	if where == "" {
		where = "no single op of the step could be found"
	}
	last, lerr := engine.Latest(r.checkpoints(s.Index))
	if errors.Is(lerr, os.ErrNotExist) {
		last, lerr = "none yet", nil
	}
	return errors.Join(fmt.Errorf("step %d: %s; first bad op: %s; last good checkpoint: %s", step+1, what, where, last), err, lerr)
}

// Model returns the stage's model, nil in a tokenizer stage.
func (s *Stage) Model() *vlmo.Model { return s.model }

// Visual returns the stage's visual tokenizer, nil in other stages.
func (s *Stage) Visual() *visual.Tokenizer { return s.vis }

// Metrics is a Hook that appends every step to a file of JSON lines.
type Metrics struct {
	Path string
	f    *os.File
}

// metric is one line of the file.
type metric struct {
	Stage    string             `json:"stage"`
	Step     int                `json:"step"`
	Losses   map[string]float64 `json:"losses"`
	LR       float64            `json:"lr"`
	GradNorm float64            `json:"grad_norm"`
	Seconds  float64            `json:"seconds"`
	Batch    int                `json:"batch"`
}

// StageStart drops lines of steps that are about to be made again.
func (m *Metrics) StageStart(s *Stage) error {
	old, err := readMetrics(m.Path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var kept []byte
	for _, x := range old {
		if x.Stage == s.Name && x.Step > s.First {
			continue
		}
		b, err := json.Marshal(x)
		if err != nil {
			return err
		}
		kept = append(append(kept, b...), '\n')
	}
	if err := replaceFile(m.Path, kept); err != nil {
		return err
	}
	if m.f, err = os.OpenFile(m.Path, os.O_WRONLY|os.O_APPEND, 0); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	return nil
}

// Step appends a line.
func (m *Metrics) Step(s *Stage, p *Progress) error {
	x := metric{Stage: s.Name, Step: p.Step, Losses: map[string]float64{}, LR: p.LR, GradNorm: p.GradNorm, Seconds: p.Seconds, Batch: p.Batch}
	for _, l := range p.Losses {
		x.Losses[l.Name] = l.Value
	}
	b, err := json.Marshal(x)
	if err != nil {
		return err
	}
	_, err = m.f.Write(append(b, '\n'))
	return err
}

// StageEnd closes the file.
func (m *Metrics) StageEnd(*Stage) error { return m.f.Close() }

func readMetrics(path string) ([]metric, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var list []metric
	for i, line := range strings.Split(string(b), "\n") {
		if line == "" {
			continue
		}
		var x metric
		if err := json.Unmarshal([]byte(line), &x); err != nil {
			// A line cut off by a kill is the last one.
			if i == strings.Count(string(b), "\n") {
				break
			}
			return nil, fmt.Errorf("train: %s:%d: %w", path, i+1, err)
		}
		list = append(list, x)
	}
	return list, nil
}
