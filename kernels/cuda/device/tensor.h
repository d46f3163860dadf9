// tensor.h - tensor operands of kernels, and sums over the threads of a row.
#pragma once
#include "port.h"

// A thread treats a chunk of eight elements: 32 bytes of f32, 16 of bf16. Where
// all is f32 it treats four, so that a warp's access has no gaps.
constexpr int CHUNK = 8, QUAD = 4;
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

  // Elements c to c+N−1 of row r, N being 2, 4 or 8; those from column n on are 0.
  template <int N>
  __device__ void load(float (&v)[N], long long r, int c, int n) const {
    if (wide && c + N <= n) {
      if (half) {
        uint32_t w[N / 2];
        if (N == 8) {
          uint4 u = *(const uint4*)b16(r, c);
          w[0] = u.x, w[N / 8] = u.y, w[N / 4] = u.z, w[N / 2 - 1] = u.w;
        } else if (N == 4) {
          uint2 u = *(const uint2*)b16(r, c);
          w[0] = u.x, w[N / 2 - 1] = u.y;
        } else {
          w[0] = *(const uint32_t*)b16(r, c);
        }
#pragma unroll
        for (int i = 0; i < N / 2; i++) {
          v[2 * i] = bf2f({(uint16_t)w[i]});
          v[2 * i + 1] = bf2f({(uint16_t)(w[i] >> 16)});
        }
      } else if (N == 2) {
        float2 a = *(const float2*)f32(r, c);
        v[0] = a.x, v[1] = a.y;
      } else {
#pragma unroll
        for (int i = 0; i < N / 4; i++) {
          float4 a = *(const float4*)f32(r, c + 4 * i);
          v[4 * i] = a.x, v[4 * i + 1] = a.y, v[4 * i + 2] = a.z, v[4 * i + 3] = a.w;
        }
      }
      return;
    }
#pragma unroll
    for (int i = 0; i < N; i++) v[i] = c + i < n ? at(r, c + i) : 0.f;
  }
  // Stores those of elements c to c+N−1 of row r that are before column n.
  template <int N>
  __device__ void store(const float (&v)[N], long long r, int c, int n) const {
    if (wide && c + N <= n) {
      if (half) {
        uint32_t w[N / 2];
#pragma unroll
        for (int i = 0; i < N / 2; i++) w[i] = (uint32_t)f2bf(v[2 * i]).v | (uint32_t)f2bf(v[2 * i + 1]).v << 16;
        if (N == 8) {
          uint4 u = {w[0], w[N / 8], w[N / 4], w[N / 2 - 1]};
          *(uint4*)b16(r, c) = u;
        } else if (N == 4) {
          uint2 u = {w[0], w[N / 2 - 1]};
          *(uint2*)b16(r, c) = u;
        } else {
          *(uint32_t*)b16(r, c) = w[0];
        }
      } else if (N == 2) {
        float2 a = {v[0], v[1]};
        *(float2*)f32(r, c) = a;
      } else {
#pragma unroll
        for (int i = 0; i < N / 4; i++) {
          float4 a = {v[4 * i], v[4 * i + 1], v[4 * i + 2], v[4 * i + 3]};
          *(float4*)f32(r, c + 4 * i) = a;
        }
      }
      return;
    }
#pragma unroll
    for (int i = 0; i < N; i++)
      if (c + i < n) put(r, c + i, v[i]);
  }
};

// An elementwise kernel has a thread for every N elements: rows × ⌈n/N⌉ of them.
// chunk finds the caller's; it is false beyond the last.
template <int N = CHUNK>
__device__ inline bool chunk(int rows, int n, int& r, int& c) {
  unsigned per = (n + N - 1) / N;
  unsigned long long i = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= (unsigned long long)rows * per) return false;
  r = (int)(i / per);
  c = (int)(i % per) * N;
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

// The sum of v over the block's rows of threads, for those of the first. All
// threads of the block, at most 256 where there are several rows, call it
// together; sum is shared memory.
__device__ inline void add_rows(float (&v)[CHUNK], float (&sum)[CHUNK][256]) {
  if (blockDim.y == 1) return;
  __syncthreads();
#pragma unroll
  for (int e = 0; e < CHUNK; e++) sum[e][threadIdx.y * blockDim.x + threadIdx.x] = v[e];
  __syncthreads();
  if (threadIdx.y) return;
  for (int y = 1; y < (int)blockDim.y; y++)
#pragma unroll
    for (int e = 0; e < CHUNK; e++) v[e] += sum[e][y * blockDim.x + threadIdx.x];
}

// The normal distribution's Φ(x), and e = exp(−x²/2). With z = |x|/√2 the left
// tail is ½·erfc(z) = ½·exp(−z²)·erfcx(z), and erfcx a polynomial of
// t = 1/(1 + 0.37 z): the least relative error of degree 7 without a constant for
// z < 9.5, 7e-7. That is 20 instructions where erfcf takes 48, for which there is
// no time at the speed of memory.
__device__ inline float normal_cdf(float x, float& e) {
  float t = __fdividef(1.f, 1.f + fabsf(x) * (0.37f * 0.70710678f));
  e = fast_exp2(x * x * -0.72134752f);
  float q = -0.07127566635f;
  q = q * t + 0.2178295851f;
  q = q * t - 0.09321530163f;
  q = q * t + 0.1587023735f;
  q = q * t + 0.07632809877f;
  q = q * t + 0.1074413359f;
  q = q * t + 0.1041898951f;
  q *= t * e;
  return x > 0 ? 1 - q : q;
}

// gelu, the erf form, and its derivative.
__device__ inline float gelu(float x) {
  float e;
  return x * normal_cdf(x, e);
}
__device__ inline float gelu_slope(float x) {
  float e, cdf = normal_cdf(x, e);
  return cdf + x * 0.39894228f * e;
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
