// driver_device.cpp - initialisation, the one device, contexts, messages.
//
// Models: contexts belong to OS threads, each with a stack of them; an error
// of a kernel stays in its context; what was alive when a context ends is said.
// Does not model: more than one device.
#include <algorithm>
#include <cstdio>
#include <cstring>

#include "driver.h"
#include "memory.h"
#include "options.h"

using cuemu::option;

std::recursive_mutex driver_mutex;
bool initialised = false;
std::set<CUcontext> contexts;

static CUcontext primary;
static int primary_references;
static unsigned primary_flags;
static thread_local std::vector<CUcontext> context_stack;  // of the calling thread: what Go code gets wrong
static std::string last_message;

CUresult complain(CUresult result, const std::string& what) {
  last_message = what;
  fprintf(stderr, "cuemu: %s\n", what.c_str());
  return result;
}

extern "C" CUresult cuemu_unsupported(const char* name) {
  Lock lock;
  return complain(CUDA_ERROR_NOT_SUPPORTED, std::string(name) + " is not in the emulator");
}

CUresult current_context(CUcontext* out) {
  if (!initialised) return CUDA_ERROR_NOT_INITIALIZED;
  if (device_lost) return CUDA_ERROR_UNKNOWN;
  if (context_stack.empty() || !context_stack.back()) return CUDA_ERROR_INVALID_CONTEXT;
  *out = context_stack.back();
  if (!contexts.count(*out)) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
  return (*out)->error;
}

int compute_capability() {
  return option("CC", 80);
}

// Of one block, as cuFuncSetAttribute may allow it.
int max_dynamic_shared() {
  int cc = compute_capability();
  return cc >= 90 ? 232448 : cc == 80 ? 166912 : 101376;
}

