package visual

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"vlmo-train/engine"
	"vlmo-train/kernels"
	"vlmo-train/kernels/cpu"
	"vlmo-train/kernels/ref"
	"vlmo-train/rng"
)

func tiny() Config {
	return Config{ImageSize: 4, Patch: 2, Dim: 6, Depth: 1, Heads: 2, Hidden: 8, DecoderDepth: 1,
		Codes: 5, CodeDim: 3, Momentum: 0.9, Commitment: 0.7, Dead: 0.1}
}

func small() Config {
	return Config{ImageSize: 12, Patch: 4, Dim: 16, Depth: 1, Heads: 2, Hidden: 32, DecoderDepth: 1,
		Codes: 24, CodeDim: 8, Momentum: 0.9, Commitment: 0.5, Dead: 0.05}
}

func newTokenizer(t *testing.T, dev kernels.Device, c Config, seed uint64) *Tokenizer {
	t.Helper()
	tok, err := New(dev, c, true)
	if err != nil {
		t.Fatal(err)
	}
	tok.Init(seed)
	return tok
}

// upload brings images of size × size pixels to the step.
func upload(s *engine.Step, v []float32, size int) kernels.Tensor {
	px := 3 * size * size
	return s.Upload(v, len(v)/px, px)
}

// pictures returns n images of one coloured rectangle on a coloured ground.
func pictures(n, size int, seed uint64) []float32 {
	var out []float32
	for i := range n {
		src := rng.New(rng.Key{Seed: seed, Purpose: rng.Augment, Sample: uint64(i)})
		var ground, colour [3]float32
		for c := range 3 {
			ground[c], colour[c] = src.Float32()*2-1, src.Float32()*2-1
		}
		x, y := src.IntN(size), src.IntN(size)
		for c := range 3 {
			for py := range size {
				for px := range size {
					if px >= x && py >= y {
						out = append(out, colour[c])
					} else {
						out = append(out, ground[c])
					}
				}
			}
		}
	}
	return out
}

// randomize gives every parameter outside the codebook values of the size of
// trained ones, so that no gradient is negligible.
func randomize(tok *Tokenizer, seed uint64) {
	src := rng.New(rng.Key{Seed: seed, Purpose: rng.Init})
	for _, p := range tok.Store.Params() {
		if isCodebook(p.Name) {
			continue
		}
		v := make([]float32, p.Len())
		for i := range v {
			v[i] = float32(0.4 * src.Norm())
			if strings.Contains(p.Name, "norm") && strings.HasSuffix(p.Name, "weight") {
				v[i]++
			}
		}
		tok.Store.Set(p, v)
	}
}

// model computes a Tokenizer in float64 from the formulas, as nested loops
// over slices of rows.
type model struct {
	Config
	p map[string][]float64
}

func newModel(tok *Tokenizer) *model {
	m := &model{tok.Config, map[string][]float64{}}
	for _, p := range tok.Store.Params() {
		for _, v := range tok.Store.Get(p) {
			m.p[p.Name] = append(m.p[p.Name], float64(v))
		}
	}
	return m
}

func (m *model) affine(x [][]float64, weight, bias string) [][]float64 {
	w, b := m.p[weight], m.p[bias]
	y := make([][]float64, len(x))
	for r := range x {
		n := len(x[r])
		y[r] = make([]float64, len(w)/n)
		for o := range y[r] {
			if b != nil {
				y[r][o] = b[o]
			}
			for i, v := range x[r] {
				y[r][o] += v * w[o*n+i]
			}
		}
	}
	return y
}

func (m *model) layerNorm(x [][]float64, name string) [][]float64 {
	y := make([][]float64, len(x))
	for r, row := range x {
		var mean, variance float64
		for _, v := range row {
			mean += v / float64(len(row))
		}
		for _, v := range row {
			variance += (v - mean) * (v - mean) / float64(len(row))
		}
		for i, v := range row {
			y[r] = append(y[r], (v-mean)/math.Sqrt(variance+1e-6)*m.p[name+".weight"][i]+m.p[name+".bias"][i])
		}
	}
	return y
}

