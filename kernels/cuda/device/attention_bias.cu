// The gradient of the relative bias, without atomics: dl depends on a pair's
// positions alone, so one block adds up a tile of pairs over all sequences in
// their order, and a second kernel the pairs that share a row of the table.
#include "attention.h"

namespace attention_bias_kernels {

constexpr int EDGE = 16, SLICE = 32;  // pairs along a tile; head columns at a time

// pairs[heads, size, size] = Σ over sequences of dl at query position i and key
// position j. Here positions are those of the longest text, `texts`, followed by
// those of the longest image; size is their number. Grid: key tiles, query
// tiles, heads.
extern "C" __global__ void __launch_bounds__(EDGE * EDGE) attention_bias_pairs(const void* q, long long ql, const void* k, long long kl, const void* v, long long vl, const int* queries, int m, const Sequence* sequences, int count, const float* table, int stride, int column, int window, int text, const void* dout, long long dol, const void* lse, long long lsel, const float* delta, float* pairs, int size, int texts, int dim, float scale) {
  __shared__ float qs[EDGE][SLICE + 1], ds[EDGE][SLICE + 1], ks[EDGE][SLICE + 1], vs[EDGE][SLICE + 1];
  __shared__ int qrow[EDGE], krow[EDGE];
  Bias bias{table, stride, column, window, text};
  Tensor Q(q, ql), K(k, kl), V(v, vl), DOut(dout, dol), LSE(lse, lsel);
  int tj = threadIdx.x % EDGE, ti = threadIdx.x / EDGE, head = blockIdx.z, c0 = head * dim;
  int i = blockIdx.y * EDGE + ti, j = blockIdx.x * EDGE + tj;
  float acc = 0;
  for (int n = 0; n < count; n++) {
    Sequence s = sequences[n];
    // The position in this sequence, or −1.
    auto position = [&](int p) { return p < texts ? (p < s.text_len ? p : -1) : (p - texts < s.image_len ? p - texts + s.text_len : -1); };
    __syncthreads();
    if (threadIdx.x < EDGE) {
      int p = position(blockIdx.y * EDGE + threadIdx.x);
      qrow[threadIdx.x] = p < 0 ? -1 : Queries(queries, m, s).find(p, s);
    } else if (threadIdx.x < 2 * EDGE) {
      int p = position(blockIdx.x * EDGE + threadIdx.x - EDGE);
      krow[threadIdx.x - EDGE] = p < 0 ? -1 : key_row(s, p);
    }
    __syncthreads();
    bool any_q = false, any_k = false;
    for (int e = 0; e < EDGE; e++) any_q |= qrow[e] >= 0, any_k |= krow[e] >= 0;
    if (!any_q || !any_k) continue;
    float logit = 0, dp = 0;
    for (int s0 = 0; s0 < dim; s0 += SLICE) {
      int width = min(SLICE, dim - s0);
      __syncthreads();
      for (int e = threadIdx.x; e < EDGE * SLICE; e += EDGE * EDGE) {
        int r = e / SLICE, c = e % SLICE;
        bool in = c < width;
        qs[r][c] = in && qrow[r] >= 0 ? Q.at(qrow[r], c0 + s0 + c) : 0;
        ds[r][c] = in && qrow[r] >= 0 ? DOut.at(qrow[r], c0 + s0 + c) : 0;
        ks[r][c] = in && krow[r] >= 0 ? K.at(krow[r], c0 + s0 + c) : 0;
        vs[r][c] = in && krow[r] >= 0 ? V.at(krow[r], c0 + s0 + c) : 0;
      }
      __syncthreads();
      for (int c = 0; c < width; c++) {
        logit += qs[ti][c] * ks[tj][c];
        dp += ds[ti][c] * vs[tj][c];
      }
    }
    int row = qrow[ti];
    if (row < 0 || krow[tj] < 0) continue;
    logit = logit * scale + bias.at(s.text_len, position(i), position(j), head);
    acc += expf(logit - *LSE.f32(row, head)) * (dp - delta[(long long)row * gridDim.z + head]);
  }
  if (i < size && j < size) pairs[((long long)head * size + i) * size + j] = acc;
}
CUEMU_KERNEL(attention_bias_pairs)

// dtable[row, column + head] += Σ of the pairs that read it. Block (row, head).
extern "C" __global__ void __launch_bounds__(128) attention_bias_finish(const float* pairs, int size, int texts, float* dtable, int stride, int column, int window, int text) {
  __shared__ float red[MAX_WARPS];
  Bias bias{nullptr, 0, 0, window, text};
  int row = blockIdx.x, head = blockIdx.y, r = bias.image_rows(), a = r + 2 * text + 2, images = size - texts;
  const float* P = pairs + (long long)head * size * size;
  auto at = [&](int i, int j) { return P[(long long)i * size + j]; };
  float s = 0;
  int from = threadIdx.x, step = blockDim.x;
  if (row < r - 3) {  // two patches, (dy, dx) apart
    int dy = row / (2 * window - 1) - (window - 1), dx = row % (2 * window - 1) - (window - 1);
    for (int i = from; i < images - 1; i += step) {
      int y = i / window - dy, x = i % window - dx, j = y * window + x;
      if (y >= 0 && x >= 0 && x < window && j < images - 1) s += at(texts + 1 + i, texts + 1 + j);
    }
  } else if (row == r - 3) {
    for (int j = 1 + from; j < images; j += step) s += at(texts, texts + j);
  } else if (row == r - 2) {
    for (int i = 1 + from; i < images; i += step) s += at(texts + i, texts);
  } else if (row == r - 1) {
    if (images > 0 && from == 0) s = at(texts, texts);
  } else if (row == r) {
    for (int e = from; e < texts * images; e += step) s += at(e / images, texts + e % images);
  } else if (row == r + 1) {
    for (int e = from; e < texts * images; e += step) s += at(texts + e % images, e / images);
  } else if (row < a - 3) {  // two words, d apart
    int d = row - r - text;
    for (int i = 1 + from; i < texts; i += step)
      if (i + d >= 1 && i + d < texts) s += at(i, i + d);
  } else if (row == a - 3) {
    for (int j = 1 + from; j < texts; j += step) s += at(0, j);
  } else if (row == a - 2) {
    for (int i = 1 + from; i < texts; i += step) s += at(i, 0);
  } else if (texts > 0 && from == 0) {
    s = at(0, 0);
  }
  s = row_sum(s, red);
  if (threadIdx.x == 0) dtable[(long long)row * stride + column + head] += s;
}
CUEMU_KERNEL(attention_bias_finish)

}  // namespace attention_bias_kernels
