package dataset

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"vlmo-train/data/dataset/internal/fixture"
)

// tableRow is a row of expected.json: binary is {len, sha256}.
type tableRow map[string]any

func (r tableRow) strings(column string) (list []string) {
	for _, v := range listOf(r[column]) {
		if s, ok := v.(string); ok && strings.TrimSpace(s) != "" {
			list = append(list, s)
		}
	}
	return list
}

type tableExpectation struct {
	Note     string
	Expected string
	Optional bool
	Rows     []tableRow
}

// picturesOf returns {len, sha256} of a record's pictures.
func picturesOf(t *testing.T, d recorder, i int) (sums [2]any) {
	t.Helper()
	r, err := d.record(i, true)
	if err != nil {
		t.Fatal(err)
	}
	for k, b := range r.pictures {
		if b.empty() {
			continue
		}
		data, err := b.read()
		if err != nil {
			t.Fatal(err)
		}
		sums[k] = fixture.Plain(data)
	}
	return sums
}

// readable reports whether a row of a caption table can be an example.
func readable(row tableRow) bool {
	v := row["image"]
	if m, ok := v.(map[string]any); ok {
		if bytes, ok := m["bytes"]; ok {
			v = bytes
		}
	}
	m, ok := v.(map[string]any)
	if !ok {
		return v == noPicture && len(row.strings("caption")) > 0
	}
	return m["len"] != 0.0
}

func TestArrowFixtures(t *testing.T) {
	dir := fixture.Dir("arrow")
	var expected map[string]tableExpectation
	fixture.ReadJSON(t, filepath.Join(dir, "expected.json"), &expected)
	for name, want := range expected {
		t.Run(name, func(t *testing.T) { testTable(t, filepath.Join(dir, filepath.FromSlash(name)), want) })
	}
}

func TestParquetFixtures(t *testing.T) {
	dir := fixture.Dir("parquet")
	var expected map[string]tableExpectation
	fixture.ReadJSON(t, filepath.Join(dir, "expected.json"), &expected)
	for name, want := range expected {
		t.Run(name, func(t *testing.T) { testTable(t, filepath.Join(dir, filepath.FromSlash(name)), want) })
	}
}

// testTable compares the examples of a table with its rows.
func testTable(t *testing.T, path string, want tableExpectation) {
	o := Options{Path: path}
	if len(want.Rows) > 0 && want.Rows[0]["jpg"] != nil {
		o.Columns = Columns{Image: "jpg", Captions: []string{"txt"}}
		for _, r := range want.Rows {
			r["image"], r["caption"] = r["jpg"], r["txt"]
		}
	}
	set, err := Open(o)
	if err != nil {
		if want.Expected == "ok" && !want.Optional && len(want.Rows) > 0 {
			t.Fatalf("%s: %v", want.Note, err)
		}
		if !strings.Contains(err.Error(), path) {
			t.Errorf("the error does not name the file: %v", err)
		}
		return
	}
	d := set.(*Rows)
	defer d.Close()
	if want.Rows == nil {
		// Damaged inside: every example can be asked for, and an error is that
		// of an example.
		failed := false
		for i := range d.Len() {
			if _, err := d.Example(i); err != nil {
				failed = true
				var bad *BadExampleError
				if !errors.As(err, &bad) || bad.Index != i || bad.Path != path {
					t.Errorf("example %d: %v", i, err)
				}
			}
		}
		if want.Expected == "error" && !failed {
			t.Errorf("%s: read without an error", want.Note)
		}
		return
	}
	i := 0
	for k, row := range want.Rows {
		if row["questions"] != nil {
			for q := range listOf(row["questions"]) {
				testQuestion(t, d, i, row, q)
				i++
			}
			continue
		}
		if i >= d.Len() {
			t.Fatalf("%d examples", d.Len())
		}
		e, err := d.ReadWords(i)
		if err != nil {
			t.Fatal(err)
		}
		if w := row.strings("caption"); !reflect.DeepEqual(e.Captions, w) {
			t.Errorf("row %d: captions %q, want %q", k, e.Captions, w)
		}
		if id := row["image_id"]; id != nil {
			if n, ok := id.(float64); ok {
				id = strconv.Itoa(int(n))
			}
			if e.ID != id || e.Group != id || e.ImageID != id || d.Group(i) != id {
				t.Errorf("row %d: ID %q, group %q, want %q", k, e.ID, e.Group, id)
			}
		}
		if row["x"] != nil {
			var want []Region
			for m, caption := range listOf(row["caption"]) {
				if s, ok := caption.(string); ok && strings.TrimSpace(s) != "" { // a region without words is none
					at := func(column string) int64 { return int64(row[column].([]any)[m].(float64)) }
					want = append(want, Region{at("x"), at("y"), at("width"), at("height")})
				}
			}
			if !reflect.DeepEqual(e.Regions, want) {
				t.Errorf("row %d: regions %v, want %v", k, e.Regions, want)
			}
		} else if e.Regions != nil {
			t.Errorf("row %d: regions %v", k, e.Regions)
		}
		if !readable(row) {
			var bad *BadExampleError
			if _, err := d.Example(i); !errors.As(err, &bad) {
				t.Errorf("row %d: no error of an example without picture, but %v", k, err)
			}
			i++
			continue
		}
		var sum any = row["image"]
		if m, ok := sum.(map[string]any); ok && m["bytes"] != nil {
			sum = m["bytes"]
		} else if sum == noPicture {
			sum = nil
		}
		if got := picturesOf(t, d, i); !reflect.DeepEqual(got, [2]any{sum, nil}) {
			t.Errorf("row %d: picture %v, want %v", k, got, sum)
		}
		i++
	}
	if d.Len() != i {
		t.Errorf("%d examples, want %d", d.Len(), i)
	}
}

