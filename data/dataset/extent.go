package dataset

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"

	"vlmo-train/data/internal/spill"
)

// extent is a part of a file.
type extent struct {
	off  int64
	size uint32
}

// read returns what is there.
func (x extent) read(f io.ReaderAt) ([]byte, error) {
	b := make([]byte, x.size)
	if _, err := f.ReadAt(b, x.off); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF // the file has become shorter
		}
		return nil, bare(err)
	}
	return b, nil
}

// maxItem is the largest object of a JSON file: what is larger is no item.
const maxItem = 1 << 30

// decode decodes the JSON value that is there into v.
func (x extent) decode(f io.ReaderAt, v any) error {
	b, err := x.read(f)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

// numbers returns x as numbers, to be followed by others.
func (x extent) numbers(more ...uint64) []uint64 {
	return append([]uint64{uint64(x.off), uint64(x.size)}, more...)
}

// extentOf is the inverse of numbers.
func extentOf(v []uint64) extent { return extent{int64(v[0]), uint32(v[1])} }

// grouped is items that belong together by a key, in the order of the keys' first
// items. An item is an extent, and more numbers. They are not in memory.
type grouped struct {
	sorter spill.Sorter // while it is built: key, number of the item, item
	n      uint64       // items added
	rec    []byte
	items  *spill.Array // group after group
	groups *spill.Array // first item and number of items of each
}

// add appends an item; all have the same number of numbers.
func (g *grouped) add(key string, x extent, more ...uint64) error {
	hi, lo := spill.Hash([]byte(key))
	g.rec = spill.Encode(g.rec[:0], hi, lo, g.n)
	g.rec = spill.Encode(g.rec, x.numbers(more...)...)
	g.n++
	return g.sorter.Add(g.rec)
}

// done gathers the groups and calls each, if it is not nil, for the items of group
// after group.
func (g *grouped) done(each func(group int, begins bool, item []uint64) error) error {
	width := max(0, len(g.rec)-24) / 8
	g.items, g.groups = spill.NewArray(width), spill.NewArray(2)
	// By the number of the group's first item, and its own.
	var order spill.Sorter
	defer order.Close()
	first := make([]byte, 8)
	err := g.sorter.EachRun(spill.HashLen, func(begins bool, rec []byte) error {
		if rec = rec[spill.HashLen:]; begins {
			copy(first, rec)
		}
		g.rec = append(append(g.rec[:0], first...), rec...)
		return order.Add(g.rec)
	})
	if err != nil {
		return err
	}
	begin := 0
	end := func() error { return g.groups.Append(uint64(begin), uint64(g.items.Len()-begin)) }
	item := make([]uint64, width)
	err = order.EachRun(8, func(begins bool, rec []byte) error {
		if begins && g.items.Len() > 0 {
			if err := end(); err != nil {
				return err
			}
			begin = g.items.Len()
		}
		spill.Decode(rec, item)
		if each != nil {
			if err := each(g.groups.Len(), begins, item); err != nil {
				return err
			}
		}
		return g.items.Append(item...)
	})
	if err != nil || g.items.Len() == 0 {
		return err
	}
	return end()
}

// len returns the number of groups.
func (g *grouped) len() int {
	if g.groups == nil {
		return 0
	}
	return g.groups.Len()
}

// first returns where the first item of group k is.
func (g *grouped) first(k int) (x extent, err error) {
	var v [2]uint64
	if err = g.groups.At(k, v[:]); err == nil {
		err = g.items.At(int(v[0]), v[:])
	}
	return extentOf(v[:]), err
}

// group calls f for the items of group k in order.
func (g *grouped) group(k int, f func(extent) error) error {
	var at, v [2]uint64
	if err := g.groups.At(k, at[:]); err != nil {
		return err
	}
	for i := at[0]; i < at[0]+at[1]; i++ {
		if err := g.items.At(int(i), v[:]); err != nil {
			return err
		}
		if err := f(extentOf(v[:])); err != nil {
			return err
		}
	}
	return nil
}

// Close gives files back.
func (g *grouped) Close() error { return closeAll(&g.sorter, g.items, g.groups) }

// unique finds a name that occurs twice.
type unique struct {
	sorter spill.Sorter
	n      uint64
	rec    []byte
}

// add adds a name. They are numbered from 0.
func (u *unique) add(name string) error {
	hi, lo := spill.Hash([]byte(name))
	u.rec = spill.Encode(u.rec[:0], hi, lo, u.n)
	u.n++
	return u.sorter.Add(u.rec)
}

// twice returns the number of the first name that was there before, and that of the
// same name before it; ok is false if there is none.
func (u *unique) twice() (before, again int, ok bool, err error) {
	var v [1]uint64
	var first uint64
	err = u.sorter.EachRun(spill.HashLen, func(begins bool, rec []byte) error {
		if spill.Decode(rec, v[:]); begins {
			first = v[0]
		} else if !ok || int(v[0]) < again {
			before, again, ok = int(first), int(v[0]), true
		}
		return nil
	})
	return before, again, ok, err
}

// Close gives files back.
func (u *unique) Close() error { return u.sorter.Close() }

// eachElement calls f for the elements of a JSON array, with where they are: the
// file's value itself where key is empty, or the value of that key in the file's
// object. Other keys are skipped. Errors say at which byte of the file they are.
func eachElement(r io.Reader, key string, f func(x extent, raw json.RawMessage) error) error {
	br, skipped := skipBOM(r)
	d := json.NewDecoder(br)
	fail := func(err error) error {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("byte %d: %w", skipped+d.InputOffset(), err)
	}
	open := func(want json.Delim) error {
		t, err := d.Token()
		if err != nil {
			return fail(err)
		}
		if t != want {
			return fail(fmt.Errorf("%v, want %v", t, want))
		}
		return nil
	}
	elements := func() error {
		if err := open('['); err != nil {
			return err
		}
		var raw json.RawMessage
		for d.More() {
			if err := d.Decode(&raw); err != nil {
				return fail(err)
			}
			if len(raw) > maxItem {
				return fail(fmt.Errorf("an element of %d bytes", len(raw)))
			}
			if err := f(extent{skipped + d.InputOffset() - int64(len(raw)), uint32(len(raw))}, raw); err != nil {
				return fail(err)
			}
		}
		if _, err := d.Token(); err != nil {
			return fail(err)
		}
		return nil
	}
	if key == "" {
		return elements()
	}
	if err := open('{'); err != nil {
		return err
	}
	found := false
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return fail(err)
		}
		if t == key {
			if found {
				return fail(fmt.Errorf("a second %q", key))
			}
			found = true
			if err := elements(); err != nil {
				return err
			}
			continue
		}
		var other json.RawMessage
		if err := d.Decode(&other); err != nil {
			return fail(err)
		}
	}
	if _, err := d.Token(); err != nil {
		return fail(err)
	}
	if !found {
		return fmt.Errorf("no %q in it", key)
	}
	return nil
}

// skipBOM skips the byte order mark of a UTF-8 file, if it has one, and returns its
// length.
func skipBOM(r io.Reader) (*bufio.Reader, int64) {
	br := bufio.NewReaderSize(r, 64<<10)
	const bom = "\uFEFF"
	if b, _ := br.Peek(len(bom)); string(b) != bom {
		return br, 0
	}
	br.Discard(len(bom))
	return br, int64(len(bom))
}
