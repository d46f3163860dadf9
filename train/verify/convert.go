package verify

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"

	"vlmo-train/data/img"
	"vlmo-train/engine"
	"vlmo-train/kernels"
	"vlmo-train/vlmo"
	"vlmo-train/weights"
)

// resize loads weights made for one image size into a model of another.
func (r *runner) resize() error {
	w, err := r.read("weights_small.safetensors")
	if err != nil {
		return err
	}
	want, err := r.read("outputs.safetensors")
	if err != nil {
		return err
	}
	if r.c.Config == nil {
		if r.c.Config, err = configOf(w, r.c.FromSize); err != nil {
			return err
		}
	}
	c := r.c.Config
	if c.Heads > 0 {
		return r.resized(w, want)
	}
	// Nothing in the shapes of a model with absolute positions tells its
	// heads: the case passes if one of the divisors of the width does.
	best, bestErr, heads := []Result(nil), math.Inf(1), 0
	single := *r
	single.compute, single.keep = kernels.F32, false
	for h := 1; h <= c.Dim; h++ {
		if c.Dim%h != 0 {
			continue
		}
		c.Heads, single.results = h, nil
		if err := single.resized(w, want); err != nil {
			return err
		}
		if e := single.results[len(single.results)-1].Err; best == nil || e < bestErr {
			best, bestErr, heads = single.results, e, h
		}
	}
	c.Heads = heads
	if r.keep {
		return r.resized(w, want)
	}
	r.results = best
	return nil
}

// resized loads w, made for another image size, and compares the outputs.
func (r *runner) resized(w, want vlmo.HostTensors) error {
	c := r.c.Config
	var err error
	w, err = vlmo.Resize(w, &vlmo.Config{ImageSize: r.c.ToSize, Patch: c.Patch, Dim: c.Dim, Depth: c.Depth, Heads: c.Heads, Hidden: 4 * c.Dim,
		VLStart: c.VLStart, Vocab: c.Vocab, MaxText: c.MaxText, MaxTextInit: c.MaxTextInit, Absolute: c.Absolute, LayerScale: c.LayerScale, TokenTypes: 2})
	if err != nil {
		return err
	}
	got, ref := map[string][]float32{}, map[string][]float32{}
	for _, n := range []string{"relative_position_bias_table", "transformer.pos_embed"} {
		if x, ok := want[n]; ok {
			got[n], ref[n] = w[n].Data, x.Data
		}
	}
	r.compare("resized table", resizeLimit, got, ref)
	m, err := r.model(w, r.c.ToSize)
	if err != nil {
		return err
	}
	in, err := r.inputs()
	if err != nil {
		return err
	}
	return r.outputs(m, engine.NewStep(r.dev, 0), &in)
}

// configOf derives a configuration from the shapes of a state dict.
func configOf(w vlmo.HostTensors, imageSize int) (*caseConfig, error) {
	c := &caseConfig{ImageSize: imageSize}
	shape := func(name string) []int { return w[name].Shape }
	patch, word, pos := shape("transformer.patch_embed.proj.weight"), shape("text_embeddings.word_embeddings.weight"), shape("text_embeddings.position_embeddings.weight")
	if len(patch) != 4 || len(word) != 2 || len(pos) != 2 {
		return nil, errors.New("weights lack the patch projection, the word or the position embeddings")
	}
	c.Dim, c.Patch, c.Vocab, c.MaxText, c.MaxTextInit = patch[0], patch[2], word[0], pos[0], pos[0]
	_, c.LayerScale = w["transformer.blocks.0.gamma_1"]
	_, c.Absolute = w["transformer.pos_embed"]
	for w[fmt.Sprintf("transformer.blocks.%d.norm1.weight", c.Depth)].Shape != nil {
		c.Depth++
	}
	c.VLStart = c.Depth
	for i := c.Depth - 1; i >= 0; i-- {
		if w[fmt.Sprintf("transformer.blocks.%d.norm2_vl.weight", i)].Shape != nil {
			c.VLStart = i
		}
	}
	window := imageSize / c.Patch
	if t := shape("relative_position_bias_table"); len(t) == 2 && c.Depth > 0 {
		c.Heads = t[1] / c.Depth
		c.MaxTextInit = (t[0] - (2*window-1)*(2*window-1) - 5) / 2
	}
	return c, nil
}

