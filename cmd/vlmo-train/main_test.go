package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vlmo-train/data/dataset"
)

// invoke runs a command line in the repository's root.
func invoke(t *testing.T, ctx context.Context, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	status = run(ctx, append([]string{"vlmo-train"}, args...), &out, &errs)
	return status, out.String(), errs.String()
}

func TestUsage(t *testing.T) {
	t.Chdir("../..")
	for _, c := range []struct {
		line   string
		status int
		want   string
	}{
		{"trian", 2, `did you mean "train"?`},
		{"train --prest demo", 2, "unknown flag -prest; did you mean --preset?"},
		{"train", 2, "either -c FILE or --preset NAME"},
		{"train --preset demo -c x.yaml", 2, "either"},
		{"train --preset dem", 1, `did you mean "demo"?`},
		{"train --preset demo --set stages.vl.lr=-1", 1, "stages.vl.lr: is -1"},
		{"train --preset base", 1, "stages: there is none to run"},
		{"train --preset demo x", 2, `no argument "x"`},
		{"demo --preset large", 2, "is no demo"},
		{"demo --threads x", 2, `"x"`},
		{"eval", 2, "either --run"},
		{"eval --run testdata/none", 1, "testdata/none"},
		{"embed --run x", 2, "say --out FOLDER"},
		{"embed --out x", 2, "either --run"},
		{"embed --run x --out y --batch 0", 2, "--batch is 0"},
		{"embed --run testdata/none --out y", 1, "testdata/none"},
		{"verify", 2, "name the folders"},
		{"verify --device tpu testdata/parity/preprocess", 2, `unknown device "tpu"`},
		{"verify testdata/none", 1, "testdata/none"},
		{"data arow", 2, `unknown command "data arow"; did you mean "arrow"?`},
		{"data arrow --kid vg", 2, "unknown flag -kid; did you mean --kind?"},
		{"data arrow --kind vg --root x", 2, "say --out"},
		{"data arrow --kind vgg --root x --out y", 2, `unknown kind "vgg"`},
		{"data arrow --kind vg --root testdata/none --out " + t.TempDir(), 1, "region_descriptions.json"},
	} {
		status, _, errs := invoke(t, t.Context(), strings.Fields(c.line)...)
		if status != c.status || !strings.Contains(errs, c.want) || !strings.HasPrefix(errs, "vlmo-train: ") {
			t.Errorf("%s: status %d, %q; want %d, %q", c.line, status, errs, c.status, c.want)
		}
	}
	if status, out, errs := invoke(t, t.Context(), "--help"); status != 0 || !strings.Contains(out, "verify") || errs != "" {
		t.Errorf("help: status %d, %s%s", status, out, errs)
	}
}

func TestDemoNeedsItsData(t *testing.T) {
	t.Chdir(t.TempDir())
	if status, _, errs := invoke(t, t.Context(), "demo"); status != 1 || !strings.Contains(errs, "source repository") {
		t.Errorf("status %d, %s", status, errs)
	}
}

func TestDryRun(t *testing.T) {
	for _, name := range []string{"base-vl", "large-vl"} {
		start := time.Now()
		status, out, errs := invoke(t, t.Context(), "train", "--preset", name, "--dry-run", "--precision", "bf16", "--set", "data.pairs=[a.jsonl, b.jsonl]")
		if status != 0 {
			t.Fatal(errs)
		}
		if d := time.Since(start); d > 10*time.Second {
			t.Errorf("%s took %v", name, d)
		}
		for _, want := range []string{"name: " + name, "b.jsonl", "vision-language experts", "activations", "precision: bf16", "precision          bf16", "FLOPs a step"} {
			if !strings.Contains(out, want) {
				t.Errorf("%s: no %q in\n%s", name, want, out)
			}
		}
	}
}

// Runs are deterministic unless the configuration or a flag says otherwise.
func TestDeterministicFlag(t *testing.T) {
	t.Chdir("../..")
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "deterministic: true"},
		{[]string{"--deterministic=false"}, "deterministic: false"},
		{[]string{"--set", "deterministic=false"}, "deterministic: false"},
		{[]string{"--set", "deterministic=false", "--deterministic"}, "deterministic: true"},
	} {
		args := append([]string{"train", "--preset", "tiny", "--dry-run"}, c.args...)
		if status, out, errs := invoke(t, t.Context(), args...); status != 0 || !strings.Contains(out, c.want) {
			t.Errorf("%q: status %d, want %q in\n%s%s", args, status, c.want, out, errs)
		}
	}
}

func TestVerify(t *testing.T) {
	t.Chdir("../..")
	status, out, errs := invoke(t, t.Context(), "verify", "--device", "ref", "testdata/parity/preprocess")
	if status != 0 || !strings.Contains(out, "ok") {
		t.Errorf("status %d, %s%s", status, out, errs)
	}
	status, out, errs = invoke(t, t.Context(), "verify", "--precision", "bf16", "testdata/parity/text_mlm")
	if status != 0 || !strings.Contains(out, "ref's") || !strings.Contains(out, "gradients, with all savings") {
		t.Errorf("status %d, %s%s", status, out, errs)
	}
	for _, args := range [][]string{{"verify"}, {"verify", "--random", "--precision", "fp8"}} {
		if status, _, errs := invoke(t, t.Context(), args...); status != 2 {
			t.Errorf("%q: status %d, %s", args, status, errs)
		}
	}
}

