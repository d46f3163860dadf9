// Fill, Copy, AddScaled, Tanh, TanhGrad, Gelu, GeluGrad: a thread a chunk of
// elements, each tensor read or written once.
#include "tensor.h"

// Y[rows, n] = value
extern "C" __global__ void __launch_bounds__(256) fill(void* y, long long yl, int rows, int n, float value) {
  int r, c;
  if (!chunk<QUAD>(rows, n, r, c)) return;
  float v[QUAD];
#pragma unroll
  for (int i = 0; i < QUAD; i++) v[i] = value;
  Tensor(y, yl).store(v, r, c, n);
}
CUEMU_KERNEL(fill)

// Y[rows, n] = X[rows, n], either type each
extern "C" __global__ void __launch_bounds__(256) copy(const void* x, long long xl, void* y, long long yl, int rows, int n) {
  int r, c;
  if (!chunk(rows, n, r, c)) return;
  float v[CHUNK];
  Tensor(x, xl).load(v, r, c, n);
  Tensor(y, yl).store(v, r, c, n);
}
CUEMU_KERNEL(copy)

// Y[rows, n] += alpha·X[rows, n]
extern "C" __global__ void __launch_bounds__(256) add_scaled(const void* x, long long xl, void* y, long long yl, int rows, int n, float alpha) {
  int r, c;
  if (!chunk<QUAD>(rows, n, r, c)) return;
  float u[QUAD], v[QUAD];
  Tensor(x, xl).load(u, r, c, n);
  Tensor(y, yl).load(v, r, c, n);
#pragma unroll
  for (int i = 0; i < QUAD; i++) v[i] += alpha * u[i];
  Tensor(y, yl).store(v, r, c, n);
}
CUEMU_KERNEL(add_scaled)

// Y[rows, n] = tanh(X[rows, n]); Y may be X
extern "C" __global__ void __launch_bounds__(256) tanh_forward(const void* x, long long xl, void* y, long long yl, int rows, int n) {
  int r, c;
  if (!chunk<QUAD>(rows, n, r, c)) return;
  float v[QUAD];
  Tensor(x, xl).load(v, r, c, n);
#pragma unroll
  for (int i = 0; i < QUAD; i++) v[i] = tanhf(v[i]);
  Tensor(y, yl).store(v, r, c, n);
}
CUEMU_KERNEL(tanh_forward)

// DX[rows, n] = DY·(1 − Y²); DX may be DY
extern "C" __global__ void __launch_bounds__(256) tanh_grad(const void* y, long long yl, const void* dy, long long dyl, void* dx, long long dxl, int rows, int n) {
  int r, c;
  if (!chunk<QUAD>(rows, n, r, c)) return;
  float u[QUAD], v[QUAD];
  Tensor(y, yl).load(u, r, c, n);
  Tensor(dy, dyl).load(v, r, c, n);
#pragma unroll
  for (int i = 0; i < QUAD; i++) v[i] *= (1 - u[i]) * (1 + u[i]);
  Tensor(dx, dxl).store(v, r, c, n);
}
CUEMU_KERNEL(tanh_grad)

// Y[rows, n] = gelu(X[rows, n]), either type each
extern "C" __global__ void __launch_bounds__(256) gelu_forward(const void* x, long long xl, void* y, long long yl, int rows, int n) {
  int r, c;
  if (!chunk(rows, n, r, c)) return;
  float v[CHUNK];
  Tensor(x, xl).load(v, r, c, n);
#pragma unroll
  for (int i = 0; i < CHUNK; i++) v[i] = gelu(v[i]);
  Tensor(y, yl).store(v, r, c, n);
}
CUEMU_KERNEL(gelu_forward)

// DX[rows, n] = DY·gelu'(X); DX may be DY. A thread treats N elements.
template <int N>
__device__ inline void gelu_grad_of(const Tensor& X, const Tensor& DY, const Tensor& DX, int rows, int n) {
  int r, c;
  if (!chunk<N>(rows, n, r, c)) return;
  float u[N], v[N];
  X.load(u, r, c, n);
  DY.load(v, r, c, n);
#pragma unroll
  for (int i = 0; i < N; i++) v[i] *= gelu_slope(u[i]);
  DX.store(v, r, c, n);
}
extern "C" __global__ void __launch_bounds__(256) gelu_grad(const void* x, long long xl, const void* dy, long long dyl, void* dx, long long dxl, int rows, int n) {
  gelu_grad_of<QUAD>({x, xl}, {dy, dyl}, {dx, dxl}, rows, n);
}
CUEMU_KERNEL(gelu_grad)
extern "C" __global__ void __launch_bounds__(256) gelu_grad_bf16(const void* x, long long xl, const void* dy, long long dyl, void* dx, long long dxl, int rows, int n) {
  gelu_grad_of<CHUNK>({x, xl}, {dy, dyl}, {dx, dxl}, rows, n);
}
CUEMU_KERNEL(gelu_grad_bf16)
