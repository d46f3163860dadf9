// Package config describes a training run: the model, the data and the stages
// with their recipes, as plain structs that YAML files, named presets and
// command-line overrides fill in.
//
// A file is a mapping with the keys of [Run]. Its key `extends` names one or
// more presets or files that are applied first, in order. Mappings merge key
// by key. A list of stages replaces the inherited list, but a stage whose name
// is among the inherited ones starts from that one's values.
package config

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"vlmo-train/data/dataset"
)

// Run is the whole configuration of a training run.
type Run struct {
	// Name labels the run in logs and reports.
	Name string `yaml:"name"`
	// Seed keys every random draw of the run.
	Seed uint64 `yaml:"seed"`
	// Out is the folder that receives checkpoints, logs and the report.
	Out string `yaml:"out"`
	// Init is the weights to start from: a checkpoint folder, or a file of VLMo
	// or BEiT weights, safetensors or torch; empty starts from random weights.
	Init string `yaml:"init"`
	// Device is where the kernels run.
	Device Device `yaml:"device"`
	// Threads is the number of worker threads; 0 takes one a processor.
	// Results do not depend on it.
	Threads int `yaml:"threads"`
	// Precision is that of the blocks' activations and products. Hidden
	// states, embeddings, heads, losses, gradients of weights, the optimiser
	// and the visual tokenizer are fp32 always, as checkpoints are, which load
	// in either precision.
	Precision Precision `yaml:"precision"`
	// Deterministic makes the same run give the same bits on the same GPU.
	// Without it cuBLASLt may take algorithms that don't, which may be faster;
	// a resumed run then goes on to rounding only. The CPU is deterministic
	// always.
	Deterministic bool `yaml:"deterministic"`

	// Recompute says whether the backward pass computes norms and activations
	// again, which takes less memory and more time and changes no bit.
	Recompute Recompute `yaml:"recompute"`

	Model  Model   `yaml:"model"`
	Visual Visual  `yaml:"visual"`
	Data   Data    `yaml:"data"`
	Stages []Stage `yaml:"stages"`
}

// Device names a kernel backend.
type Device string

// The backends. "cuda:n" is GPU number n.
const (
	CPU  Device = "cpu"  // optimised kernels
	Ref  Device = "ref"  // plain loops, for checking
	CUDA Device = "cuda" // the first GPU
	Auto Device = "auto" // a GPU where there is one, or the CPU
)

func (Device) legal() []string {
	return []string{string(CPU), string(Ref), string(Auto), string(CUDA)}
}

// GPU returns the number of the GPU that d names.
func (d Device) GPU() (n int, ok bool) {
	rest, ok := strings.CutPrefix(string(d), string(CUDA))
	if !ok || rest == "" {
		return 0, ok
	}
	digits, ok := strings.CutPrefix(rest, ":")
	n, err := strconv.Atoi(digits)
	return n, ok && err == nil && n >= 0
}

// Precision names a number format.
type Precision string

// The precisions.
const (
	FP32 Precision = "fp32" // IEEE 754 single
	BF16 Precision = "bf16" // bfloat16, with sums in fp32
)

func (Precision) legal() []string { return []string{string(FP32), string(BF16)} }

// Recompute says what of a step is kept for its backward pass.
type Recompute string

// The answers.
const (
	// RecomputeAuto keeps everything on a GPU whose memory holds it, and
	// computes again elsewhere.
	RecomputeAuto   Recompute = "auto"
	RecomputeAlways Recompute = "always"
	RecomputeNever  Recompute = "never"
)

func (Recompute) legal() []string {
	return []string{string(RecomputeAuto), string(RecomputeAlways), string(RecomputeNever)}
}

// Position says how the model knows where a token is.
type Position string

// The two forms of position.
const (
	Relative Position = "relative" // one bias table shared by the blocks (VLMo Base and Large)
	Absolute Position = "absolute" // learned position embeddings (VLMo Base+)
)

func (Position) legal() []string { return []string{string(Relative), string(Absolute)} }

