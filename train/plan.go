package train

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"vlmo-train/data/dataset"
	"vlmo-train/engine"
	"vlmo-train/kernels"
	"vlmo-train/train/config"
	"vlmo-train/vlmo"
	"vlmo-train/vlmo/visual"
)

// Plan is what a run would cost, counted without computing anything.
type Plan struct{ Stages []StagePlan }

// StagePlan is what a stage would cost.
type StagePlan struct {
	*config.Stage
	Precision config.Precision // of the blocks
	// TextLen is the tokens of a typical text, [CLS] and [SEP] included; 0 in
	// a stage without texts. Measured tells that it is the mean of the data
	// and not an assumption.
	TextLen  int
	Measured bool
	// Parts are the parameters by what they are for, Parameters their sum.
	Parts      []Part
	Parameters int
	// FLOPs are those of a step: forward, backward and update, in the mean
	// over steps with and without the losses that are not computed on each,
	// and over what drop path drops.
	FLOPs float64
	// Bytes of device memory. Parameters include a frozen visual tokenizer's,
	// Activations are the most that a step holds at once, if drop path happens
	// to drop nothing.
	ParameterBytes, GradientBytes, MomentBytes, ActivationBytes int64
	// PixelBytes are those of a batch and of the next one, which travels
	// meanwhile.
	PixelBytes int64
	// Recompute tells that norms and activations are computed again in the
	// backward pass.
	Recompute bool
	// Partial names what the counts leave out; "" is nothing.
	Partial string
}

// Part is a share of a model's parameters.
type Part struct {
	Name string
	Len  int
}

// stepBytes are those that a step takes beside parameters, gradients and moments.
func (p *StagePlan) stepBytes() int64 {
	return p.ActivationBytes + p.ActivationBytes/planSlack + p.PixelBytes
}

// MemoryBytes returns the sum of the stage's device memory.
func (p *StagePlan) MemoryBytes() int64 {
	return p.ParameterBytes + p.GradientBytes + p.MomentBytes + p.ActivationBytes + p.PixelBytes
}

// captionTokens is assumed where there is no data to measure: a COCO
// caption's mean of about 14 pieces with [CLS] and [SEP].
const captionTokens = 14

// planSlack says what part more than the plan a stage reserves: texts are
// longer in some batches than in others.
const planSlack = 32

// planSample is how many texts are measured.
const planSample = 256

// planner counts ops. What the host reads from it is 1, by which a codebook
// counts as made.
type planner struct {
	kernels.Counter

	gpu     *GPU               // where there is one, its time is predicted
	seconds map[string]float64 // by op
}

func (p *planner) Run(op kernels.Op) {
	p.Counter.Run(op)
	if p.gpu != nil {
		p.seconds[op.Name()] += p.gpu.seconds(op)
	}
}

func (p *planner) Read(dst any, _ kernels.Tensor) {
	if v, ok := dst.([]float32); ok {
		for i := range v {
			v[i] = 1
		}
	}
}

// NewPlan counts the stages of c. The configuration's data may be missing;
// text lengths are then assumed. c is not changed.
func NewPlan(c *config.Run) (*Plan, error) {
	own := *c
	r := &Run{Config: &own, Dev: &planner{}}
	open := r.Open() // sets the vocabulary's size before the data can fail
	if own.Model.Vocab == 0 {
		return nil, open
	}
	p := &Plan{}
	for i := range own.Stages {
		st, err := r.plan(i, open == nil)
		if err != nil {
			return nil, fmt.Errorf("train: plan of stage %s: %w", own.Stages[i].Name, err)
		}
		p.Stages = append(p.Stages, st)
	}
	return p, nil
}

