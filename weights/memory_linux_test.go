package weights

import (
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
)

// resident returns the process's memory in RAM, in bytes: now, or at most.
func resident(t *testing.T, field string) int64 {
	t.Helper()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			kb, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kb << 10
		}
	}
	t.Skipf("no %s", field)
	return 0
}

// Writing streams: it holds a tensor at a time. Reading holds what is asked
// for and a few pieces of the file, though the file is mapped.
func TestMemory(t *testing.T) {
	const count, size = 16, 4 << 20 // 64 MB
	data := make([]byte, size)
	var arrays []Array
	for i := range count {
		arrays = append(arrays, Array{Name: strconv.Itoa(i), DType: "F32", Shape: []int{size / 4}, Load: func() ([]byte, error) {
			data[0] = byte(i)
			return data, nil
		}})
	}
	for name, write := range map[string]func(string) error{
		"big.pt":          func(p string) error { return WriteTorch(p, arrays) },
		"big.safetensors": func(p string) error { return Write(p, arrays, nil) },
	} {
		path := filepath.Join(t.TempDir(), name)
		debug.FreeOSMemory()
		// The kernel's own high-water mark starts anew.
		if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
			t.Skip(err)
		}
		before := resident(t, "VmRSS")
		if err := write(path); err != nil {
			t.Fatal(err)
		}
		f, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range f.Names() {
			_, _, err := f.Float32(n)
			if err != nil {
				t.Fatal(err)
			}
			debug.FreeOSMemory()
		}
		grown := resident(t, "VmHWM") - before
		t.Logf("%s: %d MB, of which %d MB in one piece; memory grew by %d MB", name, count*size>>20, size>>20, grown>>20)
		if grown > 32<<20 {
			t.Errorf("%s: memory grew by %d MB", name, grown>>20)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