// Model is the shape of the VLMo backbone.
type Model struct {
	// ImageSize is the edge of the square input picture in pixels, and Patch
	// that of a patch, of which ImageSize is a multiple.
	ImageSize int `yaml:"image_size"`
	Patch     int `yaml:"patch"`
	// Dim is the width, a multiple of Heads.
	Dim   int `yaml:"dim"`
	Depth int `yaml:"depth"`
	Heads int `yaml:"heads"`
	// FFNRatio is an expert's hidden width over Dim.
	FFNRatio int `yaml:"ffn_ratio"`
	// VLStart is the first block, from 0, with a vision-language expert.
	VLStart int `yaml:"vl_start"`
	// Vocab is the number of words; 0 takes the vocabulary file's.
	Vocab int `yaml:"vocab"`
	// VocabFile is the WordPiece vocabulary: a tokenizer.json of BERT's kind,
	// cased ones too, or one piece a line, uncased; empty takes that of
	// bert-base-uncased.
	VocabFile string `yaml:"vocab_file"`
	// MaxText is the longest text in tokens, [CLS] and [SEP] included.
	MaxText int `yaml:"max_text"`
	// MaxTextInit is the text length that sizes the relative bias table, the
	// official max_text_len_of_initckpt; MaxText must not exceed it.
	MaxTextInit int      `yaml:"max_text_init"`
	Position    Position `yaml:"position"`
	// LayerScale is the initial γ of the residual branches; 0 leaves γ out.
	LayerScale float64 `yaml:"layer_scale"`
	// InitStd is the deviation of fresh weights; 0 means the paper's 0.02,
	// which suits a width of 768. Narrow models start better with more.
	InitStd float64 `yaml:"init_std"`
}

// VisualKind names a visual tokenizer.
type VisualKind string

// The visual tokenizers.
const (
	NoVisual VisualKind = "none"
	VQKD     VisualKind = "vqkd"  // ViT encoder with a vector-quantised code, trained by a tokenizer stage, or BEiT v2's
	DALLE    VisualKind = "dalle" // the encoder of DALL-E, from its weights
)

func (VisualKind) legal() []string { return []string{string(NoVisual), string(VQKD), string(DALLE)} }

// Visual is the tokenizer that turns patches into the codes that masked image
// modelling predicts.
type Visual struct {
	Kind VisualKind `yaml:"kind"`
	// Weights is a trained tokenizer: a checkpoint folder of a tokenizer stage
	// or its model.safetensors, or the published file of BEiT v2's or of
	// DALL-E's; empty where a stage of this run trains it.
	Weights string `yaml:"weights"`
	// Codes is the size of the codebook.
	Codes int `yaml:"codes"`
	// The remaining fields are for VQKD. CodeDim is the width of a code.
	CodeDim int `yaml:"code_dim"`
	// Dim, Depth and Heads shape the encoder, DecoderDepth the decoder.
	Dim          int `yaml:"dim"`
	Depth        int `yaml:"depth"`
	Heads        int `yaml:"heads"`
	DecoderDepth int `yaml:"decoder_depth"`
	// Decay is that of the codebook's moving averages.
	Decay float64 `yaml:"decay"`
}

// Data names the sets. Each key takes one set or a list: a path alone, or a
// mapping with the keys of [Set]. Sets of a list are joined to one; where they
// have weights, they are mixed instead. Paths are used as they stand.
type Data struct {
	// Pairs are pictures with captions, for the stages tokenizer, vision, vl
	// and retrieval.
	Pairs []Set `yaml:"pairs"`
	// Test are such sets for evaluation. All of their captions are used, while
	// training draws one each time.
	Test []Set `yaml:"test"`
	// Text are texts, for stage text, which adds the captions of the pairs.
	Text []Set `yaml:"text"`
	// Shuffle is how many examples of sets in tar files are mixed with each
	// other at a time, in a random order of the files; 0 takes 50,000.
	Shuffle int `yaml:"shuffle,omitempty"`
	// Workers is the number of goroutines that read examples; 0 takes one a
	// processor. Results do not depend on it.
	Workers int `yaml:"workers"`
}

// Set is a set of examples in files.
type Set struct {
	// Path is a file, a folder, or a pattern, or a list of these: braces count
	// and list ({000..123}, {a,b}), and *, ? and [a-z] stand for names.
	Path []string `yaml:"path,omitempty"`
	// Format is found out from names and content where it is empty.
	Format SetFormat `yaml:"format,omitempty"`
	// Split is the part of a published set to read: train, val, test and so on.
	Split string `yaml:"split,omitempty"`
	// Images is the folder that paths of pictures are relative to, where it is
	// not the format's own.
	Images string `yaml:"images,omitempty"`
	// Columns name what is read of a table or of a tar file.
	Columns dataset.Columns `yaml:"columns,omitempty"`
	// NormalizeAnswers looks VQA answers up after normalisation.
	NormalizeAnswers bool `yaml:"normalize_answers,omitempty"`
	// Orient turns pictures as their EXIF orientation says.
	Orient bool `yaml:"orient,omitempty"`
	// Gray16High takes the high byte of 16-bit gray pictures, which are clipped
	// otherwise.
	Gray16High bool `yaml:"gray16_high,omitempty"`
	// Weight says how often an example is of this set, relative to the other
	// sets' weights. Either all sets of a list have one or none.
	Weight float64 `yaml:"weight,omitempty"`
}