// planned builds a stage to be counted, and begins its plan.
func (r *Run) planned(index int) (s *Stage, p StagePlan, err error) {
	st := &r.Config.Stages[index]
	p.Stage, p.Precision = st, r.Config.Precision
	if st.Kind == config.Tokenizer {
		p.Precision = config.FP32
	}
	s = &Stage{Stage: st, Index: index, step: engine.NewStep(r.Dev, 0)}
	r.visual, r.coder = nil, nil
	if st.Kind == config.Tokenizer {
		if s.vis, err = visual.New(r.Dev, r.visualConfig(), true); err != nil {
			return s, p, err
		}
		s.store = s.vis.Store
	} else {
		if s.model, err = vlmo.New(r.Dev, r.modelConfig(st), true); err != nil {
			return s, p, err
		}
		s.model.DropPath = st.DropPath
		s.model.Recompute = r.Config.Recompute != config.RecomputeNever
		s.store = s.model.Store
		for _, q := range s.store.Params() {
			q.Frozen = frozen(st.Kind, q.Name)
		}
	}
	if st.Kind == config.Vision {
		if r.Config.Visual.Kind == config.VQKD {
			if r.visual, err = visual.New(r.Dev, r.visualConfig(), false); err != nil {
				return s, p, err
			}
			r.coder = r.visual
			p.ParameterBytes += int64(4 * r.visual.Store.Value.Len())
		} else {
			p.Partial = "the visual tokenizer"
		}
	}
	return s, p, nil
}

func (r *Run) plan(index int, data bool) (StagePlan, error) {
	s, p, err := r.planned(index)
	if err != nil {
		return p, err
	}
	st := s.Stage
	at := map[string]int{}
	for _, q := range s.store.Params() {
		name := part(q.Name)
		i, ok := at[name]
		if !ok {
			i = len(p.Parts)
			at[name] = i
			p.Parts = append(p.Parts, Part{Name: name})
		}
		p.Parts[i].Len += q.Len()
		p.Parameters += q.Len()
	}
	values := int64(4 * s.store.Value.Len())
	p.ParameterBytes += values + int64(2*s.store.Half.Len())
	p.GradientBytes, p.MomentBytes = values, 2*values
	if m := &r.Config.Model; st.Kind != config.Text {
		p.PixelBytes = int64(2 * st.Batch * 3 * m.ImageSize * m.ImageSize)
	}

	p.Recompute = s.model == nil || s.model.Recompute
	if st.Kind != config.Tokenizer && st.Kind != config.Vision {
		if p.TextLen, p.Measured, err = r.textLength(index, data); err != nil {
			return p, err
		}
	}
	// Steps differ by which losses they compute.
	type class struct{ mlm, itm bool }
	type cost struct{ flops, bytes float64 }
	seen := map[class]cost{}
	cycle := lossCycle(st)
	for step := range cycle {
		k := class{step%max(1, st.MLMEvery) == 0, step%max(1, st.ITMEvery) == 0}
		c, ok := seen[k]
		if !ok {
			if c.flops, c.bytes, err = r.stepCost(s, step, p.TextLen); err != nil {
				return p, err
			}
			seen[k] = c
		}
		p.FLOPs += c.flops / float64(cycle)
		p.ActivationBytes = max(p.ActivationBytes, int64(c.bytes))
	}
	return p, nil
}

// lossCycle returns after how many steps a stage computes the same losses again.
func lossCycle(st *config.Stage) int {
	if st.Kind != config.VL {
		return 1
	}
	return lcm(max(1, st.MLMEvery), max(1, st.ITMEvery))
}

func lcm(a, b int) int {
	x, y := a, b
	for y != 0 {
		x, y = y, x%y
	}
	return a / x * b
}

// directBatch is the largest batch counted as it is. The counts are
// polynomials of degree 2 in the batch, so that three small ones determine
// those of a large one.
const directBatch = 48

