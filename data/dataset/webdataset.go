package dataset

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/klauspost/compress/zstd"

	"vlmo-train/data/dataset/internal/tarfile"
	"vlmo-train/data/img"
	"vlmo-train/data/internal/spill"
)

// FormatWebDataset is the format of tar files, see [WebDataset].
const FormatWebDataset Format = "webdataset"

// WebDataset is a set in tar files (shards), as the webdataset library writes
// and img2dataset and open_clip use them. Adjacent members whose names are equal
// up to the first dot of the base name are a sample: 000123.jpg, 000123.txt,
// 000123.json. Of the rest of the name, the extension, see [Options].Columns:
//
//   - Image: extensions of the picture, "jpg;png" in order of preference; left
//     out, any of jpg, jpeg, png, webp, gif, bmp
//   - Captions: extensions of the captions; left out, the first there is of txt,
//     caption, text and json. A text is one caption. Of JSON it is the value of
//     "caption", "captions" or "text", a string or a list of strings;
//     "json:title" names another key. ["none"] takes samples without caption.
//   - Group: extension of a text that names the group, such as cls
//   - Keywords: an extension, as for Captions
//
// Samples without picture or caption are left out and counted. An example's ID
// is the shard's path, a slash and the key.
//
// Opening a shard reads the tar headers alone and examples are then read at
// random, each with one read. Shards that are compressed by gzip or ZSTD, by
// whatever name, are unpacked to a temporary file, gone when the shard is closed. What is
// wrong with a shard's structure, such as a cut off end, is one example that
// can't be read, after the whole ones.
type WebDataset struct {
	paths  []string
	fields wdFields
	decode img.Options

	mu         sync.Mutex
	seen       []bool // shards that were counted
	incomplete int
	example    string // an incomplete sample
}

// wdFields are the extensions that a sample is read by.
type wdFields struct {
	images   []string
	captions []string // as given
	keywords string
	group    string
	bare     bool // no captions
}

// Extensions of WebDataset's members by default, best first.
var (
	wdImages   = []string{"jpg", "jpeg", "png", "webp", "gif", "bmp"}
	wdCaptions = []string{"txt", "caption", "text", "json"}
)

// OpenWebDataset returns the set in the tar files paths; o.Path is not used. It
// reads no more than whether the first exists.
func OpenWebDataset(o Options, paths ...string) (*WebDataset, error) {
	columns := o.Columns
	if len(paths) == 0 {
		return nil, errors.New("dataset: no tar files")
	}
	if i := slices.Index(paths, ""); i >= 0 {
		return nil, errors.New("dataset: the empty name is no tar file")
	}
	known := Columns{Image: columns.Image, Captions: columns.Captions, Keywords: columns.Keywords, Group: columns.Group}
	if !reflect.DeepEqual(columns, known) {
		return nil, fmt.Errorf("dataset: %s: of a tar file's columns, image, captions, keywords and group can be named", paths[0])
	}
	// Two names of one file would give examples of equal IDs.
	seen := make(map[string]bool, len(paths))
	for _, p := range paths {
		if seen[p] {
			return nil, fmt.Errorf("dataset: %s is named twice", p)
		}
		seen[p] = true
	}
	if info, err := os.Stat(paths[0]); err != nil {
		return nil, fmt.Errorf("dataset: %w", err)
	} else if info.IsDir() {
		return nil, fmt.Errorf("dataset: %s is a folder, no tar file", paths[0])
	}
	d := &WebDataset{paths: paths, decode: o.decode(), seen: make([]bool, len(paths))}
	f := &d.fields
	f.images, f.captions, f.group = wdImages, wdCaptions, columns.Group
	if len(columns.Keywords) > 1 {
		return nil, fmt.Errorf("dataset: %s: keywords are of one extension, not %q", paths[0], columns.Keywords)
	}
	f.keywords = strings.Join(columns.Keywords, "")
	if columns.Image != "" {
		f.images = strings.Split(strings.ToLower(columns.Image), ";")
	}
	if len(columns.Captions) > 0 {
		f.captions = nil
		for _, c := range columns.Captions {
			f.captions = append(f.captions, strings.Split(c, ";")...)
		}
		f.bare = len(f.captions) == 1 && f.captions[0] == "none"
	}
	return d, nil
}

