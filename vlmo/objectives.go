package vlmo

import (
	"fmt"

	"vlmo-train/engine"
	"vlmo-train/kernels"
	"vlmo-train/layers"
	"vlmo-train/rng"
)

// Passes of a training step; they key drop path and dropout, so that every
// pass draws its own (SPEC §6).
const (
	passText uint32 = iota
	passImage
	passMLM
	passPair
	passNegativeImage
	passNegativeText
)

// Weights are the factors of the losses in the total; a loss of weight 0 is
// not computed. SPEC §7: 0.25, 1, 1.
type Weights struct{ MLM, ITC, ITM float32 }

// Batch is a batch of image–text pairs.
type Batch struct {
	Texts  []Text
	Masked []Text         // Texts with tokens masked, for MLM
	Labels [][]int32      // a token's original id where it is masked, else -1
	Pixels kernels.Tensor // [images, 3·size·size], as in layers.Patches
	// Groups tells which pairs mean the same (same image or caption): they
	// are positives of each other in ITC and no negatives in ITM. nil: each
	// pair is a group of its own.
	Groups []int32
	// Samples are global indices, which key the randomness. nil: 0, 1, 2 …
	Samples []uint64
	// NegativeImage and NegativeText fix the negatives of ITM instead of
	// drawing them.
	NegativeImage, NegativeText []int32
	// OriginalWorld is the number of ranks the original trained with: ITC's
	// gradient to the encoder is divided by it (compat, SPEC §7). 0 and 1: not.
	OriginalWorld int
}

// Losses are weighted losses on the device, [1, 1] each; absent ones were
// not computed.
type Losses struct{ MLM, ITC, ITM, MIM, VQA, NLVR2 kernels.Tensor }

// Values reads the losses; absent ones are 0. Total is their sum.
func (l *Losses) Values(dev kernels.Device) (v LossValues) {
	for _, e := range [...]struct {
		t  kernels.Tensor
		to *float64
	}{{l.MLM, &v.MLM}, {l.ITC, &v.ITC}, {l.ITM, &v.ITM}, {l.MIM, &v.MIM}, {l.VQA, &v.VQA}, {l.NLVR2, &v.NLVR2}} {
		if e.t.IsZero() {
			continue
		}
		var x [1]float32
		dev.Read(x[:], e.t)
		*e.to = float64(x[0])
		v.Total += float64(x[0])
	}
	return v
}

// LossValues are weighted losses on the host.
type LossValues struct{ MLM, ITC, ITM, MIM, VQA, NLVR2, Total float64 }

func (b *Batch) sample(i int) uint64 {
	if b.Samples == nil {
		return uint64(i)
	}
	return b.Samples[i]
}

func (b *Batch) groups() []int32 {
	if b.Groups != nil {
		return b.Groups
	}
	return ascending(len(b.Texts))
}

// need collects the rows a head reads.
type need struct{ rows []int }

func (n *need) add(r int) { n.rows = append(n.rows, r) }

