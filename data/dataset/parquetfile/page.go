package parquetfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/parquet-go/parquet-go/format"
	"github.com/pierrec/lz4/v4"
)

// What a page may make us allocate, so that a damaged file does no harm: ratio
// times its compressed size and slack bytes for its content, valueRatio values a
// byte and slackValues.
const (
	ratio       = 1024
	slack       = 4 << 20
	valueRatio  = 8
	slackValues = 1 << 20
)

// chunk is a column of a row group: where its pages are.
type chunk struct {
	dict  *page // nil if there is none
	pages []page
}

type page struct {
	offset    int64 // of the content, after the header
	header    format.PageHeader
	firstCell int // in the chunk
	cells     int // values, nulls counted
}

// scan lists the pages of a chunk by their headers.
func (f *File) scan(group, leaf int) (*chunk, error) {
	meta := &f.meta.RowGroups[group].Columns[leaf].MetaData
	offset := meta.DataPageOffset
	if d := meta.DictionaryPageOffset; d > 0 && d < offset {
		offset = d
	}
	end := offset + meta.TotalCompressedSize
	if offset < 4 || meta.TotalCompressedSize < 0 || end < offset || end > f.size {
		return nil, fmt.Errorf("the column lies outside the file: %d bytes at %d of %d", meta.TotalCompressedSize, offset, f.size)
	}
	c := new(chunk)
	cells := 0
	length := 0 // of the last header
	for int64(cells) < meta.NumValues {
		if offset >= end {
			return nil, fmt.Errorf("pages of %d values, want %d", cells, meta.NumValues)
		}
		p := page{firstCell: cells}
		n, err := f.header(&p.header, offset, end, length)
		if err != nil {
			return nil, fmt.Errorf("the page header at byte %d: %w", offset, err)
		}
		length = n
		p.offset = offset + int64(n)
		h := &p.header
		size, whole := int64(h.CompressedPageSize), int64(h.UncompressedPageSize)
		if size < 0 || size > end-p.offset || whole < 0 || whole > slack+ratio*size {
			return nil, fmt.Errorf("the page at byte %d: %d bytes, %d uncompressed", offset, size, whole)
		}
		offset = p.offset + size
		switch {
		case h.Type == format.DataPage && h.DataPageHeader.Valid:
			p.cells = int(h.DataPageHeader.V.NumValues)
		case h.Type == format.DataPageV2 && h.DataPageHeaderV2.Valid:
			p.cells = int(h.DataPageHeaderV2.V.NumValues)
		case h.Type == format.DictionaryPage && h.DictionaryPageHeader.Valid:
			if c.dict != nil || cells > 0 {
				return nil, errors.New("a second dictionary")
			}
			p.cells = int(h.DictionaryPageHeader.V.NumValues)
			if int64(p.cells) > whole && p.cells > 1 {
				return nil, fmt.Errorf("a dictionary of %d values in %d bytes", p.cells, whole)
			}
			c.dict = &p
		case h.Type == format.IndexPage:
			continue
		default:
			return nil, fmt.Errorf("the page at byte %d is of type %d", p.offset, h.Type)
		}
		if p.cells < 0 || int64(p.cells) > slackValues+valueRatio*size {
			return nil, fmt.Errorf("%d values in a page of %d bytes", p.cells, size)
		}
		if h.Type != format.DictionaryPage {
			cells += p.cells
			c.pages = append(c.pages, p)
		}
	}
	if int64(cells) != meta.NumValues {
		return nil, fmt.Errorf("pages of %d values, want %d", cells, meta.NumValues)
	}
	return c, nil
}

// header reads a page header that begins at offset and returns its length. last
// is the length of the one before.
func (f *File) header(h *format.PageHeader, offset, end int64, last int) (int, error) {
	// Headers take some 30 bytes, but for statistics that repeat whole values.
	var b []byte
	for size := int64(max(256, last)); ; size += size / 2 {
		n := len(b)
		b = append(b, make([]byte, min(size, end-offset)-int64(n))...)
		if _, err := f.r.ReadAt(b[n:], offset+int64(n)); err != nil {
			return 0, bare(err)
		}
		n, err := unmarshal(b, h)
		if err == errShort && size < 1<<20 && size < end-offset {
			*h = format.PageHeader{}
			continue
		}
		return n, err
	}
}

