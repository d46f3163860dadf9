package train

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"vlmo-train/data/img"
	"vlmo-train/engine"
	"vlmo-train/kernels"
	"vlmo-train/kernels/cpu"
	"vlmo-train/train/config"
	"vlmo-train/vlmo"
	"vlmo-train/weights"
)

const emoji = "../testdata/emoji/"

// sprites are pictures of two drawings a concept, cut from the test data.
var sprites = sync.OnceValues(func() (list []sprite, err error) {
	text, err := os.ReadFile(emoji + "train.jsonl")
	if err != nil {
		return nil, err
	}
	sheets := map[string]*img.Image{}
	for line := range strings.Lines(string(text)) {
		var e struct {
			Box [4]int
			sprite
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			return nil, err
		}
		if sheets[e.File] == nil {
			b, err := os.ReadFile(emoji + e.File)
			if err != nil {
				return nil, err
			}
			if sheets[e.File], err = img.Decode(b, img.Options{}); err != nil {
				return nil, err
			}
		}
		sheet, m := sheets[e.File], img.New(e.Box[2], e.Box[3])
		for y := range m.H {
			from := 3 * ((e.Box[1]+y)*sheet.W + e.Box[0])
			copy(m.Pix[3*y*m.W:3*(y+1)*m.W], sheet.Pix[from:from+3*m.W])
		}
		if e.png, err = img.EncodePNG(m); err != nil {
			return nil, err
		}
		e.File = e.ID + ".png"
		if list = append(list, e.sprite); len(list) == 30 {
			return list, nil
		}
	}
	return nil, errors.New("too few sprites")
})

type sprite struct {
	File     string   `json:"image"`
	ID       string   `json:"id"`
	Concept  string   `json:"concept"`
	Captions []string `json:"captions"`
	Keywords []string `json:"keywords"`
	png      []byte
}

// writePairs makes a set of n pictures in dir and returns its list's path.
func writePairs(t *testing.T, dir string, n int) string {
	t.Helper()
	list, err := sprites()
	if err != nil {
		t.Fatal(err)
	}
	var lines bytes.Buffer
	for _, e := range list[:n] {
		b, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		lines.Write(append(b, '\n'))
		writeFile(t, filepath.Join(dir, e.File), e.png)
	}
	path := filepath.Join(dir, "pairs.jsonl")
	writeFile(t, path, lines.Bytes())
	return path
}

func writeFile(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o666); err != nil {
		t.Fatal(err)
	}
}

// allStages is a run of every kind of stage on pictures in dir, with all that
// draws random numbers turned on. An epoch has three batches.
func allStages(pairs, out string) *config.Run {
	augment := config.Augment{CropArea: [2]float64{0.5, 1}, CropRatio: [2]float64{0.75, 1.33}, Flip: 0.5, Rotate: 10, Brightness: 0.3,
		RandAugment: config.RandAugment{Ops: 1, Level: 3, Kind: config.RandDefault}}
	stage := func(k config.Kind, steps int) config.Stage {
		s := config.Stage{Name: string(k), Kind: k, Steps: steps, Batch: 8, LR: 1e-3, Warmup: 2, Schedule: config.Cosine, Decay: 0.05,
			Betas: [2]float64{0.9, 0.98}, Eps: 1e-8, Clip: 1, DropPath: 0.3, MLMEvery: 1, ITMEvery: 1, OriginalWorld: 1,
			Augment: augment, MaxKeywords: 2}
		switch k {
		case config.VL:
			s.LossWeights = config.LossWeights{MLM: 0.25, ITC: 1, ITM: 1}
		case config.Retrieval:
			s.LossWeights = config.LossWeights{ITC: 1}
		}
		return s
	}
	return &config.Run{
		Name: "test", Seed: 7, Out: out, Device: config.CPU, Precision: config.FP32, Recompute: config.RecomputeAuto, Threads: 1,
		Model: config.Model{ImageSize: 16, Patch: 8, Dim: 16, Depth: 3, Heads: 2, FFNRatio: 2, VLStart: 2,
			VocabFile: emoji + "vocab.txt", MaxText: 16, MaxTextInit: 16, Position: config.Relative, LayerScale: 0.1},
		Visual: config.Visual{Kind: config.VQKD, Codes: 16, CodeDim: 4, Dim: 16, Depth: 1, Heads: 2, DecoderDepth: 1, Decay: 0.9},
		Data:   config.Data{Pairs: []config.Set{{Path: []string{pairs}}}, Text: []config.Set{{Path: []string{emoji + "glosses.txt"}}}, Workers: 1},
		Stages: []config.Stage{stage(config.Tokenizer, 5), stage(config.Vision, 5), stage(config.Text, 4), stage(config.VL, 7), stage(config.Retrieval, 5)},
	}
}

