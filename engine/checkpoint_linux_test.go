package engine

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// A write that fails midway, here at a limit on the size of files as it would
// on a full disk, is reported with the file and leaves what was there. The
// limit holds for a whole process, so the test runs in one of its own.
func TestSaveCheckpointFullDisk(t *testing.T) {
	const inside = "TEST_FULL_DISK"
	if os.Getenv(inside) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestSaveCheckpointFullDisk$", "-test.v")
		cmd.Env = append(os.Environ(), inside+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	parent := t.TempDir()
	st := toyStore(t)
	train(t, st, 0, 2)
	dir := save(t, parent, 7, st)
	model, err := os.Stat(filepath.Join(dir, modelFile))
	if err != nil {
		t.Fatal(err)
	}
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	limit := func(n uint64) {
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: n, Max: old.Max}); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		bytes int64
		state any
		file  string
	}{
		{model.Size() - 1, nil, modelFile},
		{model.Size(), nil, optimizerFile},
		{3 * model.Size(), make([]int, 4000), stateFile},
	} {
		for _, name := range []string{dir, filepath.Join(parent, CheckpointName(8))} {
			limit(uint64(c.bytes))
			err := SaveCheckpoint(name, st, c.state)
			limit(old.Cur)
			wantError(t, err, name, c.file, "file too large")
			wantLatest(t, parent, dir, 7)
			if names := list(t, parent); len(names) != 1 {
				t.Errorf("left behind: %q", names)
			}
		}
	}
}
