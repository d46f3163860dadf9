// Attention of bf16 operands on mma.sync, with an online softmax in powers of
// two. cp.async fetches a tile of keys while the one before is multiplied.
#include "attention_bf16.h"

namespace attention_bf16_kernels {

// spread[heads, 16·width] = log2(e) times the bias, laid out as Spread has it.
// Grid: x over the numbers of a head, y over heads.
extern "C" __global__ void __launch_bounds__(256) attention_bias_spread(const float* table, int stride, int column, int window, int text, float* spread) {
  Spread at{window, text};
  int n = 16 * at.width(), e = blockIdx.x * 256 + threadIdx.x, head = blockIdx.y;
  if (e >= n) return;
  int row = at.row(e);
  spread[(long long)head * n + e] = row < 0 ? 0 : LOG2E * table[(long long)row * stride + column + head];
}
CUEMU_KERNEL(attention_bias_spread)

// Out[m, heads·dim] = softmax(Q·Kᵀ·scale + bias)·V, LSE[m, heads] = log Σ exp;
// dim ≤ DIM. Grid: blocks of queries of the longest sequence, heads, sequences.
template <int DIM, int KEYS>
__device__ inline void forward(const Tensor& Q, const Tensor& K, const Tensor& V, const int* queries, int m, const Sequence& s, const float* bias, const Spread& place, const Tensor& Out, const Tensor& LSE, int dim, float scale) {
  constexpr int STAGE = 2 * KEYS * ROW<DIM>;  // K, then V
  __shared__ __align__(128) bf16 pool[2 * STAGE];
  __shared__ int codes[2][KEYS];
  static_assert(BLOCK * ROW<DIM> <= 2 * STAGE, "Q does not fit");
  Queries list(queries, m, s);
  int first = blockIdx.x * BLOCK, keys = s.text_len + s.image_len, count = min(list.count - first, BLOCK);
  if (count <= 0) return;
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, head = blockIdx.y, c0 = head * dim;
  if (bias) bias += (long long)head * 16 * place.width();
  scale *= LOG2E;

  fetch<DIM, BLOCK>(pool, Q, c0, dim, count, [&](int j) { return list.row(first + j); });
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  uint32_t qf[DIM / 16][4];
  left<DIM>(qf, pool, warp * 16, lane);
  __syncthreads();

  auto load = [&](int k0, int stage) {
    int n = min(KEYS, keys - k0);
    bf16* at = pool + stage * STAGE;
    fetch<DIM, KEYS>(at, K, c0, dim, n, [&](int j) { return key_row(s, k0 + j); });
    fetch<DIM, KEYS>(at + KEYS * ROW<DIM>, V, c0, dim, n, [&](int j) { return key_row(s, k0 + j); });
    int j = threadIdx.x, t = k0 + j - s.text_len;
    if (j < KEYS) codes[stage][j] = bias && j < n ? place.key(t < 0 ? k0 + j : t, t >= 0) : 0;
  };

  // The thread's two queries, and their state of the softmax.
  int mine[2] = {warp * 16 + lane / 4, warp * 16 + lane / 4 + 8}, code[2] = {};
  if (bias)
#pragma unroll
    for (int i = 0; i < 2; i++)
      if (mine[i] < count) {
        int p = list.position(first + mine[i], s), t = p - s.text_len;
        code[i] = place.query(t < 0 ? p : t, t >= 0);
      }
  bool idle = warp * 16 >= count;
  float top[2] = {-INFINITY, -INFINITY}, sum[2] = {}, acc[DIM / 8][4] = {};
  load(0, 0);
  cp_async_commit();
  for (int k0 = 0, stage = 0; k0 < keys; k0 += KEYS, stage ^= 1) {
    if (k0 + KEYS < keys) load(k0 + KEYS, stage ^ 1);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    if (!idle) {
      const bf16* ks = pool + stage * STAGE;
      int n = keys - k0;
      float l[KEYS / 8][4], high[2] = {top[0], top[1]};
      times_rows<DIM, KEYS>(l, qf, ks, n, lane);
#pragma unroll
      for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
          int key = j * 8 + lane % 4 * 2 + e % 2;
          float v = l[j][e] * scale;
          if (bias) v += bias[code[e / 2] + codes[stage][key]];
          l[j][e] = key < n ? v : -INFINITY;
          high[e / 2] = fmaxf(high[e / 2], l[j][e]);
        }
#pragma unroll
      for (int i = 0; i < 2; i++) {
        high[i] = quad_max(high[i]);
        float shrink = fast_exp2(top[i] - high[i]);
        top[i] = high[i];
        sum[i] *= shrink;
#pragma unroll
        for (int d = 0; d < DIM / 8; d++) acc[d][2 * i] *= shrink, acc[d][2 * i + 1] *= shrink;
      }
#pragma unroll
      for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
          l[j][e] = fast_exp2(l[j][e] - top[e / 2]);
          sum[e / 2] += l[j][e];
        }
      add_product<DIM, KEYS>(acc, l, ks + KEYS * ROW<DIM>, n, lane);
    }
    __syncthreads();
  }
  cp_async_wait<0>();
  if (idle) return;
#pragma unroll
  for (int i = 0; i < 2; i++) {
    sum[i] = quad_sum(sum[i]);
    if (mine[i] < count && lane % 4 == 0) *LSE.f32(list.row(first + mine[i]), head) = (top[i] + log2f(sum[i])) * LN2;
  }
  store<DIM>(pool + warp * 16 * ROW<DIM>, acc, 1 / sum[0], 1 / sum[1], Out, c0, dim, count - warp * 16, lane, [&](int j) { return list.row(first + warp * 16 + j); });
}

#define ATTENTION(name, DIM, KEYS)                                                                                      \
  extern "C" __global__ void __launch_bounds__(THREADS, 3)                                                               \
      name(const void* q, long long ql, const void* k, long long kl, const void* v, long long vl, const int* queries, int m, const Sequence* sequences, const float* spread, int window, int text, void* out, long long ol, void* lse, long long lsel, int dim, float scale) { \
    forward<DIM, KEYS>(Tensor(q, ql), Tensor(k, kl), Tensor(v, vl), queries, m, sequences[blockIdx.z], spread, Spread{window, text}, Tensor(out, ol), Tensor(lse, lsel), dim, scale); \
  }                                                                                                                     \
  CUEMU_KERNEL(name)

ATTENTION(attention_bf16_48, 48, 64)
ATTENTION(attention_bf16_64, 64, 64)
ATTENTION(attention_bf16_128, 128, 32)
#undef ATTENTION

}  // namespace attention_bf16_kernels
