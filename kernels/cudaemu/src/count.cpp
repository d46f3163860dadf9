// count.cpp - memory traffic, bank conflicts and special instructions of each launch.
//
// Models: 32-byte sectors of global memory and 32 banks of 4 bytes of shared
// memory, as Volta and later have them. A shared access of 8 (16) bytes a lane
// is served half (quarter) warp by half warp; lanes that want the same word of
// a bank get it in one pass.
// Does not model: caches; divisions, which the language has no call for.
#include "count.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <unordered_map>

#include "block.h"
#include "memory.h"

namespace cuemu {

void LaneLogs::add(const Block& b, void* site, const void* p, size_t size, Space space, bool write) {
  lanes_[b.current].push_back({site, (uintptr_t)p, (uint16_t)size, space, write});
}

// Passes beyond one that the words need: the most distinct words in any bank, less one.
static unsigned conflicts(std::vector<uintptr_t>& words) {
  std::sort(words.begin(), words.end());
  words.erase(std::unique(words.begin(), words.end()), words.end());
  unsigned in_bank[32] = {};
  unsigned most = 1;
  for (uintptr_t w : words) most = std::max(most, ++in_bank[w % 32]);
  return most - 1;
}

static void add_words(std::vector<uintptr_t>& words, uintptr_t address, unsigned size) {
  for (uintptr_t w = address / 4; w <= (address + size - 1) / 4; w++) words.push_back(w);
}

void count_ldmatrix_conflicts(cuemuCounters& c, const char* const* rows) {
  std::vector<uintptr_t> words;
  for (int r = 0; r < 8; r++) add_words(words, (uintptr_t)rows[r], 16);
  c.shared_bytes += 8 * 16;
  c.bank_conflicts += conflicts(words);
}

// One warp-wide access.
struct Group {
  uint16_t size;
  Space space;
  bool write;
  std::vector<std::pair<unsigned, uintptr_t>> lanes;  // lane, address
};

static void count_shared(cuemuCounters& c, const Group& g) {
  unsigned lanes_per_pass = g.size <= 4 ? 32 : g.size <= 8 ? 16 : 8;
  std::vector<uintptr_t> words;
  for (unsigned first = 0; first < 32; first += lanes_per_pass) {
    words.clear();
    for (auto [lane, address] : g.lanes)
      if (lane / lanes_per_pass * lanes_per_pass == first) add_words(words, address, g.size);
    c.bank_conflicts += conflicts(words);
  }
}

static void count_global(cuemuCounters& c, const Group& g) {
  std::vector<uintptr_t> sectors;
  for (auto [lane, address] : g.lanes)
    for (uintptr_t s = address / 32; s <= (address + g.size - 1) / 32; s++) sectors.push_back(s);
  std::sort(sectors.begin(), sectors.end());
  auto distinct = std::unique(sectors.begin(), sectors.end()) - sectors.begin();
  (g.write ? c.write_sectors : c.read_sectors) += distinct;
}

void LaneLogs::flush(Block& b, unsigned warp) {
  std::map<std::pair<void*, unsigned>, Group> groups;  // by instruction and its n-th execution
  for (unsigned lane = 0; lane < 32; lane++) {
    std::unordered_map<void*, unsigned> executions;
    auto& log = lanes_[warp * 32 + lane];
    for (const Entry& e : log) {
      Group& g = groups[{e.site, executions[e.site]++}];
      g.size = e.size;
      g.space = e.space;
      g.write = e.write;
      g.lanes.push_back({lane, e.address});
    }
    log.clear();
  }
  for (auto& [key, group] : groups) {
    if (group.space == Space::Shared)
      count_shared(b.counters, group);
    else
      count_global(b.counters, group);
  }
}

void count_special() {
  running->counters.special++;
}

void add_counters(cuemuCounters& total, const cuemuCounters& c) {
  constexpr size_t first = offsetof(cuemuCounters, threads), n = (sizeof c - first) / sizeof(uint64_t);
  auto to = (uint64_t*)((char*)&total + first);
  auto from = (const uint64_t*)((const char*)&c + first);
  for (size_t i = 0; i < n; i++) to[i] += from[i];
}

// ---- the list of launches ----

static std::mutex mutex;
static std::vector<cuemuCounters> launches;
static std::unordered_map<const char*, cuemuBytes> asked;
static bool on;

void Asked::add(const void* p, size_t size, bool write) {
  cuemuBytes& b = bytes_[find_allocation(p)->base];
  (write ? b.written : b.read) += size;
}

void Asked::collect() {
  std::lock_guard<std::mutex> lock(mutex);
  for (auto& [base, b] : bytes_) {
    cuemuBytes& sum = asked[base];
    sum.read += b.read;
    sum.written += b.written;
  }
  bytes_.clear();
}

bool counting_on() {
  std::lock_guard<std::mutex> lock(mutex);
  return on;
}

void keep_counters(const cuemuCounters& c) {
  std::lock_guard<std::mutex> lock(mutex);
  launches.push_back(c);
}

}  // namespace cuemu

using namespace cuemu;

extern "C" {
void cuemuCount(int enable) {
  std::lock_guard<std::mutex> lock(mutex);
  on = enable;
}
size_t cuemuLaunches() {
  std::lock_guard<std::mutex> lock(mutex);
  return launches.size();
}
int cuemuLaunch(size_t i, cuemuCounters* out) {
  std::lock_guard<std::mutex> lock(mutex);
  if (i >= launches.size()) return 0;
  *out = launches[i];
  return 1;
}
void cuemuForget() {
  std::lock_guard<std::mutex> lock(mutex);
  launches.clear();
  asked.clear();
}
cuemuBytes cuemuAsked(const void* p) {
  std::lock_guard<std::mutex> lock(mutex);
  auto found = asked.find((const char*)p);
  return found == asked.end() ? cuemuBytes{} : found->second;
}
}
