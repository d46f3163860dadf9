// Dropout: element (r, c) keeps X·scale where word c%4 of the Philox block with
// counter (id[r], c/4, 0, 0) is at least threshold.
#include "tensor.h"

// Y[rows, n] = X[rows, n]·mask; id[rows]; Y may be X
extern "C" __global__ void __launch_bounds__(256) dropout(const void* x, long long xl, const int* id, void* y, long long yl, int rows, int n, unsigned k0, unsigned k1, unsigned threshold, float scale) {
  int r, c;
  if (!chunk<QUAD>(rows, n, r, c)) return;
  float v[QUAD];
  Tensor(x, xl).load(v, r, c, n);
  uint32_t w[4];
  philox(k0, k1, (uint32_t)id[r], c / QUAD, 0, 0, w);
#pragma unroll
  for (int i = 0; i < QUAD; i++) v[i] = w[i] >= threshold ? v[i] * scale : 0.f;
  Tensor(y, yl).store(v, r, c, n);
}
CUEMU_KERNEL(dropout)
