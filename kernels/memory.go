package kernels

import "fmt"

// Sized is a Device that can tell how many bytes its Alloc can still give out,
// as one with a memory of its own can.
type Sized interface {
	// FreeMemory returns that number; false where it is not known after all.
	FreeMemory() (n int, known bool)
}

// FreeMemory is dev's, if it is Sized.
func FreeMemory(dev Device) (n int, known bool) {
	if d, ok := dev.(Sized); ok {
		return d.FreeMemory()
	}
	return 0, false
}

// OutOfMemory is the error of a device that has too little memory. The numbers
// are bytes.
type OutOfMemory struct {
	Want  int // what could not be had
	Held  int // what the device's Alloc gave out, and Free did not get back
	Free  int // what there is besides
	Total int // what the device has, for all programs
}

func (e *OutOfMemory) Error() string {
	mib := func(n int) float64 { return float64(n) / (1 << 20) }
	return fmt.Sprintf("out of memory: %.1f MiB are wanted, %.1f of %.1f MiB are free, this program has %.1f MiB", mib(e.Want), mib(e.Free), mib(e.Total), mib(e.Held))
}
