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
	return fmt.Errorf("CUDA error %d: %s", int(r), C.GoString(s))
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
		return nil, err
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
