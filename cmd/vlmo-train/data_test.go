package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"image"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

// writeTars makes 000.tar to 002.tar of four samples each in a folder, and cut.tar.
func writeTars(t *testing.T) string {
	t.Helper()
	dir := t.TempDir() + "/"
	for k := range 3 {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for i := range 4 {
			var p bytes.Buffer
			if err := png.Encode(&p, image.NewGray(image.Rect(0, 0, 20+k, 10+i))); err != nil {
				t.Fatal(err)
			}
			for _, m := range []struct{ ext, content string }{{"png", p.String()}, {"cls", "7"}, {"seg.txt", "naïve café 日本 🙂"}, {"txt", fmt.Sprintf("picture %d of %d", i, k)}} {
				if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("%d.%s", i, m.ext), Size: int64(len(m.content)), Mode: 0o644}); err != nil {
					t.Fatal(err)
				}
				if _, err := io.WriteString(w, m.content); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		for name, content := range map[string][]byte{fmt.Sprintf("%03d.tar", k): b.Bytes(), "cut.tar": b.Bytes()[:2570]} {
			if err := os.WriteFile(dir+name, content, 0o666); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

func TestData(t *testing.T) {
	t.Chdir("../..")
	shards := writeTars(t)
	page := filepath.Join(t.TempDir(), "new", "page.html")
	photo, err := filepath.Abs("testdata/fixtures/images/jpeg_exif6.jpg") // 93×70 as it is stored
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(shards+"photo.jsonl", fmt.Appendf(nil, `{"id": "photo", "image": %q}`, photo), 0o666); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		line   string
		status int
		want   string // in what is printed
		errs   string
	}{
		{"data", 0, "check", ""},
		{"data chek", 2, "", `did you mean "check"?`},
		{"data check", 2, "", "name a set"},
		{"data check --htm x " + shards, 2, "", "did you mean --html?"},
		{"data check " + shards + "{000..002}.tar", 0, "shards                     3", ""},
		{"data check " + shards + "000.tar --html " + page + " --caption seg.txt", 0, "examples                   4", ""},
		{"data check " + shards + "cut.tar", 1, "cut off at byte", "an example can't be read"},
		{"data check --image jpg " + shards + "000.tar", 1, "", "no examples in a set of 1 files: 4 samples lack a picture or a caption, such as "},
		{"data check none.tar", 1, "", "none.tar"},
		{"data stats testdata/emoji/test.jsonl", 0, "captions             1641", ""},
		{"data stats --format tarr x", 2, "", "is none of jsonl"},
		{"data stats " + shards + "001.tar --caption seg.txt --group cls", 0, "examples             4", ""},
		{"data head " + shards + "000.tar -n 2", 0, `000.tar/1  20×11  "picture 1 of 0"`, ""},
		{"data head " + shards + "photo.jsonl", 0, "photo  93×70", ""},
		{"data head --orient " + shards + "photo.jsonl", 0, "photo  70×93", ""},
		{"data head -n 1 testdata/emoji/glosses.txt --format webdataset", 1, "unreadable", "an example can't be read"},
	} {
		status, out, errs := invoke(t, t.Context(), strings.Fields(c.line)...)
		if status != c.status || !strings.Contains(out, c.want) || !strings.Contains(errs, c.errs) || (errs == "") != (c.errs == "") {
			t.Errorf("%s: status %d\n%s%s", c.line, status, out, errs)
		}
	}
	b, err := os.ReadFile(page)
	if err != nil || strings.Count(string(b), "<img src=\"data:image/jpeg;base64,") != 4 || !strings.Contains(string(b), "naïve café 日本 🙂") {
		t.Errorf("%v, page of %d bytes", err, len(b))
	}
	var r struct {
		Examples int
		Tokens   struct{ Max int } `json:"tokens_per_caption"`
	}
	_, out, _ := invoke(t, t.Context(), "data", "stats", "--json", "testdata/emoji/glosses.txt")
	if err := json.Unmarshal([]byte(out), &r); err != nil || r.Examples != 6854 || r.Tokens.Max == 0 {
		t.Errorf("%v: %s", err, out)
	}
	_, out, _ = invoke(t, t.Context(), "data", "head", "-n", "3", "--json", "testdata/emoji/test.jsonl")
	if strings.Count(out, "\n") != 3 || !strings.HasPrefix(out, `{"id":"1f600-google","group":"1f600","picture":[32,32],"captions":["grinning face"]`) {
		t.Errorf("%s", out)
	}
}

func TestDataInterrupted(t *testing.T) {
	t.Chdir("../..")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, cmd := range []string{"check", "stats", "head"} {
		if status, out, errs := invoke(t, ended, "data", cmd, "testdata/emoji/test.jsonl"); status != 130 || out != "" || errs != "vlmo-train: interrupted\n" {
			t.Errorf("data %s: status %d\n%s%s", cmd, status, out, errs)
		}
	}
}

func TestFlagsFirst(t *testing.T) {
	commands := []*cli.Command{dataCommand(), trainCommand()}
	for line, want := range map[string]string{
		"v data head a -n 3 b --json": "v data head -n 3 --json -- a b",
		"v data head a -n=3 -":        "v data head -n=3 -- a -",
		"v data head a -- -n 3":       "v data head -- a -n 3",
		"v data head a -n":            "v data head -n -- a",
		"v data":                      "v data",
		"v train a --preset b":        "v train a --preset b",
		"v nope a --x":                "v nope a --x",
		"v":                           "v",
	} {
		if got := flagsFirst(commands, strings.Fields(line)); !slices.Equal(got, strings.Fields(want)) {
			t.Errorf("%s: %q, want %s", line, got, want)
		}
	}
}
