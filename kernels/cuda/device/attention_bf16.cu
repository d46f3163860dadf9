// Attention of bf16 operands on mma.sync: a block treats 64 queries of a
// sequence and head, 16 a warp, and walks over tiles of its keys with an online
// softmax. cp.async fetches a tile while the one before is multiplied.
#include "attention.h"

namespace attention_bf16_kernels {

constexpr int WARPS = 4, THREADS = 32 * WARPS, QUERIES = 16 * WARPS;

// Rows of DIM columns, of which those from dim on are 0. They are 16 bytes
// longer than they need to be, so that ldmatrix meets no bank twice.
template <int DIM>
__device__ inline void fetch(bf16* tile, const Tensor& X, int c0, int dim, int rows, int slot, int row) {
  constexpr int PIECES = DIM / 8;
  bool whole = X.wide && dim % 8 == 0;
#pragma unroll 2
  for (int p = 0; p < PIECES; p++) {
    bf16* to = tile + slot * (DIM + 8) + p * 8;
    if (slot < rows && whole && p * 8 < dim) {
      cp_async16(to, X.b16(row, c0 + p * 8));
      continue;
    }
#pragma unroll
    for (int x = 0; x < 8; x++) to[x] = slot < rows && p * 8 + x < dim ? *X.b16(row, c0 + p * 8 + x) : bf16{0};
  }
}

// The largest and the sum of a row of results lie with four neighbouring lanes.
__device__ inline float quad_max(float v) {
  v = fmaxf(v, __shfl_xor_sync(ALL, v, 1));
  return fmaxf(v, __shfl_xor_sync(ALL, v, 2));
}
__device__ inline float quad_sum(float v) {
  v += __shfl_xor_sync(ALL, v, 1);
  return v + __shfl_xor_sync(ALL, v, 2);
}

__device__ inline uint32_t pack(float a, float b) { return (uint32_t)f2bf(a).v | (uint32_t)f2bf(b).v << 16; }

// Out[m, heads·dim] = softmax(Q·Kᵀ·scale + bias)·V, LSE[m, heads] = log Σ exp;
// dim ≤ DIM. Grid: blocks of queries of the longest sequence, heads, sequences.
template <int DIM, int KEYS>
__device__ inline void forward(const Tensor& Q, const Tensor& K, const Tensor& V, const int* queries, int m, const Sequence& s, const Bias& bias, const Tensor& Out, const Tensor& LSE, int dim, float scale) {
  constexpr int ROW = DIM + 8, STAGE = 2 * KEYS * ROW;  // K, then V
  __shared__ __align__(128) bf16 pool[2 * STAGE];
  __shared__ int codes[2][KEYS];
  static_assert(QUERIES * ROW <= 2 * STAGE, "Q does not fit");
  Queries list(queries, m, s);
  int first = blockIdx.x * QUERIES, keys = s.text_len + s.image_len, count = min(list.count - first, QUERIES);
  if (count <= 0) return;
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, head = blockIdx.y, c0 = head * dim;

  for (int i = threadIdx.x; i < QUERIES; i += THREADS) fetch<DIM>(pool, Q, c0, dim, count, i, i < count ? list.row(first + i) : 0);
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  uint32_t qf[DIM / 16][4];
#pragma unroll
  for (int d = 0; d < DIM / 16; d++) ldmatrix_x4(qf[d], pool + (warp * 16 + lane % 16) * ROW + d * 16 + lane / 16 * 8);
  __syncthreads();

  auto load = [&](int k0, int stage) {
    int n = min(KEYS, keys - k0);
    bf16* at = pool + stage * STAGE;
    for (int i = threadIdx.x; i < 2 * KEYS; i += THREADS) {
      int j = i % KEYS, row = j < n ? key_row(s, k0 + j) : 0;
      fetch<DIM>(i < KEYS ? at : at + KEYS * ROW, i < KEYS ? K : V, c0, dim, n, j, row);
    }
    if (threadIdx.x < KEYS) codes[stage][threadIdx.x] = bias.table && (int)threadIdx.x < n ? bias.code(s.text_len, k0 + threadIdx.x) : 0;
  };

  // The thread's two queries, and their state of the softmax.
  int mine[2] = {warp * 16 + lane / 4, warp * 16 + lane / 4 + 8}, code[2] = {};
  if (bias.table)
#pragma unroll
    for (int i = 0; i < 2; i++)
      if (mine[i] < count) code[i] = bias.code(s.text_len, list.position(first + mine[i], s));
  float top[2] = {-INFINITY, -INFINITY}, sum[2] = {}, acc[DIM / 8][4] = {};
  load(0, 0);
  cp_async_commit();
  for (int k0 = 0, stage = 0; k0 < keys; k0 += KEYS, stage ^= 1) {
    if (k0 + KEYS < keys) load(k0 + KEYS, stage ^ 1);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    const bf16 *ks = pool + stage * STAGE, *vs = ks + KEYS * ROW;
    float l[KEYS / 8][4] = {};
#pragma unroll
    for (int j = 0; j < KEYS; j += 16)
#pragma unroll
      for (int d = 0; d < DIM / 16; d++) {
        uint32_t f[4];
        ldmatrix_x4(f, ks + (j + lane / 16 * 8 + lane % 8) * ROW + d * 16 + lane / 8 % 2 * 8);
        uint32_t f0[2] = {f[0], f[1]}, f1[2] = {f[2], f[3]};
        mma_bf16_16816(l[j / 8], qf[d], f0);
        mma_bf16_16816(l[j / 8 + 1], qf[d], f1);
      }
    float high[2] = {top[0], top[1]};
#pragma unroll
    for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        int key = j * 8 + lane % 4 * 2 + e % 2;
        float v = l[j][e] * scale;
        if (bias.table && mine[e / 2] < count) v += bias.table[(long long)bias.row_of(code[e / 2], codes[stage][key]) * bias.stride + bias.column + head];
        l[j][e] = k0 + key < keys ? v : -INFINITY;
        high[e / 2] = fmaxf(high[e / 2], l[j][e]);
      }
#pragma unroll
    for (int i = 0; i < 2; i++) {
      high[i] = quad_max(high[i]);
      float shrink = __expf(top[i] - high[i]);
      top[i] = high[i];
      sum[i] *= shrink;
#pragma unroll
      for (int d = 0; d < DIM / 8; d++) acc[d][2 * i] *= shrink, acc[d][2 * i + 1] *= shrink;
    }
#pragma unroll
    for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        l[j][e] = __expf(l[j][e] - top[e / 2]);
        sum[e / 2] += l[j][e];
      }
#pragma unroll
    for (int j = 0; j < KEYS; j += 16) {
      const float(&a)[4] = l[j / 8], (&b)[4] = l[j / 8 + 1];
      uint32_t p[4] = {pack(a[0], a[1]), pack(a[2], a[3]), pack(b[0], b[1]), pack(b[2], b[3])};
#pragma unroll
      for (int d = 0; d < DIM; d += 16) {
        uint32_t f[4];
        ldmatrix_x4_trans(f, vs + (j + lane / 8 % 2 * 8 + lane % 8) * ROW + d + lane / 16 * 8);
        uint32_t f0[2] = {f[0], f[1]}, f1[2] = {f[2], f[3]};
        mma_bf16_16816(acc[d / 8], p, f0);
        mma_bf16_16816(acc[d / 8 + 1], p, f1);
      }
    }
    __syncthreads();
  }
  cp_async_wait<0>();
  bool pairs = Out.wide && dim % 2 == 0;
