package dataset

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"vlmo-train/data/img"
)

// Classes is a folder with a folder of pictures for each class, as ImageNet is
// kept: n01440764/n01440764_10026.JPEG. Folders inside a class belong to it. An
// example has no captions; its keyword is its class, its ID the path in the folder.
// The names of the files are in memory, one after the other.
type Classes struct {
	root    string
	decode  img.Options
	folders []string // in root
	starts  []int    // the first example of each folder
	names   []byte
	ends    []int64 // of each example's name in names
}

// OpenClasses lists the pictures in o.Path, in the order of folders and names. Pictures that
// are in no class are an error, and so is a folder without pictures.
func OpenClasses(o Options) (*Classes, error) {
	d := &Classes{root: o.Path, decode: o.decode()}
	if err := d.list(""); err != nil {
		return nil, fmt.Errorf("dataset: %w", err)
	}
	if len(d.ends) == 0 {
		return nil, fmt.Errorf("dataset: %s: no pictures in folders", o.Path)
	}
	return d, nil
}

// list adds the pictures in a folder of the root.
func (d *Classes) list(folder string) error {
	entries, err := os.ReadDir(filepath.Join(d.root, folder))
	if err != nil {
		return err
	}
	begun := false
	for _, e := range entries {
		if e.IsDir() || strings.HasPrefix(e.Name(), ".") || !isPicture(e.Name()) {
			continue
		}
		if folder == "" {
			return fmt.Errorf("%s: a picture that is in no class's folder", filepath.Join(d.root, e.Name()))
		}
		if !begun {
			d.folders = append(d.folders, folder)
			d.starts = append(d.starts, len(d.ends))
			begun = true
		}
		d.names = append(d.names, e.Name()...)
		d.ends = append(d.ends, int64(len(d.names)))
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		path := filepath.Join(folder, e.Name())
		// A link to a folder is a class, too.
		if info, err := os.Stat(filepath.Join(d.root, path)); e.IsDir() || e.Type()&os.ModeSymlink != 0 && err == nil && info.IsDir() {
			if strings.Count(path, string(filepath.Separator)) > 32 {
				return fmt.Errorf("%s: folders nested too deep; does a link lead back?", filepath.Join(d.root, path))
			}
			if err := d.list(path); err != nil {
				return err
			}
		}
	}
	return nil
}

// Len returns the number of pictures.
func (d *Classes) Len() int { return len(d.ends) }

// path returns the path of example i in the root.
func (d *Classes) path(i int) string {
	k := sort.Search(len(d.starts), func(k int) bool { return d.starts[k] > i }) - 1
	begin := int64(0)
	if i > 0 {
		begin = d.ends[i-1]
	}
	return filepath.Join(d.folders[k], string(d.names[begin:d.ends[i]]))
}

func (d *Classes) where(i int) string { return filepath.Join(d.root, d.path(i)) }

// Group returns the group of example i, its ID.
func (d *Classes) Group(i int) string { return filepath.ToSlash(d.path(i)) }

// Example reads example i.
func (d *Classes) Example(i int) (Example, error) { return readExample(d, i, d.decode) }

// ReadWords returns example i without its picture.
func (d *Classes) ReadWords(i int) (Example, error) { return readWords(d, i) }

func (d *Classes) record(i int, _ bool) (r record, err error) {
	r.ID = d.Group(i)
	r.Group, r.ImageID = r.ID, r.ID
	class, _, _ := strings.Cut(r.ID, "/")
	r.Keywords = []string{class}
	r.pictures[0].path = d.where(i)
	return r, nil
}