func (m *model) block(x [][]float64, name string) {
	d, e := m.Dim, m.Dim/m.Heads
	qkv := m.affine(m.layerNorm(x, name+".norm1"), name+".attn.qkv.weight", "")
	for r := range qkv {
		for i := range d {
			qkv[r][i] += m.p[name+".attn.q_bias"][i]
			qkv[r][2*d+i] += m.p[name+".attn.v_bias"][i]
		}
	}
	attn := make([][]float64, len(x))
	p := m.Patches()
	for r := range x {
		attn[r] = make([]float64, d)
		for h := range m.Heads {
			w := make([]float64, p)
			sum := 0.0
			for k := range w {
				dot := 0.0
				for i := range e {
					dot += qkv[r][h*e+i] * qkv[r/p*p+k][d+h*e+i]
				}
				w[k] = math.Exp(dot / math.Sqrt(float64(e)))
				sum += w[k]
			}
			for k := range w {
				for i := range e {
					attn[r][h*e+i] += w[k] / sum * qkv[r/p*p+k][2*d+h*e+i]
				}
			}
		}
	}
	add(x, m.affine(attn, name+".attn.proj.weight", name+".attn.proj.bias"))
	h := m.affine(m.layerNorm(x, name+".norm2"), name+".mlp.fc1.weight", name+".mlp.fc1.bias")
	for _, row := range h {
		for i, v := range row {
			row[i] = v * 0.5 * math.Erfc(-v/math.Sqrt2)
		}
	}
	add(x, m.affine(h, name+".mlp.fc2.weight", name+".mlp.fc2.bias"))
}

func add(x, y [][]float64) {
	for r := range x {
		for i := range x[r] {
			x[r][i] += y[r][i]
		}
	}
}

func (m *model) positions(x [][]float64, name string) {
	for r := range x {
		for i := range x[r] {
			x[r][i] += m.p[name][r%m.Patches()*m.Dim+i]
		}
	}
}

func (m *model) encode(patches [][]float64) [][]float64 {
	x := m.affine(patches, "encoder.patch_embed.proj.weight", "encoder.patch_embed.proj.bias")
	m.positions(x, "encoder.pos_embed")
	for i := range m.Depth {
		m.block(x, fmt.Sprintf("encoder.blocks.%d", i))
	}
	x = m.affine(m.layerNorm(x, "encoder.norm"), "encode_task_layer.0.weight", "encode_task_layer.0.bias")
	for _, row := range x {
		for i, v := range row {
			row[i] = math.Tanh(v)
		}
	}
	x = m.affine(x, "encode_task_layer.2.weight", "encode_task_layer.2.bias")
	for _, row := range x {
		norm := 0.0
		for _, v := range row {
			norm += v * v
		}
		for i := range row {
			row[i] /= math.Sqrt(norm)
		}
	}
	return x
}

func (m *model) decode(q [][]float64) [][]float64 {
	x := m.affine(q, "decoder.patch_embed.proj.weight", "decoder.patch_embed.proj.bias")
	m.positions(x, "decoder.pos_embed")
	for i := range m.DecoderDepth {
		m.block(x, fmt.Sprintf("decoder.blocks.%d", i))
	}
	return m.affine(m.layerNorm(x, "decoder.norm"), "decode_task_layer.0.weight", "decode_task_layer.0.bias")
}

// quantize returns the nearest code of each row and its vector.
func (m *model) quantize(z [][]float64) (codes []int32, q [][]float64) {
	book, d := m.p["quantize.embedding.weight"], m.CodeDim
	for _, row := range z {
		best, at := math.Inf(-1), 0
		for c := range m.Codes {
			dot := 0.0
			for i, v := range row {
				dot += v * book[c*d+i]
			}
			if dot > best {
				best, at = dot, c
			}
		}
		codes, q = append(codes, int32(at)), append(q, book[at*d:(at+1)*d])
	}
	return codes, q
}

func (m *model) patches(pixels []float32) [][]float64 {
	var out [][]float64
	s, e := m.ImageSize, m.Patch
	for i := 0; i < len(pixels); i += 3 * s * s {
		for py := 0; py < s; py += e {
			for px := 0; px < s; px += e {
				var row []float64
				for c := range 3 {
					for y := range e {
						for x := range e {
							row = append(row, float64(pixels[i+c*s*s+(py+y)*s+px+x]))
						}
					}
				}
				out = append(out, row)
			}
		}
	}
	return out
}

