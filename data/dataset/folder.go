package dataset

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Folder is a set of picture files with a caption file beside each:
// cats/tom.jpg and cats/tom.txt, which holds one caption a line. The folder's
// folders are part of it; files and folders whose names begin with a dot are
// not. The ID is the path in the folder without the extension, "cats/tom", and
// every example is a group of its own.
type Folder struct {
	records []folderRecord
}

type folderRecord struct {
	id, path string
	captions []string
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

// OpenFolder lists the pictures under dir, in the order of their names, and reads
// their captions. A picture without a caption, two pictures that differ in the
// extension alone, and a folder without pictures are errors that name the file.
func OpenFolder(dir string) (*Folder, error) {
	d := new(Folder)
	seen := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if path != dir && strings.HasPrefix(entry.Name(), ".") {
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if entry.IsDir() || !isPicture(path) {
			return nil
		}
		stem := strings.TrimSuffix(path, filepath.Ext(path))
		if other, ok := seen[stem]; ok {
			return fmt.Errorf("%s: the captions' file belongs to %s, too", path, other)
		}
		seen[stem] = path
		id, err := filepath.Rel(dir, stem)
		if err != nil {
			return err
		}
		captions, err := readCaptions(stem + ".txt")
		if err != nil {
			return fmt.Errorf("picture %s: %w", path, err)
		}
		d.records = append(d.records, folderRecord{filepath.ToSlash(id), path, captions})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("dataset: %w", err)
	}
	if len(d.records) == 0 {
		return nil, fmt.Errorf("dataset: %s: no pictures", dir)
	}
	return d, nil
}

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

// Len returns the number of examples.
func (d *Folder) Len() int { return len(d.records) }

// Group returns the group of example i, its ID.
func (d *Folder) Group(i int) string { return d.records[i].id }

// Example reads example i. The captions are shared with the set, the picture is
// the caller's own.
func (d *Folder) Example(i int) (Example, error) {
	if err := checkIndex(i, len(d.records)); err != nil {
		return Example{}, err
	}
	r := &d.records[i]
	m, err := readPicture(r.path)
	if err != nil {
		return Example{}, &BadExampleError{Index: i, ID: r.id, Path: r.path, Err: err}
	}
	return Example{ID: r.id, Group: r.id, Image: m, Captions: r.captions}, nil
}
