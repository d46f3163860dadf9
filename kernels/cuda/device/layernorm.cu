// LayerNorm, forward and backward. blockDim.x threads share a row, a chunk of
// eight columns each, which they keep in registers: every tensor is read once.
// blockDim.y rows a block where rows are short.
#include "norm.h"

// Y[R, n] = (X[row] − mean)·rstd ⊙ scale + shift, mean[R] and rstd[R] = where
// given; row is list[i] or i. X and Y are of either type.
extern "C" __global__ void __launch_bounds__(512) layernorm(const void* x, long long xl, const int* list, const void* scale, const void* shift, void* y, long long yl, float* mean, float* rstd, int R, int n, int N, float eps, int* fault, int code) {
  __shared__ float red[MAX_WARPS];
  int i = blockIdx.x * blockDim.y + threadIdx.y, c = threadIdx.x * CHUNK;
  bool active = i < R;
  int row = active && list ? list[i] : i;
  if (active && list) active = in_range(row, N, fault, code);
  float v[CHUNK] = {};
  if (active) Tensor(x, xl).load(v, row, c, n);
  float m, rs = centre(v, m, c, n, eps, red);
  if (!active) return;
  scale_shift(v, rs, scale, shift, c, n);
  Tensor(y, yl).store(v, i, c, n);
  if (mean && threadIdx.x == 0) mean[i] = m, rstd[i] = rs;
}
CUEMU_KERNEL(layernorm)

// With norm = (x − mean)·rstd and g = dy ⊙ scale:
//   DX[row] (= or +=) rstd·(g − avg(g) − norm·avg(g ⊙ norm))
//   partial[blockIdx.x][2n] = sums of dy ⊙ norm, then of dy, over the block's
// rows, where partial is given.
extern "C" __global__ void __launch_bounds__(512) layernorm_grad(const void* x, long long xl, const int* list, const void* dy, long long dyl, const void* scale, const float* mean, const float* rstd, void* dx, long long dxl, float* partial, int R, int n, int N, int accumulate, int* fault, int code) {
  __shared__ float red[MAX_WARPS], sum[CHUNK][256];
  Tensor X(x, xl), DY(dy, dyl), DX(dx, dxl);
  int c = threadIdx.x * CHUNK;
  float g[CHUNK], ds[CHUNK] = {}, db[CHUNK] = {};
  Tensor(scale, 0).load(g, 0, c, n);
  for (int base = blockIdx.x * blockDim.y; base < R; base += gridDim.x * blockDim.y) {
    int i = base + threadIdx.y;
    bool active = i < R;
    int row = active && list ? list[i] : i;
    if (active && list) active = in_range(row, N, fault, code);
    float v[CHUNK] = {}, d[CHUNK] = {}, m = 0, rs = 0, s = 0, t = 0;
    if (active) {
      m = mean[i], rs = rstd[i];
      X.load(v, row, c, n);
      DY.load(d, i, c, n);
    }
#pragma unroll
    for (int e = 0; e < CHUNK; e++) {
      v[e] = (v[e] - m) * rs;
      ds[e] += d[e] * v[e];
      db[e] += d[e];
      d[e] *= g[e];
      s += d[e];
      t += d[e] * v[e];
    }
    s = row_sum(s, red) / n;
    t = row_sum(t, red) / n;
    if (!active) continue;
#pragma unroll
    for (int e = 0; e < CHUNK; e++) v[e] = rs * (d[e] - s - v[e] * t);
    if (accumulate) {
      DX.load(d, row, c, n);
#pragma unroll
      for (int e = 0; e < CHUNK; e++) v[e] += d[e];
    }
    DX.store(v, row, c, n);
  }
  if (!partial) return;
  add_rows(ds, sum);
  add_rows(db, sum);
  if (threadIdx.y) return;
  Tensor P(partial + (long long)blockIdx.x * 2 * n, 0), Q(P.f32(0, n), 0);
  P.store(ds, 0, c, n);
  Q.store(db, 0, c, n);
}
CUEMU_KERNEL(layernorm_grad)
