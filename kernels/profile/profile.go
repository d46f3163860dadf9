// Package profile times the ops that a device runs. A [Device] wraps another
// one and adds up, by op and shape, calls, time, arithmetic and memory traffic,
// and keeps a trace of the first steps. It knows of an op only what
// [kernels.Op] says, so a new op needs no change here.
package profile

import (
	"fmt"
	"io"
	"math/bits"
	"sort"
	"strings"
	"text/tabwriter"
	"time"

	"vlmo-train/kernels"
)

// Device is a kernels.Device that times what another one does between Start
// and Stop, a step. It waits for each op to end: that costs nothing on a
// device that is done when Run returns, and takes the overlap from one that
// is not. Like any device it belongs to one goroutine.
type Device struct {
	kernels.Device
	peak  Peak
	trace trace

	running bool
	start   time.Time // of the step under way
	inside  time.Duration
	steps   int
	total   time.Duration // of all steps

	rows  map[key]*Row
	list  []kernels.Operand // reused by Run
	epoch time.Time
}

// New returns a Device around dev. traceSteps is how many steps after each
// Reset go into the trace.
func New(dev kernels.Device, peak Peak, traceSteps int) *Device {
	d := &Device{Device: dev, peak: peak, epoch: time.Now()}
	d.trace.most, d.trace.room = traceSteps, maxCalls
	d.Reset("")
	return d
}

// Reset forgets the sums, and names the steps to come in the trace.
func (d *Device) Reset(name string) {
	d.running, d.steps, d.total = false, 0, 0
	d.rows = make(map[key]*Row)
	d.trace.stage(name)
}

// FreeMemory is that of the device inside.
func (d *Device) FreeMemory() (n int, known bool) { return kernels.FreeMemory(d.Device) }

// Start begins a step. What runs outside of steps is not timed.
func (d *Device) Start() {
	d.start, d.inside, d.running = time.Now(), 0, true
}

// Stop ends the step, and does nothing outside of one.
func (d *Device) Stop() {
	if !d.running {
		return
	}
	d.running = false
	took := time.Since(d.start)
	d.total += took
	d.steps++
	r := d.row(key{name: hostName})
	r.Calls++
	r.Time += took - d.inside
	d.trace.step(d.start.Sub(d.epoch), took)
}

// hostName is the row of the time between the device's calls.
const hostName = "(outside the device)"

// Row is what the calls of an op with about the same shape cost together.
type Row struct {
	Op, Shape string
	Calls     int
	Time      time.Duration
	// FLOPs and Bytes are the ops' own counts: what they need at least.
	FLOPs, Bytes int64
	// Best is the time they would need at the device's peaks.
	Best time.Duration
}

// GFLOPs returns 10⁹ floating-point operations a second.
func (r *Row) GFLOPs() float64 { return rate(r.FLOPs, r.Time) }

// GBs returns 10⁹ bytes a second.
func (r *Row) GBs() float64 { return rate(r.Bytes, r.Time) }

// Share returns the part of the attainable speed that was reached. It exceeds
// 1 where caches are faster than the memory.
func (r *Row) Share() float64 {
	if r.Time <= 0 {
		return 0
	}
	return float64(r.Best) / float64(r.Time)
}

func rate(n int64, t time.Duration) float64 {
	if t <= 0 {
		return 0
	}
	return float64(n) / float64(t)
}

// key is an op with a class of shapes. Extents are rounded, so that the
// number of keys stays small where row counts vary from step to step.
type key struct {
	name    string
	product string // how the operands of a product lie
	m, n, k int
	types   [4]kernels.DType // of the operands other than indices, distinct
	typed   int
}

// round keeps the five leading bits of n, to the nearest.
func round(n int) int {
	if s := bits.Len(uint(n)) - 5; s > 0 {
		return (n + 1<<s/2) >> s << s
	}
	return n
}

