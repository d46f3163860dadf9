// Normalize and its backward pass: a row kernel, each thread a chunk of columns.
#include "tensor.h"

// Y[R, n] = X/‖X‖, norm[R] = ‖X‖, at least 1e-12
extern "C" __global__ void __launch_bounds__(512) normalize(const void* x, long long xl, void* y, long long yl, float* norm, int R, int n) {
  __shared__ float red[MAX_WARPS];
  int r = blockIdx.x * blockDim.y + threadIdx.y, c = threadIdx.x * CHUNK;
  float v[CHUNK] = {}, s = 0;
  if (r < R) Tensor(x, xl).load(v, r, c, n);
#pragma unroll
  for (int e = 0; e < CHUNK; e++) s += v[e] * v[e];
  s = fmaxf(sqrtf(row_sum(s, red)), 1e-12f);
  if (r >= R) return;
#pragma unroll
  for (int e = 0; e < CHUNK; e++) v[e] /= s;
  Tensor(y, yl).store(v, r, c, n);
  if (threadIdx.x == 0) norm[r] = s;
}
CUEMU_KERNEL(normalize)

// DX[R, n] = (DY − Y·⟨Y, DY⟩)/norm; DX may be DY
extern "C" __global__ void __launch_bounds__(512) normalize_grad(const void* y, long long yl, const void* dy, long long dyl, const float* norm, void* dx, long long dxl, int R, int n) {
  __shared__ float red[MAX_WARPS];
  int r = blockIdx.x * blockDim.y + threadIdx.y, c = threadIdx.x * CHUNK;
  float v[CHUNK] = {}, d[CHUNK] = {}, s = 0;
  if (r < R) {
    Tensor(y, yl).load(v, r, c, n);
    Tensor(dy, dyl).load(d, r, c, n);
  }
#pragma unroll
  for (int e = 0; e < CHUNK; e++) s += v[e] * d[e];
  s = row_sum(s, red);
  if (r >= R) return;
#pragma unroll
  for (int e = 0; e < CHUNK; e++) v[e] = (d[e] - v[e] * s) / norm[r];
  Tensor(dx, dxl).store(v, r, c, n);
}
CUEMU_KERNEL(normalize_grad)
