package loader

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"vlmo-train/data/dataset"
	"vlmo-train/rng"
)

func mustSampler(t *testing.T, cfg SamplerConfig) *Sampler {
	t.Helper()
	s, err := NewSampler(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// numbers is a set of n examples whose names are their numbers.
func numbers(n int) []Source { return []Source{{Set: dataset.Whole(numberSet(n))}} }

type numberSet int

func (n numberSet) Len() int           { return int(n) }
func (n numberSet) Group(i int) string { return fmt.Sprint(i) }
func (n numberSet) Example(i int) (dataset.Example, error) {
	return dataset.Example{ID: fmt.Sprint(i)}, nil
}

// badSet is a set of which some examples can't be read.
type badSet struct {
	numberSet
	bad map[int]bool
}

func (s badSet) Example(i int) (dataset.Example, error) {
	if s.bad[i] {
		return dataset.Example{}, fmt.Errorf("wrapped: %w", &dataset.BadExampleError{Index: i, ID: fmt.Sprintf("id-%d", i), Path: "p", Err: io.ErrUnexpectedEOF})
	}
	return s.numberSet.Example(i)
}

// next returns the next batch; false after the last.
func next(t *testing.T, s *Sampler) (*Batch, bool) {
	t.Helper()
	b, err := s.Next(t.Context())
	if err == io.EOF {
		return nil, false
	}
	if err != nil {
		t.Fatal(err)
	}
	return b, true
}

// epoch returns the batches of the epoch that s is at the beginning of.
func epoch(t *testing.T, s *Sampler) [][]int {
	t.Helper()
	var out [][]int
	for range s.BatchesPerEpoch() {
		b, ok := next(t, s)
		if !ok {
			t.Fatal("the sampler ended")
		}
		out = append(out, b.Indices)
	}
	return out
}

func TestOrderIsThePermutationOfTheKey(t *testing.T) {
	for _, drop := range []bool{false, true} {
		s := mustSampler(t, SamplerConfig{Sources: numbers(23), Batch: 5, Seed: 7, Source: 2, DropLast: drop})
		step, sample := 0, uint64(0)
		for e := range 3 {
			want := rng.Permutation(rng.Key{Seed: 7, Step: uint64(e), Purpose: rng.Order, Sample: 2}, 23)
			if drop {
				want = want[:20]
			}
			for at := 0; at < len(want); at += 5 {
				if got := s.Position(); !reflect.DeepEqual(got, Position{Epoch: e, Index: at}) {
					t.Fatalf("position %v, want {%d %d}", got, e, at)
				}
				b, ok := next(t, s)
				w := want[at:min(at+5, len(want))]
				if !ok || !slices.Equal(b.Indices, w) {
					t.Fatalf("epoch %d, index %d: %v, want %v", e, at, b.Indices, w)
				}
				if b.Step != step || b.Epoch != e || b.Index != at || b.Global != len(w) || b.First != 0 || len(b.Samples) != len(w) {
					t.Fatalf("batch %d of epoch %d: %+v", step, e, b)
				}
				for _, got := range b.Samples {
					if got != sample {
						t.Fatalf("sample number %d, want %d", got, sample)
					}
					sample++
				}
				step++
			}
		}
	}
}

// A set may be too large for its order to be held.
func TestLargeSet(t *testing.T) {
	const n = 1 << 40
	for _, cfg := range []SamplerConfig{
		{Sources: numbers(n), Batch: 4, Seed: 7, Source: 2},
		{Sources: append(numbers(n), numbers(n)...), Batch: 4, Seed: 7},
		{Sources: numbers(n), Batch: 4, InOrder: true},
	} {
		for i := range cfg.Sources {
			cfg.Sources[i].Weight = 1
		}
		s := mustSampler(t, cfg)
		var want [][]int
		place := Position{}
		for k := range 5 {
			if k == 2 {
				place = s.Position()
			}
			b, ok := next(t, s)
			if !ok {
				t.Fatal("the sampler ended")
			}
			want = append(want, b.Indices)
		}
		again := mustSampler(t, cfg)
		if err := again.Seek(place); err != nil {
			t.Fatal(err)
		}
		for k := 2; k < 5; k++ {
			if b, _ := next(t, again); !slices.Equal(b.Indices, want[k]) {
				t.Errorf("batch %d is %v after Seek, was %v", k, b.Indices, want[k])
			}
		}
		if len(cfg.Sources) > 1 {
			continue
		}
		p := rng.NewPermuted(rng.Key{Seed: 7, Purpose: rng.Order, Sample: 2}, n)
		for at := range 20 {
			w := at
			if !cfg.InOrder {
				w = p.At(at)
			}
			if want[at/4][at%4] != w {
				t.Errorf("example %d is %d, want %d", at, want[at/4][at%4], w)
			}
		}
	}
}

func TestInOrderAndEpochs(t *testing.T) {
	s := mustSampler(t, SamplerConfig{Sources: numbers(5), Batch: 2, InOrder: true, Epochs: 2})
	for range 2 {
		if got, want := epoch(t, s), [][]int{{0, 1}, {2, 3}, {4}}; !reflect.DeepEqual(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	if _, ok := next(t, s); ok {
		t.Error("a batch after the last epoch")
	}
}

func TestSamplerResumesEverywhere(t *testing.T) {
	group := func(i int) string { return fmt.Sprint(i / 3) }
	for _, cfg := range []SamplerConfig{
		{Sources: numbers(17), Batch: 4, Seed: 1},
		{Sources: numbers(17), Batch: 4, Seed: 1, DropLast: true},
		{Sources: numbers(17), Batch: 4, Seed: 1, Distinct: group},
	} {
		whole := mustSampler(t, cfg)
		var positions []Position
		var batches [][]int
		for range 3 * whole.BatchesPerEpoch() {
			positions = append(positions, whole.Position())
			b, _ := next(t, whole)
			batches = append(batches, b.Indices)
		}
		for k, p := range positions {
			s := mustSampler(t, cfg)
			if err := s.Seek(p); err != nil {
				t.Fatal(err)
			}
			for j := k; j < len(batches); j++ {
				b, _ := next(t, s)
				if b.Step != j || !slices.Equal(b.Indices, batches[j]) {
					t.Fatalf("resumed at %v: batch %d, %v, want %d, %v", p, b.Step, b.Indices, j, batches[j])
				}
			}
		}
	}
	s := mustSampler(t, SamplerConfig{Sources: numbers(17), Batch: 4})
	for _, p := range []Position{{Epoch: -1}, {Index: -4}, {Index: 3}, {Index: 20}, {Index: 17}, {Batches: 1}, {Sources: []Position{{}}}} {
		if err := s.Seek(p); err == nil {
			t.Errorf("Seek(%v) succeeded", p)
		}
	}
}

func TestRanksDivideTheBatch(t *testing.T) {
	cfg := SamplerConfig{Sources: numbers(26), Batch: 8, Seed: 3}
	one := mustSampler(t, cfg)
	for _, world := range []int{2, 4} {
		var ranks []*Sampler
		for r := range world {
			c := cfg
			c.Rank, c.World = r, world
			ranks = append(ranks, mustSampler(t, c))
		}
		one.Seek(Position{})
		for range 8 { // two epochs; the last batches have two examples
			want, _ := next(t, one)
			var indices []int
			var samples []uint64
			for _, s := range ranks {
				b, _ := next(t, s)
				if b.First != len(indices) || b.Global != want.Global || b.Step != want.Step {
					t.Fatalf("%+v is not a part of %+v", b, want)
				}
				indices = append(indices, b.Indices...)
				samples = append(samples, b.Samples...)
			}
			if !slices.Equal(indices, want.Indices) || !slices.Equal(samples, want.Samples) {
				t.Fatalf("%d ranks have %v, one has %v", world, indices, want.Indices)
			}
		}
	}
}

// checkDistinct checks an epoch: every example at most once, served of them in
// all, and no group twice in a batch.
func checkDistinct(t *testing.T, batches [][]int, group []int, served int) {
	t.Helper()
	seen := make(map[int]bool)
	for _, b := range batches {
		in := make(map[int]bool)
		for _, i := range b {
			if seen[i] {
				t.Fatalf("example %d twice in %v", i, batches)
			}
			if in[group[i]] {
				t.Fatalf("group %d twice in batch %v", group[i], b)
			}
			seen[i], in[group[i]] = true, true
		}
	}
	if len(seen) != served {
		t.Fatalf("%d examples served, want %d", len(seen), served)
	}
}

// arrangeable reports, by trying, whether the examples from i on go into batches
// of the sizes left without two of a group in one.
func arrangeable(group []int, i int, left []int, in []map[int]bool) bool {
	if i == len(group) {
		return true
	}
	for b := range left {
		if left[b] == 0 || in[b][group[i]] {
			continue
		}
		left[b]--
		in[b][group[i]] = true
		ok := arrangeable(group, i+1, left, in)
		left[b]++
		delete(in[b], group[i])
		if ok {
			return true
		}
	}
	return false
}

func TestDistinct(t *testing.T) {
	const seed = 11
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	possible, impossible := 0, 0
	for range 3000 {
		n := 1 + r.IntN(9)
		batch := 1 + r.IntN(n)
		group := make([]int, n)
		kinds := 1 + r.IntN(n)
		for i := range group {
			group[i] = r.IntN(kinds)
		}
		var left []int
		var in []map[int]bool
		for at := 0; at < n; at += batch {
			left = append(left, min(batch, n-at))
			in = append(in, make(map[int]bool))
		}
		want := arrangeable(group, 0, left, in)
		s, err := NewSampler(SamplerConfig{Sources: numbers(n), Batch: batch, Seed: r.Uint64(), Distinct: func(i int) string { return fmt.Sprint(group[i]) }})
		if (err == nil) != want {
			t.Fatalf("groups %v in batches of %d: %v, but an arrangement exists: %v", group, batch, err, want)
		}
		if err != nil {
			impossible++
			continue
		}
		possible++
		for range 2 {
			checkDistinct(t, epoch(t, s), group, n)
		}
	}
	if possible < 300 || impossible < 300 {
		t.Errorf("%d possible and %d impossible cases say little", possible, impossible)
	}

	// With DropLast, whatever is left out.
	group := make([]int, 50)
	for i := range group {
		group[i] = i / 6
	}
	s := mustSampler(t, SamplerConfig{Sources: numbers(50), Batch: 8, DropLast: true, Distinct: func(i int) string { return fmt.Sprint(group[i]) }})
	left := make(map[int]bool)
	for range 20 {
		b := epoch(t, s)
		checkDistinct(t, b, group, 48)
		for i := range group {
			if !slices.Contains(slices.Concat(b...), i) {
				left[i] = true
			}
		}
	}
	if len(left) < 10 {
		t.Errorf("in 20 epochs just the examples %v were left out", left)
	}
}

// Examples must not have a preferred batch, nor a preferred place in it.
func TestDistinctIsRandom(t *testing.T) {
	s := mustSampler(t, SamplerConfig{Sources: numbers(10), Batch: 4, Seed: 5, Distinct: func(i int) string { return fmt.Sprint(i / 2) }})
	const epochs = 4000
	var count [10][10]int
	for range epochs {
		for place, i := range slices.Concat(epoch(t, s)...) {
			count[i][place]++
		}
	}
	for i, places := range count {
		for p, n := range places {
			// Binomial with mean 400 and deviation 19.
			if n < 300 || n > 500 {
				t.Errorf("example %d is at place %d in %d of %d epochs, want about %d", i, p, n, epochs, epochs/10)
			}
		}
	}
}

// The pairs of a batch must not be together again in the next.
func TestDistinctScattersGroups(t *testing.T) {
	s := mustSampler(t, SamplerConfig{Sources: numbers(80), Batch: 10, Distinct: func(i int) string { return fmt.Sprint(i / 2) }})
	var at [80]int
	for n, b := range epoch(t, s) {
		for _, i := range b {
			at[i] = n
		}
	}
	pairs := make(map[[2]int]bool)
	for i := 0; i < 80; i += 2 {
		pairs[[2]int{min(at[i], at[i+1]), max(at[i], at[i+1])}] = true
	}
	// 40 draws of 28 pairs of batches give 21 or so.
	if len(pairs) < 14 {
		t.Errorf("40 groups share %d pairs of batches", len(pairs))
	}
}

func TestNewSamplerErrors(t *testing.T) {
	same := func(int) string { return "all" }
	for _, test := range []struct {
		cfg  SamplerConfig
		want string
	}{
		{SamplerConfig{Sources: numbers(0), Batch: 1}, "a set of 0 examples"},
		{SamplerConfig{Sources: numbers(1), Batch: 0}, "batches of 0 examples"},
		{SamplerConfig{Sources: numbers(1), Batch: 1, Epochs: -1}, "-1 epochs"},
		{SamplerConfig{Sources: numbers(4), Batch: 4, Rank: 2, World: 2}, "rank 2 of 2"},
		{SamplerConfig{Sources: numbers(4), Batch: 3, World: 2}, "does not divide into 2 ranks"},
		{SamplerConfig{Sources: numbers(4), Batch: 5, DropLast: true}, "4 examples do not fill one batch of 5"},
		{SamplerConfig{Sources: numbers(4), Batch: 2, InOrder: true, Distinct: same}, "Distinct"},
		{SamplerConfig{Sources: numbers(4), Batch: 2, Distinct: same}, `group "all" has 4 examples, but an epoch has 2 batches of 2`},
		{SamplerConfig{Sources: numbers(5), Batch: 3, Distinct: func(i int) string { return []string{"a", "a", "b", "b", "c"}[i] }}, ""},
		{SamplerConfig{Sources: numbers(6), Batch: 5, Distinct: func(i int) string { return []string{"a", "a", "b", "b", "c", "d"}[i] }}, "2 groups need a place in each of an epoch's 2 batches, but the last has 1"},
	} {
		_, err := NewSampler(test.cfg)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%+v: %v, want %q", test.cfg, err, test.want)
		}
	}
}

func TestEachReplacesBadExamples(t *testing.T) {
	group := func(i int) string { return fmt.Sprint(i / 2) }
	for _, distinct := range []func(int) string{nil, group} {
		bad := map[int]bool{0: true, 5: true, 6: true, 13: true, 20: true}
		cfg := SamplerConfig{Sources: []Source{{Set: dataset.Whole(badSet{24, bad})}}, Batch: 6, Seed: 9, Distinct: distinct}
		// run reads 3 epochs as rank r of world and returns what was read at
		// each sample number.
		run := func(rank, world int) map[uint64]int {
			c := cfg
			c.Rank, c.World = rank, world
			s := mustSampler(t, c)
			read := make(map[uint64]int)
			for range 3 * s.BatchesPerEpoch() {
				b, _ := next(t, s)
				b.maxBad = len(bad) * 3
				original := slices.Clone(b.Indices)
				err := b.Each(func(place int, e dataset.Example) error {
					index := b.Indices[place]
					if e.ID != fmt.Sprint(index) {
						t.Fatalf("place %d: example %q, batch says %d", place, e.ID, index)
					}
					read[b.Samples[place]] = index
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				for k, i := range original {
					if !bad[i] {
						if b.Indices[k] != i {
							t.Fatalf("good example %d replaced by %d", i, b.Indices[k])
						}
						continue
					}
					if !slices.ContainsFunc(b.bad, func(e badExample) bool { return e.place == k && e.err.Index == i }) {
						t.Fatalf("bad example %d is not noted: %v", i, b.bad)
					}
					for _, o := range b.all {
						if o := o.w.at(o.at); b.Indices[k] == o || distinct != nil && b.Indices[k]/2 == o/2 {
							t.Fatalf("%d replaced by %d, but %d is in the batch", i, b.Indices[k], o)
						}
					}
				}
			}
			return read
		}
		want := run(0, 1)
		if len(want) != 72 {
			t.Fatalf("%d examples read, want 72", len(want))
		}
		got := make(map[uint64]int)
		for r := range 3 {
			for k, v := range run(r, 3) {
				got[k] = v
			}
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("three ranks read other examples than one:\n%v\n%v", got, want)
		}
	}
}

func TestEachGivesUp(t *testing.T) {
	all := make(map[int]bool)
	for i := range 300 {
		all[i] = true
	}
	put := func(int, dataset.Example) error { return nil }
	set := func(n int) []Source { return []Source{{Set: dataset.Whole(badSet{numberSet(n), all})}} }
	s := mustSampler(t, SamplerConfig{Sources: set(12), Batch: 4})
	b, _ := next(t, s)
	var bad *dataset.BadExampleError
	if err := b.Each(put); !errors.As(err, &bad) || len(b.bad) != 1 {
		t.Errorf("strict: %v after %d", err, len(b.bad))
	}
	// Every other example is tried before it gives up, or a hundred.
	b, _ = next(t, s)
	b.maxBad = 1000
	err := b.Each(put)
	tried := make(map[int]bool)
	for _, e := range b.bad {
		tried[e.err.Index] = true
	}
	if err == nil || !strings.Contains(err.Error(), "nothing in the set can replace") || len(tried) != 9 {
		t.Errorf("%v after %d examples", err, len(tried))
	}
	b, _ = next(t, mustSampler(t, SamplerConfig{Sources: set(300), Batch: 4}))
	b.maxBad = 1000
	if err := b.Each(put); !errors.As(err, &bad) || len(b.bad) != maxTries+1 {
		t.Errorf("%v after %d examples", err, len(b.bad))
	}
	// The one example that is not in the batch is found, whatever the sizes.
	for n := 2; n < 20; n++ {
		for place := range n - 1 {
			b, _ = next(t, mustSampler(t, SamplerConfig{Sources: []Source{{Set: dataset.Whole(badSet{numberSet(n), map[int]bool{place: true}})}}, Batch: n - 1, InOrder: true}))
			b.maxBad = 1
			if err := b.Each(put); err != nil || b.Indices[place] != n-1 {
				t.Errorf("%d of %d examples, %d is bad: %v, %v", n-1, n, place, b.Indices, err)
			}
		}
	}
	// What is wrong with an example may be found out when it is put.
	b, _ = next(t, mustSampler(t, SamplerConfig{Sources: numbers(12), Batch: 4, InOrder: true}))
	b.maxBad = 1
	err = b.Each(func(_ int, e dataset.Example) error {
		if e.ID == "2" {
			return &dataset.BadExampleError{Index: 2, ID: e.ID}
		}
		return nil
	})
	if err != nil || b.Indices[2] != 6 || len(b.bad) != 1 {
		t.Errorf("%v, %v", err, b.Indices)
	}
	other := errors.New("other")
	b, _ = next(t, mustSampler(t, SamplerConfig{Sources: numbers(12), Batch: 4}))
	b.maxBad = 1000
	if err := b.Each(func(int, dataset.Example) error { return other }); err != other {
		t.Errorf("another error: %v", err)
	}
}
