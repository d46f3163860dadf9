package engine

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"vlmo-train/kernels/ref"
	"vlmo-train/weights"
)

// runState is what a caller might keep beside the parameters.
type runState struct {
	Step  int
	Seed  uint64
	Loss  float64
	Order []int
}

// toyStore has a matrix, a vector, a scalar and an unused parameter.
func toyStore(t *testing.T) *Store {
	t.Helper()
	st := NewStore()
	st.Add("blocks.0.weight", 3, 5)
	st.Add("blocks.0.bias", 17)
	st.Add("logit_scale")
	st.Add("unused.weight", 2, 2)
	if err := st.Build(ref.New(), true); err != nil {
		t.Fatal(err)
	}
	for i, p := range st.Params() {
		v := make([]float32, p.Len())
		for j := range v {
			v[j] = float32(math.Sin(float64(7*i + j + 1)))
		}
		st.Set(p, v)
	}
	return st
}

// train applies steps from … to−1 with gradients that depend on the step; the
// bias gets its first at step 1.
func train(t *testing.T, st *Store, from, to int) {
	t.Helper()
	o := Optimizer{Beta1: 0.9, Beta2: 0.98, Eps: 1e-8, Decay: 0.01}
	for step := from; step < to; step++ {
		for i, p := range st.Params()[:3] {
			if i == 1 && step == 0 {
				continue
			}
			g := make([]float32, p.Len())
			for j := range g {
				g[j] = float32(math.Cos(float64(step*31 + i*5 + j)))
			}
			st.dev.Write(p.Touch(), g)
		}
		if _, err := o.Update(st, 0.01); err != nil {
			t.Fatal(err)
		}
	}
}

func bits(v []float32) []uint32 {
	b := make([]uint32, len(v))
	for i, x := range v {
		b[i] = math.Float32bits(x)
	}
	return b
}

func wantSame(t *testing.T, got, want *Store) {
	t.Helper()
	for i, p := range want.Params() {
		q := got.Params()[i]
		if q.Steps != p.Steps || q.touched != p.touched {
			t.Errorf("%s: steps %d touched %v, want %d %v", p.Name, q.Steps, q.touched, p.Steps, p.touched)
		}
		m, v := want.Moments(p)
		m2, v2 := got.Moments(q)
		if !slices.Equal(bits(got.Get(q)), bits(want.Get(p))) || !slices.Equal(bits(m2), bits(m)) || !slices.Equal(bits(v2), bits(v)) {
			t.Errorf("%s: values or moments differ", p.Name)
		}
	}
}

func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", parts)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q lacks %q", err, p)
		}
	}
}

func save(t *testing.T, parent string, step int, st *Store) string {
	t.Helper()
	dir := filepath.Join(parent, CheckpointName(step))
	if err := SaveCheckpoint(dir, st, runState{Step: step}); err != nil {
		t.Fatal(err)
	}
	return dir
}

// wantLatest checks that Latest finds dir and that it loads.
func wantLatest(t *testing.T, parent, dir string, step int) {
	t.Helper()
	got, err := Latest(parent)
	if err != nil || got != dir {
		t.Fatalf("Latest: %q, %v, want %q", got, err, dir)
	}
	var s runState
	if err := LoadCheckpoint(got, toyStore(t), &s); err != nil || s.Step != step {
		t.Fatalf("LoadCheckpoint: step %d, %v, want %d", s.Step, err, step)
	}
}

