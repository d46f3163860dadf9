package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"vlmo-train/train"
	"vlmo-train/vlmo"
)

func convertCommand() *cli.Command {
	return &cli.Command{
		Name:      "convert",
		Usage:     "write weights in another format, under VLMo's names, or for another resolution",
		ArgsUsage: "IN OUT",
		Description: "IN is a checkpoint folder, or a file of VLMo or BEiT weights: safetensors, also in shards\n" +
			"(the .index.json), or torch (.pt, .pth, .ckpt, .bin). OUT's name says its format in the same way.",
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "image-size", Usage: "interpolate the positions for images of so many `pixels`"},
			&cli.IntFlag{Name: "max-text", Usage: "cut the text positions to so many `tokens`"},
			&cli.IntFlag{Name: "max-text-init", Usage: "text length that the relative position table is laid out for (default: what the checkpoint says, 196 for BEiT)"},
			&cli.StringFlag{Name: "dtype", Usage: "`type` of the numbers: F32, F16 or BF16 (default: as in IN)"},
		},
		Action: convert,
	}
}

func convert(c *cli.Context) error {
	if c.NArg() != 2 {
		return usageError{fmt.Sprintf("convert takes two arguments, IN and OUT, and got %d", c.NArg())}
	}
	from, to := c.Args().Get(0), c.Args().Get(1)
	o := vlmo.ConvertOptions{ImageSize: c.Int("image-size"), MaxText: c.Int("max-text"), MaxTextInit: c.Int("max-text-init"), DType: c.String("dtype")}
	for _, name := range []string{"image-size", "max-text", "max-text-init"} {
		if c.IsSet(name) && c.Int(name) <= 0 {
			return usageError{fmt.Sprintf("--%s is %d, want a positive number", name, c.Int(name))}
		}
	}
	if o.MaxTextInit == 0 {
		cfg, err := train.CheckpointConfig(from)
		if err != nil {
			return err
		}
		if cfg != nil {
			o.MaxTextInit = cfg.Model.MaxTextInit
		}
	}
	done, err := vlmo.Convert(from, to, o)
	if err != nil {
		return err
	}
	fmt.Fprintf(c.App.Writer, "%s: %s\n%s: %s, %d tensors\n", from, done.From, to, done.To, done.Tensors)
	if done.Buffers && !done.To.Config.Absolute {
		guessed := ""
		if done.To.Guessed {
			guessed = "; a guess, --max-text-init sets it"
		}
		fmt.Fprintf(c.App.Writer, "relative position table laid out for %d tokens%s\n", done.To.Config.MaxTextInit, guessed)
	}
	return nil
}
