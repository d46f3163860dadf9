// Package report writes what a training run did as one HTML file that needs
// nothing else: styles and charts are inline, pictures are data URIs, and a
// content policy in the page forbids any request.
package report

import (
	"bytes"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Report is the content of the page. Empty parts are left out.
type Report struct {
	Title             string
	Started, Finished time.Time
	// Machine and Version say where and with what the run was made.
	Machine, Version string
	// ConfigYAML is the resolved configuration.
	ConfigYAML      string
	Stages          []Stage
	Retrieval       *Retrieval
	Examples        []Example
	Reconstructions []Reconstruction
	Handovers       []Handover
	Tables          []Table
}

// Stage is one leg of the run.
type Stage struct {
	Name, Kind string
	Steps      int
	Seconds    float64
	// Throughput is in Unit a second, such as 41.5 pairs.
	Throughput float64
	Unit       string
	Curves     []Curve
}

// Curve is a quantity over the steps; Steps rise and are as many as Values.
// Values that are not finite leave a gap.
type Curve struct {
	Name   string
	Steps  []int
	Values []float64
}

// Retrieval holds recalls at 1, 5 and 10 as shares from 0 to 1: of texts found
// for a picture (I2T) and pictures found for a text (T2I).
type Retrieval struct {
	I2T, T2I [3]float64
	// Chance is the recall of guessing.
	Chance [3]float64
	// Baseline is another system's result; nil is none.
	Baseline *Baseline
	// Count is the number of pairs searched.
	Count int
}

// Baseline is what a named system reaches on the same pairs; a negative share
// is not known.
type Baseline struct {
	Name     string
	I2T, T2I [3]float64
}

// Item is a text, a picture as PNG, or both.
type Item struct {
	Text string
	PNG  []byte
}

// Example is a query with its best hits, best first.
type Example struct {
	// Kind groups examples under a heading, such as "text to image".
	Kind  string
	Query Item
	Hits  []Hit
}

// Hit is one answer to a query.
type Hit struct {
	Item
	Score float64
	Right bool
}

// Reconstruction is a picture, as the model saw it, and as the visual
// tokenizer's decoder drew it; all PNG, Masked may be nil.
type Reconstruction struct{ Original, Masked, Reconstructed []byte }

// Handover lists by name which parameters a stage took over from the one
// before, which it left unused, and which it initialised.
type Handover struct {
	Stage                     string
	Loaded, Left, Initialised []string
}

// Table is any other table; columns after the first hold numbers.
type Table struct {
	Title, Note string
	Header      []string
	Rows        [][]string
}

//go:embed report.tmpl
var source string

// page is the parsed template.
var page = template.Must(template.New("report").Funcs(template.FuncMap{
	"bar":      func(x float64) string { return fmt.Sprintf("%.1f", 100*min(max(x, 0), 1)) },
	"chart":    newChart,
	"clock":    func(t time.Time) string { return t.Format("2006-01-02 15:04:05 MST") },
	"count":    count,
	"duration": duration,
	"grouped":  grouped,
	"last":     last,
	"percent":  percent,
	"picture":  picture,
	"recalls":  recalls,
	"short":    short,
	"total":    total,
}).Parse(source))

// Render writes r as HTML to w. It reports a curve whose steps and values
// differ in number or do not rise, and a picture that is no PNG.
func Render(w io.Writer, r Report) error {
	if err := r.check(); err != nil {
		return fmt.Errorf("report %q: %w", r.Title, err)
	}
	return page.Execute(w, r)
}

// Write renders r into the file at path, replacing it whole or not at all.
func Write(path string, r Report) (err error) {
	var b bytes.Buffer
	if err := Render(&b, r); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
			err = fmt.Errorf("writing %s: %w", path, err)
		}
	}()
	_, err = f.Write(b.Bytes())
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func (r *Report) check() error {
	for _, s := range r.Stages {
		for _, c := range s.Curves {
			if len(c.Steps) != len(c.Values) {
				return fmt.Errorf("stage %q: curve %q has %d steps and %d values", s.Name, c.Name, len(c.Steps), len(c.Values))
			}
			for i := 1; i < len(c.Steps); i++ {
				if c.Steps[i] <= c.Steps[i-1] {
					return fmt.Errorf("stage %q: curve %q: step %d follows step %d", s.Name, c.Name, c.Steps[i], c.Steps[i-1])
				}
			}
		}
	}
	for i, e := range r.Examples {
		if err := checkPNG(e.Query.PNG); err != nil {
			return fmt.Errorf("example %d: query: %w", i, err)
		}
		for j, h := range e.Hits {
			if err := checkPNG(h.PNG); err != nil {
				return fmt.Errorf("example %d: hit %d: %w", i, j, err)
			}
		}
	}
	for i, c := range r.Reconstructions {
		for _, b := range [][]byte{c.Original, c.Masked, c.Reconstructed} {
			if err := checkPNG(b); err != nil {
				return fmt.Errorf("reconstruction %d: %w", i, err)
			}
		}
	}
	return nil
}

