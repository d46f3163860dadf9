// attention.h - the packed two-segment layout and VLMo's relative bias.
#pragma once
#include "tensor.h"

constexpr int MAX_HEAD = 128;  // the largest head dim

// A kernels.Sequence: rows of K and V.
struct Sequence { int text_off, text_len, image_off, image_len; };

// The relative bias of a layer: table[rows, stride] from column on. Positions
// count the tokens of a sequence, text first; those of the image are row·window
// + column after its [CLS].
struct Bias {
  const float* table;
  int stride, column, window, text;

  __device__ int image_rows() const { return (2 * window - 1) * (2 * window - 1) + 3; }
  // The table's row for query i and key j of a sequence with t text tokens.
  __device__ int row(int t, int i, int j) const {
    int r = image_rows(), a = r + 2 * text + 2;
    if (i < t && j < t) return i && j ? r + text + j - i : i ? a - 2 : j ? a - 3 : a - 1;
    if (i < t) return r;
    if (j < t) return r + 1;
    i -= t, j -= t;
    if (!i || !j) return i ? r - 2 : j ? r - 3 : r - 1;
    i--, j--;
    return (i / window - j / window + window - 1) * (2 * window - 1) + i % window - j % window + window - 1;
  }
  // What row needs to know of a token: 4·u + kind, with u such that rows of two
  // words, and of two patches, differ by the difference of their u.
  __device__ int code(int t, int position) const {
    if (position < t) return position ? -4 * position : 1;
    int i = position - t - 1;
    return i < 0 ? 3 : 4 * (i / window * (2 * window - 1) + i % window) + 2;
  }
  // row, of the codes of query and key.
  __device__ int row_of(int q, int k) const {
    int r = image_rows(), a = r + 2 * text + 2, d = (q >> 2) - (k >> 2);
    bool q_image = q & 2, k_image = k & 2;
    if (q_image != k_image) return q_image ? r + 1 : r;
    int cls = (q & 1) + 2 * (k & 1), end = q_image ? r : a;
    if (cls) return cls == 3 ? end - 1 : cls == 1 ? end - 3 : end - 2;
    return d + (q_image ? 2 * window * (window - 1) : r + text);
  }
  __device__ float at(int t, int i, int j, int head) const {
    return table ? table[(long long)row(t, i, j) * stride + column + head] : 0.f;
  }
};

// The rows of Q, Out and LSE that belong to a sequence: two ranges, since the
// list of queries, where there is one, ascends.
struct Queries {
  const int* list;
  int count, text, text_n, image, image_n;

  __device__ static int lower_bound(const int* list, int n, int v) {
    int lo = 0;
    while (lo < n) {
      int mid = (lo + n) / 2;
      if (list[mid] < v) lo = mid + 1;
      else n = mid;
    }
    return lo;
  }
  __device__ Queries(const int* l, int m, const Sequence& s) : list(l) {
    text = s.text_off, text_n = s.text_len, image = s.image_off, image_n = s.image_len;
    if (list) {
      text = lower_bound(list, m, s.text_off);
      text_n = lower_bound(list, m, s.text_off + s.text_len) - text;
      image = lower_bound(list, m, s.image_off);
      image_n = lower_bound(list, m, s.image_off + s.image_len) - image;
    }
    count = text_n + image_n;
  }
  // The row of Q of the i-th query.
  __device__ int row(int i) const { return i < text_n ? text + i : image + i - text_n; }
  // Its position in the sequence.
  __device__ int position(int i, const Sequence& s) const {
    if (!list) return i;
    return i < text_n ? list[text + i] - s.text_off : s.text_len + list[image + i - text_n] - s.image_off;
  }
  // The row of Q of the query at a position, or −1.
  __device__ int find(int position, const Sequence& s) const {
    bool in_text = position < s.text_len;
    int from = in_text ? text : image, n = in_text ? text_n : image_n;
    int at = in_text ? position : position - s.text_len;
    if (!list) return from + at;
    int want = (in_text ? s.text_off : s.image_off) + at;
    int i = from + lower_bound(list + from, n, want);
    return i < from + n && list[i] == want ? i : -1;
  }
};

// The row of K and V at a position.
__device__ inline int key_row(const Sequence& s, int position) {
  return position < s.text_len ? s.text_off + position : s.image_off + position - s.text_len;
}
