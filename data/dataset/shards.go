package dataset

import (
	"context"
	"fmt"
	"io"
	"sort"
	"sync"
)

// Sharded is a set in parts that are opened when their turn comes, so that it
// may be of any size and nobody needs to know how many examples it has. Its
// methods are safe for concurrent use.
type Sharded interface {
	// Shards returns the number of shards, at least 1.
	Shards() int

	// Shard opens shard k, 0 <= k < Shards(). The caller closes it. An error
	// names the file; it is an error of the file system, since what is wrong
	// with a shard's content is an example that can't be read.
	Shard(ctx context.Context, k int) (Shard, error)
}

// Shard is an open part of a set. Its Len may be 0. Its examples can be read
// until Close.
type Shard interface {
	Dataset
	io.Closer
}

// Name names example i of d without reading anything, for messages about files
// that do not answer.
func Name(d Dataset, i int) string {
	switch d := d.(type) {
	case namer:
		return d.name(i)
	case recorder:
		return fmt.Sprintf("example %d of %s", i, d.where(i))
	case *JSONL:
		return fmt.Sprintf("example %d of %s", i, d.f.Name())
	case *Lines:
		return d.Group(i)
	}
	return fmt.Sprintf("example %d", i)
}

// ShardName names shard k of s without opening it, likewise.
func ShardName(s Sharded, k int) string {
	switch s := s.(type) {
	case *WebDataset:
		return s.paths[k]
	case textShards:
		return ShardName(s.Sharded, k)
	case *shardList:
		set, k := s.find(k)
		return ShardName(set, k)
	}
	return fmt.Sprintf("shard %d of %d", k+1, s.Shards())
}

// namer is a Dataset that knows the names of its examples by heart.
type namer interface{ name(i int) string }

// Whole returns d as a set of one shard. Close of the shard does nothing.
func Whole(d Dataset) Sharded { return whole{d} }

type whole struct{ d Dataset }

type openShard struct{ Dataset }

func (s openShard) ReadWords(i int) (Example, error) { return Words(s.Dataset, i) }
func (s openShard) Close() error                     { return nil }
func (s openShard) name(i int) string                { return Name(s.Dataset, i) }

func (w whole) Shards() int                               { return 1 }
func (w whole) Shard(context.Context, int) (Shard, error) { return openShard{w.d}, nil }

// AsDataset returns the Dataset that s was made of by [Whole] or [Join]; false
// where s has shards that would have to be opened to count their examples.
func AsDataset(s Sharded) (Dataset, bool) {
	w, ok := s.(whole)
	return w.d, ok
}

// partLen is about how many examples are in the parts of a set that Join makes
// where other sets have shards.
const partLen = 5000

// Join returns the sets one after the other as one. If each is a whole, so is
// the result; otherwise a whole set becomes parts of a few thousand examples,
// taken from all over it, so that they mix with the shards of the others.
func Join(sets ...Sharded) Sharded {
	if len(sets) == 1 {
		return sets[0]
	}
	var all joined
	for _, s := range sets {
		d, ok := AsDataset(s)
		if !ok {
			return joinShards(sets)
		}
		all.add(d)
	}
	return whole{&all}
}

// joined is several sets one after the other.
type joined struct {
	sets   []Dataset
	starts []int // the end of each set
}

func (j *joined) add(d Dataset) {
	j.sets = append(j.sets, d)
	j.starts = append(j.starts, j.Len()+d.Len())
}

func (j *joined) Len() int {
	if len(j.starts) == 0 {
		return 0
	}
	return j.starts[len(j.starts)-1]
}

// find returns the set that example i is in, and its number there.
func (j *joined) find(i int) (Dataset, int) {
	k := sort.SearchInts(j.starts, i+1)
	if k > 0 {
		i -= j.starts[k-1]
	}
	return j.sets[k], i
}

func (j *joined) Example(i int) (Example, error) {
	if err := checkIndex(i, j.Len()); err != nil {
		return Example{}, err
	}
	d, k := j.find(i)
	return d.Example(k)
}

func (j *joined) ReadWords(i int) (Example, error) {
	if err := checkIndex(i, j.Len()); err != nil {
		return Example{}, err
	}
	d, k := j.find(i)
	return Words(d, k)
}

func (j *joined) Group(i int) string {
	d, k := j.find(i)
	return d.Group(k)
}

func (j *joined) name(i int) string {
	d, k := j.find(i)
	return Name(d, k)
}

// shardList is the shards of several sets.
type shardList struct {
	sets   []Sharded
	starts []int // the end of each set's shards
}

func joinShards(sets []Sharded) Sharded {
	l := &shardList{sets: sets}
	n := 0
	for i, s := range sets {
		if d, ok := AsDataset(s); ok {
			l.sets[i] = parts{d, (d.Len() + partLen - 1) / partLen}
		}
		n += l.sets[i].Shards()
		l.starts = append(l.starts, n)
	}
	return l
}

func (l *shardList) Shards() int { return l.starts[len(l.starts)-1] }

