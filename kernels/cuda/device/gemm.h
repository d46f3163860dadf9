// gemm.h - what the matrix products do with a result: bias, activation, +=.
#pragma once
#include "tensor.h"

enum { ACT_NONE, ACT_GELU, ACT_GELU_GRAD };

struct Epilogue {
  Tensor C, Pre;
  const float* bias;
  int m, n, act, accumulate;
  float* partial;  // of a product that is split along k, for gemm_finish

  // C[i, j..] = act(v + bias[j..]), or += v, for N neighbouring columns; those
  // beyond n are left out. v + bias is rounded to C's type before the activation;
  // Pre is written by GELU (optional) and read by GELU_GRAD.
  template <int N>
  __device__ void store(int i, int j, float (&v)[N]) const {
    if (i >= m || j >= n) return;
    if (partial) return Tensor(partial + (long long)blockIdx.z * m * n, 2 * (long long)n).store(v, i, j, n);
    finish(i, j, v);
  }
  template <int N>
  __device__ void finish(int i, int j, float (&v)[N]) const {
    float u[N];
    if (bias) {
      Tensor(bias, 0).load(u, 0, j, n);
#pragma unroll
      for (int e = 0; e < N; e++) v[e] += u[e];
    }
    if (act == ACT_GELU) {
      if (Pre.present()) Pre.store(v, i, j, n);
#pragma unroll
      for (int e = 0; e < N; e++) v[e] = gelu(C.rounded(v[e]));
    } else if (act == ACT_GELU_GRAD) {
      Pre.load(u, i, j, n);
#pragma unroll
      for (int e = 0; e < N; e++) v[e] = C.rounded(v[e]) * gelu_slope(u[e]);
    } else if (accumulate) {
      C.load(u, i, j, n);
#pragma unroll
      for (int e = 0; e < N; e++) v[e] += u[e];
    }
    C.store(v, i, j, n);
  }
};

// The depths [from, to) of a block: all, or those of its part where the product
// is split along k.
struct Depths {
  int from, to;
  __device__ Depths(int k, int part) : from(blockIdx.z * part), to(min(k, from + part)) {}
};
