// Column sums and sums of squares in two steps: blocks sum fixed chunks of rows
// into scratch memory, then one kernel adds the partial sums in order.
#include "tensor.h"

// partial[blocks, n] = sums of the rows blockIdx.y·8 + warp, + 8·gridDim.y, ...
// of X[rows, n]. 8 warps; a block covers 256 columns.
extern "C" __global__ void __launch_bounds__(256) column_partials(const void* x, long long xl, float* partial, int rows, int n) {
  __shared__ float sum[8][32 * CHUNK];
  Tensor X(x, xl);
  int lane = threadIdx.x, warp = threadIdx.y, c = (blockIdx.x * 32 + lane) * CHUNK;
  float acc[CHUNK] = {};
  if (c < n)
    for (long long r = blockIdx.y * 8 + warp; r < rows; r += 8 * gridDim.y) {
      float v[CHUNK];
      X.load(v, r, c, n);
#pragma unroll
      for (int i = 0; i < CHUNK; i++) acc[i] += v[i];
    }
#pragma unroll
  for (int i = 0; i < CHUNK; i++) sum[warp][lane * CHUNK + i] = acc[i];
  __syncthreads();
  int t = warp * 32 + lane, col = blockIdx.x * 32 * CHUNK + t;
  if (col >= n) return;
  float s = 0;
  for (int w = 0; w < 8; w++) s += sum[w][t];
  partial[(long long)blockIdx.y * n + col] = s;
}
CUEMU_KERNEL(column_partials)

// out[n] += Σ_p partial[p·ld + c] for c < n, p < count. Block 32 × 32.
extern "C" __global__ void __launch_bounds__(1024) column_finish(const float* partial, int ld, int count, float* out, int n) {
  __shared__ float sum[32][32];
  int c = blockIdx.x * 32 + threadIdx.x;
  float s = 0;
  if (c < n)
    for (int p = threadIdx.y; p < count; p += 32) s += partial[(long long)p * ld + c];
  sum[threadIdx.y][threadIdx.x] = s;
  __syncthreads();
  if (threadIdx.y || c >= n) return;
  s = 0;
  for (int w = 0; w < 32; w++) s += sum[w][threadIdx.x];
  out[c] += s;
}
CUEMU_KERNEL(column_finish)

// partial[blockIdx.x] = Σ X² over the block's chunks of X[rows, n]
extern "C" __global__ void __launch_bounds__(256) square_partials(const void* x, long long xl, float* partial, int rows, int n) {
  __shared__ float red[MAX_WARPS];
  Tensor X(x, xl);
  unsigned per = (n + QUAD - 1) / QUAD;
  float s = 0;
  for (unsigned long long i = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x; i < (unsigned long long)rows * per; i += (unsigned long long)gridDim.x * blockDim.x) {
    float v[QUAD], t = 0;
    X.load(v, i / per, (int)(i % per) * QUAD, n);
#pragma unroll
    for (int k = 0; k < QUAD; k++) t += v[k] * v[k];
    s += t;
  }
  s = row_sum(s, red);
  if (threadIdx.x == 0) partial[blockIdx.x] = s;
}
CUEMU_KERNEL(square_partials)

// *out += weight·Σ partial[count]. One block.
extern "C" __global__ void __launch_bounds__(256) scalar_finish(const float* partial, int count, float weight, float* out) {
  __shared__ float red[MAX_WARPS];
  float s = 0;
  for (int i = threadIdx.x; i < count; i += blockDim.x) s += partial[i];
  s = row_sum(s, red);
  if (threadIdx.x == 0) *out += weight * s;
}
CUEMU_KERNEL(scalar_finish)