#pragma unroll
  for (int i = 0; i < 2; i++) {
    float all = quad_sum(sum[i]);
    if (mine[i] >= count) continue;
    int row = list.row(first + mine[i]);
    if (lane % 4 == 0) *LSE.f32(row, head) = top[i] + logf(all);
#pragma unroll
    for (int d = 0; d < DIM / 8; d++) {
      int c = d * 8 + lane % 4 * 2;
      float a = acc[d][2 * i] / all, b = acc[d][2 * i + 1] / all;
      if (pairs && c < dim) {
        *(uint32_t*)Out.b16(row, c0 + c) = pack(a, b);
      } else {
        if (c < dim) Out.put(row, c0 + c, a);
        if (c + 1 < dim) Out.put(row, c0 + c + 1, b);
      }
    }
  }
}

#define ATTENTION(name, DIM, KEYS)                                                                                      \
  extern "C" __global__ void __launch_bounds__(THREADS, 3)                                                               \
      name(const void* q, long long ql, const void* k, long long kl, const void* v, long long vl, const int* queries, int m, const Sequence* sequences, const float* table, int stride, int column, int window, int text, void* out, long long ol, void* lse, long long lsel, int dim, float scale) { \
    forward<DIM, KEYS>(Tensor(q, ql), Tensor(k, kl), Tensor(v, vl), queries, m, sequences[blockIdx.z], Bias{table, stride, column, window, text}, Tensor(out, ol), Tensor(lse, lsel), dim, scale); \
  }                                                                                                                     \
  CUEMU_KERNEL(name)

ATTENTION(attention_bf16_48, 48, 64)
ATTENTION(attention_bf16_64, 64, 64)
ATTENTION(attention_bf16_128, 128, 32)
#undef ATTENTION

}  // namespace attention_bf16_kernels
