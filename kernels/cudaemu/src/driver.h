// driver.h - objects of the driver API, and what its parts share.
//
// Work is a graph of operations: an enqueued operation depends on the one
// before it in its stream and on the events its stream waits for. Nothing runs
// before the host waits for it, and then other streams' operations may run
// first, in random order: a missing dependency gives wrong results.
#pragma once
#pragma GCC visibility push(default)
#include <cuda.h>
#pragma GCC visibility pop

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "cuemu.h"
#include "image.h"

struct Operation;
using OperationRef = std::shared_ptr<Operation>;
using Work = std::function<CUresult()>;

struct CUgraph_st {
  std::vector<OperationRef> operations;
};

struct Operation {
  Work work;
  std::vector<OperationRef> dependencies;
  bool done = false;
  CUgraph graph = nullptr;  // the capture that it is part of; it never runs itself
};

struct CUstream_st {
  unsigned flags = 0;
  int priority = 0;
  OperationRef last;
  std::vector<OperationRef> waits;  // what the next operation waits for besides
  CUgraph capture = nullptr;
  bool capture_origin = false;
  CUstreamCaptureMode capture_mode{};
};

struct CUevent_st {
  CUcontext context;
  OperationRef operation;
  std::shared_ptr<double> time = std::make_shared<double>(0);  // milliseconds
};

struct CUgraphExec_st {
  std::vector<OperationRef> operations;
};

struct CUfunc_st {
  const cuemu::Kernel* kernel;
  cuemu::ImageKernel image;
  CUmodule module;
  unsigned dynamic_shared_limit = 48 * 1024;
};

struct CUmod_st {
  CUcontext context;
  cuemu::Image image;
  std::map<std::string, CUfunc_st> functions;
};

struct CUctx_st {
  unsigned flags = 0;
  CUresult error = CUDA_SUCCESS;  // sticky, once a kernel has faulted
  CUstream_st default_stream;
  std::set<CUstream> streams;
  std::set<char*> memory;
};

// All driver calls of a process take turns.
extern std::recursive_mutex driver_mutex;
struct Lock {
  std::lock_guard<std::recursive_mutex> guard{driver_mutex};
};

#define TRY(call)                                  \
  do {                                             \
    if (CUresult result_ = (call)) return result_; \
  } while (0)

// Takes the lock and gives the calling thread's context, or returns its error.
#define WITH_CONTEXT \
  Lock lock;         \
  CUcontext context; \
  TRY(current_context(&context))

// Gives the stream of a handle, or returns an error.
#define WITH_STREAM(handle)                       \
  CUstream stream = find_stream(context, handle); \
  if (!stream) return CUDA_ERROR_INVALID_HANDLE

// Prints what is wrong, keeps it for cuGetErrorString, and returns the code.
CUresult complain(CUresult, const std::string& what);
extern "C" CUresult cuemu_unsupported(const char* name);

// driver_device.cpp
extern bool initialised;
extern std::set<CUcontext> contexts;
CUresult current_context(CUcontext*);
int compute_capability();
int max_dynamic_shared();

// driver_memory.cpp
struct Span {
  char* base;
  size_t size;
};
bool find_span(const void* p, Span*);  // the allocation or variable that p points into or just past
void release_all(CUcontext);

// driver_stream.cpp
CUstream find_stream(CUcontext, CUstream handle);  // the default stream for 0
OperationRef enqueue(CUcontext, CUstream, Work);
CUresult run_operation(CUcontext, OperationRef);  // and all it depends on
CUresult run_all(CUcontext);                      // whatever is enqueued
CUresult run_now(CUcontext, Work);                // on the default stream
extern std::set<CUevent> events;
double now_milliseconds();

// driver_graph.cpp
extern int global_captures;                    // streams in capture with the global mode
CUresult refuse_in_capture(const char* call);  // error if there is one

// driver_module.cpp
extern std::set<CUmodule> modules;
extern int live_graphs;

// failure.cpp
enum class Failure { Alloc, Launch, Fault, Lost, Count };
bool fails_now(Failure);  // counts this call
extern bool device_lost;
