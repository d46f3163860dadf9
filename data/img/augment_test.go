package img

import (
	"bytes"
	"math"
	"testing"
)

func TestColorPillow(t *testing.T) {
	ops := map[string]func(m *Image, f float64){
		"brightness": func(m *Image, f float64) { brighten(m, float32(f)) },
		"contrast":   func(m *Image, f float64) { contrast(m, float32(f)) },
		"saturation": func(m *Image, f float64) { saturate(m, float32(f)) },
		"hue":        shiftHue,
	}
	for kind, op := range ops {
		eachPillow(t, []string{kind}, func(t *testing.T, c pillowCase, truth *tensors, src *Image) {
			op(src, c.Factor)
			wantEqual(t, src, truth.image(c.Name))
		})
	}
}

// TestHSV converts the colours of the truth, channels in steps of 15, red
// slowest.
func TestHSV(t *testing.T) {
	for kind, f := range map[string]func(a, b, c byte) (x, y, z byte){"tohsv": toHSV, "fromhsv": fromHSV} {
		eachPillow(t, []string{kind}, func(t *testing.T, c pillowCase, truth *tensors, _ *Image) {
			want := truth.image(c.Name).Pix
			for i := range 18 * 18 * 18 {
				a, b, d := byte(i/324*15), byte(i/18%18*15), byte(i%18*15)
				x, y, z := f(a, b, d)
				if got := []byte{x, y, z}; !bytes.Equal(got, want[3*i:3*i+3]) {
					t.Fatalf("%d %d %d gives %v, want %v", a, b, d, got, want[3*i:3*i+3])
				}
			}
		})
	}
}

func TestWarpPillow(t *testing.T) {
	eachPillow(t, []string{"affine"}, func(t *testing.T, c pillowCase, truth *tensors, src *Image) {
		dst := New(c.W, c.H)
		warp(dst, src, c.Matrix, c.Fill)
		wantEqual(t, dst, truth.image(c.Name))
	})
}

// augmented applies a to src with the random stream of the given sample.
func augmented(t *testing.T, a Augment, src *Image, w, h int, sample uint64) *Image {
	t.Helper()
	g, err := NewAugmenter(a)
	if err != nil {
		t.Fatal(err)
	}
	dst := New(w, h)
	if err := g.Apply(dst, src, stream(seed, sample)); err != nil {
		t.Fatal(err)
	}
	return dst
}

const seed = 20

func TestAugmentZero(t *testing.T) {
	src := photo(50, 41)
	want, err := Resize(src, 32, 24)
	if err != nil {
		t.Fatal(err)
	}
	wantEqual(t, augmented(t, Augment{}, src, 32, 24, 0), want)
	wantEqual(t, augmented(t, Augment{OnePass: true}, src, 50, 41, 0), src)
	mirrored := augmented(t, Augment{Flip: 1}, src, 50, 41, 0)
	wantEqual(t, augmented(t, Augment{Flip: 1, OnePass: true}, src, 50, 41, 0), mirrored)
	for y := range src.H {
		for x := range src.W {
			a, b := src.Pix[3*(y*50+x):][:3], mirrored.Pix[3*(y*50+49-x):][:3]
			if !bytes.Equal(a, b) {
				t.Fatalf("pixel (%d, %d) is %v, its mirror image %v", x, y, a, b)
			}
		}
	}
}

// gradient is a picture whose colours say where they come from: red x, green y.
func gradient(w, h int) *Image {
	m := New(w, h)
	for i := range w * h {
		m.Pix[3*i], m.Pix[3*i+1], m.Pix[3*i+2] = byte(i%w), byte(i/w), 77
	}
	return m
}

