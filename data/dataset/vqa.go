package dataset

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"vlmo-train/data/img"
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
//
// Questions and annotations stay on disk; about 60 bytes a question are in memory.
type VQA struct {
	questions   *os.File
	annotations *os.File // nil in test
	folder      string   // of pictures
	prefix      string   // of their names
	vocabulary  *vqa.Vocabulary
	normalize   bool
	decode      img.Options
	items       []vqaItem
	unanswered  int
	lacking
}

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
	var answered map[int64]extent
	if annotations != "" {
		if d.vocabulary, err = vqaVocabulary(o.Path); err != nil {
			return nil, fmt.Errorf("dataset: %w", err)
		}
		if d.annotations, err = openFile(annotations); err != nil {
			return nil, fmt.Errorf("dataset: %w", err)
		}
		if answered, err = d.answered(annotations); err != nil {
			return nil, fmt.Errorf("dataset: %w", err)
		}
	}
	if err := d.index(questions, answered); err != nil {
		return nil, fmt.Errorf("dataset: %w", err)
	}
	if part != split {
		d.items = restVal(d.items, part == "rest_val")
	}
	if len(d.items) == 0 {
		return nil, fmt.Errorf("dataset: %s: %w", questions, &emptyError{part, d.lacking.n, d.folder})
	}
	return d, nil
}

// vqaVocabulary makes the vocabulary of the annotations of train and val.
func vqaVocabulary(root string) (*vqa.Vocabulary, error) {
	var c vqa.Counter
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
			c.Add(a.Most)
			return nil
		})
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	return c.Vocabulary(vqa.MinCount), nil
}

// answered returns where the annotations are of the questions that have an answer
// in the vocabulary; those of the others have no size.
func (d *VQA) answered(path string) (map[int64]extent, error) {
	where := make(map[int64]extent)
	err := eachElement(d.annotations, "annotations", func(x extent, raw json.RawMessage) error {
		var a vqaAnnotation
		if err := json.Unmarshal(raw, &a); err != nil {
			return err
		}
		if a.Question == nil {
			return errors.New("an annotation without question_id")
		}
		if _, ok := where[*a.Question]; ok {
			return fmt.Errorf("a second annotation of question %d", *a.Question)
		}
		if len(d.vocabulary.Targets(a.answers(), d.normalize)) == 0 {
			x = extent{}
		}
		where[*a.Question] = x
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return where, nil
}

// index lists the questions by pictures. Without answered it keeps all.
func (d *VQA) index(path string, answered map[int64]extent) error {
	there := make(listing)
	var images []int64
	items := make(map[int64][]vqaItem)
	err := eachElement(d.questions, "questions", func(x extent, raw json.RawMessage) error {
		var q vqaQuestion
		if err := json.Unmarshal(raw, &q); err != nil {
			return err
		}
		if q.ID == nil || q.Image == nil {
			return errors.New("a question without question_id or image_id")
		}
		it := vqaItem{image: *q.Image, question: x}
		if answered != nil {
			var ok bool
			if it.annotation, ok = answered[*q.ID]; !ok {
				return fmt.Errorf("question %d has no annotation", *q.ID)
			}
		}
		picture := d.picture(*q.Image)
		ok, err := there.has(picture)
		if err != nil {
			return err
		}
		if !ok {
			d.add(picture)
			return nil
		}
		if answered != nil && it.annotation.size == 0 {
			d.unanswered++
			return nil
		}
		if items[*q.Image] == nil {
			images = append(images, *q.Image)
		}
		items[*q.Image] = append(items[*q.Image], it)
		return nil
	})
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for _, image := range images {
		d.items = append(d.items, items[image]...)
	}
	return nil
}

// restVal returns the items of the last RestVal pictures, or of those before.
func restVal(items []vqaItem, rest bool) []vqaItem {
	cut := len(items)
	for pictures := 0; cut > 0; cut-- {
		if cut == len(items) || items[cut-1].image != items[cut].image {
			if pictures == RestVal {
				break
			}
			pictures++
		}
	}
	if rest {
		return items[cut:]
	}
	return items[:cut]
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

// Close closes the JSON files.
func (d *VQA) Close() error {
	var first error
	for _, f := range []*os.File{d.questions, d.annotations} {
		if f != nil {
			if err := f.Close(); err != nil && first == nil {
				first = fmt.Errorf("dataset: %w", err)
			}
		}
	}
	return first
}

// Len returns the number of questions.
func (d *VQA) Len() int { return len(d.items) }

func (d *VQA) where(int) string { return d.questions.Name() }

// Group returns the group of example i, its picture's number.
func (d *VQA) Group(i int) string { return strconv.FormatInt(d.items[i].image, 10) }

// Example reads example i.
func (d *VQA) Example(i int) (Example, error) { return readExample(d, i, d.decode) }

// ReadWords reads example i without its picture.
func (d *VQA) ReadWords(i int) (Example, error) { return readWords(d, i) }

func (d *VQA) record(i int, _ bool) (r record, err error) {
	it := d.items[i]
	var q vqaQuestion
	if err := it.question.decode(d.questions, &q); err != nil {
		return r, err
	}
	if q.ID == nil {
		return r, errors.New("the file has changed since it was opened")
	}
	r.ID = strconv.FormatInt(*q.ID, 10)
	r.ImageID = d.Group(i)
	r.Group = r.ImageID
	r.pictures[0].path = d.picture(it.image)
	r.Question = &Question{ID: *q.ID, Text: q.Text}
	targets, err := d.targets(i)
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

// targets returns what training on question i aims at.
func (d *VQA) targets(i int) ([]vqa.Target, error) {
	if d.annotations == nil {
		return nil, nil
	}
	var a vqaAnnotation
	if err := d.items[i].annotation.decode(d.annotations, &a); err != nil {
		return nil, err
	}
	return d.vocabulary.Targets(a.answers(), d.normalize), nil
}
