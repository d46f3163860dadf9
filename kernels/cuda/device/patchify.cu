// Patchify: a thread a chunk of the output, so that stores are whole lines;
// the eight elements are pixels of one or two rows of a patch.
#include "tensor.h"

// Y[B·(H/S)·(W/S), C·S·S] = patches of X[B, C·H·W]
extern "C" __global__ void __launch_bounds__(256) patchify(const void* x, long long xl, void* y, long long yl, int patches, int channels, int height, int width, int size) {
  int n = channels * size * size, r, c;
  if (!chunk(patches, n, r, c)) return;
  int across = width / size, per = across * (height / size);
  int image = r / per, py = r % per / across, px = r % across;
  Tensor X(x, xl);
  float v[CHUNK];
  int ch = c / (size * size), dy = c / size % size, dx = c % size;
  if (size % CHUNK == 0) {  // they lie side by side
    int at = (ch * height + py * size + dy) * width + px * size + dx;
    X.load(v, image, at, at + CHUNK);
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
CUEMU_KERNEL(patchify)
