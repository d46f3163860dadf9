//go:build cuda

package cuda

// #cgo LDFLAGS: -ldl
// #define _GNU_SOURCE
// #include <dlfcn.h>
// #include "../cudaemu/include/cuemu_api.h"
//
// static int emulated(void) { return dlsym(RTLD_DEFAULT, "cuemuCount") != 0; }
// static void count(int on) { ((void (*)(int))dlsym(RTLD_DEFAULT, "cuemuCount"))(on); }
// static void forget(void) { ((void (*)(void))dlsym(RTLD_DEFAULT, "cuemuForget"))(); }
// static int launch(size_t i, cuemuCounters *c) {
//   return ((int (*)(size_t, cuemuCounters *))dlsym(RTLD_DEFAULT, "cuemuLaunch"))(i, c);
// }
// static cuemuBytes asked(size_t p) {
//   return ((cuemuBytes (*)(const void *))dlsym(RTLD_DEFAULT, "cuemuAsked"))((const void *)p);
// }
import "C"

// emulated reports whether the driver is kernels/cudaemu, which counts.
func emulated() bool { return C.emulated() != 0 }

// counters is what the emulator counted of a launch, see cuemu_api.h.
type counters struct {
	kernel          string
	l2, dram        int64 // bytes between SM and L2; bytes that DRAM moves at least
	flops           int64 // of mma.sync
	conflicts       int64 // passes of shared memory beyond those needed
	shared, special int64 // bytes; calls of exp and the like
}

// counted runs f with counters on and returns those of each launch.
func (d *device) counted(f func()) []counters {
	d.Sync()
	C.forget()
	C.count(1)
	f()
	d.Sync()
	C.count(0)
	var all []counters
	var c C.cuemuCounters
	for i := C.size_t(0); C.launch(i, &c) != 0; i++ {
		all = append(all, counters{
			kernel: C.GoString(c.kernel),
			l2:     32 * int64(c.read_sectors+c.write_sectors), dram: 32 * int64(c.unique_read_sectors+c.unique_write_sectors),
			flops: int64(c.mma_flops), conflicts: int64(c.bank_conflicts), shared: int64(c.shared_bytes), special: int64(c.special),
		})
	}
	return all
}

// asked returns the bytes that the launches of the last call of counted read and
// wrote of an allocation.
func asked(addr uintptr) int64 {
	b := C.asked(C.size_t(addr))
	return int64(b.read + b.written)
}
