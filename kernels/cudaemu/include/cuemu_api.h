// cuemu_api.h - what the emulator offers beside the driver API.
//
// A caller finds these by dlsym(RTLD_DEFAULT, …): where it finds none, the
// driver is a real one.
#pragma once
#include <stddef.h>
#include <stdint.h>

#pragma GCC visibility push(default)
#ifdef __cplusplus
extern "C" {
#endif

// The order of threads, blocks, asynchronous copies and graph nodes from the
// next launch on, as CUEMU_SEED. 0 is the order of their numbers.
void cuemuSeed(uint64_t seed);

// ---- counters ----

// What one launch did. Only work between cuemuCount(1) and cuemuCount(0) is
// counted, because it makes every access slower.
typedef struct {
  const char* kernel;
  uint64_t threads;
  // Global memory. Bytes are what the threads ask for. Sectors are the distinct
  // 32-byte sectors of each warp-wide access, added up: times 32 this is the
  // traffic between the SM and L2. Unique sectors are those of the whole
  // launch: times 32 this is what DRAM must move at least.
  uint64_t read_bytes, write_bytes;
  uint64_t read_sectors, write_sectors;
  uint64_t unique_read_sectors, unique_write_sectors;
  uint64_t atomics;
  // Shared memory: bytes, and bank conflicts, the passes that a warp-wide
  // access needs beyond the number that its width makes necessary.
  uint64_t shared_bytes;
  uint64_t bank_conflicts;
  uint64_t barriers;  // __syncthreads, per block
  uint64_t shuffles;  // warp-wide shuffles, votes and reductions
  uint64_t mma;       // warp-wide mma.sync
  uint64_t mma_flops;
  uint64_t ldmatrix;        // warp-wide
  uint64_t cp_async_bytes;  // also in read_bytes
  uint64_t special;         // calls of exp, log, sqrt, tanh, erf, …, per thread
} cuemuCounters;

void cuemuCount(int on);
size_t cuemuLaunches(void);                          // counted launches
int cuemuLaunch(size_t i, cuemuCounters* counters);  // 0 if there is no such launch
void cuemuForget(void);                              // drops what was counted

// What all counted launches asked for, in bytes, of the allocation that begins at
// p: more than its size where something is read or written twice.
typedef struct {
  uint64_t read, written;
} cuemuBytes;

cuemuBytes cuemuAsked(const void* p);

// ---- what is alive ----

typedef struct {
  uint64_t allocations, bytes;  // device and pinned host memory
  uint64_t contexts, modules, streams, events, graphs;
} cuemuLive;

void cuemuAlive(cuemuLive* live);

// ---- failures on demand ----

// Makes the n-th call from now on fail (1 is the next, 0 none), once:
//   "ALLOC"   cuMemAlloc and its relatives: out of memory
//   "LAUNCH"  cuLaunchKernel: launch out of resources, nothing is run
//   "FAULT"   the kernel faults when it runs; the context is lost
//   "LOST"    at that launch the device falls off the bus, for good
// Environment variables CUEMU_FAIL_ALLOC=n etc. do the same from the start.
// Returns 0 if it does not know the name.
int cuemuFail(const char* what, uint64_t n);

#ifdef __cplusplus
}
#endif
#pragma GCC visibility pop
