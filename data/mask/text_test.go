package mask

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"vlmo-train/data/text"
	"vlmo-train/rng"
)

func fixtures() string {
	if dir := os.Getenv("VLMO_FIXTURES"); dir != "" {
		return dir
	}
	return filepath.Join("..", "..", "testdata", "fixtures")
}

// The choice of transformers' DataCollatorForWholeWordMask, with the shuffled
// order given.
func TestWholeWord(t *testing.T) {
	f, err := os.Open(filepath.Join(fixtures(), "wholeword", "cases.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tok := text.BertBaseUncased()
	dec := json.NewDecoder(f)
	n := 0
	for ; dec.More(); n++ {
		var c struct {
			ID     int      `json:"id"`
			Cat    string   `json:"cat"`
			Tokens []string `json:"tokens"`
			IDs    []int32  `json:"ids"`
			Groups [][]int  `json:"groups"`
			Budget int      `json:"budget"`
			Order  []int    `json:"order"`
			Picked []int    `json:"picked"`
			Masked []int    `json:"masked"`
		}
		if err := dec.Decode(&c); err != nil {
			t.Fatal(err)
		}
		groups := WordGroups(tok, c.IDs)
		if !slices.EqualFunc(groups, c.Groups, slices.Equal) {
			t.Errorf("case %d (%s): groups %v, want %v", c.ID, c.Cat, groups, c.Groups)
			continue
		}
		if got := Budget(len(c.IDs), DefaultProbability); got != c.Budget {
			t.Errorf("case %d (%s): budget %d, want %d", c.ID, c.Cat, got, c.Budget)
		}
		picked := Pick(groups, c.Order, c.Budget)
		if !slices.Equal(picked, c.Picked) {
			t.Errorf("case %d (%s): picked %v, want %v", c.ID, c.Cat, picked, c.Picked)
		}
		if got := dropSpecial(tok, c.IDs, picked); !slices.Equal(got, c.Masked) {
			t.Errorf("case %d (%s): masked %v, want %v", c.ID, c.Cat, got, c.Masked)
		}
	}
	if n == 0 {
		t.Error("no cases")
	}
}

// CompatLen is the plain rules on the padded caption.
func TestTextCompat(t *testing.T) {
	tok := text.BertBaseUncased()
	ids := tok.EncodeSpecial("A goalkeeper jumps over the unaffable, snow-covered bench.", 40)
	padded := make([]int32, 40)
	copy(padded, ids) // [PAD] is 0
	empty := 0
	for step := range uint64(300) {
		k := rng.Key{Seed: 1, Step: step, Purpose: rng.MaskText}
		src := rng.New(k)
		_, labels := Text(&src, tok, ids, TextOptions{CompatLen: 40})

		groups := WordGroups(tok, padded)
		want := Pick(groups, rng.Permutation(k, len(groups)), 6)
		for i, label := range labels {
			if (label >= 0) != slices.Contains(want, i) || label >= 0 && label != ids[i] {
				t.Fatalf("step %d: labels %v, want at %v", step, labels, want)
			}
		}
		if slices.Max(labels) < 0 {
			empty++
		}
	}
	if empty == 0 {
		t.Error("every caption has a masked token; the original's have not")
	}
}

// Labels are whole words and never special; everything else is untouched; the
// share is right; each masked token is replaced in the shares 80/10/10.
func TestTextStatistics(t *testing.T) {
	const draws = 20000
	tok := text.BertBaseUncased()
	for _, caption := range []string{
		"A young boy in a red shirt is riding his skateboard down the steps of a building near two dogs", // 20 tokens, 20 words
		"The unaffable goalkeeper [MASK] jumps \u1234 over flocculent snow-covered benches, embarrassingly [UNK] so.",
	} {
		ids := tok.EncodeSpecial(caption, 196)
		words := make([][]int, 0)
		maskable := 0
		for i, id := range ids {
			if tok.IsSpecial(id) {
				continue
			}
			maskable++
			if tok.IsContinuation(id) {
				words[len(words)-1] = append(words[len(words)-1], i)
			} else {
				words = append(words, []int{i})
			}
		}
		budget := int(math.RoundToEven(0.15 * float64(maskable)))
		var total, short, mask, random, kept float64
		perWord := make([]float64, len(words))
		for s := range uint64(draws) {
			src := rng.New(rng.Key{Seed: 5, Purpose: rng.MaskText, Sample: s})
			before := slices.Clone(ids)
			masked, labels := Text(&src, tok, ids, TextOptions{})
			if !slices.Equal(ids, before) {
				t.Fatal("Text changed its input")
			}
			n := 0
			for i, label := range labels {
				switch {
				case label < 0:
					if label != -1 || masked[i] != ids[i] {
						t.Fatalf("position %d without a label: label %d, id %d for %d", i, label, masked[i], ids[i])
					}
					continue
				case label != ids[i] || tok.IsSpecial(label):
					t.Fatalf("label %d at position %d of id %d", label, i, ids[i])
				}
				n++
				switch masked[i] {
				case tok.MASK():
					mask++
				case ids[i]:
					kept++
				default:
					random++
				}
			}
			for w, positions := range words {
				in := 0
				for _, i := range positions {
					if labels[i] >= 0 {
						in++
					}
				}
				if in != 0 && in != len(positions) {
					t.Fatalf("sample %d: %d of %d tokens of word %d", s, in, len(positions), w)
				}
				if in > 0 {
					perWord[w]++
				}
			}
			total += float64(n)
			if n == 0 {
				t.Fatalf("sample %d: nothing masked", s)
			}
			if n < budget {
				short++
			}
		}
		for _, c := range []struct {
			name string
			n, p float64
		}{
			{"[MASK]", mask, 0.8 + 0.1/30522}, {"random", random, 0.1 * (1 - 2/30522.0)}, {"unchanged", kept, 0.1 + 0.1/30522},
		} {
			if z := (c.n - total*c.p) / math.Sqrt(total*c.p*(1-c.p)); math.Abs(z) > 5 {
				t.Errorf("%s: %v of %v tokens, want %.3f of them: %.1f deviations off", c.name, c.n, total, c.p, z)
			}
		}
		if len(words) == maskable { // no word is ever left out: the share is exact
			if total != draws*0.15*float64(maskable) || short != 0 {
				t.Errorf("%v tokens masked of %d×%d, want 15 %%", total, draws, maskable)
			}
			for w, n := range perWord {
				if z := (n - draws*0.15) / math.Sqrt(draws*0.15*0.85); math.Abs(z) > 5 {
					t.Errorf("word %d masked %v times of %d: %.1f deviations off", w, n, draws, z)
				}
			}
		} else if share := total / draws / float64(maskable); math.Abs(share-0.15) > 0.02 {
			t.Errorf("%.3f of the tokens are masked, want 0.15", share)
		}
	}
}

// Replacements are uniform over the vocabulary, [PAD] and the like included.
func TestTextRandomTokens(t *testing.T) {
	tok := text.BertBaseUncased()
	ids := slices.Repeat([]int32{3899}, 200)
	var cells [10]float64
	n := 0.0
	for s := range uint64(2000) {
		src := rng.New(rng.Key{Purpose: rng.MaskText, Sample: s})
		masked, labels := Text(&src, tok, ids, TextOptions{Probability: 1})
		for i, id := range masked {
			if labels[i] != 3899 {
				t.Fatal("with probability 1 a token has no label")
			}
			if id != 103 && id != 3899 {
				cells[int(id)*10/30522]++
				n++
			}
		}
	}
	for i, c := range cells {
		if z := (c - n/10) / math.Sqrt(n*0.09); math.Abs(z) > 5 {
			t.Errorf("tenth %d of the vocabulary: %v of %v random tokens", i, c, n)
		}
	}
}

func TestTextEdges(t *testing.T) {
	tok := text.BertBaseUncased()
	for _, ids := range [][]int32{nil, {}, {101, 102}, {101, 100, 103, 0, 102}, {100}} {
		for _, opt := range []TextOptions{{}, {CompatLen: 40}} {
			for s := range uint64(20) {
				src := rng.New(rng.Key{Purpose: rng.MaskText, Sample: s})
				masked, labels := Text(&src, tok, ids, opt)
				if !slices.Equal(masked, ids) || len(labels) != len(ids) || slices.IndexFunc(labels, func(l int32) bool { return l != -1 }) >= 0 {
					t.Errorf("%v: masked %v, labels %v", ids, masked, labels)
				}
			}
		}
	}
	// One word longer than the budget is masked all the same.
	ids := tok.EncodeSpecial("Pneumonoultramicroscopicsilicovolcanoconiosis", 40)
	src := rng.New(rng.Key{Purpose: rng.MaskText})
	_, labels := Text(&src, tok, ids, TextOptions{})
	if !slices.Equal(labels[1:len(ids)-1], ids[1:len(ids)-1]) {
		t.Errorf("a single long word: labels %v", labels)
	}
	for _, c := range []struct{ n, want int }{{0, 1}, {1, 1}, {10, 2}, {30, 4}, {50, 8}, {70, 10}, {196, 29}, {5000, 512}} {
		if got := Budget(c.n, 0.15); got != c.want {
			t.Errorf("Budget(%d, 0.15) = %d, want %d", c.n, got, c.want)
		}
	}
}

func BenchmarkText(b *testing.B) {
	tok := text.BertBaseUncased()
	ids := tok.EncodeSpecial("A young boy in a red shirt is riding his skateboard down the steps of a building.", 40)
	src := rng.New(rng.Key{Purpose: rng.MaskText})
	b.ReportAllocs()
	for b.Loop() {
		Text(&src, tok, ids, TextOptions{})
	}
}
