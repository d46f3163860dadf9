package img

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/gif"
	"image/png"
	"io"
	"os"
	"strings"

	"golang.org/x/image/bmp"

	"vlmo-train/data/img/internal/jpeg"
)

// DefaultMaxPixels is the largest picture [Decode] accepts unless told
// otherwise, in pixels: the size from which Pillow refuses a file as a
// decompression bomb.
const DefaultMaxPixels = 178_956_970

// ErrTooLarge is in the chain of the error for a picture of more than
// [Options].MaxPixels pixels.
var ErrTooLarge = errors.New("picture too large")

// ErrUnknownFormat is in the chain of the error for data that starts like none
// of the known formats.
var ErrUnknownFormat = errors.New("not a PNG, JPEG, GIF, WebP or BMP file")

// Options changes how [Decode] decodes. The zero value is what Pillow does.
type Options struct {
	// MaxPixels is the limit on width times height, checked on the header,
	// before memory for the pixels is taken. 0 means DefaultMaxPixels.
	MaxPixels int

	// Gray16High takes the high byte of a 16-bit gray PNG's samples. Pillow
	// clips them to 255, which turns ordinary 16-bit scans white.
	Gray16High bool

	// Orient turns the picture as its EXIF orientation says it is to be seen.
	// Pillow's Image.open, and so the original, leaves it as it is stored.
	Orient bool
}

func (o Options) check(w, h int) error {
	limit := o.MaxPixels
	if limit == 0 {
		limit = DefaultMaxPixels
	}
	if w <= 0 || h <= 0 {
		return fmt.Errorf("picture has size %dx%d", w, h)
	}
	if w > limit/h {
		return fmt.Errorf("%w: %dx%d, limit %d pixels", ErrTooLarge, w, h, limit)
	}
	return nil
}

// Decode decodes a PNG, JPEG, GIF, WebP or BMP file to RGB. The content decides
// what it is, never a name.
//
// The result is that of Pillow's Image.open(f).convert("RGB"): the first frame
// of an animation; alpha, colour keys and transparent palette entries are
// dropped and the colour underneath is used; 16-bit samples give their high
// byte, except 16-bit gray (see [Options]); CMYK is converted by Pillow's plain
// formula; EXIF orientation (see [Options]), gamma and colour profiles are ignored. PNG, GIF,
// BMP, WebP and JPEG are equal to Pillow's to the byte.
//
// A damaged or cut file is an error that names the format; Decode never panics.
// Not supported, and an error: lossless, hierarchical and 12-bit JPEG, compressed
// and 16-bit BMP.
func Decode(data []byte, opt Options) (*Image, error) {
	format, decode := sniff(data)
	if decode == nil {
		return nil, fmt.Errorf("img: %w (%d bytes, starting with %q)", ErrUnknownFormat, len(data), data[:min(len(data), 8)])
	}
	m, err := guard(decode, data, opt)
	if err != nil {
		// The codecs begin their messages with their own names.
		if msg := err.Error(); strings.HasPrefix(msg, strings.ToLower(format)+": ") {
			return nil, fmt.Errorf("img: %w", err)
		}
		return nil, fmt.Errorf("img: %s: %w", strings.ToLower(format), err)
	}
	if opt.Orient {
		m = turned(m, orientation(data, format))
	}
	return m, nil
}

// Load decodes the picture in a file, as [Decode] does. Its errors name the
// file.
func Load(path string, opt Options) (*Image, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("img: %w", err)
	}
	m, err := Decode(data, opt)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}

type decoder func(data []byte, opt Options) (*Image, error)

// sniff returns the format data starts like, and its decoder.
func sniff(data []byte) (format string, d decoder) {
	has := func(at int, magic string) bool {
		return len(data) >= at+len(magic) && string(data[at:at+len(magic)]) == magic
	}
	switch {
	case has(0, "\x89PNG\r\n\x1a\n"):
		return "PNG", decodePNG
	case has(0, "\xff\xd8\xff"):
		return "JPEG", decodeJPEG
	case has(0, "GIF87a"), has(0, "GIF89a"):
		return "GIF", decodeGIF
	case has(0, "RIFF") && has(8, "WEBP"):
		return "WebP", decodeWebP
	case has(0, "BM"):
		return "BMP", decodeBMP
	}
	return "", nil
}

// guard calls d and turns a panic into an error: the codecs are not ours, their
// input is whatever was found on the web, and one bad sample must not end a run.
func guard(d decoder, data []byte, opt Options) (m *Image, err error) {
	defer func() {
		if p := recover(); p != nil {
			m, err = nil, fmt.Errorf("decoder failed: %v", p)
		}
	}()
	m, err = d(data, opt)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return m, err
}

