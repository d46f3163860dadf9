// counters.cpp - kernels whose traffic is known by arithmetic.
#include "harness.h"

namespace {

struct Expected {
  const char* what;
  uint64_t got, want;
};

void compare(const std::string& name, const std::vector<Expected>& values) {
  for (const Expected& e : values)
    if (e.got != e.want) fail(name + ": " + e.what + " " + std::to_string(e.got) + ", want " + std::to_string(e.want));
}

// The counters of one launch.
template <class... Args>
cuemuCounters count(Session& s, const char* kernel, Size grid, Size block, unsigned shared, Args... args) {
  cuemuForget();
  cuemuCount(1);
  OK(run(s.function(kernel), grid, block, shared, args...));
  cuemuCount(0);
  cuemuCounters c{};
  expect(cuemuLaunches() == 1 && cuemuLaunch(0, &c) && std::string(c.kernel) == kernel,
         std::string(kernel) + " is not counted once");
  return c;
}

void test_global() {
  Session s;
  const uint64_t n = 1000;
  Buffer x = s.floats(ramp(n)), y = s.floats(n);
  cuemuCounters c = count(s, "copy", {4}, {256}, 0, y.p, x.p, (int)n);
  compare("copy", {{"threads", c.threads, 1024},
                   {"read bytes", c.read_bytes, 4 * n},
                   {"written bytes", c.write_bytes, 4 * n},
                   {"read sectors", c.read_sectors, n / 8},
                   {"write sectors", c.write_sectors, n / 8},
                   {"unique read sectors", c.unique_read_sectors, n / 8},
                   {"unique write sectors", c.unique_write_sectors, n / 8},
                   {"shared bytes", c.shared_bytes, 0},
                   {"mma", c.mma, 0},
                   {"special", c.special, 0}});
  compare("copy", {{"read of x", cuemuAsked((void*)x.p).read, 4 * n},
                   {"written to x", cuemuAsked((void*)x.p).written, 0},
                   {"read of y", cuemuAsked((void*)y.p).read, 0},
                   {"written to y", cuemuAsked((void*)y.p).written, 4 * n}});

  // 16 bytes a lane: the same sectors.
  c = count(s, "copy_vectors", {1}, {256}, 0, y.p, x.p, 250);
  compare("copy_vectors", {{"read bytes", c.read_bytes, 4 * n},
                           {"read sectors", c.read_sectors, n / 8},
                           {"write sectors", c.write_sectors, n / 8}});

  // Every lane its own sector, of which it uses 4 bytes.
  c = count(s, "copy_strided", {1}, {96}, 0, y.p, x.p, 96, 8);
  compare("copy_strided by 8", {{"read bytes", c.read_bytes, 4 * 96},
                                {"read sectors", c.read_sectors, 96},
                                {"unique read sectors", c.unique_read_sectors, 96},
                                {"write sectors", c.write_sectors, 96 / 8}});

  // All lanes the same word: one sector a warp, one in the whole launch.
  c = count(s, "copy_strided", {1}, {96}, 0, y.p, x.p, 96, 0);
  compare("copy_strided by 0", {{"read bytes", c.read_bytes, 4 * 96},
                                {"read sectors", c.read_sectors, 3},
                                {"unique read sectors", c.unique_read_sectors, 1}});
  compare("copy_strided by 0", {{"read of x", cuemuAsked((void*)x.p).read, 4 * 96}});

  c = count(s, "sum_without_atomic", {4}, {64}, 0, y.p, x.p, 0);
  compare("sum by atomics", {{"atomics", c.atomics, 256}, {"read bytes", c.read_bytes, 4 * 256}});
}

// A store and a load of 32 lanes, 4 bytes each, at this distance in words.
void test_banks() {
  Session s;
  Buffer x = s.floats(ramp(128)), y = s.floats(128);
  struct {
    int stride;
    uint64_t conflicts;  // of one access
  } cases[] = {{1, 0}, {2, 1}, {3, 0}, {4, 3}, {8, 7}, {16, 15}, {32, 31}, {33, 0}};
  for (auto [stride, conflicts] : cases) {
    cuemuCounters c = count(s, "shared_stride", {1}, {32}, 33 * 32 * 4, y.p, x.p, stride);
    compare("shared_stride by " + std::to_string(stride), {{"bank conflicts", c.bank_conflicts, 2 * conflicts},
                                                           {"shared bytes", c.shared_bytes, 2 * 4 * 32},
                                                           {"barriers", c.barriers, 1}});
  }
  cuemuCounters c = count(s, "shared_vectors", {1}, {32}, 512, y.p, x.p);
  compare("shared_vectors", {{"bank conflicts", c.bank_conflicts, 0}, {"shared bytes", c.shared_bytes, 2 * 16 * 32}});
}

void test_matrices() {
  Session s;
  Buffer y = s.floats(128);
  // Rows of 16 bytes fill the banks; rows of 128 bytes are all in the same four.
  uint64_t packed = count(s, "load_matrices", {1}, {32}, 32 * 16, y.p, 16, 0).bank_conflicts;
  OK(cuCtxSynchronize());
  uint64_t far = count(s, "load_matrices", {1}, {32}, 32 * 128, y.p, 128, 0).bank_conflicts;
  // The kernel's stores of 2 bytes: lanes 0 to 31 fill 4 rows of 8; at 128 bytes 4 rows meet in 4 banks.
  uint64_t stores = 8 * 3;
  compare("load_matrices",
          {{"bank conflicts, packed", packed, 0}, {"bank conflicts, 128 bytes apart", far, 4 * 7 + stores}});

  const uint64_t M = 32, N = 24, K = 80, warps = M / 16 * N / 8, steps = K / 16;
  Buffer a = s.floats(M * K / 2), b = s.floats(N * K / 2), c = s.floats(M * N);
  cuemuCounters g = count(s, "gemm", {N / 8, M / 16}, {32}, 0, c.p, a.p, b.p, (int)N, (int)K);
  compare("gemm", {{"mma", g.mma, warps * steps},
                   {"flops", g.mma_flops, 2 * M * N * K},
                   {"ldmatrix", g.ldmatrix, warps * steps * 2},
                   {"cp.async bytes", g.cp_async_bytes, warps * K * 2 * (16 + 8)},
                   {"read bytes", g.read_bytes, warps * K * 2 * (16 + 8)},
                   {"unique read sectors", g.unique_read_sectors, (M + N) * K * 2 / 32},
                   {"written bytes", g.write_bytes, 4 * M * N},
                   {"barriers", g.barriers, warps * steps * 2}});
}

void test_special() {
  Session s;
  Buffer x = s.floats(ramp(64)), y = s.floats(64);
  cuemuCounters c = count(s, "exponentials", {1}, {64}, 0, y.p, x.p);
  compare("exponentials", {{"special", c.special, 2 * 64}});
  cuemuForget();
  OK(run(s.function("copy"), {1}, {64}, 0, y.p, x.p, 64));
  expect(cuemuLaunches() == 0, "a launch is counted that should not be");
}

}  // namespace

void test_counters() {
  test_global();
  test_banks();
  test_matrices();
  test_special();
}
