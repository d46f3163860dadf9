package dataset

import (
	"errors"
	"io"
	"path/filepath"
	"reflect"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"

	"vlmo-train/data/dataset/internal/fixture"
)

// rawSums returns the SHA-256 of a record's pictures.
func rawSums(t *testing.T, d recorder, i int) (sums [2]string) {
	t.Helper()
	r, err := d.record(i, true)
	if err != nil {
		t.Fatal(err)
	}
	for k, b := range r.pictures {
		if !b.empty() {
			data, err := b.read()
			if err != nil {
				t.Fatal(err)
			}
			sums[k] = fixture.Sum(data)
		}
	}
	return sums
}

// openRaw opens a split of a raw set by its format's name, and without it where the
// layout says which it is.
func openRaw(t *testing.T, format Format, split string) Dataset {
	t.Helper()
	o := Options{Path: filepath.Join(fixture.Dir("raw"), string(format)), Split: split}
	d, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	o.Format = format
	e, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	if reflect.TypeOf(d) != reflect.TypeOf(e) || d.Len() != e.Len() {
		t.Errorf("%T by its layout, %T by its name", d, e)
	}
	e.(io.Closer).Close()
	t.Cleanup(func() { d.(io.Closer).Close() })
	return d
}

type captioned struct {
	Caption             []string
	Width, Height, X, Y []int64
	SHA256              string
}

// testCaptioned compares a set with rows by ID.
func testCaptioned(t *testing.T, d Dataset, want map[string]captioned) {
	t.Helper()
	if d.Len() != len(want) {
		t.Errorf("%d examples, want %d", d.Len(), len(want))
	}
	seen := make(map[string]bool)
	for i := range d.Len() {
		e, err := Words(d, i)
		if err != nil {
			t.Fatal(err)
		}
		w, ok := want[e.ID]
		if !ok || seen[e.ID] {
			t.Errorf("example %q is not wanted (or twice)", e.ID)
			continue
		}
		seen[e.ID] = true
		if !reflect.DeepEqual(e.Captions, w.Caption) {
			t.Errorf("%s: captions %q, want %q", e.ID, e.Captions, w.Caption)
		}
		if e.Group != e.ID || e.ImageID != e.ID || d.Group(i) != e.ID {
			t.Errorf("%s: group %q, picture %q", e.ID, e.Group, e.ImageID)
		}
		if got := rawSums(t, d.(recorder), i); got != [2]string{w.SHA256, ""} {
			t.Errorf("%s: picture %v, want %s", e.ID, got, w.SHA256)
		}
		var regions []Region
		for k := range w.X {
			regions = append(regions, Region{w.X[k], w.Y[k], w.Width[k], w.Height[k]})
		}
		if !reflect.DeepEqual(e.Regions, regions) {
			t.Errorf("%s: regions %v, want %v", e.ID, e.Regions, regions)
		}
	}
}

func TestRawCaptions(t *testing.T) {
	for _, format := range []Format{FormatCOCO, FormatF30K, FormatGCC, FormatSBU} {
		var want struct {
			Splits  map[string]map[string]captioned
			Missing []string `json:"named_in_json_but_no_file"`
		}
		fixture.ReadJSON(t, filepath.Join(fixture.Dir("raw"), "expected", string(format)+".json"), &want)
		if len(want.Splits) == 0 {
			t.Fatal("no splits")
		}
		for split, rows := range want.Splits {
			t.Run(string(format)+"/"+split, func(t *testing.T) {
				// restval is in train.
				if split == "train" {
					for id, row := range want.Splits["restval"] {
						rows[id] = row
					}
				}
				testCaptioned(t, openRaw(t, format, split), rows)
			})
		}
		if format == FormatCOCO {
			missing := 0
			for split := range want.Splits {
				if split != "restval" {
					n, name := openRaw(t, format, split).(*Karpathy).Incomplete()
					if missing += n; n > 0 && !slices.Contains(want.Missing, filepath.Base(name)) {
						t.Errorf("%s is missing, want %q", name, want.Missing)
					}
				}
			}
			if missing != len(want.Missing) {
				t.Errorf("%d pictures are missing, want %q", missing, want.Missing)
			}
		}
	}
}

func TestRawVG(t *testing.T) {
	var want struct{ Rows map[string]captioned }
	fixture.ReadJSON(t, filepath.Join(fixture.Dir("raw"), "expected", "vg.json"), &want)
	testCaptioned(t, openRaw(t, FormatVG, ""), want.Rows)
}

