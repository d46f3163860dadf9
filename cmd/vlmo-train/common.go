package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"vlmo-train/kernels"
	"vlmo-train/kernels/cpu"
	"vlmo-train/kernels/cuda"
	"vlmo-train/kernels/ref"
	"vlmo-train/train"
	"vlmo-train/train/config"
	"vlmo-train/train/report"
)

// Flags that several commands have.
var (
	seedFlag      = &cli.Uint64Flag{Name: "seed", Usage: "key of every random draw (default: the configuration's)"}
	outFlag       = &cli.StringFlag{Name: "out", Usage: "`folder` for checkpoints, logs and the report"}
	resumeFlag    = &cli.BoolFlag{Name: "resume", Usage: "go on from the last checkpoint"}
	strictFlag    = &cli.BoolFlag{Name: "strict", Usage: "stop at the first unreadable picture instead of skipping up to 1 %"}
	threadsFlag   = &cli.IntFlag{Name: "threads", Usage: "worker threads, 0 is one a processor; results do not depend on it"}
	precisionFlag = &cli.StringFlag{Name: "precision", Usage: "fp32 or bf16, of the blocks' activations and products (default: the configuration's)"}
	deviceFlag    = &cli.StringFlag{Name: "device", Usage: "cpu, cuda, cuda:`N`, auto (a GPU where there is one) or ref (slow, for checking); default: the configuration's"}
	exactFlag     = &cli.BoolFlag{Name: "deterministic", Value: true, Usage: "the same seed gives the same bits on the same GPU; --deterministic=false may be faster there"}
	rerankFlag    = &cli.IntFlag{Name: "rerank", Usage: "let the last vl stage's matching head reorder the best `K` candidates"}
)

// noArgs refuses arguments that no flag takes.
func noArgs(c *cli.Context) error {
	if c.Args().Present() {
		return usageError{fmt.Sprintf("%s takes no argument %q", c.Command.Name, c.Args().First())}
	}
	return nil
}

// openDevice returns the device of that name; options are for a GPU.
func openDevice(name config.Device, threads int, options cuda.Options) (kernels.Device, error) {
	switch name {
	case config.CPU:
		return cpu.New(cpu.Options{Threads: threads})
	case config.Ref:
		return ref.New(), nil
	case config.Auto:
		if dev, err := cuda.New(0, options); err == nil {
			return dev, nil
		}
		return cpu.New(cpu.Options{Threads: threads})
	}
	if n, ok := name.GPU(); ok {
		return cuda.New(n, options)
	}
	return nil, usageError{fmt.Sprintf("unknown device %q, want cpu, cuda, cuda:N, auto or ref", name)}
}

// closeDevice gives back what a device holds besides Go's memory.
func closeDevice(dev kernels.Device) {
	if c, ok := dev.(io.Closer); ok {
		c.Close()
	}
}

// newRun applies the common flags to a configuration and opens its device.
func newRun(c *cli.Context, cfg *config.Run) (*train.Run, error) {
	if c.IsSet("seed") {
		cfg.Seed = c.Uint64("seed")
	}
	if c.IsSet("out") {
		cfg.Out = c.String("out")
	}
	if c.IsSet("device") {
		cfg.Device = config.Device(c.String("device"))
	}
	if c.IsSet("threads") {
		cfg.Threads = c.Int("threads")
	}
	if c.IsSet("precision") {
		cfg.Precision = config.Precision(c.String("precision"))
	}
	if c.IsSet("deterministic") {
		cfg.Deterministic = c.Bool("deterministic")
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	dev, err := openDevice(cfg.Device, cfg.Threads, cuda.Options{AnyOrder: !cfg.Deterministic})
	if err != nil {
		return nil, err
	}
	return &train.Run{Config: cfg, Dev: dev, Resume: c.Bool("resume"), Strict: c.Bool("strict")}, nil
}

// savedModelFlags name a trained model, together with configFlags.
var savedModelFlags = []cli.Flag{
	&cli.StringFlag{Name: "run", Usage: "`folder` of a run: its last vl or retrieval checkpoint"},
	&cli.StringFlag{Name: "checkpoint", Usage: "checkpoint `folder`, or file of weights, safetensors or torch, together with -c or --preset"},
}

// savedModel returns the run and the path of the weights that savedModelFlags
// name: of a run, its last checkpoint of the kinds.
func savedModel(c *cli.Context, kinds ...config.Kind) (r *train.Run, path string, err error) {
	if c.IsSet("run") == c.IsSet("checkpoint") {
		return nil, "", usageError{"give either --run FOLDER or --checkpoint FOLDER"}
	}
	var cfg *config.Run
	if c.IsSet("run") {
		cfg, err = config.Load(filepath.Join(c.String("run"), "config.yaml"))
	} else {
		cfg, err = loadConfig(c)
	}
	if err != nil {
		return nil, "", err
	}
	if r, err = newRun(c, cfg); err != nil || c.IsSet("checkpoint") {
		return r, c.String("checkpoint"), err
	}
	cfg.Out = c.String("run") // it may have been moved
	path, err = r.Checkpoint(kinds...)
	return r, path, err
}

// showSchedule plans the run, and prints what is about to happen and how long
// it will take.
func showSchedule(w io.Writer, r *train.Run) error {
	p, err := train.NewPlan(r.Config)
	if err != nil {
		return err
	}
	speed, err := train.Speed(r.Dev, r.Config, 300*time.Millisecond)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "%s on %s, %.0f GFLOP/s in matrix products; results go to %s\n\n", r.Config.Name, r.Dev.Name(), speed/1e9, r.Config.Out)
	r.Plan = p
	if err := p.WriteSchedule(w, speed); err != nil {
		return err
	}
	_, err = fmt.Fprintln(w)
	return err
}

