// Package survey walks data sets and says what is in them: how many examples,
// how long the captions and how large the pictures are, what can't be read and
// what occurs twice.
package survey

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"image/jpeg"
	"math"
	"slices"
	"sort"
	"sync"

	"vlmo-train/data/dataset"
	"vlmo-train/data/img"
	"vlmo-train/data/internal/spill"
	"vlmo-train/data/text"
)

// Options say how to walk a set.
type Options struct {
	// Tokenizer measures captions.
	Tokenizer *text.Tokenizer

	// Workers is the number of goroutines that read and decode, at least 1.
	Workers int

	// Duplicates looks for IDs, pictures and captions that occur twice. It takes 41
	// bytes of a temporary file for each of them.
	Duplicates bool

	// Samples is how many examples to keep, spread over the set as it is read.
	Samples int

	// Progress, if not nil, is told of the examples done, and of how many there
	// are, 0 where that is not known.
	Progress func(done, total int)
}

// Report is what is in a set.
type Report struct {
	Examples int `json:"examples"` // that could be read
	Shards   int `json:"shards"`   // files of a set in tar files, else 1

	Pictures  int `json:"pictures"`  // second pictures included
	Captions  int `json:"captions"`  //
	Keywords  int `json:"keywords"`  //
	Questions int `json:"questions"` //
	NoPicture int `json:"no_picture"`
	NoText    int `json:"no_text"` // neither caption nor question

	// Unreadable is the number of examples that can't be read, Errors what is
	// wrong with the first of them.
	Unreadable int      `json:"unreadable"`
	Errors     []string `json:"errors"`

	// Incomplete is the number of samples in tar files without picture or
	// caption, which are no examples, and AnIncomplete the name of one.
	Incomplete   int    `json:"incomplete"`
	AnIncomplete string `json:"an_incomplete,omitempty"`

	PerExample Spread `json:"captions_per_example"`
	Tokens     Spread `json:"tokens_per_caption"` // [CLS] and [SEP] not counted
	NoTokens   int    `json:"captions_without_tokens"`
	Width      Spread `json:"width"`
	Height     Spread `json:"height"`

	// Of what occurs twice; nil where it was not asked for.
	IDs          *Twice `json:"duplicate_ids,omitempty"`
	SamePictures *Twice `json:"duplicate_pictures,omitempty"`
	SameCaptions *Twice `json:"duplicate_captions,omitempty"`

	Samples []Sample `json:"-"`
}

// Spread describes a quantity that was measured N times.
type Spread struct {
	N      int     `json:"n"`
	Min    int     `json:"min"`
	Median int     `json:"median"`
	P95    int     `json:"p95"` // 95 % are not larger
	Max    int     `json:"max"`
	Mean   float64 `json:"mean"`
	Bins   []Bin   `json:"bins"`
}

// Bin counts the values from From to To, both included.
type Bin struct {
	From  int `json:"from"`
	To    int `json:"to"`
	Count int `json:"count"`
}

// Twice describes what occurs more than once.
type Twice struct {
	// Count is the number of occurrences after the first.
	Count int `json:"count"`
	// Pairs are the names of examples of equal content, up to twenty pairs.
	Pairs [][2]string `json:"pairs"`
}

// Sample is an example to be shown.
type Sample struct {
	ID       string
	Captions []string
	Width    int    // of the picture, 0 without one
	Height   int    //
	JPEG     []byte // a small copy of it
}

const (
	maxErrors = 100
	maxPairs  = 20
	sampleLen = 160 // longest edge of a sample's picture
	maxValue  = 1 << 16
)

// spread gathers a quantity; values of maxValue and above are counted as that.
type spread struct {
	n, max int
	sum    float64
	counts []int
}

func (s *spread) add(v int) {
	if s.counts == nil {
		s.counts = make([]int, maxValue+1)
	}
	s.n++
	s.sum += float64(v)
	s.max = max(s.max, v)
	s.counts[min(v, maxValue)]++
}