func (r *Run) stepCost(s *Stage, step, textLen int) (flops, bytes float64, err error) {
	if s.model == nil || s.model.DropPath == 0 {
		return r.fullCost(s, step, textLen)
	}
	// What drop path saves is a share of the FLOPs, that of one draw of many
	// samples.
	m := s.model
	dropped, _, err := r.countStep(s, step, directBatch/3, textLen)
	if err != nil {
		return 0, 0, err
	}
	m.DropRows = false
	defer func() { m.DropRows = true }()
	all, _, err := r.countStep(s, step, directBatch/3, textLen)
	if err != nil {
		return 0, 0, err
	}
	flops, bytes, err = r.fullCost(s, step, textLen)
	return flops * dropped / all, bytes, err
}

// fullCost is the cost of a step that drops nothing.
func (r *Run) fullCost(s *Stage, step, textLen int) (flops, bytes float64, err error) {
	n := s.Batch
	if n <= directBatch {
		return r.countStep(s, step, n, textLen)
	}
	var f, b [3]float64
	for i := range f {
		if f[i], b[i], err = r.countStep(s, step, directBatch/3*(i+1), textLen); err != nil {
			return 0, 0, err
		}
	}
	// Newton's form at 1, 2, 3 in units of a third.
	x := float64(n) / (directBatch / 3)
	at := func(y [3]float64) float64 {
		return y[0] + (x-1)*(y[1]-y[0]) + (x-1)*(x-2)/2*(y[2]-2*y[1]+y[0])
	}
	return at(f), at(b), nil
}

// countStep counts a step with n examples.
func (r *Run) countStep(s *Stage, step, n, textLen int) (flops, bytes float64, err error) {
	b := &batch{}
	m := &r.Config.Model
	px := 3 * m.ImageSize * m.ImageSize
	if s.Kind != config.Text {
		memory, err := r.Dev.Alloc(n * px)
		if err != nil {
			return 0, 0, err
		}
		defer r.Dev.Free(memory)
		b.Pixels = kernels.Matrix(memory, 0, kernels.U8, n, px)
	}
	patches := (m.ImageSize / m.Patch) * (m.ImageSize / m.Patch)
	codes := int(math.Round(75. / 196 * float64(patches))) // BEiT's share
	masked := max(1, int(math.Round(.15*float64(textLen-2))))
	for i := range n {
		b.Samples = append(b.Samples, uint64(i))
		b.Groups = append(b.Groups, int32(i))
		if s.Kind == config.Vision {
			ms := make([]bool, patches)
			for k := range codes {
				ms[k] = true
			}
			b.masks = append(b.masks, ms)
		} else if textLen > 0 {
			ids, labels := make(vlmo.Text, textLen), make([]int32, textLen)
			for k := range labels {
				labels[k] = -1
				if k >= 1 && k <= masked {
					labels[k] = 0
				}
			}
			b.Texts, b.Masked, b.Labels = append(b.Texts, ids), append(b.Masked, slices.Clone(ids)), append(b.Labels, labels)
		}
	}
	c := &r.Dev.(*planner).Counter
	before := c.FLOPs
	s.step.Begin(uint64(step), true)
	s.store.ZeroGrad()
	if s.Kind == config.Vision && r.visual == nil {
		_, err = s.model.MaskedImages(s.step, b.Pixels, b.masks, make([]int32, n*codes), b.Samples)
	} else {
		_, err = r.forward(s, step, b)
	}
	if err != nil {
		return 0, 0, err
	}
	s.step.Backward()
	opt := engine.Optimizer{Beta1: .9, Beta2: .9, Eps: 1}
	if _, err := opt.Update(s.store, 0); err != nil {
		return 0, 0, err
	}
	if err := s.step.Err(); err != nil {
		return 0, 0, err
	}
	return float64(c.FLOPs - before), float64(s.step.Arena.Peak()), nil
}