func (l *shardList) Shard(ctx context.Context, k int) (Shard, error) {
	if err := checkIndex(k, l.Shards()); err != nil {
		return nil, err
	}
	set, k := l.find(k)
	return set.Shard(ctx, k)
}

// find returns the set that shard k is of, and its number there.
func (l *shardList) find(k int) (Sharded, int) {
	s := sort.SearchInts(l.starts, k+1)
	if s > 0 {
		k -= l.starts[s-1]
	}
	return l.sets[s], k
}

// parts is a set dealt into n shards: shard k has the examples k, k+n, k+2n, …
type parts struct {
	d Dataset
	n int
}

func (p parts) Shards() int { return p.n }

func (p parts) Shard(_ context.Context, k int) (Shard, error) { return part{p.d, p.n, k}, nil }

type part struct {
	d    Dataset
	n, k int
}

func (p part) Len() int                         { return (p.d.Len() - p.k + p.n - 1) / p.n }
func (p part) Example(i int) (Example, error)   { return p.d.Example(p.k + i*p.n) }
func (p part) ReadWords(i int) (Example, error) { return Words(p.d, p.k+i*p.n) }
func (p part) Group(i int) string               { return p.d.Group(p.k + i*p.n) }
func (p part) Close() error                     { return nil }
func (p part) name(i int) string                { return Name(p.d, p.k+i*p.n) }

// TextsOf returns s as a set of texts: its examples without their pictures,
// which are not decoded where the set is a [Worder].
func TextsOf(s Sharded) Sharded {
	if d, ok := AsDataset(s); ok {
		return whole{wordsOf{d}}
	}
	return textShards{s}
}

type wordsOf struct{ Dataset }

func (w wordsOf) Example(i int) (Example, error)   { return Words(w.Dataset, i) }
func (w wordsOf) ReadWords(i int) (Example, error) { return Words(w.Dataset, i) }

func (w wordsOf) name(i int) string { return Name(w.Dataset, i) }

type textShards struct{ Sharded }

func (t textShards) Shard(ctx context.Context, k int) (Shard, error) {
	s, err := t.Sharded.Shard(ctx, k)
	if err != nil {
		return nil, err
	}
	return textShard{wordsOf{s}, s}, nil
}

type textShard struct {
	wordsOf
	io.Closer
}

// Incomplete returns how many samples of tar files in s were left out so far for
// want of a picture or a caption, see [WebDataset], or examples of raw sets for want of
// a picture, and the name of one.
func Incomplete(s Sharded) (n int, name string) {
	switch s := s.(type) {
	case whole:
		return incomplete(s.d)
	case parts:
		return incomplete(s.d)
	case *WebDataset:
		return s.Incomplete()
	case textShards:
		return Incomplete(s.Sharded)
	case *shardList:
		for _, set := range s.sets {
			more, first := Incomplete(set)
			if n += more; name == "" {
				name = first
			}
		}
	}
	return n, name
}

func incomplete(d Dataset) (n int, name string) {
	switch d := d.(type) {
	case interface{ Incomplete() (int, string) }:
		return d.Incomplete()
	case wordsOf:
		return incomplete(d.Dataset)
	case *joined:
		for _, set := range d.sets {
			more, first := incomplete(set)
			if n += more; name == "" {
				name = first
			}
		}
	}
	return n, name
}

// NoExamples returns the error for a set whose shards were all opened and have no
// example.
func NoExamples(s Sharded) error {
	if n, name := Incomplete(s); n > 0 {
		return fmt.Errorf("dataset: no examples in a set of %d files: %d samples lack a picture or a caption, such as %s; the set's columns say which members these are", s.Shards(), n, name)
	}
	return fmt.Errorf("dataset: no examples in a set of %d files", s.Shards())
}

// Index opens every shard of s, several at a time, and returns all examples as
// one set, which keeps the shards open until it is closed: for test sets and
// others that are small.
func Index(ctx context.Context, s Sharded) (_ Shard, err error) {
	if d, ok := AsDataset(s); ok {
		return openShard{d}, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	const openers = 8
	list := make([]Shard, s.Shards())
	var wg sync.WaitGroup
	var mu sync.Mutex
	next := 0
	for range min(openers, len(list)) {
		wg.Go(func() {
			for {
				mu.Lock()
				k := next
				next++
				stop := err != nil || k >= len(list)
				mu.Unlock()
				if stop {
					return
				}
				d, e := s.Shard(ctx, k)
				mu.Lock()
				list[k] = d
				if e != nil && err == nil {
					err = e
					cancel()
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	out := &indexed{}
	for _, d := range list {
		if d != nil {
			out.add(d)
			out.shards = append(out.shards, d)
		}
	}
	if err != nil {
		out.Close()
		return nil, err
	}
	return out, nil
}

type indexed struct {
	joined
	shards []Shard
}

func (x *indexed) Close() error {
	var first error
	for _, d := range x.shards {
		if err := d.Close(); err != nil && first == nil {
			first = err
		}
	}
	return first
}
