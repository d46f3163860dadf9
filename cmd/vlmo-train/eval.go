package main

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/urfave/cli/v2"
)

func evalCommand() *cli.Command {
	return &cli.Command{
		Name:  "eval",
		Usage: "evaluate a checkpoint in image-text retrieval",
		Flags: slices.Concat(configFlags(), savedModelFlags, []cli.Flag{
			&cli.BoolFlag{Name: "json", Usage: "print the result as JSON"},
			deviceFlag, threadsFlag, precisionFlag, rerankFlag}),
		Action: eval,
	}
}

func eval(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	r, path, err := savedModel(c, retrievalKinds(c.Int("rerank"))...)
	if err != nil {
		return err
	}
	defer closeDevice(r.Dev)
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