// textLength returns the mean length of the stage's texts.
func (r *Run) textLength(index int, data bool) (n int, measured bool, err error) {
	st, most := &r.Config.Stages[index], r.Config.Model.MaxText
	var list sets
	switch {
	case !data:
	case st.Kind == config.Text:
		list = r.texts
	default:
		list = textsOf(nil, r.pairs)
	}
	if len(list) == 0 {
		if st.Kind == config.Text {
			return most, false, nil
		}
		return min(most, captionTokens), false, nil
	}
	t, err := list.sample(context.Background())
	if err != nil {
		return 0, false, err
	}
	defer t.Close()
	mk := newMaker(r, index)
	count := min(t.Len(), planSample)
	total, read := 0, 0
	for i := range count {
		e, err := t.Example(i * t.Len() / count)
		if errors.As(err, new(*dataset.BadExampleError)) {
			continue // the run will count it
		}
		if err != nil {
			return 0, false, err
		}
		src := mk.source(0, uint64(i))
		total += len(r.tok.EncodeSpecial(draw(&src, e, st.MaxKeywords), most))
		read++
	}
	if read == 0 {
		return min(most, captionTokens), false, nil
	}
	return max(3, int(math.Round(float64(total)/float64(read)))), true, nil
}

// part names what a parameter is for.
func part(name string) string {
	has := func(list ...string) bool {
		for _, s := range list {
			if strings.Contains(name, s) {
				return true
			}
		}
		return false
	}
	switch {
	case strings.HasPrefix(name, "encoder."):
		return "encoder"
	case strings.HasPrefix(name, "encode_task_layer."), strings.HasPrefix(name, "decode_task_layer."):
		return "heads"
	case strings.HasPrefix(name, "quantize."):
		return "codebook"
	case strings.HasPrefix(name, "decoder."):
		return "decoder"
	case has("word_embeddings"):
		return "word embeddings"
	case has("embeddings", "patch_embed", "cls_token", "pos_embed", "mask_token"):
		return "other embeddings"
	case has("relative_position_bias_table"):
		return "position bias"
	case has(".attn.", ".norm1."):
		return "attention"
	case has("_text."):
		if strings.HasPrefix(name, "transformer.") {
			return "text experts"
		}
	case has("_imag."):
		return "image experts"
	case has("_vl.") && strings.HasPrefix(name, "transformer."):
		return "vision-language experts"
	case has(".gamma_"), strings.HasPrefix(name, "transformer.norm."):
		return "layer scale and last norm"
	}
	return "heads"
}

// Speed measures the matrix products of the configuration's first expert on
// dev for about d and returns FLOPs a second.
func Speed(dev kernels.Device, c *config.Run, d time.Duration) (float64, error) {
	rows := 1024
	dim, hidden := c.Model.Dim, c.Model.Dim*c.Model.FFNRatio
	var t [3]kernels.Tensor
	for i, shape := range [3][2]int{{rows, dim}, {hidden, dim}, {rows, hidden}} {
		m, err := dev.Alloc(4 * shape[0] * shape[1])
		if err != nil {
			return 0, err
		}
		defer dev.Free(m)
		t[i] = kernels.Matrix(m, 0, kernels.F32, shape[0], shape[1])
		dev.Run(&kernels.Fill{Y: t[i], Value: 1})
	}
	op := &kernels.MatMul{A: t[0], B: t[1], TransB: true, C: t[2]}
	dev.Run(op) // warm
	if err := dev.Sync(); err != nil {
		return 0, err
	}
	start, n := time.Now(), 0
	for n == 0 || time.Since(start) < d {
		dev.Run(op)
		n++
		if err := dev.Sync(); err != nil {
			return 0, err
		}
	}
	return float64(n) * float64(op.FLOPs()) / time.Since(start).Seconds(), nil
}

// stepEfficiency is the share of the speed of large matrix products that a
// training step reaches, measured with the demo's model.
const stepEfficiency = 0.6

// Seconds estimates the stage's time at the given speed of matrix products.
func (p *StagePlan) Seconds(speed float64) float64 {
	return float64(p.Steps) * p.FLOPs / (stepEfficiency * speed)
}

