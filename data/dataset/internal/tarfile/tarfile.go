// Package tarfile finds the files in a tar file by its headers, so that they can
// be read at random, and names them as WebDataset does.
package tarfile

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
)

// Member is a regular file in a tar file.
type Member struct {
	Name      string
	Off, Size int64 // of its content
}

// Each calls f for the regular files of a tar file of size bytes, in the
// order of the file, reading little but headers. An error says at which offset
// the file is damaged; the members before it are whole. Missing blocks of zeros
// at the end are no damage. An error that is no [DamageError] is r's.
func Each(r io.ReaderAt, size int64, f func(Member)) error {
	h := &headers{r: r, size: size}
	t := tar.NewReader(h)
	end := int64(-1) // of the last file, where it is known
	for {
		start := h.off
		m, err := t.Next()
		switch {
		case err == io.EOF:
			var first [1]byte
			if end < 0 {
				return nil
			}
			if _, err := r.ReadAt(first[:], end); err == nil && first[0] != 0 {
				return DamageError{fmt.Errorf("cut off at byte %d, between the headers of a file", size)}
			}
			return nil
		case h.err != nil:
			return h.err
		case err != nil:
			if errors.Is(err, io.ErrUnexpectedEOF) {
				err = errors.New("the file ends")
			}
			return DamageError{fmt.Errorf("damaged after byte %d: %w", start, err)}
		case m.Typeflag != tar.TypeReg || isSparse(m):
			end = -1
			continue
		case h.off+m.Size > size:
			return DamageError{fmt.Errorf("cut off at byte %d, in the middle of %s", size, m.Name)}
		}
		f(Member{m.Name, h.off, m.Size})
		end = (h.off + m.Size + 511) &^ 511
	}
}

// DamageError is about what a file holds, not about reading it.
type DamageError struct{ error }

// Unwrap returns what is wrong.
func (e DamageError) Unwrap() error { return e.error }

// isSparse reports whether a member's content does not lie in the file as it is.
func isSparse(m *tar.Header) bool {
	for k := range m.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return m.Typeflag == tar.TypeGNUSparse
}

// headers reads a file from its beginning in small pieces, and skips what is
// sought over. Its offset after a tar.Reader's Next is that of the content.
type headers struct {
	r         io.ReaderAt
	off, size int64
	buf       [4096]byte
	at, n     int64 // buf[:n] is the file from offset at
	err       error // of r, other than the end
}

func (h *headers) Read(p []byte) (int, error) {
	if h.err != nil {
		return 0, h.err
	}
	if h.off < h.at || h.off >= h.at+h.n {
		n, err := h.r.ReadAt(h.buf[:], h.off)
		h.at, h.n = h.off, int64(n)
		if n == 0 {
			if err != io.EOF {
				h.err = err
			}
			return 0, err
		}
	}
	n := copy(p, h.buf[h.off-h.at:h.n])
	h.off += int64(n)
	return n, nil
}

func (h *headers) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		off += h.off
	case io.SeekEnd:
		off += h.size
	}
	if off < 0 {
		return 0, errors.New("negative offset")
	}
	h.off = off
	return off, nil
}

// SplitKey returns the key and the extension of a member as WebDataset has them:
// the extension is what follows the first dot of the base name, in lower case.
// ok is false for names that are no sample's: without a dot, hidden ones, and
// the library's own, in folders or of names like __this__.
func SplitKey(name string) (key, ext string, ok bool) {
	dir, base := path.Split(name)
	stem, ext, found := strings.Cut(base, ".")
	if !found || stem == "" {
		return "", "", false
	}
	if first, _, _ := strings.Cut(name, "/"); len(first) >= 4 && strings.HasPrefix(first, "__") && strings.HasSuffix(first, "__") {
		return "", "", false
	}
	return dir + stem, strings.ToLower(ext), true
}