// TestRandomCrop checks the distribution where every try fits: area, logarithm
// of the ratio and place are uniform. Then the fallback where none does, and
// that the picture is that of the crop.
func TestRandomCrop(t *testing.T) {
	t.Logf("seed %d", seed)
	const w, h, n = 200, 160, 3000
	area, ratio := [2]float64{0.05, 0.2}, [2]float64{0.5, 2}
	var meanArea, meanLogRatio, varLogRatio, meanX, meanY float64
	for i := range uint64(n) {
		s := stream(seed, i)
		r := randomCrop(s, w, h, area, ratio)
		if r.x < 0 || r.y < 0 || r.w <= 0 || r.h <= 0 || r.x+r.w > w || r.y+r.h > h {
			t.Fatalf("crop %v is outside", r)
		}
		a, q := float64(r.w*r.h)/(w*h), float64(r.w)/float64(r.h)
		if a < area[0]*0.97 || a > area[1]*1.03 || q < ratio[0]*0.97 || q > ratio[1]*1.03 {
			t.Fatalf("crop %v has area %v, ratio %v", r, a, q)
		}
		meanArea += a / n
		meanLogRatio += math.Log(q) / n
		varLogRatio += math.Log(q) * math.Log(q) / n
		meanX += float64(r.x) / float64(w-r.w) / n
		meanY += float64(r.y) / float64(h-r.h) / n
	}
	// Five standard errors each.
	for _, c := range []struct {
		name           string
		got, want, tol float64
	}{
		{"area", meanArea, 0.125, 0.004},
		{"log ratio", meanLogRatio, 0, 0.037},
		{"log ratio squared", varLogRatio, math.Ln2 * math.Ln2 / 3, 0.0135},
		{"x", meanX, 0.5, 0.027},
		{"y", meanY, 0.5, 0.027},
	} {
		if math.Abs(c.got-c.want) > c.tol {
			t.Errorf("mean %s is %v, want %v", c.name, c.got, c.want)
		}
	}

	// Nothing fits: the largest central rectangle of an allowed ratio.
	for _, c := range []struct {
		w, h int
		want rect
	}{
		{400, 10, rect{193, 0, 13, 10}},
		{10, 400, rect{0, 193, 10, 13}},
		{1, 400, rect{0, 199, 1, 1}},
	} {
		r := randomCrop(stream(seed, 0), c.w, c.h, [2]float64{0.9, 1}, [2]float64{3. / 4, 4. / 3})
		if r != c.want {
			t.Errorf("%dx%d: crop %v, want %v", c.w, c.h, r, c.want)
		}
	}

	// The picture is what Pillow's crop and resize make of the rectangle, and
	// the one-pass mode takes the same rectangle.
	area = [2]float64{0.3, 0.8}
	src := photo(90, 70)
	s := stream(seed, 5)
	r := randomCrop(s, 90, 70, area, ratio)
	cut := New(r.w, r.h)
	for y := range r.h {
		copy(cut.Pix[3*y*r.w:][:3*r.w], src.Pix[3*((r.y+y)*90+r.x):])
	}
	want, err := Resize(cut, 32, 32)
	if err != nil {
		t.Fatal(err)
	}
	wantEqual(t, augmented(t, Augment{CropArea: area, CropRatio: ratio}, src, 32, 32, 5), want)

	grid := gradient(90, 70)
	got := augmented(t, Augment{CropArea: area, CropRatio: ratio, OnePass: true}, grid, 32, 32, 5)
	for y := range 32 {
		for x := range 32 {
			// The middle of a pixel, less half a source pixel, cut to a byte.
			u := math.Max(float64(r.x)+(float64(x)+0.5)*float64(r.w)/32-0.5, 0)
			v := math.Max(float64(r.y)+(float64(y)+0.5)*float64(r.h)/32-0.5, 0)
			p := got.Pix[3*(32*y+x):][:3]
			if math.Abs(float64(p[0])-u) > 1.001 || math.Abs(float64(p[1])-v) > 1.001 || p[2] != 77 {
				t.Fatalf("pixel (%d, %d) of crop %v is %v, want %.2f %.2f 77", x, y, r, p, u, v)
			}
		}
	}
}

// TestInverseAffine holds the composed inverse against the forward map in
// plain trigonometry, with the parameters replayed from the stream.
func TestInverseAffine(t *testing.T) {
	t.Logf("seed %d", seed)
	a := Augment{Rotate: 30, Translate: 0.2, Scale: [2]float64{0.6, 1.5}, Shear: 20}
	const w, h = 40, 30
	for i := range uint64(100) {
		m := a.inverseAffine(stream(seed, i), w, h)
		s := stream(seed, i)
		draw := func(lo, hi float64) float64 { return lo + (hi-lo)*s.Float64() }
		angle := draw(-30, 30) * math.Pi / 180
		dx, dy := draw(-0.2, 0.2)*w, draw(-0.2, 0.2)*h
		scale := draw(0.6, 1.5)
		shear := draw(-20, 20) * math.Pi / 180
		for _, p := range [][2]float64{{0, 0}, {40, 0}, {3, 29}, {20, 15}} {
			// Forward: from source p to result q.
			x, y := p[0]-w/2, p[1]-h/2
			x -= math.Tan(shear) * y
			x, y = scale*x, scale*y
			x, y = x*math.Cos(angle)-y*math.Sin(angle), x*math.Sin(angle)+y*math.Cos(angle)
			u, v := m.at(x+w/2+dx, y+h/2+dy)
			if math.Abs(u-p[0])+math.Abs(v-p[1]) > 1e-9 {
				t.Fatalf("sample %d: %v comes back as (%v, %v)", i, p, u, v)
			}
		}
	}
}

