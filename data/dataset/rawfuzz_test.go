package dataset

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"vlmo-train/data/dataset/internal/fixture"
)

// seed adds the files of the raw fixtures that match the patterns.
func seed(f *testing.F, add func(data []byte), patterns ...string) {
	f.Helper()
	n := 0
	for _, pattern := range patterns {
		paths, err := filepath.Glob(filepath.Join(fixture.Dir("raw"), filepath.FromSlash(pattern)))
		if err != nil {
			f.Fatal(err)
		}
		for _, path := range paths {
			data, err := os.ReadFile(path)
			if err != nil {
				f.Fatal(err)
			}
			add(data)
			n++
		}
	}
	if n == 0 {
		f.Fatal("no seeds")
	}
}

// The elements of a JSON array are where eachElement says, and so are Visual
// Genome's runs of regions.
func FuzzElements(f *testing.F) {
	seed(f, func(data []byte) {
		for _, key := range []string{"", "images", "questions", "annotations"} {
			f.Add(data, key)
		}
	}, "*/*.json", "*/*/*.json")
	f.Fuzz(func(t *testing.T, data []byte, key string) {
		r := bytes.NewReader(data)
		var vg VG
		eachElement(bytes.NewReader(data), key, func(x extent, raw json.RawMessage) error {
			b, err := x.read(r)
			if err != nil || !bytes.Equal(b, raw) || !json.Valid(b) {
				t.Fatalf("element at %+v is %q, %v, want %q", x, b, err, raw)
			}
			pair(raw)
			return vg.index(x, raw)
		})
		defer vg.regions.Close()
		vg.regions.done(func(_ int, _ bool, item []uint64) error {
			x := extentOf(item)
			b, err := x.read(r)
			var list []region
			if err == nil {
				err = json.Unmarshal(append(append([]byte{'['}, b...), ']'), &list)
			}
			if err != nil || len(list) == 0 {
				t.Fatalf("regions at %+v: %q, %v", x, b, err)
			}
			for _, l := range list {
				if *l.Image != *list[0].Image {
					t.Fatalf("regions of pictures %d and %d in one run", *list[0].Image, *l.Image)
				}
				if uint64(*l.Image) != item[2] {
					t.Fatalf("region of picture %d is under %d", *l.Image, item[2])
				}
			}
			return nil
		})
	})
}

// Every line of a table that is indexed can be read again.
func FuzzTable(f *testing.F) {
	seed(f, func(data []byte) {
		for _, comma := range []bool{false, true} {
			f.Add(data, comma, false)
			f.Add(data, comma, true)
		}
	}, "tsv/*.tsv")
	f.Add([]byte("image,caption\r\na.jpg,\"a \"\"b\"\"\nc\"\r\n\r\nb.jpg,\r\n"), true, false)
	f.Fuzz(func(t *testing.T, data []byte, comma, names bool) {
		d := &Table{f: bytes.NewReader(data), path: "fuzz", comma: comma}
		var c Columns
		if names {
			c.Names = []string{"image", "caption"}
		}
		if err := d.index(bytes.NewReader(data), &c); err != nil {
			return
		}
		for i := range d.Len() {
			// Without a blank caption or picture, a record has no error.
			if r, err := d.record(i, true); err != nil && r.ImageID != "" {
				t.Fatalf("example %d: %v", i, err)
			}
			d.Group(i)
		}
	})
}

// Every line of a list of JSON objects that is taken has an ID and a group.
func FuzzJSONLine(f *testing.F) {
	for _, name := range []string{"train.jsonl", "test.jsonl"} {
		data, err := os.ReadFile(emoji + name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data[:2000])
	}
	f.Add([]byte("\uFEFF{\"image\": \"a.png\", \"box\": [0, 0, 1, 1], \"id\": 7, \"concept\": 1e3, \"caption\": \"x\"}\r\n\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		eachLine(bytes.NewReader(data), maxLine, func(_ int, off int64, line []byte) error {
			if !bytes.Equal(data[off:off+int64(len(line))], line) {
				t.Fatalf("line at %d is not %q", off, line)
			}
			r, err := parse(line)
			if err == nil && (r.id == "" || r.group == "") {
				t.Fatalf("%q: %+v", line, r)
			}
			var l nlvr2Line
			json.Unmarshal(line, &l)
			l.pair()
			return err
		})
	})
}
