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
// order of need. pixels are [images, 3·size·size].
func (m *Model) Encode(s *engine.Step, p *Phase, pixels kernels.Tensor, need []int) (layers.Node, error) {
	if err := m.checkPhase(p, pixels.Rows); err != nil {
		return layers.Node{}, err
	}
	p.Layout(1 + m.Patches())
	x := m.embed(s, p, pixels)

	branch := p.VLBranch && m.VLStart < m.Depth && len(p.Texts)+len(p.Images) > 0
	if p.VLBranch && !branch && len(p.Texts)+len(p.Images) > 0 {
		return layers.Node{}, fmt.Errorf("vlmo: the VL branch needs vision-language experts, this model has none")
	}
	top := unique(need)
	for i, b := range m.blocks {
		if i == m.VLStart && branch {
			x = m.copyDual(s, p, x)
		}
		pass := m.pass(s, p, i, branch && i >= m.VLStart)
		if i == m.Depth-1 && m.TopRows && len(top) < x.X.Rows {
			restrict(s, &pass, top)
		}
		m.uploadKeep(s, &pass)
		var err error
		if x, err = b.Forward(s, x, pass.Pass); err != nil {
			return layers.Node{}, err
		}
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

// embed fills the rows of the phase (SPEC §3).
func (m *Model) embed(s *engine.Step, p *Phase, pixels kernels.Tensor) layers.Node {
	x := layers.NewNode(s, p.rows(), m.Dim)
	if nt := p.nDT + p.nFT; nt > 0 {
		m.embedText(s, p, x.Slice(0, nt))
	}
	if ni := p.nFI + p.nDI; ni > 0 {
		m.embedImages(s, p, pixels, x.Slice(p.nDT+p.nFT, p.rows()))
	}
	return x
}

func (m *Model) embedText(s *engine.Step, p *Phase, y layers.Node) {
	n := y.X.Rows
	ids, pos := make([]int32, 0, n), make([]int32, 0, n)
	var draws []draw
	add := func(t Text, d draw) {
		for i, id := range t {
			ids, pos = append(ids, id), append(pos, int32(i))
		}
		draws = append(draws, d)
	}
	for _, t := range p.Texts {
		add(t.Text, draw{t.Pass, t.Sample, len(t.Text)})
	}
	for _, q := range p.Pairs {
		add(q.Text, draw{q.Pass, q.Sample, len(q.Text)})
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
	e = m.dropText(s, e, draws)
	layers.SelectInto(s, e, s.Indices(ascending(n)), y)
	layers.Lookup(s, m.types, zeros, y)
}

type draw struct {
	pass   uint32
	sample uint64
	rows   int
}

// dropText is the embedding's dropout. A row's mask is keyed by pass, sample
// and position, so it does not depend on how the batch is packed.
func (m *Model) dropText(s *engine.Step, e layers.Node, draws []draw) layers.Node {
	if !s.Train || m.DropPath == 0 {
		return e
	}
	rows := make([]int32, 0, e.X.Rows)
	for _, d := range draws {
		src := rng.New(s.Key(rng.Dropout, d.pass, d.sample))
		first := src.Uint32()
		for i := range d.rows {
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

func (m *Model) embedImages(s *engine.Step, p *Phase, pixels kernels.Tensor, y layers.Node) {
	np, n := m.Patches(), y.X.Rows
	patches := s.Floats(pixels.Rows*np, 3*m.Patch*m.Patch)
	engine.Run(s, kernels.Patchify{X: pixels, Y: patches, Channels: 3, Height: m.ImageSize, Width: m.ImageSize, Size: m.Patch})
	proj := layers.Share(s, m.patch.Apply(s, layers.Node{X: patches}))

	from, cls, pos, typ, mask := make([]int32, 0, n), make([]int32, 0, n), make([]int32, 0, n), make([]int32, 0, n), make([]int32, 0, n)
	add := func(image int, t int32, masked []bool) {
		for i := range np + 1 {
			f, c, k := int32(image*np+i-1), int32(-1), int32(-1)
			if i == 0 {
				f, c = -1, 0
			} else if masked != nil && masked[i-1] {
				f, k = -1, 0
			}
			from, cls, pos, typ, mask = append(from, f), append(cls, c), append(pos, int32(i)), append(typ, t), append(mask, k)
		}
	}
	for _, q := range p.Pairs {
		add(q.Image, max(q.Type, 1), nil)
	}
	for i, q := range p.Images {
		var masked []bool
		if p.Masked != nil {
			masked = p.Masked[i]
		}
		add(q.Image, 1, masked)
	}
	layers.SelectInto(s, proj, s.Indices(from), y)
	lookup := func(table *engine.Param, index []int32) { layers.Lookup(s, table, s.Indices(index), y) }
	lookup(m.cls, cls)
	if m.pos != nil {
		lookup(m.pos, pos)
	}
	if p.Masked != nil {
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

// blockPass is a block's Pass before the drop path factors are uploaded.
type blockPass struct {
	experts.Pass
	keepA, keepF []float32 // nil: all ones
}

func (m *Model) pass(s *engine.Step, p *Phase, block int, branch bool) blockPass {
	var bp blockPass
	bp.Window, bp.Text = m.Window(), m.MaxTextInit
	rate := 0.0
	if m.Depth > 1 {
		rate = m.DropPath * float64(block) / float64(m.Depth-1)
	}
	n, shift := p.rows(), 0
	if branch {
		shift = p.nDT
		n += p.nDT + p.nDI
	}
	drop := s.Train && rate > 0
	if drop {
		bp.keepA, bp.keepF = make([]float32, n), make([]float32, n)
	}
	// draws marks the rows of a sequence; stream tells apart the draws of one
	// sequence in one block.
	set := func(keep []float32, lo, rows int, pass uint32, sample uint64, stream int) {
		if !drop {
			return
		}
		src := rng.New(s.Key(rng.DropPath, pass, sample))
		var u float64
		for range block*8 + stream + 1 {
			u = src.Float64()
		}
		f := float32(0)
		if u >= rate {
			f = float32(1 / (1 - rate))
		}
		fill(keep[lo:lo+rows], f)
	}
	seq := func(t kernels.Sequence, pass uint32, sample uint64, stream int, split bool) {
		bp.Sequences = append(bp.Sequences, t)
		set(bp.keepA, t.TextOff, t.TextLen, pass, sample, stream)
		set(bp.keepA, t.ImageOff, t.ImageLen, pass, sample, stream)
		image := stream + 1
		if split {
			image++
		}
		set(bp.keepF, t.TextOff, t.TextLen, pass, sample, stream+1)
		set(bp.keepF, t.ImageOff, t.ImageLen, pass, sample, image)
	}
	// The streams 0–2 belong to a sequence's own branch, 3–5 to its VL copy.
	for i, t := range p.Texts {
		seq(kernels.Sequence{TextOff: p.textOff[i], TextLen: len(t.Text)}, t.Pass, t.Sample, 0, false)
		if branch {
			seq(kernels.Sequence{TextOff: shift + p.textOff[i], TextLen: len(t.Text)}, t.Pass, t.Sample, 3, false)
		}
	}
	for i, q := range p.Pairs {
		seq(kernels.Sequence{TextOff: shift + p.pairText[i], TextLen: len(q.Text), ImageOff: shift + p.pairImage[i], ImageLen: p.imageLen},
			q.Pass, q.Sample, 0, block < m.VLStart)
	}
	for i, q := range p.Images {
		off := shift + p.imageOff[i]
		if branch {
			seq(kernels.Sequence{ImageOff: off, ImageLen: p.imageLen}, q.Pass, q.Sample, 3, false)
			off += p.nDI
		}
		seq(kernels.Sequence{ImageOff: off, ImageLen: p.imageLen}, q.Pass, q.Sample, 0, false)
	}
	switch {
	case block < m.VLStart:
		t := p.nDT + p.nFT
		bp.Route = []experts.Span{{Expert: experts.Text, Lo: 0, Hi: t}, {Expert: experts.Image, Lo: t, Hi: n}}
	default:
		hi := n - p.nDI
		bp.Route = []experts.Span{{Expert: experts.Text, Lo: 0, Hi: p.nDT}, {Expert: experts.VisionLanguage, Lo: p.nDT, Hi: hi},
			{Expert: experts.Image, Lo: hi, Hi: n}}
	}
	return bp
}

// restrict keeps the named rows of a pass, ascending.
func restrict(s *engine.Step, bp *blockPass, rows []int) {
	index := make([]int32, len(rows))
	for i, r := range rows {
		index[i] = int32(r)
		if bp.keepA != nil {
			bp.keepA[i], bp.keepF[i] = bp.keepA[r], bp.keepF[r]
		}
	}
	if bp.keepA != nil {
		bp.keepA, bp.keepF = bp.keepA[:len(rows)], bp.keepF[:len(rows)]
	}
	for i, sp := range bp.Route {
		bp.Route[i].Lo, bp.Route[i].Hi = sort.SearchInts(rows, sp.Lo), sort.SearchInts(rows, sp.Hi)
	}
	bp.Rows = s.Indices(index)
}

func (m *Model) uploadKeep(s *engine.Step, bp *blockPass) {
	if bp.keepA != nil {
		bp.KeepAttention = s.Upload(bp.keepA, 1, len(bp.keepA))
		bp.KeepFFN = s.Upload(bp.keepF, 1, len(bp.keepF))
	}
}
