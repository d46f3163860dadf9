package rng

import (
	"math"
	"testing"
)

// Known answers of Random123's kat_vectors for philox4x32-10.
func TestPhiloxKnownAnswers(t *testing.T) {
	const ff = 0xffffffff
	for _, c := range []struct {
		key       [2]uint32
		ctr, want [4]uint32
	}{
		{[2]uint32{}, [4]uint32{}, [4]uint32{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
		{[2]uint32{ff, ff}, [4]uint32{ff, ff, ff, ff}, [4]uint32{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
		{[2]uint32{0xa4093822, 0x299f31d0}, [4]uint32{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
			[4]uint32{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
	} {
		if got := Philox(c.key, c.ctr); got != c.want {
			t.Errorf("Philox(%x, %x) = %x, want %x", c.key, c.ctr, got, c.want)
		}
	}
}

// The known answers of SplitMix64 seeded with 0 hold mix to its definition.
func TestMix(t *testing.T) {
	const gamma = 0x9e3779b97f4a7c15
	var state uint64
	for i, want := range []uint64{0xe220a8397b1dcdaf, 0x6e789e6aa1b965f4, 0x06c45d188009454f} {
		if got := mix(state); got != want {
			t.Errorf("number %d of SplitMix64 = %#x, want %#x", i, got, want)
		}
		state += gamma
	}
}

var testKey = Key{Seed: 7, Step: 11, Pass: 2, Purpose: Dropout, Sample: 5<<32 | 9}

// A stream is exactly the blocks that Words describes.
func TestStreamIsBlocks(t *testing.T) {
	key, ctr := testKey.Words()
	if ctr != [4]uint32{9, 5, 0, 0} {
		t.Fatalf("counter of block 0 = %v", ctr)
	}
	s := New(testKey)
	for i := range uint32(40) {
		c := ctr
		c[2] = i / 4
		if got, want := s.Uint32(), Philox(key, c)[i%4]; got != want {
			t.Fatalf("number %d = %#x, want %#x", i, got, want)
		}
	}
	// The block index carries into the last word.
	s.Seek(1<<34 - 1)
	if got, want := s.Uint32(), Philox(key, [4]uint32{9, 5, math.MaxUint32, 0})[3]; got != want {
		t.Errorf("last number of block 2^32-1 = %#x, want %#x", got, want)
	}
	if got, want := s.Uint32(), Philox(key, [4]uint32{9, 5, 0, 1})[0]; got != want {
		t.Errorf("first number of block 2^32 = %#x, want %#x", got, want)
	}
}

func TestSeek(t *testing.T) {
	s := New(testKey)
	var want [32]uint32
	for i := range want {
		want[i] = s.Uint32()
	}
	s.Norm() // leaves a spare, which Seek must drop
	s.Seek(0)
	first := s
	if s.Norm(); s.hasSpare == first.hasSpare {
		t.Error("Seek kept half a Box-Muller pair")
	}
	for i := len(want) - 1; i >= 0; i-- {
		s.Seek(uint64(i))
		for j := i; j < len(want); j++ {
			if got := s.Uint32(); got != want[j] {
				t.Fatalf("after Seek(%d), number %d = %#x, want %#x", i, j, got, want[j])
			}
		}
	}
}

// Derived numbers are the documented functions of the raw ones.
func TestDerived(t *testing.T) {
	raw, s := New(testKey), New(testKey)
	for range 100 {
		if got, want := s.Uint64(), uint64(raw.Uint32())|uint64(raw.Uint32())<<32; got != want {
			t.Fatalf("Uint64 = %#x, want %#x", got, want)
		}
		if got, want := float64(s.Float32()), math.Floor(float64(raw.Uint32())/256)/(1<<24); got != want {
			t.Fatalf("Float32 = %v, want %v", got, want)
		}
		if got, want := s.Float64(), float64(raw.Uint64()/2048)/(1<<53); got != want {
			t.Fatalf("Float64 = %v, want %v", got, want)
		}
	}
}

// Keys that differ in one field, by one bit, start with different numbers,
// and the streams of many neighbouring Keys share no 64-bit number.
func TestStreamsDistinct(t *testing.T) {
	start := func(k Key) [2]uint64 {
		s := New(k)
		return [2]uint64{s.Uint64(), s.Uint64()}
	}
	base := start(testKey)
	for bit := range 64 {
		for field := range 5 {
			k := testKey
			switch field {
			case 0:
				k.Seed ^= 1 << bit
			case 1:
				k.Step ^= 1 << bit
			case 2:
				k.Sample ^= 1 << bit
			case 3:
				k.Pass ^= 1 << (bit % 32)
			case 4:
				k.Purpose ^= 1 << (bit % 32)
			}
			if start(k) == base {
				t.Errorf("%+v and %+v have the same stream", k, testKey)
			}
		}
	}

	seen := make(map[uint64]Key)
	for seed := range uint64(3) {
		for step := range uint64(8) {
			for pass := range uint32(4) {
				for p := Init; p <= Codebook; p++ {
					for sample := range uint64(6) {
						k := Key{seed, step, pass, p, sample}
						s := New(k)
						for range 6 {
							v := s.Uint64()
							if other, ok := seen[v]; ok {
								t.Fatalf("%+v and %+v share %#x", k, other, v)
							}
							seen[v] = k
						}
					}
				}
			}
		}
	}
}

// Mean, variance, lag-1 correlation and a chi-square over 256 cells, along a
// stream and across the first numbers of neighbouring streams. The bounds are
// at about five standard errors; the draws are fixed, so the test is too.
func TestUniform(t *testing.T) {
	const n = 1 << 18
	along, step := New(testKey), uint64(0)
	for name, draw := range map[string]func() float64{
		"Float64": along.Float64,
		"Float32": func() float64 { return float64(along.Float32()) },
		"across samples": func() float64 {
			step++
			s := New(Key{Seed: 1, Purpose: DropPath, Sample: step})
			return s.Float64()
		},
		"across steps": func() float64 {
			step++
			s := New(Key{Seed: 1, Purpose: DropPath, Step: step})
			return s.Float64()
		},
	} {
		var sum, sq, lag, prev float64
		var cells [256]float64
		for range n {
			v := draw()
			if v < 0 || v >= 1 {
				t.Fatalf("%s: %v is outside [0, 1)", name, v)
			}
			cells[int(v*256)]++
			d := v - 0.5
			sum += d
			sq += d * d
			lag += d * prev
			prev = d
		}
		chi := 0.0
		for _, c := range cells {
			chi += (c - n/256) * (c - n/256) / (n / 256)
		}
		root := math.Sqrt(n)
		if z := sum / n * math.Sqrt(12) * root; math.Abs(z) > 5 {
			t.Errorf("%s: mean is %.1f standard errors off", name, z)
		}
		if z := (sq/n - 1.0/12) * math.Sqrt(180) * root; math.Abs(z) > 5 {
			t.Errorf("%s: variance is %.1f standard errors off", name, z)
		}
		if z := lag / n * 12 * root; math.Abs(z) > 5 {
			t.Errorf("%s: lag-1 correlation is %.1f standard errors off", name, z)
		}
		if z := (chi - 255) / math.Sqrt(2*255); math.Abs(z) > 5 {
			t.Errorf("%s: chi-square of 256 cells is %.0f, %.1f deviations off", name, chi, z)
		}
	}
}

func TestNorm(t *testing.T) {
	const n = 1 << 18
	s := New(testKey)
	var m [5]float64
	within, pair, prev := 0, 0.0, 0.0
	for i := range n {
		v := s.Norm()
		p := 1.0
		for j := range m {
			m[j] += p / n
			p *= v
		}
		if math.Abs(v) < 1 {
			within++
		}
		if i%2 == 1 {
			pair += v * prev
		}
		prev = v
	}
	root := math.Sqrt(n)
	for _, c := range []struct {
		name             string
		got, want, sigma float64 // sigma: deviation of one sample
	}{
		{"mean", m[1], 0, 1},
		{"variance", m[2], 1, math.Sqrt(2)},
		{"third moment", m[3], 0, math.Sqrt(15)},
		{"fourth moment", m[4], 3, math.Sqrt(96)},
		{"share within one deviation", float64(within) / n, math.Erf(math.Sqrt(0.5)), 0.466},
		{"covariance of a pair", pair / (n / 2), 0, math.Sqrt2},
	} {
		if z := (c.got - c.want) / c.sigma * root; math.Abs(z) > 5 {
			t.Errorf("%s = %v, want %v: %.1f standard errors off", c.name, c.got, c.want, z)
		}
	}
}

func TestIntN(t *testing.T) {
	s := New(testKey)
	for _, n := range []int{1, 2, 3, 7, 100, 1 << 31, 1<<32 + 1, math.MaxInt} {
		const draws, cells = 70000, 7
		k := min(n, cells)
		count := make([]float64, k)
		for range draws {
			v := s.IntN(n)
			if v < 0 || v >= n {
				t.Fatalf("IntN(%d) = %d", n, v)
			}
			count[int(float64(v)/float64(n)*float64(k))%k]++
		}
		if n > cells && n < 1000 {
			continue // the cells are uneven
		}
		for i, c := range count {
			p := 1 / float64(k)
			if z := (c - draws*p) / math.Sqrt(draws*p*(1-p)+1e-9); math.Abs(z) > 5 {
				t.Errorf("IntN(%d): %v draws in cell %d of %d, %.1f standard errors off", n, c, i, k, z)
			}
		}
	}
	// Without rejection, residue 0 modulo 3 of IntN(3<<30) would come up half
	// the time: the products of a third of the range fall together.
	var mod [3]float64
	for range 70000 {
		mod[s.IntN(3<<30)%3]++
	}
	for i, c := range mod {
		if z := (c - 70000.0/3) / math.Sqrt(70000*2.0/9); math.Abs(z) > 5 {
			t.Errorf("IntN(3<<30) is %d modulo 3 in %v of 70000 draws", i, c)
		}
	}
	for _, n := range []int{0, -1} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("IntN(%d) did not panic", n)
				}
			}()
			s.IntN(n)
		}()
	}
}

// All 24 orders of four items come up equally often, by Perm and by Shuffle.
func TestPermUniform(t *testing.T) {
	const draws = 48000
	s := New(testKey)
	for name, draw := range map[string]func() [4]int{
		"Perm": func() [4]int { return [4]int(s.Perm(4)) },
		"Shuffle": func() [4]int {
			p := [4]int{0, 1, 2, 3}
			s.Shuffle(4, func(i, j int) { p[i], p[j] = p[j], p[i] })
			return p
		},
	} {
		count := make(map[[4]int]float64)
		for range draws {
			count[draw()]++
		}
		if len(count) != 24 {
			t.Errorf("%s: %d orders, want 24", name, len(count))
		}
		chi := 0.0
		for _, c := range count {
			chi += (c - draws/24) * (c - draws/24) / (draws / 24)
		}
		if chi > 64 { // 23 degrees of freedom: p = 1e-5
			t.Errorf("%s: chi-square of the 24 orders is %.1f", name, chi)
		}
	}
}

func TestPermutation(t *testing.T) {
	k := Key{Seed: 3, Step: 1, Purpose: Order}
	p, again := Permutation(k, 1000), Permutation(k, 1000)
	k.Step++
	next := Permutation(k, 1000)
	seen := make([]bool, 1000)
	fixed, same := 0, 0
	for i, v := range p {
		if seen[v] {
			t.Fatalf("%d comes twice", v)
		}
		seen[v] = true
		if again[i] != v {
			t.Fatal("the same Key gives two orders")
		}
		if v == i {
			fixed++
		}
		if next[i] == v {
			same++
		}
	}
	if fixed > 8 || same > 8 { // each Poisson with mean 1
		t.Errorf("%d items in place, %d as in the next epoch", fixed, same)
	}
	for _, n := range []int{0, 1} {
		if got := Permutation(k, n); len(got) != n {
			t.Errorf("Permutation of %d items has %d", n, len(got))
		}
	}
}

// Each item comes once, wherever n lies between two powers of two.
func TestPermutedIsAnOrder(t *testing.T) {
	for _, n := range []int{1, 2, 3, 4, 5, 7, 8, 9, 100, 255, 256, 257, 1000, 5000} {
		p := newComputed(Key{Seed: 3, Sample: 1 << 40, Purpose: Order}, n)
		seen := make([]bool, n)
		for i := range n {
			v := p.At(i)
			if v < 0 || v >= n || seen[v] {
				t.Fatalf("n = %d: item %d is %d", n, i, v)
			}
			seen[v] = true
		}
		if p.Len() != n {
			t.Errorf("Len is %d, want %d", p.Len(), n)
		}
	}
	k := Key{Seed: 4, Step: 2, Purpose: Order}
	for _, n := range []int{0, 1, 1000} {
		p, want := NewPermuted(k, n), Permutation(k, n)
		for i, w := range want {
			if p.At(i) != w {
				t.Fatalf("item %d of %d is %d, want %d", i, n, p.At(i), w)
			}
		}
		if p.Len() != n {
			t.Errorf("Len is %d, want %d", p.Len(), n)
		}
	}
	if NewPermuted(k, MaxStored).stored == nil || NewPermuted(k, MaxStored+1).stored != nil {
		t.Error("MaxStored is not the most")
	}
	p := NewPermuted(Key{Seed: 3}, math.MaxInt)
	for i := range 1000 {
		if v := p.At(math.MaxInt - 1 - i); v < 0 || v == math.MaxInt-1-i {
			t.Fatalf("item %d of the largest order is %d", i, v)
		}
	}
	for name, f := range map[string]func(){"NewPermuted(-1)": func() { NewPermuted(Key{}, -1) }, "At(3) of 3": func() { newComputed(Key{}, 3).At(3) }} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s does not panic", name)
				}
			}()
			f()
		}()
	}
}

