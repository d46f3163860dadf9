package train

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"vlmo-train/data/dataset"
	"vlmo-train/data/img"
	"vlmo-train/engine"
	"vlmo-train/kernels"
	"vlmo-train/kernels/cpu"
	"vlmo-train/train/config"
	"vlmo-train/vlmo"
)

// readNPY reads a float32 matrix by the rules of NumPy's format 1.0.
func readNPY(t *testing.T, path string) (rows, dim int, v []float32) {
	t.Helper()
	b, err := os.ReadFile(path)
	check(t, err)
	if len(b) < 10 || string(b[:8]) != "\x93NUMPY\x01\x00" {
		t.Fatalf("%s begins with %q", path, b[:min(len(b), 10)])
	}
	n := 10 + int(binary.LittleEndian.Uint16(b[8:]))
	if n%64 != 0 || n > len(b) || b[n-1] != '\n' {
		t.Fatalf("%s: a header of %d bytes", path, n)
	}
	m := regexp.MustCompile(`^\{'descr': '<f4', 'fortran_order': False, 'shape': \((\d+), (\d+)\), \} *\n$`).FindSubmatch(b[10:n])
	if m == nil {
		t.Fatalf("%s: header %q", path, b[10:n])
	}
	rows, _ = strconv.Atoi(string(m[1]))
	dim, _ = strconv.Atoi(string(m[2]))
	if len(b)-n != 4*rows*dim {
		t.Fatalf("%s: %d bytes after the header of %d × %d", path, len(b)-n, rows, dim)
	}
	v = make([]float32, rows*dim)
	check(t, binary.Read(bytes.NewReader(b[n:]), binary.LittleEndian, v))
	return rows, dim, v
}

// readLines reads a file of JSON lines.
func readLines[T any](t *testing.T, path string) (list []T) {
	t.Helper()
	f, err := os.Open(path)
	check(t, err)
	defer f.Close()
	for in := bufio.NewScanner(f); in.Scan(); {
		var x T
		check(t, json.Unmarshal(in.Bytes(), &x))
		list = append(list, x)
	}
	return list
}

// A table is the file that numpy.save writes of the same matrix, to the byte.
func TestTableIsNumPy(t *testing.T) {
	dir := t.TempDir()
	tab := &table{kind: "matrix", dim: 3}
	check(t, tab.create(dir))
	for i := range 5 {
		check(t, tab.line(i))
		row := make([]float32, 3)
		for k := range row {
			row[k] = float32(3*i+k-7) / 3
		}
		check(t, tab.write(row))
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "matrix.*[yl]")); len(files) > 0 {
		t.Errorf("%q is there before it is whole", files)
	}
	check(t, publish(dir, []*table{tab}))
	check(t, tab.discard())
	got, err := os.ReadFile(filepath.Join(dir, "matrix.npy"))
	check(t, err)
	want, err := os.ReadFile("testdata/matrix.npy")
	check(t, err)
	if !bytes.Equal(got, want) {
		t.Errorf("%q\nwant %q", got, want)
	}
	if rows, dim, _ := readNPY(t, filepath.Join(dir, "matrix.npy")); rows != 5 || dim != 3 {
		t.Errorf("%d × %d", rows, dim)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 2 {
		t.Errorf("%v, %v", files, err)
	}
	for _, n := range []int{0, 1_000_000, math.MaxInt} {
		if h := npyHeader(n, math.MaxInt); len(h) != npyHeaderLen || h[npyHeaderLen-1] != '\n' {
			t.Errorf("%d rows: %q", n, h)
		}
	}
}

// embedRun is a run with a fresh model that embeds test.
func embedRun(t *testing.T, threads int, test ...string) (*Run, *vlmo.Model) {
	t.Helper()
	c := only(allStages("", t.TempDir()), config.Retrieval)
	c.Data = config.Data{Test: []config.Set{{Path: test}}}
	dev, err := cpu.New(cpu.Options{Threads: threads})
	check(t, err)
	r := &Run{Config: c, Dev: dev}
	c.Threads = threads
	check(t, r.openVocabulary())
	m, err := vlmo.New(dev, r.modelConfig(&c.Stages[0]), false)
	check(t, err)
	t.Cleanup(func() { m.Store.Close() })
	m.Init(7)
	return r, m
}

// embedTest embeds the run's data.test.
func embedTest(ctx context.Context, t *testing.T, r *Run, m *vlmo.Model, opt EmbedOptions) (*Embedded, error) {
	t.Helper()
	set, err := openSets("data.test", r.Config.Data.Test)
	check(t, err)
	return r.embedSet(ctx, m, set[0].Set, opt)
}

