// memory.h - device and pinned host memory.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace cuemu {

struct Allocation {
  char* base;
  size_t size;
  bool live;
  bool host;  // pinned host memory
};

char* allocate(size_t size, bool host);            // null: out of memory
bool release(char* base);                          // false: no live allocation begins there
const Allocation* find_allocation(const void* p);  // the live allocation on p's page
std::string describe_address(const void* p);       // "byte 256, past the end of an allocation of 256 bytes"
size_t memory_size();                              // of the device
uint64_t live_allocations();
uint64_t live_bytes();

extern char* arena;  // where all of them lie
constexpr size_t kArenaSize = 1ull << 40;
inline bool in_arena(const void* p) {
  return (uintptr_t)p - (uintptr_t)arena < kArenaSize;
}

// The emulator's own library: __device__ and __constant__ variables lie there.
bool in_library_data(const void* p);
void check_variable(const void* p, size_t size);  // faults unless a registered variable holds the range

}  // namespace cuemu
