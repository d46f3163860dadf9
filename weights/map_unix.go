//go:build unix

package weights

import (
	"fmt"
	"io"
	"os"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// mapping reads a file through a memory map. Pages that were read are given
// back, so that they do not count as the process's memory beside what was
// copied from them.
type mapping struct {
	f    *os.File
	data []byte
}

// releaseBytes is the least for which giving pages back is worth a call.
const releaseBytes = 1 << 18

// mapFile maps the file f of size bytes and owns it.
func mapFile(f *os.File, size int64) (readerAtCloser, error) {
	if size == 0 || int64(int(size)) != size {
		return f, nil
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return f, nil // some file systems cannot: it is read instead
	}
	return &mapping{f, data}, nil
}

// ReadAt copies from the map. A file that was cut since is an error: where
// its last page tells nothing by its size, where there is no page any more by
// the fault.
func (m *mapping) ReadAt(p []byte, off int64) (n int, err error) {
	st, err := m.f.Stat()
	if err != nil {
		return 0, err
	}
	size := min(st.Size(), int64(len(m.data)))
	if off < 0 || off >= size {
		return 0, io.EOF
	}
	src := m.data[off:size]
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if e := recover(); e != nil {
			n, err = 0, fmt.Errorf("reading the memory map at byte %d: %v", off, e)
		}
	}()
	n = copy(p, src)
	m.release(off, int64(n))
	if n < len(p) {
		err = io.EOF
	}
	return n, err
}

// release gives back the pages of the n bytes at off.
func (m *mapping) release(off, n int64) {
	if n < releaseBytes {
		return
	}
	page := int64(os.Getpagesize())
	lo, hi := off/page*page, min((off+n+page-1)/page*page, int64(len(m.data)))
	// It is advice: a failure costs memory and nothing else.
	_ = unix.Madvise(m.data[lo:hi], unix.MADV_DONTNEED)
}

func (m *mapping) Close() error {
	err := unix.Munmap(m.data)
	m.data = nil
	if e := m.f.Close(); err == nil {
		err = e
	}
	return err
}
