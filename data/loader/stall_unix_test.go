//go:build unix

package loader

import (
	"archive/tar"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"vlmo-train/data/dataset"
)

// A tar file that does not answer, as on a network file system that is away, is
// named.
func TestStalledFileIsNamed(t *testing.T) {
	defer settle(t, runtime.NumGoroutine())
	dir := t.TempDir()
	whole := filepath.Join(dir, "0.tar")
	f, err := os.Create(whole)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(f)
	for _, name := range []string{"a.txt", "b.txt"} {
		if err := w.WriteHeader(&tar.Header{Name: name, Size: 1, Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	f.Close()
	stuck := filepath.Join(dir, "1.tar") // nobody writes to it
	if err := syscall.Mkfifo(stuck, 0o666); err != nil {
		t.Skip(err)
	}
	lines := filepath.Join(dir, "l.txt")
	if err := os.WriteFile(lines, []byte("one\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	set, err := dataset.OpenSet(dataset.Options{}, lines, whole, stuck)
	if err != nil {
		t.Fatal(err)
	}
	p := Patience{Tries: 2, Wait: time.Millisecond, Stall: 2 * time.Millisecond}
	for _, set := range []dataset.Sharded{set, dataset.TextsOf(set)} {
		_, err = p.open(t.Context(), set, set.Shards()-1)
		if err == nil || !strings.Contains(err.Error(), stuck+": no answer in 20ms, tried 2 times") {
			t.Errorf("%v, want %s", err, stuck)
		}
	}
	// Those that wait for it may go.
	out, err := os.OpenFile(stuck, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(10 * time.Millisecond)
	out.Close()
}
