package dataset

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"vlmo-train/data/img"
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
//
// The captions stay on disk; about 40 bytes a pair are in memory.
type Listed struct {
	f       *os.File
	folders []string // of pictures
	pairs   grouped
	last    []extent // of each group
	files   []listedFile
	decode  img.Options
	lacking
}

type listedFile struct{ group, folder int32 }

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
	d := &Listed{decode: o.decode()}
	if d.f, err = openFile(path); err != nil {
		return nil, fmt.Errorf("dataset: %w", err)
	}
	defer func() {
		if err != nil {
			d.f.Close()
		}
	}()
	err = eachElement(d.f, "", func(x extent, raw json.RawMessage) error {
		name, _, err := pair(raw)
		if err != nil {
			return err
		}
		if g := d.pairs.add(name, x); g < len(d.last) {
			d.last[g] = x
		} else {
			d.last = append(d.last, x)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("dataset: %s: %w", path, err)
	}
	root := o.Images
	if root == "" {
		root = filepath.Join(o.Path, images)
	}
	if err := d.list(root); err != nil {
		return nil, fmt.Errorf("dataset: %w", err)
	}
	d.pairs = grouped{}
	if len(d.files) == 0 {
		return nil, fmt.Errorf("dataset: %s: none of the %d pictures is in %s", path, len(d.last), root)
	}
	return d, nil
}

// list joins the pictures in the root's folders with the pairs.
func (d *Listed) list(root string) error {
	folders, err := os.ReadDir(root)
	if err != nil {
		return err
	}
	found := make([]bool, len(d.last))
	for _, e := range folders {
		if !e.IsDir() {
			continue
		}
		folder := filepath.Join(root, e.Name())
		entries, err := os.ReadDir(folder)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if g, ok := d.pairs.find(e.Name()); ok && !e.IsDir() {
				d.files = append(d.files, listedFile{int32(g), int32(len(d.folders))})
				found[g] = true
			}
		}
		d.folders = append(d.folders, folder)
	}
	for g, ok := range found {
		if ok {
			continue
		}
		b, err := d.last[g].read(d.f)
		if err != nil {
			return err
		}
		name, _, err := pair(b)
		if err != nil {
			return err
		}
		d.add(name)
	}
	return nil
}

// Close closes the list.
func (d *Listed) Close() error {
	if err := d.f.Close(); err != nil {
		return fmt.Errorf("dataset: %w", err)
	}
	return nil
}

// Len returns the number of pictures.
func (d *Listed) Len() int { return len(d.files) }

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
	file := d.files[i]
	b, err := d.last[file.group].read(d.f)
	if err != nil {
		return r, err
	}
	name, caption, err := pair(b)
	if err != nil {
		return r, err
	}
	r.ID, r.Group, r.ImageID = name, name, name
	r.Captions = []string{caption}
	r.pictures[0].path = filepath.Join(d.folders[file.folder], name)
	return r, nil
}
