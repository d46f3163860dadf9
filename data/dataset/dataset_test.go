package dataset

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"vlmo-train/data/img"
)

const emoji = "../../testdata/emoji/"

// write makes files under a new folder: name, content, name, content, ...
func write(t *testing.T, files ...string) string {
	t.Helper()
	dir := t.TempDir()
	for i := 0; i < len(files); i += 2 {
		path := filepath.Join(dir, files[i])
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(files[i+1]), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// picture returns a PNG of w×h pixels in which pixel (x, y) is (x, y, blue).
func picture(t *testing.T, w, h int, blue byte) string {
	t.Helper()
	m := img.New(w, h)
	for y := range h {
		for x := range w {
			copy(m.Pix[3*(y*w+x):], []byte{byte(x), byte(y), blue})
		}
	}
	b, err := img.EncodePNG(m)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// The sums are of the RGB bytes that Pillow decodes.
func TestEmojiSheetsAreEqualToPillow(t *testing.T) {
	for name, want := range map[string]string{
		"google.webp":  "290eb5649c7a982b988b947aebcc900235a54127a0c3e267a588b2f5bce6553e",
		"twitter.webp": "25a40b95928488a8ce63317d691533c1b8adbce78067ea0dc66a828b7943fe94",
		"fluent.webp":  "f5c82facb7e7cafff16eaa981d8f47ae5d3bbc4f1b3961e4df5ab0a81aafea54",
	} {
		m, err := readPicture(emoji+name, img.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if m.W != 1312 || sum(m.Pix) != want {
			t.Errorf("%s: %dx%d, SHA-256 %s, want %s", name, m.W, m.H, sum(m.Pix), want)
		}
	}
}

func TestEmoji(t *testing.T) {
	train, err := OpenJSONL(Options{Path: emoji + "train.jsonl"})
	if err != nil {
		t.Fatal(err)
	}
	test, err := OpenJSONL(Options{Path: emoji + "test.jsonl"})
	if err != nil {
		t.Fatal(err)
	}
	if train.Len() != 1641+1599 || test.Len() != 1641 {
		t.Errorf("%d and %d examples, want 3240 and 1641", train.Len(), test.Len())
	}
	groups := make(map[string]int)
	for i := range test.Len() {
		groups[test.Group(i)]++
	}
	for i := range train.Len() {
		if groups[train.Group(i)] != 1 {
			t.Fatalf("training concept %q occurs %d times in test", train.Group(i), groups[train.Group(i)])
		}
	}
	// All of them, by several goroutines that share the sheets.
	var wg sync.WaitGroup
	for k := range 3 {
		wg.Go(func() {
			for i := k; i < train.Len(); i += 3 {
				e, err := train.Example(i)
				if err != nil {
					t.Error(err)
					return
				}
				if e.Image.W != 32 || e.Image.H != 32 || len(e.Captions) != 1 || len(e.Keywords) == 0 || !strings.HasPrefix(e.ID, e.Group+"-") {
					t.Errorf("example %d: %dx%d, %+v", i, e.Image.W, e.Image.H, e)
				}
			}
		})
	}
	wg.Wait()
	if n := train.sheets.Len(); n != 2 {
		t.Errorf("%d sheets decoded, want 2", n)
	}

	e, err := test.Example(2)
	if err != nil {
		t.Fatal(err)
	}
	// Cut out by Pillow.
	if got, want := sum(e.Image.Pix), "0ca2887f75c622da1d199364277b3bed9f1fb99a66a76167ab1fcd323824864e"; got != want {
		t.Errorf("picture of example 2 has SHA-256 %s, want %s", got, want)
	}
	e.Image = nil
	want := Example{ID: "1f604-google", Group: "1f604", Captions: []string{"grinning face with smiling eyes"}, Keywords: e.Keywords}
	if !reflect.DeepEqual(e, want) {
		t.Errorf("example 2 is %+v, want %+v", e, want)
	}
}

func TestGlosses(t *testing.T) {
	d, err := OpenLines(emoji + "glosses.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	data, err := os.ReadFile(emoji + "glosses.txt")
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
	if d.Len() != len(want) {
		t.Fatalf("%d lines, want %d", d.Len(), len(want))
	}
	for i, w := range want {
		e, err := d.Example(i)
		if err != nil || e.Captions[0] != w {
			t.Fatalf("line %d is %q, %v, want %q", i, e.Captions, err, w)
		}
	}
}

func TestJSONL(t *testing.T) {
	const bom = "\uFEFF"
	dir := write(t,
		"a/sheet.png", picture(t, 9, 7, 1),
		"b.png", picture(t, 3, 2, 2),
		"set.jsonl", bom+`{"image":"a/sheet.png","box":[2,3,4,2],"id":7,"group":"g","captions":["one","two"],"keywords":["k"],"more":{}}`+"\r\n"+
			"\n"+
			`  {"image":"b.png","caption":"three"}`+"\n"+
			`{"id":"text","concept":5,"caption":"four"}`+"\n"+
			`{"image":"a/sheet.png","id":"edge","box":[5,5,4,2]}`)
	d, err := OpenJSONL(Options{Path: filepath.Join(dir, "set.jsonl")})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for i := range d.Len() {
		e, err := d.Example(i)
		if err != nil {
			t.Fatal(err)
		}
		if e.Group != d.Group(i) {
			t.Errorf("Group(%d) = %q, example has %q", i, d.Group(i), e.Group)
		}
		pix := "none"
		if e.Image != nil {
			pix = fmt.Sprintf("%dx%d %v", e.Image.W, e.Image.H, e.Image.Pix)
			clear(e.Image.Pix) // the caller's own: later reads must not see it
		}
		got = append(got, fmt.Sprintf("%s %s %q %q %s", e.ID, e.Group, e.Captions, e.Keywords, pix))
	}
	want := []string{
		`7 g ["one" "two"] ["k"] 4x2 [2 3 1 3 3 1 4 3 1 5 3 1 2 4 1 3 4 1 4 4 1 5 4 1]`,
		`b.png b.png ["three"] [] 3x2 [0 0 2 1 0 2 2 0 2 0 1 2 1 1 2 2 1 2]`,
		`text 5 ["four"] [] none`,
		`edge edge [] [] 4x2 [5 5 1 6 5 1 7 5 1 8 5 1 5 6 1 6 6 1 7 6 1 8 6 1]`,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	again, err := d.Example(0)
	if err != nil || again.Image.Pix[0] != 2 {
		t.Errorf("second read: %v, %v", again.Image, err)
	}
	for _, i := range []int{-1, 4} {
		if _, err := d.Example(i); err == nil {
			t.Errorf("Example(%d) succeeded", i)
		}
	}
}

func TestJSONLErrors(t *testing.T) {
	const ok = `{"id":"x","caption":"c"}` + "\n"
	for _, test := range []struct{ content, want string }{
		{"", "set.jsonl: no examples"},
		{"\n \n", "set.jsonl: no examples"},
		{ok + "\n" + ok, `set.jsonl:3: id "x" is already on line 1`},
		{ok + `{"id":"y","caption":`, "set.jsonl:2: unexpected end of JSON input"},
		{ok + `{"id":"y","caption":"c"} {}`, "set.jsonl:2: invalid character '{' after top-level value"},
		{ok + `["y"]`, "set.jsonl:2: json: cannot unmarshal array"},
		{`{"id":"y"}`, "set.jsonl:1: neither image nor caption"},
		{`{"id":"y","captions":[]}`, "set.jsonl:1: neither image nor caption"},
		{`{"caption":"c"}`, "set.jsonl:1: neither id nor image"},
		{`{"id":"y","caption":"c","captions":["d"]}`, "set.jsonl:1: both caption and captions"},
		{`{"id":"y","caption":"c","group":1,"concept":1}`, "set.jsonl:1: both group and concept"},
		{`{"id":["y"],"caption":"c"}`, "set.jsonl:1: id, group and concept are strings or numbers"},
		{`{"id":"y","caption":"c","box":[0,0,1,1]}`, "set.jsonl:1: box without image"},
		{`{"image":"p.png","box":[0,0,1]}`, "set.jsonl:1: box [0 0 1] is not"},
		{`{"image":"p.png","box":[0,-1,1,1]}`, "set.jsonl:1: box [0 -1 1 1] is not"},
		{`{"image":"p.png","box":[0,0,0,1]}`, "set.jsonl:1: box [0 0 0 1] is not"},
		{ok + `{"image":"no/such.png"}`, "set.jsonl:2: picture DIR/no/such.png: no such file or directory"},
		{ok + `{"image":"."}`, "set.jsonl:2: picture DIR is a folder"},
		{ok + "{\"id\":\"\xff\",\"caption\":\"c\"}", "set.jsonl:2: not UTF-8"},
	} {
		dir := write(t, "set.jsonl", test.content, "p.png", "")
		_, err := OpenJSONL(Options{Path: filepath.Join(dir, "set.jsonl")})
		want := strings.ReplaceAll(test.want, "DIR", dir)
		if err == nil || !strings.Contains(err.Error(), dir+string(filepath.Separator)+want) {
			t.Errorf("%q:\n got %v\nwant %s", test.content, err, want)
		}
	}
	if _, err := OpenJSONL(Options{Path: filepath.Join(t.TempDir(), "none.jsonl")}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that does not exist: %v", err)
	}
}

func TestBadExample(t *testing.T) {
	good := picture(t, 4, 4, 0)
	dir := write(t, "good.png", good, "cut.png", good[:len(good)/2], "empty.png", "", "gone.png", good,
		"set.jsonl", `{"image":"good.png","id":"good"}
{"image":"cut.png","id":"cut"}
{"image":"empty.png","id":"empty","box":[0,0,1,1]}
{"image":"good.png","id":"outside","box":[1,1,4,3]}
{"image":"good.png","id":"overflow","box":[2147483647,0,2147483647,1]}
{"image":"gone.png","id":"gone"}`)
	d, err := OpenJSONL(Options{Path: filepath.Join(dir, "set.jsonl")})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "gone.png")); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Example(0); err != nil {
		t.Error(err)
	}
	for i, want := range []string{1: "cut.png", 2: "empty.png", 3: "good.png", 4: "good.png", 5: "gone.png"} {
		if i == 0 {
			continue
		}
		_, err := d.Example(i)
		var bad *BadExampleError
		if !errors.As(err, &bad) || bad.Index != i || bad.Path != filepath.Join(dir, want) {
			t.Errorf("example %d: %v", i, err)
			continue
		}
		if strings.Count(err.Error(), want) != 1 || !strings.Contains(err.Error(), bad.ID) {
			t.Errorf("message %q should name %s once, and the id %s", err, want, bad.ID)
		}
	}
	if _, err := d.Example(5); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a picture that is gone: %v", err)
	}
}

func TestLateSheet(t *testing.T) {
	dir := write(t, "a.png", picture(t, 10, 10, 0))
	var s sheets
	late := filepath.Join(dir, "late.png")
	if _, err := s.get(late, img.Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a sheet that does not exist: %v", err)
	}
	if err := os.Rename(filepath.Join(dir, "a.png"), late); err != nil {
		t.Fatal(err)
	}
	if _, err := s.get(late, img.Options{}); err != nil {
		t.Errorf("a sheet that exists by now: %v", err)
	}
}

func TestFolder(t *testing.T) {
	dir := write(t,
		"z.png", picture(t, 1, 1, 3), "z.txt", "last\n",
		"cats/tom.PNG", picture(t, 2, 1, 4), "cats/tom.txt", "a cat\r\n\n  a gray cat  ",
		".hidden/a.png", "", ".b.png", "", "LICENSE.txt", "free")
	d, err := OpenFolder(Options{Path: dir})
	if err != nil {
		t.Fatal(err)
	}
	var got []Example
	for i := range d.Len() {
		e, err := d.Example(i)
		if err != nil {
			t.Fatal(err)
		}
		if d.Group(i) != e.Group {
			t.Errorf("Group(%d) = %q", i, d.Group(i))
		}
		got = append(got, e)
	}
	want := []Example{
		{ID: "cats/tom", Group: "cats/tom", Image: &img.Image{W: 2, H: 1, Pix: []byte{0, 0, 4, 1, 0, 4}}, Captions: []string{"a cat", "a gray cat"}},
		{ID: "z", Group: "z", Image: &img.Image{W: 1, H: 1, Pix: []byte{0, 0, 3}}, Captions: []string{"last"}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}

	for _, test := range []struct {
		files []string
		want  string
	}{
		{[]string{"a.txt", "x"}, "no pictures"},
		{[]string{"d/a.jpg", "x"}, "d/a.txt"},
		{[]string{"a.jpg", "x", "a.txt", " \n"}, "a.txt: no captions"},
		{[]string{"a.jpg", "x", "a.txt", "ok\n\xff\n"}, "a.txt:2: not UTF-8"},
		{[]string{"a.jpg", "x", "a.png", "x", "a.txt", "c"}, "a.png: the captions' file belongs to"},
	} {
		dir := write(t, test.files...)
		if _, err := OpenFolder(Options{Path: dir}); err == nil || !strings.Contains(filepath.ToSlash(err.Error()), test.want) {
			t.Errorf("%q: %v, want %s", test.files, err, test.want)
		}
	}
	dir = write(t, "a.jpg", "x", "a.txt", "c")
	if d, err = OpenFolder(Options{Path: dir}); err != nil {
		t.Fatal(err)
	}
	var bad *BadExampleError
	if _, err := d.Example(0); !errors.As(err, &bad) || bad.Path != filepath.Join(dir, "a.jpg") {
		t.Errorf("a damaged picture: %v", err)
	}
	if _, err := OpenFolder(Options{Path: filepath.Join(dir, "none")}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder that does not exist: %v", err)
	}
}

// link makes a symbolic link, or skips the test where there is none.
func link(t *testing.T, to, name string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(to, name); err != nil {
		t.Skip(err)
	}
}

func TestClasses(t *testing.T) {
	dir := write(t,
		"dog/rex.JPEG", picture(t, 1, 1, 5), "dog/notes.txt", "no picture", "dog/.hidden.png", "",
		"cat/tom.png", picture(t, 2, 1, 4), "cat/a/kit.png", picture(t, 1, 1, 6),
		"empty/README", "", ".git/x.png", "", "LICENSE", "free")
	d, err := Open(Options{Path: dir, Format: FormatClasses})
	if err != nil {
		t.Fatal(err)
	}
	example := func(id, class string, m *img.Image) Example {
		return Example{ID: id, Group: id, ImageID: id, Keywords: []string{class}, Image: m}
	}
	want := []Example{
		example("cat/tom.png", "cat", &img.Image{W: 2, H: 1, Pix: []byte{0, 0, 4, 1, 0, 4}}),
		example("cat/a/kit.png", "cat", &img.Image{W: 1, H: 1, Pix: []byte{0, 0, 6}}),
		example("dog/rex.JPEG", "dog", &img.Image{W: 1, H: 1, Pix: []byte{0, 0, 5}}),
	}
	if d.Len() != len(want) {
		t.Fatalf("%d examples, want %d", d.Len(), len(want))
	}
	for i, w := range want {
		if e, err := d.Example(i); err != nil || !reflect.DeepEqual(e, w) || d.Group(i) != w.Group {
			t.Errorf("example %d: %+v, %v, want %+v", i, e, err, w)
		}
		w.Image = nil
		if e, err := Words(d, i); err != nil || !reflect.DeepEqual(e, w) {
			t.Errorf("example %d without its picture: %+v, %v, want %+v", i, e, err, w)
		}
	}

	// Folders and pictures may be links, but not in a circle.
	links := t.TempDir()
	for name, to := range map[string]string{"bird": filepath.Join(dir, "cat"), "lost": filepath.Join(dir, "none"), "fish/a.png": filepath.Join(dir, "cat", "tom.png")} {
		link(t, to, filepath.Join(links, name))
	}
	if d, err = OpenClasses(Options{Path: links}); err != nil {
		t.Fatal(err)
	}
	var got []string
	for i := range d.Len() {
		e, err := d.Example(i)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e.ID+" "+strings.Join(e.Keywords, ","))
	}
	if list := []string{"bird/tom.png bird", "bird/a/kit.png bird", "fish/a.png fish"}; !slices.Equal(got, list) {
		t.Errorf("through links: %q, want %q", got, list)
	}
	link(t, links, filepath.Join(links, "fish", "back"))
	if _, err := OpenClasses(Options{Path: links}); err == nil || !strings.Contains(err.Error(), "does a link lead back?") {
		t.Errorf("links in a circle: %v", err)
	}

	for _, test := range []struct {
		files []string
		want  string
	}{
		{[]string{"cat/a.txt", "x"}, "no pictures in folders"},
		{[]string{"cat/a.png", "x", "b.png", "x"}, "b.png: a picture that is in no class's folder"},
	} {
		dir := write(t, test.files...)
		if _, err := OpenClasses(Options{Path: dir}); err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%q: %v, want %s", test.files, err, test.want)
		}
	}
	dir = write(t, "cat/a.png", "x")
	if d, err = OpenClasses(Options{Path: dir}); err != nil {
		t.Fatal(err)
	}
	var bad *BadExampleError
	if _, err := d.Example(0); !errors.As(err, &bad) || bad.Path != filepath.Join(dir, "cat", "a.png") {
		t.Errorf("a damaged picture: %v", err)
	}
	if _, err := OpenClasses(Options{Path: filepath.Join(dir, "none")}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder that does not exist: %v", err)
	}
}

func TestCSV(t *testing.T) {
	const lines = "a.png,\"a \"\"big\"\" cat, gray\",x\r\n" +
		"\r\n" +
		"https://example.org/p/b.png?s=1,\"two\r\nlines\",\r\n" +
		"a.png,über,x\r\n" +
		"a.png,\" \",x\r\n" +
		"none.png,gone,y" // without an end of line
	dir := write(t, "header.csv", "\uFEFFimage, caption ,kind\r\n"+lines, "names.csv", lines, "texts.csv", "caption\n\"one, two\"\nthree\n",
		"pictures/a.png", picture(t, 2, 1, 4), "pictures/b.png", picture(t, 1, 1, 5))
	const b = "https://example.org/p/b.png?s=1"
	want := []Example{
		{ID: "a.png", ImageID: "a.png", Group: "x", Captions: []string{`a "big" cat, gray`, "über"}, Image: &img.Image{W: 2, H: 1, Pix: []byte{0, 0, 4, 1, 0, 4}}},
		{ID: b, ImageID: b, Group: b, Captions: []string{"two\nlines"}, Image: &img.Image{W: 1, H: 1, Pix: []byte{0, 0, 5}}},
	}
	for name, names := range map[string][]string{"header.csv": nil, "names.csv": {"image", "caption", "kind"}} {
		d, err := Open(Options{Path: filepath.Join(dir, name), Images: filepath.Join(dir, "pictures"), Columns: Columns{Group: "kind", Names: names}})
		if err != nil {
			t.Fatal(err)
		}
		defer d.(*Table).Close()
		if d.Len() != len(want)+1 {
			t.Fatalf("%s: %d examples, want %d", name, d.Len(), len(want)+1)
		}
		for i, w := range want {
			if e, err := d.Example(i); err != nil || !reflect.DeepEqual(e, w) || d.Group(i) != w.Group {
				t.Errorf("%s: example %d: %+v, %v, want %+v", name, i, e, err, w)
			}
		}
		var bad *BadExampleError
		if _, err := d.Example(2); !errors.As(err, &bad) || bad.ID != "none.png" || bad.Path != filepath.Join(dir, "pictures", "none.png") {
			t.Errorf("%s: a picture that is not there: %v", name, err)
		}
	}
	texts, err := OpenCSV(Options{Path: filepath.Join(dir, "texts.csv")})
	if err != nil {
		t.Fatal(err)
	}
	defer texts.Close()
	for i, w := range []Example{
		{ID: "texts.csv@8", Group: "texts.csv@8", Captions: []string{"one, two"}},
		{ID: "texts.csv@19", Group: "texts.csv@19", Captions: []string{"three"}},
	} {
		if e, err := texts.Example(i); err != nil || !reflect.DeepEqual(e, w) {
			t.Errorf("text %d: %+v, %v, want %+v", i, e, err, w)
		}
	}

	for _, test := range []struct{ content, want string }{
		{"", ": no examples"},
		{"image,caption\n", ": no examples"},
		{"x,y\na,b\n", `:1: the columns ["x" "y"] hold neither pictures nor captions`},
		{"image,caption\na.png,\"x\ny\"\nb.png\n", ":4: 1 columns, want 2"},
		{"image,caption\na.png,a \"b\" c\n", `:2: bare "`},
		{"image,caption\na.png,\"open\n\n", `:3: extraneous or missing "`},
		{"image,caption\n,text\n", ":2: no picture"},
		{"image,caption\na.png,\xff\n", ":2: not UTF-8"},
	} {
		path := filepath.Join(write(t, "set.csv", test.content), "set.csv")
		if _, err := OpenCSV(Options{Path: path}); err == nil || !strings.Contains(err.Error(), path+test.want) {
			t.Errorf("%q:\n got %v\nwant %s%s", test.content, err, path, test.want)
		}
	}
}

func TestLines(t *testing.T) {
	long := strings.Repeat("word ", 40_000) + "end"
	dir := write(t, "a.txt", "\uFEFF one\n\n\ttwo\r\n", "b.txt", long+"\nüber", "bad.txt", "x\n\xc3\n", "blank.txt", "\n\n",
		"binary.txt", strings.Repeat("x", maxLine+1))
	a, b := filepath.Join(dir, "a.txt"), filepath.Join(dir, "b.txt")
	d, err := OpenLines(a, b)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	want := []Example{
		{ID: a + ":1", Captions: []string{"one"}},
		{ID: a + ":3", Captions: []string{"two"}},
		{ID: b + ":1", Captions: []string{long}},
		{ID: b + ":2", Captions: []string{"über"}},
	}
	if d.Len() != len(want) {
		t.Fatalf("%d lines, want %d", d.Len(), len(want))
	}
	for i, w := range want {
		w.Group = w.ID
		if e, err := d.Example(i); err != nil || !reflect.DeepEqual(e, w) {
			t.Errorf("line %d: %+v, %v, want %+v", i, e, err, w)
		}
	}
	if err := os.Truncate(b, 10); err != nil {
		t.Fatal(err)
	}
	var bad *BadExampleError
	if _, err := d.Example(3); !errors.As(err, &bad) || bad.Index != 3 {
		t.Errorf("a file cut after opening: %v", err)
	}

	for _, test := range []struct {
		paths []string
		want  string
	}{
		{nil, "no text files"},
		{[]string{"a.txt", "a.txt"}, "a.txt is named twice"},
		{[]string{"a.txt", "blank.txt"}, "blank.txt: no text"},
		{[]string{"bad.txt"}, "bad.txt:2: not UTF-8"},
		{[]string{"binary.txt"}, "binary.txt:1: line of more than 1048576 bytes"},
		{[]string{"none.txt"}, "none.txt: no such file"},
	} {
		var paths []string
		for _, p := range test.paths {
			paths = append(paths, filepath.Join(dir, p))
		}
		if _, err := OpenLines(paths...); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: %v, want %s", test.paths, err, test.want)
		}
	}
}
