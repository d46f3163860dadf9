package train

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"vlmo-train/data/dataset"
	"vlmo-train/data/img"
	"vlmo-train/data/loader"
	"vlmo-train/data/text"
	"vlmo-train/engine"
	"vlmo-train/vlmo"
)

// EmbedOptions say what [Run.Embed] writes, and where.
type EmbedOptions struct {
	// Out is the folder of the result.
	Out string

	// Images and Texts choose what is embedded. If neither is set, it is what
	// the set has.
	Images, Texts bool

	// Batch is how many pictures or captions go through the model at a time, at
	// least 1. As many more pictures are held ready.
	Batch int

	// Progress, if not nil, is told of the examples done, and of how many there
	// are, 0 where that is not known.
	Progress func(done, total int)
}

// Embedded is what [Run.Embed] wrote.
type Embedded struct {
	Images, Texts int // rows of the files
	Dim           int

	// Unreadable is the number of examples that can't be read and have no rows,
	// Errors what is wrong with the first of them.
	Unreadable int
	Errors     []string

	// Incomplete is the number of samples of tar files that lack a picture or a
	// caption and were left out, and AnIncomplete the name of one.
	Incomplete   int
	AnIncomplete string
}

// maxErrors is how many unreadable examples are named.
const maxErrors = 20

// Embed writes the dual encoder's features of the sets in data.test, by the
// weights at path (see [Run.Restore]), to the folder opt.Out: images.npy and
// texts.npy, [n, dim] float32 of unit length, with images.jsonl and texts.jsonl,
// which say in a line a row what the row is of. Rows are in the order of the set;
// a picture's features are those of the whole picture, and each caption has a
// row. Memory does not depend on the number of examples.
//
// The files have their names when all are whole. When ctx ends before, the error
// wraps ErrInterrupted, and as after any other error none is left. Unreadable
// examples are left out and counted, but with r.Strict the first is an error.
// Reads that fail or hang are tried again as in training. A folder that has
// features already is refused.
func (r *Run) Embed(ctx context.Context, path string, opt EmbedOptions) (*Embedded, error) {
	if len(r.Config.Data.Test) == 0 {
		return nil, errors.New("train: data.test is empty: nothing to embed")
	}
	if err := opt.check(); err != nil {
		return nil, err
	}
	if err := r.openVocabulary(); err != nil {
		return nil, err
	}
	all, err := openSets("data.test", r.Config.Data.Test)
	if err != nil {
		return nil, err
	}
	if all.weighted() {
		return nil, errors.New("train: data.test: sets with weights are a mixture without an end; leave the weights out to embed them")
	}
	m, err := r.Restore(path)
	if err != nil {
		return nil, err
	}
	defer m.Store.Close()
	return r.embedSet(ctx, m, all[0].Set, opt)
}

// check says what is wrong with the options, or that the folder is taken.
func (o *EmbedOptions) check() error {
	if o.Out == "" || o.Batch < 1 {
		return fmt.Errorf("train: embedding to folder %q in batches of %d", o.Out, o.Batch)
	}
	for _, name := range []string{"images.npy", "texts.npy"} {
		path := filepath.Join(o.Out, name)
		if _, err := os.Lstat(path); err == nil {
			return fmt.Errorf("train: %s exists already: choose another folder", path)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("train: %w", err)
		}
	}
	return nil
}

