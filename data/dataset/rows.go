package dataset

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sort"
	"strings"

	"vlmo-train/data/dataset/arrowfile"
	"vlmo-train/data/dataset/parquetfile"
	"vlmo-train/data/internal/spill"
)

// tableFile is a table in a file.
type tableFile interface {
	Path() string
	NumRows() int
	Row(i int, columns ...int) ([]any, error)
	Close() error
}

// Rows is a set of tables in Arrow IPC files, as VLMo's and ViLT's scripts write
// them, or in Parquet files, as Hugging Face datasets does. Each row is an example
// with all its captions, or, where there are questions, each question is one. Which
// columns are read is said by [Columns]. A VG table has lists width, height, x and y
// besides: the captions' regions.
type Rows struct {
	options   Options
	files     []rowsFile
	questions *spill.Array // row in the file and number in the row of each; nil where there are none
	n         int
}

type rowsFile struct {
	tableFile
	columns [numFields][]int // by field: the columns' numbers
	read    []int            // all of them, for Row
	words   []int            // those that are no pictures
	first   int              // its first example in the set
}

// The fields of an example that columns are read for.
const (
	fieldImage = iota
	fieldImage2
	fieldCaptions
	fieldKeywords
	fieldID
	fieldGroup
	fieldQuestions
	fieldQuestionIDs
	fieldAnswers
	fieldLabels
	fieldScores
	fieldX
	fieldY
	fieldWidth
	fieldHeight
	numFields
)

// usual are the names of columns by which fields are found.
var usual = [numFields][]string{
	fieldImage:       {"image", "image_0"},
	fieldImage2:      {"image_1"},
	fieldCaptions:    {"caption", "captions", "text"},
	fieldKeywords:    {"keywords"},
	fieldID:          {"image_id", "identifier", "id"},
	fieldQuestions:   {"questions", "question"},
	fieldQuestionIDs: {"question_id"},
	fieldAnswers:     {"answers"},
	fieldLabels:      {"answer_labels"},
	fieldScores:      {"answer_scores"},
	fieldX:           {"x"},
	fieldY:           {"y"},
	fieldWidth:       {"width"},
	fieldHeight:      {"height"},
}

// find returns the numbers of the columns that hold each field, by their names.
func (c *Columns) find(names []string) (columns [numFields][]int, err error) {
	number := make(map[string]int)
	for i, n := range names {
		if _, ok := number[n]; !ok {
			number[n] = i
		}
	}
	chosen := [numFields][]string{
		fieldCaptions: c.Captions, fieldKeywords: c.Keywords,
	}
	for field, name := range map[int]string{
		fieldImage: c.Image, fieldImage2: c.Image2, fieldID: c.ID, fieldGroup: c.Group, fieldQuestions: c.Questions,
		fieldQuestionIDs: c.QuestionIDs, fieldAnswers: c.Answers, fieldLabels: c.Labels, fieldScores: c.Scores,
	} {
		if name != "" {
			chosen[field] = []string{name}
		}
	}
	for field := range columns {
		for _, name := range chosen[field] {
			i, ok := number[name]
			if !ok {
				return columns, fmt.Errorf("no column %q among %q", name, names)
			}
			columns[field] = append(columns[field], i)
		}
		if chosen[field] != nil {
			continue
		}
		for _, name := range usual[field] {
			if i, ok := number[name]; ok {
				columns[field] = []int{i}
				break
			}
		}
	}
	if columns[fieldImage] == nil && columns[fieldCaptions] == nil && columns[fieldQuestions] == nil {
		return columns, fmt.Errorf("the columns %q hold neither pictures nor captions; name those to read", names)
	}
	// Regions are whole or not there: width and height alone are the picture's.
	for _, f := range []int{fieldX, fieldY, fieldWidth, fieldHeight} {
		if columns[f] == nil {
			for _, g := range []int{fieldX, fieldY, fieldWidth, fieldHeight} {
				columns[g] = nil
			}
			break
		}
	}
	return columns, nil
}

// OpenArrow opens tables in Arrow IPC files; see [Options] for what Path may be.
func OpenArrow(o Options) (*Rows, error) {
	return openRows(o, ".arrow", func(path string) (tableFile, []string, error) {
		f, err := arrowfile.Open(path)
		if err != nil {
			return nil, nil, err
		}
		var names []string
		for _, c := range f.Columns() {
			names = append(names, c.Name)
		}
		return f, names, nil
	})
}

