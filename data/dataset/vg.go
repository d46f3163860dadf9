package dataset

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"vlmo-train/data/img"
)

// VG is Visual Genome's region descriptions: annotations/region_descriptions.json,
// and the pictures in images/VG_100K and images/VG_100K_2. An example is a picture
// with the phrases of all its regions as captions; the ID is the picture's number.
// Pictures without regions and regions without a picture are left out.
//
// The phrases stay on disk; 28 bytes a picture are in memory.
type VG struct {
	f       *os.File
	images  [2]string
	regions grouped // runs of regions of one picture
	files   []vgFile
	decode  img.Options
	lacking
}

type vgFile struct {
	id     int64
	group  int32
	folder uint8
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
	d := &VG{images: [2]string{filepath.Join(root, "VG_100K"), filepath.Join(root, "VG_100K_2")}, decode: o.decode()}
	if d.f, err = openFile(path); err != nil {
		return nil, fmt.Errorf("dataset: %w", err)
	}
	defer func() {
		if err != nil {
			d.f.Close()
		}
	}()
	err = eachElement(d.f, "", func(x extent, raw json.RawMessage) error {
		return d.index(x, raw)
	})
	if err != nil {
		return nil, fmt.Errorf("dataset: %s: %w", path, err)
	}
	found := make([]bool, len(d.regions.first))
	for k, folder := range d.images {
		entries, err := os.ReadDir(folder)
		if err != nil && !os.IsNotExist(err) {
			return nil, fmt.Errorf("dataset: %w", err)
		}
		for _, e := range entries {
			name, ok := strings.CutSuffix(e.Name(), ".jpg")
			id, err := strconv.ParseInt(name, 10, 64)
			if !ok || err != nil || e.IsDir() {
				continue
			}
			if g, ok := d.regions.find(strconv.FormatInt(id, 10)); ok {
				d.files = append(d.files, vgFile{id, int32(g), uint8(k)})
				found[g] = true
			}
		}
	}
	d.regions.done()
	for g, ok := range found {
		if ok {
			continue
		}
		list, err := d.run(d.regions.items[d.regions.first[g]])
		if err != nil {
			return nil, fmt.Errorf("dataset: %s: %w", path, err)
		}
		d.add(strconv.FormatInt(*list[0].Image, 10) + ".jpg")
	}
	if len(d.files) == 0 {
		return nil, fmt.Errorf("dataset: %s: none of the %d pictures is in %s", path, len(found), root)
	}
	return d, nil
}

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
	flush := func() {
		if run.size > 0 {
			d.regions.add(strconv.FormatInt(id, 10), run)
		}
		run = extent{}
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
		flush()
		id, run = *r.Image, y
		return nil
	})
	flush()
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

// Close closes the JSON file.
func (d *VG) Close() error {
	if err := d.f.Close(); err != nil {
		return fmt.Errorf("dataset: %w", err)
	}
	return nil
}

// Len returns the number of pictures.
func (d *VG) Len() int { return len(d.files) }

func (d *VG) where(int) string { return d.f.Name() }

// Group returns the group of example i, its ID.
func (d *VG) Group(i int) string { return strconv.FormatInt(d.files[i].id, 10) }

// Example reads example i.
func (d *VG) Example(i int) (Example, error) { return readExample(d, i, d.decode) }

// ReadWords reads example i without its picture.
func (d *VG) ReadWords(i int) (Example, error) { return readWords(d, i) }

func (d *VG) record(i int, _ bool) (r record, err error) {
	file := d.files[i]
	r.ID = d.Group(i)
	r.Group, r.ImageID = r.ID, r.ID
	r.pictures[0].path = filepath.Join(d.images[file.folder], r.ID+".jpg")
	err = d.regions.group(int(file.group), func(x extent) error {
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