// embedSet is Embed of a set by a model.
func (r *Run) embedSet(ctx context.Context, m *vlmo.Model, set dataset.Sharded, opt EmbedOptions) (res *Embedded, err error) {
	defer func(on bool) { m.PackWeights = on }(m.PackWeights)
	m.PackWeights = true
	e := &embedder{m: m, s: engine.NewStep(r.Dev, r.Config.Seed), batch: opt.Batch, features: make([]float32, opt.Batch*m.Dim)}
	defer e.s.Arena.Close()
	either := opt.Images || opt.Texts
	in := sampleReader{set: set, tok: r.tok, size: m.ImageSize, maxText: m.MaxText, images: opt.Images || !either, texts: opt.Texts || !either}
	if !in.images {
		in.set = dataset.TextsOf(set)
	}
	if err := os.MkdirAll(opt.Out, 0o777); err != nil {
		return nil, fmt.Errorf("train: %w", err)
	}
	var tables []*table
	defer func() {
		for _, t := range tables {
			err = errors.Join(err, t.discard())
		}
		if err != nil {
			res = nil
		}
	}()
	open := func(kind string) (*table, error) {
		t := &table{kind: kind, dim: m.Dim}
		tables = append(tables, t)
		return t, t.create(opt.Out)
	}
	if in.images {
		if e.images, err = open("images"); err != nil {
			return nil, err
		}
	}
	if in.texts {
		if e.texts, err = open("texts"); err != nil {
			return nil, err
		}
	}

	res = &Embedded{Dim: m.Dim, Errors: []string{}}
	done, total := 0, 0
	if d, ok := dataset.AsDataset(set); ok {
		total = d.Len()
	}
	progress := func() {
		if opt.Progress != nil {
			opt.Progress(done, total)
		}
	}
	next, stop := in.start(ctx, r.workers(), max(opt.Batch, r.workers()))
	defer stop()
	for {
		x, err := next()
		if err == nil && x == nil {
			break
		}
		if err == nil {
			done++
			err = x.err
		}
		var bad *dataset.BadExampleError
		switch {
		case ctx.Err() != nil:
			return nil, fmt.Errorf("%w after %d examples; nothing is kept of them, start again", ErrInterrupted, done)
		case errors.As(err, &bad) && !r.Strict:
			if res.Unreadable++; len(res.Errors) < maxErrors {
				res.Errors = append(res.Errors, err.Error())
			}
		case err != nil:
			return nil, fmt.Errorf("train: %w", err)
		default:
			flushed, err := e.add(x)
			if err != nil {
				return nil, err
			}
			if flushed {
				progress()
			}
		}
		in.recycle(x)
	}
	if err := e.flush(); err != nil {
		return nil, err
	}
	progress()
	res.Incomplete, res.AnIncomplete = dataset.Incomplete(set)
	if done == 0 {
		return nil, dataset.NoExamples(set)
	}
	for _, t := range tables {
		if t.rows == 0 && either {
			return nil, fmt.Errorf("train: no %s among %d examples, of which %d can't be read", t.kind, done, res.Unreadable)
		}
	}
	tables = slices.DeleteFunc(tables, func(t *table) bool {
		if t.rows > 0 {
			return false
		}
		err = errors.Join(err, t.discard())
		return true
	})
	if err == nil && len(tables) == 0 {
		err = fmt.Errorf("train: neither pictures nor captions among %d examples, of which %d can't be read", done, res.Unreadable)
	}
	if err != nil {
		return nil, err
	}
	if err := publish(opt.Out, tables); err != nil {
		return nil, err
	}
	for _, t := range tables {
		switch t {
		case e.images:
			res.Images = t.rows
		case e.texts:
			res.Texts = t.rows
		}
	}
	return res, nil
}

// embedder gathers pictures and captions to batches and writes their features.
type embedder struct {
	m             *vlmo.Model
	s             *engine.Step
	batch         int
	images, texts *table // nil where not wanted
	pixels        []byte // of the pictures to come, in planes
	ids           []vlmo.Text
	features      []float32
}

// imageLine says what a row of images.npy is of.
type imageLine struct {
	ID      string `json:"id"`
	ImageID string `json:"image_id,omitempty"`
	Second  bool   `json:"second,omitempty"` // the second of a pair of pictures
}

// textLine says what a row of texts.npy is of.
type textLine struct {
	ID      string `json:"id"`
	ImageID string `json:"image_id,omitempty"`
	// Image is the row of the caption's picture in images.npy, the first of a
	// pair; nil where there is none.
	Image *int   `json:"image,omitempty"`
	Text  string `json:"text"`
}

// add takes up an example and reports whether it ran the model.
func (e *embedder) add(x *sample) (ran bool, err error) {
	px := 3 * e.m.ImageSize * e.m.ImageSize
	var image *int
	if x.pictures > 0 {
		row := e.images.rows
		image = &row
	}
	for k := range x.pictures {
		if err := e.images.line(imageLine{x.id, x.imageID, k > 0}); err != nil {
			return ran, err
		}
		e.pixels = append(e.pixels, x.pixels[k*px:(k+1)*px]...)
		if len(e.pixels) == e.batch*px {
			if err := e.flushImages(); err != nil {
				return ran, err
			}
			ran = true
		}
	}
	for k, c := range x.captions {
		if err := e.texts.line(textLine{x.id, x.imageID, image, c}); err != nil {
			return ran, err
		}
		e.ids = append(e.ids, x.ids[k])
		if len(e.ids) == e.batch {
			if err := e.flushTexts(); err != nil {
				return ran, err
			}
			ran = true
		}
	}
	return ran, nil
}

func (e *embedder) flush() error { return errors.Join(e.flushImages(), e.flushTexts()) }

func (e *embedder) flushImages() error {
	if len(e.pixels) == 0 {
		return nil
	}
	dst := e.features[:len(e.pixels)/(3*e.m.ImageSize*e.m.ImageSize)*e.m.Dim]
	if err := imageFeatures(e.s, e.m, dst, e.pixels); err != nil {
		return err
	}
	e.pixels = e.pixels[:0]
	return e.images.write(dst)
}

