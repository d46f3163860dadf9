// cublaslt.cpp - a libcublasLt.so.12 in plain C++.
//
// Models: cublasLtMatmul for f32 and bf16 operands with f32 accumulation, row
// and column order, transposes, strided batches, alpha and beta, and of the
// epilogues those that a transformer needs, as NVIDIA documents them: BIAS,
// RELU, GELU with and without AUX, DGELU, DGELU_BGRAD, BGRADA, BGRADB. What the
// library refuses (mixed operand types, misaligned or overlapping descriptions,
// memory outside an allocation) is refused here. A product is a host function
// on the stream (cuLaunchHostFunc), so it keeps the stream's order and can be
// captured.
// Of algorithms there are two: one whose sums have the order of k, and, where the
// preference does not exclude reduction in place, one whose sums have another
// order at each call (CUEMU_SEED; 0: that of k).
// Does not model: fp8, half, integers; workspaces, tuning; the order of the
// library's sums.
//
// It knows nothing of the emulator: it needs only the driver API. With
// CUEMU_NO_CUBLASLT=1 cublasLtCreate fails as on a machine without a usable
// library; to have none at all, leave its folder out of LD_LIBRARY_PATH.
#pragma GCC visibility push(default)
#include <cublasLt.h>
#include <cuda.h>
#pragma GCC visibility pop

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <vector>

