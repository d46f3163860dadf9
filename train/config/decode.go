package config

import (
	"encoding/base64"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// decoder lays YAML nodes over Go values, keeping what a node does not
// mention. source names the file in messages; empty leaves the place out.
type decoder struct{ source string }

// pair is one entry of a mapping.
type pair struct {
	key     string
	keyNode *yaml.Node
	value   *yaml.Node
}

// place returns "file:line" of a node.
func (d decoder) place(n *yaml.Node) string {
	return fmt.Sprintf("%s:%d", d.source, n.Line)
}

// errorf returns an error that says where in the file and under which key.
func (d decoder) errorf(n *yaml.Node, path, format string, args ...any) error {
	text := fmt.Sprintf(format, args...)
	if path != "" {
		text = path + ": " + text
	}
	if d.source != "" {
		text = d.place(n) + ": " + text
	}
	return fmt.Errorf("%s", text)
}

// mapping returns the entries of a mapping node.
func (d decoder) mapping(n *yaml.Node, path string) ([]pair, error) {
	if n.Kind != yaml.MappingNode {
		return nil, d.errorf(n, path, "wants a mapping of keys to values, not %s", describe(n))
	}
	pairs := make([]pair, 0, len(n.Content)/2)
	lines := make(map[string]int, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		text, ok := scalar(key)
		if !ok {
			return nil, d.errorf(key, path, "%s is no key", describe(key))
		}
		if line, ok := lines[text]; ok {
			return nil, d.errorf(key, path, "key %q is already defined in line %d", text, line)
		}
		lines[text] = key.Line
		pairs = append(pairs, pair{text, key, n.Content[i+1]})
	}
	return pairs, nil
}

// run lays a file's entries, less `extends`, over r.
func (d decoder) run(pairs []pair, r *Run) error {
	return d.fields(pairs, "", reflect.ValueOf(r).Elem())
}

// fields lays the entries of a mapping over a struct.
func (d decoder) fields(pairs []pair, path string, v reflect.Value) error {
	for _, p := range pairs {
		f, err := field(v, p.key)
		if err != nil {
			return d.errorf(p.keyNode, path, "%v", err)
		}
		if err := d.value(p.value, join(path, p.key), f); err != nil {
			return err
		}
	}
	return nil
}

// decode lays n over *dst.
func (d decoder) decode(n *yaml.Node, path string, dst any) error {
	return d.value(n, path, reflect.ValueOf(dst).Elem())
}

func (d decoder) value(n *yaml.Node, path string, v reflect.Value) error {
	switch v.Kind() {
	case reflect.Struct:
		set, isSet := v.Addr().Interface().(*Set)
		if isSet {
			if text, ok := scalar(n); ok {
				*set = Set{Path: []string{text}}
				return nil
			}
			*set = Set{} // a list of sets is replaced, not merged
		}
		pairs, err := d.mapping(n, path)
		if err != nil {
			return err
		}
		return d.fields(pairs, path, v)
	case reflect.Slice:
		if stages, ok := v.Addr().Interface().(*[]Stage); ok {
			return d.stages(n, path, stages)
		}
		if n.Kind != yaml.SequenceNode { // one value is a list of one
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
			return d.value(n, path, v.Index(0))
		}
		v.SetZero()
		if len(n.Content) > 0 {
			v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
		}
		return d.elements(n, path, v)
	case reflect.Array:
		if n.Kind != yaml.SequenceNode || len(n.Content) != v.Len() {
			return d.errorf(n, path, "wants a list of %d numbers, not %s", v.Len(), describe(n))
		}
		return d.elements(n, path, v)
	}
	text, ok := scalar(n)
	if !ok {
		return d.errorf(n, path, "wants %s, not %s", wanted(v), describe(n))
	}
	if err := setScalar(v, text); err != nil {
		return d.errorf(n, path, "%v", err)
	}
	return nil
}

func (d decoder) elements(seq *yaml.Node, path string, v reflect.Value) error {
	for i, n := range seq.Content {
		if err := d.value(n, join(path, strconv.Itoa(i)), v.Index(i)); err != nil {
			return err
		}
	}
	return nil
}

// stages replaces the list at *dst. An entry starts from the inherited stage
// of its name, or else from the defaults of its kind.
func (d decoder) stages(n *yaml.Node, path string, dst *[]Stage) error {
	if n.Kind != yaml.SequenceNode {
		return d.errorf(n, path, "wants a list of stages, not %s", describe(n))
	}
	old := Run{Stages: *dst}
	var list []Stage
	for i, n := range n.Content {
		at := join(path, strconv.Itoa(i))
		pairs, err := d.mapping(n, at)
		if err != nil {
			return err
		}
		var head struct {
			name string
			kind Kind
		}
		for _, p := range pairs {
			switch p.key {
			case "name":
				err = d.decode(p.value, join(at, p.key), &head.name)
			case "kind":
				err = d.decode(p.value, join(at, p.key), &head.kind)
			}
			if err != nil {
				return err
			}
		}
		if head.name == "" {
			return d.errorf(n, at, "a stage needs a name")
		}
		at = join(path, head.name)
		s := old.Stage(head.name)
		if s == nil || head.kind != "" && head.kind != s.Kind {
			if head.kind == "" {
				return d.errorf(n, at, "a stage needs a kind, one of %s", strings.Join(Kind.legal(""), ", "))
			}
			fresh := defaultStage(head.kind)
			s = &fresh
		}
		list = append(list, *s)
		if err := d.fields(pairs, at, reflect.ValueOf(&list[i]).Elem()); err != nil {
			return err
		}
	}
	*dst = list
	return nil
}

// set lays value over the field at the path of keys.
func (r *Run) set(keys []string, value string) error {
	v := reflect.ValueOf(r).Elem()
	for i, key := range keys {
		path := strings.Join(keys[:i], ".")
		switch {
		case v.Kind() == reflect.Struct:
			f, err := field(v, key)
			if err != nil {
				return prefix(path, err)
			}
			v = f
		case v.Type() == reflect.TypeFor[[]Stage]():
			names := make([]string, v.Len())
			at := -1
			for j := range names {
				names[j] = r.Stages[j].Name
				if names[j] == key {
					at = j
				}
			}
			if n, err := strconv.Atoi(key); at < 0 && err == nil && n >= 0 && n < len(names) {
				at = n
			}
			if at < 0 {
				return prefix(path, fmt.Errorf("no stage %q; %s", key, hint(key, names)))
			}
			v = v.Index(at)
		case v.Kind() == reflect.Slice || v.Kind() == reflect.Array:
			n, err := strconv.Atoi(key)
			if err != nil || n < 0 || n >= v.Len() {
				return prefix(path, fmt.Errorf("%q is no index of a list of %d", key, v.Len()))
			}
			v = v.Index(n)
		default:
			return prefix(path, fmt.Errorf("is %s and has no key %q", wanted(v), key))
		}
	}
	path := strings.Join(keys, ".")
	switch v.Kind() {
	case reflect.Struct, reflect.Slice, reflect.Array:
		n, err := parse("value", []byte(value))
		if err != nil {
			return prefix(path, err)
		}
		if n == nil {
			return prefix(path, fmt.Errorf("no value given"))
		}
		return decoder{}.value(n, path, v)
	}
	return prefix(path, setScalar(v, value))
}

func prefix(path string, err error) error {
	if err == nil || path == "" {
		return err
	}
	return fmt.Errorf("%s: %w", path, err)
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// field returns the field of struct v with that YAML key.
func field(v reflect.Value, key string) (reflect.Value, error) {
	legal := make([]string, v.NumField())
	for i := range legal {
		legal[i], _, _ = strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
		if legal[i] == key {
			return v.Field(i), nil
		}
	}
	return reflect.Value{}, fmt.Errorf("unknown key %q; %s", key, hint(key, legal))
}

// nullTag is that of an empty value.
const nullTag = "!!null"

// scalar returns the text of a scalar node as it stands in the file: the field
// that it is for says how it is read, not YAML's rules.
func scalar(n *yaml.Node) (string, bool) {
	if n.Kind != yaml.ScalarNode {
		return "", false
	}
	switch n.ShortTag() {
	case "!!str", "!!int", "!!float", "!!bool", "!!timestamp":
		return n.Value, true
	case "!!binary": // a name that is no UTF-8, as Marshal writes it
		text, err := base64.StdEncoding.DecodeString(n.Value)
		return string(text), err == nil
	}
	return "", false
}

// setScalar parses text into v by v's type.
func setScalar(v reflect.Value, text string) error {
	if v.Kind() == reflect.String {
		if t, ok := v.Interface().(interface{ legal() []string }); ok {
			kind := text
			if _, ok := t.(Device); ok {
				if _, gpu := Device(text).GPU(); gpu {
					kind = string(CUDA)
				}
			}
			if err := oneOf(kind, t.legal()); err != nil {
				return err
			}
		}
		v.SetString(text)
		return nil
	}
	digits := strings.ReplaceAll(text, "_", "")
	var err error
	switch v.Kind() {
	case reflect.Bool:
		if text != "true" && text != "false" {
			err = strconv.ErrSyntax
		}
		v.SetBool(text == "true")
	case reflect.Int:
		var n int64
		n, err = strconv.ParseInt(digits, 10, strconv.IntSize)
		v.SetInt(n)
	case reflect.Uint64:
		var n uint64
		n, err = strconv.ParseUint(digits, 10, 64)
		v.SetUint(n)
	case reflect.Float64:
		var x float64
		x, err = strconv.ParseFloat(digits, 64)
		if math.IsNaN(x) || math.IsInf(x, 0) {
			err = strconv.ErrRange
		}
		v.SetFloat(x)
	default:
		panic("config: no scalar of type " + v.Type().String())
	}
	if err != nil {
		return fmt.Errorf("wants %s, not %q", wanted(v), text)
	}
	return nil
}

// oneOf checks text against the legal values of an enumeration.
func oneOf(text string, legal []string) error {
	for _, l := range legal {
		if l == text {
			return nil
		}
	}
	return fmt.Errorf("%q is none of %s%s", text, strings.Join(legal, ", "), suggestion(text, legal))
}

// wanted names the values that v takes.
func wanted(v reflect.Value) string {
	switch v.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "a whole number"
	case reflect.Uint64:
		return "a whole number from 0"
	case reflect.Float64:
		return "a number"
	}
	return "a text"
}

// describe names what a node is.
func describe(n *yaml.Node) string {
	if text, ok := scalar(n); ok {
		return strconv.Quote(text)
	}
	switch n.Kind {
	case yaml.SequenceNode:
		return fmt.Sprintf("a list of %d", len(n.Content))
	case yaml.MappingNode:
		return "a mapping"
	case yaml.AliasNode:
		return "a YAML alias"
	}
	if n.ShortTag() == nullTag {
		return "nothing"
	}
	return fmt.Sprintf("a value of the YAML tag %s", n.ShortTag())
}

// hint names the legal word nearest to a wrong one, or all of them where none
// is near.
func hint(wrong string, legal []string) string {
	if s := suggestion(wrong, legal); s != "" {
		return strings.TrimPrefix(s, "; ")
	}
	if len(legal) == 0 {
		return "there is none"
	}
	return "legal are " + strings.Join(legal, ", ")
}

// suggestion returns "; did you mean …?" when some legal word is near.
func suggestion(wrong string, legal []string) string {
	n := len([]rune(wrong))
	best, word := max(n/2, min(n, 2))+1, ""
	for _, l := range legal {
		if len(l) <= n-best || len(l) >= n+best {
			continue // as many characters have to be inserted or deleted
		}
		if d := distance(wrong, l); d < best {
			best, word = d, l
		}
	}
	if word == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", word)
}

// distance returns the Levenshtein distance: the fewest insertions, deletions
// and replacements of characters that turn a into b.
func distance(a, b string) int {
	x, y := []rune(a), []rune(b)
	row := make([]int, len(y)+1)
	for j := range row {
		row[j] = j
	}
	for i := range x {
		diagonal := row[0]
		row[0] = i + 1
		for j := range y {
			cost := 1
			if x[i] == y[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(diagonal+cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(y)]
}
