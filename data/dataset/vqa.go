package dataset

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"vlmo-train/data/img"
	"vlmo-train/data/internal/spill"
	"vlmo-train/data/vqa"
)

// VQA is VQAv2: questions and annotations as published,
//
//	v2_OpenEnded_mscoco_train2014_questions.json  and val2014, test2015, test-dev2015
//	v2_mscoco_train2014_annotations.json          and val2014
//	train2014/COCO_train2014_000000000009.jpg     and val2014, test2015
//
// The splits are train, val, test and test-dev, and val's parts trainable_val and
// rest_val, the last [RestVal] pictures of it, as VLMo is trained and validated.
// An example is a question; its Answers are those of the ten given that are in the
// vocabulary. Questions without one are left out, but in test. The order is that of
// the pictures in the question file, and a picture's questions are together.
type VQA struct {
	questions   *os.File
	annotations *os.File // nil in test
	folder      string   // of pictures
	prefix      string   // of their names
	vocabulary  *vqa.Vocabulary
	normalize   bool
	decode      img.Options
	items       grouped // questions by pictures, with the picture and the annotation's extent
	begin, end  int     // the part's items
	unanswered  int
	lacking
}

// vqaItem is where a question of a picture is.
type vqaItem struct {
	image                int64
	question, annotation extent
}

// RestVal is how many pictures at the end of val are rest_val.
const RestVal = 1000

type vqaQuestion struct {
	ID    *int64 `json:"question_id"`
	Image *int64 `json:"image_id"`
	Text  string `json:"question"`
}

type vqaAnnotation struct {
	Question *int64 `json:"question_id"`
	Most     string `json:"multiple_choice_answer"`
	Answers  []struct {
		Answer string `json:"answer"`
	} `json:"answers"`
}

func (a *vqaAnnotation) answers() []string {
	list := make([]string, len(a.Answers))
	for i := range list {
		list[i] = a.Answers[i].Answer
	}
	return list
}

// vqaFiles returns the files of a split and the pictures' folder.
func vqaFiles(root, split string) (questions, annotations, images string, err error) {
	year := "2014"
	images = split + "2014"
	switch split {
	case "train", "val":
		annotations = filepath.Join(root, fmt.Sprintf("v2_mscoco_%s%s_annotations.json", split, year))
	case "test", "test-dev":
		year, images = "2015", "test2015"
	default:
		return "", "", "", fmt.Errorf("VQAv2 has no split %q", split)
	}
	return filepath.Join(root, fmt.Sprintf("v2_OpenEnded_mscoco_%s%s_questions.json", split, year)), annotations, images, nil
}

// OpenVQA opens a split of VQAv2. Train and val need the annotations of both, which
// the vocabulary is made of. Questions whose picture has no file are left out, see
// Incomplete.
func OpenVQA(o Options) (_ *VQA, err error) {
	split := splitNames(o.Split, false)[0]
	part := split
	if split == "trainable_val" || split == "rest_val" {
		split = "val"
	}
	questions, annotations, images, err := vqaFiles(o.Path, split)
	if err != nil {
		return nil, fmt.Errorf("dataset: %s: %w", o.Path, err)
	}
	d := &VQA{folder: o.Images, prefix: "COCO_" + images + "_", normalize: o.NormalizeAnswers, decode: o.decode()}
	if d.folder == "" {
		d.folder = o.Path
	}
	d.folder = filepath.Join(d.folder, images)
	defer func() {
		if err != nil {
			d.Close()
		}
	}()
	if d.questions, err = openFile(questions); err != nil {
		return nil, fmt.Errorf("dataset: %w", err)
	}
	var all vqaJoin
	defer all.Close()
	if annotations != "" {
		if d.vocabulary, err = vqaVocabulary(o.Path); err != nil {
			return nil, fmt.Errorf("dataset: %w", err)
		}
		if d.annotations, err = openFile(annotations); err != nil {
			return nil, fmt.Errorf("dataset: %w", err)
		}
		if err = d.annotated(&all); err != nil {
			return nil, fmt.Errorf("dataset: %s: %w", annotations, err)
		}
	}
	if err := d.index(&all); err != nil {
		return nil, fmt.Errorf("dataset: %w", err)
	}
	d.end = d.items.items.Len()
	if part != split {
		cut, err := d.restVal()
		if err != nil {
			return nil, fmt.Errorf("dataset: %s: %w", questions, err)
		}
		if part == "rest_val" {
			d.begin = cut
		} else {
			d.end = cut
		}
	}
	if d.Len() == 0 {
		return nil, fmt.Errorf("dataset: %s: %w", questions, &emptyError{part, d.lacking.n, d.folder})
	}
	return d, nil
}

