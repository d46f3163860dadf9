package main

import (
	"fmt"
	"path/filepath"
	"slices"

	"github.com/urfave/cli/v2"

	"vlmo-train/train"
)

func embedCommand() *cli.Command {
	return &cli.Command{
		Name:  "embed",
		Usage: "write the dual encoder's features of a set's pictures and captions as NumPy files",
		Flags: slices.Concat(configFlags(), savedModelFlags, []cli.Flag{
			&cli.StringFlag{Name: "data", Usage: "`set` as in a configuration: a path, a pattern, or YAML such as '{path: coco, format: coco, split: val}' (default: the configuration's data.test)"},
			&cli.StringFlag{Name: "out", Usage: "`folder` for images.npy and texts.npy, and images.jsonl and texts.jsonl with a line a row"},
			&cli.BoolFlag{Name: "images", Usage: "pictures alone (default: what the set has)"},
			&cli.BoolFlag{Name: "texts", Usage: "captions alone (default: what the set has)"},
			&cli.IntFlag{Name: "batch", Value: 64, Usage: "pictures or captions that go through the model at a `time`"},
			threadsFlag, precisionFlag,
			&cli.BoolFlag{Name: "strict", Usage: "stop at the first example that can't be read instead of leaving it out"}}),
		Action: embed,
	}
}

func embed(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	opt := train.EmbedOptions{Out: c.String("out"), Images: c.Bool("images"), Texts: c.Bool("texts"), Batch: c.Int("batch")}
	switch {
	case opt.Out == "":
		return usageError{"say --out FOLDER"}
	case opt.Batch < 1:
		return usageError{fmt.Sprintf("--batch is %d", opt.Batch)}
	}
	r, path, err := savedModel(c, retrievalKinds(0)...)
	if err != nil {
		return err
	}
	defer closeDevice(r.Dev)
	if c.IsSet("data") {
		if err := r.Config.Set("data.test=" + c.String("data")); err != nil {
			return usageError{fmt.Sprintf("--data: %v", err)}
		}
	}
	p := newProgress(c.App.ErrWriter)
	opt.Progress = p.set
	res, err := r.Embed(c.Context, path, opt)
	p.close()
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		rows int
	}{{"images.npy", res.Images}, {"texts.npy", res.Texts}} {
		if f.rows > 0 {
			fmt.Fprintf(c.App.Writer, "%s: %d × %d\n", filepath.Join(opt.Out, f.name), f.rows, res.Dim)
		}
	}
	if res.Incomplete > 0 {
		fmt.Fprintf(c.App.ErrWriter, "%d samples without picture or caption are left out, such as %s\n", res.Incomplete, res.AnIncomplete)
	}
	if res.Unreadable > 0 {
		fmt.Fprintf(c.App.ErrWriter, "%d examples can't be read and are left out:\n", res.Unreadable)
		for _, e := range res.Errors {
			fmt.Fprintf(c.App.ErrWriter, "\t%s\n", e)
		}
		if n := res.Unreadable - len(res.Errors); n > 0 {
			fmt.Fprintf(c.App.ErrWriter, "\tand %d more\n", n)
		}
	}
	return nil
}
