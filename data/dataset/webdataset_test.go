package dataset

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"vlmo-train/data/dataset/internal/fixture"
	"vlmo-train/data/dataset/internal/tarfile"
	"vlmo-train/data/img"
)

// wdExpected is what the webdataset library reads of a shard.
type wdExpected struct {
	Note            string
	Samples         []map[string]json.RawMessage
	Webdataset      string   `json:"webdataset_reads"`
	CompleteWithTxt []string `json:"complete_with_txt"`
	MinSamples      int      `json:"min_samples"`
}

func webdatasetFixtures(t *testing.T) map[string]wdExpected {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(fixture.Dir("webdataset"), "expected.json"))
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]wdExpected
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatal(err)
	}
	if len(all) == 0 {
		t.Fatal("no fixtures")
	}
	return all
}

// wdMembers reads a shard's members by our reader, grouped by key where adjacent.
func wdMembers(t *testing.T, path string) (keys []string, samples []map[string][]byte, damage error) {
	t.Helper()
	f, err := openTar(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.damage != nil {
		t.Fatal(f.damage)
	}
	damage = tarfile.Each(f, f.size, func(m tarfile.Member) {
		key, ext, ok := tarfile.SplitKey(m.Name)
		if !ok {
			return
		}
		if len(keys) == 0 || keys[len(keys)-1] != key {
			keys = append(keys, key)
			samples = append(samples, map[string][]byte{})
		}
		b := make([]byte, m.Size)
		if _, err := f.ReadAt(b, m.Off); err != nil {
			t.Fatal(err)
		}
		samples[len(samples)-1][ext] = b
	})
	return keys, samples, damage
}

// Members of the shards are those that the library wrote.
func TestWebDatasetMembers(t *testing.T) {
	for name, want := range webdatasetFixtures(t) {
		path := filepath.Join(fixture.Dir("webdataset"), name)
		keys, samples, damage := wdMembers(t, path)
		if truncated := want.MinSamples > 0; truncated != (damage != nil) {
			t.Errorf("%s: %v", name, damage)
		} else if truncated {
			// The last may be incomplete.
			want.Samples = want.Samples[:max(want.MinSamples, min(len(samples), len(want.Samples)))]
			samples = samples[:min(len(samples), len(want.Samples))]
		}
		if len(samples) != len(want.Samples) {
			t.Errorf("%s: %d samples, want %d: %s", name, len(samples), len(want.Samples), want.Note)
			continue
		}
		for i, w := range want.Samples {
			var key string
			if err := json.Unmarshal(w["__key__"], &key); err != nil || key != keys[i] {
				t.Errorf("%s: key %q, want %q, %v", name, keys[i], key, err)
			}
			if len(samples[i]) != len(w)-1 {
				t.Errorf("%s: sample %q has %d members, want %d", name, key, len(samples[i]), len(w)-1)
			}
			for ext, v := range w {
				if ext == "__key__" {
					continue
				}
				got := samples[i][ext]
				var picture struct {
					Len    int
					SHA256 string
				}
				var text string
				switch {
				case json.Unmarshal(v, &picture) == nil && picture.SHA256 != "":
					if len(got) != picture.Len || sum(got) != picture.SHA256 {
						t.Errorf("%s: %s.%s: %d bytes, SHA-256 %s, want %+v", name, key, ext, len(got), sum(got), picture)
					}
				case json.Unmarshal(v, &text) == nil:
					if string(got) != text {
						t.Errorf("%s: %s.%s: %q, want %q", name, key, ext, got, text)
					}
				default:
					var a, b any
					if err := errors.Join(json.Unmarshal(got, &a), json.Unmarshal(v, &b)); err != nil || !reflect.DeepEqual(a, b) {
						t.Errorf("%s: %s.%s: %s, want %s, %v", name, key, ext, got, v, err)
					}
				}
			}
		}
	}
}

// readAll reads every example of s.
func readAll(t *testing.T, s Sharded) (list []Example, bad []error) {
	t.Helper()
	d, err := Index(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for i := range d.Len() {
		e, err := d.Example(i)
		words, werr := Words(d, i)
		if err != nil {
			var b *BadExampleError
			if !errors.As(err, &b) {
				t.Fatalf("example %d: %v", i, err)
			}
			bad = append(bad, err)
			continue
		}
		if g := d.Group(i); g != e.Group {
			t.Errorf("example %q: Group %q, want %q", e.ID, g, e.Group)
		}
		picture := e
		picture.Image, picture.Image2 = nil, nil
		if werr != nil || !reflect.DeepEqual(words, picture) {
			t.Errorf("words of %q: %+v, %v, want %+v", e.ID, words, werr, picture)
		}
		list = append(list, e)
	}
	return list, bad
}

// Examples are those of the fixtures that have a picture and a text.
func TestWebDatasetExamples(t *testing.T) {
	for name, want := range webdatasetFixtures(t) {
		path := filepath.Join(fixture.Dir("webdataset"), name)
		var columns Columns
		caption := "txt"
		for _, w := range want.Samples {
			if w["caption.txt"] != nil {
				caption = "caption.txt"
				columns.Captions = []string{caption}
			}
		}
		d, err := OpenWebDataset(Options{Columns: columns}, path)
		if err != nil {
			t.Fatal(err)
		}
		got, bad := readAll(t, d)
		var wanted []Example
		for _, w := range want.Samples {
			var key, text string
			if w[caption] == nil || !slices.ContainsFunc(wdImages, func(ext string) bool { return w[ext] != nil }) {
				continue
			}
			if err := errors.Join(json.Unmarshal(w["__key__"], &key), json.Unmarshal(w[caption], &text)); err != nil {
				t.Fatal(err)
			}
			id := path + "/" + key
			wanted = append(wanted, Example{ID: id, Group: id, Captions: []string{strings.TrimSpace(text)}})
		}
		if want.MinSamples > 0 {
			if len(got) < want.MinSamples || len(got) > len(wanted) {
				t.Errorf("%s: %d examples, want %d to %d", name, len(got), want.MinSamples, len(wanted))
				continue
			}
			wanted = wanted[:len(got)]
		} else if n, _ := d.Incomplete(); n != len(want.Samples)-len(wanted) {
			t.Errorf("%s: %d incomplete samples, want %d", name, n, len(want.Samples)-len(wanted))
		}
		if n := 0; want.MinSamples == 0 && len(bad) != n || want.MinSamples > 0 && len(bad) != 1 {
			t.Errorf("%s: bad examples %v", name, bad)
		}
		if want.CompleteWithTxt != nil && len(got) != len(want.CompleteWithTxt) {
			t.Errorf("%s: %d examples, want %q", name, len(got), want.CompleteWithTxt)
		}
		for i := range got {
			if m := got[i].Image; m == nil || len(m.Pix) == 0 {
				t.Errorf("%s: picture %+v", name, m)
			}
			got[i].Image = nil
		}
		if !reflect.DeepEqual(got, wanted) {
			t.Errorf("%s: examples\n%+v\nwant\n%+v", name, got, wanted)
		}
	}
}

// A member of a tar file of the tests.
type member struct{ name, content string }

func tarOf(t testing.TB, members ...member) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		h := &tar.Header{Name: m.name, Size: int64(len(m.content)), Mode: 0o644, Typeflag: tar.TypeReg}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, m.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zipped(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	w.Write(b)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zstandard(t testing.TB, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return w.EncodeAll(b, nil)
}

// testdata/000000.tar.zst is the fixture of that name, compressed by the
// command zstd 1.5.4 (-19).
func TestWebDatasetZstandard(t *testing.T) {
	packed := filepath.Join("testdata", "000000.tar.zst")
	plain := filepath.Join(fixture.Own("webdataset"), "000000.tar")
	var want []Example
	for _, path := range []string{plain, packed} {
		d, err := OpenSet(Options{}, path)
		if err != nil {
			t.Fatal(err)
		}
		got, bad := readAll(t, d)
		if len(bad) > 0 || len(got) == 0 {
			t.Fatalf("%s: %d examples, %v", path, len(got), bad)
		}
		for i := range got {
			got[i].ID = strings.TrimPrefix(got[i].ID, path)
			got[i].Group = strings.TrimPrefix(got[i].Group, path)
		}
		if path == plain {
			want = got
		} else if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, want %+v", path, got, want)
		}
	}
	// Frames to be skipped come first, as pzstd writes them.
	b, err := os.ReadFile(packed)
	if err != nil {
		t.Fatal(err)
	}
	dir := write(t, "a.tar.zst", "\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"+string(b))
	d, err := OpenSet(Options{}, dir)
	if err != nil {
		t.Fatal(err)
	}
	if got, bad := readAll(t, d); len(bad) > 0 || len(got) != len(want) {
		t.Errorf("behind a skippable frame: %d examples, %v", len(got), bad)
	}
	// A window of a gigabyte is refused before it is made.
	d, err = OpenSet(Options{}, write(t, "b.tar.zst", "\x28\xb5\x2f\xfd\x00\xa0\x01\x00\x00"))
	if err != nil {
		t.Fatal(err)
	}
	if got, bad := readAll(t, d); len(got) != 0 || len(bad) != 1 || !strings.Contains(bad[0].Error(), "window") {
		t.Errorf("a window of 1 GiB: %d examples, %v", len(got), bad)
	}
}

func TestWebDatasetColumns(t *testing.T) {
	png := picture(t, 2, 1, 7)
	whole := tarOf(t,
		member{"a.png", png}, member{"a.cls", "3"}, member{"a.json", `{"caption":" one ","alt":["x"," "],"tags":["k","l"]}`}, member{"a.thumb.png", "no picture"},
		member{"b.PNG", png}, member{"b.cls", "3"}, member{"b.json", `{"captions":["two","three"],"alt":"y","n":1}`},
		member{"c.png", png}, member{"c.cls", "4"}, member{"c.json", `{"n":1,"caption":null}`},
		member{"d.png", png}, member{"d.cls", "5"}, member{"d.txt", " \n"},
		member{"e.png", png}, member{"e.cls", "6"}, member{"e.txt", "\xff"},
		member{"f.png", "no picture"}, member{"f.cls", "6"}, member{"f.txt", "t"},
		member{"g.png", png}, member{"g.cls", "6"},
		member{"h.png", png}, member{"h.cls", "6"}, member{"h.txt", "t"}, member{"h.png", png},
	)
	path := filepath.Join(write(t, "s.tar", string(whole)), "s.tar")
	for _, c := range []struct {
		columns    Columns
		want       string
		bad        int
		incomplete int
	}{
		{Columns{}, `a "one" [] a;b "two" "three" [] b`, 5, 1},
		{Columns{Group: "cls"}, `a "one" [] 3;b "two" "three" [] 3`, 5, 1},
		{Columns{Captions: []string{"json:alt"}, Keywords: []string{"json:tags"}}, `a "x" "k" "l" a;b "y" [] b`, 1, 5},
		{Columns{Captions: []string{"none"}, Group: "cls"}, `a [] [] 3;b [] [] 3;c [] [] 4;d [] [] 5;e [] [] 6;g [] [] 6`, 2, 0},
		{Columns{Captions: []string{"none"}, Image: "thumb.png"}, ``, 1, 7},
		{Columns{Captions: []string{"txt;json"}}, `a "one" [] a;b "two" "three" [] b`, 5, 1},
	} {
		d, err := OpenWebDataset(Options{Columns: c.columns}, path)
		if err != nil {
			t.Fatal(err)
		}
		list, bad := readAll(t, d)
		var got []string
		quoted := func(s []string) string {
			if len(s) == 0 {
				return "[]"
			}
			return strings.Trim(fmt.Sprintf("%q", s), "[]")
		}
		for _, e := range list {
			if e.Image.W != 2 || e.Image.H != 1 || e.Image.Pix[2] != 7 {
				t.Errorf("picture %+v", e.Image)
			}
			got = append(got, fmt.Sprintf("%s %s %s %s", strings.TrimPrefix(e.ID, path+"/"), quoted(e.Captions), quoted(e.Keywords), strings.TrimPrefix(e.Group, path+"/")))
		}
		n, name := d.Incomplete()
		if strings.Join(got, ";") != c.want || len(bad) != c.bad || n != c.incomplete || (n > 0) != strings.HasPrefix(name, path) {
			t.Errorf("%+v: %s\nwant %s\n%d incomplete, %q, bad %v", c.columns, strings.Join(got, ";"), c.want, n, name, bad)
		}
	}
	for _, c := range []struct {
		paths   []string
		columns Columns
		want    string
	}{
		{nil, Columns{}, "no tar files"},
		{[]string{path, path}, Columns{}, "twice"},
		{[]string{path + "x"}, Columns{}, path + "x"},
		{[]string{filepath.Dir(path)}, Columns{}, "is a folder"},
		{[]string{path, ""}, Columns{}, "empty name"},
		{[]string{path}, Columns{Scores: "s"}, "can be named"},
		{[]string{path}, Columns{Keywords: []string{"a", "b"}}, "one extension"},
	} {
		if _, err := OpenWebDataset(Options{Columns: c.columns}, c.paths...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.paths, err, c.want)
		}
	}
}

// A shard that is cut anywhere gives a prefix of its examples and says so, but
// where a member ends.
func TestWebDatasetCutAnywhere(t *testing.T) {
	png := picture(t, 30, 20, 7)
	var members []member
	var ends [][2]int // from the end of a member's content to that of its padding
	for i := range 4 {
		key := fmt.Sprint(i)
		if i == 2 {
			key = strings.Repeat("long", 50) // takes a header of its own
		}
		members = append(members, member{key + ".png", png}, member{key + ".txt", "t"})
		// A tar file of the members so far ends with two blocks.
		for k, m := range members[len(members)-2:] {
			end := len(tarOf(t, members[:len(members)-1+k]...)) - 1024
			ends = append(ends, [2]int{end - (512-len(m.content)%512)%512, end})
		}
	}
	whole := tarOf(t, members...)
	dir, temporary := t.TempDir(), t.TempDir()
	for _, name := range []string{"TMPDIR", "TMP"} { // of Unix and Windows
		t.Setenv(name, temporary)
	}
	for _, compressed := range []string{"", "gzip", "zstd"} {
		packed := whole
		switch compressed {
		case "gzip":
			packed = zipped(t, whole)
		case "zstd":
			packed = zstandard(t, whole)
		}
		for cut := 0; cut <= len(whole); cut += 128 {
			path := filepath.Join(dir, fmt.Sprintf("%s-%d.tar", compressed, cut))
			b := packed[:len(packed)*cut/len(whole)]
			if err := os.WriteFile(path, b, 0o666); err != nil {
				t.Fatal(err)
			}
			d, err := OpenWebDataset(Options{}, path)
			if err != nil {
				t.Fatal(err)
			}
			list, bad := readAll(t, d)
			for i, e := range list {
				if want := path + "/" + strings.TrimSuffix(members[2*i].name, ".png"); e.ID != want || e.Image.W != 30 {
					t.Fatalf("cut at %d: example %d is %q, want %q", cut, i, e.ID, want)
				}
			}
			intact := cut == 0 || cut == len(whole)
			if compressed == "" {
				intact = intact || cut >= len(whole)-1024 && cut%512 == 0
				for _, e := range ends {
					intact = intact || e[0] <= cut && cut <= e[1]
				}
			}
			if intact != (len(bad) == 0) {
				t.Errorf("cut at %d of %d (%s): %d examples, %v", cut, len(whole), compressed, len(list), bad)
			}
			if cut == len(whole) && len(list) != 4 {
				t.Errorf("%d examples", len(list))
			}
		}
	}
	// Nor does unpacking that ends early leave anything.
	path := filepath.Join(dir, fmt.Sprintf("gzip-%d.tar", len(whole)/128*128))
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	d, err := OpenWebDataset(Options{}, path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Shard(ended, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	if left, err := os.ReadDir(temporary); err != nil || len(left) > 0 {
		t.Errorf("temporary files are left: %v, %v", left, err)
	}
	if err := os.Remove(temporary); err != nil {
		t.Fatal(err)
	}
	want := "dataset: " + path + ": unpacking: temporary file in " + temporary + " (TMPDIR names another folder): "
	if _, err := d.Shard(t.Context(), 0); err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("%v, want %s", err, want)
	}
}

func TestExpand(t *testing.T) {
	dir := write(t, "b1.tar", "", "b2.tar", "", "c.tar", "", "odd{1.tar", "")
	for _, c := range []struct{ pattern, want string }{
		{"x/{008..011}.tar", "x/008.tar x/009.tar x/010.tar x/011.tar"},
		{"{9..11}", "9 10 11"},
		{"{2..0}", "2 1 0"},
		{"{08..9}", "08 09"},
		{"{a,b}{1..2}", "a1 a2 b1 b2"},
		{"{a,{b,c}-{1..2}}.tar", "a.tar b-1.tar b-2.tar c-1.tar c-2.tar"},
		{"{,x}y", "y xy"},
		{"{x}", "{x}"},
		{"{x..y}", "{x..y}"},
		{dir + "/b?.tar", dir + "/b1.tar " + dir + "/b2.tar"},
		{dir + "/{c,b*}.tar", dir + "/c.tar " + dir + "/b1.tar " + dir + "/b2.tar"},
		{dir + "/odd{1.tar", dir + "/odd{1.tar"},
		{"plain", "plain"},
	} {
		got, err := Expand(c.pattern)
		if err != nil || strings.Join(got, " ") != c.want {
			t.Errorf("Expand(%q) = %q, %v, want %s", c.pattern, got, err, c.want)
		}
	}
	for _, c := range []struct{ pattern, want string }{
		{"{a", "not closed"}, {"{a,{b}", "not closed"}, {"{0..99999999}", "more than"}, {"{0..999}{0..999}{0..999}", "more than"},
		{"{0..99999999999999999999}", "range"}, {dir + "/z*.tar", "no file fits"}, {dir + "/[", "syntax"},
	} {
		if got, err := Expand(c.pattern); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Expand(%q) = %q, %v, want %q", c.pattern, got, err, c.want)
		}
	}
}

func TestOpenSet(t *testing.T) {
	png := picture(t, 2, 1, 7)
	a := string(tarOf(t, member{"1.png", png}, member{"1.txt", "one"}))
	b := string(tarOf(t, member{"2.png", png}, member{"2.txt", "two"}))
	dir := write(t, "t/0.tar", a, "t/1.tgz", string(zipped(t, []byte(b))), "z/1.tar.zst", string(zstandard(t, []byte(b))), "t/x.json", "{}", "odd", a,
		"p/3.png", png, "p/3.txt", "three", "l.txt", "four\n", "m.txt", "five\n")
	captions := func(s Sharded, err error) string {
		t.Helper()
		if err != nil {
			return err.Error()
		}
		list, bad := readAll(t, s)
		if len(bad) > 0 {
			t.Error(bad)
		}
		var c []string
		for _, e := range list {
			c = append(c, e.Captions...)
		}
		return strings.Join(c, " ")
	}
	for _, c := range []struct {
		format Format
		paths  string
		want   string
	}{
		{"", "t", "one two"},
		{"", "z", "two"},
		{"", "t/{0,1}.t*", "one two"},
		{"", "t/0.tar t/1.tgz", "one two"},
		{FormatWebDataset, "odd", "one"},
		{"", "p", "three"},
		{"", "t p l.txt", "three four one two"},
		{"", "{l,m}.txt", "four five"},
		{FormatFolder, "p", "three"},
		{FormatWebDataset, "p", "no tar files in the folder"},
		{"", "none.tar", "none.tar"},
		{"", "", "no path"},
	} {
		var paths []string
		for p := range strings.FieldsSeq(c.paths) {
			paths = append(paths, filepath.Join(dir, p))
		}
		if got := captions(OpenSet(Options{Format: c.format}, paths...)); got != c.want && !strings.HasSuffix(got, c.want) && !strings.Contains(got, c.want+":") {
			t.Errorf("%s: %q, want %q", c.paths, got, c.want)
		}
	}
}

// numbered is a set whose examples are named by their numbers.
type numbered struct {
	name string
	n    int
}

func (d numbered) Len() int           { return d.n }
func (d numbered) Group(i int) string { return fmt.Sprint(d.name, i) }
func (d numbered) Example(i int) (Example, error) {
	return Example{ID: d.Group(i), Group: d.Group(i), Image: img.New(1, 1)}, nil
}

func TestJoin(t *testing.T) {
	ids := func(s Sharded) (list []string) {
		all, _ := readAllQuiet(t, s)
		return all
	}
	a, b := Whole(numbered{"a", 3}), Whole(numbered{"b", 2})
	if got := ids(Join(a, b)); strings.Join(got, " ") != "a0 a1 a2 b0 b1" {
		t.Errorf("%q", got)
	}
	if d, ok := AsDataset(Join(a, b)); !ok || d.Len() != 5 {
		t.Error("a join of whole sets is no whole set")
	}
	if Join(a) != a {
		t.Error("a join of one set is another")
	}
	dir := write(t, "0.tar", string(tarOf(t, member{"x.png", picture(t, 1, 1, 0)}, member{"x.txt", "x"})))
	w, err := OpenWebDataset(Options{}, filepath.Join(dir, "0.tar"))
	if err != nil {
		t.Fatal(err)
	}
	mixed := Join(Whole(numbered{"a", 2*partLen + 1}), w, b)
	if _, ok := AsDataset(mixed); ok || mixed.Shards() != 5 {
		t.Fatalf("%d shards", mixed.Shards())
	}
	got := ids(mixed)
	if len(got) != 2*partLen+1+1+2 || got[1] != "a3" || got[partLen/3*2+1] == "" {
		t.Errorf("%d examples, the second is %s", len(got), got[1])
	}
	slices.Sort(got)
	if len(slices.Compact(got)) != 2*partLen+4 {
		t.Error("an example is lost")
	}
	for k := range 3 {
		s, err := mixed.Shard(t.Context(), k)
		if err != nil {
			t.Fatal(err)
		}
		if n := s.Len(); n < partLen/2 || n > partLen {
			t.Errorf("part %d has %d examples", k, n)
		}
	}
	// Texts leave the pictures out, of wholes and of shards.
	for _, s := range []Sharded{TextsOf(a), TextsOf(mixed)} {
		d, err := Index(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range []int{0, d.Len() - 1} {
			if e, err := d.Example(i); err != nil || e.Image != nil || e.ID == "" {
				t.Errorf("%+v, %v", e, err)
			}
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}

func readAllQuiet(t *testing.T, s Sharded) (ids []string, bad int) {
	t.Helper()
	d, err := Index(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for i := range d.Len() {
		e, err := d.Example(i)
		if err != nil {
			bad++
			continue
		}
		ids = append(ids, e.ID)
	}
	return ids, bad
}

// Index gives back an error of any shard and closes the others.
func TestIndexError(t *testing.T) {
	dir := write(t, "0.tar", string(tarOf(t)), "1.tar", string(tarOf(t)))
	d, err := OpenWebDataset(Options{}, filepath.Join(dir, "0.tar"), filepath.Join(dir, "1.tar"), filepath.Join(dir, "2.tar"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Index(t.Context(), d); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "2.tar") {
		t.Error(err)
	}
}
