// The backward pass of attention of bf16 operands on mma.sync: weights are
// computed again from the logits and their log-sum-exp. Every result has one
// owner, so nothing is added atomically: DQ a block of queries, which walks over
// the keys; DK and DV a block of keys, which walks over the queries.
#include "attention_bf16.h"

namespace attention_bf16_kernels {

// With p = exp(logit − LSE), dp = ⟨DOut, V⟩ and dl = p·(dp − delta):
// delta[m, heads] = ⟨DOut, Out⟩, DQ[m, heads·dim] = scale·Σ dl·K; dim ≤ DIM.
// Grid: blocks of queries of the longest sequence, heads, sequences.
template <int DIM, int KEYS>
__device__ inline void grad_q(const Tensor& Q, const Tensor& K, const Tensor& V, const int* queries, int m, const Sequence& s, const float* bias, const Spread& place, const Tensor& Out, const Tensor& DOut, const Tensor& LSE, float* delta, const Tensor& DQ, int dim, float scale) {
  constexpr int STAGE = 2 * KEYS * ROW<DIM>;  // K, then V
  __shared__ __align__(128) bf16 pool[2 * STAGE];
  __shared__ int codes[2][KEYS];
  static_assert(2 * BLOCK * ROW<DIM> <= 2 * STAGE, "DOut and Out do not fit");
  Queries list(queries, m, s);
  int first = blockIdx.x * BLOCK, keys = s.text_len + s.image_len, count = min(list.count - first, BLOCK);
  if (count <= 0) return;
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, head = blockIdx.y, c0 = head * dim;
  if (bias) bias += (long long)head * 16 * place.width();

  // The thread's two queries.
  auto row = [&](int j) { return list.row(first + j); };
  int mine[2] = {warp * 16 + lane / 4, warp * 16 + lane / 4 + 8}, code[2] = {};
  float log_sum[2] = {}, del[2] = {};
  uint32_t qf[DIM / 16][4], df[DIM / 16][4];
  fetch<DIM, BLOCK>(pool, DOut, c0, dim, count, row);
  fetch<DIM, BLOCK>(pool + BLOCK * ROW<DIM>, Out, c0, dim, count, row);
  cp_async_commit();
#pragma unroll
  for (int i = 0; i < 2; i++)
    if (mine[i] < count) {
      log_sum[i] = LOG2E * *LSE.f32(row(mine[i]), head);
      int p = list.position(first + mine[i], s), t = p - s.text_len;
      if (bias) code[i] = place.query(t < 0 ? p : t, t >= 0);
    }
  cp_async_wait<0>();
  __syncthreads();
  left<DIM>(df, pool, warp * 16, lane);
  left<DIM>(qf, pool + BLOCK * ROW<DIM>, warp * 16, lane);
#pragma unroll
  for (int d = 0; d < DIM / 16; d++)
#pragma unroll
    for (int e = 0; e < 4; e++)
      del[e % 2] += bf2f({(uint16_t)df[d][e]}) * bf2f({(uint16_t)qf[d][e]}) + bf2f({(uint16_t)(df[d][e] >> 16)}) * bf2f({(uint16_t)(qf[d][e] >> 16)});
#pragma unroll
  for (int i = 0; i < 2; i++) {
    del[i] = quad_sum(del[i]);
    if (mine[i] < count && lane % 4 == 0) delta[(long long)row(mine[i]) * gridDim.y + head] = del[i];
  }
  __syncthreads();
  fetch<DIM, BLOCK>(pool, Q, c0, dim, count, row);
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
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
  bool idle = warp * 16 >= count;
  float acc[DIM / 8][4] = {};
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
      float l[KEYS / 8][4], g[KEYS / 8][4];
      times_rows<DIM, KEYS>(l, qf, ks, n, lane);
      times_rows<DIM, KEYS>(g, df, ks + KEYS * ROW<DIM>, n, lane);
#pragma unroll
      for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
          int key = j * 8 + lane % 4 * 2 + e % 2;
          float v = l[j][e] * (scale * LOG2E) - log_sum[e / 2];
          if (bias) v += bias[code[e / 2] + codes[stage][key]];
          l[j][e] = key < n ? fast_exp2(v) * (g[j][e] - del[e / 2]) : 0.f;
        }
      add_product<DIM, KEYS>(acc, l, ks, n, lane);
    }
    __syncthreads();
  }
  cp_async_wait<0>();
  if (idle) return;
  store<DIM>(pool + warp * 16 * ROW<DIM>, acc, scale, scale, DQ, c0, dim, count - warp * 16, lane, [&](int j) { return row(warp * 16 + j); });
}