func meanSquare(a, b [][]float64) float64 {
	sum, n := 0.0, 0
	for r := range a {
		for i := range a[r] {
			sum += (a[r][i] - b[r][i]) * (a[r][i] - b[r][i])
			n++
		}
	}
	return sum / float64(n)
}

// With the codes held fixed, the straight-through gradient is the true
// gradient of a loss whose decoder reads q + z(θ) − z0, q and z0 constants.
// Finite differences of that loss in float64 give the gradient of every
// parameter, encoder's and decoder's.
func TestGradient(t *testing.T) {
	const seed = 3
	t.Logf("seed %d", seed)
	tok := newTokenizer(t, ref.New(), tiny(), seed)
	randomize(tok, seed)
	s := engine.NewStep(ref.New(), seed)
	s.Begin(1, true)
	pixels := pictures(3, tok.ImageSize, seed)
	losses, err := tok.Train(s, upload(s, pixels, tok.ImageSize))
	if err != nil {
		t.Fatal(err)
	}
	rec, com := losses.Values(s.Dev)
	tok.Store.ZeroGrad()
	s.Backward()
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}

	m := newModel(tok)
	patches := m.patches(pixels)
	z0 := m.encode(patches)
	codes, q := m.quantize(z0)
	if !slices.Equal(codes, tok.host.index) {
		t.Fatalf("codes %v, want %v", tok.host.index, codes)
	}
	loss := func() (float64, float64) {
		z := m.encode(patches)
		in := make([][]float64, len(z))
		for r := range z {
			for i := range z[r] {
				in[r] = append(in[r], q[r][i]+z[r][i]-z0[r][i])
			}
		}
		return meanSquare(m.decode(in), patches), float64(m.Commitment) * meanSquare(z, q)
	}
	if wr, wc := loss(); math.Abs(rec-wr) > 1e-5*wr || math.Abs(com-wc) > 1e-5*wc {
		t.Errorf("losses %v and %v, want %v and %v", rec, com, wr, wc)
	}
	for _, p := range tok.Store.Params() {
		g := tok.Store.Gradient(p)
		if isCodebook(p.Name) {
			if g != nil {
				t.Errorf("%s has a gradient", p.Name)
			}
			continue
		}
		if g == nil {
			t.Errorf("%s has no gradient", p.Name)
			continue
		}
		const h = 1e-5
		v := m.p[p.Name]
		want := make([]float64, len(v))
		largest := 0.0
		for i, x := range v {
			v[i] = x + h
			ra, ca := loss()
			v[i] = x - h
			rb, cb := loss()
			v[i] = x
			want[i] = (ra + ca - rb - cb) / (2 * h)
			largest = max(largest, math.Abs(want[i]))
		}
		if largest < 1e-4 {
			t.Errorf("%s: the largest gradient is %v, this tests nothing", p.Name, largest)
		}
		for i := range want {
			if d := math.Abs(float64(g[i]) - want[i]); d > 2e-4*largest+1e-6 {
				t.Errorf("%s[%d]: gradient %v, want %v", p.Name, i, g[i], want[i])
				break
			}
		}
	}
}

// learn runs training steps from to to (exclusive) and returns the last
// reconstruction loss.
func learn(t *testing.T, tok *Tokenizer, s *engine.Step, pixels []float32, from, to uint64, revived *int) float64 {
	t.Helper()
	opt := engine.Optimizer{Beta1: 0.9, Beta2: 0.98, Eps: 1e-8, Decay: 0.3}
	last := 0.0
	for n := from; n < to; n++ {
		s.Begin(n, true)
		losses, err := tok.Train(s, upload(s, pixels, tok.ImageSize))
		if err != nil {
			t.Fatal(err)
		}
		last, _ = losses.Values(s.Dev)
		tok.Store.ZeroGrad()
		s.Backward()
		if _, err := opt.Update(tok.Store, 3e-3); err != nil {
			t.Fatal(err)
		}
		if err := tok.UpdateCodebook(s); err != nil {
			t.Fatal(err)
		}
		if revived != nil {
			*revived += tok.Usage().Revived
		}
	}
	return last
}

