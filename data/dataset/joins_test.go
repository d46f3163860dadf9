package dataset

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"
)

// What the raw forms leave to chance: order of files, what is named twice, what lacks
// its other half.
func TestJoins(t *testing.T) {
	png := picture(t, 1, 1, 0)
	var annotations []string
	for i := range 12 { // "yes" is in the vocabulary
		annotations = append(annotations, fmt.Sprintf(`{"question_id":%d,"multiple_choice_answer":"yes","answers":[{"answer":"yes"},{"answer":"rare"}]}`, i))
	}
	annotations[2] = strings.ReplaceAll(annotations[2], "yes", "rare")
	questions := func(images ...int) string {
		var list []string
		for i, image := range images {
			list = append(list, fmt.Sprintf(`{"image_id":%d,"question_id":%d,"question":"q%d"}`, image, i, i))
		}
		return `{"x":{},"questions":[` + strings.Join(list, ",") + `]}`
	}
	const (
		vqaQuestions, vqaAnnotations = "v2_OpenEnded_mscoco_train2014_questions.json", "v2_mscoco_train2014_annotations.json"
		otherAnnotations             = "v2_mscoco_val2014_annotations.json"
	)
	list := func(items ...string) string { return `{"annotations":[` + strings.Join(items, ",\n") + `]}` }
	vqa := func(questions string, annotations ...string) []string {
		files := []string{vqaQuestions, questions, vqaAnnotations, list(annotations...), otherAnnotations, list()}
		for _, image := range []int{3, 5} {
			files = append(files, fmt.Sprintf("train2014/COCO_train2014_%012d.jpg", image), png)
		}
		return files
	}
	many := questions(5, 5, 5, 3, 3, 3, 3, 3, 3, 3, 3, 3, 5, 5)
	for _, test := range []struct {
		name     string
		format   Format
		files    []string
		want     []string // ID, picture, captions or question and answers
		lacks    int
		one, err string
	}{
		{name: "pairs", format: FormatGCC, files: []string{
			"train_annot.json", `[["x/b","one"], ["x/a","two"], ["lost","l"], ["c","three"], ["y/a","four"], ["gone","g"], ["lost","again"]]`,
			"images_train/0001/c", png, "images_train/0001/b", png, "images_train/0000/a", png, "images_train/0002/a", png, "images_train/0002/extra", png,
			"images_train/lost", png,
		}, want: []string{"a 0000/a four", "b 0001/b one", "c 0001/c three", "a 0002/a four"}, lacks: 2, one: "lost"},
		{name: "no pair's picture", format: FormatGCC, files: []string{"train_annot.json", `[["a","x"], ["b","x"], ["a","y"]]`, "images_train/0/c", png},
			err: "train_annot.json: none of the 2 pictures is in DIR/images_train"},
		{name: "regions", format: FormatVG, files: []string{
			"annotations/region_descriptions.json", `[{"regions":[{"image_id":9,"phrase":"a"},{"image_id":10,"phrase":"b"},{"image_id":9,"phrase":"c"}]}, {"regions":[]},
				{"regions":[{"image_id":7,"phrase":"d"}]}, {"regions":[{"image_id":2,"phrase":"e"}]}, {"regions":[{"image_id":9,"phrase":"f"},{"image_id":9,"phrase":"g"}]}]`,
			"images/VG_100K/9.jpg", png, "images/VG_100K/10.jpg", png, "images/VG_100K/11.jpg", png, "images/VG_100K/x.jpg", png, "images/VG_100K_2/9.jpg", png,
		}, want: []string{"10 VG_100K/10.jpg b", "9 VG_100K/9.jpg a,c,f,g", "9 VG_100K_2/9.jpg a,c,f,g"}, lacks: 2, one: "7.jpg"},
		{name: "splits", format: FormatCOCO, files: []string{
			"karpathy/dataset_coco.json", `{"images":[{"filename":"b","filepath":"v","split":"train","sentences":[{"raw":"1"}]},
				{"filename":"a","filepath":"t","split":"val","sentences":[{"raw":"2"}]}, {"filename":"c","filepath":"v","split":"train","sentences":[]},
				{"filename":"a","filepath":"v","split":"restval","sentences":[{"raw":"3"},{"raw":"4"}]}, {"filename":"d","filepath":"none","split":"train","sentences":[]},
				{"filename":"b","filepath":"t","split":"test","sentences":[{"raw":"5"}]}, {"filename":"e","filepath":"v","split":"train","sentences":[{"raw":"6"}]}]}`,
			"v/b", png, "t/a", png, "v/e", png,
		}, want: []string{"a t/a 2,3,4", "e v/e 6"}, lacks: 2, one: "DIR/v/c"},
		{name: "questions", format: FormatVQA, files: vqa(questions(5, 3, 3, 7, 5, 6, 3), annotations...),
			want:  []string{"0 train2014/COCO_train2014_000000000005.jpg q0 yes", "4 train2014/COCO_train2014_000000000005.jpg q4 yes", "1 train2014/COCO_train2014_000000000003.jpg q1 yes", "6 train2014/COCO_train2014_000000000003.jpg q6 yes"},
			lacks: 2, one: "DIR/train2014/COCO_train2014_000000000007.jpg"},
		{name: "annotated twice", format: FormatVQA, files: vqa(questions(5), append(annotations, annotations[4], annotations[1])...),
			err: fmt.Sprintf("dataset: DIR/%s: byte %d: a second annotation of question 4", vqaAnnotations, len(list(annotations...)))},
		{name: "not annotated", format: FormatVQA, files: vqa(many, annotations...),
			err: fmt.Sprintf("dataset: DIR/%s: byte %d: question 12 has no annotation", vqaQuestions, strings.Index(many, `{"image_id":5,"question_id":12,`))},
		{name: "pairs of pictures", format: FormatNLVR2, files: []string{
			"nlvr2/data/train.json", `{"identifier":"train-1-0-0","sentence":"s","label":"True","directory":1}
				{"identifier":"train-2-0-0","sentence":"t","label":"False","directory":2}
				{"identifier":"train-1-0-1","sentence":"u","label":"False","directory":3}`,
			"images/train/1/train-1-0-img0.png", png, "images/train/1/train-1-0-img1.png", png, "images/train/2/train-2-0-img0.png", png, "images/train/2/train-2-0-img1.png", png,
		}, want: []string{"train-1-0-0 images/train/1/train-1-0-img0.png s True", "train-2-0-0 images/train/2/train-2-0-img0.png t False", "train-1-0-1 images/train/1/train-1-0-img0.png u False"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := write(t, test.files...)
			d, err := Open(Options{Path: dir, Format: test.format})
			if test.err != "" {
				if want := strings.ReplaceAll(test.err, "DIR", dir); err == nil || !strings.Contains(filepath.ToSlash(err.Error()), want) {
					t.Errorf("%v, want %s", err, want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer d.(io.Closer).Close()
			for i := range d.Len() {
				r, err := d.(recorder).record(i, true)
				if err != nil {
					t.Fatal(err)
				}
				path := filepath.ToSlash(strings.TrimPrefix(r.pictures[0].path, dir+string(filepath.Separator)))
				got := r.ID + " " + strings.TrimPrefix(strings.TrimPrefix(path, "images_train/"), "images/VG")
				if test.format == FormatVG {
					got = strings.Replace(got, " _", " VG_", 1)
				}
				if q := r.Question; q != nil {
					got += " " + q.Text + " " + strings.Join(q.Answers, ",")
				} else {
					got += " " + strings.Join(r.Captions, ",")
				}
				if i >= len(test.want) || got != test.want[i] {
					t.Errorf("example %d is %s", i, got)
				}
				if e, err := d.Example(i); err != nil || e.Group != d.Group(i) {
					t.Errorf("example %d: group %q, by itself %q, %v", i, e.Group, d.Group(i), err)
				}
			}
			if d.Len() != len(test.want) {
				t.Errorf("%d examples, want %d", d.Len(), len(test.want))
			}
			if n, one := incomplete(d); n != test.lacks || filepath.ToSlash(one) != strings.ReplaceAll(test.one, "DIR", filepath.ToSlash(dir)) {
				t.Errorf("%d examples left out, such as %q, want %d, %q", n, one, test.lacks, test.one)
			}
		})
	}
}
