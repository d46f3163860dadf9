package report

import (
	"fmt"
	"math"
	"strings"
)

// The chart's drawing area inside its view box.
const (
	chartWidth, chartHeight = 420, 190
	plotLeft, plotRight     = 50, 408
	plotTop, plotBottom     = 10, 164
	maxPoints               = 180 // more samples than this are averaged in bins
)

// chart is a line chart ready for the template; all lengths are in its view
// box.
type chart struct {
	Width, Height            int
	Left, Right, Top, Bottom int
	// Line is the path through the (averaged) samples; Band encloses their
	// range where samples are averaged, and is empty otherwise.
	Line, Band string
	XTicks     []tick
	YTicks     []tick
	Points     []point
}

// tick is a labelled place on an axis.
type tick struct {
	At    string
	Label string
}

// point is a sample, or the mean of a bin, with the text that hovering shows.
// The strip from Left, Width wide, reacts for it.
type point struct {
	X, Y, Left, Width string
	Title             string
	Lone              bool // no line leads here, so the dot always shows
}

// bin is a run of neighbouring finite samples.
type bin struct {
	first, last    int // steps
	x              float64
	mean, low, top float64
	gap            bool // a sample that is not finite lies before
}

// bins averages c's finite samples over equal ranges of steps.
func bins(c Curve) []bin {
	if len(c.Steps) == 0 {
		return nil
	}
	var out []bin
	from := c.Steps[0]
	size := 1.0
	if len(c.Steps) > maxPoints {
		size = float64(c.Steps[len(c.Steps)-1]-from+1) / maxPoints
	}
	slot, n, gap := -1, 0, false
	for i, v := range c.Values {
		if !finite(v) {
			gap = true
			continue
		}
		step := c.Steps[i]
		s := int(float64(step-from) / size)
		if s != slot || gap {
			out = append(out, bin{first: step, low: v, top: v, gap: gap})
			slot, n, gap = s, 0, false
		}
		b := &out[len(out)-1]
		n++
		b.last = step
		b.x += (float64(step) - b.x) / float64(n)
		b.mean += (v - b.mean) / float64(n)
		b.low, b.top = min(b.low, v), max(b.top, v)
	}
	return out
}

// newChart lays out a curve. Without any finite value the chart is empty.
func newChart(c Curve) chart {
	ch := chart{Width: chartWidth, Height: chartHeight, Left: plotLeft, Right: plotRight, Top: plotTop, Bottom: plotBottom}
	list := bins(c)
	if len(list) == 0 {
		return ch
	}
	x0, x1 := float64(c.Steps[0]), float64(c.Steps[len(c.Steps)-1])
	y0, y1 := list[0].low, list[0].top
	for _, b := range list {
		y0, y1 = min(y0, b.low), max(y1, b.top)
	}
	if x1 == x0 {
		x0, x1 = x0-1, x1+1
	}
	pad := 0.04 * (y1 - y0)
	if !(pad > 0) {
		pad = max(math.Abs(y0)*0.1, 1e-6)
	}
	if y0 >= 0 && y0 < pad*8 {
		y0 = 0 // a curve that comes near 0 is read against 0
	} else {
		y0 -= pad
	}
	y1 += pad
	px := func(x float64) float64 { return plotLeft + (x-x0)/(x1-x0)*(plotRight-plotLeft) }
	py := func(y float64) float64 {
		return plotBottom - (y-y0)/(y1-y0)*(plotBottom-plotTop)
	}
	for _, v := range ticks(x0, x1, 5) {
		if v == math.Trunc(v) {
			ch.XTicks = append(ch.XTicks, tick{num(px(v)), count(int(v))})
		}
	}
	for _, v := range ticks(y0, y1, 4) {
		ch.YTicks = append(ch.YTicks, tick{num(py(v)), short(v)})
	}

	var line strings.Builder
	averaged := false
	for i, b := range list {
		verb := "L"
		if i == 0 || b.gap {
			verb = "M"
		}
		fmt.Fprintf(&line, "%s%s %s", verb, num(px(b.x)), num(py(b.mean)))
		averaged = averaged || b.first != b.last

		lone := verb == "M" && (i+1 == len(list) || list[i+1].gap)
		title := fmt.Sprintf("step %s: %s", count(b.first), short(b.mean))
		if b.first != b.last {
			title = fmt.Sprintf("steps %s to %s: mean %s, from %s to %s", count(b.first), count(b.last), short(b.mean), short(b.low), short(b.top))
		}
		left, right := float64(plotLeft), float64(plotRight)
		if i > 0 {
			left = (px(list[i-1].x) + px(b.x)) / 2
		}
		if i+1 < len(list) {
			right = (px(b.x) + px(list[i+1].x)) / 2
		}
		ch.Points = append(ch.Points, point{num(px(b.x)), num(py(b.mean)), num(left), num(right - left), title, lone})
	}
	ch.Line = line.String()
	if averaged {
		ch.Band = band(list, px, py)
	}
	return ch
}

// band returns closed outlines of the bins' ranges, one between gaps.
func band(list []bin, px, py func(float64) float64) string {
	var s strings.Builder
	for i := 0; i < len(list); {
		end := i + 1
		for end < len(list) && !list[end].gap {
			end++
		}
		verb := "M"
		for _, b := range list[i:end] {
			fmt.Fprintf(&s, "%s%s %s", verb, num(px(b.x)), num(py(b.top)))
			verb = "L"
		}
		for j := end - 1; j >= i; j-- {
			fmt.Fprintf(&s, "L%s %s", num(px(list[j].x)), num(py(list[j].low)))
		}
		s.WriteString("Z")
		i = end
	}
	return s.String()
}

// ticks returns round numbers from a to b, about n of them.
func ticks(a, b float64, n int) []float64 {
	raw := (b - a) / float64(n)
	unit := math.Pow(10, math.Floor(math.Log10(raw)))
	step := 10 * unit
	for _, m := range []float64{1, 2, 2.5, 5} { // at most a factor of 2 apart: two ticks at least
		if m*unit >= raw*0.999 {
			step = m * unit
			break
		}
	}
	if !finite(step) || step == 0 {
		return nil
	}
	var out []float64
	for i := math.Ceil(a / step); i*step <= b && len(out) <= 2*n; i++ {
		// Adding 0 turns -0 into 0; rounding drops the product's noise.
		out = append(out, math.Round(i)*step+0)
	}
	return out
}

// num prints a coordinate.
func num(x float64) string {
	return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.2f", x), "0"), ".")
}
