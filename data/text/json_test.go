package text

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// Tokenizers with each normalizer against Hugging Face's.
func TestParseJSON(t *testing.T) {
	data, err := os.ReadFile("testdata/tokenizers.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	loaded := map[string]*Tokenizer{}
	for d := json.NewDecoder(bytes.NewReader(data)); d.More(); {
		var c struct {
			Tokenizer, Text string
			IDs             []int32
			Tokens          []string
			Offsets         [][2]int
		}
		if err := d.Decode(&c); err != nil {
			t.Fatal(err)
		}
		tok := loaded[c.Tokenizer]
		if tok == nil {
			if tok, err = LoadVocab(filepath.Join("testdata", c.Tokenizer)); err != nil {
				t.Fatal(err)
			}
			loaded[c.Tokenizer] = tok
		}
		ids, spans := tok.EncodeSpans(c.Text)
		if !slices.Equal(ids, c.IDs) || !slices.Equal(tok.Tokens(ids), c.Tokens) {
			t.Errorf("%s, %+q:\n got %+q\nwant %+q", c.Tokenizer, c.Text, tok.Tokens(ids), c.Tokens)
			continue
		}
		for i, s := range spans {
			if s != (Span{c.Offsets[i][0], c.Offsets[i][1]}) {
				t.Errorf("%s, %+q: span %d (%s) is %v, want %v", c.Tokenizer, c.Text, i, c.Tokens[i], s, c.Offsets[i])
			}
		}
	}
	if len(loaded) != 6 {
		t.Errorf("%d tokenizers", len(loaded))
	}
}

// The vocabulary as a list and as a tokenizer.json is the same tokenizer.
func TestJSONEqualsList(t *testing.T) {
	list := strings.Split(strings.TrimSuffix(bertBaseUncased, "\n"), "\n")
	vocab := make(map[string]int, len(list))
	for i, tok := range list {
		vocab[tok] = i
	}
	data, err := json.Marshal(map[string]any{ // keys sorted, so ids out of order
		"model":         map[string]any{"type": "WordPiece", "vocab": vocab},
		"normalizer":    map[string]any{"type": "BertNormalizer", "lowercase": true},
		"pre_tokenizer": map[string]any{"type": "BertPreTokenizer"},
	})
	if err != nil {
		t.Fatal(err)
	}
	tok, err := ParseJSON(data, "tokenizer.json")
	if err != nil {
		t.Fatal(err)
	}
	want := BertBaseUncased()
	if !slices.Equal(tok.tokens, want.tokens) || tok.special != want.special {
		t.Error("tokens differ")
	}
	for _, c := range readCases(t, filepath.Join(fixtures(), "wordpiece")) {
		if got, want := tok.Encode(c.Text), want.Encode(c.Text); !slices.Equal(got, want) {
			t.Errorf("case %d: %v, want %v", c.ID, got, want)
		}
	}
}

func TestParseJSONErrors(t *testing.T) {
	const pre = `"pre_tokenizer":{"type":"BertPreTokenizer"}`
	const vocab = `{"[PAD]":0,"[UNK]":1,"[CLS]":2,"[SEP]":3,"[MASK]":4}`
	for _, c := range []struct{ in, want string }{
		{"", "t.json:1: file ends within a JSON value"},
		{"[]", "t.json:1: the file is [, want an object"},
		{"{\n}", "t.json:2: no model"},
		{"{\n\"model\":null}", "t.json:2: no model"},
		{`{"model":{"vocab":` + vocab + `}}`, "t.json:1: no pre_tokenizer"},
		{`{"model":{"vocab":` + vocab + `},` + pre, "t.json:1: file ends within"},
		{`{"model":{"vocab":` + vocab + "},\n" + pre + "}\n{}", "t.json:3: more than one JSON value"},
		{"{\"model\":{\n\"type\":\"BPE\"}}", `t.json:2: model.type is "BPE", only "WordPiece" is supported`},
		{"{\"model\":{\"unk_token\":\"<unk>\"}}", `t.json:1: model.unk_token is "<unk>", only "[UNK]"`},
		{"{\"model\":{\"continuing_subword_prefix\":\"@\"}}", `t.json:1: model.continuing_subword_prefix is "@"`},
		{"{\"model\":{\"max_input_chars_per_word\":200}}", "t.json:1: model.max_input_chars_per_word is 200, want 1 to 100"},
		{"{\"model\":{\"vocab\":{\"a\":0,\n\n\"a\":1}}}", `t.json:3: token "a" already has id 0`},
		{"{\"model\":{\"vocab\":{\n\"a\":-1}}}", `t.json:2: token "a" has id -1`},
		{"{\"model\":{\"vocab\":{\n\"a\":\"b\"}}}", `t.json:2: the id of token "a" is string, want int32`},
		{"{\"model\":{\"vocab\":{\n\"a\":1.5}}}", `t.json:2: the id of token "a" is number 1.5, want int32`},
		{"{\"model\":{\"vocab\":[]}}", "t.json:1: model.vocab is [, want an object"},
		{"{\"model\":{\"vocab\":{\n\n\"a\" 1}}}", "t.json:3: "},
		{`{"model":{"vocab":{}},` + pre + "}", "t.json: vocabulary is empty"},
		{`{"model":{"vocab":{"a":0}},` + pre + "}", "t.json: no [PAD], [UNK], [CLS], [SEP], [MASK] among the 1 tokens"},
		{`{"model":{"vocab":{"a":0,"b":2}},` + pre + "}", `t.json: 2 tokens, but token "b" has id 2: an id is left out`},
		{`{"model":{"vocab":{"b":1,"a":1}},` + pre + "}", `t.json: tokens "a" and "b" both have id 1`},
		{"{\"normalizer\":{\n\"type\":\"NFC\"}}", `t.json:2: normalizer.type is "NFC", only "BertNormalizer"`},
		{"{\"pre_tokenizer\":{\n\"type\":\"Metaspace\"}}", `t.json:2: pre_tokenizer.type is "Metaspace"`},
		{"{\"added_tokens\":[{\"id\":5,\"content\":\"x\",\n\"lstrip\":true}]}", `t.json:2: added token "x": single_word, lstrip`},
		{"{\"added_tokens\":[{\"id\":5}]}", "t.json:1: added token without content"},
		{"{\"added_tokens\":{}}", "t.json:1: added_tokens is {, want a list"},
		{`{"added_tokens":[{"id":1,"content":"[PAD]"}],"model":{"vocab":` + vocab + `},` + pre + "}", `t.json:1: added token "[PAD]" has id 1, in model.vocab it has 0`},
	} {
		_, err := ParseJSON([]byte(c.in), "t.json")
		if err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s:\n got %v\nwant %s", c.in, err, c.want)
		}
	}
}

