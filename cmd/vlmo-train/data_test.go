package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

const shards = "testdata/fixtures/webdataset/"

func TestData(t *testing.T) {
	t.Chdir("../..")
	page := filepath.Join(t.TempDir(), "new", "page.html")
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
		{"data check " + shards + "{000000..000002}.tar", 0, "shards                     3", ""},
		{"data check " + shards + "000000.tar --html " + page, 0, "examples                   4", ""},
		{"data check " + shards + "truncated-000000.tar", 1, "cut off at byte", "an example can't be read"},
		{"data check none.tar", 1, "", "none.tar"},
		{"data stats testdata/emoji/test.jsonl", 0, "captions             1641", ""},
		{"data stats --format tarr x", 2, "", "is none of jsonl"},
		{"data stats " + shards + "multi-000000.tar --caption caption.txt --group cls", 0, "examples             3", ""},
		{"data head " + shards + "000000.tar -n 2", 0, "A tabby cat are sitting", ""},
		{"data head -n 1 testdata/fixtures/images/broken/text.jpg --format webdataset", 1, "unreadable", "an example can't be read"},
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
