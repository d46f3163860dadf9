// memory.cpp - device memory in one arena of address space.
//
// Models: fresh memory holds NaNs; freed memory is inaccessible and its
// addresses are never used again, so that a stale pointer is always noticed.
// Each allocation has its own pages, so that the page tells the allocation.
// Does not model: fragmentation, host code that follows a device pointer.
#include "memory.h"

#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <deque>

#include "block.h"
#include "options.h"

namespace cuemu {

char* arena = nullptr;

constexpr size_t kPage = 4096;
constexpr size_t kGap = kPage;        // unowned pages after each allocation
constexpr size_t kPattern = 4 << 20;  // larger allocations are mapped from a file of poison

static std::deque<Allocation> allocations;  // all there ever were; owner[page] is 1 + index
static uint32_t* owner;
static char* top;  // of what has been handed out
static uint64_t live_count, live_size;

static size_t round_up(size_t n, size_t unit) {
  return (n + unit - 1) / unit * unit;
}

uint64_t live_allocations() {
  return live_count;
}
uint64_t live_bytes() {
  return live_size;
}
size_t memory_size() {
  static const size_t size = option("MEM", 80ull << 30);
  return size;
}

static void* reserve(size_t size, int protection) {
  void* p = mmap(nullptr, size, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return p == MAP_FAILED ? nullptr : p;
}

static bool make_arena() {
  if (arena) return true;
  auto table = (uint32_t*)reserve(kArenaSize / kPage * sizeof *owner, PROT_READ | PROT_WRITE);
  auto space = (char*)reserve(kArenaSize, PROT_NONE);
  if (!table || !space) return false;
  owner = table;
  arena = top = space;
  return true;
}

static void fill_poison(char* p, size_t size) {
  for (size_t i = 0; i + 4 <= size; i += 4) memcpy(p + i, &kPoison, 4);
}

static int poison_file() {
  static const int file = [] {
    int f = memfd_create("cuemu-poison", MFD_CLOEXEC);
    if (f < 0 || ftruncate(f, kPattern)) return -1;
    void* p = mmap(nullptr, kPattern, PROT_READ | PROT_WRITE, MAP_SHARED, f, 0);
    if (p == MAP_FAILED) return -1;
    fill_poison((char*)p, kPattern);
    munmap(p, kPattern);
    return f;
  }();
  return file;
}

// Makes the pages usable and poisons them; of large ones only what is written takes memory.
static bool open_pages(char* p, size_t size) {
  if (size < kPattern) {
    if (mprotect(p, size, PROT_READ | PROT_WRITE)) return false;
    fill_poison(p, size);
    return true;
  }
  for (size_t done = 0; done < size; done += kPattern) {
    size_t n = std::min(kPattern, size - done);
    void* at = mmap(p + done, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, poison_file(), 0);
    if (at == MAP_FAILED) return false;
  }
  return true;
}

char* allocate(size_t size, bool host) {
  size_t length = round_up(size, kPage);
  if (!make_arena() || (!host && live_size + size > memory_size())) return nullptr;
  if (top + length + kGap > arena + kArenaSize || !open_pages(top, length)) return nullptr;
  char* base = top;
  top += length + kGap;
  allocations.push_back({base, size, true, host});
  std::fill_n(owner + (base - arena) / kPage, (length + kGap) / kPage, (uint32_t)allocations.size());
  live_count++;
  live_size += size;
  return base;
}

static Allocation* owner_of(const void* p) {
  if (!arena || !in_arena(p)) return nullptr;
  uint32_t o = owner[((const char*)p - arena) / kPage];
  return o ? &allocations[o - 1] : nullptr;
}

bool release(char* base) {
  Allocation* a = owner_of(base);
  if (!a || a->base != base || !a->live) return false;
  a->live = false;
  live_count--;
  live_size -= a->size;
  mmap(base, round_up(a->size, kPage), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  return true;
}

const Allocation* find_allocation(const void* p) {
  const Allocation* a = owner_of(p);
  return a && a->live ? a : nullptr;
}

std::string describe_address(const void* pointer) {
  char text[160];
  auto p = (const char*)pointer;
  if (const Allocation* a = owner_of(p)) {
    size_t offset = p - a->base;
    snprintf(text, sizeof text, "%p: byte %zu%s of %s allocation of %zu bytes", p, offset,
             offset < a->size ? "" : ", past the end", a->live ? "an" : "a freed", a->size);
    const Allocation* next = owner_of(p + kGap);
    if (offset >= a->size && next && next != a)
      snprintf(text + strlen(text), sizeof text - strlen(text), ", %zu bytes before one of %zu bytes",
               (size_t)(next->base - p), next->size);
  } else {
    snprintf(text, sizeof text, "%p: no device memory", p);
  }
  return text;
}

// ---- variables of the library ----

struct Range {
  char *begin = nullptr, *end = nullptr;
};

// The writable segment that holds the registry's head, and with it all variables of the kernels.
static Range library_data() {
  Range r;
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* out) {
        for (int i = 0; i < info->dlpi_phnum; i++) {
          const auto& h = info->dlpi_phdr[i];
          auto begin = (char*)info->dlpi_addr + h.p_vaddr;
          auto head = (char*)&Kernel::head;
          if (h.p_type != PT_LOAD || head < begin || head >= begin + h.p_memsz) continue;
          *(Range*)out = {begin, begin + h.p_memsz};
          return 1;
        }
        return 0;
      },
      &r);
  return r;
}

bool in_library_data(const void* p) {
  static const Range data = library_data();
  return p >= data.begin && p < data.end;
}

void check_variable(const void* p, size_t size) {
  for (const Global* g = Global::head; g; g = g->next)
    if (p >= g->address && (char*)p + size <= (char*)g->address + g->size) return;
  fault(kIllegalAddress, "write to a variable of the host");
}

}  // namespace cuemu