// Shards returns the number of tar files.
func (d *WebDataset) Shards() int { return len(d.paths) }

// Incomplete returns how many samples were left out for want of a picture or a
// caption, each counted once, in the shards opened so far, and the name of one.
func (d *WebDataset) Incomplete() (n int, name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.incomplete, d.example
}

// Shard opens and indexes tar file k.
func (d *WebDataset) Shard(ctx context.Context, k int) (_ Shard, err error) {
	if err := checkIndex(k, len(d.paths)); err != nil {
		return nil, err
	}
	path := d.paths[k]
	f, err := openTar(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("dataset: %s: %w", path, bare(err))
	}
	s := &wdShard{path: path, fields: &d.fields, decode: d.decode, f: f}
	missing, example, err := s.index()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("dataset: %s: %w", path, bare(err))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.seen[k] {
		d.seen[k] = true
		d.incomplete += missing
		if d.example == "" && missing > 0 {
			d.example = example
		}
	}
	return s, nil
}

// tarFile is an open tar file, not compressed.
type tarFile struct {
	io.ReaderAt
	io.Closer
	size   int64
	damage error // of the compressed file
}

// openTar opens a tar file, unpacked to a temporary file if it is compressed.
func openTar(ctx context.Context, path string) (*tarFile, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	var magic [4]byte
	if _, err := f.ReadAt(magic[:], 0); err != nil && err != io.EOF {
		f.Close()
		return nil, err
	}
	decompress := decompressor(magic)
	if decompress == nil {
		info, err := f.Stat()
		if err != nil {
			f.Close()
			return nil, err
		}
		return &tarFile{f, f, info.Size(), nil}, nil
	}
	defer f.Close()
	t, err := spill.Create("vlmo-shard-*.tar")
	if err != nil {
		return nil, fmt.Errorf("unpacking: %w", err)
	}
	size, damage, err := unpack(ctx, t, f, decompress)
	if err != nil {
		t.Close()
		return nil, err
	}
	return &tarFile{t, t, size, damage}, nil
}

// decompressor returns what unpacks a file that begins with magic, nil where it
// is not compressed.
func decompressor(magic [4]byte) func(io.Reader) (io.ReadCloser, error) {
	switch m := binary.LittleEndian.Uint32(magic[:]); {
	case m&0xffff == 0x8b1f:
		return func(r io.Reader) (io.ReadCloser, error) { return gzip.NewReader(r) }
	case m == 0xfd2fb528, m&^0xf == 0x184d2a50: // a frame, or one to be skipped, as pzstd begins with
		return func(r io.Reader) (io.ReadCloser, error) {
			// The window is the largest that the zstd command takes.
			z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(1<<27))
			if err != nil {
				return nil, err
			}
			return z.IOReadCloser(), nil
		}
	}
	return nil
}

// unpack writes what decompress makes of r to w. damage is what is wrong with
// the file, err what went wrong with reading or writing.
func unpack(ctx context.Context, w io.Writer, r io.Reader, decompress func(io.Reader) (io.ReadCloser, error)) (n int64, damage, err error) {
	src := &source{ctx: ctx, r: r}
	z, damage := decompress(bufio.NewReaderSize(src, 1<<18))
	if damage == nil {
		defer z.Close()
		b := bufio.NewWriterSize(w, 1<<18)
		dst := &sink{w: b}
		n, damage = io.Copy(dst, z)
		if dst.err == nil {
			dst.err = b.Flush()
		}
		if dst.err != nil {
			return n, nil, fmt.Errorf("unpacking: %w", dst.err)
		}
	}
	if src.err != nil {
		return n, nil, src.err
	}
	if damage != nil {
		damage = fmt.Errorf("compressed file: %w", damage)
	}
	return n, damage, nil
}

