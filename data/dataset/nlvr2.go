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
)

// NLVR2 is pairs of pictures with sentences that are true or false of them. The
// folder has nlvr2/data/train.json, dev.json and test1.json, the balanced and
// unbalanced parts in nlvr2/data/balanced and so on, and the pictures in
// images/train/DIRECTORY, dev and test1. The splits are train, dev, test1,
// balanced_dev, balanced_test1, unbalanced_dev and unbalanced_test1. An example is
// a sentence, the ID its identifier; ImageID and Group are the pair's.
//
// The sentences stay on disk; 32 bytes a sentence are in memory.
type NLVR2 struct {
	f         *os.File
	dir       string // of pictures
	train     bool
	decode    img.Options
	pairs     grouped
	sentences []sentence
}

type sentence struct{ item, group int32 }

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
	d := &NLVR2{dir: o.Images, train: part == "train", decode: o.decode()}
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
	defer func() {
		if err != nil {
			d.f.Close()
		}
	}()
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
		item := int32(len(d.pairs.items))
		g := d.pairs.add(pair, extent{off, uint32(len(line))})
		d.sentences = append(d.sentences, sentence{item, int32(g)})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("dataset: %s:%w", path, err)
	}
	d.pairs.done()
	if len(d.sentences) == 0 {
		return nil, fmt.Errorf("dataset: %s: no examples", path)
	}
	return d, nil
}

// Close closes the JSON file.
func (d *NLVR2) Close() error {
	if err := d.f.Close(); err != nil {
		return fmt.Errorf("dataset: %w", err)
	}
	return nil
}

// Len returns the number of sentences.
func (d *NLVR2) Len() int { return len(d.sentences) }

func (d *NLVR2) where(int) string { return d.f.Name() }

// Group returns the group of example i, the identifier of its pictures.
func (d *NLVR2) Group(i int) string {
	var l nlvr2Line
	if err := d.pairs.items[d.sentences[i].item].decode(d.f, &l); err != nil {
		return strconv.Itoa(i)
	}
	return l.pair()
}

// Example reads example i.
func (d *NLVR2) Example(i int) (Example, error) { return readExample(d, i, d.decode) }

// ReadWords reads example i without its pictures.
func (d *NLVR2) ReadWords(i int) (Example, error) { return readWords(d, i) }

func (d *NLVR2) record(i int, pictures bool) (r record, err error) {
	s := d.sentences[i]
	var l nlvr2Line
	if err := d.pairs.items[s.item].decode(d.f, &l); err != nil {
		return r, err
	}
	r.ID, r.ImageID = l.Identifier, l.pair()
	r.Group = r.ImageID
	r.Question = &Question{Text: l.Sentence, Answers: []string{l.Label}}
	if err := r.Question.truth(); err != nil {
		return r, err
	}
	if pictures {
		r.pictures, err = d.pictures(s.group)
	}
	return r, err
}

// pictures returns the files of a pair. Train's are in the folder that the pair's
// first line names.
func (d *NLVR2) pictures(group int32) (files [2]blob, err error) {
	var l nlvr2Line
	if err := d.pairs.items[d.pairs.first[group]].decode(d.f, &l); err != nil {
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
