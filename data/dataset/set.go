package dataset

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Formats returns the formats that [OpenSet] knows.
func Formats() []Format {
	return []Format{FormatJSONL, FormatFolder, FormatClasses, FormatLines, FormatTSV, FormatCSV, FormatArrow, FormatParquet,
		FormatWebDataset, FormatCOCO, FormatF30K, FormatVQA, FormatNLVR2, FormatVG, FormatGCC, FormatSBU}
}

// isTar reports whether a file's name is that of a tar file.
func isTar(path string) bool {
	path = strings.ToLower(path)
	for _, ext := range []string{".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst"} {
		if strings.HasSuffix(path, ext) {
			return true
		}
	}
	return false
}

// OpenSet opens a set of any format, tar files included. paths are patterns as
// [Expand] takes them; o.Path is not used. Several files of a format that [Open]
// reads are joined.
func OpenSet(o Options, paths ...string) (Sharded, error) {
	var tars []string
	var sets []Sharded
	var empty error
	for _, pattern := range paths {
		names, err := openNames(pattern)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			list, err := tarFiles(name, o.Format)
			if err != nil {
				return nil, err
			}
			if list != nil {
				tars = append(tars, list...)
				continue
			}
			one := o
			one.Path = name
			d, err := Open(one)
			if errors.Is(err, ErrEmpty) {
				empty = err // does no harm beside others
				continue
			}
			if err != nil {
				return nil, err
			}
			sets = append(sets, Whole(d))
		}
	}
	if tars != nil {
		d, err := OpenWebDataset(o, tars...)
		if err != nil {
			return nil, err
		}
		sets = append(sets, d)
	}
	if len(sets) == 0 && empty != nil {
		return nil, empty
	}
	if len(sets) == 0 {
		return nil, errors.New("dataset: no path")
	}
	return Join(sets...), nil
}

// tarFiles returns the tar files that a path without braces stands for: itself,
// those that fit a pattern or those in a folder; none where it is a set of
// another format.
func tarFiles(path string, f Format) ([]string, error) {
	if f != "" && f != FormatWebDataset {
		return nil, nil
	}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		entries, err := os.ReadDir(path)
		if err != nil {
			return nil, fmt.Errorf("dataset: %w", err)
		}
		var list []string
		for _, e := range entries {
			if !e.IsDir() && isTar(e.Name()) && e.Name()[0] != '.' {
				list = append(list, filepath.Join(path, e.Name()))
			}
		}
		if list == nil && f != "" {
			return nil, fmt.Errorf("dataset: %s: no tar files in the folder", path)
		}
		return list, nil
	}
	if f == "" && !isTar(path) {
		if list, err := Expand(path); err != nil || !isTar(list[0]) {
			return nil, nil
		}
	}
	return Expand(path)
}

// openNames expands the braces of a pattern and leaves the rest of it.
func openNames(pattern string) ([]string, error) {
	if pattern == "" {
		return nil, errors.New("dataset: no path")
	}
	if _, err := os.Lstat(pattern); err == nil {
		return []string{pattern}, nil
	}
	names, err := braces(pattern)
	if err != nil {
		return nil, fmt.Errorf("dataset: %s: %w", pattern, err)
	}
	return names, nil
}
