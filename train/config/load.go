package config

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
	"go.yaml.in/yaml/v4/plugin/loaderlimits"
)

// What no configuration needs more of. Together they bound what reading one
// costs.
const (
	maxFile    = 1 << 20 // bytes
	maxNesting = 32
	maxSources = 32 // files and presets that a file extends, and what these extend
)

//go:embed presets/*.yaml
var presetFiles embed.FS

// presetDir is the folder of the embedded presets.
const presetDir = "presets"

// Presets returns the names of the presets, sorted.
func Presets() []string {
	list, err := presetFiles.ReadDir(presetDir)
	if err != nil {
		panic(err) // the folder is part of the program
	}
	names := make([]string, len(list))
	for i, e := range list {
		names[i] = strings.TrimSuffix(e.Name(), ".yaml")
	}
	slices.Sort(names)
	return names
}

// Preset returns the preset of that name, resolved. An unknown name's error
// says which is nearest.
func Preset(name string) (*Run, error) {
	r := defaultRun()
	if err := newLoader().preset(r, name); err != nil {
		return nil, err
	}
	return r, nil
}

// Load reads the file at path and resolves what it extends. It does not
// validate values against each other; see [Run.Validate].
func Load(path string) (*Run, error) {
	r := defaultRun()
	if err := newLoader().file(r, path); err != nil {
		return nil, err
	}
	return r, nil
}

// Parse is Load for a text in memory; name stands for it in messages, and its
// folder is where extended files are looked for.
func Parse(name string, text []byte) (*Run, error) {
	r := defaultRun()
	if err := newLoader().apply(r, name, filepath.Dir(name), text); err != nil {
		return nil, err
	}
	return r, nil
}

// loader applies sources to a run.
type loader struct {
	read func(path string) ([]byte, error) // the content of a file
	open []string                          // the chain being resolved, to find circles
	n    int                               // sources so far
}

func newLoader() *loader { return &loader{read: readFile} }

// readFile is os.ReadFile for as much as a configuration may have.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxFile+1))
}

func (l *loader) preset(r *Run, name string) error {
	text, err := presetFiles.ReadFile(path.Join(presetDir, name+".yaml"))
	if err != nil {
		return fmt.Errorf("no preset %q; %s", name, hint(name, Presets()))
	}
	return l.apply(r, "preset "+name, "", text)
}

func (l *loader) file(r *Run, path string) error {
	text, err := l.read(path)
	if err != nil {
		return err
	}
	return l.apply(r, path, filepath.Dir(path), text)
}

// apply lays the YAML text over r. dir is where extended files are looked
// for; empty allows presets only.
func (l *loader) apply(r *Run, source, dir string, text []byte) error {
	if slices.Contains(l.open, source) {
		return fmt.Errorf("%s extends itself: %s", source, strings.Join(append(l.open, source), " → "))
	}
	if l.n++; l.n > 1+maxSources {
		return fmt.Errorf("%s: more than %d files and presets are extended", source, maxSources)
	}
	if len(text) > maxFile {
		return fmt.Errorf("%s: is larger than %d bytes, so no configuration", source, maxFile)
	}
	l.open = append(l.open, source)
	defer func() { l.open = l.open[:len(l.open)-1] }()

	body, err := parse(source, text)
	if err != nil || body == nil {
		return err
	}
	d := decoder{source}
	pairs, err := d.mapping(body, "")
	if err != nil {
		return err
	}
	rest := pairs[:0:0]
	for _, p := range pairs {
		if p.key != "extends" {
			rest = append(rest, p)
			continue
		}
		var bases []string
		if err := d.decode(p.value, "extends", &bases); err != nil {
			return err
		}
		for _, base := range bases {
			if dir != "" && (strings.HasSuffix(base, ".yaml") || strings.HasSuffix(base, ".yml")) {
				if !filepath.IsAbs(base) {
					base = filepath.Join(dir, base)
				}
				err = l.file(r, base)
			} else {
				err = l.preset(r, base)
			}
			if err != nil {
				return fmt.Errorf("%s: extends: %w", d.place(p.value), err)
			}
		}
	}
	return d.run(rest, r)
}

// parse returns the body of the one YAML document in text, nil when empty.
func parse(source string, text []byte) (*yaml.Node, error) {
	l, err := yaml.NewLoader(bytes.NewReader(text), yaml.WithPlugin(loaderlimits.New(loaderlimits.DepthValue(maxNesting))))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", source, err)
	}
	var body *yaml.Node
	for {
		var doc yaml.Node
		switch err := l.Load(&doc); {
		case err == io.EOF:
			return body, nil
		case err != nil:
			return nil, syntaxError(source, err)
		case doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 || doc.Content[0].ShortTag() == nullTag:
			continue
		case body != nil:
			return nil, fmt.Errorf("%s:%d: a second document in the file", source, doc.Content[0].Line)
		}
		body = doc.Content[0]
	}
}

// syntaxError says in which line the YAML reader found what is wrong, where it
// tells.
func syntaxError(source string, err error) error {
	var e *yaml.LoadError
	switch {
	case !errors.As(err, &e):
		return fmt.Errorf("%s: %w", source, err)
	case e.Mark.Line == 0:
		return fmt.Errorf("%s: %s", source, e.Message)
	case e.ContextMsg == "":
		return fmt.Errorf("%s:%d: %s", source, e.Mark.Line, e.Message)
	}
	return fmt.Errorf("%s:%d: %s, %s of line %d", source, e.Mark.Line, e.Message, e.ContextMsg, e.ContextMark.Line)
}

// Set applies one override of the form key=value, such as
// "stages.vl.lr=1e-4", "stages.0.steps=100" or "data.pairs=[a.jsonl, b.jsonl]".
// The key is a path of YAML keys; a stage is named or counted from 0. The
// value is YAML, except that a text field takes it literally.
func (r *Run) Set(override string) error {
	key, value, ok := strings.Cut(override, "=")
	if !ok || key == "" {
		return fmt.Errorf("override %q is not of the form key=value", override)
	}
	if err := r.set(strings.Split(key, "."), value); err != nil {
		return fmt.Errorf("override %q: %w", override, err)
	}
	return nil
}
