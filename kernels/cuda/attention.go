//go:build cuda

package cuda

import (
	"slices"

	"vlmo-train/kernels"
)

const (
	maxHead        = 128 // columns of a head
	queriesForward = 16  // that a block of the forward kernel treats
	queriesBF16    = 64  // the same on mma.sync
	rowsBackward   = 4   // queries, or keys, of the backward kernels' blocks
	pairsEdge      = 16  // pairs along a tile of attention_bias_pairs
)

// list is a list of sequences in device memory. The layers of a step have the
// same few lists, which travel once.
type list struct {
	sequences []kernels.Sequence
	addr      uintptr
}

const tableBytes = 1 << 20

// sequences returns the device address of a list. Lists are overwritten in
// stream order, so never before the ops that read them have run.
func (d *device) sequences(s []kernels.Sequence) uintptr {
	for _, l := range d.lists {
		if slices.Equal(l.sequences, s) {
			return l.addr
		}
	}
	n := 16 * len(s)
	base := d.reserve(&d.tables, max(n, tableBytes))
	at := base
	if k := len(d.lists); k > 0 {
		at = d.lists[k-1].addr + uintptr(16*len(d.lists[k-1].sequences))
	}
	if at < base || at+uintptr(n) > base+uintptr(d.tables.bytes) || len(d.lists) >= 16 {
		d.lists, at = d.lists[:0], base
	}
	words := make([]int32, 0, 4*len(s))
	for _, q := range s {
		words = append(words, int32(q.TextOff), int32(q.TextLen), int32(q.ImageOff), int32(q.ImageLen))
	}
	d.upload(at, bytesOf(words))
	d.lists = append(d.lists, list{slices.Clone(s), at})
	return at
}

// extents returns the longest text, image and sequence.
func extents(s []kernels.Sequence) (text, image, all int) {
	for _, q := range s {
		text, image, all = max(text, q.TextLen), max(image, q.ImageLen), max(all, q.TextLen+q.ImageLen)
	}
	return text, image, all
}

// headDim returns the columns of a head, or fails where no kernel holds them.
func (d *device) headDim(op kernels.Op, cols, heads int) int {
	if n := cols / heads; n <= maxHead {
		return n
	}
	d.fail("%s: heads of %d columns, at most %d fit", op.Name(), cols/heads, maxHead)
	return 0
}

func (l *launch) bias(b *kernels.RelativeBias) *launch {
	return l.vector(b.Table).int(b.Table.Stride, b.Column, b.Window, b.Text)
}

func (d *device) attention(o *kernels.Attention) {
	_, _, longest := extents(o.Sequences)
	dim := d.headDim(o, o.K.Cols, o.Heads)
	if longest == 0 || o.Q.Rows == 0 || dim == 0 {
		return
	}
	at := d.sequences(o.Sequences)
	name, queries := "attention", queriesForward
	if o.Q.Type == kernels.BF16 {
		queries = queriesBF16
		switch {
		case dim <= 48:
			name = "attention_bf16_48"
		case dim <= 64:
			name = "attention_bf16_64"
		default:
			name = "attention_bf16_128"
		}
	}
	d.start(d.heads(name, ceil(longest, queries), o.Heads, len(o.Sequences), 128).tensor(o.Q).tensor(o.K).tensor(o.V).
		vector(o.Queries).int(o.Q.Rows).ptr(at).bias(&o.Bias).tensor(o.Out).tensor(o.LSE).int(dim).float(o.Scale))
}

func (d *device) heads(name string, x, y, z, threads int) *launch {
	return d.kernel(name, dim{x, y, z}, dim{threads, 1, 1})
}

func (d *device) attentionGrad(o *kernels.AttentionGrad) {
	text, image, longest := extents(o.Sequences)
	dim, m, n := d.headDim(o, o.K.Cols, o.Heads), o.Q.Rows, len(o.Sequences)
	if longest == 0 || dim == 0 {
		return
	}
	at := d.sequences(o.Sequences)
	size := 0
	if !o.DTable.IsZero() {
		size = text + image
	}
	delta := d.reserve(&d.scratch, 4*o.Heads*(m+size*size))
	pairs := delta + uintptr(4*o.Heads*m)
	if m > 0 {
		d.start(d.heads("attention_delta", ceil(m*o.Heads, threads), 1, 1, threads).tensor(o.Out).tensor(o.DOut).ptr(delta).int(m, o.Heads, dim))
		d.start(d.heads("attention_grad_q", ceil(longest, rowsBackward), o.Heads, n, 128).tensor(o.Q).tensor(o.K).tensor(o.V).
			vector(o.Queries).int(m).ptr(at).bias(&o.Bias).tensor(o.DOut).tensor(o.LSE).ptr(delta).tensor(o.DQ).int(dim).float(o.Scale))
	}
	d.start(d.heads("attention_grad_kv", ceil(longest, rowsBackward), o.Heads, n, 128).tensor(o.Q).tensor(o.K).tensor(o.V).
		vector(o.Queries).int(m).ptr(at).bias(&o.Bias).tensor(o.DOut).tensor(o.LSE).ptr(delta).tensor(o.DK).tensor(o.DV).int(dim).float(o.Scale))
	if size == 0 {
		return
	}
	tiles := ceil(size, pairsEdge)
	d.start(d.heads("attention_bias_pairs", tiles, tiles, o.Heads, pairsEdge*pairsEdge).tensor(o.Q).tensor(o.K).tensor(o.V).
		vector(o.Queries).int(m).ptr(at).int(n).bias(&o.Bias).tensor(o.DOut).tensor(o.LSE).ptr(delta).ptr(pairs).int(size, text, dim).float(o.Scale))
	d.start(d.heads("attention_bias_finish", o.DTable.Rows, o.Heads, 1, 128).ptr(pairs).int(size, text).
		vector(o.DTable).int(o.DTable.Stride, o.Bias.Column, o.Bias.Window, o.Bias.Text))
}