func TestLearns(t *testing.T) {
	const seed = 1
	t.Logf("seed %d", seed)
	dev := ref.New()
	tok := newTokenizer(t, dev, small(), seed)
	s := engine.NewStep(dev, seed)
	pixels := pictures(12, tok.ImageSize, seed)
	variance := 0.0
	mean := 0.0
	for _, v := range pixels {
		mean += float64(v) / float64(len(pixels))
	}
	for _, v := range pixels {
		variance += (float64(v) - mean) * (float64(v) - mean) / float64(len(pixels))
	}
	first := learn(t, tok, s, pixels, 1, 2, nil)
	allocations, revived := 0, 0
	learn(t, tok, s, pixels, 2, 5, &revived)
	allocations = s.Arena.Allocations()
	last := learn(t, tok, s, pixels, 5, 80, &revived)
	u := tok.Usage()
	t.Logf("variance %.4f, loss %.4f → %.4f, usage %+v, %d revived in all", variance, first, last, u, revived)
	if last > 0.35*variance || last > 0.5*first {
		t.Errorf("the loss fell from %v to %v, the pixels' variance is %v", first, last, variance)
	}
	if u.Total != 24 || u.Used < 8 || u.Perplexity < 6 || u.Perplexity > float64(u.Used) {
		t.Errorf("usage %+v", u)
	}
	if n := s.Arena.Allocations(); n != allocations {
		t.Errorf("%d allocations in warm steps", n-allocations)
	}

	// The validation loss is the error of the reconstructed pixels, and a
	// picture's codes say which: Decode of Codes is Reconstruct.
	s.Begin(100, false)
	losses, err := tok.Train(s, upload(s, pixels, tok.ImageSize))
	if err != nil {
		t.Fatal(err)
	}
	want, _ := losses.Values(dev)
	got, err := tok.Reconstruct(s, upload(s, pixels, tok.ImageSize))
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for i, v := range got {
		sum += float64(v-pixels[i]) * float64(v-pixels[i]) / float64(len(got))
	}
	if math.Abs(sum-want) > 1e-5*want {
		t.Errorf("the reconstruction's error is %v, the validation loss %v", sum, want)
	}
	codes, err := tok.Codes(s, upload(s, pixels, tok.ImageSize))
	if err != nil {
		t.Fatal(err)
	}
	all := UsageOf(codes, 24)
	if all.Used > 24 || all.Used < 8 {
		t.Errorf("usage of %v is %+v", codes, all)
	}
}

// One update against the formulas, with the model's own rows and codes.
func TestUpdateCodebook(t *testing.T) {
	const seed = 5
	t.Logf("seed %d", seed)
	c := tiny()
	c.Dead = 0
	dev := ref.New()
	tok := newTokenizer(t, dev, c, seed)
	randomize(tok, seed)
	s := engine.NewStep(dev, seed)
	s.Begin(1, true)
	if _, err := tok.Train(s, upload(s, pictures(4, c.ImageSize, seed), tok.ImageSize)); err != nil {
		t.Fatal(err)
	}
	if err := tok.UpdateCodebook(s); err != nil {
		t.Fatal(err)
	}
	// Two batches before one update, in other steps.
	m := newModel(tok)
	n, sum := make([]float64, c.Codes), make([]float64, c.Codes*c.CodeDim)
	for step := range uint64(2) {
		s.Begin(2+step, true)
		pixels := pictures(3, c.ImageSize, 50+step)
		if _, err := tok.Train(s, upload(s, pixels, tok.ImageSize)); err != nil {
			t.Fatal(err)
		}
		z := m.encode(m.patches(pixels))
		codes, _ := m.quantize(z)
		for r, k := range codes {
			n[k]++
			for i, v := range z[r] {
				sum[int(k)*c.CodeDim+i] += v
			}
		}
	}
	if err := tok.UpdateCodebook(s); err != nil {
		t.Fatal(err)
	}
	near := func(what string, i int, got float32, want float64) {
		if math.Abs(float64(got)-want) > 1e-5*(1+math.Abs(want)) {
			t.Errorf("%s of code %d: %v, want %v", what, i, got, want)
		}
	}
	size, avg, book := tok.Store.Get(tok.size), tok.Store.Get(tok.sum), tok.Store.Get(tok.codebook)
	used := 0
	for k := range c.Codes {
		near("size", k, size[k], 0.9*m.p["quantize.cluster_size"][k]+0.1*n[k])
		norm := 0.0
		for i := k * c.CodeDim; i < (k+1)*c.CodeDim; i++ {
			sum[i] = 0.9*m.p["quantize.embed_avg"][i] + 0.1*sum[i]
			near("sum", k, avg[i], sum[i])
			norm += sum[i] * sum[i]
		}
		if n[k] > 0 {
			used++
		}
		for i := k * c.CodeDim; i < (k+1)*c.CodeDim; i++ {
			near("vector", k, book[i], sum[i]/math.Sqrt(norm))
		}
	}
	if u := tok.Usage(); u.Used != used || u.Revived != 0 || u.Total != c.Codes {
		t.Errorf("usage %+v, want %d used and none revived", u, used)
	}
	if used < 3 {
		t.Errorf("%d codes used, this tests little", used)
	}
	if err := tok.UpdateCodebook(s); err == nil {
		t.Error("an update without a batch went through")
	}
}

