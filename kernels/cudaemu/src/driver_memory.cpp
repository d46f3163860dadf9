// driver_memory.cpp - allocation, copies and memset.
//
// Models: the device side of a copy must lie inside one allocation or variable;
// pageable host memory is read before an asynchronous copy returns, pinned
// memory when the copy runs, so that a buffer which is changed too early, or
// read too early, is noticed.
// Does not model: pitched and 3-D copies, peers, virtual memory management.
#include <algorithm>
#include <cstring>

#include "driver.h"
#include "memory.h"

using namespace cuemu;

bool find_span(const void* p, Span* span) {
  for (const Global* g = Global::head; g; g = g->next) {
    if (p < g->address || (char*)p > (char*)g->address + g->size) continue;
    *span = {(char*)g->address, g->size};
    return true;
  }
  const Allocation* a = find_allocation(p);
  if (!a || (char*)p > a->base + a->size) return false;
  *span = {a->base, a->size};
  return true;
}

static CUresult check_span(const void* p, size_t size, const char* what) {
  Span s;
  if (find_span(p, &s) && (char*)p + size <= s.base + s.size) return CUDA_SUCCESS;
  return complain(CUDA_ERROR_INVALID_VALUE,
                  std::string(what) + " of " + std::to_string(size) + " bytes at " + describe_address(p));
}

void release_all(CUcontext c) {
  for (char* p : c->memory) release(p);
  c->memory.clear();
}

static CUresult allocate_in(CUcontext c, void** out, size_t size, bool host) {
  if (!size) return CUDA_ERROR_INVALID_VALUE;
  if (fails_now(Failure::Alloc)) return CUDA_ERROR_OUT_OF_MEMORY;
  char* p = allocate(size, host);
  if (!p) return CUDA_ERROR_OUT_OF_MEMORY;
  c->memory.insert(p);
  *out = p;
  return CUDA_SUCCESS;
}

static CUresult free_in(CUcontext c, void* p) {
  run_all(c);  // as the driver does
  if (!p) return c->error;
  std::string place = describe_address(p);
  if (!c->memory.erase((char*)p) || !release((char*)p)) return complain(CUDA_ERROR_INVALID_VALUE, "free of " + place);
  return c->error;
}

// A copy whose ends are checked again when it runs: they may have been freed.
static Work copy_work(void* to, bool to_device, const void* from, bool from_device, size_t size) {
  return [=] {
    if (to_device) TRY(check_span(to, size, "copy to device memory"));
    if (from_device) TRY(check_span(from, size, "copy from device memory"));
    memmove(to, from, size);
    return CUDA_SUCCESS;
  };
}

