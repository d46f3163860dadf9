package main

import (
	"fmt"
	"slices"

	"github.com/urfave/cli/v2"

	"vlmo-train/train"
	"vlmo-train/train/config"
)

// configFlags choose a configuration.
func configFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "config", Aliases: []string{"c"}, Usage: "YAML `file` of the run"},
		&cli.StringFlag{Name: "preset", Usage: "`name` of a built-in configuration"},
		&cli.StringSliceFlag{Name: "set", Usage: "override one value, such as `stages.vl.lr=1e-4`; may be repeated"},
	}
}

// loadConfig reads the configuration that configFlags choose.
func loadConfig(c *cli.Context) (cfg *config.Run, err error) {
	switch {
	case c.IsSet("config") == c.IsSet("preset"):
		return nil, usageError{"give either -c FILE or --preset NAME"}
	case c.IsSet("config"):
		cfg, err = config.Load(c.String("config"))
	default:
		cfg, err = config.Preset(c.String("preset"))
	}
	if err != nil {
		return nil, err
	}
	for _, s := range c.StringSlice("set") {
		if err := cfg.Set(s); err != nil {
			return nil, err
		}
	}
	return cfg, nil
}

func trainCommand() *cli.Command {
	return &cli.Command{
		Name:  "train",
		Usage: "train the stages of a configuration",
		Flags: slices.Concat(configFlags(), []cli.Flag{seedFlag, outFlag, deviceFlag, threadsFlag, precisionFlag, exactFlag, rerankFlag, resumeFlag, strictFlag,
			&cli.BoolFlag{Name: "dry-run", Usage: "print the configuration and what it would cost, and stop"}}, profileFlags),
		Action: trainAction,
	}
}

func trainAction(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	cfg, err := loadConfig(c)
	if err != nil {
		return err
	}
	r, err := newRun(c, cfg)
	if err != nil {
		return err
	}
	defer closeDevice(r.Dev)
	if !c.Bool("dry-run") {
		return execute(c, r, c.Int("rerank"), nil, 0)
	}
	y, err := cfg.Marshal()
	if err != nil {
		return err
	}
	if _, err := fmt.Fprint(c.App.Writer, string(y)); err != nil {
		return err
	}
	p, err := train.NewPlan(cfg)
	if err != nil {
		return err
	}
	return p.WriteCosts(c.App.Writer)
}
