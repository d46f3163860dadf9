package vlmo

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"vlmo-train/engine"
	"vlmo-train/kernels"
	"vlmo-train/kernels/ref"
	"vlmo-train/weights"
)

// spec is a line of a list in testdata/checkpoints: what the original's
// modules declare.
type spec struct {
	dtype string
	shape []int
}

func readList(t *testing.T, path string) map[string]spec {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	list := map[string]spec{}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) != 3 {
			t.Fatalf("%s: line %q", path, line)
		}
		s := spec{dtype: f[1], shape: []int{}}
		if f[2] != "-" {
			for _, d := range strings.Split(f[2], "x") {
				n, err := strconv.Atoi(d)
				if err != nil {
					t.Fatalf("%s: line %q", path, line)
				}
				s.shape = append(s.shape, n)
			}
		}
		list[f[0]] = s
	}
	return list
}

// published are the models of SPEC §1.
func publishedConfig(t *testing.T, model, task string, size int) Config {
	t.Helper()
	c := Config{ImageSize: size, Patch: 16, Vocab: 30522, MaxText: 40, TokenTypes: 2, LayerScale: true}
	switch model {
	case "base":
		c.Dim, c.Depth, c.Heads, c.VLStart = 768, 12, 12, 10
	case "base_plus":
		c.Dim, c.Depth, c.Heads, c.VLStart = 544, 24, 16, 21
		c.Absolute, c.LayerScale = true, false
	case "large":
		c.Dim, c.Depth, c.Heads, c.VLStart = 1024, 24, 16, 21
	default:
		t.Fatalf("no model %q", model)
	}
	c.Hidden = 4 * c.Dim
	if !c.Absolute {
		c.MaxTextInit = 196
	}
	c.With.Pooler = true // the original's models always have one
	switch task {
	case "pretrain":
		c.With.MLM, c.With.ITC, c.With.ITM = true, true, true
	case "text":
		c.With.MLM = true
		c.VLStart, c.MaxText = c.Depth, 196
	case "retrieval":
		c.With.RetrievalScale = true
	case "vqa":
		c.With.VQA = 3129
	case "nlvr2":
		c.With.NLVR2 = true
		c.TokenTypes = 3
	default:
		t.Fatalf("no task %q", task)
	}
	return c
}

// sparseFile writes a safetensors file of the list whose values are a hole in
// the file; floating-point tensors are F16.
func sparseFile(t *testing.T, list map[string]spec) string {
	t.Helper()
	type place struct {
		DType   string `json:"dtype"`
		Shape   []int  `json:"shape"`
		Offsets [2]int `json:"data_offsets"`
	}
	header := map[string]place{}
	at := 0
	for _, name := range slices.Sorted(maps.Keys(list)) {
		s := list[name]
		n := 8
		if s.dtype == "F32" {
			s.dtype, n = "F16", 2
		}
		for _, d := range s.shape {
			n *= d
		}
		header[name] = place{s.dtype, s.shape, [2]int{at, at + n}}
		at += n
	}
	text, err := json.Marshal(header)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "sparse.safetensors")
	length := make([]byte, 8)
	for i := range length {
		length[i] = byte(len(text) >> (8 * i))
	}
	if err := os.WriteFile(path, append(length, text...), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, int64(8+len(text)+at)); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestReleased opens files with the names and shapes of the original's models
