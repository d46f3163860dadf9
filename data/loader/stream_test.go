package loader

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"vlmo-train/data/dataset"
	"vlmo-train/rng"
)

// shards is a set in shards of the given sizes; example i of shard k is "k/i".
type shards struct {
	sizes []int
	open  atomic.Int32
	most  atomic.Int32 // open at a time
	fail  func(k, n int) error
	mu    sync.Mutex
	tries map[int]int
}

func newShards(sizes ...int) *shards { return &shards{sizes: sizes, tries: map[int]int{}} }

func (s *shards) Shards() int { return len(s.sizes) }

func (s *shards) Shard(_ context.Context, k int) (dataset.Shard, error) {
	s.mu.Lock()
	n := s.tries[k]
	s.tries[k]++
	s.mu.Unlock()
	if s.fail != nil {
		if err := s.fail(k, n); err != nil {
			return nil, err
		}
	}
	// Shards are not ready in their order.
	time.Sleep(time.Duration(k*7%5) * 20 * time.Microsecond)
	m := s.open.Add(1)
	for old := s.most.Load(); m > old && !s.most.CompareAndSwap(old, m); old = s.most.Load() {
	}
	return &shard{set: s, k: k}, nil
}

// checkClosed fails the test if shards stay open.
func (s *shards) checkClosed(t *testing.T) {
	t.Helper()
	for range 200 {
		if s.open.Load() == 0 {
			return
		}
		time.Sleep(time.Millisecond) // those that were being opened are closed when they come
	}
	t.Errorf("%d shards stay open", s.open.Load())
}

func (s *shards) total() (n int) {
	for _, x := range s.sizes {
		n += x
	}
	return n
}

type shard struct {
	set    *shards
	k      int
	closed atomic.Bool
}

func (s *shard) Len() int           { return s.set.sizes[s.k] }
func (s *shard) Group(i int) string { return fmt.Sprintf("%d/%d", s.k, i) }
func (s *shard) Example(i int) (dataset.Example, error) {
	if s.closed.Load() {
		return dataset.Example{}, errors.New("read after Close")
	}
	return dataset.Example{ID: s.Group(i)}, nil
}
func (s *shard) Close() error {
	if s.closed.Swap(true) {
		panic("closed twice")
	}
	s.set.open.Add(-1)
	return nil
}

func sources(sets ...dataset.Sharded) (list []Source) {
	for _, s := range sets {
		list = append(list, Source{Set: s, Weight: 1})
	}
	return list
}

// names returns the names of a batch's examples, with their sample numbers.
func names(_ context.Context, b *Batch, _ []string) ([]string, error) {
	out := make([]string, len(b.Indices))
	err := b.Each(func(place int, e dataset.Example) error {
		out[place] = fmt.Sprintf("%d:%s", b.Samples[place], e.ID)
		return nil
	})
	return out, err
}

// id returns an entry of names without the sample number.
func id(s string) string {
	_, s, _ = strings.Cut(s, ":")
	return s
}

// load returns up to n batches of cfg from p on, as names reads them, and the
// positions before each and after the last.
func load(t *testing.T, cfg SamplerConfig, p Position, n int, lc Config) (batches [][]string, positions []Position) {
	t.Helper()
	return loadAs(t, cfg, p, n, lc, names)
}

// loadAs is load with another way to read a batch.
func loadAs(t *testing.T, cfg SamplerConfig, p Position, n int, lc Config, read MakeFunc[[]string]) (batches [][]string, positions []Position) {
	t.Helper()
	s := mustSampler(t, cfg)
	if err := s.Seek(p); err != nil {
		t.Fatal(err)
	}
	l, err := New(t.Context(), s, lc, read)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	positions = append(positions, l.Position())
	for range n {
		b, err := l.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		batches = append(batches, b)
		positions = append(positions, l.Position())
	}
	return batches, positions
}

