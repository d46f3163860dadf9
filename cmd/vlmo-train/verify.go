package main

import (
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"vlmo-train/kernels"
	"vlmo-train/kernels/cuda"
	"vlmo-train/kernels/ref"
	"vlmo-train/train/config"
	"vlmo-train/train/verify"
)

func verifyCommand() *cli.Command {
	return &cli.Command{
		Name:      "verify",
		Usage:     "compare with tensors of the original code, such as testdata/parity",
		ArgsUsage: "FOLDER…",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "device", Value: "cpu", Usage: "cpu, cuda, cuda:`N`, auto or ref"},
			&cli.StringFlag{Name: "precision", Value: string(config.FP32), Usage: "fp32, or bf16: at most three times the error that the device ref makes in bf16"},
			&cli.BoolFlag{Name: "random", Usage: "also compare random models with heads of 34, 64 and 128 columns with the device ref; no folder is needed"},
			threadsFlag},
		Action: verifyAction,
	}
}

func verifyAction(c *cli.Context) error {
	compute, precision := kernels.F32, config.Precision(c.String("precision"))
	switch precision {
	case config.FP32:
	case config.BF16:
		compute = kernels.BF16
	default:
		return usageError{fmt.Sprintf("unknown precision %q, want fp32 or bf16", precision)}
	}
	var cases []string
	if c.Args().Present() || !c.Bool("random") {
		if !c.Args().Present() {
			return usageError{"name the folders of the cases, or take --random"}
		}
		var err error
		if cases, err = verify.Cases(c.Args().Slice()); err != nil {
			return err
		}
	}
	dev, err := openDevice(config.Device(c.String("device")), c.Int("threads"), cuda.Options{})
	if err != nil {
		return err
	}
	defer closeDevice(dev)
	var errs []error
	short := 0
	tw := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	fmt.Fprint(tw, "case\tquantity\tworst tensor\terror\tlimit\t")
	if precision == config.BF16 {
		fmt.Fprint(tw, "ref's\tratio\t")
	}
	fmt.Fprintln(tw)
	show := func(list []verify.Result, err error) {
		if err != nil {
			errs = append(errs, err)
		}
		for _, r := range list {
			fmt.Fprintf(tw, "%s\t%s\t%s\t%.2g\t%.2g\t", r.Case, r.Quantity, r.Worst, r.Err, r.Limit)
			switch {
			case precision == config.BF16 && r.Ref > 0:
				fmt.Fprintf(tw, "%.2g\t%.2f\t", r.Ref, r.Err/r.Ref)
			case precision == config.BF16:
				fmt.Fprint(tw, "\t\t")
			}
			if r.OK() {
				fmt.Fprintln(tw, "ok")
			} else {
				fmt.Fprintln(tw, "TOO LARGE")
				short++
			}
		}
	}
	for _, dir := range cases {
		if precision == config.BF16 {
			show(verify.RunBF16(dev, ref.New(), dir))
		} else {
			show(verify.Run(dev, dir))
		}
	}
	if c.Bool("random") {
		show(verify.Random(dev, ref.New(), compute))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	if short > 0 {
		errs = append(errs, fmt.Errorf("%d quantities are beyond their limits on %s", short, dev.Name()))
	}
	return errors.Join(errs...)
}