// The features are those that retrieval is evaluated with, whatever the batch.
func TestEmbedIsEvaluate(t *testing.T) {
	r, m := embedRun(t, 2, emoji+"test.jsonl")
	out := t.TempDir()
	res, err := embedTest(t.Context(), t, r, m, EmbedOptions{Out: out, Batch: 50})
	check(t, err)
	sets, err := openSets("data.test", r.Config.Data.Test)
	check(t, err)
	r.test, err = sets.one(t.Context())
	check(t, err)
	want, err := r.Evaluate(m, 0)
	check(t, err)
	n, dim, images := readNPY(t, filepath.Join(out, "images.npy"))
	nt, _, texts := readNPY(t, filepath.Join(out, "texts.npy"))
	if n != want.Images || nt != want.Texts || res.Images != n || res.Texts != nt || dim != m.Dim || n < 1000 || res.Unreadable != 0 {
		t.Fatalf("%d images and %d texts of %d, %+v, want %d and %d", n, nt, dim, res, want.Images, want.Texts)
	}
	worst := 0.0
	for i := range n {
		for k := range nt {
			dot := 0.0
			for d := range dim {
				dot += float64(images[i*dim+d]) * float64(texts[k*dim+d])
			}
			worst = max(worst, math.Abs(dot-float64(want.score[i*nt+k])))
		}
	}
	if worst > 1e-6 {
		t.Errorf("a cosine is off by %g", worst)
	}

	// The features themselves, in evaluation's batches.
	const some = 300
	px := 3 * m.ImageSize * m.ImageSize
	pixels := make([]byte, some*px)
	var ids []vlmo.Text
	lines := readLines[textLine](t, filepath.Join(out, "texts.jsonl"))
	pictures := readLines[imageLine](t, filepath.Join(out, "images.jsonl"))
	if len(lines) != nt || len(pictures) != n {
		t.Fatalf("%d and %d lines of %d and %d rows", len(lines), len(pictures), nt, n)
	}
	for i := range some {
		e, err := r.test.Example(i)
		check(t, err)
		small := img.New(m.ImageSize, m.ImageSize)
		check(t, new(img.Resizer).Resize(small, e.Image, img.Box{X1: float32(e.Image.W), Y1: float32(e.Image.H)}))
		check(t, img.Planes(pixels[i*px:(i+1)*px], small))
		if pictures[i].ID != e.ID {
			t.Fatalf("row %d is of %q, want %q", i, pictures[i].ID, e.ID)
		}
		for _, c := range e.Captions {
			if x := lines[len(ids)]; x.ID != e.ID || x.Text != c || x.Image == nil || *x.Image != i {
				t.Fatalf("row %d is of %+v, want %q of %q", len(ids), x, c, e.ID)
			}
			ids = append(ids, r.tok.EncodeSpecial(c, m.MaxText))
		}
	}
	s := engine.NewStep(r.Dev, 0)
	defer s.Arena.Close()
	wantImages, wantTexts, err := embed(s, m, pixels, ids)
	check(t, err)
	for i, x := range wantImages {
		if math.Abs(float64(images[i]-x)) > 1e-6 {
			t.Fatalf("image %d, %d: %v, want %v", i/dim, i%dim, images[i], x)
		}
	}
	for i, x := range wantTexts {
		if math.Abs(float64(texts[i]-x)) > 1e-6 {
			t.Fatalf("text %d, %d: %v, want %v", i/dim, i%dim, texts[i], x)
		}
	}
}

// readAll returns the content of a folder's files by their names.
func readAll(t *testing.T, dir string) map[string]string {
	t.Helper()
	files, err := os.ReadDir(dir)
	check(t, err)
	all := map[string]string{}
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(dir, f.Name()))
		check(t, err)
		all[f.Name()] = string(b)
	}
	return all
}