// result sums up, with at most n bins of the same width.
func (s *spread) result(n int) Spread {
	if s.n == 0 {
		return Spread{}
	}
	out := Spread{N: s.n, Min: -1, Median: -1, P95: -1, Max: s.max, Mean: s.sum / float64(s.n)}
	seen := 0
	for v, c := range s.counts {
		if c == 0 {
			continue
		}
		seen += c
		if out.Min < 0 {
			out.Min = v
		}
		if out.Median < 0 && 2*seen >= s.n {
			out.Median = v
		}
		if out.P95 < 0 && 20*seen >= 19*s.n {
			out.P95 = v
		}
	}
	// What is far beyond the rest goes into the last bin.
	top := min(s.max, maxValue, max(2*out.P95, out.Min+1))
	width := binWidth(float64(top-out.Min+1) / float64(n))
	first := out.Min / width * width
	for v, c := range s.counts {
		if c == 0 {
			continue
		}
		k := (min(v, top) - first) / width
		for len(out.Bins) <= k {
			from := first + len(out.Bins)*width
			out.Bins = append(out.Bins, Bin{From: from, To: from + width - 1})
		}
		out.Bins[k].Count += c
	}
	last := &out.Bins[len(out.Bins)-1]
	last.To = max(last.To, s.max)
	return out
}

// binWidth returns the smallest of 1, 2, 5, 10, 20, … that is not below x.
func binWidth(x float64) int {
	for w := 1; ; w *= 10 {
		for _, k := range []int{1, 2, 5} {
			if float64(k*w) >= x {
				return k * w
			}
		}
	}
}

// hash is 16 bytes of SHA-256, see [spill.Hash].
type hash [spill.HashLen]byte

func hashOf(b []byte) hash {
	s := sha256.Sum256(b)
	return hash(s[:])
}

// pictureHash is that of a decoded picture: files that differ in their metadata
// or their lossless encoding alone are equal.
func pictureHash(m *img.Image) hash {
	h := sha256.New()
	var size [16]byte
	binary.LittleEndian.PutUint64(size[:], uint64(m.W))
	binary.LittleEndian.PutUint64(size[8:], uint64(m.H))
	h.Write(size[:])
	h.Write(m.Pix)
	return hash(h.Sum(nil))
}

// twice finds hashes that occur again, but what has the name of the one before or of the
// first. They are not in memory.
type twice struct {
	sorter spill.Sorter // hash, number, name, example
	n      uint64
	rec    []byte
}

// add adds a hash of an example; name is 0 where it has none.
func (t *twice) add(h hash, name uint64, example int) error {
	t.rec = spill.Encode(append(t.rec[:0], h[:]...), t.n, name, uint64(example))
	t.n++
	return t.sorter.Add(t.rec)
}

// pair is two examples that have the same.
type pair struct {
	first, again int
	n            uint64 // the number that the second was added by
}

// result returns how many hashes were there before, and the first of them as pairs.
func (t *twice) result() (count int, pairs []pair, err error) {
	var first int
	var name, last uint64
	var v [3]uint64
	err = t.sorter.EachRun(len(hash{}), func(begins bool, rec []byte) error {
		if spill.Decode(rec, v[:]); begins {
			first, name, last = int(v[2]), v[1], v[1]
			return nil
		}
		if v[1] != 0 && (v[1] == name || v[1] == last) {
			return nil
		}
		last = v[1]
		count++
		if len(pairs) == maxPairs && v[0] > pairs[maxPairs-1].n {
			return nil
		}
		at, _ := slices.BinarySearchFunc(pairs, v[0], func(p pair, n uint64) int { return cmp.Compare(p.n, n) })
		pairs = slices.Insert(pairs[:min(len(pairs), maxPairs-1)], at, pair{first, int(v[2]), v[0]})
		return nil
	})
	return count, pairs, err
}

// facts are what is kept of an example that was read.
type facts struct {
	err      error
	id       hash
	pictures []hash
	names    []uint64 // what the pictures are known by; 0 where each is its own
	sizes    [][2]int
	captions []hash
	tokens   []int
	keywords int
	question bool
	sample   Sample
}

// chunk is how many examples are read before their facts are counted, in order.
const chunk = 256