extern "C" {

CUresult cuMemGetInfo(size_t* free, size_t* total) {
  WITH_CONTEXT;
  *total = memory_size();
  *free = *total - std::min<size_t>(*total, live_bytes());
  return CUDA_SUCCESS;
}

CUresult cuMemAlloc(CUdeviceptr* p, size_t size) {
  WITH_CONTEXT;
  TRY(refuse_in_capture("cuMemAlloc"));
  return allocate_in(context, (void**)p, size, false);
}

CUresult cuMemAllocManaged(CUdeviceptr* p, size_t size, unsigned) {
  WITH_CONTEXT;
  return allocate_in(context, (void**)p, size, true);
}

CUresult cuMemAllocHost(void** p, size_t size) {
  WITH_CONTEXT;
  return allocate_in(context, p, size, true);
}

CUresult cuMemHostAlloc(void** p, size_t size, unsigned) {
  WITH_CONTEXT;
  return allocate_in(context, p, size, true);
}

CUresult cuMemHostGetDevicePointer(CUdeviceptr* d, void* p, unsigned) {
  WITH_CONTEXT;
  *d = (CUdeviceptr)p;
  return CUDA_SUCCESS;
}

CUresult cuMemFree(CUdeviceptr p) {
  WITH_CONTEXT;
  TRY(refuse_in_capture("cuMemFree"));
  return free_in(context, (void*)p);
}

CUresult cuMemFreeHost(void* p) {
  WITH_CONTEXT;
  return free_in(context, p);
}

CUresult cuMemAllocAsync(CUdeviceptr* p, size_t size, CUstream handle) {
  WITH_CONTEXT;
  WITH_STREAM(handle);
  if (stream->capture) return cuemu_unsupported("cuMemAllocAsync in a capture");
  return allocate_in(context, (void**)p, size, false);
}

CUresult cuMemFreeAsync(CUdeviceptr p, CUstream handle) {
  WITH_CONTEXT;
  WITH_STREAM(handle);
  if (!context->memory.erase((char*)p)) return CUDA_ERROR_INVALID_VALUE;
  enqueue(context, stream, [=] {
    release((char*)p);
    return CUDA_SUCCESS;
  });
  return CUDA_SUCCESS;
}

CUresult cuMemGetAddressRange(CUdeviceptr* base, size_t* size, CUdeviceptr p) {
  WITH_CONTEXT;
  const Allocation* a = find_allocation((void*)p);
  if (!a || (char*)p >= a->base + a->size) return CUDA_ERROR_NOT_FOUND;
  if (base) *base = (CUdeviceptr)a->base;
  if (size) *size = a->size;
  return CUDA_SUCCESS;
}

CUresult cuPointerGetAttribute(void* out, CUpointer_attribute attribute, CUdeviceptr p) {
  WITH_CONTEXT;
  const Allocation* a = find_allocation((void*)p);
  if (!a) return CUDA_ERROR_INVALID_VALUE;
  switch (attribute) {
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE: *(unsigned*)out = a->host ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE; break;
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER: *(CUdeviceptr*)out = p; break;
    default: return cuemu_unsupported("cuPointerGetAttribute with this attribute");
  }
  return CUDA_SUCCESS;
}

// ---- copies on the default stream: the call returns when they are done ----

CUresult cuMemcpyHtoD(CUdeviceptr to, const void* from, size_t size) {
  WITH_CONTEXT;
  TRY(check_span((void*)to, size, __func__));
  return run_now(context, copy_work((void*)to, true, from, false, size));
}

CUresult cuMemcpyDtoH(void* to, CUdeviceptr from, size_t size) {
  WITH_CONTEXT;
  TRY(check_span((void*)from, size, __func__));
  return run_now(context, copy_work(to, false, (void*)from, true, size));
}

CUresult cuMemcpyDtoD(CUdeviceptr to, CUdeviceptr from, size_t size) {
  WITH_CONTEXT;
  TRY(check_span((void*)to, size, __func__));
  TRY(check_span((void*)from, size, __func__));
  return run_now(context, copy_work((void*)to, true, (void*)from, true, size));
}

CUresult cuMemcpy(CUdeviceptr to, CUdeviceptr from, size_t size) {
  WITH_CONTEXT;
  Span s;
  return run_now(context,
                 copy_work((void*)to, find_span((void*)to, &s), (void*)from, find_span((void*)from, &s), size));
}

// ---- copies on a stream ----

CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void* from, size_t size, CUstream handle) {
  WITH_CONTEXT;
  WITH_STREAM(handle);
  TRY(check_span((void*)to, size, __func__));
  if (stream->capture || find_allocation(from)) {
    enqueue(context, stream, copy_work((void*)to, true, from, false, size));
    return CUDA_SUCCESS;
  }
  auto staged = std::make_shared<std::vector<char>>((const char*)from, (const char*)from + size);
  enqueue(context, stream, [=] { return copy_work((void*)to, true, staged->data(), false, size)(); });
  return CUDA_SUCCESS;
}

CUresult cuMemcpyDtoHAsync(void* to, CUdeviceptr from, size_t size, CUstream handle) {
  WITH_CONTEXT;
  WITH_STREAM(handle);
  TRY(check_span((void*)from, size, __func__));
  OperationRef copy = enqueue(context, stream, copy_work(to, false, (void*)from, true, size));
  bool pinned = find_allocation(to);
  return stream->capture || pinned ? CUDA_SUCCESS : run_operation(context, copy);
}

CUresult cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t size, CUstream handle) {
  WITH_CONTEXT;
  WITH_STREAM(handle);
  TRY(check_span((void*)to, size, __func__));
  TRY(check_span((void*)from, size, __func__));
  enqueue(context, stream, copy_work((void*)to, true, (void*)from, true, size));
  return CUDA_SUCCESS;
}

// ---- memset (_v2 by hand: cuda.h's renaming macros do not reach into a paste) ----

#define MEMSET(bits, T)                                                                \
  static Work set_work##bits(CUdeviceptr p, T value, size_t n) {                       \
    return [=] {                                                                       \
      TRY(check_span((void*)p, n * sizeof value, "memset"));                           \
      std::fill_n((T*)p, n, value);                                                    \
      return CUDA_SUCCESS;                                                             \
    };                                                                                 \
  }                                                                                    \
  CUresult cuMemsetD##bits##_v2(CUdeviceptr p, T value, size_t n) {                    \
    WITH_CONTEXT;                                                                      \
    TRY(check_span((void*)p, n * sizeof value, "memset"));                             \
    return run_now(context, set_work##bits(p, value, n));                              \
  }                                                                                    \
  CUresult cuMemsetD##bits##Async(CUdeviceptr p, T value, size_t n, CUstream handle) { \
    WITH_CONTEXT;                                                                      \
    WITH_STREAM(handle);                                                               \
    TRY(check_span((void*)p, n * sizeof value, "memset"));                             \
    enqueue(context, stream, set_work##bits(p, value, n));                             \
    return CUDA_SUCCESS;                                                               \
  }
MEMSET(8, unsigned char)
MEMSET(16, unsigned short)
MEMSET(32, unsigned int)

}  // extern "C"
