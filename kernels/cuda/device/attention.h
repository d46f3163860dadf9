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
  __device__ float at(int t, int i, int j, int head) const {
    return table ? table[(long long)row(t, i, j) * stride + column + head] : 0.f;
  }
};

// The bias of one head, spread out so that a query and a key find theirs by one
// addition, in numbers that lie side by side for neighbours: at query() + key()
// of the two tokens. Of the 16 pairs of the kinds [T_CLS], word, [I_CLS] and
// patch each has width() numbers, indexed by the difference of the tokens' u.
struct Spread {
  int window, text;

  __device__ int reach() const { return max(text, 2 * window * (window - 1)); }
  __device__ int width() const { return 2 * reach() + 1; }
  __device__ int kind(int i, bool image) const { return 2 * image + (i > 0); }
  // Of the i-th token of the text, or of the image: at least 0, at most reach().
  __device__ int u(int i, bool image) const {
    if (!i) return 0;
    return image ? (i - 1) / window * (2 * window - 1) + (i - 1) % window : text - i;
  }
  __device__ int query(int i, bool image) const { return 4 * kind(i, image) * width() + reach() + u(i, image); }
  __device__ int key(int i, bool image) const { return kind(i, image) * width() - u(i, image); }
  // The table's row whose bias is number e; −1 where no pair of tokens needs it.
  __device__ int row(int e) const {
    int pair = e / width(), d = e % width() - reach(), q = pair / 4, k = pair % 4;
    int r = (2 * window - 1) * (2 * window - 1) + 3, end = q & 2 ? r : r + 2 * text + 2;
    if ((q ^ k) & 2) return q & 2 ? r + 1 : r;
    if (!(q & 1) || !(k & 1)) return q & 1 ? end - 2 : k & 1 ? end - 3 : end - 1;
    if (!(q & 2)) return d > -text && d < text ? r + text + d : -1;
    return abs(d) <= 2 * window * (window - 1) ? d + 2 * window * (window - 1) : -1;
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
