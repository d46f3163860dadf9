// Patchify: a thread a run of the output, so that stores are whole lines; its
// elements are pixels of one or more rows of a patch.
#include "tensor.h"

// Images of f32, eight pixels a thread.
struct Values {
  static constexpr int RUN = CHUNK;
  Tensor x;
  __device__ void load(float (&v)[RUN], int image, int at) const { x.load(v, image, at, at + RUN); }
  __device__ float at(int image, int at) const { return x.at(image, at); }
};

// Images of bytes, whose rows are stride bytes apart, 16 pixels a thread:
// (b/255 − mean)/std, each step rounded, by divisions that no compiler may turn
// into products.
struct Bytes {
  static constexpr int RUN = 16;
  const uint8_t* x;
  long long stride;
  float mean, std;
  __device__ float value(uint32_t b) const { return (b / 255.f - mean) / std; }
  __device__ void load(float (&v)[RUN], int image, int at) const {
    const uint8_t* p = x + image * stride + at;
    if ((uintptr_t)p & 15) {
#pragma unroll
      for (int i = 0; i < RUN; i++) v[i] = value(p[i]);
      return;
    }
    uint4 u = *(const uint4*)p;
    uint32_t w[4] = {u.x, u.y, u.z, u.w};
#pragma unroll
    for (int i = 0; i < RUN; i++) v[i] = value(w[i / 4] >> 8 * (i % 4) & 255);
  }
  __device__ float at(int image, int at) const { return value(x[image * stride + at]); }
};

template <class Images>
__device__ inline void patches_of(const Images& X, void* y, long long yl, int patches, int channels, int height, int width, int size) {
  constexpr int RUN = Images::RUN;
  int n = channels * size * size, r, c;
  if (!chunk<RUN>(patches, n, r, c)) return;
  int across = width / size, per = across * (height / size);
  int image = r / per, py = r % per / across, px = r % across;
  float v[RUN];
  int ch = c / (size * size), dy = c / size % size, dx = c % size;
  if (size % RUN == 0) {  // they lie side by side
    X.load(v, image, (ch * height + py * size + dy) * width + px * size + dx);
  } else {
#pragma unroll
    for (int i = 0; i < RUN; i++) {
      v[i] = c + i < n ? X.at(image, (ch * height + py * size + dy) * width + px * size + dx) : 0.f;
      if (++dx == size) {
        dx = 0;
        if (++dy == size) dy = 0, ch++;
      }
    }
  }
  Tensor Y(y, yl);
#pragma unroll
  for (int k = 0; k < RUN; k += CHUNK) {
    float u[CHUNK];
#pragma unroll
    for (int i = 0; i < CHUNK; i++) u[i] = v[k + i];
    Y.store(u, r, c + k, n);
  }
}

// Y[B·(H/S)·(W/S), C·S·S] = patches of X[B, C·H·W]
extern "C" __global__ void __launch_bounds__(256) patchify(const void* x, long long xl, void* y, long long yl, int patches, int channels, int height, int width, int size) {
  patches_of(Values{Tensor(x, xl)}, y, yl, patches, channels, height, width, size);
}
CUEMU_KERNEL(patchify)

// The same of bytes, normalised.
extern "C" __global__ void __launch_bounds__(256) patchify_bytes(const uint8_t* x, long long stride, void* y, long long yl, int patches, int channels, int height, int width, int size, float mean, float std) {
  patches_of(Bytes{x, stride, mean, std}, y, yl, patches, channels, height, width, size);
}
CUEMU_KERNEL(patchify_bytes)
