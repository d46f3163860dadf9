package dataset

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"unicode/utf8"

	"vlmo-train/data/img"
)

// record is an example whose pictures are not decoded yet.
type record struct {
	Example          // without pictures
	pictures [2]blob // the second for pairs of pictures
}

// blob is where an encoded picture is: in memory, or in a file.
type blob struct {
	data []byte
	path string
}

func (s blob) empty() bool { return s.data == nil && s.path == "" }

// read returns the encoded picture.
func (s blob) read() ([]byte, error) {
	if s.data != nil {
		return s.data, nil
	}
	data, err := os.ReadFile(s.path)
	if err != nil {
		return nil, bare(err)
	}
	return data, nil
}

// recorder is a set of records. Its errors say what is wrong with the record, and
// are of the file where returns for it.
type recorder interface {
	Len() int
	record(i int, pictures bool) (record, error)
	where(i int) string
}

// readExample is the method Example of a recorder.
func readExample(d recorder, i int, opt img.Options) (Example, error) {
	if err := checkIndex(i, d.Len()); err != nil {
		return Example{}, err
	}
	r, err := d.record(i, true)
	if err != nil {
		return Example{}, &BadExampleError{Index: i, ID: r.ID, Path: d.where(i), Err: err}
	}
	for k, dst := range []**img.Image{&r.Image, &r.Image2} {
		if s := r.pictures[k]; !s.empty() {
			path := s.path
			if path == "" {
				path = d.where(i)
			}
			data, err := s.read()
			if err == nil {
				*dst, err = img.Decode(data, opt)
			}
			if err != nil {
				return Example{}, &BadExampleError{Index: i, ID: r.ID, Path: path, Err: err}
			}
		}
	}
	return r.Example, nil
}

// readWords is the method ReadWords of a recorder.
func readWords(d recorder, i int) (Example, error) {
	if err := checkIndex(i, d.Len()); err != nil {
		return Example{}, err
	}
	r, err := d.record(i, false)
	if err != nil {
		return Example{}, &BadExampleError{Index: i, ID: r.ID, Path: d.where(i), Err: err}
	}
	return r.Example, nil
}

// The values of tables are nil, bool, int64, float64, string, []byte, []any and
// map[string]any; see packages arrowfile and parquetfile.

// stringsOf returns the strings of a value that is one or a list of them. Nulls and
// blank ones are left out.
func stringsOf(v any) (list []string, err error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case string:
		if !utf8.ValidString(v) {
			return nil, errors.New("not UTF-8")
		}
		if strings.TrimSpace(v) != "" {
			list = append(list, v)
		}
		return list, nil
	case []byte:
		return stringsOf(string(v))
	case []any:
		for _, x := range v {
			if _, ok := x.([]any); ok {
				return nil, errors.New("a list of lists, want a list of texts")
			}
			l, err := stringsOf(x)
			if err != nil {
				return nil, err
			}
			list = append(list, l...)
		}
		return list, nil
	}
	return nil, fmt.Errorf("a value of Go type %T, want a text", v)
}

// nameOf returns a value that is a text or a number as a text, "" for null.
func nameOf(v any) (string, error) {
	switch v := v.(type) {
	case nil:
		return "", nil
	case string:
		return v, nil
	case int64:
		return strconv.FormatInt(v, 10), nil
	}
	return "", fmt.Errorf("a value of Go type %T, want a text or a number", v)
}

// listOf returns a list's values, or a single value as a list of one.
func listOf(v any) []any {
	if l, ok := v.([]any); ok {
		return l
	}
	if v == nil {
		return nil
	}
	return []any{v}
}

// integer returns a value that is a whole number.
func integer(v any) (int64, error) {
	if n, ok := v.(int64); ok {
		return n, nil
	}
	return 0, fmt.Errorf("a value of Go type %T, want a whole number", v)
}
