// Patchify: a thread a chunk of the output, so that stores are whole lines;
// the eight elements are pixels of one or two rows of a patch.
#include "tensor.h"

// Images of f32.
struct Values {
  Tensor x;
  __device__ void load(float (&v)[CHUNK], int image, int at) const { x.load(v, image, at, at + CHUNK); }
  __device__ float at(int image, int at) const { return x.at(image, at); }
};

// Images of bytes, whose rows are stride bytes apart: (b/255 − mean)/std, each
// step rounded, by two divisions that no compiler may turn into products.
struct Bytes {
  const uint8_t* x;
  long long stride;
  float mean, std;
  __device__ float value(uint32_t b) const { return (b / 255.f - mean) / std; }
  __device__ void load(float (&v)[CHUNK], int image, int at) const {
    const uint8_t* p = x + image * stride + at;
    if ((uintptr_t)p & 7) {
#pragma unroll
      for (int i = 0; i < CHUNK; i++) v[i] = value(p[i]);
      return;
    }
    uint2 w = *(const uint2*)p;
#pragma unroll
    for (int i = 0; i < 4; i++) v[i] = value(w.x >> 8 * i & 255), v[i + 4] = value(w.y >> 8 * i & 255);
  }
  __device__ float at(int image, int at) const { return value(x[image * stride + at]); }
};

template <class Images>
__device__ inline void patches_of(const Images& X, void* y, long long yl, int patches, int channels, int height, int width, int size) {
  int n = channels * size * size, r, c;
  if (!chunk(patches, n, r, c)) return;
  int across = width / size, per = across * (height / size);
  int image = r / per, py = r % per / across, px = r % across;
  float v[CHUNK];
  int ch = c / (size * size), dy = c / size % size, dx = c % size;
  if (size % CHUNK == 0) {  // they lie side by side
    int at = (ch * height + py * size + dy) * width + px * size + dx;
    X.load(v, image, at);
    Tensor(y, yl).store(v, r, c, n);
    return;
  }
#pragma unroll
  for (int i = 0; i < CHUNK; i++) {
    v[i] = c + i < n ? X.at(image, (ch * height + py * size + dy) * width + px * size + dx) : 0.f;
    if (++dx == size) {
      dx = 0;
      if (++dy == size) dy = 0, ch++;
    }
  }
  Tensor(y, yl).store(v, r, c, n);
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
