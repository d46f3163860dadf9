// Package cuda computes the ops of package kernels on an NVIDIA GPU, with
// kernels of our own (device/*.cu) that are loaded through gorgonia.org/cu.
//
// It computes in builds with the tag cuda alone (make cuda); in others New says
// so and nothing needs a C compiler. A build with the tag also starts where
// there is no driver.
//
// Sums are taken in an order that depends on the shapes alone and nothing is
// added atomically: the same op on the same bytes gives the same bits, unless
// Options.AnyOrder gives that up.
package cuda

// Options choose how a device multiplies. The zero value suits all but tests and
// measurements.
type Options struct {
	// AnyOrder lets cuBLASLt take any of its algorithms, such as those that split
	// a product along k and add the parts to the result in place, in its type and
	// as they get done. The same run may then end with other bits. Our own
	// kernels have no such variant.
	AnyOrder bool
	// LtLeast is from how many multiply-adds on a product goes to cuBLASLt; 0
	// stands for 2²⁴.
	LtLeast int
}
