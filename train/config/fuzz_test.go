package config

import (
	"io/fs"
	"path"
	"reflect"
	"runtime/metrics"
	"strings"
	"testing"
)

// What reading a configuration may allocate, garbage included: a multiple of
// the files that were read, and what a source takes besides, presets with their
// text.
const (
	perByte   = 1500
	perSource = 1 << 20
)

// resolve reads run.yaml of files, which are all there is, and fails if that
// takes more memory than it may. The count is the process's, so that a figure
// above the limit is taken again.
func resolve(t *testing.T, files map[string]string) (r *Run, err error) {
	t.Helper()
	s := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	for try := 0; ; try++ {
		read := 0
		l := &loader{read: func(path string) ([]byte, error) {
			text, ok := files[path]
			if !ok {
				return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
			}
			read += len(text)
			return []byte(text), nil
		}}
		r = defaultRun()
		metrics.Read(s)
		before := s[0].Value.Uint64()
		err = l.file(r, "run.yaml")
		metrics.Read(s)
		got := s[0].Value.Uint64() - before
		limit := uint64(read)*perByte + uint64(l.n)*perSource
		if got <= limit {
			return r, err
		}
		if try == 2 {
			t.Fatalf("%d sources, %d bytes of them in files, allocated %d, more than %d", l.n, read, got, limit)
		}
	}
}

// The worst files for memory and time.
func TestBounds(t *testing.T) {
	for _, c := range []struct{ head, repeat, tail string }{
		{"", "[", ""}, {"", "{", ""}, {"", "a: [", ""}, {"", "- ", ""}, {"", "? ", ""}, {"", "{a: ", ""},
		{"", "[a,", ""}, {"", "{a,", ""}, {"", "[? ", ""}, {"", "&a ", ""}, {"", "!a ", ""}, {"", "--- |\n a\n", ""},
		{"", "a", ": 1"}, {"", "#\n", ""}, {"", "a: #c\n", ""}, {"", "\n", ""}, {"name: '", "a\n", "'"}, {"name: \"", "\\0", "\""},
		{"data: {pairs: [", "a,", "]}"}, {"data: {pairs: [", "[],", "]}"}, {"data: {pairs: [", "{},", "]}"}, {"data: {pairs: {path: [", "a,", "]}}"},
		{"stages: [", "{name: a, kind: vl},", "]"}, {"extends: tiny\nstages: [", "{name: vl},", "]"},
		{"extends: [", "tiny,", "]"}, {"extends: [", "other.yaml,", "]"}, {"extends: other.yaml #", "a", ""}, {"extends: run.yaml #", "a", ""},
		{"a: &a [x]\nb: [", "*a,", "]"},
	} {
		for _, n := range []int{1, 100, 30_000} {
			text := c.head + strings.Repeat(c.repeat, n) + c.tail
			_, err := resolve(t, map[string]string{"run.yaml": text, "other.yaml": "extends: [tiny, tiny, tiny]"})
			if err != nil && !strings.HasPrefix(err.Error(), "run.yaml") {
				t.Errorf("%.40q: error %.80q does not name the file", text, err)
			}
		}
	}
	// Each file extends the next one twice.
	files := map[string]string{"run.yaml": "extends: [a.yaml, a.yaml]", "z.yaml": "name: z"}
	for c := 'a'; c < 'z'; c++ {
		next := string(c+1) + ".yaml"
		files[string(c)+".yaml"] = "extends: [" + next + ", " + next + "]"
	}
	_, err := resolve(t, files)
	wantError(t, err, "run.yaml:1: extends: a.yaml:1: extends: ", "more than 32 files and presets are extended")
}

// again fails unless r comes back from its own YAML.
func again(t *testing.T, r *Run) {
	t.Helper()
	text, err := r.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	back, err := Parse("resolved.yaml", text)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if !reflect.DeepEqual(r, back) {
		t.Fatalf("%+v\ncomes back as\n%+v\nfrom\n%s", r, back, text)
	}
}

// FuzzRun reads anything as a configuration and the one that it may extend: it
// must not panic, nor allocate more than its share, nor look for other files
// than those; an error names the file, and what is accepted can be written.
func FuzzRun(f *testing.F) {
	for _, name := range Presets() {
		text, err := presetFiles.ReadFile(path.Join(presetDir, name+".yaml"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text), "name: other\n")
		f.Add("extends: other.yaml\n", string(text))
	}
	for _, text := range []string{
		"", "#", "---\n...\n", "%YAML 1.2\n---\nname: a\n", "\ufeffseed: 0x1\n", "- a\n", "name: a\n---\nname: b\n",
		"extends: run.yaml\n", "extends: [other.yaml, ./other.yaml, tiny]\n", "extends: /etc/passwd.yaml\n", "extends: [../x.yml, '']\n",
		"name: &a x\nout: *a\n", "a: &a [x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n", "<<: {name: a}\n", "name: !!binary aGk=\n", "name: !x y\n",
		"name: 2020-01-01\nseed: 18446744073709551615\nthreads: -1\n", "name: 'a''b'\nout: \"\\x00\\u2028\\n\"\n", "name: |\n  a\n\n  b\n", "name: >-\n  a\n  b\n",
		"? name\n: a\n", "? [name]\n: a\n", "name: ~\n", "model: {dim: 1e3, layer_scale: 1e-5, init_std: .inf}\n", "data: {pairs: [a, {path: [b, c], weight: 2, columns: {captions: title}}], text: x}\n",
		"stages:\n  - name: a\n    kind: vl\n    betas: [0.9, 0.98]\n    augment: {scale: [0.8, 1.2], rand_augment: {ops: 2}}\n", "stages: [{name: a, kind: vl}, {name: a}]\n",
		strings.Repeat("[", 40), strings.Repeat("- ", 40) + "a", "data: {pairs: [" + strings.Repeat("a,", 50) + "]}\n",
	} {
		f.Add(text, "extends: base\nmodel: {dim: 8}\n")
		f.Add(text, "extends: run.yaml\n")
	}
	f.Fuzz(func(t *testing.T, run, other string) {
		r, err := resolve(t, map[string]string{"run.yaml": run, "other.yaml": other})
		if err != nil {
			if !strings.HasPrefix(err.Error(), "run.yaml") {
				t.Errorf("error %q does not name the file", err)
			}
			return
		}
		r.Validate()
		r.Ready()
		again(t, r)
	})
}

// FuzzSet lays any override over a configuration.
func FuzzSet(f *testing.F) {
	for _, o := range []string{
		"seed=7", "stages.vl.lr=2.5e-4", "stages.0.steps=1_000", "stages.vl.betas=[0.8, 0.9]", "stages.vl.betas.1=0.95",
		"data.pairs=[a.jsonl, {path: b.jsonl, weight: 2}]", "data.pairs.0.columns.captions=[a, b]", "data.test=", "out=runs: x\n", "init=",
		"stages.vl.loss_weights={mlm: 0.5, itm: 2}", "stages=[{name: vl}, {name: x, kind: text}]", "visual=~", "=", "a", "data.pairs=[[", "device=cuda:1", "out=\xff", "out=\x00\u0085\u2028", "out= a ",
	} {
		f.Add(o)
	}
	f.Fuzz(func(t *testing.T, override string) {
		r, err := Preset("demo")
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Set(override); err != nil {
			return
		}
		r.Validate()
		again(t, r)
	})
}
