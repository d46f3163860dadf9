package visual

import (
	"errors"
	"fmt"
	"math"

	"vlmo-train/engine"
	"vlmo-train/kernels"
	"vlmo-train/rng"
)

var errNoCodes = errors.New("visual: the codebook is empty: it comes from a checkpoint or from the first training batch")

// Draws of rng.Codebook, as passes of a step.
const (
	passRevive uint32 = iota
	passCluster
)

// hostState is what a Tokenizer keeps in host memory, reused from step to
// step. Only what observe gathers for the next UpdateCodebook carries over;
// the codebook itself is always read from the Store.
type hostState struct {
	z     []float32 // rows of the last batch
	index []int32   // their codes
	order []int32

	seen  int       // rows since the last UpdateCodebook
	count []int64   // [codes]: those that chose a code
	total []float64 // [codes, code dim]: their sum

	codebook, sum, size []float32 // copies of the parameters
	usage               Usage

	patch, all []int32 // i mod patches, and i
	images     []kernels.Sequence
}

// forget drops the rows that no UpdateCodebook took in.
func (h *hostState) forget() {
	h.seen = 0
	clear(h.count)
	clear(h.total)
	h.usage = Usage{}
}

// positions returns i mod period for rows i; period is rows or the number of
// patches.
func (h *hostState) positions(rows, period int) []int32 {
	v := &h.patch
	if period == rows {
		v = &h.all
		period = math.MaxInt
	}
	for i := len(*v); i < rows; i++ {
		*v = append(*v, int32(i%period))
	}
	return (*v)[:rows]
}

// sequences returns one sequence an image.
func (h *hostState) sequences(rows, patches int) []kernels.Sequence {
	n := rows / patches
	for i := len(h.images); i < n; i++ {
		h.images = append(h.images, kernels.Sequence{ImageOff: i * patches, ImageLen: patches})
	}
	return h.images[:n]
}

// grow returns a slice of n elements, v itself where it is long enough.
func grow[T any](v []T, n int) []T {
	if cap(v) < n {
		return make([]T, n)
	}
	return v[:n]
}

// isReady reports whether there are codes.
func (t *Tokenizer) isReady(s *engine.Step) (bool, error) {
	var v [1]float32
	s.Dev.Read(v[:], t.ready.Value)
	return v[0] != 0, s.Err()
}

// nearestRows is how many rows nearest compares at a time: with 8192 codes
// the cosines take 32 MB.
const nearestRows = 1024

// nearest writes the code with the largest cosine of each row of z to index.
func (t *Tokenizer) nearest(s *engine.Step, z, index kernels.Tensor) {
	if s.Arena.Err() != nil {
		return
	}
	m := s.Arena.Mark()
	cosine := s.Floats(min(z.Rows, nearestRows), t.Config.Codes)
	for lo := 0; lo < z.Rows && !cosine.IsZero(); lo += nearestRows {
		hi := min(lo+nearestRows, z.Rows)
		c := cosine.Slice(0, hi-lo)
		engine.Run(s, kernels.MatMul{A: z.Slice(lo, hi), B: t.codebook.Value, TransB: true, C: c})
		engine.Run(s, kernels.ArgMax{X: c, Index: index.Columns(lo, hi)})
	}
	s.Arena.Release(m)
}

// observe adds a batch's rows z and their codes to what UpdateCodebook takes in.
func (t *Tokenizer) observe(s *engine.Step, z, index kernels.Tensor) error {
	if err := t.read(s, z, index); err != nil {
		return err
	}
	t.accumulate()
	return nil
}

// read copies z and index to the host.
func (t *Tokenizer) read(s *engine.Step, z, index kernels.Tensor) error {
	h := &t.host
	h.z, h.index = grow(h.z, z.Len()), grow(h.index, index.Cols)
	s.Dev.Read(h.z, z)
	s.Dev.Read(h.index, index)
	if err := s.Err(); err != nil {
		return err
	}
	for i, v := range h.z {
		if v != v {
			row := i / t.CodeDim
			return fmt.Errorf("visual: the encoder's result for patch %d of image %d is not a number", row%t.Patches(), row/t.Patches())
		}
	}
	return nil
}

// accumulate adds the rows on the host to count and total, in their order.
func (t *Tokenizer) accumulate() {
	h, d := &t.host, t.CodeDim
	if h.count == nil {
		h.count, h.total = make([]int64, t.Config.Codes), make([]float64, t.Config.Codes*d)
	}
	for r, c := range h.index {
		h.count[c]++
		sum := h.total[int(c)*d : (int(c)+1)*d]
		for i, v := range h.z[r*d : (r+1)*d] {
			sum[i] += float64(v)
		}
	}
	h.seen += len(h.index)
}

// load copies the codebook to the host.
func (t *Tokenizer) load(s *engine.Step) error {
	h := &t.host
	h.codebook, h.sum, h.size = grow(h.codebook, t.codebook.Len()), grow(h.sum, t.sum.Len()), grow(h.size, t.size.Len())
	s.Dev.Read(h.codebook, t.codebook.Value)
	s.Dev.Read(h.sum, t.sum.Value)
	s.Dev.Read(h.size, t.size.Value)
	return s.Err()
}

// save copies it back.
func (t *Tokenizer) save() {
	t.Store.Set(t.codebook, t.host.codebook)
	t.Store.Set(t.sum, t.host.sum)
	t.Store.Set(t.size, t.host.size)
}

// normalize sets dst to src/‖src‖ and leaves it alone where src has no direction.
func normalize[T float32 | float64](dst []float32, src []T) {
	var sq float64
	for _, v := range src {
		sq += float64(v) * float64(v)
	}
	norm := math.Sqrt(sq)
	if norm < 1e-12 {
		return
	}
	for i, v := range src {
		dst[i] = float32(float64(v) / norm)
	}
}

