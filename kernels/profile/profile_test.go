package profile

import (
	"bytes"
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"vlmo-train/kernels"
	"vlmo-train/kernels/ref"
)

// sleep is an op that this package does not know.
type sleep struct {
	x    kernels.Tensor
	time time.Duration
}

func (o *sleep) Name() string { return "Sleep" }
func (o *sleep) Check() error { return nil }
func (o *sleep) FLOPs() int64 { return 1000 }
func (o *sleep) Bytes() int64 { return 10 }
func (o *sleep) Operands(l []kernels.Operand) []kernels.Operand {
	return append(l, kernels.Operand{Name: "X", Tensor: o.x, Role: kernels.InOut})
}

// device computes with ref, sleeps, and counts.
type device struct {
	kernels.Device
	count kernels.Counter
}

func (d *device) Run(op kernels.Op) {
	d.count.Run(op)
	if s, ok := op.(*sleep); ok {
		time.Sleep(s.time)
		return
	}
	d.Device.Run(op)
}

func matrix(t testing.TB, dev kernels.Device, typ kernels.DType, rows, cols int) kernels.Tensor {
	t.Helper()
	m, err := dev.Alloc(4 * rows * cols)
	if err != nil {
		t.Fatal(err)
	}
	return kernels.Matrix(m, 0, typ, rows, cols)
}

// ops are calls of several kinds and shapes.
func ops(t testing.TB, dev kernels.Device) []kernels.Op {
	f := func(r, c int) kernels.Tensor { return matrix(t, dev, kernels.F32, r, c) }
	return []kernels.Op{
		&kernels.MatMul{A: f(20, 8), B: f(12, 8), TransB: true, C: f(20, 12)},
		&kernels.MatMul{A: f(20, 8), B: f(20, 12), TransA: true, C: f(8, 12), Accumulate: true},
		&kernels.MatMul{A: f(300, 8), B: f(12, 8), TransB: true, C: f(300, 12)},
		&kernels.MatMul{A: f(301, 8), B: f(12, 8), TransB: true, C: f(301, 12)},
		&kernels.Gather{Table: f(50, 8), Index: matrix(t, dev, kernels.I32, 1, 5), Y: f(5, 8)},
		&kernels.LayerNorm{X: f(20, 8), Scale: f(1, 8), Shift: f(1, 8), Y: f(20, 8), Eps: 1e-6},
		&kernels.Fill{Y: f(3, 3), Value: 2},
		&sleep{f(1, 9), 5 * time.Millisecond},
	}
}

func profiled(t *testing.T, steps int) (*Device, *device) {
	inner := &device{Device: ref.New()}
	d := New(inner, Peak{FLOPs: map[kernels.DType]float64{kernels.F32: 1e9}, Bytes: 1e9}, 2)
	list := ops(t, d)
	for range steps {
		d.Start()
		for _, op := range list {
			d.Run(op)
		}
		d.Write(matrix(t, d, kernels.F32, 1, 4), []float32{1, 2, 3, 4})
		time.Sleep(2 * time.Millisecond)
		d.Stop()
	}
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	return d, inner
}

