package dataset

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"vlmo-train/data/dataset/arrowfile"
)

// generate writes a set of n examples of each format that has a list or a folder of
// them, around the same pictures, and returns how to open each. The pictures are none:
// opening does not decode.
func generate(t *testing.T, n int) map[Format]Options {
	t.Helper()
	dir := t.TempDir()
	create := func(name string, content func(w *bufio.Writer)) string {
		path := filepath.Join(dir, filepath.FromSlash(name))
		err := os.MkdirAll(filepath.Dir(path), 0o777)
		if err == nil {
			var f *os.File
			if f, err = os.Create(path); err == nil {
				w := bufio.NewWriter(f)
				content(w)
				err = errors.Join(w.Flush(), f.Close())
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	list := func(name, before, between, after string, n int, item func(w *bufio.Writer, i int)) string {
		return create(name, func(w *bufio.Writer) {
			w.WriteString(before)
			for i := range n {
				if i > 0 {
					w.WriteString(between)
				}
				item(w, i)
			}
			w.WriteString(after)
		})
	}
	lines := func(name, head string, item func(w *bufio.Writer, i int)) string {
		return list(name, head, "\n", "\n", n, item)
	}

	// Links to one file are made the quickest.
	one := create("one", func(w *bufio.Writer) { w.WriteString("a caption") })
	link := func(name string) {
		if err := os.Link(one, filepath.Join(dir, filepath.FromSlash(name))); err != nil {
			t.Fatal(err)
		}
	}
	const asked = 20 // questions a picture
	for _, folder := range []string{"pictures/VG_100K", "train2014"} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.FromSlash(folder)), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	for i := range n {
		link(fmt.Sprintf("pictures/VG_100K/%d.jpg", i))
		link(fmt.Sprintf("pictures/VG_100K/%d.txt", i))
		if i%asked == 0 {
			link(fmt.Sprintf("train2014/COCO_train2014_%012d.jpg", i/asked))
		}
	}

	images := filepath.Join(dir, "pictures")
	sets := map[Format]Options{
		FormatFolder:  {Path: images},
		FormatClasses: {Path: images},
		FormatLines:   {Path: lines("lines.txt", "", func(w *bufio.Writer, i int) { fmt.Fprintf(w, "sentence %d", i) })},
		FormatTSV:     {Path: lines("a.tsv", "image\tcaption\n", func(w *bufio.Writer, i int) { fmt.Fprintf(w, "%d.jpg\tcaption %d", i, i) })},
		FormatCSV:     {Path: lines("a.csv", "image,caption\n", func(w *bufio.Writer, i int) { fmt.Fprintf(w, "%d.jpg,caption %d", i, i) })},
		FormatJSONL: {Path: lines("a.jsonl", "", func(w *bufio.Writer, i int) {
			fmt.Fprintf(w, `{"id":"example %d","image":"pictures/VG_100K/%d.jpg","caption":"c"}`, i, i)
		})},
		FormatNLVR2: {Path: dir},
		FormatCOCO:  {Path: dir, Images: images},
		FormatVG:    {Path: dir, Images: images},
		FormatGCC:   {Path: dir, Images: images},
		FormatVQA:   {Path: dir},
	}
	lines("nlvr2/data/train.json", "", func(w *bufio.Writer, i int) {
		fmt.Fprintf(w, `{"identifier":"train-%d-0-0","sentence":"s","label":"True","directory":1}`, i)
	})
	list("karpathy/dataset_coco.json", `{"images":[`, ",\n", "]}", n, func(w *bufio.Writer, i int) {
		fmt.Fprintf(w, `{"filepath":"VG_100K","filename":"%d.jpg","split":"train","sentences":[{"raw":"r"}]}`, i)
	})
	list("annotations/region_descriptions.json", "[", ",\n", "]", n, func(w *bufio.Writer, i int) {
		fmt.Fprintf(w, `{"regions":[{"image_id":%d,"x":1,"y":2,"width":3,"height":4,"phrase":"p"}]}`, i)
	})
	list("train_annot.json", "[", ",\n", "]", n, func(w *bufio.Writer, i int) { fmt.Fprintf(w, `["pictures/%d.jpg","caption %d"]`, i, i) })
	list("v2_OpenEnded_mscoco_train2014_questions.json", `{"questions":[`, ",\n", "]}", n, func(w *bufio.Writer, i int) {
		fmt.Fprintf(w, `{"question_id":%d,"image_id":%d,"question":"q"}`, i, i/asked)
	})
	for _, split := range []string{"train", "val"} {
		list("v2_mscoco_"+split+"2014_annotations.json", `{"annotations":[`, ",\n", "]}", n, func(w *bufio.Writer, i int) {
			answer := "yes"
			if i%2 == 0 {
				answer = fmt.Sprint("answer ", i, split) // is not in the vocabulary
			}
			fmt.Fprintf(w, `{"question_id":%d,"multiple_choice_answer":%q,"answers":[{"answer":"yes"}]}`, i, answer)
		})
	}

	path := filepath.Join(dir, "questions.arrow")
	w, err := arrowfile.Create(path, []arrowfile.Column{{Name: "questions", Type: "list<string>"}}, arrowfile.None)
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		if err := w.Append([]any{"q"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	sets[FormatArrow] = Options{Path: path}
	for f, o := range sets {
		o.Format = f
		sets[f] = o
	}
	return sets
}

// Memory does not grow with the number of examples: opened, a set has less than one byte
// for each, which is the noise of the measurement.
func TestMemory(t *testing.T) {
	heap := func() int64 {
		for range 4 { // pools and finalisers take more than one
			runtime.GC()
			runtime.Gosched()
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	cost := func(f Format, o Options, n int) int64 {
		before := heap()
		d, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		grown := heap() - before
		if d.Len() != n {
			t.Errorf("%s: %d examples, want %d", f, d.Len(), n)
		}
		for _, i := range []int{0, n / 2, n - 1} {
			if _, err := Words(d, i); err != nil {
				t.Error(err)
			}
		}
		if err := d.(io.Closer).Close(); err != nil {
			t.Error(err)
		}
		return grown
	}
	const small, large = 1000, 8000
	few, many := generate(t, small), generate(t, large)
	for f := range few {
		cost(f, few[f], small) // whatever is made once
		for try := 1; ; try++ {
			a, b := cost(f, few[f], small), cost(f, many[f], large)
			each := float64(b-a) / (large - small)
			t.Logf("%s: %d bytes for %d examples, %d for %d: %.2f each", f, a, small, b, large, each)
			if each < 0.75 {
				break
			}
			if try == 3 { // what else the process does is not always the same
				t.Errorf("%s: %.2f bytes for an example", f, each)
				break
			}
		}
	}
}

// Where temporary files can't be written, the error names their folder, and nothing is
// left where they can.
func TestTemporaryFiles(t *testing.T) {
	sets := generate(t, 1000)
	dir := t.TempDir()
	for _, name := range []string{"TMPDIR", "TMP"} { // of Unix and Windows
		t.Setenv(name, dir)
	}
	for f, o := range sets {
		d, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.(io.Closer).Close(); err != nil {
			t.Errorf("%s: %v", f, err)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	for f, o := range sets {
		if _, err := Open(o); err == nil || !strings.Contains(err.Error(), "temporary file in "+dir+" ") || !strings.HasPrefix(err.Error(), "dataset: ") {
			t.Errorf("%s: %v", f, err)
		}
	}
}