// only keeps one stage of a run.
func only(c *config.Run, k config.Kind) *config.Run {
	c.Stages = []config.Stage{*c.Stage(string(k))}
	return c
}

// watch is a Hook made of a function.
type watch func(s *Stage, p *Progress) error

func (watch) StageStart(*Stage) error            { return nil }
func (w watch) Step(s *Stage, p *Progress) error { return w(s, p) }
func (watch) StageEnd(*Stage) error              { return nil }

// journal keeps what each step reported, and fails where a step made again
// reports something else.
type journal map[string]string

func (j journal) hook() Hook {
	return watch(func(s *Stage, p *Progress) error {
		key := fmt.Sprintf("%s %d", s.Name, p.Step)
		now := fmt.Sprintf("%v, gradient %v, rate %v", p.Losses, p.GradNorm, p.LR)
		if old, ok := j[key]; ok && old != now {
			return fmt.Errorf("%s: %s, and before %s", key, now, old)
		}
		j[key] = now
		return nil
	})
}

// start runs c on threads threads.
func start(ctx context.Context, t *testing.T, c *config.Run, threads int, resume bool, hooks ...Hook) error {
	t.Helper()
	dev, err := cpu.New(cpu.Options{Threads: threads})
	if err != nil {
		t.Fatal(err)
	}
	c.Threads = threads
	r := &Run{Config: c, Dev: dev, Hooks: hooks, Resume: resume}
	return r.Train(ctx)
}

// results are the bytes of every stage's last checkpoint, without what may
// differ between equal runs.
func results(t *testing.T, c *config.Run) map[string]string {
	t.Helper()
	all := map[string]string{}
	for i, s := range c.Stages {
		dir, err := engine.Latest(filepath.Join(c.Out, "checkpoints", fmt.Sprintf("%d-%s", i, s.Name)))
		if err != nil {
			t.Fatal(err)
		}
		files, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			b, err := os.ReadFile(filepath.Join(dir, f.Name()))
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasSuffix(f.Name(), ".json") {
				var x struct {
					Parameters json.RawMessage
					State      struct {
						Step     int
						Position json.RawMessage
					}
				}
				if err := json.Unmarshal(b, &x); err != nil {
					t.Fatal(err)
				}
				if x.State.Step != s.Steps {
					t.Fatalf("%s is of step %d, want %d", dir, x.State.Step, s.Steps)
				}
				b = fmt.Appendf(nil, "%s %s", x.Parameters, x.State.Position)
			}
			all[s.Name+"/"+f.Name()] = string(b)
		}
	}
	return all
}

func sameResults(t *testing.T, got, want map[string]string) {
	t.Helper()
	if len(got) != len(want) || len(want) == 0 {
		t.Errorf("%d files, want %d", len(got), len(want))
	}
	for name, w := range want {
		if got[name] != w {
			t.Errorf("%s differs", name)
		}
	}
}

func sameJournal(t *testing.T, got, want journal) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%d steps were reported, want %d", len(got), len(want))
	}
	for key, w := range want {
		if got[key] != w {
			t.Errorf("%s: %s, want %s", key, got[key], w)
		}
	}
}