// maskedImages loads BEiT weights by conversion and compares masked image
// modelling.
func (r *runner) maskedImages() error {
	w, err := r.read("weights.safetensors")
	if err != nil {
		return err
	}
	converted, err := r.read("converted_vlmo.safetensors")
	if err != nil {
		return err
	}
	table, ok := converted["relative_position_bias_table"]
	if !ok {
		return errors.New("converted_vlmo.safetensors has no relative_position_bias_table")
	}
	c := r.c.Config
	window := c.ImageSize / c.Patch
	c.MaxTextInit = (table.Shape[0] - (2*window-1)*(2*window-1) - 5) / 2
	c.MaxText, c.VLStart, c.Vocab = c.MaxTextInit, c.Depth, 1
	_, c.LayerScale = w["blocks.0.gamma_1"]
	vl, err := vlmo.FromBEiT(w, c.MaxTextInit)
	if err != nil {
		return err
	}
	ref := values(converted)
	delete(ref, "image_feats_zero_type_embedding")
	r.compare("converted", 0, values(vl), ref)

	f, err := weights.Open(r.path("inputs.safetensors"))
	if err != nil {
		return err
	}
	pixels, shape, err := f.Float32("image")
	if err != nil {
		return err
	}
	flags, _, err := f.Int32("masked")
	if err != nil {
		return err
	}
	labels, _, err := f.Int32("labels")
	if err != nil {
		return err
	}
	want, err := r.read("outputs.safetensors")
	if err != nil {
		return err
	}
	beitGrads, err := r.read("grads.safetensors")
	if err != nil {
		return err
	}
	grads, err := vlmo.FromBEiT(beitGrads, c.MaxTextInit)
	if err != nil {
		return err
	}
	n, patches := shape[0], window*window
	masked := make([][]bool, n)
	for i := range masked {
		masked[i] = make([]bool, patches)
		for k := range masked[i] {
			masked[i][k] = flags[i*patches+k] != 0
		}
	}
	for _, savings := range r.variants() {
		m, err := r.model(vl, c.ImageSize)
		if err != nil {
			return err
		}
		r.savings, m.Savings = savings, savings
		// BEiT has no type embedding.
		types := m.Store.Param("token_type_embeddings.weight")
		m.Store.Set(types, make([]float32, types.Len()))
		s := engine.NewStep(r.dev, 0)
		s.Begin(0, false)
		p := &vlmo.Phase{}
		var rows []int
		for i := range n {
			p.Images = append(p.Images, vlmo.Unimodal{Image: i})
		}
		p.Layout(1 + patches)
		for i := range n {
			for k := range 1 + patches {
				rows = append(rows, p.ImageRow(i, k, vlmo.Own))
			}
		}
		x, err := m.Encode(s, p, upload(m, s, pixels), rows)
		if err != nil {
			return err
		}
		feats := make([]float32, x.X.Len())
		r.dev.Read(feats, x.X)
		r.compare("outputs", outputLimit, map[string][]float32{"features_unmasked": feats, "zero type": feats},
			map[string][]float32{"features_unmasked": want["features_unmasked"].Data, "zero type": converted["image_feats_zero_type_embedding"].Data})

		s.Begin(0, true)
		m.Store.ZeroGrad()
		l, err := m.MaskedImages(s, upload(m, s, pixels), masked, labels, nil)
		if err != nil {
			return err
		}
		s.Backward()
		if err := s.Err(); err != nil {
			return err
		}
		v := l.Values(r.dev)
		r.compare("losses", lossLimit, map[string][]float32{"loss": scalar(v.Total)}, map[string][]float32{"loss": want["loss"].Data})
		r.gradients(m, grads)
	}
	return f.Close()
}

// preprocess compares decoding and resizing with Pillow's results.
func (r *runner) preprocess() error {
	f, err := weights.Open(r.path("expected.safetensors"))
	if err != nil {
		return err
	}
	for _, key := range f.Names() {
		file, what, ok := strings.Cut(key, "/")
		if !ok {
			return fmt.Errorf("expected.safetensors: %q is not file/result", key)
		}
		data, err := os.ReadFile(r.path(file))
		if err != nil {
			return err
		}
		got, err := img.Decode(data, img.Options{})
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		var size int
		if _, err := fmt.Sscanf(what, "bicubic_%d_u8", &size); err == nil {
			if got, err = img.Resize(got, size, size); err != nil {
				return err
			}
		}
		a, err := f.Array(key)
		if err != nil {
			return err
		}
		res := Result{Case: r.name, Quantity: "bytes", Worst: key}
		if strings.HasSuffix(file, ".jpg") {
			// Decoders of JPEG may differ: at most 4 levels, 1 on average.
			worst, mean := levels(got.Pix, a.Data)
			res.Quantity, res.Err, res.Limit = "levels, largest", worst, 4
			r.results = append(r.results, res)
			res.Quantity, res.Err, res.Limit = "levels, mean", mean, 1
		} else if !bytes.Equal(got.Pix, a.Data) {
			worst, _ := levels(got.Pix, a.Data)
			res.Err = max(worst, 1)
		}
		r.results = append(r.results, res)
	}
	return f.Close()
}

func levels(a, b []byte) (worst, mean float64) {
	if len(a) != len(b) || len(a) == 0 {
		return 256, 256
	}
	for i := range a {
		d := float64(a[i]) - float64(b[i])
		if d < 0 {
			d = -d
		}
		worst = max(worst, d)
		mean += d
	}
	return worst, mean / float64(len(a))
}