// FuzzParseJSON looks for panics, for tokenizers that contradict themselves and
// for memory beyond a multiple of the file.
func FuzzParseJSON(f *testing.F) {
	names, err := filepath.Glob("testdata/tokenizer-*.json")
	if err != nil || len(names) == 0 {
		f.Fatal(err, len(names))
	}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(`{"model":{"type":"WordPiece","vocab":{"[PAD]":0,"[UNK]":1,"[CLS]":2,"[SEP]":3,"[MASK]":4,"a":6,"##a":5}},"pre_tokenizer":{"type":"BertPreTokenizer"},"added_tokens":[{"id":7,"content":"<x>"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		tok, err := ParseJSON(data, "fuzz")
		runtime.ReadMemStats(&after)
		if got, most := after.TotalAlloc-before.TotalAlloc, uint64(4<<20+256*len(data)); got > most {
			t.Errorf("%d bytes of memory for a file of %d, want at most %d", got, len(data), most)
		}
		if err != nil {
			if !strings.HasPrefix(err.Error(), "fuzz:") {
				t.Fatalf("error %q does not name the file", err)
			}
			return
		}
		checkVocab(t, tok, len(data))
	})
}

func FuzzVocab(f *testing.F) {
	f.Add("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n##a\nab\n")
	f.Add("[PAD]\r\n[MASK]\n\n")
	f.Fuzz(func(t *testing.T, vocab string) {
		tok, err := parseVocab(strings.NewReader(vocab), "fuzz")
		if err != nil {
			if !strings.HasPrefix(err.Error(), "fuzz:") {
				t.Fatalf("error %q does not name the file", err)
			}
			return
		}
		checkVocab(t, tok, len(vocab))
	})
}

// checkVocab uses a tokenizer that came out of a file of n bytes.
func checkVocab(t *testing.T, tok *Tokenizer, n int) {
	t.Helper()
	if tok.VocabSize() > n {
		t.Fatalf("%d tokens out of %d bytes", tok.VocabSize(), n)
	}
	for id := range int32(tok.VocabSize()) {
		if got, ok := tok.id(tok.Token(id)); !ok || got != id {
			t.Fatalf("token %q of id %d has id %d", tok.Token(id), id, got)
		}
	}
	const text = "a ab [MASK] \u00e9\u0130 \u65e5\x00<x>"
	ids, spans := tok.EncodeSpans(text)
	if len(ids) != len(spans) {
		t.Fatalf("%d ids, %d spans", len(ids), len(spans))
	}
	tok.Decode(ids, false)
}