func list(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// A run that is saved and resumed ends with the bits of one that is not.
func TestCheckpointResume(t *testing.T) {
	for _, at := range []int{0, 1, 2} { // before any moments, before the bias's, with both
		st := toyStore(t)
		// Values that arithmetic would not keep.
		st.Set(st.Param("unused.weight"), []float32{math.Float32frombits(0x7fc12345), float32(math.Copysign(0, -1)), math.SmallestNonzeroFloat32, float32(math.Inf(-1))})
		train(t, st, 0, at)
		dir := filepath.Join(t.TempDir(), "run", "checkpoints", CheckpointName(at))
		want := runState{at, math.MaxUint64, 0.1 + 0.2, []int{3, 1, 2}}
		if err := SaveCheckpoint(dir, st, want); err != nil {
			t.Fatal(err)
		}
		resumed := toyStore(t)
		train(t, resumed, 0, 4) // must be overwritten, counts and moments too
		var got runState
		if err := LoadCheckpoint(dir, resumed, &got); err != nil {
			t.Fatal(err)
		}
		if got.Step != want.Step || got.Seed != want.Seed || got.Loss != want.Loss || !slices.Equal(got.Order, want.Order) {
			t.Errorf("state %+v, want %+v", got, want)
		}
		wantSame(t, resumed, st)
		train(t, st, at, 5)
		train(t, resumed, at, 5)
		wantSame(t, resumed, st)
		if names := list(t, dir); !slices.Equal(names, []string{modelFile, optimizerFile, stateFile}) {
			t.Errorf("files %q", names)
		}
		if names := list(t, filepath.Dir(dir)); len(names) != 1 {
			t.Errorf("entries beside the checkpoint: %q", names)
		}
	}
}

// The model file reads alone, under the official names.
func TestCheckpointModelFile(t *testing.T) {
	st := toyStore(t)
	dir := save(t, t.TempDir(), 1, st)
	f, err := weights.Open(filepath.Join(dir, modelFile))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	v, shape, err := f.Float32("blocks.0.weight")
	if err != nil || !slices.Equal(shape, []int{3, 5}) || !slices.Equal(v, st.Get(st.Params()[0])) {
		t.Errorf("blocks.0.weight: %v %v %v", v, shape, err)
	}
	if n := len(f.Names()); n != 4 {
		t.Errorf("%d tensors, want 4", n)
	}
}

// A run killed anywhere in a save, or whose newest files were cut, goes on
// from the one before.
func TestCheckpointKilled(t *testing.T) {
	files := []string{modelFile, optimizerFile, stateFile}
	for _, damaged := range files {
		for _, missing := range []bool{false, true} {
			parent := t.TempDir()
			st := toyStore(t)
			train(t, st, 0, 2)
			good := save(t, parent, 999999, st)
			bad := save(t, parent, 1000000, st) // sorts before as text
			wantLatest(t, parent, bad, 1000000)
			path := filepath.Join(bad, damaged)
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if missing {
				err = os.Remove(path)
			} else {
				err = os.Truncate(path, info.Size()-3)
			}
			if err != nil {
				t.Fatal(err)
			}
			wantLatest(t, parent, good, 999999)
			wantError(t, LoadCheckpoint(bad, toyStore(t), nil), path)
			// Saving over a damaged one repairs it.
			save(t, parent, 1000000, st)
			wantLatest(t, parent, bad, 1000000)
		}
	}
}

// What each moment of an interrupted save leaves behind.
func TestCheckpointLeftovers(t *testing.T) {
	parent := t.TempDir()
	if _, err := Latest(parent); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("empty folder: %v", err)
	}
	if _, err := Latest(filepath.Join(parent, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
	st := toyStore(t)
	train(t, st, 0, 2)
	dir := save(t, parent, 3, st)

	// Killed while writing: a temporary directory, even a whole one, is not final.
	tmp := filepath.Join(parent, CheckpointName(9)+temporaryMark+"123")
	if err := os.CopyFS(tmp, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	for _, other := range []string{"step-", "step-x7", "log", "best"} {
		if err := os.Mkdir(filepath.Join(parent, other), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	wantLatest(t, parent, dir, 3)

	// Killed between the two renames of a replacement.
	if err := os.Rename(dir, dir+replacedMark); err != nil {
		t.Fatal(err)
	}
	wantLatest(t, parent, dir+replacedMark, 3)
	save(t, parent, 3, st)
	wantLatest(t, parent, dir, 3)
	if names := list(t, parent); slices.Contains(names, CheckpointName(3)+replacedMark) {
		t.Errorf("the replaced checkpoint stays: %q", names)
	}
	// Killed there, and what is in its place is damaged.
	if err := os.CopyFS(dir+replacedMark, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, stateFile)); err != nil {
		t.Fatal(err)
	}
	wantLatest(t, parent, dir+replacedMark, 3)
	save(t, parent, 3, st)
	wantLatest(t, parent, dir, 3)
	// Killed before the replaced one was removed.
	if err := os.CopyFS(dir+replacedMark, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	wantLatest(t, parent, dir, 3)

	if err := Prune(parent, 1); err != nil {
		t.Fatal(err)
	}
	if names := list(t, parent); !slices.Equal(names, []string{"best", "log", "step-", "step-000003", "step-x7"}) {
		t.Errorf("after Prune: %q", names)
	}
}

func TestCheckpointReplace(t *testing.T) {
	parent := t.TempDir()
	st := toyStore(t)
	save(t, parent, 1, st)
	train(t, st, 0, 2)
	dir := save(t, parent, 1, st)
	got := toyStore(t)
	if err := LoadCheckpoint(dir, got, nil); err != nil {
		t.Fatal(err)
	}
	wantSame(t, got, st)
	if names := list(t, parent); len(names) != 1 {
		t.Errorf("entries %q", names)
	}
}

func TestPrune(t *testing.T) {
	parent := t.TempDir()
	st := toyStore(t)
	for step := range 5 {
		save(t, parent, step*10, st)
	}
	// The newest is damaged: it does not count as kept and, being newer, stays.
	if err := os.Remove(filepath.Join(parent, CheckpointName(40), modelFile)); err != nil {
		t.Fatal(err)
	}
	if err := Prune(parent, 2); err != nil {
		t.Fatal(err)
	}
	if names := list(t, parent); !slices.Equal(names, []string{"step-000020", "step-000030", "step-000040"}) {
		t.Errorf("after Prune: %q", names)
	}
	wantLatest(t, parent, filepath.Join(parent, CheckpointName(30)), 30)
	wantError(t, Prune(parent, 0), "0")
}

func TestLoadCheckpointMismatch(t *testing.T) {
	st := toyStore(t)
	train(t, st, 0, 2)
	dir := save(t, t.TempDir(), 2, st)
	build := func(matrix []int, extra string, unused bool) *Store {
		o := NewStore()
		o.Add("blocks.0.weight", matrix...)
		o.Add("blocks.0.bias", 17)
		o.Add("logit_scale")
		if unused {
			o.Add("unused.weight", 2, 2)
		}
		if extra != "" {
			o.Add(extra, 3)
		}
		if err := o.Build(ref.New(), true); err != nil {
			t.Fatal(err)
		}
		return o
	}
	o := build([]int{5, 3}, "", true)
	wantError(t, LoadCheckpoint(dir, o, nil), modelFile, "blocks.0.weight", "[3 5]", "[5 3]")
	for _, p := range o.Params() {
		if slices.ContainsFunc(o.Get(p), func(x float32) bool { return x != 0 }) || p.Steps != 0 {
			t.Errorf("%s changed by a refused load", p.Name)
		}
	}
	wantError(t, LoadCheckpoint(dir, build([]int{3, 5}, "new", true), nil), stateFile, "new")
	wantError(t, LoadCheckpoint(dir, build([]int{3, 5}, "", false), nil), stateFile, "unused.weight")
	wantError(t, LoadCheckpoint(dir, toyStore(t), &struct{ Step string }{}), stateFile, "Step")

	// Files that do not belong together.
	copied := filepath.Join(t.TempDir(), "mixed")
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(copied, optimizerFile)
	if err := weights.Write(path, nil, nil); err != nil {
		t.Fatal(err)
	}
	wantError(t, LoadCheckpoint(copied, toyStore(t), nil), path, "exp_avg.blocks.0.weight")
	m := weights.Of("stray", []int{1}, []float32{1})
	f, err := weights.Open(filepath.Join(dir, optimizerFile))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	arrays := []weights.Array{m}
	for _, name := range f.Names() {
		a, err := f.Array(name)
		if err != nil {
			t.Fatal(err)
		}
		arrays = append(arrays, a)
	}
	if err := weights.Write(path, arrays, nil); err != nil {
		t.Fatal(err)
	}
	wantError(t, LoadCheckpoint(copied, toyStore(t), nil), path, "stray")

	text := []byte(`{"format": "vlmo-train checkpoint", "version": 2}`)
	if err := os.WriteFile(filepath.Join(copied, stateFile), text, 0o644); err != nil {
		t.Fatal(err)
	}
	wantError(t, LoadCheckpoint(copied, toyStore(t), nil), stateFile, "version 2")
}

func TestSaveCheckpointErrors(t *testing.T) {
	parent := t.TempDir()
	st := toyStore(t)
	file := filepath.Join(parent, "file")
	if err := os.WriteFile(file, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	wantError(t, SaveCheckpoint(file, st, nil), file, "not a directory")
	wantError(t, SaveCheckpoint(filepath.Join(file, CheckpointName(1)), st, nil), file)

	dir := save(t, parent, 7, st)
	train(t, st, 0, 1)
	wantError(t, SaveCheckpoint(dir, st, math.NaN()), dir, stateFile)
	wantLatest(t, parent, dir, 7)

	values := NewStore()
	values.Add("x", 1)
	if err := values.Build(ref.New(), false); err != nil {
		t.Fatal(err)
	}
	wantError(t, SaveCheckpoint(dir, values, nil), dir, "training")
	wantError(t, LoadCheckpoint(dir, values, nil), dir, "training")
	if names := list(t, parent); !slices.Equal(names, []string{"file", "step-000007"}) {
		t.Errorf("left behind: %q", names)
	}
}
