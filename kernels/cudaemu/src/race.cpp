// race.cpp - data races in shared and global memory.
//
// Models: two accesses to a byte, at least one a write, by different threads,
// need a __syncthreads between them, or a __syncwarp where both threads are of
// one warp. Between blocks there is no order at all: what one writes no other
// may touch, unless both use atomics. Found whatever order the threads ran in.
// Does not model: __syncwarp of a part of a warp (it orders the whole warp);
// what a block touches after __threadfence() is not held against other blocks,
// so that "the last block adds up" works; order between launches, which the
// streams give (driver_stream.cpp).
#include "block.h"
#include "memory.h"

namespace cuemu {

// ---- one byte ----

static bool ordered(Block& b, unsigned thread, uint32_t time) {
  if (thread == b.current || time < b.last_barrier) return true;
  return thread >> 5 == b.current >> 5 && time < b.warp().last_sync;
}

[[noreturn]] static void race(Block& b, const char* place, const char* now, unsigned other, const char* before,
                              const void* p) {
  fault(kLaunchFailed, std::string("race in ") + place + " memory: " + thread_name(b, b.current) + " " + now + " " +
                           describe_place(b, p) + ", which " + thread_name(b, other) + " " + before +
                           " with no barrier between them");
}

static void mark_read(Block& b, ByteMark& m, const char* place, const void* p) {
  if (m.write_time && !ordered(b, m.writer, m.write_time)) race(b, place, "reads", m.writer, "wrote", p);
  bool current = m.read_time >= b.last_barrier;  // readers since the last barrier count
  if (!current || (m.readers != kManyWarps && ordered(b, m.reader, m.read_time))) {
    m.readers = kOneReader;
  } else if (m.readers != kManyWarps) {
    m.readers = m.reader >> 5 == b.current >> 5 ? kOneWarp : kManyWarps;
  }
  m.reader = b.current;
  m.read_time = b.time;
}

static void mark_write(Block& b, ByteMark& m, const char* place, const void* p) {
  if (m.write_time && !ordered(b, m.writer, m.write_time)) race(b, place, "writes", m.writer, "wrote", p);
  if (m.read_time >= b.last_barrier) {
    bool safe = m.readers == kOneReader ? ordered(b, m.reader, m.read_time)
                : m.readers == kOneWarp ? m.reader >> 5 == b.current >> 5 && m.read_time < b.warp().last_sync
                                        : false;
    if (!safe) race(b, place, "writes", m.reader, "or another thread read", p);
  }
  m.writer = b.current;
  m.write_time = b.time;
  m.async = false;
}

// ---- shared memory ----

static SharedShadow& shadow_of(Block& b, const void* p) {
  return p >= b.dynamic && p < b.dynamic_end ? b.dynamic_shadow : b.static_shadow;
}

static void check_async(Block& b, const ByteMark& m, const void* p) {
  if (m.async && m.write_time >= b.block_start)
    fault(kLaunchFailed, thread_name(b, b.current) + " touches " + describe_place(b, p) + ", which a cp.async of " +
                             thread_name(b, m.writer) + " is still writing (missing wait)");
}

void note_shared(Block& b, const void* p, size_t size, bool write) {
  if (!b.check_races) return;
  ByteMark* m = shadow_of(b, p).at(p);
  for (size_t i = 0; i < size; i++) {
    const char* byte = (const char*)p + i;
    check_async(b, m[i], byte);
    if (write)
      mark_write(b, m[i], "shared", byte);
    else
      mark_read(b, m[i], "shared", byte);
  }
}

void begin_async_write(Block& b, const void* p, size_t size) {
  if (!b.check_races) return;
  note_shared(b, p, size, true);
  ByteMark* m = shadow_of(b, p).at(p);
  for (size_t i = 0; i < size; i++) m[i].async = true;
}

void end_async_write(Block& b, const void* p, size_t size) {
  if (!b.check_races) return;
  ByteMark* m = shadow_of(b, p).at(p);
  for (size_t i = 0; i < size; i++) m[i].async = false;
  for (size_t i = 0; i < size; i++) m[i].write_time = b.time;
}

// ---- global memory ----

Sector& SectorTable::operator[](uintptr_t number) {
  if (last_ < sectors_.size() && sectors_[last_].number == number) return sectors_[last_];
  if (slots_.size() < 2 * (sectors_.size() + 1)) {  // grow, at most half full
    slots_.assign(std::max<size_t>(64, 2 * slots_.size()), 0);
    for (size_t i = 0; i < sectors_.size(); i++) {
      size_t s = sectors_[i].number * 0x9E3779B97F4A7C15ull >> 20;
      while (slots_[s & (slots_.size() - 1)]) s++;
      slots_[s & (slots_.size() - 1)] = i + 1;
    }
  }
  size_t s = number * 0x9E3779B97F4A7C15ull >> 20;
  for (;; s++) {
    uint32_t& slot = slots_[s & (slots_.size() - 1)];
    if (!slot) {
      sectors_.push_back({});
      sectors_.back().number = number;
      slot = sectors_.size();
    }
    if (sectors_[slot - 1].number == number) {
      last_ = slot - 1;
      return sectors_[last_];
    }
  }
}

void SectorTable::clear() {
  if (sectors_.empty()) return;
  sectors_.clear();
  std::fill(slots_.begin(), slots_.end(), 0);
}

void note_global(Block& b, const void* p, size_t size, bool write, void* site) {
  if (b.counting) {
    (write ? b.counters.write_bytes : b.counters.read_bytes) += size;
    b.logs.add(b, site, p, size, Space::Global, write);
    b.asked.add(p, size, write);
  }
  if (!b.check_races && !b.counting) return;
  auto address = (uintptr_t)p;
  for (size_t done = 0; done < size;) {
    unsigned offset = (address + done) % 32;
    unsigned n = std::min<size_t>(32 - offset, size - done);
    Sector& s = b.sectors[(address + done) / 32];
    uint32_t mask = (uint32_t)(((1ull << n) - 1) << offset);
    if (!b.fenced) (write ? s.written : s.read) |= mask;
    for (unsigned i = 0; b.check_races && i < n; i++) {
      const char* byte = (const char*)p + done + i;
      if (write)
        mark_write(b, s.bytes[offset + i], "global", byte);
      else
        mark_read(b, s.bytes[offset + i], "global", byte);
    }
    done += n;
  }
}

void note_atomic(Block& b, const void* p, size_t size) {
  if (b.counting) b.counters.atomics++;
  if (in_shared(b, p, size)) {
    if (b.check_races) check_async(b, *shadow_of(b, p).at(p), p);
    return;
  }
  check_global(b, p, size, true);
  b.sectors[(uintptr_t)p / 32].atomic |= (uint32_t)(((1ull << size) - 1) << (uintptr_t)p % 32);
}

std::string LaunchSectors::add(const Block& b) {
  std::lock_guard<std::mutex> lock(mutex_);
  for (const Sector& s : b.sectors.sectors()) {
    Masks& m = sectors_[s.number];
    if (b.check_races) {
      uint32_t conflict = (s.written & (m.read | m.written | m.atomic)) | (s.read & (m.written | m.atomic)) |
                          (s.atomic & (m.read | m.written));
      if (conflict) {
        auto p = (const char*)(s.number * 32 + __builtin_ctz(conflict));
        bool writes = (s.written | s.atomic) >> __builtin_ctz(conflict) & 1;
        return std::string("race between blocks: this one ") + (writes ? "writes " : "reads ") + describe_address(p) +
               ", which another block of the launch touches too";
      }
    }
    m.read |= s.read;
    m.written |= s.written;
    m.atomic |= s.atomic;
  }
  return "";
}

void LaunchSectors::totals(uint64_t* read, uint64_t* written) const {
  for (auto& [number, m] : sectors_) {
    *read += m.read != 0;
    *written += (m.written | m.atomic) != 0;
  }
}

void fence() {
  running->fenced = true;
}

}  // namespace cuemu
