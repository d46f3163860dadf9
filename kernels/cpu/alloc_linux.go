package cpu

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// hugePage is the size of a transparent huge page on the processors at hand.
const hugePage = 2 << 20

// adviseHuge asks for huge pages under a large block that nobody has touched
// yet: its page faults and address translations cost a step several percent
// otherwise. It is advice; where the system declines, nothing changes.
func adviseHuge(b []byte) {
	if len(b) < 2*hugePage {
		return
	}
	skip := -int(uintptr(unsafe.Pointer(&b[0]))) & (hugePage - 1)
	if n := (len(b) - skip) / hugePage * hugePage; n > 0 {
		_ = unix.Madvise(b[skip:skip+n], unix.MADV_HUGEPAGE)
	}
}

// release gives a large block that nobody uses any more back to the system
// at once: the garbage collector may take its time, while the next block is
// already being filled.
func release(b []byte) {
	if len(b) < 2*hugePage {
		return
	}
	page := unix.Getpagesize()
	skip := -int(uintptr(unsafe.Pointer(&b[0]))) & (page - 1)
	if n := (len(b) - skip) / page * page; n > 0 {
		_ = unix.Madvise(b[skip:skip+n], unix.MADV_DONTNEED)
	}
}
