package train

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/schollz/progressbar/v3"

	"vlmo-train/train/config"
)

// Console is a Hook that shows the run's progress: one bar a stage on a
// terminal, else a line every ten seconds.
type Console struct {
	w        io.Writer
	terminal bool
	every    time.Duration
	now      func() time.Time

	bar    *progressbar.ProgressBar
	start  time.Time
	last   time.Time
	first  float64 // seconds of the first step, which waits for the loader to start
	losses []Loss  // the latest of each name
}

// NewConsole returns a Console that writes to w. terminal tells that w
// understands control sequences.
func NewConsole(w io.Writer, terminal bool) *Console {
	return &Console{w: w, terminal: terminal, every: 10 * time.Second, now: time.Now}
}

// StageStart prints the stage's headline.
func (c *Console) StageStart(s *Stage) error {
	c.start, c.last, c.losses = c.now(), time.Time{}, nil
	line := fmt.Sprintf("%s: %d steps of %d %s, %s parameters", s.Name, s.Steps, s.Batch, unit(s.Kind), millions(s.Parameters))
	if h := s.Handover; len(h.Loaded) > 0 {
		line += fmt.Sprintf(", %d tensors taken over, %d new", len(h.Loaded), len(h.Initialised))
	}
	if s.First > 0 {
		line += fmt.Sprintf(", resumed after step %d", s.First)
	}
	if _, err := fmt.Fprintln(c.w, line); err != nil {
		return err
	}
	if h := s.Handover; s.Index == 0 && s.First == 0 && len(h.Loaded) > 0 { // weights from outside
		if err := h.WriteTable(c.w); err != nil {
			return err
		}
	}
	if c.terminal {
		c.bar = progressbar.NewOptions(s.Steps, progressbar.OptionSetWriter(c.w), progressbar.OptionSetWidth(20),
			progressbar.OptionSetPredictTime(false), progressbar.OptionSetElapsedTime(false), progressbar.OptionShowDescriptionAtLineEnd(),
			progressbar.OptionShowCount(), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionUseANSICodes(true))
		return c.bar.Set(s.First)
	}
	return nil
}

// Step shows losses, throughput and the time left.
func (c *Console) Step(s *Stage, p *Progress) error {
	c.merge(p.Losses)
	done, seconds := p.Step-s.First, p.Seconds
	if done == 1 {
		c.first = seconds
	} else {
		done, seconds = done-1, seconds-c.first
	}
	rate := float64(done*p.Batch) / max(seconds, 1e-9)
	left := time.Duration(seconds / float64(done) * float64(s.Steps-p.Step) * float64(time.Second))
	text := fmt.Sprintf("%s  %s %s/s  %s left", lossText(c.losses), number(rate), unit(s.Kind), left.Round(time.Second))
	if c.bar != nil {
		c.bar.Describe(text)
		return c.bar.Set(p.Step)
	}
	now := c.now()
	if p.Step < s.Steps && p.Step > s.First+1 && now.Sub(c.last) < c.every {
		return nil
	}
	c.last = now
	_, err := fmt.Fprintf(c.w, "%s %d/%d  %s\n", s.Name, p.Step, s.Steps, text)
	return err
}

// StageEnd closes the bar.
func (c *Console) StageEnd(s *Stage) error {
	c.Close()
	line := fmt.Sprintf("%s: done in %s", s.Name, c.now().Sub(c.start).Round(100*time.Millisecond))
	if s.Unreadable > 0 {
		line += fmt.Sprintf("; %d unreadable examples skipped, such as: %s", s.Unreadable, s.Skipped[0])
	}
	if s.Incomplete > 0 {
		line += fmt.Sprintf("; %d samples without picture or caption left out, such as %s", s.Incomplete, s.AnIncomplete)
	}
	_, err := fmt.Fprintln(c.w, line)
	return err
}

