package train

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"vlmo-train/engine"
	"vlmo-train/train/config"
)

// everyStep is allStages in little, with a checkpoint after each step.
func everyStep(pairs, out string) *config.Run {
	c := allStages(pairs, out)
	for i := range c.Stages {
		c.Stages[i].Steps, c.Stages[i].CheckpointEvery = 3, 1
	}
	return c
}

// A process that is killed at any moment leaves the last whole checkpoint,
// from which the run goes on to the same end.
func TestKilled(t *testing.T) {
	const inside, data = "TEST_KILLED_OUT", "TEST_KILLED_DATA"
	if out := os.Getenv(inside); out != "" {
		c := everyStep(os.Getenv(data), out)
		if err := start(t.Context(), t, c, 1, true, &Metrics{Path: filepath.Join(out, "metrics.jsonl")}); err != nil {
			t.Fatal(err)
		}
		return
	}
	pairs := writePairs(t, t.TempDir(), 28)
	whole := everyStep(pairs, t.TempDir())
	began := time.Now()
	if err := start(t.Context(), t, whole, 1, false, &Metrics{Path: filepath.Join(whole.Out, "metrics.jsonl")}); err != nil {
		t.Fatal(err)
	}
	length := time.Since(began)

	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d, a whole run takes %v", seed, length)
	random := rand.New(rand.NewPCG(seed, 0))
	c := everyStep(pairs, t.TempDir())
	killed, between := 0, 0
	for round := 0; ; round++ {
		if round == 100 {
			t.Fatal("the run does not come to an end")
		}
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilled$")
		cmd.Env = append(os.Environ(), inside+"="+c.Out, data+"="+pairs)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		// The last rounds are left alone.
		wait := time.Hour
		if round < 9 {
			wait = time.Duration(random.Int64N(int64(length / 3)))
		}
		var err error
		select {
		case err = <-ended:
		case <-time.After(wait):
			_ = cmd.Process.Kill()
			err = <-ended
		}
		if err == nil {
			break
		}
		if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() >= 0 {
			t.Fatalf("round %d: %v\n%s", round, err, &out)
		}
		killed++
		// A folder without a whole checkpoint has seen none, not lost one.
		for i := range c.Stages {
			dir := (&Run{Config: c}).checkpoints(i)
			if _, err := engine.Latest(dir); err == nil {
				between++
			} else if !errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("round %d: %v", round, err)
			} else if m, _ := filepath.Glob(filepath.Join(dir, "step-??????")); len(m) > 0 {
				t.Fatalf("round %d: of %q none is whole: %v", round, m, err)
			}
		}
	}
	t.Logf("killed %d times, %d checkpoints found", killed, between)
	if killed == 0 {
		t.Error("no process was killed")
	}
	sameResults(t, results(t, c), results(t, whole))
	if got, want := metricsOf(t, c), metricsOf(t, whole); !reflect.DeepEqual(got, want) {
		t.Errorf("metrics are\n%v\nwant\n%v", got, want)
	}
	// Nothing temporary is left.
	err := filepath.WalkDir(c.Out, func(path string, e fs.DirEntry, err error) error {
		if name := e.Name(); err == nil && filepath.Ext(name) == ".tmp" {
			t.Errorf("left behind: %s", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// metricsOf returns a run's metrics without the times.
func metricsOf(t *testing.T, c *config.Run) (list []string) {
	t.Helper()
	all, err := readMetrics(filepath.Join(c.Out, "metrics.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		m.Seconds = 0
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, string(b))
	}
	return list
}
