package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"vlmo-train/vlmo"
	"vlmo-train/weights"
)

func inspectCommand() *cli.Command {
	return &cli.Command{
		Name:      "inspect",
		Usage:     "list the tensors of a file of weights and say what it is",
		ArgsUsage: "FILE",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "all", Usage: "list what a torch file has beside its state dict, too"},
			&cli.BoolFlag{Name: "json", Usage: "print the result as JSON"},
		},
		Action: inspect,
	}
}

// inspection is the JSON form.
type inspection struct {
	Path    string          `json:"path"`
	Format  weights.Format  `json:"format"`
	Family  vlmo.Family     `json:"family"`
	Model   string          `json:"model,omitempty"`
	Task    string          `json:"task,omitempty"`
	What    string          `json:"what"`
	Config  *vlmo.Config    `json:"config,omitempty"`
	Guessed bool            `json:"guessed,omitempty"` // Config.MaxTextInit and ImageSize are a guess
	Values  int64           `json:"values"`
	Tensors []tensorSummary `json:"tensors"`
}

type tensorSummary struct {
	Name  string `json:"name"`
	DType string `json:"dtype"`
	Shape []int  `json:"shape"`
}

func inspect(c *cli.Context) error {
	if c.NArg() != 1 {
		return usageError{fmt.Sprintf("inspect takes one argument, FILE, and got %d", c.NArg())}
	}
	path := c.Args().First()
	open := weights.Open
	if c.Bool("all") {
		open = weights.OpenAll
	}
	f, err := open(path)
	if err != nil {
		// What has no state dict may still have tensors.
		var other error
		if f, other = weights.OpenAll(path); other != nil {
			return err
		}
	}
	defer f.Close()
	id, err := vlmo.IdentifyFile(f)
	if err != nil {
		return err
	}
	out := inspection{Path: f.Path(), Format: f.Format(), Family: id.Family, Model: id.Model, Task: id.Task, What: id.String(), Guessed: id.Guessed, Tensors: []tensorSummary{}}
	if id.Family != vlmo.Unknown {
		out.Config = &id.Config
	}
	for _, name := range f.Names() {
		dtype, shape, err := f.Info(name)
		if err != nil {
			return err
		}
		n := int64(1)
		for _, d := range shape {
			n *= int64(d)
		}
		out.Values += n
		out.Tensors = append(out.Tensors, tensorSummary{name, dtype, append([]int{}, shape...)})
	}
	if c.Bool("json") {
		e := json.NewEncoder(c.App.Writer)
		e.SetIndent("", "  ")
		return e.Encode(out)
	}
	w := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	for _, t := range out.Tensors {
		shape := strings.Trim(strings.ReplaceAll(fmt.Sprint(t.Shape), " ", "×"), "[]")
		if shape == "" {
			shape = "scalar"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", t.Name, t.DType, shape)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.App.Writer, "\n%s: %s, %d tensors, %d values\n%s\n", out.Path, out.Format, len(out.Tensors), out.Values, out.What)
	return err
}
