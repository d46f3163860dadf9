// access.h - what is known about the memory that a kernel touches.
//
// Shadows record who touched a byte last and when, to tell whether a barrier
// lies between two accesses. "When" is Block::time.
#pragma once
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

namespace cuemu {

struct Block;

// The last accesses to one byte.
struct ByteMark {
  uint16_t writer;      // thread
  uint16_t reader;      // thread; one of them where several read
  uint8_t readers;      // Readers
  bool async;           // a cp.async of the writer is under way
  uint32_t write_time;  // 0: never
  uint32_t read_time;
};
enum Readers : uint8_t { kOneReader, kOneWarp, kManyWarps };

// Marks of a range of shared memory.
struct SharedShadow {
  char* base = nullptr;
  ByteMark* marks = nullptr;
  size_t size = 0;
  ByteMark* at(const void* p) { return marks + ((const char*)p - base); }
};

// 32 bytes of global memory that a block touched. Bit i of a mask is byte i.
struct Sector {
  uintptr_t number;  // address / 32
  uint32_t read, written, atomic;
  ByteMark bytes[32];
};

// The sectors that a block touched: a hash table that is quick to empty.
class SectorTable {
 public:
  Sector& operator[](uintptr_t number);
  const std::vector<Sector>& sectors() const { return sectors_; }
  void clear();

 private:
  std::vector<Sector> sectors_;
  std::vector<uint32_t> slots_;  // 1 + index into sectors_, 0: empty
  size_t last_ = 0;
};

// The sectors that a launch's finished blocks touched.
class LaunchSectors {
 public:
  // Adds a block's; returns what races with blocks before it, or "".
  std::string add(const Block&);
  void totals(uint64_t* read, uint64_t* written) const;

 private:
  struct Masks {
    uint32_t read, written, atomic;
  };
  std::mutex mutex_;
  std::unordered_map<uintptr_t, Masks> sectors_;
};

bool in_shared(const Block&, const void* p, size_t size);
// Faults unless the range lies inside one live allocation.
void check_global(Block&, const void* p, size_t size, bool write);
// Hold an access against those before it, and remember it.
void note_shared(Block&, const void* p, size_t size, bool write);
void note_global(Block&, const void* p, size_t size, bool write, void* site);
void note_atomic(Block&, const void* p, size_t size);
void begin_async_write(Block&, const void* shared, size_t size);
void end_async_write(Block&, const void* shared, size_t size);

}  // namespace cuemu
