//go:build unix

// Command decode prints how many pictures a second of processor time are
// prepared for training: decode, random crop and bicubic resize to 224, flip, RandAugment,
// normalise. run.sh holds it against peer.py.
//
//	decode FOLDER SECONDS [whole|every|norand|decode]
//
// whole has RandAugment as the original, with a probability of 0.5 for each
// operation; every applies all that are drawn, as torchvision does.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"

	"vlmo-train/data/img"
	"vlmo-train/rng"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "decode:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 2 || len(args) > 3 {
		return fmt.Errorf("usage: decode FOLDER SECONDS [whole|every|norand|decode]")
	}
	what := "whole"
	if len(args) == 3 {
		what = args[2]
	}
	seconds, err := strconv.ParseFloat(args[1], 64)
	if err != nil {
		return err
	}
	names, err := filepath.Glob(filepath.Join(args[0], "*.jpg"))
	if err != nil {
		return err
	}
	if len(names) == 0 {
		return fmt.Errorf("no *.jpg in %s", args[0])
	}
	files := make([][]byte, len(names))
	for i, name := range names {
		if files[i], err = os.ReadFile(name); err != nil {
			return err
		}
	}
	runtime.GOMAXPROCS(1)

	a := img.Augment{CropArea: [2]float64{0.5, 1}, Flip: 0.5, Rand: img.RandAugment{Ops: 2, Level: 7}}
	switch what {
	case "norand":
		a.Rand = img.RandAugment{}
	case "every":
		a.Rand.Kind = img.RandPillow
	}
	aug, err := img.NewAugmenter(a)
	if err != nil {
		return err
	}
	dst, planes, chw := img.New(224, 224), make([]byte, 3*224*224), make([]float32, 3*224*224)
	var normalized [256]float32
	for v := range normalized {
		normalized[v] = (float32(v)/255 - 0.5) / 0.5
	}
	prepare := func(n int) error {
		m, err := img.Decode(files[n%len(files)], img.Options{})
		if err != nil || what == "decode" {
			return err
		}
		s := rng.New(rng.Key{Purpose: rng.Augment, Sample: uint64(n)})
		if err := aug.Apply(dst, m, &s); err != nil {
			return err
		}
		if err := img.Planes(planes, dst); err != nil {
			return err
		}
		// In training the device does this; here it is the peer's last step.
		for i, v := range planes {
			chw[i] = normalized[v]
		}
		return nil
	}
	for n := range files {
		if err := prepare(n); err != nil {
			return fmt.Errorf("%s: %w", names[n], err)
		}
	}
	n, start := 0, processorTime()
	for ; processorTime()-start < seconds; n++ {
		if err := prepare(n); err != nil {
			return err
		}
	}
	fmt.Printf("%.1f\n", float64(n)/(processorTime()-start))
	return nil
}

// processorTime returns the seconds of processor time that the process has
// used, the garbage collector's included: what others do on the machine is in it
// only as far as they take the caches.
func processorTime() float64 {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}