// decodeWith checks the header's size and then decodes.
func decodeWith(data []byte, opt Options, config func(io.Reader) (image.Config, error), decode func(io.Reader) (image.Image, error)) (image.Image, error) {
	c, err := config(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	if err := opt.check(c.Width, c.Height); err != nil {
		return nil, err
	}
	return decode(bytes.NewReader(data))
}

func decodePNG(data []byte, opt Options) (*Image, error) {
	m, err := decodeWith(data, opt, png.DecodeConfig, png.Decode)
	if err != nil {
		return nil, err
	}
	// DecodeConfig has seen IHDR: signature 8, length 4, type 4, width 4,
	// height 4, then depth and colour type.
	gray16 := data[24] == 16 && data[25] == 0
	return convert(m, gray16 && !opt.Gray16High)
}

func decodeJPEG(data []byte, opt Options) (*Image, error) {
	pix, w, h, err := jpeg.Decode(data, opt.check)
	if err != nil {
		return nil, err
	}
	return &Image{W: w, H: h, Pix: pix}, nil
}

func decodeBMP(data []byte, opt Options) (*Image, error) {
	m, err := decodeWith(data, opt, bmp.DecodeConfig, bmp.Decode)
	if err != nil {
		return nil, err
	}
	return convert(m, false)
}

func decodeGIF(data []byte, opt Options) (*Image, error) {
	m, err := decodeWith(data, opt, gif.DecodeConfig, gif.Decode)
	if err != nil {
		return nil, err
	}
	frame, ok := m.(*image.Paletted)
	if !ok {
		return nil, fmt.Errorf("unexpected picture type %T", m)
	}
	// image/gif blanks the transparent entry of the palette, and returns the
	// frame without the screen around it.
	g := scanGIF(data)
	dst := New(g.w, g.h)
	for i := 0; i < len(dst.Pix); i += 3 {
		copy(dst.Pix[i:i+3], g.palette[3*g.background:])
	}
	b := frame.Bounds()
	for y := b.Min.Y; y < b.Max.Y; y++ {
		src := frame.Pix[frame.PixOffset(b.Min.X, y):][:b.Dx()]
		row := dst.Pix[3*(y*g.w+b.Min.X):]
		for x, v := range src {
			copy(row[3*x:3*x+3], g.palette[3*int(v):])
		}
	}
	return dst, nil
}

// gifHeader is what image/gif does not tell about the first frame of a file.
type gifHeader struct {
	w, h       int
	palette    [3 * 256]byte // RGB; black beyond the table in the file
	background int           // index of what the frame does not cover: the transparent colour, or 0
}

// scanGIF reads the blocks up to the first frame of a file that image/gif has
// decoded, so that what it looks at is known to be there.
func scanGIF(data []byte) (g gifHeader) {
	le16 := func(at int) int { return int(data[at]) | int(data[at+1])<<8 }
	table := func(at int, flags byte) int {
		if flags&0x80 == 0 {
			return at
		}
		n := 3 << (flags&7 + 1)
		g.palette = [3 * 256]byte{}
		copy(g.palette[:], data[at:at+n])
		return at + n
	}
	g.w, g.h = le16(6), le16(8)
	at := table(13, data[10])
	for data[at] != 0x2c {
		// An extension: 0x21, label, then sub-blocks up to an empty one.
		if data[at+1] == 0xf9 && data[at+3]&1 != 0 {
			g.background = int(data[at+6])
		}
		for at += 2; data[at] != 0; at += int(data[at]) + 1 {
		}
		at++
	}
	table(at+10, data[at+9])
	return g
}

// convert makes RGB of what the standard decoders return. clip16 clips the
// samples of a 16-bit gray picture to 255 in place of taking their high byte.
func convert(src image.Image, clip16 bool) (*Image, error) {
	b := src.Bounds()
	dst := New(b.Dx(), b.Dy())
	// Every type below has its first pixel at Pix[0]; rows are stride apart.
	each := func(pix []byte, stride, size int, put func(d, s []byte)) (*Image, error) {
		for y := range dst.H {
			s := pix[y*stride:][:size*dst.W]
			d := dst.Pix[3*y*dst.W:][:3*dst.W]
			for len(d) > 0 {
				put(d[:3:3], s[:size:size])
				d, s = d[3:], s[size:]
			}
		}
		return dst, nil
	}
	clip := func(hi, lo byte) byte {
		if clip16 && hi != 0 {
			return 255
		} else if clip16 {
			return lo
		}
		return hi
	}
	switch m := src.(type) {
	case *image.Gray:
		return each(m.Pix, m.Stride, 1, func(d, s []byte) { d[0], d[1], d[2] = s[0], s[0], s[0] })
	case *image.Gray16:
		return each(m.Pix, m.Stride, 2, func(d, s []byte) {
			v := clip(s[0], s[1])
			d[0], d[1], d[2] = v, v, v
		})
	case *image.RGBA: // opaque in all these formats, so never premultiplied
		return each(m.Pix, m.Stride, 4, func(d, s []byte) { copy(d, s[:3]) })
	case *image.NRGBA:
		return each(m.Pix, m.Stride, 4, func(d, s []byte) { copy(d, s[:3]) })
	case *image.RGBA64:
		return each(m.Pix, m.Stride, 8, func(d, s []byte) { d[0], d[1], d[2] = s[0], s[2], s[4] })
	case *image.NRGBA64:
		return each(m.Pix, m.Stride, 8, func(d, s []byte) {
			d[0], d[1], d[2] = clip(s[0], s[1]), clip(s[2], s[3]), clip(s[4], s[5])
		})
	case *image.Paletted:
		var palette [256][3]byte
		for i, c := range m.Palette {
			switch c := c.(type) {
			case color.RGBA: // opaque
				palette[i] = [3]byte{c.R, c.G, c.B}
			case color.NRGBA:
				palette[i] = [3]byte{c.R, c.G, c.B}
			default:
				return nil, fmt.Errorf("unexpected palette colour %T", c)
			}
		}
		return each(m.Pix, m.Stride, 1, func(d, s []byte) { copy(d, palette[s[0]][:]) })
	}
	return nil, fmt.Errorf("unexpected picture type %T", src)
}