// OpenParquet opens tables in Parquet files; see [Options] for what Path may be.
func OpenParquet(o Options) (*Rows, error) {
	return openRows(o, ".parquet", func(path string) (tableFile, []string, error) {
		f, err := parquetfile.Open(path)
		if err != nil {
			return nil, nil, err
		}
		var names []string
		for _, c := range f.Columns() {
			names = append(names, c.Name)
		}
		return f, names, nil
	})
}

func openRows(o Options, ext string, open func(path string) (tableFile, []string, error)) (_ *Rows, err error) {
	d := &Rows{options: o}
	defer func() {
		if err != nil {
			d.Close()
		}
	}()
	paths, err := expand(o.Path, ext)
	if err != nil {
		return nil, fmt.Errorf("dataset: %w", err)
	}
	for _, path := range paths {
		t, names, err := open(path)
		if err != nil {
			return nil, fmt.Errorf("dataset: %w", err)
		}
		if t.NumRows() == 0 { // has no types, and perhaps not all columns
			if err := t.Close(); err != nil {
				return nil, fmt.Errorf("dataset: %w", err)
			}
			continue
		}
		f := rowsFile{tableFile: t, first: d.n}
		d.files = append(d.files, f)
		if err := d.open(&d.files[len(d.files)-1], names); err != nil {
			return nil, fmt.Errorf("dataset: %s: %w", path, err)
		}
	}
	if d.n == 0 {
		return nil, fmt.Errorf("dataset: %s: %w", o.Path, ErrEmpty)
	}
	return d, nil
}

// open finds the columns of the last file and counts its examples.
func (d *Rows) open(f *rowsFile, names []string) (err error) {
	if f.columns, err = d.options.Columns.find(names); err != nil {
		return err
	}
	asks := f.columns[fieldQuestions] != nil
	if len(d.files) > 1 && asks != d.asks() {
		return errors.New("some files of the set have questions and others have none")
	}
	for field, list := range f.columns {
		f.read = append(f.read, list...)
		if field != fieldImage && field != fieldImage2 {
			f.words = append(f.words, list...)
		}
	}
	if !asks {
		d.n += f.NumRows()
		return nil
	}
	if d.questions == nil {
		d.questions = spill.NewArray(2)
	}
	for i := range f.NumRows() {
		values, err := f.Row(i, f.columns[fieldQuestions]...)
		n := 1 // stands for the row; reading it says what is wrong
		if err == nil {
			n = len(listOf(values[0]))
		}
		for k := range n {
			if err := d.questions.Append(uint64(i), uint64(k)); err != nil {
				return err
			}
		}
	}
	d.n = d.questions.Len()
	return nil
}

// asks reports whether examples are questions.
func (d *Rows) asks() bool { return d.questions != nil }

// Close closes the files.
func (d *Rows) Close() error {
	list := []io.Closer{d.questions}
	for _, f := range d.files {
		list = append(list, f)
	}
	return closeAll(list...)
}

// Len returns the number of examples.
func (d *Rows) Len() int { return d.n }

// file returns the file of example i.
func (d *Rows) file(i int) *rowsFile {
	return &d.files[sort.Search(len(d.files), func(k int) bool { return d.files[k].first > i })-1]
}

// find returns the file, the row and the question in it of example i.
func (d *Rows) find(i int) (f *rowsFile, row, question int, err error) {
	f = d.file(i)
	if d.questions == nil {
		return f, i - f.first, 0, nil
	}
	var at [2]uint64
	err = d.questions.At(i, at[:])
	return f, int(at[0]), int(at[1]), err
}

func (d *Rows) where(i int) string { return d.file(i).Path() }

// Group returns the group of example i: that of the column for it, or the
// picture's name.
func (d *Rows) Group(i int) string {
	f, row, _, err := d.find(i)
	if err != nil {
		return fmt.Sprintf("example %d", i)
	}
	list := f.columns[fieldGroup]
	if list == nil {
		list = f.columns[fieldID]
	}
	if values, err := f.Row(row, list...); err == nil && len(values) > 0 {
		if name, err := nameOf(values[0]); err == nil && name != "" {
			return name
		}
	}
	return f.name(row)
}

// name is the ID of a row without one.
func (f *rowsFile) name(row int) string {
	return fmt.Sprintf("%s:%d", filepath.Base(f.Path()), row)
}

