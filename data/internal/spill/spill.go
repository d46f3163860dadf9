// Package spill keeps in temporary files what grows with a data set, so that memory
// does not: an [Array] of numbers and a list of [Strings], which are appended once and
// read at random, and a [Sorter], which finds what belongs together. What is small
// stays in memory and makes no file.
//
// The files lie in the folder os.TempDir returns: $TMPDIR, or /tmp. Where the system
// lets an open file go without a name, they have none, and are gone with the process
// however it ends. They are read by ReadAt and not mapped: the pages of a map would
// count as the process's memory, and a read costs a microsecond, much less than an
// example does.
package spill

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// File is a temporary file.
type File struct {
	*os.File
	named bool // it could not be removed while it is open
}

// Create returns a new temporary file. Its pattern is that of os.CreateTemp.
func Create(pattern string) (*File, error) {
	f, err := os.CreateTemp("", pattern)
	if err != nil {
		return nil, inFolder(err)
	}
	return &File{f, os.Remove(f.Name()) != nil}, nil
}

// Write writes to the file; an error names its folder.
func (f *File) Write(b []byte) (int, error) {
	n, err := f.File.Write(b)
	return n, inFolder(err)
}

// ReadAt reads from the file; an error, other than io.EOF, names its folder.
func (f *File) ReadAt(b []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(b, off)
	if err == io.EOF {
		return n, err
	}
	return n, inFolder(err)
}

// Close gives the file back.
func (f *File) Close() error {
	err := f.File.Close()
	if f.named {
		os.Remove(f.Name())
	}
	return err
}

// inFolder says in which folder a temporary file is, whose own name says nothing.
func inFolder(err error) error {
	if err == nil {
		return nil
	}
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return fmt.Errorf("temporary file in %s (TMPDIR names another folder): %w", os.TempDir(), err)
}

// block is how many bytes of what is appended may be in memory.
const block = 4 << 10

// blob is bytes that are appended and read at random.
type blob struct {
	tail []byte // what is not in the file
	base int64  // where it begins
	f    *File  // nil as long as all is in tail
}

// append appends b, which is never split between file and memory, and returns where
// it is.
func (x *blob) append(b []byte) (off int64, err error) {
	if len(x.tail)+len(b) > block && len(x.tail) > 0 {
		if err := x.flush(); err != nil {
			return 0, err
		}
	}
	off = x.base + int64(len(x.tail))
	x.tail = append(x.tail, b...)
	return off, nil
}

func (x *blob) flush() (err error) {
	if x.f == nil {
		if x.f, err = Create("vlmo-data-*"); err != nil {
			return err
		}
	}
	n, err := x.f.Write(x.tail)
	x.base += int64(n)
	x.tail = x.tail[:copy(x.tail, x.tail[n:])]
	return err
}

func (x *blob) readAt(b []byte, off int64) error {
	if off >= x.base {
		copy(b, x.tail[off-x.base:])
		return nil
	}
	_, err := x.f.ReadAt(b, off)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

func (x *blob) close() error {
	x.tail = nil
	if x.f == nil {
		return nil
	}
	err := x.f.Close()
	x.f = nil
	return err
}
