// all.cpp - the test's kernels, as they are compiled into the emulator.
#include "faults.cu"
#include "sound.cu"

// A stale build on purpose: the image has another signature.
static void other_arguments_before(float* y, int n) {
  y[0] = n;
}
static cuemu::Kernel* stale = cuemu::add_kernel("other_arguments", &other_arguments_before);

// Not in the image.
static void only_in_emulator(float* y) {
  y[0] = 1;
}
CUEMU_KERNEL(only_in_emulator)
