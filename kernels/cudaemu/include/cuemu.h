// cuemu.h - what a .cu file sees when g++ compiles it for the emulator.
//
// Models: the CUDA C++ subset that hand-written kernels use: index variables,
// __shared__ memory, barriers, warp collectives, atomics, the math functions,
// and by the same names as the inline PTX wrappers of the nvcc build mma.sync,
// ldmatrix and cp.async. Also the registry of compiled kernels.
//
// Does not model: textures, clusters, cooperative groups, dynamic parallelism,
// device printf and malloc, half precision, mbarrier and wgmma.
//
// Everything below that does more than arithmetic is a call into the emulator,
// so that the compiler instruments (-fsanitize=thread) the kernel's own loads
// and stores and nothing else. See src/access.cpp for what becomes of those.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __shared__ static thread_local  // a block runs on one OS thread
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __grid_constant__

// Dynamic shared memory; the nvcc build declares extern __shared__ instead.
#define DYN_SHARED(T, name) T* name = reinterpret_cast<T*>(cuemu::dynamic_shared())

// ---- vector types ----

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
struct alignas(8) float2 {
  float x, y;
};
struct float3 {
  float x, y, z;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) int2 {
  int x, y;
};
struct int3 {
  int x, y, z;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct uint3 {
  unsigned x, y, z;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(4) uchar4 {
  unsigned char x, y, z, w;
};

inline float2 make_float2(float x, float y) {
  return {x, y};
}
inline float3 make_float3(float x, float y, float z) {
  return {x, y, z};
}
inline float4 make_float4(float x, float y, float z, float w) {
  return {x, y, z, w};
}
inline int2 make_int2(int x, int y) {
  return {x, y};
}
inline int4 make_int4(int x, int y, int z, int w) {
  return {x, y, z, w};
}
inline uint2 make_uint2(unsigned x, unsigned y) {
  return {x, y};
}
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
  return {x, y, z, w};
}

// ---- registry: CUEMU_KERNEL(name) after the kernel's definition ----

namespace cuemu {

struct Parameter {
  unsigned size;
  bool pointer;
};

struct Kernel {
  const char* name;
  void (*function)();                             // the kernel, its type forgotten
  void (*call)(void (*function)(), void** args);  // calls it with its type
  std::vector<Parameter> parameters;
  Kernel* next;
  static inline Kernel* head = nullptr;
};

struct Global {  // a __device__ or __constant__ variable
  const char* name;
  void* address;
  size_t size;
  Global* next;
  static inline Global* head = nullptr;
};

template <class... Args, size_t... I>
__attribute__((no_sanitize("thread"))) void call_with(void (*kernel)(Args...), void** args, std::index_sequence<I...>) {
  kernel(*static_cast<Args*>(args[I])...);
}

// The argument layout is deduced from the kernel's C++ type.
template <class... Args>
Kernel* add_kernel(const char* name, void (*kernel)(Args...)) {
  auto call = [](void (*function)(), void** args) {
    call_with(reinterpret_cast<void (*)(Args...)>(function), args, std::index_sequence_for<Args...>{});
  };
  Kernel::head = new Kernel{name,
                            reinterpret_cast<void (*)()>(kernel),
                            call,
                            {Parameter{sizeof(Args), std::is_pointer_v<Args>}...},
                            Kernel::head};
  return Kernel::head;
}

inline Global* add_global(const char* name, void* address, size_t size) {
  return Global::head = new Global{name, address, size, Global::head};
}

}  // namespace cuemu

#define CUEMU_KERNEL(k) static cuemu::Kernel* cuemu_kernel_##k = cuemu::add_kernel(#k, &k);
#define CUEMU_GLOBAL(g) static cuemu::Global* cuemu_global_##g = cuemu::add_global(#g, &g, sizeof g);

// ---- index variables ----

namespace cuemu {
// A fibre is one CUDA thread from start to end, so these may be hoisted.
dim3 thread_index() __attribute__((const));
dim3 block_index() __attribute__((const));
dim3 block_size() __attribute__((const));
dim3 grid_size() __attribute__((const));
char* dynamic_shared() __attribute__((const));
}  // namespace cuemu

#define threadIdx (cuemu::thread_index())
#define blockIdx (cuemu::block_index())
#define blockDim (cuemu::block_size())
#define gridDim (cuemu::grid_size())
#define warpSize 32

// ---- barriers, warp collectives ----

namespace cuemu {

// Where in the source a thread waits: threads that meet in different places
// have diverged, even where the hardware would happen to pair them.
using Site = int;

enum class Shuffle { Index, Xor, Up, Down };
enum class Reduce { Or, And, Add, Min, Max, SignedMin, SignedMax };

int barrier(int predicate, Reduce, Site);  // the reduction of all predicates: Or, And, or Add to count
void sync_warp(uint32_t mask, Site);
uint64_t shuffle(Shuffle, uint32_t mask, uint64_t value, int argument, int width, Site);
uint32_t ballot(uint32_t mask, bool predicate, Site);
uint32_t reduce(Reduce, uint32_t mask, uint32_t value, Site);
void fence();

template <class T>
inline T shuffle(Shuffle kind, uint32_t mask, T value, int argument, int width, Site site) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  uint64_t word = 0;
  memcpy(&word, &value, sizeof value);
  word = shuffle(kind, mask, word, argument, width, site);
  memcpy(&value, &word, sizeof value);
  return value;
}

}  // namespace cuemu

