package vlmo

import (
	"slices"
	"sort"

	"vlmo-train/engine"
	"vlmo-train/experts"
	"vlmo-train/kernels"
	"vlmo-train/rng"
)

// hostLists are lists that are made anew for every phase or block, read
// before the next one, and kept for their memory.
type hostLists struct {
	texts     []textInput
	images    []imageInput
	inputRows int
	expand    []int32 // the row of x of every row of the phase
	seenText  map[textKey]int32
	seenImage map[imageKey]int32

	keepA, keepF           []float32
	base, in, queries, out []int32
	ffn                    []int32
	factorA, factorF       []float32
}

// textKey tells texts apart by the memory they lie in: a step's passes share
// it, and equal captions of different examples are rare.
type textKey struct {
	first *int32
	n     int
}

type imageKey struct {
	image int
	typ   int32
}

func (h *hostLists) reset() {
	h.texts, h.images, h.expand, h.inputRows = h.texts[:0], h.images[:0], h.expand[:0], 0
	if h.seenText == nil {
		h.seenText, h.seenImage = make(map[textKey]int32), make(map[imageKey]int32)
	}
	clear(h.seenText)
	clear(h.seenImage)
}

// addText adds the rows of a sequence's text, which are those of an earlier
// one with the same text if share is set.
func (h *hostLists) addText(t textInput, share bool) {
	key := textKey{&t.ids[0], len(t.ids)}
	first, ok := h.seenText[key]
	if !ok || !share {
		first = h.add(len(t.ids))
		h.texts = append(h.texts, t)
		if share {
			h.seenText[key] = first
		}
	}
	h.expandTo(first, len(t.ids))
}

// addImage is addText for an image of rows rows.
func (h *hostLists) addImage(in imageInput, rows int, share bool) {
	key := imageKey{in.image, in.typ}
	first, ok := h.seenImage[key]
	if !ok || !share {
		first = h.add(rows)
		h.images = append(h.images, in)
		if share {
			h.seenImage[key] = first
		}
	}
	h.expandTo(first, rows)
}

func (h *hostLists) add(rows int) int32 {
	h.inputRows += rows
	return int32(h.inputRows - rows)
}

func (h *hostLists) expandTo(first int32, rows int) {
	for i := range rows {
		h.expand = append(h.expand, first+int32(i))
	}
}

// draws are a block's rows as if all were computed, and what drop path does
// to them.
type draws struct {
	rows      int
	sequences []kernels.Sequence
	route     []experts.Span
	// The factor of every row in attention and in feed-forward networks: 0
	// where its path is dropped, else factor. nil: nothing drops.
	keepA, keepF []float32
	factor       float32
}

// alike returns the end of the rows from lo on that fare alike.
func (d *draws) alike(lo int) int {
	if d.keepA == nil {
		return d.rows
	}
	hi := lo + 1
	for hi < d.rows && d.keepA[hi] == d.keepA[lo] && d.keepF[hi] == d.keepF[lo] {
		hi++
	}
	return hi
}