// SetFormat is a format of files.
type SetFormat string

func (SetFormat) legal() []string {
	var list []string
	for _, f := range dataset.Formats() {
		list = append(list, string(f))
	}
	return list
}

// Options returns how package dataset opens the set, but for its paths.
func (s *Set) Options() dataset.Options {
	return dataset.Options{
		Format: dataset.Format(s.Format), Split: s.Split, Images: s.Images, Columns: s.Columns,
		NormalizeAnswers: s.NormalizeAnswers, Orient: s.Orient, Gray16High: s.Gray16High,
	}
}

// MarshalYAML writes a path alone where there is nothing else to say, and leaves
// out what is not set.
func (s Set) MarshalYAML() (any, error) {
	if len(s.Path) == 1 && reflect.DeepEqual(s, Set{Path: s.Path}) {
		return s.Path[0], nil
	}
	type fields Set // without this method
	return fields(s), nil
}

// Kind says what a stage trains.
type Kind string

// The kinds of stage.
const (
	Tokenizer Kind = "tokenizer" // the visual tokenizer
	Vision    Kind = "vision"    // stage 1: masked image modelling
	Text      Kind = "text"      // stage 2: masked language modelling
	VL        Kind = "vl"        // stage 3: MLM, ITC and ITM on pairs
	Retrieval Kind = "retrieval" // fine-tuning for image-text retrieval
)

func (Kind) legal() []string {
	return []string{string(Tokenizer), string(Vision), string(Text), string(VL), string(Retrieval)}
}

// Schedule is the learning rate's course after the warm-up.
type Schedule string

// The schedules; both end at MinLR.
const (
	Linear Schedule = "linear"
	Cosine Schedule = "cosine"
)

func (Schedule) legal() []string { return []string{string(Linear), string(Cosine)} }

// Stage is one leg of a run with its recipe.
type Stage struct {
	// Name is unique in the run; overrides address the stage by it.
	Name string `yaml:"name"`
	Kind Kind   `yaml:"kind"`
	// Steps is the number of optimiser steps, Batch the global batch.
	Steps int `yaml:"steps"`
	Batch int `yaml:"batch"`

	// LR is the peak learning rate, reached linearly after Warmup steps.
	LR       float64  `yaml:"lr"`
	Warmup   int      `yaml:"warmup"`
	Schedule Schedule `yaml:"schedule"`
	MinLR    float64  `yaml:"min_lr"`
	// Decay is AdamW's decoupled weight decay.
	Decay float64    `yaml:"decay"`
	Betas [2]float64 `yaml:"betas,flow"`
	Eps   float64    `yaml:"eps"`
	// Clip is the largest norm of the gradient; 0 does not clip.
	Clip float64 `yaml:"clip"`
	// DropPath is the last block's rate; the first block's is 0.
	DropPath float64 `yaml:"drop_path"`

	// LossWeights weighs the losses of a vl or retrieval stage. The other
	// kinds have a single loss and leave it zero.
	LossWeights LossWeights `yaml:"loss_weights"`
	// MLMEvery and ITMEvery compute these losses on every n-th step only.
	MLMEvery int `yaml:"mlm_every"`
	ITMEvery int `yaml:"itm_every"`
	// Compat follows the original code where this project departs from it,
	// and OriginalWorld is the number of ranks the recipe was found on: the
	// original's ITC gradient is 1/OriginalWorld of the true one.
	Compat        bool `yaml:"compat"`
	OriginalWorld int  `yaml:"original_world"`

	Augment Augment `yaml:"augment"`
	// MaxKeywords is the most keywords drawn to extend a caption.
	MaxKeywords int `yaml:"max_keywords"`

	// CheckpointEvery, EvalEvery and LogEvery are in steps; 0 is never.
	CheckpointEvery int `yaml:"checkpoint_every"`
	EvalEvery       int `yaml:"eval_every"`
	LogEvery        int `yaml:"log_every"`
}

