// A residual connection and the LayerNorm of its result. blockDim.x threads
// share a row, a chunk of eight columns each, which they keep in registers
// between the two: Z is written and not read again. blockDim.y rows a block
// where rows are short.
#include "norm.h"

// Z[r] = X[r] + keep[i]·gamma ⊙ Y[i], N × n, Z may be X; gamma[n] and keep[R]
// are ones where absent. H[j] = (Z[r] − mean)·rstd ⊙ scale + shift, mean[j] and
// rstd[j] = where given. i = from[r] and j = to[r], −1 for none; r where these
// are absent. Scale and shift are those of the part in which j is: before end0,
// before end1, or from there on.
extern "C" __global__ void __launch_bounds__(512) residual_norm(const void* x, long long xl, const int* from, const void* y, long long yl, const void* gamma, const float* keep, void* z, long long zl, const int* to, void* h, long long hl, float* mean, float* rstd, const void* scale0, const void* shift0, const void* scale1, const void* shift1, const void* scale2, const void* shift2, int end0, int end1, int N, int n, float eps) {
  __shared__ float red[MAX_WARPS];
  int r = blockIdx.x * blockDim.y + threadIdx.y, c = threadIdx.x * CHUNK, i = -1, j = -1;
  bool stored = false;  // else row r of Z is in place
  if (r < N) {
    i = from ? from[r] : r;
    j = to ? to[r] : r;
    stored = i >= 0 || x != z;
  }
  Tensor Z(z, zl);
  float v[CHUNK] = {}, m;
  if (stored || j >= 0) Tensor(x, xl).load(v, r, c, n);
  if (i >= 0) add_branch(v, Tensor(y, yl), i, gamma, keep ? keep[i] : 1.f, c, n);
  if (stored) Z.store(v, r, c, n);
#pragma unroll
  for (int e = 0; e < CHUNK; e++) v[e] = Z.rounded(v[e]);
  float rs = centre(v, m, c, n, eps, red);
  if (j < 0) return;
  scale_shift(v, rs, j < end0 ? scale0 : j < end1 ? scale1 : scale2, j < end0 ? shift0 : j < end1 ? shift1 : shift2, c, n);
  Tensor(h, hl).store(v, j, c, n);
  if (mean && threadIdx.x == 0) mean[j] = m, rstd[j] = rs;
}
CUEMU_KERNEL(residual_norm)
