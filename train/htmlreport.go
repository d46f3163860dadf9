package train

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"vlmo-train/data/img"
	"vlmo-train/data/mask"
	"vlmo-train/engine"
	"vlmo-train/kernels"
	"vlmo-train/rng"
	"vlmo-train/train/config"
	"vlmo-train/train/report"
	"vlmo-train/vlmo"
)

// Journal is a Hook that notes what the report needs and the metrics do not
// have: handovers, times, and the evaluations under way. It appends JSON
// lines to a file, so that a resumed run goes on with it.
type Journal struct{ Path string }

// entry is one line of a journal.
type entry struct {
	Event    string         `json:"event"` // start, evaluation or end
	Stage    string         `json:"stage"`
	Time     time.Time      `json:"time"`
	Step     int            `json:"step"`
	Handover *vlmo.Handover `json:"handover,omitempty"`
	Result   *Retrieval     `json:"result,omitempty"`
	Bad      int            `json:"unreadable,omitempty"`
	Skipped  []string       `json:"skipped,omitempty"`
}

func (j *Journal) add(e entry) error {
	e.Time = time.Now()
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(j.Path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o666)
	if err != nil {
		return fmt.Errorf("train: %w", err)
	}
	_, err = f.Write(append(b, '\n'))
	return errors.Join(err, f.Close())
}

// StageStart notes the handover.
func (j *Journal) StageStart(s *Stage) error {
	e := entry{Event: "start", Stage: s.Name, Step: s.First}
	if s.model != nil {
		e.Handover = &s.Handover
	}
	return j.add(e)
}

// Step does nothing.
func (j *Journal) Step(*Stage, *Progress) error { return nil }

// StageEnd notes the time and the examples that could not be read.
func (j *Journal) StageEnd(s *Stage) error {
	return j.add(entry{Event: "end", Stage: s.Name, Step: s.Steps, Bad: s.Unreadable, Skipped: s.Skipped})
}

// Evaluated notes a result.
func (j *Journal) Evaluated(s *Stage, step int, r *Retrieval) error {
	return j.add(entry{Event: "evaluation", Stage: s.Name, Step: step, Result: r})
}

func readJournal(path string) ([]entry, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("train: %w", err)
	}
	lines := strings.Split(string(b), "\n")
	var list []entry
	for i, line := range lines {
		if line == "" {
			continue
		}
		var e entry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			if i == len(lines)-1 { // cut off by a kill
				break
			}
			return nil, fmt.Errorf("train: %s:%d: %w", path, i+1, err)
		}
		list = append(list, e)
	}
	return list, nil
}

// Evaluation is a Hook that evaluates vl and retrieval stages every
// eval_every steps, but not after the last one, and hands the result to Tell.
type Evaluation struct {
	Run  *Run
	Tell []func(s *Stage, step int, r *Retrieval) error
}

// StageStart does nothing.
func (e *Evaluation) StageStart(*Stage) error { return nil }

// Step evaluates when it is time.
func (e *Evaluation) Step(s *Stage, p *Progress) error {
	if s.Kind != config.VL && s.Kind != config.Retrieval || s.EvalEvery == 0 || p.Step%s.EvalEvery != 0 || p.Step == s.Steps {
		return nil
	}
	r, err := e.Run.Evaluate(s.model, 0)
	if err != nil {
		return err
	}
	for _, tell := range e.Tell {
		if err := tell(s, p.Step, r); err != nil {
			return err
		}
	}
	return nil
}

// StageEnd does nothing.
func (e *Evaluation) StageEnd(*Stage) error { return nil }

// Checkpoint returns the newest checkpoint of the run's last stage of one of
// the kinds. Without one the error is an fs.ErrNotExist.
func (r *Run) Checkpoint(kinds ...config.Kind) (string, error) {
	for i := len(r.Config.Stages) - 1; i >= 0; i-- {
		if !slices.Contains(kinds, r.Config.Stages[i].Kind) {
			continue
		}
		dir, err := engine.Latest(r.checkpoints(i))
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return dir, err
		}
	}
	return "", fmt.Errorf("train: %s has no checkpoint of a %v stage: %w", r.Config.Out, kinds, fs.ErrNotExist)
}