inline void __syncthreads(cuemu::Site site = __builtin_LINE()) {
  cuemu::barrier(0, cuemu::Reduce::Or, site);
}
inline int __syncthreads_or(int p, cuemu::Site site = __builtin_LINE()) {
  return cuemu::barrier(p != 0, cuemu::Reduce::Or, site);
}
inline int __syncthreads_and(int p, cuemu::Site site = __builtin_LINE()) {
  return cuemu::barrier(p != 0, cuemu::Reduce::And, site);
}
inline int __syncthreads_count(int p, cuemu::Site site = __builtin_LINE()) {
  return cuemu::barrier(p != 0, cuemu::Reduce::Add, site);
}
inline void __syncwarp(uint32_t mask = ~0u, cuemu::Site site = __builtin_LINE()) {
  cuemu::sync_warp(mask, site);
}

template <class T>
inline T __shfl_sync(uint32_t mask, T v, int lane, int width = 32, cuemu::Site site = __builtin_LINE()) {
  return cuemu::shuffle(cuemu::Shuffle::Index, mask, v, lane, width, site);
}
template <class T>
inline T __shfl_xor_sync(uint32_t mask, T v, int bits, int width = 32, cuemu::Site site = __builtin_LINE()) {
  return cuemu::shuffle(cuemu::Shuffle::Xor, mask, v, bits, width, site);
}
template <class T>
inline T __shfl_up_sync(uint32_t mask, T v, int delta, int width = 32, cuemu::Site site = __builtin_LINE()) {
  return cuemu::shuffle(cuemu::Shuffle::Up, mask, v, delta, width, site);
}
template <class T>
inline T __shfl_down_sync(uint32_t mask, T v, int delta, int width = 32, cuemu::Site site = __builtin_LINE()) {
  return cuemu::shuffle(cuemu::Shuffle::Down, mask, v, delta, width, site);
}
inline uint32_t __ballot_sync(uint32_t mask, int p, cuemu::Site site = __builtin_LINE()) {
  return cuemu::ballot(mask, p != 0, site);
}
inline int __any_sync(uint32_t mask, int p, cuemu::Site site = __builtin_LINE()) {
  return cuemu::ballot(mask, p != 0, site) != 0;
}
inline int __all_sync(uint32_t mask, int p, cuemu::Site site = __builtin_LINE()) {
  return cuemu::ballot(mask, p == 0, site) == 0;
}
#define CUEMU_REDUCE(name, unsigned_kind, signed_kind)                                                     \
  inline unsigned __reduce_##name##_sync(uint32_t mask, unsigned v, cuemu::Site site = __builtin_LINE()) { \
    return cuemu::reduce(cuemu::Reduce::unsigned_kind, mask, v, site);                                     \
  }                                                                                                        \
  inline int __reduce_##name##_sync(uint32_t mask, int v, cuemu::Site site = __builtin_LINE()) {           \
    return cuemu::reduce(cuemu::Reduce::signed_kind, mask, v, site);                                       \
  }
CUEMU_REDUCE(add, Add, Add)
CUEMU_REDUCE(min, Min, SignedMin)
CUEMU_REDUCE(max, Max, SignedMax)
CUEMU_REDUCE(or, Or, Or)
CUEMU_REDUCE(and, And, And)
#undef CUEMU_REDUCE

inline void __threadfence() {
  cuemu::fence();
}
inline void __threadfence_block() {}

// ---- atomics (global or shared memory) ----

