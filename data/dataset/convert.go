package dataset

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"

	"vlmo-train/data/dataset/arrowfile"
)

// FormatWikiBK is the raw form of Wikipedia and BookCorpus for [Convert]:
// wikibk.0.txt to wikibk.49.txt with a text a line. To train on them they can be read
// as [FormatLines].
const FormatWikiBK Format = "wikibk"

// Conversion says which raw set [Convert] writes as Arrow files.
type Conversion struct {
	Format Format // one that Conversions lists
	Root   string // the raw set's folder
	Out    string // the folder to write to, which exists

	// Splits are those to write; all where it is empty.
	Splits []string

	Compression arrowfile.Compression

	// Wrote, if not nil, is told of each file that is finished.
	Wrote func(path string, rows int)
}

// Conversions lists the formats that Convert knows, with their splits.
func Conversions() map[Format][]string {
	return map[Format][]string{
		FormatCOCO:   {"train", "val", "restval", "test"},
		FormatF30K:   {"train", "val", "test"},
		FormatVQA:    {"train", "val", "test", "test-dev", "trainable_val", "rest_val"},
		FormatNLVR2:  {"train", "dev", "test1", "balanced_dev", "balanced_test1", "unbalanced_dev", "unbalanced_test1"},
		FormatVG:     {"train"},
		FormatGCC:    {"train", "val"},
		FormatSBU:    {"train"},
		FormatWikiBK: {"train"},
	}
}

// shardRows is how many rows a file of GCC and SBU has.
const shardRows = 100_000

// Convert writes a raw set as the Arrow files that the scripts of ViLT and VLMo
// write: the same names, columns, types and rows, but in the order of the raw files
// instead of a shuffled one, and in record batches of some 64 MB. Pictures are
// copied as they are. Where it fails, finished files stay.
func Convert(ctx context.Context, c Conversion) error {
	splits, ok := Conversions()[c.Format]
	if !ok {
		return fmt.Errorf("dataset: format %q can't be written as Arrow files", c.Format)
	}
	known := splits
	if len(c.Splits) > 0 {
		splits = c.Splits
	}
	for _, s := range splits {
		ok := false
		for _, k := range known {
			ok = ok || s == k
		}
		if !ok {
			return fmt.Errorf("dataset: %s has no split %q, but %s", c.Format, s, strings.Join(known, ", "))
		}
	}
	for _, split := range splits {
		if err := c.split(ctx, split); err != nil {
			return err
		}
	}
	return nil
}

// split writes the files of a split.
func (c *Conversion) split(ctx context.Context, split string) error {
	o := Options{Path: c.Root, Split: split}
	list := func(column, t string) arrowfile.Column {
		return arrowfile.Column{Name: column, Type: "list<" + t + ">"}
	}
	text := func(column string) arrowfile.Column { return arrowfile.Column{Name: column, Type: "string"} }
	image := arrowfile.Column{Name: "image", Type: "binary"}
	captioned := []arrowfile.Column{image, list("caption", "string"), text("image_id"), text("split")}
	// rows is a function of a row's number; it is not called for an empty split.
	var rows func(i int) ([]any, error)
	var n int
	var sets []io.Closer
	defer func() { closeAll(sets...) }() // they were only read
	var columns []arrowfile.Column
	var name string
	var err error
	shard := 0 // rows a file, 0 for all
	switch c.Format {
	case FormatCOCO, FormatF30K:
		name, columns = fmt.Sprintf("%s_caption_karpathy_%s", c.Format, split), captioned
		var d *Karpathy
		if c.Format == FormatCOCO {
			d, err = openKarpathy(o, cocoFile, cocoImages, []string{split})
		} else {
			d, err = openKarpathy(o, f30kFile, f30kImages, []string{split})
		}
		if err == nil {
			sets, n, rows = append(sets, d), d.Len(), captionRows(d, split)
		}
	case FormatGCC, FormatSBU:
		name, columns, shard = "sbu_%d", captioned, shardRows
		open := OpenSBU
		if c.Format == FormatGCC {
			name, open = "conceptual_caption_"+split+"_%d", OpenGCC
		}
		var d *Listed
		if d, err = open(o); err == nil {
			sets, n, rows = append(sets, d), d.Len(), captionRows(d, split)
		}
	case FormatVG:
		name = "vg"
		columns = []arrowfile.Column{image, list("caption", "string"), list("width", "int64"), list("height", "int64"),
			list("x", "int64"), list("y", "int64"), text("image_id")}
		var d *VG
		if d, err = OpenVG(o); err == nil {
			sets, n, rows = append(sets, d), d.Len(), vgRows(d)
		}
	case FormatNLVR2:
		name = "nlvr2_" + split
		columns = []arrowfile.Column{{Name: "image_0", Type: "binary"}, {Name: "image_1", Type: "binary"}, list("questions", "string"),
			list("answers", "string"), text("identifier")}
		var d *NLVR2
		if d, err = OpenNLVR2(o); err == nil {
			var pairs *grouped
			n = d.pairs
			rows, pairs, err = nlvr2Rows(d)
			sets = append(sets, d, pairs)
		}
	case FormatVQA:
		name = "vqav2_" + split
		answers, labels, scores := "list<string>", "list<int64>", "list<double>"
		if split == "test" || split == "test-dev" {
			answers, labels, scores = "null", "null", "null"
		}
		columns = []arrowfile.Column{image, list("questions", "string"), list("answers", answers), list("answer_labels", labels),
			list("answer_scores", scores), {Name: "image_id", Type: "int64"}, list("question_id", "int64"), text("split")}
		var d *VQA
		if d, err = OpenVQA(o); err == nil {
			sets = append(sets, d)
			n, rows, err = vqaRows(d, split)
		}
	case FormatWikiBK:
		return c.wikibk(ctx)
	}
	var empty *emptyError
	if errors.As(err, &empty) && empty.missing == 0 {
		err = nil
	}
	if err != nil {
		return err
	}
	if shard == 0 {
		return c.write(ctx, name, columns, 0, n, rows)
	}
	for k := 0; k*shard < n; k++ {
		if err := c.write(ctx, fmt.Sprintf(name, k), columns, k*shard, min(n, (k+1)*shard), rows); err != nil {
			return err
		}
	}
	return nil
}