#define GRAD_Q(name, DIM, KEYS, BLOCKS)                                                                                 \
  extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)                                                          \
      name(const void* q, long long ql, const void* k, long long kl, const void* v, long long vl, const int* queries, int m, const Sequence* sequences, const float* spread, int window, int text, const void* out, long long ol, const void* dout, long long dol, const void* lse, long long lsel, float* delta, void* dq, long long dql, int dim, float scale) { \
    grad_q<DIM, KEYS>(Tensor(q, ql), Tensor(k, kl), Tensor(v, vl), queries, m, sequences[blockIdx.z], spread, Spread{window, text}, Tensor(out, ol), Tensor(dout, dol), Tensor(lse, lsel), delta, Tensor(dq, dql), dim, scale); \
  }                                                                                                                     \
  CUEMU_KERNEL(name)

GRAD_Q(attention_bf16_grad_q_48, 48, 64, 3)
GRAD_Q(attention_bf16_grad_q_64, 64, 64, 3)
GRAD_Q(attention_bf16_grad_q_128, 128, 32, 2)
#undef GRAD_Q

// DV[n, heads·dim] = Σ p·DOut, DK = scale·Σ dl·Q over the sequence's queries, of
// which a tile has TILE. Products are transposed: a thread's rows are keys.
// Grid: blocks of keys of the longest sequence, heads, sequences.
template <int DIM, int TILE>
__device__ inline void grad_kv(const Tensor& Q, const Tensor& K, const Tensor& V, const int* queries, int m, const Sequence& s, const float* bias, const Spread& place, const Tensor& DOut, const Tensor& LSE, const float* delta, const Tensor& DK, const Tensor& DV, int dim, float scale) {
  constexpr int STAGE = 2 * TILE * ROW<DIM>;  // Q, then DOut
  constexpr int POOL = (TILE > 32 ? TILE : 32) * 4 * ROW<DIM>;
  static_assert(2 * STAGE <= POOL && 2 * BLOCK * ROW<DIM> <= POOL, "the tiles do not fit");
  __shared__ __align__(128) bf16 pool[POOL];
  __shared__ int codes[2][TILE];
  __shared__ float2 sums[2][TILE];  // a query's LSE and delta
  int first = blockIdx.x * BLOCK, count = min(s.text_len + s.image_len - first, BLOCK);
  if (count <= 0) return;
  Queries list(queries, m, s);
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, head = blockIdx.y, c0 = head * dim;
  if (bias) bias += (long long)head * 16 * place.width();

  auto row = [&](int j) { return key_row(s, first + j); };
  fetch<DIM, BLOCK>(pool, K, c0, dim, count, row);
  fetch<DIM, BLOCK>(pool + BLOCK * ROW<DIM>, V, c0, dim, count, row);
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  uint32_t kf[DIM / 16][4], vf[DIM / 16][4];
  left<DIM>(kf, pool, warp * 16, lane);
  left<DIM>(vf, pool + BLOCK * ROW<DIM>, warp * 16, lane);
  __syncthreads();

  auto load = [&](int q0, int stage) {
    int n = min(TILE, list.count - q0);
    bf16* at = pool + stage * STAGE;
    fetch<DIM, TILE>(at, Q, c0, dim, n, [&](int j) { return list.row(q0 + j); });
    fetch<DIM, TILE>(at + TILE * ROW<DIM>, DOut, c0, dim, n, [&](int j) { return list.row(q0 + j); });
    int j = threadIdx.x;
    if (j >= TILE) return;
    int code = 0;
    float2 sum = {INFINITY, 0};  // no query: its weights are 0
    if (j < n) {
      int r = list.row(q0 + j), p = list.position(q0 + j, s), t = p - s.text_len;
      sum = {LOG2E * *LSE.f32(r, head), delta[(long long)r * gridDim.y + head]};
      if (bias) code = place.query(t < 0 ? p : t, t >= 0);
    }
    codes[stage][j] = code;
    sums[stage][j] = sum;
  };

  // The thread's two keys.
  int mine[2] = {warp * 16 + lane / 4, warp * 16 + lane / 4 + 8}, code[2] = {};
  if (bias)
#pragma unroll
    for (int i = 0; i < 2; i++)
      if (mine[i] < count) {
        int p = first + mine[i], t = p - s.text_len;
        code[i] = place.key(t < 0 ? p : t, t >= 0);
      }
  bool idle = warp * 16 >= count;
  float acck[DIM / 8][4] = {}, accv[DIM / 8][4] = {};
  if (list.count > 0) load(0, 0);
  cp_async_commit();
  for (int q0 = 0, stage = 0; q0 < list.count; q0 += TILE, stage ^= 1) {
    if (q0 + TILE < list.count) load(q0 + TILE, stage ^ 1);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    if (!idle) {
      const bf16 *qs = pool + stage * STAGE, *ds = qs + TILE * ROW<DIM>;
      int n = list.count - q0;
      float p[TILE / 8][4], g[TILE / 8][4];
      times_rows<DIM, TILE>(p, kf, qs, n, lane);
#pragma unroll
      for (int j = 0; j < TILE / 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
          int query = j * 8 + lane % 4 * 2 + e % 2;
          float v = p[j][e] * (scale * LOG2E) - sums[stage][query].x;
          if (bias) v += bias[codes[stage][query] + code[e / 2]];
          p[j][e] = fast_exp2(v);
        }
      add_product<DIM, TILE>(accv, p, ds, n, lane);
      times_rows<DIM, TILE>(g, vf, ds, n, lane);
#pragma unroll
      for (int j = 0; j < TILE / 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) g[j][e] = p[j][e] * (g[j][e] - sums[stage][j * 8 + lane % 4 * 2 + e % 2].y);
      add_product<DIM, TILE>(acck, g, qs, n, lane);
    }
    __syncthreads();
  }
  cp_async_wait<0>();
  if (idle) return;
  bf16* part = pool + warp * 16 * ROW<DIM>;
  auto mine_row = [&](int j) { return row(warp * 16 + j); };
  store<DIM>(part, acck, scale, scale, DK, c0, dim, count - warp * 16, lane, mine_row);
  store<DIM>(part, accv, 1, 1, DV, c0, dim, count - warp * 16, lane, mine_row);
}

#define GRAD_KV(name, DIM, TILE, BLOCKS)                                                                                \
  extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)                                                          \
      name(const void* q, long long ql, const void* k, long long kl, const void* v, long long vl, const int* queries, int m, const Sequence* sequences, const float* spread, int window, int text, const void* dout, long long dol, const void* lse, long long lsel, const float* delta, void* dk, long long dkl, void* dv, long long dvl, int dim, float scale) { \
    grad_kv<DIM, TILE>(Tensor(q, ql), Tensor(k, kl), Tensor(v, vl), queries, m, sequences[blockIdx.z], spread, Spread{window, text}, Tensor(dout, dol), Tensor(lse, lsel), delta, Tensor(dk, dkl), Tensor(dv, dvl), dim, scale); \
  }                                                                                                                     \
  CUEMU_KERNEL(name)

GRAD_KV(attention_bf16_grad_kv_48, 48, 32, 3)
GRAD_KV(attention_bf16_grad_kv_64, 64, 32, 3)
GRAD_KV(attention_bf16_grad_kv_128, 128, 16, 2)
#undef GRAD_KV

}  // namespace attention_bf16_kernels
