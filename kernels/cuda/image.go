//go:build cuda

package cuda

import (
	"embed"
	"fmt"

	"gorgonia.org/cu"
)

// The kernels, a fatbin a source file, as `make cuda` compiles them.
//
//go:embed image/*.fatbin image/archs
var images embed.FS

// files lists the kernels of every source file.
var files = map[string][]string{
	"adamw":          {"adamw"},
	"attention":      {"attention", "attention_delta", "attention_grad_q", "attention_grad_kv"},
	"attention_bias": {"attention_bias_pairs", "attention_bias_pairs_bf16", "attention_bias_finish"},
	"attention_bf16": {"attention_bias_spread", "attention_bf16_48", "attention_bf16_64", "attention_bf16_128"},
	"attention_bf16_grad": {"attention_bf16_grad_q_48", "attention_bf16_grad_q_64", "attention_bf16_grad_q_128",
		"attention_bf16_grad_kv_48", "attention_bf16_grad_kv_64", "attention_bf16_grad_kv_128"},
	"dropout":            {"dropout"},
	"elementwise":        {"fill", "copy", "add_scaled", "tanh_forward", "tanh_grad", "gelu_forward", "gelu_grad", "gelu_grad_bf16"},
	"gather":             {"gather", "scatter_add"},
	"gemm_bf16":          {"gemm_bf16_nn", "gemm_bf16_nt", "gemm_bf16_tn", "gemm_bf16_tt"},
	"gemm_f32":           {"gemm_f32_nn", "gemm_f32_nt", "gemm_f32_tn", "gemm_f32_tt"},
	"gemm_finish":        {"gemm_finish"},
	"layernorm":          {"layernorm", "layernorm_grad"},
	"losses":             {"cross_entropy", "contrast", "sample_negative", "arg_max", "binary_cross_entropy", "squared_error"},
	"normalize":          {"normalize", "normalize_grad"},
	"patchify":           {"patchify", "patchify_bytes"},
	"reduce":             {"column_partials", "column_finish", "square_partials", "scalar_finish"},
	"residual":           {"rows_clear", "rows_invert", "residual", "residual_grad"},
	"residual_norm":      {"residual_norm"},
	"residual_norm_grad": {"residual_norm_grad"},
}

// kernel is a function of the loaded image.
type kernel struct {
	name string
	f    cu.Function
	// params holds the sizes of the arguments in the image, in bytes; empty
	// where the driver cannot tell.
	params []uint8
}

// load loads all kernels into the current context.
func load() (map[string]*kernel, error) {
	all := make(map[string]*kernel)
	for file, names := range files {
		image, err := images.ReadFile("image/" + file + ".fatbin")
		if err != nil {
			return nil, fmt.Errorf("%s.cu is not in this build: %w", file, err)
		}
		m, err := cu.LoadData(string(image))
		if err != nil {
			return nil, fmt.Errorf("kernels of %s.cu: %w", file, explain(err))
		}
		for _, name := range names {
			f, err := m.Function(name)
			if err != nil {
				return nil, fmt.Errorf("kernel %s of %s.cu: %w", name, file, explain(err))
			}
			all[name] = &kernel{name: name, f: f, params: paramSizes(f)}
		}
	}
	return all, nil
}
