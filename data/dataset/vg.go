package dataset

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"vlmo-train/data/img"
	"vlmo-train/data/internal/spill"
)

// VG is Visual Genome's region descriptions: annotations/region_descriptions.json,
// and the pictures in images/VG_100K and images/VG_100K_2. An example is a picture
// with the phrases of all its regions as captions; the ID is the picture's number.
// Pictures without regions and regions without a picture are left out.
type VG struct {
	f       *os.File
	images  [2]string
	regions grouped      // runs of regions of one picture, with its number
	files   *spill.Array // folder, number and group of each picture
	decode  img.Options
	lacking
}

// region is an element of "regions" in the JSON file.
type region struct {
	Image  *int64 `json:"image_id"`
	X      int64  `json:"x"`
	Y      int64  `json:"y"`
	Width  int64  `json:"width"`
	Height int64  `json:"height"`
	Phrase string `json:"phrase"`
}

// OpenVG opens Visual Genome, which has one split.
func OpenVG(o Options) (_ *VG, err error) {
	if split := splitNames(o.Split, false)[0]; split != "train" {
		return nil, fmt.Errorf("dataset: %s: Visual Genome has no split %q", o.Path, split)
	}
	path := filepath.Join(o.Path, "annotations", "region_descriptions.json")
	root := o.Images
	if root == "" {
		root = filepath.Join(o.Path, "images")
	}
	d := &VG{images: [2]string{filepath.Join(root, "VG_100K"), filepath.Join(root, "VG_100K_2")}, decode: o.decode(), files: spill.NewArray(3)}
	if d.f, err = openFile(path); err != nil {
		return nil, fmt.Errorf("dataset: %w", err)
	}
	defer func() {
		if err != nil {
			d.Close()
		}
	}()
	err = eachElement(d.f, "", func(x extent, raw json.RawMessage) error {
		return d.index(x, raw)
	})
	if err == nil {
		err = d.join()
	}
	if err != nil {
		return nil, fmt.Errorf("dataset: %s: %w", path, err)
	}
	if d.Len() == 0 {
		return nil, fmt.Errorf("dataset: %s: none of the %d pictures is in %s", path, d.regions.len(), root)
	}
	return d, nil
}

// join fills in files, in the order of folders and names: those that have regions.
func (d *VG) join() error {
	// The number of a picture; 0 and its group or 1, a folder and the file's name.
	var both spill.Sorter
	defer both.Close()
	var rec []byte
	err := d.regions.done(func(group int, begins bool, item []uint64) error {
		if !begins {
			return nil
		}
		rec = spill.Encode(rec[:0], item[2], 0, uint64(group))
		return both.Add(rec)
	})
	if err != nil {
		return err
	}
	for k, folder := range d.images {
		err := eachEntry(folder, func(e fs.DirEntry) error {
			id, err := strconv.ParseInt(strings.TrimSuffix(e.Name(), ".jpg"), 10, 64)
			if err != nil || e.IsDir() || e.Name() != vgName(id) {
				return nil
			}
			rec = append(spill.Encode(rec[:0], uint64(id), 1, uint64(k)), e.Name()...)
			return both.Add(rec)
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	var order spill.Sorter // folder, name, number, group
	defer order.Close()
	known, found := false, true
	var group, id, lacks uint64 // of the picture
	end := func() {
		if !found {
			if d.lacking.n++; d.lacking.n == 1 || group < lacks {
				lacks, d.lacking.first = group, vgName(int64(id))
			}
		}
	}
	err = both.EachRun(8, func(begins bool, in []byte) error {
		var v [3]uint64
		spill.Decode(in[:24], v[:])
		if begins {
			end()
			known, found = v[1] == 0, v[1] != 0
			id, group = v[0], v[2]
		}
		if v[1] == 0 || !known {
			return nil
		}
		found = true
		rec = append(append(spill.Encode(rec[:0], v[2]), in[24:]...), 0)
		rec = spill.Encode(rec, id, group)
		return order.Add(rec)
	})
	if err != nil {
		return err
	}
	end()
	return order.Each(func(rec []byte) error {
		var folder [1]uint64
		var v [2]uint64
		spill.Decode(rec[:8], folder[:])
		spill.Decode(rec, v[:])
		return d.files.Append(folder[0], v[0], v[1])
	})
}

// vgName returns the file of a picture.
func vgName(id int64) string { return strconv.FormatInt(id, 10) + ".jpg" }

// index adds the regions of one element. Each names its picture, which need not be
// the element's; regions of one picture side by side are one item.
func (d *VG) index(x extent, raw json.RawMessage) error {
	// The regions' places in the file are their places in the element, found by
	// reading the list on its own.
	var element struct {
		Regions json.RawMessage `json:"regions"`
	}
	if err := json.Unmarshal(raw, &element); err != nil {
		return err
	}
	list := element.Regions
	if len(list) == 0 || string(list) == "null" {
		return nil
	}
	at := bytes.Index(raw, list)
	if at < 0 {
		return errors.New("no regions")
	}
	var id int64
	var run extent
	flush := func() (err error) {
		if run.size > 0 {
			err = d.regions.add(strconv.FormatInt(id, 10), run, uint64(id))
		}
		run = extent{}
		return err
	}
	err := eachElement(bytes.NewReader(list), "", func(y extent, raw json.RawMessage) error {
		var r region
		if err := json.Unmarshal(raw, &r); err != nil {
			return err
		}
		if r.Image == nil {
			return errors.New("a region without image_id")
		}
		y.off += x.off + int64(at)
		if run.size > 0 && id == *r.Image {
			run.size = uint32(y.off-run.off) + y.size
			return nil
		}
		err := flush()
		id, run = *r.Image, y
		return err
	})
	if e := flush(); err == nil {
		err = e
	}
	return err
}

// run reads a run of regions.
func (d *VG) run(x extent) (list []region, err error) {
	b, err := x.read(d.f)
	if err != nil {
		return nil, err
	}
	err = json.Unmarshal(append(append([]byte{'['}, b...), ']'), &list)
	return list, err
}

// Close closes the files.
func (d *VG) Close() error { return closeAll(d.f, &d.regions, d.files) }

// Len returns the number of pictures.
func (d *VG) Len() int { return d.files.Len() }

func (d *VG) where(int) string { return d.f.Name() }

// Group returns the group of example i, its ID.
func (d *VG) Group(i int) string {
	var file [2]uint64
	if err := d.files.At(i, file[:]); err != nil {
		return fmt.Sprintf("example %d", i)
	}
	return strconv.FormatInt(int64(file[1]), 10)
}

// Example reads example i.
func (d *VG) Example(i int) (Example, error) { return readExample(d, i, d.decode) }

// ReadWords reads example i without its picture.
func (d *VG) ReadWords(i int) (Example, error) { return readWords(d, i) }

func (d *VG) record(i int, _ bool) (r record, err error) {
	var file [3]uint64
	if err := d.files.At(i, file[:]); err != nil {
		return r, err
	}
	r.ID = strconv.FormatInt(int64(file[1]), 10)
	r.Group, r.ImageID = r.ID, r.ID
	r.pictures[0].path = filepath.Join(d.images[file[0]], r.ID+".jpg")
	err = d.regions.group(int(file[2]), func(x extent) error {
		list, err := d.run(x)
		if err != nil {
			return err
		}
		for _, l := range list {
			r.Captions = append(r.Captions, l.Phrase)
			r.Regions = append(r.Regions, Region{l.X, l.Y, l.Width, l.Height})
		}
		return nil
	})
	return r, err
}
