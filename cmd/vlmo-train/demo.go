package main

import (
	"fmt"
	"os"
	"slices"

	"github.com/urfave/cli/v2"

	"vlmo-train/train"
	"vlmo-train/train/config"
)

// emojiBaseline is what a linear model reaches on testdata/emoji/test.jsonl
// after it has seen train.jsonl; -1 was not measured.
var emojiBaseline = train.Baseline{
	Name:        "ridge regression on colours and gradient histograms",
	ImageToText: train.Recall{29.7, -1, 55.8},
	TextToImage: train.Recall{44.4, -1, -1},
}

func demoCommand() *cli.Command {
	return &cli.Command{
		Name:  "demo",
		Usage: "train all stages on emoji and find texts by picture and pictures by text",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "preset", Value: "demo", Usage: "demo (minutes) or emoji-hour"},
			seedFlag, outFlag, deviceFlag, threadsFlag, rerankFlag, resumeFlag,
		},
		Action: demo,
	}
}

func demo(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	if name := c.String("preset"); name != "demo" && name != "emoji-hour" {
		return usageError{fmt.Sprintf("preset %q is no demo: use demo or emoji-hour, or vlmo-train train --preset %s", name, name)}
	}
	cfg, err := config.Preset(c.String("preset"))
	if err != nil {
		return err
	}
	files := []string{cfg.Model.VocabFile}
	for _, set := range slices.Concat(cfg.Data.Pairs, cfg.Data.Test, cfg.Data.Text) {
		files = append(files, set.Path...)
	}
	for _, path := range files {
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("the demo's data is in the source repository, run it from there: %w", err)
		}
	}
	if !c.IsSet("out") {
		if cfg.Out, err = train.OutFolder(cfg.Out, c.Bool("resume")); err != nil {
			return err
		}
	}
	r, err := newRun(c, cfg)
	if err != nil {
		return err
	}
	defer closeDevice(r.Dev)
	return execute(c, r, c.Int("rerank"), &emojiBaseline, 4)
}
