package train

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vlmo-train/train/config"
)

func TestConsolePlain(t *testing.T) {
	var b bytes.Buffer
	clock := time.Unix(0, 0)
	c := NewConsole(&b, false)
	c.now = func() time.Time { return clock }
	s := &Stage{Stage: &config.Stage{Name: "pairs", Kind: config.VL, Steps: 6, Batch: 50}, First: 1, Parameters: 1_234_567}
	check(t, c.StageStart(s))
	for i, losses := range [][]Loss{{{"itc", 2}, {"itm", 1}}, {{"itc", 1.5}}, {{"itc", 1.25}, {"itm", 0.5}}, {{"itc", 1}}, {{"itc", 0.5}}} {
		clock = clock.Add(4 * time.Second)
		// The first step takes 4 s as the others, and 2 s of start.
		check(t, c.Step(s, &Progress{Step: 2 + i, Losses: losses, Batch: 50, Seconds: 6 + 4*float64(i)}))
	}
	s.Unreadable, s.Skipped = 1, []string{"a.png is no picture"}
	check(t, c.StageEnd(s))
	want := `pairs: 6 steps of 50 pairs, 1.23 M parameters, resumed after step 1
pairs 2/6  itc 2.0000  itm 1.0000  8.3 pairs/s  24s left
pairs 5/6  itc 1.0000  itm 0.5000  12.5 pairs/s  4s left
pairs 6/6  itc 0.5000  itm 0.5000  12.5 pairs/s  0s left
pairs: done in 20s; 1 unreadable examples skipped, such as: a.png is no picture
`
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}

func TestConsoleTerminal(t *testing.T) {
	var b bytes.Buffer
	c := NewConsole(&b, true)
	s := &Stage{Stage: &config.Stage{Name: "words", Kind: config.Text, Steps: 2, Batch: 8}}
	check(t, c.StageStart(s))
	check(t, c.Step(s, &Progress{Step: 1, Losses: []Loss{{"mlm", 3}}, Batch: 8, Seconds: 1}))
	check(t, c.Evaluated(s, 1, &Retrieval{}))
	check(t, c.Step(s, &Progress{Step: 2, Losses: []Loss{{"mlm", 2.5}}, Batch: 8, Seconds: 2}))
	check(t, c.StageEnd(s))
	for _, want := range []string{"mlm 2.5000  8.0 texts/s", "(2/2)", "image→text R@1", "\nwords: done in"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q lacks %q", b.String(), want)
		}
	}
	if c.bar != nil {
		t.Error("the bar is still open")
	}
}

func TestOutFolder(t *testing.T) {
	base := filepath.Join(t.TempDir(), "demo")
	if dir, err := OutFolder(base, true); err == nil {
		t.Errorf("resuming nothing gives %s", dir)
	}
	for i, want := range []string{base, base + "-2", base + "-3"} {
		dir, err := OutFolder(base, false)
		if err != nil || dir != want {
			t.Fatalf("folder %d is %s, %v", i, dir, err)
		}
		check(t, os.Mkdir(dir, 0o777))
		if last, err := OutFolder(base, true); err != nil || last != want {
			t.Errorf("resumed folder %d is %s, %v", i, last, err)
		}
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
