package survey

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"image/jpeg"
	"math"
	"math/rand/v2"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"vlmo-train/data/dataset"
	"vlmo-train/data/img"
	"vlmo-train/data/text"
)

// list is a set in memory; an example without ID can't be read.
type list []dataset.Example

func (l list) Len() int           { return len(l) }
func (l list) Group(i int) string { return l[i].ID }
func (l list) Example(i int) (dataset.Example, error) {
	e := l[i]
	if e.ID == "" {
		return dataset.Example{}, &dataset.BadExampleError{Index: i, ID: fmt.Sprint("bad-", i), Path: "p", Err: errors.New("broken")}
	}
	if e.Group == "" {
		e.Group = e.ID
	}
	return e, nil
}

func filled(w, h int, v byte) *img.Image {
	m := img.New(w, h)
	for i := range m.Pix {
		m.Pix[i] = v
	}
	return m
}

func TestSmallSet(t *testing.T) {
	set := list{
		{ID: "a", Image: filled(30, 20, 1), Captions: []string{"a cat", "two cats"}, Keywords: []string{"k"}},
		{ID: "b", Image: filled(20, 30, 1), Captions: []string{"a dog"}}, // the same bytes, of another size
		{},
		{ID: "c", Image: filled(30, 20, 1), Captions: []string{"a cat"}},
		{ID: "a", Captions: []string{"  "}},
		{ID: "d", Image: filled(1, 500, 2), Image2: filled(30, 20, 1), Question: &dataset.Question{Text: "true?", Answers: []string{"True"}}},
		{ID: "e", Image: filled(7, 7, 7)},
	}
	for _, workers := range []int{1, 4} {
		var progress []int
		r, err := Set(t.Context(), dataset.Whole(set), Options{Tokenizer: text.BertBaseUncased(), Workers: workers, Duplicates: true, Samples: 3,
			Progress: func(done, total int) { progress = append(progress, done, total) }})
		if err != nil {
			t.Fatal(err)
		}
		samples := r.Samples
		r.Samples = nil
		want := &Report{
			Examples: 6, Shards: 1, Pictures: 6, Captions: 5, Keywords: 1, Questions: 1, NoPicture: 1, NoText: 1, NoTokens: 1,
			Unreadable: 1, Errors: []string{`dataset: example 2, "bad-2": p: broken`},
			PerExample: Spread{6, 0, 1, 2, 2, 5. / 6, []Bin{{0, 0, 2}, {1, 1, 3}, {2, 2, 1}}},
			Tokens:     Spread{6, 0, 2, 2, 2, 10. / 6, []Bin{{0, 0, 1}, {1, 1, 0}, {2, 2, 5}}},
			Width:      Spread{6, 1, 20, 30, 30, 118. / 6, []Bin{{0, 1, 1}, {2, 3, 0}, {4, 5, 0}, {6, 7, 1}, {8, 9, 0}, {10, 11, 0}, {12, 13, 0}, {14, 15, 0}, {16, 17, 0}, {18, 19, 0}, {20, 21, 1}, {22, 23, 0}, {24, 25, 0}, {26, 27, 0}, {28, 29, 0}, {30, 31, 3}}},
			Height:     r.Height,
			IDs:        &Twice{1, [][2]string{{"a", "a"}}}, SamePictures: &Twice{2, [][2]string{{"a", "c"}, {"a", "d"}}}, SameCaptions: &Twice{1, [][2]string{{"a", "c"}}},
		}
		if !reflect.DeepEqual(r, want) {
			t.Errorf("got\n%+v\nwant\n%+v", r, want)
		}
		if h := r.Height; h.Min != 7 || h.Max != 500 || h.Median != 20 || h.P95 != 500 || h.Mean != 597./6 {
			t.Errorf("%+v", h)
		}
		if !slices.Equal(progress, []int{7, 7}) {
			t.Errorf("progress %v", progress)
		}
		if len(samples) != 3 {
			t.Fatalf("%d samples", len(samples))
		}
		for _, s := range samples {
			if s.Width == 0 {
				continue
			}
			c, err := jpeg.DecodeConfig(bytes.NewReader(s.JPEG))
			if err != nil || c.Width > 160 || c.Height > 160 || s.ID == "d" && (c.Width != 1 || c.Height != 160) {
				t.Errorf("%q: %+v, %v", s.ID, c, err)
			}
		}
	}
}

