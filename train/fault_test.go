package train

import (
	"context"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"vlmo-train/engine"
	"vlmo-train/train/config"
)

func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want one with %q", parts)
		return
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q lacks %q", err, p)
		}
	}
}

// A damaged picture is named, counted and replaced; too many, or one where
// that is not wanted, end the run.
func TestDamagedPictures(t *testing.T) {
	for _, test := range []struct {
		damaged int
		strict  bool
		fails   bool
	}{{1, false, false}, {1, true, true}, {2, false, true}} {
		dir := t.TempDir()
		pairs := writePairs(t, dir, 28)
		list, err := sprites()
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, e := range list[:test.damaged] {
			writeFile(t, filepath.Join(dir, e.File), e.png[:len(e.png)/2])
			names = append(names, filepath.Join(dir, e.File), e.ID)
		}
		var skipped []string
		last := 0
		c := only(allStages(pairs, t.TempDir()), config.VL)
		r := &Run{Config: c, Dev: newCPU(t), Strict: test.strict, Hooks: []Hook{watch(func(s *Stage, p *Progress) error {
			skipped, last = slices.Clone(s.Skipped), p.Step
			return nil
		})}}
		err = r.Train(t.Context())
		if test.fails {
			wantError(t, err, names...)
			continue
		}
		if err != nil || last != c.Stages[0].Steps || len(skipped) != 1 || !strings.Contains(skipped[0], names[0]) || !strings.Contains(skipped[0], names[1]) {
			t.Errorf("%v after step %d, skipped %q, want %q", err, last, skipped, names)
		}
	}
}

// What is wrong with the data is said before or at the first step, with its place.
func TestBadData(t *testing.T) {
	line := func(e sprite) string {
		b, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		return string(b) + "\n"
	}
	all, err := sprites()
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		change func(list []sprite) []sprite
		want   []string
	}{
		"empty":             {func([]sprite) []sprite { return nil }, []string{"pairs.jsonl: no examples"}},
		"an id twice":       {func(l []sprite) []sprite { return append(l, l[2]) }, []string{"pairs.jsonl:29", all[2].ID, "already on line 3"}},
		"no tokens":         {func(l []sprite) []sprite { return each(l, func(e *sprite) { e.Captions = []string{"\u200b"} }) }, []string{"has no tokens", `"1f6`}},
		"no captions":       {func(l []sprite) []sprite { return each(l, func(e *sprite) { e.Captions, e.Keywords = nil, nil }) }, []string{"has no tokens"}},
		"one concept":       {func(l []sprite) []sprite { return each(l, func(e *sprite) { e.Concept = "x" }) }, []string{"step 1", "no negative"}},
		"less than a batch": {func(l []sprite) []sprite { return l[:5] }, []string{"batch 8 exceeds the 5 examples"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			writePairs(t, dir, 28)
			var text strings.Builder
			for _, e := range test.change(slices.Clone(all[:28])) {
				text.WriteString(line(e))
			}
			path := filepath.Join(dir, "pairs.jsonl")
			writeFile(t, path, []byte(text.String()))
			c := only(allStages(path, t.TempDir()), config.VL)
			wantError(t, start(t.Context(), t, c, 1, false), test.want...)
		})
	}
	t.Run("no picture", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "pairs.jsonl")
		writeFile(t, path, []byte(`{"id":"a","caption":"a cat"}`+"\n"+`{"id":"b","caption":"a dog"}`))
		c := only(allStages(path, t.TempDir()), config.Retrieval)
		c.Stages[0].Batch = 2
		wantError(t, start(t.Context(), t, c, 1, false), `example `, `: has no picture`)
	})
}

func each(list []sprite, f func(*sprite)) []sprite {
	for i := range list {
		f(&list[i])
	}
	return list
}

// Matching needs two pairs, and the configuration says so; package vlmo does
// for a batch.
func TestBatchOfOne(t *testing.T) {
	c := only(allStages(writePairs(t, t.TempDir(), 28), t.TempDir()), config.VL)
	c.Stages[0].Batch = 1
	wantError(t, c.Validate(), "stages.vl.batch: is 1", "at least 2")
	wantError(t, start(t.Context(), t, c, 1, false), "stages.vl.batch: is 1", "at least 2")
}

