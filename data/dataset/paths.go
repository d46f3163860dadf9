package dataset

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// maxPaths is the most files that one pattern may stand for.
const maxPaths = 1 << 22

// Expand returns the files that a pattern stands for, in order. As in a shell,
// {000..123} counts with that many digits, {a,b} lists, and braces may nest and
// occur several times; then *, ? and [a-z] stand for the files that there are,
// sorted. A pattern that is the name of a file stands for it. It is an error if
// a pattern with *, ? or [ fits no file. Files named without these need not
// exist.
func Expand(pattern string) ([]string, error) {
	if _, err := os.Lstat(pattern); err == nil {
		return []string{pattern}, nil
	}
	names, err := braces(pattern)
	if err != nil {
		return nil, fmt.Errorf("dataset: %s: %w", pattern, err)
	}
	var out []string
	for _, name := range names {
		if !strings.ContainsAny(name, "*?[") {
			out = append(out, name)
			continue
		}
		list, err := filepath.Glob(name)
		if err != nil {
			return nil, fmt.Errorf("dataset: %s: %w", pattern, err)
		}
		if len(list) == 0 {
			return nil, fmt.Errorf("dataset: no file fits %s", name)
		}
		out = append(out, list...)
	}
	return out, nil
}

// braces expands the first brace group of s, and what is left recursively. A
// group without comma or range stands for itself, as in bash.
func braces(s string) ([]string, error) {
	open := strings.IndexByte(s, '{')
	if open < 0 {
		return []string{s}, nil
	}
	depth, end := 0, -1
	var cuts []int // commas of this group
scan:
	for i := open; i < len(s); i++ {
		switch s[i] {
		case '{':
			depth++
		case '}':
			if depth--; depth == 0 {
				end = i
				break scan
			}
		case ',':
			if depth == 1 {
				cuts = append(cuts, i)
			}
		}
	}
	if end < 0 {
		return nil, errors.New("a brace is not closed")
	}
	var items []string
	if cuts != nil {
		from := open + 1
		for _, c := range append(cuts, end) {
			list, err := braces(s[from:c])
			if err != nil {
				return nil, err
			}
			items = append(items, list...)
			from = c + 1
		}
	} else {
		body := s[open+1 : end]
		var err error
		if items, err = counted(body); err != nil {
			return nil, err
		}
		if items == nil {
			inner, err := braces(body)
			if err != nil {
				return nil, err
			}
			for _, x := range inner {
				items = append(items, "{"+x+"}")
			}
		}
	}
	rest, err := braces(s[end+1:])
	if err != nil {
		return nil, err
	}
	if len(items)*len(rest) > maxPaths {
		return nil, fmt.Errorf("more than %d files", maxPaths)
	}
	out := make([]string, 0, len(items)*len(rest))
	for _, x := range items {
		for _, r := range rest {
			out = append(out, s[:open]+x+r)
		}
	}
	return out, nil
}

// counted returns the numbers of "from..to", padded with zeros to the same
// length if one of the two is; nil if body is no such thing.
func counted(body string) ([]string, error) {
	a, b, ok := strings.Cut(body, "..")
	if !ok || a == "" || b == "" || strings.Trim(a+b, "0123456789") != "" {
		return nil, nil
	}
	from, err := strconv.Atoi(a)
	if err != nil {
		return nil, err
	}
	to, err := strconv.Atoi(b)
	if err != nil {
		return nil, err
	}
	width := 0
	if len(a) > 1 && a[0] == '0' || len(b) > 1 && b[0] == '0' {
		width = max(len(a), len(b))
	}
	step := 1
	if to < from {
		step = -1
	}
	n := step*(to-from) + 1
	if n > maxPaths {
		return nil, fmt.Errorf("more than %d files", maxPaths)
	}
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("%0*d", width, from+i*step)
	}
	return out, nil
}
