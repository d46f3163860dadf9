package main

import (
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"vlmo-train/kernels/cpu"
	"vlmo-train/kernels/cuda"
	"vlmo-train/train"
	"vlmo-train/train/config"
)

func infoCommand() *cli.Command {
	return &cli.Command{
		Name:   "info",
		Usage:  "describe the program and the machine, and measure its speed",
		Flags:  []cli.Flag{threadsFlag},
		Action: info,
	}
}

func info(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	cfg, err := config.Preset("base")
	if err != nil {
		return err
	}
	dev, err := cpu.New(cpu.Options{Threads: c.Int("threads")})
	if err != nil {
		return err
	}
	speed, err := train.Speed(dev, cfg, time.Second)
	if err != nil {
		return err
	}
	var isas []string
	for _, name := range []string{"avx512", "avx2", "generic"} {
		if _, err := cpu.New(cpu.Options{Threads: 1, ISA: name}); err == nil {
			isas = append(isas, name)
		}
	}
	_, err = fmt.Fprintf(c.App.Writer, "version   %s\nmachine   %s\nmemory    %s\nthreads   %d\nkernels   %s\ndevice    %s\nspeed     %.1f GFLOP/s in matrix products\ngpu       %s\n",
		train.Version(), train.Machine(), train.Memory(), runtime.GOMAXPROCS(0), strings.Join(isas, ", "), dev.Name(), speed/1e9, strings.Join(cuda.Describe(), "\n          "))
	return err
}
