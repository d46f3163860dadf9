// cublaslt.cpp - the emulated cublasLt against plain loops in double precision.
#include <cublasLt.h>
#include <dlfcn.h>

#include <cstring>
#include <optional>

#include "harness.h"

namespace {

void* library;
#define LT(name) ((decltype(&name))dlsym(library, #name))

cublasLtHandle_t handle;

uint16_t to_bf16(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  return (u + 0x7fff + (u >> 16 & 1)) >> 16;
}

float from_bf16(uint16_t h) {
  uint32_t u = (uint32_t)h << 16;
  float f;
  memcpy(&f, &u, 4);
  return f;
}

// A column-major matrix with its copy on the device.
struct Matrix {
  cudaDataType type;
  int rows, columns;
  std::vector<float> v;
  Buffer device;

  Matrix(Session& s, cudaDataType t, int r, int c, unsigned seed) : type(t), rows(r), columns(c), v(r * c) {
    for (float& f : v) {
      f = (int)((seed = seed * 1664525 + 1013904223) >> 20) % 1000 / 500.f - 1;
      if (t == CUDA_R_16BF) f = from_bf16(to_bf16(f));
    }
    device = s.floats(t == CUDA_R_32F ? v.size() : (v.size() + 1) / 2);
    write();
  }
  void write() const {
    std::vector<uint16_t> half(v.size());
    for (size_t i = 0; i < v.size(); i++) half[i] = to_bf16(v[i]);
    OK(cuMemcpyHtoD(device.p, type == CUDA_R_32F ? (const void*)v.data() : half.data(), v.size() * width()));
  }
  size_t width() const { return type == CUDA_R_32F ? 4 : 2; }
  float at(int r, int c) const { return v[c * rows + r]; }
  std::vector<float> read() const {
    std::vector<char> raw(v.size() * width());
    OK(cuMemcpyDtoH(raw.data(), device.p, raw.size()));
    std::vector<float> out(v.size());
    for (size_t i = 0; i < out.size(); i++)
      out[i] = type == CUDA_R_32F ? ((float*)raw.data())[i] : from_bf16(((uint16_t*)raw.data())[i]);
    return out;
  }
};

struct Options {
  bool transpose_a = false, transpose_b = false;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  CUdeviceptr bias = 0, aux = 0;
  std::optional<cudaDataType> bias_type;  // D's, unless a test wants another
  float beta = 0;
};

cublasStatus_t multiply(const Matrix& a, const Matrix& b, const Matrix& d, const Options& o, CUdeviceptr d_at,
                        CUstream stream) {
  cublasLtMatmulDesc_t desc;
  cublasLtMatrixLayout_t la, lb, ld;
  LT(cublasLtMatmulDescCreate)(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
  auto set = [&](cublasLtMatmulDescAttributes_t key, auto value) {
    LT(cublasLtMatmulDescSetAttribute)(desc, key, &value, sizeof value);
  };
  set(CUBLASLT_MATMUL_DESC_TRANSA, o.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(CUBLASLT_MATMUL_DESC_TRANSB, o.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(CUBLASLT_MATMUL_DESC_EPILOGUE, o.epilogue);
  if (o.bias) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, o.bias);
  if (o.bias) set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, (int32_t)o.bias_type.value_or(d.type));
  if (o.aux) set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, o.aux);
  if (o.aux) set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, (int64_t)d.rows);
  LT(cublasLtMatrixLayoutCreate)(&la, a.type, a.rows, a.columns, a.rows);
  LT(cublasLtMatrixLayoutCreate)(&lb, b.type, b.rows, b.columns, b.rows);
  LT(cublasLtMatrixLayoutCreate)(&ld, d.type, d.rows, d.columns, d.rows);
  float alpha = 1;
  auto status = LT(cublasLtMatmul)(handle, desc, &alpha, (void*)a.device.p, la, (void*)b.device.p, lb, &o.beta,
                                   (void*)d_at, ld, (void*)d_at, ld, nullptr, nullptr, 0, (cudaStream_t)stream);
  LT(cublasLtMatrixLayoutDestroy)(la);
  LT(cublasLtMatrixLayoutDestroy)(lb);
  LT(cublasLtMatrixLayoutDestroy)(ld);
  LT(cublasLtMatmulDescDestroy)(desc);
  return status;
}

