package vqa

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func fixtures() string {
	if dir := os.Getenv("VLMO_FIXTURES"); dir != "" {
		return dir
	}
	return filepath.Join("..", "..", "testdata", "fixtures")
}

// each decodes every line of a file of JSON objects.
func each[T any](t *testing.T, path string, f func(T)) {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	s := bufio.NewScanner(file)
	n := 0
	for s.Scan() {
		var v T
		if err := json.Unmarshal(s.Bytes(), &v); err != nil {
			t.Fatal(err)
		}
		f(v)
		n++
	}
	if s.Err() != nil || n == 0 {
		t.Fatalf("%d lines, %v", n, s.Err())
	}
}

func TestNormalize(t *testing.T) {
	type pair struct{ Text, Normalized string }
	each(t, filepath.Join(fixtures(), "raw", "expected", "normalize_word.jsonl"), func(p pair) {
		if got := Normalize(p.Text); got != p.Normalized {
			t.Errorf("%q becomes %q, want %q", p.Text, got, p.Normalized)
		}
	})
}

func TestAccuracy(t *testing.T) {
	dir := filepath.Join(fixtures(), "vqaeval")
	var all []float64
	type question struct {
		ID         int
		Cat        string
		Prediction string
		Answers    []string
		Accuracy   float64
	}
	each(t, filepath.Join(dir, "cases.jsonl"), func(q question) {
		got := Accuracy(q.Prediction, q.Answers)
		if got != q.Accuracy {
			t.Errorf("%d, %s: %q against %q is %v, want %v", q.ID, q.Cat, q.Prediction, q.Answers, got, q.Accuracy)
		}
		all = append(all, got)
	})
	data, err := os.ReadFile(filepath.Join(dir, "case.json"))
	if err != nil {
		t.Fatal(err)
	}
	var c struct {
		Overall float64 `json:"overall_percent"`
	}
	if err := json.Unmarshal(data, &c); err != nil {
		t.Fatal(err)
	}
	if got := Percent(all); got != c.Overall {
		t.Errorf("overall %v %%, want %v", got, c.Overall)
	}
}

func TestTargets(t *testing.T) {
	var c Counter
	for a, n := range map[string]int{"red": 8, "The dog": 5, "dog.": 4} {
		for range n {
			if err := c.Add(a); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range MinCount {
		if err := c.Add("two"); err != nil {
			t.Fatal(err)
		}
	}
	v, err := c.Vocabulary(MinCount)
	if err != nil || v.Len() != 2 {
		t.Fatalf("answers %q, %v, want dog and 2", v.Answers(), err)
	}
	dog, _ := v.Label("dog")
	two, _ := v.Label("2")
	if _, ok := v.Label("red"); ok || dog == two {
		t.Errorf("answers %q", v.Answers())
	}
	answers := strings.Split("2,Dog,dog,two,2,2,2,red,red,dog", ",")
	if got, want := v.Targets(answers, false), []Target{{two, 1}, {dog, 0.6}}; !reflect.DeepEqual(got, want) {
		t.Errorf("targets %v, want %v", got, want)
	}
	if got, want := v.Targets(answers, true), []Target{{two, 1}, {dog, 0.9}}; !reflect.DeepEqual(got, want) {
		t.Errorf("normalised targets %v, want %v", got, want)
	}
	if _, err := NewVocabulary([]string{"a", "b", "a"}); err == nil {
		t.Error("an answer twice is accepted")
	}
}
