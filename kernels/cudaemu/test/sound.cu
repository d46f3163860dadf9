// sound.cu - kernels without faults whose results, or whose traffic, are known.
#include "port.h"

__constant__ float factor[4];
CUEMU_GLOBAL(factor)

KERNEL copy(float* y, const float* x, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = x[i];
}
CUEMU_KERNEL(copy)

KERNEL add_one(float* y, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] += 1;
}
CUEMU_KERNEL(add_one)

KERNEL copy_vectors(float4* y, const float4* x, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = x[i];
}
CUEMU_KERNEL(copy_vectors)

KERNEL copy_strided(float* y, const float* x, int n, int stride) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = x[(long long)i * stride];
}
CUEMU_KERNEL(copy_strided)

KERNEL scale(float* y, const float* x) {
  y[threadIdx.x] = x[threadIdx.x] * factor[3];
}
CUEMU_KERNEL(scale)

KERNEL exponentials(float* y, const float* x) {
  y[threadIdx.x] = expf(x[threadIdx.x]) + rsqrtf(x[threadIdx.x]);
}
CUEMU_KERNEL(exponentials)

// Each lane writes and reads the word lane·stride of shared memory.
KERNEL shared_stride(float* y, const float* x, int stride) {
  DYN_SHARED(float, s);
  int i = threadIdx.x;
  s[i * stride] = x[i];
  __syncthreads();
  y[i] = s[i * stride];
}
CUEMU_KERNEL(shared_stride)

KERNEL shared_vectors(float4* y, const float4* x) {
  DYN_SHARED(float4, s);
  int i = threadIdx.x;
  s[i] = x[i];
  y[i] = s[i];
}
CUEMU_KERNEL(shared_vectors)

// One warp; row is the distance of ldmatrix rows in bytes.
KERNEL load_matrices(uint32_t* y, int row, int transposed) {
  DYN_SHARED(char, s);
  int i = threadIdx.x;
  for (int k = i; k < 32 * 8; k += 32) *(uint16_t*)(s + k / 8 * row + k % 8 * 2) = (uint16_t)k;
  __syncthreads();
  uint32_t r[4];
  if (transposed)
    ldmatrix_x4_trans(r, s + i * row);
  else
    ldmatrix_x4(r, s + i * row);
  for (int m = 0; m < 4; m++) y[4 * i + m] = r[m];
}
CUEMU_KERNEL(load_matrices)

// Sums, extremes and votes of 64 values, by every kind of collective.
KERNEL collectives(float* y, const float* x) {
  __shared__ float part[2];
  int i = threadIdx.x, lane = i % 32;
  float sum = x[i];
  for (int o = 16; o; o >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, o);
  if (lane == 0) part[i / 32] = sum;
  __syncthreads();
  float prefix = x[i];
  for (int o = 1; o < 32; o <<= 1) {
    float v = __shfl_up_sync(0xffffffffu, prefix, o);
    if (lane >= o) prefix += v;
  }
  float next = __shfl_down_sync(0xffffffffu, x[i], 1);
  float first = __shfl_sync(0xffffffffu, x[i], 0, 8);
  unsigned even = __ballot_sync(0xffffffffu, lane % 2 == 0);
  int all = __all_sync(0xffffffffu, lane < 32), any = __any_sync(0xffffffffu, lane == 40);
  int count = __syncthreads_count(x[i] > 10.f), either = __syncthreads_or(i == 3), both = __syncthreads_and(i == 3);
  unsigned largest = __reduce_max_sync(0xffffffffu, (unsigned)i);
  float results[10] = {part[0] + part[1],
                       prefix,
                       next,
                       first,
                       even == 0x55555555u ? 1.f : 0.f,
                       (float)(all * 2 + any),
                       (float)count,
                       (float)(either * 2 + both),
                       (float)largest,
                       7};
  for (int k = 0; k < 10; k++) y[k * 64 + i] = results[k];
}
CUEMU_KERNEL(collectives)

// C[M,N] = A[M,K] B[N,K]ᵀ in bf16 with f32 sums: one warp a 16 × 8 tile, two
// stages of 16 columns by cp.async. M, N, K multiples of 16, 8, 16.
KERNEL gemm(float* C, const bf16* A, const bf16* B, int N, int K) {
  __shared__ __align__(16) bf16 a[2][16][16], b[2][8][16];
  int lane = threadIdx.x, row = blockIdx.y * 16, column = blockIdx.x * 8;
  auto fetch = [&](int stage, int k) {
    cp_async16(&a[stage][lane / 2][lane % 2 * 8], A + (size_t)(row + lane / 2) * K + k + lane % 2 * 8);
    if (lane < 16)
      cp_async16(&b[stage][lane / 2][lane % 2 * 8], B + (size_t)(column + lane / 2) * K + k + lane % 2 * 8);
  };
  float c[4] = {};
  fetch(0, 0);
  cp_async_commit();
  for (int k = 0; k < K; k += 16) {
    int stage = k / 16 % 2;
    if (k + 16 < K) fetch(stage ^ 1, k + 16);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    uint32_t af[4], bf[4], b2[2];
    ldmatrix_x4(af, &a[stage][lane % 16][lane / 16 * 8]);
    ldmatrix_x4(bf, &b[stage][lane % 8][lane / 8 % 2 * 8]);
    b2[0] = bf[0];
    b2[1] = bf[1];
    mma_bf16_16816(c, af, b2);
    __syncthreads();
  }
  for (int i = 0; i < 4; i++) C[(size_t)(row + lane / 4 + i / 2 * 8) * N + column + lane % 4 * 2 + i % 2] = c[i];
}
CUEMU_KERNEL(gemm)

// Only in the image, and only in the emulator with other arguments.
KERNEL not_registered(float* y) {
  y[0] = 1;
}
KERNEL other_arguments(float* y, long long n) {
  y[0] = (float)n;
}
KERNEL __launch_bounds__(64) bounded(float* y) {
  y[threadIdx.x] = 1;
}
CUEMU_KERNEL(bounded)
