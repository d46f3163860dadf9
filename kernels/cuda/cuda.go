// Package cuda computes the ops of package kernels on an NVIDIA GPU, with
// kernels of our own (device/*.cu) that are loaded through gorgonia.org/cu.
//
// It computes in builds with the tag cuda alone (make cuda); in others New says
// so and nothing needs a C compiler. A build with the tag also starts where
// there is no driver.
//
// Sums are taken in an order that depends on the shapes alone and nothing is
// added atomically: the same op on the same bytes gives the same bits.
package cuda
