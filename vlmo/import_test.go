package vlmo

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"vlmo-train/kernels/ref"
	"vlmo-train/weights"
)

func readParity(t *testing.T, name string) HostTensors {
	t.Helper()
	in, err := ReadTensors(filepath.Join("..", "testdata", "parity", filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return in
}

// importConfig is the shape of resize_rel's weights_small.
func importConfig() Config {
	return Config{ImageSize: 24, Patch: 8, Dim: 32, Depth: 3, Heads: 2, Hidden: 128, VLStart: 2, Vocab: 97,
		MaxText: 12, MaxTextInit: 20, LayerScale: true, LayerScaleInit: 0.1, TokenTypes: 2,
		With: HeadSet{MLM: true, ITC: true, ITM: true}}
}

func newModel(t *testing.T, c Config) *Model {
	t.Helper()
	m, err := New(ref.New(), c, false)
	if err != nil {
		t.Fatal(err)
	}
	m.Init(1)
	return m
}

func equalTensor(a, b HostTensor) bool {
	return slices.Equal(a.Shape, b.Shape) && slices.EqualFunc(a.Data, b.Data, func(x, y float32) bool {
		return math.Float32bits(x) == math.Float32bits(y)
	})
}

func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", parts)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q lacks %q", err, p)
		}
	}
}

func TestFromBEiT(t *testing.T) {
	got, err := FromBEiT(readParity(t, "mim_beit/weights.safetensors"), 20)
	if err != nil {
		t.Fatal(err)
	}
	want := readParity(t, "mim_beit/converted_vlmo.safetensors")
	delete(want, "image_feats_zero_type_embedding") // a feature
	for name, w := range want {
		if !equalTensor(got[name], w) {
			t.Errorf("%s differs from the original's conversion", name)
		}
		delete(got, name)
	}
	if rest := slices.Sorted(maps.Keys(got)); !slices.Equal(rest, []string{"lm_head.bias", "lm_head.weight", "mask_token"}) {
		t.Errorf("besides the original's, got %q", rest)
	}
}

// A shared table equals the same table in every layer.
func TestFromBEiTShared(t *testing.T) {
	per := readParity(t, "mim_beit/grads.safetensors")
	const name = ".attn.relative_position_bias_table"
	one := per["blocks.1"+name]
	shared := maps.Clone(per)
	for _, b := range []string{"blocks.0", "blocks.1", "blocks.2"} {
		per[b+name] = one
		delete(shared, b+name)
	}
	shared["rel_pos_bias.relative_position_bias_table"] = one
	a, err := FromBEiT(per, 7)
	if err != nil {
		t.Fatal(err)
	}
	b, err := FromBEiT(shared, 7)
	if err != nil {
		t.Fatal(err)
	}
	if !maps.EqualFunc(a, b, equalTensor) {
		t.Error("shared and repeated tables convert differently")
	}
	if s := a[biasTable].Shape; !slices.Equal(s, []int{28 + 16, 6}) {
		t.Errorf("table of shape %v", s)
	}
	for layer := range 3 {
		for i, v := range one.Data {
			if got := a[biasTable].Data[i/2*6+layer*2+i%2]; got != v {
				t.Fatalf("layer %d: element %d is %v, want %v", layer, i, got, v)
			}
		}
	}

	// Classifiers have fc_norm and head; norm stays initialised.
	shared["fc_norm.weight"] = shared["norm.weight"]
	shared["cls_pt_layers.0.norm1.weight"] = shared["norm.weight"] // BEiT v2's second head
	delete(shared, "norm.weight")
	delete(shared, "norm.bias")
	out, err := FromBEiT(shared, 20)
	if err != nil {
		t.Fatal(err)
	}
	h, err := Assign(newModel(t, importConfig()), out)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(h.Initialised, "transformer.norm.weight") || !slices.Contains(h.Left, "transformer.fc_norm.weight") ||
		!slices.Contains(h.Left, "transformer.cls_pt_layers.0.norm1.weight") {
		t.Errorf("fc_norm: %+v", h)
	}
}

func TestFromBEiTErrors(t *testing.T) {
	_, err := FromBEiT(readParity(t, "resize_rel/weights_small.safetensors"), 20)
	wantError(t, err, "not a BEiT checkpoint")
	in := readParity(t, "mim_beit/weights.safetensors")
	const name = "blocks.1.attn.relative_position_bias_table"
	whole := in[name]
	delete(in, name)
	_, err = FromBEiT(in, 20)
	wantError(t, err, "block 1", "2 of 3")
	in[name] = HostTensor{[]int{26, 2}, whole.Data[:52]}
	_, err = FromBEiT(in, 20)
	wantError(t, err, name, "[26 2]", "[28 2]")
	in[name] = HostTensor{[]int{28, 2}, whole.Data[:52]}
	_, err = FromBEiT(in, 20)
	wantError(t, err, name, "52 values")
}

func TestAssign(t *testing.T) {
	in := readParity(t, "resize_rel/weights_small.safetensors")
	m := newModel(t, importConfig())
	h, err := Assign(m, in)
	if err != nil {
		t.Fatal(err)
	}
	if len(h.Left)+len(h.Initialised) > 0 || len(h.Loaded) != len(in) || !slices.IsSorted(h.Loaded) {
		t.Errorf("left %q, initialised %q, loaded %d of %d", h.Left, h.Initialised, len(h.Loaded), len(in))
	}
	path := filepath.Join(t.TempDir(), "m.safetensors")
	if err := WriteTensors(path, Export(m), map[string]string{"format": "pt"}, Buffers(&m.Config)...); err != nil {
		t.Fatal(err)
	}
	back, err := ReadTensors(path)
	if err != nil {
		t.Fatal(err)
	}
	if !maps.EqualFunc(in, back, equalTensor) {
		t.Error("export differs from what was loaded")
	}
}