// Over keys, two places of an order have all pairs of items equally often, and distant
// orders have as little in common as drawn ones.
func TestPermutedUniform(t *testing.T) {
	for _, n := range []int{11, 16, 21} {
		const draws = 40000
		for _, at := range [][2]int{{0, 1}, {0, n - 1}, {n / 2, n / 3}} {
			counts := map[[2]int]int{}
			for k := range uint64(draws) {
				p := newComputed(Key{Seed: k / 7, Step: k % 7, Purpose: Order}, n)
				counts[[2]int{p.At(at[0]), p.At(at[1])}]++
			}
			pairs := n * (n - 1)
			want := float64(draws) / float64(pairs)
			chi := 0.0
			for _, c := range counts {
				chi += (float64(c) - want) * (float64(c) - want) / want
			}
			chi += want * float64(pairs-len(counts))
			// Mean pairs-1, standard deviation √(2·(pairs-1)).
			if limit := float64(pairs-1) + 5*math.Sqrt(2*float64(pairs-1)); chi > limit {
				t.Errorf("n = %d, places %v: chi-square of %d pairs is %.1f, above %.1f", n, at, pairs, chi, limit)
			}
		}
	}
	// A large order: no item near its place or its neighbour's item more often than chance.
	const n = 1_500_000
	p, next := newComputed(Key{Seed: 5, Purpose: Order}, n), newComputed(Key{Seed: 5, Step: 1, Purpose: Order}, n)
	near, close, same, sum := 0, 0, 0, 0.0
	last := -n
	const looked = 200_000
	for i := range looked {
		v := p.At(i)
		if abs(v-i) < 1000 {
			near++
		}
		if abs(v-last) < 1000 {
			close++
		}
		if abs(next.At(i)-v) < 1000 {
			same++
		}
		sum += float64(v)
		last = v
	}
	want := looked * 2000.0 / n // nearly: places at the ends have fewer neighbours
	for name, got := range map[string]int{"near their place": near, "near the one before": close, "near those of the next epoch": same} {
		if math.Abs(float64(got)-want) > 5*math.Sqrt(want) {
			t.Errorf("%d items are %s, want about %.0f", got, name, want)
		}
	}
	if mean := sum / looked; math.Abs(mean-n/2) > 5*n/math.Sqrt(12*looked) {
		t.Errorf("the mean of the first items is %.0f", mean)
	}
}

func abs(x int) int { return max(x, -x) }

func TestNoAllocation(t *testing.T) {
	var sink float64
	if n := testing.AllocsPerRun(100, func() {
		s := New(testKey)
		sink += s.Norm() + s.Float64() + float64(s.IntN(10))
	}); n != 0 {
		t.Errorf("a stream allocates %v times", n)
	}
}

func BenchmarkUint32(b *testing.B) {
	s := New(testKey)
	b.SetBytes(4)
	for b.Loop() {
		s.Uint32()
	}
}

func BenchmarkNorm(b *testing.B) {
	s := New(testKey)
	for b.Loop() {
		s.Norm()
	}
}