// vqaVocabulary makes the vocabulary of the annotations of train and val.
func vqaVocabulary(root string) (*vqa.Vocabulary, error) {
	var c vqa.Counter
	defer c.Close()
	for _, split := range []string{"train", "val"} {
		_, path, _, err := vqaFiles(root, split)
		if err != nil {
			return nil, err
		}
		f, err := openFile(path)
		if err != nil {
			return nil, fmt.Errorf("the vocabulary of answers: %w", err)
		}
		err = eachElement(f, "annotations", func(_ extent, raw json.RawMessage) error {
			var a vqaAnnotation
			if err := json.Unmarshal(raw, &a); err != nil {
				return err
			}
			return c.Add(a.Most)
		})
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	v, err := c.Vocabulary(vqa.MinCount)
	if err != nil {
		return nil, fmt.Errorf("the vocabulary of answers: %w", err)
	}
	return v, nil
}

// vqaJoin joins questions with annotations and pictures.
type vqaJoin struct {
	questions spill.Sorter // question; 0 and the annotation's extent or 1, number, image and extent
	pictures  presence     // by the questions' numbers
	n         uint64       // questions
	rec       []byte
}

func (j *vqaJoin) Close() error { return closeAll(&j.questions, &j.pictures) }

// annotated adds the annotations; those of the questions without an answer in the
// vocabulary have no size.
func (d *VQA) annotated(j *vqaJoin) error {
	return eachElement(d.annotations, "annotations", func(x extent, raw json.RawMessage) error {
		var a vqaAnnotation
		if err := json.Unmarshal(raw, &a); err != nil {
			return err
		}
		if a.Question == nil {
			return errors.New("an annotation without question_id")
		}
		if len(d.vocabulary.Targets(a.answers(), d.normalize)) == 0 {
			x.size = 0
		}
		j.rec = spill.Encode(j.rec[:0], uint64(*a.Question), 0, uint64(x.off), uint64(x.size))
		return j.questions.Add(j.rec)
	})
}

// index lists the questions by pictures. Without annotations it keeps all.
func (d *VQA) index(j *vqaJoin) error {
	err := eachElement(d.questions, "questions", func(x extent, raw json.RawMessage) error {
		var q vqaQuestion
		if err := json.Unmarshal(raw, &q); err != nil {
			return err
		}
		if q.ID == nil || q.Image == nil {
			return errors.New("a question without question_id or image_id")
		}
		j.rec = spill.Encode(j.rec[:0], uint64(*q.ID), 1, j.n, uint64(*q.Image), uint64(x.off), uint64(x.size))
		if err := j.questions.Add(j.rec); err != nil {
			return err
		}
		j.n++
		return j.pictures.ask(j.pictures.file(d.picture(*q.Image)), j.n-1)
	})
	if err != nil {
		return fmt.Errorf("%s: %w", d.questions.Name(), err)
	}
	// The number of a question; 0 and whether its picture is there or 1, image and extents.
	var order spill.Sorter
	defer order.Close()
	if err := d.match(j, &order); err != nil {
		return err
	}
	err = j.pictures.each(func(n uint64, there bool) error {
		ok := uint64(0)
		if there {
			ok = 1
		}
		j.rec = spill.Encode(j.rec[:0], n, 0, ok)
		return order.Add(j.rec)
	})
	if err != nil {
		return err
	}
	there := false
	err = order.Each(func(rec []byte) error {
		var kind [3]uint64
		if spill.Decode(rec[:24], kind[:]); kind[1] == 0 {
			there = kind[2] == 1
			return nil
		}
		var v [5]uint64
		spill.Decode(rec, v[:])
		image := int64(v[0])
		switch {
		case !there:
			if d.lacking.n++; d.lacking.n == 1 {
				d.lacking.first = d.picture(image)
			}
			return nil
		case d.annotations != nil && v[4] == 0:
			d.unanswered++
			return nil
		}
		return d.items.add(strconv.FormatInt(image, 10), extentOf(v[1:]), v[0], v[3], v[4])
	})
	if err != nil {
		return err
	}
	return d.items.done(nil)
}

// match adds to order each question with its annotation.
func (d *VQA) match(j *vqaJoin, order *spill.Sorter) error {
	var twice, none *fileError // the first in the files
	var id, kind, annotation [2]uint64
	annotated := false
	err := j.questions.EachRun(8, func(begins bool, rec []byte) error {
		spill.Decode(rec[:8], id[:1])
		spill.Decode(rec[8:16], kind[:1])
		if begins {
			annotated = false
		}
		if kind[0] == 0 {
			spill.Decode(rec, annotation[:])
			if annotated {
				twice = twice.first(d.annotations, annotation[0], "a second annotation of question %d", int64(id[0]))
			}
			annotated = true
			return nil
		}
		var v [4]uint64 // number, image and extent
		spill.Decode(rec, v[:])
		if d.annotations == nil {
			annotation = [2]uint64{}
		} else if !annotated {
			none = none.first(d.questions, v[2], "question %d has no annotation", int64(id[0]))
		}
		j.rec = spill.Encode(j.rec[:0], v[0], 1, v[1], v[2], v[3], annotation[0], annotation[1])
		return order.Add(j.rec)
	})
	switch {
	case err != nil:
		return err
	case twice != nil:
		return twice
	case none != nil:
		return none
	}
	return nil
}

// fileError is what is wrong with what begins at a byte of a file.
type fileError struct {
	path string
	off  uint64
	text string
}

func (e *fileError) Error() string { return fmt.Sprintf("%s: byte %d: %s", e.path, e.off, e.text) }

// first returns e, or an error at off if that is before it.
func (e *fileError) first(f *os.File, off uint64, format string, args ...any) *fileError {
	if e != nil && e.off <= off {
		return e
	}
	return &fileError{f.Name(), off, fmt.Sprintf(format, args...)}
}

// restVal returns where the items of the last RestVal pictures begin.
func (d *VQA) restVal() (int, error) {
	n := d.items.len()
	if n <= RestVal {
		return 0, nil
	}
	var at [1]uint64
	err := d.items.groups.At(n-RestVal, at[:])
	return int(at[0]), err
}

// picture returns the file of a picture.
func (d *VQA) picture(image int64) string {
	return filepath.Join(d.folder, fmt.Sprintf("%s%012d.jpg", d.prefix, image))
}

// Vocabulary returns the answers that labels are numbers of; nil in test.
func (d *VQA) Vocabulary() *vqa.Vocabulary { return d.vocabulary }

// Unanswered returns how many questions were left out because none of their answers
// is in the vocabulary. A score over the others is so much too high.
func (d *VQA) Unanswered() int { return d.unanswered }

// Close closes the files.
func (d *VQA) Close() error {
	list := []io.Closer{&d.items}
	for _, f := range []*os.File{d.questions, d.annotations} {
		if f != nil {
			list = append(list, f)
		}
	}
	return closeAll(list...)
}

// Len returns the number of questions.
func (d *VQA) Len() int { return d.end - d.begin }

func (d *VQA) where(int) string { return d.questions.Name() }

// item returns where question i is.
func (d *VQA) item(i int) (it vqaItem, err error) {
	var v [5]uint64
	err = d.items.items.At(d.begin+i, v[:])
	return vqaItem{int64(v[2]), extentOf(v[:]), extentOf(v[3:])}, err
}

// Group returns the group of example i, its picture's number.
func (d *VQA) Group(i int) string {
	it, err := d.item(i)
	if err != nil {
		return fmt.Sprintf("example %d", i)
	}
	return strconv.FormatInt(it.image, 10)
}

// Example reads example i.
func (d *VQA) Example(i int) (Example, error) { return readExample(d, i, d.decode) }

// ReadWords reads example i without its picture.
func (d *VQA) ReadWords(i int) (Example, error) { return readWords(d, i) }

func (d *VQA) record(i int, _ bool) (r record, err error) {
	it, err := d.item(i)
	if err != nil {
		return r, err
	}
	var q vqaQuestion
	if err := it.question.decode(d.questions, &q); err != nil {
		return r, err
	}
	if q.ID == nil {
		return r, errors.New("the file has changed since it was opened")
	}
	r.ID = strconv.FormatInt(*q.ID, 10)
	r.ImageID = strconv.FormatInt(it.image, 10)
	r.Group = r.ImageID
	r.pictures[0].path = d.picture(it.image)
	r.Question = &Question{ID: *q.ID, Text: q.Text}
	targets, err := d.targets(it)
	if err != nil {
		return r, err
	}
	for _, t := range targets {
		r.Question.Answers = append(r.Question.Answers, d.vocabulary.Answer(int(t.Label)))
		r.Question.Labels = append(r.Question.Labels, t.Label)
		r.Question.Scores = append(r.Question.Scores, float32(t.Score))
	}
	return r, nil
}

// targets returns what training on a question aims at.
func (d *VQA) targets(it vqaItem) ([]vqa.Target, error) {
	if d.annotations == nil {
		return nil, nil
	}
	var a vqaAnnotation
	if err := it.annotation.decode(d.annotations, &a); err != nil {
		return nil, err
	}
	return d.vocabulary.Targets(a.answers(), d.normalize), nil
}
