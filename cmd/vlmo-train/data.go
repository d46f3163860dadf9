package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"vlmo-train/data/dataset"
	"vlmo-train/data/survey"
	"vlmo-train/data/text"
	"vlmo-train/train/config"
)

func dataCommand() *cli.Command {
	c := &cli.Command{
		Name:  "data",
		Usage: "look into data sets",
		Subcommands: []*cli.Command{
			{
				Name:      "check",
				Usage:     "read every example: counts, lengths, sizes, what can't be read, what occurs twice",
				ArgsUsage: "SET…",
				Flags:     append(surveyFlags(), setFlags()...),
				Action:    dataCheck,
			},
			{
				Name:      "stats",
				Usage:     "the numbers alone, without looking for what occurs twice",
				ArgsUsage: "SET…",
				Flags:     append(surveyFlags()[:3], setFlags()...),
				Action:    dataStats,
			},
			{
				Name:      "head",
				Usage:     "print the first examples",
				ArgsUsage: "SET…",
				Flags:     append([]cli.Flag{&cli.IntFlag{Name: "n", Value: 10, Usage: "how many `examples`"}, jsonFlag}, setFlags()...),
				Action:    dataHead,
			},
			dataArrowCommand(),
		},
		Action: func(c *cli.Context) error {
			if !c.Args().Present() {
				return cli.ShowSubcommandHelp(c)
			}
			text := fmt.Sprintf("unknown command %q", "data "+c.Args().First())
			if s := cli.SuggestCommand(c.Command.Subcommands, c.Args().First()); s != "" {
				text += "; " + strings.ToLower(s[:1]) + s[1:]
			}
			return usageError{text}
		},
	}
	for _, sub := range c.Subcommands {
		sub.OnUsageError = onUsageError
		sub.HideHelpCommand = true
	}
	return c
}

var jsonFlag = &cli.BoolFlag{Name: "json", Usage: "print JSON"}

func surveyFlags() []cli.Flag {
	return []cli.Flag{
		jsonFlag,
		threadsFlag,
		&cli.StringFlag{Name: "vocab", Usage: "WordPiece vocabulary `file` that captions are measured in (default: bert-base-uncased's)"},
		&cli.StringFlag{Name: "html", Usage: "write a page with sample pictures to this `file`"},
		&cli.IntFlag{Name: "samples", Value: 48, Usage: "how many `examples` the page shows"},
		&cli.BoolFlag{Name: "no-duplicates", Usage: "do not look for what occurs twice, which takes 41 bytes in $TMPDIR for each picture, caption and ID"},
	}
}

// setFlags describe sets as the mappings of a run's configuration do.
func setFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "format", Usage: "`name` of the sets' format, where it can't be told by the files"},
		&cli.StringFlag{Name: "split", Usage: "`part` of a published set, such as val"},
		&cli.StringFlag{Name: "images", Usage: "`folder` that paths of pictures are relative to"},
		&cli.StringFlag{Name: "image", Usage: "`column` or extension with the picture"},
		&cli.StringSliceFlag{Name: "caption", Usage: "`column` or extension with captions; may be repeated"},
		&cli.StringFlag{Name: "group", Usage: "`column` or extension that names the group"},
		&cli.BoolFlag{Name: "orient", Usage: "turn pictures as their EXIF orientation says"},
		&cli.BoolFlag{Name: "gray16-high", Usage: "take the high byte of 16-bit gray pictures, which are clipped otherwise"},
	}
}

// dataSet opens the sets of the command line as one.
func dataSet(c *cli.Context) (dataset.Sharded, error) {
	if !c.Args().Present() {
		return nil, usageError{"name a set: a file, a folder or a pattern such as shards/{000..123}.tar"}
	}
	run := &config.Run{Data: config.Data{Test: []config.Set{{
		Path: c.Args().Slice(), Split: c.String("split"), Images: c.String("images"),
		Columns: dataset.Columns{Image: c.String("image"), Captions: c.StringSlice("caption"), Group: c.String("group")},
		Orient:  c.Bool("orient"), Gray16High: c.Bool("gray16-high"),
	}}}}
	if f := c.String("format"); f != "" {
		if err := run.Set("data.test.0.format=" + f); err != nil {
			return nil, usageError{fmt.Sprintf("--format: %v", errors.Unwrap(err))}
		}
	}
	set := &run.Data.Test[0]
	// A large set takes minutes: opening it is left alone when the command is interrupted.
	type opened struct {
		set dataset.Sharded
		err error
	}
	done := make(chan opened, 1)
	go func() {
		d, err := dataset.OpenSet(set.Options(), set.Path...)
		done <- opened{d, err}
	}()
	select {
	case o := <-done:
		return o.set, o.err
	case <-c.Context.Done():
		return nil, c.Context.Err()
	}
}

