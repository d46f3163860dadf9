package cpu

import "vlmo-train/kernels"

// packs keeps weights in the layout of matMul's panels, for products that say
// so (kernels.MatMul.Weights), until something writes to the weights.
type packs struct {
	byMemory map[*kernels.Memory]map[packKey]*packed
	task     packTask
}

// packKey names the operand B of a product.
type packKey struct {
	offset, rows, cols, stride int
	typ                        kernels.DType
	trans                      bool
}

// packed is all of op(B): of each block of depth steps the panels of nr
// columns, one after the other.
type packed struct {
	data  []float32
	valid bool
}

// find returns op(B) packed, and packs it where it is not.
func (d *device) find(o *matMul) []float32 {
	t := o.B
	if !o.Weights || t.Len() == 0 {
		return nil
	}
	if d.packs.byMemory == nil {
		d.packs.byMemory = make(map[*kernels.Memory]map[packKey]*packed)
	}
	list := d.packs.byMemory[t.Mem]
	if list == nil {
		list = make(map[packKey]*packed)
		d.packs.byMemory[t.Mem] = list
	}
	key := packKey{t.Offset, t.Rows, t.Cols, t.Stride, t.Type, o.TransB}
	p := list[key]
	if p == nil {
		p = new(packed)
		list[key] = p
	}
	if !p.valid {
		_, n, k := (*kernels.MatMul)(o).Dims()
		steps, depth := d.steps(o, k)
		grow(&p.data, steps*up(n, d.nr))
		d.packs.task = packTask{o, p.data}
		d.each(&d.packs.task, blocks(steps, depth)*blocks(n, blockCols), n*k)
		d.packs.task = packTask{}
		p.valid = true
	}
	return p.data
}

// steps returns the steps of the inner dimension of o, k elements long, and of
// its blocks, which are of one size as far as possible.
func (s *isa) steps(o *matMul, k int) (steps, block int) {
	limit := depth
	if o.A.Type == kernels.BF16 && s.gemmPairs != nil {
		k, limit = blocks(k, 2), pairsDepth
	}
	return k, max(1, up(blocks(k, max(1, blocks(k, limit))), 8))
}

// changed forgets what was packed of memory that t covers.
func (d *device) changed(t kernels.Tensor) {
	list := d.packs.byMemory[t.Mem]
	if len(list) == 0 || t.Len() == 0 {
		return
	}
	end := t.Offset + ((t.Rows-1)*t.Stride+t.Cols)*t.Type.Size()
	for key, p := range list {
		last := key.offset + ((key.rows-1)*key.stride+key.cols)*key.typ.Size()
		if t.Offset < last && key.offset < end {
			p.valid = false
		}
	}
}

// packTask packs op(B) of o, a block of steps and of columns a unit.
type packTask struct {
	o    *matMul
	data []float32
}

func (t *packTask) do(w *worker, u int) {
	p := t.o.product(w)
	across := blocks(p.n, blockCols)
	l, j := u/across*p.depth, u%across*blockCols
	kc, nc := min(p.depth, p.steps-l), min(blockCols, p.n-j)
	if p.half && !p.pairs {
		p.temp = w.scratch(kc * nc)
	}
	p.packB(t.data[l*up(p.n, w.nr)+j*kc:], l, kc, j, nc)
}