// LossWeights are the factors of the losses in the total.
type LossWeights struct {
	MLM float64 `yaml:"mlm"` // masked language modelling
	ITC float64 `yaml:"itc"` // image-text contrast
	ITM float64 `yaml:"itm"` // image-text matching
}

// Augment says how training pictures are varied. The zero value only resizes.
type Augment struct {
	// CropArea is the range of the crop's share of the area, CropRatio that of
	// its width over its height. Zero takes the whole picture.
	CropArea  [2]float64 `yaml:"crop_area,flow"`
	CropRatio [2]float64 `yaml:"crop_ratio,flow"`
	// Flip is the probability of a horizontal flip.
	Flip float64 `yaml:"flip"`
	// Rotate and Shear are drawn from ± that many degrees, Translate from ±
	// that share of the edges, Scale from that range; zero is off.
	Rotate    float64    `yaml:"rotate"`
	Translate float64    `yaml:"translate"`
	Scale     [2]float64 `yaml:"scale,flow"`
	Shear     float64    `yaml:"shear"`
	// Brightness, Contrast and Saturation v draw a factor from [1-v, 1+v], Hue
	// a shift from ± that share of the colour circle.
	Brightness float64 `yaml:"brightness"`
	Contrast   float64 `yaml:"contrast"`
	Saturation float64 `yaml:"saturation"`
	Hue        float64 `yaml:"hue"`
	// Gray and Erase are the probabilities of dropping all colour and of
	// painting a random rectangle over.
	Gray  float64 `yaml:"gray"`
	Erase float64 `yaml:"erase"`
	// RandAugment applies operations drawn from ten.
	RandAugment RandAugment `yaml:"rand_augment"`
}

// RandKind names whose arithmetic RandAugment has.
type RandKind string

// The kinds of RandAugment.
const (
	RandDefault RandKind = "default" // the original's, without its two bugs
	RandCompat  RandKind = "compat"  // the original's to the bit
	RandPillow  RandKind = "pillow"  // Pillow's
)

func (RandKind) legal() []string {
	return []string{string(RandDefault), string(RandCompat), string(RandPillow)}
}

// RandAugment applies operations drawn from autocontrast, equalize, brightness,
// sharpness, shears, translations, rotation and none.
type RandAugment struct {
	// Ops is the number of operations drawn for a picture; 0 is off.
	Ops int `yaml:"ops"`
	// Level is how strong they are, of 10, or of 30 if Kind is pillow.
	Level float64  `yaml:"level"`
	Kind  RandKind `yaml:"kind"`
}

// defaultRun is what a file starts from.
func defaultRun() *Run {
	return &Run{
		Seed:          1,
		Device:        CPU,
		Precision:     FP32,
		Deterministic: true,
		Recompute:     RecomputeAuto,
		Model:         Model{FFNRatio: 4, Position: Relative},
		Visual:        Visual{Kind: NoVisual, Codes: 8192, CodeDim: 32, Decay: 0.99},
	}
}

// defaultStage is what a stage starts from (SPEC §7 and §8: the weights of the
// losses and AdamW's constants).
func defaultStage(k Kind) Stage {
	s := Stage{
		Kind: k, Schedule: Linear, Decay: 0.01, Betas: [2]float64{0.9, 0.98}, Eps: 1e-8,
		MLMEvery: 1, ITMEvery: 1, OriginalWorld: 1, LogEvery: 10,
		Augment: Augment{RandAugment: RandAugment{Kind: RandDefault}},
	}
	switch k {
	case VL:
		s.LossWeights = LossWeights{MLM: 0.25, ITC: 1, ITM: 1}
	case Retrieval:
		s.LossWeights = LossWeights{ITC: 1}
	}
	return s
}

// Stage returns the stage of that name, or nil.
func (r *Run) Stage(name string) *Stage {
	for i := range r.Stages {
		if r.Stages[i].Name == name {
			return &r.Stages[i]
		}
	}
	return nil
}

// Marshal returns the resolved configuration as YAML. Parsing it gives r back.
func (r *Run) Marshal() ([]byte, error) {
	text, err := yaml.Dump(r, yaml.WithCompactSeqIndent(false), yaml.WithLineWidth(-1))
	if err != nil {
		return nil, fmt.Errorf("configuration %q: %w", r.Name, err)
	}
	return text, nil
}
