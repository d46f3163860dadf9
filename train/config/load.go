package config

import (
	"embed"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
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
	if err := (&loader{}).preset(r, name); err != nil {
		return nil, err
	}
	return r, nil
}

// Load reads the file at path and resolves what it extends. It does not
// validate values against each other; see [Run.Validate].
func Load(path string) (*Run, error) {
	r := defaultRun()
	if err := (&loader{}).file(r, path); err != nil {
		return nil, err
	}
	return r, nil
}

// Parse is Load for a text in memory; name stands for it in messages, and its
// folder is where extended files are looked for.
func Parse(name string, text []byte) (*Run, error) {
	r := defaultRun()
	if err := (&loader{}).apply(r, name, filepath.Dir(name), text); err != nil {
		return nil, err
	}
	return r, nil
}

// loader applies sources to a run; open holds the chain being resolved, to
// find circles.
type loader struct{ open []string }

func (l *loader) preset(r *Run, name string) error {
	text, err := presetFiles.ReadFile(path.Join(presetDir, name+".yaml"))
	if err != nil {
		return fmt.Errorf("no preset %q; %s", name, hint(name, Presets()))
	}
	return l.apply(r, "preset "+name, "", text)
}

func (l *loader) file(r *Run, path string) error {
	text, err := os.ReadFile(path)
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
func parse(source string, text []byte) (ast.Node, error) {
	file, err := parser.ParseBytes(text, 0)
	if err != nil {
		var e yaml.Error
		if errors.As(err, &e) && e.GetToken() != nil {
			return nil, fmt.Errorf("%s:%d: %s", source, e.GetToken().Position.Line, e.GetMessage())
		}
		return nil, fmt.Errorf("%s: %w", source, err)
	}
	var body ast.Node
	for _, doc := range file.Docs {
		if doc.Body == nil {
			continue
		}
		if body != nil {
			return nil, fmt.Errorf("%s:%d: a second document in the file", source, doc.Body.GetToken().Position.Line)
		}
		body = doc.Body
	}
	return body, nil
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