static CUresult need_device(CUdevice d) {
  if (!initialised) return CUDA_ERROR_NOT_INITIALIZED;
  return d == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

static bool no_device() {
  return option("NODEVICE", 0);
}

extern "C" {

CUresult cuInit(unsigned) {
  Lock lock;
  if (no_device()) return CUDA_ERROR_NO_DEVICE;
  initialised = true;
  return CUDA_SUCCESS;
}

CUresult cuDriverGetVersion(int* version) {
  *version = CUDA_VERSION;
  return CUDA_SUCCESS;
}

// ---- the device ----

CUresult cuDeviceGetCount(int* n) {
  TRY(need_device(0));
  *n = 1;
  return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice* d, int ordinal) {
  TRY(need_device(ordinal));
  *d = 0;
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetName(char* name, int size, CUdevice d) {
  TRY(need_device(d));
  snprintf(name, size, "cuemu sm_%d", compute_capability());
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetUuid(CUuuid* uuid, CUdevice d) {
  TRY(need_device(d));
  memcpy(uuid->bytes, "cuemu-device-000", sizeof uuid->bytes);
  return CUDA_SUCCESS;
}

CUresult cuDeviceTotalMem(size_t* size, CUdevice d) {
  TRY(need_device(d));
  *size = cuemu::memory_size();
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice d) {
  TRY(need_device(d));
  int cc = compute_capability();
  switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X:
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y: *value = 1024; break;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z: *value = 64; break;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X: *value = 2147483647; break;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y:
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z: *value = 65535; break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK: *value = 49152; break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: *value = max_dynamic_shared(); break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR: *value = max_dynamic_shared() + 1024; break;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE: *value = 32; break;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = cc >= 90 ? 132 : 108; break;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR: *value = 2048; break;
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK: *value = 65536; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = cc / 10; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = cc % 10; break;
    case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING:
    case CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS: *value = 1; break;
    case CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT: *value = 2; break;
    default: *value = 0;
  }
  return CUDA_SUCCESS;
}

// ---- contexts ----

// Says what the program has left behind; the driver frees it.
static void report_leaks(CUcontext c) {
  size_t own_events = std::count_if(events.begin(), events.end(), [&](CUevent e) { return e->context == c; });
  bool clean = c->memory.empty() && c->streams.empty() && !own_events && !live_graphs;
  if (clean && !option("REPORT", 0)) return;
  fprintf(stderr, "cuemu: context ends with %zu allocations, %zu streams, %zu events, %d graphs alive\n",
          c->memory.size(), c->streams.size(), own_events, live_graphs);
}

// The object itself stays: other threads may hold it.
static void destroy(CUcontext c) {
  if (!device_lost) run_all(c);
  report_leaks(c);
  release_all(c);
  for (CUstream s : c->streams) delete s;
  c->streams.clear();
  std::erase_if(modules, [&](CUmodule m) { return m->context == c ? delete m, true : false; });
  std::erase_if(events, [&](CUevent e) { return e->context == c ? delete e, true : false; });
  contexts.erase(c);
}

CUresult cuCtxCreate(CUcontext* c, unsigned flags, CUdevice d) {
  Lock lock;
  TRY(need_device(d));
  if (device_lost) return CUDA_ERROR_UNKNOWN;
  *c = new CUctx_st;
  (*c)->flags = flags;
  contexts.insert(*c);
  context_stack.push_back(*c);
  return CUDA_SUCCESS;
}

CUresult cuCtxDestroy(CUcontext c) {
  Lock lock;
  if (!contexts.count(c)) return CUDA_ERROR_INVALID_CONTEXT;
  destroy(c);
  if (!context_stack.empty() && context_stack.back() == c) context_stack.pop_back();
  return CUDA_SUCCESS;
}

CUresult cuCtxSetCurrent(CUcontext c) {
  Lock lock;
  if (c && !contexts.count(c)) return CUDA_ERROR_INVALID_CONTEXT;
  if (!context_stack.empty()) context_stack.pop_back();
  if (c) context_stack.push_back(c);
  return CUDA_SUCCESS;
}

CUresult cuCtxGetCurrent(CUcontext* c) {
  if (!initialised) return CUDA_ERROR_NOT_INITIALIZED;
  *c = context_stack.empty() ? nullptr : context_stack.back();
  return CUDA_SUCCESS;
}

CUresult cuCtxPushCurrent(CUcontext c) {
  Lock lock;
  if (!contexts.count(c)) return CUDA_ERROR_INVALID_CONTEXT;
  context_stack.push_back(c);
  return CUDA_SUCCESS;
}

CUresult cuCtxPopCurrent(CUcontext* c) {
  if (context_stack.empty()) return CUDA_ERROR_INVALID_CONTEXT;
  if (c) *c = context_stack.back();
  context_stack.pop_back();
  return CUDA_SUCCESS;
}

CUresult cuCtxSynchronize() {
  WITH_CONTEXT;
  TRY(refuse_in_capture("cuCtxSynchronize"));
  return run_all(context);
}

CUresult cuCtxGetDevice(CUdevice* d) {
  WITH_CONTEXT;
  *d = 0;
  return CUDA_SUCCESS;
}

CUresult cuCtxGetFlags(unsigned* flags) {
  WITH_CONTEXT;
  *flags = context->flags;
  return CUDA_SUCCESS;
}

CUresult cuCtxGetApiVersion(CUcontext, unsigned* version) {
  *version = 3020;
  return CUDA_SUCCESS;
}

CUresult cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  WITH_CONTEXT;
  if (least) *least = 0;
  if (greatest) *greatest = -5;
  return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext* c, CUdevice d) {
  Lock lock;
  TRY(need_device(d));
  if (device_lost) return CUDA_ERROR_UNKNOWN;
  if (!primary) {
    primary = new CUctx_st;
    primary->flags = primary_flags;
    contexts.insert(primary);
  }
  primary_references++;
  *c = primary;
  return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRelease(CUdevice d) {
  Lock lock;
  TRY(need_device(d));
  if (!primary) return CUDA_ERROR_INVALID_CONTEXT;
  if (--primary_references == 0) {
    destroy(primary);
    primary = nullptr;
  }
  return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxReset(CUdevice d) {
  Lock lock;
  TRY(need_device(d));
  if (primary) destroy(primary);
  primary = nullptr;
  primary_references = 0;
  return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxSetFlags(CUdevice d, unsigned flags) {
  TRY(need_device(d));
  primary_flags = flags;
  return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxGetState(CUdevice d, unsigned* flags, int* active) {
  TRY(need_device(d));
  *flags = primary_flags;
  *active = primary != nullptr;
  return CUDA_SUCCESS;
}

// ---- messages ----

CUresult cuGetErrorName(CUresult result, const char** name) {
#define NAME(code) \
  case code: *name = #code; return CUDA_SUCCESS
  switch (result) {
    NAME(CUDA_SUCCESS);
    NAME(CUDA_ERROR_INVALID_VALUE);
    NAME(CUDA_ERROR_OUT_OF_MEMORY);
    NAME(CUDA_ERROR_NOT_INITIALIZED);
    NAME(CUDA_ERROR_NO_DEVICE);
    NAME(CUDA_ERROR_INVALID_DEVICE);
    NAME(CUDA_ERROR_INVALID_IMAGE);
    NAME(CUDA_ERROR_INVALID_CONTEXT);
    NAME(CUDA_ERROR_NO_BINARY_FOR_GPU);
    NAME(CUDA_ERROR_FILE_NOT_FOUND);
    NAME(CUDA_ERROR_INVALID_HANDLE);
    NAME(CUDA_ERROR_NOT_FOUND);
    NAME(CUDA_ERROR_NOT_READY);
    NAME(CUDA_ERROR_ILLEGAL_ADDRESS);
    NAME(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES);
    NAME(CUDA_ERROR_CONTEXT_IS_DESTROYED);
    NAME(CUDA_ERROR_MISALIGNED_ADDRESS);
    NAME(CUDA_ERROR_LAUNCH_FAILED);
    NAME(CUDA_ERROR_NOT_SUPPORTED);
    NAME(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    NAME(CUDA_ERROR_UNKNOWN);
    default: *name = "CUDA_ERROR"; return CUDA_SUCCESS;
  }
#undef NAME
}

// Says the emulator's last message too, where the driver has a general sentence.
CUresult cuGetErrorString(CUresult result, const char** text) {
  Lock lock;
  static thread_local std::string keep;
  const char* name;
  cuGetErrorName(result, &name);
  keep = name;
  if (result != CUDA_SUCCESS && !last_message.empty()) keep += ": " + last_message;
  *text = keep.c_str();
  return CUDA_SUCCESS;
}

}  // extern "C"
