package vlmo

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"vlmo-train/weights"
)

// ConvertOptions say what Convert makes; zero fields leave what is there.
type ConvertOptions struct {
	ImageSize int // resizes positions to this image size
	MaxText   int // cuts text positions to this length
	// MaxTextInit is the text length that relative position tables are laid
	// out for; zero: what the file tells, 196 for BEiT.
	MaxTextInit int
	// DType is the element type of floating-point tensors, F32, F16 or BF16.
	DType string
}

// Converted says what Convert did.
type Converted struct {
	From, To Identity
	Tensors  int
	// Buffers tells that the original's index tensors are in the file.
	Buffers bool
}

// torchExtensions are those of torch's files.
var torchExtensions = []string{".pt", ".pth", ".ckpt", ".bin"}

// Convert writes the weights at from, of any format that weights.Open knows,
// to the file to: safetensors or, by the extensions .pt, .pth, .ckpt and
// .bin, as torch.save writes a state dict. BEiT's tensors get VLMo's names and
// one position table; those of visual tokenizers and of models that are not
// known keep their names. A VLMo file gets the index tensors that the original
// needs (Buffers). The file is replaced whole or not at all.
//
// Tensors that keep their shape are read when they are written, one at a time.
func Convert(from, to string, o ConvertOptions) (Converted, error) {
	ext := strings.ToLower(filepath.Ext(to))
	if ext != ".safetensors" && !slices.Contains(torchExtensions, ext) {
		return Converted{}, fmt.Errorf("%s: the name says no format: want .safetensors, %s", to, strings.Join(torchExtensions, ", "))
	}
	switch o.DType {
	case "", "F32", "F16", "BF16":
	default:
		return Converted{}, fmt.Errorf("dtype %s: want F32, F16 or BF16", o.DType)
	}
	f, err := weights.Open(from)
	if err != nil {
		return Converted{}, err
	}
	defer f.Close()
	done, arrays, err := convert(f, o)
	if err != nil {
		return Converted{}, fmt.Errorf("%s: %w", from, err)
	}
	done.Tensors = len(arrays)
	if ext == ".safetensors" {
		return done, weights.Write(to, arrays, map[string]string{"format": "pt"})
	}
	return done, weights.WriteTorch(to, arrays)
}

// convert returns the arrays of the converted file.
func convert(f *weights.File, o ConvertOptions) (done Converted, arrays []weights.Array, err error) {
	id, err := IdentifyFile(f)
	if err != nil {
		return done, nil, err
	}
	done.From = id
	c := id.Config
	isModel := id.Family == VLMo || id.Family == BEiT || id.Family == HuggingFaceBEiT
	if !isModel && (o.ImageSize > 0 || o.MaxText > 0) {
		return done, nil, fmt.Errorf("%s: only VLMo's and BEiT's positions can be resized", id)
	}
	if o.MaxTextInit > 0 {
		c.MaxTextInit = o.MaxTextInit
		if id.Family == VLMo && !c.Absolute {
			rows, err := tableRows(f)
			if err != nil {
				return done, nil, err
			}
			edge, err := side(rows - 2*c.MaxTextInit - 5)
			if err != nil {
				return done, nil, fmt.Errorf("%s of %d rows with text length %d: %w", biasTable, rows, c.MaxTextInit, err)
			}
			c.ImageSize = (edge + 1) / 2 * c.Patch
		}
	} else if c.MaxTextInit == 0 {
		c.MaxTextInit = max(196, c.MaxText, o.MaxText)
	}
	resize := o.ImageSize > 0 && o.ImageSize != c.ImageSize || o.MaxText > 0 && o.MaxText != c.MaxText
	if o.ImageSize > 0 {
		if c.Patch == 0 || o.ImageSize%c.Patch != 0 {
			return done, nil, fmt.Errorf("image size %d is no multiple of patch size %d", o.ImageSize, c.Patch)
		}
		c.ImageSize = o.ImageSize
	}
	if o.MaxText > 0 {
		c.MaxText = o.MaxText
	}
	// Tensors with new values are held in memory, the others are read anew.
	changed := HostTensors{}
	skip := map[string]bool{}
	switch {
	case id.Family == VLMo && resize:
		tables := HostTensors{}
		for _, name := range []string{biasTable, posEmbed, textPosTable} {
			if !f.Has(name) {
				continue
			}
			v, shape, err := f.Float32(name)
			if err != nil {
				return done, nil, err
			}
			tables[name] = HostTensor{shape, v}
		}
		changed, err = Resize(tables, &c)
	case id.Family == BEiT || id.Family == HuggingFaceBEiT:
		changed, err = readTensors(f)
		if err == nil && id.Family == HuggingFaceBEiT {
			changed, err = FromHuggingFace(changed)
		}
		if err == nil {
			changed, err = FromBEiT(changed, c.MaxTextInit)
		}
		if err == nil && resize {
			changed, err = Resize(changed, &c)
		}
		for _, name := range f.Names() {
			skip[name] = true
		}
	}
	if err != nil {
		return done, nil, err
	}
	for _, b := range buffers {
		skip[b] = isModel
	}
	names := map[string]bool{}
	for _, name := range f.Names() {
		if !skip[name] {
			names[name] = true
		}
	}
	for name := range changed {
		names[name] = true
	}
	shapes := map[string][]int{}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		a := weights.Array{Name: name}
		if t, ok := changed[name]; ok {
			a.DType, a.Shape = "F32", t.Shape
			if o.DType != "" {
				a.DType = o.DType
			}
			a.Load = func() ([]byte, error) { return weights.Encode(a.DType, t.Data) }
		} else if a.DType, a.Shape, err = f.Info(name); err != nil {
			return done, nil, err
		} else if o.DType != "" && floating(a.DType) && a.DType != o.DType {
			a.DType = o.DType
			a.Load = func() ([]byte, error) {
				v, _, err := f.Float32(name)
				if err != nil {
					return nil, err
				}
				return weights.Encode(o.DType, v)
			}
		} else {
			a.Load = func() ([]byte, error) {
				x, err := f.Array(name)
				return x.Data, err
			}
		}
		shapes[name] = a.Shape
		arrays = append(arrays, a)
	}
	if isModel {
		done.Buffers = c.MaxText >= 1 && (c.Absolute || c.ImageSize > 0 && c.Patch > 0)
		if done.Buffers {
			arrays = append(arrays, Buffers(&c)...)
		}
	}
	done.To = Identify(shapes)
	if isModel {
		done.To.Config, done.To.Guessed = c, id.Guessed && o.MaxTextInit == 0
	}
	return done, arrays, nil
}

// tableRows returns the rows of the relative position table.
func tableRows(f *weights.File) (int, error) {
	_, shape, err := f.Info(biasTable)
	if err == nil && len(shape) != 2 {
		err = fmt.Errorf("%s has shape %v, want [rows, layers·heads]", biasTable, shape)
	}
	if err != nil {
		return 0, err
	}
	return shape[0], nil
}
