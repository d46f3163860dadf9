package report

import (
	"bytes"
	"encoding/base64"
	"encoding/xml"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// disc draws a made-up picture.
func disc(t *testing.T, hue uint8, hole bool) []byte {
	t.Helper()
	m := image.NewNRGBA(image.Rect(0, 0, 32, 32))
	for y := range 32 {
		for x := range 32 {
			d := math.Hypot(float64(x)-15.5, float64(y)-15.5)
			if d < 15 && !(hole && x/8 == 1 && y/8 > 0) {
				m.SetNRGBA(x, y, color.NRGBA{230, 120 + hue/2, 255 - hue, 255})
			}
		}
	}
	var b bytes.Buffer
	if err := png.Encode(&b, m); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func sample(t *testing.T) Report {
	r := rand.New(rand.NewPCG(3, 4))
	var long, short, rate Curve
	long.Name, short.Name, rate.Name = "loss", "recall at 1 <eval>", "learning rate"
	for i := range 1500 {
		long.Steps = append(long.Steps, i+1)
		long.Values = append(long.Values, 6.9*math.Exp(-float64(i)/500)+1.2+0.3*r.NormFloat64())
		if i%50 == 0 {
			rate.Steps = append(rate.Steps, i+1)
			rate.Values = append(rate.Values, 1e-3*(1-float64(i)/1500))
		}
	}
	for i, v := range []float64{0.01, 0.08, math.NaN(), 0.19, 0.24, 0.261} {
		short.Steps = append(short.Steps, 250*(i+1))
		short.Values = append(short.Values, v)
	}
	started := time.Date(2031, 5, 6, 7, 8, 9, 0, time.UTC)
	cry := Item{Text: "crying face"}
	return Report{
		Title: `Emoji "demo" <run> & more`, Started: started, Finished: started.Add(1234 * time.Second),
		Machine: "2 cores, AVX2", Version: "vlmo-train 0.1", ConfigYAML: "name: demo\nseed: 1\nout: <x>\n",
		Stages: []Stage{
			{"vision", "vision", 400, 75.4, 812.3, "images", []Curve{{"codes in use", []int{10}, []float64{201}}}},
			{"vl", "vl", 1500, 1100, 87.25, "pairs", []Curve{long, short, rate, {Name: "empty"}}},
		},
		Retrieval: &Retrieval{
			I2T: [3]float64{0.261, 0.502, 0.613}, T2I: [3]float64{0.248, 0.489, 0.607},
			Chance: [3]float64{0.001, 0.005, 0.01}, Count: 1641,
			Baseline: &Baseline{"colour histogram", [3]float64{0.02, 0.06, 0.09}, [3]float64{0.018, 0.055, 0.085}},
		},
		Examples: []Example{
			{"text to image", cry, []Hit{{Item{PNG: disc(t, 10, false)}, 0.91, true}, {Item{PNG: disc(t, 90, true)}, 0.52, false}, {Item{PNG: disc(t, 220, false)}, -0.1, false}}},
			{"text to image", Item{Text: "a very long query about grinning faces with big eyes"}, []Hit{{Item{PNG: disc(t, 60, true)}, 0.66, false}}},
			{"image to text", Item{PNG: disc(t, 200, true)}, []Hit{{Item{Text: "grinning face <script>alert(1)</script>"}, 0.8, true}, {cry, 0.4, false}}},
		},
		Reconstructions: []Reconstruction{{disc(t, 10, false), disc(t, 10, true), disc(t, 40, false)}, {disc(t, 200, false), nil, disc(t, 180, false)}},
		Handovers:       []Handover{{"vl", []string{"transformer.cls_token", "transformer.norm.weight"}, []string{"lm_head.weight"}, []string{"itc_text_proj.fc.weight"}}},
		Tables:          []Table{{"vl · time of ops", "3 steps", []string{"op", "ms"}, [][]string{{"MatMul & <more>", "12.75"}}}},
	}
}

// element is an HTML element as the XML parser sees it.
type element struct {
	name string
	attr map[string]string
}

// parse reads the page, which is well-formed XML besides HTML, and returns its
// elements and its text.
func parse(t *testing.T, page []byte) ([]element, string) {
	t.Helper()
	d := xml.NewDecoder(bytes.NewReader(page))
	var list []element
	var text strings.Builder
	for {
		tok, err := d.Token()
		if err == io.EOF {
			return list, text.String()
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, page)
		}
		switch tok := tok.(type) {
		case xml.StartElement:
			e := element{tok.Name.Local, map[string]string{}}
			for _, a := range tok.Attr {
				e.attr[a.Name.Local] = a.Value
			}
			list = append(list, e)
		case xml.CharData:
			text.Write(tok)
		}
	}
}

func TestPage(t *testing.T) {
	dir := os.Getenv("REPORT_DIR") // set to look at the page
	if dir == "" {
		dir = t.TempDir()
	}
	path := filepath.Join(dir, "report.html")
	r := sample(t)
	if err := Write(path, r); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	list, text := parse(t, page)
	pictures, lone, policy := 0, 0, false
	for _, e := range list {
		switch e.name {
		case "script", "link", "iframe", "object", "base":
			t.Errorf("element %s", e.name)
		case "img":
			pictures++
			b, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(e.attr["src"], "data:image/png;base64,"))
			if err != nil {
				t.Errorf("src %.60q: %v", e.attr["src"], err)
			} else if _, err := png.Decode(bytes.NewReader(b)); err != nil {
				t.Error(err)
			}
		case "meta":
			policy = policy || e.attr["http-equiv"] == "Content-Security-Policy" && strings.HasPrefix(e.attr["content"], "default-src 'none'")
		}
		if e.attr["class"] == "pt lone" {
			lone++
		}
		for name, value := range e.attr {
			if name != "src" && (strings.Contains(value, "//") || name == "href" || strings.HasPrefix(name, "on")) {
				t.Errorf("%s %s=%q", e.name, name, value)
			}
			if strings.Contains(value, "NaN") || strings.Contains(value, "ZgotmplZ") || strings.Contains(value, "Inf") {
				t.Errorf("%s %s=%q", e.name, name, value)
			}
		}
	}
	if !policy {
		t.Error("no content policy")
	}
	if lone != 1 { // the curve of one sample
		t.Errorf("%d lone points", lone)
	}
	if want := 4 + 1 + 5; pictures != want {
		t.Errorf("%d pictures, want %d", pictures, want)
	}
	if strings.Contains(string(page), "http://") || strings.Contains(string(page), "https://") || regexp.MustCompile(`url\(|@import`).Match(page) {
		t.Error("the page refers to the network")
	}
	for _, want := range []string{
		r.Title, "2031-05-06 07:08:09 UTC to 2031-05-06 07:28:43 UTC", r.Machine, r.Version, r.ConfigYAML,
		"1\u202f500", "1 min 15 s", "18 min 20 s", "19 min 35 s", "87.25 pairs/s", "812.3 images/s",
		"26.1 %", "60.7 %", "0.5 %", "colour histogram", "5.5 %", "1\u202f641 pairs",
		"crying face", "<script>alert(1)</script>", "✓ 0.91", "0.52", "-0.10",
		"step 1\u202f250: 0.24", "recall at 1 <eval>", "no values", "lm_head.weight", "itc_text_proj.fc.weight", "prefers-color-scheme",
		"vl · time of ops", "MatMul & <more>", "12.75",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the page's text lacks %q", want)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".report*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestEmptyReport(t *testing.T) {
	var b bytes.Buffer
	if err := Render(&b, Report{Title: "none"}); err != nil {
		t.Fatal(err)
	}
	list, _ := parse(t, b.Bytes())
	for _, e := range list {
		if e.name == "h2" || e.name == "table" {
			t.Errorf("an empty report has a %s", e.name)
		}
	}
}

// The pixels of a chart, taken back to values through its axis labels, are the
// curve's.
func TestChartGeometry(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 200 {
		c := Curve{Name: "x"}
		scale, base := math.Pow(10, 8*r.Float64()-4), 10*r.NormFloat64()
		step := 0
		for range 2 + r.IntN(maxPoints-2) {
			step += 1 + r.IntN(40)
			c.Steps = append(c.Steps, step)
			c.Values = append(c.Values, scale*(base+r.NormFloat64()))
		}
		ch := newChart(c)
		if len(ch.Points) != len(c.Values) || len(ch.YTicks) < 2 || ch.Band != "" {
			t.Fatalf("%d points of %d, %d y ticks, band %q", len(ch.Points), len(c.Values), len(ch.YTicks), ch.Band)
		}
		value := func(s string) float64 {
			s = strings.NewReplacer("−", "-", "\u202f", "").Replace(s)
			v, err := strconv.ParseFloat(s, 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
		a, b := ch.YTicks[0], ch.YTicks[len(ch.YTicks)-1]
		perPixel := (value(b.Label) - value(a.Label)) / (value(b.At) - value(a.At))
		low, high := math.Inf(1), math.Inf(-1)
		for _, v := range c.Values {
			low, high = min(low, v), max(high, v)
		}
		for i, p := range ch.Points {
			y := value(p.Y)
			if y < plotTop || y > plotBottom || value(p.X) < plotLeft || value(p.X) > plotRight {
				t.Fatalf("point %d at %s, %s lies outside", i, p.X, p.Y)
			}
			got := value(a.Label) + (y-value(a.At))*perPixel
			// Labels have four digits and pixels two decimals.
			if tol := 0.002*(high-low) + 0.002*max(math.Abs(low), math.Abs(high)); math.Abs(got-c.Values[i]) > tol {
				t.Fatalf("point %d reads as %v, is %v (tolerance %v)", i, got, c.Values[i], tol)
			}
		}
	}
}

func TestBinsKeepMeanAndRange(t *testing.T) {
	var c Curve
	sum, n := 0.0, 0
	for i := range 10000 {
		v := math.Sin(float64(i))
		if i >= 5000 && i < 5100 {
			v = math.Inf(1)
		} else {
			sum, n = sum+v, n+1
		}
		c.Steps, c.Values = append(c.Steps, 3*i), append(c.Values, v)
	}
	list := bins(c)
	if len(list) < 170 || len(list) > maxPoints+1 {
		t.Errorf("%d bins", len(list))
	}
	got, samples, gaps := 0.0, 0, 0
	at := -3
	for _, b := range list {
		m := (b.last-b.first)/3 + 1
		if b.gap {
			gaps++
			at += 300
		}
		if b.first != at+3 {
			t.Errorf("bin begins at %d after %d", b.first, at)
		}
		at = b.last
		low, high := math.Inf(1), math.Inf(-1)
		for i := b.first / 3; i <= b.last/3; i++ {
			low, high = min(low, c.Values[i]), max(high, c.Values[i])
		}
		if b.low != low || b.top != high {
			t.Errorf("range %v … %v, want %v … %v", b.low, b.top, low, high)
		}
		got, samples = got+b.mean*float64(m), samples+m
	}
	if gaps != 1 || samples != n || math.Abs(got-sum) > 1e-9 {
		t.Errorf("%d gaps, %d samples of %d, sum %v, want %v", gaps, samples, n, got, sum)
	}
}

// No curve, however odd, puts something that is not a number on the page.
func TestOddCurves(t *testing.T) {
	inf, nan := math.Inf(1), math.NaN()
	for i, v := range [][]float64{{0}, {0, 0}, {nan}, {nan, 1, inf}, {math.MaxFloat64, -math.MaxFloat64}, {1e-320, 0}, {5, 5, 5}, {-3}, {1e300, 1e300}, {1e17, 1e17 + 16}} {
		c := Curve{Name: "x", Values: v}
		for j := range v {
			c.Steps = append(c.Steps, j)
		}
		var b bytes.Buffer
		if err := Render(&b, Report{Stages: []Stage{{Curves: []Curve{c}}}}); err != nil {
			t.Fatal(err)
		}
		_, svg, _ := strings.Cut(b.String(), "<svg")
		if strings.Contains(svg, "NaN") || strings.Contains(svg, "Inf") {
			t.Errorf("case %d, %v: %s", i, v, svg)
		}
	}
}

func TestErrors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.html")
	curve := func(steps []int, values []float64) Report {
		return Report{Title: "T", Stages: []Stage{{Name: "s", Curves: []Curve{{"c", steps, values}}}}}
	}
	for _, c := range []struct {
		r    Report
		want string
	}{
		{curve([]int{1}, nil), `stage "s": curve "c" has 1 steps and 0 values`},
		{curve([]int{2, 2}, []float64{1, 1}), `curve "c": step 2 follows step 2`},
		{Report{Examples: []Example{{Query: Item{PNG: []byte("GIF")}}}}, "example 0: query: picture of 3 bytes is not a PNG"},
		{Report{Examples: []Example{{Hits: []Hit{{}, {Item: Item{PNG: []byte("x")}}}}}}, "example 0: hit 1: "},
		{Report{Reconstructions: []Reconstruction{{Masked: []byte("x")}}}, "reconstruction 0: "},
	} {
		err := Write(path, c.r)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("error %v lacks %q or the path", err, c.want)
		}
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("a failed report was written")
	}
	if err := Write(filepath.Join(path, "no", "r.html"), Report{}); err == nil {
		t.Error("no error for a missing folder")
	}
}

func TestWords(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{count(0), "0"}, {count(999), "999"}, {count(-1000), "-1\u202f000"}, {count(1234567), "1\u202f234\u202f567"}, {count(-999), "-999"},
		{duration(0.04), "0.0 s"}, {duration(9.96), "10.0 s"}, {duration(59.7), "1 min 0 s"}, {duration(3599.6), "1 h 0 min"}, {duration(7322), "2 h 2 min"},
		{short(0.00012345), "0.0001234"}, {short(-2), "−2"}, {fmt.Sprint(ticks(0, 1, 4)), "[0 0.25 0.5 0.75 1]"}, {fmt.Sprint(ticks(-3, 9, 4)), "[0 5]"},
	} {
		if c.got != c.want {
			t.Errorf("%q, want %q", c.got, c.want)
		}
	}
}
