// Package text turns captions into token ids and back: the WordPiece tokenizer
// of BERT, with the vocabulary of bert-base-uncased built in. Other
// vocabularies, cased ones too, are read from files: see [LoadVocab].
//
// Ids and offsets are those of Hugging Face's BertTokenizerFast. Where its
// Unicode tables are out of date (punctuation and combining marks added since
// Unicode 8), this package goes with package unicode, as the slow
// BertTokenizer does.
package text

import (
	"strings"
	"unicode/utf8"
)

// The five special tokens. In a text they are recognised by exactly this
// spelling, wherever they stand.
const (
	padToken  = "[PAD]"
	unkToken  = "[UNK]"
	clsToken  = "[CLS]"
	sepToken  = "[SEP]"
	maskToken = "[MASK]"
)

var specialTokens = [...]string{padToken, unkToken, clsToken, sepToken, maskToken}

// maxWordRunes is the length, after normalisation, above which a word is
// [UNK] without being looked up, unless the vocabulary's file says less.
const maxWordRunes = 100

// A Tokenizer maps text to WordPiece ids and back. It is immutable and safe
// for concurrent use.
type Tokenizer struct {
	tokens  []string         // by id
	words   map[string]int32 // tokens that can start a word, and the special ones
	rests   map[string]int32 // "##" tokens, without the "##"
	longest int              // bytes of the longest key of words and rests
	special [len(specialTokens)]int32
	added   []addedToken // recognised in the raw text, longest first
	starts  [256]bool    // bytes that an added token starts with
	maxWord int          // at most maxWordRunes
	norm    normalizer
	ascii   [utf8.RuneSelf]byte // see asciiClass
}

// An addedToken is cut out of a text before anything else happens to it.
type addedToken struct {
	text string
	id   int32
}

// A normalizer says what is done to a text before it is cut into pieces.
type normalizer struct {
	clean      bool // drop control characters
	ideographs bool // make a word of each CJK ideograph
	strip      bool // decompose, and drop accents
	lower      bool // lower case
}

// uncased is BERT's normalizer for uncased vocabularies.
var uncased = normalizer{true, true, true, true}

// A Span is a range [Start, End) of code points of a text. An invalid byte of
// a text counts as one code point.
type Span struct{ Start, End int }

// PAD returns the id of [PAD].
func (t *Tokenizer) PAD() int32 { return t.special[0] }

// UNK returns the id of [UNK], the token of a word the vocabulary can't spell.
func (t *Tokenizer) UNK() int32 { return t.special[1] }

// CLS returns the id of [CLS], the first token of a sequence.
func (t *Tokenizer) CLS() int32 { return t.special[2] }

// SEP returns the id of [SEP], the last token of a sequence.
func (t *Tokenizer) SEP() int32 { return t.special[3] }

// MASK returns the id of [MASK].
func (t *Tokenizer) MASK() int32 { return t.special[4] }

// VocabSize returns the number of tokens; ids run from 0 to VocabSize-1.
func (t *Tokenizer) VocabSize() int { return len(t.tokens) }

// Token returns the token of an id as the vocabulary spells it, "##" included.
// An id outside the vocabulary reads [UNK].
func (t *Tokenizer) Token(id int32) string {
	if id < 0 || int(id) >= len(t.tokens) {
		return unkToken
	}
	return t.tokens[id]
}

// Tokens returns the token of every id, as [Tokenizer.Token].
func (t *Tokenizer) Tokens(ids []int32) []string {
	s := make([]string, len(ids))
	for i, id := range ids {
		s[i] = t.Token(id)
	}
	return s
}

// IsContinuation reports whether id continues a word: its token starts with "##".
func (t *Tokenizer) IsContinuation(id int32) bool {
	return strings.HasPrefix(t.Token(id), "##")
}

// IsSpecial reports whether id is [PAD], [UNK], [CLS], [SEP] or [MASK].
func (t *Tokenizer) IsSpecial(id int32) bool {
	for _, s := range t.special {
		if id == s {
			return true
		}
	}
	return false
}

// Encode returns the ids of text, without [CLS] and [SEP].
func (t *Tokenizer) Encode(text string) []int32 {
	return t.Append(nil, text)
}

// Append appends the ids of text, without [CLS] and [SEP], to dst and returns
// the extended slice. It allocates only where dst is too small.
func (t *Tokenizer) Append(dst []int32, text string) []int32 {
	e := encoder{t: t, ids: dst, limit: -1}
	e.encode(text)
	return e.ids
}