// The counts of a real set are those of its lines read another way.
func TestEmoji(t *testing.T) {
	const path = "../../testdata/emoji/train.jsonl"
	d, err := dataset.OpenJSONL(dataset.Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	tok := text.BertBaseUncased()
	captions, keywords, again, tokens, most := 0, 0, 0, 0, 0
	seen := map[string]bool{}
	for line := range strings.Lines(string(b)) {
		var x struct{ Captions, Keywords []string }
		if err := json.Unmarshal([]byte(line), &x); err != nil {
			t.Fatal(err)
		}
		captions += len(x.Captions)
		keywords += len(x.Keywords)
		for _, c := range x.Captions {
			if seen[c] {
				again++
			}
			seen[c] = true
			n := len(tok.Encode(c))
			tokens += n
			most = max(most, n)
		}
	}
	r, err := Set(t.Context(), dataset.Whole(d), Options{Tokenizer: tok, Workers: 2, Duplicates: true, Samples: 10})
	if err != nil {
		t.Fatal(err)
	}
	if r.Examples != 3240 || r.Captions != captions || r.Keywords != keywords || r.SameCaptions.Count != again || r.Tokens.Max != most || r.IDs.Count != 0 ||
		math.Abs(r.Tokens.Mean-float64(tokens)/float64(captions)) > 1e-9 || r.Width.Min != 32 || r.Width.Max != 32 || len(r.Samples) != 10 {
		t.Errorf("%+v", r)
	}
	sum := 0
	for _, bin := range r.Tokens.Bins {
		sum += bin.Count
	}
	if sum != captions {
		t.Errorf("bins hold %d captions of %d", sum, captions)
	}
}

// A spread is that of the sorted values.
func TestSpread(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 300 {
		var s spread
		var values []int
		scale := 1 << r.IntN(18)
		for range 1 + r.IntN(50) {
			v := r.IntN(scale)
			values = append(values, v)
			s.add(v)
		}
		slices.Sort(values)
		n := len(values)
		for i := range values {
			values[i] = min(values[i], maxValue)
		}
		most := 1 + r.IntN(30)
		got := s.result(most)
		if got.N != n || got.Min != values[0] || got.Median != values[(n-1)/2] || got.P95 != values[(19*n+19)/20-1] {
			t.Fatalf("%v: %+v", values, got)
		}
		sum, end := 0, got.Bins[0].From
		for _, b := range got.Bins {
			if b.From != end {
				t.Fatalf("%v: %+v", values, got.Bins)
			}
			sum, end = sum+b.Count, b.To+1
		}
		if sum != n || end <= got.Max || len(got.Bins) > most+2 {
			t.Fatalf("%v: %d bins for %d: %+v", values, len(got.Bins), most, got.Bins)
		}
	}
	if got := new(spread).result(5); got.N != 0 || got.Bins != nil {
		t.Errorf("%+v", got)
	}
}

// Samples are spread over a set of any length.
func TestSamples(t *testing.T) {
	for _, n := range []int{1, 7, 10, 11, 99, 1000, 2047} {
		set := make(list, n)
		for i := range set {
			set[i].ID = fmt.Sprint(i)
		}
		r, err := Set(t.Context(), dataset.Whole(set), Options{Tokenizer: text.BertBaseUncased(), Workers: 2, Samples: 10})
		if err != nil {
			t.Fatal(err)
		}
		var at []int
		for _, s := range r.Samples {
			var i int
			if _, err := fmt.Sscan(s.ID, &i); err != nil {
				t.Fatal(err)
			}
			at = append(at, i)
		}
		if len(at) != min(n, 10) || !slices.IsSorted(at) || len(slices.Compact(slices.Clone(at))) != len(at) || at[len(at)-1] < n*2/3-1 {
			t.Errorf("samples of %d: %v", n, at)
		}
	}
}

func TestPageIsSelfContained(t *testing.T) {
	set := list{
		{ID: "<b>&", Image: filled(300, 200, 9), Captions: []string{"<script>alert(1)</script>"}}, {},
		{ID: "x", Image: filled(300, 200, 9), Captions: []string{"日本"}},
	}
	r, err := Set(t.Context(), dataset.Whole(set), Options{Tokenizer: text.BertBaseUncased(), Workers: 1, Duplicates: true, Samples: 5})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := r.WriteHTML(&b, "a <set>"); err != nil {
		t.Fatal(err)
	}
	page := b.String()
	for _, want := range []string{"a &lt;set&gt;", "&lt;script&gt;alert", "日本", "&lt;b&gt;&amp;", "data:image/jpeg;base64,/9j/", "300 × 200", "broken", "default-src 'none'", "pictures that occur again"} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q in\n%s", want, page)
		}
	}
	if strings.Contains(page, "<script>") || regexp.MustCompile(`(src|href)="[^d]`).MatchString(page) || strings.Contains(page, "ZgotmplZ") {
		t.Errorf("the page asks for more:\n%s", page)
	}
}

