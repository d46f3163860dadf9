// Package vqa has what VQAv2 is measured with: the normalisation of answers, the
// accuracy of the published evaluation, the vocabulary of answers, and the scores of
// answers as training targets.
package vqa

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"golang.org/x/text/cases"
	"golang.org/x/text/language"

	"vlmo-train/data/internal/spill"
)

// punctuation is what Normalize removes or replaces by a space; colon, apostrophe
// and full stop are not in it.
const punctuation = ";/[]\"{}()=+\\_-><@`,?!"

// maxStops is how many full stops Normalize removes. The published code has it by
// mistake: it hands a flag whose value is 32 where the count is expected.
const maxStops = 32

var (
	digits     = map[string]string{"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10"}
	commaDigit = regexp.MustCompile(`\p{Nd},\p{Nd}`)
)

// isSpace is what Python's str.split splits at.
func isSpace(r rune) bool { return unicode.IsSpace(r) || r >= 0x1c && r <= 0x1f }

// Normalize returns an answer as the published evaluation compares it: without
// punctuation and articles, in lower case, numbers up to ten as digits,
// contractions with their apostrophes.
func Normalize(answer string) string {
	// A sign beside a space anywhere goes without trace, and so do all signs
	// where a comma stands between digits.
	grouped := commaDigit.MatchString(answer)
	s := answer
	for _, p := range punctuation {
		sign, by := string(p), " "
		if grouped || strings.Contains(answer, sign+" ") || strings.Contains(answer, " "+sign) {
			by = ""
		}
		s = strings.ReplaceAll(s, sign, by)
	}
	s = cases.Lower(language.Und).String(removeStops(s))
	words := strings.FieldsFunc(s, isSpace)
	kept := words[:0]
	for _, w := range words {
		if d, ok := digits[w]; ok {
			w = d
		}
		if w == "a" || w == "an" || w == "the" {
			continue
		}
		if c, ok := contractions[w]; ok {
			w = c
		}
		kept = append(kept, w)
	}
	return strings.ReplaceAll(strings.Join(kept, " "), ",", "")
}

// removeStops removes the first full stops that no digit follows.
func removeStops(s string) string {
	var b strings.Builder
	removed := 0
	for i, r := range s {
		if r == '.' && removed < maxStops {
			next := []rune(s[i+1 : min(len(s), i+1+4)])
			if len(next) == 0 || !unicode.Is(unicode.Nd, next[0]) {
				removed++
				continue
			}
		}
		b.WriteRune(r)
	}
	return b.String()
}

// strip is what the evaluation does to every text first.
func strip(s string) string {
	return strings.TrimFunc(strings.NewReplacer("\n", " ", "\t", " ").Replace(s), isSpace)
}

// Accuracy returns how right a predicted answer is by the ten given by people, in
// [0, 1], as VQAEval in GT-Vision-Lab/VQA computes it since March 2021: the mean over
// each nine of them of min(1, matches/3). Prediction and answers are normalised
// unless all ten are the same.
func Accuracy(prediction string, answers []string) float64 {
	prediction = strip(prediction)
	given := make([]string, len(answers))
	same := true
	for i, a := range answers {
		given[i] = strip(a)
		same = same && given[i] == given[0]
	}
	if !same {
		prediction = Normalize(prediction)
		for i := range given {
			given[i] = Normalize(given[i])
		}
	}
	matches := 0
	for _, g := range given {
		if g == prediction {
			matches++
		}
	}
	var sum float64
	for _, g := range given {
		others := matches
		if g == prediction {
			others--
		}
		sum += math.Min(1, float64(others)/3)
	}
	if len(given) == 0 {
		return 0
	}
	return sum / float64(len(given))
}

// Percent returns the accuracy over a set of questions as the evaluation prints it:
// the mean, times 100, rounded to two digits.
func Percent(accuracies []float64) float64 {
	if len(accuracies) == 0 {
		return 0
	}
	var sum float64
	for _, a := range accuracies {
		sum += a
	}
	return math.RoundToEven(100*(100*sum/float64(len(accuracies)))) / 100
}