// EncodeSpecial returns [CLS], the ids of text, [SEP], at most maxLen ids in
// all: what is too long is cut at the end of the text. There is no padding.
// [CLS] and [SEP] always stand, so a maxLen below 2 counts as 2.
func (t *Tokenizer) EncodeSpecial(text string, maxLen int) []int32 {
	n := max(maxLen, 2) - 2
	e := encoder{t: t, limit: n + 1}
	e.ids = append(make([]int32, 0, 2+min(n, len(text)/3)), t.CLS())
	e.encode(text)
	if len(e.ids) > n+1 {
		e.ids = e.ids[:n+1]
	}
	return append(e.ids, t.SEP())
}

// EncodeSpans is [Tokenizer.Encode] with, for every id, the code points of
// text it stands for: from the first to the last one that left a character in
// the token. Dropped characters inside are covered, those before and after
// are not.
func (t *Tokenizer) EncodeSpans(text string) ([]int32, []Span) {
	e := encoder{t: t, limit: -1, wantSpans: true}
	e.encode(text)
	return e.ids, e.spans
}

// Decode returns the text of ids: words joined by spaces, pieces of a word
// together, and the spaces taken out that English doesn't have before
// punctuation and contractions, as in transformers' decode. With skipSpecial,
// the special tokens, [UNK] among them, are left out.
func (t *Tokenizer) Decode(ids []int32, skipSpecial bool) string {
	return tidy(t.join(ids, skipSpecial))
}

// join is Decode with only those spaces taken out that one token tells.
func (t *Tokenizer) join(ids []int32, skipSpecial bool) string {
	var b strings.Builder
	first := true
	for _, id := range ids {
		tok := t.Token(id)
		if skipSpecial && (t.IsSpecial(id) || tok == unkToken) {
			continue
		}
		if rest, ok := strings.CutPrefix(tok, "##"); ok && !first {
			b.WriteString(rest)
		} else {
			if !first {
				tok = tidy(" " + tok)
			}
			b.WriteString(tok)
		}
		first = false
	}
	return b.String()
}

// tidy closes the gaps before punctuation and contractions. The order
// matters: " ' s" becomes "'s".
func tidy(s string) string {
	if !strings.Contains(s, " ") {
		return s
	}
	for _, r := range [...][2]string{
		{" .", "."}, {" ?", "?"}, {" !", "!"}, {" ,", ","}, {" ' ", "'"},
		{" n't", "n't"}, {" 'm", "'m"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"},
	} {
		s = strings.ReplaceAll(s, r[0], r[1])
	}
	return s
}

// An encoder is the state of one Encode call. It lives on the stack.
type encoder struct {
	t         *Tokenizer
	ids       []int32
	spans     []Span
	wantSpans bool
	limit     int // stop once there are this many ids; negative: never

	// The word so far, normalised.
	n       int                    // code points, also beyond maxWordRunes
	size    int                    // bytes in buf
	barrier int                    // marks are not sorted to before this code point
	last    int                    // position in the text of the last code point
	at      [maxWordRunes]runeInfo // of each code point
	buf     [maxWordRunes * utf8.UTFMax]byte
}

// runeInfo is what is known of one code point of the word.
type runeInfo struct {
	off uint16 // where it starts in buf
	ccc uint8  // canonical combining class
	pos int    // position in the text of the code point it comes from
}

func (e *encoder) encode(text string) {
	pos := 0 // in code points
	for i := 0; i < len(text) && !e.full(); pos++ {
		c := text[i]
		if e.t.starts[c] {
			if k := e.t.addedAt(text[i:]); k >= 0 {
				tok := &e.t.added[k]
				n := utf8.RuneCountInString(tok.text)
				e.flush()
				e.emit(tok.id, pos, pos+n)
				i += len(tok.text)
				pos += n - 1
				continue
			}
		}
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(text[i:])
			if r != utf8.RuneError {
				e.addRune(r, text[i:i+size], pos)
			} else if !e.t.norm.clean { // U+FFFD and invalid bytes
				e.push(r, 0, pos)
			}
			i += size
			continue
		}
		switch class := e.t.ascii[c]; class {
		case classDrop:
		case classSpace:
			e.flush()
		case classPunct:
			e.flush()
			e.push(rune(c), 0, pos)
			e.flush()
		default:
			e.push(rune(class), 0, pos)
		}
		i++
	}
	e.flush()
}

