// Package dataset reads sets of pictures, sentences and questions. Each format is a
// file of this package behind the interface [Dataset], and [Open] opens any:
//
//   - JSON lines with pictures or sprite sheets ([JSONL]), TSV and CSV ([Table])
//   - folders of pictures with caption files ([Folder]) or by classes ([Classes])
//   - text, one sentence a line ([Lines])
//   - Arrow IPC and Parquet tables ([Rows])
//   - the raw forms of COCO and Flickr30K ([Karpathy]), VQAv2 ([VQA]), [NLVR2], Visual
//     Genome ([VG]), Conceptual Captions and SBU ([Listed])
//   - tar files ([WebDataset]), which are opened when their turn comes
//
// What a set holds stays on disk, and so does what says where an example is: it goes to
// temporary files in the folder that $TMPDIR names, some 16 to 80 bytes an example, once
// it is larger than 4 kB. Memory does not depend on the number of examples, but on
// that of files and of folders. [Convert] writes the raw forms as the Arrow files of the
// original.
//
// A set is opened once, which checks everything that can be checked without
// decoding pictures, and is then read at random by any number of goroutines.
package dataset

import (
	"fmt"

	"vlmo-train/data/img"
)

// Example is one picture with what is said about it, or a text alone. It
// belongs to who asked for it.
type Example struct {
	// ID names the example; unique in its set.
	ID string

	// Group names the meaning: two examples of one group, such as two drawings
	// of one thing, are no negatives of each other. It is the ID where the set
	// does not say otherwise.
	Group string

	// Image is nil in a set of texts. Image2 is the second picture of a set of
	// pairs of pictures, such as NLVR2, nil in others.
	Image, Image2 *img.Image

	// ImageID is the set's name of the picture, or of the pair of pictures: the
	// examples of one picture share it. It is empty where the set has none.
	ImageID string

	// Captions are sentences of which each describes the picture. There are
	// none where the set has pictures alone.
	Captions []string

	// Keywords are words that belong to the picture, in no order that matters.
	Keywords []string

	// Regions are the parts of the picture that Captions describe, one for each
	// caption, in sets of regions such as Visual Genome; nil in others.
	Regions []Region

	// Question is nil where nothing is asked.
	Question *Question
}

// Region is a rectangle in pixels of the original picture.
type Region struct{ X, Y, Width, Height int64 }

// Question is what is asked about a picture (VQA), or what is said about two and
// is true or false (NLVR2). Answers, Labels and Scores are of one length; all are
// empty where the answer is not public, Labels and Scores also where a set does
// not number its answers.
type Question struct {
	ID   int64 // the set's number of the question, 0 in NLVR2
	Text string

	// Answers are right answers, each once: in VQA those of the ten given that
	// are in the vocabulary, in NLVR2 one, "True" or "False".
	Answers []string

	// Labels are the answers' classes: numbers in the vocabulary, or 1 for
	// "True" and 0 for "False".
	Labels []int32

	// Scores say how right each answer is, in (0, 1].
	Scores []float32
}

// Worder is a Dataset whose examples can be read without their pictures.
type Worder interface {
	Dataset

	// ReadWords reads example i and leaves Image and Image2 nil.
	ReadWords(i int) (Example, error)
}

// Words reads example i without its pictures, and without decoding them where d
// is a [Worder].
func Words(d Dataset, i int) (Example, error) {
	if w, ok := d.(Worder); ok {
		return w.ReadWords(i)
	}
	e, err := d.Example(i)
	e.Image, e.Image2 = nil, nil
	return e, err
}

// Dataset is a set of examples, numbered from 0. Its methods are safe for
// concurrent use.
type Dataset interface {
	// Len returns the number of examples, at least 1.
	Len() int

	// Example reads example i, 0 <= i < Len(). The picture is decoded in the
	// calling goroutine. Where this one example can't be read while others
	// may, the error is a *BadExampleError.
	Example(i int) (Example, error)

	// Group returns the group of example i without reading its picture.
	Group(i int) string
}

// BadExampleError says that one example can't be read: its picture is damaged,
// too large, gone, or does not contain the example's box.
type BadExampleError struct {
	Index int    // in the set
	ID    string // of the example
	Path  string // of the file that can't be read
	Err   error  // what is wrong with it
}

func (e *BadExampleError) Error() string {
	return fmt.Sprintf("dataset: example %d, %q: %s: %v", e.Index, e.ID, e.Path, e.Err)
}

// Unwrap returns e.Err.
func (e *BadExampleError) Unwrap() error { return e.Err }

// checkIndex returns an error unless 0 <= i < n.
func checkIndex(i, n int) error {
	if i < 0 || i >= n {
		return fmt.Errorf("dataset: no example %d in a set of %d", i, n)
	}
	return nil
}
