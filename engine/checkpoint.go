package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"vlmo-train/weights"
)

// The files of a checkpoint directory.
const (
	modelFile     = "model.safetensors"     // values under the official names
	optimizerFile = "optimizer.safetensors" // moments of the touched parameters
	stateFile     = "state.json"            // everything else
)

const (
	checkpointFormat  = "vlmo-train checkpoint"
	checkpointVersion = 1

	firstMoment, secondMoment = "exp_avg.", "exp_avg_sq."

	stepPrefix    = "step-"
	temporaryMark = ".tmp-" // between a final name and a random part
	replacedMark  = ".old"  // after the name of a checkpoint being replaced
)

// checkpointState is the content of stateFile.
type checkpointState struct {
	Format     string                    `json:"format"`
	Version    int                       `json:"version"`
	Parameters map[string]parameterState `json:"parameters"`
	State      json.RawMessage           `json:"state"`
}

type parameterState struct {
	Steps   int  `json:"steps"`
	Touched bool `json:"touched"`
}

// CheckpointName returns the directory name of the checkpoint after step
// updates, such as "step-000120".
func CheckpointName(step int) string { return fmt.Sprintf(stepPrefix+"%06d", step) }

// checkpointStep is the inverse of CheckpointName.
func checkpointStep(name string) (step int, ok bool) {
	digits, ok := strings.CutPrefix(name, stepPrefix)
	if !ok || strings.Trim(digits, "0123456789") != "" {
		return 0, false
	}
	step, err := strconv.Atoi(digits)
	return step, err == nil
}

// SaveCheckpoint writes the values, the moments and the update counts of st,
// which is built for training, and the caller's state as JSON to the
// directory dir, making its parents. Everything goes to a temporary directory
// beside it that is synced and renamed, so dir is whole or absent whenever
// the process dies. A checkpoint already there is moved aside to dir+".old"
// for the moment of the exchange, where Latest finds it. On error, which
// names the file, what was there before stays. One process writes in a folder.
func SaveCheckpoint(dir string, st *Store, state any) (err error) {
	if st.M.IsZero() || st.V.IsZero() {
		return fmt.Errorf("checkpoint %s: the store is not built for training", dir)
	}
	dir = filepath.Clean(dir)
	parent := filepath.Dir(dir)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	if info, err := os.Lstat(dir); err == nil && !info.IsDir() {
		return fmt.Errorf("checkpoint: %s exists and is not a directory", dir)
	}
	tmp, err := os.MkdirTemp(parent, filepath.Base(dir)+temporaryMark)
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("checkpoint %s: %w", dir, err)
			err = errors.Join(err, os.RemoveAll(tmp))
		}
	}()
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	if err := st.writeFiles(tmp, state); err != nil {
		return err
	}
	if err := syncFolder(tmp); err != nil {
		return err
	}
	return exchange(tmp, dir)
}

