package dataset

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"sort"
	"strings"
	"testing"

	"vlmo-train/data/dataset/arrowfile"
	"vlmo-train/data/dataset/internal/fixture"
)

// arrowRows reads a table's rows as expected.json has them.
func arrowRows(t *testing.T, path string) (types map[string]string, rows []map[string]any) {
	t.Helper()
	f, err := arrowfile.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	types = make(map[string]string)
	var all []int
	for i, c := range f.Columns() {
		all = append(all, i)
		types[c.Name] = c.Type
	}
	for i := range f.NumRows() {
		values, err := f.Row(i, all...)
		if err != nil {
			t.Fatal(err)
		}
		row := make(map[string]any)
		for k, c := range f.Columns() {
			row[c.Name] = fixture.Plain(values[k])
		}
		rows = append(rows, row)
	}
	return types, rows
}

// sorted returns rows in an order that does not depend on the file's.
func sorted(rows []map[string]any) []string {
	list := []string{}
	for _, r := range rows {
		b, _ := json.Marshal(r)
		list = append(list, string(b))
	}
	sort.Strings(list)
	return list
}

// The files that Convert writes have the same columns, types and rows as those of
// the original's scripts.
func TestConvert(t *testing.T) {
	dir := fixture.Dir("arrow")
	var expected map[string]struct {
		Expected string
		Rows     []map[string]any
	}
	fixture.ReadJSON(t, filepath.Join(dir, "expected.json"), &expected)
	for _, compression := range []arrowfile.Compression{arrowfile.None, arrowfile.ZSTD} {
		out := t.TempDir()
		wrote := make(map[string]int)
		for format := range Conversions() {
			err := Convert(context.Background(), Conversion{Format: format, Root: filepath.Join(fixture.Dir("raw"), string(format)), Out: out,
				Compression: compression, Wrote: func(path string, rows int) { wrote[filepath.Base(path)] = rows }})
			if err != nil {
				t.Fatal(err)
			}
		}
		val := make(map[string]bool) // VQA's val rows
		for _, r := range expected["vqav2_val.arrow"].Rows {
			b, _ := json.Marshal(r)
			val[string(b)] = true
		}
		compared := 0
		for name, want := range expected {
			if strings.Contains(name, "/") {
				continue
			}
			types, rows := arrowRows(t, filepath.Join(out, name))
			if wrote[name] != len(rows) {
				t.Errorf("%s: %d rows, told %d", name, len(rows), wrote[name])
			}
			compared++
			if name == "vqav2_trainable_val.arrow" || name == "vqav2_rest_val.arrow" {
				// The fixture's pictures are too few for the original's cut: all
				// are in rest_val.
				for _, r := range sorted(rows) {
					if !val[r] {
						t.Errorf("%s: a row that val has not: %s", name, r)
					}
				}
				if n := map[bool]int{true: len(val)}[name == "vqav2_rest_val.arrow"]; len(val) <= RestVal && len(rows) != n {
					t.Errorf("%s: %d rows, want %d", name, len(rows), n)
				}
				continue
			}
			if got, want := sorted(rows), sorted(want.Rows); !reflect.DeepEqual(got, want) {
				t.Errorf("%s:\n%s, want\n%s", name, got, want)
			}
			if wantTypes, _ := arrowRows(t, filepath.Join(dir, name)); !reflect.DeepEqual(types, wantTypes) {
				t.Errorf("%s: types %v, want %v", name, types, wantTypes)
			}
		}
		if compared == 0 || compared != len(wrote) {
			t.Errorf("compared %d files of %d: %v", compared, len(wrote), wrote)
		}
	}
}

func TestConvertErrors(t *testing.T) {
	out := t.TempDir()
	coco := write(t, "karpathy/dataset_coco.json", `{"images": [{"filename": "a.jpg", "filepath": "train2014", "split": "train", "sentences": []}]}`)
	for _, c := range []struct {
		conversion Conversion
		want       string
	}{
		{Conversion{Format: FormatJSONL}, `format "jsonl" can't be written`},
		{Conversion{Format: FormatSBU, Splits: []string{"val"}}, `sbu has no split "val", but train`},
		{Conversion{Format: FormatCOCO, Root: coco}, `none of the 1 pictures of split "train" is in`},
		{Conversion{Format: FormatWikiBK, Root: coco}, "no wikibk.0.txt"},
		{Conversion{Format: FormatVG, Root: coco}, "region_descriptions.json"},
	} {
		c.conversion.Out = out
		if err := Convert(context.Background(), c.conversion); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", c.conversion.Format, err, c.want)
		}
	}
	// A split without pictures is a file without rows.
	if err := Convert(context.Background(), Conversion{Format: FormatCOCO, Root: coco, Out: out, Splits: []string{"val"}}); err != nil {
		t.Error(err)
	}
	entries, err := os.ReadDir(out)
	if err != nil {
		t.Fatal(err)
	}
	if s := fmt.Sprint(entries); s != "[- coco_caption_karpathy_val.arrow]" {
		t.Errorf("files %s", s)
	}
}
