// Attention and its gradients for operands of either type and every head dim to
// 128, in f32: the plain version, which others are held against on the device.
// A warp treats a query (or, for DK and DV, a key); the block shares tiles of 32
// rows of the other side in shared memory.
//
// Grids: x over blocks of queries or keys of the longest sequence (blocks beyond
// a shorter one's end return at once), y over heads, z over sequences.
#include "attention.h"

namespace attention_kernels {

constexpr int WARPS = 4, TILE = 32, PARTS = MAX_HEAD / 32;

// tile[j] = head columns of the rows that row(j) names, for j < n; a warp a row.
template <class RowOf>
__device__ inline void load_rows(float (&tile)[TILE][MAX_HEAD + 1], const Tensor& X, int c0, int dim, int n, RowOf row) {
  for (int j = threadIdx.x / 32; j < n; j += WARPS)
    for (int c = threadIdx.x % 32; c < dim; c += 32) tile[j][c] = X.at(row(j), c0 + c);
}

__device__ inline float dot(const float* a, const float* b, int n) {
  float s = 0;
  for (int i = 0; i < n; i++) s += a[i] * b[i];
  return s;
}

constexpr int PER_WARP = 4, PER_BLOCK = PER_WARP * WARPS;  // queries

// Out[m, heads·dim] = softmax(Q·Kᵀ·scale + bias)·V, LSE[m, heads] = log Σ exp
extern "C" __global__ void __launch_bounds__(32 * WARPS) attention(const void* q, long long ql, const void* k, long long kl, const void* v, long long vl, const int* queries, int m, const Sequence* sequences, const float* table, int stride, int column, int window, int text, void* out, long long ol, void* lse, long long lsel, int dim, float scale) {
  __shared__ float ks[TILE][MAX_HEAD + 1], vs[TILE][MAX_HEAD + 1], qs[PER_BLOCK][MAX_HEAD], p[WARPS][TILE];
  Sequence s = sequences[blockIdx.z];
  Queries list(queries, m, s);
  int first = blockIdx.x * PER_BLOCK, keys = s.text_len + s.image_len;
  if (first >= list.count) return;
  Bias bias{table, stride, column, window, text};
  Tensor Q(q, ql), K(k, kl), V(v, vl), Out(out, ol), LSE(lse, lsel);
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, head = blockIdx.y, c0 = head * dim;
  int mine = warp * PER_WARP, count = min(list.count - first, PER_BLOCK);
  for (int i = mine; i < mine + PER_WARP && i < count; i++)
    for (int c = lane; c < dim; c += 32) qs[i][c] = Q.at(list.row(first + i), c0 + c);
  float acc[PER_WARP][PARTS] = {}, top[PER_WARP], sum[PER_WARP] = {};
  for (int i = 0; i < PER_WARP; i++) top[i] = -INFINITY;
  for (int k0 = 0; k0 < keys; k0 += TILE) {
    int n = min(TILE, keys - k0);
    __syncthreads();
    load_rows(ks, K, c0, dim, n, [&](int j) { return key_row(s, k0 + j); });
    load_rows(vs, V, c0, dim, n, [&](int j) { return key_row(s, k0 + j); });
    __syncthreads();
#pragma unroll
    for (int i = 0; i < PER_WARP; i++) {
      if (mine + i >= count) break;
      float l = -INFINITY;
      if (lane < n) l = dot(qs[mine + i], ks[lane], dim) * scale + bias.at(s.text_len, list.position(first + mine + i, s), k0 + lane, head);
      float t = fmaxf(top[i], warp_max(l)), shrink = expf(top[i] - t), e = lane < n ? expf(l - t) : 0.f;
      top[i] = t;
      sum[i] = sum[i] * shrink + warp_sum(e);
      p[warp][lane] = e;
      __syncwarp();
#pragma unroll
      for (int part = 0; part < PARTS; part++) {
        int c = part * 32 + lane;
        if (c >= dim) break;
        float a = acc[i][part] * shrink;
        for (int j = 0; j < n; j++) a += p[warp][j] * vs[j][c];
        acc[i][part] = a;
      }
      __syncwarp();
    }
  }
#pragma unroll
  for (int i = 0; i < PER_WARP; i++) {
    if (mine + i >= count) break;
    int row = list.row(first + mine + i);
#pragma unroll
    for (int part = 0; part < PARTS; part++)
      if (part * 32 + lane < dim) Out.put(row, c0 + part * 32 + lane, acc[i][part] / sum[i]);
    if (lane == 0) *LSE.f32(row, head) = top[i] + logf(sum[i]);
  }
}
CUEMU_KERNEL(attention)

// delta[m, heads] = ⟨DOut, Out⟩ of each head; a thread an element. The order is
// that of ⟨DOut, V⟩ below: where a query has one key, both are equal to the bit.
extern "C" __global__ void __launch_bounds__(256) attention_delta(const void* out, long long ol, const void* dout, long long dol, float* delta, int m, int heads, int dim) {
  long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= (long long)m * heads) return;
  Tensor Out(out, ol), DOut(dout, dol);
  int row = i / heads, c0 = i % heads * dim;
  float s = 0;
  for (int c = 0; c < dim; c++) s += DOut.at(row, c0 + c) * Out.at(row, c0 + c);
  delta[i] = s;
}
CUEMU_KERNEL(attention_delta)

