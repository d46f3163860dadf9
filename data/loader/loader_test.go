package loader

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"vlmo-train/data/dataset"
	"vlmo-train/rng"
)

// made is a batch of the tests: what went into it, and a number drawn for each
// sample.
type made struct {
	step    int
	indices []int
	draws   []uint32
}

// slowly makes a batch, the earlier ones of a few later than their successors.
func slowly(_ context.Context, b *Batch, old made) (made, error) {
	time.Sleep(time.Duration((3-b.Step%4)*200) * time.Microsecond)
	m := made{b.Step, append(old.indices[:0], b.Indices...), old.draws[:0]}
	for _, n := range b.Samples {
		r := rng.New(rng.Key{Seed: 1, Purpose: rng.Augment, Sample: n})
		m.draws = append(m.draws, r.Uint32())
	}
	return m, nil
}

// settle fails the test if goroutines are left over.
func settle(t *testing.T, before int) {
	t.Helper()
	for range 100 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	b := make([]byte, 1<<16)
	t.Errorf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, b[:runtime.Stack(b, true)])
}

func TestLoaderEqualsSampler(t *testing.T) {
	defer settle(t, runtime.NumGoroutine())
	cfg := SamplerConfig{Sources: numbers(19), Batch: 4, Seed: 2, Epochs: 2}
	s := mustSampler(t, cfg)
	var want []made
	positions := []Position{s.Position()}
	for {
		b, ok := next(t, s)
		if !ok {
			break
		}
		m, _ := slowly(t.Context(), b, made{})
		want = append(want, m)
		positions = append(positions, s.Position())
	}
	for _, c := range []Config{{Workers: 1, Prefetch: 1}, {Workers: 1}, {Workers: 3}, {Workers: 7, Prefetch: 2}, {Workers: 2, Prefetch: 20}} {
		// Resumed at every position, the end of the last epoch left out.
		for k := range want {
			s := mustSampler(t, cfg)
			if err := s.Seek(positions[k]); err != nil {
				t.Fatal(err)
			}
			l, err := New(t.Context(), s, c, slowly)
			if err != nil {
				t.Fatal(err)
			}
			for j := k; j < len(want); j++ {
				if got := l.Position(); !reflect.DeepEqual(got, positions[j]) {
					t.Fatalf("position %v before batch %d, want %v", got, j, positions[j])
				}
				got, err := l.Next()
				if err != nil || !reflect.DeepEqual(got, want[j]) {
					t.Fatalf("%+v from %d: batch %+v, %v, want %+v", c, k, got, err, want[j])
				}
				l.Recycle(got)
			}
			for range 2 {
				if _, err := l.Next(); err != io.EOF {
					t.Fatalf("after the last batch: %v", err)
				}
			}
			if got := l.Position(); !reflect.DeepEqual(got, positions[len(want)]) {
				t.Fatalf("position %v at the end, want %v", got, positions[len(want)])
			}
			l.Close()
		}
	}
}

func TestLoaderRunsAheadAndNoFurther(t *testing.T) {
	for _, workers := range []int{1, 3, 9} {
		const prefetch = 5
		var started atomic.Int32
		l, err := New(t.Context(), mustSampler(t, SamplerConfig{Sources: numbers(100), Batch: 1}), Config{Workers: workers, Prefetch: prefetch},
			func(context.Context, *Batch, int) (int, error) { return int(started.Add(1)), nil })
		if err != nil {
			t.Fatal(err)
		}
		for taken := range 10 {
			// The dispatcher has one batch more in its hand, which no worker
			// sees before the queue has room.
			for range 200 {
				if int(started.Load()) >= taken+prefetch-1 {
					break
				}
				time.Sleep(time.Millisecond)
			}
			time.Sleep(2 * time.Millisecond)
			if n := int(started.Load()); n < taken+prefetch-1 || n > taken+prefetch {
				t.Errorf("%d workers: %d batches started with %d taken and %d ahead", workers, n, taken, prefetch)
			}
			if _, err := l.Next(); err != nil {
				t.Fatal(err)
			}
		}
		l.Close()
	}
}

