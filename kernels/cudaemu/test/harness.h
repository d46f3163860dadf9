// harness.h - checks and short forms of driver calls for the tests.
#pragma once
#include <cuda.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "../include/cuemu_api.h"

extern int failures;
extern const char* image_file;

inline void fail(const std::string& what) {
  printf("FAIL %s\n", what.c_str());
  failures++;
}

inline void expect(bool ok, const std::string& what) {
  if (!ok) fail(what);
}

inline std::string message(CUresult r) {
  const char* text;
  cuGetErrorString(r, &text);
  return text;
}

// For calls that must succeed: nothing after them would make sense.
inline void ok(CUresult r, const char* what) {
  if (r == CUDA_SUCCESS) return;
  printf("FAIL %s: %s\n", what, message(r).c_str());
  exit(1);
}
#define OK(call) ok(call, #call)

// Expects a call to fail with this code, and a message with these words.
inline void expect_error(const std::string& name, CUresult got, CUresult want, const std::string& words = "") {
  if (got != want) return fail(name + ": result " + std::to_string(got) + ", want " + std::to_string(want));
  if (!words.empty() && message(got).find(words) == std::string::npos)
    fail(name + ": the message is \"" + message(got) + "\", want \"" + words + "\"");
}

struct Buffer {
  CUdeviceptr p;
  size_t n;
};

// A context of its own, so that a fault does not reach other cases.
struct Session {
  CUcontext context;
  CUmodule module;

  Session() {
    OK(cuCtxCreate(&context, 0, 0));
    OK(cuModuleLoad(&module, image_file));
  }
  ~Session() { cuCtxDestroy(context); }

  CUfunction function(const char* name) {
    CUfunction f;
    ok(cuModuleGetFunction(&f, module, name), name);
    return f;
  }
  Buffer floats(size_t n) {
    Buffer b{0, n};
    OK(cuMemAlloc(&b.p, n * sizeof(float)));
    return b;
  }
  Buffer floats(const std::vector<float>& v) {
    Buffer b = floats(v.size());
    OK(cuMemcpyHtoD(b.p, v.data(), v.size() * sizeof(float)));
    return b;
  }
  CUresult read(Buffer b, std::vector<float>* v) {
    v->assign(b.n, 0);
    return cuMemcpyDtoH(v->data(), b.p, b.n * sizeof(float));
  }
};

struct Size {
  unsigned x, y = 1, z = 1;
};

template <class... Args>
CUresult launch(CUfunction f, Size grid, Size block, unsigned shared, CUstream s, Args... args) {
  void* pointers[] = {&args...};
  return cuLaunchKernel(f, grid.x, grid.y, grid.z, block.x, block.y, block.z, shared, s, pointers, nullptr);
}

// A launch on the default stream and its end.
template <class... Args>
CUresult run(CUfunction f, Size grid, Size block, unsigned shared, Args... args) {
  if (CUresult r = launch(f, grid, block, shared, nullptr, args...)) return r;
  return cuCtxSynchronize();
}

inline std::vector<float> ramp(size_t n) {  // 1, 2, 3, …
  std::vector<float> v(n);
  for (size_t i = 0; i < n; i++) v[i] = i + 1;
  return v;
}