// Example reads example i.
func (d *Rows) Example(i int) (Example, error) { return readExample(d, i, d.options.decode()) }

// ReadWords reads example i without its pictures.
func (d *Rows) ReadWords(i int) (Example, error) { return readWords(d, i) }

func (d *Rows) record(i int, pictures bool) (r record, err error) {
	f, row, question, err := d.find(i)
	if err != nil {
		return r, err
	}
	r.ID = f.name(row)
	read := f.read
	if !pictures {
		read = f.words
	}
	values, err := f.Row(row, read...)
	if err != nil {
		return r, err
	}
	var fields [numFields][]any
	k := 0
	for field, list := range f.columns {
		if !pictures && (field == fieldImage || field == fieldImage2) {
			continue
		}
		fields[field] = values[k : k+len(list)]
		k += len(list)
	}
	if r.ImageID, err = firstName(fields[fieldID]); err != nil {
		return r, fmt.Errorf("row %d: its ID: %w", row, err)
	}
	if r.ImageID != "" {
		r.ID = r.ImageID
	}
	if r.Group, err = firstName(fields[fieldGroup]); err != nil {
		return r, fmt.Errorf("row %d: its group: %w", row, err)
	}
	if r.Group == "" {
		r.Group = r.ID
	}
	if err := d.fill(&r, &fields, question, pictures); err != nil {
		return r, fmt.Errorf("row %d: %w", row, err)
	}
	return r, nil
}

func firstName(values []any) (string, error) {
	if len(values) == 0 {
		return "", nil
	}
	return nameOf(values[0])
}

// fill sets the rest of r from a row's fields.
func (d *Rows) fill(r *record, fields *[numFields][]any, question int, pictures bool) (err error) {
	for _, v := range fields[fieldCaptions] {
		list, err := stringsOf(v)
		if err != nil {
			return fmt.Errorf("captions: %w", err)
		}
		r.Captions = append(r.Captions, list...)
	}
	for _, v := range fields[fieldKeywords] {
		list, err := stringsOf(v)
		if err != nil {
			return fmt.Errorf("keywords: %w", err)
		}
		r.Keywords = append(r.Keywords, list...)
	}
	if len(fields[fieldX]) > 0 {
		if r.Regions, err = regions(fields); err != nil {
			return err
		}
		if r.Regions, err = described(r.Regions, fields[fieldCaptions]); err != nil {
			return err
		}
	}
	if pictures {
		for k, field := range []int{fieldImage, fieldImage2} {
			if len(fields[field]) > 0 {
				if r.pictures[k], err = d.picture(fields[field][0]); err != nil {
					return err
				}
			}
		}
		if r.pictures[0].empty() && len(r.Captions) == 0 && !d.asks() {
			return errors.New("neither picture nor text")
		}
	}
	if d.asks() {
		return ask(r, fields, question)
	}
	return nil
}

// noPicture is what the published sets of texts have in their picture column.
const noPicture = "None"

// picture returns where the picture of a column's value is.
func (d *Rows) picture(v any) (b blob, err error) {
	if m, ok := v.(map[string]any); ok {
		if data, ok := m["bytes"].([]byte); ok {
			v = data
		} else {
			v = m["path"]
		}
	}
	switch v := v.(type) {
	case nil:
		return b, errors.New("no picture")
	case []byte:
		if len(v) == 0 {
			return b, errors.New("a picture of no bytes")
		}
		return blob{data: v}, nil
	case string:
		if v == noPicture {
			return b, nil
		}
		if d.options.Images == "" {
			return b, fmt.Errorf("the picture %s lies outside the table; the option images says in which folder", v)
		}
		return blob{path: filepath.Join(d.options.Images, filepath.FromSlash(v))}, nil
	}
	return b, fmt.Errorf("a picture that is a value of Go type %T", v)
}

// regions returns the regions in the columns x, y, width and height.
func regions(fields *[numFields][]any) ([]Region, error) {
	x := listOf(fields[fieldX][0])
	y, w, h := listOf(fields[fieldY][0]), listOf(fields[fieldWidth][0]), listOf(fields[fieldHeight][0])
	if len(y) != len(x) || len(w) != len(x) || len(h) != len(x) {
		return nil, fmt.Errorf("x, y, width and height have %d, %d, %d and %d values", len(x), len(y), len(w), len(h))
	}
	list := make([]Region, len(x))
	for i := range list {
		for _, f := range []struct {
			dst *int64
			v   any
		}{{&list[i].X, x[i]}, {&list[i].Y, y[i]}, {&list[i].Width, w[i]}, {&list[i].Height, h[i]}} {
			n, err := integer(f.v)
			if err != nil {
				return nil, fmt.Errorf("region %d: %w", i, err)
			}
			*f.dst = n
		}
	}
	return list, nil
}