// of every size and task, identifies and loads them, exports them again, and
// counts a forward pass.
func TestReleased(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join("..", "testdata", "checkpoints", "*.txt"))
	if err != nil || len(paths) < 20 {
		t.Fatalf("%d lists, %v", len(paths), err)
	}
	zeros := make([]float32, 30522*1024) // shared by all tensors
	for _, path := range paths {
		name := strings.TrimSuffix(filepath.Base(path), ".txt")
		t.Run(name, func(t *testing.T) {
			part := strings.Split(name, "-")
			size, err := strconv.Atoi(part[2])
			if err != nil {
				t.Fatal(err)
			}
			list := readList(t, path)
			c := publishedConfig(t, part[0], part[1], size)
			f, err := weights.Open(sparseFile(t, list))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			id, err := IdentifyFile(f)
			if err != nil {
				t.Fatal(err)
			}
			if id.Config != c || id.Model != part[0] || id.Family != VLMo {
				t.Errorf("identified as %s\n%+v, want\n%+v", id, id.Config, c)
			}
			in := HostTensors{}
			for _, name := range f.Names() {
				dtype, shape, err := f.Info(name)
				if err != nil {
					t.Fatal(err)
				}
				if !floating(dtype) {
					continue
				}
				n := 1
				for _, d := range shape {
					n *= d
				}
				in[name] = HostTensor{shape, zeros[:n]}
			}
			if in, err = Resize(in, &c); err != nil {
				t.Fatal(err)
			}
			dev := &kernels.Counter{}
			m, err := New(dev, c, false)
			if err != nil {
				t.Fatal(err)
			}
			h, err := Assign(m, in)
			if err != nil {
				t.Fatal(err)
			}
			if len(h.Left)+len(h.Initialised) > 0 {
				t.Errorf("left %q, new %q", h.Left, h.Initialised)
			}

			// What goes out is the list.
			out := map[string]spec{}
			for _, p := range m.Store.Params() {
				out[p.Name] = spec{"F32", p.Shape}
			}
			for _, b := range Buffers(&c) {
				out[b.Name] = spec{b.DType, b.Shape}
			}
			for name, w := range list {
				if g, ok := out[name]; !ok || g.dtype != w.dtype || !slices.Equal(g.shape, w.shape) {
					t.Errorf("%s: %v, want %v", name, g, w)
				}
				delete(out, name)
			}
			if len(out) > 0 {
				t.Errorf("exports %v, which the original does not know", slices.Sorted(maps.Keys(out)))
			}
			forward(t, m, dev)
		})
	}
}

// forward runs a forward pass of each head on one example.
func forward(t *testing.T, m *Model, dev *kernels.Counter) {
	t.Helper()
	s := engine.NewStep(dev, 1)
	s.Begin(0, false)
	text := Text{101, 2054, 102}
	px := 3 * m.ImageSize * m.ImageSize
	b := &Batch{Texts: []Text{text}, Pixels: s.Bytes(make([]byte, px), 1, px), Masked: []Text{text}, Labels: [][]int32{{-1, 2054, -1}}}
	var err error
	switch w := m.With; {
	case w.VQA > 0:
		_, _, err = m.VQA(s, b, make([]float32, w.VQA))
	case w.NLVR2:
		_, _, err = m.NLVR2(s, []Text{text}, s.Bytes(make([]byte, 2*px), 2, px), []int32{1})
	case w.ITM:
		_, err = m.MatchLogits(s, &Phase{Pairs: []Pair{{Text: text}}}, b.Pixels)
	case w.RetrievalScale:
		_, err = m.Retrieval(s, b)
	default:
		_, err = m.TextMLM(s, b.Masked, b.Labels, nil)
	}
	if err == nil {
		err = s.Err()
	}
	if err != nil {
		t.Fatal(err)
	}
	if dev.FLOPs < 4e8 {
		t.Errorf("a forward pass of %d FLOPs", dev.FLOPs)
	}
}