// Pretrain runs the forward pass of the third stage (SPEC §6, §7) and, in
// training, records its backward pass.
func (m *Model) Pretrain(s *engine.Step, b *Batch, w Weights) (l Losses, err error) {
	n := len(b.Texts)
	if err := m.checkBatch(b, w); err != nil {
		return l, err
	}
	p := &Phase{VLBranch: w.ITC > 0}
	if w.ITC > 0 {
		for i, t := range b.Texts {
			p.Texts = append(p.Texts, Unimodal{Text: t, Sample: b.sample(i), Pass: passText})
			p.Images = append(p.Images, Unimodal{Image: i, Sample: b.sample(i), Pass: passImage})
		}
	}
	firstITM := 0
	if w.MLM > 0 {
		for i, t := range b.Masked {
			p.Pairs = append(p.Pairs, Pair{Text: t, Image: i, Sample: b.sample(i), Pass: passMLM})
		}
		firstITM = n
	}
	if w.ITM > 0 {
		for i, t := range b.Texts {
			p.Pairs = append(p.Pairs, Pair{Text: t, Image: i, Sample: b.sample(i), Pass: passPair})
		}
	}
	p.Layout(1 + m.Patches())

	var rows need
	branches := 0
	if w.ITC > 0 {
		branches = 2
		for br := range Branch(branches) {
			for i := range n {
				rows.add(p.TextRow(i, 0, br))
			}
			for i := range n {
				rows.add(p.ImageRow(i, 0, br))
			}
		}
	}
	pairs := len(rows.rows)
	if w.ITM > 0 {
		for i := range n {
			rows.add(p.PairRow(firstITM+i, 0))
		}
	}
	masked := len(rows.rows)
	var labels []int32
	if w.MLM > 0 {
		for i, ls := range b.Labels {
			for t, id := range ls {
				if id >= 0 {
					rows.add(p.PairRow(i, t))
					labels = append(labels, id)
				}
			}
		}
	}
	f, err := m.Encode(s, p, b.Pixels, rows.rows)
	if err != nil {
		return l, err
	}

	if w.MLM > 0 {
		l.MLM = s.Zeros(1, 1)
		m.mlmLoss(s, f.Slice(masked, len(rows.rows)), labels, w.MLM, l.MLM)
	} else if masked < len(rows.rows) {
		return l, fmt.Errorf("vlmo: masked rows without an MLM loss")
	}

	group := s.Indices(b.groups())
	var dot [2]kernels.Tensor // cosines of the own branch: image→text, text→image
	for br := range branches {
		t, i := f.Slice(2*br*n, (2*br+1)*n), f.Slice((2*br+1)*n, (2*br+2)*n)
		if l.ITC.IsZero() {
			l.ITC = s.Zeros(1, 1)
		}
		d := m.contrast(s, br, t, i, group, w.ITC/2, b.OriginalWorld, l.ITC)
		if br == 0 {
			dot = d
		}
	}
	if w.ITM == 0 {
		return l, nil
	}
	negI, negT := b.NegativeImage, b.NegativeText
	if negI == nil {
		if w.ITC == 0 {
			if dot, err = m.cosines(s, b, group); err != nil {
				return l, err
			}
		}
		if negI, negT, err = m.negatives(s, b, dot, group); err != nil {
			return l, err
		}
	}
	l.ITM = s.Zeros(1, 1)
	return l, m.matching(s, b, f.Slice(pairs, pairs+n), b.Pixels, negI, negT, w.ITM, l.ITM)
}

func (m *Model) checkBatch(b *Batch, w Weights) error {
	n := len(b.Texts)
	switch {
	case n == 0:
		return fmt.Errorf("vlmo: an empty batch")
	case b.Pixels.Rows != n || b.Pixels.Cols != 3*m.ImageSize*m.ImageSize:
		return fmt.Errorf("vlmo: %d rows of %d pixel values for %d images of %d×%d", b.Pixels.Rows, b.Pixels.Cols, n, m.ImageSize, m.ImageSize)
	case w.MLM > 0 && (len(b.Masked) != n || len(b.Labels) != n):
		return fmt.Errorf("vlmo: %d masked texts and %d label rows for %d texts", len(b.Masked), len(b.Labels), n)
	case b.Groups != nil && len(b.Groups) != n || b.Samples != nil && len(b.Samples) != n:
		return fmt.Errorf("vlmo: %d groups and %d samples for %d pairs", len(b.Groups), len(b.Samples), n)
	case w.MLM > 0 && !m.With.MLM:
		return fmt.Errorf("vlmo: the model has no MLM head")
	case w.ITC > 0 && !m.With.ITC:
		return fmt.Errorf("vlmo: the model has no ITC heads")
	case w.ITM > 0 && !m.With.ITM:
		return fmt.Errorf("vlmo: the model has no ITM head")
	case w.ITM > 0 && b.NegativeImage == nil && !m.With.ITC:
		return fmt.Errorf("vlmo: negatives are drawn by ITC features, and the model has no ITC heads")
	case (b.NegativeImage == nil) != (b.NegativeText == nil):
		return fmt.Errorf("vlmo: negatives given for one modality only")
	case b.NegativeImage != nil && (len(b.NegativeImage) != n || len(b.NegativeText) != n):
		return fmt.Errorf("vlmo: %d and %d negatives for %d pairs", len(b.NegativeImage), len(b.NegativeText), n)
	}
	return nil
}

