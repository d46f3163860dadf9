package main

import "vlmo-train/vlmo"

// Streams of synthetic data.
const (
	lengths = iota
	words
	hidden
	pixels
)

// Tokens of BERT's vocabulary.
const (
	clsToken  = 101
	sepToken  = 102
	maskToken = 103
)

// word is SplitMix64's output function of step, stream and index; peer.py has
// the same.
func word(step, stream, index int) uint64 {
	z := uint64(step<<48+stream<<40+1+index) * 0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// pairs is a batch on the host.
type pairs struct {
	vlmo.Batch
	image []byte // pixels, [n, 3·size·size] in planes
}

// synthetic returns n pairs: captions of 8 to 16 tokens, or fixed ones, [CLS]
// and [SEP] included, about 15 % of the words masked and at least one, and
// images of uniform noise.
func synthetic(c *vlmo.Config, step, n, fixed int) *pairs {
	b := &pairs{image: make([]byte, n*3*c.ImageSize*c.ImageSize)}
	for i := range n {
		length := 8 + int(word(step, lengths, i)%9)
		if fixed > 0 {
			length = fixed
		}
		ids, labels := make(vlmo.Text, length), make([]int32, length)
		ids[0], ids[length-1] = clsToken, sepToken
		masked := make(vlmo.Text, length)
		none := true
		for t := range length {
			labels[t] = -1
			if t == 0 || t == length-1 {
				masked[t] = ids[t]
				continue
			}
			ids[t] = 1000 + int32(word(step, words, 64*i+t-1)%uint64(c.Vocab-1000))
			masked[t] = ids[t]
			if word(step, hidden, 64*i+t-1)%100 < 15 {
				none = false
				masked[t], labels[t] = maskToken, ids[t]
			}
		}
		if none {
			masked[1], labels[1] = maskToken, ids[1]
		}
		b.Texts, b.Masked, b.Labels = append(b.Texts, ids), append(b.Masked, masked), append(b.Labels, labels)
	}
	if n == 1 {
		// The work is the same where a pair is its own negative.
		b.NegativeImage, b.NegativeText = []int32{0}, []int32{0}
	}
	for i := range b.image {
		b.image[i] = byte(word(step, pixels, i) >> 56)
	}
	return b
}
