package train

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"vlmo-train/data/loader"
	"vlmo-train/kernels/cpu"
	"vlmo-train/train/config"
)

// writeShards makes tar files of the sizes given from the sprites, and one sample
// without caption in each. It returns a pattern for them.
func writeShards(t *testing.T, dir string, sizes ...int) string {
	t.Helper()
	list, err := sprites()
	if err != nil {
		t.Fatal(err)
	}
	for k, n := range sizes {
		f, err := os.Create(filepath.Join(dir, fmt.Sprintf("%03d.tar", k)))
		if err != nil {
			t.Fatal(err)
		}
		w := tar.NewWriter(f)
		add := func(name string, content []byte) {
			if err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(content)), Mode: 0o644}); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(content); err != nil {
				t.Fatal(err)
			}
		}
		for _, e := range list[:n] {
			add(e.ID+".png", e.png)
			add(e.ID+".txt", []byte(e.Captions[0]))
		}
		list = list[n:]
		add("alone.png", []byte("x"))
		if err := errors.Join(w.Close(), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	return fmt.Sprintf("%s/{000..%03d}.tar", dir, len(sizes)-1)
}

// A run on tar files, alone or mixed with another set, that is interrupted after
// every second step is the uninterrupted run to the bit, inside an epoch and
// across epochs.
func TestResumeOnShards(t *testing.T) {
	dir := t.TempDir()
	shards := config.Set{Path: []string{writeShards(t, dir, 5, 0, 7, 9, 5)}}
	pairs := config.Set{Path: []string{writePairs(t, dir, 28)}}
	for name, data := range map[string]config.Data{
		"shards":  {Pairs: []config.Set{shards}, Shuffle: 10},
		"joined":  {Pairs: []config.Set{shards, pairs}, Shuffle: 10},
		"mixture": {Pairs: []config.Set{{Path: shards.Path, Weight: 2}, {Path: pairs.Path, Weight: 1}}, Shuffle: 10},
	} {
		t.Run(name, func(t *testing.T) {
			stages := func() *config.Run {
				c := allStages("", t.TempDir())
				c.Stages = []config.Stage{*c.Stage("text"), *c.Stage("retrieval")}
				c.Stages[1].Steps = 8
				c.Data = data
				c.Data.Text = []config.Set{{Path: []string{emoji + "glosses.txt"}}}
				return c
			}
			c := stages()
			want := journal{}
			incomplete := 0
			err := start(t.Context(), t, c, 1, false, want.hook(), watch(func(s *Stage, p *Progress) error {
				if s.Kind == config.Retrieval {
					incomplete = s.Incomplete
					if !strings.HasSuffix(s.AnIncomplete, "/alone") || len(s.Skipped) > 0 {
						t.Errorf("%q, %q", s.AnIncomplete, s.Skipped)
					}
				}
				return nil
			}))
			if err != nil {
				t.Fatal(err)
			}
			if incomplete != 5 {
				t.Errorf("%d incomplete samples were counted, want 5", incomplete)
			}
			whole := results(t, c)

			c = stages()
			got := journal{}
			for parts := 0; ; parts++ {
				c.Data.Workers = 1 + parts%3
				ctx, cancel := context.WithCancel(t.Context())
				steps := 0
				err := start(ctx, t, c, 1+parts%2, parts > 0, got.hook(), watch(func(*Stage, *Progress) error {
					if steps++; steps == 2 {
						cancel()
					}
					return nil
				}))
				cancel()
				if err == nil {
					break
				}
				if !errors.Is(err, ErrInterrupted) || parts > 12 {
					t.Fatal(err)
				}
			}
			sameJournal(t, got, want)
			sameResults(t, results(t, c), whole)
		})
	}
}

