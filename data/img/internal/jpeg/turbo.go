//go:build turbo && cgo

package jpeg

// #cgo pkg-config: libturbojpeg
// #include <turbojpeg.h>
import "C"

import "unsafe"

// turbo decodes a sequential JPEG of w×h pixels with libjpeg-turbo. It reports
// false for what libjpeg-turbo refuses or only warns of, such as bytes between
// segments: whether that is an error is for the decoder in Go to say, so that
// both builds take the same files.
func turbo(data []byte, w, h int) (pix []byte, ok bool) {
	t := C.tjInitDecompress()
	if t == nil {
		return nil, false
	}
	defer C.tjDestroy(t)
	pix = make([]byte, 3*w*h)
	rc := C.tjDecompress2(t, (*C.uchar)(unsafe.Pointer(&data[0])), C.ulong(len(data)), (*C.uchar)(unsafe.Pointer(&pix[0])),
		C.int(w), 0, C.int(h), C.TJPF_RGB, C.TJFLAG_ACCURATEDCT|C.TJFLAG_STOPONWARNING)
	return pix, rc == 0
}

const hasTurbo = true
