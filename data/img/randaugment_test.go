package img

import (
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"testing"
)

// opNames are the names that the fixtures call the operations by.
var opNames = [...]string{
	identityOp: "Identity", autoContrastOp: "AutoContrast", equalizeOp: "Equalize",
	brightnessOp: "Brightness", sharpnessOp: "Sharpness", shearXOp: "ShearX", shearYOp: "ShearY",
	translateXOp: "TranslateX", translateYOp: "TranslateY", rotateOp: "Rotate",
}

type opCase struct {
	File, Src, Op string
	Arg           float64
}

func (c opCase) step(t *testing.T) randStep {
	t.Helper()
	i := slices.Index(opNames[:], c.Op)
	if i < 0 {
		t.Fatalf("unknown operation %q", c.Op)
	}
	return randStep{randOp(i), c.Arg}
}

// The original's operations under RandCompat, Pillow's under RandPillow.
func TestRandOps(t *testing.T) {
	dir := fixtures("randaugment")
	for file, kind := range map[string]RandKind{"cv2.jsonl": RandCompat, "pil.jsonl": RandPillow} {
		for _, c := range readLines[opCase](t, filepath.Join(dir, file)) {
			t.Run(c.File, func(t *testing.T) {
				m := loadImage(t, filepath.Join(dir, c.Src))
				var tmp Image
				c.step(t).apply(m, &tmp, kind)
				wantEqual(t, m, loadImage(t, filepath.Join(dir, c.File)))
			})
		}
	}
}

// RandDefault is the original without its bugs: AutoContrast is Pillow's;
// Sharpness is the original's where it did not wrap, and its end of the range
// where it did; the others are the original's.
func TestRandDefault(t *testing.T) {
	dir := fixtures("randaugment")
	for _, c := range readLines[opCase](t, filepath.Join(dir, "cv2.jsonl")) {
		t.Run(c.File, func(t *testing.T) {
			src := loadImage(t, filepath.Join(dir, c.Src))
			got, want := clone(src), loadImage(t, filepath.Join(dir, c.File))
			var tmp Image
			c.step(t).apply(got, &tmp, RandDefault)
			switch c.Op {
			case "AutoContrast":
				for ch := range 3 {
					lo, hi := 255, 0
					for i := ch; i < len(src.Pix); i += 3 {
						lo, hi = min(lo, int(src.Pix[i])), max(hi, int(src.Pix[i]))
					}
					for i := ch; i < len(src.Pix); i += 3 {
						v := int(src.Pix[i])
						if exact := float64(v-lo) * 255 / float64(max(hi-lo, 1)); hi > lo && math.Abs(float64(got.Pix[i])-exact) > 1 || hi == lo && int(got.Pix[i]) != v {
							t.Fatalf("%d of %d to %d becomes %d", v, lo, hi, got.Pix[i])
						}
					}
				}
			case "Sharpness":
				for i, v := range got.Pix {
					w, x := want.Pix[i], unclipped(src, i, c.Arg)
					if x >= 256 && v == 255 || x < 0 && v == 0 || x >= 0 && x < 256 && v == w {
						continue
					}
					t.Fatalf("sample %d is %d, the original's %d; unclipped %v", i, v, w, x)
				}
			default:
				wantEqual(t, got, want)
			}
		})
	}
}

// unclipped is sample i of m sharpened, as the formula reads.
func unclipped(m *Image, i int, factor float64) float64 {
	x, y, sum := i/3%m.W, i/3/m.W, 4*float64(m.Pix[i])
	if x == 0 || y == 0 || x == m.W-1 || y == m.H-1 {
		return float64(m.Pix[i])
	}
	for dy := -1; dy <= 1; dy++ {
		for dx := -1; dx <= 1; dx++ {
			sum += float64(m.Pix[3*((y+dy)*m.W+x+dx)+i%3])
		}
	}
	base := math.Round(sum / 13)
	return base + factor*(float64(m.Pix[i])-base)
}