float atomicAdd(float*, float);
int atomicAdd(int*, int);
unsigned atomicAdd(unsigned*, unsigned);
unsigned long long atomicAdd(unsigned long long*, unsigned long long);
int atomicMax(int*, int);
unsigned atomicMax(unsigned*, unsigned);
int atomicMin(int*, int);
unsigned atomicMin(unsigned*, unsigned);
unsigned atomicOr(unsigned*, unsigned);
unsigned atomicAnd(unsigned*, unsigned);
int atomicExch(int*, int);
unsigned atomicExch(unsigned*, unsigned);
int atomicCAS(int*, int, int);
unsigned atomicCAS(unsigned*, unsigned, unsigned);
unsigned long long atomicCAS(unsigned long long*, unsigned long long, unsigned long long);

// ---- arithmetic ----

template <class T>
inline T __ldg(const T* p) {
  return *p;
}
template <class T>
inline T __ldcs(const T* p) {
  return *p;
}
template <class T>
inline T __ldcg(const T* p) {
  return *p;
}
template <class T>
inline void __stcs(T* p, T v) {
  *p = v;
}
template <class T>
inline void __stcg(T* p, T v) {
  *p = v;
}

inline uint32_t __float_as_uint(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  return u;
}
inline int __float_as_int(float f) {
  int u;
  memcpy(&u, &f, 4);
  return u;
}
inline float __uint_as_float(uint32_t u) {
  float f;
  memcpy(&f, &u, 4);
  return f;
}
inline float __int_as_float(int u) {
  float f;
  memcpy(&f, &u, 4);
  return f;
}
inline int __popc(unsigned x) {
  return __builtin_popcount(x);
}
inline int __clz(int x) {
  return x ? __builtin_clz(x) : 32;
}
inline int __ffs(int x) {
  return __builtin_ffs(x);
}
inline unsigned __brev(unsigned x) {
  unsigned r = 0;
  for (int i = 0; i < 32; i++) r |= (x >> i & 1) << (31 - i);
  return r;
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return (uint64_t)a * b >> 32;
}
inline int __mulhi(int a, int b) {
  return (int64_t)a * b >> 32;
}
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return (unsigned __int128)a * b >> 64;
}
inline float __fmaf_rn(float a, float b, float c) {
  return fmaf(a, b, c);
}
inline float __fadd_rn(float a, float b) {
  return a + b;
}
inline float __fmul_rn(float a, float b) {
  return a * b;
}
inline float __fdiv_rn(float a, float b) {
  return a / b;
}
inline float __fsqrt_rn(float a) {
  return sqrtf(a);
}
inline float __saturatef(float x) {
  return x < 0 ? 0 : x > 1 ? 1 : x;
}
inline int __float2int_rn(float x) {
  return (int)rintf(x);
}
inline float __int2float_rn(int x) {
  return (float)x;
}
using std::max;
using std::min;

// Functions that the device computes in its special function units; each call
// counts once (cuemuCounters.special). Division is not seen.
namespace cuemu {
void count_special();
}
#define CUEMU_SPECIAL(name, value)     \
  inline float cuemu_##name(float x) { \
    cuemu::count_special();            \
    return value;                      \
  }
CUEMU_SPECIAL(expf, expf(x))
CUEMU_SPECIAL(exp2f, exp2f(x))
CUEMU_SPECIAL(exp10f, exp10f(x))
CUEMU_SPECIAL(expm1f, expm1f(x))
CUEMU_SPECIAL(logf, logf(x))
CUEMU_SPECIAL(log2f, log2f(x))
CUEMU_SPECIAL(log1pf, log1pf(x))
CUEMU_SPECIAL(sqrtf, sqrtf(x))
CUEMU_SPECIAL(rsqrtf, 1 / sqrtf(x))
CUEMU_SPECIAL(rcpf, 1 / x)
CUEMU_SPECIAL(tanhf, tanhf(x))
CUEMU_SPECIAL(erff, erff(x))
CUEMU_SPECIAL(erfcf, erfcf(x))
CUEMU_SPECIAL(sinf, sinf(x))
CUEMU_SPECIAL(cosf, cosf(x))
CUEMU_SPECIAL(normcdff, 0.5f * erfcf(-0.70710678f * x))
#undef CUEMU_SPECIAL
inline float cuemu_powf(float x, float y) {
  cuemu::count_special();
  return powf(x, y);
}
inline float __fdividef(float x, float y) {
  return x * cuemu_rcpf(y);
}
inline void cuemu_sincosf(float x, float* s, float* c) {
  *s = cuemu_sinf(x);
  *c = cuemu_cosf(x);
}
#define expf cuemu_expf
#define exp2f cuemu_exp2f
#define exp10f cuemu_exp10f
#define expm1f cuemu_expm1f
#define logf cuemu_logf
#define log2f cuemu_log2f
#define log1pf cuemu_log1pf
#define sqrtf cuemu_sqrtf
#define rsqrtf cuemu_rsqrtf
#define tanhf cuemu_tanhf
#define erff cuemu_erff
#define erfcf cuemu_erfcf
#define sinf cuemu_sinf
#define cosf cuemu_cosf
#define powf cuemu_powf
#define normcdff cuemu_normcdff
#define sincosf cuemu_sincosf
#define __expf cuemu_expf
#define __exp10f cuemu_exp10f
#define __logf cuemu_logf
#define __log2f cuemu_log2f
#define __sinf cuemu_sinf
#define __cosf cuemu_cosf
#define __powf cuemu_powf
#define __frsqrt_rn cuemu_rsqrtf
#define __frcp_rn cuemu_rcpf

