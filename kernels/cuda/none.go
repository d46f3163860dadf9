//go:build !cuda

package cuda

import (
	"errors"

	"vlmo-train/kernels"
)

var errNone = errors.New("this program was built without CUDA: build it with `make cuda`, which needs a C compiler and nvcc")

// New fails: this build has no CUDA kernels.
func New(int, Options) (kernels.Device, error) { return nil, errNone }

// Describe says what there is of GPUs, a line each, and what is missing.
func Describe() []string { return []string{errNone.Error()} }