// A run that is interrupted and resumed is the uninterrupted run to the bit:
// losses, weights, moments, update counts and place in the data, in every
// kind of stage, with other numbers of threads and loader workers.
func TestResume(t *testing.T) {
	pairs := writePairs(t, t.TempDir(), 28)
	stages := func() *config.Run {
		c := allStages(pairs, t.TempDir())
		// Parameters that get a gradient in some steps and not in others.
		vl := c.Stage("vl")
		vl.MLMEvery, vl.ITMEvery = 3, 2
		return c
	}
	c := stages()
	want := journal{}
	if err := start(t.Context(), t, c, 1, false, want.hook()); err != nil {
		t.Fatal(err)
	}
	whole := results(t, c)
	total := 0
	for _, s := range c.Stages {
		total += s.Steps
	}
	if len(want) != total {
		t.Fatalf("%d steps were reported, want %d", len(want), total)
	}

	// The place of the interruptions: after each step, or each third one so
	// that two batches follow each other in between.
	for _, every := range []int{1, 3} {
		t.Run(fmt.Sprint(every), func(t *testing.T) {
			c := stages()
			got := journal{}
			parts := 0
			for resume := false; ; resume = true {
				c.Data.Workers = 1 + parts%3
				ctx, cancel := context.WithCancel(t.Context())
				steps := 0
				err := start(ctx, t, c, 1+(parts+1)%3, resume, got.hook(), watch(func(*Stage, *Progress) error {
					if steps++; steps == every {
						cancel()
					}
					return nil
				}))
				cancel()
				if parts++; err == nil {
					break
				}
				if !errors.Is(err, ErrInterrupted) || !strings.Contains(err.Error(), c.Out) || parts > total {
					t.Fatal(err)
				}
			}
			// An interruption at a stage's end ends the first step of the next.
			if least := total/every - len(c.Stages); parts < least {
				t.Errorf("the run was made in %d parts, want at least %d", parts, least)
			}
			sameJournal(t, got, want)
			sameResults(t, results(t, c), whole)
		})
	}

	// More workers and threads without interruption.
	c = stages()
	c.Data.Workers = 3
	got := journal{}
	if err := start(t.Context(), t, c, 2, false, got.hook()); err != nil {
		t.Fatal(err)
	}
	sameJournal(t, got, want)
	sameResults(t, results(t, c), whole)

	// Another seed is another run, or the comparisons above mean nothing.
	c = only(allStages(pairs, t.TempDir()), config.VL)
	c.Seed++
	got = journal{}
	if err := start(t.Context(), t, c, 1, false, got.hook()); err != nil {
		t.Fatal(err)
	}
	if got["vl 1"] == want["vl 1"] || results(t, c)["vl/model.safetensors"] == whole["vl/model.safetensors"] {
		t.Error("another seed gives the same results")
	}
}

