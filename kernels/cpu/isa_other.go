//go:build !amd64

package cpu

// available returns the instruction sets of this processor, the best first.
func available() []*isa { return []*isa{&generic} }