// mlmLoss adds weight · mean cross-entropy of the masked tokens' hidden
// states f to loss. Without a masked token the loss is 0.
func (m *Model) mlmLoss(s *engine.Step, f layers.Node, labels []int32, weight float32, loss kernels.Tensor) {
	if len(labels) == 0 {
		return
	}
	logits := m.MLMLogits(s, f)
	m.classify(s, logits, labels, weight, loss)
}

// classify adds weight · mean cross-entropy to loss and leaves its gradient
// in logits.
func (m *Model) classify(s *engine.Step, logits layers.Node, labels []int32, weight float32, loss kernels.Tensor) {
	engine.Run(s, kernels.CrossEntropy{Logits: logits.X, Label: s.Indices(labels), Weight: weight / float32(len(labels)), Loss: loss, DLogits: logits.G})
}

// MLMLogits returns the MLM head's logits for hidden states f; in training
// their gradient takes their place.
func (m *Model) MLMLogits(s *engine.Step, f layers.Node) layers.Node {
	return m.decoder.Logits(s, m.mlm.Apply(s, f))
}

// Project returns the ITC features of [CLS] states: the branch's projection,
// normalised. modality 0 is text, 1 image.
func (m *Model) Project(s *engine.Step, br Branch, modality int, f layers.Node) layers.Node {
	return layers.Normalize(s, m.proj[br][modality].Apply(s, f))
}

// contrast adds one branch's ITC loss, weight · (image→text + text→image)/2,
// and returns the cosines in both directions.
func (m *Model) contrast(s *engine.Step, br int, text, image layers.Node, group kernels.Tensor, weight float32, world int, loss kernels.Tensor) (dot [2]kernels.Tensor) {
	n := text.X.Rows
	ft, fi := m.Project(s, Branch(br), 0, text), m.Project(s, Branch(br), 1, image)
	for d, q := range [2][2]layers.Node{{fi, ft}, {ft, fi}} {
		dot[d] = s.Floats(n, n)
		engine.Run(s, kernels.MatMul{A: q[0].X, B: q[1].X, TransB: true, C: dot[d]})
		if weight == 0 {
			continue
		}
		op := kernels.Contrast{Dot: dot[d], LogScale: m.scale[br].Value, RowGroup: group, ColGroup: group,
			Weight: weight / 2 / float32(n), Loss: loss}
		if s.Train {
			op.DDot = s.Floats(n, n)
			op.DLogScale = m.scale[br].Touch()
		}
		engine.Run(s, op)
		if !s.Train {
			continue
		}
		if world > 1 {
			engine.Run(s, kernels.AddScaled{X: op.DDot, Y: op.DDot, Alpha: 1/float32(world) - 1})
		}
		// The second direction adds to what the first has written.
		engine.Run(s, kernels.MatMul{A: op.DDot, B: q[1].X, C: q[0].G, Accumulate: d == 1})
		engine.Run(s, kernels.MatMul{A: op.DDot, TransA: true, B: q[0].X, C: q[1].G, Accumulate: d == 1})
	}
	return dot
}

