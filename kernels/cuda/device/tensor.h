// tensor.h - tensor operands of kernels, and sums over the threads of a row.
#pragma once
#include "port.h"

// Each thread treats a chunk of eight elements: 32 bytes of f32, 16 of bf16.
constexpr int CHUNK = 8;
constexpr uint32_t ALL = 0xffffffffu;

// A tensor operand is two arguments of a kernel: the address of its first
// element (null: absent) and its layout, 2·stride + 1 where the elements are
// bf16 and 2·stride where they are f32.
struct Tensor {
  char* base;
  long long stride;
  bool half, wide;  // wide: every chunk of a row begins at a multiple of 16 bytes

  __device__ Tensor(const void* p, long long layout) : base((char*)p), stride(layout >> 1), half(layout & 1) {
    wide = (((uintptr_t)p | (uintptr_t)(stride * (half ? 2 : 4))) & 15) == 0;
  }
  __device__ bool present() const { return base != nullptr; }
  __device__ float* f32(long long r, int c) const { return (float*)base + r * stride + c; }
  __device__ bf16* b16(long long r, int c) const { return (bf16*)base + r * stride + c; }

  __device__ float at(long long r, int c) const { return half ? bf2f(*b16(r, c)) : *f32(r, c); }
  __device__ void put(long long r, int c, float v) const {
    if (half) *b16(r, c) = f2bf(v);
    else *f32(r, c) = v;
  }
  // The value that put would leave behind.
  __device__ float rounded(float v) const { return half ? bf2f(f2bf(v)) : v; }

  // Elements c to c+7 of row r; those from column n on are 0.
  __device__ void load(float (&v)[CHUNK], long long r, int c, int n) const {
    if (wide && c + CHUNK <= n) {
      if (half) {
        uint4 u = *(const uint4*)b16(r, c);
        uint32_t w[4] = {u.x, u.y, u.z, u.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
          v[2 * i] = bf2f({(uint16_t)w[i]});
          v[2 * i + 1] = bf2f({(uint16_t)(w[i] >> 16)});
        }
      } else {
        const float4* p = (const float4*)f32(r, c);
        float4 a = p[0], b = p[1];
        v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
      }
      return;
    }
#pragma unroll
    for (int i = 0; i < CHUNK; i++) v[i] = c + i < n ? at(r, c + i) : 0.f;
  }
  // Stores those of elements c to c+7 of row r that are before column n.
  __device__ void store(const float (&v)[CHUNK], long long r, int c, int n) const {
    if (wide && c + CHUNK <= n) {
      if (half) {
        uint32_t w[4];
#pragma unroll
        for (int i = 0; i < 4; i++) w[i] = (uint32_t)f2bf(v[2 * i]).v | (uint32_t)f2bf(v[2 * i + 1]).v << 16;
        *(uint4*)b16(r, c) = uint4{w[0], w[1], w[2], w[3]};
      } else {
        float4* p = (float4*)f32(r, c);
        p[0] = float4{v[0], v[1], v[2], v[3]};
        p[1] = float4{v[4], v[5], v[6], v[7]};
      }
      return;
    }
#pragma unroll
    for (int i = 0; i < CHUNK; i++)
      if (c + i < n) put(r, c + i, v[i]);
  }
};

// An elementwise kernel has a thread for every chunk: rows × ⌈n/8⌉ of them.
// chunk finds the caller's; it is false beyond the last.
__device__ inline bool chunk(int rows, int n, int& r, int& c) {
  unsigned per = (n + CHUNK - 1) / CHUNK;
  unsigned long long i = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= (unsigned long long)rows * per) return false;
  r = (int)(i / per);
  c = (int)(i % per) * CHUNK;
  return true;
}

// In a row kernel blockDim.x threads, a multiple of 32, share each of
// blockDim.y rows. Sums over a row are taken in one order, whatever runs first.
__device__ inline float warp_sum(float v) {
#pragma unroll
  for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(ALL, v, o);
  return v;
}
__device__ inline float warp_max(float v) {
#pragma unroll
  for (int o = 16; o; o >>= 1) v = fmaxf(v, __shfl_xor_sync(ALL, v, o));
  return v;
}
constexpr int MAX_WARPS = 32;
// All threads of the block call row_sum together; red is shared memory.
__device__ inline float row_sum(float v, float (&red)[MAX_WARPS]) {
  v = warp_sum(v);
  int warps = blockDim.x / 32;
  if (warps == 1) return v;
  int first = threadIdx.y * warps;
  __syncthreads();
  if (threadIdx.x % 32 == 0) red[first + threadIdx.x / 32] = v;
  __syncthreads();
  v = 0;
  for (int i = 0; i < warps; i++) v += red[first + i];
  return v;
}
__device__ inline float row_max(float v, float (&red)[MAX_WARPS]) {
  v = warp_max(v);
  int warps = blockDim.x / 32;
  if (warps == 1) return v;
  int first = threadIdx.y * warps;
  __syncthreads();
  if (threadIdx.x % 32 == 0) red[first + threadIdx.x / 32] = v;
  __syncthreads();
  v = red[first];
  for (int i = 1; i < warps; i++) v = fmaxf(v, red[first + i]);
  return v;
}

// gelu, the erf form, and its derivative. erfc keeps the left tail exact.
__device__ inline float gelu(float x) { return 0.5f * x * erfcf(-0.70710678f * x); }
__device__ inline float gelu_slope(float x) {
  return 0.5f * erfcf(-0.70710678f * x) + x * 0.39894228f * expf(-0.5f * x * x);
}

// One block of Philox 4x32-10 (Salmon et al., SC11).
__device__ inline void philox(uint32_t k0, uint32_t k1, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint32_t (&out)[4]) {
  for (int i = 0; i < 10; i++) {
    unsigned long long p0 = 0xD2511F53ull * c0, p1 = 0xCD9E8D57ull * c2;
    c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
    c1 = (uint32_t)p1;
    c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
    c3 = (uint32_t)p0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

// An index that the host could not check leaves code in *fault, which the host
// reads when it next waits; the thread then leaves the element out.
__device__ inline bool in_range(int i, int n, int* fault, int code) {
  if (i >= 0 && i < n) return true;
  atomicExch(fault, code);
  return false;
}
