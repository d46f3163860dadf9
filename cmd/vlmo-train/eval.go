package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"vlmo-train/train/config"
)

func evalCommand() *cli.Command {
	return &cli.Command{
		Name:  "eval",
		Usage: "evaluate a checkpoint in image-text retrieval",
		Flags: append(configFlags(),
			&cli.StringFlag{Name: "run", Usage: "`folder` of a run: its last vl or retrieval checkpoint"},
			&cli.StringFlag{Name: "checkpoint", Usage: "checkpoint `folder`, or file of weights, safetensors or torch, together with -c or --preset"},
			&cli.BoolFlag{Name: "json", Usage: "print the result as JSON"},
			deviceFlag, threadsFlag, precisionFlag, rerankFlag),
		Action: eval,
	}
}

func eval(c *cli.Context) (err error) {
	if err := noArgs(c); err != nil {
		return err
	}
	if c.IsSet("run") == c.IsSet("checkpoint") {
		return usageError{"give either --run FOLDER or --checkpoint FOLDER"}
	}
	var cfg *config.Run
	if c.IsSet("run") {
		if cfg, err = config.Load(filepath.Join(c.String("run"), "config.yaml")); err != nil {
			return err
		}
		cfg.Out = c.String("run") // it may have been moved
	} else if cfg, err = loadConfig(c); err != nil {
		return err
	}
	r, err := newRun(c, cfg)
	if err != nil {
		return err
	}
	path := c.String("checkpoint")
	if path == "" {
		if path, err = r.Checkpoint(retrievalKinds(c.Int("rerank"))...); err != nil {
			return err
		}
	}
	if err := r.Open(); err != nil {
		return err
	}
	res, err := r.EvaluateCheckpoint(path, c.Int("rerank"))
	if err != nil {
		return err
	}
	if c.Bool("json") {
		e := json.NewEncoder(c.App.Writer)
		e.SetIndent("", "  ")
		return e.Encode(res)
	}
	fmt.Fprintln(c.App.Writer, path)
	return res.WriteTable(c.App.Writer, nil)
}