// Runs it and holds every element of D against want(row, column).
template <class Want>
void check(const std::string& name, const Matrix& a, const Matrix& b, const Matrix& d, const Options& o, Want want) {
  if (auto status = multiply(a, b, d, o, d.device.p, nullptr)) return fail(name + ": status " + std::to_string(status));
  OK(cuCtxSynchronize());
  std::vector<float> got = d.read();
  double limit = d.type == CUDA_R_32F ? 1e-5 : 8e-3;
  for (int r = 0; r < d.rows; r++)
    for (int c = 0; c < d.columns; c++) {
      double w = want(r, c), g = got[c * d.rows + r];
      if (!(std::abs(g - w) <= limit * (1 + std::abs(w))))
        return fail(name + ": element (" + std::to_string(r) + "," + std::to_string(c) + ") is " + std::to_string(g) +
                    ", want " + std::to_string(w));
    }
}

double dot(const Matrix& a, const Matrix& b, const Options& o, int r, int c) {
  int k = o.transpose_a ? a.rows : a.columns;
  double sum = 0;
  for (int i = 0; i < k; i++)
    sum += (double)(o.transpose_a ? a.at(i, r) : a.at(r, i)) * (o.transpose_b ? b.at(c, i) : b.at(i, c));
  return sum;
}

double gelu(double x) {
  return x / 2 * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}
double gelu_slope(double x) {
  return (gelu(x + 1e-5) - gelu(x - 1e-5)) / 2e-5;
}

void test_type(cudaDataType type) {
  Session s;
  const int m = 24, n = 10, k = 17;
  std::string name = type == CUDA_R_32F ? "f32" : "bf16";
  double near = type == CUDA_R_32F ? 1e-4 : 2e-2;
  Matrix d(s, type, m, n, 5), bias(s, type, m, 1, 6), bias_n(s, type, n, 1, 7), aux(s, type, m, n, 8);
  for (int t = 0; t < 4; t++) {
    Options o;
    o.transpose_a = t & 1;
    o.transpose_b = t & 2;
    Matrix a(s, type, t & 1 ? k : m, t & 1 ? m : k, 1), b(s, type, t & 2 ? n : k, t & 2 ? k : n, 2);
    auto product = [&](int r, int c) { return dot(a, b, o, r, c); };
    std::string case_name = name + (t & 1 ? " T" : " N") + (t & 2 ? "T" : "N");
    check(case_name, a, b, d, o, product);

    Options with = o;
    with.epilogue = CUBLASLT_EPILOGUE_BIAS;
    with.bias = bias.device.p;
    auto biased = [&](int r, int c) { return product(r, c) + bias.at(r, 0); };
    check(case_name + " BIAS", a, b, d, with, biased);

    with.epilogue = CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
    with.aux = aux.device.p;
    check(case_name + " GELU_AUX_BIAS", a, b, d, with, [&](int r, int c) { return gelu(biased(r, c)); });
    std::vector<float> kept = aux.read();
    for (int i = 0; i < m * n; i++)
      expect(std::abs(kept[i] - biased(i % m, i / m)) < 2e-2, case_name + " GELU_AUX_BIAS: aux");

    with.epilogue = CUBLASLT_EPILOGUE_DGELU;
    check(case_name + " DGELU", a, b, d, with,
          [&](int r, int c) { return product(r, c) * gelu_slope(kept[c * m + r]); });

    with.epilogue = CUBLASLT_EPILOGUE_BGRADA;
    check(case_name + " BGRADA", a, b, d, with, product);
    std::vector<float> sums = bias.read();
    for (int r = 0; r < m; r++) {
      double want = 0;
      for (int i = 0; i < k; i++) want += t & 1 ? a.at(i, r) : a.at(r, i);
      expect(std::abs(sums[r] - want) < near, case_name + " BGRADA: the sum");
    }
    bias.write();

    with.epilogue = CUBLASLT_EPILOGUE_BGRADB;
    with.bias = bias_n.device.p;
    check(case_name + " BGRADB", a, b, d, with, product);
    sums = bias_n.read();
    for (int c = 0; c < n; c++) {
      double want = 0;
      for (int i = 0; i < k; i++) want += t & 2 ? b.at(c, i) : b.at(i, c);
      expect(std::abs(sums[c] - want) < near, case_name + " BGRADB: the sum");
    }

    std::vector<float> before = d.read();
    Options add = o;
    add.beta = 1;
    check(case_name + " beta 1", a, b, d, add, [&](int r, int c) { return product(r, c) + before[c * m + r]; });
  }
}