func TestDataArrow(t *testing.T) {
	t.Chdir("../..")
	out := t.TempDir()
	status, stdout, errs := invoke(t, t.Context(), "data", "arrow", "--kind", "coco", "--root", "testdata/fixtures/raw/coco", "--out", out, "--split", "val", "--compress", "lz4")
	path := filepath.Join(out, "coco_caption_karpathy_val.arrow")
	if status != 0 || !strings.HasPrefix(stdout, path+": ") {
		t.Fatalf("status %d, %s%s", status, stdout, errs)
	}
	d, err := dataset.Open(dataset.Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Example(0); err != nil {
		t.Error(err)
	}
}

// An interrupted run saves, says how to go on, and goes on.
func TestTrainInterruptResumeEval(t *testing.T) {
	t.Chdir("../..")
	dir := filepath.Join(t.TempDir(), "run")
	prof := filepath.Join(dir, "profile")
	args := []string{"train", "--preset", "tiny", "--threads", "1", "--out", dir, "--profile", prof, "--profile-steps", "2"}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	status, _, errs := invoke(t, ended, args...)
	if status != 130 || !strings.Contains(errs, "to go on: ") || !strings.Contains(errs, "--resume --out "+dir) {
		t.Fatalf("interrupted: status %d, %s", status, errs)
	}
	if status, _, errs := invoke(t, t.Context(), args...); status != 1 || !strings.Contains(errs, "holds a run already") {
		t.Errorf("again: status %d, %s", status, errs)
	}
	status, out, errs := invoke(t, t.Context(), append(args, "--resume")...)
	if status != 0 || !strings.Contains(errs, "resumed after step 1") || !strings.Contains(out, "this model") {
		t.Fatalf("resumed: status %d, %s%s", status, out, errs)
	}
	page, err := os.ReadFile(filepath.Join(dir, "report.html"))
	if err != nil || !strings.Contains(string(page), "retrieval · time of ops") {
		t.Errorf("the report has no profile: %v", err)
	}
	checkProfile(t, prof)
	status, out, errs = invoke(t, t.Context(), "eval", "--run", dir, "--json")
	var res struct{ Images int }
	if err := json.Unmarshal([]byte(out), &res); status != 0 || err != nil || res.Images != 1641 {
		t.Errorf("eval: status %d, %v, %s%s", status, err, out, errs)
	}
	status, table, errs := invoke(t, t.Context(), "eval", "--preset", "tiny", "--checkpoint", filepath.Join(dir, "checkpoints", "4-retrieval", "step-000004"))
	if status != 0 || !strings.Contains(table, "1641 images") {
		t.Errorf("eval of a checkpoint: status %d, %s%s", status, table, errs)
	}

	features := filepath.Join(t.TempDir(), "features")
	set := "{path: testdata/fixtures/raw/coco, format: coco, split: val}"
	if status, _, errs := invoke(t, ended, "embed", "--run", dir, "--out", features); status != 130 || !strings.Contains(errs, "interrupted after 0 examples") {
		t.Errorf("embed, interrupted: status %d, %s", status, errs)
	}
	status, out, errs = invoke(t, t.Context(), "embed", "--run", dir, "--data", set, "--texts", "--out", features)
	if status != 0 || errs != "" || !strings.HasPrefix(out, filepath.Join(features, "texts.npy")+": ") || !strings.HasSuffix(out, " × 32\n") {
		t.Errorf("embed: status %d, %s%s", status, out, errs)
	}
	features = filepath.Join(t.TempDir(), "features")
	status, out, errs = invoke(t, t.Context(), "embed", "--preset", "tiny", "--checkpoint", filepath.Join(dir, "checkpoints", "4-retrieval", "step-000004"), "--images", "--out", features)
	if status != 0 || out != filepath.Join(features, "images.npy")+": 1641 × 32\n" {
		t.Errorf("embed of a checkpoint: status %d, %s%s", status, out, errs)
	}
	if status, _, errs := invoke(t, t.Context(), "embed", "--run", dir, "--data", set, "--out", features); status != 1 || !strings.Contains(errs, "images.npy exists already") {
		t.Errorf("embed again: status %d, %s", status, errs)
	}
}

// checkProfile checks what train --profile --profile-steps 2 wrote of the
// preset tiny.
func checkProfile(t *testing.T, dir string) {
	table, err := os.ReadFile(filepath.Join(dir, "3-vl.txt"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"6 steps on cpu", "MatMul", "AttentionGrad", "of peak", " tn "} {
		if !strings.Contains(string(table), want) {
			t.Errorf("no %q in\n%s", want, table)
		}
	}
	file, err := os.ReadFile(filepath.Join(dir, "trace.json"))
	if err != nil {
		t.Fatal(err)
	}
	var trace struct {
		Events []struct {
			Name string `json:"name"`
			Args struct{ Stage string }
		} `json:"traceEvents"`
	}
	if err := json.Unmarshal(file, &trace); err != nil {
		t.Fatal(err)
	}
	steps := map[string]int{}
	updates := 0
	for _, e := range trace.Events {
		switch e.Name {
		case "step":
			steps[e.Args.Stage]++
		case "AdamW":
			updates++
		}
	}
	for _, stage := range []string{"tokenizer", "vision", "text", "vl", "retrieval"} {
		if steps[stage] != 2 {
			t.Errorf("%d steps of stage %s are traced, want 2", steps[stage], stage)
		}
	}
	if updates == 0 {
		t.Error("no AdamW in the trace")
	}
}

func TestResumeCommand(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"vlmo-train demo", "vlmo-train demo --resume --out runs/demo-2"},
		{"vlmo-train demo --out a --seed 3 --resume", "vlmo-train demo --seed 3 --resume --out runs/demo-2"},
		{"vlmo-train train --out=a -c x.yaml --set data.pairs=[a,b]", `vlmo-train train -c x.yaml --set "data.pairs=[a,b]" --resume --out runs/demo-2`},
	} {
		if got := resumeCommand(strings.Fields(c.args), "runs/demo-2"); got != c.want {
			t.Errorf("%s: %s, want %s", c.args, got, c.want)
		}
	}
}
