package train

import (
	"context"
	"fmt"
	"sort"
	"strings"

	"vlmo-train/data/dataset"
	"vlmo-train/data/img"
	"vlmo-train/data/loader"
	"vlmo-train/data/mask"
	"vlmo-train/data/text"
	"vlmo-train/rng"
	"vlmo-train/train/config"
	"vlmo-train/vlmo"
)

// batch is what the loader's workers prepare for a stage.
type batch struct {
	vlmo.Batch
	masks [][]bool
	ids   []string // of the examples, for messages
}

// pairs is several sets of pictures and captions one after the other.
type pairs struct {
	sets   []dataset.Dataset
	starts []int // first index of each set, and the total
	groups map[string]int32
}

func openPairs(paths []string) (*pairs, error) {
	p := &pairs{starts: []int{0}, groups: make(map[string]int32)}
	for _, path := range paths {
		var set dataset.Dataset
		var err error
		if strings.HasSuffix(path, ".jsonl") {
			set, err = dataset.OpenJSONL(path)
		} else {
			set, err = dataset.OpenFolder(path)
		}
		if err != nil {
			return nil, err
		}
		p.sets = append(p.sets, set)
		p.starts = append(p.starts, p.Len()+set.Len())
	}
	for i := range p.Len() {
		g := p.Group(i)
		if _, ok := p.groups[g]; !ok {
			p.groups[g] = int32(len(p.groups))
		}
	}
	return p, nil
}

// Len, Example and Group make pairs a dataset.Dataset.
func (p *pairs) Len() int { return p.starts[len(p.starts)-1] }

func (p *pairs) find(i int) (dataset.Dataset, int) {
	k := sort.SearchInts(p.starts, i+1) - 1
	return p.sets[k], i - p.starts[k]
}

func (p *pairs) Example(i int) (dataset.Example, error) {
	set, k := p.find(i)
	return set.Example(k)
}

func (p *pairs) Group(i int) string {
	set, k := p.find(i)
	return set.Group(k)
}

// texts are the sentences of the second stage: lines of text files, and the
// captions and keywords of the pairs.
type texts struct {
	lines *dataset.Lines
	pairs *pairs
}

func openTexts(files []string, p *pairs) (*texts, error) {
	t := &texts{pairs: p}
	if len(files) > 0 {
		var err error
		if t.lines, err = dataset.OpenLines(files...); err != nil {
			return nil, err
		}
	}
	if t.Len() == 0 {
		return nil, fmt.Errorf("train: a text stage needs data.text or data.pairs")
	}
	return t, nil
}

func (t *texts) nLines() int {
	if t.lines == nil {
		return 0
	}
	return t.lines.Len()
}

func (t *texts) Len() int {
	n := t.nLines()
	if t.pairs != nil {
		n += t.pairs.Len()
	}
	return n
}

func (t *texts) Example(i int) (dataset.Example, error) {
	if n := t.nLines(); i >= n {
		set, k := t.pairs.find(i - n)
		if j, ok := set.(*dataset.JSONL); ok {
			return j.Words(k), nil
		}
		return set.Example(k)
	}
	return t.lines.Example(i)
}

// maker makes the batches of one stage.
type maker struct {
	stage *config.Stage
	index int // of the stage, keys its draws
	seed  uint64
	model vlmo.Config
	tok   *text.Tokenizer
	pairs *pairs
	texts *texts
	aug   img.Augment
}

func newMaker(r *Run, index int) *maker {
	st := &r.Config.Stages[index]
	a := st.Augment
	return &maker{stage: st, index: index, seed: r.Config.Seed, model: r.modelConfig(st), tok: r.tok, pairs: r.pairs, texts: r.texts,
		aug: img.Augment{CropArea: a.CropArea, CropRatio: a.CropRatio, Flip: a.Flip, Rotate: a.Rotate, Translate: a.Translate, Scale: a.Scale,
			Shear: a.Shear, Fill: [3]byte{255, 255, 255}, OnePass: r.Config.Model.ImageSize <= 64,
			Brightness: a.Brightness, Contrast: a.Contrast, Saturation: a.Saturation,
			Hue: a.Hue, Gray: a.Gray, Erase: a.Erase,
			Rand: img.RandAugment{Ops: a.RandAugment.Ops, Level: a.RandAugment.Level, Kind: randKinds[a.RandAugment.Kind]}}}
}

