// MatMul of f32 matrices: 64 × 64 tiles, 16 deep, through shared memory; each
// of 64 threads holds 8 × 8 results. Any shape, stride and alignment.
#include "gemm.h"

namespace gemm_f32_kernels {

constexpr int TILE = 64, DEPTH = 16;

// Shared tiles are [k][m] and [k][n]. A KINNER operand lies in memory with k
// innermost and is transposed on the way. Beyond the matrix there are zeros.
template <bool KINNER>
__device__ inline void load_tile(float (&tile)[DEPTH][TILE + 4], const Tensor& X, int k0, int o0, int k, int o) {
#pragma unroll
  for (int i = 0; i < TILE * DEPTH / 4 / 64; i++) {
    int e = (i * 64 + threadIdx.x) * 4;
    int kk = KINNER ? e % DEPTH : e / TILE, oo = KINNER ? e / DEPTH : e % TILE;
    int row = KINNER ? o0 + oo : k0 + kk, col = KINNER ? k0 + kk : o0 + oo;
    int rows = KINNER ? o : k, cols = KINNER ? k : o;
    float v[4] = {};
    if (row < rows) {
      if (X.wide && col + 4 <= cols) {
        float4 f = *(const float4*)X.f32(row, col);
        v[0] = f.x, v[1] = f.y, v[2] = f.z, v[3] = f.w;
      } else {
#pragma unroll
        for (int x = 0; x < 4; x++)
          if (col + x < cols) v[x] = *X.f32(row, col + x);
      }
    }
#pragma unroll
    for (int x = 0; x < 4; x++) tile[KINNER ? kk + x : kk][KINNER ? oo : oo + x] = v[x];
  }
}

// C[m, n] = act(op(A)·op(B) + bias), or +=; sum[m] += Σ_k op(A), optional, TA;
// partial and part as in gemm_bf16.cu.
template <bool TA, bool TB>
__device__ inline void gemm(const Tensor& A, const Tensor& B, const Epilogue& out, float* sum, int m, int n, int k, int part) {
  __shared__ __align__(16) float a[DEPTH][TILE + 4], b[DEPTH][TILE + 4];
  int n0 = blockIdx.x * TILE, m0 = blockIdx.y * TILE;
  int ty = threadIdx.x / 8 * 8, tx = threadIdx.x % 8 * 8;
  bool sums = sum && blockIdx.x == 0;
  float acc[8][8] = {}, total = 0;
  Depths d(k, part);
  for (int k0 = d.from; k0 < d.to; k0 += DEPTH) {
    load_tile<!TA>(a, A, k0, m0, d.to, m);
    load_tile<TB>(b, B, k0, n0, d.to, n);
    __syncthreads();
#pragma unroll
    for (int kk = 0; kk < DEPTH; kk++) {
      float x[8], y[8];
#pragma unroll
      for (int i = 0; i < 8; i++) x[i] = a[kk][ty + i], y[i] = b[kk][tx + i];
#pragma unroll
      for (int i = 0; i < 8; i++)
#pragma unroll
        for (int j = 0; j < 8; j++) acc[i][j] += x[i] * y[j];
    }
    if (sums)
      for (int kk = 0; kk < DEPTH; kk++) total += a[kk][threadIdx.x];
    __syncthreads();
  }
  // Results leave by rows: each eighth row at a time passes through shared memory.
  float* stage = &a[0][0];
#pragma unroll
  for (int i = 0; i < 8; i++) {
    __syncthreads();
#pragma unroll
    for (int j = 0; j < 8; j += 4) {
      float4 v = {acc[i][j], acc[i][j + 1], acc[i][j + 2], acc[i][j + 3]};
      *(float4*)(stage + ty / 8 * (TILE + 4) + tx + j) = v;
    }
    __syncthreads();
#pragma unroll 1
    for (int q = threadIdx.x; q < 8 * TILE / 4; q += 64) {
      int row = q / (TILE / 4), col = q % (TILE / 4) * 4;
      float4 f = *(const float4*)(stage + row * (TILE + 4) + col);
      float v[4] = {f.x, f.y, f.z, f.w};
      out.store(m0 + row * 8 + i, n0 + col, v);
    }
  }
  if (!sums || m0 + (int)threadIdx.x >= m) return;
  if (out.partial) sum[(long long)blockIdx.z * m + m0 + threadIdx.x] = total;
  else sum[m0 + threadIdx.x] += total;
}

#define GEMM(name, TA, TB)                                                                                              \
  extern "C" __global__ void __launch_bounds__(64)                                                                      \
      name(const void* a, long long al, const void* b, long long bl, void* c, long long cl, const float* bias, void* pre, long long prel, float* sum, int m, int n, int k, int act, int accumulate, float* partial, int part) { \
    gemm<TA, TB>(Tensor(a, al), Tensor(b, bl), Epilogue{Tensor(c, cl), Tensor(pre, prel), bias, m, n, act, accumulate, partial}, sum, m, n, k, part); \
  }                                                                                                                     \
  CUEMU_KERNEL(name)

GEMM(gemm_f32_nn, false, false)
GEMM(gemm_f32_nt, false, true)
GEMM(gemm_f32_tn, true, false)
GEMM(gemm_f32_tt, true, true)
#undef GEMM

}  // namespace gemm_f32_kernels