func (e *embedder) flushTexts() error {
	if len(e.ids) == 0 {
		return nil
	}
	dst := e.features[:len(e.ids)*e.m.Dim]
	if err := textFeatures(e.s, e.m, dst, e.ids); err != nil {
		return err
	}
	clear(e.ids)
	e.ids = e.ids[:0]
	return e.texts.write(dst)
}

// sample is what the model needs of one example.
type sample struct {
	ready chan struct{} // receives one value when the rest is filled in
	err   error

	id, imageID string
	pictures    int    // 0, 1 or 2
	pixels      []byte // [pictures, 3, size, size]
	captions    []string
	ids         []vlmo.Text // of the captions
}

// sampleReader reads a set in its order, with several goroutines.
type sampleReader struct {
	set           dataset.Sharded
	tok           *text.Tokenizer
	size, maxText int
	images, texts bool

	free     sync.Pool // of *sample
	pictures sync.Pool // of *pictureScratch
}

type pictureScratch struct {
	resizer img.Resizer
	picture *img.Image
}

// readTask is a sample to be filled in from example i of a shard.
type readTask struct {
	x     *sample
	shard *loader.Part
	i     int
	open  *sync.WaitGroup // of the shard
}

// start starts to read up to ahead samples ahead, with the given number of
// workers. next returns one after the other, nil after the last; stop, which must
// be called, waits for what is being read.
func (r *sampleReader) start(ctx context.Context, workers, ahead int) (next func() (*sample, error), stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	queue, work := make(chan *sample, ahead), make(chan readTask)
	var wait sync.WaitGroup
	var failed error // valid when queue is closed
	wait.Go(func() {
		defer close(queue)
		defer close(work)
		for k := range r.set.Shards() {
			if failed = r.shard(ctx, k, queue, work, &wait); failed != nil {
				return
			}
		}
	})
	for range workers {
		wait.Go(func() {
			in := loader.NewReader(loader.Patience{})
			defer in.Close()
			for t := range work {
				r.read(ctx, in, &t)
				t.x.ready <- struct{}{}
				t.open.Done()
			}
		})
	}
	next = func() (*sample, error) {
		select {
		case x, ok := <-queue:
			if !ok {
				return nil, failed
			}
			select {
			case <-x.ready:
				return x, nil
			case <-ctx.Done():
			}
		case <-ctx.Done():
		}
		return nil, context.Cause(ctx)
	}
	return next, func() {
		cancel()
		wait.Wait()
	}
}