// What can't be read is left out, named and counted, in the same way on any
// number of threads; strictly it is an error, and leaves nothing.
func TestEmbedSkips(t *testing.T) {
	dir := t.TempDir()
	pairs := writePairs(t, dir, 30)
	list, err := sprites()
	check(t, err)
	writeFile(t, filepath.Join(dir, list[3].File), list[3].png[:99])
	writeFile(t, filepath.Join(dir, list[29].File), nil)
	var first map[string]string
	for _, threads := range []int{1, 4} {
		r, m := embedRun(t, threads, pairs)
		out := filepath.Join(t.TempDir(), "a", "b")
		res, err := embedTest(t.Context(), t, r, m, EmbedOptions{Out: out, Batch: 8})
		check(t, err)
		if res.Images != 28 || res.Unreadable != 2 || len(res.Errors) != 2 || !strings.Contains(res.Errors[0], list[3].File) || !strings.Contains(res.Errors[1], list[29].File) {
			t.Errorf("%+v", res)
		}
		var want []string
		for i, e := range list[:30] {
			if i != 3 && i != 29 {
				want = append(want, e.ID)
			}
		}
		var got []string
		for _, x := range readLines[imageLine](t, filepath.Join(out, "images.jsonl")) {
			got = append(got, x.ID)
		}
		if !slices.Equal(got, want) {
			t.Errorf("rows of %q, want %q", got, want)
		}
		texts := readLines[textLine](t, filepath.Join(out, "texts.jsonl"))
		for _, x := range texts {
			if x.Image == nil || got[*x.Image] != x.ID {
				t.Errorf("%+v names a picture of another", x)
			}
		}
		_, dim, v := readNPY(t, filepath.Join(out, "texts.npy"))
		for i := range texts {
			sum := 0.0
			for _, x := range v[i*dim : (i+1)*dim] {
				sum += float64(x) * float64(x)
			}
			if math.Abs(sum-1) > 1e-5 {
				t.Errorf("row %d has the length %v", i, math.Sqrt(sum))
			}
		}
		all := readAll(t, out)
		if first == nil {
			first = all
		}
		for name := range first {
			if len(all) != 4 || all[name] != first[name] {
				t.Errorf("%s of %d is another on %d threads", name, len(all), threads)
			}
		}
		_, err = r.Embed(t.Context(), "none", EmbedOptions{Out: out, Batch: 8})
		wantError(t, err, "images.npy exists already")

		r.Strict = true
		out = t.TempDir()
		_, err = embedTest(t.Context(), t, r, m, EmbedOptions{Out: out, Batch: 2})
		wantError(t, err, list[3].File, list[3].ID)
		if left := readAll(t, out); len(left) > 0 {
			t.Errorf("%d files are left", len(left))
		}
	}
}

// Pictures or captions alone, of sets that have both or one of them.
func TestEmbedKinds(t *testing.T) {
	pairs := writePairs(t, t.TempDir(), 9)
	bare := t.TempDir()
	writePairs(t, bare, 3)
	check(t, os.Remove(filepath.Join(bare, "pairs.jsonl")))
	for _, test := range []struct {
		set    string
		opt    EmbedOptions
		files  string
		failed string
	}{
		{pairs, EmbedOptions{}, "images.jsonl images.npy texts.jsonl texts.npy", ""},
		{pairs, EmbedOptions{Images: true}, "images.jsonl images.npy", ""},
		{pairs, EmbedOptions{Texts: true}, "texts.jsonl texts.npy", ""},
		{emoji + "glosses.txt", EmbedOptions{}, "texts.jsonl texts.npy", ""},
		{emoji + "glosses.txt", EmbedOptions{Images: true}, "", "no images among "},
		{writeShards(t, t.TempDir(), 2, 0, 5), EmbedOptions{}, "images.jsonl images.npy texts.jsonl texts.npy", ""},
	} {
		r, m := embedRun(t, 2, test.set)
		test.opt.Out, test.opt.Batch = t.TempDir(), 4
		res, err := embedTest(t.Context(), t, r, m, test.opt)
		var names []string
		for name := range readAll(t, test.opt.Out) {
			names = append(names, name)
		}
		slices.Sort(names)
		if got := strings.Join(names, " "); got != test.files {
			t.Errorf("%s: %q, want %q", test.set, got, test.files)
		}
		if test.failed != "" {
			wantError(t, err, test.failed)
			continue
		}
		check(t, err)
		if res.Texts > 0 {
			for i, x := range readLines[textLine](t, filepath.Join(test.opt.Out, "texts.jsonl")) {
				if (x.Image != nil) != (res.Images > 0) || x.ID == "" || x.Text == "" {
					t.Fatalf("%s: row %d is of %+v, %d images", test.set, i, x, res.Images)
				}
			}
		}
		if strings.Contains(test.set, ".tar") && (res.Images != 7 || res.Incomplete != 3) {
			t.Errorf("%+v", res)
		}
	}
}

// synthetic is a set of n pictures that are made up, of two captions each.
type synthetic struct {
	n    int
	fail func(i int) error
}

func (s synthetic) Len() int           { return s.n }
func (s synthetic) Group(i int) string { return fmt.Sprint(i) }

