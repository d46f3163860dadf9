package dataset

import (
	"fmt"

	"vlmo-train/data/vqa"
)

// AnswersOf returns the answers that the labels of a set of questions are numbers of.
// Of a table they are found by reading all questions, and each label up to the largest
// must occur: those of a part of a set may not.
func AnswersOf(sets ...Dataset) (*vqa.Vocabulary, error) {
	answer := make(map[int32]string)
	most := int32(-1)
	for _, d := range sets {
		if v, ok := d.(*VQA); ok && v.Vocabulary() != nil {
			return v.Vocabulary(), nil
		}
		for i := range d.Len() {
			e, err := Words(d, i)
			if err != nil {
				return nil, err
			}
			if e.Question == nil {
				return nil, fmt.Errorf("dataset: example %q asks no question", e.ID)
			}
			for k, l := range e.Question.Labels {
				if a, ok := answer[l]; ok && a != e.Question.Answers[k] {
					return nil, fmt.Errorf("dataset: example %q: label %d is %q, and %q elsewhere", e.ID, l, e.Question.Answers[k], a)
				}
				answer[l] = e.Question.Answers[k]
				most = max(most, l)
			}
		}
	}
	if most < 0 {
		return nil, fmt.Errorf("dataset: no question has a label")
	}
	if int(most) >= len(answer) {
		return nil, fmt.Errorf("dataset: labels up to %d, but only %d of them occur", most, len(answer))
	}
	list := make([]string, most+1)
	for l, a := range answer {
		list[l] = a
	}
	v, err := vqa.NewVocabulary(list)
	if err != nil {
		return nil, fmt.Errorf("dataset: %w", err)
	}
	return v, nil
}
