package train

import (
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"sync"

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
	image []byte // pixels on the host, [images, 3·size·size] in planes
	masks [][]bool
	ids   []string // of the examples, for messages
}

// sets are the sets of a list of the configuration: one source, or those of a
// mixture.
type sets []loader.Source

// openSets opens a list of the configuration, whose key is for messages.
func openSets(key string, list []config.Set) (sets, error) {
	var all sets
	for i, c := range list {
		set, err := dataset.OpenSet(c.Options(), c.Path...)
		if err != nil {
			return nil, fmt.Errorf("%s.%d: %w", key, i, err)
		}
		all = append(all, loader.Source{Set: set, Weight: c.Weight})
	}
	return all.joined(), nil
}

// weighted reports whether the sets have weights. Either all have one or none.
func (s sets) weighted() bool { return len(s) > 0 && s[0].Weight > 0 }

// joined returns sets without weights as one.
func (s sets) joined() sets {
	if len(s) < 2 || s.weighted() {
		return s
	}
	list := make([]dataset.Sharded, len(s))
	for i := range s {
		list[i] = s[i].Set
	}
	return sets{{Set: dataset.Join(list...)}}
}

// length returns the number of examples; false where it is not known.
func (s sets) length() (n int, known bool) {
	for _, x := range s {
		d, ok := dataset.AsDataset(x.Set)
		if !ok {
			return 0, false
		}
		n += d.Len()
	}
	return n, true
}

// one returns all examples as a set that can be read at random, which opens
// every file.
func (s sets) one(ctx context.Context) (dataset.Dataset, error) {
	set := s.joined()[0].Set
	d, err := dataset.Index(ctx, set)
	if err == nil && d.Len() == 0 {
		err = dataset.NoExamples(set)
	}
	if err != nil {
		return nil, err
	}
	return d, nil
}

// sample returns examples that stand for the sets: all of the first set where
// their number is known, else its first file.
func (s sets) sample(ctx context.Context) (dataset.Shard, error) {
	return s[0].Set.Shard(ctx, 0)
}

// incomplete returns how many samples were left out so far because they lack a
// picture or a caption, and the name of one.
func (s sets) incomplete() (n int, name string) {
	for _, x := range s {
		more, first := dataset.Incomplete(x.Set)
		if n += more; name == "" {
			name = first
		}
	}
	return n, name
}

// textsOf returns the sets of the second stage: text, and the captions and
// keywords of the pairs. Where just one of the two has weights, the other is one
// more set of the weight 1.
func textsOf(text, pairs sets) sets {
	var words sets
	for _, x := range pairs {
		words = append(words, loader.Source{Set: dataset.TextsOf(x.Set), Weight: x.Weight})
	}
	if text.weighted() != words.weighted() {
		for _, list := range []sets{text, words} {
			if len(list) == 1 && list[0].Weight == 0 {
				list[0].Weight = 1
			}
		}
	}
	return slices.Concat(text, words).joined()
}

// maker makes the batches of one stage.
type maker struct {
	stage *config.Stage
	index int // of the stage, keys its draws
	seed  uint64
	model vlmo.Config
	tok   *text.Tokenizer
	aug   img.Augment
	free  sync.Pool // of *scratch
}

// scratch is what making one example needs.
type scratch struct {
	aug     *img.Augmenter
	picture *img.Image
}

func newMaker(r *Run, index int) *maker {
	st := &r.Config.Stages[index]
	a := st.Augment
	return &maker{stage: st, index: index, seed: r.Config.Seed, model: r.modelConfig(st), tok: r.tok,
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
	out := &batch{Batch: vlmo.Batch{Samples: append([]uint64(nil), b.Samples...)}, image: old.image, ids: old.ids[:0]}
	kind := m.stage.Kind
	size := m.model.ImageSize
	px := 3 * size * size
	if kind != config.Text {
		out.image = slices.Grow(out.image[:0], n*px)[:n*px]
	}
	out.Texts = make([]vlmo.Text, n)
	out.Masked = make([]vlmo.Text, n)
	out.Labels = make([][]int32, n)
	out.Groups = make([]int32, n)
	err := b.Each(func(place int, e dataset.Example) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		bad := func(format string, args ...any) error {
			return &dataset.BadExampleError{Index: b.Indices[place], ID: e.ID, Path: e.ID, Err: fmt.Errorf(format, args...)}
		}
		sample := b.Samples[place]
		if kind != config.Text {
			if e.Image == nil {
				return bad("has no picture")
			}
			if err := m.picture(out.image[place*px:(place+1)*px], e.Image, sample); err != nil {
				return fmt.Errorf("example %q: %w", e.ID, err)
			}
			out.Groups[place] = groupNumber(e.Group)
		}
		if kind == config.Tokenizer || kind == config.Vision {
			return nil
		}
		src := m.source(rng.Caption, sample)
		caption := draw(&src, e, m.stage.MaxKeywords)
		ids := m.tok.EncodeSpecial(caption, m.model.MaxText)
		if len(ids) <= 2 {
			return bad("caption %q has no tokens", caption)
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

// picture augments a picture and writes its pixels to dst, [3, size, size].
func (m *maker) picture(dst []byte, from *img.Image, sample uint64) error {
	s, ok := m.free.Get().(*scratch)
	if !ok {
		aug, err := img.NewAugmenter(m.aug)
		if err != nil {
			return err
		}
		s = &scratch{aug, img.New(m.model.ImageSize, m.model.ImageSize)}
	}
	defer m.free.Put(s)
	src := m.source(rng.Augment, sample)
	if err := s.aug.Apply(s.picture, from, &src); err != nil {
		return err
	}
	return img.Planes(dst, s.picture)
}

// groupNumber returns a number that is equal for equal groups, on every machine.
// Of two groups in a batch of 1,024, it is equal with a probability of 1e-4, and
// then the one is no negative of the other.
func groupNumber(name string) int32 {
	h := fnv.New32a()
	h.Write([]byte(name))
	return int32(h.Sum32())
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