var randKinds = map[config.RandKind]img.RandKind{
	config.RandDefault: img.RandDefault, config.RandCompat: img.RandCompat, config.RandPillow: img.RandPillow,
}

func (m *maker) source(p rng.Purpose, sample uint64) rng.Source {
	return rng.New(rng.Key{Seed: m.seed, Pass: uint32(m.index), Purpose: p, Sample: sample})
}

// make is the loader's MakeFunc.
func (m *maker) make(ctx context.Context, b *loader.Batch, old *batch) (*batch, error) {
	if old == nil {
		old = &batch{}
	}
	n := len(b.Indices)
	out := &batch{Batch: vlmo.Batch{Pixels: old.Pixels, Samples: append([]uint64(nil), b.Samples...)}, ids: old.ids[:0]}
	kind := m.stage.Kind
	aug, err := img.NewAugmenter(m.aug)
	if err != nil {
		return nil, err
	}
	size := m.model.ImageSize
	px := 3 * size * size
	if kind != config.Text {
		if cap(out.Pixels) < n*px {
			out.Pixels = make([]float32, n*px)
		}
		out.Pixels = out.Pixels[:n*px]
	}
	picture := img.New(size, size)
	out.Texts = make([]vlmo.Text, n)
	out.Masked = make([]vlmo.Text, n)
	out.Labels = make([][]int32, n)
	out.Groups = make([]int32, n)
	err = b.Each(func(place, index int) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		sample := b.Samples[place]
		var e dataset.Example
		var err error
		if kind == config.Text {
			e, err = m.texts.Example(index)
		} else {
			e, err = m.pairs.Example(index)
		}
		if err != nil {
			return err
		}
		if kind != config.Text {
			src := m.source(rng.Augment, sample)
			if err := aug.Apply(picture, e.Image, &src); err != nil {
				return fmt.Errorf("example %q: %w", e.ID, err)
			}
			if err := img.ToCHW(out.Pixels[place*px:(place+1)*px], picture); err != nil {
				return err
			}
			out.Groups[place] = m.pairs.groups[e.Group]
		}
		if kind == config.Tokenizer || kind == config.Vision {
			return nil
		}
		src := m.source(rng.Caption, sample)
		caption := draw(&src, e, m.stage.MaxKeywords)
		ids := m.tok.EncodeSpecial(caption, m.model.MaxText)
		if len(ids) <= 2 {
			return fmt.Errorf("example %q: caption %q has no tokens", e.ID, caption)
		}
		out.Texts[place] = ids
		src = m.source(rng.MaskText, sample)
		opt := mask.TextOptions{}
		if m.stage.Compat {
			opt.CompatLen = m.model.MaxText
		}
		out.Masked[place], out.Labels[place] = mask.Text(&src, m.tok, ids, opt)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if kind == config.Vision {
		w := m.model.Window()
		for _, sample := range b.Samples {
			src := m.source(rng.MaskImage, sample)
			out.masks = append(out.masks, mask.Blocks(&src, w, w, mask.BlockOptions{}))
		}
	}
	return out, nil
}

// draw picks one caption and up to most keywords that are not in it.
func draw(src *rng.Source, e dataset.Example, most int) string {
	caption := ""
	if len(e.Captions) > 0 {
		caption = e.Captions[src.IntN(len(e.Captions))]
	}
	if most == 0 || len(e.Keywords) == 0 {
		return caption
	}
	for range src.IntN(most + 1) {
		if k := e.Keywords[src.IntN(len(e.Keywords))]; !strings.Contains(caption, k) {
			caption += " " + k
		}
	}
	return caption
}