// What both bugs do, and that they are gone, on pictures made for it.
func TestRandBugs(t *testing.T) {
	src := New(5, 5)
	for i := range src.Pix {
		src.Pix[i] = byte(40 + i)
	}
	var tmp Image
	m := clone(src)
	randStep{op: autoContrastOp}.apply(m, &tmp, RandCompat)
	for i, v := range m.Pix {
		if v != 255 {
			t.Fatalf("compat: sample %d is %d, want white", i, v)
		}
	}
	m = clone(src)
	randStep{op: autoContrastOp}.apply(m, &tmp, RandDefault)
	if m.Pix[0] != 0 || m.Pix[len(m.Pix)-1] != 255 || m.Pix[36] != 127 {
		t.Errorf("stretched to %d, %d, %d", m.Pix[0], m.Pix[36], m.Pix[len(m.Pix)-1])
	}
	// A bright spot on gray: smooth (8·100 + 5·250)/13 = 157.7, so
	// 158 + 1.9·(250 - 158) = 332.8 in the middle.
	spot := New(3, 3)
	for i := range spot.Pix {
		spot.Pix[i] = 100
	}
	spot.Pix[12] = 250
	for kind, want := range map[RandKind]byte{RandCompat: 332 - 256, RandDefault: 255} {
		m := clone(spot)
		randStep{sharpnessOp, 1.9}.apply(m, &tmp, kind)
		if m.Pix[12] != want || m.Pix[13] != 100 || m.Pix[0] != 100 {
			t.Errorf("kind %d: sharpened to %d, %d, border %d; want %d", kind, m.Pix[12], m.Pix[13], m.Pix[0], want)
		}
	}
}

type cropCase struct {
	File, Src, Kind                string
	Top, Left, Height, Width, Size int
	Flip                           bool
	Ops                            []opCase
}

// crop returns c's rectangle.
func (c cropCase) crop() rect { return rect{c.Left, c.Top, c.Width, c.Height} }

func TestCropFixtures(t *testing.T) {
	dir := fixtures("randaugment")
	for _, c := range readLines[cropCase](t, filepath.Join(dir, "crop.jsonl")) {
		t.Run(c.File, func(t *testing.T) {
			src := loadImage(t, filepath.Join(dir, c.Src))
			v := variation{crop: c.crop(), affine: identity}
			dst := New(max(c.Size, 1), max(c.Size, 1))
			switch c.Kind {
			case "hflip":
				v.crop, v.flip = rect{0, 0, src.W, src.H}, true
				dst = New(src.W, src.H)
			case "crop_resize":
			default:
				t.Fatalf("unknown kind %q", c.Kind)
			}
			new(Augmenter).vary(dst, src, &v)
			wantEqual(t, dst, loadImage(t, filepath.Join(dir, c.File)))
		})
	}
}