// content reads a page and decompresses it, but for the levels of a page of
// version 2, which are not compressed: they come first.
func (f *File) content(codec format.CompressionCodec, p *page) (levels, data []byte, err error) {
	b := make([]byte, p.header.CompressedPageSize)
	if _, err := f.r.ReadAt(b, p.offset); err != nil {
		return nil, nil, bare(err)
	}
	whole := int(p.header.UncompressedPageSize)
	if v2 := p.header.DataPageHeaderV2; p.header.Type == format.DataPageV2 {
		rep, def := int(v2.V.RepetitionLevelsByteLength), int(v2.V.DefinitionLevelsByteLength)
		if rep < 0 || def < 0 || rep+def > len(b) || rep+def > whole {
			return nil, nil, fmt.Errorf("levels of %d and %d bytes in a page of %d", rep, def, len(b))
		}
		levels, b, whole = b[:rep+def], b[rep+def:], whole-rep-def
		if v2.V.IsCompressed.Valid && !v2.V.IsCompressed.V {
			return levels, b, nil
		}
	}
	data, err = decompress(codec, b, whole)
	return levels, data, err
}

var zstdReaders = sync.Pool{New: func() any {
	// Errors are for bad options only.
	r, _ := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(64<<20))
	return r
}}

// decompress returns the size bytes that b holds.
func decompress(codec format.CompressionCodec, b []byte, size int) ([]byte, error) {
	if codec == format.Uncompressed {
		if len(b) != size {
			return nil, fmt.Errorf("%d bytes, want %d", len(b), size)
		}
		return b, nil
	}
	if size == 0 {
		return nil, nil
	}
	var r io.Reader
	switch codec {
	case format.Snappy:
		if n, err := snappy.DecodedLen(b); err != nil || n != size {
			return nil, fmt.Errorf("snappy: %d bytes, want %d (%v)", n, size, err)
		}
		out, err := snappy.Decode(make([]byte, size), b)
		if err != nil {
			return nil, err
		}
		return out, nil
	case format.Lz4Raw:
		out := make([]byte, size)
		n, err := lz4.UncompressBlock(b, out)
		if err != nil {
			return nil, err
		}
		if n != size {
			return nil, fmt.Errorf("lz4: %d bytes, want %d", n, size)
		}
		return out, nil
	case format.Gzip:
		g, err := gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			return nil, err
		}
		r = g
	case format.Brotli:
		r = brotli.NewReader(bytes.NewReader(b))
	case format.Zstd:
		z := zstdReaders.Get().(*zstd.Decoder)
		defer zstdReaders.Put(z)
		if err := z.Reset(bytes.NewReader(b)); err != nil {
			return nil, err
		}
		r = z
	default:
		return nil, fmt.Errorf("compressed with %v, which is not read", codec)
	}
	out := make([]byte, size)
	if _, err := io.ReadFull(r, out); err != nil {
		return nil, fmt.Errorf("%v: %w", codec, err)
	}
	return out, nil
}

// plainDictionary is how older writers call RLEDictionary in data pages, and
// Plain in dictionaries.
const plainDictionary format.Encoding = 2

// dictionary decodes the values of a dictionary page.
func (f *File) dictionary(group, leaf int, p *page) ([]any, error) {
	_, b, err := f.content(f.meta.RowGroups[group].Columns[leaf].MetaData.Codec, p)
	if err != nil {
		return nil, fmt.Errorf("dictionary: %w", err)
	}
	if e := p.header.DictionaryPageHeader.V.Encoding; e != format.Plain && e != plainDictionary {
		return nil, fmt.Errorf("a dictionary encoded as %v", e)
	}
	values, err := plain(f.leaves[leaf], b, p.cells)
	if err != nil {
		return nil, fmt.Errorf("dictionary: %w", err)
	}
	return values, nil
}