// TestAffineTwoWays compares the one-pass mode with resize, flip and affine
// resampling one after the other, on a smooth picture where both are close.
func TestAffineTwoWays(t *testing.T) {
	src := New(64, 64)
	for i := range 64 * 64 {
		x, y := float64(i%64), float64(i/64)
		src.Pix[3*i] = byte(3*x + 20)
		src.Pix[3*i+1] = byte(3*y + 20)
		src.Pix[3*i+2] = byte(x + 2*y + 20)
	}
	a := Augment{CropArea: [2]float64{0.5, 0.8}, Flip: 0.5, Rotate: 15, Translate: 0.1, Scale: [2]float64{0.8, 1.2}, Shear: 5, Fill: [3]byte{255, 255, 255}}
	one := a
	one.OnePass = true
	filled := 0
	for i := range uint64(50) {
		p, q := augmented(t, a, src, 64, 64, i), augmented(t, one, src, 64, 64, i)
		for j := 0; j < len(p.Pix); j += 3 {
			if p.Pix[j] == 255 && p.Pix[j+1] == 255 && p.Pix[j+2] == 255 {
				filled++ // one pass has the crop's surroundings here
				continue
			}
			for c := range 3 {
				if d := int(p.Pix[j+c]) - int(q.Pix[j+c]); d < -4 || d > 4 {
					t.Fatalf("sample %d, pixel (%d, %d): %v in steps, %v in one pass", i, j/3%64, j/192, p.Pix[j:j+3], q.Pix[j:j+3])
				}
			}
		}
	}
	if filled == 0 {
		t.Error("no sample shows the fill colour")
	}
}

func TestAugmentDeterminism(t *testing.T) {
	src := photo(48, 40)
	full := Augment{
		CropArea: [2]float64{0.5, 1}, Flip: 0.5, Rotate: 10, Translate: 0.1, Scale: [2]float64{0.9, 1.1}, Shear: 5,
		Brightness: 0.4, Contrast: 0.4, Saturation: 0.4, Hue: 0.1, Gray: 0.2, Erase: 0.3,
	}
	for _, full.OnePass = range []bool{false, true} {
		g, err := NewAugmenter(full)
		if err != nil {
			t.Fatal(err)
		}
		distinct := map[string]bool{}
		dst := New(32, 32)
		before := clone(src)
		for i := range uint64(20) {
			if err := g.Apply(dst, src, stream(seed, i)); err != nil {
				t.Fatal(err)
			}
			distinct[string(dst.Pix)] = true
			// A used Augmenter gives what a fresh one gives.
			wantEqual(t, dst, augmented(t, full, src, 32, 32, i))
		}
		if len(distinct) != 20 {
			t.Errorf("%d distinct pictures of 20", len(distinct))
		}
		wantEqual(t, src, before)
		if n := testing.AllocsPerRun(50, func() {
			if err := g.Apply(dst, src, stream(seed, 3)); err != nil {
				t.Fatal(err)
			}
		}); n > 1 { // the test's own random stream
			t.Errorf("%v allocations a picture", n)
		}
	}
}

// TestJitterFactors checks, on a gray picture, the factors' range and that each
// setting moves what it says it moves.
func TestJitterFactors(t *testing.T) {
	t.Logf("seed %d", seed)
	flat := New(8, 8)
	for i := range flat.Pix {
		flat.Pix[i] = 100
	}
	lo, hi := byte(255), byte(0)
	for i := range uint64(400) {
		m := augmented(t, Augment{Brightness: 0.3}, flat, 8, 8, i)
		lo, hi = min(lo, m.Pix[0]), max(hi, m.Pix[0])
		for _, a := range []Augment{{Contrast: 0.5}, {Saturation: 0.5}, {Hue: 0.5}, {Gray: 1}} {
			wantEqual(t, augmented(t, a, flat, 8, 8, i), flat)
		}
	}
	if lo < 70 || lo > 72 || hi < 127 || hi > 130 {
		t.Errorf("brightness 100 becomes %d to %d, want 70 to 130", lo, hi)
	}

	src := photo(16, 16)
	gray := augmented(t, Augment{Gray: 1}, src, 16, 16, 0)
	grays := 0
	for i := range uint64(1000) {
		m := augmented(t, Augment{Gray: 0.25}, src, 16, 16, i)
		if bytes.Equal(m.Pix, gray.Pix) {
			grays++
		} else if !bytes.Equal(m.Pix, src.Pix) {
			t.Fatal("neither gray nor untouched")
		}
	}
	if grays < 190 || grays > 310 {
		t.Errorf("%d of 1000 pictures are gray, want 250", grays)
	}
	for i := 0; i < len(gray.Pix); i += 3 {
		r, g, b := float64(src.Pix[i]), float64(src.Pix[i+1]), float64(src.Pix[i+2])
		want := 0.299*r + 0.587*g + 0.114*b
		if p := gray.Pix[i : i+3]; p[0] != p[1] || p[1] != p[2] || math.Abs(float64(p[0])-want) > 0.51 {
			t.Fatalf("%v %v %v gives %v, want %.2f", r, g, b, p, want)
		}
	}
	// In a random order: contrast and brightness do not commute.
	orders := map[string]bool{}
	for i := range uint64(200) {
		m := clone(src)
		a := Augment{Brightness: 1e-9, Contrast: 1e-9, Saturation: 1e-9, Hue: 0.25}
		a.jitter(m, stream(seed, i))
		orders[string(m.Pix)] = true
	}
	if len(orders) < 20 {
		t.Errorf("%d distinct results", len(orders))
	}
}