// described returns those of list, a region for each caption of the columns, that
// have a caption: blank ones are not among an example's.
func described(list []Region, columns []any) (kept []Region, err error) {
	n := 0
	for _, column := range columns {
		for _, caption := range listOf(column) {
			texts, err := stringsOf(caption)
			if err != nil {
				return nil, fmt.Errorf("captions: %w", err)
			}
			if n < len(list) && len(texts) == 1 {
				kept = append(kept, list[n])
			}
			n++
		}
	}
	if n != len(list) {
		return nil, fmt.Errorf("%d regions for %d captions", len(list), n)
	}
	return kept, nil
}

// ask sets r's question, number k of its row.
func ask(r *record, fields *[numFields][]any, k int) error {
	// at returns value k of a field's list, nil where there is none. A row with one
	// question may have it without a list around it.
	single := true
	if _, ok := fields[fieldQuestions][0].([]any); ok {
		single = false
	}
	n := len(listOf(fields[fieldQuestions][0]))
	at := func(field int, name string) (any, error) {
		if len(fields[field]) == 0 || fields[field][0] == nil {
			return nil, nil
		}
		if single {
			return fields[field][0], nil
		}
		l, ok := fields[field][0].([]any)
		if !ok {
			return nil, fmt.Errorf("%s is no list", name)
		}
		if len(l) == 0 { // a set without public answers
			return nil, nil
		}
		if len(l) != n {
			return nil, fmt.Errorf("%d %s for %d questions", len(l), name, n)
		}
		return l[k], nil
	}
	v, err := at(fieldQuestions, "questions")
	if err != nil {
		return err
	}
	list, err := stringsOf(v)
	if err != nil || len(list) != 1 {
		return fmt.Errorf("question %d is no text (%v)", k, err)
	}
	q := &Question{Text: list[0]}
	r.Question = q
	if v, err = at(fieldQuestionIDs, "question_id"); err != nil {
		return err
	}
	if v != nil {
		if q.ID, err = integer(v); err != nil {
			return fmt.Errorf("question_id: %w", err)
		}
		r.ID, _ = nameOf(v)
	} else if !single {
		r.ID = fmt.Sprintf("%s-%d", r.ID, k)
	}
	answers, err := at(fieldAnswers, "answers")
	if err != nil {
		return err
	}
	if text, ok := answers.(string); ok {
		q.Answers = []string{text}
		return q.truth()
	}
	for _, a := range listOf(answers) {
		text, ok := a.(string)
		if !ok {
			return fmt.Errorf("an answer of Go type %T, want a text", a)
		}
		q.Answers = append(q.Answers, text)
	}
	labels, err := at(fieldLabels, "answer_labels")
	if err != nil {
		return err
	}
	for _, l := range listOf(labels) {
		n, err := integer(l)
		if err != nil || n < 0 || n > 1<<30 {
			return fmt.Errorf("answer label %v", l)
		}
		q.Labels = append(q.Labels, int32(n))
	}
	scores, err := at(fieldScores, "answer_scores")
	if err != nil {
		return err
	}
	for _, s := range listOf(scores) {
		score, ok := s.(float64)
		if !ok || !(score > 0 && score <= 1) {
			return fmt.Errorf("answer score %v, want it in (0, 1]", s)
		}
		q.Scores = append(q.Scores, float32(score))
	}
	if a, l, s := len(q.Answers), len(q.Labels), len(q.Scores); a != l && l > 0 || a != s && s > 0 {
		return fmt.Errorf("%d answers, %d labels and %d scores", a, l, s)
	}
	return nil
}

// truth sets label and score of a question whose one answer is "True" or "False".
func (q *Question) truth() error {
	switch q.Answers[0] {
	case "True", "true":
		q.Labels = []int32{1}
	case "False", "false":
		q.Labels = []int32{0}
	default:
		if strings.TrimSpace(q.Answers[0]) == "" {
			return errors.New("a blank answer")
		}
		return nil // an answer without number
	}
	q.Scores = []float32{1}
	return nil
}