// addedAt returns the index of the added token that s starts with, or -1.
func (t *Tokenizer) addedAt(s string) int {
	for k := range t.added {
		if strings.HasPrefix(s, t.added[k].text) {
			return k
		}
	}
	return -1
}

func (e *encoder) full() bool { return e.limit >= 0 && len(e.ids) >= e.limit }

// addRune normalises a code point outside ASCII, s in UTF-8, and adds what is
// left of it.
func (e *encoder) addRune(r rune, s string, pos int) {
	o := &e.t.norm
	switch {
	case o.clean && isControl(r):
		return
	case isSpace(r) || r == 0x85:
		e.flush()
		return
	}
	alone := o.ideographs && isIdeograph(r)
	if alone {
		e.flush()
	}
	switch {
	case o.strip:
		var jamo [3 * 3]byte
		for d := decompose(r, s, &jamo); len(d) > 0; {
			r, size := utf8.DecodeRune(d)
			ccc, mark := markClass(r, d)
			d = d[size:]
			if mark { // nonspacing: an accent, dropped
				if ccc == 0 {
					e.barrier = e.n
				}
				continue
			}
			e.addNormal(r, ccc, pos)
		}
	case o.lower && r == 0x130: // the only one with two characters in lower case
		e.push('i', 0, pos)
		e.push(0x307, 0, pos)
	default:
		e.addNormal(r, 0, pos)
	}
	if alone {
		e.flush()
	}
}

// addNormal adds a code point of which only the case is left to normalise.
func (e *encoder) addNormal(r rune, ccc uint8, pos int) {
	if e.t.norm.lower {
		r = lower(r)
	}
	if isPunct(r) {
		e.flush()
		e.push(r, 0, pos)
		e.flush()
		return
	}
	e.push(r, ccc, pos)
}

// push adds a normalised code point to the word, in the canonical order of
// combining marks.
func (e *encoder) push(r rune, ccc uint8, pos int) {
	e.last = pos
	if e.n >= maxWordRunes {
		e.n++
		return
	}
	if r < utf8.RuneSelf {
		e.at[e.n] = runeInfo{off: uint16(e.size), pos: pos}
		e.buf[e.size] = byte(r)
		e.size++
		e.n++
		e.barrier = e.n
		return
	}
	k := e.n
	if ccc == 0 {
		e.barrier = e.n + 1
	} else {
		for k > e.barrier && e.at[k-1].ccc > ccc {
			k--
		}
	}
	off, size := uint16(e.size), utf8.RuneLen(r)
	e.at[e.n].pos = pos // positions stay ascending whatever the marks' order
	if k < e.n {
		off = e.at[k].off
		copy(e.buf[int(off)+size:], e.buf[off:e.size])
		for j := e.n; j > k; j-- {
			e.at[j].off = e.at[j-1].off + uint16(size)
			e.at[j].ccc = e.at[j-1].ccc
		}
	}
	e.at[k].off, e.at[k].ccc = off, ccc
	utf8.EncodeRune(e.buf[off:], r)
	e.size += size
	e.n++
}

// flush ends the word, if there is one, and emits its pieces: the longest
// token that matches, then the longest "##" token that matches the rest, and
// so on; [UNK] for all of it where none does.
func (e *encoder) flush() {
	n := e.n
	if n == 0 {
		e.barrier = 0
		return
	}
	begin := len(e.ids)
	known := n <= e.t.maxWord
	table := e.t.words
	for from := 0; known && from < n; {
		start := int(e.at[from].off)
		to, end := n, e.size
		for {
			if end-start <= e.t.longest {
				if id, ok := table[string(e.buf[start:end])]; ok {
					e.emit(id, e.at[from].pos, e.at[to-1].pos+1)
					break
				}
			}
			to--
			if to == from {
				known = false
				break
			}
			end = int(e.at[to].off)
		}
		from = to
		table = e.t.rests
	}
	if !known {
		e.ids = e.ids[:begin]
		if e.wantSpans {
			e.spans = e.spans[:begin]
		}
		e.emit(e.t.UNK(), e.at[0].pos, e.last+1)
	}
	e.n, e.size, e.barrier = 0, 0, 0
}

func (e *encoder) emit(id int32, start, end int) {
	e.ids = append(e.ids, id)
	if e.wantSpans {
		e.spans = append(e.spans, Span{start, end})
	}
}