// cells decodes a data page.
func (f *File) cells(group, leaf int, p *page, dict func() ([]any, error)) ([]cell, error) {
	levels, b, err := f.content(f.meta.RowGroups[group].Columns[leaf].MetaData.Codec, p)
	if err != nil {
		return nil, err
	}
	n := f.leaves[leaf]
	cells := make([]cell, p.cells)
	encoding := p.header.DataPageHeader.V.Encoding
	v2 := p.header.Type == format.DataPageV2
	if v2 {
		encoding = p.header.DataPageHeaderV2.V.Encoding
	}
	// level reads the levels up to most; size is theirs in version 2.
	level := func(most byte, e format.Encoding, size int32, set func(*cell, byte)) error {
		var run []byte
		switch {
		case v2:
			run, levels = levels[:size], levels[size:]
		case most == 0:
			return nil
		case e != format.RLE:
			return fmt.Errorf("levels encoded as %v are not read", e)
		default:
			if len(b) < 4 {
				return errPage
			}
			k := binary.LittleEndian.Uint32(b)
			if uint64(k) > uint64(len(b)-4) {
				return errPage
			}
			run, b = b[4:4+k], b[4+k:]
		}
		if most == 0 {
			return nil
		}
		numbers, err := hybrid(run, width(most), len(cells))
		if err != nil {
			return fmt.Errorf("levels: %w", err)
		}
		for i, l := range numbers {
			if l < 0 || l > int32(most) {
				return fmt.Errorf("level %d of %d", l, most)
			}
			set(&cells[i], byte(l))
		}
		return nil
	}
	h1, h2 := &p.header.DataPageHeader.V, &p.header.DataPageHeaderV2.V
	if err := level(n.rep, h1.RepetitionLevelEncoding, h2.RepetitionLevelsByteLength, func(c *cell, l byte) { c.rep = l }); err != nil {
		return nil, err
	}
	if err := level(n.def, h1.DefinitionLevelEncoding, h2.DefinitionLevelsByteLength, func(c *cell, l byte) { c.def = l }); err != nil {
		return nil, err
	}
	present := 0
	for i := range cells {
		if cells[i].def == n.def {
			present++
		}
	}
	values, err := decode(n, encoding, b, present, dict)
	if err != nil {
		return nil, err
	}
	k := 0
	for i := range cells {
		if cells[i].def == n.def {
			cells[i].v = values[k]
			k++
		}
	}
	return cells, nil
}

// decode decodes n values of a page.
func decode(leaf *node, encoding format.Encoding, b []byte, n int, dict func() ([]any, error)) ([]any, error) {
	if n == 0 {
		return nil, nil
	}
	switch encoding {
	case format.Plain:
		return plain(leaf, b, n)
	case plainDictionary, format.RLEDictionary:
		values, err := dict()
		if err != nil {
			return nil, err
		}
		if len(b) == 0 {
			return nil, errPage
		}
		indices, err := hybrid(b[1:], int(b[0]), n)
		if err != nil {
			return nil, err
		}
		out := make([]any, n)
		for i, k := range indices {
			if k < 0 || int(k) >= len(values) {
				return nil, fmt.Errorf("value %d of a dictionary of %d", k, len(values))
			}
			out[i] = values[k]
		}
		return out, nil
	case format.RLE:
		if leaf.kind != format.Boolean {
			break
		}
		if len(b) < 4 {
			return nil, errPage
		}
		bools, err := hybrid(b[4:], 1, n)
		if err != nil {
			return nil, err
		}
		out := make([]any, n)
		for i, v := range bools {
			out[i] = v == 1
		}
		return out, nil
	case format.DeltaBinaryPacked:
		if leaf.kind != format.Int32 && leaf.kind != format.Int64 {
			break
		}
		numbers, _, err := deltas(b, n)
		if err != nil {
			return nil, err
		}
		out := make([]any, n)
		for i, v := range numbers {
			if leaf.kind == format.Int32 {
				v = int64(int32(v))
			}
			out[i] = v
		}
		return out, nil
	case format.DeltaLengthByteArray, format.DeltaByteArray:
		if leaf.kind != format.ByteArray {
			break
		}
		arrays, err := deltaLengths, error(nil)
		if encoding == format.DeltaByteArray {
			arrays = func(b []byte, n int) ([][]byte, error) { return deltaArrays(b, n, slack+ratio*len(b)) }
		}
		list, err := arrays(b, n)
		if err != nil {
			return nil, err
		}
		out := make([]any, n)
		for i, v := range list {
			out[i] = leaf.bytes(v)
		}
		return out, nil
	}
	return nil, fmt.Errorf("%s encoded as %v is not read", leaf.typ(), encoding)
}
