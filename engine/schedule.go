package engine

import "math"

// Schedule is a learning rate over the steps of a stage: linear warm-up to
// Base over Warmup steps, then linear or cosine decay to Min at Steps.
type Schedule struct {
	Base, Min     float64
	Warmup, Steps int
	Cosine        bool
}

// Rate returns the learning rate of a step, counted from 0. The original's
// scheduler (linear) gives step 0 of a warm-up the rate 0.
func (s Schedule) Rate(step int) float64 {
	if step < s.Warmup {
		return s.Base * float64(step) / float64(s.Warmup)
	}
	if s.Steps <= s.Warmup || step >= s.Steps {
		if step < s.Steps || s.Steps == 0 {
			return s.Base
		}
		return s.Min
	}
	f := float64(step-s.Warmup) / float64(s.Steps-s.Warmup)
	if s.Cosine {
		return s.Min + (s.Base-s.Min)*0.5*(1+math.Cos(math.Pi*f))
	}
	return s.Min + (s.Base-s.Min)*(1-f)
}