// An epoch of a set in shards has every example once, whatever the sizes of
// shards, batches and windows.
func TestStreamServesEveryExampleOnce(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 60 {
		set := newShards()
		for range 1 + r.IntN(12) {
			set.sizes = append(set.sizes, r.IntN(9))
		}
		set.sizes = append(set.sizes, 1+r.IntN(9))
		n := set.total()
		cfg := SamplerConfig{Sources: sources(set), Batch: 1 + r.IntN(n), Seed: r.Uint64(), Buffer: 1 + r.IntN(20), DropLast: r.IntN(2) == 0, InOrder: r.IntN(4) == 0, Epochs: 2}
		batches, positions := load(t, cfg, Position{}, math.MaxInt, Config{Workers: 2})
		perEpoch := (n + cfg.Batch - 1) / cfg.Batch
		if cfg.DropLast {
			perEpoch = n / cfg.Batch
		}
		if len(batches) != 2*perEpoch {
			t.Fatalf("%v, %+v: %d batches, want %d", set.sizes, cfg, len(batches), 2*perEpoch)
		}
		sample := 0
		for e := range 2 {
			seen := map[string]bool{}
			for k, b := range batches[e*perEpoch : (e+1)*perEpoch] {
				// A rest, or empty shards, may be left before it is known that
				// no batch follows.
				rest := k == 0
				if p := positions[e*perEpoch+k]; p.Epoch != e && !rest || p.Batches != e*perEpoch+k || p.Examples != uint64(sample) {
					t.Fatalf("%v, %+v: position %+v of batch %d of epoch %d", set.sizes, cfg, p, k, e)
				}
				for _, x := range b {
					if !strings.HasPrefix(x, fmt.Sprint(sample, ":")) || seen[id(x)] {
						t.Fatalf("%v, %+v: %s is sample %d", set.sizes, cfg, x, sample)
					}
					sample++
					seen[id(x)] = true
				}
			}
			if want := n; cfg.DropLast && len(seen) != n-n%cfg.Batch || !cfg.DropLast && len(seen) != want {
				t.Fatalf("%v, %+v: %d examples in epoch %d, want %d", set.sizes, cfg, len(seen), e, want)
			}
		}
		set.checkClosed(t)
	}
}

// What comes out does not depend on workers, and goes on the same from any place.
func TestStreamResumesEverywhere(t *testing.T) {
	defer settle(t, runtime.NumGoroutine())
	a, b := newShards(5, 0, 7, 3, 6, 9, 1, 4), newShards(4, 4, 4)
	for name, cfg := range map[string]SamplerConfig{
		"shards":  {Sources: sources(a), Batch: 4, Seed: 1, Buffer: 9, DropLast: true},
		"whole":   {Sources: numbers(26), Batch: 4, Seed: 1},
		"in turn": {Sources: sources(a), Batch: 4, Seed: 1, Buffer: 9, InOrder: true},
		"joined":  {Sources: sources(dataset.Join(a, b, numbers(17)[0].Set)), Batch: 4, Seed: 1, Buffer: 9},
		"mixture": {Sources: []Source{{a, 3}, {b, 1}, {numbers(6)[0].Set, 0.5}}, Batch: 4, Seed: 1, Buffer: 9, DropLast: true},
	} {
		const n = 30 // some epochs
		want, positions := load(t, cfg, Position{}, n, Config{Workers: 1, Prefetch: 1})
		if len(want) != n {
			t.Fatalf("%s: %d batches", name, len(want))
		}
		for k := range want {
			got, again := load(t, cfg, positions[k], n-k, Config{Workers: 1 + k%4, Prefetch: 1 + k%3})
			if !reflect.DeepEqual(got, want[k:]) {
				t.Fatalf("%s: from %+v:\n%v\nwant\n%v", name, positions[k], got, want[k:])
			}
			if !reflect.DeepEqual(again, positions[k:]) {
				t.Fatalf("%s: positions from %+v:\n%+v\nwant\n%+v", name, positions[k], again, positions[k:])
			}
		}
		other := cfg
		other.Seed++
		if got, _ := load(t, other, Position{}, n, Config{Workers: 2}); reflect.DeepEqual(got, want) != cfg.InOrder {
			t.Errorf("%s: another seed gives the same order", name)
		}
	}
	a.checkClosed(t)
	b.checkClosed(t)
}