// Set walks all of s. Examples that can't be read are counted; the error is
// about what makes it pointless to go on.
func Set(ctx context.Context, s dataset.Sharded, opt Options) (*Report, error) {
	if opt.Workers < 1 || opt.Tokenizer == nil {
		return nil, errors.New("survey: needs a worker and a tokenizer")
	}
	w := &walk{opt: opt, set: s, report: &Report{Shards: s.Shards(), Errors: []string{}}, every: 1}
	if d, ok := dataset.AsDataset(s); ok {
		w.total = d.Len()
	}
	w.resizers.New = func() any { return new(img.Resizer) }
	defer func() {
		for _, t := range []*twice{&w.ids, &w.pictures, &w.captions} {
			t.sorter.Close()
		}
	}()
	for k := range s.Shards() {
		if err := w.shard(ctx, k); err != nil {
			return nil, err
		}
	}
	if w.done == 0 {
		return nil, dataset.NoExamples(s)
	}
	return w.finish(ctx)
}

type walk struct {
	opt      Options
	set      dataset.Sharded
	report   *Report
	total    int
	done     int
	starts   []int // number of each shard's first example
	resizers sync.Pool

	perExample, tokens, width, height spread
	ids, pictures, captions           twice

	every   int // one in so many examples is a sample
	samples []Sample
}

func (w *walk) shard(ctx context.Context, k int) error {
	d, err := w.set.Shard(ctx, k)
	if err != nil {
		return err
	}
	defer d.Close()
	w.starts = append(w.starts, w.done)
	list := make([]facts, chunk)
	for lo := 0; lo < d.Len(); lo += chunk {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(chunk, d.Len()-lo)
		var wg sync.WaitGroup
		next := make(chan int)
		for range min(w.opt.Workers, n) {
			wg.Go(func() {
				for i := range next {
					list[i] = w.read(d, lo+i, w.isSample(w.done+i))
				}
			})
		}
		for i := range n {
			next <- i
		}
		close(next)
		wg.Wait()
		for i := range n {
			if err := w.count(&list[i]); err != nil {
				return fmt.Errorf("survey: %w", err)
			}
		}
		if w.opt.Progress != nil {
			w.opt.Progress(w.done, w.total)
		}
	}
	return nil
}

// isSample reports whether an example is to be kept for now.
func (w *walk) isSample(n int) bool { return w.opt.Samples > 0 && n%w.every == 0 }

// read reads an example.
func (w *walk) read(d dataset.Dataset, i int, sample bool) (f facts) {
	e, err := d.Example(i)
	if err != nil {
		return facts{err: err}
	}
	f.id = hashOf([]byte(e.ID))
	f.keywords = len(e.Keywords)
	texts := e.Captions
	if f.question = e.Question != nil; f.question {
		texts = append(slices.Clip(texts), e.Question.Text)
	}
	for _, c := range texts {
		f.tokens = append(f.tokens, len(w.opt.Tokenizer.Encode(c)))
		if w.opt.Duplicates {
			f.captions = append(f.captions, hashOf([]byte(c)))
		}
	}
	for k, m := range []*img.Image{e.Image, e.Image2} {
		if m == nil {
			continue
		}
		f.sizes = append(f.sizes, [2]int{m.W, m.H})
		if w.opt.Duplicates {
			f.pictures = append(f.pictures, pictureHash(m))
			// Questions share their picture.
			if f.names = append(f.names, 0); f.question && e.ImageID != "" {
				f.names[len(f.names)-1], _ = spill.Hash(fmt.Append(nil, k, e.ImageID))
			}
		}
	}
	if sample {
		f.sample = Sample{ID: e.ID, Captions: texts}
		if m := e.Image; m != nil {
			f.sample.Width, f.sample.Height = m.W, m.H
			f.sample.JPEG, f.err = w.small(m)
		}
	}
	return f
}

// small returns a JPEG file of m, shrunk.
func (w *walk) small(m *img.Image) ([]byte, error) {
	scale := min(1, sampleLen/float64(max(m.W, m.H)))
	size := func(n int) int { return max(1, int(math.Round(scale*float64(n)))) }
	out := img.New(size(m.W), size(m.H))
	r := w.resizers.Get().(*img.Resizer)
	defer w.resizers.Put(r)
	if err := r.Resize(out, m, img.Box{X1: float32(m.W), Y1: float32(m.H)}); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err := jpeg.Encode(&b, rgb{out}, &jpeg.Options{Quality: 85})
	return b.Bytes(), err
}