// ---- bf16: the storage type and its conversions ----

struct bf16 {
  uint16_t v;
};
inline float bf2f(bf16 x) {
  return __uint_as_float((uint32_t)x.v << 16);
}
inline bf16 f2bf(float f) {  // round to nearest even; NaN stays NaN
  uint32_t u = __float_as_uint(f);
  if ((u & 0x7fffffff) > 0x7f800000) return {(uint16_t)(u >> 16 | 0x40)};
  return {(uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16)};
}

// ---- what the nvcc build has as inline PTX ----

namespace cuemu {
struct Accumulator {
  float x[4];
};
Accumulator mma_bf16_16816(float c0, float c1, float c2, float c3, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                           uint32_t b0, uint32_t b1, Site);
Accumulator mma_tf32_1688(float c0, float c1, float c2, float c3, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                          uint32_t b0, uint32_t b1, Site);
struct Matrices {
  uint32_t x[4];
};
Matrices ldmatrix(const void* row, int matrices, bool transposed, Site);
void cp_async(void* shared, const void* global, int size, int source_size);
void cp_async_commit();
void cp_async_wait(int groups_left);
}  // namespace cuemu

// mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32: d += a·b
inline void mma_bf16_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                           cuemu::Site site = __builtin_LINE()) {
  auto r = cuemu::mma_bf16_16816(d[0], d[1], d[2], d[3], a[0], a[1], a[2], a[3], b[0], b[1], site);
  for (int i = 0; i < 4; i++) d[i] = r.x[i];
}

// mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32: d += a·b
inline void mma_tf32_1688(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                          cuemu::Site site = __builtin_LINE()) {
  auto r = cuemu::mma_tf32_1688(d[0], d[1], d[2], d[3], a[0], a[1], a[2], a[3], b[0], b[1], site);
  for (int i = 0; i < 4; i++) d[i] = r.x[i];
}

// ldmatrix.sync.aligned.m8n8.x{1,2,4}{.trans}.shared.b16
#define CUEMU_LDMATRIX(name, n, transposed)                                                  \
  inline void name(uint32_t (&r)[n], const void* row, cuemu::Site site = __builtin_LINE()) { \
    auto m = cuemu::ldmatrix(row, n, transposed, site);                                      \
    for (int i = 0; i < n; i++) r[i] = m.x[i];                                               \
  }
CUEMU_LDMATRIX(ldmatrix_x1, 1, false)
CUEMU_LDMATRIX(ldmatrix_x2, 2, false)
CUEMU_LDMATRIX(ldmatrix_x4, 4, false)
CUEMU_LDMATRIX(ldmatrix_x1_trans, 1, true)
CUEMU_LDMATRIX(ldmatrix_x2_trans, 2, true)
CUEMU_LDMATRIX(ldmatrix_x4_trans, 4, true)
#undef CUEMU_LDMATRIX

// cp.async.{cg,ca}.shared.global; bytes from source_size on are zero.
inline void cp_async16(void* shared, const void* global) {
  cuemu::cp_async(shared, global, 16, 16);
}
inline void cp_async16(void* shared, const void* global, int source_size) {
  cuemu::cp_async(shared, global, 16, source_size);
}
inline void cp_async8(void* shared, const void* global) {
  cuemu::cp_async(shared, global, 8, 8);
}
inline void cp_async4(void* shared, const void* global) {
  cuemu::cp_async(shared, global, 4, 4);
}
inline void cp_async_commit() {
  cuemu::cp_async_commit();
}
template <int N>
inline void cp_async_wait() {
  cuemu::cp_async_wait(N);
}