// The text stage reads text and the words of the pairs, mixed by their weights.
func TestTextsOf(t *testing.T) {
	dir := t.TempDir()
	lines := filepath.Join(dir, "l.txt")
	writeFile(t, lines, []byte("one\ntwo\n"))
	pairs := writePairs(t, dir, 28)
	shards := writeShards(t, dir, 3)
	set := func(path string, weight float64) config.Set { return config.Set{Path: []string{path}, Weight: weight} }
	for name, c := range map[string]struct {
		text, pairs []config.Set
		weights     []float64
		length      int
	}{
		"joined":        {[]config.Set{set(lines, 0)}, []config.Set{set(pairs, 0), set(pairs, 0)}, []float64{0}, 58},
		"text alone":    {[]config.Set{set(lines, 0)}, nil, []float64{0}, 2},
		"no text":       {nil, []config.Set{set(pairs, 3), set(shards, 1)}, []float64{3, 1}, 0},
		"pairs have":    {[]config.Set{set(lines, 0), set(lines, 0)}, []config.Set{set(pairs, 3), set(pairs, 2)}, []float64{1, 3, 2}, 4 + 56},
		"text has":      {[]config.Set{set(lines, 5)}, []config.Set{set(pairs, 0), set(shards, 0)}, []float64{5, 1}, 0},
		"both have":     {[]config.Set{set(lines, 5)}, []config.Set{set(pairs, 4)}, []float64{5, 4}, 30},
		"shards joined": {[]config.Set{set(lines, 0)}, []config.Set{set(shards, 0)}, []float64{0}, 0},
	} {
		text, err := openSets("data.text", c.text)
		check(t, err)
		p, err := openSets("data.pairs", c.pairs)
		check(t, err)
		got := textsOf(text, p)
		var weights []float64
		for _, s := range got {
			weights = append(weights, s.Weight)
			d, err := s.Set.Shard(t.Context(), 0)
			check(t, err)
			e, err := d.Example(0)
			if err != nil || e.Image != nil || len(e.Captions) != 1 {
				t.Errorf("%s: %+v, %v", name, e, err)
			}
			check(t, d.Close())
		}
		n, known := got.length()
		if !reflect.DeepEqual(weights, c.weights) || n != c.length || known != (c.length > 0) {
			t.Errorf("%s: weights %v, want %v, %d examples, want %d", name, weights, c.weights, n, c.length)
		}
	}
	_, err := openSets("data.pairs", []config.Set{set(pairs, 0), set("none.jsonl", 0)})
	wantError(t, err, "data.pairs.1: ", "none.jsonl")
}

// Training draws one of an example's captions each time, whatever the workers;
// evaluation uses all of them, also those of tar files.
func TestSeveralCaptions(t *testing.T) {
	dir := t.TempDir()
	list, err := sprites()
	check(t, err)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i, e := range list[:8] {
		for name, content := range map[string]string{"png": string(e.png), "json": fmt.Sprintf(`{"captions":["a%d","b%d","c%d"]}`, i, i, i)} {
			check(t, w.WriteHeader(&tar.Header{Name: fmt.Sprintf("%d.%s", i, name), Size: int64(len(content)), Mode: 0o644}))
			_, err := w.Write([]byte(content))
			check(t, err)
		}
	}
	check(t, w.Close())
	writeFile(t, filepath.Join(dir, "0.tar"), b.Bytes())

	c := only(allStages("", t.TempDir()), config.Retrieval)
	c.Data = config.Data{Pairs: []config.Set{{Path: []string{dir + "/*.tar"}}}, Test: []config.Set{{Path: []string{dir}}}}
	check(t, start(t.Context(), t, c, 1, false))
	dev, err := cpu.New(cpu.Options{Threads: 1})
	check(t, err)
	r := &Run{Config: c, Dev: dev}
	check(t, r.Open())
	path, err := r.Checkpoint(config.Retrieval)
	check(t, err)
	res, err := r.EvaluateCheckpoint(path, 0)
	check(t, err)
	if res.Images != 8 || res.Texts != 24 {
		t.Errorf("%d images and %d texts, want 8 and 24", res.Images, res.Texts)
	}

	texts := func(workers int) (all []string) {
		s, err := r.sampler(&Stage{Stage: &c.Stages[0]})
		check(t, err)
		ld, err := loader.New(t.Context(), s, loader.Config{Workers: workers}, newMaker(r, 0).make)
		check(t, err)
		defer ld.Close()
		for range 60 {
			b, err := ld.Next()
			check(t, err)
			for _, ids := range b.Texts {
				all = append(all, r.tok.Decode(ids, true))
			}
		}
		return all
	}
	want := texts(1)
	if got := texts(3); !slices.Equal(got, want) {
		t.Error("three workers draw other captions than one")
	}
	count := map[string]int{}
	for _, text := range want {
		count[text[:1]]++
	}
	// 480 draws, 160 of each and a deviation of 10.
	for _, k := range []string{"a", "b", "c"} {
		if count[k] < 110 || count[k] > 210 {
			t.Errorf("caption %s was drawn %d times of 480", k, count[k])
		}
	}
}
