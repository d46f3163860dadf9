package text

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// ParseJSON returns a tokenizer from the content of a tokenizer.json, the file
// that Hugging Face's tokenizers write, of BERT's kind: a WordPiece model, a
// BertNormalizer (whose clean_text, handle_chinese_chars, strip_accents and
// lowercase decide), a BertPreTokenizer, and [PAD], [UNK], [CLS], [SEP] and
// [MASK] among the tokens. Added tokens are found in the raw text; such as need
// more (normalized, lstrip, rstrip or single_word true) are an error, and so is
// every other kind of tokenizer. Truncation, padding, post-processor and
// decoder are not read: the methods of a Tokenizer say what they do.
//
// Errors name the file, as name, and the line.
func ParseJSON(data []byte, name string) (*Tokenizer, error) {
	r := &jsonReader{dec: json.NewDecoder(bytes.NewReader(data))}
	t := newTokenizer()
	err := r.tokenizer(t)
	if err == nil {
		if _, err = r.dec.Token(); err == io.EOF {
			err = nil
		} else if err == nil {
			err = errors.New("more than one JSON value")
		}
	}
	if err != nil {
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			err = errors.New("file ends within a JSON value")
		}
		at := r.dec.InputOffset()
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			at = syntax.Offset
		}
		at = min(at, int64(len(data)))
		return nil, fmt.Errorf("%s:%d: %w", name, 1+bytes.Count(data[:at], []byte{'\n'}), err)
	}
	if err := t.finish(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return t, nil
}

// jsonReader walks a JSON text token by token, so that an error stands where
// the decoder is, and duplicates of keys show.
type jsonReader struct{ dec *json.Decoder }

// object reads an object and calls field for each value; field reads it. It
// reports false for null.
func (r *jsonReader) object(what string, field func(key string) error) (bool, error) {
	tok, err := r.dec.Token()
	if err != nil {
		return false, err
	}
	if tok == nil {
		return false, nil
	}
	if tok != json.Delim('{') {
		return false, fmt.Errorf("%s is %v, want an object", what, tok)
	}
	for r.dec.More() {
		key, err := r.dec.Token()
		if err != nil {
			return false, err
		}
		if err := field(key.(string)); err != nil {
			return false, err
		}
	}
	_, err = r.dec.Token()
	return true, err
}

