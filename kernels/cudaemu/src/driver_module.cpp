// driver_module.cpp - modules, functions, launches.
//
// Models: a kernel must be in the image and compiled into the emulator, with
// the same arguments; a launch's sizes, its shared memory and its arguments are
// checked, and a pointer argument must point to live device memory.
// Does not model: the "extra" way to pass arguments, cooperative launches.
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>

#include "driver.h"
#include "grid.h"
#include "memory.h"

using namespace cuemu;

std::set<CUmodule> modules;

static const Kernel* find_kernel(const char* name) {
  const Kernel* k = Kernel::head;
  while (k && strcmp(k->name, name)) k = k->next;
  return k;
}

// Whether nvcc and g++ agree about the arguments.
static bool same_layout(const Kernel& k, const ImageKernel& image) {
  if (image.parameters.empty()) return true;  // the image does not tell, or there are none
  if (image.parameters.size() != k.parameters.size()) return false;
  for (auto& [position, p] : image.parameters)
    if (position >= (int)k.parameters.size() || p.size != k.parameters[position].size) return false;
  return true;
}

extern "C" {

// ---- modules ----

CUresult cuModuleLoadData(CUmodule* out, const void* image) {
  WITH_CONTEXT;
  auto m = std::make_unique<CUmod_st>();
  m->context = context;
  if (auto result = (CUresult)read_image(image, compute_capability(), &m->image))
    return complain(result, result == CUDA_ERROR_INVALID_IMAGE
                                ? "the module image is no cubin, fatbin or PTX"
                                : "the fatbin holds" + m->image.architectures + ", nothing for this device");
  *out = m.release();
  modules.insert(*out);
  return CUDA_SUCCESS;
}

CUresult cuModuleLoadDataEx(CUmodule* m, const void* image, unsigned, CUjit_option*, void**) {
  return cuModuleLoadData(m, image);
}

CUresult cuModuleLoadFatBinary(CUmodule* m, const void* image) {
  return cuModuleLoadData(m, image);
}

CUresult cuModuleLoad(CUmodule* m, const char* file) {
  std::ifstream f(file, std::ios::binary);
  if (!f) return CUDA_ERROR_FILE_NOT_FOUND;
  std::string image((std::istreambuf_iterator<char>(f)), {});
  return image.size() < 64 ? CUDA_ERROR_INVALID_IMAGE : cuModuleLoadData(m, image.data());
}

CUresult cuModuleUnload(CUmodule m) {
  Lock lock;
  if (!modules.count(m)) return CUDA_ERROR_INVALID_HANDLE;
  if (!device_lost && contexts.count(m->context)) run_all(m->context);
  modules.erase(m);
  delete m;
  return CUDA_SUCCESS;
}

CUresult cuModuleGetFunction(CUfunction* out, CUmodule m, const char* name) {
  WITH_CONTEXT;
  if (!modules.count(m)) return CUDA_ERROR_INVALID_HANDLE;
  const Kernel* k = find_kernel(name);
  auto image = m->image.kernels.find(name);
  bool in_image = image != m->image.kernels.end();
  if (!in_image && !(m->image.opaque && k)) {
    if (!k) return CUDA_ERROR_NOT_FOUND;
    return complain(CUDA_ERROR_NOT_FOUND,
                    std::string(name) + " is compiled into the emulator, but not in the module image");
  }
  if (!k)
    return complain(CUDA_ERROR_NOT_FOUND,
                    std::string(name) + " is in the module image, but not registered in the emulator (CUEMU_KERNEL)");
  CUfunc_st f{k, in_image ? image->second : ImageKernel{}, m};
  if (!same_layout(*k, f.image))
    return complain(
        CUDA_ERROR_INVALID_IMAGE,
        std::string(name) +
            ": the arguments in the module image differ from those compiled into the emulator (stale build?)");
  *out = &m->functions.emplace(name, f).first->second;
  return CUDA_SUCCESS;
}

CUresult cuModuleGetGlobal(CUdeviceptr* p, size_t* size, CUmodule m, const char* name) {
  WITH_CONTEXT;
  if (!modules.count(m)) return CUDA_ERROR_INVALID_HANDLE;
  for (const Global* g = Global::head; g; g = g->next) {
    if (strcmp(g->name, name)) continue;
    if (p) *p = (CUdeviceptr)g->address;
    if (size) *size = g->size;
    return CUDA_SUCCESS;
  }
  return CUDA_ERROR_NOT_FOUND;
}

// ---- functions ----

static unsigned thread_limit(CUfunction f) {
  return f->image.max_threads ? f->image.max_threads : 1024;
}

CUresult cuFuncGetAttribute(int* value, CUfunction_attribute attribute, CUfunction f) {
  WITH_CONTEXT;
  switch (attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = thread_limit(f); break;
    case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES: *value = f->image.static_shared; break;
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES: *value = f->dynamic_shared_limit; break;
    case CU_FUNC_ATTRIBUTE_BINARY_VERSION: *value = compute_capability(); break;
    default: *value = 0;
  }
  return CUDA_SUCCESS;
}

CUresult cuFuncSetAttribute(CUfunction f, CUfunction_attribute attribute, int value) {
  WITH_CONTEXT;
  if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) return CUDA_SUCCESS;
  if (value < 0 || value + (int)f->image.static_shared > max_dynamic_shared()) return CUDA_ERROR_INVALID_VALUE;
  f->dynamic_shared_limit = value;
  return CUDA_SUCCESS;
}