// source is a reader that remembers its error and minds a context.
type source struct {
	ctx context.Context
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	if s.err == nil {
		s.err = s.ctx.Err()
	}
	if s.err != nil {
		return 0, s.err
	}
	n, err := s.r.Read(p)
	if err != io.EOF {
		s.err = err
	}
	return n, err
}

// sink is a writer that remembers its error.
type sink struct {
	w   io.Writer
	err error
}

func (s *sink) Write(p []byte) (n int, err error) {
	n, s.err = s.w.Write(p)
	return n, s.err
}

// wdShard is an open tar file. Of each sample 100 bytes and the key are in
// memory.
type wdShard struct {
	path    string
	fields  *wdFields
	decode  img.Options
	f       *tarFile
	samples []wdSample
	damage  error // one more example, that can't be read
}

// span is a part of the file.
type span struct{ off, size int64 }

type wdSample struct {
	key                             string
	image, caption, keywords, group span
	captionBy                       uint16 // index in fields.captions
	twice                           bool   // a member occurs twice
}

// index reads the headers. It returns the number of incomplete samples and the
// name of one.
func (s *wdShard) index() (missing int, example string, err error) {
	var g gatherer
	g.fields = s.fields
	g.done = func(x wdSample, complete bool) {
		if !complete {
			missing++
			example = s.path + "/" + x.key
			return
		}
		s.samples = append(s.samples, x)
	}
	err = tarfile.Each(s.f, s.f.size, g.add)
	if err == nil {
		err = s.f.damage
	} else if s.f.damage != nil && errors.As(err, new(tarfile.DamageError)) {
		err = s.f.damage // which explains the other
	} else if !errors.As(err, new(tarfile.DamageError)) {
		return 0, "", err
	}
	s.damage = err
	if err != nil && !g.complete() {
		g.open = false // it lacks what came after the damage
	}
	g.flush()
	s.samples = slices.Clip(s.samples)
	return missing, example, nil
}

// gatherer makes samples of members.
type gatherer struct {
	fields *wdFields
	done   func(x wdSample, complete bool)

	open bool
	x    wdSample
	best int // index of x.image's extension
	seen []string
}

func (g *gatherer) add(m tarfile.Member) {
	key, ext, ok := tarfile.SplitKey(m.Name)
	if !ok {
		return
	}
	if !g.open || key != g.x.key {
		g.flush()
		g.open, g.seen = true, g.seen[:0]
		g.x = wdSample{key: key, captionBy: math.MaxUint16}
		g.best = len(g.fields.images)
	}
	if slices.Contains(g.seen, ext) {
		g.x.twice = true
		return
	}
	g.seen = append(g.seen, ext)
	at := span{m.Off, m.Size}
	f := g.fields
	if i := slices.Index(f.images, ext); i >= 0 && i < g.best {
		g.best, g.x.image = i, at
	}
	for i, c := range f.captions {
		if name, _, _ := strings.Cut(c, ":"); name == ext && i < int(g.x.captionBy) {
			g.x.captionBy, g.x.caption = uint16(i), at
			break
		}
	}
	if name, _, _ := strings.Cut(f.keywords, ":"); ext == name {
		g.x.keywords = at
	}
	if ext == f.group {
		g.x.group = at
	}
}

// flush ends the sample under way.
func (g *gatherer) flush() {
	if g.open {
		g.done(g.x, g.complete())
	}
	g.open = false
}

// complete reports whether the sample under way has all that is asked for.
func (g *gatherer) complete() bool {
	return g.x.image.off > 0 && (g.fields.bare || g.x.captionBy != math.MaxUint16) && (g.fields.group == "" || g.x.group.off > 0)
}

func (s *wdShard) Close() error { return s.f.Close() }

func (s *wdShard) Len() int {
	if s.damage != nil {
		return len(s.samples) + 1
	}
	return len(s.samples)
}

func (s *wdShard) name(i int) string {
	if i == len(s.samples) {
		return s.path
	}
	return s.path + "/" + s.samples[i].key
}

// Group returns the name of the example's group, its ID where no member has it.
func (s *wdShard) Group(i int) string {
	if s.fields.group == "" || i >= len(s.samples) {
		return s.name(i)
	}
	b, err := s.read(s.samples[i].group, maxLine)
	if err != nil {
		return s.name(i)
	}
	return string(b)
}

