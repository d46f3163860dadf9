package train

import (
	"bytes"
	"context"
	"image/png"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"vlmo-train/data/img"
	"vlmo-train/kernels"
	"vlmo-train/kernels/cpu"
	"vlmo-train/train/config"
	"vlmo-train/train/report"
)

// meter counts the FLOPs of what it runs.
type meter struct {
	kernels.Device
	flops int64
}

func (m *meter) Run(op kernels.Op) {
	m.flops += op.FLOPs()
	m.Device.Run(op)
}

// meterHook notes a stage's FLOPs.
type meterHook struct {
	m     *meter
	start int64
	flops map[string]int64
}

func (h *meterHook) StageStart(*Stage) error      { h.start = h.m.flops; return nil }
func (h *meterHook) Step(*Stage, *Progress) error { return nil }
func (h *meterHook) StageEnd(s *Stage) error {
	h.flops[s.Name] = h.m.flops - h.start
	return nil
}

// A tiny run of every stage: the report has all its parts, and the plan's
// FLOPs are those that were run.
func TestReportOfTinyRun(t *testing.T) {
	t.Chdir("..")
	c := preset(t, "tiny")
	c.Out = filepath.Join(t.TempDir(), "run")
	c.Threads = 1
	for i := range c.Stages {
		c.Stages[i].Steps, c.Stages[i].CheckpointEvery, c.Stages[i].EvalEvery = 2, 0, 1
	}
	plan, err := NewPlan(c)
	check(t, err)
	dev, err := cpu.New(cpu.Options{Threads: 1})
	check(t, err)
	m := &meter{Device: dev}
	mh := &meterHook{m: m, flops: map[string]int64{}}
	newRun := func() *Run {
		r := &Run{Config: c, Dev: m}
		journal := &Journal{Path: filepath.Join(c.Out, "journal.jsonl")}
		r.Hooks = []Hook{&Metrics{Path: filepath.Join(c.Out, "metrics.jsonl")}, journal,
			&Evaluation{Run: r, Tell: []func(*Stage, int, *Retrieval) error{journal.Evaluated}}, mh}
		return r
	}
	r := newRun()
	check(t, r.Train(context.Background()))

	for _, s := range plan.Stages {
		if s.Kind == config.VL || s.Kind == config.Retrieval || s.Kind == config.Tokenizer {
			continue // evaluations and k-means are in the measured number
		}
		got, want := float64(mh.flops[s.Name]), 2*s.FLOPs
		if got < 0.75*want || got > 1.25*want {
			t.Errorf("%s: %.4g FLOPs were run, %.4g planned", s.Name, got, want)
		}
	}

	// A finished run that is resumed trains nothing and reports the same.
	r = newRun()
	r.Resume = true
	check(t, r.Train(context.Background()))
	path, err := r.Checkpoint(config.VL)
	check(t, err)
	res, err := r.EvaluateCheckpoint(path, 3)
	check(t, err)
	page, err := r.Report(res, &Baseline{Name: "a baseline", ImageToText: Recall{10, -1, 20}, TextToImage: Recall{-1, -1, -1}})
	check(t, err)

	if len(page.Stages) != len(c.Stages) {
		t.Fatalf("%d stages, want %d", len(page.Stages), len(c.Stages))
	}
	for i, s := range page.Stages {
		if s.Steps != 2 || !(s.Seconds > 0) || !(s.Throughput > 0) {
			t.Errorf("stage %s: %+v", s.Name, s)
		}
		names := ""
		for _, k := range s.Curves {
			names += k.Name + ","
		}
		want := map[config.Kind]string{config.Tokenizer: "reconstruction,", config.Vision: "mim,", config.Text: "mlm,", config.VL: "itc,", config.Retrieval: "itc,"}[c.Stages[i].Kind]
		if c.Stages[i].Kind == config.VL || c.Stages[i].Kind == config.Retrieval {
			want += " R@1"
		}
		for _, w := range strings.Fields(want) {
			if !strings.Contains(names, w) {
				t.Errorf("stage %s has the curves %s no %s", s.Name, names, w)
			}
		}
	}
	if len(page.Handovers) != 4 || page.Handovers[2].Stage != "vl" || len(page.Handovers[2].Initialised) == 0 {
		t.Errorf("handovers %+v", page.Handovers)
	}
	if page.Retrieval == nil || page.Retrieval.I2T[0] != res.ImageToText[0]/100 || page.Retrieval.T2I[2] != res.TextToImage[2]/100 {
		t.Errorf("retrieval %+v of %+v", page.Retrieval, res)
	}
	if len(page.Examples) != 16 || len(page.Reconstructions) != 8 {
		t.Fatalf("%d examples, %d reconstructions", len(page.Examples), len(page.Reconstructions))
	}
	// The best hit has the largest score of all, and is right if its caption is the query.
	e := page.Examples[0]
	q := spread(res.Texts, 8)[0]
	best := 0
	for i := range res.Images {
		if res.score[i*res.Texts+q] > res.score[best*res.Texts+q] {
			best = i
		}
	}
	if e.Hits[0].Score != float64(res.score[best*res.Texts+q]) || e.Hits[0].Right != (res.examples[best].Captions[0] == e.Query.Text) {
		t.Errorf("hit %v %v, want image %d", e.Hits[0].Score, e.Hits[0].Right, best)
	}
	if m, err := png.Decode(bytes.NewReader(page.Reconstructions[0].Reconstructed)); err != nil || m.Bounds().Dx() != c.Model.ImageSize {
		t.Errorf("reconstruction: %v", err)
	}
	file := filepath.Join(c.Out, "report.html")
	check(t, report.Write(file, page))
	html, err := os.ReadFile(file)
	check(t, err)
	for _, want := range []string{"a baseline", "image→text R@1", "20.0 %", "–"} {
		if !bytes.Contains(html, []byte(want)) {
			t.Errorf("the page lacks %q", want)
		}
	}
	html = regexp.MustCompile(`base64,[^"]*`).ReplaceAll(html, nil) // pictures may spell anything
	if bytes.Contains(html, []byte("NaN")) || bytes.Contains(html, []byte("-100.0")) {
		t.Error("the page shows a number that is none")
	}

	var text bytes.Buffer
	check(t, res.WriteTable(&text, &Baseline{Name: "other", ImageToText: Recall{10, -1, 20}}))
	check(t, res.WriteExamples(&text, 2))
	for _, want := range []string{"best 3 reranked", "other", "chance", "text → images"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("%s lacks %q", text.String(), want)
		}
	}
	// The retrieval stage has no matching head.
	path, err = r.Checkpoint(config.Retrieval)
	check(t, err)
	if _, err := r.EvaluateCheckpoint(path, 3); err == nil {
		t.Error("reranked without a matching head")
	}
	if path, err = r.Checkpoint(config.Text); err == nil {
		_, err = r.Restore(path)
	}
	if err == nil || !strings.Contains(err.Error(), "lacks") {
		t.Errorf("a text checkpoint for retrieval: %v", err)
	}
}