func TestErrorComesInItsPlace(t *testing.T) {
	defer settle(t, runtime.NumGoroutine())
	broken := errors.New("broken")
	for _, workers := range []int{1, 4} {
		l, err := New(t.Context(), mustSampler(t, SamplerConfig{Sources: numbers(10), Batch: 2}), Config{Workers: workers},
			func(_ context.Context, b *Batch, _ int) (int, error) {
				if b.Step >= 7 {
					return 0, fmt.Errorf("step %d: %w", b.Step, broken)
				}
				time.Sleep(time.Millisecond)
				return b.Step, nil
			})
		if err != nil {
			t.Fatal(err)
		}
		for step := range 7 {
			if got, err := l.Next(); err != nil || got != step {
				t.Fatalf("batch %d: %d, %v", step, got, err)
			}
		}
		for range 3 {
			_, err := l.Next()
			if !errors.Is(err, broken) || !strings.Contains(err.Error(), "batch at epoch 1, index 4: step 7: broken") {
				t.Fatalf("batch 7: %v", err)
			}
		}
		if got, want := l.Position(), (Position{Epoch: 1, Index: 4}); !reflect.DeepEqual(got, want) {
			t.Errorf("position %v after the error, want %v", got, want)
		}
		l.Close()
	}
}

func TestClose(t *testing.T) {
	defer settle(t, runtime.NumGoroutine())
	for _, take := range []int{0, 1, 5} {
		for _, workers := range []int{1, 4} {
			l, err := New(t.Context(), mustSampler(t, SamplerConfig{Sources: numbers(50), Batch: 2}), Config{Workers: workers}, slowly)
			if err != nil {
				t.Fatal(err)
			}
			for range take {
				if _, err := l.Next(); err != nil {
					t.Fatal(err)
				}
			}
			l.Close()
			l.Close()
			if _, err := l.Next(); err != ErrClosed {
				t.Errorf("Next after Close: %v", err)
			}
		}
	}

	// Close wakes a Next that waits and a MakeFunc that minds its context.
	var running atomic.Int32
	l, err := New(t.Context(), mustSampler(t, SamplerConfig{Sources: numbers(50), Batch: 2}), Config{Workers: 2},
		func(ctx context.Context, _ *Batch, _ int) (int, error) {
			running.Add(1)
			defer running.Add(-1)
			<-ctx.Done()
			time.Sleep(5 * time.Millisecond)
			return 0, ctx.Err()
		})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := l.Next(); err != ErrClosed {
			t.Errorf("Next during Close: %v", err)
		}
	})
	time.Sleep(2 * time.Millisecond)
	l.Close()
	if n := running.Load(); n != 0 {
		t.Errorf("%d MakeFuncs run after Close", n)
	}
	wg.Wait()
}

func TestContextEnds(t *testing.T) {
	defer settle(t, runtime.NumGoroutine())
	stop := errors.New("told to stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	l, err := New(ctx, mustSampler(t, SamplerConfig{Sources: numbers(50), Batch: 2}), Config{Workers: 2}, slowly)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := l.Next(); err != nil {
		t.Fatal(err)
	}
	cancel(stop)
	if _, err := l.Next(); err != stop {
		t.Errorf("Next after the context's end: %v", err)
	}
}