// Codes that no row is near to move onto different rows of the batch; the
// others do not notice.
func TestRevive(t *testing.T) {
	const seed = 7
	t.Logf("seed %d", seed)
	c := tiny()
	dev := ref.New()
	tok := newTokenizer(t, dev, c, seed)
	randomize(tok, seed)
	s := engine.NewStep(dev, seed)
	pixels := pictures(6, c.ImageSize, seed)
	s.Begin(1, true)
	if _, err := tok.Train(s, upload(s, pixels, tok.ImageSize)); err != nil {
		t.Fatal(err)
	}
	z := slices.Clone(tok.host.z)
	// Codes 1 and 3 point where no row is: opposite to the rows' mean.
	book, size := tok.Store.Get(tok.codebook), tok.Store.Get(tok.size)
	away := make([]float32, 3)
	for i, v := range z {
		away[i%3] -= v
	}
	for _, k := range []int{1, 3} {
		normalize(book[k*3:k*3+3], away)
		size[k] = 0
	}
	tok.Store.Set(tok.codebook, book)
	tok.Store.Set(tok.size, size)
	tok.host.forget()
	s.Begin(2, true)
	if _, err := tok.Train(s, upload(s, pixels, tok.ImageSize)); err != nil {
		t.Fatal(err)
	}
	for _, k := range tok.host.index {
		if k == 1 || k == 3 {
			t.Fatalf("code %d is in use, this tests nothing", k)
		}
	}
	if err := tok.UpdateCodebook(s); err != nil {
		t.Fatal(err)
	}
	if u := tok.Usage(); u.Revived != 2 {
		t.Errorf("usage %+v, want 2 revived", u)
	}
	after := tok.Store.Get(tok.codebook)
	row := func(v []float32) int {
		for r := range len(z) / 3 {
			if slices.Equal(z[r*3:r*3+3], v) {
				return r
			}
		}
		return -1
	}
	a, b := row(after[3:6]), row(after[9:12])
	if a < 0 || b < 0 || a == b {
		t.Errorf("codes 1 and 3 lie on rows %d and %d of the batch", a, b)
	}
	for _, k := range []int{0, 2, 4} {
		dot := 0.0
		for i := k * 3; i < (k+1)*3; i++ {
			dot += float64(book[i]) * float64(after[i])
		}
		if dot < 0.95 {
			t.Errorf("code %d turned to cosine %v", k, dot)
		}
	}
	s.Begin(3, true)
	if _, err := tok.Train(s, upload(s, pixels, tok.ImageSize)); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(tok.host.index, 1) || !slices.Contains(tok.host.index, 3) {
		t.Errorf("the revived codes are not in use: %v", tok.host.index)
	}
}