// cosines returns what contrast returns of the own branch, for a step that
// draws negatives by them and has no ITC loss: nothing is recorded.
func (m *Model) cosines(s *engine.Step, b *Batch, group kernels.Tensor) (dot [2]kernels.Tensor, err error) {
	train := s.Train
	s.Train = false
	defer func() { s.Train = train }()
	t, i, err := m.CLS(s, b)
	if err != nil {
		return dot, err
	}
	return m.contrast(s, 0, t, i, group, 0, 1, kernels.Tensor{}), nil
}

// negatives draws for every pair an image for its text and a text for its
// image (SPEC §7).
func (m *Model) negatives(s *engine.Step, b *Batch, dot [2]kernels.Tensor, group kernels.Tensor) (image, text []int32, err error) {
	n := len(b.Texts)
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = int32(b.sample(i))
	}
	id := s.Indices(ids)
	draw := func(d int) []int32 {
		key, _ := s.Key(rng.Negative, uint32(d), 0).Words()
		index := s.Arena.Tensor(kernels.I32, 1, n)
		engine.Run(s, kernels.SampleNegative{Dot: dot[d], LogScale: m.scale[0].Value, RowGroup: group, ColGroup: group,
			RowID: id, ColID: id, Key: key, Index: index})
		v := make([]int32, n)
		s.Dev.Read(v, index)
		return v
	}
	text, image = draw(0), draw(1)
	if err := s.Err(); err != nil {
		return nil, nil, err
	}
	for i := range n {
		if image[i] < 0 || text[i] < 0 {
			return nil, nil, fmt.Errorf("vlmo: pair %d of %d has no negative in its batch: matching needs at least two different pairs", i, n)
		}
	}
	return image, text, nil
}

// matching adds weight · ITM loss: own pairs (whose [CLS] states are own),
// own text with the negative image, own image with the negative text.
func (m *Model) matching(s *engine.Step, b *Batch, own layers.Node, pixels kernels.Tensor, negI, negT []int32, weight float32, loss kernels.Tensor) error {
	n := len(b.Texts)
	p := &Phase{}
	for i, t := range b.Texts {
		p.Pairs = append(p.Pairs, Pair{Text: t, Image: int(negI[i]), Sample: b.sample(i), Pass: passNegativeImage})
	}
	for i, t := range negT {
		if t < 0 || int(t) >= n {
			return fmt.Errorf("vlmo: negative text %d of %d", t, n)
		}
		p.Pairs = append(p.Pairs, Pair{Text: b.Texts[t], Image: i, Sample: b.sample(i), Pass: passNegativeText})
	}
	f, err := m.Encode(s, p, pixels, m.pairCLS(p))
	if err != nil {
		return err
	}
	all := layers.NewNode(s, 3*n, m.Dim)
	index := s.Indices(ascending(2 * n))
	layers.SelectInto(s, own, index.Columns(0, n), all.Slice(0, n))
	layers.SelectInto(s, f, index, all.Slice(n, 3*n))
	logits := m.itm.Apply(s, m.Pool(s, all))
	labels := make([]int32, 3*n)
	for i := range n {
		labels[i] = 1
	}
	m.classify(s, logits, labels, weight, loss)
	return nil
}

func (m *Model) pairCLS(p *Phase) []int {
	p.Layout(1 + m.Patches())
	rows := make([]int, len(p.Pairs))
	for i := range rows {
		rows[i] = p.PairRow(i, 0)
	}
	return rows
}

// Pool is the pooler: tanh(dense([CLS])).
func (m *Model) Pool(s *engine.Step, cls layers.Node) layers.Node {
	return layers.Tanh(s, m.pooler.Apply(s, cls))
}

// MatchLogits returns ITM's logits, column 1 meaning "match", for pairs.
func (m *Model) MatchLogits(s *engine.Step, p *Phase, pixels kernels.Tensor) (kernels.Tensor, error) {
	f, err := m.Encode(s, p, pixels, m.pairCLS(p))
	if err != nil {
		return kernels.Tensor{}, err
	}
	return m.itm.Apply(s, m.Pool(s, f)).X, nil
}

