package vlmo

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"vlmo-train/kernels"
	"vlmo-train/weights"
)

// HostTensor is a tensor in host memory, row-major; an empty shape is a scalar.
type HostTensor struct {
	Shape []int
	Data  []float32
}

// HostTensors is a state dict: tensors by name.
type HostTensors map[string]HostTensor

// Names with a meaning of their own in an import (SPEC §9).
const (
	biasTable    = "relative_position_bias_table"
	posEmbed     = "transformer.pos_embed"
	textPosTable = "text_embeddings.position_embeddings.weight"
	tokenTypes   = "token_type_embeddings.weight"
)

// buffers are the original's index tensors. They follow from the
// configuration, so an import ignores them.
var buffers = [...]string{
	"relative_position_index",
	"text_relative_position_index",
	"text_imag_relative_position_index",
	"text_embeddings.position_ids",
}

// ReadTensors reads the floating-point tensors of a file of weights of any
// format that weights.Open knows, widened to float32. Integer tensors are left
// out: in a VLMo or BEiT checkpoint they are index buffers, which follow from
// the configuration, and so are the index tensors that a file has as numbers
// with a point. The caller owns the result.
func ReadTensors(path string) (HostTensors, error) {
	f, err := weights.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readTensors(f)
}

func readTensors(f *weights.File) (HostTensors, error) {
	out := make(HostTensors)
	for _, name := range f.Names() {
		dtype, _, err := f.Info(name)
		if err != nil {
			return nil, err
		}
		if !floating(dtype) || slices.Contains(buffers[:], name) {
			continue
		}
		v, shape, err := f.Float32(name)
		if err != nil {
			return nil, err
		}
		out[name] = HostTensor{shape, v}
	}
	return out, nil
}

// floating reports whether values of a dtype are read as float32.
func floating(dtype string) bool {
	switch dtype {
	case "F64", "F32", "F16", "BF16":
		return true
	}
	return false
}