// K-means finds planted directions, and the codes are those of k-means in
// float64 from the same first rows. The rows take nearest two turns.
func TestCluster(t *testing.T) {
	const seed, groups, rows = 9, 4, nearestRows + 200
	t.Logf("seed %d", seed)
	c := small()
	d := c.CodeDim
	dev := ref.New()
	tok := newTokenizer(t, dev, c, seed)
	s := engine.NewStep(dev, seed)
	s.Begin(1, true)
	src := rng.New(rng.Key{Seed: seed})
	z := make([]float32, rows*d)
	for r := range rows {
		row := z[r*d:][:d]
		for i := range row {
			row[i] = float32(0.05 * src.Norm())
		}
		row[r%groups]++
		normalize(row, slices.Clone(row))
	}
	if err := tok.cluster(s, s.Upload(z, rows, d)); err != nil {
		t.Fatal(err)
	}
	book, size, sum := tok.Store.Get(tok.codebook), tok.Store.Get(tok.size), tok.Store.Get(tok.sum)

	m := newModel(tok)
	all := make([][]float64, rows)
	for r := range all {
		for _, v := range z[r*d : (r+1)*d] {
			all[r] = append(all[r], float64(v))
		}
	}
	h := hostState{index: make([]int32, rows)}
	src = rng.New(rng.Key{Seed: seed, Step: 1, Purpose: rng.Codebook, Pass: passCluster})
	want := m.p["quantize.embedding.weight"]
	for k, r := range h.pick(&src, c.Codes) {
		copy(want[k*d:], all[r])
	}
	var codes []int32
	for range clusterSteps {
		codes, _ = m.quantize(all)
		total := make([]float64, len(want))
		for r, k := range codes {
			for i, v := range all[r] {
				total[int(k)*d+i] += v
			}
		}
		for k := range c.Codes {
			norm := 0.0
			for _, v := range total[k*d : (k+1)*d] {
				norm += v * v
			}
			for i := k * d; i < (k+1)*d && norm > 0; i++ {
				want[i] = total[i] / math.Sqrt(norm)
			}
		}
	}
	count := make([]float32, c.Codes)
	for _, k := range codes {
		count[k]++
	}
	if !slices.Equal(size, count) {
		t.Errorf("sizes %v, want %v", size, count)
	}
	for i, v := range book {
		if math.Abs(float64(v)-want[i]) > 1e-5 {
			t.Fatalf("element %d of code %d is %v, want %v", i%d, i/d, v, want[i])
		}
	}
	for k := range c.Codes {
		dot := 0.0
		for i := k * d; i < (k+1)*d; i++ {
			dot += float64(book[i]) * float64(sum[i])
		}
		// The mean of one group's rows has nearly their length; of two, 0.7.
		if size[k] > 0 && dot/float64(size[k]) < 0.95 {
			t.Errorf("code %d stands for rows of several groups: mean cosine %v", k, dot/float64(size[k]))
		}
	}
}

func values(tok *Tokenizer) (v []float32) {
	for _, p := range tok.Store.Params() {
		v = append(v, tok.Store.Get(p)...)
	}
	return v
}

// The same seed gives the same bits, also where the run stops, goes through
// the Store's values and moments, and goes on in a new Tokenizer.
func TestDeterminism(t *testing.T) {
	c := small()
	c.Dead = 0.4 // many revivals
	run := func(seed uint64, stop bool) ([]float32, int) {
		dev := ref.New()
		tok := newTokenizer(t, dev, c, 2)
		s := engine.NewStep(dev, seed)
		pixels := pictures(5, c.ImageSize, 2)
		revived := 0
		learn(t, tok, s, pixels, 1, 6, &revived)
		if stop {
			old := tok
			tok = newTokenizer(t, dev, c, 99)
			for i, p := range tok.Store.Params() {
				from := old.Store.Params()[i]
				tok.Store.Set(p, old.Store.Get(from))
				m, v := old.Store.Moments(from)
				tok.Store.SetMoments(p, m, v)
				p.Steps = from.Steps
			}
			s = engine.NewStep(dev, seed)
		}
		learn(t, tok, s, pixels, 6, 10, &revived)
		return values(tok), revived
	}
	a, revived := run(4, false)
	if revived == 0 {
		t.Error("no code was revived, this tests too little")
	}
	if b, _ := run(4, false); !slices.Equal(a, b) {
		t.Error("two runs with one seed differ")
	}
	if b, _ := run(4, true); !slices.Equal(a, b) {
		t.Error("a run that stops and goes on differs")
	}
	if b, _ := run(5, false); slices.Equal(a, b) {
		t.Error("the codebook does not depend on the seed")
	}
}