// testQuestion compares example i with question q of a row.
func testQuestion(t *testing.T, d *Rows, i int, row tableRow, q int) {
	t.Helper()
	e, err := d.ReadWords(i)
	if err != nil {
		t.Fatal(err)
	}
	want := &Question{Text: row["questions"].([]any)[q].(string)}
	var pictures [2]any
	if row["identifier"] != nil {
		pair := row["identifier"].(string)
		answer := row["answers"].([]any)[q].(string)
		want.Answers, want.Scores, want.Labels = []string{answer}, []float32{1}, []int32{0}
		if answer == "True" {
			want.Labels[0] = 1
		}
		if id := pair + "-" + strconv.Itoa(q); e.ID != id || e.ImageID != pair || d.Group(i) != pair {
			t.Errorf("ID %q of pictures %q, want %q of %q", e.ID, e.ImageID, id, pair)
		}
		pictures = [2]any{row["image_0"], row["image_1"]}
	} else {
		want.ID = int64(row["question_id"].([]any)[q].(float64))
		if answers := row["answers"].([]any); len(answers) > 0 {
			for k, a := range answers[q].([]any) {
				want.Answers = append(want.Answers, a.(string))
				want.Labels = append(want.Labels, int32(row["answer_labels"].([]any)[q].([]any)[k].(float64)))
				want.Scores = append(want.Scores, float32(row["answer_scores"].([]any)[q].([]any)[k].(float64)))
			}
		}
		image := strconv.Itoa(int(row["image_id"].(float64)))
		if id := strconv.FormatInt(want.ID, 10); e.ID != id || e.ImageID != image || e.Group != image {
			t.Errorf("ID %q of picture %q, want %q of %q", e.ID, e.ImageID, id, image)
		}
		pictures[0] = row["image"]
	}
	if !reflect.DeepEqual(e.Question, want) {
		t.Errorf("question %+v, want %+v", e.Question, want)
	}
	if got := picturesOf(t, d, i); !reflect.DeepEqual(got, pictures) {
		t.Errorf("pictures %v, want %v", got, pictures)
	}
}

