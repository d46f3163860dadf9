package main

import (
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"vlmo-train/train/config"
	"vlmo-train/train/verify"
)

func verifyCommand() *cli.Command {
	return &cli.Command{
		Name:      "verify",
		Usage:     "compare with tensors of the original code, such as testdata/parity",
		ArgsUsage: "FOLDER…",
		Flags:     []cli.Flag{&cli.StringFlag{Name: "device", Value: "cpu", Usage: "cpu, cuda, cuda:`N`, auto or ref"}, threadsFlag},
		Action:    verifyAction,
	}
}

func verifyAction(c *cli.Context) error {
	if !c.Args().Present() {
		return usageError{"name the folders of the cases"}
	}
	cases, err := verify.Cases(c.Args().Slice())
	if err != nil {
		return err
	}
	dev, err := openDevice(config.Device(c.String("device")), c.Int("threads"))
	if err != nil {
		return err
	}
	defer closeDevice(dev)
	var errs []error
	short := 0
	tw := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "case\tquantity\tworst tensor\terror\tlimit\t")
	for _, dir := range cases {
		list, err := verify.Run(dev, dir)
		if err != nil {
			errs = append(errs, err)
		}
		for _, r := range list {
			ok := "ok"
			if !r.OK() {
				ok = "TOO LARGE"
				short++
			}
			fmt.Fprintf(tw, "%s\t%s\t%s\t%.2g\t%.2g\t%s\n", r.Case, r.Quantity, r.Worst, r.Err, r.Limit, ok)
		}
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	if short > 0 {
		errs = append(errs, fmt.Errorf("%d quantities are beyond their limits on %s", short, dev.Name()))
	}
	return errors.Join(errs...)
}
