package profile

import (
	"bufio"
	"encoding/json"
	"io"
	"time"
)

// maxCalls bounds the calls of a trace: a viewer has to load it.
const maxCalls = 1 << 19

// trace keeps the calls and steps of the first steps of every stage.
type trace struct {
	most  int // steps of a stage
	room  int // for calls
	left  int // of this one
	cut   bool
	calls []call
	steps []step
	name  string
	count int
}

type call struct {
	row          *Row
	start, took  time.Duration
	flops, bytes int64
}

type step struct {
	stage       string
	number      int
	start, took time.Duration
}

func (t *trace) stage(name string) { t.name, t.left, t.count = name, t.most, 0 }

func (t *trace) call(r *Row, start, took time.Duration, flops, bytes int64) {
	if t.left <= 0 {
		return
	}
	if len(t.calls) >= t.room {
		t.cut = true
		return
	}
	t.calls = append(t.calls, call{r, start, took, flops, bytes})
}

func (t *trace) step(start, took time.Duration) {
	t.count++
	if t.left > 0 {
		t.left--
		t.steps = append(t.steps, step{t.name, t.count, start, took})
	}
}

// event is one of Chrome's trace events: "X" is a span of time, "M" names a
// process or a thread. Times are in microseconds.
type event struct {
	Name  string         `json:"name"`
	Cat   string         `json:"cat,omitempty"`
	Phase string         `json:"ph"`
	Start *float64       `json:"ts,omitempty"`
	Took  *float64       `json:"dur,omitempty"`
	PID   int            `json:"pid"`
	TID   int            `json:"tid"`
	Args  map[string]any `json:"args,omitempty"`
}

// Threads of the trace.
const (
	stepThread = iota + 1
	deviceThread
)

func span(name, cat string, tid int, start, took time.Duration, args map[string]any) event {
	ts, dur := float64(start)/1e3, float64(took)/1e3
	return event{Name: name, Cat: cat, Phase: "X", Start: &ts, Took: &dur, PID: 1, TID: tid, Args: args}
}

// WriteTrace writes the traced steps in Chrome's JSON trace-event format,
// which chrome://tracing and Perfetto open.
func (d *Device) WriteTrace(w io.Writer) error {
	b := bufio.NewWriter(w)
	b.WriteString(`{"displayTimeUnit":"ms","otherData":`) // an error is kept for Flush
	other, err := json.Marshal(map[string]any{"device": d.Device.Name(), "peak": d.peak.String(), "cut": d.trace.cut})
	if err != nil {
		return err
	}
	b.Write(other)
	b.WriteString(`,"traceEvents":[`)
	first := true
	emit := func(e event) error {
		if !first {
			b.WriteByte(',')
		}
		first = false
		b.WriteByte('\n')
		line, err := json.Marshal(e)
		if err != nil {
			return err
		}
		_, err = b.Write(line)
		return err
	}
	name := func(what, name string, tid int) error {
		return emit(event{Name: what, Phase: "M", PID: 1, TID: tid, Args: map[string]any{"name": name}})
	}
	if err := name("process_name", "vlmo-train", 0); err != nil {
		return err
	}
	if err := name("thread_name", "steps", stepThread); err != nil {
		return err
	}
	if err := name("thread_name", d.Device.Name(), deviceThread); err != nil {
		return err
	}
	for _, s := range d.trace.steps {
		args := map[string]any{"step": s.number}
		if s.stage != "" {
			args["stage"] = s.stage
		}
		if err := emit(span("step", "step", stepThread, s.start, s.took, args)); err != nil {
			return err
		}
	}
	for i := range d.trace.calls {
		c := &d.trace.calls[i]
		args := map[string]any{"shape": c.row.Shape, "flops": c.flops, "bytes": c.bytes}
		if c.took > 0 {
			args["GFLOP/s"], args["GB/s"] = rate(c.flops, c.took), rate(c.bytes, c.took)
		}
		if err := emit(span(c.row.Op, "op", deviceThread, c.start, c.took, args)); err != nil {
			return err
		}
	}
	b.WriteString("\n]}\n")
	return b.Flush()
}