// Seconds in the metrics start again where a run was resumed.
func TestStageReportResumed(t *testing.T) {
	st := &config.Stage{Name: "a", Kind: config.Text}
	var list []metric
	for i, s := range []float64{1, 2, 0.5, 1} {
		list = append(list, metric{Stage: "a", Step: i + 1, Seconds: s, Batch: 6, Losses: map[string]float64{"mlm": float64(i)}})
	}
	list = append(list, metric{Stage: "b", Step: 9, Seconds: 100, Batch: 6})
	r := stageReport(st, list, nil)
	if r.Seconds != 3 || r.Throughput != 8 || r.Steps != 4 || r.Unit != "texts" || len(r.Curves[0].Values) != 4 {
		t.Errorf("%+v", r)
	}
}

func TestFromCHW(t *testing.T) {
	const seed = 7
	t.Logf("seed %d", seed)
	src := rand.New(rand.NewPCG(seed, 0))
	m := img.New(8, 8)
	for i := range m.Pix {
		m.Pix[i] = byte(src.IntN(256))
	}
	v := make([]float32, len(m.Pix))
	planes := make([]byte, len(v))
	check(t, img.Planes(planes, m))
	for i, p := range planes {
		v[i] = (float32(p)/255 - 0.5) / 0.5
	}
	if got := fromCHW(v, 8); !bytes.Equal(got.Pix, m.Pix) {
		t.Error("not the reverse of planes that are normalised")
	}
	for i := range v {
		v[i] *= 3 // values out of range are cut
	}
	for i, p := range fromCHW(v, 8).Pix {
		if m.Pix[i] > 200 && p != 255 || m.Pix[i] < 50 && p != 0 {
			t.Fatalf("pixel value %d became %d", m.Pix[i], p)
		}
	}
}
