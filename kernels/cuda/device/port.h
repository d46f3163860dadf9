// port.h - what the kernels use beyond the language: bfloat16, the tensor core
// and asynchronous-copy instructions. nvcc sees inline PTX; other compilers get
// the same names from the emulator's cuemu.h.
#pragma once
#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <math_constants.h>
#include <stdint.h>

struct bf16 { uint16_t v; };
__device__ __forceinline__ float bf2f(bf16 x) { return __uint_as_float((uint32_t)x.v << 16); }
__device__ __forceinline__ bf16 f2bf(float f) { return {__bfloat16_as_ushort(__float2bfloat16_rn(f))}; }

// d += a·b: a is 16×16, b 16×8, d 16×8, spread over the warp as the PTX manual draws them.
__device__ __forceinline__ void mma_bf16_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// Four 8×8 matrices from shared memory; lane l names row l%8 of matrix l/8.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* p) {
  uint32_t s = (uint32_t)__cvta_generic_to_shared(p);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3},[%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(s) : "memory");
}
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void* p) {
  uint32_t s = (uint32_t)__cvta_generic_to_shared(p);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3},[%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(s) : "memory");
}
__device__ __forceinline__ void cp_async16(void* s, const void* g) {
  asm volatile("cp.async.cg.shared.global [%0],[%1],16;" ::"r"((uint32_t)__cvta_generic_to_shared(s)), "l"(g) : "memory");
}
__device__ __forceinline__ void cp_async4(void* s, const void* g) {
  asm volatile("cp.async.ca.shared.global [%0],[%1],4;" ::"r"((uint32_t)__cvta_generic_to_shared(s)), "l"(g) : "memory");
}
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> __device__ __forceinline__ void cp_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }
__device__ __forceinline__ int lowest_bit(uint32_t x) { return __ffs(x) - 1; }
// 2^x in one instruction, good to two units in the last place; tiny results are 0.
__device__ __forceinline__ float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0,%1;" : "=f"(y) : "f"(x));
  return y;
}
#define CUEMU_KERNEL(name)  // the emulator's registry; nvcc's image lists its kernels itself
#else
#include "cuemu.h"
using std::max;
using std::min;
inline int lowest_bit(uint32_t x) { return __builtin_ctz(x); }
inline float fast_exp2(float x) { return exp2f(x); }
#endif
