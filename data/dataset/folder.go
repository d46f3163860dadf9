package dataset

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"vlmo-train/data/img"
)

// Folder is a set of picture files with a caption file beside each:
// cats/tom.jpg and cats/tom.txt, which holds one caption a line. The folder's
// folders are part of it; files and folders whose names begin with a dot are
// not. The ID is the path in the folder without the extension, "cats/tom", and
// every example is a group of its own. The names of the files are in memory, one after
// the other.
type Folder struct {
	dir    string
	decode img.Options
	names  []byte  // paths in dir
	ends   []int64 // of each example's in names
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
	dir := o.Path
	d := &Folder{dir: dir, decode: o.decode()}
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
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if _, err := readCaptions(stem + ".txt"); err != nil {
			return fmt.Errorf("picture %s: %w", path, err)
		}
		d.names = append(d.names, name...)
		d.ends = append(d.ends, int64(len(d.names)))
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("dataset: %w", err)
	}
	if len(d.ends) == 0 {
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
func (d *Folder) Len() int { return len(d.ends) }

// file returns the path of example i in the folder.
func (d *Folder) file(i int) string {
	begin := int64(0)
	if i > 0 {
		begin = d.ends[i-1]
	}
	return string(d.names[begin:d.ends[i]])
}

func (d *Folder) where(i int) string { return filepath.Join(d.dir, d.file(i)) }

// Group returns the group of example i, its ID.
func (d *Folder) Group(i int) string {
	name := d.file(i)
	return filepath.ToSlash(strings.TrimSuffix(name, filepath.Ext(name)))
}

// Example reads example i.
func (d *Folder) Example(i int) (Example, error) { return readExample(d, i, d.decode) }

// ReadWords reads example i without its picture.
func (d *Folder) ReadWords(i int) (Example, error) { return readWords(d, i) }

func (d *Folder) record(i int, _ bool) (r record, err error) {
	path := d.where(i)
	r.ID = d.Group(i)
	r.Group = r.ID
	r.pictures[0].path = path
	r.Captions, err = readCaptions(strings.TrimSuffix(path, filepath.Ext(path)) + ".txt")
	return r, err
}