// shard puts the samples of shard k into the queue and has them read. The shard
// is closed when all of them are.
func (r *sampleReader) shard(ctx context.Context, k int, queue chan<- *sample, work chan<- readTask, wait *sync.WaitGroup) error {
	d, err := loader.Patience{}.Open(ctx, r.set, k)
	if err != nil {
		return err
	}
	open := new(sync.WaitGroup)
	defer wait.Go(func() {
		open.Wait()
		d.Close()
	})
	for i := range d.Len() {
		x, ok := r.free.Get().(*sample)
		if !ok {
			x = &sample{ready: make(chan struct{}, 1)}
		}
		select {
		case queue <- x: // blocks while enough is ahead
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		open.Add(1)
		work <- readTask{x, d, i, open} // workers wait for nobody
	}
	return nil
}

// recycle gives back a sample that nobody uses any more.
func (r *sampleReader) recycle(x *sample) { r.free.Put(x) }

// read fills in the sample of a task.
func (r *sampleReader) read(ctx context.Context, in *loader.Reader, t *readTask) {
	x := t.x
	*x = sample{ready: x.ready, pixels: x.pixels[:0], ids: x.ids[:0]}
	e, err := in.Read(ctx, t.shard, t.i)
	if err != nil {
		x.err = err
		return
	}
	bad := func(err error) error { return &dataset.BadExampleError{Index: t.i, ID: e.ID, Path: e.ID, Err: err} }
	x.id, x.imageID = e.ID, e.ImageID
	if r.images {
		for _, from := range []*img.Image{e.Image, e.Image2} {
			if from == nil {
				continue
			}
			if err := r.picture(x, from); err != nil {
				x.err = bad(err)
				return
			}
		}
	}
	if r.texts {
		x.captions = e.Captions
		for _, c := range e.Captions {
			ids := r.tok.EncodeSpecial(c, r.maxText)
			if len(ids) <= 2 {
				x.err = bad(fmt.Errorf("caption %q has no tokens", c))
				return
			}
			x.ids = append(x.ids, ids)
		}
	}
}

// picture appends the pixels of a picture to x, as evaluation has them.
func (r *sampleReader) picture(x *sample, from *img.Image) error {
	s, ok := r.pictures.Get().(*pictureScratch)
	if !ok {
		s = &pictureScratch{picture: img.New(r.size, r.size)}
	}
	defer r.pictures.Put(s)
	if err := s.resizer.Resize(s.picture, from, img.Box{X1: float32(from.W), Y1: float32(from.H)}); err != nil {
		return err
	}
	px := 3 * r.size * r.size
	x.pixels = slices.Grow(x.pixels, px)[:len(x.pixels)+px]
	x.pictures++
	return img.Planes(x.pixels[len(x.pixels)-px:], s.picture)
}

// table is features, a row each, and lines of JSON that say what a row is of.
type table struct {
	kind      string // images or texts
	dim       int
	rows      int // lines written; features follow
	npy, list *newFile
	json      *json.Encoder
}

// create begins the files of t.
func (t *table) create(dir string) (err error) {
	if t.list, err = createFile(filepath.Join(dir, t.kind+".jsonl")); err != nil {
		return err
	}
	t.json = json.NewEncoder(t.list.w)
	t.json.SetEscapeHTML(false)
	if t.npy, err = createFile(filepath.Join(dir, t.kind+".npy")); err != nil {
		return err
	}
	return t.npy.did(t.npy.w.Write(npyHeader(0, t.dim)))
}

// line begins a row with what it is of.
func (t *table) line(v any) error {
	t.rows++
	return t.list.did(0, t.json.Encode(v))
}

// write writes the features of some rows.
func (t *table) write(v []float32) error {
	return t.npy.did(0, binary.Write(t.npy.w, binary.LittleEndian, v))
}

// finish writes the number of rows and makes both files durable, still under
// temporary names.
func (t *table) finish() error {
	if err := t.list.finish(); err != nil {
		return err
	}
	if err := t.npy.did(0, t.npy.w.Flush()); err != nil {
		return err
	}
	if err := t.npy.did(t.npy.f.WriteAt(npyHeader(t.rows, t.dim), 0)); err != nil {
		return err
	}
	return t.npy.finish()
}

// discard removes what has no name yet.
func (t *table) discard() error { return errors.Join(t.list.discard(), t.npy.discard()) }

// publish gives the files of tables their names, features last: where they are,
// their lines are.
func publish(dir string, tables []*table) error {
	var files []*newFile
	for _, t := range tables {
		if err := t.finish(); err != nil {
			return err
		}
		files = append(files, t.list)
	}
	for _, t := range tables {
		files = append(files, t.npy)
	}
	for _, f := range files {
		if err := f.publish(); err != nil {
			return err
		}
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("train: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("train: %s: %w", dir, err)
	}
	return nil
}

// npyHeader returns the header of a file in NumPy's format 1.0 of a float32
// matrix. It always has npyHeaderLen bytes, so that the number of rows can be
// written when it is known. Source: NumPy's manual, numpy.lib.format.
func npyHeader(rows, dim int) []byte {
	b := []byte("\x93NUMPY\x01\x00")
	b = binary.LittleEndian.AppendUint16(b, npyHeaderLen-10)
	b = fmt.Appendf(b, "{'descr': '<f4', 'fortran_order': False, 'shape': (%d, %d), }", rows, dim)
	return append(b, strings.Repeat(" ", npyHeaderLen-1-len(b))+"\n"...)
}

// npyHeaderLen is a multiple of 64 that has room for two numbers of 19 digits.
const npyHeaderLen = 128

// newFile is a file that gets its name when it is whole.
type newFile struct {
	path string
	f    *os.File // nil when it is closed
	w    *bufio.Writer
	left bool // the temporary file is there
}

func createFile(path string) (*newFile, error) {
	f, err := os.Create(path + ".tmp")
	if err != nil {
		return nil, fmt.Errorf("train: %w", err)
	}
	return &newFile{path: path, f: f, w: bufio.NewWriterSize(f, 1<<16), left: true}, nil
}

// did returns the error of a write with the file's name.
func (n *newFile) did(_ int, err error) error {
	if err != nil {
		return fmt.Errorf("train: %s: %w", n.path, err)
	}
	return nil
}

// finish makes the content durable.
func (n *newFile) finish() error {
	err := n.w.Flush()
	if err == nil {
		err = n.f.Sync()
	}
	err = errors.Join(err, n.f.Close())
	n.f = nil
	return n.did(0, err)
}

func (n *newFile) publish() error {
	err := os.Rename(n.path+".tmp", n.path)
	n.left = n.left && err != nil
	return n.did(0, err)
}

// discard removes the file unless it has its name. n may be nil.
func (n *newFile) discard() error {
	if n == nil {
		return nil
	}
	if n.f != nil {
		n.f.Close() // its content is of no use
		n.f = nil
	}
	if !n.left {
		return nil
	}
	n.left = false
	return n.did(0, os.Remove(n.path+".tmp"))
}
