package weights

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

type readerAtCloser interface {
	io.ReaderAt
	io.Closer
}

// maxExpansion bounds what a file's tensors can take in memory, all together:
// so many times the file's size. Views may share a storage or repeat its
// elements, and records may be compressed, so that the sum can exceed the
// file; a sum beyond this is refused.
const maxExpansion = 64

// Open opens a file of tensors of any Format, which its content tells: a
// safetensors file, a file of torch.save, or the .index.json of either in
// shards. Of a folder it opens model.safetensors, pytorch_model.bin or the
// index of one of these.
//
// The tensors of a torch file are those of its state dict: of the first of the
// keys "state_dict", "module" (whose names lose a prefix "module.") and
// "model" that holds a dictionary, else those of the bare dictionary (SPEC
// §9). Of DALL-E's pickled encoder they are the parameters of the module.
// What else a file has is left alone.
//
// Open reports a header that is too large, malformed or incomplete, an unknown
// dtype, a duplicate name, a byte range that overlaps another, leaves a hole or
// does not fit its shape, and a file that is shorter or longer than its
// tensors; in a torch file also tensors outside their storage and, as a
// *pickle.ForbiddenError, a name that is no part of tensors and plain
// containers. The caller must Close the file.
func Open(path string) (*File, error) { return open(path, stateDict) }

// OpenAll opens a file like Open, but has every tensor of a torch file, named
// by its path in the object: dictionary keys and list indices joined by '/'.
func OpenAll(path string) (*File, error) { return open(path, everything) }

// selection is what of a torch file is wanted.
type selection int

const (
	stateDict selection = iota
	everything
)

// folderNames are what Open looks for in a folder.
var folderNames = []string{"model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"}

func open(path string, sel selection) (*File, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if st.IsDir() {
		for _, name := range folderNames {
			inside := filepath.Join(path, name)
			if _, err := os.Stat(inside); err == nil {
				return openFile(inside, sel, true)
			}
		}
		return nil, fmt.Errorf("%s: not a regular file, and a folder with none of %s", path, strings.Join(folderNames, ", "))
	}
	return openFile(path, sel, true)
}

// openFile opens one file, or the shards that it is the index of.
func openFile(path string, sel selection, index bool) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s: not a regular file", path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	m, err := mapFile(f, st.Size())
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	var file *File
	if index && strings.HasSuffix(path, ".json") {
		if file, err = openShards(path, m, st.Size(), sel); err == nil {
			return file, m.Close()
		}
	} else {
		file, err = read(path, m, st.Size(), sel)
	}
	if err != nil {
		m.Close()
		return nil, err
	}
	file.closers = append(file.closers, m)
	return file, nil
}

