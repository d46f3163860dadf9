package dataset

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"vlmo-train/data/img"
)

// Karpathy is COCO or Flickr30K in Karpathy's split: the folder has
// karpathy/dataset_coco.json with train2014 and val2014 beside it, or
// karpathy/dataset_flickr30k.json with flickr30k-images. The splits are train,
// val and test, for COCO also restval; train has restval in it, as VLMo is
// trained. An example is a picture with all its captions, the ID its file name.
//
// The captions stay on disk; 28 bytes a picture are in memory.
type Karpathy struct {
	f      *os.File
	images string // with folders of the file's filepath in it
	flat   bool   // there are no such folders
	decode img.Options
	items  grouped
	groups []int32 // of the split's pictures
	lacking
}

// karpathyItem is what an element of "images" in the JSON file says.
type karpathyItem struct {
	Filename  string `json:"filename"`
	Filepath  string `json:"filepath"`
	Split     string `json:"split"`
	Sentences []struct {
		Raw string `json:"raw"`
	} `json:"sentences"`
}

// The file in the folder karpathy, and the pictures' folder.
const (
	cocoFile, cocoImages = "dataset_coco.json", ""
	f30kFile, f30kImages = "dataset_flickr30k.json", "flickr30k-images"
)

// OpenCOCO opens a split of COCO. Pictures without a file are left out, see
// Incomplete.
func OpenCOCO(o Options) (*Karpathy, error) {
	return openKarpathy(o, cocoFile, cocoImages, splitNames(o.Split, true))
}

// OpenF30K opens a split of Flickr30K. Pictures without a file are left out, see
// Incomplete.
func OpenF30K(o Options) (*Karpathy, error) {
	return openKarpathy(o, f30kFile, f30kImages, splitNames(o.Split, true))
}

// splitNames returns the names in the file that a split stands for.
func splitNames(split string, together bool) []string {
	if split == "" {
		split = "train"
	}
	if split == "train" && together {
		return []string{"train", "restval"}
	}
	return []string{split}
}

func openKarpathy(o Options, name, images string, splits []string) (_ *Karpathy, err error) {
	path := filepath.Join(o.Path, "karpathy", name)
	d := &Karpathy{images: o.Images, flat: images != "", decode: o.decode()}
	if d.images == "" {
		d.images = filepath.Join(o.Path, images)
	}
	if d.f, err = openFile(path); err != nil {
		return nil, fmt.Errorf("dataset: %w", err)
	}
	defer func() {
		if err != nil {
			d.f.Close()
		}
	}()
	there := make(listing)
	var of []string    // the split of each group
	var lacks []string // its picture, if that has no file
	known := make(map[string]string)
	err = eachElement(d.f, "images", func(x extent, raw json.RawMessage) error {
		var item karpathyItem
		if err := json.Unmarshal(raw, &item); err != nil {
			return err
		}
		if item.Filename == "" {
			return errors.New("an image without filename")
		}
		if known[item.Split] == "" {
			known[item.Split] = item.Split
		}
		g := d.items.add(item.Filename, x)
		if g == len(of) {
			picture := d.picture(&item)
			ok, err := there.has(picture)
			if err != nil {
				return err
			}
			if ok {
				picture = ""
			}
			of, lacks = append(of, ""), append(lacks, picture)
		}
		of[g] = known[item.Split]
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("dataset: %s: %w", path, err)
	}
	d.items.done()
	for g := range of {
		for _, s := range splits {
			if of[g] != s {
				continue
			}
			if lacks[g] != "" {
				d.add(lacks[g])
				continue
			}
			d.groups = append(d.groups, int32(g))
		}
	}
	if len(d.groups) == 0 {
		return nil, fmt.Errorf("dataset: %s: %w", path, &emptyError{splits[0], d.lacking.n, d.images})
	}
	return d, nil
}

// emptyError says why a split is empty.
type emptyError struct {
	split   string
	missing int    // pictures
	images  string // where they are looked for
}

func (e *emptyError) Error() string {
	if e.missing > 0 {
		return fmt.Sprintf("none of the %d pictures of split %q is in %s", e.missing, e.split, e.images)
	}
	return fmt.Sprintf("no examples in split %q", e.split)
}

// listing remembers which files are in the folders it was asked about, so that
// they are listed once.
type listing map[string]map[string]struct{}

// has reports whether there is a file of that path. A folder that does not exist
// has none.
func (l listing) has(path string) (bool, error) {
	dir, name := filepath.Split(path)
	files, ok := l[dir]
	if !ok {
		files = make(map[string]struct{})
		entries, err := os.ReadDir(filepath.Clean(dir))
		if err != nil && !os.IsNotExist(err) {
			return false, err
		}
		for _, e := range entries {
			if !e.IsDir() {
				files[e.Name()] = struct{}{}
			}
		}
		l[dir] = files
	}
	_, ok = files[name]
	return ok, nil
}

// Close closes the JSON file.
func (d *Karpathy) Close() error {
	if err := d.f.Close(); err != nil {
		return fmt.Errorf("dataset: %w", err)
	}
	return nil
}

// Len returns the number of pictures.
func (d *Karpathy) Len() int { return len(d.groups) }

func (d *Karpathy) where(int) string { return d.f.Name() }

func (d *Karpathy) picture(item *karpathyItem) string {
	if d.flat {
		return filepath.Join(d.images, item.Filename)
	}
	return filepath.Join(d.images, item.Filepath, item.Filename)
}

// Group returns the group of example i, its ID.
func (d *Karpathy) Group(i int) string {
	r, _ := d.record(i, false)
	return r.Group
}

// Example reads example i.
func (d *Karpathy) Example(i int) (Example, error) { return readExample(d, i, d.decode) }

// ReadWords reads example i without its picture.
func (d *Karpathy) ReadWords(i int) (Example, error) { return readWords(d, i) }

func (d *Karpathy) record(i int, _ bool) (r record, err error) {
	err = d.items.group(int(d.groups[i]), func(x extent) error {
		var item karpathyItem
		if err := x.decode(d.f, &item); err != nil {
			return err
		}
		r.ID = item.Filename
		r.Group, r.ImageID = r.ID, r.ID
		if r.pictures[0].empty() {
			r.pictures[0].path = d.picture(&item)
		}
		for _, s := range item.Sentences {
			r.Captions = append(r.Captions, s.Raw)
		}
		return nil
	})
	return r, err
}
