package vlmo

import (
	"fmt"
	"sort"

	"vlmo-train/engine"
	"vlmo-train/experts"
	"vlmo-train/kernels"
	"vlmo-train/layers"
	"vlmo-train/rng"
)

// Text is one tokenised text, [CLS] and [SEP] included.
type Text []int32

// Pair is a text and an image that attend to each other.
type Pair struct {
	Text   Text
	Image  int    // row of the batch's images
	Type   int32  // row of token_type_embeddings for the image: 1, or 2 for NLVR2's second
	Sample uint64 // global index, keys drop path and dropout
	Pass   uint32 // which of the step's passes, keys them too
}

// Unimodal is a text or an image by itself.
type Unimodal struct {
	Text   Text   // of a text
	Image  int    // of an image
	Sample uint64 // as in Pair
	Pass   uint32
}

// Phase is a set of sequences that go through the encoder together. Its rows
// are packed without padding in the order dual text, fusion text, fusion
// image, dual image, so that the rows of an expert are contiguous.
type Phase struct {
	Texts  []Unimodal
	Pairs  []Pair
	Images []Unimodal
	// VLBranch also runs the unimodal sequences, from the hidden state
	// entering the first VL block on, through the VL experts (SPEC §6).
	VLBranch bool
	// Masked marks the patches of each image (all of Images) that the mask
	// token replaces; nil: none.
	Masked [][]bool

	textOff, pairText, pairImage, imageOff []int // first rows, before the branch
	nDT, nFT, nFI, nDI                     int
	imageLen                               int
}

// Branch selects the modality's own experts or the VL experts.
type Branch int

const (
	Own Branch = iota
	VL
)

// Layout numbers the rows for images of imageLen tokens ([CLS] and patches).
// It must follow every change of the sequences and precede the row methods.
func (p *Phase) Layout(imageLen int) {
	p.imageLen = imageLen
	p.textOff, p.pairText, p.pairImage, p.imageOff = p.textOff[:0], p.pairText[:0], p.pairImage[:0], p.imageOff[:0]
	row := 0
	for _, t := range p.Texts {
		p.textOff = append(p.textOff, row)
		row += len(t.Text)
	}
	p.nDT = row
	for _, q := range p.Pairs {
		p.pairText = append(p.pairText, row)
		row += len(q.Text)
	}
	p.nFT = row - p.nDT
	for range p.Pairs {
		p.pairImage = append(p.pairImage, row)
		row += imageLen
	}
	p.nFI = len(p.Pairs) * imageLen
	for range p.Images {
		p.imageOff = append(p.imageOff, row)
		row += imageLen
	}
	p.nDI = len(p.Images) * imageLen
}

func (p *Phase) rows() int { return p.nDT + p.nFT + p.nFI + p.nDI }

// The rows at the top of the encoder; with the VL branch the order is dual
// text, its VL copy, fusion text, fusion image, the VL copy of dual image,
// dual image.

// TextRow returns the row of token t of Texts[i] at the top.
func (p *Phase) TextRow(i, t int, b Branch) int {
	if b == VL {
		return p.nDT + p.textOff[i] + t
	}
	return p.textOff[i] + t
}

func (p *Phase) shift() int {
	if p.VLBranch {
		return p.nDT
	}
	return 0
}

// PairRow returns the row of token t of Pairs[i], text tokens first, at the top.
func (p *Phase) PairRow(i, t int) int {
	if n := len(p.Pairs[i].Text); t >= n {
		return p.shift() + p.pairImage[i] + t - n
	}
	return p.shift() + p.pairText[i] + t
}

// ImageRow returns the row of token t of Images[i] at the top.
func (p *Phase) ImageRow(i, t int, b Branch) int {
	r := p.shift() + p.imageOff[i] + t
	if p.VLBranch && b == Own {
		r += p.nDI
	}
	return r
}