// Import reads the weights at path for a model of configuration c: those of
// VLMo, BEiT or BEiT v2, under their own or Hugging Face's names, in any
// format that weights.Open knows. They come back under VLMo's names and at the
// image size and text length of c (SPEC §9). The caller owns the result.
func Import(path string, c *Config) (HostTensors, error) {
	f, err := weights.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	id, err := IdentifyFile(f)
	if err != nil {
		return nil, err
	}
	switch id.Family {
	case VQKD, DALLE:
		return nil, fmt.Errorf("%s: %s, which is a visual tokenizer and no model's weights", path, id)
	case Unknown:
		return nil, fmt.Errorf("%s: its %d tensors have the names of no model that is known, such as %q", path, len(f.Names()), f.Names()[0])
	}
	in, err := readTensors(f)
	if err == nil && id.Family == HuggingFaceBEiT {
		in, err = FromHuggingFace(in)
	}
	if err == nil && id.Family != VLMo {
		in, err = FromBEiT(in, c.MaxTextInit)
	}
	if err == nil {
		in, err = Resize(in, c)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return in, nil
}

// WriteTensors writes in as float32, and extra as it is, to the safetensors
// file at path, which it replaces whole or not at all. Names are sorted, so
// equal tensors give equal bytes.
func WriteTensors(path string, in HostTensors, metadata map[string]string, extra ...weights.Array) error {
	arrays := make([]weights.Array, 0, len(in)+len(extra))
	for _, name := range slices.Sorted(maps.Keys(in)) {
		arrays = append(arrays, weights.Of(name, in[name].Shape, in[name].Data))
	}
	return weights.Write(path, append(arrays, extra...), metadata)
}

// FromBEiT returns a BEiT state dict under VLMo's names (SPEC §9). The
// layers' relative position tables [R, heads], or the one table that all
// layers share, become the first R rows of relative_position_bias_table
// [R + 2·maxTextInit + 2, layers·heads], whose other rows are zero;
// maxTextInit is Config.MaxTextInit. mask_token and lm_head keep their names.
// Layers, heads and R are those of the tensors. Gradients convert likewise.
// Tensors other than the table share their data with in.
//
// It is an error if the names are not BEiT's, or if the tables are missing in
// some layers, differ in shape or have no rows for a square image.
func FromBEiT(in HostTensors, maxTextInit int) (HostTensors, error) {
	const (
		table  = "relative_position_bias_table"
		shared = "rel_pos_bias." + table
	)
	out := make(HostTensors, len(in))
	depth := 0
	tables := make(map[int]string)
	for name, t := range in {
		layer, rest, err := blockName(name)
		if err != nil {
			return nil, err
		}
		depth = max(depth, layer+1)
		switch {
		case rest == "attn."+table:
			tables[layer] = name
			continue
		case name == shared, strings.HasSuffix(name, "relative_position_index"):
			continue
		case name == "mask_token", strings.HasPrefix(name, "lm_head."):
			out[name] = t
			continue
		}
		switch {
		case layer >= 0 && strings.HasPrefix(rest, "mlp."):
			name = fmt.Sprintf("blocks.%d.mlp_imag.%s", layer, strings.TrimPrefix(rest, "mlp."))
		case layer >= 0 && strings.HasPrefix(rest, "norm2."):
			name = fmt.Sprintf("blocks.%d.norm2_imag.%s", layer, strings.TrimPrefix(rest, "norm2."))
		}
		out["transformer."+name] = t
	}
	if depth == 0 {
		return nil, fmt.Errorf("vlmo: no tensor named blocks.0.… among %d: not a BEiT checkpoint", len(in))
	}
	if _, ok := in[shared]; ok {
		if len(tables) > 0 {
			return nil, fmt.Errorf("vlmo: a BEiT checkpoint has both %s and a table in %d layers", shared, len(tables))
		}
		for layer := range depth {
			tables[layer] = shared
		}
	}
	if len(tables) == 0 {
		return out, nil // absolute positions
	}

	var first HostTensor
	for layer := range depth {
		name, ok := tables[layer]
		if !ok {
			return nil, fmt.Errorf("vlmo: block %d has no attn.%s, %d of %d blocks have one", layer, table, len(tables), depth)
		}
		t := in[name]
		if err := t.check(name); err != nil {
			return nil, err
		}
		if layer == 0 {
			first = t
		}
		if len(t.Shape) != 2 || !slices.Equal(t.Shape, first.Shape) {
			return nil, fmt.Errorf("vlmo: %s has shape %v, that of block 0 %v; want the same [rows, heads] in every block", name, t.Shape, first.Shape)
		}
	}
	rows, heads := first.Shape[0], first.Shape[1]
	if _, err := side(rows - 3); err != nil {
		return nil, fmt.Errorf("vlmo: %s: %d rows: %w", tables[0], rows, err)
	}
	all := HostTensor{Shape: []int{rows + 2*maxTextInit + 2, depth * heads}}
	all.Data = make([]float32, all.Shape[0]*all.Shape[1])
	for layer := range depth {
		t := in[tables[layer]]
		for r := range rows {
			copy(all.Data[(r*depth+layer)*heads:], t.Data[r*heads:(r+1)*heads])
		}
	}
	out[biasTable] = all
	return out, nil
}

// blockName splits "blocks.3.attn.proj.bias" into 3 and "attn.proj.bias";
// layer is -1 outside the blocks.
func blockName(name string) (layer int, rest string, err error) {
	after, ok := strings.CutPrefix(name, "blocks.")
	if !ok {
		return -1, "", nil
	}
	number, rest, _ := strings.Cut(after, ".")
	layer, err = strconv.Atoi(number)
	if err != nil || layer < 0 || layer > 1<<16 {
		return 0, "", fmt.Errorf("vlmo: tensor %q: %q is no number of a block", name, number)
	}
	return layer, rest, nil
}

// side returns the odd edge 2W−1 of the square part of a table (SPEC §4).
func side(square int) (int, error) {
	for s := 1; s*s <= square; s += 2 {
		if s*s == square {
			return s, nil
		}
	}
	return 0, fmt.Errorf("the square part of a relative position table would have %d rows, want (2W−1)² for W patches along an edge", square)
}

// check says whether t's values fit its shape.
func (t HostTensor) check(name string) error {
	n := 1
	for _, d := range t.Shape {
		n *= d
	}
	if n != len(t.Data) {
		return fmt.Errorf("vlmo: tensor %s: %d values do not fit shape %v", name, len(t.Data), t.Shape)
	}
	return nil
}

// Handover tells what an import did, in sorted names.
type Handover struct {
	Loaded      []string // parameters set from the file
	Left        []string // tensors of the file that the model has no use for
	Initialised []string // parameters the file lacks, left as they were
}

// Assign copies the tensors of in to m's parameters of the same name. What in
// lacks keeps its value, so Init comes first. A two-row table of token types
// fills three rows, the third with row 1, the image's (SPEC §3). Index
// buffers are ignored. The last layer of a head over other codes or answers
// than the model's is left. Any other shape that differs is an error, except
// that a scalar may also have shape [1]; m is then unchanged.
func Assign(m *Model, in HostTensors) (Handover, error) {
	var h Handover
	values := make([][]float32, 0, len(in))
	for _, name := range slices.Sorted(maps.Keys(in)) {
		if slices.Contains(buffers[:], name) {
			continue
		}
		p := m.Store.Param(name)
		if p == nil {
			h.Left = append(h.Left, name)
			continue
		}
		t := in[name]
		if err := t.check(name); err != nil {
			return Handover{}, err
		}
		if d := m.Dim; name == tokenTypes && slices.Equal(t.Shape, []int{2, d}) && slices.Equal(p.Shape, []int{3, d}) {
			t = HostTensor{p.Shape, slices.Concat(t.Data, t.Data[d:])}
		}
		if !sameShape(p.Shape, t.Shape) {
			if classes(name) {
				h.Left = append(h.Left, name)
				continue
			}
			return Handover{}, fmt.Errorf("vlmo: tensor %s has shape %v, the model's is %v", name, t.Shape, p.Shape)
		}
		h.Loaded = append(h.Loaded, name)
		values = append(values, t.Data)
	}
	for i, name := range h.Loaded {
		m.Store.Set(m.Store.Param(name), values[i])
	}
	for _, p := range m.Store.Params() {
		if _, ok := slices.BinarySearch(h.Loaded, p.Name); !ok {
			h.Initialised = append(h.Initialised, p.Name)
		}
	}
	slices.Sort(h.Initialised)
	return h, nil
}

// classes reports whether a tensor has a row for each code or answer that a
// model chooses from.
func classes(name string) bool {
	return strings.HasPrefix(name, "lm_head.") || strings.HasPrefix(name, "vqa_classifier.3.")
}

// WriteTable writes what was loaded, left and is new: a line for each kind of
// tensor, in which a * stands for the numbers of blocks.
func (h *Handover) WriteTable(w io.Writer) error {
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, part := range []struct {
		what  string
		names []string
	}{{"loaded", h.Loaded}, {"left", h.Left}, {"new", h.Initialised}} {
		count := map[string]int{}
		for _, name := range part.names {
			before, after, ok := strings.Cut(name, "blocks.")
			if _, rest, isBlock := strings.Cut(after, "."); ok && isBlock {
				name = before + "blocks.*." + rest
			}
			count[name]++
		}
		fmt.Fprintf(out, "%s\t%d tensors\n", part.what, len(part.names))
		for _, name := range slices.Sorted(maps.Keys(count)) {
			fmt.Fprintf(out, "\t%s\t%d\n", name, count[name])
		}
	}
	return out.Flush()
}

func sameShape(a, b []int) bool {
	scalar := func(s []int) bool { return len(s) == 0 || len(s) == 1 && s[0] == 1 }
	return slices.Equal(a, b) || scalar(a) && scalar(b)
}

// Export returns copies of all parameters of m.
func Export(m *Model) HostTensors {
	out := make(HostTensors)
	for _, p := range m.Store.Params() {
		out[p.Name] = HostTensor{slices.Clone(p.Shape), m.Store.Get(p)}
	}
	return out
}

// Buffers returns the index tensors that the original expects in a checkpoint
// of this configuration, int64, with N = Patches()+1 and T = MaxText:
// text_embeddings.position_ids [1, T] and, under relative bias,
// relative_position_index [N, N], text_relative_position_index [T, T] and
// text_imag_relative_position_index [T+N, T+N], query × key, whose values are
// rows of the relative position table (SPEC §4).
func Buffers(c *Config) []weights.Array {
	text, n := c.MaxText, c.Patches()+1
	ids := make([]int64, text)
	for i := range ids {
		ids[i] = int64(i)
	}
	out := []weights.Array{weights.Of(buffers[3], []int{1, text}, ids)}
	if c.Absolute {
		return out
	}
	b := kernels.RelativeBias{Window: c.Window(), Text: c.MaxTextInit}
	image, words := grid(n, b.ImageImage), grid(text, b.TextText)
	both := grid(text+n, func(i, j int) int {
		switch {
		case i < text && j < text:
			return b.TextText(i, j)
		case i < text:
			return b.TextImage()
		case j < text:
			return b.ImageText()
		}
		return b.ImageImage(i-text, j-text)
	})
	return append(out,
		weights.Of(buffers[0], []int{n, n}, image),
		weights.Of(buffers[1], []int{text, text}, words),
		weights.Of(buffers[2], []int{text + n, text + n}, both))
}

// grid returns the n × n values of at.
func grid(n int, at func(i, j int) int) []int64 {
	v := make([]int64, n*n)
	for i := range n {
		for j := range n {
			v[i*n+j] = int64(at(i, j))
		}
	}
	return v
}
