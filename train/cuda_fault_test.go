//go:build cuda

package train

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"vlmo-train/engine"
	"vlmo-train/kernels/cuda"
	"vlmo-train/kernels/cuda/emu"
	"vlmo-train/train/config"
)

// These tests let calls of the emulated driver fail.

// interrupted makes a run of one stage on the CPU that was stopped after its
// first step, and returns what goes on with a copy of it.
func interrupted(t *testing.T, k config.Kind) (copied func() *config.Run) {
	t.Helper()
	if !emu.Present() {
		t.Skip("the driver is no emulator: nothing fails on demand")
	}
	pairs := writePairs(t, t.TempDir(), 28)
	origin := only(allStages(pairs, t.TempDir()), k)
	origin.Stages[0].Batch, origin.Stages[0].Steps, origin.Stages[0].Warmup = 4, 3, 1
	until1 := func(s *Stage, p *Progress) error {
		if p.Step == 2 {
			return errStop
		}
		return nil
	}
	origin.Stages[0].CheckpointEvery = 1
	if err := start(t.Context(), t, origin, 1, false, watch(until1)); !errors.Is(err, errStop) {
		t.Fatal(err)
	}
	return func() *config.Run {
		c := *origin
		c.Out = t.TempDir()
		check(t, os.CopyFS(c.Out, os.DirFS(origin.Out)))
		return &c
	}
}

// saved returns the files of all checkpoints of a run.
func saved(t *testing.T, c *config.Run) map[string]string {
	t.Helper()
	all := map[string]string{}
	check(t, filepath.WalkDir(filepath.Join(c.Out, "checkpoints"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		all[path] = string(b)
		return err
	}))
	return all
}

var errStop = errors.New("stopped by the test")

// fails goes on with c on a GPU, where something is about to fail: the error,
// if there is one, leaves the checkpoint as it was and nothing allocated.
func fails(t *testing.T, c *config.Run) error {
	t.Helper()
	before := saved(t, c)
	dev, err := cuda.New(0, cuda.Options{})
	if err == nil {
		c.Stages[0].CheckpointEvery = 0
		err = (&Run{Config: c, Dev: dev, Resume: true}).Train(t.Context())
		check(t, dev.(io.Closer).Close())
		if err != nil && !strings.Contains(err.Error(), engine.CheckpointName(1)) && !strings.Contains(err.Error(), "checkpoint") {
			t.Errorf("error %q does not say where to go on", err)
		}
	}
	if l := emu.Alive(); l != (emu.Live{}) {
		t.Errorf("left behind: %+v, after %v", l, err)
	}
	if err != nil {
		sameResults(t, saved(t, c), before)
	}
	return err
}

// Out of memory at any allocation ends a run with what was wanted and what
// there was; the last checkpoint stays and nothing leaks.
func TestCUDAAllocFails(t *testing.T) {
	copied := interrupted(t, config.Text)
	for n := 1; ; n++ {
		emu.Fail(emu.Alloc, n)
		err := fails(t, copied())
		if err == nil {
			t.Logf("%d allocations", n-1)
			emu.Fail(emu.Alloc, 0)
			if n < 15 {
				t.Error("too few to be all")
			}
			return
		}
		if s := err.Error(); !strings.Contains(s, "out of memory: ") && !strings.Contains(s, "pinned memory on the host: CUDA error 2") {
			t.Errorf("allocation %d: error %q", n, err)
		}
		if n > 100 {
			t.Fatal("no end of allocations")
		}
	}
}

// A launch that is refused, and a kernel that faults, anywhere in a step.
func TestCUDALaunchFails(t *testing.T) {
	copied := interrupted(t, config.VL)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for _, c := range []struct {
		what emu.Failure
		want []string
	}{
		{emu.Launch, []string{"kernels/cuda: kernel ", ", grid ", "CUDA error 701"}},
		{emu.Fault, []string{"kernels/cuda: ", "CUDA error 719"}},
	} {
		for range 4 {
			n := 1 + random.IntN(250)
			emu.Fail(c.what, n)
			err := fails(t, copied())
			wantError(t, err, append(c.want, "stage vl")...)
			emu.Fail(c.what, 0)
		}
	}
}

// insideVariable holds, in a process that these tests start, the folder of its run.
const insideVariable = "TEST_CUDA_OUT"

// inside runs the test that calls it in a process of its own, on an emulated
// GPU with the setting, and returns what it prints.
func inside(t *testing.T, out, setting string) string {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), insideVariable+"="+out, setting)
	text, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return string(text)
}

// A device that is lost in the middle of a step.
func TestCUDALost(t *testing.T) {
	if out := os.Getenv(insideVariable); out != "" {
		c, err := config.Load(filepath.Join(out, "config.yaml"))
		check(t, err)
		c.Out = out
		fmt.Println(fails(t, c))
		return
	}
	copied := interrupted(t, config.Text)
	for _, n := range []int{1, 40} {
		text := inside(t, copied().Out, fmt.Sprint("CUEMU_FAIL_LOST=", n))
		wantError(t, errors.New(text), "CUDA error 999", "the GPU may be lost", "last checkpoint")
	}
}

// Where memory is short the error says which batch fits, and that batch does.
func TestCUDAShortOfMemory(t *testing.T) {
	if out := os.Getenv(insideVariable); out != "" {
		c, err := config.Load(filepath.Join(out, "config.yaml"))
		check(t, err)
		dev, err := cuda.New(0, cuda.Options{})
		check(t, err)
		fmt.Println("result:", (&Run{Config: c, Dev: dev}).Train(t.Context()))
		check(t, dev.(io.Closer).Close())
		if l := emu.Alive(); l != (emu.Live{}) {
			t.Errorf("left behind: %+v", l)
		}
		return
	}
	if !emu.Present() {
		t.Skip("the driver is no emulator: its memory is what it is")
	}
	c := only(allStages(writePairs(t, t.TempDir(), 28), ""), config.Retrieval)
	c.Model.ImageSize, c.Model.Dim, c.Stages[0].DropPath = 64, 64, 0
	c.Stages[0].Batch, c.Stages[0].Steps, c.Stages[0].Warmup = 24, 1, 1
	r := &Run{Config: c}
	check(t, r.Open())
	need := func(batch int) int {
		n, err := r.memoryNeeded(0, batch, func(*config.Run) {})
		check(t, err)
		return n
	}
	t.Logf("batch 24 needs %s, 16 %s, 8 %s", bytesText(int64(need(24))), bytesText(int64(need(16))), bytesText(int64(need(8))))
	// The emulator counts pinned memory, too: 20 MiB, and 16 for staging.
	setting := fmt.Sprint("CUEMU_MEM=", 37<<20+need(8))
	train := func() string {
		c.Out = t.TempDir()
		y, err := c.Marshal()
		check(t, err)
		writeFile(t, filepath.Join(c.Out, "config.yaml"), y)
		return inside(t, c.Out, setting)
	}
	text := train()
	wantError(t, errors.New(text), "out of memory", "batch 24 needs about", "--precision bf16")
	m := regexp.MustCompile(`batch (\d+) fits \(--set stages.retrieval.batch=(\d+)\)`).FindStringSubmatch(text)
	if m == nil || m[1] != m[2] {
		t.Fatalf("no batch is named: %s", text)
	}
	c.Stages[0].Batch, _ = strconv.Atoi(m[1])
	if b := c.Stages[0].Batch; b < 6 || b > 12 {
		t.Errorf("batch %d is named, of which 8 should about fit", b)
	}
	if text := train(); !strings.Contains(text, "result: <nil>") {
		t.Errorf("batch %s: %s", m[1], text)
	}
}