// Restore returns the model of a vl or retrieval checkpoint, a directory or a
// file of weights of any format, at the run's image size and text length, for
// inference. The run must have been opened.
func (r *Run) Restore(path string) (*vlmo.Model, error) {
	w, err := vlmo.Import(path, r.backbone())
	if err != nil {
		return nil, fmt.Errorf("train: %w", err)
	}
	kind := config.Retrieval
	if _, ok := w["itm_score.fc.weight"]; ok {
		kind = config.VL
	}
	m, err := vlmo.New(r.Dev, r.modelConfig(&config.Stage{Kind: kind}), false)
	if err != nil {
		return nil, err
	}
	h, err := vlmo.Assign(m, w)
	if err != nil {
		return nil, fmt.Errorf("train: %s: %w", path, err)
	}
	// Features need no pooler, which a file may lack.
	if kind == config.Retrieval {
		h.Initialised = slices.DeleteFunc(h.Initialised, func(name string) bool { return strings.HasPrefix(name, "pooler.") })
	}
	if len(h.Initialised) > 0 {
		return nil, fmt.Errorf("train: %s lacks %d tensors that retrieval needs, such as %s", path, len(h.Initialised), h.Initialised[0])
	}
	return m, nil
}

// EvaluateCheckpoint is Restore and Evaluate. rerank > 0 wants a checkpoint
// with a matching head.
func (r *Run) EvaluateCheckpoint(path string, rerank int) (*Retrieval, error) {
	m, err := r.Restore(path)
	if err != nil {
		return nil, err
	}
	defer m.Store.Close()
	if rerank > 0 && !m.With.ITM {
		return nil, fmt.Errorf("train: %s has no image-text matching head to rerank with", path)
	}
	return r.Evaluate(m, rerank)
}

// Report gathers what the run's folder holds for its page: config.yaml,
// metrics.jsonl, journal.jsonl and the visual tokenizer's checkpoint. res and
// b may be nil. The run must have been opened.
func (r *Run) Report(res *Retrieval, b *Baseline) (report.Report, error) {
	c := r.Config
	y, err := c.Marshal()
	if err != nil {
		return report.Report{}, err
	}
	page := report.Report{Title: "Training run " + c.Name, Machine: Machine() + ", " + r.Dev.Name(), Version: Version(), ConfigYAML: string(y)}
	journal, err := readJournal(filepath.Join(c.Out, "journal.jsonl"))
	if err != nil {
		return page, err
	}
	metrics, err := readMetrics(filepath.Join(c.Out, "metrics.jsonl"))
	if err != nil {
		return page, err
	}
	for _, e := range journal {
		if page.Started.IsZero() {
			page.Started = e.Time
		}
		page.Finished = e.Time
	}
	for i := range c.Stages {
		st := &c.Stages[i]
		page.Stages = append(page.Stages, stageReport(st, metrics, journal))
		// The first start tells where fresh weights came in.
		for _, e := range journal {
			if e.Event == "start" && e.Stage == st.Name && e.Handover != nil {
				page.Handovers = append(page.Handovers, report.Handover{Stage: st.Name, Loaded: e.Handover.Loaded, Left: e.Handover.Left, Initialised: e.Handover.Initialised})
				break
			}
		}
	}
	if res != nil {
		share := func(p Recall) (s [3]float64) {
			for i, x := range p {
				s[i] = x / 100
			}
			return s
		}
		page.Retrieval = &report.Retrieval{I2T: share(res.ImageToText), T2I: share(res.TextToImage), Chance: share(res.Chance), Count: res.Images}
		if b != nil {
			page.Retrieval.Baseline = &report.Baseline{Name: b.Name, I2T: share(b.ImageToText), T2I: share(b.TextToImage)}
		}
		if page.Examples, err = res.pictures(8); err != nil {
			return page, err
		}
	}
	page.Reconstructions, err = r.reconstructions(8)
	return page, err
}

