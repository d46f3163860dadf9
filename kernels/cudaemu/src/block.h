// block.h - the state of the thread block that runs on this OS thread.
//
// Every CUDA thread is a fibre: it runs until it has to wait for others (a
// barrier, a collective), and then another ready fibre of the block runs, in
// an order drawn from the seed. Never seen by a .cu file.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "access.h"
#include "count.h"
#include "cuemu.h"

namespace cuemu {

constexpr unsigned kMaxThreads = 1024;
constexpr size_t kStackSize = 64 * 1024;
constexpr size_t kMaxDynamicShared = 256 * 1024;
constexpr uint32_t kPoison = 0x7fff7fff;  // NaN as f64, f32, f16 and bf16; far out of bounds as an index

// CUresult values; cuda.h is not included here.
enum Status { kSuccess = 0, kIllegalAddress = 700, kMisalignedAddress = 716, kLaunchFailed = 719 };

struct AsyncCopy {  // a cp.async under way
  char* shared;
  const char* global;
  int size, source_size;
  int group;
};

struct Fibre {
  void* stack_pointer;
  char* stack;
  dim3 index;
  std::vector<AsyncCopy> copies;
  int copy_group;  // the group that the next cp.async belongs to
};

enum class Collective : uint8_t { Sync, Shuffle, Ballot, Reduce, MmaBf16, MmaTf32, Ldmatrix };

struct Warp {
  uint32_t ready;    // lanes that can run
  uint32_t alive;    // lanes that have not returned
  uint32_t arrived;  // lanes that wait in a collective
  struct Arrival {   // what each of those called
    Collective kind;
    Site site;
    uint32_t mask;
  } arrivals[32];
  uint32_t input[32][12];
  uint32_t result[32][4];
  uint32_t last_sync;  // Block::time at the last __syncwarp
};

struct Tally {
  int nonzero = 0, zero = 0;
};

struct Block {
  dim3 grid, size, index;
  unsigned threads, warp_count;
  const Kernel* kernel;
  void** args;

  std::vector<Fibre> fibres = std::vector<Fibre>(kMaxThreads);
  std::vector<Warp> warps;
  unsigned current = 0;  // the thread that runs
  void* worker_stack_pointer = nullptr;
  bool inside = false;  // a fibre runs, not the worker

  unsigned alive, arrived;  // of all threads, at __syncthreads
  Site barrier_site;
  Tally barrier_tally;      // of this barrier's predicates
  Tally barrier_result[2];  // of the last two barriers
  unsigned barrier_parity;

  char *dynamic, *dynamic_end;  // shared memory of this launch
  size_t dynamic_size;
  char *static_shared, *static_shared_end;  // all __shared__ variables of the library
  char *stacks, *stacks_end;

  uint64_t seed, random;

  Status status;  // the first fault, and what it was
  std::string fault;

  // Orders accesses: every barrier and every __syncwarp advances it. It goes
  // on from block to block, so that old marks are always in the past.
  uint32_t time = 1;
  uint32_t last_barrier = 1;
  uint32_t block_start = 1;
  bool fenced = false;  // called __threadfence: accesses are no longer held against other blocks
  SharedShadow dynamic_shadow, static_shadow;
  SectorTable sectors;
  bool check_races;

  bool counting;
  cuemuCounters counters;
  LaneLogs logs;
  Asked asked;

  Warp& warp() { return warps[current >> 5]; }
  unsigned lane() const { return current & 31; }
  Fibre& fibre() { return fibres[current]; }
};

extern thread_local Block* running;  // null on threads that are not workers

// fibre.cpp
void start_fibres(Block&);        // runs the block's threads to their ends
void yield();                     // runs others; returns when this thread is ready again
[[noreturn]] void leave_block();  // abandons the block after a fault
uint32_t draw(Block&);            // 31 random bits
[[noreturn]] void fault(Status, const std::string& what);

// warp.cpp
void release_barrier(Block&);  // all that are alive have arrived

// matrix.cpp
void check_copies_done(Block&, Fibre&);

// For messages: "thread (1,0,0)"
std::string thread_name(const Block&, unsigned thread);
// "byte 16 of dynamic shared memory"
std::string describe_place(const Block&, const void* p);

}  // namespace cuemu
