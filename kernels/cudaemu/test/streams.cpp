// streams.cpp - missing dependencies between streams and with the host, at many seeds; capture.
#include "harness.h"

namespace {

constexpr int kSeeds = 25;
constexpr int N = 64;

struct Streams : Session {
  CUstream a, b;
  CUevent event;
  CUfunction copy = function("copy"), add_one = function("add_one");

  Streams() {
    OK(cuStreamCreate(&a, CU_STREAM_NON_BLOCKING));
    OK(cuStreamCreate(&b, CU_STREAM_NON_BLOCKING));
    OK(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
  }
  ~Streams() { cuEventDestroy(event); }
  void order(CUstream first, CUstream second) {
    OK(cuEventRecord(event, first));
    OK(cuStreamWaitEvent(second, event, 0));
  }
};

struct Pinned {
  float* v;
  Pinned(float value) {
    OK(cuMemHostAlloc((void**)&v, N * sizeof(float), 0));
    std::fill_n(v, N, value);
  }
  ~Pinned() { cuMemFreeHost(v); }
};

// Each of these returns whether all went well; broken leaves out one dependency.

bool consumer_waits_for_producer(Streams& s, bool broken) {
  Buffer x = s.floats(ramp(N)), mid = s.floats(N), y = s.floats(N);
  OK(launch(s.copy, {1}, {N}, 0, s.a, mid.p, x.p, N));
  if (!broken) s.order(s.a, s.b);
  OK(launch(s.copy, {1}, {N}, 0, s.b, y.p, mid.p, N));
  OK(cuStreamSynchronize(s.b));
  std::vector<float> v;
  OK(s.read(y, &v));
  return v == ramp(N);
}

// The next batch is copied into a buffer that the last step still reads.
bool copy_waits_for_reader(Streams& s, bool broken) {
  Buffer x = s.floats(ramp(N)), y = s.floats(N);
  Pinned next(0);
  OK(launch(s.copy, {1}, {N}, 0, s.a, y.p, x.p, N));
  if (!broken) s.order(s.a, s.b);
  OK(cuMemcpyHtoDAsync(x.p, next.v, N * 4, s.b));
  OK(cuStreamSynchronize(s.b));
  OK(cuStreamSynchronize(s.a));
  std::vector<float> v;
  OK(s.read(y, &v));
  return v == ramp(N);
}

bool host_waits_before_it_reads(Streams& s, bool broken) {
  Buffer x = s.floats(ramp(N));
  Pinned result(-1);
  OK(cuMemcpyDtoHAsync(result.v, x.p, N * 4, s.a));
  if (!broken) OK(cuStreamSynchronize(s.a));
  bool right = result.v[0] == 1 && result.v[N - 1] == N;
  OK(cuCtxSynchronize());
  return right;
}

bool host_waits_before_it_writes(Streams& s, bool broken) {
  Buffer x = s.floats(N);
  Pinned batch(5);
  OK(cuMemcpyHtoDAsync(x.p, batch.v, N * 4, s.a));
  if (!broken) OK(cuStreamSynchronize(s.a));
  batch.v[3] = 6;  // the next batch
  OK(cuStreamSynchronize(s.a));
  std::vector<float> v;
  OK(s.read(x, &v));
  return v == std::vector<float>(N, 5);
}

// Two updates of one buffer on two streams: only the order gives x, x + 1, overwritten by 0.
bool writers_in_order(Streams& s, bool broken) {
  Buffer x = s.floats(ramp(N));
  OK(launch(s.add_one, {1}, {N}, 0, s.a, x.p, N));
  if (!broken) s.order(s.a, s.b);
  OK(cuMemsetD32Async(x.p, 0, N, s.b));
  OK(cuCtxSynchronize());
  std::vector<float> v;
  OK(s.read(x, &v));
  return v == std::vector<float>(N, 0);
}

void test_dependency(const char* name, bool (*f)(Streams&, bool), bool always_seen) {
  int seen = 0;
  for (int seed = 1; seed <= kSeeds; seed++) {
    cuemuSeed(seed);
    Streams good, bad;
    OK(cuCtxSetCurrent(good.context));
    expect(f(good, false), std::string(name) + ", with its dependency, at seed " + std::to_string(seed));
    OK(cuCtxSetCurrent(bad.context));
    seen += !f(bad, true);
  }
  expect(always_seen ? seen == kSeeds : seen > 0, std::string(name) + ": the missing dependency shows at " +
                                                      std::to_string(seen) + " of " + std::to_string(kSeeds) +
                                                      " seeds");
}

void test_default_stream() {
  Streams s;
  Buffer x = s.floats(ramp(N)), y = s.floats(N);
  CUstream blocking;
  OK(cuStreamCreate(&blocking, CU_STREAM_DEFAULT));
  OK(launch(s.copy, {1}, {N}, 0, blocking, y.p, x.p, N));
  OK(launch(s.add_one, {1}, {N}, 0, nullptr, y.p, N));  // waits for the blocking stream
  std::vector<float> v;
  OK(s.read(y, &v));
  expect(v[0] == 2, "the default stream waits for blocking streams");
}

void test_graph() {
  Streams s;
  Buffer x = s.floats(ramp(N)), mid = s.floats(N), y = s.floats(N);
  OK(cuStreamBeginCapture(s.a, CU_STREAM_CAPTURE_MODE_GLOBAL));
  OK(launch(s.copy, {1}, {N}, 0, s.a, mid.p, x.p, N));
  s.order(s.a, s.b);  // b joins
  OK(launch(s.add_one, {1}, {N}, 0, s.b, mid.p, N));
  s.order(s.b, s.a);
  OK(cuMemcpyDtoDAsync(y.p, mid.p, N * 4, s.a));
  CUdeviceptr p;
  expect_error("allocation in a capture", cuMemAlloc(&p, 16), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
               "during a stream capture");
  CUgraph graph;
  OK(cuStreamEndCapture(s.a, &graph));
  CUgraphExec executable;
  OK(cuGraphInstantiateWithFlags(&executable, graph, 0));
  for (int round = 0; round < 10; round++) {
    OK(cuGraphLaunch(executable, s.a));
    OK(cuStreamSynchronize(s.a));
    std::vector<float> v;
    OK(s.read(y, &v));
    expect(v[0] == 2 && v[N - 1] == N + 1, "a graph's result");
  }
  OK(cuMemFree(mid.p));
  OK(cuGraphLaunch(executable, s.a));
  expect_error("a graph that uses freed memory", cuStreamSynchronize(s.a), CUDA_ERROR_ILLEGAL_ADDRESS, "freed");
  cuGraphExecDestroy(executable);
  cuGraphDestroy(graph);

  Streams t;
  OK(cuStreamBeginCapture(t.a, CU_STREAM_CAPTURE_MODE_GLOBAL));
  t.order(t.a, t.b);
  OK(cuLaunchHostFunc(t.b, [](void*) {}, nullptr));
  expect_error("a stream that is not joined back", cuStreamEndCapture(t.a, &graph), CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
}

}  // namespace

void test_streams() {
  test_dependency("a consumer on another stream", consumer_waits_for_producer, false);
  test_dependency("a copy into a buffer in use", copy_waits_for_reader, false);
  test_dependency("the host reads a copy's target", host_waits_before_it_reads, true);
  test_dependency("the host writes a copy's source", host_waits_before_it_writes, true);
  test_dependency("two writers on two streams", writers_in_order, false);
  test_default_stream();
  test_graph();
}
