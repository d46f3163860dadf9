package dataset

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"vlmo-train/data/img"
)

// Folder is a set of picture files with a caption file beside each:
// cats/tom.jpg and cats/tom.txt, which holds one caption a line. The folder's
// folders are part of it; files and folders whose names begin with a dot are
// not. The ID is the path in the folder without the extension, "cats/tom", and
// every example is a group of its own.
type Folder struct {
	tree
	decode img.Options
}

// isPicture reports whether a file name has the extension of a format that
// package img decodes.
func isPicture(name string) bool {
	switch strings.ToLower(filepath.Ext(name)) {
	case ".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp":
		return true
	}
	return false
}

// OpenFolder lists the pictures under o.Path, in the order of their names, and reads
// their captions. A picture without a caption, two pictures that differ in the
// extension alone, and a folder without pictures are errors that name the file.
func OpenFolder(o Options) (*Folder, error) {
	d := &Folder{newTree(o.Path), o.decode()}
	var stems unique
	defer stems.Close()
	err := d.list("", &stems)
	if err == nil && d.Len() == 0 {
		err = fmt.Errorf("%s: no pictures", d.root)
	}
	var before, again int
	var twice bool
	if err == nil {
		before, again, twice, err = stems.twice()
	}
	if err == nil && twice {
		err = fmt.Errorf("%s: the captions' file belongs to %s, too", d.where(again), d.where(before))
	}
	if err != nil {
		d.Close()
		return nil, fmt.Errorf("dataset: %w", err)
	}
	return d, nil
}

// list adds the pictures in a folder of the set's.
func (d *Folder) list(folder string, stems *unique) error {
	return sortedEntries(filepath.Join(d.root, folder), false, false, func(name string, isFolder bool) error {
		name = filepath.Join(folder, name)
		if isFolder {
			return d.list(name, stems)
		}
		stem := stemOf(name)
		if _, err := readCaptions(filepath.Join(d.root, stem) + ".txt"); err != nil {
			return fmt.Errorf("picture %s: %w", filepath.Join(d.root, name), err)
		}
		if err := stems.add(stem); err != nil {
			return err
		}
		return d.names.Append(name)
	})
}

// stemOf returns a path without its extension.
func stemOf(path string) string { return strings.TrimSuffix(path, filepath.Ext(path)) }

// readCaptions returns the lines of a caption file.
func readCaptions(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var captions []string
	err = eachLine(f, maxLine, func(_ int, _ int64, line []byte) error {
		captions = append(captions, string(line))
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%s:%w", path, err)
	}
	if captions == nil {
		return nil, fmt.Errorf("%s: no captions", path)
	}
	return captions, nil
}

// Group returns the group of example i, its ID.
func (d *Folder) Group(i int) string { return filepath.ToSlash(stemOf(d.name(i))) }

// Example reads example i.
func (d *Folder) Example(i int) (Example, error) { return readExample(d, i, d.decode) }

// ReadWords reads example i without its picture.
func (d *Folder) ReadWords(i int) (Example, error) { return readWords(d, i) }

func (d *Folder) record(i int, _ bool) (r record, err error) {
	name, err := d.names.At(i)
	if err != nil {
		return r, err
	}
	r.ID = filepath.ToSlash(stemOf(name))
	r.Group = r.ID
	path := filepath.Join(d.root, name)
	r.pictures[0].path = path
	r.Captions, err = readCaptions(stemOf(path) + ".txt")
	return r, err
}
