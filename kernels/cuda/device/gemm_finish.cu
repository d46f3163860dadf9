// The second half of a product that is split along k.
#include "gemm.h"

// C[m, n] = act(Σ_p partial[p][m, n] + bias), or +=, the parts in their order.
// A thread four columns.
extern "C" __global__ void __launch_bounds__(256) gemm_finish(const float* partial, int parts, void* c, long long cl, const float* bias, void* pre, long long prel, int m, int n, int act, int accumulate) {
  int i, j;
  if (!chunk<QUAD>(m, n, i, j)) return;
  float v[QUAD] = {};
  for (int p = 0; p < parts; p++) {
    float u[QUAD];
    Tensor(partial + (long long)p * m * n, 2 * (long long)n).load(u, i, j, n);
#pragma unroll
    for (int e = 0; e < QUAD; e++) v[e] += u[e];
  }
  Epilogue{Tensor(c, cl), Tensor(pre, prel), bias, m, n, act, accumulate, nullptr}.finish(i, j, v);
}
CUEMU_KERNEL(gemm_finish)
