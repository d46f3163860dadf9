// MatMul of bf16 matrices on mma.sync: 128 × 128 tiles, 32 deep, two of them in
// shared memory, so that cp.async fetches one while the other is multiplied.
// 8 warps, 64 × 32 results each, in f32. Any shape, stride and alignment.
#include "gemm.h"

namespace gemm_bf16_kernels {

constexpr int TILE = 128, DEPTH = 32, THREADS = 256;

// A tile of an operand as it lies in memory: with KINNER, k is innermost and
// the tile is [128][32], else [32][128]. 16-byte pieces of a row are permuted
// so that ldmatrix meets no bank twice.
template <bool KINNER>
struct Tile {
  bf16 e[TILE * DEPTH];

  __device__ static int place(int row, int piece) {
    return KINNER ? row * DEPTH + ((piece ^ (row >> 1 & 3)) << 3) : row * TILE + ((piece ^ (row & 7)) << 3);
  }
  // Begins to fetch k0.., o0..; beyond the matrix, of k by o, there are zeros.
  __device__ void fetch(const Tensor& X, int k0, int o0, int k, int o) {
    constexpr int PIECES = (KINNER ? DEPTH : TILE) / 8;
#pragma unroll
    for (int i = 0; i < TILE * DEPTH / 8 / THREADS; i++) {
      int p = i * THREADS + threadIdx.x, r = p / PIECES, q = p % PIECES;
      int row = (KINNER ? o0 : k0) + r, col = (KINNER ? k0 : o0) + q * 8;
      int rows = KINNER ? o : k, cols = KINNER ? k : o;
      bf16* to = &e[place(r, q)];
      if (X.wide && row < rows && col + 8 <= cols) {
        cp_async16(to, X.b16(row, col));
        continue;
      }
#pragma unroll
      for (int x = 0; x < 8; x++) to[x] = row < rows && col + x < cols ? *X.b16(row, col + x) : bf16{0};
    }
  }
  __device__ bf16 at(int kk, int oo) const {
    int row = KINNER ? oo : kk, col = KINNER ? kk : oo;
    return e[place(row, col / 8) + col % 8];
  }
  // The fragment of A at rows m and depths k of the tile.
  __device__ void a(uint32_t (&f)[4], int m, int k, int lane) const {
    if (KINNER) ldmatrix_x4(f, &e[place(m + lane % 16, k / 8 + lane / 16)]);
    else ldmatrix_x4_trans(f, &e[place(k + lane / 16 * 8 + lane % 8, m / 8 + lane / 8 % 2)]);
  }
  // The fragments of B at columns n and n + 8, depths k: two words each.
  __device__ void b(uint32_t (&f)[4], int n, int k, int lane) const {
    if (KINNER) ldmatrix_x4(f, &e[place(n + lane / 16 * 8 + lane % 8, k / 8 + lane / 8 % 2)]);
    else ldmatrix_x4_trans(f, &e[place(k + lane / 8 % 2 * 8 + lane % 8, n / 8 + lane / 16)]);
  }
};

// C[m, n] = act(op(A)·op(B) + bias), or +=; sum[m] += Σ_k op(A), optional, TA.
// With partial, both are those of the depths [blockIdx.z·part, + part) alone, =,
// and blockIdx.z-th in partial and sum.
template <bool TA, bool TB>
__device__ inline void gemm(const Tensor& A, const Tensor& B, const Epilogue& out, float* sum, int m, int n, int k, int part) {
  __shared__ __align__(128) bf16 pool[4 * TILE * DEPTH];
  auto a = (Tile<!TA>*)pool;
  auto b = (Tile<TB>*)(pool + 2 * TILE * DEPTH);
  int n0 = blockIdx.x * TILE, m0 = blockIdx.y * TILE, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int wm = warp / 4 * 64, wn = warp % 4 * 32;
  bool sums = sum && blockIdx.x == 0 && threadIdx.x < TILE;
  float acc[4][4][4] = {}, total = 0;
  Depths d(k, part);
  int steps = (d.to - d.from + DEPTH - 1) / DEPTH;
  if (steps > 0) {
    a[0].fetch(A, d.from, m0, d.to, m);
    b[0].fetch(B, d.from, n0, d.to, n);
  }
  cp_async_commit();
  for (int s = 0; s < steps; s++) {
    if (s + 1 < steps) {
      a[(s + 1) % 2].fetch(A, d.from + (s + 1) * DEPTH, m0, d.to, m);
      b[(s + 1) % 2].fetch(B, d.from + (s + 1) * DEPTH, n0, d.to, n);
    }
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    const auto& x = a[s % 2];
    const auto& y = b[s % 2];
#pragma unroll
    for (int kk = 0; kk < DEPTH; kk += 16) {
      uint32_t fa[4][4], fb[2][4];
#pragma unroll
      for (int i = 0; i < 4; i++) x.a(fa[i], wm + i * 16, kk, lane);
#pragma unroll
      for (int j = 0; j < 2; j++) y.b(fb[j], wn + j * 16, kk, lane);
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
          uint32_t f[2] = {fb[j / 2][j % 2 * 2], fb[j / 2][j % 2 * 2 + 1]};
          mma_bf16_16816(acc[i][j], fa[i], f);
        }
    }
    if (sums)
      for (int kk = 0; kk < DEPTH; kk++) total += bf2f(x.at(kk, threadIdx.x));
    __syncthreads();
  }
  cp_async_wait<0>();
  // Results leave in whole pieces: 16 rows of the warp at a time pass through
  // shared memory, in rows of 32 and 8 more, so that no bank is met twice.
  constexpr int PITCH = 40;
  float* stage = (float*)pool + warp * 16 * PITCH;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    __syncwarp();
#pragma unroll
    for (int j = 0; j < 4; j++)
#pragma unroll
      for (int e = 0; e < 2; e++) {
        float2 v = {acc[i][j][2 * e], acc[i][j][2 * e + 1]};
        *(float2*)(stage + (lane / 4 + 8 * e) * PITCH + j * 8 + lane % 4 * 2) = v;
      }
    __syncwarp();
#pragma unroll 1
    for (int q = lane; q < 16 * 8; q += 32) {
      float4 f = *(const float4*)(stage + q / 8 * PITCH + q % 8 * 4);
      float v[4] = {f.x, f.y, f.z, f.w};
      out.store(m0 + wm + i * 16 + q / 8, n0 + wn + q % 8 * 4, v);
    }
  }
  if (!sums || m0 + (int)threadIdx.x >= m) return;
  if (out.partial) sum[(long long)blockIdx.z * m + m0 + threadIdx.x] = total;
  else sum[m0 + threadIdx.x] += total;
}

#define GEMM(name, TA, TB)                                                                                              \
  extern "C" __global__ void __launch_bounds__(THREADS, 2)                                                                 \
      name(const void* a, long long al, const void* b, long long bl, void* c, long long cl, const float* bias, void* pre, long long prel, float* sum, int m, int n, int k, int act, int accumulate, float* partial, int part) { \
    gemm<TA, TB>(Tensor(a, al), Tensor(b, bl), Epilogue{Tensor(c, cl), Tensor(pre, prel), bias, m, n, act, accumulate, partial}, sum, m, n, k, part); \
  }                                                                                                                     \
  CUEMU_KERNEL(name)

GEMM(gemm_bf16_nn, false, false)
GEMM(gemm_bf16_nt, false, true)
GEMM(gemm_bf16_tn, true, false)
GEMM(gemm_bf16_tt, true, true)
#undef GEMM

}  // namespace gemm_bf16_kernels
