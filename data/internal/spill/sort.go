package spill

import (
	"bufio"
	"bytes"
	"cmp"
	"container/heap"
	"encoding/binary"
	"io"
	"slices"
)

// Sorter sorts records by their bytes. Some 8 MB of them are in memory, what is more
// is written to a file in sorted runs, which are merged. The zero Sorter is ready for
// use by one goroutine.
type Sorter struct {
	buf  []byte // records
	at   []place
	f    *File
	runs []int64 // where each ends in f

	limit int // of bytes in memory; 0 is memory
}

// memory is how many bytes a Sorter has in memory. A set of a thousand million records
// has some ten thousand runs, of which a page each is in memory when they are merged.
const memory = 8 << 20

// buffer is how many bytes of a run are written or read at a time.
const buffer = 64 << 10

// place is where a record is in Sorter.buf. The prefix, its first bytes, decides most
// comparisons.
type place struct {
	prefix   uint64
	off, len uint32
}

const placeSize = 16

func prefix(b []byte) uint64 {
	if len(b) >= 8 {
		return binary.BigEndian.Uint64(b)
	}
	var p [8]byte
	copy(p[:], b)
	return binary.BigEndian.Uint64(p[:])
}

// Add adds a record, which it copies. The error is that of a temporary file.
func (s *Sorter) Add(rec []byte) error {
	if s.limit == 0 {
		s.limit = memory
	}
	if len(s.at) > 0 && len(s.buf)+len(rec)+placeSize*(len(s.at)+1) > s.limit {
		if err := s.write(); err != nil {
			return err
		}
	}
	s.at = append(s.at, place{prefix(rec), uint32(len(s.buf)), uint32(len(rec))})
	s.buf = append(s.buf, rec...)
	return nil
}

func (s *Sorter) record(p place) []byte { return s.buf[p.off : p.off+p.len] }

func (s *Sorter) sort() {
	slices.SortFunc(s.at, func(x, y place) int {
		if c := cmp.Compare(x.prefix, y.prefix); c != 0 {
			return c
		}
		return bytes.Compare(s.record(x), s.record(y))
	})
}

// write writes what is in memory as a run.
func (s *Sorter) write() (err error) {
	s.sort()
	if s.f == nil {
		if s.f, err = Create("vlmo-data-*"); err != nil {
			return err
		}
		s.runs = append(s.runs, 0)
	}
	w := bufio.NewWriterSize(s.f, buffer)
	end := s.runs[len(s.runs)-1]
	var head [binary.MaxVarintLen64]byte
	for _, p := range s.at {
		n := binary.PutUvarint(head[:], uint64(p.len))
		end += int64(n) + int64(p.len)
		w.Write(head[:n]) // Flush has the error
		w.Write(s.record(p))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	s.runs = append(s.runs, end)
	s.buf, s.at = s.buf[:0], s.at[:0]
	return nil
}

// Each calls f for all records in order, each valid until f returns, and closes the
// sorter. Its error is f's first one or that of a file.
func (s *Sorter) Each(f func(rec []byte) error) error {
	defer s.Close()
	if s.f == nil {
		s.sort()
		for _, p := range s.at {
			if err := f(s.record(p)); err != nil {
				return err
			}
		}
		return nil
	}
	if len(s.at) > 0 {
		if err := s.write(); err != nil {
			return err
		}
	}
	s.buf, s.at = nil, nil
	size := min(buffer, max(4<<10, s.limit/len(s.runs)))
	var open merge
	for i := range s.runs[1:] {
		r := &run{r: bufio.NewReaderSize(io.NewSectionReader(s.f, s.runs[i], s.runs[i+1]-s.runs[i]), size)}
		if err := r.next(); err != nil {
			return err
		}
		open = append(open, r)
	}
	heap.Init(&open)
	for len(open) > 0 {
		r := open[0]
		if err := f(r.rec); err != nil {
			return err
		}
		switch err := r.next(); err {
		case nil:
			heap.Fix(&open, 0)
		case io.EOF:
			heap.Pop(&open)
		default:
			return err
		}
	}
	return nil
}

// EachRun is Each for records whose first n bytes are a key; begins says that the key is
// another than that of the record before.
func (s *Sorter) EachRun(n int, f func(begins bool, rec []byte) error) error {
	var key []byte
	return s.Each(func(rec []byte) error {
		begins := key == nil || !bytes.Equal(key, rec[:n])
		if begins {
			key = append(key[:0], rec[:n]...)
		}
		return f(begins, rec)
	})
}

// Close gives memory and file back. The sorter is empty again.
func (s *Sorter) Close() error {
	f := s.f
	*s = Sorter{limit: s.limit}
	if f == nil {
		return nil
	}
	return f.Close()
}

// run is a sorted run that is read.
type run struct {
	r      *bufio.Reader
	prefix uint64
	rec    []byte
}

// next reads the next record, or returns io.EOF.
func (r *run) next() error {
	n, err := binary.ReadUvarint(r.r)
	if err != nil {
		return err
	}
	r.rec = slices.Grow(r.rec[:0], int(n))[:n]
	if _, err := io.ReadFull(r.r, r.rec); err != nil {
		return err
	}
	r.prefix = prefix(r.rec)
	return nil
}

// merge is a heap with the run of the smallest record on top.
type merge []*run

func (m merge) Len() int      { return len(m) }
func (m merge) Swap(i, j int) { m[i], m[j] = m[j], m[i] }
func (m *merge) Push(x any)   { *m = append(*m, x.(*run)) }
func (m *merge) Pop() any {
	x := (*m)[len(*m)-1]
	*m = (*m)[:len(*m)-1]
	return x
}
func (m merge) Less(i, j int) bool {
	if m[i].prefix != m[j].prefix {
		return m[i].prefix < m[j].prefix
	}
	return bytes.Compare(m[i].rec, m[j].rec) < 0
}