func TestHead(t *testing.T) {
	set := list{{ID: "a", Group: "g", Image: filled(3, 2, 1), Captions: []string{"one"}, Keywords: []string{"k", "l"}}, {},
		{ID: "b", Question: &dataset.Question{Text: "why?", Answers: []string{"so"}}}, {ID: "c"}}
	joined := dataset.Join(dataset.Whole(set), dataset.Whole(set[:1]))
	for n, want := range []string{"", `a  group g  3×2  "one"  keywords k, l`, `unreadable: dataset: example 1, "bad-1": p: broken`, `b  "why?": so`, "c", "a  group g"} {
		var got []string
		bad, err := Head(t.Context(), joined, n, func(e Entry) error { got = append(got, e.String()); return nil })
		if err != nil || len(got) != n || n > 0 && !strings.HasPrefix(got[n-1], want) || bad != min(1, n/2) {
			t.Errorf("%d: %q, %d bad, %v", n, got, bad, err)
		}
	}
	stop := errors.New("stop")
	if _, err := Head(t.Context(), joined, 3, func(Entry) error { return stop }); err != stop {
		t.Error(err)
	}
}

// The questions of one picture share it; another picture of the same pixels counts once.
func TestQuestionsShareAPicture(t *testing.T) {
	var set list
	for i, picture := range []string{"a", "a", "b", "b", "a", "c"} {
		v := byte(1)
		if picture == "c" {
			v = 2
		}
		set = append(set, dataset.Example{ID: fmt.Sprint(i), ImageID: picture, Image: filled(3, 3, v), Question: &dataset.Question{Text: fmt.Sprint("q", i)}})
	}
	r, err := Set(t.Context(), dataset.Whole(set), Options{Tokenizer: text.BertBaseUncased(), Workers: 2, Duplicates: true})
	if want := (&Twice{1, [][2]string{{"0", "2"}}}); err != nil || !reflect.DeepEqual(r.SamePictures, want) {
		t.Errorf("%+v, %v, want %+v", r.SamePictures, err, want)
	}
}

// What occurs twice is what a map finds, pairs in the order in which they were found.
func TestTwice(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for _, kinds := range []int{5, 900, 1 << 40} {
		var found twice
		first := map[hash]int{}
		count, want := 0, []pair(nil)
		for n := range uint64(1000) {
			h, example := hashOf(fmt.Append(nil, r.IntN(kinds))), int(n/2)
			if err := found.add(h, 0, example); err != nil {
				t.Fatal(err)
			}
			if f, ok := first[h]; !ok {
				first[h] = example
			} else if count++; len(want) < maxPairs {
				want = append(want, pair{f, example, n})
			}
		}
		got, pairs, err := found.result()
		if err != nil || got != count || !slices.Equal(pairs, want) {
			t.Errorf("%d kinds: %d, %v, %v, want %d, %v", kinds, got, pairs, err, count, want)
		}
	}
}