// writeFiles writes and syncs a checkpoint's files.
func (st *Store) writeFiles(dir string, state any) error {
	own, err := json.Marshal(state)
	if err != nil {
		return fmt.Errorf("%s: %w", stateFile, err)
	}
	all := checkpointState{checkpointFormat, checkpointVersion, make(map[string]parameterState), own}
	var arrays []weights.Array
	for _, p := range st.params {
		all.Parameters[p.Name] = parameterState{p.Steps, p.touched}
		arrays = append(arrays, weights.Of(p.Name, p.Shape, st.Get(p)))
	}
	if err := st.dev.Sync(); err != nil {
		return err
	}
	meta := map[string]string{"format": "pt"} // readers of the original's libraries ask for it
	if err := weights.Write(filepath.Join(dir, modelFile), arrays, meta); err != nil {
		return err
	}
	arrays = nil
	for _, p := range st.params {
		if p.hasMoments() {
			m, v := st.Moments(p)
			arrays = append(arrays, weights.Of(firstMoment+p.Name, p.Shape, m), weights.Of(secondMoment+p.Name, p.Shape, v))
		}
	}
	if err := st.dev.Sync(); err != nil {
		return err
	}
	if err := weights.Write(filepath.Join(dir, optimizerFile), arrays, nil); err != nil {
		return err
	}
	text, err := json.MarshalIndent(all, "", "\t")
	if err != nil {
		return fmt.Errorf("%s: %w", stateFile, err)
	}
	f, err := os.Create(filepath.Join(dir, stateFile))
	if err != nil {
		return err
	}
	_, err = f.Write(append(text, '\n'))
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func (p *Param) hasMoments() bool { return p.Steps > 0 || p.touched }

// exchange renames the directory tmp to dir, replacing what is there.
func exchange(tmp, dir string) error {
	old := dir + replacedMark
	if _, err := os.Lstat(dir); err == nil {
		if !complete(dir) && complete(old) {
			err = os.RemoveAll(dir) // so that the good one stays beside it
		} else if err = os.RemoveAll(old); err == nil {
			err = os.Rename(dir, old)
		}
		if err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(tmp, dir); err != nil {
		if _, e := os.Lstat(dir); errors.Is(e, fs.ErrNotExist) {
			if e := os.Rename(old, dir); !errors.Is(e, fs.ErrNotExist) {
				err = errors.Join(err, e)
			}
		}
		return err
	}
	if err := syncFolder(filepath.Dir(dir)); err != nil {
		return err
	}
	return os.RemoveAll(old)
}

// syncFolder makes the entries of dir durable.
func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// openedCheckpoint is a checkpoint whose headers have been read.
type openedCheckpoint struct {
	dir              string
	model, optimizer *weights.File
	state            checkpointState
}

func (c *openedCheckpoint) close() {
	c.model.Close()
	c.optimizer.Close()
}

// openCheckpoint opens and checks the files of dir, which finds those that
// are missing or truncated.
func openCheckpoint(dir string) (*openedCheckpoint, error) {
	c := &openedCheckpoint{dir: dir}
	path := filepath.Join(dir, stateFile)
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &c.state); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if c.state.Format != checkpointFormat || c.state.Version != checkpointVersion {
		return nil, fmt.Errorf("%s: format %q version %d, want %q version %d", path, c.state.Format, c.state.Version, checkpointFormat, checkpointVersion)
	}
	if c.model, err = weights.Open(filepath.Join(dir, modelFile)); err != nil {
		return nil, err
	}
	if c.optimizer, err = weights.Open(filepath.Join(dir, optimizerFile)); err != nil {
		c.model.Close()
		return nil, err
	}
	return c, nil
}

// complete reports whether dir holds a checkpoint with nothing missing.
func complete(dir string) bool {
	c, err := openCheckpoint(dir)
	if err == nil {
		c.close()
	}
	return err == nil
}

// LoadCheckpoint restores what SaveCheckpoint wrote bit for bit: the values,
// moments and update counts of st, which is built for training and has
// the same parameters, and the caller's state into the pointer state; nil
// skips the latter. Errors name the file and the tensor with both shapes.
// Files and shapes are checked before st changes; after a failure to read
// tensor bytes st is partly restored and of no use.
func LoadCheckpoint(dir string, st *Store, state any) error {
	if st.M.IsZero() || st.V.IsZero() {
		return fmt.Errorf("checkpoint %s: the store is not built for training", dir)
	}
	c, err := openCheckpoint(dir)
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	defer c.close()
	if err := c.check(st); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	if state != nil {
		if err := json.Unmarshal(c.state.State, state); err != nil {
			return fmt.Errorf("checkpoint: %s: state: %w", filepath.Join(dir, stateFile), err)
		}
	}
	for _, p := range st.params {
		was := c.state.Parameters[p.Name]
		v, _, err := c.model.Float32(p.Name)
		if err != nil {
			return fmt.Errorf("checkpoint: %w", err)
		}
		m1, m2 := make([]float32, p.Len()), make([]float32, p.Len())
		if was.Steps > 0 || was.Touched {
			if m1, _, err = c.optimizer.Float32(firstMoment + p.Name); err != nil {
				return fmt.Errorf("checkpoint: %w", err)
			}
			if m2, _, err = c.optimizer.Float32(secondMoment + p.Name); err != nil {
				return fmt.Errorf("checkpoint: %w", err)
			}
		}
		st.Set(p, v)
		st.SetMoments(p, m1, m2)
		p.Steps, p.touched = was.Steps, was.Touched
	}
	if err := st.dev.Sync(); err != nil {
		return fmt.Errorf("checkpoint %s: %w", dir, err)
	}
	return nil
}

// check says how the checkpoint's parameters differ from st's.
func (c *openedCheckpoint) check(st *Store) error {
	path := filepath.Join(c.dir, stateFile)
	model, optimizer := make(map[string]bool), make(map[string]bool)
	for _, p := range st.params {
		was, ok := c.state.Parameters[p.Name]
		if !ok {
			return fmt.Errorf("%s: no parameter %q, which the model has", path, p.Name)
		}
		if was.Steps < 0 {
			return fmt.Errorf("%s: parameter %q: %d steps", path, p.Name, was.Steps)
		}
		if err := sameTensor(c.model, c.dir, modelFile, p.Name, p); err != nil {
			return err
		}
		model[p.Name] = true
		if was.Steps > 0 || was.Touched {
			for _, prefix := range [...]string{firstMoment, secondMoment} {
				if err := sameTensor(c.optimizer, c.dir, optimizerFile, prefix+p.Name, p); err != nil {
					return err
				}
				optimizer[prefix+p.Name] = true
			}
		}
	}
	for name := range c.state.Parameters {
		if st.byName[name] == nil {
			return fmt.Errorf("%s: parameter %q, which the model has not", path, name)
		}
	}
	for _, f := range [...]struct {
		file  *weights.File
		name  string
		known map[string]bool
	}{{c.model, modelFile, model}, {c.optimizer, optimizerFile, optimizer}} {
		for _, name := range f.file.Names() {
			if !f.known[name] {
				return fmt.Errorf("%s: tensor %q, which the model has no use for", filepath.Join(c.dir, f.name), name)
			}
		}
	}
	return nil
}

func sameTensor(f *weights.File, dir, file, name string, p *Param) error {
	dtype, shape, err := f.Info(name)
	if err != nil {
		return err
	}
	if dtype != "F32" || !slices.Equal(shape, p.Shape) {
		return fmt.Errorf("%s: tensor %q is %s of shape %v, the model's is F32 of shape %v", filepath.Join(dir, file), name, dtype, shape, p.Shape)
	}
	return nil
}

// candidate is a directory entry of the form that CheckpointName gives, or
// of one moved aside while it was being replaced.
type candidate struct {
	name  string
	step  int
	aside bool
}

// candidates lists parent's, newest first, one moved aside after the one in
// its place.
func candidates(parent string) ([]candidate, error) {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return nil, err
	}
	var list []candidate
	for _, e := range entries {
		name, aside := strings.CutSuffix(e.Name(), replacedMark)
		if step, ok := checkpointStep(name); ok {
			list = append(list, candidate{e.Name(), step, aside})
		}
	}
	slices.SortFunc(list, func(a, b candidate) int {
		if a.step != b.step {
			return b.step - a.step
		}
		if a.aside != b.aside {
			if b.aside {
				return -1
			}
			return 1
		}
		return strings.Compare(a.name, b.name)
	})
	return list, nil
}

