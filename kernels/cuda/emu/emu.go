//go:build cuda

// Package emu speaks to the emulated driver that tests run on
// (kernels/cudaemu): failures on demand, and what is alive.
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