// A run in bfloat16 learns, goes on to the bit after an interruption, and its
// checkpoints are in single precision: a run in that goes on from them.
func TestBF16(t *testing.T) {
	pairs := writePairs(t, t.TempDir(), 28)
	run := func(precision config.Precision) *config.Run {
		c := only(allStages(pairs, t.TempDir()), config.VL)
		c.Precision = precision
		return c
	}
	c, want := run(config.BF16), journal{}
	check(t, start(t.Context(), t, c, 1, false, want.hook()))
	whole := results(t, c)

	c, got := run(config.BF16), journal{}
	ctx, cancel := context.WithCancel(t.Context())
	err := start(ctx, t, c, 1, false, got.hook(), watch(func(_ *Stage, p *Progress) error {
		if p.Step == 3 {
			cancel()
		}
		return nil
	}))
	if !errors.Is(err, ErrInterrupted) {
		t.Fatal(err)
	}
	check(t, start(t.Context(), t, c, 2, true, got.hook()))
	sameJournal(t, got, want)
	sameResults(t, results(t, c), whole)

	single, other := run(config.FP32), journal{}
	check(t, start(t.Context(), t, single, 1, false, other.hook()))
	if other["vl 1"] == want["vl 1"] {
		t.Error("a step in bfloat16 is one in single precision")
	}
	for name, b := range results(t, single) {
		// Headers, and so types and shapes, are alike.
		if strings.HasSuffix(name, ".safetensors") && len(b) != len(whole[name]) {
			t.Errorf("%s has %d bytes, in single precision %d", name, len(whole[name]), len(b))
		}
	}
	for _, precision := range []config.Precision{config.FP32, config.BF16} {
		next := run(precision)
		last, err := engine.Latest(filepath.Join(single.Out, "checkpoints", "0-vl"))
		check(t, err)
		if precision == config.FP32 {
			last, err = engine.Latest(filepath.Join(c.Out, "checkpoints", "0-vl"))
			check(t, err)
		}
		next.Init = last
		check(t, start(t.Context(), t, next, 1, false, watch(func(s *Stage, p *Progress) error {
			if p.Step == 1 && len(s.Handover.Left)+len(s.Handover.Initialised) > 0 {
				return fmt.Errorf("handover %+v", s.Handover)
			}
			return nil
		})))
	}
}

