package train

import (
	"fmt"
	"sort"

	"vlmo-train/data/dataset"
	"vlmo-train/data/img"
	"vlmo-train/engine"
	"vlmo-train/kernels"
	"vlmo-train/vlmo"
)

// Recall is R@1, R@5 and R@10 in percent.
type Recall [3]float64

var recallAt = [3]int{1, 5, 10}

// Retrieval is the result of a retrieval evaluation: the dual encoder's
// cosines over all images and all captions (SPEC §10).
type Retrieval struct {
	ImageToText, TextToImage Recall
	Chance                   Recall
	Images, Texts            int
	// Reranked are the recalls after ITM has reordered the best RerankTop
	// candidates, zero where that was not asked for.
	RerankTop                          int
	RerankedImageToText, RerankedToImg Recall

	test     dataset.Dataset
	examples []dataset.Example // one an image, without it
	captions []string
	owner    []int     // the image of each caption
	score    []float32 // [images, texts]
}

// Evaluate embeds the test set and ranks it. rerank > 0 also reorders each
// query's best candidates by ITM logit + cosine. In memory are features, captions, a
// cosine for each pair of an image and a caption and, with rerank, the pixels of all
// images as the model has them.
func (r *Run) Evaluate(m *vlmo.Model, rerank int) (*Retrieval, error) {
	if r.test == nil {
		return nil, fmt.Errorf("train: data.test is empty: nothing to evaluate on")
	}
	s := engine.NewStep(r.Dev, r.Config.Seed)
	defer s.Arena.Close()
	res := &Retrieval{Images: r.test.Len(), test: r.test}
	size := m.ImageSize
	px := 3 * size * size
	held := min(evalChunk, res.Images) // images whose pixels are in memory
	if rerank > 0 {
		held = res.Images
	}
	pixels := make([]byte, held*px)
	var images []float32
	var ids []vlmo.Text
	resizer := img.Resizer{}
	picture := img.New(size, size)
	for i := range res.Images {
		e, err := r.test.Example(i)
		if err != nil {
			return nil, err
		}
		if e.Image == nil {
			return nil, fmt.Errorf("train: example %q has no picture", e.ID)
		}
		if err := resizer.Resize(picture, e.Image, img.Box{X1: float32(e.Image.W), Y1: float32(e.Image.H)}); err != nil {
			return nil, fmt.Errorf("train: example %q: %w", e.ID, err)
		}
		at := i % held
		if err := img.Planes(pixels[at*px:(at+1)*px], picture); err != nil {
			return nil, err
		}
		if at == held-1 || i == res.Images-1 {
			more, _, err := embed(s, m, pixels[:(at+1)*px], nil)
			if err != nil {
				return nil, err
			}
			images = append(images, more...)
		}
		for _, c := range e.Captions {
			t := r.tok.EncodeSpecial(c, m.MaxText)
			if len(t) <= 2 {
				return nil, fmt.Errorf("train: example %q: caption %q has no tokens", e.ID, c)
			}
			ids, res.captions, res.owner = append(ids, t), append(res.captions, c), append(res.owner, i)
		}
		e.Image, e.Image2 = nil, nil
		res.examples = append(res.examples, e)
	}
	res.Texts = len(ids)
	_, texts, err := embed(s, m, nil, ids)
	if err != nil {
		return nil, err
	}
	res.score = make([]float32, res.Images*res.Texts)
	s.Begin(0, false)
	a, b := s.Upload(images, res.Images, m.Dim), s.Upload(texts, res.Texts, m.Dim)
	dot := s.Floats(res.Images, res.Texts)
	engine.Run(s, kernels.MatMul{A: a, B: b, TransB: true, C: dot})
	r.Dev.Read(res.score, dot)
	if err := s.Err(); err != nil {
		return nil, err
	}
	res.ImageToText, res.TextToImage = res.recalls(func(i, t int) float32 { return res.score[i*res.Texts+t] })
	for k, n := range recallAt {
		res.Chance[k] = 100 * float64(min(n, res.Texts)) / float64(res.Texts)
	}
	if rerank > 0 {
		err = res.rerank(s, m, pixels, ids, rerank)
	}
	return res, err
}

// evalChunk is how many images or texts go through the model at a time.
const evalChunk = 256

// embed returns the unit features of images and texts, [n, dim] each.
func embed(s *engine.Step, m *vlmo.Model, pixels []byte, ids []vlmo.Text) (images, texts []float32, err error) {
	const chunk = evalChunk
	defer func(on bool) { m.PackWeights = on }(m.PackWeights)
	m.PackWeights = true
	px := 3 * m.ImageSize * m.ImageSize
	n := len(pixels) / px
	images, texts = make([]float32, n*m.Dim), make([]float32, len(ids)*m.Dim)
	for lo := 0; lo < n; lo += chunk {
		hi := min(lo+chunk, n)
		if err := imageFeatures(s, m, images[lo*m.Dim:hi*m.Dim], pixels[lo*px:hi*px]); err != nil {
			return nil, nil, err
		}
	}
	for lo := 0; lo < len(ids); lo += chunk {
		hi := min(lo+chunk, len(ids))
		if err := textFeatures(s, m, texts[lo*m.Dim:hi*m.Dim], ids[lo:hi]); err != nil {
			return nil, nil, err
		}
	}
	return images, texts, nil
}