void test_refusals() {
  Session s;
  Matrix a(s, CUDA_R_32F, 8, 4, 1), b(s, CUDA_R_32F, 4, 6, 2), d(s, CUDA_R_32F, 8, 6, 3), half(s, CUDA_R_16BF, 4, 6, 4);
  expect(multiply(a, b, d, {}, d.device.p + 16, nullptr) == CUBLAS_STATUS_INVALID_VALUE,
         "a result past its allocation");
  expect(multiply(a, d, d, {}, d.device.p, nullptr) == CUBLAS_STATUS_INVALID_VALUE, "shapes that do not fit");
  expect(multiply(a, half, d, {}, d.device.p, nullptr) == CUBLAS_STATUS_NOT_SUPPORTED, "mixed operand types");
  Options o;
  o.epilogue = CUBLASLT_EPILOGUE_BIAS;
  expect(multiply(a, b, d, o, d.device.p, nullptr) == CUBLAS_STATUS_INVALID_VALUE, "BIAS without a bias");
  o.bias = a.device.p;
  o.bias_type = CUDA_R_16BF;
  expect(multiply(a, b, d, o, d.device.p, nullptr) == CUBLAS_STATUS_NOT_SUPPORTED, "a bias of another type than D");
  cublasLtMatmulDesc_t desc;
  expect(LT(cublasLtMatmulDescCreate)(&desc, CUBLAS_COMPUTE_16F, CUDA_R_16F) == CUBLAS_STATUS_NOT_SUPPORTED,
         "sums in half precision");
  setenv("CUEMU_NO_CUBLASLT", "1", 1);
  cublasLtHandle_t none;
  expect(LT(cublasLtCreate)(&none) == CUBLAS_STATUS_NOT_INITIALIZED, "CUEMU_NO_CUBLASLT");
  unsetenv("CUEMU_NO_CUBLASLT");
}

// A product keeps its stream's order.
void test_order() {
  Session s;
  Matrix a(s, CUDA_R_32F, 8, 4, 1), b(s, CUDA_R_32F, 4, 6, 2), d(s, CUDA_R_32F, 8, 6, 3);
  CUstream stream;
  OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  Buffer copy = s.floats(48);
  expect(multiply(a, b, d, {}, d.device.p, stream) == CUBLAS_STATUS_SUCCESS, "a product on a stream");
  OK(launch(s.function("copy"), {1}, {64}, 0, stream, copy.p, d.device.p, 48));
  OK(cuStreamSynchronize(stream));
  std::vector<float> v;
  OK(s.read(copy, &v));
  for (int i = 0; i < 48; i++)
    expect(std::abs(v[i] - dot(a, b, {}, i % 8, i / 8)) < 1e-5, "the order of a product and a kernel");
}

}  // namespace

void test_cublaslt() {
  library = dlopen("libcublasLt.so.12", RTLD_NOW | RTLD_LOCAL);
  if (!library) return fail(dlerror());
  if (LT(cublasLtCreate)(&handle)) return fail("cublasLtCreate");
  test_type(CUDA_R_32F);
  test_type(CUDA_R_16BF);
  test_refusals();
  test_order();
  LT(cublasLtDestroy)(handle);
}
