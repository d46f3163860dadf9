package dataset

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"vlmo-train/data/img"
	"vlmo-train/data/internal/spill"
)

// NLVR2 is pairs of pictures with sentences that are true or false of them. The
// folder has nlvr2/data/train.json, dev.json and test1.json, the balanced and
// unbalanced parts in nlvr2/data/balanced and so on, and the pictures in
// images/train/DIRECTORY, dev and test1. The splits are train, dev, test1,
// balanced_dev, balanced_test1, unbalanced_dev and unbalanced_test1. An example is
// a sentence, the ID its identifier; ImageID and Group are the pair's.
type NLVR2 struct {
	f         *os.File
	dir       string // of pictures
	train     bool
	decode    img.Options
	pairs     int
	sentences *spill.Array // extents of each, and of the first of its pair
}

// nlvr2Line is a line of the JSON file.
type nlvr2Line struct {
	Identifier string      `json:"identifier"`
	Sentence   string      `json:"sentence"`
	Label      string      `json:"label"`
	Directory  json.Number `json:"directory"`
}

// pair returns the identifier of the two pictures: the sentence's without its last
// part.
func (l *nlvr2Line) pair() string {
	i := strings.LastIndexByte(l.Identifier, '-')
	if i < 0 {
		return ""
	}
	return l.Identifier[:i]
}

// OpenNLVR2 opens a split of NLVR2.
func OpenNLVR2(o Options) (_ *NLVR2, err error) {
	split := splitNames(o.Split, false)[0]
	file := split + ".json"
	part := split
	if kind, of, ok := strings.Cut(split, "_"); ok && (kind == "balanced" || kind == "unbalanced") {
		file, part = filepath.Join(kind, file), of
	}
	path := filepath.Join(o.Path, "nlvr2", "data", file)
	d := &NLVR2{dir: o.Images, train: part == "train", decode: o.decode(), sentences: spill.NewArray(4)}
	if d.dir == "" {
		d.dir = o.Path
	}
	if d.train {
		part = filepath.Join("images", "train")
	}
	d.dir = filepath.Join(d.dir, part)
	if d.f, err = openFile(path); err != nil {
		return nil, fmt.Errorf("dataset: %w", err)
	}
	var pairs spill.Sorter // pair, number of the sentence, extent
	defer func() {
		pairs.Close()
		if err != nil {
			d.Close()
		}
	}()
	n := uint64(0)
	var rec []byte
	err = eachLine(d.f, maxLine, func(_ int, off int64, line []byte) error {
		var l nlvr2Line
		if err := json.Unmarshal(line, &l); err != nil {
			return err
		}
		pair := l.pair()
		if pair == "" {
			return fmt.Errorf("identifier %q is not of the form pair-number", l.Identifier)
		}
		if l.Label != "True" && l.Label != "False" {
			return fmt.Errorf(`label %q, want "True" or "False"`, l.Label)
		}
		hi, lo := spill.Hash([]byte(pair))
		rec = spill.Encode(rec[:0], hi, lo, n, uint64(off), uint64(len(line)))
		n++
		return pairs.Add(rec)
	})
	if err != nil {
		return nil, fmt.Errorf("dataset: %s:%w", path, err)
	}
	if n == 0 {
		return nil, fmt.Errorf("dataset: %s: no examples", path)
	}
	if err := d.index(&pairs); err != nil {
		return nil, fmt.Errorf("dataset: %s: %w", path, err)
	}
	return d, nil
}

// index fills in sentences.
func (d *NLVR2) index(pairs *spill.Sorter) error {
	var order spill.Sorter // number of the sentence, its extent, that of the pair's first
	defer order.Close()
	first := make([]byte, 16)
	var out []byte
	err := pairs.EachRun(spill.HashLen, func(begins bool, rec []byte) error {
		if begins {
			d.pairs++
			copy(first, rec[spill.HashLen+8:])
		}
		out = append(append(out[:0], rec[spill.HashLen:]...), first...)
		return order.Add(out)
	})
	if err != nil {
		return err
	}
	row := make([]uint64, 4)
	return order.Each(func(rec []byte) error {
		spill.Decode(rec, row)
		return d.sentences.Append(row...)
	})
}

// Close closes the files.
func (d *NLVR2) Close() error { return closeAll(d.f, d.sentences) }

// Len returns the number of sentences.
func (d *NLVR2) Len() int { return d.sentences.Len() }

func (d *NLVR2) where(int) string { return d.f.Name() }

// find returns where sentence i is, and the first of its pair.
func (d *NLVR2) find(i int) (x, first extent, err error) {
	var at [4]uint64
	err = d.sentences.At(i, at[:])
	return extentOf(at[:]), extentOf(at[2:]), err
}

// read reads sentence i.
func (d *NLVR2) read(i int) (l nlvr2Line, first extent, err error) {
	x, first, err := d.find(i)
	if err == nil {
		err = x.decode(d.f, &l)
	}
	return l, first, err
}

// Group returns the group of example i, the identifier of its pictures.
func (d *NLVR2) Group(i int) string {
	l, _, err := d.read(i)
	if err != nil {
		return strconv.Itoa(i)
	}
	return l.pair()
}

// Example reads example i.
func (d *NLVR2) Example(i int) (Example, error) { return readExample(d, i, d.decode) }

// ReadWords reads example i without its pictures.
func (d *NLVR2) ReadWords(i int) (Example, error) { return readWords(d, i) }

func (d *NLVR2) record(i int, pictures bool) (r record, err error) {
	l, first, err := d.read(i)
	if err != nil {
		return r, err
	}
	r.ID, r.ImageID = l.Identifier, l.pair()
	r.Group = r.ImageID
	r.Question = &Question{Text: l.Sentence, Answers: []string{l.Label}}
	if err := r.Question.truth(); err != nil {
		return r, err
	}
	if pictures {
		r.pictures, err = d.pictures(first)
	}
	return r, err
}

// pictures returns the files of a pair. Train's are in the folder that the pair's
// first line names.
func (d *NLVR2) pictures(first extent) (files [2]blob, err error) {
	var l nlvr2Line
	if err := first.decode(d.f, &l); err != nil {
		return files, err
	}
	dir := d.dir
	if d.train {
		if l.Directory == "" {
			return files, errors.New("no directory")
		}
		dir = filepath.Join(dir, l.Directory.String())
	}
	for k := range files {
		files[k].path = filepath.Join(dir, fmt.Sprintf("%s-img%d.png", l.pair(), k))
	}
	return files, nil
}
