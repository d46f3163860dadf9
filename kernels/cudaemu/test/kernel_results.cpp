// kernel_results.cpp - sound kernels give the results that their definition says, at many seeds.
#include <cstring>

#include "harness.h"

namespace {

uint16_t to_bf16(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  return u >> 16;  // exact for the small integers used here
}

void test_collectives(int seed) {
  cuemuSeed(seed);
  Session s;
  Buffer x = s.floats(ramp(64)), y = s.floats(640);
  OK(run(s.function("collectives"), {1}, {64}, 0, y.p, x.p));
  std::vector<float> v;
  OK(s.read(y, &v));
  for (int i = 0; i < 64; i++) {
    int lane = i % 32, base = i - lane;
    float prefix = 0;
    for (int k = base; k <= i; k++) prefix += k + 1;
    float want[10] = {64 * 65 / 2, prefix, lane < 31 ? i + 2.f : i + 1.f, base + lane / 8 * 8 + 1.f, 1, 2, 54, 2,
                      base + 31.f, 7};
    for (int k = 0; k < 10; k++)
      if (v[k * 64 + i] != want[k])
        return fail("collective " + std::to_string(k) + ", thread " + std::to_string(i) + ", seed " +
                    std::to_string(seed) + ": " + std::to_string(v[k * 64 + i]) + ", want " + std::to_string(want[k]));
  }
}

// Against plain loops; small integers make every sum exact.
void test_gemm(int seed) {
  cuemuSeed(seed);
  Session s;
  const int M = 32, N = 24, K = 80;
  std::vector<float> a(M * K), b(N * K);
  std::vector<uint16_t> a16(M * K), b16(N * K);
  uint32_t state = seed + 1;
  auto draw = [&] { return (float)((int)((state = state * 1664525 + 1013904223) >> 24) % 9 - 4); };
  for (int i = 0; i < M * K; i++) a16[i] = to_bf16(a[i] = draw());
  for (int i = 0; i < N * K; i++) b16[i] = to_bf16(b[i] = draw());
  Buffer da = s.floats(M * K / 2), db = s.floats(N * K / 2), dc = s.floats(M * N);
  OK(cuMemcpyHtoD(da.p, a16.data(), M * K * 2));
  OK(cuMemcpyHtoD(db.p, b16.data(), N * K * 2));
  OK(run(s.function("gemm"), {N / 8, M / 16}, {32}, 0, dc.p, da.p, db.p, N, K));
  std::vector<float> c;
  OK(s.read(dc, &c));
  for (int i = 0; i < M; i++)
    for (int j = 0; j < N; j++) {
      float want = 0;
      for (int k = 0; k < K; k++) want += a[i * K + k] * b[j * K + k];
      if (c[i * N + j] != want) return fail("gemm at seed " + std::to_string(seed));
    }
}

// Element e of matrix m's row r is 64m + 8r + e.
void test_ldmatrix(int transposed) {
  Session s;
  Buffer y = s.floats(128);
  OK(run(s.function("load_matrices"), {1}, {32}, 32 * 16, y.p, 16, transposed));
  std::vector<float> raw;
  OK(s.read(y, &raw));
  auto words = (const uint32_t*)raw.data();
  for (unsigned lane = 0; lane < 32; lane++)
    for (unsigned m = 0; m < 4; m++) {
      unsigned row = lane / 4, column = lane % 4 * 2;
      unsigned low = 64 * m + (transposed ? 8 * column + row : 8 * row + column);
      unsigned high = 64 * m + (transposed ? 8 * (column + 1) + row : 8 * row + column + 1);
      expect(words[4 * lane + m] == (low | high << 16),
             "ldmatrix, transposed " + std::to_string(transposed) + ", lane " + std::to_string(lane));
    }
}

void test_constant() {
  Session s;
  CUdeviceptr p;
  size_t size;
  OK(cuModuleGetGlobal(&p, &size, s.module, "factor"));
  expect(size == 16, "size of a __constant__ array");
  float factors[4] = {0, 0, 0, 3};
  OK(cuMemcpyHtoD(p, factors, sizeof factors));
  Buffer x = s.floats(ramp(32));
  OK(run(s.function("scale"), {1}, {32}, 0, x.p, x.p));
  std::vector<float> v;
  OK(s.read(x, &v));
  expect(v[31] == 96, "__constant__ memory");
}

}  // namespace

void test_kernel_results() {
  for (int seed = 0; seed < 10; seed++) {
    test_collectives(seed);
    test_gemm(seed);
  }
  test_ldmatrix(0);
  test_ldmatrix(1);
  test_constant();
}
