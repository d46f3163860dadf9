package train

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

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
