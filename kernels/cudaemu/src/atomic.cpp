// atomic.cpp - atomics on global and shared memory.
//
// Models: atomicity, also between blocks on other OS threads; the checks of
// every access. Atomics do not order other accesses.
// Does not model: the order in which the device serves them.
#include "block.h"

namespace cuemu {

// Replaces *p by f(*p) and returns what it was.
template <class T, class F>
static T update(T* p, F f) {
  if ((uintptr_t)p % sizeof(T)) fault(kMisalignedAddress, "misaligned atomic");
  note_atomic(*running, p, sizeof *p);
  T was, is;
  __atomic_load(p, &was, __ATOMIC_RELAXED);
  do is = f(was);
  while (!__atomic_compare_exchange(p, &was, &is, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return was;
}

}  // namespace cuemu

using cuemu::update;
using ull = unsigned long long;

float atomicAdd(float* p, float v) {
  return update(p, [v](float x) { return x + v; });
}
int atomicAdd(int* p, int v) {
  return update(p, [v](int x) { return x + v; });
}
unsigned atomicAdd(unsigned* p, unsigned v) {
  return update(p, [v](unsigned x) { return x + v; });
}
ull atomicAdd(ull* p, ull v) {
  return update(p, [v](ull x) { return x + v; });
}
int atomicMax(int* p, int v) {
  return update(p, [v](int x) { return std::max(x, v); });
}
unsigned atomicMax(unsigned* p, unsigned v) {
  return update(p, [v](unsigned x) { return std::max(x, v); });
}
int atomicMin(int* p, int v) {
  return update(p, [v](int x) { return std::min(x, v); });
}
unsigned atomicMin(unsigned* p, unsigned v) {
  return update(p, [v](unsigned x) { return std::min(x, v); });
}
unsigned atomicOr(unsigned* p, unsigned v) {
  return update(p, [v](unsigned x) { return x | v; });
}
unsigned atomicAnd(unsigned* p, unsigned v) {
  return update(p, [v](unsigned x) { return x & v; });
}
int atomicExch(int* p, int v) {
  return update(p, [v](int) { return v; });
}
unsigned atomicExch(unsigned* p, unsigned v) {
  return update(p, [v](unsigned) { return v; });
}
int atomicCAS(int* p, int old, int v) {
  return update(p, [=](int x) { return x == old ? v : x; });
}
unsigned atomicCAS(unsigned* p, unsigned old, unsigned v) {
  return update(p, [=](unsigned x) { return x == old ? v : x; });
}
ull atomicCAS(ull* p, ull old, ull v) {
  return update(p, [=](ull x) { return x == old ? v : x; });
}
