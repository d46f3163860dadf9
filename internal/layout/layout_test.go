// Package layout checks how the packages of this module may import each other.
package layout

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const module = "vlmo-train/"

// rooms are the folders at the top in the order of their imports: each may
// import those after it.
var rooms = []string{"internal", "bench", "cmd", "serve", "train", "vlmo", "experts", "layers", "engine", "kernels"}

// leaves may be imported by any room, and import of ours what is listed.
var leaves = map[string][]string{"rng": nil, "weights": nil, "data": {"rng"}}

// floor returns the index of a room, or -1.
func floor(room string) int {
	for i, r := range rooms {
		if r == room {
			return i
		}
	}
	return -1
}

// check returns what is wrong when the package at path, relative to the
// module, imports the package at target.
func check(path, target string, test bool) error {
	from, _, _ := strings.Cut(path, "/")
	to, backend, _ := strings.Cut(target, "/")
	allowed, fromLeaf := leaves[from]
	_, toLeaf := leaves[to]
	switch {
	case !fromLeaf && floor(from) < 0:
		return fmt.Errorf("%s has no place in the order of imports", path)
	case !toLeaf && floor(to) < 0:
		return fmt.Errorf("%s imports %s, which has no place in the order of imports", path, target)
	case from == to:
		return nil
	case fromLeaf:
		for _, a := range allowed {
			if a == to {
				return nil
			}
		}
		return fmt.Errorf("%s imports %s: a leaf may import %v of ours", path, target, allowed)
	case toLeaf:
		return nil
	case floor(to) < floor(from):
		return fmt.Errorf("%s imports %s: imports point downward, %s", path, target, strings.Join(rooms, " > "))
	case !test && to == "kernels" && backend != "" && floor(from) > floor("serve"):
		return fmt.Errorf("%s imports %s: the backend is the caller's choice, passed as a kernels.Device", path, target)
	}
	return nil
}

func TestImports(t *testing.T) {
	root := filepath.Join("..", "..")
	imports := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if n := d.Name(); path != root && (n == "testdata" || n[0] == '.' || n[0] == '_') {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		dir, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		for _, spec := range f.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			target, ours := strings.CutPrefix(name, module)
			if !ours {
				continue
			}
			imports++
			if err := check(filepath.ToSlash(dir), target, strings.HasSuffix(path, "_test.go")); err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if imports == 0 {
		t.Fatalf("no import of %s found in %s", module, root)
	}
}

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		path, target string
		test, ok     bool
	}{
		{"cmd/vlmo-train", "train/config", false, true},
		{"cmd/vlmo-train", "kernels/cpu", false, true},
		{"vlmo/visual", "vlmo", false, true},
		{"vlmo", "kernels", false, true},
		{"engine", "weights", false, true},
		{"data/img", "rng", false, true},
		{"data/mask", "data/text", false, true},
		{"vlmo", "kernels/ref", true, true},
		{"kernels/cpu", "kernels/conformance", true, true},

		{"vlmo", "kernels/ref", false, false},
		{"vlmo", "train", false, false},
		{"vlmo", "train/config", true, false},
		{"kernels", "engine", false, false},
		{"train", "serve", false, false},
		{"weights", "rng", false, false},
		{"data/img", "weights", false, false},
		{"rng", "kernels", false, false},
		{"train", "cmd/vlmo-train", false, false},
		{"attic", "rng", false, false},
		{"train", "attic", false, false},
	} {
		if err := check(c.path, c.target, c.test); (err == nil) != c.ok {
			t.Errorf("%s imports %s (test %v): %v, want it allowed: %v", c.path, c.target, c.test, err, c.ok)
		}
	}
}
