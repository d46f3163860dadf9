package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"vlmo-train/kernels"
	"vlmo-train/kernels/profile"
	"vlmo-train/train"
	"vlmo-train/train/report"
)

var profileFlags = []cli.Flag{
	&cli.StringFlag{Name: "profile", Usage: "time every op, and write tables and a trace into `folder`"},
	&cli.IntFlag{Name: "profile-steps", Value: 3, Usage: "`steps` of each stage to trace; the tables are of all steps"},
}

// profiler writes where the time of a run's steps goes. Its hooks enclose the
// others, whose time, such as that of an evaluation, belongs to no step; that
// of a checkpoint belongs to the step after it.
type profiler struct {
	dev    *profile.Device
	dir    string
	stage  *train.Stage // under way
	tables []report.Table
}

// newProfiler measures dev's peaks and makes the folder.
func newProfiler(dev kernels.Device, dir string, steps int) (*profiler, error) {
	if steps < 0 {
		return nil, usageError{fmt.Sprintf("--profile-steps is %d", steps)}
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, err
	}
	peak, err := profile.Measure(dev)
	if err != nil {
		return nil, err
	}
	return &profiler{dev: profile.New(dev, peak, steps), dir: dir}, nil
}

// hooks returns list between a hook that ends a step and one that begins the
// next.
func (p *profiler) hooks(list []train.Hook) []train.Hook {
	return append(append([]train.Hook{stepEnd{p}}, list...), stepStart{p})
}

type stepEnd struct{ *profiler }

func (h stepEnd) StageStart(s *train.Stage) error {
	h.stage = s
	h.dev.Reset(s.Name)
	return nil
}

func (h stepEnd) Step(*train.Stage, *train.Progress) error {
	h.dev.Stop()
	return nil
}

func (h stepEnd) StageEnd(*train.Stage) error { return h.write() }

// write writes the table of the stage under way, and the trace so far.
func (p *profiler) write() error {
	s := p.stage
	if s == nil {
		return nil
	}
	p.stage = nil
	all := p.dev.Profile()
	t := report.Table{Title: s.Name + " · time of ops", Note: all.Summary(), Header: profile.Header[:]}
	rows := all.ByOp()
	for i := range rows {
		c := all.Cells(&rows[i])
		t.Rows = append(t.Rows, c[:])
	}
	p.tables = append(p.tables, t)
	return errors.Join(
		writeFile(filepath.Join(p.dir, fmt.Sprintf("%d-%s.txt", s.Index, s.Name)), all.WriteTable),
		writeFile(filepath.Join(p.dir, "trace.json"), p.dev.WriteTrace))
}

type stepStart struct{ *profiler }

func (h stepStart) StageStart(*train.Stage) error {
	h.dev.Start()
	return nil
}

func (h stepStart) Step(s *train.Stage, p *train.Progress) error {
	if p.Step < s.Steps {
		h.dev.Start()
	}
	return nil
}

func (h stepStart) StageEnd(*train.Stage) error { return nil }

func writeFile(path string, write func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}
