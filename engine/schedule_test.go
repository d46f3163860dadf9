package engine

import (
	"math"
	"testing"
)

// The values are worked out by hand.
func TestSchedule(t *testing.T) {
	linear := Schedule{Base: 1, Min: 0.2, Warmup: 4, Steps: 12}
	cosine := linear
	cosine.Cosine = true
	for _, c := range []struct {
		name string
		s    Schedule
		step int
		want float64
	}{
		{"linear", linear, 0, 0},
		{"linear", linear, 1, 0.25},
		{"linear", linear, 3, 0.75},
		{"linear", linear, 4, 1},    // the peak, and the first of 8 steps down
		{"linear", linear, 5, 0.9},  // 0.8 / 8 less
		{"linear", linear, 8, 0.6},  // half-way between 1 and 0.2
		{"linear", linear, 11, 0.3}, // the last step
		{"linear", linear, 12, 0.2},
		{"linear", linear, 1000, 0.2},
		{"cosine", cosine, 2, 0.5},
		{"cosine", cosine, 4, 1},
		{"cosine", cosine, 6, 0.6 + 0.4*math.Sqrt2/2}, // a quarter: cos 45°
		{"cosine", cosine, 8, 0.6},                    // half: cos 90°
		{"cosine", cosine, 10, 0.6 - 0.4*math.Sqrt2/2},
		{"cosine", cosine, 12, 0.2},
		{"no warm-up", Schedule{Base: 2, Steps: 4}, 0, 2},
		{"no warm-up", Schedule{Base: 2, Steps: 4}, 3, 0.5},
		{"warm-up alone", Schedule{Base: 2, Warmup: 4, Steps: 4}, 3, 1.5},
		{"warm-up alone", Schedule{Base: 2, Min: 0.5, Warmup: 4, Steps: 4}, 4, 0.5},
		{"no steps", Schedule{Base: 2}, 7, 2},
	} {
		if got := c.s.Rate(c.step); math.Abs(got-c.want) > 1e-15 {
			t.Errorf("%s, step %d: %v, want %v", c.name, c.step, got, c.want)
		}
	}
}
