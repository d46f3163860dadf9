package dataset

import (
	"fmt"
	"os"
	"sync"

	"vlmo-train/data/img"
)

// sheetMemory is how many bytes of decoded sheets a set keeps.
const sheetMemory = 256 << 20

// box is a rectangle of a picture in pixels; the zero box is all of it.
type box struct{ x, y, w, h int32 }

// readPicture decodes the picture in a file.
func readPicture(path string) (*img.Image, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, bare(err)
	}
	return img.Decode(data, img.Options{})
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

// sheets caches decoded pictures of which examples are parts. Each is decoded
// once, by the first who needs it, while others wait; when more than limit bytes
// are held, those not used for longest go.
type sheets struct {
	limit int

	mu    sync.Mutex
	held  map[string]*sheet
	bytes int
	clock uint64
}

type sheet struct {
	once sync.Once
	m    *img.Image
	err  error

	// Under sheets.mu.
	size int // 0 until decoded
	used uint64
}

// get returns the decoded picture in a file, which is not to be changed.
func (s *sheets) get(path string) (*img.Image, error) {
	s.mu.Lock()
	e := s.held[path]
	if e == nil {
		e = new(sheet)
		if s.held == nil {
			s.held = make(map[string]*sheet)
		}
		s.held[path] = e
	}
	s.clock++
	e.used = s.clock
	s.mu.Unlock()

	e.once.Do(func() {
		e.m, e.err = readPicture(path)
		s.mu.Lock()
		defer s.mu.Unlock()
		if e.err != nil {
			// A file that can't be read now may be readable later.
			delete(s.held, path)
			return
		}
		e.size = len(e.m.Pix)
		s.bytes += e.size
		s.evict(e)
	})
	return e.m, e.err
}

// evict drops the oldest sheets but keep until the rest fits. s.mu is held.
func (s *sheets) evict(keep *sheet) {
	for s.bytes > s.limit {
		var path string
		var oldest *sheet
		for p, e := range s.held {
			if e != keep && e.size > 0 && (oldest == nil || e.used < oldest.used) {
				path, oldest = p, e
			}
		}
		if oldest == nil {
			return
		}
		delete(s.held, path)
		s.bytes -= oldest.size
	}
}