// TextMLM is the objective of the second stage: MLM on text alone.
func (m *Model) TextMLM(s *engine.Step, masked []Text, labels [][]int32, samples []uint64) (l Losses, err error) {
	p := &Phase{}
	for i, t := range masked {
		u := Unimodal{Text: t, Sample: uint64(i), Pass: passText}
		if samples != nil {
			u.Sample = samples[i]
		}
		p.Texts = append(p.Texts, u)
	}
	p.Layout(1 + m.Patches())
	var rows need
	var ids []int32
	for i, ls := range labels {
		for t, id := range ls {
			if id >= 0 {
				rows.add(p.TextRow(i, t, Own))
				ids = append(ids, id)
			}
		}
	}
	l.MLM = s.Zeros(1, 1)
	if len(ids) == 0 {
		return l, nil
	}
	f, err := m.Encode(s, p, kernels.Tensor{}, rows.rows)
	if err != nil {
		return l, err
	}
	m.mlmLoss(s, f, ids, 1, l.MLM)
	return l, nil
}

// maskedCodes returns the logits over visual codes of every masked patch, in
// image and row order; in training their gradient takes their place.
func (m *Model) maskedCodes(s *engine.Step, pixels kernels.Tensor, masked [][]bool, samples []uint64) (layers.Node, error) {
	if m.With.Codes == 0 {
		return layers.Node{}, fmt.Errorf("vlmo: the model has no head for visual codes")
	}
	p := &Phase{Masked: masked}
	for i := range masked {
		u := Unimodal{Image: i, Sample: uint64(i), Pass: passImage}
		if samples != nil {
			u.Sample = samples[i]
		}
		p.Images = append(p.Images, u)
	}
	p.Layout(1 + m.Patches())
	var rows need
	for i, ms := range masked {
		for t, is := range ms {
			if is {
				rows.add(p.ImageRow(i, 1+t, Own))
			}
		}
	}
	if len(rows.rows) == 0 {
		return layers.Node{}, fmt.Errorf("vlmo: none of the patches of %d images is masked", len(masked))
	}
	f, err := m.Encode(s, p, pixels, rows.rows)
	if err != nil {
		return layers.Node{}, err
	}
	return m.codes.Logits(s, f), nil
}

// MaskedImages is the objective of the first stage: predict the visual code
// of every masked patch. masked is one flag a patch, codes the codes of the
// masked patches in image and row order.
func (m *Model) MaskedImages(s *engine.Step, pixels kernels.Tensor, masked [][]bool, codes []int32, samples []uint64) (l Losses, err error) {
	logits, err := m.maskedCodes(s, pixels, masked, samples)
	if err != nil {
		return l, err
	}
	if logits.X.Rows != len(codes) {
		return l, fmt.Errorf("vlmo: %d codes for %d masked patches", len(codes), logits.X.Rows)
	}
	l.MIM = s.Zeros(1, 1)
	m.classify(s, logits, codes, 1, l.MIM)
	return l, nil
}

// PredictCodes returns the likeliest visual code of every masked patch, in
// image and row order.
func (m *Model) PredictCodes(s *engine.Step, pixels kernels.Tensor, masked [][]bool) ([]int32, error) {
	logits, err := m.maskedCodes(s, pixels, masked, nil)
	if err != nil {
		return nil, err
	}
	index := s.Arena.Tensor(kernels.I32, 1, logits.X.Rows)
	engine.Run(s, kernels.ArgMax{X: logits.X, Index: index})
	codes := make([]int32, index.Cols)
	s.Dev.Read(codes, index)
	return codes, s.Err()
}

// Retrieval is the objective of retrieval fine-tuning: ITC of the modalities'
// own branch.
func (m *Model) Retrieval(s *engine.Step, b *Batch) (l Losses, err error) {
	if err := m.checkBatch(b, Weights{}); err != nil {
		return l, err
	}
	t, i, err := m.CLS(s, b)
	if err != nil {
		return l, err
	}
	l.ITC = s.Zeros(1, 1)
	m.contrast(s, 0, t, i, s.Indices(b.groups()), 1, b.OriginalWorld, l.ITC)
	return l, nil
}

