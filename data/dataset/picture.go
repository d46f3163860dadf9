package dataset

import (
	"fmt"
	"os"

	"vlmo-train/data/dataset/internal/cache"
	"vlmo-train/data/img"
)

// sheetMemory is how many bytes of decoded sheets a set keeps.
const sheetMemory = 256 << 20

// box is a rectangle of a picture in pixels; the zero box is all of it.
type box struct{ x, y, w, h int32 }

// readPicture decodes the picture in a file.
func readPicture(path string, opt img.Options) (*img.Image, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, bare(err)
	}
	return img.Decode(data, opt)
}

// crop returns a copy of b's part of m.
func crop(m *img.Image, b box) (*img.Image, error) {
	x, y, w, h := int(b.x), int(b.y), int(b.w), int(b.h)
	if x > m.W-w || y > m.H-h {
		return nil, fmt.Errorf("box [%d, %d, %d, %d] is not inside the picture of %dx%d", x, y, w, h, m.W, m.H)
	}
	out := img.New(w, h)
	for r := range h {
		copy(out.Pix[3*w*r:3*w*(r+1)], m.Pix[3*(m.W*(y+r)+x):])
	}
	return out, nil
}

// sheets caches decoded pictures of which examples are parts.
type sheets struct {
	cache.Cache[string, *img.Image]
}

// get returns the decoded picture in a file, which is not to be changed. All calls
// have the same options.
func (s *sheets) get(path string, opt img.Options) (*img.Image, error) {
	return s.Get(path, func() (*img.Image, int64, error) {
		m, err := readPicture(path, opt)
		if err != nil {
			return nil, 0, err
		}
		return m, int64(len(m.Pix)), nil
	})
}
