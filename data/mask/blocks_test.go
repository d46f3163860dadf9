package mask

import (
	"math"
	"testing"

	"vlmo-train/rng"
)

// The statistics of BEiT's own rule, from 200,000 masks drawn with Python's
// random module: how many patches, how often all of the maximum, how often
// single patches, and the pairs of horizontal neighbours that differ (the
// shape of the blocks).
func TestBlocksStatistics(t *testing.T) {
	const draws = 20000
	for _, c := range []struct {
		w, h, most                  int
		mean, sd, full, differ      float64
		corner, top, middle, centre float64
	}{
		{14, 14, 75, 74.472, 0.986, 0.6654, 20.077, 0.0415, 0.1911, 0.1894, 0.7163},
		{20, 8, 61, 60.574, 0.881, 0.6977, 17.503, 0.0519, 0.2693, 0.1531, 0.6937},
	} {
		var sum, sq, full, differ, differSq float64
		cells := make([]float64, c.w*c.h)
		for s := range uint64(draws) {
			src := rng.New(rng.Key{Seed: 9, Purpose: rng.MaskImage, Sample: s})
			m := Blocks(&src, c.w, c.h, BlockOptions{})
			n, d := 0.0, 0.0
			for i, set := range m {
				if set {
					n++
					cells[i]++
				}
				if i%c.w > 0 && set != m[i-1] {
					d++
				}
			}
			if n > float64(c.most) {
				t.Fatalf("%d×%d: %v patches masked, at most %d", c.w, c.h, n, c.most)
			}
			if n == float64(c.most) {
				full++
			}
			sum += n
			sq += n * n
			differ += d
			differSq += d * d
		}
		// Five standard errors, the reference's included.
		err := 5 * math.Sqrt(1.0/draws+1.0/200000)
		near := func(name string, got, want, sd float64) {
			if math.Abs(got-want) > err*sd {
				t.Errorf("%d×%d: %s = %.4f, want %.4f ± %.4f", c.w, c.h, name, got, want, err*sd)
			}
		}
		share := func(name string, n, want float64) {
			near(name, n/draws, want, math.Sqrt(want*(1-want)))
		}
		mean := sum / draws
		near("mean", mean, c.mean, c.sd)
		near("deviation", math.Sqrt(sq/draws-mean*mean), c.sd, 2*c.sd)
		near("neighbours that differ", differ/draws, c.differ, math.Sqrt(differSq/draws-differ*differ/draws/draws))
		share("share of full masks", full, c.full)
		share("corner", cells[0], c.corner)
		share("middle of the top", cells[c.w/2], c.top)
		share("middle of the left side", cells[c.h/2*c.w], c.middle)
		share("centre", cells[c.h/2*c.w+c.w/2], c.centre)
	}
}

// The first block is a rectangle of the legal shapes.
func TestFirstBlock(t *testing.T) {
	for s := range uint64(2000) {
		src := rng.New(rng.Key{Purpose: rng.MaskImage, Sample: s})
		const w, h, minBlock, left = 14, 14, 16, 75
		m := make([]bool, w*h)
		added := addBlock(&src, m, w, h, minBlock, left)
		x0, x1, y0, y1, n := w, -1, h, -1, 0
		for i, set := range m {
			if set {
				x0, x1 = min(x0, i%w), max(x1, i%w)
				y0, y1 = min(y0, i/w), max(y1, i/w)
				n++
			}
		}
		bw, bh := x1-x0+1, y1-y0+1
		if n != added || n != bw*bh || n > left || n < 12 || bw >= w || bh >= h {
			t.Fatalf("sample %d: block of %d×%d, %d patches, %d reported", s, bw, bh, n, added)
		}
		// Rounding moves a side by half a patch at most.
		if r := (float64(bh) - 0.5) / (float64(bw) + 0.5); r > 1/0.3 {
			t.Fatalf("sample %d: block of %d×%d is too high", s, bw, bh)
		}
		if r := (float64(bh) + 0.5) / (float64(bw) - 0.5); r < 0.3 {
			t.Fatalf("sample %d: block of %d×%d is too wide", s, bw, bh)
		}
	}
}

func TestBlocksOptions(t *testing.T) {
	count := func(w, h int, opt BlockOptions) (most int) {
		for s := range uint64(300) {
			src := rng.New(rng.Key{Purpose: rng.MaskImage, Sample: s})
			m := Blocks(&src, w, h, opt)
			if len(m) != w*h {
				t.Fatalf("mask of %d×%d has %d patches", w, h, len(m))
			}
			n := 0
			for _, set := range m {
				if set {
					n++
				}
			}
			most = max(most, n)
		}
		return most
	}
	for _, c := range []struct {
		w, h int
		opt  BlockOptions
		most int
	}{
		{14, 14, BlockOptions{}, 75},
		{24, 24, BlockOptions{}, 220}, // 75/196 of 576
		{4, 4, BlockOptions{}, 6},
		{2, 2, BlockOptions{}, 2},
		{14, 14, BlockOptions{MaxPatches: 40}, 40},
		{14, 14, BlockOptions{MaxPatches: 10, MinBlock: 4}, 10},
		{1, 1, BlockOptions{}, 0},
		{1, 9, BlockOptions{}, 0},
		{0, 0, BlockOptions{}, 0},
	} {
		if got := count(c.w, c.h, c.opt); got != c.most {
			t.Errorf("%d×%d, %+v: at most %d patches masked, want %d", c.w, c.h, c.opt, got, c.most)
		}
	}
	// MinBlock keeps the blocks large: at 75 of 75 the first block is all.
	src := rng.New(rng.Key{Purpose: rng.MaskImage})
	m := make([]bool, 196)
	if n := addBlock(&src, m, 14, 14, 75, 80); n < 60 {
		t.Errorf("a block of at least 75 patches, but for rounding, has %d", n)
	}
}

func BenchmarkBlocks(b *testing.B) {
	src := rng.New(rng.Key{Purpose: rng.MaskImage})
	for b.Loop() {
		Blocks(&src, 14, 14, BlockOptions{})
	}
}
