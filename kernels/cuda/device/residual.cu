// Residual connections with LayerScale and drop path, forward and backward.
#include "norm.h"

// from[N] = −1
extern "C" __global__ void __launch_bounds__(256) rows_clear(int* from, int N) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < N) from[i] = -1;
}
CUEMU_KERNEL(rows_clear)

// from[list[i]] = i for i < R; list is without repeats
extern "C" __global__ void __launch_bounds__(256) rows_invert(const int* list, int* from, int R, int N, int* fault, int code) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < R && in_range(list[i], N, fault, code)) from[list[i]] = i;
}
CUEMU_KERNEL(rows_invert)

// Z[r] = X[r] + keep[i]·gamma ⊙ Y[i], rows × n, Z may be X; gamma[n] and
// keep[R] are ones where absent. Row r and row i of Y: with from, i = from[r],
// −1 for none; else with list, r = list[i]; else r = i.
extern "C" __global__ void __launch_bounds__(256) residual(const void* x, long long xl, const int* from, const int* list, const void* y, long long yl, const void* gamma, const float* keep, void* z, long long zl, int rows, int n, int N, int* fault, int code) {
  int k, c;
  if (!chunk(rows, n, k, c)) return;
  int r = list ? list[k] : k, i = from ? from[k] : k;
  if (list && !in_range(r, N, fault, code)) return;
  float v[CHUNK];
  Tensor(x, xl).load(v, r, c, n);
  if (i >= 0) add_branch(v, Tensor(y, yl), i, gamma, keep ? keep[i] : 1.f, c, n);
  Tensor(z, zl).store(v, r, c, n);
}
CUEMU_KERNEL(residual)

// DY[i] = keep[i]·gamma ⊙ DZ[row], R × n; row is list[i] or i.
// partial[blockIdx.x][n] = sums of DZ ⊙ keep·Y over the block's rows, where
// partial is given.
extern "C" __global__ void __launch_bounds__(512) residual_grad(const void* dz, long long dzl, const int* list, const void* y, long long yl, const void* gamma, const float* keep, void* dy, long long dyl, float* partial, int R, int n, int N, int* fault, int code) {
  __shared__ float sum[CHUNK][256];
  Tensor DZ(dz, dzl), Y(y, yl), DY(dy, dyl);
  int c = threadIdx.x * CHUNK;
  float g[CHUNK], acc[CHUNK] = {};
#pragma unroll
  for (int e = 0; e < CHUNK; e++) g[e] = 1;
  if (gamma) Tensor(gamma, 0).load(g, 0, c, n);
  for (int i = blockIdx.x * blockDim.y + threadIdx.y; i < R; i += gridDim.x * blockDim.y) {
    int row = list ? list[i] : i;
    if (list && !in_range(row, N, fault, code)) continue;
    float v[CHUNK], s = keep ? keep[i] : 1.f;
    DZ.load(v, row, c, n);
#pragma unroll
    for (int e = 0; e < CHUNK; e++) v[e] *= s;
    if (partial) {
      float u[CHUNK];
      Y.load(u, i, c, n);
#pragma unroll
      for (int e = 0; e < CHUNK; e++) acc[e] += v[e] * u[e];
    }
#pragma unroll
    for (int e = 0; e < CHUNK; e++) v[e] *= g[e];
    DY.store(v, i, c, n);
  }
  if (!partial) return;
  add_rows(acc, sum);
  if (threadIdx.y == 0) Tensor(partial + (long long)blockIdx.x * n, 0).store(acc, 0, c, n);
}
CUEMU_KERNEL(residual_grad)
