// norm.h - rows of residual connections and of LayerNorm, for kernels that do
// one of them and for the one that does both with the same bits.
#pragma once
#include "tensor.h"

// v += s·gamma ⊙ Y[i], of columns c to c+CHUNK−1 of n; gamma is ones where absent.
__device__ inline void add_branch(float (&v)[CHUNK], const Tensor& Y, int i, const void* gamma, float s, int c, int n) {
  float u[CHUNK], g[CHUNK];
  Y.load(u, i, c, n);
  if (gamma) {
    Tensor(gamma, 0).load(g, 0, c, n);
#pragma unroll
    for (int e = 0; e < CHUNK; e++) v[e] += s * g[e] * u[e];
  } else {
#pragma unroll
    for (int e = 0; e < CHUNK; e++) v[e] += s * u[e];
  }
}

// Takes the mean m off the row whose chunk at column c is v, and returns its
// rstd. All threads of the block call it together; red is shared memory.
__device__ inline float centre(float (&v)[CHUNK], float& m, int c, int n, float eps, float (&red)[MAX_WARPS]) {
  float s = 0;
#pragma unroll
  for (int e = 0; e < CHUNK; e++) s += v[e];
  m = row_sum(s, red) / n;
  s = 0;
#pragma unroll
  for (int e = 0; e < CHUNK; e++) {
    v[e] -= m;
    if (c + e < n) s += v[e] * v[e];
  }
  return 1 / sqrtf(row_sum(s, red) / n + eps);
}

// v = v·rs ⊙ scale + shift
__device__ inline void scale_shift(float (&v)[CHUNK], float rs, const void* scale, const void* shift, int c, int n) {
  float g[CHUNK], b[CHUNK];
  Tensor(scale, 0).load(g, 0, c, n);
  Tensor(shift, 0).load(b, 0, c, n);
#pragma unroll
  for (int e = 0; e < CHUNK; e++) v[e] = v[e] * rs * g[e] + b[e];
}