// With p = exp(logit − LSE), dp = ⟨DOut, V⟩ and dl = p·(dp − delta):
// DQ[m, heads·dim] = scale·Σ dl·K
extern "C" __global__ void __launch_bounds__(32 * WARPS) attention_grad_q(const void* q, long long ql, const void* k, long long kl, const void* v, long long vl, const int* queries, int m, const Sequence* sequences, const float* table, int stride, int column, int window, int text, const void* dout, long long dol, const void* lse, long long lsel, const float* delta, void* dq, long long dql, int dim, float scale) {
  __shared__ float ks[TILE][MAX_HEAD + 1], vs[TILE][MAX_HEAD + 1], qs[WARPS][MAX_HEAD], ds[WARPS][MAX_HEAD], p[WARPS][TILE];
  Sequence s = sequences[blockIdx.z];
  Queries list(queries, m, s);
  int first = blockIdx.x * WARPS, keys = s.text_len + s.image_len;
  if (first >= list.count) return;
  Bias bias{table, stride, column, window, text};
  Tensor Q(q, ql), K(k, kl), V(v, vl), DOut(dout, dol), LSE(lse, lsel), DQ(dq, dql);
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, head = blockIdx.y, c0 = head * dim;
  bool active = first + warp < list.count;
  int query = active ? first + warp : first, row = list.row(query), position = list.position(query, s);
  for (int c = lane; c < dim; c += 32) qs[warp][c] = Q.at(row, c0 + c), ds[warp][c] = DOut.at(row, c0 + c);
  float log_sum = *LSE.f32(row, head), del = delta[(long long)row * gridDim.y + head], acc[PARTS] = {};
  for (int k0 = 0; k0 < keys; k0 += TILE) {
    int n = min(TILE, keys - k0);
    __syncthreads();
    load_rows(ks, K, c0, dim, n, [&](int j) { return key_row(s, k0 + j); });
    load_rows(vs, V, c0, dim, n, [&](int j) { return key_row(s, k0 + j); });
    __syncthreads();
    float dl = 0;
    if (lane < n) {
      float l = dot(qs[warp], ks[lane], dim) * scale + bias.at(s.text_len, position, k0 + lane, head);
      dl = expf(l - log_sum) * (dot(ds[warp], vs[lane], dim) - del);
    }
    p[warp][lane] = dl;
    __syncwarp();
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
      int c = part * 32 + lane;
      if (c >= dim) break;
      for (int j = 0; j < n; j++) acc[part] += p[warp][j] * ks[j][c];
    }
  }
  if (!active) return;
#pragma unroll
  for (int part = 0; part < PARTS; part++)
    if (part * 32 + lane < dim) DQ.put(row, c0 + part * 32 + lane, scale * acc[part]);
}
CUEMU_KERNEL(attention_grad_q)

// DV[n, heads·dim] = Σ p·DOut, DK = scale·Σ dl·Q over the sequence's queries
extern "C" __global__ void __launch_bounds__(32 * WARPS) attention_grad_kv(const void* q, long long ql, const void* k, long long kl, const void* v, long long vl, const int* queries, int m, const Sequence* sequences, const float* table, int stride, int column, int window, int text, const void* dout, long long dol, const void* lse, long long lsel, const float* delta, void* dk, long long dkl, void* dv, long long dvl, int dim, float scale) {
  __shared__ float qs[TILE][MAX_HEAD + 1], ds[TILE][MAX_HEAD + 1], ks[WARPS][MAX_HEAD], vs[WARPS][MAX_HEAD], p[WARPS][TILE], g[WARPS][TILE];
  Sequence s = sequences[blockIdx.z];
  int first = blockIdx.x * WARPS, keys = s.text_len + s.image_len;
  if (first >= keys) return;
  Queries list(queries, m, s);
  Bias bias{table, stride, column, window, text};
  Tensor Q(q, ql), K(k, kl), V(v, vl), DOut(dout, dol), LSE(lse, lsel), DK(dk, dkl), DV(dv, dvl);
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, head = blockIdx.y, c0 = head * dim;
  bool active = first + warp < keys;
  int key = active ? first + warp : first, row = key_row(s, key);
  for (int c = lane; c < dim; c += 32) ks[warp][c] = K.at(row, c0 + c), vs[warp][c] = V.at(row, c0 + c);
  float acck[PARTS] = {}, accv[PARTS] = {};
  for (int q0 = 0; q0 < list.count; q0 += TILE) {
    int n = min(TILE, list.count - q0);
    __syncthreads();
    load_rows(qs, Q, c0, dim, n, [&](int j) { return list.row(q0 + j); });
    load_rows(ds, DOut, c0, dim, n, [&](int j) { return list.row(q0 + j); });
    __syncthreads();
    float e = 0, dl = 0;
    if (lane < n) {
      int r = list.row(q0 + lane);
      float l = dot(ks[warp], qs[lane], dim) * scale + bias.at(s.text_len, list.position(q0 + lane, s), key, head);
      e = expf(l - *LSE.f32(r, head));
      dl = e * (dot(vs[warp], ds[lane], dim) - delta[(long long)r * gridDim.y + head]);
    }
    p[warp][lane] = e, g[warp][lane] = dl;
    __syncwarp();
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
      int c = part * 32 + lane;
      if (c >= dim) break;
      for (int j = 0; j < n; j++) {
        accv[part] += p[warp][j] * ds[j][c];
        acck[part] += g[warp][j] * qs[j][c];
      }
    }
  }
  if (!active) return;
#pragma unroll
  for (int part = 0; part < PARTS; part++) {
    int c = part * 32 + lane;
    if (c >= dim) break;
    DK.put(row, c0 + c, scale * acck[part]);
    DV.put(row, c0 + c, accv[part]);
  }
}
CUEMU_KERNEL(attention_grad_kv)

}  // namespace attention_kernels
