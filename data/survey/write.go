package survey

import (
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"image"
	"image/color"
	"io"
	"text/tabwriter"

	"vlmo-train/data/img"
)

// rgb is a picture as package image has it.
type rgb struct{ *img.Image }

func (m rgb) ColorModel() color.Model { return color.RGBAModel }
func (m rgb) Bounds() image.Rectangle { return image.Rect(0, 0, m.W, m.H) }
func (m rgb) At(x, y int) color.Color {
	p := m.Pix[3*(y*m.W+x):]
	return color.RGBA{p[0], p[1], p[2], 255}
}

// WriteText writes r for people to read.
func (r *Report) WriteText(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(tw, "examples\t%d\n", r.Examples)
	if r.Shards > 1 {
		fmt.Fprintf(tw, "shards\t%d\n", r.Shards)
	}
	for _, x := range r.counts() {
		fmt.Fprintf(tw, "%s\t%s\n", x.Name, x.Value)
	}
	for _, x := range r.spreads() {
		if s := x.Spread; s.N > 0 {
			fmt.Fprintf(tw, "%s\t%d to %d, median %d, 95 %% up to %d, mean %.1f\n", x.Name, s.Min, s.Max, s.Median, s.P95, s.Mean)
		}
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	if len(r.Tokens.Bins) > 1 {
		fmt.Fprintln(w, "\ntokens a caption")
		for _, b := range r.Tokens.Bins {
			fmt.Fprintf(w, "  %9s %9d  %s\n", b.Label(), b.Count, bar(r.Tokens.Share(b), 40))
		}
	}
	for _, x := range r.twices() {
		if len(x.Twice.Pairs) > 0 {
			fmt.Fprintf(w, "\n%s\n", x.Name)
			for _, p := range x.Twice.Pairs {
				fmt.Fprintf(w, "  %s = %s\n", p[0], p[1])
			}
		}
	}
	if r.Unreadable > 0 {
		fmt.Fprintf(w, "\nunreadable\n")
		for _, e := range r.Errors {
			fmt.Fprintf(w, "  %s\n", e)
		}
		if n := r.Unreadable - len(r.Errors); n > 0 {
			fmt.Fprintf(w, "  and %d more\n", n)
		}
	}
	return nil
}

// Label is the values of the bin.
func (b Bin) Label() string {
	if b.From == b.To {
		return fmt.Sprint(b.From)
	}
	return fmt.Sprintf("%d–%d", b.From, b.To)
}

// Share is the bin's count over that of the fullest bin.
func (s Spread) Share(b Bin) float64 {
	most := 1
	for _, x := range s.Bins {
		most = max(most, x.Count)
	}
	return float64(b.Count) / float64(most)
}

// bar is a bar of characters.
func bar(share float64, width int) string {
	const eighths = "▏▎▍▌▋▊▉█"
	n := int(share*float64(8*width) + 0.5)
	if n == 0 && share > 0 {
		n = 1
	}
	var out []rune
	for ; n > 8; n -= 8 {
		out = append(out, '█')
	}
	if n > 0 {
		out = append(out, []rune(eighths)[n-1])
	}
	return string(out)
}

type namedCount struct{ Name, Value string }

// counts are the numbers that are not 0, and that of unreadable examples.
func (r *Report) counts() (list []namedCount) {
	add := func(name string, n int, note string) {
		if n > 0 {
			if note != "" {
				note = ", such as " + note
			}
			list = append(list, namedCount{name, fmt.Sprint(n) + note})
		}
	}
	add("pictures", r.Pictures, "")
	add("captions", r.Captions, "")
	add("keywords", r.Keywords, "")
	add("questions", r.Questions, "")
	add("without picture", r.NoPicture, "")
	add("without text", r.NoText, "")
	add("texts without tokens", r.NoTokens, "")
	add("incomplete samples, left out", r.Incomplete, r.AnIncomplete)
	for _, x := range r.twices() {
		list = append(list, namedCount{x.Name, fmt.Sprint(x.Twice.Count)})
	}
	return append(list, namedCount{"unreadable", fmt.Sprint(r.Unreadable)})
}

type namedSpread struct {
	Name   string
	Spread Spread
}

func (r *Report) spreads() []namedSpread {
	return []namedSpread{{"captions an example", r.PerExample}, {"tokens a caption", r.Tokens}, {"width", r.Width}, {"height", r.Height}}
}

type namedTwice struct {
	Name  string
	Twice *Twice
}

func (r *Report) twices() (list []namedTwice) {
	for _, x := range []namedTwice{{"IDs that occur again", r.IDs}, {"pictures that occur again", r.SamePictures}, {"captions that occur again", r.SameCaptions}} {
		if x.Twice != nil {
			list = append(list, x)
		}
	}
	return list
}

//go:embed page.tmpl
var source string

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"percent": func(x float64) string { return fmt.Sprintf("%.1f", 100*x) },
	"picture": func(b []byte) template.URL {
		return template.URL("data:image/jpeg;base64," + base64.StdEncoding.EncodeToString(b))
	},
	"sub": func(a, b int) int { return a - b },
}).Parse(source))

// WriteHTML writes r as a page that needs nothing else.
func (r *Report) WriteHTML(w io.Writer, title string) error {
	return page.Execute(w, map[string]any{"Title": title, "Report": r, "Counts": r.counts(), "Spreads": r.spreads(), "Twices": r.twices()})
}
