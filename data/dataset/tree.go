package dataset

import (
	"fmt"
	"path/filepath"

	"vlmo-train/data/internal/spill"
)

// tree is a list of picture files under a folder.
type tree struct {
	root  string
	names *spill.Strings // paths in root
}

func newTree(root string) tree { return tree{root, spill.NewStrings()} }

// Close gives back the list of files.
func (t *tree) Close() error { return closeAll(t.names) }

// Len returns the number of pictures.
func (t *tree) Len() int { return t.names.Len() }

// name returns the path of picture i in root, or what stands for it where that can't
// be read.
func (t *tree) name(i int) string {
	name, err := t.names.At(i)
	if err != nil {
		return fmt.Sprintf("example %d", i)
	}
	return name
}

func (t *tree) where(i int) string { return filepath.Join(t.root, t.name(i)) }
