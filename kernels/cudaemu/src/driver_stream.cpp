// driver_stream.cpp - the graph of operations, streams, events.
//
// Models: every order of operations that streams, events and the default
// stream's rules allow, drawn from the seed; nothing happens before somebody
// waits for it (CUEMU_EAGER=1 turns that off).
// Does not model: two operations at the same time, durations.
#include <chrono>

#include "driver.h"
#include "grid.h"
#include "options.h"

std::set<CUevent> events;

double now_milliseconds() {
  using namespace std::chrono;
  return duration<double, std::milli>(steady_clock::now().time_since_epoch()).count();
}

// ---- running ----

static bool pending(const OperationRef& o) {
  return o && !o->done && !o->graph;
}

// Runs one operation whose dependencies are done.
static void run_one(CUcontext c, Operation& o) {
  o.done = true;
  o.dependencies.clear();
  Work work = std::move(o.work);
  o.work = nullptr;
  if (c->error == CUDA_SUCCESS) c->error = work();
}

// An operation that can run, at or before the given one. Which, if there are several, is drawn.
static OperationRef find_ready(OperationRef o) {
  for (;;) {
    std::vector<OperationRef> before;
    for (const OperationRef& d : o->dependencies)
      if (pending(d)) before.push_back(d);
    if (before.empty()) return o;
    o = before[cuemu::draw_order() % before.size()];
  }
}

// Now and then another stream goes ahead by an operation.
static void run_another(CUcontext c) {
  uint64_t r = cuemu::draw_order();
  if (!r || r % 2 || c->streams.empty()) return;
  auto s = c->streams.begin();
  std::advance(s, r / 2 % c->streams.size());
  if (pending((*s)->last)) run_one(c, *find_ready((*s)->last));
}

CUresult run_operation(CUcontext c, OperationRef last) {
  while (pending(last)) {
    run_another(c);
    if (pending(last)) run_one(c, *find_ready(last));
  }
  return c->error;
}

CUresult run_all(CUcontext c) {
  run_operation(c, c->default_stream.last);
  for (CUstream s : c->streams) {
    run_operation(c, s->last);
    for (const OperationRef& w : s->waits) run_operation(c, w);
  }
  return c->error;
}

// ---- enqueueing ----

CUstream find_stream(CUcontext c, CUstream handle) {
  if (!handle || handle == CU_STREAM_LEGACY || handle == CU_STREAM_PER_THREAD) return &c->default_stream;
  return c->streams.count(handle) ? handle : nullptr;
}

// The default stream waits for all blocking streams, and they for it.
static void add_default_stream_order(CUcontext c, CUstream s, Operation& o) {
  if (s == &c->default_stream) {
    for (CUstream other : c->streams)
      if (!(other->flags & CU_STREAM_NON_BLOCKING) && !other->capture) o.dependencies.push_back(other->last);
  } else if (!(s->flags & CU_STREAM_NON_BLOCKING)) {
    o.dependencies.push_back(c->default_stream.last);
  }
}

OperationRef enqueue(CUcontext c, CUstream s, Work work) {
  auto o = std::make_shared<Operation>();
  o->work = std::move(work);
  o->dependencies = std::move(s->waits);
  s->waits.clear();
  if (s->last) o->dependencies.push_back(s->last);
  if (s->capture) {
    o->graph = s->capture;
    s->capture->operations.push_back(o);
    return s->last = o;
  }
  add_default_stream_order(c, s, *o);
  s->last = o;
  if (cuemu::option("EAGER", 0)) run_operation(c, o);
  return o;
}

CUresult run_now(CUcontext c, Work work) {
  if (global_captures)
    return complain(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, "work on the default stream during a stream capture");
  return run_operation(c, enqueue(c, &c->default_stream, std::move(work)));
}