// Ranks have the parts of what one rank has, and as many batches.
func TestStreamRanks(t *testing.T) {
	a, b := newShards(5, 0, 7, 3, 6, 9, 1, 4), newShards(4, 4, 4)
	for name, cfg := range map[string]SamplerConfig{
		"drop":    {Sources: sources(a), Batch: 12, Buffer: 9, DropLast: true, Epochs: 3},
		"keep":    {Sources: sources(a), Batch: 12, Buffer: 9, Epochs: 3},
		"mixture": {Sources: []Source{{a, 3}, {b, 1}}, Batch: 12, Buffer: 9},
	} {
		want, positions := load(t, cfg, Position{}, 20, Config{Workers: 1})
		for _, world := range []int{2, 3, 4} {
			got := make([][]string, len(want))
			for rank := range world {
				c := cfg
				c.Rank, c.World = rank, world
				part, at := load(t, c, Position{}, 20, Config{Workers: 1 + rank})
				if len(part) != len(want) || !reflect.DeepEqual(at, positions) {
					t.Fatalf("%s: rank %d of %d has %d batches, want %d", name, rank, world, len(part), len(want))
				}
				for k, b := range part {
					if len(want[k]) == 12 && len(b) != 12/world {
						t.Errorf("%s: rank %d of %d has %d examples of batch %d", name, rank, world, len(b), k)
					}
					got[k] = append(got[k], b...)
				}
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%s: %d ranks have\n%v\none has\n%v", name, world, got, want)
			}
		}
	}
}

// The shards of a window are mixed, windows are not, and no more shards are open
// than those of three windows and what is opened ahead.
func TestStreamWindows(t *testing.T) {
	set := newShards()
	for range 100 {
		set.sizes = append(set.sizes, 10)
	}
	cfg := SamplerConfig{Sources: sources(set), Batch: 10, Seed: 3, Buffer: 50, Epochs: 1}
	batches, _ := load(t, cfg, Position{}, math.MaxInt, Config{Workers: 4})
	first := map[string]int{} // window of a shard
	changed := 0
	for k, b := range batches {
		in := map[string]bool{}
		for _, x := range b {
			s, _, _ := strings.Cut(id(x), "/")
			if w, ok := first[s]; ok && w != k/5 {
				t.Fatalf("shard %s is in windows %d and %d", s, w, k/5)
			}
			first[s] = k / 5
			in[s] = true
		}
		// Ten of 50 examples, 10 of a shard, are of one shard with
		// probability 1e-9.
		if len(in) < 2 {
			t.Errorf("batch %d is of one shard: %v", k, b)
		}
	}
	for k := range 100 {
		if first[fmt.Sprint(k)] != k/5 {
			changed++
		}
	}
	if len(first) != 100 || changed < 50 {
		t.Errorf("%d shards, %d of them elsewhere than in the set's order", len(first), changed)
	}
	if n := set.most.Load(); n > 3*5+openers {
		t.Errorf("%d shards open at a time", n)
	}
}

// A last window of few shards is part of the one before, and where it is small
// all the same, substitutes come from the batch's other window.
func TestSmallLastWindow(t *testing.T) {
	for _, c := range []struct {
		shards int
		want   []int // shards of the windows
	}{{11, []int{4, 4, 3}}, {10, []int{4, 6}}, {9, []int{4, 5}}, {13, []int{4, 4, 5}}, {6, []int{6}}, {7, []int{4, 3}}, {3, []int{3}}} {
		set := newShards()
		for range c.shards {
			set.sizes = append(set.sizes, 5)
		}
		o := &order{set: set, buffer: 20, patience: hasty}
		var got []int
		for {
			w, err := o.nextWindow(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, w.shards)
			last := w.last
			w.release()
			if last {
				break
			}
		}
		o.stop()
		if !slices.Equal(got, c.want) {
			t.Errorf("%d shards make windows of %v, want %v", c.shards, got, c.want)
		}
	}

	// Windows of 20 and 3, a batch of 3 of the first and the whole second, of
	// which one is bad.
	w1, w2 := &window{n: 20, order: rng.NewPermuted(rng.Key{Seed: 1}, 20)}, &window{n: 3, dealt: []int{2, 0, 1}}
	b := &Batch{stride: 6, runs: []run{{w1, 17, 20}, {w2, 0, 3}}}
	s := substitutes{b: b, from: spot{w2, 1}, run: -1}
	seen := map[int]bool{}
	for {
		w, i, ok := s.next()
		if !ok {
			break
		}
		if w != w1 || i == w1.at(17) || i == w1.at(18) || i == w1.at(19) || seen[i] {
			t.Fatalf("substitute %d of %v, seen %v", i, w, seen)
		}
		seen[i] = true
	}
	if len(seen) != 17 {
		t.Errorf("%d substitutes of 17", len(seen))
	}
}

