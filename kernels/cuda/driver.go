//go:build cuda

package cuda

// #include <cuda.h>
import "C"

import (
	"errors"
	"fmt"
	"reflect"
	"unsafe"

	"gorgonia.org/cu"
)

// What gorgonia.org/cu v0.9.6 lacks: messages, pinned memory and the kernels'
// argument layouts.

// explain adds the driver's message to an error of package cu, whose type is
// not exported: an integer, the CUresult.
func explain(err error) error {
	for e := err; e != nil; e = errors.Unwrap(e) {
		if v := reflect.ValueOf(e); v.Kind() == reflect.Int {
			return failure(C.CUresult(v.Int()))
		}
	}
	return err
}

// failure returns the error of a driver call, nil for success.
func failure(r C.CUresult) error {
	if r == C.CUDA_SUCCESS {
		return nil
	}
	var s *C.char
	if C.cuGetErrorString(r, &s) != C.CUDA_SUCCESS || s == nil {
		if r == C.CUDA_ERROR_NO_DEVICE {
			return errors.New("no libcuda.so.1, part of the NVIDIA driver, was found")
		}
		return fmt.Errorf("CUDA error %d", int(r))
	}
	return fmt.Errorf("CUDA error %d: %s%s", int(r), C.GoString(s), hint(r))
}

// hint says what to do about an error that the driver's sentence leaves open.
func hint(r C.CUresult) string {
	switch r {
	case C.CUDA_ERROR_NO_DEVICE:
		return "; the driver shows no GPU: see nvidia-smi and CUDA_VISIBLE_DEVICES"
	case C.CUDA_ERROR_UNKNOWN, C.CUDA_ERROR_DEVICE_UNAVAILABLE, C.CUDA_ERROR_ECC_UNCORRECTABLE, C.CUDA_ERROR_NVLINK_UNCORRECTABLE:
		return "; the GPU may be lost or broken: nvidia-smi and the kernel's log (dmesg | grep Xid) tell"
	case C.CUDA_ERROR_NO_BINARY_FOR_GPU, C.CUDA_ERROR_UNSUPPORTED_PTX_VERSION:
		return "; the kernels of this build are not for this GPU and driver: take a newer driver, or build with its architecture (make -C kernels/cuda ARCHS=…)"
	case C.CUDA_ERROR_SYSTEM_DRIVER_MISMATCH, C.CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE:
		return "; the driver's library and kernel module differ: restart the machine after an update"
	}
	return ""
}

func function(f cu.Function) C.CUfunction { return *(*C.CUfunction)(unsafe.Pointer(&f)) }

// paramSizes returns the sizes of a kernel's arguments in bytes. It returns
// none where the driver cannot tell (before CUDA 12.4).
func paramSizes(f cu.Function) (sizes []uint8) {
	for i := 0; ; i++ {
		var offset, size C.size_t
		if C.cuFuncGetParamInfo(function(f), C.size_t(i), &offset, &size) != C.CUDA_SUCCESS {
			return sizes
		}
		sizes = append(sizes, uint8(size))
	}
}

// pinned allocates host memory that the GPU reads and writes by itself.
func pinned(n int) ([]byte, error) {
	var p unsafe.Pointer
	if err := failure(C.cuMemHostAlloc(&p, C.size_t(n), 0)); err != nil {
		return nil, fmt.Errorf("%d MiB of pinned memory on the host: %w", n>>20, err)
	}
	return unsafe.Slice((*byte)(p), n), nil
}

func freePinned(b []byte) {
	if b != nil {
		C.cuMemFreeHost(unsafe.Pointer(&b[0]))
	}
}

// destroyEvent and destroyStream do nothing for what was not made. The driver
// lets work that is under way end first.
func destroyEvent(e cu.Event) {
	if e != (cu.Event{}) {
		cu.DestroyEvent(&e)
	}
}

func destroyStream(s cu.Stream) {
	if s != (cu.Stream{}) {
		s.Destroy()
	}
}