// skip reads a value of any kind.
func (r *jsonReader) skip() error {
	for depth := 0; ; {
		tok, err := r.dec.Token()
		if err != nil {
			return err
		}
		switch tok {
		case json.Delim('{'), json.Delim('['):
			depth++
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
		if depth == 0 {
			return nil
		}
	}
}

// value reads a value into dst, which keeps what it is for null.
func (r *jsonReader) value(what string, dst any) error {
	err := r.dec.Decode(dst)
	var mismatch *json.UnmarshalTypeError
	if errors.As(err, &mismatch) {
		return fmt.Errorf("%s is %s, want %s", what, mismatch.Value, mismatch.Type)
	}
	return err
}

// want reads a value that has to be one of the given.
func (r *jsonReader) want(what string, legal ...string) error {
	var s string
	if err := r.value(what, &s); err != nil {
		return err
	}
	for _, l := range legal {
		if s == l {
			return nil
		}
	}
	return fmt.Errorf("%s is %q, only %q is supported", what, s, legal[0])
}

func (r *jsonReader) tokenizer(t *Tokenizer) error {
	var model, pre bool
	t.norm = normalizer{}
	var added []addedToken
	ok, err := r.object("the file", func(key string) (err error) {
		switch key {
		case "model":
			if model {
				return errors.New("model stands twice")
			}
			model, err = r.object("model", func(key string) error { return r.model(t, key) })
		case "normalizer":
			err = r.normalizer(t)
		case "pre_tokenizer":
			pre, err = r.object("pre_tokenizer", func(key string) error {
				if key == "type" {
					return r.want("pre_tokenizer.type", "BertPreTokenizer")
				}
				return r.skip()
			})
		case "added_tokens":
			added, err = r.added()
		default:
			err = r.skip()
		}
		return err
	})
	switch {
	case err != nil:
		return err
	case !ok || !model:
		return errors.New("no model")
	case !pre:
		return errors.New("no pre_tokenizer, want a BertPreTokenizer")
	}
	for _, a := range added {
		if id, ok := t.id(a.text); !ok {
			err = t.add(a.text, a.id)
		} else if id != a.id {
			err = fmt.Errorf("added token %q has id %d, in model.vocab it has %d", a.text, a.id, id)
		}
		if err != nil {
			return err
		}
	}
	t.added = added
	return nil
}

// id returns the id of a token.
func (t *Tokenizer) id(tok string) (int32, bool) {
	if len(tok) > 2 && tok[:2] == "##" {
		id, ok := t.rests[tok[2:]]
		return id, ok
	}
	id, ok := t.words[tok]
	return id, ok
}

func (r *jsonReader) model(t *Tokenizer, key string) error {
	switch key {
	case "type":
		return r.want("model.type", "WordPiece")
	case "unk_token":
		return r.want("model.unk_token", unkToken)
	case "continuing_subword_prefix":
		return r.want("model.continuing_subword_prefix", "##")
	case "max_input_chars_per_word":
		if err := r.value("model.max_input_chars_per_word", &t.maxWord); err != nil {
			return err
		}
		if t.maxWord < 1 || t.maxWord > maxWordRunes {
			return fmt.Errorf("model.max_input_chars_per_word is %d, want 1 to %d", t.maxWord, maxWordRunes)
		}
		return nil
	case "vocab":
		ok, err := r.object("model.vocab", func(tok string) error {
			var id int32
			if err := r.value("the id of token "+fmt.Sprintf("%.40q", tok), &id); err != nil {
				return err
			}
			if tok == "" {
				return errors.New("empty token")
			}
			return t.add(tok, id)
		})
		if err == nil && !ok {
			err = errors.New("model.vocab is null")
		}
		return err
	}
	return r.skip()
}

func (r *jsonReader) normalizer(t *Tokenizer) error {
	n := normalizer{clean: true, ideographs: true, lower: true}
	var strip *bool
	ok, err := r.object("normalizer", func(key string) error {
		switch key {
		case "type":
			return r.want("normalizer.type", "BertNormalizer")
		case "clean_text":
			return r.value("normalizer.clean_text", &n.clean)
		case "handle_chinese_chars":
			return r.value("normalizer.handle_chinese_chars", &n.ideographs)
		case "strip_accents":
			return r.value("normalizer.strip_accents", &strip)
		case "lowercase":
			return r.value("normalizer.lowercase", &n.lower)
		}
		return r.skip()
	})
	if err != nil || !ok {
		return err
	}
	n.strip = n.lower
	if strip != nil {
		n.strip = *strip
	}
	t.norm = n
	return nil
}

// added reads the list of added tokens.
func (r *jsonReader) added() ([]addedToken, error) {
	tok, err := r.dec.Token()
	if err != nil || tok == nil {
		return nil, err
	}
	if tok != json.Delim('[') {
		return nil, fmt.Errorf("added_tokens is %v, want a list", tok)
	}
	var list []addedToken
	for r.dec.More() {
		var a addedToken
		var single, left, right, normalized bool
		if ok, err := r.object("an added token", func(key string) error {
			switch key {
			case "id":
				return r.value("the id of an added token", &a.id)
			case "content":
				return r.value("the content of an added token", &a.text)
			case "single_word":
				return r.value(key, &single)
			case "lstrip":
				return r.value(key, &left)
			case "rstrip":
				return r.value(key, &right)
			case "normalized":
				return r.value(key, &normalized)
			}
			return r.skip()
		}); err != nil {
			return nil, err
		} else if !ok || a.text == "" || !utf8.ValidString(a.text) {
			return nil, errors.New("added token without content")
		}
		if single || left || right || normalized {
			return nil, fmt.Errorf("added token %q: single_word, lstrip, rstrip and normalized are not supported", a.text)
		}
		list = append(list, a)
	}
	_, err = r.dec.Token()
	return list, err
}
