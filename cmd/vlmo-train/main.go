// Command vlmo-train trains and checks VLMo vision-language models.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"

	"vlmo-train/train"
)

// Exit statuses.
const (
	statusError       = 1
	statusUsage       = 2
	statusInterrupted = 130 // 128 + SIGINT, as shells have it
)

// usageError is a mistake in the command line.
type usageError struct{ text string }

func (e usageError) Error() string { return e.text }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second signal ends the program at once.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args, os.Stdout, os.Stderr))
}

// run runs the command line args and returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	app := &cli.App{
		Name:        "vlmo-train",
		Usage:       "train VLMo vision-language models",
		HideVersion: true,
		// Values of --set hold commas.
		DisableSliceFlagSeparator: true,
		Writer:                    stdout,
		ErrWriter:                 stderr,
		Commands: []*cli.Command{demoCommand(), trainCommand(), evalCommand(), embedCommand(), verifyCommand(), convertCommand(),
			inspectCommand(), dataCommand(), infoCommand(), planCommand()},
		ExitErrHandler: func(*cli.Context, error) {},
		OnUsageError:   onUsageError,
		Action: func(c *cli.Context) error {
			if !c.Args().Present() {
				return cli.ShowAppHelp(c)
			}
			text := fmt.Sprintf("unknown command %q", c.Args().First())
			if s := cli.SuggestCommand(c.App.Commands, c.Args().First()); s != "" {
				text += "; " + strings.ToLower(s[:1]) + s[1:]
			}
			return usageError{text}
		},
	}
	for _, c := range app.Commands {
		c.OnUsageError = onUsageError
		c.HideHelpCommand = true
	}
	err := app.RunContext(ctx, flagsFirst(app.Commands, args))
	if err == nil {
		return 0
	}
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		err = train.ErrInterrupted
	}
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintf(stderr, "vlmo-train: %s\n", strings.TrimSuffix(line, "\n"))
	}
	var usage usageError
	switch {
	case errors.As(err, &usage):
		return statusUsage
	case errors.Is(err, train.ErrInterrupted):
		return statusInterrupted
	}
	return statusError
}

// flagsFirst moves the flags of a command that takes arguments before these:
// package cli reads none after the first argument.
func flagsFirst(commands []*cli.Command, args []string) []string {
	at := 1
	var cmd *cli.Command
	for ; at < len(args); at++ {
		i := slices.IndexFunc(commands, func(c *cli.Command) bool { return c.HasName(args[at]) })
		if i < 0 {
			break
		}
		cmd = commands[i]
		commands = cmd.Subcommands
	}
	if cmd == nil || cmd.ArgsUsage == "" {
		return args
	}
	// takesValue reports whether the next word belongs to the flag.
	takesValue := func(word string) bool {
		for _, f := range cmd.Flags {
			if _, isBool := f.(*cli.BoolFlag); !isBool && slices.Contains(f.Names(), strings.TrimLeft(word, "-")) {
				return true
			}
		}
		return false
	}
	flags, rest := slices.Clone(args[:at]), []string{"--"}
	for i := at; i < len(args); i++ {
		switch word := args[i]; {
		case word == "--":
			return slices.Concat(flags, rest, args[i+1:])
		case len(word) < 2 || word[0] != '-':
			rest = append(rest, word)
		case takesValue(word) && i+1 < len(args):
			flags = append(flags, word, args[i+1])
			i++
		default:
			flags = append(flags, word)
		}
	}
	return slices.Concat(flags, rest)
}

// onUsageError adds the nearest flag's name to a complaint about an unknown one.
func onUsageError(c *cli.Context, err error, _ bool) error {
	text := err.Error()
	if _, flag, ok := strings.Cut(text, "flag provided but not defined: -"); ok {
		text = "unknown flag -" + flag
		flags := c.App.Flags
		if c.Command != nil {
			flags = c.Command.Flags
		}
		if s := cli.SuggestFlag(flags, strings.TrimLeft(flag, "-"), true); s != "" {
			text += "; did you mean " + s + "?"
		}
	}
	return usageError{text}
}