// ReadWords reads example i without its picture.
func (s *wdShard) ReadWords(i int) (Example, error) { return s.example(i, false) }

// Example reads example i.
func (s *wdShard) Example(i int) (Example, error) { return s.example(i, true) }

func (s *wdShard) example(i int, picture bool) (e Example, err error) {
	if err := checkIndex(i, s.Len()); err != nil {
		return Example{}, err
	}
	e.ID = s.name(i)
	e.Group = e.ID
	defer func() {
		if err != nil {
			e, err = Example{}, &BadExampleError{Index: i, ID: e.ID, Path: s.path, Err: bare(err)}
		}
	}()
	if i == len(s.samples) {
		return e, s.damage
	}
	x, f := &s.samples[i], s.fields
	if x.twice {
		return e, errors.New("two members of one name")
	}
	// The members lie side by side: one read.
	lo, hi := int64(math.MaxInt64), int64(0)
	for _, m := range []span{x.image, x.caption, x.keywords, x.group} {
		if m.off > 0 && (picture || m != x.image) {
			lo, hi = min(lo, m.off), max(hi, m.off+m.size)
		}
	}
	if lo > hi {
		return e, nil
	}
	all, err := s.read(span{lo, hi - lo}, maxSample)
	if err != nil {
		return e, err
	}
	part := func(m span) []byte { return all[m.off-lo : m.off-lo+m.size] }
	if x.captionBy != math.MaxUint16 && !f.bare {
		if e.Captions, err = texts(part(x.caption), f.captions[x.captionBy]); err != nil {
			return e, err
		}
		if len(e.Captions) == 0 {
			return e, fmt.Errorf("%s: no caption", f.captions[x.captionBy])
		}
	}
	if x.keywords.off > 0 {
		if e.Keywords, err = texts(part(x.keywords), f.keywords); err != nil {
			return e, err
		}
	}
	if x.group.off > 0 {
		e.Group = string(part(x.group))
	}
	if picture {
		e.Image, err = img.Decode(part(x.image), s.decode)
	}
	return e, err
}

// maxSample is the most bytes of a sample that are read.
const maxSample = 1 << 30

func (s *wdShard) read(m span, most int64) ([]byte, error) {
	if m.size > most {
		return nil, fmt.Errorf("a member of %d bytes", m.size)
	}
	b := make([]byte, m.size)
	if _, err := s.f.ReadAt(b, m.off); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF // the file has become shorter
		}
		return nil, err
	}
	return b, nil
}

// texts returns the texts in a member, which by names: an extension, and after a
// colon the key of a JSON object.
func texts(b []byte, by string) ([]string, error) {
	ext, key, _ := strings.Cut(by, ":")
	if len(b) > maxLine {
		return nil, fmt.Errorf("%s: a text of %d bytes", ext, len(b))
	}
	if !utf8.Valid(b) {
		return nil, fmt.Errorf("%s: not UTF-8", ext)
	}
	if key == "" && ext != "json" && !strings.HasSuffix(ext, ".json") {
		if text := strings.TrimSpace(string(b)); text != "" {
			return []string{text}, nil
		}
		return nil, nil
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(b, &object); err != nil {
		return nil, fmt.Errorf("%s: %w", ext, err)
	}
	keys := []string{key}
	if key == "" {
		keys = []string{"caption", "captions", "text"}
	}
	for _, k := range keys {
		v, ok := object[k]
		if !ok || string(v) == "null" {
			continue
		}
		var list []string
		if v[0] == '"' {
			list = make([]string, 1)
			v = append(append([]byte{'['}, v...), ']')
		}
		if err := json.Unmarshal(v, &list); err != nil {
			return nil, fmt.Errorf("%s: %q is neither a text nor a list of texts", ext, k)
		}
		for i := range list {
			list[i] = strings.TrimSpace(list[i])
		}
		return slices.DeleteFunc(list, func(s string) bool { return s == "" }), nil
	}
	return nil, nil
}