static CUresult need_event(CUevent e) {
  return events.count(e) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

extern "C" {

// ---- streams ----

CUresult cuStreamCreateWithPriority(CUstream* out, unsigned flags, int priority) {
  WITH_CONTEXT;
  *out = new CUstream_st;
  (*out)->flags = flags;
  (*out)->priority = priority;
  context->streams.insert(*out);
  return CUDA_SUCCESS;
}

CUresult cuStreamCreate(CUstream* out, unsigned flags) {
  return cuStreamCreateWithPriority(out, flags, 0);
}

CUresult cuStreamDestroy(CUstream handle) {
  Lock lock;
  for (CUcontext c : contexts) {  // also after an error: the handle must not leak
    if (!c->streams.count(handle)) continue;
    if (!device_lost) run_operation(c, handle->last);
    c->streams.erase(handle);
    delete handle;
    return c->error;
  }
  return CUDA_ERROR_INVALID_HANDLE;
}

CUresult cuStreamSynchronize(CUstream handle) {
  WITH_CONTEXT;
  WITH_STREAM(handle);
  if (stream->capture)
    return complain(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "cuStreamSynchronize on a stream in capture");
  if (stream == &context->default_stream) return run_now(context, [] { return CUDA_SUCCESS; });
  for (const OperationRef& w : stream->waits) run_operation(context, w);
  return run_operation(context, stream->last);
}

CUresult cuStreamQuery(CUstream handle) {
  WITH_CONTEXT;
  WITH_STREAM(handle);
  if (stream->capture) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  if (!pending(stream->last)) return CUDA_SUCCESS;
  TRY(run_operation(context, stream->last));  // so that asking again and again ends
  return CUDA_ERROR_NOT_READY;
}

CUresult cuStreamGetFlags(CUstream handle, unsigned* flags) {
  WITH_CONTEXT;
  WITH_STREAM(handle);
  *flags = stream->flags;
  return CUDA_SUCCESS;
}

CUresult cuStreamGetPriority(CUstream handle, int* priority) {
  WITH_CONTEXT;
  WITH_STREAM(handle);
  *priority = stream->priority;
  return CUDA_SUCCESS;
}

CUresult cuLaunchHostFunc(CUstream handle, CUhostFn function, void* data) {
  WITH_CONTEXT;
  WITH_STREAM(handle);
  enqueue(context, stream, [=] {
    function(data);
    return CUDA_SUCCESS;
  });
  return CUDA_SUCCESS;
}

// ---- events ----

CUresult cuEventCreate(CUevent* e, unsigned) {
  WITH_CONTEXT;
  events.insert(*e = new CUevent_st{context, nullptr});
  return CUDA_SUCCESS;
}

CUresult cuEventDestroy(CUevent e) {
  Lock lock;
  TRY(need_event(e));
  events.erase(e);
  delete e;
  return CUDA_SUCCESS;
}

CUresult cuEventRecord(CUevent e, CUstream handle) {
  WITH_CONTEXT;
  WITH_STREAM(handle);
  TRY(need_event(e));
  auto time = e->time = std::make_shared<double>(0);
  e->operation = enqueue(context, stream, [time] {
    *time = now_milliseconds();
    return CUDA_SUCCESS;
  });
  return CUDA_SUCCESS;
}

CUresult cuStreamWaitEvent(CUstream handle, CUevent e, unsigned) {
  WITH_CONTEXT;
  WITH_STREAM(handle);
  TRY(need_event(e));
  if (!e->operation || e->operation->done) return CUDA_SUCCESS;
  stream->waits.push_back(e->operation);
  if (e->operation->graph && !stream->capture) {  // joins the capture
    stream->capture = e->operation->graph;
    stream->last = nullptr;
  }
  return CUDA_SUCCESS;
}

CUresult cuEventSynchronize(CUevent e) {
  WITH_CONTEXT;
  TRY(need_event(e));
  if (e->operation && e->operation->graph) return CUDA_ERROR_CAPTURED_EVENT;
  return run_operation(context, e->operation);
}

CUresult cuEventQuery(CUevent e) {
  WITH_CONTEXT;
  TRY(need_event(e));
  if (!pending(e->operation)) return CUDA_SUCCESS;
  TRY(run_operation(context, e->operation));
  return CUDA_ERROR_NOT_READY;
}

CUresult cuEventElapsedTime(float* milliseconds, CUevent from, CUevent to) {
  WITH_CONTEXT;
  TRY(need_event(from));
  TRY(need_event(to));
  if (!from->operation || !to->operation) return CUDA_ERROR_INVALID_HANDLE;
  if (!from->operation->done || !to->operation->done) return CUDA_ERROR_NOT_READY;
  *milliseconds = *to->time - *from->time;
  return CUDA_SUCCESS;
}

}  // extern "C"