func (d *Device) key(op kernels.Op) key {
	k := key{name: op.Name()}
	d.list = op.Operands(d.list[:0])
	var largest kernels.Tensor
	for i := range d.list {
		t := &d.list[i].Tensor
		if t.Len() > largest.Len() || i == 0 {
			largest = *t
		}
		if t.Type != kernels.I32 {
			k.addType(t.Type)
		}
	}
	clear(d.list) // keeps no memory alive
	if o, ok := op.(interface{ Dims() (m, n, k int) }); ok {
		m, n, inner := o.Dims()
		k.m, k.n, k.k = round(m), round(n), round(inner)
	} else {
		k.m, k.n = round(largest.Rows), round(largest.Cols)
	}
	if o, ok := op.(*kernels.MatMul); ok {
		k.product = [...]string{"nn", "nt", "tn", "tt"}[b2i(o.TransA)<<1|b2i(o.TransB)]
	}
	return k
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (k *key) addType(t kernels.DType) {
	for _, have := range k.types[:k.typed] {
		if have == t {
			return
		}
	}
	if k.typed < len(k.types) {
		k.types[k.typed] = t
		k.typed++
	}
}

func (k *key) shape() string {
	var b strings.Builder
	switch {
	case k.m == 0 && k.n == 0:
	case k.k > 0:
		fmt.Fprintf(&b, "%d×%d×%d", k.m, k.n, k.k)
	default:
		fmt.Fprintf(&b, "%d×%d", k.m, k.n)
	}
	if k.product != "" {
		b.WriteString(" " + k.product)
	}
	if k.typed > 1 || k.typed == 1 && k.types[0] != kernels.F32 {
		for i, t := range k.types[:k.typed] {
			b.WriteString([]string{" ", "·"}[min(i, 1)] + t.String())
		}
	}
	return b.String()
}

func (d *Device) row(k key) *Row {
	r, ok := d.rows[k]
	if !ok {
		r = &Row{Op: k.name, Shape: k.shape()}
		d.rows[k] = r
	}
	return r
}

// add counts a call.
func (d *Device) add(k key, start time.Time, took time.Duration, flops, bytes int64) {
	d.inside += took
	r := d.row(k)
	r.Calls++
	r.Time += took
	r.FLOPs += flops
	r.Bytes += bytes
	r.Best += d.peak.best(k.types[:k.typed], flops, bytes)
	d.trace.call(r, start.Sub(d.epoch), took, flops, bytes)
}

// Run runs op and waits for it.
func (d *Device) Run(op kernels.Op) {
	if !d.running {
		d.Device.Run(op)
		return
	}
	start := time.Now()
	d.Device.Run(op)
	err := d.Device.Sync()
	took := time.Since(start)
	if err == nil { // the counts of an ill-formed op mean nothing
		d.add(d.key(op), start, took, op.FLOPs(), op.Bytes())
	}
}

// Write copies src into dst.
func (d *Device) Write(dst kernels.Tensor, src any) {
	start := time.Now()
	d.Device.Write(dst, src)
	d.transfer("Write", dst, start)
}

// Read copies src into dst.
func (d *Device) Read(dst any, src kernels.Tensor) {
	start := time.Now()
	d.Device.Read(dst, src)
	d.transfer("Read", src, start)
}

func (d *Device) transfer(name string, t kernels.Tensor, start time.Time) {
	if d.running && d.Device.Sync() == nil {
		d.add(key{name: name}, start, time.Since(start), 0, 2*int64(t.Len()*t.Type.Size()))
	}
}

// Profile is what the steps since the last Reset cost.
type Profile struct {
	Device string
	Peak   Peak
	Steps  int
	Time   time.Duration // of all steps
	Rows   []Row         // the longest time first
}

// Profile returns the sums.
func (d *Device) Profile() Profile {
	p := Profile{Device: d.Device.Name(), Peak: d.peak, Steps: d.steps, Time: d.total}
	for _, r := range d.rows {
		p.Rows = append(p.Rows, *r)
	}
	sort.Slice(p.Rows, func(i, j int) bool {
		a, b := &p.Rows[i], &p.Rows[j]
		if a.Time != b.Time {
			return a.Time > b.Time
		}
		return a.Op+"\x00"+a.Shape < b.Op+"\x00"+b.Shape
	})
	return p
}

// ByOp returns the rows with the shapes of an op put together.
func (p *Profile) ByOp() []Row {
	at := map[string]int{}
	var list []Row
	for _, r := range p.Rows {
		i, ok := at[r.Op]
		if !ok {
			i = len(list)
			at[r.Op] = i
			list = append(list, Row{Op: r.Op})
		}
		t := &list[i]
		t.Calls, t.Time, t.Best = t.Calls+r.Calls, t.Time+r.Time, t.Best+r.Best
		t.FLOPs, t.Bytes = t.FLOPs+r.FLOPs, t.Bytes+r.Bytes
	}
	sort.SliceStable(list, func(i, j int) bool { return list[i].Time > list[j].Time })
	return list
}

// Header names the columns of [Profile.Cells].
var Header = [...]string{"op", "shape", "calls", "ms", "time", "GFLOP/s", "GB/s", "of peak"}

// Cells returns a row's columns, calls and milliseconds being those of one
// step in the mean.
func (p *Profile) Cells(r *Row) [len(Header)]string {
	steps := float64(max(p.Steps, 1))
	c := [len(Header)]string{r.Op, r.Shape, fmt.Sprintf("%.4g", float64(r.Calls)/steps),
		fmt.Sprintf("%.2f", r.Time.Seconds()*1e3/steps), "", "–", "–", "–"}
	if p.Time > 0 {
		c[4] = fmt.Sprintf("%.1f %%", 100*float64(r.Time)/float64(p.Time))
	}
	if r.FLOPs > 0 {
		c[5] = fmt.Sprintf("%.1f", r.GFLOPs())
	}
	if r.Bytes > 0 {
		c[6] = fmt.Sprintf("%.1f", r.GBs())
	}
	if r.Best > 0 {
		c[7] = fmt.Sprintf("%.0f %%", 100*r.Share())
	}
	return c
}

// Summary says what the table is of.
func (p *Profile) Summary() string {
	s := fmt.Sprintf("%d steps on %s, %.1f ms each; peak %s", p.Steps, p.Device, p.Time.Seconds()*1e3/float64(max(p.Steps, 1)), p.Peak)
	var flops int64
	for i := range p.Rows {
		flops += p.Rows[i].FLOPs
	}
	return s + fmt.Sprintf("; %.1f GFLOP/s over the whole step", rate(flops, p.Time))
}

// WriteTable prints the ops, then the ops by shape, the longest time first.
// The shape is that of the largest operand, of a product M×N×K, rounded to
// five binary digits.
func (p *Profile) WriteTable(w io.Writer) error {
	if _, err := fmt.Fprintln(w, p.Summary()); err != nil {
		return err
	}
	for _, rows := range [2][]Row{p.ByOp(), p.Rows} {
		if _, err := fmt.Fprintln(w); err != nil {
			return err
		}
		tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(tw, strings.Join(Header[:], "\t")+"\t")
		for i := range rows {
			c := p.Cells(&rows[i])
			fmt.Fprintln(tw, strings.Join(c[:], "\t")+"\t")
		}
		if err := tw.Flush(); err != nil {
			return err
		}
	}
	return nil
}
