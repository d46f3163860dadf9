// access.cpp - every load and store of a kernel, as the compiler reports it.
//
// g++ -fsanitize=thread calls a __tsan_ function before each access to memory
// that others could see. The emulator brings its own versions of them, which
// classify the address, check it, and hand it to the race check and the
// counters. libtsan is not linked.
//
// Models: a global access lies inside one live allocation, to the byte; an
// access of n bytes by a type of alignment n is aligned; kernels touch nothing
// of the host's memory; shared memory ends where the launch said.
// Does not see: memcpy with a size unknown at compile time; accesses that the
// optimiser removed, which nvcc would remove too. Between two static __shared__
// variables there is no gap (an index beyond a fixed-size array traps where the
// array is used directly: -fsanitize=bounds).
#include "block.h"
#include "memory.h"

namespace cuemu {

bool in_shared(const Block& b, const void* p, size_t size) {
  auto a = (const char*)p;
  return (a >= b.dynamic && a + size <= b.dynamic + b.dynamic_size) ||
         (a >= b.static_shared && a + size <= b.static_shared_end);
}

void check_global(Block&, const void* p, size_t size, bool write) {
  const Allocation* a = find_allocation(p);
  if (a && (const char*)p >= a->base && (const char*)p + size <= a->base + a->size) return;
  fault(kIllegalAddress,
        (write ? "write of " : "read of ") + std::to_string(size) + " bytes at " + describe_address(p));
}

std::string describe_place(const Block& b, const void* p) {
  auto a = (const char*)p;
  if (a >= b.dynamic && a < b.dynamic_end) return "byte " + std::to_string(a - b.dynamic) + " of dynamic shared memory";
  if (a >= b.static_shared && a < b.static_shared_end) return "a static __shared__ variable";
  return describe_address(p);
}

[[noreturn]] static void out_of_place(Block& b, const char* p, size_t size, bool write) {
  std::string what = (write ? "write of " : "read of ") + std::to_string(size) + " bytes ";
  if (p >= b.dynamic_end - kMaxDynamicShared && p < b.dynamic_end + 4096)
    fault(kIllegalAddress, what + "at byte " + std::to_string(p - b.dynamic) + " of dynamic shared memory of " +
                               std::to_string(b.dynamic_size) + " bytes");
  fault(kIllegalAddress, what + "at " + describe_address(p));
}

// In the order of likelihood.
static void access(const void* pointer, size_t size, bool write, bool aligned, void* site) {
  Block* b = running;
  if (!b || !b->inside) return;  // static initialisation on a host thread
  auto p = (const char*)pointer;
  if (aligned && (uintptr_t)p & (size - 1)) {
    fault(kMisalignedAddress, (write ? "misaligned write of " : "misaligned read of ") + std::to_string(size) +
                                  " bytes at " + describe_place(*b, p));
  }
  if (in_arena(p)) {
    check_global(*b, p, size, write);
    note_global(*b, p, size, write, site);
  } else if (in_shared(*b, p, size)) {
    note_shared(*b, p, size, write);
    if (b->counting) {
      b->counters.shared_bytes += size;
      b->logs.add(*b, site, p, size, Space::Shared, write);
    }
  } else if (p >= b->stacks && p < b->stacks_end) {
    return;  // a local variable
  } else if (in_library_data(p)) {
    if (write) check_variable(p, size);
    return;  // __constant__ and __device__ variables, tables
  } else {
    out_of_place(*b, p, size, write);
  }
}

}  // namespace cuemu

#define ACCESS(name, size, write, aligned)                               \
  extern "C" void __tsan_##name(void* p) {                               \
    cuemu::access(p, size, write, aligned, __builtin_return_address(0)); \
  }
#define BOTH(suffix, size, aligned)          \
  ACCESS(read##suffix, size, false, aligned) \
  ACCESS(write##suffix, size, true, aligned)
BOTH(1, 1, true)
BOTH(2, 2, true)
BOTH(4, 4, true)
BOTH(8, 8, true)
BOTH(16, 16, true)
#undef BOTH
#define BOTH(suffix, size)                           \
  ACCESS(unaligned_read##suffix, size, false, false) \
  ACCESS(unaligned_write##suffix, size, true, false)
BOTH(2, 2)
BOTH(4, 4)
BOTH(8, 8)
BOTH(16, 16)

extern "C" void __tsan_read_range(void* p, size_t size) {
  cuemu::access(p, size, false, false, __builtin_return_address(0));
}
extern "C" void __tsan_write_range(void* p, size_t size) {
  cuemu::access(p, size, true, false, __builtin_return_address(0));
}
extern "C" void __tsan_init() {}
