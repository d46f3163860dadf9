// failure.cpp - failures on demand, and the count of what is alive.
//
// Models: out of memory, a refused launch, a kernel that faults, a device that
// is lost, each at the n-th call (cuemu_api.h).
#include <array>
#include <cstring>

#include "cuemu_api.h"
#include "driver.h"
#include "memory.h"
#include "options.h"

bool device_lost = false;

namespace {

constexpr std::array<const char*, (size_t)Failure::Count> kNames = {"ALLOC", "LAUNCH", "FAULT", "LOST"};

// Calls that are left until the one that fails; 0: none does.
std::array<uint64_t, (size_t)Failure::Count> countdown = [] {
  std::array<uint64_t, (size_t)Failure::Count> c{};
  for (size_t i = 0; i < c.size(); i++) c[i] = cuemu::option((std::string("FAIL_") + kNames[i]).c_str(), 0);
  return c;
}();

}  // namespace

bool fails_now(Failure f) {
  uint64_t& left = countdown[(size_t)f];
  return left && --left == 0;
}

extern "C" int cuemuFail(const char* what, uint64_t n) {
  Lock lock;
  for (size_t i = 0; i < countdown.size(); i++) {
    if (strcmp(what, kNames[i])) continue;
    countdown[i] = n;
    return 1;
  }
  return 0;
}

extern "C" void cuemuAlive(cuemuLive* live) {
  Lock lock;
  *live = {cuemu::live_allocations(), cuemu::live_bytes(), contexts.size(), modules.size(), 0, events.size(),
           (uint64_t)live_graphs};
  for (CUcontext c : contexts) live->streams += c->streams.size();
}