// Encode runs the phase and returns the final-normed hidden states of the
// rows that need names (rows at the top, any order, repeats allowed), in the
// order of need. pixels are as in [layers.Patches].
func (m *Model) Encode(s *engine.Step, p *Phase, pixels kernels.Tensor, need []int) (layers.Node, error) {
	s.PackWeights = m.PackWeights
	if err := m.checkPhase(p, pixels.Rows); err != nil {
		return layers.Node{}, err
	}
	p.Layout(1 + m.Patches())
	x, expand := m.embed(s, p, pixels)

	branch := p.VLBranch && m.VLStart < m.Depth && len(p.Texts)+len(p.Images) > 0
	if p.VLBranch && !branch && len(p.Texts)+len(p.Images) > 0 {
		return layers.Node{}, fmt.Errorf("vlmo: the VL branch needs vision-language experts, this model has none")
	}
	top := unique(need)
	most := max(x.X.Rows, p.rows()) // in any block
	if branch {
		most += p.nDT + p.nDI
	}
	pass := func(i int) experts.Pass {
		d := m.draw(s, p, i, branch && i >= m.VLStart)
		var read []int // nil: all
		if i == m.Depth-1 && m.TopRows && len(top) < d.rows {
			read = top
		}
		q := m.pass(s, &d, read)
		if i == 0 && !expand.IsZero() {
			q.Base, q.Attention.Expand = expand, expand
		}
		return q
	}
	first, err := 0, error(nil)
	if branch {
		if x, err = experts.Run(s, m.blocks[:m.VLStart], x, most, pass); err != nil {
			return layers.Node{}, err
		}
		x, first = m.copyDual(s, p, x), m.VLStart
	}
	x, err = experts.Run(s, m.blocks[first:], x, most, func(i int) experts.Pass { return pass(first + i) })
	if err != nil {
		return layers.Node{}, err
	}
	x = m.norm.Apply(s, x)
	index := make([]int32, len(need))
	for i, r := range need {
		if x.X.Rows == len(top) {
			r = sort.SearchInts(top, r)
		}
		index[i] = int32(r)
	}
	return layers.Select(s, x, s.Indices(index)), nil
}

func (m *Model) checkPhase(p *Phase, images int) error {
	check := func(what string, i int, t Text) error {
		if len(t) == 0 {
			return fmt.Errorf("vlmo: %s %d has no tokens", what, i)
		}
		if len(t) > m.MaxText {
			return fmt.Errorf("vlmo: %s %d has %d tokens, the model reads %d", what, i, len(t), m.MaxText)
		}
		for _, id := range t {
			if id < 0 || int(id) >= m.Vocab {
				return fmt.Errorf("vlmo: %s %d has token id %d, the vocabulary has %d", what, i, id, m.Vocab)
			}
		}
		return nil
	}
	image := func(what string, i, im int) error {
		if im < 0 || im >= images {
			return fmt.Errorf("vlmo: %s %d names image %d of %d", what, i, im, images)
		}
		return nil
	}
	for i, t := range p.Texts {
		if err := check("text", i, t.Text); err != nil {
			return err
		}
	}
	for i, q := range p.Pairs {
		if err := check("the text of pair", i, q.Text); err != nil {
			return err
		}
		if err := image("pair", i, q.Image); err != nil {
			return err
		}
	}
	for i, q := range p.Images {
		if err := image("sequence", i, q.Image); err != nil {
			return err
		}
	}
	if len(p.Texts)+len(p.Pairs)+len(p.Images) == 0 {
		return fmt.Errorf("vlmo: an empty phase")
	}
	return nil
}

func unique(need []int) []int {
	u := append([]int(nil), need...)
	sort.Ints(u)
	k := 0
	for i, r := range u {
		if i == 0 || r != u[k-1] {
			u[k] = r
			k++
		}
	}
	return u[:k]
}

// textInput and imageInput are what the rows of a text and of an image are
// made of.
type textInput struct {
	ids Text
	dropout
}

type imageInput struct {
	image  int // row of the pixels
	typ    int32
	masked []bool // nil: no patch
}

// embed returns the phase's inputs as rows (SPEC §3), texts first, and for
// each row of the phase its row among them. The list is absent where they are
// the same rows: no input occurs twice, or Distinct is off.
func (m *Model) embed(s *engine.Step, p *Phase, pixels kernels.Tensor) (x layers.Node, expand kernels.Tensor) {
	h := &m.host
	h.reset()
	// The last block has other rows to choose from, so the first one must be
	// another. A text's dropout differs from pass to pass.
	distinct := m.Distinct && m.Depth > 1
	distinctText := distinct && !m.dropsText(s)
	for _, t := range p.Texts {
		h.addText(textInput{t.Text, dropout{t.Pass, t.Sample}}, distinctText)
	}
	for _, q := range p.Pairs {
		h.addText(textInput{q.Text, dropout{q.Pass, q.Sample}}, distinctText)
	}
	text := h.inputRows
	for _, q := range p.Pairs {
		h.addImage(imageInput{q.Image, max(q.Type, 1), nil}, p.imageLen, distinct)
	}
	for i, q := range p.Images {
		in := imageInput{q.Image, 1, nil}
		if p.Masked != nil {
			in.masked = p.Masked[i]
		}
		h.addImage(in, p.imageLen, distinct && in.masked == nil)
	}
	x = layers.NewNode(s, h.inputRows, m.Dim)
	if text > 0 {
		m.embedText(s, h.texts, x.Slice(0, text))
	}
	if text < h.inputRows {
		m.embedImages(s, h.images, pixels, x.Slice(text, h.inputRows))
	}
	if len(h.expand) > h.inputRows {
		expand = s.Indices(h.expand)
	}
	return x, expand
}