// stageReport draws a stage's curves.
func stageReport(st *config.Stage, metrics []metric, journal []entry) report.Stage {
	out := report.Stage{Name: st.Name, Kind: string(st.Kind), Unit: unit(st.Kind)}
	at := map[string]int{}
	point := func(name string, step int, v float64) {
		i, ok := at[name]
		if !ok {
			i = len(out.Curves)
			at[name] = i
			out.Curves = append(out.Curves, report.Curve{Name: name})
		}
		k := &out.Curves[i]
		if n := len(k.Steps); n > 0 && step <= k.Steps[n-1] {
			return
		}
		k.Steps, k.Values = append(k.Steps, step), append(k.Values, v)
	}
	last, examples := 0.0, 0
	for _, m := range metrics {
		if m.Stage != st.Name {
			continue
		}
		out.Steps = m.Step
		// Seconds start again where a run is resumed.
		if m.Seconds < last {
			last = 0
		}
		out.Seconds += m.Seconds - last
		last = m.Seconds
		examples += m.Batch
		names := make([]string, 0, len(m.Losses))
		for name := range m.Losses {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			point(name, m.Step, m.Losses[name])
		}
		point("learning rate", m.Step, m.LR)
		point("gradient norm", m.Step, m.GradNorm)
	}
	if out.Seconds > 0 {
		out.Throughput = float64(examples) / out.Seconds
	}
	for _, e := range journal {
		if e.Event == "evaluation" && e.Stage == st.Name && e.Result != nil {
			point("image→text R@1, %", e.Step, e.Result.ImageToText[0])
			point("text→image R@1, %", e.Step, e.Result.TextToImage[0])
		}
	}
	return out
}

// thumbnail is the longest edge of a picture in the report.
const thumbnail = 112

func thumb(m *img.Image) ([]byte, error) {
	if e := max(m.W, m.H); e > thumbnail {
		small, err := img.Resize(m, max(1, m.W*thumbnail/e), max(1, m.H*thumbnail/e))
		if err != nil {
			return nil, err
		}
		m = small
	}
	return img.EncodePNG(m)
}

// thumb reads image i again.
func (r *Retrieval) thumb(i int) ([]byte, error) {
	e, err := r.test.Example(i)
	if err != nil {
		return nil, err
	}
	return thumb(e.Image)
}

// pictures returns n queries in each direction with their best five answers.
func (r *Retrieval) pictures(n int) ([]report.Example, error) {
	var list []report.Example
	for _, t := range spread(r.Texts, n) {
		e := report.Example{Kind: "text to image", Query: report.Item{Text: r.captions[t]}}
		for _, i := range top(func(i int) float32 { return r.score[i*r.Texts+t] }, r.Images, 5) {
			png, err := r.thumb(i)
			if err != nil {
				return nil, err
			}
			e.Hits = append(e.Hits, report.Hit{Item: report.Item{PNG: png}, Score: float64(r.score[i*r.Texts+t]), Right: r.right(i, t)})
		}
		list = append(list, e)
	}
	for _, i := range spread(r.Images, n) {
		png, err := r.thumb(i)
		if err != nil {
			return nil, err
		}
		e := report.Example{Kind: "image to text", Query: report.Item{PNG: png}}
		for _, t := range top(func(t int) float32 { return r.score[i*r.Texts+t] }, r.Texts, 5) {
			e.Hits = append(e.Hits, report.Hit{Item: report.Item{Text: r.captions[t]}, Score: float64(r.score[i*r.Texts+t]), Right: r.right(i, t)})
		}
		list = append(list, e)
	}
	return list, nil
}

// reconstructions draws n test pictures from their visual codes. There are
// none without a trained tokenizer or a test set.
func (r *Run) reconstructions(n int) ([]report.Reconstruction, error) {
	path, err := r.Checkpoint(config.Tokenizer)
	if errors.Is(err, fs.ErrNotExist) || r.test == nil {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if err := r.loadVisual(path); err != nil {
		return nil, err
	}
	size := r.Config.Model.ImageSize
	px := 3 * size * size
	var pictures []*img.Image
	var pixels []byte
	for _, i := range spread(r.test.Len(), n) {
		e, err := r.test.Example(i)
		if err != nil {
			return nil, err
		}
		m, err := img.Resize(e.Image, size, size)
		if err != nil {
			return nil, err
		}
		pixels = append(pixels, make([]byte, px)...)
		if err := img.Planes(pixels[len(pixels)-px:], m); err != nil {
			return nil, err
		}
		pictures = append(pictures, m)
	}
	s := engine.NewStep(r.Dev, r.Config.Seed)
	defer s.Arena.Close()
	s.Begin(0, false)
	on := s.Bytes(pixels, len(pictures), px)
	codes, err := r.visual.Codes(s, on)
	if err != nil {
		return nil, err
	}
	masked, err := r.fillMasked(s, on, codes)
	if err != nil {
		return nil, err
	}
	drawn, err := r.visual.Decode(s, codes)
	if err != nil {
		return nil, err
	}
	var list []report.Reconstruction
	for k, m := range pictures {
		var one report.Reconstruction
		if one.Original, err = thumb(m); err != nil {
			return nil, err
		}
		if masked != nil {
			if one.Masked, err = thumb(hide(m, masked[k], r.Config.Model.Patch)); err != nil {
				return nil, err
			}
		}
		if one.Reconstructed, err = thumb(fromCHW(drawn[k*px:(k+1)*px], size)); err != nil {
			return nil, err
		}
		list = append(list, one)
	}
	return list, nil
}

// fromCHW makes a picture of normalised planes; values out of range are cut.
func fromCHW(v []float32, size int) *img.Image {
	m := img.New(size, size)
	n := size * size
	for i := range n {
		for c := range 3 {
			m.Pix[3*i+c] = byte(min(max((v[c*n+i]+1)*127.5+0.5, 0), 255))
		}
	}
	return m
}

// Machine describes the processor and the operating system.
func Machine() string {
	name := runtime.GOARCH
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
				name = strings.TrimSpace(v)
				break
			}
		}
	}
	return fmt.Sprintf("%s, %d processors, %s", name, runtime.NumCPU(), runtime.GOOS)
}

