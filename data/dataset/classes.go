package dataset

import (
	"fmt"
	"path/filepath"
	"strings"

	"vlmo-train/data/img"
)

// Classes is a folder with a folder of pictures for each class, as ImageNet is
// kept: n01440764/n01440764_10026.JPEG. Folders inside a class belong to it. An
// example has no captions; its keyword is its class, its ID the path in the folder.
type Classes struct {
	tree
	decode img.Options
}

// OpenClasses lists the pictures in o.Path, in the order of folders and names. Pictures that
// are in no class are an error, and so is a folder without pictures.
func OpenClasses(o Options) (*Classes, error) {
	d := &Classes{newTree(o.Path), o.decode()}
	err := d.list("")
	if err == nil && d.Len() == 0 {
		err = fmt.Errorf("%s: no pictures in folders", d.root)
	}
	if err != nil {
		d.Close()
		return nil, fmt.Errorf("dataset: %w", err)
	}
	return d, nil
}

// list adds the pictures in a folder of the root. A link to a folder is a class, too.
func (d *Classes) list(folder string) error {
	return sortedEntries(filepath.Join(d.root, folder), true, true, func(name string, isFolder bool) error {
		name = filepath.Join(folder, name)
		switch {
		case isFolder && strings.Count(name, string(filepath.Separator)) > 32:
			return fmt.Errorf("%s: folders nested too deep; does a link lead back?", filepath.Join(d.root, name))
		case isFolder:
			return d.list(name)
		case folder == "":
			return fmt.Errorf("%s: a picture that is in no class's folder", filepath.Join(d.root, name))
		}
		return d.names.Append(name)
	})
}

// Group returns the group of example i, its ID.
func (d *Classes) Group(i int) string { return filepath.ToSlash(d.name(i)) }

// Example reads example i.
func (d *Classes) Example(i int) (Example, error) { return readExample(d, i, d.decode) }

// ReadWords returns example i without its picture.
func (d *Classes) ReadWords(i int) (Example, error) { return readWords(d, i) }

func (d *Classes) record(i int, _ bool) (r record, err error) {
	name, err := d.names.At(i)
	if err != nil {
		return r, err
	}
	r.ID = filepath.ToSlash(name)
	r.Group, r.ImageID = r.ID, r.ID
	class, _, _ := strings.Cut(r.ID, "/")
	r.Keywords = []string{class}
	r.pictures[0].path = filepath.Join(d.root, name)
	return r, nil
}