// pick moves k random rows of the last batch to the front of order, k ≤ rows.
func (h *hostState) pick(src *rng.Source, k int) []int32 {
	rows := len(h.index)
	h.order = grow(h.order, rows)
	for i := range h.order {
		h.order[i] = int32(i)
	}
	for i := range k {
		j := i + src.IntN(rows-i)
		h.order[i], h.order[j] = h.order[j], h.order[i]
	}
	return h.order[:k]
}

// clusterSteps is the number of k-means iterations for the first codes.
const clusterSteps = 10

// cluster makes the codebook by spherical k-means from the rows z, starting
// at random ones. Where there are fewer rows than codes the rest of the codes
// has no rows, and UpdateCodebook revives it.
func (t *Tokenizer) cluster(s *engine.Step, z kernels.Tensor) error {
	h, d, n := &t.host, t.CodeDim, t.Config.Codes
	defer s.Arena.Release(s.Arena.Mark())
	index := s.Arena.Tensor(kernels.I32, 1, z.Rows)
	if err := t.load(s); err != nil {
		return err
	}
	h.z, h.index = grow(h.z, z.Len()), grow(h.index, z.Rows)
	s.Dev.Read(h.z, z)
	if err := s.Err(); err != nil {
		return err
	}
	src := rng.New(s.Key(rng.Codebook, passCluster, 0))
	first := h.pick(&src, min(n, z.Rows))
	for c := range n {
		r := int(first[c%len(first)])
		copy(h.codebook[c*d:(c+1)*d], h.z[r*d:(r+1)*d])
	}
	for range clusterSteps {
		t.Store.Set(t.codebook, h.codebook)
		t.nearest(s, z, index)
		if err := t.read(s, z, index); err != nil {
			return err
		}
		h.forget()
		t.accumulate()
		for c, k := range h.count {
			if k > 0 {
				normalize(h.codebook[c*d:(c+1)*d], h.total[c*d:(c+1)*d])
			}
		}
	}
	for c, k := range h.count {
		h.size[c] = float32(k)
	}
	for i, v := range h.total {
		h.sum[i] = float32(v)
	}
	h.forget()
	t.save()
	t.Store.Set(t.ready, []float32{1})
	return s.Err()
}

// UpdateCodebook moves the codes towards the rows that chose them since the
// last call, in place of an optimiser step:
//
//	N_c = γ·N_c + (1−γ)·n_c,  m_c = γ·m_c + (1−γ)·Σ z,  e_c = m_c/‖m_c‖
//
// (van den Oord et al. 2017, appendix A.1, on the unit sphere), and puts
// codes with few rows on random rows of the last batch (Config.Dead), no two
// on the same one. It follows at least one Train of a training step.
func (t *Tokenizer) UpdateCodebook(s *engine.Step) error {
	h, d, n := &t.host, t.CodeDim, t.Config.Codes
	if h.seen == 0 {
		return errors.New("visual: UpdateCodebook without a training batch")
	}
	if err := t.load(s); err != nil {
		return err
	}
	keep := float64(t.Momentum)
	ema := func(old float32, v float64) float32 { return float32(keep*float64(old) + (1-keep)*v) }
	mean := float32(h.seen) / float32(n)
	dead := 0
	for c := range n {
		lo, hi := c*d, (c+1)*d
		h.size[c] = ema(h.size[c], float64(h.count[c]))
		for i := lo; i < hi; i++ {
			h.sum[i] = ema(h.sum[i], h.total[i])
		}
		if h.count[c] > 0 {
			normalize(h.codebook[lo:hi], h.sum[lo:hi])
		}
		if h.size[c] < t.Dead*mean {
			dead++
		}
	}
	usage := usageOf(h.count)
	if dead > 0 {
		src := rng.New(s.Key(rng.Codebook, passRevive, 0))
		rows := h.pick(&src, min(dead, len(h.index)))
		usage.Revived = len(rows)
		for c := 0; len(rows) > 0; c++ {
			if h.size[c] >= t.Dead*mean {
				continue
			}
			z := h.z[int(rows[0])*d:][:d]
			rows = rows[1:]
			copy(h.codebook[c*d:], z)
			for i, v := range z {
				h.sum[c*d+i] = mean * v
			}
			h.size[c] = mean
		}
	}
	h.forget()
	h.usage = usage
	t.save()
	return s.Err()
}

// Usage says how much of a codebook is in use.
type Usage struct {
	Used, Total int     // codes that some patch has, codes
	Perplexity  float64 // exp of the entropy of the codes' frequencies: Total if all are equally frequent
	Revived     int     // codes that the update revived
}

// Usage returns the usage of the batches that the last UpdateCodebook took in.
func (t *Tokenizer) Usage() Usage {
	u := t.host.usage
	u.Total = t.Config.Codes
	return u
}

// UsageOf returns the usage of a codebook of total codes by a list of codes,
// each in [0, total), such as those of a whole data set.
func UsageOf(codes []int32, total int) Usage {
	count := make([]int64, total)
	for _, c := range codes {
		count[c]++
	}
	return usageOf(count)
}

func usageOf(count []int64) Usage {
	u := Usage{Total: len(count)}
	var sum int64
	for _, k := range count {
		sum += k
		if k > 0 {
			u.Used++
		}
	}
	entropy := 0.0
	for _, k := range count {
		if k > 0 {
			p := float64(k) / float64(sum)
			entropy -= p * math.Log(p)
		}
	}
	if sum > 0 {
		u.Perplexity = math.Exp(entropy)
	}
	return u
}