func (s synthetic) Example(i int) (dataset.Example, error) {
	if s.fail != nil {
		if err := s.fail(i); err != nil {
			return dataset.Example{}, err
		}
	}
	m := img.New(40, 30)
	for k := range m.Pix {
		m.Pix[k] = byte(k * (i + 1))
	}
	return dataset.Example{ID: fmt.Sprint(i), Image: m, Captions: []string{fmt.Sprintf("picture %d", i%10), "a cat"}}, nil
}

// allocator counts the memory of a device that is in use.
type allocator struct {
	kernels.Device
	mu       sync.Mutex
	now, top int
}

func (d *allocator) Alloc(n int) (*kernels.Memory, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.now += n
	d.top = max(d.top, d.now)
	return d.Device.Alloc(n)
}

func (d *allocator) Free(m *kernels.Memory) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.now -= m.Bytes
	d.Device.Free(m)
}

// Memory, the device's and the host's, does not grow with the examples.
func TestEmbedMemory(t *testing.T) {
	var device []int
	for _, n := range []int{300, 3000} {
		r, m := embedRun(t, 2)
		dev := &allocator{Device: r.Dev}
		r.Dev = dev
		heap := [2]int{math.MaxInt, math.MaxInt} // the least at the beginning and at the end: what is ready varies
		res, err := r.embedSet(t.Context(), m, dataset.Whole(synthetic{n: n}), EmbedOptions{Out: t.TempDir(), Batch: 20, Progress: func(done, total int) {
			if total != n || done > n {
				t.Errorf("%d of %d", done, total)
			}
			part := 0
			switch {
			case done <= 50:
				return
			case done > n-200:
				part = 1
			case done > 250:
				return
			}
			runtime.GC()
			var s runtime.MemStats
			runtime.ReadMemStats(&s)
			heap[part] = min(heap[part], int(s.HeapAlloc))
		}})
		check(t, err)
		if res.Images != n || res.Texts != 2*n {
			t.Errorf("%+v", res)
		}
		if dev.now != 0 {
			t.Errorf("%d bytes of the device are kept", dev.now)
		}
		device = append(device, dev.top)
		t.Logf("%d examples: device %d, heap %d bytes", n, dev.top, heap)
		// The features of 3,000 examples are 570 KB, their pixels 9 MB.
		if grown := heap[1] - heap[0]; grown > 60_000 {
			t.Errorf("%d examples: the heap grew from %d by %d bytes", n, heap[0], grown)
		}
	}
	if device[0] != device[1] || device[0] == 0 {
		t.Errorf("%d bytes of the device", device)
	}
}

// Reading goes no further ahead than it should, and an interruption ends it with
// nothing left.
func TestEmbedInterrupted(t *testing.T) {
	r, m := embedRun(t, 2)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var mu sync.Mutex
	read, out := 0, t.TempDir()
	set := dataset.Whole(synthetic{n: 1 << 40, fail: func(int) error {
		mu.Lock()
		defer mu.Unlock()
		read++
		return nil
	}})
	_, err := r.embedSet(ctx, m, set, EmbedOptions{Out: out, Batch: 16, Progress: func(done, _ int) {
		mu.Lock()
		defer mu.Unlock()
		if most := done + 16 + 2 + 1; read > most {
			t.Errorf("%d examples read, %d done", read, done)
		}
		if done > 100 {
			cancel()
		}
	}})
	if !errors.Is(err, ErrInterrupted) {
		t.Fatal(err)
	}
	wantError(t, err, "interrupted after 1", "start again")
	if left := readAll(t, out); len(left) > 0 {
		t.Errorf("%d files are left", len(left))
	}
}

// A read that fails once is tried again; what is wrong with more than an example
// ends it.
func TestEmbedTriesAgain(t *testing.T) {
	for err, ends := range map[error]bool{
		&dataset.BadExampleError{Path: "7.png", Err: syscall.EIO}: false, syscall.EIO: false, errors.New("7.png: no set"): true,
	} {
		r, m := embedRun(t, 2)
		var failed atomic.Bool
		set := dataset.Whole(synthetic{n: 20, fail: func(i int) error {
			if i == 7 && !failed.Swap(true) {
				return err
			}
			return nil
		}})
		out := t.TempDir()
		res, got := r.embedSet(t.Context(), m, set, EmbedOptions{Out: out, Batch: 3})
		switch {
		case ends:
			wantError(t, got, "7.png: no set")
			if left := readAll(t, out); len(left) > 0 {
				t.Errorf("%d files are left", len(left))
			}
		case got != nil || res.Images != 20 || res.Unreadable != 0:
			t.Errorf("%v: %+v, %v", err, res, got)
		}
	}
}