// count takes up what was read of the next example.
func (w *walk) count(f *facts) error {
	r, n := w.report, w.done
	w.done++
	if f.err != nil {
		r.Unreadable++
		if len(r.Errors) < maxErrors {
			r.Errors = append(r.Errors, f.err.Error())
		}
		return nil
	}
	r.Examples++
	r.Pictures += len(f.sizes)
	r.Keywords += f.keywords
	captions := len(f.tokens)
	if f.question {
		r.Questions++
		captions--
	}
	r.Captions += captions
	if len(f.sizes) == 0 {
		r.NoPicture++
	}
	if len(f.tokens) == 0 {
		r.NoText++
	}
	w.perExample.add(captions)
	for _, t := range f.tokens {
		w.tokens.add(t)
		if t == 0 {
			r.NoTokens++
		}
	}
	for _, s := range f.sizes {
		w.width.add(s[0])
		w.height.add(s[1])
	}
	if w.opt.Duplicates {
		err := w.ids.add(f.id, 0, n)
		for k, h := range f.pictures {
			err = errors.Join(err, w.pictures.add(h, f.names[k], n))
		}
		for _, h := range f.captions {
			err = errors.Join(err, w.captions.add(h, 0, n))
		}
		if err != nil {
			return err
		}
	}
	if w.isSample(n) {
		w.samples = append(w.samples, f.sample)
		// Every other goes when there are twice as many as wanted.
		if len(w.samples) == 2*w.opt.Samples {
			for i := range w.opt.Samples {
				w.samples[i] = w.samples[2*i]
			}
			w.samples = w.samples[:w.opt.Samples]
			w.every *= 2
		}
	}
	return nil
}

func (w *walk) finish(ctx context.Context) (*Report, error) {
	r := w.report
	r.Incomplete, r.AnIncomplete = dataset.Incomplete(w.set)
	r.PerExample, r.Tokens = w.perExample.result(20), w.tokens.result(40)
	r.Width, r.Height = w.width.result(20), w.height.result(20)
	// Spread over all of them.
	if n := len(w.samples); n > w.opt.Samples {
		for i := range w.opt.Samples {
			w.samples[i] = w.samples[i*n/w.opt.Samples]
		}
		w.samples = w.samples[:w.opt.Samples]
	}
	r.Samples = w.samples
	if !w.opt.Duplicates {
		return r, nil
	}
	var all []pair
	results := []struct {
		found *twice
		to    **Twice
		pairs []pair
	}{{&w.ids, &r.IDs, nil}, {&w.pictures, &r.SamePictures, nil}, {&w.captions, &r.SameCaptions, nil}}
	for i := range results {
		x := &results[i]
		count, pairs, err := x.found.result()
		if err != nil {
			return nil, fmt.Errorf("survey: %w", err)
		}
		*x.to, x.pairs = &Twice{Count: count, Pairs: [][2]string{}}, pairs
		all = append(all, pairs...)
	}
	names, err := w.names(ctx, all)
	if err != nil {
		return nil, err
	}
	for _, x := range results {
		for _, p := range x.pairs {
			(*x.to).Pairs = append((*x.to).Pairs, [2]string{names[p.first], names[p.again]})
		}
	}
	return r, nil
}

// names reads the IDs of examples again, by their numbers.
func (w *walk) names(ctx context.Context, pairs []pair) (map[int]string, error) {
	var wanted []int
	for _, p := range pairs {
		wanted = append(wanted, p.first, p.again)
	}
	slices.Sort(wanted)
	wanted = slices.Compact(wanted)
	names := make(map[int]string)
	var d dataset.Shard
	open := -1
	for _, n := range wanted {
		k := sort.SearchInts(w.starts, n+1) - 1
		if k != open {
			if d != nil {
				d.Close()
			}
			var err error
			if d, err = w.set.Shard(ctx, k); err != nil {
				return nil, err
			}
			open = k
		}
		e, err := dataset.Words(d, n-w.starts[k])
		if err != nil {
			e.ID = fmt.Sprintf("example %d", n)
		}
		names[n] = e.ID
	}
	if d != nil {
		d.Close()
	}
	return names, nil
}
