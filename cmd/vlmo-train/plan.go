package main

import (
	"slices"

	"github.com/urfave/cli/v2"

	"vlmo-train/train"
	"vlmo-train/train/config"
)

func planCommand() *cli.Command {
	return &cli.Command{
		Name:  "plan",
		Usage: "predict a step's time and memory on a GPU, from what its ops compute and move",
		Flags: slices.Concat(configFlags(), []cli.Flag{precisionFlag,
			&cli.StringFlag{Name: "gpu", Value: "h100", Usage: "`name` of the GPU, such as h100, a100 or rtx4090"},
			&cli.IntFlag{Name: "batch", Usage: "examples a step (default: each stage's)"}}),
		Action: planAction,
	}
}

func planAction(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	cfg, err := loadConfig(c)
	if err != nil {
		return err
	}
	if c.IsSet("precision") {
		cfg.Precision = config.Precision(c.String("precision"))
	}
	gpu, err := train.FindGPU(c.String("gpu"))
	if err != nil {
		return usageError{err.Error()}
	}
	if c.Int("batch") < 0 {
		return usageError{"--batch is negative"}
	}
	list, err := train.Predict(cfg, gpu, c.Int("batch"))
	if err != nil {
		return err
	}
	return train.WritePredictions(c.App.Writer, list)
}