// errUnreadable ends data check and data stats where examples can't be read.
type errUnreadable struct{ n int }

func (e errUnreadable) Error() string {
	if e.n == 1 {
		return "an example can't be read"
	}
	return fmt.Sprintf("%d examples can't be read", e.n)
}

// look walks the sets of the command line.
func look(c *cli.Context, opt survey.Options) (*survey.Report, error) {
	set, err := dataSet(c)
	if err != nil {
		return nil, err
	}
	opt.Tokenizer = text.BertBaseUncased()
	if path := c.String("vocab"); path != "" {
		if opt.Tokenizer, err = text.LoadVocab(path); err != nil {
			return nil, err
		}
	}
	if opt.Workers = c.Int("threads"); opt.Workers <= 0 {
		opt.Workers = runtime.GOMAXPROCS(0)
	}
	p := newProgress(c.App.ErrWriter)
	opt.Progress = p.set
	r, err := survey.Set(c.Context, set, opt)
	p.close()
	return r, err
}

func dataCheck(c *cli.Context) error {
	opt := survey.Options{Duplicates: !c.Bool("no-duplicates")}
	page := c.String("html")
	if page != "" {
		if opt.Samples = c.Int("samples"); opt.Samples < 0 {
			return usageError{"--samples is negative"}
		}
	}
	r, err := look(c, opt)
	if err != nil {
		return err
	}
	if page != "" {
		var b bytes.Buffer
		if err := r.WriteHTML(&b, strings.Join(c.Args().Slice(), " ")); err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(page), 0o777); err != nil {
			return err
		}
		if err := os.WriteFile(page, b.Bytes(), 0o666); err != nil {
			return err
		}
	}
	return answer(c, r)
}

func dataStats(c *cli.Context) error {
	r, err := look(c, survey.Options{})
	if err != nil {
		return err
	}
	return answer(c, r)
}

// answer prints a report and returns an error if examples can't be read.
func answer(c *cli.Context, r *survey.Report) error {
	if c.Bool("json") {
		e := json.NewEncoder(c.App.Writer)
		e.SetIndent("", "  ")
		if err := e.Encode(r); err != nil {
			return err
		}
	} else if err := r.WriteText(c.App.Writer); err != nil {
		return err
	}
	if r.Unreadable > 0 {
		return errUnreadable{r.Unreadable}
	}
	return nil
}

func dataHead(c *cli.Context) error {
	set, err := dataSet(c)
	if err != nil {
		return err
	}
	bad, err := survey.Head(c.Context, set, c.Int("n"), func(e survey.Entry) error {
		if c.Bool("json") {
			return json.NewEncoder(c.App.Writer).Encode(e)
		}
		_, err := fmt.Fprintln(c.App.Writer, e)
		return err
	})
	if err != nil {
		return err
	}
	if bad > 0 {
		return errUnreadable{bad}
	}
	return nil
}

// progress shows how far a walk is: a bar on a terminal, else a line every ten
// seconds.
type progress struct {
	w     io.Writer
	bar   *progressbar.ProgressBar
	isTTY bool
	start time.Time
	last  time.Time
}

func newProgress(w io.Writer) *progress {
	f, ok := w.(*os.File)
	now := time.Now()
	return &progress{w: w, isTTY: ok && term.IsTerminal(int(f.Fd())), start: now, last: now}
}

func (p *progress) set(done, total int) {
	if p.isTTY {
		if p.bar == nil {
			if total == 0 {
				total = -1 // not known
			}
			p.bar = progressbar.NewOptions(total, progressbar.OptionSetWriter(p.w), progressbar.OptionSetWidth(20), progressbar.OptionShowCount(),
				progressbar.OptionShowIts(), progressbar.OptionSetItsString("examples"), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionUseANSICodes(true))
		}
		p.bar.Set(done) // what can't be shown does not matter
		return
	}
	if now := time.Now(); now.Sub(p.last) >= 10*time.Second {
		p.last = now
		of := ""
		if total > 0 {
			of = fmt.Sprintf(" of %d", total)
		}
		fmt.Fprintf(p.w, "%d%s examples, %.0f a second\n", done, of, float64(done)/now.Sub(p.start).Seconds())
	}
}

func (p *progress) close() {
	if p.bar != nil {
		fmt.Fprintln(p.w)
	}
}
