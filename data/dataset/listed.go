package dataset

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"vlmo-train/data/img"
	"vlmo-train/data/internal/spill"
)

// Listed is Conceptual Captions (GCC) or SBU as downloaded for VLMo: a JSON list
// of [path, caption] pairs and a folder of folders of pictures,
//
//	train_annot.json, images_train/0000/0000000   GCC; split val likewise
//	annot.json, images_train/0000/0000000.jpg     SBU
//
// joined by the files' base names, which are the IDs. Of two pairs of one name the
// later counts; pairs without a file are left out, as those whose picture could not
// be downloaded, and so are files without a pair.
type Listed struct {
	f       *os.File
	folders *spill.Strings // of pictures
	files   *spill.Array   // folder of each picture, and extent of its pair
	decode  img.Options
	lacking
}

// OpenGCC opens Conceptual Captions.
func OpenGCC(o Options) (*Listed, error) {
	split := splitNames(o.Split, false)[0]
	return openListed(o, split+"_annot.json", "images_"+split)
}

// OpenSBU opens SBU; its only split is train.
func OpenSBU(o Options) (*Listed, error) {
	if split := splitNames(o.Split, false)[0]; split != "train" {
		return nil, fmt.Errorf("dataset: %s: SBU has no split %q", o.Path, split)
	}
	return openListed(o, "annot.json", "images_train")
}

// pair decodes a pair and returns the base name of its path.
func pair(raw []byte) (name, caption string, err error) {
	var p []string
	if err := json.Unmarshal(raw, &p); err != nil {
		return "", "", err
	}
	if len(p) != 2 {
		return "", "", fmt.Errorf("a list of %d, want [path, caption]", len(p))
	}
	return p[0][strings.LastIndexByte(p[0], '/')+1:], p[1], nil
}

func openListed(o Options, list, images string) (_ *Listed, err error) {
	path := filepath.Join(o.Path, list)
	d := &Listed{decode: o.decode(), folders: spill.NewStrings(), files: spill.NewArray(3)}
	if d.f, err = openFile(path); err != nil {
		return nil, fmt.Errorf("dataset: %w", err)
	}
	// A file's name; 0, number and extent of its pair or 1, a folder and the name again.
	var both spill.Sorter
	defer func() {
		both.Close()
		if err != nil {
			d.Close()
		}
	}()
	n := uint64(0)
	var rec []byte
	err = eachElement(d.f, "", func(x extent, raw json.RawMessage) error {
		name, _, err := pair(raw)
		if err != nil {
			return err
		}
		hi, lo := spill.Hash([]byte(name))
		rec = spill.Encode(rec[:0], hi, lo, 0, n, uint64(x.off), uint64(x.size))
		n++
		return both.Add(rec)
	})
	if err != nil {
		return nil, fmt.Errorf("dataset: %s: %w", path, err)
	}
	root := o.Images
	if root == "" {
		root = filepath.Join(o.Path, images)
	}
	if err := d.list(root, &both); err != nil {
		return nil, fmt.Errorf("dataset: %w", err)
	}
	names, err := d.join(&both)
	if err != nil {
		return nil, fmt.Errorf("dataset: %s: %w", path, err)
	}
	if d.Len() == 0 {
		return nil, fmt.Errorf("dataset: %s: none of the %d pictures is in %s", path, names, root)
	}
	return d, nil
}

// list adds the files in the root's folders to those to be joined.
func (d *Listed) list(root string, both *spill.Sorter) error {
	folders, err := os.ReadDir(root)
	if err != nil {
		return err
	}
	var rec []byte
	for _, e := range folders {
		if !e.IsDir() {
			continue
		}
		folder := filepath.Join(root, e.Name())
		err := eachEntry(folder, func(e fs.DirEntry) error {
			if e.IsDir() {
				return nil
			}
			hi, lo := spill.Hash([]byte(e.Name()))
			rec = append(spill.Encode(rec[:0], hi, lo, 1, uint64(d.folders.Len())), e.Name()...)
			return both.Add(rec)
		})
		if err == nil {
			err = d.folders.Append(folder)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// join fills in files, in the order of folders and names: those that have a pair. It
// returns the number of names in the list.
func (d *Listed) join(both *spill.Sorter) (names int, err error) {
	var order spill.Sorter // folder, name, extent
	defer order.Close()
	known, found := false, true
	var first, lacks uint64 // number of the name's first pair; the smallest of those without a file
	var last, lacking extent
	end := func() {
		if !found {
			if d.lacking.n++; d.lacking.n == 1 || first < lacks {
				lacks, lacking = first, last
			}
		}
	}
	const head = spill.HashLen + 8
	var rec []byte
	err = both.EachRun(spill.HashLen, func(begins bool, in []byte) error {
		var is [1]uint64
		spill.Decode(in[:head], is[:])
		if begins {
			end()
			known, found = false, true
		}
		if is[0] == 0 {
			var v [3]uint64
			spill.Decode(in, v[:])
			if last = extentOf(v[1:]); !known {
				names++
				known, found, first = true, false, v[0]
			}
			return nil
		}
		if !known {
			return nil
		}
		found = true
		rec = append(append(rec[:0], in[head:]...), 0)
		rec = spill.Encode(rec, last.numbers()...)
		return order.Add(rec)
	})
	if err != nil {
		return names, err
	}
	if end(); d.lacking.n > 0 {
		b, err := lacking.read(d.f)
		if err != nil {
			return names, err
		}
		if d.lacking.first, _, err = pair(b); err != nil {
			return names, err
		}
	}
	return names, order.Each(func(rec []byte) error {
		var folder [1]uint64
		var at [2]uint64
		spill.Decode(rec[:8], folder[:])
		spill.Decode(rec, at[:])
		return d.files.Append(folder[0], at[0], at[1])
	})
}

// Close closes the files.
func (d *Listed) Close() error { return closeAll(d.f, d.folders, d.files) }

// Len returns the number of pictures.
func (d *Listed) Len() int { return d.files.Len() }

func (d *Listed) where(int) string { return d.f.Name() }

// Group returns the group of example i, its ID.
func (d *Listed) Group(i int) string {
	r, _ := d.record(i, false)
	return r.Group
}

// Example reads example i.
func (d *Listed) Example(i int) (Example, error) { return readExample(d, i, d.decode) }

// ReadWords reads example i without its picture.
func (d *Listed) ReadWords(i int) (Example, error) { return readWords(d, i) }

func (d *Listed) record(i int, _ bool) (r record, err error) {
	var file [3]uint64
	if err := d.files.At(i, file[:]); err != nil {
		return r, err
	}
	folder, err := d.folders.At(int(file[0]))
	if err != nil {
		return r, err
	}
	b, err := extentOf(file[1:]).read(d.f)
	if err != nil {
		return r, err
	}
	name, caption, err := pair(b)
	if err != nil {
		return r, err
	}
	r.ID, r.Group, r.ImageID = name, name, name
	r.Captions = []string{caption}
	r.pictures[0].path = filepath.Join(folder, name)
	return r, nil
}