namespace {

// Descriptors, layouts and preferences are all sets of attributes.
struct Attributes {
  std::map<int, uint64_t> values;
  uint64_t get(int key, uint64_t otherwise = 0) const {
    auto i = values.find(key);
    return i == values.end() ? otherwise : i->second;
  }
};

cublasStatus_t set_attribute(void* object, int key, const void* value, size_t size) {
  uint64_t word = 0;
  if (!object || !value || size > sizeof word) return CUBLAS_STATUS_INVALID_VALUE;
  memcpy(&word, value, size);
  ((Attributes*)object)->values[key] = word;
  return CUBLAS_STATUS_SUCCESS;
}

// ---- matrices ----

struct Matrix {
  void* data;
  uint64_t type, order, rows, columns, leading, batches, stride;
};

Matrix matrix(const void* data, cublasLtMatrixLayout_t layout) {
  auto& a = *(const Attributes*)layout;
  return {(void*)data,
          a.get(CUBLASLT_MATRIX_LAYOUT_TYPE),
          a.get(CUBLASLT_MATRIX_LAYOUT_ORDER),
          a.get(CUBLASLT_MATRIX_LAYOUT_ROWS),
          a.get(CUBLASLT_MATRIX_LAYOUT_COLS),
          a.get(CUBLASLT_MATRIX_LAYOUT_LD),
          a.get(CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, 1) & 0xffffffff,
          a.get(CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET)};
}

size_t width(uint64_t type) {
  return type == CUDA_R_32F ? 4 : 2;
}

float load(const void* p, uint64_t type, size_t i) {
  if (type == CUDA_R_32F) return ((const float*)p)[i];
  uint32_t u = (uint32_t)((const uint16_t*)p)[i] << 16;
  float f;
  memcpy(&f, &u, 4);
  return f;
}

void store(void* p, uint64_t type, size_t i, float f) {
  if (type == CUDA_R_32F) {
    ((float*)p)[i] = f;
    return;
  }
  uint32_t u;
  memcpy(&u, &f, 4);
  bool nan = (u & 0x7fffffff) > 0x7f800000;
  ((uint16_t*)p)[i] = nan ? u >> 16 | 0x40 : (u + 0x7fff + (u >> 16 & 1)) >> 16;
}

size_t position(const Matrix& m, size_t row, size_t column) {
  return m.order == CUBLASLT_ORDER_ROW ? row * m.leading + column : column * m.leading + row;
}

size_t minor_extent(const Matrix& m) {
  return m.order == CUBLASLT_ORDER_ROW ? m.columns : m.rows;
}
size_t major_extent(const Matrix& m) {
  return m.order == CUBLASLT_ORDER_ROW ? m.rows : m.columns;
}

bool supported(const Matrix& m) {
  bool type = m.type == CUDA_R_32F || m.type == CUDA_R_16BF;
  bool order = m.order == CUBLASLT_ORDER_COL || m.order == CUBLASLT_ORDER_ROW;
  return type && order && m.leading >= minor_extent(m);
}

// ---- epilogues ----

// Bits of cublasLtEpilogue_t.
constexpr unsigned kRelu = CUBLASLT_EPILOGUE_RELU, kBias = CUBLASLT_EPILOGUE_BIAS, kGelu = CUBLASLT_EPILOGUE_GELU;
constexpr unsigned kAux = CUBLASLT_EPILOGUE_GELU_AUX & ~CUBLASLT_EPILOGUE_GELU;
constexpr unsigned kDgelu = CUBLASLT_EPILOGUE_DGELU & ~kAux;
constexpr unsigned kBgrad = CUBLASLT_EPILOGUE_DGELU_BGRAD & ~CUBLASLT_EPILOGUE_DGELU;

constexpr cublasLtEpilogue_t kEpilogues[] = {
    CUBLASLT_EPILOGUE_DEFAULT,     CUBLASLT_EPILOGUE_RELU,          CUBLASLT_EPILOGUE_BIAS,
    CUBLASLT_EPILOGUE_RELU_BIAS,   CUBLASLT_EPILOGUE_GELU,          CUBLASLT_EPILOGUE_GELU_BIAS,
    CUBLASLT_EPILOGUE_GELU_AUX,    CUBLASLT_EPILOGUE_GELU_AUX_BIAS, CUBLASLT_EPILOGUE_DGELU,
    CUBLASLT_EPILOGUE_DGELU_BGRAD, CUBLASLT_EPILOGUE_BGRADA,        CUBLASLT_EPILOGUE_BGRADB};

// The library's GELU is the tanh form, x/2 (1 + tanh(√(2/π)(x + 0.044715 x³))).
constexpr float kGeluScale = 0.7978845608f, kGeluCubic = 0.044715f;

float gelu(float x) {
  return 0.5f * x * (1 + tanhf(kGeluScale * (x + kGeluCubic * x * x * x)));
}

float gelu_slope(float x) {
  float t = tanhf(kGeluScale * (x + kGeluCubic * x * x * x));
  return 0.5f * (1 + t) + 0.5f * x * (1 - t * t) * kGeluScale * (1 + 3 * kGeluCubic * x * x);
}

// ---- one product: D = epilogue(alpha op(A) op(B) + beta C) ----

struct Product {
  Matrix a, b, c, d;
  bool transpose_a, transpose_b;
  float alpha = 1, beta = 0;
  unsigned epilogue;
  size_t first = 0;  // where in k sums begin, and go around
  void *bias, *aux;
  uint64_t bias_type, aux_type, aux_leading;

