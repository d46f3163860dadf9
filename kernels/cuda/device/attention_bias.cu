// The gradient of the relative bias, without atomics: dl depends on a pair's
// positions alone, so one block adds up a tile of pairs over all sequences in
// their order, and a second kernel the pairs that share a row of the table.
#include "attention_bf16.h"

namespace attention_bias_kernels {

using attention_bf16_kernels::LOG2E;
using attention_bf16_kernels::piece;

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

// The same of bf16 operands, on mma.sync: pairs[groups, heads, size, size], each
// group a part of the sequences. 64 × 64 pairs a block, 16 × 64 a warp. A step
// multiplies 32 of the head's columns of one sequence; cp.async fetches those of
// the next step meanwhile. Grid: tiles of queries and keys, heads, groups.
constexpr int SIDE = 64, DEPTH = 32, THREADS = 128;

// 16-byte pieces of a tile's row are permuted so that ldmatrix meets no bank twice.
__device__ inline int place_of(int row, int col) { return row * DEPTH + ((col / 8 ^ (row >> 1 & 3)) << 3) + col % 8; }

// Begins to fetch columns c0 to c0+n−1 of the rows that list names, none where
// −1; the rest of the tile becomes 0.
__device__ inline void fetch_slice(bf16* tile, const Tensor& X, const int* list, int c0, int n, int bytes) {
  if (bytes == 16) {
    uint4 zero = {0, 0, 0, 0};
    for (int i = threadIdx.x; i < SIDE * DEPTH / 8; i += THREADS) {
      int j = i / (DEPTH / 8), c = i % (DEPTH / 8) * 8, row = list[j];
      bf16* to = tile + place_of(j, c);
      if (row >= 0 && c < n) cp_async16(to, X.b16(row, c0 + c));
      else *(uint4*)to = zero;
    }
    return;
  }
#pragma unroll 1
  for (int i = threadIdx.x; i < SIDE * DEPTH / 2; i += THREADS) {
    int j = i / (DEPTH / 2), c = i % (DEPTH / 2) * 2, row = list[j];
    bf16* to = tile + place_of(j, c);
    if (row < 0 || c >= n) {
      *(uint32_t*)to = 0;
    } else if (bytes == 4) {
      cp_async4(to, X.b16(row, c0 + c));
    } else {
      to[0] = *X.b16(row, c0 + c);
      to[1] = c + 1 < n ? *X.b16(row, c0 + c + 1) : bf16{0};
    }
  }
}

// c[16, 64] += rows warp·16.. of a times the rows of b, n columns deep.
__device__ inline void multiply_slice(float (&c)[SIDE / 8][4], const bf16* a, const bf16* b, int n, int lane, int warp) {
#pragma unroll
  for (int d = 0; d < DEPTH; d += 16) {
    if (d >= n) continue;
    uint32_t f[4];
    ldmatrix_x4(f, a + place_of(warp * 16 + lane % 16, d + lane / 16 * 8));
#pragma unroll
    for (int j = 0; j < SIDE; j += 16) {
      uint32_t g[4];
      ldmatrix_x4(g, b + place_of(j + lane / 16 * 8 + lane % 8, d + lane / 8 % 2 * 8));
      uint32_t g0[2] = {g[0], g[1]}, g1[2] = {g[2], g[3]};
      mma_bf16_16816(c[j / 8], f, g0);
      mma_bf16_16816(c[j / 8 + 1], f, g1);
    }
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, 3) attention_bias_pairs_bf16(const void* q, long long ql, const void* k, long long kl, const void* v, long long vl, const int* queries, int m, const Sequence* sequences, int count, const float* spread, int window, int text, const void* dout, long long dol, const void* lse, long long lsel, const float* delta, float* pairs, int size, int texts, int dim, float scale) {
  __shared__ __align__(128) bf16 tile[2][4][SIDE * DEPTH];  // of Q, K, DOut, V
  // Of three sequences, since rows are looked up before the step that fetches them.
  __shared__ int rows[3][2][SIDE];
  __shared__ float2 sums[3][SIDE];  // a query's LSE and delta
  __shared__ int codes[2][SIDE];
  Tensor Q(q, ql), K(k, kl), V(v, vl), DOut(dout, dol), LSE(lse, lsel);
  Spread place{window, text};
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, heads = gridDim.y, head = blockIdx.y, c0 = head * dim;
  int tiles = (size + SIDE - 1) / SIDE, q0 = blockIdx.x / tiles * SIDE, k0 = blockIdx.x % tiles * SIDE;
  int from = (int)((long long)count * blockIdx.z / gridDim.z), n = (int)((long long)count * (blockIdx.z + 1) / gridDim.z) - from;
  int slices = (dim + DEPTH - 1) / DEPTH, bytes = min(min(piece(Q, dim), piece(K, dim)), min(piece(V, dim), piece(DOut, dim)));
  const float* bias = spread + (long long)head * 16 * place.width();

  // This thread's query (side 0) or key (side 1) of a sequence.
  int side = threadIdx.x / SIDE, at = threadIdx.x % SIDE, p = (side ? k0 : q0) + at, token = p < texts ? p : p - texts;
  bool image = p >= texts;
  codes[side][at] = p >= size ? 0 : side ? place.key(token, image) : place.query(token, image);
  auto look_up = [&](int i) {
    if (i >= n) return;
    Sequence s = sequences[from + i];
    int row = -1;
    if (p < size && token < (image ? s.image_len : s.text_len)) {
      int position = image ? s.text_len + token : token;
      row = side ? key_row(s, position) : Queries(queries, m, s).find(position, s);
    }
    rows[i % 3][side][at] = row;
    if (!side) sums[i % 3][at] = row < 0 ? float2{INFINITY, 0} : float2{LOG2E * *LSE.f32(row, head), delta[(long long)row * heads + head]};
  };
  auto load = [&](int step) {
    int i = step / slices % 3, c = step % slices * DEPTH, width = min(DEPTH, dim - c);
    bf16(&to)[4][SIDE * DEPTH] = tile[step % 2];
    fetch_slice(to[0], Q, rows[i][0], c0 + c, width, bytes);
    fetch_slice(to[1], K, rows[i][1], c0 + c, width, bytes);
    fetch_slice(to[2], DOut, rows[i][0], c0 + c, width, bytes);
    fetch_slice(to[3], V, rows[i][1], c0 + c, width, bytes);
  };

  float acc[SIDE / 8][4] = {}, l[SIDE / 8][4], g[SIDE / 8][4];
  int mine = warp * 16 + lane / 4, steps = n * slices;
  look_up(0);
  look_up(1);
  __syncthreads();
  if (steps > 0) load(0);
  cp_async_commit();
  for (int step = 0; step < steps; step++) {
    int i = step / slices, c = step % slices * DEPTH;
    if (step + 1 < steps) load(step + 1);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    if (c == 0) {
      look_up(i + 2);
#pragma unroll
      for (int j = 0; j < SIDE / 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) l[j][e] = g[j][e] = 0;
    }
    const bf16(&x)[4][SIDE * DEPTH] = tile[step % 2];
    multiply_slice(l, x[0], x[1], dim - c, lane, warp);
    multiply_slice(g, x[2], x[3], dim - c, lane, warp);
    if (c + DEPTH >= dim) {
      const int* keys = rows[i % 3][1];
#pragma unroll
      for (int h = 0; h < 2; h++) {
        float2 sum = sums[i % 3][mine + 8 * h];
        int code = codes[0][mine + 8 * h];
#pragma unroll
        for (int j = 0; j < SIDE / 8; j++)
#pragma unroll
          for (int e = 2 * h; e < 2 * h + 2; e++) {
            int key = j * 8 + lane % 4 * 2 + e % 2;
            float w = fast_exp2(l[j][e] * (scale * LOG2E) + bias[code + codes[1][key]] - sum.x);
            if (keys[key] >= 0) acc[j][e] += w * (g[j][e] - sum.y);
          }
      }
    }
    __syncthreads();
  }
  cp_async_wait<0>();
  float* to = pairs + ((long long)blockIdx.z * heads + head) * size * size;
#pragma unroll
  for (int j = 0; j < SIDE / 8; j++)
#pragma unroll
    for (int e = 0; e < 4; e++) {
      int row = q0 + mine + e / 2 * 8, col = k0 + j * 8 + lane % 4 * 2 + e % 2;
      if (row < size && col < size) to[(long long)row * size + col] = acc[j][e];
    }
}
CUEMU_KERNEL(attention_bias_pairs_bf16)

// dtable[row, column + head] += Σ over groups of the pairs that read it.
// Block (row, head).
extern "C" __global__ void __launch_bounds__(128) attention_bias_finish(const float* pairs, int groups, int size, int texts, float* dtable, int stride, int column, int window, int text) {
  __shared__ float red[MAX_WARPS];
  Bias bias{nullptr, 0, 0, window, text};
  int row = blockIdx.x, head = blockIdx.y, r = bias.image_rows(), a = r + 2 * text + 2, images = size - texts;
  auto at = [&](int i, int j) {
    float s = 0;
    for (int g = 0; g < groups; g++) s += pairs[(((long long)g * gridDim.y + head) * size + i) * size + j];
    return s;
  };
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
