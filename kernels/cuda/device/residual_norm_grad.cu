// Backward pass of residual_norm.cu: a row's gradient goes through its norm and
// on to the branch without leaving the registers of blockDim.x threads, a chunk
// of eight columns each. blockDim.y rows at a time where rows are short.
#include "tensor.h"

// With norm = (Z − mean)·rstd and g = DH[j] ⊙ scale, for rows r = list[j] (or j)
// of N × n, in three parts with scales of their own:
//   DZ[r] += rstd·(g − avg(g) − norm·avg(g ⊙ norm))
// and then, with i = from[r] (or r), −1 for none:
//   DY[i] = keep[i]·gamma ⊙ DZ[r]
// The blocks before block1 treat rows j < row1, those before block2 j < row2,
// those before block3 j < row3. The rest treat the rows r that have no j, by
// to[r], for DY alone. Where partial is given,
//   partial[blockIdx.x][3n] = sums of DH ⊙ norm, of DH and of DZ ⊙ keep·Y over
// the block's rows.
extern "C" __global__ void __launch_bounds__(512) residual_norm_grad(const void* z, long long zl, const int* list, const int* to, const void* dh, long long dhl, const float* mean, const float* rstd, const void* scale0, const void* scale1, const void* scale2, void* dz, long long dzl, const int* from, const void* y, long long yl, const void* gamma, const float* keep, void* dy, long long dyl, float* partial, int block1, int block2, int block3, int row1, int row2, int row3, int N, int n) {
  __shared__ float red[MAX_WARPS], sum[CHUNK][256];
  Tensor Z(z, zl), DH(dh, dhl), DZ(dz, dzl), Y(y, yl), DY(dy, dyl);
  int b = blockIdx.x, blocks = block1, k = 0, end = row1, c = threadIdx.x * CHUNK;
  const void* scale = scale0;
  bool normed = b < block3;
  if (b >= block3) b -= block3, blocks = gridDim.x - block3, k = 0, end = N;
  else if (b >= block2) b -= block2, blocks = block3 - block2, k = row2, end = row3, scale = scale2;
  else if (b >= block1) b -= block1, blocks = block2 - block1, k = row1, end = row2, scale = scale1;
  float w[CHUNK], g[CHUNK], ds[CHUNK] = {}, db[CHUNK] = {}, dg[CHUNK] = {};
#pragma unroll
  for (int e = 0; e < CHUNK; e++) g[e] = 1;
  if (normed) Tensor(scale, 0).load(w, 0, c, n);
  if (gamma) Tensor(gamma, 0).load(g, 0, c, n);
  for (k += b * blockDim.y; k < end; k += blocks * blockDim.y) {
    int j = k + threadIdx.y, r = -1, i = -1;
    if (j < end) {
      r = normed && list ? list[j] : j;
      if (normed ? r < 0 || r >= N : to[r] >= 0) r = -1;  // a bad row is a fault already
      if (r >= 0) i = from ? from[r] : r;
    }
    float u[CHUNK] = {};
    if (r >= 0 && (normed || i >= 0)) DZ.load(u, r, c, n);
    if (normed) {
      float v[CHUNK] = {}, d[CHUNK] = {}, m = 0, rs = 0, s = 0, t = 0;
      if (r >= 0) {
        m = mean[j], rs = rstd[j];
        Z.load(v, r, c, n);
        DH.load(d, j, c, n);
      }
#pragma unroll
      for (int e = 0; e < CHUNK; e++) {
        v[e] = (v[e] - m) * rs;
        ds[e] += d[e] * v[e];
        db[e] += d[e];
        d[e] *= w[e];
        s += d[e];
        t += d[e] * v[e];
      }
      s = row_sum(s, red) / n;
      t = row_sum(t, red) / n;
#pragma unroll
      for (int e = 0; e < CHUNK; e++) u[e] += rs * (d[e] - s - v[e] * t);
      if (r >= 0) DZ.store(u, r, c, n);
    }
    if (i < 0) continue;
    float s = keep ? keep[i] : 1.f;
#pragma unroll
    for (int e = 0; e < CHUNK; e++) u[e] *= s;
    if (partial && y) {
      float v[CHUNK];
      Y.load(v, i, c, n);
#pragma unroll
      for (int e = 0; e < CHUNK; e++) dg[e] += u[e] * v[e];
    }
#pragma unroll
    for (int e = 0; e < CHUNK; e++) u[e] *= g[e];
    DY.store(u, i, c, n);
  }
  if (!partial) return;
  add_rows(ds, sum);
  add_rows(db, sum);
  add_rows(dg, sum);
  if (threadIdx.y) return;
  float* p = partial + (long long)blockIdx.x * 3 * n;
  Tensor(p, 0).store(ds, 0, c, n);
  Tensor(p + n, 0).store(db, 0, c, n);
  Tensor(p + 2 * n, 0).store(dg, 0, c, n);
}
CUEMU_KERNEL(residual_norm_grad)