// imageFeatures writes the unit features of pictures, [n, 3, size, size], to dst,
// [n, dim].
func imageFeatures(s *engine.Step, m *vlmo.Model, dst []float32, pixels []byte) error {
	px := 3 * m.ImageSize * m.ImageSize
	s.Begin(0, false)
	_, im, err := m.CLS(s, &vlmo.Batch{Pixels: s.Bytes(pixels, len(pixels)/px, px)})
	if err != nil {
		return err
	}
	s.Dev.Read(dst, m.Project(s, vlmo.Own, 1, im).X)
	return s.Err()
}

// textFeatures writes the unit features of n texts to dst, [n, dim].
func textFeatures(s *engine.Step, m *vlmo.Model, dst []float32, ids []vlmo.Text) error {
	s.Begin(0, false)
	t, _, err := m.CLS(s, &vlmo.Batch{Texts: ids})
	if err != nil {
		return err
	}
	s.Dev.Read(dst, m.Project(s, vlmo.Own, 0, t).X)
	return s.Err()
}

// right reports whether caption t belongs to image i: its own, or one of the
// same words.
func (r *Retrieval) right(i, t int) bool {
	if r.owner[t] == i {
		return true
	}
	for _, c := range r.examples[i].Captions {
		if c == r.captions[t] {
			return true
		}
	}
	return false
}

// recalls ranks by score. A query's rank is that of its best right answer;
// answers of equal score go before it.
func (r *Retrieval) recalls(score func(i, t int) float32) (i2t, t2i Recall) {
	rank := func(n int, score func(int) float32, right func(int) bool) int {
		best, ok := float32(0), false
		for k := range n {
			if right(k) && (!ok || score(k) > best) {
				best, ok = score(k), true
			}
		}
		before := 0
		for k := range n {
			if !right(k) && score(k) >= best {
				before++
			}
		}
		return before
	}
	for i := range r.Images {
		n := rank(r.Texts, func(t int) float32 { return score(i, t) }, func(t int) bool { return r.right(i, t) })
		for k, at := range recallAt {
			if n < at {
				i2t[k] += 100 / float64(r.Images)
			}
		}
	}
	for t := range r.Texts {
		n := rank(r.Images, func(i int) float32 { return score(i, t) }, func(i int) bool { return r.right(i, t) })
		for k, at := range recallAt {
			if n < at {
				t2i[k] += 100 / float64(r.Texts)
			}
		}
	}
	return i2t, t2i
}

// top returns the indices of the n largest of scores, best first.
func top(scores func(int) float32, count, n int) []int {
	idx := make([]int, count)
	for i := range idx {
		idx[i] = i
	}
	sort.SliceStable(idx, func(a, b int) bool { return scores(idx[a]) > scores(idx[b]) })
	return idx[:min(n, count)]
}

// above lifts reranked candidates over all others, whose scores are cosines.
const above = 1000

// rerank scores each query's best candidates by ITM logit[1] + cosine,
// everything else below (SPEC §7).
func (r *Retrieval) rerank(s *engine.Step, m *vlmo.Model, pixels []byte, ids []vlmo.Text, k int) error {
	r.RerankTop = k
	px := 3 * m.ImageSize * m.ImageSize
	reorder := func(byImage bool) (Recall, error) {
		scores := append([]float32(nil), r.score...)
		n, other := r.Images, r.Texts
		if !byImage {
			n, other = other, n
		}
		cell := func(q, c int) int {
			if byImage {
				return q*r.Texts + c
			}
			return c*r.Texts + q
		}
		const chunk = 16 // queries at a time
		for lo := 0; lo < n; lo += chunk {
			hi := min(lo+chunk, n)
			s.Begin(0, false)
			p := &vlmo.Phase{}
			var at []int
			var pics []byte
			seen := map[int]int{}
			for q := lo; q < hi; q++ {
				for _, c := range top(func(c int) float32 { return r.score[cell(q, c)] }, other, k) {
					i, t := q, c
					if !byImage {
						i, t = c, q
					}
					if _, ok := seen[i]; !ok {
						seen[i] = len(seen)
						pics = append(pics, pixels[i*px:(i+1)*px]...)
					}
					p.Pairs = append(p.Pairs, vlmo.Pair{Text: ids[t], Image: seen[i]})
					at = append(at, cell(q, c))
				}
			}
			l, err := m.MatchLogits(s, p, s.Bytes(pics, len(pics)/px, px))
			if err != nil {
				return Recall{}, err
			}
			v := make([]float32, l.Len())
			s.Dev.Read(v, l)
			for j, x := range at {
				scores[x] = r.score[x] + v[2*j+1] + above
			}
		}
		i2t, t2i := r.recalls(func(i, t int) float32 { return scores[i*r.Texts+t] })
		if byImage {
			return i2t, s.Err()
		}
		return t2i, s.Err()
	}
	var err error
	if r.RerankedImageToText, err = reorder(true); err != nil {
		return err
	}
	r.RerankedToImg, err = reorder(false)
	return err
}
