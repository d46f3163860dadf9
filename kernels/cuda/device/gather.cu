// Gather and its backward pass ScatterAdd.
#include "tensor.h"

// Y[i] (= or +=) Table[index[i]], R × n; a negative index stands for zeros
extern "C" __global__ void __launch_bounds__(256) gather(const void* table, long long tl, const int* index, void* y, long long yl, int R, int n, int V, int accumulate, int* fault, int code) {
  int i, c;
  if (!chunk(R, n, i, c)) return;
  Tensor Y(y, yl);
  int row = index[i];
  float v[CHUNK] = {};
  if (row >= 0) {
    if (!in_range(row, V, fault, code)) return;
    Tensor(table, tl).load(v, row, c, n);
  } else if (accumulate) return;
  if (accumulate) {
    float u[CHUNK];
    Y.load(u, i, c, n);
#pragma unroll
    for (int e = 0; e < CHUNK; e++) v[e] += u[e];
  }
  Y.store(v, i, c, n);
}
CUEMU_KERNEL(gather)

// Table[index[i]] += Y[i], R × n, without atomics: the block of the first row
// with an index adds up all rows with it, its 8 warps each those of every
// eighth group of 32 rows, then the warps' sums in order. A block covers 256
// columns (blockIdx.y).
extern "C" __global__ void __launch_bounds__(256) scatter_add(const void* y, long long yl, const int* index, void* table, long long tl, int R, int n, int V, int* fault, int code) {
  __shared__ float sum[8][32 * CHUNK];
  __shared__ int earlier[8];
  int i = blockIdx.x, lane = threadIdx.x, warp = threadIdx.y, row = index[i];
  if (row < 0 || !in_range(row, V, fault, code)) return;
  int found = 0;
  for (int k = warp * 32; k < i && !found; k += 256)
    found = __any_sync(ALL, k + lane < i && index[k + lane] == row);
  if (lane == 0) earlier[warp] = found;
  __syncthreads();
  for (int w = 0; w < 8; w++)
    if (earlier[w]) return;
  Tensor Y(y, yl), T(table, tl);
  int c = (blockIdx.y * 32 + lane) * CHUNK;
  float acc[CHUNK] = {};
  for (int k = i + warp * 32; k < R; k += 256) {
    uint32_t same = __ballot_sync(ALL, k + lane < R && index[k + lane] == row);
    for (; same; same &= same - 1) {
      float v[CHUNK];
      if (c < n) {
        Y.load(v, k + lowest_bit(same), c, n);
#pragma unroll
        for (int e = 0; e < CHUNK; e++) acc[e] += v[e];
      }
    }
  }
#pragma unroll
  for (int e = 0; e < CHUNK; e++) sum[warp][lane * CHUNK + e] = acc[e];
  __syncthreads();
  int t = warp * 32 + lane, col = blockIdx.y * 32 * CHUNK + t;
  if (col >= n) return;
  float s = 0;
  for (int w = 0; w < 8; w++) s += sum[w][t];
  *T.f32(row, col) += s;
}
CUEMU_KERNEL(scatter_add)