func checkPNG(b []byte) error {
	if len(b) > 0 && !bytes.HasPrefix(b, []byte("\x89PNG\r\n\x1a\n")) {
		return fmt.Errorf("picture of %d bytes is not a PNG", len(b))
	}
	return nil
}

// picture returns a PNG as a data URI; the bytes went through checkPNG.
func picture(b []byte) template.URL {
	return template.URL("data:image/png;base64," + base64.StdEncoding.EncodeToString(b))
}

// count groups the digits of n by thousands with thin spaces.
func count(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "\u202f" + s[i:]
	}
	return s
}

// duration prints seconds to the precision that matters.
func duration(seconds float64) string {
	if seconds < 10 {
		return fmt.Sprintf("%.1f s", seconds)
	}
	s := int(math.Round(seconds))
	switch {
	case s < 60:
		return fmt.Sprintf("%d s", s)
	case s < 3600:
		return fmt.Sprintf("%d min %d s", s/60, s%60)
	}
	return fmt.Sprintf("%d h %d min", s/3600, s%3600/60)
}

// short prints a value with four digits.
func short(x float64) string {
	return strings.Replace(fmt.Sprintf("%.4g", x), "-", "−", 1)
}

func total(stages []Stage) float64 {
	t := 0.0
	for _, s := range stages {
		t += s.Seconds
	}
	return t
}

// percent prints a share.
func percent(x float64) string {
	if x < 0 {
		return "–"
	}
	return fmt.Sprintf("%.1f %%", 100*x)
}

// last returns a curve's last finite value as text.
func last(c Curve) string {
	for i := len(c.Values) - 1; i >= 0; i-- {
		if finite(c.Values[i]) {
			return short(c.Values[i])
		}
	}
	return "–"
}

// finite reports whether x can be drawn; the bound keeps differences finite.
func finite(x float64) bool { return math.Abs(x) <= 1e300 }

// recallRow is a line of the retrieval table.
type recallRow struct {
	Name   string
	Own    bool
	Values [6]float64
}

func recalls(r *Retrieval) []recallRow {
	row := func(name string, own bool, a, b [3]float64) recallRow {
		return recallRow{name, own, [6]float64{a[0], a[1], a[2], b[0], b[1], b[2]}}
	}
	rows := []recallRow{row("this run", true, r.I2T, r.T2I)}
	if b := r.Baseline; b != nil {
		rows = append(rows, row(b.Name, false, b.I2T, b.T2I))
	}
	return append(rows, row("chance", false, r.Chance, r.Chance))
}

// group is the examples of one kind.
type group struct {
	Kind     string
	Examples []Example
}

// grouped collects examples by kind, in the order of first appearance.
func grouped(list []Example) []group {
	var groups []group
	at := map[string]int{}
	for _, e := range list {
		i, ok := at[e.Kind]
		if !ok {
			i = len(groups)
			at[e.Kind] = i
			groups = append(groups, group{Kind: e.Kind})
		}
		groups[i].Examples = append(groups[i].Examples, e)
	}
	return groups
}