func TestErase(t *testing.T) {
	t.Logf("seed %d", seed)
	src := New(40, 30) // black
	erased, mean := 0, 0.0
	for i := range uint64(400) {
		m := augmented(t, Augment{Erase: 0.5, Fill: [3]byte{1, 2, 3}}, src, 40, 30, i)
		x0, y0, x1, y1, n := 40, 30, 0, 0, 0
		for j := 0; j < len(m.Pix); j += 3 {
			if p := [3]byte(m.Pix[j : j+3]); p == [3]byte{1, 2, 3} {
				x, y := j/3%40, j/120
				x0, y0, x1, y1, n = min(x0, x), min(y0, y), max(x1, x+1), max(y1, y+1), n+1
			} else if p != [3]byte{} {
				t.Fatalf("pixel %v", p)
			}
		}
		if n == 0 {
			continue
		}
		erased++
		share := float64(n) / 1200
		mean += share
		if n != (x1-x0)*(y1-y0) || share < 0.01 || share > 0.36 {
			t.Fatalf("sample %d: %d pixels erased within (%d, %d) to (%d, %d)", i, n, x0, y0, x1, y1)
		}
	}
	mean /= float64(erased)
	if erased < 150 || erased > 250 || mean < 0.12 || mean > 0.22 {
		t.Errorf("%d of 400 pictures erased, %.3f of their area on average", erased, mean)
	}
}

func TestAugmentErrors(t *testing.T) {
	nan := math.NaN()
	for _, a := range []Augment{
		{Flip: 1.5}, {Flip: -1}, {Gray: nan}, {Erase: 2}, {Rotate: -1}, {Translate: 1.1}, {Shear: 90}, {Hue: 0.6},
		{Brightness: -0.1}, {Contrast: nan}, {Saturation: math.Inf(1)},
		{CropArea: [2]float64{0.5, 1.5}}, {CropArea: [2]float64{0.8, 0.2}}, {CropArea: [2]float64{0, 1}},
		{CropRatio: [2]float64{2, 1}}, {Scale: [2]float64{0, 1}}, {Scale: [2]float64{1, nan}},
	} {
		if _, err := NewAugmenter(a); err == nil {
			t.Errorf("%+v: no error", a)
		}
	}
	g, err := NewAugmenter(Augment{})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Apply(New(4, 4), &Image{W: 3, H: 3}, stream(0, 0)); err == nil {
		t.Error("bad source: no error")
	}
	if err := g.Apply(&Image{}, New(4, 4), stream(0, 0)); err == nil {
		t.Error("bad destination: no error")
	}
}

func benchmarkAugment(b *testing.B, a Augment, from, to int) {
	g, err := NewAugmenter(a)
	if err != nil {
		b.Fatal(err)
	}
	src, dst := photo(from, from), New(to, to)
	s := stream(1, 2)
	b.ReportAllocs()
	for b.Loop() {
		if err := g.Apply(dst, src, s); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "images/s")
}

var mild = Augment{
	CropArea: [2]float64{0.6, 1}, Flip: 0.5, Rotate: 10, Translate: 0.05, Scale: [2]float64{0.9, 1.1}, Shear: 5,
	Brightness: 0.2, Contrast: 0.2, Saturation: 0.2, Fill: [3]byte{255, 255, 255},
}

func BenchmarkAugment32(b *testing.B) { benchmarkAugment(b, mild, 32, 32) }

func BenchmarkAugment32OnePass(b *testing.B) {
	a := mild
	a.OnePass = true
	benchmarkAugment(b, a, 32, 32)
}

func BenchmarkAugment32Hue(b *testing.B) {
	a := mild
	a.OnePass, a.Hue = true, 0.1
	benchmarkAugment(b, a, 32, 32)
}
