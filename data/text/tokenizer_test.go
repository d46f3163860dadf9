package text

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

func fixtures() string {
	if dir := os.Getenv("VLMO_FIXTURES"); dir != "" {
		return dir
	}
	return filepath.Join("..", "..", "testdata", "fixtures")
}

type wordPieceCase struct {
	ID         int      `json:"id"`
	Cat        string   `json:"cat"`
	Text       string   `json:"text"`
	IDs        []int32  `json:"ids"`
	Tokens     []string `json:"tokens"`
	Offsets    [][2]int `json:"offsets"`
	IDsSpecial []int32  `json:"ids_special"`
	Trunc40    []int32  `json:"trunc40"`
	Trunc196   []int32  `json:"trunc196"`
	Decoded    string   `json:"decoded"`
	Decoded40  string   `json:"decoded40"`
	DecodedHF  string   `json:"decoded_hf"`
	SlowSame   bool     `json:"slow_same"`
	SlowIDs    []int32  `json:"slow_ids"`
	SlowTrunc  []int32  `json:"slow_trunc40"`
}

func readCases(t testing.TB, folder string) []wordPieceCase {
	f, err := os.Open(filepath.Join(folder, "cases.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var cases []wordPieceCase
	dec := json.NewDecoder(bufio.NewReader(f))
	for dec.More() {
		var c wordPieceCase
		if err := dec.Decode(&c); err != nil {
			t.Fatal(err)
		}
		cases = append(cases, c)
	}
	if len(cases) == 0 {
		t.Fatal("no cases")
	}
	return cases
}

// Every line of the fixture, made with Hugging Face's tokenizers.
func TestHuggingFace(t *testing.T) {
	testCases(t, BertBaseUncased(), readCases(t, filepath.Join(fixtures(), "wordpiece")))
}

// The same with another vocabulary, as text and as tokenizers saved it.
func TestHuggingFaceVocabulary(t *testing.T) {
	dir := filepath.Join(fixtures(), "wordpiece", "other")
	if _, err := os.Stat(dir); err != nil {
		t.Skip("the fixtures have no other vocabulary")
	}
	for _, name := range []string{"vocab.txt", "tokenizer.json"} {
		tok, err := LoadVocab(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		testCases(t, tok, readCases(t, dir))
	}
}

func testCases(t *testing.T, tok *Tokenizer, cases []wordPieceCase) {
	t.Helper()
	for _, c := range cases {
		ids, spans := tok.EncodeSpans(c.Text)
		if again := tok.Encode(c.Text); !slices.Equal(ids, again) {
			t.Errorf("case %d (%s): Encode = %v, EncodeSpans = %v", c.ID, c.Cat, again, ids)
		}
		if len(spans) != len(ids) {
			t.Errorf("case %d (%s): %d ids, %d spans", c.ID, c.Cat, len(ids), len(spans))
			continue
		}
		if !c.SlowSame && slices.Equal(ids, c.SlowIDs) {
			if got := tok.EncodeSpecial(c.Text, 40); !slices.Equal(got, c.SlowTrunc) {
				t.Errorf("case %d (%s): cut to 40: %v, want %v", c.ID, c.Cat, got, c.SlowTrunc)
			}
			continue // the rest of the line is the fast tokenizer's
		}
		if !slices.Equal(ids, c.IDs) {
			t.Errorf("case %d (%s) %q:\n got %v %q\nwant %v %q", c.ID, c.Cat, c.Text, ids, tok.Tokens(ids), c.IDs, c.Tokens)
			continue
		}
		if got := tok.Tokens(ids); !slices.Equal(got, c.Tokens) {
			t.Errorf("case %d (%s): tokens %q, want %q", c.ID, c.Cat, got, c.Tokens)
		}
		for i, s := range spans {
			if s != (Span{c.Offsets[i][0], c.Offsets[i][1]}) {
				t.Errorf("case %d (%s) %q: span %d (%s) = %v, want %v", c.ID, c.Cat, c.Text, i, c.Tokens[i], s, c.Offsets[i])
			}
		}
		for _, e := range []struct {
			max  int
			want []int32
		}{{40, c.Trunc40}, {196, c.Trunc196}, {1 << 20, c.IDsSpecial}} {
			if got := tok.EncodeSpecial(c.Text, e.max); !slices.Equal(got, e.want) {
				t.Errorf("case %d (%s): cut to %d: %v, want %v", c.ID, c.Cat, e.max, got, e.want)
			}
		}
		if got := tok.join(c.IDsSpecial, true); got != c.Decoded {
			t.Errorf("case %d (%s): joined %q, want %q", c.ID, c.Cat, got, c.Decoded)
		}
		if got := tok.join(c.Trunc40, true); got != c.Decoded40 {
			t.Errorf("case %d (%s): joined to 40 %q, want %q", c.ID, c.Cat, got, c.Decoded40)
		}
		if got := tok.Decode(c.IDsSpecial, true); got != c.DecodedHF {
			t.Errorf("case %d (%s): Decode = %q, want %q", c.ID, c.Cat, got, c.DecodedHF)
		}
	}
}

func TestVocabulary(t *testing.T) {
	sum := sha256.Sum256([]byte(bertBaseUncased))
	if got, want := hex.EncodeToString(sum[:]), "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"; got != want {
		t.Errorf("sha256 of vocab.txt is %s, want %s", got, want)
	}
	tok := BertBaseUncased()
	if got := [...]int32{int32(tok.VocabSize()), tok.PAD(), tok.UNK(), tok.CLS(), tok.SEP(), tok.MASK()}; got != [...]int32{30522, 0, 100, 101, 102, 103} {
		t.Errorf("size and special ids = %v", got)
	}
	// Every token is found again, those by the word's start and those after it.
	for id, s := range strings.Split(strings.TrimSuffix(bertBaseUncased, "\n"), "\n") {
		if tok.Token(int32(id)) != s || tok.IsContinuation(int32(id)) != (len(s) > 1 && s[:2] == "##") {
			t.Errorf("id %d is %q, want %q", id, tok.Token(int32(id)), s)
		}
		special := id == 0 || 100 <= id && id <= 103
		if tok.IsSpecial(int32(id)) != special {
			t.Errorf("IsSpecial(%d) = %v", id, !special)
		}
	}
	for _, id := range []int32{-1, 30522, 1<<31 - 1} {
		if tok.Token(id) != "[UNK]" || tok.IsContinuation(id) || tok.Decode([]int32{id}, true) != "" {
			t.Errorf("id %d outside the vocabulary is not [UNK]", id)
		}
	}
	if got := tok.Decode([]int32{101, 7592, 100, 102}, false); got != "[CLS] hello [UNK] [SEP]" {
		t.Errorf("Decode with special tokens = %q", got)
	}
}

func TestEncodeSpecialShort(t *testing.T) {
	tok := BertBaseUncased()
	for n, want := range [][]int32{{101, 102}, {101, 102}, {101, 102}, {101, 14477, 102}, {101, 14477, 20961, 102}} {
		if got := tok.EncodeSpecial("unaffable", n); !slices.Equal(got, want) {
			t.Errorf("cut to %d: %v, want %v", n, got, want)
		}
	}
}

// A word that starts well and ends in [UNK] must take its first pieces back,
// also where they stand behind the cut.
func TestUnknownRest(t *testing.T) {
	tok := BertBaseUncased()
	ids, spans := tok.EncodeSpans("the unaffable\u1234 dog")
	if !slices.Equal(ids, []int32{1996, 100, 3899}) || !slices.Equal(spans, []Span{{0, 3}, {4, 14}, {15, 18}}) {
		t.Errorf("got %v %v", ids, spans)
	}
	if got := tok.EncodeSpecial("the unaffable\u1234 dog", 4); !slices.Equal(got, []int32{101, 1996, 100, 102}) {
		t.Errorf("cut to 4: %v", got)
	}
}

func TestVocabErrors(t *testing.T) {
	const head = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n"
	for _, c := range []struct{ in, want string }{
		{"", "vocabulary: vocabulary is empty"},
		{head + "a\n\nb\n", "vocabulary:7: empty line"},
		{head + "\n", "vocabulary:6: empty line"},
		{head + "a\n##a\na\n", `vocabulary:8: token "a" is already on line 6`},
		{head + "##a\n##b\n##a\n", `vocabulary:8: token "##a" is already on line 6`},
		{"[PAD]\n[UNK]\n[SEP]\na\n", "vocabulary: no [CLS], [MASK] among the 4 tokens"},
		{head + "a\xff\n", `vocabulary:6: token "a\xff" is not UTF-8`},
		{head + strings.Repeat("a", 1<<17), "vocabulary:6: line is too long"},
	} {
		_, err := NewTokenizer(strings.NewReader(c.in))
		if err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("vocabulary %.40q: error %v, want %s", c.in, err, c.want)
		}
	}

	dir := t.TempDir()
	good, bad := filepath.Join(dir, "vocab.txt"), filepath.Join(dir, "bad.txt")
	for path, s := range map[string]string{good: strings.ReplaceAll(head+"ab\n##c\nd", "\n", "\r\n"), bad: head + "a\na\n"} {
		if err := os.WriteFile(path, []byte(s), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	tok, err := LoadVocab(good)
	if err != nil {
		t.Fatal(err)
	}
	if got := tok.Encode("abcc D x[MASK]"); !slices.Equal(got, []int32{5, 6, 6, 7, 1, 4}) {
		t.Errorf("with another vocabulary: %v", got)
	}
	if _, err := LoadVocab(bad); err == nil || !strings.HasPrefix(err.Error(), bad+":7: ") {
		t.Errorf("error %v does not name file and line", err)
	}
	if _, err := LoadVocab(filepath.Join(dir, "none")); !os.IsNotExist(err) {
		t.Errorf("missing file: %v", err)
	}
}

// naive is the tokenizer written down as its definition reads, pass by pass
// over whole strings.
func naive(t *Tokenizer, text string) []int32 {
	vocab := make(map[string]int32)
	for id, s := range t.tokens {
		vocab[s] = int32(id)
	}
	var ids []int32
	for text != "" {
		cut, found := len(text), ""
		for _, s := range specialTokens {
			if i := strings.Index(text, s); i >= 0 && i < cut {
				cut, found = i, s
			}
		}
		for _, w := range naiveWords(text[:cut]) {
			ids = append(ids, naivePieces(vocab, []rune(w))...)
		}
		if found != "" {
			ids = append(ids, vocab[found])
		}
		text = text[cut+len(found):]
	}
	return ids
}

func naiveWords(text string) []string {
	var clean strings.Builder
	for _, r := range text {
		switch {
		case strings.ContainsRune(" \t\n\r\u2028\u2029", r) || unicode.Is(unicode.Zs, r):
			clean.WriteByte(' ')
		case r == 0xfffd || unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co):
		case unicode.In(r, &unicode.RangeTable{
			R16: []unicode.Range16{{Lo: 0x3400, Hi: 0x4dbf, Stride: 1}, {Lo: 0x4e00, Hi: 0x9fff, Stride: 1}, {Lo: 0xf900, Hi: 0xfaff, Stride: 1}},
			R32: []unicode.Range32{{Lo: 0x20000, Hi: 0x2a6df, Stride: 1}, {Lo: 0x2a700, Hi: 0x2b73f, Stride: 1},
				{Lo: 0x2b740, Hi: 0x2b81f, Stride: 1}, {Lo: 0x2b820, Hi: 0x2ceaf, Stride: 1}, {Lo: 0x2f800, Hi: 0x2fa1f, Stride: 1}},
		}):
			clean.WriteString(" " + string(r) + " ")
		default:
			clean.WriteRune(r)
		}
	}
	// NFD: decompose, then sort each run of marks by class.
	class := func(r rune) uint8 { return norm.NFD.PropertiesString(string(r)).CCC() }
	var nfd []rune
	for _, r := range clean.String() {
		nfd = append(nfd, []rune(norm.NFD.String(string(r)))...)
	}
	for i := 0; i < len(nfd); {
		j := i + 1
		for class(nfd[i]) > 0 && j < len(nfd) && class(nfd[j]) > 0 {
			j++
		}
		slices.SortStableFunc(nfd[i:j], func(a, b rune) int { return int(class(a)) - int(class(b)) })
		i = j
	}
	var out strings.Builder
	for _, r := range nfd {
		if unicode.Is(unicode.Mn, r) {
			continue
		}
		r = unicode.ToLower(r)
		if unicode.IsPunct(r) || r < 128 && unicode.IsSymbol(r) {
			out.WriteString(" " + string(r) + " ")
		} else {
			out.WriteRune(r)
		}
	}
	return strings.FieldsFunc(out.String(), func(r rune) bool { return r == ' ' })
}

func naivePieces(vocab map[string]int32, w []rune) []int32 {
	if len(w) > 100 {
		return []int32{vocab["[UNK]"]}
	}
	var ids []int32
	for from := 0; from < len(w); {
		to := len(w)
		for ; to > from; to-- {
			s := string(w[from:to])
			if from > 0 {
				s = "##" + s
			}
			if id, ok := vocab[s]; ok {
				ids = append(ids, id)
				break
			}
		}
		if to == from {
			return []int32{vocab["[UNK]"]}
		}
		from = to
	}
	return ids
}

// wideVocab spells every string of the marks that combining order touches, so
// that a wrong order shows.
func wideVocab(t testing.TB) *Tokenizer {
	var b strings.Builder
	b.WriteString("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
	for _, r := range "abkσς\u1b44\ua953\u302e\u302f\U0001d165\U0001d16d\U0001d16e\U00016ff0\u1100\u1161\u11a8" {
		b.WriteString(string(r) + "\n##" + string(r) + "\n")
	}
	b.WriteString("ab\n##bk\n\u1100\u1161\n##\u1161\u11a8\n")
	tok, err := NewTokenizer(strings.NewReader(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// Random strings of characters that the rules treat apart, against naive.
func TestAgainstDefinition(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	alphabet := []rune("abkKABé.-$[]#'_`~Σσς ß\u00a0\u0130ǅ가각ᄀ\u1161\u11a8日\uf900ｶか\u2028\u0085\u0000\u007f\u00ad\u200b\u2060\ufeff\ufffd" +
		"\u0301\u0308\u0327\u034f\u0345\u1b44\ua953\u302e\u302f\U0001d165\U0001d16d\U0001d16e\U00016ff0\U0001d15e\u1f82\u037e\u2260\u1fef\ue000\U0001f600\u0ccb\u180e")
	pieces := append([]string{"[MASK]", "[SEP]", "[UNK", "PAD]", "unaffable", "\xff", "\xe2\x80"}, strings.Split(string(alphabet), "")...)
	pieces = append(pieces, strings.Repeat("a", 98), strings.Repeat("é", 50))
	for _, tok := range []*Tokenizer{wideVocab(t), BertBaseUncased()} {
		n := 5000
		if tok.VocabSize() > 1000 {
			n = 20 // naive makes its table anew each time
		}
		for range n {
			var b strings.Builder
			for range 1 + r.IntN(12) {
				b.WriteString(pieces[r.IntN(len(pieces))])
			}
			compare(t, tok, b.String())
			if t.Failed() {
				return
			}
		}
	}
	// Each code point by itself and inside a word.
	tok := wideVocab(t)
	for c := rune(0); c <= unicode.MaxRune && !t.Failed(); c++ {
		if c < 0x3400 || c%17 == 0 || !unicode.In(c, unicode.L, unicode.Co) {
			compare(t, tok, "a"+string(c)+"b")
		}
		if c == 0x20000 {
			c = 0xe0000 - 1
		}
	}
}

func compare(t *testing.T, tok *Tokenizer, s string) {
	t.Helper()
	ids, spans := tok.EncodeSpans(s)
	if want := naive(tok, s); !slices.Equal(ids, want) {
		t.Errorf("%+q: %q, want %q", s, tok.Tokens(ids), tok.Tokens(want))
	}
	checkSpans(t, s, ids, spans)
}

// checkSpans holds spans to their range and order. Pieces of one code point's
// decomposition may overlap in it.
func checkSpans(t *testing.T, s string, ids []int32, spans []Span) {
	t.Helper()
	if len(ids) != len(spans) {
		t.Fatalf("%+q: %d ids, %d spans", s, len(ids), len(spans))
	}
	prev := Span{}
	for i, sp := range spans {
		if sp.Start < 0 || sp.End <= sp.Start || sp.End > utf8.RuneCountInString(s) ||
			sp.Start < prev.End-1 || sp.Start < prev.Start {
			t.Fatalf("%+q: span %d of %v is out of range or order", s, i, spans)
		}
		prev = sp
	}
}

func FuzzEncode(f *testing.F) {
	for i, c := range readCases(f, filepath.Join(fixtures(), "wordpiece")) {
		if i%7 == 0 {
			f.Add(c.Text)
		}
	}
	f.Add("a\xff\xe2\x80b[MASK\x00]")
	tok := BertBaseUncased()
	f.Fuzz(func(t *testing.T, s string) {
		ids, spans := tok.EncodeSpans(s)
		checkSpans(t, s, ids, spans)
		for _, id := range ids {
			if id < 0 || int(id) >= tok.VocabSize() {
				t.Fatalf("%+q: id %d", s, id)
			}
		}
		tok.Decode(ids, false)
		if cut := tok.EncodeSpecial(s, 12); len(cut) != min(12, len(ids)+2) ||
			!slices.Equal(cut[1:len(cut)-1], ids[:min(10, len(ids))]) {
			t.Fatalf("%+q: cut to 12: %v of %v", s, cut, ids)
		}
	})
}

func TestConcurrent(t *testing.T) {
	tok := BertBaseUncased()
	cases := readCases(t, filepath.Join(fixtures(), "wordpiece"))
	want := make([][]int32, len(cases))
	for i, c := range cases {
		want[i] = tok.Encode(c.Text)
	}
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range cases {
				i = (i + g*101) % len(cases)
				if !slices.Equal(tok.Encode(cases[i].Text), want[i]) {
					t.Errorf("case %d differs among goroutines", cases[i].ID)
				}
			}
		})
	}
	wg.Wait()
}

func TestAppendAllocatesNothing(t *testing.T) {
	tok := BertBaseUncased()
	buf := make([]int32, 0, 256)
	const s = "A café's unaffable goalkeeper jumps [MASK] 日本 각 Über naïve, Привет… ещё"
	if n := testing.AllocsPerRun(100, func() { buf = tok.Append(buf[:0], s) }); n != 0 {
		t.Errorf("Append allocates %v times", n)
	}
}

func BenchmarkAppend(b *testing.B) {
	tok := BertBaseUncased()
	for _, c := range []struct{ name, text string }{
		{"caption", "A young boy in a red shirt is riding his skateboard down the steps of a building."},
		{"accents", "Ein Junge fährt mit Rückenwind über die Straße; là-bas, près du café, où l'été s'achève."},
		{"subwords", "Pneumonoultramicroscopicsilicovolcanoconiosis floccinaucinihilipilification antidisestablishmentarianism"},
		{"unknown", strings.Repeat("a", 99) + "\u1234"},
	} {
		b.Run(c.name, func(b *testing.B) {
			buf := make([]int32, 0, 256)
			b.SetBytes(int64(len(c.text)))
			b.ReportAllocs()
			for b.Loop() {
				buf = tok.Append(buf[:0], c.text)
			}
		})
	}
}

func BenchmarkBertBaseUncased(b *testing.B) {
	for b.Loop() {
		BertBaseUncased()
	}
}
