// The losses. blockDim.x threads share a row of logits, of any length; each row
// leaves its loss in scratch memory and scalar_finish adds them in order.
#include "tensor.h"

namespace losses_kernels {

// The row that the caller's threads share; those beyond the last work on it
// again and store nothing, since all threads take part in sums.
struct Row {
  int r;
  bool active;
  __device__ explicit Row(int R) : r(blockIdx.x * blockDim.y + threadIdx.y), active(r < R) {
    if (!active) r = R - 1;
  }
};

// A row's elements, in fours: neighbours where rows are aligned, else blockDim.x
// apart, so that a warp's access has no gaps either way. The first HELD fours of
// each thread stay in registers: a row of up to 4 · HELD · blockDim.x elements is
// read once.
template <int HELD>
struct Elements {
  const Tensor& X;
  int r, n, step;  // step: columns between the elements of a four
  float v[HELD][QUAD];

  __device__ int column(int i) const { return step == 1 ? (i * blockDim.x + threadIdx.x) * QUAD : i * QUAD * blockDim.x + threadIdx.x; }
  __device__ void load(float (&w)[QUAD], const Tensor& Y, int c) const {
    if (step == 1) return Y.load(w, r, c, n);
#pragma unroll
    for (int e = 0; e < QUAD; e++) w[e] = c + e * step < n ? *Y.f32(r, c + e * step) : 0.f;
  }
  __device__ void store(const float (&w)[QUAD], const Tensor& Y, int c) const {
    if (step == 1) return Y.store(w, r, c, n);
#pragma unroll
    for (int e = 0; e < QUAD; e++)
      if (c + e * step < n) *Y.f32(r, c + e * step) = w[e];
  }
  __device__ Elements(const Tensor& x, int row, int cols) : X(x), r(row), n(cols), step(x.wide ? 1 : blockDim.x) {
#pragma unroll
    for (int i = 0; i < HELD; i++)
      if (column(i) < n) load(v[i], X, column(i));
  }
  // Calls f(c, elements c, c + step, …) for all fours of the caller's; those from
  // column n on are 0.
  template <class F>
  __device__ void each(F f) const {
#pragma unroll
    for (int i = 0; i < HELD; i++)
      if (column(i) < n) f(column(i), v[i]);
#pragma unroll 1
    for (int i = HELD; column(i) < n; i++) {
      float w[QUAD];
      load(w, X, column(i));
      f(column(i), w);
    }
  }
  // log Σ exp(scale·x) over the row
  __device__ float log_sum_exp(float scale, float (&red)[MAX_WARPS]) const {
    float top = -INFINITY, s = 0;
    each([&](int c, const float(&x)[QUAD]) {
#pragma unroll
      for (int e = 0; e < QUAD; e++)
        if (c + e * step < n) top = fmaxf(top, scale * x[e]);
    });
    top = row_max(top, red);
    each([&](int c, const float(&x)[QUAD]) {
#pragma unroll
      for (int e = 0; e < QUAD; e++)
        if (c + e * step < n) s += expf(scale * x[e] - top);
    });
    return top + logf(row_sum(s, red));
  }
};

// loss[r] = −log softmax(X[r])[label[r]]; DX = weight·(softmax − one-hot), may
// be X, optional
extern "C" __global__ void __launch_bounds__(512) cross_entropy(const void* x, long long xl, const int* label, float weight, float* loss, void* dx, long long dxl, int R, int n, int* fault, int code) {
  __shared__ float red[MAX_WARPS];
  Row row(R);
  Tensor X(x, xl), DX(dx, dxl);
  int r = row.r, l = label[r];
  bool good = in_range(l, n, fault, code);
  Elements<16> all(X, r, n);
  float lse = all.log_sum_exp(1, red);
  __syncthreads();  // all have read the row before DX, which may be X, is written
  if (!row.active || !good) return;
  all.each([&](int c, const float(&v)[QUAD]) {
    float d[QUAD];
#pragma unroll
    for (int e = 0; e < QUAD; e++) {
      bool own = c + e * all.step == l;
      if (own) loss[r] = lse - v[e];
      d[e] = weight * (expf(v[e] - lse) - (own ? 1.f : 0.f));
    }
    if (DX.present()) all.store(d, DX, c);
  });
}
CUEMU_KERNEL(cross_entropy)

// With s = exp(*log_scale), l = s·dot and dl = weight·(softmax(l) − positives):
// loss[r] = weight·CE(l, positives), DDOT (= or +=) s·dl, dlog[r] = Σ dl·l.
// Positives are the columns of the row's group, uniformly weighted.
extern "C" __global__ void __launch_bounds__(512) contrast(const void* dot, long long dl_, const float* log_scale, const int* row_group, const int* col_group, float weight, float* loss, float* dlog, void* ddot, long long ddl, int R, int n, int accumulate, int* fault, int code) {
  __shared__ float red[MAX_WARPS];
  Row row(R);
  Tensor X(dot, dl_), DX(ddot, ddl);
  int r = row.r, g = row_group[r];
  float scale = expf(*log_scale), positives = 0, sum = 0, back = 0;
  for (int c = threadIdx.x; c < n; c += blockDim.x) positives += col_group[c] == g;
  positives = row_sum(positives, red);
  bool good = in_range((int)positives - 1, n, fault, code);
  Elements<8> all(X, r, n);
  float lse = all.log_sum_exp(scale, red);
  bool writes = DX.present() && row.active && good;
  all.each([&](int c, const float(&v)[QUAD]) {
    float d[QUAD];
#pragma unroll
    for (int e = 0; e < QUAD; e++) {
      d[e] = 0;
      int col = c + e * all.step;
      if (col >= n) continue;
      float l = scale * v[e];
      d[e] = expf(l - lse);
      if (col_group[col] == g) {
        sum += (lse - l) / positives;
        d[e] -= 1 / positives;
      }
      d[e] *= weight;
      back += d[e] * l;
      d[e] *= scale;
    }
    if (!writes) return;
    if (accumulate) {
      float u[QUAD];
      all.load(u, DX, c);
#pragma unroll
      for (int e = 0; e < QUAD; e++) d[e] += u[e];
    }
    all.store(d, DX, c);
  });
  sum = row_sum(sum, red);
  back = row_sum(back, red);
  if (threadIdx.x || !row.active || !good) return;
  loss[r] = weight * sum;
  dlog[r] = back;
}
CUEMU_KERNEL(contrast)

// The better of two candidates, of equal ones the first column.
__device__ inline void better(float& v, int& c, float w, int d) {
  if (d >= 0 && (c < 0 || w > v || (w == v && d < c))) v = w, c = d;
}
// The row's best candidate, for all of its threads.
__device__ inline int row_best(float v, int c, float (&red)[MAX_WARPS], int (&col)[MAX_WARPS]) {
  for (int o = 16; o; o >>= 1) {
    float w = __shfl_xor_sync(ALL, v, o);
    int d = __shfl_xor_sync(ALL, c, o);
    better(v, c, w, d);
  }
  int warps = blockDim.x / 32, first = threadIdx.y * warps;
  __syncthreads();
  if (threadIdx.x % 32 == 0) red[first + threadIdx.x / 32] = v, col[first + threadIdx.x / 32] = c;
  __syncthreads();
  v = 0, c = -1;
  for (int i = 0; i < warps; i++) better(v, c, red[first + i], col[first + i]);
  return c;
}

// index[r] = a column of another group, drawn from softmax(exp(*log_scale)·dot)
// over those: the arg-max of logit + Gumbel noise; −1 where there is none
extern "C" __global__ void __launch_bounds__(256, 4) sample_negative(const void* dot, long long dl_, const float* log_scale, const int* row_group, const int* col_group, const int* row_id, const int* col_id, unsigned k0, unsigned k1, int* index, int R, int n) {
  __shared__ float red[MAX_WARPS];
  __shared__ int col[MAX_WARPS];
  Row row(R);
  Tensor X(dot, dl_);
  int r = row.r, g = row_group[r], at = -1;
  float scale = expf(*log_scale), best = 0;
  for (int c = threadIdx.x; c < n; c += blockDim.x) {
    if (col_group[c] == g) continue;
    uint32_t w[4];
    philox(k0, k1, (uint32_t)row_id[r], (uint32_t)col_id[c], 0, 0, w);
    // −log u of the uniform u = (w + ½)·2⁻³²; near 1 from 1 − u, which is exact
    float e = w[0] >> 31 ? -log1pf(-((float)~w[0] + 0.5f) * 0x1p-32f) : -logf(((float)w[0] + 0.5f) * 0x1p-32f);
    better(best, at, scale * X.at(r, c) - logf(e), c);
  }
  at = row_best(best, at, red, col);
  if (row.active && threadIdx.x == 0) index[r] = at;
}
CUEMU_KERNEL(sample_negative)

// index[r] = the first column of the row's maximum
extern "C" __global__ void __launch_bounds__(256, 4) arg_max(const void* x, long long xl, int* index, int R, int n) {
  __shared__ float red[MAX_WARPS];
  __shared__ int col[MAX_WARPS];
  Row row(R);
  Tensor X(x, xl);
  float best = 0;
  int at = -1;
  for (int c = threadIdx.x * QUAD; c < n; c += blockDim.x * QUAD) {
    float v[QUAD];
    X.load(v, row.r, c, n);
#pragma unroll
    for (int e = 0; e < QUAD; e++)
      if (c + e < n) better(best, at, v[e], c + e);
  }
  at = row_best(best, at, red, col);
  if (row.active && threadIdx.x == 0) index[row.r] = at;
}
CUEMU_KERNEL(arg_max)

// loss[r] = Σ_c BCE(sigmoid(X), target), DX = weight·(sigmoid − target), may be
// X, optional
extern "C" __global__ void __launch_bounds__(256, 4) binary_cross_entropy(const void* x, long long xl, const void* target, long long tl, float weight, float* loss, void* dx, long long dxl, int R, int n) {
  __shared__ float red[MAX_WARPS];
  Row row(R);
  Tensor X(x, xl), T(target, tl), DX(dx, dxl);
  float s = 0;
  for (int c = threadIdx.x * QUAD; row.active && c < n; c += blockDim.x * QUAD) {
    float v[QUAD], t[QUAD];
    X.load(v, row.r, c, n);
    T.load(t, row.r, c, n);
#pragma unroll
    for (int e = 0; e < QUAD; e++) {
      if (c + e < n) s += fmaxf(v[e], 0.f) - v[e] * t[e] + log1pf(expf(-fabsf(v[e])));
      v[e] = weight * (1 / (1 + expf(-v[e])) - t[e]);
    }
    if (DX.present()) DX.store(v, row.r, c, n);
  }
  s = row_sum(s, red);
  if (row.active && threadIdx.x == 0) loss[row.r] = s;
}
CUEMU_KERNEL(binary_cross_entropy)

// loss[r] = Σ_c (X − target)², DX = 2·weight·(X − target), may be X, optional
extern "C" __global__ void __launch_bounds__(256, 4) squared_error(const void* x, long long xl, const void* target, long long tl, float weight, float* loss, void* dx, long long dxl, int R, int n) {
  __shared__ float red[MAX_WARPS];
  Row row(R);
  Tensor X(x, xl), T(target, tl), DX(dx, dxl);
  float s = 0;
  for (int c = threadIdx.x * QUAD; row.active && c < n; c += blockDim.x * QUAD) {
    float v[QUAD], t[QUAD];
    X.load(v, row.r, c, n);
    T.load(t, row.r, c, n);
#pragma unroll
    for (int e = 0; e < QUAD; e++) {
      v[e] -= t[e];
      s += v[e] * v[e];
      v[e] *= 2 * weight;
    }
    if (DX.present()) DX.store(v, row.r, c, n);
  }
  s = row_sum(s, red);
  if (row.active && threadIdx.x == 0) loss[row.r] = s;
}
CUEMU_KERNEL(squared_error)

}  // namespace losses_kernels
