// Package rng is the trainer's one source of random numbers: the
// counter-based generator Philox4x32-10 (Salmon et al., "Parallel random
// numbers: as easy as 1, 2, 3", SC 2011), addressed by what a number is for
// and not by when it is drawn.
//
// A stream is named by a [Key]: run seed, step, forward pass, purpose, global
// sample index. Whoever needs a number makes the stream on the spot, so the
// same run draws the same numbers whatever the number of threads, workers,
// ranks or resumes. No generator is shared and none is saved in a checkpoint.
//
// Bits, integers, uniform floats and permutations are the same on every
// platform. [Source.Norm] goes through math.Log and math.Sincos and may differ
// in the last bit of the float64 between processor architectures.
package rng

import (
	"math"
	"math/bits"
)

// A Purpose tells apart the streams that one sample uses in one pass. The
// values are part of what a checkpoint reproduces: they never change meaning.
type Purpose uint32

const (
	// Init draws initial parameter values. Sample is the parameter's index,
	// Step and Pass are 0.
	Init Purpose = 1
	// Order shuffles an epoch's samples. Step is the epoch, Sample is 0 or the
	// index of the data source.
	Order Purpose = 2
	// Augment draws an image's crop, flip, colour and RandAugment operations.
	Augment Purpose = 3
	// MaskText chooses masked words and what replaces their tokens.
	MaskText Purpose = 4
	// MaskImage chooses the masked patches.
	MaskImage Purpose = 5
	// DropPath decides which residual branches of a sample are dropped.
	DropPath Purpose = 6
	// Dropout draws element-wise dropout masks.
	Dropout Purpose = 7
	// Negative draws the hard negatives of image-text matching.
	Negative Purpose = 8
	// Caption chooses one of an image's captions.
	Caption Purpose = 9
	// Codebook draws the visual tokenizer's first codes and the replacements
	// of unused ones.
	Codebook Purpose = 10
)

// A Key names one stream of random numbers.
type Key struct {
	Seed    uint64  // seed of the run
	Step    uint64  // optimiser step, or epoch where the purpose says so
	Pass    uint32  // which of a step's forward passes
	Purpose Purpose // what the numbers are for
	Sample  uint64  // index in the global batch or the data set; never a rank-local one
}

// Words returns the Philox key of the stream and the counter of its block 0.
// Block b has the same key and the counter {c[0], c[1], uint32(b),
// uint32(b>>32)}; the stream's 32-bit number i is word i%4 of block i/4. A
// kernel that computes numbers by itself needs nothing else.
//
// The counter holds Sample as it is, low word first. The Philox key is
//
//	h = mix(Seed)
//	h = mix(h ^ (Purpose<<32 | Pass))
//	h = mix(h ^ Step)
//
// low word first, where mix is one step of SplitMix64, a bijection. So two
// Keys with the same Philox key and different Samples have no block in common,
// Keys that differ only in Seed, only in Purpose and Pass, or only in Step
// never have the same Philox key, and any other pair does with probability
// 2^-64.
func (k Key) Words() (key [2]uint32, ctr [4]uint32) {
	h := mix(k.Seed)
	h = mix(h ^ (uint64(k.Purpose)<<32 | uint64(k.Pass)))
	h = mix(h ^ k.Step)
	return [2]uint32{uint32(h), uint32(h >> 32)},
		[4]uint32{uint32(k.Sample), uint32(k.Sample >> 32), 0, 0}
}

// mix is one step of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// Philox is the block function philox4x32-10: ten rounds, equal to Random123's.
func Philox(key [2]uint32, ctr [4]uint32) [4]uint32 {
	const (
		m0, m1 = 0xD2511F53, 0xCD9E8D57
		w0, w1 = 0x9E3779B9, 0xBB67AE85
	)
	k0, k1 := key[0], key[1]
	c0, c1, c2, c3 := ctr[0], ctr[1], ctr[2], ctr[3]
	for range 10 {
		p0 := m0 * uint64(c0)
		p1 := m1 * uint64(c2)
		c0, c1, c2, c3 = uint32(p1>>32)^c1^k0, uint32(p1), uint32(p0>>32)^c3^k1, uint32(p0)
		k0 += w0
		k1 += w1
	}
	return [4]uint32{c0, c1, c2, c3}
}

// A Source reads one stream from its start. It is a plain value: a copy goes
// on from the same place independently. It is not safe for concurrent use;
// make one per goroutine, they cost nothing. The zero Source is not valid.
type Source struct {
	key      [2]uint32
	ctr      [4]uint32 // of the next block
	buf      [4]uint32
	used     uint8 // words of buf handed out; 4 when it is empty
	hasSpare bool
	spare    float64 // second half of the last Box-Muller pair
}

// New returns the stream of k, at its start. It allocates nothing.
func New(k Key) Source {
	key, ctr := k.Words()
	return Source{key: key, ctr: ctr, used: 4}
}

// Seek moves to 32-bit number i of the stream, in constant time: a large
// array can be filled by several goroutines, each from its own offset.
func (s *Source) Seek(i uint64) {
	s.hasSpare = false
	s.ctr[2], s.ctr[3] = uint32(i/4), uint32(i/4>>32)
	s.used = 4
	if i%4 != 0 {
		s.fill()
		s.used = uint8(i % 4)
	}
}

// fill computes the next block.
func (s *Source) fill() {
	s.buf = Philox(s.key, s.ctr)
	s.ctr[2]++
	if s.ctr[2] == 0 {
		s.ctr[3]++
	}
	s.used = 0
}