CUresult cuFuncSetCacheConfig(CUfunction, CUfunc_cache) {
  return CUDA_SUCCESS;
}

CUresult cuFuncGetName(const char** name, CUfunction f) {
  *name = f->kernel->name;
  return CUDA_SUCCESS;
}

// In the driver since CUDA 12.4; a launcher can check its arguments with it.
CUresult cuFuncGetParamInfo(CUfunction f, size_t i, size_t* offset, size_t* size) {
  WITH_CONTEXT;
  const auto& parameters = f->kernel->parameters;
  if (i >= parameters.size()) return CUDA_ERROR_INVALID_VALUE;
  size_t at = 0;
  for (size_t n = 0; n <= i; n++) {
    size_t align = std::min(parameters[n].size, 8u);
    at = (at + align - 1) / align * align;
    if (n < i) at += parameters[n].size;
  }
  auto image = f->image.parameters.find(i);
  if (image != f->image.parameters.end()) at = image->second.offset;
  if (offset) *offset = at;
  if (size) *size = parameters[i].size;
  return CUDA_SUCCESS;
}

}  // extern "C"

// ---- launch ----

// The pointers in kernelParams are wild when the caller gave too few arguments;
// read this way they are an error and not a crash.
static bool read_safely(void* to, const void* from, size_t size) {
  iovec local{to, size}, remote{(void*)from, size};
  return process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == (ssize_t)size;
}

// Copies of a launch's arguments.
class Arguments {
 public:
  CUresult read(const Kernel& k, void** parameters) {
    std::string name = std::string("launch of ") + k.name;
    size_t n = k.parameters.size();
    std::vector<void*> pointers(n);
    if (n && !read_safely(pointers.data(), parameters, n * sizeof(void*)))
      return complain(CUDA_ERROR_INVALID_VALUE, name + ": too few arguments");
    for (size_t i = 0; i < n; i++) {
      std::string argument = name + ": argument " + std::to_string(i) + " of " + std::to_string(n);
      values_.emplace_back((k.parameters[i].size + 15) / 16 * 2);
      void* value = values_[i].data();
      if (!read_safely(value, pointers[i], k.parameters[i].size))
        return complain(CUDA_ERROR_INVALID_VALUE, argument + " cannot be read (too few arguments?)");
      void* p = *(void**)value;
      Span span;
      if (k.parameters[i].pointer && p && !find_span(p, &span))
        return complain(CUDA_ERROR_INVALID_VALUE,
                        argument + " should be a device pointer, but is " + describe_address(p));
    }
    return CUDA_SUCCESS;
  }

  std::vector<void*> pointers() {
    std::vector<void*> p;
    for (auto& v : values_) p.push_back(v.data());
    return p;
  }

 private:
  std::vector<std::vector<uint64_t>> values_;
};

static CUresult check_sizes(CUfunction f, dim3 grid, dim3 block, unsigned shared) {
  std::string name = std::string("launch of ") + f->kernel->name;
  uint64_t threads = (uint64_t)block.x * block.y * block.z;
  bool fits = grid.x && grid.y && grid.z && threads && grid.x <= 2147483647 && grid.y <= 65535 && grid.z <= 65535 &&
              block.z <= 64;
  if (!fits) return complain(CUDA_ERROR_INVALID_VALUE, name + ": grid or block size out of range");
  if (threads > thread_limit(f))
    return complain(CUDA_ERROR_INVALID_VALUE, name + ": " + std::to_string(threads) +
                                                  " threads, the kernel's limit is " + std::to_string(thread_limit(f)));
  if (shared > f->dynamic_shared_limit)
    return complain(CUDA_ERROR_INVALID_VALUE,
                    name + ": " + std::to_string(shared) + " bytes of dynamic shared memory, " +
                        std::to_string(f->dynamic_shared_limit) + " allowed (cuFuncSetAttribute)");
  return CUDA_SUCCESS;
}

extern "C" CUresult cuLaunchKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                                   unsigned bz, unsigned shared, CUstream handle, void** parameters, void** extra) {
  WITH_CONTEXT;
  WITH_STREAM(handle);
  if (!modules.count(f->module) || f->module->context != context) return CUDA_ERROR_INVALID_HANDLE;
  const Kernel* k = f->kernel;
  dim3 grid{gx, gy, gz}, block{bx, by, bz};
  TRY(check_sizes(f, grid, block, shared));
  if (extra || (!k->parameters.empty() && !parameters))
    return complain(CUDA_ERROR_INVALID_VALUE,
                    std::string("launch of ") + k->name + ": kernelParams is missing (extra is not supported)");
  Arguments arguments;
  TRY(arguments.read(*k, parameters));
  if (fails_now(Failure::Launch)) return CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES;
  if (fails_now(Failure::Lost)) {
    device_lost = true;
    return CUDA_ERROR_UNKNOWN;
  }
  bool faults = fails_now(Failure::Fault);
  enqueue(context, stream, [=]() mutable {
    if (faults) return complain(CUDA_ERROR_LAUNCH_FAILED, std::string("kernel ") + k->name + ": fails on demand");
    auto pointers = arguments.pointers();
    std::string what;
    auto result = (CUresult)run_grid({k, grid, block, shared, pointers.data()}, &what);
    return result ? complain(result, what) : CUDA_SUCCESS;
  });
  return CUDA_SUCCESS;
}
