// attention_bf16.h - tiles of bf16 matrices in shared memory, and their
// products on mma.sync, for the attention kernels.
#pragma once
#include "attention.h"

namespace attention_bf16_kernels {

// A block treats 64 queries (or keys) of a head, 16 a warp, and walks over tiles
// of the rows of the other side.
constexpr int WARPS = 4, THREADS = 32 * WARPS, BLOCK = 16 * WARPS;
constexpr float LOG2E = 1.44269504f, LN2 = 0.69314718f;

// Rows of a tile have DIM columns and 16 bytes more, so that ldmatrix meets no
// bank twice.
template <int DIM> constexpr int ROW = DIM + 8;

// The bytes that a head's columns of X can be moved in: 16, 4 or 2.
__device__ inline int piece(const Tensor& X, int dim) {
  if (X.wide && dim % 8 == 0) return 16;
  return (((uintptr_t)X.base | (uintptr_t)(2 * X.stride) | (uintptr_t)(2 * dim)) & 3) == 0 ? 4 : 2;
}

// Begins to fetch rows row(0) to row(n−1) of X, columns c0 to c0+dim−1, into a
// tile of ROWS; the rest of it becomes 0. Neighbouring threads take neighbouring
// bytes.
template <int DIM, int ROWS, class RowOf>
__device__ inline void fetch(bf16* tile, const Tensor& X, int c0, int dim, int n, RowOf row) {
  int bytes = piece(X, dim);
  if (bytes == 16) {
    constexpr int PIECES = DIM / 8;
    uint4 zero = {0, 0, 0, 0};
#pragma unroll 1
    for (int i = threadIdx.x; i < ROWS * PIECES; i += THREADS) {
      int j = i / PIECES, c = i % PIECES * 8;
      bf16* to = tile + j * ROW<DIM> + c;
      if (j < n && c < dim) cp_async16(to, X.b16(row(j), c0 + c));
      else *(uint4*)to = zero;
    }
    return;
  }
#pragma unroll 1
  for (int i = threadIdx.x; i < ROWS * DIM / 2; i += THREADS) {
    int j = i / (DIM / 2), c = i % (DIM / 2) * 2;
    bf16* to = tile + j * ROW<DIM> + c;
    if (j >= n || c >= dim) {
      *(uint32_t*)to = 0;
    } else if (bytes == 4) {
      cp_async4(to, X.b16(row(j), c0 + c));
    } else {
      to[0] = *X.b16(row(j), c0 + c);
      to[1] = c + 1 < dim ? *X.b16(row(j), c0 + c + 1) : bf16{0};
    }
  }
}

__device__ inline uint32_t pack(float a, float b) { return (uint32_t)f2bf(a).v | (uint32_t)f2bf(b).v << 16; }

// The 16 rows of a tile from first on, as left operands.
template <int DIM>
__device__ inline void left(uint32_t (&f)[DIM / 16][4], const bf16* tile, int first, int lane) {
#pragma unroll
  for (int d = 0; d < DIM / 16; d++) ldmatrix_x4(f[d], tile + (first + lane % 16) * ROW<DIM> + d * 16 + lane / 16 * 8);
}

// c[16, ROWS] = a[16, DIM]·tileᵀ; only groups of 16 of the tile's rows that
// begin before n. The thread's element e of c[j] is that of row lane/4 + e/2·8
// and column 8j + lane%4·2 + e%2.
template <int DIM, int ROWS>
__device__ inline void times_rows(float (&c)[ROWS / 8][4], const uint32_t (&a)[DIM / 16][4], const bf16* tile, int n, int lane) {
#pragma unroll
  for (int j = 0; j < ROWS; j += 16) {
#pragma unroll
    for (int e = 0; e < 4; e++) c[j / 8][e] = c[j / 8 + 1][e] = 0;
    if (j >= n) continue;
#pragma unroll
    for (int d = 0; d < DIM / 16; d++) {
      uint32_t f[4];
      ldmatrix_x4(f, tile + (j + lane / 16 * 8 + lane % 8) * ROW<DIM> + d * 16 + lane / 8 % 2 * 8);
      uint32_t f0[2] = {f[0], f[1]}, f1[2] = {f[2], f[3]};
      mma_bf16_16816(c[j / 8], a[d], f0);
      mma_bf16_16816(c[j / 8 + 1], a[d], f1);
    }
  }
}

// acc[16, DIM] += p[16, ROWS]·tile, p rounded; as above.
template <int DIM, int ROWS>
__device__ inline void add_product(float (&acc)[DIM / 8][4], const float (&p)[ROWS / 8][4], const bf16* tile, int n, int lane) {
#pragma unroll
  for (int j = 0; j < ROWS; j += 16) {
    if (j >= n) continue;
    const float(&a)[4] = p[j / 8], (&b)[4] = p[j / 8 + 1];
    uint32_t f[4] = {pack(a[0], a[1]), pack(a[2], a[3]), pack(b[0], b[1]), pack(b[2], b[3])};
#pragma unroll
    for (int d = 0; d < DIM; d += 16) {
      uint32_t g[4];
      ldmatrix_x4_trans(g, tile + (j + lane / 8 % 2 * 8 + lane % 8) * ROW<DIM> + d + lane / 16 * 8);
      uint32_t g0[2] = {g[0], g[1]}, g1[2] = {g[2], g[3]};
      mma_bf16_16816(acc[d / 8], f, g0);
      mma_bf16_16816(acc[d / 8 + 1], f, g1);
    }
  }
}

// Stores the warp's 16 rows of results, times a factor each, to rows row(0) to
// row(n−1) of Y. They pass through part, 16 rows of shared memory of the warp's
// own, and leave it in whole pieces.
template <int DIM, class RowOf>
__device__ inline void store(bf16* part, const float (&acc)[DIM / 8][4], float low, float high, const Tensor& Y, int c0, int dim, int n, int lane, RowOf row) {
  __syncwarp();
#pragma unroll
  for (int d = 0; d < DIM / 8; d++) {
    bf16* to = part + lane / 4 * ROW<DIM> + d * 8 + lane % 4 * 2;
    *(uint32_t*)to = pack(acc[d][0] * low, acc[d][1] * low);
    *(uint32_t*)(to + 8 * ROW<DIM>) = pack(acc[d][2] * high, acc[d][3] * high);
  }
  __syncwarp();
  int bytes = piece(Y, dim);
  if (bytes == 16) {
    constexpr int PIECES = DIM / 8;
    for (int i = lane; i < 16 * PIECES; i += 32) {
      int j = i / PIECES, c = i % PIECES * 8;
      if (j < n && c < dim) *(uint4*)Y.b16(row(j), c0 + c) = *(const uint4*)(part + j * ROW<DIM> + c);
    }
    return;
  }
#pragma unroll 1
  for (int i = lane; i < 16 * DIM / 2; i += 32) {
    int j = i / (DIM / 2), c = i % (DIM / 2) * 2;
    const bf16* from = part + j * ROW<DIM> + c;
    if (j >= n || c >= dim) continue;
    if (bytes == 4) {
      *(uint32_t*)Y.b16(row(j), c0 + c) = *(const uint32_t*)from;
    } else {
      *Y.b16(row(j), c0 + c) = from[0];
      if (c + 1 < dim) *Y.b16(row(j), c0 + c + 1) = from[1];
    }
  }
}

// The largest and the sum of a row of results lie with four neighbouring lanes.
__device__ inline float quad_max(float v) {
  v = fmaxf(v, __shfl_xor_sync(ALL, v, 1));
  return fmaxf(v, __shfl_xor_sync(ALL, v, 2));
}
__device__ inline float quad_sum(float v) {
  v += __shfl_xor_sync(ALL, v, 1);
  return v + __shfl_xor_sync(ALL, v, 2);
}

}  // namespace attention_bf16_kernels
