package mask

import (
	"math"

	"vlmo-train/rng"
)

// BEiT's numbers for a grid of 14×14 patches, and its rule for a block.
const (
	beitPatches    = 196
	beitMaxPatches = 75
	beitMinBlock   = 16
	minAspect      = 0.3 // a block's height over width is in [0.3, 1/0.3]
	blockTries     = 10
)

// BlockOptions says how much Blocks masks. The zero value is BEiT's 75 of 196
// patches in blocks from 16 up, in proportion on other grids.
type BlockOptions struct {
	// MaxPatches is the most patches masked; 0 means 75/196 of the grid,
	// rounded.
	MaxPatches int
	// MinBlock is the smallest area drawn for a block; 0 means 16/196 of the
	// grid, rounded, at least 1. The last block may be smaller.
	MinBlock int
}

// Blocks returns a blockwise mask for masked image modelling, BEiT's
// (arXiv 2106.08254, algorithm 1): true at masked patches, row after row of a
// grid of width×height patches, without [CLS].
//
// It adds blocks until MaxPatches are masked. A block's area is uniform
// between MinBlock and what is left, its aspect log-uniform in [0.3, 1/0.3],
// its place uniform. A block counts if it is narrower and lower than the grid
// and adds from 1 patch to what is left; after ten in a row that don't, the
// mask stays as it is. So on 14×14 a third of the masks fall a patch or a few
// short of 75, and a grid one patch wide or high is never masked.
func Blocks(src *rng.Source, width, height int, opt BlockOptions) []bool {
	m := make([]bool, width*height)
	left := opt.MaxPatches
	if left == 0 {
		left = scale(beitMaxPatches, len(m))
	}
	minBlock := opt.MinBlock
	if minBlock == 0 {
		minBlock = max(1, scale(beitMinBlock, len(m)))
	}
	for left > 0 {
		added := addBlock(src, m, width, height, minBlock, left)
		if added == 0 {
			break
		}
		left -= added
	}
	return m
}

// scale returns the part of patches that n is of BEiT's grid, rounded.
func scale(n, patches int) int {
	return int(math.Round(float64(n*patches) / beitPatches))
}

// addBlock masks one more block of m and returns how many patches that adds.
func addBlock(src *rng.Source, m []bool, width, height, minBlock, left int) int {
	logAspect := math.Log(minAspect)
	for range blockTries {
		// With less than minBlock left, the interval runs the other way.
		area := float64(minBlock) + src.Float64()*float64(left-minBlock)
		aspect := math.Exp(logAspect * (1 - 2*src.Float64()))
		h := int(math.Round(math.Sqrt(area * aspect)))
		w := int(math.Round(math.Sqrt(area / aspect)))
		if w >= width || h >= height {
			continue
		}
		top, start := src.IntN(height-h+1), src.IntN(width-w+1)
		added := 0
		for y := top; y < top+h; y++ {
			for _, set := range m[y*width+start : y*width+start+w] {
				if !set {
					added++
				}
			}
		}
		if added < 1 || added > left {
			continue
		}
		for y := top; y < top+h; y++ {
			row := m[y*width+start : y*width+start+w]
			for x := range row {
				row[x] = true
			}
		}
		return added
	}
	return 0
}
