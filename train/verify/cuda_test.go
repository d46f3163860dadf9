//go:build cuda

package verify

import (
	"io"
	"path/filepath"
	"testing"

	"vlmo-train/kernels/cuda"
	"vlmo-train/kernels/ref"
)

// TestCUDALt holds a GPU whose products go to cuBLASLt, whatever their size,
// against cases in both precisions; vlmo-train verify leaves products as small
// as theirs to our kernels.
func TestCUDALt(t *testing.T) {
	dev, err := cuda.New(0, cuda.Options{LtLeast: 1})
	if err != nil {
		t.Skip(err)
	}
	defer dev.(io.Closer).Close()
	root := "../../testdata/parity"
	list, err := Run(dev, filepath.Join(root, "text_mlm"))
	check(t, list, err)
	list, err = RunBF16(dev, ref.New(), filepath.Join(root, "pretrain_rel"))
	check(t, list, err)
}