// Version returns the program's version and that of Go.
func Version() string {
	v := "vlmo-train"
	if b, ok := debug.ReadBuildInfo(); ok {
		if b.Main.Version != "" {
			v += " " + b.Main.Version
		}
		for _, s := range b.Settings {
			if s.Key == "vcs.revision" && !strings.Contains(v, s.Value[:min(12, len(s.Value))]) {
				v += " (" + s.Value[:min(12, len(s.Value))] + ")"
			}
		}
	}
	return v + ", " + runtime.Version()
}

// Memory returns the size of the machine's memory as text, "unknown" where
// the system does not tell.
func Memory() string {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(b)) {
		var kib int64
		if n, _ := fmt.Sscanf(line, "MemTotal: %d kB", &kib); n == 1 {
			return bytesText(kib << 10)
		}
	}
	return "unknown"
}

// OutFolder returns the folder for a run: base, or base-2, base-3 … if base
// exists. With resume it is the last of them that exists.
func OutFolder(base string, resume bool) (string, error) {
	last := ""
	for i := 1; ; i++ {
		dir := base
		if i > 1 {
			dir = fmt.Sprintf("%s-%d", base, i)
		}
		_, err := os.Stat(dir)
		switch {
		case err == nil:
			last = dir
		case !errors.Is(err, fs.ErrNotExist):
			return "", fmt.Errorf("train: %w", err)
		case !resume:
			return dir, nil
		case last == "":
			return "", fmt.Errorf("train: there is no %s to resume", base)
		default:
			return last, nil
		}
	}
}

// fillMasked masks patches of pictures and replaces their codes by what the
// vision stage's model predicts. Without such a stage nothing is masked.
func (r *Run) fillMasked(s *engine.Step, pixels kernels.Tensor, codes []int32) ([][]bool, error) {
	path, err := r.Checkpoint(config.Vision)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	w, err := vlmo.ReadTensors(path)
	if err != nil {
		return nil, err
	}
	m, err := vlmo.New(r.Dev, r.modelConfig(&config.Stage{Kind: config.Vision}), false)
	if err != nil {
		return nil, err
	}
	defer m.Store.Close()
	if _, err := vlmo.Assign(m, w); err != nil {
		return nil, fmt.Errorf("train: %s: %w", path, err)
	}
	masked := make([][]bool, pixels.Rows)
	for i := range masked {
		src := rng.New(rng.Key{Seed: r.Config.Seed, Purpose: rng.MaskImage, Sample: uint64(i)})
		masked[i] = mask.Blocks(&src, m.Window(), m.Window(), mask.BlockOptions{})
	}
	predicted, err := m.PredictCodes(s, pixels, masked)
	if err != nil {
		return nil, err
	}
	k := 0
	for i, ms := range masked {
		for p, is := range ms {
			if is {
				codes[i*len(ms)+p] = predicted[k]
				k++
			}
		}
	}
	return masked, nil
}

// hide returns a copy of a picture with its masked patches in grey.
func hide(m *img.Image, masked []bool, patch int) *img.Image {
	out := img.New(m.W, m.H)
	copy(out.Pix, m.Pix)
	window := m.W / patch
	for p, is := range masked {
		if !is {
			continue
		}
		for y := p / window * patch; y < (p/window+1)*patch; y++ {
			row := out.Pix[3*(y*m.W+p%window*patch):]
			for i := range 3 * patch {
				row[i] = 128
			}
		}
	}
	return out
}
