package weights

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"
)

// Write writes arrays and metadata to the file at path, replacing it whole or
// not at all: the bytes go to a temporary file in the same folder, which is
// synced and renamed. Wider elements come first, otherwise the order stays,
// so that every tensor is aligned to its element. The arrays' bytes are
// written as they stand or as Load makes them, without a copy in memory. Nil
// metadata is left out.
func Write(path string, arrays []Array, metadata map[string]string) error {
	order := slices.Clone(arrays)
	slices.SortStableFunc(order, func(a, b Array) int {
		return int(dtypeSize[b.DType] - dtypeSize[a.DType])
	})
	header, err := encodeHeader(order, metadata)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return replaceFile(path, func(w *bufio.Writer) error {
		w.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(header))))
		w.Write(header)
		for i := range order {
			data, err := order[i].load()
			if err != nil {
				return err
			}
			if _, err := w.Write(data); err != nil {
				return err
			}
		}
		return nil
	})
}

// load returns the array's bytes.
func (a *Array) load() ([]byte, error) {
	data := a.Data
	if a.Load != nil {
		var err error
		if data, err = a.Load(); err != nil {
			return nil, fmt.Errorf("tensor %q: %w", a.Name, err)
		}
	}
	size, err := byteSize(a.DType, a.Shape)
	if err == nil && size != int64(len(data)) {
		err = fmt.Errorf("%d bytes do not fit %s of shape %s, which takes %d", len(data), a.DType, shapeText(a.Shape), size)
	}
	if err != nil {
		return nil, fmt.Errorf("tensor %q: %w", a.Name, err)
	}
	return data, nil
}

// checkArrays says what is wrong with arrays that are to be written.
func checkArrays(arrays []Array) error {
	seen := make(map[string]bool, len(arrays))
	for i := range arrays {
		a := &arrays[i]
		switch {
		case a.Name == metadataKey:
			return fmt.Errorf("tensor name %q is reserved", a.Name)
		case !utf8.ValidString(a.Name):
			return fmt.Errorf("tensor name %q is not valid UTF-8", a.Name)
		case seen[a.Name]:
			return fmt.Errorf("tensor %q is given twice", a.Name)
		}
		seen[a.Name] = true
		if a.Load != nil {
			if _, err := byteSize(a.DType, a.Shape); err != nil {
				return fmt.Errorf("tensor %q: %w", a.Name, err)
			}
		} else if _, err := a.load(); err != nil {
			return err
		}
	}
	return nil
}

// encodeHeader checks the arrays and returns the JSON header, padded with
// spaces to a multiple of 8 bytes.
func encodeHeader(arrays []Array, metadata map[string]string) ([]byte, error) {
	out := []byte{'{'}
	if metadata != nil {
		for key, value := range metadata {
			if !utf8.ValidString(key) || !utf8.ValidString(value) {
				return nil, fmt.Errorf("metadata %q: not valid UTF-8", key)
			}
		}
		text, err := json.Marshal(metadata)
		if err != nil {
			return nil, fmt.Errorf("metadata: %w", err)
		}
		out = append(append(out, `"`+metadataKey+`":`...), text...)
	}
	if err := checkArrays(arrays); err != nil {
		return nil, err
	}
	var begin int64
	for _, a := range arrays {
		size, _ := byteSize(a.DType, a.Shape)
		name, err := json.Marshal(a.Name)
		if err != nil {
			return nil, fmt.Errorf("tensor %q: %w", a.Name, err)
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(out, name...)
		shape := strings.ReplaceAll(fmt.Sprint(a.Shape), " ", ",")
		out = fmt.Appendf(out, `:{"dtype":%q,"shape":%s,"data_offsets":[%d,%d]}`, a.DType, shape, begin, begin+size)
		begin += size
	}
	out = append(out, '}')
	for len(out)%8 != 0 {
		out = append(out, ' ')
	}
	if len(out) > maxHeader {
		return nil, fmt.Errorf("header of %d bytes exceeds the format's limit of %d", len(out), maxHeader)
	}
	return out, nil
}

// replaceFile writes a file through a temporary one beside it.
func replaceFile(path string, fill func(w *bufio.Writer) error) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("writing %s: %w", path, err)
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	w := bufio.NewWriterSize(f, 1<<16)
	err = fill(w)
	if err == nil {
		err = w.Flush()
	}
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

// syncDir makes a rename in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if e := d.Close(); err == nil {
		err = e
	}
	return err
}
