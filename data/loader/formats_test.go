package loader

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"vlmo-train/data/dataset"
)

// formatSets has a set of each format, made by the real tools where they have
// one.
func formatSets(t *testing.T) map[dataset.Format]dataset.Sharded {
	t.Helper()
	const fixtures = "../../testdata/fixtures"
	raw := filepath.Join(fixtures, "raw")

	// Pictures in folders, with a caption beside each.
	own := t.TempDir()
	write := func(name, text string) {
		path := filepath.Join(own, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o777), os.WriteFile(path, []byte(text), 0o666)); err != nil {
			t.Fatal(err)
		}
	}
	var csv, lines strings.Builder
	fmt.Fprintln(&csv, "image,caption")
	images, err := filepath.Glob(filepath.Join(fixtures, "images", "jpeg_4*.jpg"))
	if err != nil || len(images) < 3 {
		t.Fatalf("%d pictures, %v", len(images), err)
	}
	for i, path := range images {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Base(path)
		write("folder/"+name, string(content))
		write("folder/"+strings.TrimSuffix(name, ".jpg")+".txt", fmt.Sprintf("picture %d\nthe same\n", i))
		write(fmt.Sprintf("classes/%d/%s", i%2, name), string(content))
		fmt.Fprintf(&csv, "folder/%s,\"picture, %d\"\n", name, i)
		fmt.Fprintf(&lines, "a line of text, %d\n", i)
	}
	write("captions.csv", csv.String())
	write("lines.txt", lines.String())

	sets := map[dataset.Format]dataset.Sharded{}
	for format, path := range map[dataset.Format]string{
		dataset.FormatJSONL: "../../testdata/emoji/test.jsonl", dataset.FormatTSV: raw + "/tsv/captions.tsv",
		dataset.FormatFolder: own + "/folder", dataset.FormatClasses: own + "/classes", dataset.FormatCSV: own + "/captions.csv", dataset.FormatLines: own + "/lines.txt",
		dataset.FormatArrow: fixtures + "/arrow/coco_caption_karpathy_train.arrow", dataset.FormatParquet: fixtures + "/parquet/train-*.parquet",
		dataset.FormatWebDataset: fixtures + "/webdataset/0*.tar",
		dataset.FormatCOCO:       raw + "/coco", dataset.FormatF30K: raw + "/f30k", dataset.FormatVQA: raw + "/vqa", dataset.FormatNLVR2: raw + "/nlvr2",
		dataset.FormatVG: raw + "/vg", dataset.FormatGCC: raw + "/gcc", dataset.FormatSBU: raw + "/sbu",
	} {
		o := dataset.Options{Format: format}
		switch format {
		case dataset.FormatTSV:
			o.Images = raw + "/tsv/images"
		case dataset.FormatCSV:
			o.Images = own
		case dataset.FormatCOCO, dataset.FormatF30K, dataset.FormatVQA, dataset.FormatNLVR2, dataset.FormatGCC:
			o.Split = "train"
		}
		set, err := dataset.OpenSet(o, path)
		if err != nil {
			t.Fatalf("%s: %v", format, err)
		}
		if d, ok := dataset.AsDataset(set); ok {
			if c, ok := d.(io.Closer); ok {
				t.Cleanup(func() { c.Close() })
			}
		}
		sets[format] = set
	}
	for _, format := range dataset.Formats() {
		if sets[format] == nil {
			t.Errorf("no set of the format %s", format)
		}
	}
	return sets
}

// contents returns all that a batch's examples hold, pictures by a hash.
func contents(_ context.Context, b *Batch, _ []string) ([]string, error) {
	out := make([]string, len(b.Indices))
	err := b.Each(func(place int, e dataset.Example) error {
		h := sha256.New()
		if e.Image != nil {
			fmt.Fprintln(h, e.Image.W, e.Image.H, e.Image.Pix)
		}
		if e.Image2 != nil {
			fmt.Fprintln(h, e.Image2.W, e.Image2.H, e.Image2.Pix)
		}
		q := e.Question
		e.Image, e.Image2, e.Question = nil, nil, nil
		out[place] = fmt.Sprintf("%d %+v %+v %x", b.Samples[place], e, q, h.Sum(nil))
		return nil
	})
	return out, err
}

// Of every format: a loader that begins anywhere in an epoch goes on as one that
// came there, with any number of workers, and ranks have the parts of what one
// rank has.
func TestEveryFormatResumesAndSplits(t *testing.T) {
	const batch, most = 4, 14
	for format, set := range formatSets(t) {
		t.Run(string(format), func(t *testing.T) {
			run := func(p Position, rank, world, workers, n int) (batches [][]string, positions []Position) {
				cfg := SamplerConfig{Sources: sources(set), Batch: batch, Seed: 5, Buffer: 6, Rank: rank, World: world, Epochs: 3}
				return loadAs(t, cfg, p, n, Config{Workers: workers, MaxBad: 100}, contents)
			}
			want, positions := run(Position{}, 0, 1, 1, most)
			if len(want) < 3 || !slices.ContainsFunc(positions, func(p Position) bool { return p.Epoch > 0 }) && len(want) < most {
				t.Fatalf("%d batches, positions %+v", len(want), positions)
			}
			for k := range want {
				got, again := run(positions[k], 0, 1, 1+k%4, most-k)
				if !reflect.DeepEqual(got, want[k:]) || !reflect.DeepEqual(again, positions[k:]) {
					t.Fatalf("from %+v: %d batches, of which\n%.400q\nwant\n%.400q", positions[k], len(got), got[:min(1, len(got))], want[k:])
				}
			}
			for _, world := range []int{2, 4} {
				got := make([][]string, len(want))
				for rank := range world {
					part, at := run(Position{}, rank, world, 1+rank, most)
					if len(part) != len(want) || !reflect.DeepEqual(at, positions) {
						t.Fatalf("rank %d of %d has %d batches, want %d", rank, world, len(part), len(want))
					}
					for k := range part {
						got[k] = append(got[k], part[k]...)
					}
				}
				if !reflect.DeepEqual(got, want) {
					t.Errorf("%d ranks have first\n%.400q\none has\n%.400q", world, got[0], want[0])
				}
			}
		})
	}
}
