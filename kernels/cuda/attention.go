//go:build cuda

package cuda

import (
	"slices"

	"vlmo-train/kernels"
)

const (
	maxHead        = 128 // columns of a head
	queriesForward = 16  // that a block of the forward kernel treats
	rowsBackward   = 4   // queries, or keys, of the backward kernels' blocks
	pairsEdge      = 16  // pairs along a tile of attention_bias_pairs
	rowsBF16       = 64  // the three of the kernels on mma.sync
	pairsBlocks    = 512 // blocks of attention_bias_pairs_bf16, by splitting the list of sequences
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
	d.upload(at, bytesOf(words), false)
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

// spread returns how many numbers a head's bias has as the kernels for bf16 want
// it (Spread in device/attention.h).
func spread(b *kernels.RelativeBias) int {
	if b.Table.IsZero() {
		return 0
	}
	return 16 * (2*max(b.Text, 2*b.Window*(b.Window-1)) + 1)
}

// spreadBias lays out the bias of all heads at address to, which it returns, or
// 0 where there is none.
func (d *device) spreadBias(b *kernels.RelativeBias, heads int, to uintptr) uintptr {
	n := spread(b)
	if n == 0 {
		return 0
	}
	d.start(d.heads("attention_bias_spread", ceil(n, threads), heads, 1, threads).bias(b).ptr(to))
	return to
}

// bf16Name returns the variant of a kernel for heads of dim columns.
func bf16Name(name string, dim int) string {
	switch {
	case dim <= 48:
		return name + "_48"
	case dim <= 64:
		return name + "_64"
	}
	return name + "_128"
}

func (d *device) attention(o *kernels.Attention) {
	_, _, longest := extents(o.Sequences)
	dim := d.headDim(o, o.K.Cols, o.Heads)
	if longest == 0 || o.Q.Rows == 0 || dim == 0 {
		return
	}
	at := d.sequences(o.Sequences)
	if o.Q.Type == kernels.BF16 {
		bias := d.spreadBias(&o.Bias, o.Heads, d.reserve(&d.scratch, 4*o.Heads*spread(&o.Bias)))
		d.start(d.heads(bf16Name("attention_bf16", dim), ceil(longest, rowsBF16), o.Heads, len(o.Sequences), 128).
			tensor(o.Q).tensor(o.K).tensor(o.V).vector(o.Queries).int(o.Q.Rows).ptr(at).ptr(bias).int(o.Bias.Window, o.Bias.Text).
			tensor(o.Out).tensor(o.LSE).int(dim).float(o.Scale))
		return
	}
	d.start(d.heads("attention", ceil(longest, queriesForward), o.Heads, len(o.Sequences), 128).tensor(o.Q).tensor(o.K).tensor(o.V).
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
	half := o.Q.Type == kernels.BF16
	at := d.sequences(o.Sequences)
	size, groups, edge := 0, 1, pairsEdge
	if !o.DTable.IsZero() && !o.Bias.Table.IsZero() {
		size = text + image
	}
	if half {
		edge = rowsBF16
		groups = min(n, max(1, pairsBlocks/(max(1, ceil(size, edge)*ceil(size, edge))*o.Heads)))
	}
	tiles := ceil(size, edge)
	delta := d.reserve(&d.scratch, 4*o.Heads*(m+groups*size*size+spread(&o.Bias)))
	pairs := delta + uintptr(4*o.Heads*m)
	args := func(name string, x, y, z, threads int) *launch {
		return d.heads(name, x, y, z, threads).tensor(o.Q).tensor(o.K).tensor(o.V).vector(o.Queries).int(m).ptr(at)
	}
	if half {
		bias := d.spreadBias(&o.Bias, o.Heads, pairs+uintptr(4*o.Heads*groups*size*size))
		blocks, w, t := ceil(longest, rowsBF16), o.Bias.Window, o.Bias.Text
		if m > 0 {
			d.start(args(bf16Name("attention_bf16_grad_q", dim), blocks, o.Heads, n, 128).ptr(bias).int(w, t).tensor(o.Out).tensor(o.DOut).
				tensor(o.LSE).ptr(delta).tensor(o.DQ).int(dim).float(o.Scale))
		}
		d.start(args(bf16Name("attention_bf16_grad_kv", dim), blocks, o.Heads, n, 128).ptr(bias).int(w, t).tensor(o.DOut).tensor(o.LSE).
			ptr(delta).tensor(o.DK).tensor(o.DV).int(dim).float(o.Scale))
		if size > 0 {
			d.start(args("attention_bias_pairs_bf16", tiles*tiles, o.Heads, groups, 128).int(n).ptr(bias).int(w, t).tensor(o.DOut).tensor(o.LSE).
				ptr(delta).ptr(pairs).int(size, text, dim).float(o.Scale))
		}
	} else {
		if m > 0 {
			d.start(d.heads("attention_delta", ceil(m*o.Heads, threads), 1, 1, threads).tensor(o.Out).tensor(o.DOut).ptr(delta).int(m, o.Heads, dim))
			d.start(args("attention_grad_q", ceil(longest, rowsBackward), o.Heads, n, 128).bias(&o.Bias).tensor(o.DOut).tensor(o.LSE).
				ptr(delta).tensor(o.DQ).int(dim).float(o.Scale))
		}
		d.start(args("attention_grad_kv", ceil(longest, rowsBackward), o.Heads, n, 128).bias(&o.Bias).tensor(o.DOut).tensor(o.LSE).
			ptr(delta).tensor(o.DK).tensor(o.DV).int(dim).float(o.Scale))
		if size > 0 {
			d.start(args("attention_bias_pairs", tiles, tiles, o.Heads, pairsEdge*pairsEdge).int(n).bias(&o.Bias).tensor(o.DOut).tensor(o.LSE).
				ptr(delta).ptr(pairs).int(size, text, dim).float(o.Scale))
		}
	}
	if size > 0 {
		d.start(d.heads("attention_bias_finish", o.DTable.Rows, o.Heads, 1, 128).ptr(pairs).int(groups, size, text).
			vector(o.DTable).int(o.DTable.Stride, o.Bias.Column, o.Bias.Window, o.Bias.Text))
	}
}