// The original's whole transform, up to the planes.
func TestPipelineFixtures(t *testing.T) {
	dir := fixtures("randaugment")
	g, err := NewAugmenter(Augment{Rand: RandAugment{Ops: 2, Level: 7, Kind: RandCompat}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range readLines[cropCase](t, filepath.Join(dir, "pipeline.jsonl")) {
		t.Run(c.File, func(t *testing.T) {
			v := variation{crop: c.crop(), flip: c.Flip, affine: identity}
			for _, o := range c.Ops {
				v.steps = append(v.steps, o.step(t))
			}
			dst := New(c.Size, c.Size)
			g.vary(dst, loadImage(t, filepath.Join(dir, c.Src)), &v)
			want := loadImage(t, filepath.Join(dir, c.File))
			wantEqual(t, dst, want)

			planes := make([]byte, len(dst.Pix))
			if err := Planes(planes, dst); err != nil {
				t.Fatal(err)
			}
			for i, p := range want.Pix {
				if got := planes[i%3*c.Size*c.Size+i/3]; got != p {
					t.Fatalf("sample %d: %d becomes %d", i, p, got)
				}
			}
		})
	}
}

// RandomResizedCrop's box from given uniforms.
func TestCropBoxes(t *testing.T) {
	area, ratio := [2]float64{0.5, 1}, [2]float64{3. / 4, 4. / 3}
	for i, c := range readLines[struct {
		W       int `json:"image_width"`
		H       int `json:"image_height"`
		Tries   [][2]float64
		UsedTry *int `json:"used_try"`
		Box     struct{ Height, Width, Top, Left int }
	}](t, filepath.Join(fixtures("randaugment"), "rrc.jsonl")) {
		got, used := centralCrop(c.W, c.H, ratio), -1
		for k, u := range c.Tries {
			if w, h, ok := cropSize(c.W, c.H, area, ratio, u[0], u[1]); ok {
				got, used = rect{c.Box.Left, c.Box.Top, w, h}, k
				break
			}
		}
		want := rect{c.Box.Left, c.Box.Top, c.Box.Width, c.Box.Height}
		if got != want || (c.UsedTry == nil) != (used < 0) || used >= 0 && used != *c.UsedTry {
			t.Errorf("case %d, %dx%d: crop %v by try %d, want %v", i, c.W, c.H, got, used, want)
		}
	}
}

// The drawn operations, their arguments and directions.
func TestRandDraws(t *testing.T) {
	t.Logf("seed %d", seed)
	for _, c := range []struct {
		a                                 RandAugment
		factor, shear, pixels, turn, each float64
	}{
		{RandAugment{Ops: 2, Level: 7, Kind: RandDefault}, 1.36, 0.21, 7, 21, 0.5},
		{RandAugment{Ops: 3, Level: 10, Kind: RandCompat}, 1.9, 0.3, 10, 30, 0.5},
		{RandAugment{Ops: 2, Level: 9, Kind: RandPillow}, 0.64, 0.09, 30, 9, 1},
	} {
		const n = 6000
		seen := map[string]float64{}
		var steps []randStep
		for i := range uint64(n) {
			steps = c.a.appendSteps(steps[:0], stream(seed, i))
			if len(steps) > c.a.Ops {
				t.Fatalf("%d operations", len(steps))
			}
			for _, s := range steps {
				want := [...]float64{brightnessOp: c.factor, sharpnessOp: c.factor, shearXOp: c.shear, shearYOp: c.shear,
					translateXOp: c.pixels, translateYOp: c.pixels, rotateOp: c.turn}[s.op]
				arg := s.arg
				if s.op >= shearXOp {
					arg = math.Abs(arg)
				}
				if math.Abs(arg-want) > 1e-12 {
					t.Fatalf("%s with %v, want %v", opNames[s.op], s.arg, want)
				}
				seen[fmt.Sprint(opNames[s.op], " ", math.Signbit(s.arg))]++
			}
		}
		if len(seen) != 15 {
			t.Errorf("%+v: %d kinds of draws, want 5 and 5 with both signs: %v", c.a, len(seen), seen)
		}
		for name, got := range seen {
			want := n * float64(c.a.Ops) * c.each / 10
			if k := slices.IndexFunc(opNames[:], func(o string) bool { return len(name) > len(o) && name[:len(o)+1] == o+" " }); randOp(k) >= shearXOp {
				want /= 2
			}
			if math.Abs(got-want) > 5*math.Sqrt(want) {
				t.Errorf("%+v: %s drawn %v times, want %v", c.a, name, got, want)
			}
		}
	}
	for _, a := range []RandAugment{{Ops: -1}, {Ops: 1, Level: 11}, {Ops: 1, Level: math.NaN()}, {Ops: 1, Level: 31, Kind: RandPillow}, {Ops: 1, Kind: 3}} {
		if _, err := NewAugmenter(Augment{Rand: a}); err == nil {
			t.Errorf("%+v: no error", a)
		}
	}
}

// Pictures of a pixel or a row, which the filters' borders are all of.
func TestRandTiny(t *testing.T) {
	for _, size := range [][2]int{{1, 1}, {1, 4}, {5, 1}, {2, 2}} {
		for op := range randOps {
			for _, kind := range []RandKind{RandDefault, RandCompat, RandPillow} {
				for _, arg := range []float64{0, 1, 1.5, -0.3, -30, 1e4} {
					m := photo(size[0], size[1])
					var tmp Image
					randStep{op, arg}.apply(m, &tmp, kind)
					if err := m.check("result"); err != nil || m.W != size[0] || m.H != size[1] {
						t.Fatalf("%v, %s: %v", size, opNames[op], err)
					}
				}
			}
		}
	}
}

func BenchmarkRandAugment(b *testing.B) {
	for op := range randOps {
		for _, kind := range []RandKind{RandDefault, RandPillow} {
			b.Run(fmt.Sprintf("%s/%d", opNames[op], kind), func(b *testing.B) {
				src, m, tmp := photo(224, 224), New(224, 224), New(224, 224)
				step := randStep{op, map[bool]float64{true: 1.36, false: 0.21}[op == brightnessOp || op == sharpnessOp]}
				if op == rotateOp {
					step.arg = 21
				}
				for b.Loop() {
					m.copy(src)
					step.apply(m, tmp, kind)
				}
			})
		}
	}
}