func TestSums(t *testing.T) {
	const steps = 3
	d, inner := profiled(t, steps)
	// Outside of a step nothing is counted.
	d.Run(&sleep{matrix(t, d, kernels.F32, 1, 9), 0})
	inner.count.Ops, inner.count.FLOPs, inner.count.Bytes = inner.count.Ops-1, inner.count.FLOPs-1000, inner.count.Bytes-10

	p := d.Profile()
	var flops, bytes int64
	var spent time.Duration
	calls := 0
	rows := map[string]Row{}
	for _, r := range p.Rows {
		spent += r.Time
		rows[r.Op+" "+r.Shape] = r
		if r.Op == "Write" || r.Op == hostName {
			continue
		}
		flops, bytes, calls = flops+r.FLOPs, bytes+r.Bytes, calls+r.Calls
	}
	if c := &inner.count; flops != c.FLOPs || bytes != c.Bytes || calls != c.Ops {
		t.Errorf("%d calls, %d FLOPs and %d bytes, counted were %d, %d and %d", calls, flops, bytes, c.Ops, c.FLOPs, c.Bytes)
	}
	if spent != p.Time || p.Steps != steps {
		t.Errorf("the rows add up to %v, %d steps took %v", spent, p.Steps, p.Time)
	}
	for name, want := range map[string]int{
		"MatMul 20×12×8 nt": steps, "MatMul 8×12×20 tn": steps,
		"MatMul 304×12×8 nt": 2 * steps, // 300 and 301 are one class
		"Gather 50×8":        steps, "Sleep 1×9": steps, "Write ": steps,
	} {
		if rows[name].Calls != want {
			t.Errorf("%q was called %d times, want %d", name, rows[name].Calls, want)
		}
	}
	if r := rows["Sleep 1×9"]; r.Time < steps*5*time.Millisecond {
		t.Errorf("%d times 5 ms took %v", steps, r.Time)
	}
	if r := rows[hostName+" "]; r.Time < steps*2*time.Millisecond {
		t.Errorf("%d times 2 ms between the ops took %v", steps, r.Time)
	}
	// 16,000 FLOPs at 1 GFLOP/s need 16 µs.
	if r := rows["MatMul 20×12×8 nt"]; r.Best != steps*3840 || r.Share() != float64(r.Best)/float64(r.Time) {
		t.Errorf("%d products of 3,840 FLOPs need %v, a share of %v", steps, r.Best, r.Share())
	}

	total := Row{}
	for _, r := range p.ByOp() {
		total.Calls, total.Time, total.FLOPs = total.Calls+r.Calls, total.Time+r.Time, total.FLOPs+r.FLOPs
		if r.Op == "MatMul" && r.Calls != 4*steps {
			t.Errorf("%d products, want %d", r.Calls, 4*steps)
		}
	}
	if total.Time != p.Time || total.FLOPs != flops {
		t.Errorf("the ops add up to %v and %d FLOPs, want %v and %d", total.Time, total.FLOPs, p.Time, flops)
	}

	d.Reset("")
	if p := d.Profile(); len(p.Rows) != 0 || p.Steps != 0 || p.Time != 0 {
		t.Errorf("after Reset there are %d rows of %d steps", len(p.Rows), p.Steps)
	}
}

func TestTable(t *testing.T) {
	d, _ := profiled(t, 2)
	p := d.Profile()
	var b bytes.Buffer
	if err := p.WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(strings.TrimSpace(b.String()), "\n\n")
	if len(parts) != 3 || !strings.HasPrefix(parts[0], "2 steps on ref") {
		t.Fatalf("the table is\n%s", b.String())
	}
	for i, want := range []int{len(p.ByOp()), len(p.Rows)} {
		lines := strings.Split(parts[1+i], "\n")
		if len(lines) != 1+want {
			t.Errorf("%d rows, want %d", len(lines)-1, want)
		}
		last := math.Inf(1)
		for _, l := range lines[1:] {
			// The milliseconds stand before the share of time.
			words := strings.Fields(l)
			at := slices.Index(words, "%") - 2
			if at < 0 {
				t.Fatalf("no share of time in %q", l)
			}
			ms, err := strconv.ParseFloat(words[at], 64)
			if err != nil || ms > last {
				t.Errorf("%q follows a row of %v ms: %v", l, last, err)
			}
			last = ms
		}
	}
}

func TestTrace(t *testing.T) {
	d, _ := profiled(t, 3)
	d.Reset("second")
	d.Start()
	d.Run(&sleep{matrix(t, d, kernels.F32, 2, 2), time.Millisecond})
	d.Stop()
	var b bytes.Buffer
	if err := d.WriteTrace(&b); err != nil {
		t.Fatal(err)
	}
	steps, calls := ValidTrace(t, b.Bytes())
	// Two of the three steps of the first stage, one of the second.
	if steps != 3 || calls != 2*9+1 {
		t.Errorf("%d steps and %d calls are in the trace, want 3 and 19", steps, calls)
	}
}