// A checkpoint that can't be written ends the run with its name, and those
// that are there stay.
func TestCheckpointFails(t *testing.T) {
	c := allStages(writePairs(t, t.TempDir(), 28), t.TempDir())
	c.Stages = []config.Stage{*c.Stage("text"), *c.Stage("retrieval")}
	c.Stages[1].CheckpointEvery = 2
	dir := (&Run{Config: c}).checkpoints(1)
	writeTo := watch(func(s *Stage, p *Progress) error {
		if s.Index == 1 && p.Step == 1 {
			return os.WriteFile(dir, nil, 0o666) // a file in the place of the folder
		}
		return nil
	})
	wantError(t, start(t.Context(), t, c, 1, false, writeTo), "stage retrieval", "checkpoint", dir)
	if _, err := engine.Latest((&Run{Config: c}).checkpoints(0)); err != nil {
		t.Error(err)
	}
	// With the obstacle gone the run goes on.
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := start(t.Context(), t, c, 1, true); err != nil {
		t.Error(err)
	}
}

// A loss or a gradient that is not finite ends the run before that is saved:
// the message has the step, the first op that went wrong and the checkpoint to
// go back to.
func TestNotFinite(t *testing.T) {
	pairs := writePairs(t, t.TempDir(), 28)
	poison := func(name string, v float32) func(*Stage) {
		return func(s *Stage) {
			p := s.store.Param(name)
			x := s.store.Get(p)
			for i := range x {
				x[i] *= v
			}
			s.store.Set(p, x)
		}
	}
	for name, test := range map[string]struct {
		lr     float64
		poison func(*Stage) // after step 3
		want   []string
	}{
		"weight":   {1e-3, poison("transformer.blocks.1.mlp_imag.fc1.weight", float32(math.NaN())), []string{"step 4", "loss is NaN", "first bad op: MatMul wrote NaN into ", "step-000002"}},
		"gradient": {1e-3, poison("itm_score.fc.weight", 1e30), []string{"step 4", "gradient's norm is +Inf", "first bad op: ", "step-000002"}},
		"rate":     {1e30, nil, []string{"step 2", "first bad op: ", "last good checkpoint: none yet"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := only(allStages(pairs, t.TempDir()), config.VL)
			c.Stages[0].LR, c.Stages[0].Warmup, c.Stages[0].CheckpointEvery = test.lr, 0, 2
			err := start(t.Context(), t, c, 1, false, watch(func(s *Stage, p *Progress) error {
				if p.Step == 3 {
					test.poison(s)
				}
				return nil
			}))
			wantError(t, err, append(test.want, "stage vl")...)
			if test.poison == nil {
				return
			}
			dir, err := engine.Latest((&Run{Config: c}).checkpoints(0))
			if err != nil || filepath.Base(dir) != engine.CheckpointName(2) {
				t.Fatalf("the last checkpoint is %s, %v", dir, err)
			}
			// It is a good one: the run goes on from it.
			if err := start(t.Context(), t, c, 1, true); err != nil {
				t.Error(err)
			}
		})
	}
}

// A run goes on with its own configuration alone.
func TestResumeMismatch(t *testing.T) {
	pairs := writePairs(t, t.TempDir(), 28)
	c := only(allStages(pairs, t.TempDir()), config.Retrieval)
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // ends the run after its first step
	wantError(t, start(ctx, t, c, 1, false), "interrupted after step 1 of 5")
	wantError(t, start(t.Context(), t, c, 1, false), c.Out, "holds a run already")

	other := only(allStages(pairs, c.Out), config.Retrieval)
	other.Stages[0].LR *= 2
	wantError(t, start(t.Context(), t, other, 1, true), filepath.Join(c.Out, "config.yaml"), `"lr: 0.001"`, `"lr: 0.002"`)

	// Without the configuration the shapes tell.
	if err := os.Remove(filepath.Join(c.Out, "config.yaml")); err != nil {
		t.Fatal(err)
	}
	other = only(allStages(pairs, c.Out), config.Retrieval)
	other.Model.Dim = 32
	wantError(t, start(t.Context(), t, other, 1, true), engine.CheckpointName(1), "[1 1 16]", "[1 1 32]", "transformer.cls_token")
	if err := os.Remove(filepath.Join(c.Out, "config.yaml")); err != nil {
		t.Fatal(err)
	}
	// The same values in other words are the same configuration.
	y, err := c.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	words := strings.Replace(string(y), "threads: ", "# one a processor\nthreads:   ", 1)
	if words == string(y) {
		t.Fatalf("no threads in\n%s", y)
	}
	if err := os.WriteFile(filepath.Join(c.Out, "config.yaml"), []byte(words), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := start(t.Context(), t, c, 1, true); err != nil {
		t.Error(err)
	}

	// A checkpoint to start from has to fit, too.
	dir, err := engine.Latest((&Run{Config: c}).checkpoints(0))
	if err != nil {
		t.Fatal(err)
	}
	other = only(allStages(pairs, t.TempDir()), config.Retrieval)
	other.Model.Dim, other.Init = 32, dir
	wantError(t, start(t.Context(), t, other, 1, false), "16", "32")
}