  size_t m() const { return d.rows; }
  size_t n() const { return d.columns; }
  size_t k() const { return transpose_a ? a.rows : a.columns; }
  bool has_bias() const { return epilogue & (kBias | kBgrad | CUBLASLT_EPILOGUE_BGRADA | CUBLASLT_EPILOGUE_BGRADB); }
  size_t bias_length() const { return epilogue & CUBLASLT_EPILOGUE_BGRADB ? n() : m(); }
};

cublasStatus_t describe(Product* p, cublasLtMatmulDesc_t desc, const void* a, cublasLtMatrixLayout_t la, const void* b,
                        cublasLtMatrixLayout_t lb, const void* c, cublasLtMatrixLayout_t lc, void* d,
                        cublasLtMatrixLayout_t ld) {
  if (!desc || !la || !lb || !lc || !ld) return CUBLAS_STATUS_INVALID_VALUE;
  auto& o = *(const Attributes*)desc;
  p->a = matrix(a, la);
  p->b = matrix(b, lb);
  p->c = matrix(c, lc);
  p->d = matrix(d, ld);
  p->transpose_a = o.get(CUBLASLT_MATMUL_DESC_TRANSA) != CUBLAS_OP_N;
  p->transpose_b = o.get(CUBLASLT_MATMUL_DESC_TRANSB) != CUBLAS_OP_N;
  p->epilogue = o.get(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_DEFAULT);
  p->bias = (void*)o.get(CUBLASLT_MATMUL_DESC_BIAS_POINTER);
  p->aux = (void*)o.get(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER);
  p->bias_type = o.get(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, p->d.type);
  p->aux_type = o.get(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE, p->d.type);
  p->aux_leading = o.get(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD);
  bool known = std::count(std::begin(kEpilogues), std::end(kEpilogues), (cublasLtEpilogue_t)p->epilogue);
  if (!known || !supported(p->a) || !supported(p->b) || !supported(p->c) || !supported(p->d))
    return CUBLAS_STATUS_NOT_SUPPORTED;
  if (p->a.type != p->b.type || p->c.type != p->d.type || o.get(CUBLASLT_MATMUL_DESC_POINTER_MODE))
    return CUBLAS_STATUS_NOT_SUPPORTED;
  if (p->a.type == CUDA_R_32F && p->d.type != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
  // A bias has the type of the result: NVIDIA's table lists no other for these types.
  if (p->has_bias() && p->bias_type != p->d.type) return CUBLAS_STATUS_NOT_SUPPORTED;
  // Epilogues other than the default want column order.
  if (p->epilogue != CUBLASLT_EPILOGUE_DEFAULT && p->d.order != CUBLASLT_ORDER_COL) return CUBLAS_STATUS_NOT_SUPPORTED;
  size_t m = p->transpose_a ? p->a.columns : p->a.rows;
  size_t n = p->transpose_b ? p->b.rows : p->b.columns;
  size_t inner = p->transpose_b ? p->b.columns : p->b.rows;
  bool fits = p->k() == inner && p->m() == m && p->n() == n && p->c.rows == m && p->c.columns == n;
  return fits ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

// Every operand must lie inside one live allocation: the library itself would not notice.
bool inside(const void* p, size_t bytes, const char* what) {
  CUdeviceptr base;
  size_t size;
  if (p && cuMemGetAddressRange(&base, &size, (CUdeviceptr)p) == CUDA_SUCCESS && (CUdeviceptr)p + bytes <= base + size)
    return true;
  fprintf(stderr, "cuemu: cublasLtMatmul: %s, %zu bytes at %p, is not inside device memory\n", what, bytes, p);
  return false;
}

bool inside(const Matrix& m, const char* what) {
  if (!m.rows || !m.columns) return true;
  size_t elements = (m.batches - 1) * m.stride + (major_extent(m) - 1) * m.leading + minor_extent(m);
  return inside(m.data, elements * width(m.type), what);
}

bool operands_inside(const Product& p) {
  if (!inside(p.a, "A") || !inside(p.b, "B") || !inside(p.d, "D")) return false;
  if (p.beta != 0 && !inside(p.c, "C")) return false;
  if (p.has_bias() && !inside(p.bias, p.bias_length() * width(p.bias_type), "the bias")) return false;
  if (!(p.epilogue & kAux)) return true;
  return p.aux_leading >= p.m() &&
         inside(p.aux, ((p.n() - 1) * p.aux_leading + p.m()) * width(p.aux_type), "the auxiliary matrix");
}

Matrix batch(Matrix m, size_t i) {
  m.data = (char*)m.data + i * m.stride * width(m.type);
  return m;
}

// Applies the epilogue to the element (row, column) and returns what D gets.
float finish(const Product& p, float v, size_t row, size_t column) {
  size_t aux = column * p.aux_leading + row;
  if (p.epilogue & kBias) v += load(p.bias, p.bias_type, row);
  if (p.epilogue & kRelu) v = std::max(v, 0.f);
  if (p.epilogue & kDgelu) return v * gelu_slope(load(p.aux, p.aux_type, aux));
  if (!(p.epilogue & kGelu)) return v;
  if (p.epilogue & kAux) store(p.aux, p.aux_type, aux, v);
  return gelu(v);
}

void multiply(const Product& p, size_t i) {
  size_t m = p.m(), n = p.n(), k = p.k();
  Matrix a = batch(p.a, i), b = batch(p.b, i), c = batch(p.c, i), d = batch(p.d, i);
  std::vector<float> wide_a(k * m), wide_b(n * k), sums(m), bias_gradient(m);  // a[k][m], b[n][k]
  for (size_t q = 0; q < k; q++)
    for (size_t r = 0; r < m; r++)
      wide_a[q * m + r] = load(a.data, a.type, p.transpose_a ? position(a, q, r) : position(a, r, q));
  for (size_t s = 0; s < n; s++)
    for (size_t q = 0; q < k; q++)
      wide_b[s * k + q] = load(b.data, b.type, p.transpose_b ? position(b, s, q) : position(b, q, s));

  for (size_t s = 0; s < n; s++) {
    std::fill(sums.begin(), sums.end(), 0.f);
    for (size_t i = 0; i < k; i++) {
      size_t q = (p.first + i) % k;
      float factor = wide_b[s * k + q];
      const float* column = &wide_a[q * m];
      for (size_t r = 0; r < m; r++) sums[r] += column[r] * factor;
    }
    for (size_t r = 0; r < m; r++) {
      float v = p.alpha * sums[r];
      if (p.beta != 0) v += p.beta * load(c.data, c.type, position(c, r, s));
      v = finish(p, v, r, s);
      bias_gradient[r] += v;
      store(d.data, d.type, position(d, r, s), v);
    }
  }
  // BGRAD after DGELU sums D over its columns; BGRADA and BGRADB sum an operand over k.
  if (p.epilogue & kBgrad)
    for (size_t r = 0; r < m; r++) store(p.bias, p.bias_type, r, bias_gradient[r]);
  for (size_t r = 0; p.epilogue & CUBLASLT_EPILOGUE_BGRADA && r < m; r++) {
    float sum = 0;
    for (size_t q = 0; q < k; q++) sum += wide_a[q * m + r];
    store(p.bias, p.bias_type, r, sum);
  }
  for (size_t s = 0; p.epilogue & CUBLASLT_EPILOGUE_BGRADB && s < n; s++) {
    float sum = 0;
    for (size_t q = 0; q < k; q++) sum += wide_b[s * k + q];
    store(p.bias, p.bias_type, s, sum);
  }
}

void CUDA_CB run_product(void* product) {
  auto p = (const Product*)product;
  for (size_t i = 0; i < p->d.batches; i++) multiply(*p, i);
}

// A graph may run a product again, so products live as long as their handle.
struct Handle {
  std::vector<std::unique_ptr<Product>> products;
};

// The algorithms, in the first word of cublasLtMatmulAlgo_t; the rest is the
// shape, which CUEMU_LT_EXACT=1 makes them insist on.
constexpr uint64_t kInOrder = 0, kAnyOrder = 1;

// Where the sums of the next product begin.
size_t any_first(size_t k) {
  const char* seed = getenv("CUEMU_SEED");
  static uint64_t state = seed ? strtoull(seed, nullptr, 0) : 1;
  if (!state) return 0;
  state = state * 6364136223846793005u + 1442695040888963407u;
  return (state >> 33) % std::max<size_t>(k, 1);
}

}  // namespace

extern "C" {

cublasStatus_t cublasLtCreate(cublasLtHandle_t* h) {
  const char* missing = getenv("CUEMU_NO_CUBLASLT");
  if (missing && strtol(missing, nullptr, 0)) return CUBLAS_STATUS_NOT_INITIALIZED;
  *h = (cublasLtHandle_t) new Handle;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t h) {
  delete (Handle*)h;
  return CUBLAS_STATUS_SUCCESS;
}

size_t cublasLtGetVersion() {
  return CUBLAS_VERSION;
}

const char* cublasLtGetStatusName(cublasStatus_t s) {
  switch (s) {
    case CUBLAS_STATUS_SUCCESS: return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED: return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_INVALID_VALUE: return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_NOT_SUPPORTED: return "CUBLAS_STATUS_NOT_SUPPORTED";
    case CUBLAS_STATUS_EXECUTION_FAILED: return "CUBLAS_STATUS_EXECUTION_FAILED";
    default: return "CUBLAS_STATUS";
  }
}

const char* cublasLtGetStatusString(cublasStatus_t s) {
  return cublasLtGetStatusName(s);
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc, cublasComputeType_t compute, cudaDataType_t scale) {
  bool known = compute == CUBLAS_COMPUTE_32F || compute == CUBLAS_COMPUTE_32F_FAST_TF32 ||
               compute == CUBLAS_COMPUTE_32F_FAST_16BF;
  if (!known || scale != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
  *desc = (cublasLtMatmulDesc_t) new Attributes;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
  delete (Attributes*)desc;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t key,
                                              const void* value, size_t size) {
  return set_attribute(desc, key, value, size);
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type, uint64_t rows,
                                          uint64_t columns, int64_t leading) {
  *layout = (cublasLtMatrixLayout_t) new Attributes{{{CUBLASLT_MATRIX_LAYOUT_TYPE, type},
                                                     {CUBLASLT_MATRIX_LAYOUT_ORDER, CUBLASLT_ORDER_COL},
                                                     {CUBLASLT_MATRIX_LAYOUT_ROWS, rows},
                                                     {CUBLASLT_MATRIX_LAYOUT_COLS, columns},
                                                     {CUBLASLT_MATRIX_LAYOUT_LD, leading}}};
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete (Attributes*)layout;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout, cublasLtMatrixLayoutAttribute_t key,
                                                const void* value, size_t size) {
  return set_attribute(layout, key, value, size);
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  *preference = (cublasLtMatmulPreference_t) new Attributes;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete (Attributes*)preference;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t key, const void* value,
                                                    size_t size) {
  return set_attribute(preference, key, value, size);
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                                              cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                                              cublasLtMatrixLayout_t d, cublasLtMatmulPreference_t want, int wanted,
                                              cublasLtMatmulHeuristicResult_t* results, int* found) {
  *found = 0;
  if (wanted < 1) return CUBLAS_STATUS_INVALID_VALUE;
  Product p;
  if (auto status = describe(&p, desc, nullptr, a, nullptr, b, nullptr, c, nullptr, d)) return status;
  memset(results, 0, sizeof *results);
  results->wavesCount = 1;
  uint64_t schemes = CUBLASLT_REDUCTION_SCHEME_MASK;
  if (want) schemes = ((const Attributes*)want)->get(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, schemes);
  const uint64_t shape[] = {p.m(), p.n(), p.k()};
  memcpy(results->algo.data + 1, shape, sizeof shape);
  results->algo.data[0] = schemes & CUBLASLT_REDUCTION_SCHEME_INPLACE ? kAnyOrder : kInOrder;
  *found = 1;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void* alpha, const void* a,
                              cublasLtMatrixLayout_t la, const void* b, cublasLtMatrixLayout_t lb, const void* beta,
                              const void* c, cublasLtMatrixLayout_t lc, void* d, cublasLtMatrixLayout_t ld,
                              const cublasLtMatmulAlgo_t* algo, void*, size_t, cudaStream_t stream) {
  if (!handle || !alpha || !beta) return CUBLAS_STATUS_INVALID_VALUE;
  auto p = std::make_unique<Product>();
  if (auto status = describe(p.get(), desc, a, la, b, lb, c, lc, d, ld)) return status;
  p->alpha = *(const float*)alpha;
  p->beta = *(const float*)beta;
  if (!operands_inside(*p)) return CUBLAS_STATUS_INVALID_VALUE;
  const char* exact = getenv("CUEMU_LT_EXACT");
  if (exact && strtol(exact, nullptr, 0) && algo && (algo->data[1] != p->m() || algo->data[2] != p->n() || algo->data[3] != p->k()))
    return CUBLAS_STATUS_NOT_SUPPORTED;
  if (algo && algo->data[0] == kAnyOrder) p->first = any_first(p->k());
  if (cuLaunchHostFunc((CUstream)stream, run_product, p.get())) return CUBLAS_STATUS_EXECUTION_FAILED;
  ((Handle*)handle)->products.push_back(std::move(p));
  return CUBLAS_STATUS_SUCCESS;
}

}  // extern "C"