// WriteSchedule prints the stages with the time they will about take.
func (p *Plan) WriteSchedule(w io.Writer, speed float64) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "stage\tkind\tsteps\tbatch\tparameters\tGFLOP/step\tabout\t")
	total := 0.0
	for i := range p.Stages {
		st := &p.Stages[i]
		sec := st.Seconds(speed)
		total += sec
		fmt.Fprintf(tw, "%s\t%s\t%d\t%d\t%s\t%.1f\t%s\t\n", st.Name, st.Kind, st.Steps, st.Batch, millions(st.Parameters), st.FLOPs/1e9, roughly(sec))
	}
	fmt.Fprintf(tw, "together\t\t\t\t\t\t%s\t\n", roughly(total))
	return tw.Flush()
}

// WriteCosts prints parameters, memory and FLOPs of every stage.
func (p *Plan) WriteCosts(w io.Writer) error {
	for i := range p.Stages {
		st := &p.Stages[i]
		fmt.Fprintf(w, "\nstage %s (%s), %d steps of batch %d", st.Name, st.Kind, st.Steps, st.Batch)
		switch {
		case st.TextLen > 0 && st.Measured:
			fmt.Fprintf(w, ", texts of %d tokens in the mean", st.TextLen)
		case st.TextLen > 0:
			fmt.Fprintf(w, ", texts taken to be of %d tokens", st.TextLen)
		}
		fmt.Fprintln(w)
		tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintf(tw, "parameters\t%s\t\n", millions(st.Parameters))
		for _, q := range st.Parts {
			fmt.Fprintf(tw, "%s\t%s\t%.1f %%\t\n", q.Name, millions(q.Len), 100*float64(q.Len)/float64(st.Parameters))
		}
		fmt.Fprintf(tw, "precision\t%s\t\n", st.Precision)
		fmt.Fprintf(tw, "memory\t%s\t\n", bytesText(st.MemoryBytes()))
		for _, q := range []struct {
			name string
			n    int64
		}{{"parameters", st.ParameterBytes}, {"gradients", st.GradientBytes}, {"moments", st.MomentBytes}, {"activations", st.ActivationBytes}, {"pixels", st.PixelBytes}} {
			if q.n == 0 {
				continue
			}
			fmt.Fprintf(tw, "%s\t%s\t%.1f %%\t\n", q.name, bytesText(q.n), 100*float64(q.n)/float64(st.MemoryBytes()))
		}
		fmt.Fprintf(tw, "FLOPs a step\t%s\t\n", flopsText(st.FLOPs))
		fmt.Fprintf(tw, "FLOPs of the stage\t%s\t\n", flopsText(st.FLOPs*float64(st.Steps)))
		if err := tw.Flush(); err != nil {
			return err
		}
		if st.Partial != "" {
			fmt.Fprintf(w, "without %s\n", st.Partial)
		}
	}
	return nil
}

func millions(n int) string {
	if n < 100_000 {
		return fmt.Sprintf("%.1f k", float64(n)/1e3)
	}
	return fmt.Sprintf("%.2f M", float64(n)/1e6)
}

func bytesText(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.2f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
}

func flopsText(x float64) string {
	for _, u := range []struct {
		name string
		x    float64
	}{{"E", 1e18}, {"P", 1e15}, {"T", 1e12}} {
		if x >= u.x {
			return fmt.Sprintf("%.2f %sFLOP", x/u.x, u.name)
		}
	}
	return fmt.Sprintf("%.2f GFLOP", x/1e9)
}

// roughly prints an estimate without false precision.
func roughly(seconds float64) string {
	switch {
	case seconds < 55:
		return fmt.Sprintf("%d s", max(5, 5*int(math.Round(seconds/5))))
	case seconds < 90*60:
		return fmt.Sprintf("%d min", int(math.Round(seconds/60)))
	case seconds < 48*3600:
		return fmt.Sprintf("%.1f h", seconds/3600)
	}
	return fmt.Sprintf("%.0f days", seconds/86400)
}
