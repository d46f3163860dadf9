// count.h - counters, and the logs from which warp-wide accesses are put together.
#pragma once
#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "cuemu_api.h"

namespace cuemu {

struct Block;
enum class Space : uint8_t { Global, Shared };

// Lanes run one after the other, but the device's warp issues an access once
// for all of them. The n-th execution of one instruction since the warp's last
// synchronisation is taken to be the same access in every lane.
class LaneLogs {
 public:
  void add(const Block&, void* site, const void* p, size_t size, Space, bool write);
  void flush(Block&, unsigned warp);  // counts the warp's logged accesses

 private:
  struct Entry {
    void* site;
    uintptr_t address;
    uint16_t size;
    Space space;
    bool write;
  };
  std::vector<Entry> lanes_[1024];
};

// Bytes that a block's threads ask for, by allocation.
class Asked {
 public:
  void add(const void* p, size_t size, bool write);
  void collect();  // adds all to what cuemuAsked returns, and forgets them

 private:
  std::unordered_map<const char*, cuemuBytes> bytes_;  // by first byte
};

// rows: eight rows of 16 bytes in shared memory, which one pass reads.
void count_ldmatrix_conflicts(cuemuCounters&, const char* const* rows);
void add_counters(cuemuCounters& total, const cuemuCounters&);

// The list of counted launches.
bool counting_on();
void keep_counters(const cuemuCounters&);

}  // namespace cuemu
