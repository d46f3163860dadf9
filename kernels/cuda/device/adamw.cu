// AdamW over a flat range: four streams of f32 read, three written, and the
// bf16 copy for the next step's products.
#include "tensor.h"

// P, M, V[n] updated in place; grad[n]; half[n] = P rounded, optional.
// step is Rate·√(1−b2^t)/(1−b1^t), shrink is Rate·Decay.
extern "C" __global__ void __launch_bounds__(256) adamw(void* p, long long pl, void* m, long long ml, void* v, long long vl, const void* grad, long long gl, void* half, long long hl, int n, float step, float shrink, float b1, float rest1, float b2, float rest2, float eps, float gscale) {
  int r, c;
  if (!chunk<QUAD>(1, n, r, c)) return;
  Tensor P(p, pl), M(m, ml), V(v, vl), H(half, hl);
  float a[QUAD], b[QUAD], d[QUAD], g[QUAD];
  P.load(a, 0, c, n);
  M.load(b, 0, c, n);
  V.load(d, 0, c, n);
  Tensor(grad, gl).load(g, 0, c, n);
#pragma unroll
  for (int i = 0; i < QUAD; i++) {
    float x = g[i] * gscale;
    b[i] = b1 * b[i] + rest1 * x;
    d[i] = b2 * d[i] + rest2 * x * x;
    a[i] -= step * b[i] / (sqrtf(d[i]) + eps);
    a[i] -= shrink * a[i];
  }
  P.store(a, 0, c, n);
  M.store(b, 0, c, n);
  V.store(d, 0, c, n);
  if (H.present()) H.store(a, 0, c, n);
}
CUEMU_KERNEL(adamw)