// draw lists a block's sequences and draws their drop path.
func (m *Model) draw(s *engine.Step, p *Phase, block int, branch bool) draws {
	d := draws{rows: p.rows()}
	rate, shift := 0.0, 0
	if m.Depth > 1 {
		rate = m.DropPath * float64(block) / float64(m.Depth-1)
	}
	if branch {
		shift = p.nDT
		d.rows += p.nDT + p.nDI
	}
	drop := s.Train && rate > 0
	if drop {
		m.host.keepA, m.host.keepF = grow(m.host.keepA, d.rows), grow(m.host.keepF, d.rows)
		d.keepA, d.keepF, d.factor = m.host.keepA, m.host.keepF, float32(1/(1-rate))
	}
	// set marks the rows of a sequence; stream tells apart the draws of one
	// sequence in one block.
	set := func(keep []float32, lo, rows int, pass uint32, sample uint64, stream int) {
		if !drop {
			return
		}
		src := rng.New(s.Key(rng.DropPath, pass, sample))
		src.Seek(2 * uint64(block*8+stream)) // a Float64 is two numbers
		f := float32(0)
		if src.Float64() >= rate {
			f = d.factor
		}
		fill(keep[lo:lo+rows], f)
	}
	seq := func(t kernels.Sequence, pass uint32, sample uint64, stream int, split bool) {
		d.sequences = append(d.sequences, t)
		set(d.keepA, t.TextOff, t.TextLen, pass, sample, stream)
		set(d.keepA, t.ImageOff, t.ImageLen, pass, sample, stream)
		image := stream + 1
		if split {
			image++
		}
		set(d.keepF, t.TextOff, t.TextLen, pass, sample, stream+1)
		set(d.keepF, t.ImageOff, t.ImageLen, pass, sample, image)
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
	span := func(e experts.Modality, lo, hi int) {
		if lo < hi {
			d.route = append(d.route, experts.Span{Expert: e, Lo: lo, Hi: hi})
		}
	}
	if block < m.VLStart {
		t := p.nDT + p.nFT
		span(experts.Text, 0, t)
		span(experts.Image, t, d.rows)
	} else {
		hi := d.rows - p.nDI
		span(experts.Text, 0, p.nDT)
		span(experts.VisionLanguage, p.nDT, hi)
		span(experts.Image, hi, d.rows)
	}
	return d
}

// grow returns n elements, of v's memory if it is large enough.
func grow(v []float32, n int) []float32 {
	if cap(v) < n {
		return make([]float32, n)
	}
	return v[:n]
}

// pass returns the block's pass over d, whose lists it takes over. read are
// the rows, ascending, that anything reads after the block; nil: all.
//
// Without DropRows every row is computed and multiplied by its factor. With
// it, only those rows are whose factor is not 0.
func (m *Model) pass(s *engine.Step, d *draws, read []int) experts.Pass {
	p := experts.Pass{Window: m.Window(), Text: m.MaxTextInit, Recompute: m.Recompute,
		Attention: experts.AttentionRows{Sequences: d.sequences}, FFN: experts.FFNRows{Route: d.route}}
	if read == nil && d.keepA == nil {
		return p
	}
	kept := func(keep []float32, r int) bool { return !m.DropRows || keep == nil || keep[r] != 0 }

	// A sample that attends has keys and values of all its rows, and queries
	// of those that are read.
	h := &m.host
	h.base, h.in, h.queries, h.out, h.ffn = h.base[:0], h.in[:0], h.queries[:0], h.out[:0], h.ffn[:0]
	h.factorA, h.factorF = h.factorA[:0], h.factorF[:0]
	result := 0 // rows of the result so far
	for lo := 0; lo < d.rows; {
		hi := d.alike(lo)
		attends, feeds := kept(d.keepA, lo), kept(d.keepF, lo)
		n := hi - lo // those that are read
		if read != nil {
			for n = 0; result+n < len(read) && read[result+n] < hi; n++ {
				r := read[result+n]
				h.base = append(h.base, int32(r))
				if attends {
					h.queries = append(h.queries, int32(len(h.in)+r-lo))
				}
			}
			if attends {
				h.out = appendRange(h.out, result, n)
			}
		}
		if attends {
			h.in = appendRange(h.in, lo, hi-lo)
			h.factorA = m.appendFactor(h.factorA, d.keepA, lo, n)
		}
		if feeds {
			h.ffn = appendRange(h.ffn, result, n)
			h.factorF = m.appendFactor(h.factorF, d.keepF, lo, n)
		}
		result += n
		lo = hi
	}

	a, f := &p.Attention, &p.FFN
	a.In = list(s, h.in, d.rows)
	if read == nil {
		a.Out = a.In // every row is read, so the result's rows are the input's
	} else {
		p.Base = list(s, h.base, d.rows)
		a.Queries, a.Out = list(s, h.queries, len(h.in)), list(s, h.out, result)
	}
	f.Rows = list(s, h.ffn, result)
	if d.keepA != nil {
		queried := len(h.in)
		if read != nil {
			queried = len(h.queries)
		}
		a.Keep, f.Keep = m.factors(s, d.factor, h.factorA, queried), m.factors(s, d.factor, h.factorF, len(h.ffn))
	}
	a.Sequences = among(a.Sequences, h.in)
	before := func(row int) int { // rows of the experts before a row of all
		return sort.Search(len(h.ffn), func(i int) bool {
			r := int(h.ffn[i])
			if read != nil {
				r = read[r]
			}
			return r >= row
		})
	}
	for i, sp := range f.Route {
		f.Route[i].Lo, f.Route[i].Hi = before(sp.Lo), before(sp.Hi)
	}
	return p
}

// appendRange appends the n numbers from lo on.
func appendRange(to []int32, lo, n int) []int32 {
	at := len(to)
	to = slices.Grow(to, n)[:at+n]
	for i := range to[at:] {
		to[at+i] = int32(lo + i)
	}
	return to
}

// appendFactor appends the factor of row r n times, where rows differ in it.
func (m *Model) appendFactor(to, keep []float32, r, n int) []float32 {
	if m.DropRows || keep == nil {
		return to
	}
	at := len(to)
	to = slices.Grow(to, n)[:at+n]
	fill(to[at:], keep[r])
	return to
}

// factors returns the factors of n rows: those of the list or, with DropRows,
// the one that all have.
func (m *Model) factors(s *engine.Step, factor float32, list []float32, n int) kernels.Tensor {
	if !m.DropRows {
		return s.Upload(list, 1, n)
	}
	t := s.Floats(1, n)
	if n > 0 {
		engine.Run(s, kernels.Fill{Y: t, Value: factor})
	}
	return t
}

// list uploads a list of rows; one that names all n is absent.
func list(s *engine.Step, rows []int32, n int) kernels.Tensor {
	if len(rows) == n {
		return kernels.Tensor{}
	}
	return s.Indices(rows)
}

// among keeps the sequences whose rows are in the ascending list rows, with
// offsets that count in it. A sequence is in it whole or not at all.
func among(seqs []kernels.Sequence, rows []int32) []kernels.Sequence {
	kept := seqs[:0]
	for _, q := range seqs {
		text, okText := slices.BinarySearch(rows, int32(q.TextOff))
		image, okImage := slices.BinarySearch(rows, int32(q.ImageOff))
		if okText && q.TextLen > 0 || okImage && q.ImageLen > 0 {
			q.TextOff, q.ImageOff = min(text, len(rows)-q.TextLen), min(image, len(rows)-q.ImageLen)
			kept = append(kept, q)
		}
	}
	return kept
}