// The codes of an image are its own, whatever the batch, and Codes leaves a
// training step as it was.
func TestCodesAlone(t *testing.T) {
	const seed, n = 6, chunk + 5
	for _, backend := range []string{"ref", "cpu"} {
		t.Run(backend, func(t *testing.T) {
			dev := ref.New()
			if backend == "cpu" {
				var err error
				if dev, err = cpu.New(cpu.Options{}); err != nil {
					t.Fatal(err)
				}
			}
			tok := newTokenizer(t, dev, small(), seed)
			randomize(tok, seed)
			s := engine.NewStep(dev, seed)
			pixels := pictures(n, tok.ImageSize, seed)
			px := len(pixels) / n
			s.Begin(1, true)
			if _, err := tok.Train(s, upload(s, pixels[:8*px], tok.ImageSize)); err != nil {
				t.Fatal(err)
			}
			on := upload(s, pixels, tok.ImageSize)
			records, mark := s.Tape.Len(), s.Arena.Mark()
			together, err := tok.Codes(s, on)
			if err != nil {
				t.Fatal(err)
			}
			if s.Tape.Len() != records || s.Arena.Mark() != mark || !s.Train {
				t.Error("Codes leaves traces in the step")
			}
			z := newModel(tok)
			if want, _ := z.quantize(z.encode(z.patches(pixels))); backend == "ref" && !slices.Equal(together, want) {
				t.Errorf("codes %v, want %v", together, want)
			}
			for i := range n {
				alone, err := tok.Codes(s, on.Slice(i, i+1))
				if err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(alone, together[i*9:(i+1)*9]) {
					t.Errorf("image %d has codes %v alone and %v among others", i, alone, together[i*9:(i+1)*9])
				}
			}
			if u := UsageOf(together, tok.Config.Codes); u.Used < 4 {
				t.Errorf("usage %+v, this tests little", u)
			}
		})
	}
}

func TestUsageOf(t *testing.T) {
	u := UsageOf([]int32{0, 2, 0, 2, 5, 5}, 8)
	if u.Used != 3 || u.Total != 8 || math.Abs(u.Perplexity-3) > 1e-12 {
		t.Errorf("usage %+v, want 3 of 8 with perplexity 3", u)
	}
	if u := UsageOf(nil, 4); u != (Usage{Total: 4}) {
		t.Errorf("usage of no codes: %+v", u)
	}
}

func TestErrors(t *testing.T) {
	dev := ref.New()
	for _, c := range []struct {
		change func(*Config)
		want   string
	}{
		{func(c *Config) { c.Patch = 3 }, "do not divide into patches"},
		{func(c *Config) { c.Heads = 4 }, "heads"},
		{func(c *Config) { c.Codes = 0 }, "Codes is 0"},
		{func(c *Config) { c.Momentum = 1 }, "momentum"},
		{func(c *Config) { c.Commitment = -1 }, "commitment"},
		{func(c *Config) { c.Dead = 2 }, "dead"},
	} {
		cfg := tiny()
		c.change(&cfg)
		if _, err := New(dev, cfg, false); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want one about %q", err, c.want)
		}
	}
	if b := Base(); b.Validate() != nil || b.Patches() != 196 {
		t.Errorf("the base shape: %v, %d patches", b.Validate(), b.Patches())
	}
	tok := newTokenizer(t, dev, tiny(), 1)
	s := engine.NewStep(dev, 1)
	pixels := pictures(2, 4, 1)
	wants := func(want string, err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one about %q", err, want)
		}
	}
	s.Begin(1, false)
	on := upload(s, pixels, tok.ImageSize)
	_, err := tok.Codes(s, on)
	wants("codebook is empty", err)
	_, err = tok.Train(s, upload(s, pixels, tok.ImageSize))
	wants("codebook is empty", err)
	_, err = tok.Codes(s, on.Columns(1, on.Cols))
	wants("2 rows of 47 pixel values", err)
	_, err = tok.Train(s, on.Columns(1, on.Cols))
	wants("2 rows of 47 pixel values", err)
	_, err = tok.Train(s, kernels.Tensor{})
	wants("pixel values", err)
	_, err = tok.Decode(s, []int32{0, 1, 2})
	wants("3 codes", err)
	_, err = tok.Decode(s, []int32{0, 1, 2, 3, 0, 1, 5, 2})
	wants("patch 2 of image 1 has code 5", err)
	s.Begin(1, true)
	pixels[50] = float32(math.NaN())
	_, err = tok.Train(s, upload(s, pixels, tok.ImageSize))
	wants("not a number", err)
	eval, err := New(dev, tiny(), false)
	if err != nil {
		t.Fatal(err)
	}
	_, err = eval.Train(s, upload(s, pictures(2, 4, 1), eval.ImageSize))
	wants("no room for gradients", err)
}