// read tells the format of the size bytes behind r and parses them.
func read(path string, r io.ReaderAt, size int64, sel selection) (*File, error) {
	head := make([]byte, min(size, 512))
	if n, err := r.ReadAt(head, 0); n < len(head) {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	switch {
	case size == 0:
		return nil, fmt.Errorf("%s: 0 bytes are too few: the file is empty", path)
	case bytes.HasPrefix(head, []byte("version https://git-lfs")):
		return nil, fmt.Errorf("%s: a pointer of Git LFS, not the file itself: fetch it with git lfs pull", path)
	case bytes.HasPrefix(head, []byte("PK\x03\x04")), bytes.HasPrefix(head, []byte("PK\x05\x06")):
		return readZip(path, r, size, sel)
	case len(head) > 8 && head[8] == '{' && !(isPickle(head) && le64(head) > size):
		return readSafetensors(path, r, size)
	case len(head) >= 262 && string(head[257:262]) == "ustar":
		return nil, fmt.Errorf("%s: a tar file, which torch.save wrote before version 0.1.10; save it anew with torch", path)
	case isPickle(head):
		return readLegacy(path, r, size, sel)
	}
	return readSafetensors(path, r, size)
}

// isPickle reports whether head may be the start of a pickle: of protocol 2 on
// by its mark, else by an opcode that starts one.
func isPickle(head []byte) bool {
	if len(head) >= 2 && head[0] == 0x80 && head[1] <= 5 {
		return true
	}
	// A header's length has zero bytes where a pickle of protocol 0 has text.
	text := head[:min(len(head), 8)]
	return len(text) > 0 && strings.IndexByte("(]}cIFLSVUXTKJMNG)", text[0]) >= 0 && bytes.IndexByte(text[1:], 0) < 0
}

// openShards opens the files that an index of Hugging Face's form names:
// {"weight_map": {tensor: file}}. They lie beside it.
func openShards(path string, r io.ReaderAt, size int64, sel selection) (*File, error) {
	fail := func(format string, args ...any) (*File, error) {
		return nil, fmt.Errorf("%s: %w", path, fmt.Errorf(format, args...))
	}
	if size > maxHeader {
		return fail("%d bytes are too many for an index", size)
	}
	text := make([]byte, size)
	if n, err := r.ReadAt(text, 0); n < len(text) {
		return fail("%w", err)
	}
	var index struct {
		Map map[string]string `json:"weight_map"`
	}
	if err := json.Unmarshal(text, &index); err != nil {
		return fail("not an index of shards: %w", err)
	}
	if len(index.Map) == 0 {
		return fail(`not an index of shards: no "weight_map"`)
	}
	out := &File{path: path, format: Sharded, entries: map[string]entry{}}
	shards := map[string]*File{}
	for _, name := range slices.Compact(slices.Sorted(maps.Values(index.Map))) {
		if name != filepath.Base(name) || name == "." || name == ".." {
			out.Close()
			return fail("shard %q is not a plain file name", name)
		}
		f, err := openFile(filepath.Join(filepath.Dir(path), name), sel, false)
		if err != nil {
			out.Close()
			return fail("shard: %w", err)
		}
		out.closers = append(out.closers, f)
		shards[name] = f
	}
	for _, name := range slices.Sorted(maps.Keys(index.Map)) {
		shard := shards[index.Map[name]]
		e, ok := shard.entries[name]
		if !ok {
			out.Close()
			return fail("tensor %q is not in shard %s", name, index.Map[name])
		}
		out.names = append(out.names, name)
		out.entries[name] = e
	}
	return out, nil
}

// record is a run of bytes that tensors are views of.
type record struct {
	r          io.ReaderAt
	base, size int64
	zip        *zip.File // of a zip file

	once sync.Once
	err  error // what check found
}

// check compares the record with its checksum, once. torch can be told to
// write no checksum; it is then 0.
func (r *record) check() error {
	if r.zip == nil || r.zip.CRC32 == 0 {
		return nil
	}
	r.once.Do(func() {
		sum := crc32.NewIEEE()
		buf := make([]byte, min(r.size, pieceBytes))
		if _, err := io.CopyBuffer(struct{ io.Writer }{sum}, io.NewSectionReader(r.r, r.base, r.size), buf); err != nil {
			r.err = fmt.Errorf("record %s: %w", r.zip.Name, err)
		} else if sum.Sum32() != r.zip.CRC32 {
			r.err = fmt.Errorf("record %s has checksum %08x and should have %08x: the file is damaged", r.zip.Name, sum.Sum32(), r.zip.CRC32)
		}
	})
	return r.err
}

// inflater makes records readable. It keeps the last one that was compressed.
type inflater struct {
	mu   sync.Mutex
	last *record
	data []byte
}

// open returns where the record's bytes are.
func (c *inflater) open(r *record) (io.ReaderAt, int64, error) {
	if r.zip == nil || r.zip.Method == zip.Store {
		return r.r, r.base, r.check()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last != r {
		data, err := readRecord(r.zip, r.size)
		if err != nil {
			return nil, 0, err
		}
		c.last, c.data = r, data
	}
	return bytes.NewReader(c.data), 0, nil
}

// readRecord reads a whole record of size bytes and checks it.
func readRecord(z *zip.File, size int64) ([]byte, error) {
	r, err := z.Open()
	if err != nil {
		return nil, fmt.Errorf("record %s: %w", z.Name, err)
	}
	defer r.Close()
	data := make([]byte, size)
	if _, err := io.ReadFull(r, data); err != nil {
		return nil, fmt.Errorf("record %s: %w", z.Name, err)
	}
	// Reading on to the end compares the checksum.
	if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF && !(errors.Is(err, zip.ErrChecksum) && z.CRC32 == 0) {
		return nil, fmt.Errorf("record %s: %w", z.Name, errors.Join(err, errors.New("it is longer than announced or damaged")))
	}
	return data, nil
}