func TestRawNLVR2(t *testing.T) {
	var want struct {
		Splits map[string]map[string]struct {
			Questions, Answers []string
			SHA0               string `json:"sha256_0"`
			SHA1               string `json:"sha256_1"`
		}
	}
	fixture.ReadJSON(t, filepath.Join(fixture.Dir("raw"), "expected", "nlvr2.json"), &want)
	if len(want.Splits) == 0 {
		t.Fatal("no splits")
	}
	for split, rows := range want.Splits {
		t.Run(split, func(t *testing.T) {
			d := openRaw(t, FormatNLVR2, split)
			n := 0
			for _, r := range rows {
				n += len(r.Questions)
			}
			if d.Len() != n {
				t.Errorf("%d examples, want %d", d.Len(), n)
			}
			next := make(map[string]int)
			for i := range d.Len() {
				e, err := d.Example(i)
				if err != nil {
					t.Fatal(err)
				}
				w, ok := rows[e.ImageID]
				k := next[e.ImageID]
				next[e.ImageID]++
				if !ok || k >= len(w.Questions) {
					t.Fatalf("example %q is not wanted", e.ID)
				}
				label := int32(0)
				if w.Answers[k] == "True" {
					label = 1
				}
				q := &Question{Text: w.Questions[k], Answers: w.Answers[k : k+1], Labels: []int32{label}, Scores: []float32{1}}
				if !reflect.DeepEqual(e.Question, q) {
					t.Errorf("%s: %+v, want %+v", e.ID, e.Question, q)
				}
				if !strings.HasPrefix(e.ID, e.ImageID+"-") || e.Group != e.ImageID || d.Group(i) != e.ImageID || e.Image == nil || e.Image2 == nil {
					t.Errorf("example %q of %q in group %q", e.ID, e.ImageID, e.Group)
				}
				if got := rawSums(t, d.(recorder), i); got != [2]string{w.SHA0, w.SHA1} {
					t.Errorf("%s: pictures %v, want %s and %s", e.ID, got, w.SHA0, w.SHA1)
				}
			}
		})
	}
}

type vqaExpectation struct {
	Labels  map[string]int32   `json:"ans2label"`
	Dropped map[string][]int64 `json:"dropped_questions"`
	Splits  map[string]map[string]struct {
		SHA256    string
		Questions []struct {
			ID       int64 `json:"question_id"`
			Question string
			Answers  []string
			Labels   []int32
			Scores   []float64
		}
	}
}

func TestRawVQA(t *testing.T) {
	var want vqaExpectation
	fixture.ReadJSON(t, filepath.Join(fixture.Dir("raw"), "expected", "vqa.json"), &want)
	if len(want.Splits) == 0 {
		t.Fatal("no splits")
	}
	for split, rows := range want.Splits {
		t.Run(split, func(t *testing.T) {
			d := openRaw(t, FormatVQA, split).(*VQA)
			got := make(map[string][]int64)
			for i := range d.Len() {
				e, err := d.Example(i)
				if err != nil {
					t.Fatal(err)
				}
				w, ok := rows[e.ImageID]
				k := len(got[e.ImageID])
				if !ok || k >= len(w.Questions) {
					t.Fatalf("question %s of picture %s is not wanted", e.ID, e.ImageID)
				}
				got[e.ImageID] = append(got[e.ImageID], e.Question.ID)
				q := w.Questions[k]
				wq := &Question{ID: q.ID, Text: q.Question, Answers: q.Answers, Labels: q.Labels}
				for _, s := range q.Scores {
					wq.Scores = append(wq.Scores, float32(s))
				}
				if !reflect.DeepEqual(e.Question, wq) || e.ID != strconv.FormatInt(q.ID, 10) || e.Group != e.ImageID {
					t.Errorf("%s: %+v, want %+v", e.ID, e.Question, wq)
				}
				if s := rawSums(t, d, i); s != [2]string{w.SHA256, ""} {
					t.Errorf("%s: picture %v, want %s", e.ID, s, w.SHA256)
				}
			}
			n := 0
			for id, w := range rows {
				if len(got[id]) != len(w.Questions) {
					t.Errorf("picture %s: questions %v, want %d", id, got[id], len(w.Questions))
				}
				n += len(w.Questions)
			}
			if d.Len() != n {
				t.Errorf("%d questions, want %d", d.Len(), n)
			}
			if d.Unanswered() != len(want.Dropped[split]) {
				t.Errorf("%d questions without an answer in the vocabulary, want %d", d.Unanswered(), len(want.Dropped[split]))
			}
			if v := d.Vocabulary(); v != nil {
				for a, l := range want.Labels {
					if got, ok := v.Label(a); !ok || got != l {
						t.Errorf("label of %q is %d, want %d", a, got, l)
					}
				}
				if v.Len() != len(want.Labels) {
					t.Errorf("%d answers in the vocabulary, want %d", v.Len(), len(want.Labels))
				}
			} else if split == "train" || split == "val" {
				t.Error("no vocabulary")
			}
		})
	}
}

// Normalised look-up finds an answer for every question that raw look-up does.
func TestVQANormalized(t *testing.T) {
	o := Options{Path: filepath.Join(fixture.Own("raw"), "vqa"), Split: "train"}
	raw, err := OpenVQA(o)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	o.NormalizeAnswers = true
	d, err := OpenVQA(o)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if d.Len()+d.Unanswered() != raw.Len()+raw.Unanswered() || d.Unanswered() >= raw.Unanswered() {
		t.Errorf("%d of %d questions are unanswered, %d of %d with raw answers", d.Unanswered(), d.Len(), raw.Unanswered(), raw.Len())
	}
}