func TestAssignPartly(t *testing.T) {
	in := readParity(t, "resize_rel/weights_small.safetensors")
	const vl = "transformer.blocks.2.mlp_vl.fc1.weight"
	delete(in, vl)
	in["stray"] = HostTensor{[]int{1}, []float32{3}}
	in["text_embeddings.position_ids"] = HostTensor{[]int{1}, []float32{0}}
	in["logit_scale"] = HostTensor{[]int{1}, []float32{5}}
	c := importConfig()
	c.TokenTypes, c.With.NLVR2 = 3, true
	m := newModel(t, c)
	before := m.Store.Get(m.Store.Param(vl))
	h, err := Assign(m, in)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(h.Left, []string{"stray"}) {
		t.Errorf("left %q", h.Left)
	}
	want := []string{"nlvr2_classifier.0.bias", "nlvr2_classifier.0.weight", "nlvr2_classifier.1.bias", "nlvr2_classifier.1.weight",
		"nlvr2_classifier.3.bias", "nlvr2_classifier.3.weight", vl}
	if !slices.Equal(h.Initialised, want) {
		t.Errorf("initialised %q", h.Initialised)
	}
	if !slices.Equal(before, m.Store.Get(m.Store.Param(vl))) {
		t.Error("a missing expert did not keep its values")
	}
	if v := m.Store.Get(m.Store.Param("logit_scale")); v[0] != 5 {
		t.Errorf("logit_scale = %v", v)
	}
	types, from := m.Store.Get(m.Store.Param(tokenTypes)), in[tokenTypes].Data
	if !slices.Equal(types[:64], from) || !slices.Equal(types[64:], from[32:]) {
		t.Error("token types are not rows 0, 1, 1 of the file")
	}
}

func TestHandoverTable(t *testing.T) {
	in := readParity(t, "mim_beit/weights.safetensors")
	beit, err := FromBEiT(in, 20)
	if err != nil {
		t.Fatal(err)
	}
	c := importConfig()
	c.VLStart = c.Depth
	c.With = HeadSet{Codes: 54} // one more than the file
	m := newModel(t, c)
	before := m.Store.Get(m.Store.Param("lm_head.bias"))
	h, err := Assign(m, beit)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(h.Left, []string{"lm_head.bias", "lm_head.weight"}) || !slices.Contains(h.Initialised, "lm_head.bias") {
		t.Errorf("left %q", h.Left)
	}
	if !slices.Equal(before, m.Store.Get(m.Store.Param("lm_head.bias"))) {
		t.Error("a head that was left changed")
	}
	var text strings.Builder
	if err := h.WriteTable(&text); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(text.String()) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	for _, want := range []string{fmt.Sprintf("loaded %d tensors", len(h.Loaded)), "transformer.blocks.*.mlp_imag.fc1.weight 3",
		"left 2 tensors", "lm_head.weight 1", "transformer.blocks.*.mlp_text.fc1.weight 3"} {
		if !slices.Contains(lines, want) {
			t.Errorf("no line %q in\n%s", want, text.String())
		}
	}
}

func TestAssignShape(t *testing.T) {
	in := readParity(t, "resize_rel/weights_small.safetensors")
	in["transformer.norm.weight"] = HostTensor{[]int{1, 32}, in["transformer.norm.weight"].Data}
	m := newModel(t, importConfig())
	before := Export(m)
	_, err := Assign(m, in)
	wantError(t, err, "transformer.norm.weight", "[1 32]", "[32]")
	if !maps.EqualFunc(before, Export(m), equalTensor) {
		t.Error("a refused import changed the model")
	}
}

func TestReadTensorsMissing(t *testing.T) {
	_, err := ReadTensors(filepath.Join(t.TempDir(), "none.safetensors"))
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// Worked out by hand from SPEC §4 for 2 × 2 patches, 3 tokens and T0 = 4:
// R = 12, A = 22.
func TestBuffers(t *testing.T) {
	c := Config{ImageSize: 4, Patch: 2, MaxText: 3, MaxTextInit: 4}
	image := []int64{
		11, 9, 9, 9, 9,
		10, 4, 3, 1, 0,
		10, 5, 4, 2, 1,
		10, 7, 6, 4, 3,
		10, 8, 7, 5, 4,
	}
	text := []int64{
		21, 19, 19,
		20, 16, 17,
		20, 15, 16,
	}
	var both []int64
	for i := range 3 {
		both = append(append(both, text[3*i:3*i+3]...), 12, 12, 12, 12, 12)
	}
	for i := range 5 {
		both = append(append(both, 13, 13, 13), image[5*i:5*i+5]...)
	}
	want := []weights.Array{
		weights.Of("text_embeddings.position_ids", []int{1, 3}, []int64{0, 1, 2}),
		weights.Of("relative_position_index", []int{5, 5}, image),
		weights.Of("text_relative_position_index", []int{3, 3}, text),
		weights.Of("text_imag_relative_position_index", []int{8, 8}, both),
	}
	got := Buffers(&c)
	same := func(a, b weights.Array) bool {
		return a.Name == b.Name && a.DType == b.DType && slices.Equal(a.Shape, b.Shape) && slices.Equal(a.Data, b.Data)
	}
	if !slices.EqualFunc(got, want, same) {
		t.Errorf("got %v\nwant %v", got, want)
	}
	c.Absolute = true
	if got := Buffers(&c); !slices.EqualFunc(got, want[:1], same) {
		t.Errorf("absolute: got %v", got)
	}
}