// execute trains, evaluates and writes the report.
func execute(c *cli.Context, r *train.Run, rerank int, baseline *train.Baseline, examples int) error {
	if err := r.Config.Ready(); err != nil {
		return err
	}
	start := time.Now()
	out, progress := c.App.Writer, c.App.ErrWriter
	if err := showSchedule(out, r); err != nil {
		return err
	}
	prof := new(profiler)
	if dir := c.String("profile"); dir != "" {
		var err error
		if prof, err = newProfiler(r.Dev, dir, c.Int("profile-steps")); err != nil {
			return err
		}
		r.Dev = prof.dev
	}
	f, isFile := progress.(*os.File)
	console := train.NewConsole(progress, isFile && term.IsTerminal(int(f.Fd())))
	journal := &train.Journal{Path: filepath.Join(r.Config.Out, "journal.jsonl")}
	r.Hooks = []train.Hook{
		&train.Metrics{Path: filepath.Join(r.Config.Out, "metrics.jsonl")}, journal, console,
		&train.Evaluation{Run: r, Tell: []func(*train.Stage, int, *train.Retrieval) error{console.Evaluated, journal.Evaluated}},
	}
	if prof.dev != nil {
		r.Hooks = prof.hooks(r.Hooks)
	}
	err := r.Train(c.Context)
	console.Close()
	err = errors.Join(err, prof.write()) // of an interrupted stage
	if errors.Is(err, train.ErrInterrupted) {
		fmt.Fprintf(progress, "to go on: %s\n", resumeCommand(os.Args, r.Config.Out))
	}
	if err != nil {
		return err
	}
	var res *train.Retrieval
	checkpoint, err := r.Checkpoint(retrievalKinds(rerank)...)
	if err != nil && (rerank > 0 || !errors.Is(err, fs.ErrNotExist)) {
		return err
	}
	if err == nil && len(r.Config.Data.Test) > 0 {
		fmt.Fprintf(progress, "evaluating %s\n", checkpoint)
		if res, err = r.EvaluateCheckpoint(checkpoint, rerank); err != nil {
			return err
		}
		fmt.Fprintln(out)
		if err := res.WriteTable(out, baseline); err != nil {
			return err
		}
		fmt.Fprintln(out)
		if examples > 0 {
			if err := res.WriteExamples(out, examples); err != nil {
				return err
			}
			fmt.Fprintln(out)
		}
	}
	page, err := r.Report(res, baseline)
	if err != nil {
		return err
	}
	page.Tables = prof.tables
	path := filepath.Join(r.Config.Out, "report.html")
	if err := report.Write(path, page); err != nil {
		return err
	}
	fmt.Fprintf(out, "time        %s\ncheckpoints %s\nreport      %s\n", time.Since(start).Round(time.Second), filepath.Join(r.Config.Out, "checkpoints"), path)
	if prof.dev != nil {
		fmt.Fprintf(out, "profile     %s\n", prof.dir)
	}
	return nil
}

// retrievalKinds are the stages whose checkpoints can be evaluated; only vl
// stages have the head to rerank with.
func retrievalKinds(rerank int) []config.Kind {
	if rerank > 0 {
		return []config.Kind{config.VL}
	}
	return []config.Kind{config.VL, config.Retrieval}
}

// resumeCommand returns the command line that goes on with the run args began.
func resumeCommand(args []string, out string) string {
	words := []string{args[0]}
	for i := 1; i < len(args); i++ {
		name, _, joined := strings.Cut(strings.TrimLeft(args[i], "-"), "=")
		switch {
		case !strings.HasPrefix(args[i], "-"):
		case name == "out" && !joined:
			i++
			continue
		case name == "out", name == "resume":
			continue
		}
		words = append(words, args[i])
	}
	words = append(words, "--resume", "--out", out)
	for i, w := range words {
		if w == "" || strings.ContainsAny(w, " \t\n'\"\\$&;|<>()*?[]{}~#!`") {
			words[i] = strconv.Quote(w)
			if strings.ContainsAny(w, "$`!\\") && !strings.Contains(w, "'") {
				words[i] = "'" + w + "'"
			}
		}
	}
	return strings.Join(words, " ")
}
