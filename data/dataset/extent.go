package dataset

import (
	"bufio"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"io"
	"os"
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

// grouped is items that belong together by a key, in the order of the keys' first
// items. 28 bytes an item are in memory, and no keys once it is built.
type grouped struct {
	items []extent
	next  []int32 // the group's next item, -1 for none
	first []int32 // of each group
	last  []int32 // while it is built
	keys  map[[2]uint64]int32
	seeds [2]maphash.Seed
}

// add appends an item and returns its group.
func (g *grouped) add(key string, x extent) int {
	if g.keys == nil {
		g.keys = make(map[[2]uint64]int32)
		g.seeds = [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}
	}
	h := g.hash(key)
	k, ok := g.keys[h]
	item := int32(len(g.items))
	g.items = append(g.items, x)
	g.next = append(g.next, -1)
	if ok {
		g.next[g.last[k]] = item
		g.last[k] = item
		return int(k)
	}
	k = int32(len(g.first))
	g.keys[h] = k
	g.first = append(g.first, item)
	g.last = append(g.last, item)
	return int(k)
}

// hash stands for a key: 128 bits, so that no two keys ever have the same.
func (g *grouped) hash(key string) [2]uint64 {
	return [2]uint64{maphash.String(g.seeds[0], key), maphash.String(g.seeds[1], key)}
}

// find returns the group of a key.
func (g *grouped) find(key string) (int, bool) {
	if g.keys == nil {
		return 0, false
	}
	k, ok := g.keys[g.hash(key)]
	return int(k), ok
}

// done forgets the keys.
func (g *grouped) done() { g.keys, g.last = nil, nil }

// group calls f for the items of group k in order.
func (g *grouped) group(k int, f func(extent) error) error {
	for i := g.first[k]; i >= 0; i = g.next[i] {
		if err := f(g.items[i]); err != nil {
			return err
		}
	}
	return nil
}

// lacking counts the examples of a raw set that are left out because their picture
// has no file, as the original does.
type lacking struct {
	n     int
	first string
}

func (l *lacking) add(picture string) {
	if l.n == 0 {
		l.first = picture
	}
	l.n++
}

// Incomplete returns how many examples were left out because there is no file for
// their picture, and the name of one such picture.
func (l *lacking) Incomplete() (n int, picture string) { return l.n, l.first }

// openFile opens a file that is no folder.
func openFile(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.IsDir() {
		err = fmt.Errorf("%s is a folder", path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

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
