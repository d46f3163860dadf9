package text

import (
	"bufio"
	"bytes"
	"cmp"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"
)

// bertBaseUncased is the vocab.txt of google-bert/bert-base-uncased
// (Apache-2.0), 30,522 tokens.
//
//go:embed vocab.txt
var bertBaseUncased string

// BertBaseUncased returns a tokenizer with the vocabulary of
// bert-base-uncased, VLMo's. It takes some milliseconds: make one and share it.
func BertBaseUncased() *Tokenizer {
	t, err := NewTokenizer(strings.NewReader(bertBaseUncased))
	if err != nil {
		panic("text: built-in " + err.Error())
	}
	return t
}

// LoadVocab returns a tokenizer with the vocabulary in the file path: a
// tokenizer.json of Hugging Face's tokenizers where the name ends in .json, see
// [ParseJSON], else a list that [NewTokenizer] reads. Errors name the file and
// the line.
func LoadVocab(path string) (*Tokenizer, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if strings.EqualFold(filepath.Ext(path), ".json") {
		return ParseJSON(data, path)
	}
	return parseVocab(bytes.NewReader(data), path)
}

// NewTokenizer returns an uncased tokenizer with the vocabulary that vocab
// lists, one token a line, the first line id 0: BERT's vocab.txt. Lines end in
// LF or CRLF. The text must be UTF-8, without empty lines and duplicates, and
// hold [PAD], [UNK], [CLS], [SEP] and [MASK]; an error names the offending line.
func NewTokenizer(vocab io.Reader) (*Tokenizer, error) {
	return parseVocab(vocab, "vocabulary")
}

func parseVocab(r io.Reader, name string) (*Tokenizer, error) {
	t := newTokenizer()
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		line := len(t.tokens) + 1
		if err := t.add(sc.Text(), int32(line-1)); err != nil {
			var dup duplicateError
			if errors.As(err, &dup) {
				err = fmt.Errorf("token %q is already on line %d", dup.token, dup.id+1)
			}
			return nil, fmt.Errorf("%s:%d: %w", name, line, err)
		}
	}
	if err := sc.Err(); err != nil {
		if errors.Is(err, bufio.ErrTooLong) {
			return nil, fmt.Errorf("%s:%d: line is too long for a token", name, len(t.tokens)+1)
		}
		return nil, fmt.Errorf("%s:%d: %w", name, len(t.tokens)+1, err)
	}
	if err := t.finish(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return t, nil
}

// maxTokens is the most tokens of a vocabulary. The largest in use have some
// hundred thousand.
const maxTokens = 1 << 24

// newTokenizer returns a tokenizer without tokens.
func newTokenizer() *Tokenizer {
	return &Tokenizer{words: make(map[string]int32), rests: make(map[string]int32), maxWord: maxWordRunes, norm: uncased}
}

// duplicateError says that a token has an id already.
type duplicateError struct {
	token string
	id    int32
}

func (e duplicateError) Error() string {
	return fmt.Sprintf("token %q already has id %d", e.token, e.id)
}

// add gives tok an id, which may be any.
func (t *Tokenizer) add(tok string, id int32) error {
	switch {
	case tok == "":
		return errors.New("empty line in a vocabulary")
	case !utf8.ValidString(tok):
		return fmt.Errorf("token %q is not UTF-8", tok)
	case id < 0 || id >= maxTokens:
		return fmt.Errorf("token %q has id %d, want 0 to %d", tok, id, maxTokens-1)
	}
	table, key := t.words, tok
	if rest, ok := strings.CutPrefix(tok, "##"); ok && rest != "" {
		table, key = t.rests, rest
	}
	if old, ok := table[key]; ok {
		return duplicateError{tok, old}
	}
	table[key] = id
	t.longest = max(t.longest, len(key))
	if int(id) == len(t.tokens) {
		t.tokens = append(t.tokens, tok)
	}
	return nil
}

// finish completes a tokenizer whose tokens are all there.
func (t *Tokenizer) finish() error {
	n := len(t.words) + len(t.rests)
	if n == 0 {
		return errors.New("vocabulary is empty")
	}
	if len(t.tokens) != n { // ids did not come in order
		t.tokens = make([]string, n)
		for prefix, table := range map[string]map[string]int32{"": t.words, "##": t.rests} {
			for key, id := range table {
				if int(id) >= n {
					return fmt.Errorf("%d tokens, but token %q has id %d: an id is left out", n, prefix+key, id)
				}
				if old := t.tokens[id]; old != "" {
					return fmt.Errorf("tokens %q and %q both have id %d", min(old, prefix+key), max(old, prefix+key), id)
				}
				t.tokens[id] = prefix + key
			}
		}
	}
	var missing []string
	for i, tok := range specialTokens {
		id, ok := t.words[tok]
		if !ok {
			missing = append(missing, tok)
			continue
		}
		t.special[i] = id
		if !slices.ContainsFunc(t.added, func(a addedToken) bool { return a.text == tok }) {
			t.added = append(t.added, addedToken{tok, id})
		}
	}
	if missing != nil {
		return fmt.Errorf("no %s among the %d tokens of the vocabulary", strings.Join(missing, ", "), n)
	}
	slices.SortFunc(t.added, func(a, b addedToken) int {
		return cmp.Or(len(b.text)-len(a.text), strings.Compare(a.text, b.text))
	})
	for _, a := range t.added {
		t.starts[a.text[0]] = true
	}
	t.ascii = asciiClass(t.norm)
	return nil
}