func TestBadExamplesAreCountedOnce(t *testing.T) {
	defer settle(t, runtime.NumGoroutine())
	bad := []int{3, 11, 17}
	set := badSet{20, map[int]bool{3: true, 11: true, 17: true}}
	read := func(_ context.Context, b *Batch, old []int) ([]int, error) {
		out := slices.Grow(old[:0], len(b.Indices))[:len(b.Indices)]
		err := b.Each(func(place int, e dataset.Example) error {
			_, err := fmt.Sscan(e.ID, &out[place])
			return err
		})
		return out, err
	}
	run := func(workers, maxBad int) (batches [][]int, skipped []int, err error) {
		s := mustSampler(t, SamplerConfig{Sources: []Source{{Set: dataset.Whole(set)}}, Batch: 4, Seed: 8, Epochs: 3})
		l, err := New(t.Context(), s, Config{Workers: workers, MaxBad: maxBad}, read)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		for {
			var b []int
			b, err = l.Next()
			if err != nil {
				break
			}
			batches = append(batches, b)
		}
		n, list := l.Skipped()
		for _, e := range list {
			skipped = append(skipped, e.Index)
		}
		if n != len(skipped) {
			t.Errorf("%d examples skipped, named are %d", n, len(skipped))
		}
		return batches, skipped, err
	}
	want, wantSkipped, err := run(1, 3)
	if err != io.EOF || len(want) != 15 {
		t.Fatalf("%d batches, %v", len(want), err)
	}
	sorted := slices.Sorted(slices.Values(wantSkipped))
	if !slices.Equal(sorted, bad) {
		t.Errorf("skipped %v, want %v", sorted, bad)
	}
	for _, workers := range []int{2, 5} {
		got, skipped, err := run(workers, 3)
		if err != io.EOF || !reflect.DeepEqual(got, want) || !slices.Equal(skipped, wantSkipped) {
			t.Errorf("%d workers: %v, skipped %v, %v\nwant %v, skipped %v", workers, got, skipped, err, want, wantSkipped)
		}
	}
	// One too many, at the same place whatever the workers.
	short, _, err := run(1, 2)
	if err == nil || !strings.Contains(err.Error(), "more than 2 examples can't be read") || strings.Count(err.Error(), "id-") != 3 {
		t.Errorf("one bad example too many: %v", err)
	}
	again, _, err2 := run(5, 2)
	if !reflect.DeepEqual(short, again) || err.Error() != err2.Error() {
		t.Errorf("5 workers: %d batches, %v", len(again), err2)
	}
	// Strict.
	_, _, err = run(2, 0)
	var e *dataset.BadExampleError
	if !errors.As(err, &e) || !strings.Contains(err.Error(), "batch at epoch 0") {
		t.Errorf("strict: %v", err)
	}
}

func TestSteadyStateAllocatesNothing(t *testing.T) {
	// One long epoch: an epoch's order is allocated at its beginning.
	s := mustSampler(t, SamplerConfig{Sources: numbers(200_000), Batch: 16})
	var fresh atomic.Int32
	l, err := New(t.Context(), s, Config{Workers: 2}, func(_ context.Context, b *Batch, old *[1 << 16]byte) (*[1 << 16]byte, error) {
		if old == nil {
			fresh.Add(1)
			old = new([1 << 16]byte)
		}
		old[0] = byte(b.Step)
		return old, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	next := func() {
		v, err := l.Next()
		if err != nil {
			t.Fatal(err)
		}
		l.Recycle(v)
	}
	for range 100 {
		next()
	}
	before := fresh.Load()
	if n := testing.AllocsPerRun(2000, next); n >= 1 {
		t.Errorf("%v allocations a batch, want none", n)
	}
	if n := fresh.Load(); n > 8 || n-before > 2 {
		t.Errorf("%d batches in memory, %d of them late", n, n-before)
	}
}

func TestNewErrors(t *testing.T) {
	s := mustSampler(t, SamplerConfig{Sources: numbers(5), Batch: 1})
	for _, c := range []Config{{}, {Workers: -1}, {Workers: 1, Prefetch: -1}, {Workers: 1, MaxBad: -1}, {Workers: 1, MaxBadShare: -1}} {
		if _, err := New(t.Context(), s, c, slowly); err == nil {
			t.Errorf("New with %+v succeeded", c)
		}
	}
}

// Of many examples that can't be read, all are counted and a hundred are named.
func TestManyBadExamples(t *testing.T) {
	set := badSet{numberSet: 1000, bad: map[int]bool{}}
	for i := 0; i < 1000; i += 4 {
		set.bad[i] = true
	}
	s := mustSampler(t, SamplerConfig{Sources: sources(dataset.Whole(set)), Batch: 10, Seed: 8, Epochs: 2})
	l, err := New(t.Context(), s, Config{Workers: 2, MaxBad: 250}, names)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for err == nil {
		_, err = l.Next()
	}
	if n, first := l.Skipped(); err != io.EOF || n != 250 || len(first) != maxSkipped {
		t.Errorf("%d examples skipped, %d named, %v", n, len(first), err)
	}
}