// Score returns the training target of an answer that count of the ten gave.
func Score(count int) float64 {
	switch {
	case count <= 0:
		return 0
	case count >= 4:
		return 1
	}
	return [...]float64{0, 0.3, 0.6, 0.9}[count]
}

// MinCount is how often an answer has to be the one given most to a question, to be
// in the published vocabulary.
const MinCount = 9

// Vocabulary is the answers a model chooses from, numbered in order.
type Vocabulary struct {
	answers []string
	label   map[string]int32
}

// NewVocabulary returns the vocabulary of those answers, each of which must be there
// once.
func NewVocabulary(answers []string) (*Vocabulary, error) {
	v := &Vocabulary{answers: slices.Clone(answers), label: make(map[string]int32, len(answers))}
	for i, a := range v.answers {
		if first, ok := v.label[a]; ok {
			return nil, fmt.Errorf("vqa: answer %q is number %d and number %d", a, first, i)
		}
		v.label[a] = int32(i)
	}
	return v, nil
}

// Len returns the number of answers.
func (v *Vocabulary) Len() int { return len(v.answers) }

// Answer returns the answer of a label, 0 <= label < Len().
func (v *Vocabulary) Answer(label int) string { return v.answers[label] }

// Answers returns all answers in order.
func (v *Vocabulary) Answers() []string { return slices.Clone(v.answers) }

// Label returns the number of an answer.
func (v *Vocabulary) Label(answer string) (int32, bool) {
	l, ok := v.label[answer]
	return l, ok
}

// Counter counts answers for a vocabulary. They are not in memory. The zero Counter is
// ready for use; it is closed by Vocabulary or by Close.
type Counter struct {
	sorter spill.Sorter // hash, number, answer
	n      uint64
	rec    []byte
}

// Add counts the answer given most to a question. The error is that of a temporary
// file.
func (c *Counter) Add(answer string) error {
	answer = Normalize(answer)
	hi, lo := spill.Hash([]byte(answer))
	c.rec = append(spill.Encode(c.rec[:0], hi, lo, c.n), answer...)
	c.n++
	return c.sorter.Add(c.rec)
}

// Vocabulary returns the answers added least times or more, in the order in which
// they were added first.
func (c *Counter) Vocabulary(least int) (*Vocabulary, error) {
	var order spill.Sorter // number of the first, answer
	defer order.Close()
	var first []byte
	count := 0
	err := c.sorter.EachRun(spill.HashLen, func(begins bool, rec []byte) error {
		if begins {
			first = append(first[:0], rec[spill.HashLen:]...)
			count = 0
		}
		if count++; count == least {
			return order.Add(first)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	v := &Vocabulary{label: make(map[string]int32)}
	err = order.Each(func(rec []byte) error {
		a := string(rec[8:])
		v.label[a] = int32(len(v.answers))
		v.answers = append(v.answers, a)
		return nil
	})
	return v, err
}

// Close gives the counter's temporary file back.
func (c *Counter) Close() error { return c.sorter.Close() }

// Target is an answer a model should give, and how right it is.
type Target struct {
	Label int32
	Score float64
}

// Targets returns what training on a question aims at: those of the answers given
// that are in the vocabulary, in the order in which they were given first. The
// original looks them up as they are; with normalize they are normalised before, as
// those of the vocabulary were.
func (v *Vocabulary) Targets(answers []string, normalize bool) []Target {
	count := make(map[string]int)
	var order []string
	for _, a := range answers {
		if normalize {
			a = Normalize(a)
		}
		if count[a] == 0 {
			order = append(order, a)
		}
		count[a]++
	}
	var list []Target
	for _, a := range order {
		if l, ok := v.label[a]; ok {
			list = append(list, Target{l, Score(count[a])})
		}
	}
	return list
}