// Latest returns the directory of the newest complete checkpoint in parent,
// by the step in its name. Temporary directories and those with missing or
// truncated files are passed over. If there is none the error is an
// fs.ErrNotExist and says what was wrong with each that was passed over.
func Latest(parent string) (dir string, err error) {
	list, err := candidates(parent)
	if err != nil {
		return "", fmt.Errorf("checkpoint: %w", err)
	}
	var wrong []error
	for _, cand := range list {
		dir := filepath.Join(parent, cand.name)
		c, err := openCheckpoint(dir)
		if err == nil {
			c.close()
			return dir, nil
		}
		wrong = append(wrong, err)
	}
	none := fmt.Errorf("checkpoint: none complete in %s: %w", parent, fs.ErrNotExist)
	return "", errors.Join(append([]error{none}, wrong...)...)
}

// Prune removes all but the newest keep complete checkpoints of parent, and
// what interrupted saves have left there; keep is at least 1. Incomplete
// ones older than the oldest kept go too. No save may be under way.
func Prune(parent string, keep int) error {
	if keep < 1 {
		return fmt.Errorf("checkpoint: cannot keep %d in %s", keep, parent)
	}
	list, err := candidates(parent)
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	var remove []string
	kept, last := 0, -1
	for _, cand := range list {
		dir := filepath.Join(parent, cand.name)
		if kept == keep || cand.aside && last == cand.step {
			remove = append(remove, dir)
			continue
		}
		if complete(dir) {
			kept, last = kept+1, cand.step
		}
	}
	entries, err := os.ReadDir(parent)
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	for _, e := range entries {
		name, _, found := strings.Cut(e.Name(), temporaryMark)
		if _, ok := checkpointStep(name); ok && found {
			remove = append(remove, filepath.Join(parent, e.Name()))
		}
	}
	for _, dir := range remove {
		if e := os.RemoveAll(dir); e != nil {
			err = errors.Join(err, fmt.Errorf("checkpoint: %w", e))
		}
	}
	return err
}