// ValidTrace checks a file by the rules of the trace-event format: every
// event has its required fields, spans of one thread do not overlap, and no
// call lies outside of a step. It returns the number of steps and of calls.
func ValidTrace(t *testing.T, file []byte) (steps, calls int) {
	var f struct {
		Unit   string           `json:"displayTimeUnit"`
		Events []map[string]any `json:"traceEvents"`
	}
	if err := json.Unmarshal(file, &f); err != nil {
		t.Fatal(err)
	}
	if f.Unit != "ms" && f.Unit != "ns" {
		t.Errorf("displayTimeUnit is %q", f.Unit)
	}
	type span struct{ from, to float64 }
	threads := map[float64][]span{}
	for i, e := range f.Events {
		name, _ := e["name"].(string)
		ph, _ := e["ph"].(string)
		pid, okP := e["pid"].(float64)
		tid, okT := e["tid"].(float64)
		if name == "" || !okP || !okT || pid != math.Trunc(pid) || tid != math.Trunc(tid) {
			t.Fatalf("event %d: %v", i, e)
		}
		args, _ := e["args"].(map[string]any)
		switch ph {
		case "M":
			if n, _ := args["name"].(string); n == "" || name != "process_name" && name != "thread_name" {
				t.Errorf("event %d: %v", i, e)
			}
		case "X":
			ts, ok := e["ts"].(float64)
			dur, okD := e["dur"].(float64)
			if !ok || !okD || ts < 0 || dur < 0 {
				t.Errorf("event %d: %v", i, e)
			}
			s := span{ts, ts + dur}
			list := threads[tid]
			// Microseconds with three decimals, as floats.
			if n := len(list); n > 0 && list[n-1].to > s.from+1e-3 {
				t.Errorf("event %d: %q begins at %v, the one before it ends at %v", i, name, s.from, list[n-1].to)
			}
			threads[tid] = append(list, s)
		default:
			t.Errorf("event %d has phase %q", i, ph)
		}
	}
	for _, c := range threads[deviceThread] {
		if !slices.ContainsFunc(threads[stepThread], func(s span) bool { return s.from <= c.from+1e-3 && c.to <= s.to+1e-3 }) {
			t.Errorf("a call from %v to %v lies in no step", c.from, c.to)
		}
	}
	return len(threads[stepThread]), len(threads[deviceThread])
}

func TestTraceIsBounded(t *testing.T) {
	d := New(&kernels.Counter{}, Peak{}, 1)
	op := &kernels.Fill{Y: matrix(t, d, kernels.F32, 1, 1)}
	d.trace.room = 100
	d.Start()
	for range 110 {
		d.Run(op)
	}
	d.Stop()
	if len(d.trace.calls) != 100 || !d.trace.cut {
		t.Errorf("%d calls in the trace, cut: %v", len(d.trace.calls), d.trace.cut)
	}
}

// null runs nothing.
type null struct{ kernels.Counter }

func (*null) Run(kernels.Op) {}

// TestNoAllocation: a call of an op and shape that was seen before allocates
// what op.Bytes does, and nothing more.
func TestNoAllocation(t *testing.T) {
	d := New(&null{}, Peak{FLOPs: map[kernels.DType]float64{kernels.F32: 1}, Bytes: 1}, 0)
	list := ops(t, d)
	d.Start()
	run := func() {
		for _, op := range list {
			d.Run(op)
		}
	}
	run()
	own := testing.AllocsPerRun(100, func() {
		for _, op := range list {
			op.Bytes()
		}
	})
	if n := testing.AllocsPerRun(100, run); n > own {
		t.Errorf("%v allocations for %d ops, their own counts make %v", n, len(list), own)
	}
}

func TestIllFormedOp(t *testing.T) {
	d := New(ref.New(), Peak{}, 1)
	d.Start()
	d.Run(&kernels.AddScaled{X: matrix(t, d, kernels.F32, 1, 2), Y: matrix(t, d, kernels.F32, 1, 3)})
	d.Stop()
	if d.Sync() == nil {
		t.Error("no error")
	}
	if p := d.Profile(); len(p.Rows) != 1 || p.Rows[0].Op != hostName {
		t.Errorf("rows %v", p.Rows)
	}
}

func TestMeasure(t *testing.T) {
	p, err := Measure(&kernels.Counter{})
	if err != nil {
		t.Fatal(err)
	}
	if p.Bytes <= 0 || p.FLOPs[kernels.F32] <= 0 {
		t.Errorf("peak %v", p)
	}
	if got := (&Peak{FLOPs: map[kernels.DType]float64{kernels.F32: 2e9}, Bytes: 1e9}).best([]kernels.DType{kernels.F32}, 4000, 1000); got != 2*time.Microsecond {
		t.Errorf("4,000 FLOPs and 1,000 bytes at 2 GFLOP/s and 1 GB/s need %v, want 2 µs", got)
	}
}

func BenchmarkRun(b *testing.B) {
	d := New(&null{}, Peak{FLOPs: map[kernels.DType]float64{kernels.F32: 1}, Bytes: 1}, 0)
	list := ops(b, d)
	d.Start()
	for b.Loop() {
		d.Run(list[0])
	}
}