func (m *Model) embedText(s *engine.Step, texts []textInput, y layers.Node) {
	n := y.X.Rows
	ids, pos := make([]int32, 0, n), make([]int32, 0, n)
	for _, t := range texts {
		for i, id := range t.ids {
			ids, pos = append(ids, id), append(pos, int32(i))
		}
	}
	e := layers.NewNode(s, n, m.Dim)
	engine.Run(s, kernels.Fill{Y: e.X})
	layers.Lookup(s, m.word, s.Indices(ids), e)
	zeros := s.Indices(make([]int32, n))
	layers.Lookup(s, m.textType, zeros, e)
	if m.Absolute {
		layers.Lookup(s, m.textPos, s.Indices(pos), e)
	}
	e = m.textNorm.Apply(s, e)
	e = m.dropText(s, e, texts)
	layers.SelectInto(s, e, s.Indices(ascending(n)), y)
	layers.Lookup(s, m.types, zeros, y)
}

// dropout names the draws of a text's dropout.
type dropout struct {
	pass   uint32
	sample uint64
}

// dropsText reports whether the embedding drops elements in this step.
func (m *Model) dropsText(s *engine.Step) bool { return s.Train && m.DropPath > 0 }

// dropText is the embedding's dropout. A row's mask is keyed by pass, sample
// and position, so it does not depend on how the batch is packed.
func (m *Model) dropText(s *engine.Step, e layers.Node, texts []textInput) layers.Node {
	if !m.dropsText(s) {
		return e
	}
	rows := make([]int32, 0, e.X.Rows)
	for _, t := range texts {
		src := rng.New(s.Key(rng.Dropout, t.pass, t.sample))
		first := src.Uint32()
		for i := range t.ids {
			rows = append(rows, int32(first+uint32(i)))
		}
	}
	key, _ := s.Key(rng.Dropout, 0, 0).Words()
	return layers.Dropout(s, e, float32(m.DropPath), key, s.Indices(rows))
}

func ascending(n int) []int32 {
	v := make([]int32, n)
	for i := range v {
		v[i] = int32(i)
	}
	return v
}

func (m *Model) embedImages(s *engine.Step, images []imageInput, pixels kernels.Tensor, y layers.Node) {
	np, n := m.Patches(), y.X.Rows
	patches := layers.Patches(s, pixels, m.ImageSize, m.Patch)
	proj := layers.Share(s, m.patch.Apply(s, layers.Node{X: patches}))

	from, cls, pos, typ, mask := make([]int32, 0, n), make([]int32, 0, n), make([]int32, 0, n), make([]int32, 0, n), make([]int32, 0, n)
	anyMasked := false
	for _, in := range images {
		anyMasked = anyMasked || in.masked != nil
		for i := range np + 1 {
			f, c, k := int32(in.image*np+i-1), int32(-1), int32(-1)
			if i == 0 {
				f, c = -1, 0
			} else if in.masked != nil && in.masked[i-1] {
				f, k = -1, 0
			}
			from, cls, pos, typ, mask = append(from, f), append(cls, c), append(pos, int32(i)), append(typ, in.typ), append(mask, k)
		}
	}
	layers.SelectInto(s, proj, s.Indices(from), y)
	lookup := func(table *engine.Param, index []int32) { layers.Lookup(s, table, s.Indices(index), y) }
	lookup(m.cls, cls)
	if m.pos != nil {
		lookup(m.pos, pos)
	}
	if anyMasked {
		lookup(m.mask, mask)
	}
	lookup(m.types, typ)
}

// copyDual repeats the unimodal rows for the VL branch.
func (m *Model) copyDual(s *engine.Step, p *Phase, x layers.Node) layers.Node {
	index := make([]int32, 0, x.X.Rows+p.nDT+p.nDI)
	add := func(lo, n int) {
		for i := range n {
			index = append(index, int32(lo+i))
		}
	}
	add(0, p.nDT)
	add(0, p.nDT+p.nFT+p.nFI)
	add(p.nDT+p.nFT+p.nFI, p.nDI)
	add(p.nDT+p.nFT+p.nFI, p.nDI)
	return layers.Select(s, x, s.Indices(index))
}
