package dataset

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"vlmo-train/data/img"
	"vlmo-train/data/internal/spill"
)

// Karpathy is COCO or Flickr30K in Karpathy's split: the folder has
// karpathy/dataset_coco.json with train2014 and val2014 beside it, or
// karpathy/dataset_flickr30k.json with flickr30k-images. The splits are train,
// val and test, for COCO also restval; train has restval in it, as VLMo is
// trained. An example is a picture with all its captions, the ID its file name.
type Karpathy struct {
	f      *os.File
	images string // with folders of the file's filepath in it
	flat   bool   // there are no such folders
	decode img.Options
	items  grouped      // of all splits, with whether it is wanted and the key of its picture
	groups *spill.Array // of the split's pictures
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
	d.groups = spill.NewArray(1)
	if d.f, err = openFile(path); err != nil {
		return nil, fmt.Errorf("dataset: %w", err)
	}
	var files presence
	defer func() {
		files.Close()
		if err != nil {
			d.Close()
		}
	}()
	err = eachElement(d.f, "images", func(x extent, raw json.RawMessage) error {
		var item karpathyItem
		if err := json.Unmarshal(raw, &item); err != nil {
			return err
		}
		if item.Filename == "" {
			return errors.New("an image without filename")
		}
		wanted := uint64(0)
		if slices.Contains(splits, item.Split) {
			wanted = 1
		}
		key := files.file(d.picture(&item))
		return d.items.add(item.Filename, x, wanted, key[0], key[1])
	})
	if err == nil {
		err = d.choose(&files)
	}
	if err != nil {
		return nil, fmt.Errorf("dataset: %s: %w", path, err)
	}
	if d.Len() == 0 {
		return nil, fmt.Errorf("dataset: %s: %w", path, &emptyError{splits[0], d.lacking.n, d.images})
	}
	return d, nil
}

// choose fills in groups: those whose last item is wanted and whose picture, that of
// the first item, is there.
func (d *Karpathy) choose(files *presence) error {
	var picture pathKey
	wanted := false
	end := func(group int) error {
		if !wanted {
			return nil
		}
		return files.ask(picture, uint64(group))
	}
	err := d.items.done(func(group int, begins bool, item []uint64) error {
		if begins {
			if err := end(group - 1); err != nil {
				return err
			}
			picture = pathKey(item[3:5])
		}
		wanted = item[2] == 1
		return nil
	})
	if err == nil {
		err = end(d.items.len() - 1)
	}
	if err != nil {
		return err
	}
	return files.each(func(group uint64, there bool) error {
		if there {
			return d.groups.Append(group)
		}
		if d.lacking.n++; d.lacking.n > 1 {
			return nil
		}
		x, err := d.items.first(int(group))
		if err != nil {
			return err
		}
		var item karpathyItem
		err = x.decode(d.f, &item)
		d.lacking.first = d.picture(&item)
		return err
	})
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

// Close closes the files.
func (d *Karpathy) Close() error { return closeAll(d.f, &d.items, d.groups) }

// Len returns the number of pictures.
func (d *Karpathy) Len() int { return d.groups.Len() }

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
	var group [1]uint64
	if err := d.groups.At(i, group[:]); err != nil {
		return r, err
	}
	err = d.items.group(int(group[0]), func(x extent) error {
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
