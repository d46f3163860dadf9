package arrowfile

import (
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"vlmo-train/data/dataset/internal/fixture"
)

type expectation struct {
	Note     string
	Expected string // ok, error or either
	Columns  map[string]string
	Batches  []int `json:"record_batches"`
	NumRows  int   `json:"num_rows"`
	Rows     []map[string]any
}

// readAll reads all rows as expected.json has them.
func readAll(f *File) ([]map[string]any, error) {
	var all []int
	for i := range f.Columns() {
		all = append(all, i)
	}
	rows := []map[string]any{}
	for i := range f.NumRows() {
		values, err := f.Row(i, all...)
		if err != nil {
			return nil, err
		}
		row := make(map[string]any)
		for k, c := range f.Columns() {
			row[c.Name] = fixture.Plain(values[k])
		}
		rows = append(rows, row)
	}
	return rows, nil
}

func TestFixtures(t *testing.T) {
	dir := fixture.Dir("arrow")
	var expected map[string]expectation
	fixture.ReadJSON(t, filepath.Join(dir, "expected.json"), &expected)
	if len(expected) == 0 {
		t.Fatal("no fixtures")
	}
	for name, want := range expected {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, filepath.FromSlash(name))
			var rows []map[string]any
			f, err := Open(path)
			if err == nil {
				defer f.Close()
				rows, err = readAll(f)
			}
			if err != nil {
				t.Log(err)
				if want.Expected == "ok" {
					t.Fatalf("%s: %v", want.Note, err)
				}
				if f == nil && !strings.Contains(err.Error(), path) {
					t.Errorf("the error does not name the file: %v", err)
				}
				return
			}
			if want.Expected == "error" {
				t.Fatalf("%s: read without an error", want.Note)
			}
			if want.Rows == nil {
				return // either, and nothing is known of the content
			}
			types := make(map[string]string)
			for _, c := range f.Columns() {
				types[c.Name] = c.Type
			}
			for column, w := range want.Columns {
				if _, ok := types[column]; !ok {
					t.Errorf("no column %q of type %s", column, w)
				}
			}
			if len(types) != len(want.Columns) {
				t.Errorf("columns %v, want %v", types, want.Columns)
			}
			if want.Batches != nil && !reflect.DeepEqual(f.Batches(), want.Batches) {
				t.Errorf("batches of %v rows, want %v", f.Batches(), want.Batches)
			}
			if f.NumRows() != want.NumRows {
				t.Errorf("%d rows, want %d", f.NumRows(), want.NumRows)
			}
			if len(rows) != len(want.Rows) {
				t.Fatalf("%d rows, want %d", len(rows), len(want.Rows))
			}
			for i := range rows {
				if !reflect.DeepEqual(rows[i], want.Rows[i]) {
					t.Errorf("row %d is\n%v, want\n%v", i, rows[i], want.Rows[i])
				}
			}
		})
	}
}
