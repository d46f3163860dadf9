package config

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"vlmo-train/data/dataset"
)

func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want %q", parts)
		return
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q lacks %q", err, p)
		}
	}
}

func preset(t *testing.T, name string) *Run {
	t.Helper()
	r, err := Preset(name)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestPresetsValidateAndRoundTrip(t *testing.T) {
	names := Presets()
	for _, want := range []string{"base", "base_plus", "large", "small", "tiny", "demo", "emoji-hour",
		"base-vision", "base-text", "base-vl", "base-flickr", "base-coco", "large-vl"} {
		if !slices.Contains(names, want) {
			t.Errorf("no preset %q in %v", want, names)
		}
	}
	for _, name := range names {
		r := preset(t, name)
		if err := r.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if r.Name != name {
			t.Errorf("%s is named %q", name, r.Name)
		}
		text, err := r.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse("resolved.yaml", text)
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, text)
		}
		if !reflect.DeepEqual(r, again) {
			t.Errorf("%s changed by marshalling:\n%+v\n%+v\n%s", name, r, again, text)
		}
	}
	for _, name := range []string{"tiny", "demo", "emoji-hour"} {
		r := preset(t, name)
		if err := r.Ready(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		files := []string{r.Model.VocabFile}
		for _, set := range slices.Concat(r.Data.Pairs, r.Data.Test, r.Data.Text) {
			files = append(files, set.Path...)
		}
		for _, path := range files {
			if _, err := os.Stat(filepath.Join("../..", path)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// The table of published configurations and recipes, SPEC §1 and §8.
func TestPublished(t *testing.T) {
	models := map[string][4]int{"base": {768, 12, 12, 10}, "base_plus": {544, 24, 16, 21}, "large": {1024, 24, 16, 21}}
	recipes := []struct {
		name, model, stage string
		image, text        int
		batch, steps, warm int
		lr, drop, scale    float64
	}{
		{"base-vision", "base", "vision", 224, 40, 2048, 1040000, 10000, 1.5e-3, 0.1, 0.1},
		{"large-vision", "large", "vision", 224, 40, 2048, 1040000, 10000, 1.5e-3, 0.1, 1e-5},
		{"base-text", "base", "text", 224, 196, 1024, 200000, 2500, 2e-4, 0.1, 0.1},
		{"base_plus-text", "base_plus", "text", 224, 196, 1024, 200000, 2500, 2e-4, 0.1, 0},
		{"base-vl", "base", "vl", 224, 40, 1024, 200000, 2500, 2e-4, 0.1, 0.1},
		{"base_plus-vl", "base_plus", "vl", 224, 40, 1024, 200000, 2500, 1e-4, 0.1, 0},
		{"large-vl", "large", "vl", 224, 40, 1024, 200000, 2500, 5e-5, 0.1, 0.1},
		{"base-flickr", "base", "retrieval", 384, 40, 3072, 1500, 150, 3e-5, 0.15, 0.1},
		{"base_plus-flickr", "base_plus", "retrieval", 384, 40, 3072, 1500, 150, 3e-5, 0.2, 0},
		{"large-flickr", "large", "retrieval", 384, 40, 3072, 1500, 150, 2e-5, 0.2, 0.1},
		{"base-coco", "base", "retrieval", 384, 40, 3072, 3000, 300, 3e-5, 0.2, 0.1},
		{"base_plus-coco", "base_plus", "retrieval", 384, 40, 3072, 3000, 300, 3e-5, 0.2, 0},
		{"large-coco", "large", "retrieval", 384, 40, 3072, 3000, 300, 2e-5, 0.2, 0.1},
	}
	for _, c := range recipes {
		r := preset(t, c.name)
		m := r.Model
		if got := [4]int{m.Dim, m.Depth, m.Heads, m.VLStart}; got != models[c.model] {
			t.Errorf("%s: shape %v, want %v", c.name, got, models[c.model])
		}
		if (m.Position == Absolute) != (c.model == "base_plus") || m.LayerScale != c.scale || m.Patch != 16 || m.MaxTextInit != 196 || m.Vocab != 30522 {
			t.Errorf("%s: %+v", c.name, m)
		}
		s := r.Stage(c.stage)
		if s == nil || len(r.Stages) != 1 {
			t.Errorf("%s: stages %+v", c.name, r.Stages)
			continue
		}
		if m.ImageSize != c.image || m.MaxText != c.text || s.Batch != c.batch || s.Steps != c.steps || s.Warmup != c.warm || s.LR != c.lr || s.DropPath != c.drop {
			t.Errorf("%s: %+v %+v", c.name, m, *s)
		}
		if s.Kind == Vision {
			if s.Decay != 0.05 || s.Betas != [2]float64{0.9, 0.999} || s.Clip != 3 || s.Schedule != Cosine || s.MinLR != 1e-5 {
				t.Errorf("%s: %+v", c.name, *s)
			}
		} else if s.Decay != 0.01 || s.Betas != [2]float64{0.9, 0.98} || s.Eps != 1e-8 || s.Clip != 0 || s.Schedule != Linear || s.MinLR != 0 {
			t.Errorf("%s: %+v", c.name, *s)
		}
	}
	// RandAugment(2, 7) where the original has text with its pictures.
	for _, c := range recipes {
		want := RandAugment{Kind: RandDefault}
		if c.stage == "vl" || c.stage == "retrieval" {
			want = RandAugment{Ops: 2, Level: 7, Kind: RandCompat}
		}
		if got := preset(t, c.name).Stages[0].Augment.RandAugment; got != want {
			t.Errorf("%s: %+v, want %+v", c.name, got, want)
		}
	}
	if w := preset(t, "base-vl").Stage("vl").LossWeights; w != (LossWeights{0.25, 1, 1}) {
		t.Errorf("VL loss weights %+v", w)
	}
}

func TestExtendsAndInheritance(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("mine.yaml", "extends: demo\nmodel: {dim: 64}\n")
	r, err := Load(write("run.yaml", `
# a comment
extends: mine.yaml
seed: 18446744073709551615
stages:
  - name: vl
    lr: 3e-4
    loss_weights: {mlm: 0.5}
  - name: tune
    kind: retrieval
    steps: 1_000
    batch: 32
    lr: 1e-5
`))
	if err != nil {
		t.Fatal(err)
	}
	demo := preset(t, "demo")
	if r.Model.Dim != 64 || r.Model.Depth != demo.Model.Depth || r.Seed != 1<<64-1 || len(r.Stages) != 2 {
		t.Errorf("%+v", r)
	}
	want := *demo.Stage("vl")
	want.LR, want.LossWeights.MLM = 3e-4, 0.5
	if !reflect.DeepEqual(r.Stages[0], want) {
		t.Errorf("vl: %+v, want %+v", r.Stages[0], want)
	}
	want = defaultStage(Retrieval)
	want.Name, want.Steps, want.Batch, want.LR = "tune", 1000, 32, 1e-5
	if !reflect.DeepEqual(r.Stages[1], want) {
		t.Errorf("tune: %+v, want %+v", r.Stages[1], want)
	}
	if err := r.Validate(); err != nil {
		t.Error(err)
	}

	write("a.yaml", "extends: b.yaml\n")
	write("b.yaml", "name: b\nextends: a.yaml\n")
	_, err = Load(filepath.Join(dir, "a.yaml"))
	wantError(t, err, "extends itself", "b.yaml:2: extends", " → ")
	_, err = Load(write("c.yaml", "\nextends: [base, dmo]\n"))
	wantError(t, err, "c.yaml:2: extends", `no preset "dmo"; did you mean "demo"?`)
	_, err = Load(filepath.Join(dir, "none.yaml"))
	wantError(t, err, "none.yaml")
	_, err = Preset("bas_plus")
	wantError(t, err, `did you mean "base_plus"?`)
	_, err = Preset("zzzzzzzzzzzz")
	wantError(t, err, "legal are base, ")
	for _, empty := range []string{"", "# nothing\n"} {
		if r, err := Parse("e.yaml", []byte(empty)); err != nil || !reflect.DeepEqual(r, defaultRun()) {
			t.Errorf("empty file: %+v, %v", r, err)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for _, c := range []struct {
		text string
		want []string
	}{
		{"name: x\nmodle:\n  dim: 3\n", []string{`f.yaml:2: unknown key "modle"; did you mean "model"?`}},
		{"model:\n  dim: 8\n  dept: 3\n", []string{`f.yaml:3: model: unknown key "dept"; did you mean "depth"?`}},
		{"model:\n  xyzzyx: 3\n", []string{"f.yaml:2: model: ", "legal are image_size, patch, dim"}},
		{"model:\n  dim: wide\n", []string{`f.yaml:2: model.dim: wants a whole number, not "wide"`}},
		{"model:\n  dim: 1.5\n", []string{`wants a whole number, not "1.5"`}},
		{"model:\n  dim: [1]\n", []string{"f.yaml:2: model.dim: wants a whole number, not a list of 1"}},
		{"model:\n  dim:\n", []string{"model.dim: wants a whole number, not nothing"}},
		{"model: 3\n", []string{`f.yaml:1: model: wants a mapping of keys to values, not "3"`}},
		{"seed: -1\n", []string{"f.yaml:1: seed: wants a whole number from 0"}},
		{"model:\n  layer_scale: .nan\n", []string{"model.layer_scale: wants a number"}},
		{"device: gpu\n", []string{`f.yaml:1: device: "gpu" is none of cpu, ref, auto, cuda; did you mean "cpu"?`}},
		{"model:\n  position: relativ\n", []string{`did you mean "relative"?`}},
		{"stages:\n  - name: a\n    kind: visoin\n", []string{`f.yaml:3: stages.0.kind: "visoin" is none of tokenizer, vision`, `did you mean "vision"?`}},
		{"stages:\n  - kind: vl\n", []string{"f.yaml:2: stages.0: a stage needs a name"}},
		{"stages:\n  - name: a\n", []string{"stages.a: a stage needs a kind, one of tokenizer"}},
		{"stages:\n  - name: a\n    kind: vl\n    lern: 3\n    lr: 1\n", []string{`f.yaml:4: stages.a: unknown key "lern"`}},
		{"stages:\n  - name: a\n    kind: vl\n    augment:\n      flipp: 3\n", []string{`f.yaml:5: stages.a.augment: unknown key "flipp"; did you mean "flip"?`}},
		{"stages:\n  - name: a\n    kind: vl\n    betas: [0.9]\n", []string{"f.yaml:4: stages.a.betas: wants a list of 2 numbers, not a list of 1"}},
		{"stages:\n  - name: a\n    kind: vl\n    betas: [0.9, x]\n", []string{`stages.a.betas.1: wants a number, not "x"`}},
		{"stages:\n  - name: a\n    kind: vl\n    compat: yes\n", []string{`stages.a.compat: wants true or false, not "yes"`}},
		{"stages: {a: 1}\n", []string{"stages: wants a list of stages, not a mapping"}},
		{"name: a\nname: b\n", []string{"f.yaml:2: ", "already defined"}},
		{"name: [a\n", []string{"f.yaml:2: did not find", "sequence of line 1"}},
		{"name: a\n  b: c\n", []string{"f.yaml:2: "}},
		{"name: \xff\n", []string{"f.yaml: ", "UTF-8"}},
		{"name: a\n---\nname: b\n", []string{"f.yaml:3: a second document"}},
		{"- a\n", []string{"f.yaml:1: wants a mapping of keys to values, not a list of 1"}},
		{"name: !a x\n", []string{"f.yaml:1: name: wants a text, not a value of the YAML tag !a"}},
		{"<<: {name: a}\n", []string{"f.yaml:1: a value of the YAML tag !!merge is no key"}},
		{"[name]: a\n", []string{"f.yaml:1: a list of 1 is no key"}},
		{strings.Repeat("[", 100), []string{"f.yaml:1: exceeded max depth"}},
		{"extends: [" + strings.Repeat("tiny, ", 40) + "]\n", []string{"more than 32 files and presets"}},
		{strings.Repeat("#\n", 1<<20), []string{"f.yaml: is larger than 1048576 bytes"}},
		{"name: &a x\nout: *a\n", []string{"f.yaml:2: out: wants a text, not a YAML alias"}},
	} {
		r, err := Parse("f.yaml", []byte(c.text))
		wantError(t, err, c.want...)
		if r != nil {
			t.Errorf("%q: a run beside the error", c.text)
		}
	}
}

func TestSet(t *testing.T) {
	r := preset(t, "demo")
	for _, o := range []string{
		"seed=7", "stages.vl.lr=2.5e-4", "stages.0.steps=1_000", "model.layer_scale=1e-5",
		"stages.vl.compat=true", "stages.vl.betas=[0.8, 0.9]", "stages.vl.betas.1=0.95",
		"data.pairs=[a.jsonl, b.jsonl]", "data.test=c=d.jsonl", "out=runs: x", "init=",
		"stages.vl.loss_weights={mlm: 0.5, itm: 2}", "model.position=absolute", "precision=bf16",
		"stages.vl.augment.rand_augment={ops: 2, level: 9, kind: pillow}", "stages.vl.augment.rand_augment.level=20",
	} {
		if err := r.Set(o); err != nil {
			t.Error(err)
		}
	}
	s := r.Stage("vl")
	if r.Seed != 7 || s.LR != 2.5e-4 || r.Stages[0].Steps != 1000 || r.Model.LayerScale != 1e-5 || !s.Compat ||
		s.Betas != [2]float64{0.8, 0.95} || !reflect.DeepEqual(r.Data.Pairs, []Set{{Path: []string{"a.jsonl"}}, {Path: []string{"b.jsonl"}}}) ||
		!reflect.DeepEqual(r.Data.Test, []Set{{Path: []string{"c=d.jsonl"}}}) || r.Out != "runs: x" || r.Init != "" ||
		s.LossWeights != (LossWeights{0.5, 1, 2}) || r.Model.Position != Absolute || r.Precision != BF16 ||
		s.Augment.RandAugment != (RandAugment{2, 20, RandPillow}) {
		t.Errorf("%+v", r)
	}
	for _, c := range []struct{ override, want string }{
		{"seed", "not of the form key=value"},
		{"=3", "not of the form key=value"},
		{"sed=3", `unknown key "sed"; did you mean "seed"?`},
		{"model.dimm=3", `model: unknown key "dimm"; did you mean "dim"?`},
		{"model.dim=x", `model.dim: wants a whole number, not "x"`},
		{"model.dim.x=3", `model.dim: is a whole number and has no key "x"`},
		{"stages.vll.lr=3", `stages: no stage "vll"; did you mean "vl"?`},
		{"stages.9.lr=3", `stages: no stage "9"`},
		{"stages.vl.rl=3", `stages.vl: unknown key "rl"; did you mean "lr"?`},
		{"stages.vl.augment.rand_augment={kind: pilow}", `did you mean "pillow"?`},
		{"stages.vl.kind=vlx", `did you mean "vl"?`},
		{"stages.vl.betas=[1]", "stages.vl.betas: wants a list of 2 numbers"},
		{"stages.vl.betas.2=1", `"2" is no index of a list of 2`},
		{"stages.vl.augment={flop: 1}", `stages.vl.augment: unknown key "flop"; did you mean "flip"?`},
		{"data.pairs=", "data.pairs: no value given"},
		{"data.pairs=[a", "data.pairs: "},
		{"precision=fp16", `did you mean "fp32"?`},
		{"threads=", `threads: wants a whole number, not ""`},
		{"extends=base", `unknown key "extends"`},
	} {
		wantError(t, r.Set(c.override), c.override, c.want)
	}
}

func TestValidateSentences(t *testing.T) {
	for _, c := range []struct {
		set  string
		want string
	}{
		{"threads=-1", "threads: is -1, must not be negative"},
		{"model.image_size=33", "model.image_size: is 33, not a multiple of the patch edge 8"},
		{"model.patch=0", "model.patch: is 0, must be at least 1"},
		{"model.heads=3", "model.dim: is 128, not a multiple of 3 heads"},
		{"model.vl_start=0", "model.vl_start: is 0, must be from 1 to the last of 3 blocks, 2"},
		{"model.vl_start=3", "model.vl_start: is 3"},
		{"model.max_text=2", "model.max_text: is 2, must be at least 3"},
		{"model.max_text=17", "model.max_text_init: is 16, must be at least model.max_text, 17"},
		{"model.layer_scale=-1", "model.layer_scale: is -1"},
		{"visual.kind=none", "stages.vision: a vision stage predicts the codes of a visual tokenizer"},
		{"visual.decay=1", "visual.decay: is 1, must be from 0 to below 1"},
		{"stages.tokenizer.kind=vision", "the visual tokenizer is untrained"},
		{"stages.vl.name=text", "stages.text: two stages have this name"},
		{"stages.vl.name=", "stages.3: has no name"},
		{"stages.vl.steps=0", "stages.vl.steps: is 0, must be at least 1"},
		{"stages.vl.lr=0", "stages.vl.lr: is 0, must be above 0"},
		{"stages.vl.warmup=9999", "stages.vl.warmup: is 9999, must be from 0 to the 1"},
		{"stages.vl.min_lr=1", "stages.vl.min_lr: is 1, must be from 0 to lr, 0.001"},
		{"stages.vl.betas=[0.9, 1]", "stages.vl.betas.1: is 1"},
		{"stages.vl.eps=0", "stages.vl.eps: is 0"},
		{"stages.vl.drop_path=1", "stages.vl.drop_path: is 1"},
		{"stages.vl.batch=1", "stages.vl.batch: is 1, but contrast and matching need other pairs"},
		{"stages.vl.loss_weights={mlm: 0, itc: 0, itm: 0}", "the stage has no loss"},
		{"stages.text.loss_weights={mlm: 1}", "stages.text.loss_weights: belong to stages of kind vl or retrieval"},
		{"stages.vl.kind=retrieval", "stages.vl.loss_weights.mlm: is 0.25, must be 0"},
		{"stages.vl.itm_every=0", "stages.vl.itm_every: is 0"},
		{"stages.vl.original_world=64", "stages.vl.original_world: is 64, but has no effect unless compat is true"},
		{"stages.vl.augment.crop_area=[0.9, 0.5]", "stages.vl.augment.crop_area: is [0.9 0.5], must be a rising range"},
		{"stages.vl.augment.flip=2", "stages.vl.augment.flip: is 2, must be from 0 to 1"},
		{"stages.vl.augment.rand_augment={ops: 2, level: 11}", "stages.vl.augment.rand_augment.level: is 11, must be from 0 to 10"},
		{"stages.vl.augment.rand_augment={ops: -1}", "stages.vl.augment.rand_augment.ops: is -1"},
		{"stages.vl.log_every=-1", "stages.vl.log_every: is -1"},
	} {
		r := preset(t, "demo")
		if err := r.Set(c.set); err != nil {
			t.Error(err)
			continue
		}
		wantError(t, r.Validate(), c.want)
	}
	r := preset(t, "demo")
	r.Model.Heads, r.Threads = 3, -1
	wantError(t, r.Validate(), "threads", "\n", "model.dim")
	r.Model.Position = "other" // set in Go, past the parser
	wantError(t, r.Validate(), `model.position: "other" is none of`)

	wantError(t, preset(t, "base").Ready(), "stages: there is none")
	wantError(t, preset(t, "base-vision").Ready(), "data.pairs: stage vision", "out: ")
	wantError(t, preset(t, "base-text").Ready(), "data.text: stage text")
	wantError(t, preset(t, "base-coco").Ready(), "data.test: stage retrieval evaluates every 1000 steps")
}

// distance against the recursive definition.
func TestDistance(t *testing.T) {
	var slow func(a, b string) int
	slow = func(a, b string) int {
		if a == "" || b == "" {
			return len(a) + len(b)
		}
		cost := 1
		if a[0] == b[0] {
			cost = 0
		}
		return min(slow(a[1:], b[1:])+cost, slow(a[1:], b)+1, slow(a, b[1:])+1)
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	word := func() string {
		b := make([]byte, r.IntN(7))
		for i := range b {
			b[i] = "abc"[r.IntN(3)]
		}
		return string(b)
	}
	for range 300 {
		a, b := word(), word()
		if got, want := distance(a, b), slow(a, b); got != want {
			t.Fatalf("distance(%q, %q) = %d, want %d", a, b, got, want)
		}
	}
}

func TestSets(t *testing.T) {
	r, err := Parse("f.yaml", []byte(`
data:
  pairs:
    - shards/{00000..00123}.tar
    - path: [a.parquet, b.parquet]
      columns:
        image: jpg
        captions: title
    - {path: coco, format: coco, split: val, images: pics, normalize_answers: true}
    - {path: photos, orient: true, gray16_high: true}
  test: {path: x, weight: 2}
  text: [a.txt, path: b]
  shuffle: 1_000
`))
	if err != nil {
		t.Fatal(err)
	}
	want := Data{
		Pairs: []Set{
			{Path: []string{"shards/{00000..00123}.tar"}},
			{Path: []string{"a.parquet", "b.parquet"}, Columns: dataset.Columns{Image: "jpg", Captions: []string{"title"}}},
			{Path: []string{"coco"}, Format: "coco", Split: "val", Images: "pics", NormalizeAnswers: true},
			{Path: []string{"photos"}, Orient: true, Gray16High: true},
		},
		Test:    []Set{{Path: []string{"x"}, Weight: 2}},
		Text:    []Set{{Path: []string{"a.txt"}}, {Path: []string{"b"}}},
		Shuffle: 1000,
	}
	if !reflect.DeepEqual(r.Data, want) {
		t.Errorf("%+v, want %+v", r.Data, want)
	}
	if o := r.Data.Pairs[2].Options(); !reflect.DeepEqual(o, dataset.Options{Format: dataset.FormatCOCO, Split: "val", Images: "pics", NormalizeAnswers: true}) {
		t.Errorf("%+v", o)
	}
	for _, s := range []Set{{Orient: true}, {Gray16High: true}} {
		if o := s.Options(); !reflect.DeepEqual(o, dataset.Options{Orient: s.Orient, Gray16High: s.Gray16High}) {
			t.Errorf("%+v", o)
		}
	}
	y, err := r.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Parse("resolved.yaml", y)
	if err != nil || !reflect.DeepEqual(again.Data, want) {
		t.Errorf("%v: %s", err, y)
	}
	for _, unwanted := range []string{"normalize_answers: false", "orient: false", "weight: 0", "keywords", `split: ""`} {
		if strings.Contains(string(y), unwanted) {
			t.Errorf("%q in\n%s", unwanted, y)
		}
	}
	// A list replaces the inherited one, an entry does not merge with it.
	for _, o := range []string{"data.pairs=[{path: y, weight: 1}, {path: z, weight: 3}]", "data.pairs.1.weight=4", "data.test=t", "data.pairs.0.columns.group=cls"} {
		if err := r.Set(o); err != nil {
			t.Error(err)
		}
	}
	if got := r.Data; !reflect.DeepEqual(got.Pairs, []Set{{Path: []string{"y"}, Weight: 1, Columns: dataset.Columns{Group: "cls"}}, {Path: []string{"z"}, Weight: 4}}) ||
		!reflect.DeepEqual(got.Test, []Set{{Path: []string{"t"}}}) {
		t.Errorf("%+v", got)
	}

	for _, c := range []struct{ text, want string }{
		{"data:\n  pairs:\n    - path: x\n      formt: tar\n", `f.yaml:4: data.pairs.0: unknown key "formt"; did you mean "format"?`},
		{"data:\n  test: {path: x, format: webdatset}\n", `data.test.format: "webdatset" is none of jsonl`},
		{"data:\n  test: {path: x, format: webdatset}\n", `did you mean "webdataset"?`},
		{"data:\n  pairs: {path: x, columns: {captoin: y}}\n", `data.pairs.columns: unknown key "captoin"; did you mean "captions"?`},
		{"data:\n  pairs: [[a]]\n", "data.pairs.0: wants a mapping"},
		{"data:\n  pairs: {path: x, weight: much}\n", `data.pairs.weight: wants a number, not "much"`},
	} {
		_, err := Parse("f.yaml", []byte(c.text))
		wantError(t, err, c.want)
	}
	for _, c := range []struct{ set, want string }{
		{"data.pairs=[{path: x, weight: 1}, y]", "data.pairs: 1 of 2 sets have a weight"},
		{"data.pairs=[{path: x, weight: -1}]", "data.pairs.0.weight: is -1"},
		{"data.test=[{path: x, weight: 1}]", "data.test.0.weight: is 1, but evaluation"},
		{"data.text=[{format: lines}]", "data.text.0.path: names no file"},
		{`data.text=[""]`, "data.text.0.path: names no file"},
		{"data.shuffle=-1", "data.shuffle: is -1"},
	} {
		r := preset(t, "demo")
		if err := r.Set(c.set); err != nil {
			t.Error(err)
		}
		wantError(t, r.Validate(), c.want)
	}
}
