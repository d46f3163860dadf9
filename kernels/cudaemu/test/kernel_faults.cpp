// kernel_faults.cpp - every kernel of faults.cu, with its fault and without, at many seeds.
#include <functional>

#include "harness.h"

namespace {

constexpr int kSeeds = 25;

// What an element of y should be, from x = 1, 2, 3, ….
float same(int i) {
  return i + 1;
}
float reversed(int i) {
  return 64 - i;
}

struct Case {
  const char* kernel;
  CUresult error;     // CUDA_SUCCESS: the fault shows in y
  const char* words;  // of the message
  float (*want)(int i) = same;
  unsigned blocks = 1;
  unsigned shared = 256;  // bytes
};

const Case kCases[] = {
    {"write_past_end", CUDA_ERROR_ILLEGAL_ADDRESS, "write of 4 bytes at"},
    {"write_before_start", CUDA_ERROR_ILLEGAL_ADDRESS, "write of 4 bytes at"},
    {"read_past_end", CUDA_ERROR_ILLEGAL_ADDRESS, "byte 256, past the end of an allocation of 256 bytes"},
    {"write_far_away", CUDA_ERROR_ILLEGAL_ADDRESS, "no device memory"},
    {"read_null", CUDA_ERROR_ILLEGAL_ADDRESS, "no device memory"},
    {"misaligned_vector", CUDA_ERROR_MISALIGNED_ADDRESS, "misaligned write of 16 bytes"},
    {"shared_past_end", CUDA_ERROR_ILLEGAL_ADDRESS, "byte 256 of dynamic shared memory of 256 bytes"},
    {"shared_array_index", CUDA_ERROR_LAUNCH_FAILED, "fixed-size array"},
    {"local_array_index", CUDA_ERROR_LAUNCH_FAILED, "fixed-size array"},
    {"uninitialised_shared", CUDA_SUCCESS, "", reversed},
    {"uninitialised_dynamic", CUDA_SUCCESS, "", reversed},
    {"read_after_write", CUDA_ERROR_LAUNCH_FAILED, "race in shared memory", reversed},
    {"write_after_read", CUDA_ERROR_LAUNCH_FAILED, "race in shared memory",
     [](int i) { return 4 * same((i + 33) & 63) + 6; }},
    {"write_after_write", CUDA_ERROR_LAUNCH_FAILED, "race in shared memory"},
    {"broadcast_then_write", CUDA_ERROR_LAUNCH_FAILED, "race in shared memory", [](int) { return 3.f; }},
    {"missing_syncwarp", CUDA_ERROR_LAUNCH_FAILED, "race in shared memory", [](int i) { return same(i) + 1; }},
    {"shuffle_is_no_barrier", CUDA_ERROR_LAUNCH_FAILED, "race in shared memory",
     [](int i) { return same(i ^ 1) + same(i ^ 2); }},
    {"global_in_block", CUDA_ERROR_LAUNCH_FAILED, "race in global memory", reversed},
    {"two_threads_one_word", CUDA_ERROR_LAUNCH_FAILED, "race in global memory"},
    {"blocks_share_a_word", CUDA_ERROR_LAUNCH_FAILED, "race between blocks", same, 4},
    {"block_reads_another", CUDA_ERROR_LAUNCH_FAILED, "race between blocks", same, 4},
    {"barrier_in_branch", CUDA_ERROR_LAUNCH_FAILED, ""},
    {"two_barriers", CUDA_ERROR_LAUNCH_FAILED, "different __syncthreads"},
    {"lane_returns_early", CUDA_ERROR_LAUNCH_FAILED, ""},
    {"shuffle_reads_absent_lane", CUDA_ERROR_LAUNCH_FAILED, "takes no part"},
    {"caller_not_in_mask", CUDA_ERROR_LAUNCH_FAILED, "leaves it out"},
    {"masks_differ", CUDA_ERROR_LAUNCH_FAILED, "different masks"},
    {"missing_wait", CUDA_ERROR_LAUNCH_FAILED, "missing wait"},
    {"waits_for_one_too_few", CUDA_ERROR_LAUNCH_FAILED, "missing wait"},
    {"wait_without_barrier", CUDA_ERROR_LAUNCH_FAILED, ""},
    {"returns_without_wait", CUDA_ERROR_LAUNCH_FAILED, "has not waited for"},
    {"misaligned_cp_async", CUDA_ERROR_MISALIGNED_ADDRESS, "cp.async"},
    {"cp_async_past_end", CUDA_ERROR_ILLEGAL_ADDRESS, "read of 16 bytes"},
    {"misaligned_ldmatrix", CUDA_ERROR_MISALIGNED_ADDRESS, "ldmatrix", same, 1, 644},
    {"ldmatrix_of_global", CUDA_ERROR_ILLEGAL_ADDRESS, "not in shared memory", same, 1, 512},
    {"ldmatrix_without_barrier", CUDA_ERROR_LAUNCH_FAILED, "race in shared memory", same, 1, 512},
    {"mma_in_branch", CUDA_ERROR_LAUNCH_FAILED, ""},
    {"ldmatrix_in_branch", CUDA_ERROR_LAUNCH_FAILED, "", same, 1, 512},
    {"division_by_zero", CUDA_ERROR_LAUNCH_FAILED, "division by zero"},
    {"misaligned_atomic", CUDA_ERROR_MISALIGNED_ADDRESS, "atomic"},
    {"endless_recursion", CUDA_ERROR_LAUNCH_FAILED, "stack"},
};

bool right(const std::vector<float>& y, float (*want)(int)) {
  for (size_t i = 0; i < y.size(); i++)
    if (y[i] != want(i)) return false;
  return true;
}

CUresult run_case(const Case& c, int broken, std::vector<float>* y) {
  Session s;
  size_t n = 64 * c.blocks;
  Buffer out = s.floats(n), in = s.floats(ramp(n));
  if (CUresult r = run(s.function(c.kernel), {c.blocks}, {64}, c.shared, out.p, in.p, broken)) return r;
  return s.read(out, y);
}

void test_case(const Case& c, int seed) {
  std::string name = std::string(c.kernel) + " at seed " + std::to_string(seed);
  std::vector<float> y;
  cuemuSeed(seed);
  CUresult r = run_case(c, 0, &y);
  if (r != CUDA_SUCCESS)
    fail(name + ", without its fault: " + message(r));
  else
    expect(right(y, c.want), name + ", without its fault: wrong result");
  r = run_case(c, 1, &y);
  if (c.error != CUDA_SUCCESS)
    expect_error(name, r, c.error, c.words);
  else
    expect(r == CUDA_SUCCESS && !right(y, c.want), name + ": the fault does not show");
}

// Kernels with other arguments.
void test_sums(int seed) {
  std::string at = " at seed " + std::to_string(seed);
  cuemuSeed(seed);
  for (int broken = 0; broken < 2; broken++) {
    Session s;
    Buffer x = s.floats(ramp(256)), y = s.floats(std::vector<float>{0});
    CUresult r = run(s.function("sum_without_atomic"), {4}, {64}, 0, y.p, x.p, broken);
    if (broken) {
      expect_error("sum_without_atomic" + at, r, CUDA_ERROR_LAUNCH_FAILED, "race between blocks");
      continue;
    }
    std::vector<float> sum;
    expect(r == CUDA_SUCCESS && s.read(y, &sum) == CUDA_SUCCESS && sum[0] == 256 * 257 / 2, "sum by atomics" + at);
  }
  for (int broken = 0; broken < 2; broken++) {
    Session s;
    Buffer x = s.floats(ramp(256)), y = s.floats(1), partial = s.floats(4), arrived = s.floats(std::vector<float>{0});
    CUresult r = run(s.function("last_block_adds"), {4}, {64}, 0, y.p, x.p, partial.p, arrived.p, broken);
    if (broken) {
      expect_error("last_block_adds" + at, r, CUDA_ERROR_LAUNCH_FAILED, "race between blocks");
      continue;
    }
    std::vector<float> sum;
    expect(r == CUDA_SUCCESS && s.read(y, &sum) == CUDA_SUCCESS && sum[0] == 256 * 257 / 2,
           "sum by the last block" + at);
  }
}

void test_stored_pointers(int seed) {
  std::string at = " at seed " + std::to_string(seed);
  cuemuSeed(seed);
  std::vector<float> host(64);
  for (const char* what : {"live", "freed", "host"}) {
    Session s;
    Buffer x = s.floats(ramp(64)), y = s.floats(64), table = s.floats(2);
    CUdeviceptr target = what[0] == 'h' ? (CUdeviceptr)host.data() : x.p;
    OK(cuMemcpyHtoD(table.p, &target, sizeof target));
    if (what[0] == 'f') OK(cuMemFree(x.p));
    CUresult r = run(s.function("follow_pointer"), {1}, {64}, 0, y.p, table.p);
    std::string name = std::string("pointer to ") + what + " memory" + at;
    if (what[0] == 'l')
      expect(r == CUDA_SUCCESS, name);
    else
      expect_error(name, r, CUDA_ERROR_ILLEGAL_ADDRESS, what[0] == 'f' ? "a freed allocation" : "no device memory");
  }
}

void test_uninitialised_global() {
  Session s;
  Buffer x = s.floats(64), y = s.floats(64);
  OK(run(s.function("copy"), {1}, {64}, 0, y.p, x.p, 64));
  std::vector<float> v;
  OK(s.read(y, &v));
  for (float f : v) expect(std::isnan(f), "uninitialised device memory is not NaN");
}

}  // namespace

void test_kernel_faults() {
  for (int seed = 0; seed < kSeeds; seed++) {
    for (const Case& c : kCases) test_case(c, seed);
    test_sums(seed);
    test_stored_pointers(seed);
  }
  test_uninitialised_global();
}
