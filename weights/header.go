package weights

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxHeader is the format's limit on the JSON header, in bytes.
const maxHeader = 100_000_000

// metadataKey is the one header key that names no tensor.
const metadataKey = "__metadata__"

// readSafetensors parses the header of the size bytes behind r; path serves messages.
func readSafetensors(path string, r io.ReaderAt, size int64) (*File, error) {
	fail := func(format string, args ...any) (*File, error) {
		return nil, fmt.Errorf("%s: %w", path, fmt.Errorf(format, args...))
	}
	if size < 8 {
		return fail("%d bytes are too few for a safetensors file, which starts with an 8-byte header length", size)
	}
	var word [8]byte
	if n, err := r.ReadAt(word[:], 0); n < len(word) {
		return fail("header length: %w", err)
	}
	n := binary.LittleEndian.Uint64(word[:])
	if n > maxHeader {
		return fail("header length %d exceeds the format's limit of %d: not a safetensors file?", n, maxHeader)
	}
	if int64(n) > size-8 {
		return fail("header of %d bytes goes past the end of the file at %d: truncated?", n, size)
	}
	header := make([]byte, n)
	if got, err := r.ReadAt(header, 8); got < len(header) {
		return fail("header: %w", err)
	}
	f := &File{path: path, format: Safetensors, entries: map[string]entry{}}
	if err := f.parse(header); err != nil {
		return fail("header: %w", err)
	}
	data := &record{r: r, base: 8 + int64(n), size: size - 8 - int64(n)}
	if err := f.layOut(data.size); err != nil {
		return fail("%w", err)
	}
	for name, e := range f.entries {
		e.record = data
		f.entries[name] = e
	}
	return f, nil
}

// layOut sorts the names by their place and checks that the tensors tile the
// data bytes.
func (f *File) layOut(data int64) error {
	for name := range f.entries {
		f.names = append(f.names, name)
	}
	slices.SortFunc(f.names, func(a, b string) int {
		x, y := f.entries[a], f.entries[b]
		switch {
		case x.begin != y.begin:
			return compare(x.begin, y.begin)
		case x.end != y.end:
			return compare(x.end, y.end)
		}
		return strings.Compare(a, b)
	})
	var end int64
	last := ""
	for _, name := range f.names {
		e := f.entries[name]
		switch {
		case e.end > data:
			return fmt.Errorf("tensor %q ends at byte %d of the data, which has only %d: truncated?", name, e.end, data)
		case e.begin < end:
			return fmt.Errorf("tensor %q at bytes %d … %d overlaps %q, which ends at %d", name, e.begin, e.end, last, end)
		case e.begin > end:
			return fmt.Errorf("bytes %d … %d before tensor %q belong to no tensor", end, e.begin, name)
		}
		end, last = e.end, name
	}
	if end != data {
		return fmt.Errorf("%d bytes after the last tensor belong to no tensor", data-end)
	}
	return nil
}

func compare(a, b int64) int {
	if a < b {
		return -1
	}
	return 1
}

// parse fills f.entries and f.Metadata. It walks the JSON token by token,
// since decoding into a map would hide duplicate names.
func (f *File) parse(header []byte) error {
	if len(header) == 0 || header[0] != '{' {
		return errors.New("does not start with '{': not a safetensors file?")
	}
	if !utf8.Valid(header) {
		return errors.New("is not valid UTF-8")
	}
	p := parser{json.NewDecoder(bytes.NewReader(header))}
	p.UseNumber()
	seenMetadata := false
	err := p.object(func(name string) error {
		if name == metadataKey {
			if seenMetadata {
				return fmt.Errorf("%q appears twice", name)
			}
			seenMetadata = true
			return f.parseMetadata(p)
		}
		if _, ok := f.entries[name]; ok {
			return fmt.Errorf("tensor %q appears twice", name)
		}
		e, err := p.entry()
		if err != nil {
			return fmt.Errorf("tensor %q: %w", name, err)
		}
		f.entries[name] = e
		return nil
	})
	if err != nil {
		return err
	}
	if _, err := p.Token(); err != io.EOF {
		return errors.New("has more than one JSON value")
	}
	return nil
}

