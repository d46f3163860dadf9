package cpu

import (
	"fmt"
	"testing"

	"vlmo-train/kernels"
	"vlmo-train/kernels/conformance"
)

func TestConformance(t *testing.T) {
	for _, s := range available() {
		for threads := 1; threads <= 3; threads++ {
			t.Run(fmt.Sprintf("%s/%d", s.name, threads), func(t *testing.T) {
				conformance.Run(t, func() (kernels.Device, error) {
					return New(Options{Threads: threads, ISA: s.name})
				})
			})
		}
	}
}
