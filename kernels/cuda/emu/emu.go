//go:build cuda

// Package emu speaks to the emulated driver that tests run on
// (kernels/cudaemu): failures on demand, what is alive, and what launches did.
package emu

/*
#cgo LDFLAGS: -ldl
#include <dlfcn.h>
#include <stdlib.h>
#include "../../cudaemu/include/cuemu_api.h"

// The emulator's functions are in the driver, if it is the emulator.
static void *find(const char *name) {
	static void *driver;
	if (!driver) driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
	return driver ? dlsym(driver, name) : 0;
}
static int present(void) { return find("cuemuFail") != 0; }
static int fail(const char *what, uint64_t n) {
	int (*f)(const char *, uint64_t) = find("cuemuFail");
	return f ? f(what, n) : 0;
}
static void alive(cuemuLive *live) {
	void (*f)(cuemuLive *) = find("cuemuAlive");
	if (f) f(live);
}
static void count(int on) {
	void (*f)(int) = find("cuemuCount");
	if (f) f(on);
}
static size_t launches(void) {
	size_t (*f)(void) = find("cuemuLaunches");
	return f ? f() : 0;
}
static void seed(uint64_t s) {
	void (*f)(uint64_t) = find("cuemuSeed");
	if (f) f(s);
}
static void forget(void) {
	void (*f)(void) = find("cuemuForget");
	if (f) f();
}
static int launch(size_t i, cuemuCounters *c) {
	int (*f)(size_t, cuemuCounters *) = find("cuemuLaunch");
	return f ? f(i, c) : 0;
}
static cuemuBytes asked(size_t p) {
	cuemuBytes none = {0, 0}, (*f)(const void *) = find("cuemuAsked");
	return f ? f((const void *)p) : none;
}
*/
import "C"

import "unsafe"

// Present reports whether the driver is the emulator.
func Present() bool { return C.present() != 0 }

// A Failure is a call that fails.
type Failure string

const (
	Alloc  Failure = "ALLOC"  // an allocation: out of memory
	Launch Failure = "LAUNCH" // a launch is refused, nothing is run
	Fault  Failure = "FAULT"  // a kernel faults when it runs: the context is lost
	Lost   Failure = "LOST"   // the device is lost at a launch, for the rest of the process
)

// Fail makes the n-th call from now on fail, once; 0 is none. It reports
// whether the driver can do so.
func Fail(what Failure, n int) bool {
	name := C.CString(string(what))
	defer C.free(unsafe.Pointer(name))
	return C.fail(name, C.uint64_t(n)) != 0
}

// Live counts what a program has not given back.
type Live struct{ Allocations, Contexts, Streams, Events int }

// Alive returns what there is; nothing, where the driver is no emulator.
func Alive() Live {
	var l C.cuemuLive
	C.alive(&l)
	return Live{int(l.allocations), int(l.contexts), int(l.streams), int(l.events)}
}

// Counters is what a launch did; cuemu_api.h says how it is counted.
type Counters struct {
	Kernel    string
	L2, DRAM  int64 // bytes between SM and L2; bytes that DRAM moves at least
	FLOPs     int64 // of mma.sync
	Shared    int64 // bytes of shared memory
	Conflicts int64 // passes of shared memory beyond those needed
	Special   int64 // calls of exp and the like
}

// Count runs f, which waits for all that it launches, and returns what each of
// its launches did.
func Count(f func()) []Counters {
	C.forget()
	C.count(1)
	f()
	C.count(0)
	var all []Counters
	var c C.cuemuCounters
	for i := C.size_t(0); C.launch(i, &c) != 0; i++ {
		all = append(all, Counters{
			Kernel: C.GoString(c.kernel),
			L2:     32 * int64(c.read_sectors+c.write_sectors), DRAM: 32 * int64(c.unique_read_sectors+c.unique_write_sectors),
			FLOPs: int64(c.mma_flops), Shared: int64(c.shared_bytes), Conflicts: int64(c.bank_conflicts), Special: int64(c.special),
		})
	}
	return all
}

// Launches returns how many launches have run within the Count under way.
func Launches() int { return int(C.launches()) }

// Seed sets the order of what may run in any order, as CUEMU_SEED; with 0
// nothing runs that nobody waits for.
func Seed(n int) { C.seed(C.uint64_t(n)) }

// Asked returns the bytes that the launches of the last Count read and wrote of
// the allocation that begins at addr.
func Asked(addr uintptr) int64 {
	b := C.asked(C.size_t(addr))
	return int64(b.read + b.written)
}
