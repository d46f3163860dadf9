// driver_graph.cpp - stream capture and graphs: the same operations, kept instead of run.
//
// Models: what may not be captured; streams that join by events and must be
// joined back; a launch that runs the nodes in any order their edges allow.
// Does not model: graphs built or changed by hand.
#include <algorithm>

#include "driver.h"
#include "grid.h"

int global_captures = 0;
int live_graphs = 0;

CUresult refuse_in_capture(const char* call) {
  if (!global_captures) return CUDA_SUCCESS;
  return complain(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, std::string(call) + " during a stream capture");
}

// The captured operations that the origin stream's end depends on.
static std::set<Operation*> joined(CUstream origin, CUgraph g) {
  std::set<Operation*> seen;
  std::vector<Operation*> todo{origin->last.get()};
  for (const OperationRef& w : origin->waits) todo.push_back(w.get());
  while (!todo.empty()) {
    Operation* o = todo.back();
    todo.pop_back();
    if (!o || o->graph != g || !seen.insert(o).second) continue;
    for (const OperationRef& d : o->dependencies) todo.push_back(d.get());
  }
  return seen;
}

static CUresult run_graph(std::vector<OperationRef> left) {
  while (!left.empty()) {
    std::set<Operation*> waiting;
    for (const OperationRef& o : left) waiting.insert(o.get());
    std::vector<size_t> ready;
    for (size_t i = 0; i < left.size(); i++) {
      auto blocked = [&](const OperationRef& d) { return d && waiting.count(d.get()); };
      const auto& before = left[i]->dependencies;
      if (std::none_of(before.begin(), before.end(), blocked)) ready.push_back(i);
    }
    size_t i = ready[cuemu::draw_order() % ready.size()];
    OperationRef o = left[i];
    left.erase(left.begin() + i);
    TRY(o->work());
  }
  return CUDA_SUCCESS;
}

extern "C" {

CUresult cuStreamBeginCapture(CUstream handle, CUstreamCaptureMode mode) {
  WITH_CONTEXT;
  WITH_STREAM(handle);
  if (stream == &context->default_stream) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  if (stream->capture) return CUDA_ERROR_ILLEGAL_STATE;
  run_operation(context, stream->last);
  stream->last = nullptr;
  stream->capture = new CUgraph_st;
  live_graphs++;
  stream->capture_origin = true;
  stream->capture_mode = mode;
  if (mode == CU_STREAM_CAPTURE_MODE_GLOBAL) global_captures++;
  return CUDA_SUCCESS;
}

CUresult cuStreamEndCapture(CUstream handle, CUgraph* out) {
  WITH_CONTEXT;
  WITH_STREAM(handle);
  if (!stream->capture || !stream->capture_origin) return CUDA_ERROR_ILLEGAL_STATE;
  CUgraph g = stream->capture;
  if (stream->capture_mode == CU_STREAM_CAPTURE_MODE_GLOBAL) global_captures--;
  stream->capture_origin = false;
  bool complete = joined(stream, g).size() == g->operations.size();
  for (CUevent e : events)
    if (e->operation && e->operation->graph == g) e->operation = nullptr;
  for (CUstream s : context->streams) {
    if (s->capture != g) continue;
    s->capture = nullptr;
    s->last = nullptr;
    s->waits.clear();
  }
  *out = g;
  if (complete) return CUDA_SUCCESS;
  *out = nullptr;
  live_graphs--;
  delete g;
  return complain(CUDA_ERROR_STREAM_CAPTURE_UNJOINED, "a stream that joined the capture was not joined back");
}

CUresult cuStreamIsCapturing(CUstream handle, CUstreamCaptureStatus* status) {
  WITH_CONTEXT;
  WITH_STREAM(handle);
  *status = stream->capture ? CU_STREAM_CAPTURE_STATUS_ACTIVE : CU_STREAM_CAPTURE_STATUS_NONE;
  return CUDA_SUCCESS;
}

CUresult cuGraphInstantiateWithFlags(CUgraphExec* x, CUgraph g, unsigned long long) {
  WITH_CONTEXT;
  *x = new CUgraphExec_st{g->operations};
  live_graphs++;
  return CUDA_SUCCESS;
}

CUresult cuGraphGetNodes(CUgraph g, CUgraphNode* nodes, size_t* n) {
  WITH_CONTEXT;
  for (size_t i = 0; nodes && i < std::min(*n, g->operations.size()); i++)
    nodes[i] = (CUgraphNode)g->operations[i].get();
  *n = g->operations.size();
  return CUDA_SUCCESS;
}

CUresult cuGraphLaunch(CUgraphExec x, CUstream handle) {
  WITH_CONTEXT;
  WITH_STREAM(handle);
  enqueue(context, stream, [operations = x->operations] { return run_graph(operations); });
  return CUDA_SUCCESS;
}

CUresult cuGraphExecDestroy(CUgraphExec x) {
  Lock lock;
  live_graphs--;
  delete x;
  return CUDA_SUCCESS;
}

CUresult cuGraphDestroy(CUgraph g) {
  Lock lock;
  live_graphs--;
  delete g;
  return CUDA_SUCCESS;
}

}  // extern "C"