// Uint32 returns the stream's next 32-bit number.
func (s *Source) Uint32() uint32 {
	if s.used >= 4 {
		s.fill()
	}
	v := s.buf[s.used&3]
	s.used++
	return v
}

// Uint64 returns the next two 32-bit numbers, the first as the low half.
func (s *Source) Uint64() uint64 {
	lo := uint64(s.Uint32())
	return uint64(s.Uint32())<<32 | lo
}

// Float32 returns a uniform number in [0, 1), a multiple of 2^-24, from one
// 32-bit number.
func (s *Source) Float32() float32 {
	return float32(s.Uint32()>>8) * 0x1p-24
}

// Float64 returns a uniform number in [0, 1), a multiple of 2^-53, from two
// 32-bit numbers.
func (s *Source) Float64() float64 {
	return float64(s.Uint64()>>11) * 0x1p-53
}

// IntN returns a uniform integer in [0, n), without bias (Lemire, "Fast random
// integer generation in an interval", 2019). It draws one 32-bit number for n
// below 2^32 and two above, and in rare cases again. It panics if n <= 0.
func (s *Source) IntN(n int) int {
	if n <= 0 {
		panic("rng: IntN of a number that is not positive")
	}
	if uint64(n) <= math.MaxUint32 {
		b := uint32(n)
		m := uint64(s.Uint32()) * uint64(b)
		if uint32(m) < b {
			for t := -b % b; uint32(m) < t; {
				m = uint64(s.Uint32()) * uint64(b)
			}
		}
		return int(m >> 32)
	}
	b := uint64(n)
	hi, lo := bits.Mul64(s.Uint64(), b)
	if lo < b {
		for t := -b % b; lo < t; {
			hi, lo = bits.Mul64(s.Uint64(), b)
		}
	}
	return int(hi)
}

// Norm returns a standard normal number by the Box-Muller transform. Every
// second call draws a pair of Float64s; the other returns the pair's rest.
func (s *Source) Norm() float64 {
	if s.hasSpare {
		s.hasSpare = false
		return s.spare
	}
	u := 1 - s.Float64() // (0, 1]: the logarithm is finite
	sin, cos := math.Sincos(2 * math.Pi * s.Float64())
	r := math.Sqrt(-2 * math.Log(u))
	s.spare, s.hasSpare = r*sin, true
	return r * cos
}

// Shuffle puts n items into random order by Fisher and Yates; swap exchanges
// items i and j. It panics if n < 0.
func (s *Source) Shuffle(n int, swap func(i, j int)) {
	if n < 0 {
		panic("rng: Shuffle of a negative number of items")
	}
	for i := n - 1; i > 0; i-- {
		swap(i, s.IntN(i+1))
	}
}

// Perm returns a random order of the integers 0 to n-1. It panics if n < 0.
func (s *Source) Perm(n int) []int {
	if n < 0 {
		panic("rng: Perm of a negative number of items")
	}
	p := make([]int, n)
	for i := range p {
		p[i] = i
	}
	for i := n - 1; i > 0; i-- {
		j := s.IntN(i + 1)
		p[i], p[j] = p[j], p[i]
	}
	return p
}

// Permutation returns the order of n items that k names: the first Perm of its
// stream.
func Permutation(k Key, n int) []int {
	s := New(k)
	return s.Perm(n)
}

// Permuted is a random order of n items in bounded memory. Up to [MaxStored] items it is
// that of [Permutation]; a longer one is computed instead of stored, by a Feistel network
// on as many bits as n items need, whose results not below n go through it again (Black,
// Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002). Its round function is
// Philox. It is safe for concurrent use.
type Permuted struct {
	stored      []int // nil where it is computed
	n           uint64
	key         [2]uint32
	sample      [2]uint32
	left, right uint // bits
}

// MaxStored is the most items of a Permuted that is stored, in 8 MB.
const MaxStored = 1 << 20

// rounds of the network: enough for a dozen items, and so for many.
const rounds = 8

// NewPermuted returns the order of n items that k names. It panics if n < 0.
func NewPermuted(k Key, n int) *Permuted {
	if n <= MaxStored {
		return &Permuted{n: uint64(max(n, 0)), stored: Permutation(k, n)}
	}
	return newComputed(k, n)
}

func newComputed(k Key, n int) *Permuted {
	key, ctr := k.Words()
	width := uint(bits.Len64(uint64(n - 1)))
	return &Permuted{n: uint64(n), key: key, sample: [2]uint32{ctr[0], ctr[1]}, left: width / 2, right: width - width/2}
}

// Len returns the number of items.
func (p *Permuted) Len() int { return int(p.n) }

// At returns item i of the order, 0 <= i < Len().
func (p *Permuted) At(i int) int {
	if p.stored != nil {
		return p.stored[i]
	}
	x := uint64(i)
	if x >= p.n {
		panic("rng: no such item in the order")
	}
	for {
		l, r := uint32(x>>p.right), uint32(x&(1<<p.right-1))
		for round := range uint32(rounds) {
			// Streams of the key have no such blocks, but after 2^65 numbers.
			if round&1 == 0 {
				l ^= Philox(p.key, [4]uint32{p.sample[0], p.sample[1], r, 1<<31 | round})[0] & uint32(1<<p.left-1)
			} else {
				r ^= Philox(p.key, [4]uint32{p.sample[0], p.sample[1], l, 1<<31 | round})[0] & uint32(1<<p.right-1)
			}
		}
		if x = uint64(l)<<p.right | uint64(r); x < p.n {
			return int(x)
		}
	}
}
