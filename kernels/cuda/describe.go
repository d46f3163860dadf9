//go:build cuda

package cuda

import (
	"cmp"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"gorgonia.org/cu"
)

// Describe says what there is of GPUs, a line each: driver, GPUs with free
// memory and the code that was chosen for them, cuBLASLt. For what is missing it
// says how to get it.
func Describe() []string {
	n, err := cu.NumDevices()
	if err != nil {
		return []string{fmt.Sprintf("no GPU can be used: %v; %s", explain(err), driverHint), ltDescribe(nil)}
	}
	v := cu.Version()
	lines := []string{fmt.Sprintf("driver for CUDA %d.%d", v/1000, v%1000/10)}
	if n == 0 {
		lines = append(lines, "the driver shows no GPU: check nvidia-smi and CUDA_VISIBLE_DEVICES, and in a container --gpus all")
	}
	var unusable error
	for i := range n {
		text, err := describeGPU(i)
		lines = append(lines, fmt.Sprintf("cuda:%d: %s", i, text))
		unusable = cmp.Or(unusable, err)
	}
	return append(lines, ltDescribe(unusable))
}

// describeGPU also returns why the GPU cannot use cuBLASLt.
func describeGPU(ordinal int) (text string, lt error) {
	dev, err := cu.GetDevice(ordinal)
	if err != nil {
		return explain(err).Error(), nil
	}
	name, major, minor, err := identify(dev)
	if err != nil {
		return err.Error(), nil
	}
	text = fmt.Sprintf("%s, sm_%d%d", name, major, minor)
	if major < 8 {
		return text + ": too old, the kernels need sm_80 or later (Ampere: A100, RTX 30)", nil
	}
	code, free, total, lt, err := probe(dev)
	if err != nil {
		return fmt.Sprintf("%s: cannot be used: %v", text, err), nil
	}
	return fmt.Sprintf("%s, %d of %d MiB free, kernels: %s", text, free>>20, total>>20, code), lt
}

// probe opens a GPU for a moment and says which code its driver takes of the
// images, its memory in bytes, and why it cannot use cuBLASLt.
func probe(dev cu.Device) (code string, free, total int64, lt, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the context must not stay current for others
		var ctx cu.CUContext
		if ctx, err = dev.RetainPrimaryCtx(); err != nil {
			return
		}
		defer dev.ReleasePrimaryCtx()
		if err = cu.SetCurrentContext(ctx); err != nil {
			return
		}
		if free, total, err = cu.MemInfo(); err != nil {
			return
		}
		lt = ltProbe()
		var image []byte
		if image, err = images.ReadFile("image/adamw.fatbin"); err != nil {
			return
		}
		var m cu.Module
		if m, err = cu.LoadData(string(image)); err != nil {
			return
		}
		defer m.Unload()
		var f cu.Function
		if f, err = m.Function("adamw"); err != nil {
			return
		}
		var version int
		if version, err = f.Attribute(cu.BinaryVersion); err == nil {
			code = codeName(version)
		}
	}()
	<-done
	return code, free, total, lt, explain(err)
}

// codeName names the code of a kernel whose binary is of a version: that of the
// image, or what the driver made of the PTX in it.
func codeName(version int) string {
	archs, _ := images.ReadFile("image/archs")
	list := strings.Fields(string(archs))
	if slices.Contains(list, fmt.Sprint(version)) {
		return fmt.Sprintf("sm_%d", version)
	}
	return fmt.Sprintf("compiled by the driver from PTX for sm_80 (this build has code for sm_%s)", strings.Join(list, ", sm_"))
}
