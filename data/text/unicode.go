package text

import (
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// Values of asciiClass that are not a normalised character.
const (
	classDrop = utf8.RuneSelf + iota
	classSpace
	classPunct
)

// asciiClass says what becomes of an ASCII character: dropped, a space,
// punctuation (a word of its own), else the character, in lower case if o says
// so.
func asciiClass(o normalizer) (t [utf8.RuneSelf]byte) {
	for c := range t {
		switch {
		case c == '\t', c == '\n', c == '\r', c == ' ', !o.clean && (c == '\v' || c == '\f'):
			t[c] = classSpace
		case c < ' ', c == 0x7f:
			t[c] = byte(c)
			if o.clean {
				t[c] = classDrop
			}
		case o.lower && 'A' <= c && c <= 'Z':
			t[c] = byte(c) + 'a' - 'A'
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
			t[c] = byte(c)
		default:
			t[c] = classPunct // symbols such as $ + < = > ^ ` | ~ too
		}
	}
	return t
}

// The predicates below are for code points outside ASCII, but for isPunct and
// lower: what a decomposition begins with may be ASCII.

// isControl reports whether r is dropped: categories Cc, Cf, Co.
func isControl(r rune) bool {
	if r < 0xad {
		return r < 0xa0
	}
	return unicode.In(r, unicode.Cf, unicode.Co)
}

// isSpace reports whether r separates words: Zs, and the line and paragraph
// separators.
func isSpace(r rune) bool {
	if r < 0x1680 {
		return r == 0xa0
	}
	return r == 0x2028 || r == 0x2029 || unicode.Is(unicode.Zs, r)
}

// isIdeograph reports whether r is in a block of CJK ideographs, each of which
// is a word of its own. Kana and Hangul are not.
func isIdeograph(r rune) bool {
	if r < 0x3400 {
		return false
	}
	return r <= 0x4dbf || 0x4e00 <= r && r <= 0x9fff || 0xf900 <= r && r <= 0xfaff ||
		0x20000 <= r && r <= 0x2a6df || 0x2a700 <= r && r <= 0x2b73f || 0x2b740 <= r && r <= 0x2b81f ||
		0x2b820 <= r && r <= 0x2ceaf || 0x2f800 <= r && r <= 0x2fa1f
}

// isPunct reports whether r is a word of its own: ASCII punctuation and
// symbols, Unicode's categories P. Symbols outside ASCII are parts of words.
func isPunct(r rune) bool {
	if r < utf8.RuneSelf {
		return r > ' ' && r < 0x7f && !('0' <= r && r <= '9' || 'A' <= r && r <= 'Z' || 'a' <= r && r <= 'z')
	}
	return unicode.IsPunct(r)
}

// lower is the one-to-one lower case: no final sigma.
func lower(r rune) rune { return unicode.ToLower(r) }

// decompose returns the canonical decomposition (NFD) of r, whose UTF-8 is s.
// For a Hangul syllable it lies in jamo.
func decompose(r rune, s string, jamo *[9]byte) []byte {
	const (
		sBase, lBase, vBase, tBase = 0xac00, 0x1100, 0x1161, 0x11a7
		vCount, tCount, sCount     = 21, 28, 11172
	)
	if i := r - sBase; 0 <= i && i < sCount {
		d := utf8.AppendRune(jamo[:0], lBase+i/(vCount*tCount))
		d = utf8.AppendRune(d, vBase+i/tCount%vCount)
		if t := i % tCount; t > 0 {
			d = utf8.AppendRune(d, tBase+t)
		}
		return d
	}
	if d := norm.NFD.PropertiesString(s).Decomposition(); d != nil {
		return d
	}
	return append(jamo[:0], s...)
}

// markClass returns the canonical combining class of r, which d starts with,
// and whether r is a nonspacing mark (Mn).
func markClass(r rune, d []byte) (ccc uint8, mark bool) {
	if r < 0x300 || !unicode.IsMark(r) {
		return 0, false
	}
	return norm.NFD.Properties(d).CCC(), unicode.Is(unicode.Mn, r)
}