// Evaluated prints the result of an evaluation under way.
func (c *Console) Evaluated(s *Stage, step int, r *Retrieval) error {
	if c.bar != nil {
		if err := c.bar.Clear(); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(c.w, "%s, step %d: image→text R@1 %.1f R@10 %.1f, text→image R@1 %.1f R@10 %.1f (chance %.2f, %.1f)\n",
		s.Name, step, r.ImageToText[0], r.ImageToText[2], r.TextToImage[0], r.TextToImage[2], r.Chance[0], r.Chance[2])
	return err
}

// Close leaves the line of an unfinished bar.
func (c *Console) Close() {
	if c.bar != nil {
		fmt.Fprintln(c.w)
		c.bar = nil
	}
}

// merge keeps the latest value of each loss: some are not of every step.
func (c *Console) merge(list []Loss) {
next:
	for _, l := range list {
		for i := range c.losses {
			if c.losses[i].Name == l.Name {
				c.losses[i] = l
				continue next
			}
		}
		c.losses = append(c.losses, l)
	}
}

func lossText(list []Loss) string {
	parts := make([]string, len(list))
	for i, l := range list {
		parts[i] = fmt.Sprintf("%s %.4f", l.Name, l.Value)
	}
	return strings.Join(parts, "  ")
}

func number(x float64) string {
	if x < 100 {
		return fmt.Sprintf("%.1f", x)
	}
	return fmt.Sprintf("%.0f", x)
}

// unit names the examples of a stage.
func unit(k config.Kind) string {
	switch k {
	case config.Tokenizer, config.Vision:
		return "images"
	case config.Text:
		return "texts"
	}
	return "pairs"
}

// Baseline is what a named system reaches on the same test set, in percent;
// a negative number is not known.
type Baseline struct {
	Name                     string
	ImageToText, TextToImage Recall
}

// WriteTable prints recalls beside chance and a baseline, which may be nil.
func (r *Retrieval) WriteTable(w io.Writer, b *Baseline) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(tw, "%d images, %d texts\timage→text R@1\tR@5\tR@10\ttext→image R@1\tR@5\tR@10\t\n", r.Images, r.Texts)
	row := func(name string, a, b Recall) {
		fmt.Fprint(tw, name)
		for _, x := range [6]float64{a[0], a[1], a[2], b[0], b[1], b[2]} {
			if x < 0 {
				fmt.Fprint(tw, "\t–")
			} else {
				fmt.Fprintf(tw, "\t%.1f", x)
			}
		}
		fmt.Fprintln(tw, "\t")
	}
	row("this model", r.ImageToText, r.TextToImage)
	if r.RerankTop > 0 {
		row(fmt.Sprintf("best %d reranked", r.RerankTop), r.RerankedImageToText, r.RerankedToImg)
	}
	if b != nil {
		row(b.Name, b.ImageToText, b.TextToImage)
	}
	row("chance", r.Chance, r.ChanceImages())
	return tw.Flush()
}

// ChanceImages returns the recall of guessing an image.
func (r *Retrieval) ChanceImages() (c Recall) {
	for k, n := range recallAt {
		c[k] = 100 * float64(min(n, r.Images)) / float64(max(1, r.Images))
	}
	return c
}

// WriteExamples prints n queries in each direction with their best five
// answers; right ones carry a star.
func (r *Retrieval) WriteExamples(w io.Writer, n int) error {
	star := func(i, t int) string {
		if r.right(i, t) {
			return "*"
		}
		return ""
	}
	fmt.Fprintln(w, "text → images (* is right)")
	for _, t := range spread(r.Texts, n) {
		fmt.Fprintf(w, "  %q:", r.captions[t])
		for _, i := range top(func(i int) float32 { return r.score[i*r.Texts+t] }, r.Images, 5) {
			fmt.Fprintf(w, "  %s%s (%.2f)", r.examples[i].ID, star(i, t), r.score[i*r.Texts+t])
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w, "image → texts")
	for _, i := range spread(r.Images, n) {
		fmt.Fprintf(w, "  %s:", r.examples[i].ID)
		for _, t := range top(func(t int) float32 { return r.score[i*r.Texts+t] }, r.Texts, 5) {
			fmt.Fprintf(w, "  %q%s (%.2f)", r.captions[t], star(i, t), r.score[i*r.Texts+t])
		}
		fmt.Fprintln(w)
	}
	return nil
}

// spread returns up to n indices below count at equal distances.
func spread(count, n int) []int {
	n = min(n, count)
	list := make([]int, n)
	for k := range list {
		list[k] = (2*k + 1) * count / (2 * n)
	}
	return list
}