// Each set of a mixture comes as often as its weight says, by its own epochs.
func TestMixture(t *testing.T) {
	a, b := newShards(30, 20, 50), newShards(7, 8)
	cfg := SamplerConfig{Sources: []Source{{a, 1.5}, {b, 0.5}}, Batch: 20, Seed: 5, Buffer: 40}
	const batches = 500
	list, _ := load(t, cfg, Position{}, batches, Config{Workers: 2})
	all := slices.Concat(list...)
	count := map[string]int{}
	for _, x := range all {
		count[id(x)]++
	}
	// 10,000 draws: examples 10 and up of shards 0 to 2 are of a alone; a's 3/4
	// of the draws are 75 epochs.
	for k, n := range a.sizes {
		for i := 10; i < n; i++ {
			if c := count[fmt.Sprintf("%d/%d", k, i)]; c < 70 || c > 80 {
				t.Errorf("example %d/%d came %d times, want 75 or so", k, i, c)
			}
		}
	}
	if c := count["1/7"] - count["0/29"]; c < 150 || c > 184 {
		t.Errorf("an example of the small set came %d times, want 167 or so", c)
	}
	for _, c := range []struct {
		cfg  SamplerConfig
		want string
	}{
		{SamplerConfig{Sources: []Source{{a, 1}, {b, 0}}, Batch: 1}, "set 2 of the mixture has the weight 0"},
		{SamplerConfig{Sources: []Source{{a, 1}, {b, math.NaN()}}, Batch: 1}, "weight NaN"},
		{SamplerConfig{Sources: []Source{{a, 1}, {b, 1}}, Batch: 1, Epochs: 1}, "no end"},
		{SamplerConfig{Sources: sources(a), Batch: 1, Distinct: func(int) string { return "" }}, "whose length is known"},
		{SamplerConfig{Batch: 1}, "no sets"},
		{SamplerConfig{Sources: sources(a), Batch: 1, Buffer: -1}, "to mix"},
	} {
		if _, err := NewSampler(c.cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
}

func TestStreamSeekErrors(t *testing.T) {
	set := newShards(5, 5)
	cfg := SamplerConfig{Sources: sources(set), Batch: 2, Buffer: 5}
	for _, p := range []Position{
		{Epoch: -1}, {Index: 2}, {Batches: 1, Index: 2, Examples: 3}, {Batches: 3, Index: 5, Before: 6}, {Batches: 3, Shard: 2},
		{Batches: 1, Sources: []Position{{}, {}}}, {Batches: -1},
	} {
		if err := mustSampler(t, cfg).Seek(p); err == nil {
			t.Errorf("Seek(%+v) succeeded", p)
		}
	}
	// A shard that has become shorter is noticed where it matters.
	s := mustSampler(t, cfg)
	if err := s.Seek(Position{Batches: 4, Examples: 8, Index: 8, Shard: 1, Before: 2}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Next(t.Context()); err == nil || !strings.Contains(err.Error(), "has changed") {
		t.Error(err)
	}
	s.Close()

	for _, c := range []struct {
		set  *shards
		want string
	}{
		{newShards(0, 0), "no examples in a set of 2 files"},
		{newShards(1, 1), "2 examples do not fill one batch of 3"},
	} {
		s := mustSampler(t, SamplerConfig{Sources: sources(c.set), Batch: 3, DropLast: true})
		for range 2 {
			if _, err := s.Next(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		}
		s.Close()
		c.set.checkClosed(t)
	}
}

var hasty = Patience{Tries: 3, Wait: time.Millisecond, Stall: 30 * time.Millisecond}

// A shard that can't be opened for a while is opened later; one that never can
// is named, and one that is not there at once.
func TestShardsAreTriedAgain(t *testing.T) {
	defer settle(t, runtime.NumGoroutine())
	eio := &fs.PathError{Op: "open", Path: "some.tar", Err: syscall.EIO}
	cfg := func(s *shards) SamplerConfig {
		return SamplerConfig{Sources: sources(s), Batch: 4, Buffer: 6, Epochs: 1, Patience: hasty}
	}
	good := newShards(4, 4, 4)
	want, _ := load(t, cfg(good), Position{}, 9, Config{Workers: 1})

	flaky := newShards(4, 4, 4)
	flaky.fail = func(k, n int) error {
		if k == 1 && n < 2 {
			return eio
		}
		return nil
	}
	if got, _ := load(t, cfg(flaky), Position{}, 9, Config{Workers: 1}); !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	for _, c := range []struct {
		err   error
		tries int
		want  string
	}{
		{eio, 3, "tried 3 times: open some.tar: input/output error"},
		{&fs.PathError{Op: "open", Path: "some.tar", Err: syscall.ENOENT}, 1, "some.tar: no such file"},
	} {
		set := newShards(4, 4, 4)
		set.fail = func(k, _ int) error {
			if k == 2 {
				return c.err
			}
			return nil
		}
		l, err := New(t.Context(), mustSampler(t, cfg(set)), Config{Workers: 1}, names)
		if err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, err = l.Next()
		}
		if !strings.Contains(err.Error(), c.want) || set.tries[2] != c.tries {
			t.Errorf("%v after %d tries, want %q after %d", err, set.tries[2], c.want, c.tries)
		}
		l.Close()
		set.checkClosed(t)
	}

	// One that does not answer.
	stuck := make(chan struct{})
	set := newShards(4, 4, 4)
	set.fail = func(k, n int) error {
		if k == 0 && n == 0 {
			<-stuck
		}
		return nil
	}
	quick := cfg(set)
	quick.Patience.Stall = 2 * time.Millisecond // ten times that for a shard
	if got, _ := load(t, quick, Position{}, 9, Config{Workers: 1}); !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	close(stuck)
}

// hanging is a set whose examples fail or hang at times.
type hanging struct {
	numberSet
	mu    sync.Mutex
	tries map[int]int
	read  func(i, n int) error
}

func (h *hanging) count(i int) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.tries[i]
}

func (h *hanging) Example(i int) (dataset.Example, error) {
	h.mu.Lock()
	n := h.tries[i]
	h.tries[i]++
	h.mu.Unlock()
	if err := h.read(i, n); err != nil {
		return dataset.Example{}, &dataset.BadExampleError{Index: i, ID: fmt.Sprint("id-", i), Path: "a/file", Err: err}
	}
	return h.numberSet.Example(i)
}

func TestReadsAreTriedAgain(t *testing.T) {
	defer settle(t, runtime.NumGoroutine())
	run := func(maxBad int, read func(i, n int) error) (out []string, skipped int, set *hanging, err error) {
		set = &hanging{numberSet: 12, tries: map[int]int{}, read: read}
		s := mustSampler(t, SamplerConfig{Sources: sources(dataset.Whole(set)), Batch: 4, InOrder: true, Epochs: 1})
		l, err := New(t.Context(), s, Config{Workers: 2, MaxBad: maxBad, Patience: hasty}, names)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		for {
			b, err := l.Next()
			if err != nil {
				n, _ := l.Skipped()
				return out, n, set, err
			}
			for _, x := range b {
				out = append(out, id(x))
			}
		}
	}
	const all = "0 1 2 3 4 5 6 7 8 9 10 11"
	// Fails twice, then answers.
	out, skipped, set, err := run(0, func(i, n int) error {
		if i == 5 && n < 2 {
			return syscall.EIO
		}
		return nil
	})
	if err != io.EOF || strings.Join(out, " ") != all || skipped != 0 || set.count(5) != 3 {
		t.Errorf("%v, %v, %d skipped, %d tries", out, err, skipped, set.count(5))
	}
	// Fails for ever: it counts as one that can't be read.
	out, skipped, set, err = run(1, func(i, n int) error {
		if i == 5 {
			return syscall.EIO
		}
		return nil
	})
	if err != io.EOF || len(out) != 12 || out[5] != "9" || skipped != 1 || set.count(5) != 3 {
		t.Errorf("%v, %v, %d skipped, %d tries", out, err, skipped, set.count(5))
	}
	_, _, _, err = run(0, func(i, n int) error {
		if i == 5 {
			return syscall.EIO
		}
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), "a/file: input/output error") {
		t.Error(err)
	}
	// What is wrong with the bytes does not change: one try.
	_, _, set, err = run(0, func(i, n int) error {
		if i == 5 {
			return errors.New("not a picture")
		}
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), "not a picture") || set.count(5) != 1 {
		t.Errorf("%v after %d tries", err, set.count(5))
	}
	// Hangs once.
	release := make(chan struct{})
	out, skipped, set, err = run(0, func(i, n int) error {
		if i == 5 && n == 0 {
			<-release
		}
		return nil
	})
	if err != io.EOF || strings.Join(out, " ") != all || skipped != 0 || set.count(5) != 2 {
		t.Errorf("%v, %v, %d skipped, %d tries", out, err, skipped, set.count(5))
	}
	// Hangs for ever: an error that names it, even where bad ones are skipped.
	_, _, set, err = run(3, func(i, n int) error {
		if i == 5 {
			<-release
		}
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), "example 5: no answer in 30ms, tried 3 times") || set.count(5) != 3 {
		t.Errorf("%v after %d tries", err, set.count(5))
	}
	close(release)
}

// All workers read the first batch before any reads the second.
func TestWorkersShareABatch(t *testing.T) {
	const workers, batch = 4, 32
	var mu sync.Mutex
	var order []int
	set := &hanging{numberSet: 8 * batch, tries: map[int]int{}}
	set.read = func(i, _ int) error {
		time.Sleep(100 * time.Microsecond)
		mu.Lock()
		defer mu.Unlock()
		order = append(order, i)
		return nil
	}
	cfg := SamplerConfig{Sources: sources(dataset.Whole(set)), Batch: batch, InOrder: true, Epochs: 1}
	load(t, cfg, Position{}, 8, Config{Workers: workers, Prefetch: 3})
	if len(order) != 8*batch {
		t.Fatalf("%d examples read", len(order))
	}
	// Three batches read side by side would give distances of 30 or so.
	sum := 0
	for k, i := range order {
		sum += max(k-i, i-k)
	}
	if mean := float64(sum) / float64(len(order)); mean > 2*workers {
		t.Errorf("examples were read %v places from their own: %v", mean, order)
	}
}

// A share of bad examples is allowed where the length is not known.
func TestMaxBadShare(t *testing.T) {
	bad := map[int]bool{}
	for i := 50; i < 1000; i += 100 {
		bad[i] = true
	}
	for _, c := range []struct {
		share float64
		ok    bool
	}{{0.02, true}, {0.005, false}} {
		s := mustSampler(t, SamplerConfig{Sources: sources(dataset.Whole(badSet{1000, bad})), Batch: 10, Seed: 4, Epochs: 1})
		l, err := New(t.Context(), s, Config{Workers: 2, MaxBad: 2, MaxBadShare: c.share}, names)
		if err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, err = l.Next()
		}
		if c.ok != (err == io.EOF) || !c.ok && !strings.Contains(err.Error(), "examples can't be read") {
			t.Errorf("share %v: %v", c.share, err)
		}
		l.Close()
	}
}

// Memory does not grow with the number of shards read.
func TestMemoryIsFlat(t *testing.T) {
	const n = 1500
	set := newShards()
	for range n {
		set.sizes = append(set.sizes, 25)
	}
	s := mustSampler(t, SamplerConfig{Sources: sources(set), Batch: 50, Buffer: 500, Epochs: 1})
	l, err := New(t.Context(), s, Config{Workers: 2}, names)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	var early, late uint64
	for k := range n * 25 / 50 {
		if _, err := l.Next(); err != nil {
			t.Fatal(err)
		}
		switch k {
		case 100:
			early = heap()
		case n*25/50 - 100:
			late = heap()
		}
	}
	// The examples alone have names of a megabyte and more.
	if late > early+256<<10 {
		t.Errorf("%d KB in use near the beginning, %d near the end", early>>10, late>>10)
	}
	if most := set.most.Load(); most > 3*20+openers {
		t.Errorf("%d shards open at a time", most)
	}
}