// A model goes out as a half-precision torch file and comes back: its answers
// are the original's, to half precision.
func TestConvertedRuns(t *testing.T) {
	dir := filepath.Join("..", "testdata", "parity", "vqa_finetune")
	path := filepath.Join(t.TempDir(), "vqa.pt")
	done, err := Convert(filepath.Join(dir, "weights.safetensors"), path, ConvertOptions{DType: "F16", MaxTextInit: 20})
	if err != nil {
		t.Fatal(err)
	}
	c := done.To.Config
	c.LayerScaleInit = 0.1
	in, err := Import(path, &c)
	if err != nil {
		t.Fatal(err)
	}
	m, err := New(ref.New(), c, false)
	if err != nil {
		t.Fatal(err)
	}
	m.Init(1)
	h, err := Assign(m, in)
	if err != nil {
		t.Fatal(err)
	}
	if len(h.Left)+len(h.Initialised) > 0 {
		t.Errorf("left %q, new %q", h.Left, h.Initialised)
	}
	f, err := weights.Open(filepath.Join(dir, "inputs.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ids, shape, err := f.Int32("text_ids")
	if err != nil {
		t.Fatal(err)
	}
	mask, _, err := f.Int32("text_masks")
	if err != nil {
		t.Fatal(err)
	}
	b := &Batch{}
	pixels, _, err := f.Float32("image")
	if err != nil {
		t.Fatal(err)
	}
	for i := range shape[0] {
		var text Text
		for j := range shape[1] {
			if mask[i*shape[1]+j] != 0 {
				text = append(text, ids[i*shape[1]+j])
			}
		}
		b.Texts = append(b.Texts, text)
	}
	s := engine.NewStep(ref.New(), 1)
	s.Begin(0, false)
	b.Pixels = s.Upload(pixels, shape[0], len(pixels)/shape[0])
	_, logits, err := m.VQA(s, b, make([]float32, shape[0]*c.With.VQA))
	if err != nil {
		t.Fatal(err)
	}
	got := make([]float32, logits.Len())
	s.Dev.Read(got, logits)
	want := readParity(t, "vqa_finetune/outputs.safetensors")["vqa_logits"]
	e := relError(t, HostTensor{want.Shape, got}, want)
	t.Logf("relative error %.1e", e)
	if !(e > 0 && e < 3e-3) {
		t.Errorf("relative error %g", e)
	}
}

// Every format gives the same tensors, and BEiT's the original's conversion.
func TestConvert(t *testing.T) {
	dir := t.TempDir()
	parity := filepath.Join("..", "testdata", "parity")
	want := readParity(t, "pretrain_rel/weights_after.safetensors")
	for i, from := range []string{"after.pt", "after_deepspeed_legacy.pt", "weights_after.safetensors"} {
		for _, ext := range []string{".pt", ".safetensors"} {
			path := filepath.Join(dir, fmt.Sprint(i, ext))
			done, err := Convert(filepath.Join(parity, "pretrain_rel", from), path, ConvertOptions{MaxTextInit: 20})
			if err != nil {
				t.Fatal(err)
			}
			if done.Tensors != len(want)+4 || !done.Buffers {
				t.Errorf("%s: %+v", from, done)
			}
			got, err := ReadTensors(path)
			if err != nil {
				t.Fatal(err)
			}
			if !maps.EqualFunc(got, want, equalTensor) {
				t.Errorf("%s%s: other tensors", from, ext)
			}
			// The index tensors tell the table's layout.
			f, err := weights.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			id, err := IdentifyFile(f)
			if err != nil {
				t.Fatal(err)
			}
			if id.Guessed || id.Config.MaxTextInit != 20 || id.Config.ImageSize != 24 {
				t.Errorf("%s: identified as %+v", path, id)
			}
			f.Close()
		}
	}

	path := filepath.Join(dir, "beit.safetensors")
	if _, err := Convert(filepath.Join(parity, "mim_beit", "beit.pth"), path, ConvertOptions{MaxTextInit: 20}); err != nil {
		t.Fatal(err)
	}
	got, err := ReadTensors(path)
	if err != nil {
		t.Fatal(err)
	}
	converted := readParity(t, "mim_beit/converted_vlmo.safetensors")
	delete(converted, "image_feats_zero_type_embedding")
	for name, w := range converted {
		if !equalTensor(got[name], w) {
			t.Errorf("BEiT: %s differs from the original's conversion", name)
		}
	}

	path = filepath.Join(dir, "large.pth")
	done, err := Convert(filepath.Join(parity, "resize_rel", "weights_small.safetensors"), path, ConvertOptions{MaxTextInit: 20, ImageSize: 40, MaxText: 9})
	if err != nil {
		t.Fatal(err)
	}
	if done.To.Config.ImageSize != 40 || done.To.Config.MaxText != 9 {
		t.Errorf("resized: %+v", done.To.Config)
	}
	if got, err = ReadTensors(path); err != nil {
		t.Fatal(err)
	}
	if e := relError(t, got[biasTable], readParity(t, "resize_rel/outputs.safetensors")[biasTable]); !(e < 1e-6) {
		t.Errorf("resized table: relative error %g", e)
	}
	f, err := weights.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, shape, err := f.Info("text_imag_relative_position_index"); err != nil || !slices.Equal(shape, []int{35, 35}) {
		t.Errorf("index of shape %v, %v", shape, err)
	}

	_, err = Convert(path, filepath.Join(dir, "x.npz"), ConvertOptions{})
	wantError(t, err, "x.npz", ".safetensors")
	_, err = Convert(path, filepath.Join(dir, "x.pt"), ConvertOptions{DType: "I8"})
	wantError(t, err, "I8", "BF16")
	_, err = Convert(path, filepath.Join(dir, "x.pt"), ConvertOptions{ImageSize: 41})
	wantError(t, err, path, "41", "patch")
	_, err = Convert(path, filepath.Join(dir, "x.pt"), ConvertOptions{MaxTextInit: 21})
	wantError(t, err, path, "21")
}

// hfNames are Hugging Face's names of a block's tensors, beside BEiT's.
var hfNames = [][2]string{
	{"norm1.", "layernorm_before."}, {"norm2.", "layernorm_after."}, {"attn.proj.", "attention.output.dense."},
	{"mlp.fc1.", "intermediate.dense."}, {"mlp.fc2.", "output.dense."}, {"gamma_", "lambda_"},
	{"attn.q_bias", "attention.attention.query.bias"}, {"attn.v_bias", "attention.attention.value.bias"},
	{"attn.relative_position_bias_table", "attention.attention.relative_position_bias.relative_position_bias_table"},
}

// toHuggingFace renames BEiT's tensors as BeitForMaskedImageModeling has them.
func toHuggingFace(in HostTensors, prefix string) HostTensors {
	out := HostTensors{}
	for name, t := range in {
		layer, rest, _ := blockName(name)
		if layer < 0 {
			for _, r := range [][2]string{{"cls_token", "embeddings.cls_token"}, {"mask_token", "embeddings.mask_token"},
				{"pos_embed", "embeddings.position_embeddings"}, {"patch_embed.proj.", "embeddings.patch_embeddings.projection."},
				{"rel_pos_bias.", "encoder.relative_position_bias."}} {
				if after, ok := strings.CutPrefix(name, r[0]); ok {
					name = prefix + r[1] + after
					break
				}
			}
			if after, ok := strings.CutPrefix(name, "norm."); ok {
				name = "layernorm." + after
			}
			out[name] = t
			continue
		}
		block := fmt.Sprintf("%sencoder.layer.%d.", prefix, layer)
		if rest == "attn.qkv.weight" {
			n := len(t.Data) / 3
			for i, part := range []string{"query", "key", "value"} {
				out[block+"attention.attention."+part+".weight"] = HostTensor{[]int{t.Shape[0] / 3, t.Shape[1]}, t.Data[i*n : (i+1)*n]}
			}
			continue
		}
		for _, r := range hfNames {
			if after, ok := strings.CutPrefix(rest, r[0]); ok {
				rest = r[1] + after
				break
			}
		}
		out[block+rest] = t
	}
	return out
}

func TestFromHuggingFace(t *testing.T) {
	want := readParity(t, "mim_beit/weights.safetensors")
	for _, prefix := range []string{"beit.", ""} {
		hf := toHuggingFace(want, prefix)
		got, err := FromHuggingFace(hf)
		if err != nil {
			t.Fatal(err)
		}
		if !maps.EqualFunc(got, want, equalTensor) {
			t.Errorf("prefix %q: got %q", prefix, slices.Sorted(maps.Keys(got)))
		}
		path := filepath.Join(t.TempDir(), "hf.safetensors")
		if err := WriteTensors(path, hf, nil); err != nil {
			t.Fatal(err)
		}
		c := importConfig()
		c.VLStart = c.Depth
		c.With = HeadSet{Codes: 53}
		in, err := Import(path, &c)
		if err != nil {
			t.Fatal(err)
		}
		direct, err := FromBEiT(want, c.MaxTextInit)
		if err != nil {
			t.Fatal(err)
		}
		if !maps.EqualFunc(in, direct, equalTensor) {
			t.Errorf("prefix %q: imported otherwise than from BEiT's names", prefix)
		}
	}
	hf := toHuggingFace(want, "beit.")
	delete(hf, "beit.encoder.layer.1.attention.attention.key.weight")
	_, err := FromHuggingFace(hf)
	wantError(t, err, "layer 1", "key")
}

func TestIdentify(t *testing.T) {
	shapes := func(in HostTensors) map[string][]int {
		out := map[string][]int{}
		for name, x := range in {
			out[name] = x.Shape
		}
		return out
	}
	beit := readParity(t, "mim_beit/weights.safetensors")
	for _, c := range []struct {
		in   map[string][]int
		want string
	}{
		{shapes(beit), "BEiT of 3 blocks of width 32 at 24 pixels, masked image modelling (53 codes)"},
		{shapes(toHuggingFace(beit, "beit.")), "BEiT (Hugging Face) of 3 blocks of width 32 at 24 pixels, masked image modelling (53 codes)"},
		{shapes(readParity(t, "nlvr2_finetune/weights.safetensors")), "VLMo of 3 blocks of width 32 at 24 pixels, fine-tuned for NLVR2"},
		{shapes(readParity(t, "retrieval_finetune/weights.safetensors")), "VLMo of 3 blocks of width 32 at 24 pixels, fine-tuned for retrieval"},
		{shapes(readParity(t, "text_mlm/weights.safetensors")), "VLMo of 3 blocks of width 32 at 24 pixels, text pre-training"},
		{shapes(readParity(t, "pretrain_abs/weights.safetensors")), "VLMo of 2 blocks of width 36 at 24 pixels, vision-language pre-training"},
		{map[string][]int{"a": {1}}, "unknown"},
		{map[string][]int{"transformer.blocks.0.attn.qkv.weight": nil, "transformer.cls_token": {1}, biasTable: {7}}, "VLMo"},
	} {
		if got := Identify(c.in).String(); got != c.want {
			t.Errorf("identified as %q, want %q", got, c.want)
		}
	}
}

// PyTorch finds in a converted checkpoint the tensors of the original, and the
// index tensors.
func TestPyTorch(t *testing.T) {
	python := os.Getenv("PYTHON_TORCH")
	if python == "" {
		t.Skip("PYTHON_TORCH names no Python with torch")
	}
	dir := t.TempDir()
	from := filepath.Join("..", "testdata", "parity", "pretrain_rel", "after_deepspeed_legacy.pt")
	for _, dtype := range []string{"", "BF16"} {
		pt, st := filepath.Join(dir, "w.pt"), filepath.Join(dir, "w.safetensors")
		for _, to := range []string{pt, st} {
			if _, err := Convert(from, to, ConvertOptions{MaxTextInit: 20, DType: dtype}); err != nil {
				t.Fatal(err)
			}
		}
		if out, err := exec.Command(python, filepath.Join("..", "scripts", "torch_check.py"), "read", pt, st).CombinedOutput(); err != nil || !strings.Contains(string(out), "101 tensors are equal") {
			t.Fatalf("%v\n%s", err, out)
		}
	}
}
