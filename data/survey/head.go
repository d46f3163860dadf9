package survey

import (
	"context"
	"fmt"
	"strings"

	"vlmo-train/data/dataset"
)

// Entry is an example without its pixels.
type Entry struct {
	ID       string   `json:"id,omitempty"`
	Group    string   `json:"group,omitempty"`    // empty where it is the ID
	Picture  *[2]int  `json:"picture,omitempty"`  // width and height
	Picture2 *[2]int  `json:"picture2,omitempty"` // of a pair of pictures
	Captions []string `json:"captions,omitempty"`
	Keywords []string `json:"keywords,omitempty"`
	Question string   `json:"question,omitempty"`
	Answers  []string `json:"answers,omitempty"`
	Error    string   `json:"error,omitempty"` // why it can't be read
}

// String returns e on one line.
func (e Entry) String() string {
	if e.Error != "" {
		return "unreadable: " + e.Error
	}
	parts := []string{e.ID}
	if e.Group != "" {
		parts = append(parts, "group "+e.Group)
	}
	for _, p := range []*[2]int{e.Picture, e.Picture2} {
		if p != nil {
			parts = append(parts, fmt.Sprintf("%d×%d", p[0], p[1]))
		}
	}
	for _, c := range e.Captions {
		parts = append(parts, fmt.Sprintf("%q", c))
	}
	if e.Keywords != nil {
		parts = append(parts, "keywords "+strings.Join(e.Keywords, ", "))
	}
	if e.Question != "" {
		parts = append(parts, fmt.Sprintf("%q: %s", e.Question, strings.Join(e.Answers, ", ")))
	}
	return strings.Join(parts, "  ")
}

// Head calls f for the first n examples of s. It returns how many of them can't
// be read.
func Head(ctx context.Context, s dataset.Sharded, n int, f func(Entry) error) (bad int, err error) {
	for k := 0; k < s.Shards() && n > 0; k++ {
		d, err := s.Shard(ctx, k)
		if err != nil {
			return bad, err
		}
		for i := 0; i < d.Len() && n > 0; i, n = i+1, n-1 {
			if err := ctx.Err(); err != nil {
				d.Close()
				return bad, err
			}
			e, err := d.Example(i)
			if err != nil {
				bad++
			}
			if err := f(entry(e, err)); err != nil {
				d.Close()
				return bad, err
			}
		}
		if err := d.Close(); err != nil {
			return bad, err
		}
	}
	return bad, nil
}

func entry(e dataset.Example, err error) Entry {
	if err != nil {
		return Entry{Error: err.Error()}
	}
	out := Entry{ID: e.ID, Captions: e.Captions, Keywords: e.Keywords}
	if e.Group != e.ID {
		out.Group = e.Group
	}
	if m := e.Image; m != nil {
		out.Picture = &[2]int{m.W, m.H}
	}
	if m := e.Image2; m != nil {
		out.Picture2 = &[2]int{m.W, m.H}
	}
	if q := e.Question; q != nil {
		out.Question, out.Answers = q.Text, q.Answers
	}
	return out
}
