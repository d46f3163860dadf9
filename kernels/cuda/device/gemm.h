// gemm.h - what the matrix products do with a result: bias, activation, +=.
#pragma once
#include "tensor.h"

enum { ACT_NONE, ACT_GELU, ACT_GELU_GRAD };

struct Epilogue {
  Tensor C, Pre;
  const float* bias;
  int m, n, act, accumulate;

  // C[i, j] = act(v + bias[j]), or += v. v + bias is rounded to C's type before
  // the activation; Pre is written by GELU (optional) and read by GELU_GRAD.
  __device__ void store(int i, int j, float v) const {
    if (i >= m || j >= n) return;
    if (bias) v += bias[j];
    if (act == ACT_GELU) {
      if (Pre.present()) Pre.put(i, j, v);
      v = gelu(C.rounded(v));
    } else if (act == ACT_GELU_GRAD) {
      v = C.rounded(v) * gelu_slope(Pre.at(i, j));
    } else if (accumulate) {
      v += C.at(i, j);
    }
    C.put(i, j, v);
  }
};