// CLS returns the final-normed [CLS] states of texts and of images by
// themselves, each through its own experts: fine-tuning's and inference's
// dual encoder. Either may be empty.
func (m *Model) CLS(s *engine.Step, b *Batch) (text, image layers.Node, err error) {
	p := &Phase{}
	for i, t := range b.Texts {
		p.Texts = append(p.Texts, Unimodal{Text: t, Sample: b.sample(i), Pass: passText})
	}
	for i := range b.Pixels.Rows {
		p.Images = append(p.Images, Unimodal{Image: i, Sample: b.sample(i), Pass: passImage})
	}
	p.Layout(1 + m.Patches())
	var rows need
	for i := range p.Texts {
		rows.add(p.TextRow(i, 0, Own))
	}
	for i := range p.Images {
		rows.add(p.ImageRow(i, 0, Own))
	}
	f, err := m.Encode(s, p, b.Pixels, rows.rows)
	if err != nil {
		return text, image, err
	}
	n := len(p.Texts)
	return f.Slice(0, n), f.Slice(n, len(rows.rows)), nil
}

// VQA is the objective of visual question answering: binary cross-entropy
// over the answers, mean × number of answers. targets are [questions, answers].
func (m *Model) VQA(s *engine.Step, b *Batch, targets []float32) (l Losses, logits kernels.Tensor, err error) {
	if m.With.VQA == 0 {
		return l, logits, fmt.Errorf("vlmo: the model has no VQA head")
	}
	if err := m.checkBatch(b, Weights{}); err != nil {
		return l, logits, err
	}
	n := len(b.Texts)
	p := &Phase{}
	for i, t := range b.Texts {
		p.Pairs = append(p.Pairs, Pair{Text: t, Image: i, Sample: b.sample(i), Pass: passPair})
	}
	f, err := m.Encode(s, p, b.Pixels, m.pairCLS(p))
	if err != nil {
		return l, logits, err
	}
	out := m.vqa.Apply(s, m.Pool(s, f))
	l.VQA = s.Zeros(1, 1)
	engine.Run(s, kernels.BinaryCrossEntropy{Logits: out.X, Target: s.Upload(targets, n, m.With.VQA),
		Weight: 1 / float32(n), Loss: l.VQA, DLogits: out.G})
	return l, out.X, nil
}

// NLVR2 is the objective of visual reasoning over two images: pixels holds
// all first images, then all second ones.
func (m *Model) NLVR2(s *engine.Step, texts []Text, pixels kernels.Tensor, labels []int32) (l Losses, logits kernels.Tensor, err error) {
	if !m.With.NLVR2 {
		return l, logits, fmt.Errorf("vlmo: the model has no NLVR2 head")
	}
	n := len(texts)
	p := &Phase{}
	for k := range 2 {
		for i, t := range texts {
			p.Pairs = append(p.Pairs, Pair{Text: t, Image: k*n + i, Type: int32(1 + k), Sample: uint64(i), Pass: passPair + uint32(k)})
		}
	}
	// Interleaved, the two pooled vectors of an example are one row.
	rows, inter := m.pairCLS(p), make([]int, 2*n)
	for i := range n {
		inter[2*i], inter[2*i+1] = rows[i], rows[n+i]
	}
	f, err := m.Encode(s, p, pixels, inter)
	if err != nil {
		return l, logits, err
	}
	out := m.nlvr2.Apply(s, m.Pool(s, f).Reshape(n, 2*m.Dim))
	l.NLVR2 = s.Zeros(1, 1)
	m.classify(s, out, labels, 1, l.NLVR2)
	return l, out.X, nil
}
