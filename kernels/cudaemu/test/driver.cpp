// driver.cpp - what the driver refuses: arguments, sizes, images, pointers, threads without a context.
#include <cstring>
#include <thread>

#include "harness.h"

namespace {

void test_arguments() {
  Session s;
  CUfunction copy = s.function("copy");
  Buffer x = s.floats(ramp(64)), y = s.floats(64);
  int n = 64;
  expect_error("null kernelParams", cuLaunchKernel(copy, 1, 1, 1, 64, 1, 1, 0, nullptr, nullptr, nullptr),
               CUDA_ERROR_INVALID_VALUE, "kernelParams is missing");
  void* two[] = {&y.p, &x.p, (void*)16};  // the third is what happens to lie behind
  expect_error("argument missing", cuLaunchKernel(copy, 1, 1, 1, 64, 1, 1, 0, nullptr, two, nullptr),
               CUDA_ERROR_INVALID_VALUE, "cannot be read");
  CUdeviceptr number = 64;
  void* swapped[] = {&y.p, &number, &x.p};
  expect_error("arguments swapped", cuLaunchKernel(copy, 1, 1, 1, 64, 1, 1, 0, nullptr, swapped, nullptr),
               CUDA_ERROR_INVALID_VALUE, "should be a device pointer");
  float host[64];
  float* host_pointer = host;
  void* of_host[] = {&y.p, &host_pointer, &n};
  expect_error("host pointer", cuLaunchKernel(copy, 1, 1, 1, 64, 1, 1, 0, nullptr, of_host, nullptr),
               CUDA_ERROR_INVALID_VALUE, "should be a device pointer");
  OK(cuMemFree(x.p));
  expect_error("freed pointer", launch(copy, {1}, {64}, 0, nullptr, y.p, x.p, n), CUDA_ERROR_INVALID_VALUE,
               "a freed allocation");

  size_t offset, size;
  OK(cuFuncGetParamInfo(copy, 2, &offset, &size));
  expect(offset == 16 && size == 4, "argument layout");
  expect(cuFuncGetParamInfo(copy, 3, &offset, &size) == CUDA_ERROR_INVALID_VALUE, "an argument too many");
}

void test_sizes() {
  Session s;
  CUfunction copy = s.function("copy"), bounded = s.function("bounded");
  Buffer x = s.floats(ramp(64)), y = s.floats(128);
  expect_error("empty grid", launch(copy, {0}, {64}, 0, nullptr, y.p, x.p, 64), CUDA_ERROR_INVALID_VALUE,
               "out of range");
  expect_error("wide grid", launch(copy, {1, 65536}, {64}, 0, nullptr, y.p, x.p, 64), CUDA_ERROR_INVALID_VALUE,
               "out of range");
  expect_error("1025 threads", launch(copy, {1}, {1025}, 0, nullptr, y.p, x.p, 64), CUDA_ERROR_INVALID_VALUE,
               "limit is 1024");
  expect_error("more threads than __launch_bounds__", launch(bounded, {1}, {128}, 0, nullptr, y.p),
               CUDA_ERROR_INVALID_VALUE, "limit is 64");
  expect_error("64 KiB of shared memory", launch(copy, {1}, {64}, 65536, nullptr, y.p, x.p, 64),
               CUDA_ERROR_INVALID_VALUE, "cuFuncSetAttribute");
  OK(cuFuncSetAttribute(copy, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 65536));
  OK(launch(copy, {1}, {64}, 65536, nullptr, y.p, x.p, 64));
  expect_error("512 KiB of shared memory",
               cuFuncSetAttribute(copy, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 1 << 19),
               CUDA_ERROR_INVALID_VALUE);
}

void test_images() {
  Session s;
  CUfunction f;
  CUmodule m;
  expect_error("no such kernel", cuModuleGetFunction(&f, s.module, "nothing"), CUDA_ERROR_NOT_FOUND);
  expect_error("kernel not registered", cuModuleGetFunction(&f, s.module, "not_registered"), CUDA_ERROR_NOT_FOUND,
               "not registered");
  expect_error("kernel not in the image", cuModuleGetFunction(&f, s.module, "only_in_emulator"), CUDA_ERROR_NOT_FOUND,
               "not in the module image");
  expect_error("other arguments", cuModuleGetFunction(&f, s.module, "other_arguments"), CUDA_ERROR_INVALID_IMAGE,
               "stale build");
  std::string rubbish(100, 'x');
  expect_error("rubbish", cuModuleLoadData(&m, rubbish.c_str()), CUDA_ERROR_INVALID_IMAGE, "no cubin");
  expect_error("no such file", cuModuleLoad(&m, "/nowhere/image"), CUDA_ERROR_FILE_NOT_FOUND);
  std::string ptx =
      ".version 8.0\n.target sm_80\n.visible .entry copy(.param .u64 a, .param .u64 b, .param .u32 c) { ret; }\n";
  OK(cuModuleLoadData(&m, ptx.c_str()));
  OK(cuModuleGetFunction(&f, m, "copy"));
  ptx = ".version 8.0\n.visible .entry copy(.param .u64 a, .param .u64 b, .param .u64 c) { ret; }\n";
  OK(cuModuleLoadData(&m, ptx.c_str()));
  expect_error("other arguments in PTX", cuModuleGetFunction(&f, m, "copy"), CUDA_ERROR_INVALID_IMAGE, "stale build");
}

// A fatbin with one empty entry, for an architecture.
std::string fatbin(int kind, uint32_t architecture) {
  std::string s(16 + 64, '\0');
  auto put = [&](size_t at, auto value) { memcpy(&s[at], &value, sizeof value); };
  put(0, 0xba55ed50u);
  put(6, (uint16_t)16);
  put(8, (uint64_t)64);
  put(16, (uint16_t)kind);
  put(20, (uint32_t)64);
  put(32, (uint32_t)1);  // compressed
  put(44, architecture);
  return s;
}

void test_architectures() {
  Session s;
  CUmodule m;
  const int ptx = 1, cubin = 2;
  expect_error("cubin for sm_90", cuModuleLoadData(&m, fatbin(cubin, 90).c_str()), CUDA_ERROR_NO_BINARY_FOR_GPU,
               "sm_90, nothing for this device");
  expect_error("cubin for sm_86", cuModuleLoadData(&m, fatbin(cubin, 86).c_str()), CUDA_ERROR_NO_BINARY_FOR_GPU);
  expect_error("PTX for compute_90", cuModuleLoadData(&m, fatbin(ptx, 90).c_str()), CUDA_ERROR_NO_BINARY_FOR_GPU);
  OK(cuModuleLoadData(&m, fatbin(cubin, 80).c_str()));
  OK(cuModuleLoadData(&m, fatbin(ptx, 70).c_str()));
}

void test_memory() {
  Session s;
  std::vector<float> host(65);
  Buffer x = s.floats(64), y = s.floats(64);
  expect_error("copy past the end", cuMemcpyHtoD(x.p, host.data(), 260), CUDA_ERROR_INVALID_VALUE, "cuMemcpyHtoD");
  expect_error("copy from past the end", cuMemcpyDtoH(host.data(), x.p + 4, 256), CUDA_ERROR_INVALID_VALUE);
  expect_error("copy between, past the end", cuMemcpyDtoD(x.p + 4, y.p, 256), CUDA_ERROR_INVALID_VALUE);
  expect_error("memset past the end", cuMemsetD32(x.p, 0, 65), CUDA_ERROR_INVALID_VALUE);
  expect_error("copy to a host pointer", cuMemcpyHtoD((CUdeviceptr)host.data(), host.data(), 4),
               CUDA_ERROR_INVALID_VALUE, "no device memory");
  OK(cuMemsetD32(x.p, 0x3f800000, 64));
  OK(s.read(x, &host));
  expect(host[0] == 1 && host[63] == 1, "memset");
  OK(cuMemFree(x.p));
  expect_error("copy from freed memory", cuMemcpyDtoH(host.data(), x.p, 256), CUDA_ERROR_INVALID_VALUE, "freed");
  expect_error("double free", cuMemFree(x.p), CUDA_ERROR_INVALID_VALUE, "free of");
  expect_error("free in the middle", cuMemFree(y.p + 16), CUDA_ERROR_INVALID_VALUE, "free of");
  CUdeviceptr large;
  expect_error("more than there is", cuMemAlloc(&large, 1ull << 39), CUDA_ERROR_OUT_OF_MEMORY);
  OK(cuMemAlloc(&large, 20ull << 30));  // takes no memory until it is used
  float end;
  OK(cuMemcpyDtoH(&end, large + (20ull << 30) - 4, 4));
  expect(std::isnan(end), "a large allocation is not poisoned");
  size_t before, after, total;
  OK(cuMemGetInfo(&before, &total));
  OK(cuMemFree(large));
  OK(cuMemGetInfo(&after, &total));
  expect(after - before == 20ull << 30, "free memory");
}

void test_threads() {
  Session s;
  std::thread([&] {
    CUdeviceptr p;
    expect_error("a thread without a context", cuMemAlloc(&p, 16), CUDA_ERROR_INVALID_CONTEXT);
    OK(cuCtxSetCurrent(s.context));
    OK(cuMemAlloc(&p, 16));
  }).join();
}

void test_sticky() {
  Session s;
  Buffer x = s.floats(ramp(64)), y = s.floats(64);
  CUdeviceptr p;
  expect(run(s.function("write_far_away"), {1}, {64}, 0, y.p, x.p, 1) == CUDA_ERROR_ILLEGAL_ADDRESS, "a fault");
  expect_error("a call after a fault", cuMemAlloc(&p, 16), CUDA_ERROR_ILLEGAL_ADDRESS);
}

void test_unknown() {
  Session s;
  size_t n;
  expect_error("an entry point that is not there", cuCtxGetLimit(&n, CU_LIMIT_STACK_SIZE), CUDA_ERROR_NOT_SUPPORTED,
               "cuCtxGetLimit");
}

// Settings that the emulator reads when it needs them.
void test_environment() {
  setenv("CUEMU_NODEVICE", "1", 1);
  expect_error("CUEMU_NODEVICE", cuInit(0), CUDA_ERROR_NO_DEVICE);
  unsetenv("CUEMU_NODEVICE");
  OK(cuInit(0));

  Session s;
  CUmodule m;
  setenv("CUEMU_CC", "90", 1);
  int major;
  OK(cuDeviceGetAttribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 0));
  expect(major == 9, "CUEMU_CC");
  OK(cuModuleLoadData(&m, fatbin(2, 90).c_str()));
  unsetenv("CUEMU_CC");

  CUstream stream;
  float* host;
  OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  OK(cuMemHostAlloc((void**)&host, 256, 0));
  Buffer x = s.floats(ramp(64));
  setenv("CUEMU_EAGER", "1", 1);
  OK(cuMemcpyDtoHAsync(host, x.p, 256, stream));
  unsetenv("CUEMU_EAGER");
  expect(host[63] == 64, "CUEMU_EAGER");

  setenv("CUEMU_RACES", "0", 1);
  Buffer y = s.floats(64);
  OK(run(s.function("two_threads_one_word"), {1}, {64}, 0, y.p, x.p, 1));
  unsetenv("CUEMU_RACES");
}

}  // namespace

void test_driver() {
  test_environment();
  test_arguments();
  test_sizes();
  test_images();
  test_architectures();
  test_memory();
  test_threads();
  test_sticky();
  test_unknown();
}
