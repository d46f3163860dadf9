package train

import (
	"bytes"
	"math"
	"strings"
	"testing"
	"time"

	"vlmo-train/engine"
	"vlmo-train/train/config"
	"vlmo-train/vlmo"
)

func preset(t *testing.T, name string) *config.Run {
	t.Helper()
	c, err := config.Preset(name)
	check(t, err)
	return c
}

// Every preset can be planned, large ones too, and without their data.
func TestPlanOfPresets(t *testing.T) {
	t.Chdir("..") // the emoji presets' paths are relative to the repository
	for _, name := range config.Presets() {
		c := preset(t, name)
		p, err := NewPlan(c)
		check(t, err)
		if len(p.Stages) != len(c.Stages) {
			t.Errorf("%s: %d stages of %d", name, len(p.Stages), len(c.Stages))
		}
		var b bytes.Buffer
		check(t, p.WriteSchedule(&b, 1e11))
		check(t, p.WriteCosts(&b))
		for i := range p.Stages {
			s := &p.Stages[i]
			sum := 0
			for _, q := range s.Parts {
				sum += q.Len
			}
			if sum != s.Parameters || s.Parameters == 0 {
				t.Errorf("%s, %s: parts have %d of %d parameters", name, s.Name, sum, s.Parameters)
			}
			if !(s.FLOPs > 0) || s.ActivationBytes <= 0 || s.Measured != (len(c.Data.Pairs) > 0 && s.TextLen > 0) {
				t.Errorf("%s, %s: %+v", name, s.Name, *s)
			}
			if !strings.Contains(b.String(), s.Name) {
				t.Errorf("%s: stage %s is not printed", name, s.Name)
			}
		}
	}
}

// Parameters and FLOPs of VLMo Base by hand.
func TestPlanOfBase(t *testing.T) {
	c := preset(t, "base-flickr")
	p, err := NewPlan(c)
	check(t, err)
	s := p.Stages[0]
	d, h := 768, 3072
	expert := 2*d*h + h + d + 2*d
	for _, q := range s.Parts {
		want := map[string]int{"attention": 12 * (4*d*d + 3*d + 2*d), "text experts": 12 * expert, "image experts": 12 * expert,
			"vision-language experts": 2 * expert, "word embeddings": 30522 * d}[q.Name]
		if want > 0 && q.Len != want {
			t.Errorf("%s: %d, want %d", q.Name, q.Len, want)
		}
	}
	// Of the last block only [CLS] is needed, all but keys and values.
	tokens := 24*24 + 1
	block := func(n int) float64 {
		x, w := float64(n), float64(d)
		return 2*x*w*(4*w+2*float64(h)) + 4*x*x*w
	}
	kv := func(n int) float64 { return 2 * float64(n) * float64(d) * 2 * float64(d) }
	patches := 2 * float64(tokens-1) * float64(d) * float64(3*16*16)
	forward := 11*(block(tokens)+block(s.TextLen)) + kv(tokens) + kv(s.TextLen) + patches
	want := 3 * forward * float64(s.Batch)
	if math.Abs(s.FLOPs/want-1) > 0.06 {
		t.Errorf("%.4g FLOPs a step, by hand %.4g", s.FLOPs, want)
	}
}

// Counting small batches and the whole one is the same.
func TestPlanExtrapolates(t *testing.T) {
	t.Chdir("..")
	c := preset(t, "tiny")
	c.Stage("vl").Batch = 320
	r := &Run{Config: c, Dev: &planner{}}
	check(t, r.Open())
	for step := range 2 {
		m, err := vlmo.New(r.Dev, r.modelConfig(c.Stage("vl")), true)
		check(t, err)
		s := &Stage{Stage: c.Stage("vl"), step: engine.NewStep(r.Dev, 0), model: m, store: m.Store}
		f, b, err := r.stepCost(s, step, 9)
		check(t, err)
		wantF, wantB, err := r.countStep(s, step, 320, 9)
		check(t, err)
		if math.Abs(f/wantF-1) > 1e-5 || math.Abs(b/wantB-1) > 0.01 {
			t.Errorf("step %d: %.0f FLOPs and %.0f bytes, counted whole %.0f and %.0f", step, f, b, wantF, wantB)
		}
	}
}

func TestSpeedAndEstimate(t *testing.T) {
	c := preset(t, "tiny")
	speed, err := Speed(&planner{}, c, time.Millisecond)
	check(t, err)
	if !(speed > 0) {
		t.Errorf("speed %v", speed)
	}
	p := StagePlan{Stage: &config.Stage{Steps: 100}, FLOPs: 3e9}
	if got, want := p.Seconds(1e10), 100*0.3/stepEfficiency; math.Abs(got-want) > 1e-9 {
		t.Errorf("%v seconds, want %v", got, want)
	}
	for s, want := range map[float64]string{1: "5 s", 42: "40 s", 70: "1 min", 3600: "60 min", 7200: "2.0 h", 86400 * 30: "30 days"} {
		if got := roughly(s); got != want {
			t.Errorf("%v s is %q, want %q", s, got, want)
		}
	}
}
