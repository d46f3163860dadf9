package vlmo

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// hfBlock gives BEiT's names of a block's tensors for Hugging Face's.
var hfBlock = map[string]string{
	"layernorm_before.weight":               "norm1.weight",
	"layernorm_before.bias":                 "norm1.bias",
	"layernorm_after.weight":                "norm2.weight",
	"layernorm_after.bias":                  "norm2.bias",
	"attention.attention.query.bias":        "attn.q_bias",
	"attention.attention.value.bias":        "attn.v_bias",
	"attention.output.dense.weight":         "attn.proj.weight",
	"attention.output.dense.bias":           "attn.proj.bias",
	"intermediate.dense.weight":             "mlp.fc1.weight",
	"intermediate.dense.bias":               "mlp.fc1.bias",
	"output.dense.weight":                   "mlp.fc2.weight",
	"output.dense.bias":                     "mlp.fc2.bias",
	"lambda_1":                              "gamma_1",
	"lambda_2":                              "gamma_2",
	hfBias + "relative_position_bias_table": "attn.relative_position_bias_table",
	hfBias + "relative_position_index":      "attn.relative_position_index",
	"attention.attention.query.weight":      hfQKV + "0",
	"attention.attention.key.weight":        hfQKV + "1",
	"attention.attention.value.weight":      hfQKV + "2",
}

const (
	hfBias = "attention.attention.relative_position_bias."
	hfQKV  = "attn.qkv." // and the part: query, key, value
)

// hfOutside gives the names outside the blocks, without "beit.".
var hfOutside = map[string]string{
	"embeddings.cls_token":                                        "cls_token",
	"embeddings.mask_token":                                       "mask_token",
	"embeddings.position_embeddings":                              "pos_embed",
	"embeddings.patch_embeddings.projection.weight":               "patch_embed.proj.weight",
	"embeddings.patch_embeddings.projection.bias":                 "patch_embed.proj.bias",
	"encoder.relative_position_bias.relative_position_bias_table": "rel_pos_bias.relative_position_bias_table",
	"encoder.relative_position_bias.relative_position_index":      "rel_pos_bias.relative_position_index",
	"layernorm.weight":                                            "norm.weight",
	"layernorm.bias":                                              "norm.bias",
	"pooler.layernorm.weight":                                     "fc_norm.weight",
	"pooler.layernorm.bias":                                       "fc_norm.bias",
	"classifier.weight":                                           "head.weight",
	"classifier.bias":                                             "head.bias",
}

// FromHuggingFace returns the state dict of a BeitModel,
// BeitForMaskedImageModeling or BeitForImageClassification under BEiT's own
// names. Query, key and value weights [dim, dim] become one [3·dim, dim];
// the other tensors share their data with in. Names that BEiT has no
// counterpart of stay.
//
// It is an error if a block lacks one of the three weights, their shapes
// differ, or two tensors would get the same name.
func FromHuggingFace(in HostTensors) (HostTensors, error) {
	out := make(HostTensors, len(in))
	parts := map[string][]string{} // names of the three weights by block
	inner := false                 // a masked image model normalises after the inner model, which does not
	for name := range in {
		inner = inner || strings.HasPrefix(name, "layernorm.")
	}
	for name, t := range in {
		short, isInner := strings.CutPrefix(name, "beit.")
		to := short
		if after, ok := strings.CutPrefix(short, "encoder.layer."); ok {
			number, rest, _ := strings.Cut(after, ".")
			if _, err := strconv.ParseUint(number, 10, 16); err != nil {
				return nil, fmt.Errorf("vlmo: tensor %q: %q is no number of a block", name, number)
			}
			if known, ok := hfBlock[rest]; ok {
				rest = known
			}
			to = "blocks." + number + "." + rest
			if part, ok := strings.CutPrefix(rest, hfQKV); ok {
				list := parts[number]
				if list == nil {
					list = make([]string, 3)
					parts[number] = list
				}
				list[part[0]-'0'] = name
				continue
			}
		} else if known, ok := hfOutside[short]; ok && !(isInner && inner && strings.HasPrefix(short, "layernorm.")) {
			to = known
		} else if isInner {
			to = name
		}
		if _, ok := out[to]; ok {
			return nil, fmt.Errorf("vlmo: tensor %s: there are two of %s", name, to)
		}
		out[to] = t
	}
	for number, list := range parts {
		qkv := HostTensor{}
		for i, name := range list {
			if name == "" {
				return nil, fmt.Errorf("vlmo: layer %s has no %s weight", number, [...]string{"query", "key", "value"}[i])
			}
			t := in[name]
			if err := t.check(name); err != nil {
				return nil, err
			}
			if first := in[list[0]]; len(t.Shape) != 2 || !slices.Equal(t.Shape, first.Shape) {
				return nil, fmt.Errorf("vlmo: %s has shape %v, %s %v; want the same [dim, dim]", name, t.Shape, list[0], first.Shape)
			}
			qkv.Shape = []int{3 * t.Shape[0], t.Shape[1]}
			qkv.Data = append(slices.Grow(qkv.Data, 2*len(t.Data)), t.Data...)
		}
		out["blocks."+number+".attn.qkv.weight"] = qkv
	}
	return out, nil
}