// The codebook and its moving averages are no optimiser state: they are in
// the model's file, and move with every step.
func TestTokenizerCheckpoint(t *testing.T) {
	pairs := writePairs(t, t.TempDir(), 28)
	read := func(steps int) map[string][]float32 {
		c := only(allStages(pairs, t.TempDir()), config.Tokenizer)
		c.Stages[0].Steps, c.Stages[0].Warmup = steps, 1
		if err := start(t.Context(), t, c, 1, false); err != nil {
			t.Fatal(err)
		}
		f, err := weights.Open(filepath.Join(c.Out, "checkpoints", "0-tokenizer", engine.CheckpointName(steps), "model.safetensors"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		all := map[string][]float32{}
		for _, name := range []string{"quantize.embedding.weight", "quantize.embed_avg", "quantize.cluster_size", "quantize.initted"} {
			if all[name], _, err = f.Float32(name); err != nil {
				t.Fatal(err)
			}
		}
		return all
	}
	one, two := read(1), read(2)
	for name := range one {
		if still := name == "quantize.initted"; slices.Equal(one[name], two[name]) != still {
			t.Errorf("%s is the same after 1 and 2 steps: %v, want %v", name, !still, still)
		}
	}
	if two["quantize.initted"][0] != 1 {
		t.Error("the codebook is not marked as set")
	}
}

// Parameters that no loss reaches, and those that a stage freezes, stay as they
// were for any weight decay, and have no moments.
func TestUntouchedParameters(t *testing.T) {
	pairs := writePairs(t, t.TempDir(), 28)
	for _, test := range []struct {
		kind    config.Kind
		weights config.LossWeights
		still   []string // a part of the names of all that stay
	}{
		{config.Text, config.LossWeights{}, []string{"gamma_", ".norm1.", "attn.", "_imag.", "cls_token", "patch_embed", "pooler", "text_embeddings.position_embeddings"}},
		{config.Vision, config.LossWeights{}, []string{"text_embeddings", "_text.", "token_type_embeddings"}},
		{config.Retrieval, config.LossWeights{ITC: 1}, []string{"_vl.", "pooler", "text_embeddings.position_embeddings"}},
		{config.VL, config.LossWeights{MLM: 1}, []string{"itc_", "itm_", "pooler", "logit_", "blocks.2.mlp_text", "blocks.2.norm2_text", "blocks.2.mlp_imag", "blocks.2.norm2_imag", "text_embeddings.position_embeddings"}},
		{config.VL, config.LossWeights{ITM: 1}, []string{"itc_", "mlm_", "logit_", "blocks.2.mlp_text", "blocks.2.norm2_text", "blocks.2.mlp_imag", "blocks.2.norm2_imag", "text_embeddings.position_embeddings"}},
	} {
		c := allStages(pairs, t.TempDir())
		s := *c.Stage(string(test.kind))
		s.Steps, s.Warmup, s.Decay, s.LossWeights = 3, 0, 10, test.weights
		c.Stages = []config.Stage{s}
		if test.kind == config.Vision {
			first := *allStages(pairs, "").Stage("tokenizer")
			first.Steps = 2
			c.Stages = []config.Stage{first, s}
		}
		var before map[string][]float32
		stills := 0
		check := watch(func(s *Stage, p *Progress) error {
			if s.Kind != test.kind || p.Step != 3 {
				return nil
			}
			for _, q := range s.store.Params() {
				want := slices.ContainsFunc(test.still, func(part string) bool { return strings.Contains(q.Name, part) })
				m, v := s.store.Moments(q)
				zero := func(x float32) bool { return x == 0 }
				still := slices.Equal(s.store.Get(q), before[q.Name]) && q.Steps == 0 &&
					!slices.ContainsFunc(m, func(x float32) bool { return !zero(x) }) && !slices.ContainsFunc(v, func(x float32) bool { return !zero(x) })
				if want {
					stills++
				}
				if still != want {
					t.Errorf("%s %v: %s stays as it was: %v, want %v", test.kind, test.weights, q.Name, still, want)
				}
			}
			return nil
		})
		// The values before the first step are Init's.
		r := &Run{Config: c, Dev: newCPU(t)}
		if err := r.Open(); err != nil {
			t.Fatal(err)
		}
		fresh := &Stage{Stage: &c.Stages[len(c.Stages)-1]}
		if err := r.build(fresh, false); err != nil {
			t.Fatal(err)
		}
		before = map[string][]float32{}
		for _, q := range fresh.store.Params() {
			before[q.Name] = fresh.store.Get(q)
		}
		if err := start(t.Context(), t, c, 1, false, check); err != nil {
			t.Fatal(err)
		}
		if stills == 0 {
			t.Errorf("%s: nothing was checked", test.kind)
		}
	}
}

func newCPU(t *testing.T) kernels.Device {
	t.Helper()
	dev, err := cpu.New(cpu.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	return dev
}

// A vision stage starts from BEiT's weights as a torch file, and predicts the
// codes of published tokenizers.
func TestPublishedWeights(t *testing.T) {
	pairs := writePairs(t, t.TempDir(), 28)
	for _, v := range []config.Visual{
		{Kind: config.VQKD, Weights: "vqkd/vqkd.pth", Codes: 64, CodeDim: 8, Dim: 32, Depth: 2, Heads: 2, DecoderDepth: 1, Decay: 0.9},
		{Kind: config.DALLE, Weights: "dalle/encoder.pkl", Codes: 64},
	} {
		c := only(allStages(pairs, t.TempDir()), config.Vision)
		c.Model.ImageSize, c.Model.Dim, c.Model.FFNRatio = 32, 32, 4
		v.Weights = filepath.Join("..", "testdata", "tokenizers", v.Weights)
		c.Visual = v
		c.Init = filepath.Join("..", "testdata", "parity", "mim_beit", "beit.pth")
		c.Stages[0].Steps, c.Stages[0].Warmup = 2, 1
		var first *Stage
		err := start(t.Context(), t, c, 1, false, watch(func(s *Stage, p *Progress) error {
			first = s
			if l := p.Total(); !(l > 2 && l < 8) { // ln 64 is 4.2
				t.Errorf("%s: loss %v", v.Kind, l)
			}
			return nil
		}))
		if err != nil {
			t.Fatal(err)
		}
		h := first.Handover
		if slices.Contains(h.Initialised, "transformer.blocks.2.attn.qkv.weight") || !slices.Contains(h.Loaded, "relative_position_bias_table") {
			t.Errorf("%s: loaded %q", v.Kind, h.Loaded)
		}
	}
	c := only(allStages(pairs, t.TempDir()), config.Vision)
	c.Visual = config.Visual{Kind: config.DALLE, Codes: 64}
	if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "visual.weights") {
		t.Errorf("a DALL-E without weights: %v", err)
	}
}

// What a checkpoint holds goes out under the original's names, with its index
// tensors, laid out as the run's configuration says.
func TestConvertCheckpoint(t *testing.T) {
	pairs := writePairs(t, t.TempDir(), 28)
	c := only(allStages(pairs, t.TempDir()), config.VL)
	c.Stages[0].Steps, c.Stages[0].Warmup = 1, 1
	if err := start(t.Context(), t, c, 1, false); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(c.Out, "checkpoints", "0-vl", engine.CheckpointName(1))
	for _, path := range []string{dir, filepath.Join(dir, "model.safetensors")} {
		got, err := CheckpointConfig(path)
		if err != nil || got == nil || got.Model.MaxTextInit != 16 {
			t.Fatalf("%s: configuration %+v, %v", path, got, err)
		}
	}
	if got, err := CheckpointConfig(t.TempDir()); got != nil || err != nil {
		t.Errorf("a folder of no run: %v, %v", got, err)
	}
	out := filepath.Join(t.TempDir(), "out.pt")
	done, err := vlmo.Convert(dir, out, vlmo.ConvertOptions{MaxTextInit: 16})
	if err != nil {
		t.Fatal(err)
	}
	if done.To.Config.ImageSize != 16 || !done.Buffers {
		t.Errorf("%+v", done)
	}
	want, err := vlmo.ReadTensors(dir)
	if err != nil {
		t.Fatal(err)
	}
	got, err := vlmo.ReadTensors(out)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(want) || done.Tensors != len(want)+4 {
		t.Errorf("%d tensors and %d in all, want %d", len(got), done.Tensors, len(want))
	}
	for name, w := range want {
		if !slices.Equal(got[name].Data, w.Data) {
			t.Errorf("%s differs", name)
		}
	}
}

// What the presets train has the names and shapes of the original's models.
func TestOfficialNames(t *testing.T) {
	for preset, list := range map[string]string{
		"base-text": "base-text-224", "base_plus-text": "base_plus-text-224",
		"base-vl": "base-pretrain-224", "base_plus-vl": "base_plus-pretrain-224", "large-vl": "large-pretrain-224",
		"base-coco": "base-retrieval-384", "base_plus-coco": "base_plus-retrieval-384", "large-coco": "large-retrieval-384",
		"base-flickr": "base-retrieval-384", "base_plus-flickr": "base_plus-retrieval-384", "large-flickr": "large-retrieval-384",
	} {
		c, err := config.Preset(preset)
		if err != nil {
			t.Fatal(err)
		}
		if c.Model.Vocab == 0 {
			c.Model.Vocab = 30522
		}
		dev := &kernels.Counter{}
		r := &Run{Config: c, Dev: dev}
		mc := r.modelConfig(&c.Stages[0])
		m, err := vlmo.New(dev, mc, false)
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		text := func(dtype string, shape []int) string {
			s := strings.Trim(strings.ReplaceAll(fmt.Sprint(shape), " ", "x"), "[]")
			if s == "" {
				s = "-"
			}
			return dtype + " " + s
		}
		for _, p := range m.Store.Params() {
			got[p.Name] = text("F32", p.Shape)
		}
		for _, b := range vlmo.Buffers(&mc) {
			got[b.Name] = text(b.DType, b.Shape)
		}
		lines, err := os.ReadFile(filepath.Join("..", "testdata", "checkpoints", list+".txt"))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(lines)) {
			name, want, _ := strings.Cut(strings.TrimSpace(line), " ")
			if got[name] != want {
				t.Errorf("%s: %s is %q, the original's %q", preset, name, got[name], want)
			}
			delete(got, name)
		}
		for name := range got {
			t.Errorf("%s: %s is not in the original", preset, name)
		}
	}
}
