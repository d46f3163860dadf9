package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"vlmo-train/data/dataset"
	"vlmo-train/data/dataset/arrowfile"
)

func dataArrowCommand() *cli.Command {
	var kinds []string
	for f := range dataset.Conversions() {
		kinds = append(kinds, string(f))
	}
	slices.Sort(kinds)
	return &cli.Command{
		Name:  "arrow",
		Usage: "write a published set as the Arrow files that ViLT and VLMo use",
		Description: "The set's folder has what the original's scripts want: the annotation files as published, the pictures\n" +
			"in their folders (docs/data.md). Without --split all splits must be there.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "kind", Usage: "the set: " + strings.Join(kinds, ", ")},
			&cli.StringFlag{Name: "root", Usage: "`folder` of the set"},
			&cli.StringFlag{Name: "out", Usage: "`folder` for the Arrow files"},
			&cli.StringSliceFlag{Name: "split", Usage: "write this split; can be repeated (default: all)"},
			&cli.StringFlag{Name: "compress", Value: "none", Usage: "none, lz4 or zstd; what is compressed is slower to read at random"},
		},
		Action: dataArrow,
	}
}

func dataArrow(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	for _, name := range []string{"kind", "root", "out"} {
		if c.String(name) == "" {
			return usageError{fmt.Sprintf("say --%s", name)}
		}
	}
	kind := dataset.Format(c.String("kind"))
	if _, ok := dataset.Conversions()[kind]; !ok {
		return usageError{fmt.Sprintf("unknown kind %q", kind)}
	}
	compression := arrowfile.Compression(c.String("compress"))
	switch compression {
	case arrowfile.None, arrowfile.LZ4, arrowfile.ZSTD:
	default:
		return usageError{fmt.Sprintf("unknown compression %q, want none, lz4 or zstd", compression)}
	}
	if err := os.MkdirAll(c.String("out"), 0o777); err != nil {
		return err
	}
	return dataset.Convert(c.Context, dataset.Conversion{
		Format: kind, Root: c.String("root"), Out: c.String("out"), Splits: c.StringSlice("split"), Compression: compression,
		Wrote: func(path string, rows int) { fmt.Fprintf(c.App.Writer, "%s: %d rows\n", path, rows) },
	})
}