// write writes the rows from first to end-1 to a file.
func (c *Conversion) write(ctx context.Context, name string, columns []arrowfile.Column, first, end int, row func(i int) ([]any, error)) error {
	path := filepath.Join(c.Out, name+".arrow")
	w, err := arrowfile.Create(path, columns, c.Compression)
	if err != nil {
		return fmt.Errorf("dataset: %w", err)
	}
	defer w.Abort()
	for i := first; i < end; i++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		values, err := row(i)
		if err != nil {
			return fmt.Errorf("dataset: %s: row %d: %w", path, i-first, err)
		}
		if err := w.Append(values...); err != nil {
			return fmt.Errorf("dataset: %w", err)
		}
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("dataset: %w", err)
	}
	if c.Wrote != nil {
		c.Wrote(path, w.Rows())
	}
	return nil
}

// listFrom returns a list as Arrow's values.
func listFrom[T any](list []T) []any {
	out := make([]any, len(list))
	for i, v := range list {
		out[i] = v
	}
	return out
}

// encoded returns the encoded pictures of a record; an error names the file.
func encoded(r *record, n int) ([]any, error) {
	var list []any
	for _, b := range r.pictures[:n] {
		data, err := b.read()
		if err != nil {
			return nil, fmt.Errorf("picture %s: %w", b.path, err)
		}
		list = append(list, data)
	}
	return list, nil
}

func captionRows(d recorder, split string) func(i int) ([]any, error) {
	return func(i int) ([]any, error) {
		r, err := d.record(i, true)
		if err != nil {
			return nil, err
		}
		row, err := encoded(&r, 1)
		return append(row, listFrom(r.Captions), r.ID, split), err
	}
}

func vgRows(d *VG) func(i int) ([]any, error) {
	return func(i int) ([]any, error) {
		r, err := d.record(i, true)
		if err != nil {
			return nil, err
		}
		row, err := encoded(&r, 1)
		var w, h, x, y []any
		for _, g := range r.Regions {
			w, h, x, y = append(w, g.Width), append(h, g.Height), append(x, g.X), append(y, g.Y)
		}
		return append(row, listFrom(r.Captions), w, h, x, y, r.ID), err
	}
}

