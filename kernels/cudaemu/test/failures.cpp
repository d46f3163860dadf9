// failures.cpp - failures on demand; what is alive afterwards.
#include "harness.h"

namespace {

// Allocates three buffers and runs a kernel; gives everything back whatever happens.
CUresult small_program(CUcontext context) {
  CUdeviceptr p[3] = {};
  CUstream stream = nullptr;
  CUmodule module = nullptr;
  CUfunction copy;
  CUresult r = cuModuleLoad(&module, image_file);
  if (!r) r = cuModuleGetFunction(&copy, module, "copy");
  if (!r) r = cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING);
  for (int i = 0; !r && i < 3; i++) r = cuMemAlloc(&p[i], 256);
  for (int i = 0; !r && i < 3; i++) r = launch(copy, {1}, {64}, 0, stream, p[1], p[0], 64);
  if (!r) r = cuStreamSynchronize(stream);
  for (CUdeviceptr q : p)
    if (q) cuMemFree(q);
  if (stream) cuStreamDestroy(stream);
  if (module) cuModuleUnload(module);
  return r;
}

CUresult fail_at(const char* what, int n) {
  CUcontext context;
  OK(cuCtxCreate(&context, 0, 0));
  expect(cuemuFail(what, n), std::string("cuemuFail knows ") + what);
  CUresult r = small_program(context);
  cuCtxDestroy(context);
  cuemuFail(what, 0);
  return r;
}

void expect_nothing_alive(const std::string& when) {
  cuemuLive live;
  cuemuAlive(&live);
  if (live.allocations || live.bytes || live.contexts || live.modules || live.streams || live.events || live.graphs)
    fail(when + ": " + std::to_string(live.allocations) + " allocations, " + std::to_string(live.contexts) +
         " contexts, " + std::to_string(live.modules) + " modules, " + std::to_string(live.streams) + " streams, " +
         std::to_string(live.events) + " events, " + std::to_string(live.graphs) + " graphs are alive");
}

void test_live() {
  expect_nothing_alive("before");
  CUcontext context;
  OK(cuCtxCreate(&context, 0, 0));
  CUdeviceptr p;
  void* host;
  OK(cuMemAlloc(&p, 100));
  OK(cuMemHostAlloc(&host, 28, 0));
  cuemuLive live;
  cuemuAlive(&live);
  expect(live.allocations == 2 && live.bytes == 128 && live.contexts == 1, "what is alive");
  OK(cuCtxDestroy(context));
  expect_nothing_alive("after the context");
}

}  // namespace

void test_failures() {
  test_live();
  expect(fail_at("ALLOC", 0) == CUDA_SUCCESS, "no failure");
  for (int n = 1; n <= 3; n++) {
    std::string number = std::to_string(n);
    expect_error("allocation " + number, fail_at("ALLOC", n), CUDA_ERROR_OUT_OF_MEMORY);
    expect_error("launch " + number, fail_at("LAUNCH", n), CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES);
    expect_error("fault " + number, fail_at("FAULT", n), CUDA_ERROR_LAUNCH_FAILED, "fails on demand");
    expect_nothing_alive("after failure " + number);
  }
  expect(fail_at("ALLOC", 4) == CUDA_SUCCESS, "a failure beyond the last allocation");
  expect(!cuemuFail("NOTHING", 1), "an unknown failure");
  expect_error("device lost", fail_at("LOST", 2), CUDA_ERROR_UNKNOWN);
  expect_nothing_alive("after the device was lost");
  CUcontext context;
  expect_error("a context on a lost device", cuCtxCreate(&context, 0, 0), CUDA_ERROR_UNKNOWN);
}