// Several files are one set in the order of their names, and those without rows
// do no harm.
func TestArrowFolder(t *testing.T) {
	dir := t.TempDir()
	total := 0
	for i, name := range []string{"coco_caption_karpathy_train.arrow", "empty/coco_caption_karpathy_restval.arrow", "coco_caption_karpathy_restval.arrow"} {
		from := filepath.Join(fixture.Dir("arrow"), filepath.FromSlash(name))
		data, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(i)+".arrow"), data, 0o666); err != nil {
			t.Fatal(err)
		}
		if d, err := OpenArrow(Options{Path: from}); err == nil {
			total += d.Len()
			d.Close()
		}
	}
	for _, path := range []string{dir, filepath.Join(dir, "*.arrow")} {
		d, err := Open(Options{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		seen := make(map[string]bool)
		for i := range d.Len() {
			e, err := d.Example(i)
			if err != nil {
				t.Fatal(err)
			}
			seen[e.ID] = true
		}
		if d.Len() != total || len(seen) != total {
			t.Errorf("%s: %d examples, %d IDs, want %d", path, d.Len(), len(seen), total)
		}
		d.(*Rows).Close()
	}
}

// A file without rows is no set, and does no harm beside others.
func TestEmptyTable(t *testing.T) {
	dir := fixture.Dir("arrow")
	empty := filepath.Join(dir, "empty", "coco_caption_karpathy_restval.arrow")
	if _, err := Open(Options{Path: empty}); !errors.Is(err, ErrEmpty) {
		t.Errorf("error %v", err)
	}
	if _, err := OpenSet(Options{}, empty, empty); !errors.Is(err, ErrEmpty) {
		t.Errorf("error %v", err)
	}
	s, err := OpenSet(Options{}, empty, filepath.Join(dir, "coco_caption_karpathy_{train,val}.arrow"))
	if err != nil {
		t.Fatal(err)
	}
	if d, ok := AsDataset(s); !ok || d.Len() == 0 {
		t.Error("no examples")
	}
}

// A region without words is none, and the others keep their places.
func TestBlankRegion(t *testing.T) {
	root := write(t, "images/VG_100K/1.jpg", string(picture(t, 2, 1, 7)), "annotations/region_descriptions.json", `[{"regions": [
		{"image_id": 1, "phrase": "one", "x": 1, "y": 2, "width": 3, "height": 4},
		{"image_id": 1, "phrase": " ", "x": 5, "y": 6, "width": 7, "height": 8},
		{"image_id": 1, "phrase": "two", "x": 9, "y": 10, "width": 11, "height": 12}]}]`)
	out := t.TempDir()
	if err := Convert(t.Context(), Conversion{Format: FormatVG, Root: root, Out: out}); err != nil {
		t.Fatal(err)
	}
	d, err := OpenArrow(Options{Path: filepath.Join(out, "vg.arrow")})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	e, err := d.Example(0)
	if err != nil || !reflect.DeepEqual(e.Captions, []string{"one", "two"}) || !reflect.DeepEqual(e.Regions, []Region{{1, 2, 3, 4}, {9, 10, 11, 12}}) {
		t.Errorf("%q, %v, %v", e.Captions, e.Regions, err)
	}
}

func TestSplitOfNoSplits(t *testing.T) {
	_, err := Open(Options{Path: filepath.Join(fixture.Dir("arrow"), "vg.arrow"), Split: "train"})
	if err == nil || !strings.Contains(err.Error(), "format arrow have no splits") {
		t.Errorf("error %v", err)
	}
}

func TestRowsColumns(t *testing.T) {
	path := filepath.Join(fixture.Own("parquet"), "list-00000-of-00001.parquet")
	for _, c := range []struct {
		columns Columns
		want    string
	}{
		{Columns{Image: "picture"}, `no column "picture" among`},
		{Columns{Captions: []string{"caption", "label"}}, `no column "label" among`},
		{Columns{Captions: []string{"image_id"}}, "captions: a value of Go type int64, want a text"},
		{Columns{Questions: "caption", Answers: "image_id"}, "answers is no list"},
	} {
		d, err := Open(Options{Path: path, Columns: c.columns})
		if err == nil {
			_, err = d.Example(0)
			d.(*Rows).Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: error %v, want %q", c.columns, err, c.want)
		}
	}
	// Two columns of captions, and the pictures' paths instead of their bytes.
	d, err := OpenParquet(Options{Path: path, Columns: Columns{Captions: []string{"caption", "caption"}, Group: "image_id"}})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	e, err := d.Example(0)
	if err != nil || len(e.Captions) == 0 || len(e.Captions)%2 != 0 || e.Image == nil {
		t.Errorf("%+v, %v", e, err)
	}
}