func TestRestVal(t *testing.T) {
	for _, test := range []struct{ pictures, trainable int }{{RestVal + 7, 7}, {RestVal, 0}, {5, 0}} {
		var d VQA
		defer d.Close()
		want := -1 // questions of the pictures before
		n := 0
		for image := range test.pictures {
			if image == test.trainable {
				want = n
			}
			for range 1 + image%3 {
				if err := d.items.add(strconv.Itoa(image), extent{}, uint64(image), 0, 0); err != nil {
					t.Fatal(err)
				}
				n++
			}
		}
		if err := d.items.done(nil); err != nil {
			t.Fatal(err)
		}
		if got, err := d.restVal(); err != nil || got != want {
			t.Errorf("%d pictures: rest_val begins at question %d, %v, want %d", test.pictures, got, err, want)
		}
	}
}

func TestTSV(t *testing.T) {
	dir := filepath.Join(fixture.Dir("raw"), "tsv")
	var want struct {
		Lines   []struct{ Image, Caption string }
		ByImage map[string]captioned `json:"by_image"`
		Missing []string
	}
	fixture.ReadJSON(t, filepath.Join(fixture.Dir("raw"), "expected", "tsv.json"), &want)
	d, err := Open(Options{Path: filepath.Join(dir, "captions.tsv"), Images: filepath.Join(dir, "images")})
	if err != nil {
		t.Fatal(err)
	}
	defer d.(io.Closer).Close()
	var missing []string
	for i := range d.Len() {
		e, err := d.Example(i)
		var bad *BadExampleError
		if errors.As(err, &bad) {
			missing = append(missing, bad.ID)
			if filepath.Base(bad.Path) != bad.ID {
				t.Errorf("%v", bad)
			}
			if e, err = Words(d, i); err != nil {
				t.Fatal(err)
			}
		} else if err != nil {
			t.Fatal(err)
		} else if got := rawSums(t, d.(recorder), i); got[0] != want.ByImage[e.ID].SHA256 {
			t.Errorf("%s: picture %s", e.ID, got[0])
		}
		if w := captions(want.Lines, e.ID); !reflect.DeepEqual(e.Captions, w) {
			t.Errorf("%s: captions %q, want %q", e.ID, e.Captions, w)
		}
	}
	sort.Strings(missing)
	sort.Strings(want.Missing)
	if d.Len() != len(want.ByImage) || !reflect.DeepEqual(missing, want.Missing) {
		t.Errorf("%d examples, missing %q, want %d and %q", d.Len(), missing, len(want.ByImage), want.Missing)
	}

	// The same lines with CR LF and a byte order mark, and without a header.
	for name, c := range map[string]Columns{"captions_crlf_bom.tsv": {}, "gcc_style.tsv": {Names: []string{"caption", "image"}}} {
		d, err := OpenTSV(Options{Path: filepath.Join(dir, name), Images: filepath.Join(dir, "images"), Columns: c})
		if err != nil {
			t.Fatal(err)
		}
		for i := range d.Len() {
			e, err := d.Example(i)
			if err != nil {
				t.Fatal(err)
			}
			w := want.ByImage[filepath.Base(e.ID)]
			if len(e.Captions) != 1 || e.Captions[0] != captions(want.Lines, filepath.Base(e.ID))[0] {
				t.Errorf("%s: %s: captions %q", name, e.ID, e.Captions)
			}
			if got := rawSums(t, d, i); got[0] != w.SHA256 {
				t.Errorf("%s: %s: picture %s, want %s", name, e.ID, got[0], w.SHA256)
			}
		}
		if d.Len() == 0 {
			t.Errorf("%s: no examples", name)
		}
		d.Close()
	}

	_, err = OpenTSV(Options{Path: filepath.Join(dir, "bad_columns.tsv"), Images: filepath.Join(dir, "images")})
	if err == nil || !strings.Contains(err.Error(), "bad_columns.tsv:3: ") {
		t.Errorf("a line without tab: %v", err)
	}
}

// captions returns the captions of a picture that are not blank.
func captions(lines []struct{ Image, Caption string }, image string) (list []string) {
	for _, l := range lines {
		if l.Image == image && strings.TrimSpace(l.Caption) != "" {
			list = append(list, l.Caption)
		}
	}
	return list
}

// The vocabulary of the raw set is found in its Arrow files.
func TestAnswersOf(t *testing.T) {
	set, err := OpenVQA(Options{Path: filepath.Join(fixture.Own("raw"), "vqa"), Split: "train"})
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	raw, err := AnswersOf(set)
	if err != nil {
		t.Fatal(err)
	}
	var tables []Dataset
	for _, name := range []string{"vqav2_train.arrow", "vqav2_val.arrow"} {
		d, err := OpenArrow(Options{Path: filepath.Join(fixture.Own("arrow"), name)})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		tables = append(tables, d)
	}
	v, err := AnswersOf(tables...)
	if err != nil || !reflect.DeepEqual(v.Answers(), raw.Answers()) {
		t.Errorf("answers %v, %v, want %q", v, err, raw.Answers())
	}
	if _, err := AnswersOf(openRaw(t, FormatCOCO, "train")); err == nil || !strings.Contains(err.Error(), "asks no question") {
		t.Errorf("captions: %v", err)
	}
}