// nlvr2Rows returns the function of the rows, and the sentences of each pair, which
// the caller closes.
func nlvr2Rows(d *NLVR2) (row func(i int) ([]any, error), pairs *grouped, err error) {
	pairs = new(grouped)
	for i := range d.Len() {
		_, first, err := d.find(i)
		if err == nil {
			err = pairs.add(strconv.FormatInt(first.off, 10), extent{off: int64(i)})
		}
		if err != nil {
			return nil, pairs, err
		}
	}
	return func(i int) ([]any, error) {
		var questions, answers []any
		var last record
		err := pairs.group(i, func(x extent) error {
			begins := questions == nil
			r, err := d.record(int(x.off), begins)
			if err != nil {
				return err
			}
			questions, answers = append(questions, r.Question.Text), append(answers, r.Question.Answers[0])
			if begins {
				last = r
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		row, err := encoded(&last, 2)
		return append(row, questions, answers, last.ImageID), err
	}, pairs, pairs.done(nil)
}

// vqaRows returns the number of pictures and the function of their rows.
func vqaRows(d *VQA, split string) (n int, row func(i int) ([]any, error), err error) {
	before := 0 // pictures that are not of the part
	for i := range d.items.len() {
		var at [1]uint64
		if err := d.items.groups.At(i, at[:]); err != nil {
			return 0, nil, err
		}
		switch first := int(at[0]); {
		case first < d.begin:
			before++
		case first < d.end:
			n++
		}
	}
	if split == "trainable_val" || split == "rest_val" {
		split = "val" // whose parts they are
	}
	return n, func(i int) ([]any, error) {
		var at [2]uint64
		if err := d.items.groups.At(before+i, at[:]); err != nil {
			return nil, err
		}
		questions, answers, labels, scores, ids := []any{}, []any{}, []any{}, []any{}, []any{}
		var row []any
		var image int64
		for k := int(at[0]) - d.begin; k < int(at[0]+at[1])-d.begin; k++ {
			it, err := d.item(k)
			if err != nil {
				return nil, err
			}
			image = it.image
			r, err := d.record(k, true)
			if err != nil {
				return nil, err
			}
			if row == nil {
				if row, err = encoded(&r, 1); err != nil {
					return nil, err
				}
			}
			questions, ids = append(questions, r.Question.Text), append(ids, r.Question.ID)
			targets, err := d.targets(it)
			if err != nil {
				return nil, err
			}
			if targets == nil {
				continue
			}
			a, l, s := []any{}, []any{}, []any{}
			for _, t := range targets {
				a, l, s = append(a, d.vocabulary.Answer(int(t.Label))), append(l, int64(t.Label)), append(s, t.Score)
			}
			answers, labels, scores = append(answers, a), append(labels, l), append(scores, s)
		}
		return append(row, questions, answers, labels, scores, image, ids, split), nil
	}, nil
}

// wikibk writes the files of Wikipedia and BookCorpus: as in the original a row a
// line, blank ones too.
func (c *Conversion) wikibk(ctx context.Context) error {
	paths, err := filepath.Glob(filepath.Join(escape(c.Root), "wikibk.*.txt"))
	if err != nil || len(paths) == 0 {
		return fmt.Errorf("dataset: %s: no wikibk.0.txt in it", c.Root)
	}
	columns := []arrowfile.Column{{Name: "image", Type: "string"}, {Name: "caption", Type: "list<string>"},
		{Name: "source", Type: "string"}, {Name: "split", Type: "string"}}
	for _, path := range paths {
		number := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(path), "wikibk."), ".txt")
		if err := c.texts(ctx, path, "wikibk_train_"+number, columns); err != nil {
			return err
		}
	}
	return nil
}

func (c *Conversion) texts(ctx context.Context, path, name string, columns []arrowfile.Column) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("dataset: %w", err)
	}
	defer f.Close()
	out := filepath.Join(c.Out, name+".arrow")
	w, err := arrowfile.Create(out, columns, c.Compression)
	if err != nil {
		return fmt.Errorf("dataset: %w", err)
	}
	defer w.Abort()
	// What Python's str.strip removes.
	space := func(r rune) bool { return unicode.IsSpace(r) || r >= 0x1c && r <= 0x1f }
	err = eachRawLine(f, maxLine, func(_ int, _ int64, line []byte) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		// A lone CR ends a line, too, as Python reads text files.
		for part := range strings.SplitSeq(strings.TrimSuffix(string(line), "\r"), "\r") {
			if err := w.Append(noPicture, []any{strings.TrimFunc(part, space)}, "wikibk", "train"); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("dataset: %s:%w", path, err)
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("dataset: %w", err)
	}
	if c.Wrote != nil {
		c.Wrote(out, w.Rows())
	}
	return nil
}