func (f *File) parseMetadata(p parser) error {
	f.Metadata = map[string]string{}
	return p.object(func(key string) error {
		if _, ok := f.Metadata[key]; ok {
			return fmt.Errorf("%s: key %q appears twice", metadataKey, key)
		}
		value, err := p.string()
		if err != nil {
			return fmt.Errorf("%s: key %q: %w", metadataKey, key, err)
		}
		f.Metadata[key] = value
		return nil
	})
}

// parser reads the few JSON shapes a header is made of.
type parser struct{ *json.Decoder }

// next returns the next token; the end of the input is an error.
func (p parser) next() (json.Token, error) {
	t, err := p.Token()
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return t, err
}

// object reads an object, calling field after each key to read its value.
func (p parser) object(field func(key string) error) error {
	t, err := p.next()
	if err != nil {
		return err
	}
	if t != json.Delim('{') {
		return fmt.Errorf("%s where an object belongs", tokenText(t))
	}
	for p.More() {
		t, err := p.next()
		if err != nil {
			return err
		}
		if err := field(t.(string)); err != nil {
			return err
		}
	}
	_, err = p.next()
	return err
}

func (p parser) string() (string, error) {
	t, err := p.next()
	if err != nil {
		return "", err
	}
	s, ok := t.(string)
	if !ok {
		return "", fmt.Errorf("%s where a string belongs", tokenText(t))
	}
	return s, nil
}

// integers reads an array of non-negative integers.
func (p parser) integers() ([]int64, error) {
	t, err := p.next()
	if err != nil {
		return nil, err
	}
	if t != json.Delim('[') {
		return nil, fmt.Errorf("%s where an array belongs", tokenText(t))
	}
	list := []int64{}
	for p.More() {
		t, err := p.next()
		if err != nil {
			return nil, err
		}
		num, ok := t.(json.Number)
		if !ok {
			return nil, fmt.Errorf("%s where an integer belongs", tokenText(t))
		}
		v, err := strconv.ParseInt(num.String(), 10, 64)
		if err != nil || v < 0 {
			return nil, fmt.Errorf("%s is not a non-negative integer", num)
		}
		list = append(list, v)
	}
	_, err = p.next()
	return list, err
}

// entry reads one tensor's description and checks that its byte range has the
// size of its shape.
func (p parser) entry() (entry, error) {
	var e entry
	seen := map[string]bool{}
	err := p.object(func(key string) error {
		if seen[key] {
			return fmt.Errorf("key %q appears twice", key)
		}
		seen[key] = true
		var err error
		switch key {
		case "dtype":
			e.dtype, err = p.string()
		case "shape":
			var list []int64
			list, err = p.integers()
			e.shape = make([]int, len(list))
			for i, d := range list {
				e.shape[i] = int(d)
				if int64(e.shape[i]) != d {
					return fmt.Errorf("size %d of the shape is too large for this machine", d)
				}
			}
		case "data_offsets":
			var list []int64
			list, err = p.integers()
			if err == nil && len(list) != 2 {
				err = fmt.Errorf("%d numbers, not a begin and an end", len(list))
			}
			if err == nil {
				e.begin, e.end = list[0], list[1]
			}
		default:
			return fmt.Errorf("unknown key %q", key)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		return nil
	})
	if err != nil {
		return e, err
	}
	for _, key := range []string{"dtype", "shape", "data_offsets"} {
		if !seen[key] {
			return e, fmt.Errorf("%s is missing", key)
		}
	}
	size, err := byteSize(e.dtype, e.shape)
	if err != nil {
		return e, err
	}
	if e.end < e.begin || e.end-e.begin != size {
		return e, fmt.Errorf("bytes %d … %d do not fit %s of shape %s, which takes %d", e.begin, e.end, e.dtype, shapeText(e.shape), size)
	}
	return e, nil
}

// tokenText names a JSON token in a message.
func tokenText(t json.Token) string {
	switch t := t.(type) {
	case json.Delim:
		return strconv.Quote(t.String())
	case string:
		return strconv.Quote(t)
	case nil:
		return "null"
	}
	return fmt.Sprint(t)
}
