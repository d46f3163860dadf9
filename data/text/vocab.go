package text

import (
	"bufio"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
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

// LoadVocab returns a tokenizer with the vocabulary in the file path, in the
// form that [NewTokenizer] reads. Errors name the file and the line.
func LoadVocab(path string) (*Tokenizer, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parseVocab(f, path)
}

// NewTokenizer returns a tokenizer with the vocabulary that vocab lists, one
// token a line, the first line id 0: BERT's vocab.txt. Lines end in LF or CRLF.
// The text must be UTF-8, without empty lines and duplicates, and hold [PAD],
// [UNK], [CLS], [SEP] and [MASK]; an error names the offending line.
func NewTokenizer(vocab io.Reader) (*Tokenizer, error) {
	return parseVocab(vocab, "vocabulary")
}

func parseVocab(r io.Reader, name string) (*Tokenizer, error) {
	t := &Tokenizer{words: make(map[string]int32), rests: make(map[string]int32)}
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		tok := sc.Text()
		line := len(t.tokens) + 1
		switch {
		case tok == "":
			return nil, fmt.Errorf("%s:%d: empty line in a vocabulary", name, line)
		case !utf8.ValidString(tok):
			return nil, fmt.Errorf("%s:%d: token %q is not UTF-8", name, line, tok)
		case line > math.MaxInt32:
			return nil, fmt.Errorf("%s:%d: too many tokens", name, line)
		}
		table, key := t.words, tok
		if rest, ok := strings.CutPrefix(tok, "##"); ok && rest != "" {
			table, key = t.rests, rest
		}
		if first, ok := table[key]; ok {
			return nil, fmt.Errorf("%s:%d: token %q is already on line %d", name, line, tok, first+1)
		}
		table[key] = int32(len(t.tokens))
		t.longest = max(t.longest, len(key))
		t.tokens = append(t.tokens, tok)
	}
	if err := sc.Err(); err != nil {
		if errors.Is(err, bufio.ErrTooLong) {
			return nil, fmt.Errorf("%s:%d: line is too long for a token", name, len(t.tokens)+1)
		}
		return nil, fmt.Errorf("%s:%d: %w", name, len(t.tokens)+1, err)
	}
	if len(t.tokens) == 0 {
		return nil, fmt.Errorf("%s: vocabulary is empty", name)
	}
	var missing []string
	for i, tok := range specialTokens {
		id, ok := t.words[tok]
		if !ok {
			missing = append(missing, tok)
		}
		t.special[i] = id
	}
	if missing != nil {
		return nil, fmt.Errorf("%s: no %s among the %d lines of the vocabulary",
			name, strings.Join(missing, ", "), len(t.tokens))
	}
	return t, nil
}
