// matrix.cpp - mma.sync, ldmatrix and cp.async.
//
// Models: the fragments' layout in registers; mma and ldmatrix need the whole
// warp; ldmatrix wants 16-byte aligned rows in shared memory; a cp.async lands
// only when its thread waits for it, and until then every access to its
// destination is a fault.
// Does not model: the order in which a tensor core adds.
#include <cstring>

#include "block.h"
#include "meet.h"

namespace cuemu {

static float as_float(uint32_t u) {
  float f;
  memcpy(&f, &u, 4);
  return f;
}
static float low(uint32_t pair) {
  return as_float(pair << 16);
}
static float high(uint32_t pair) {
  return as_float(pair & 0xffff0000u);
}
static float tf32(uint32_t u) {
  return as_float(u & 0xffffe000u);
}  // the hardware ignores the other bits

static void need_whole_warp(uint32_t mask, const char* what) {
  if (mask != ~0u) fault(kLaunchFailed, std::string(what) + " without the whole warp");
}

// ---- mma: C[16][8] += A[16][K] B[K][8] ----
// Lane l holds rows l/4 and l/4+8 of A and C, column l/4 of B.

template <int K>
struct Tiles {
  float a[16][K], b[K][8], c[16][8];

  void load_c(const Warp& w) {
    for (int lane = 0; lane < 32; lane++) {
      int row = lane / 4, column = lane % 4 * 2;
      const uint32_t* c_words = w.input[lane] + 6;
      c[row][column] = as_float(c_words[0]);
      c[row][column + 1] = as_float(c_words[1]);
      c[row + 8][column] = as_float(c_words[2]);
      c[row + 8][column + 1] = as_float(c_words[3]);
    }
  }

  void multiply() {
    for (int i = 0; i < 16; i++)
      for (int k = 0; k < K; k++)
        for (int j = 0; j < 8; j++) c[i][j] += a[i][k] * b[k][j];
  }

  void store_c(Warp& w) const {
    for (int lane = 0; lane < 32; lane++) {
      int row = lane / 4, column = lane % 4 * 2;
      float out[4] = {c[row][column], c[row][column + 1], c[row + 8][column], c[row + 8][column + 1]};
      memcpy(w.result[lane], out, sizeof out);
    }
  }
};

static void compute_mma_bf16(Block& b, Warp& w, uint32_t mask) {
  need_whole_warp(mask, "mma.sync");
  Tiles<16> t;
  for (int lane = 0; lane < 32; lane++) {
    int g = lane / 4, k = lane % 4 * 2;
    const uint32_t* in = w.input[lane];
    for (int half = 0; half < 2; half++) {  // columns k.. and k+8.. of A
      for (int r = 0; r < 2; r++) {
        t.a[g + 8 * r][k + 8 * half] = low(in[2 * half + r]);
        t.a[g + 8 * r][k + 8 * half + 1] = high(in[2 * half + r]);
      }
      t.b[k + 8 * half][g] = low(in[4 + half]);
      t.b[k + 8 * half + 1][g] = high(in[4 + half]);
    }
  }
  t.load_c(w);
  t.multiply();
  t.store_c(w);
  b.counters.mma++;
  b.counters.mma_flops += 2 * 16 * 8 * 16;
}

static void compute_mma_tf32(Block& b, Warp& w, uint32_t mask) {
  need_whole_warp(mask, "mma.sync");
  Tiles<8> t;
  for (int lane = 0; lane < 32; lane++) {
    int g = lane / 4, k = lane % 4;
    const uint32_t* in = w.input[lane];
    for (int half = 0; half < 2; half++) {
      for (int r = 0; r < 2; r++) t.a[g + 8 * r][k + 4 * half] = tf32(in[2 * half + r]);
      t.b[k + 4 * half][g] = tf32(in[4 + half]);
    }
  }
  t.load_c(w);
  t.multiply();
  t.store_c(w);
  b.counters.mma++;
  b.counters.mma_flops += 2 * 16 * 8 * 8;
}

static Accumulator mma(Collective kind, Compute compute, const float (&c)[4], const uint32_t (&ab)[6], Site site) {
  uint32_t words[10];
  memcpy(words, ab, sizeof ab);
  memcpy(words + 6, c, sizeof c);
  Accumulator r;
  memcpy(&r, meet(kind, ~0u, site, words, 10, compute), sizeof r);
  return r;
}

Accumulator mma_bf16_16816(float c0, float c1, float c2, float c3, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                           uint32_t b0, uint32_t b1, Site site) {
  return mma(Collective::MmaBf16, compute_mma_bf16, {c0, c1, c2, c3}, {a0, a1, a2, a3, b0, b1}, site);
}

Accumulator mma_tf32_1688(float c0, float c1, float c2, float c3, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                          uint32_t b0, uint32_t b1, Site site) {
  return mma(Collective::MmaTf32, compute_mma_tf32, {c0, c1, c2, c3}, {a0, a1, a2, a3, b0, b1}, site);
}

// ---- ldmatrix ----
// Row r of matrix m (8 rows of 8 bf16) lies where lane 8m+r points. Lane l gets
// of each matrix the pair at row l/4, columns 2(l%4); transposed, its mirror image.

template <bool kTransposed>
static void compute_ldmatrix(Block& b, Warp& w, uint32_t mask) {
  need_whole_warp(mask, "ldmatrix");
  int matrices = w.input[0][2];
  const char* rows[32];
  for (int lane = 0; lane < 32; lane++) memcpy(&rows[lane], w.input[lane], sizeof rows[lane]);
  for (int m = 0; m < matrices; m++) {
    for (int lane = 0; lane < 32; lane++) {
      if (!kTransposed) {
        memcpy(&w.result[lane][m], rows[8 * m + lane / 4] + lane % 4 * 4, 4);
        continue;
      }
      uint16_t pair[2];
      for (int h = 0; h < 2; h++) memcpy(&pair[h], rows[8 * m + lane % 4 * 2 + h] + lane / 4 * 2, 2);
      w.result[lane][m] = pair[0] | (uint32_t)pair[1] << 16;
    }
    if (b.counting) count_ldmatrix_conflicts(b.counters, rows + 8 * m);
  }
  b.counters.ldmatrix++;
}

Matrices ldmatrix(const void* row, int matrices, bool transposed, Site site) {
  Block& b = *running;
  if (b.lane() < 8u * matrices) {  // the other lanes' addresses are not used
    if ((uintptr_t)row & 15) fault(kMisalignedAddress, "ldmatrix: the row is not 16-byte aligned");
    if (!in_shared(b, row, 16)) fault(kIllegalAddress, "ldmatrix: the row is not in shared memory");
    note_shared(b, row, 16, false);
  }
  uint32_t words[3] = {};
  memcpy(words, &row, sizeof row);
  words[2] = matrices;
  Matrices r;
  memcpy(&r,
         meet(Collective::Ldmatrix, ~0u, site, words, 3, transposed ? compute_ldmatrix<true> : compute_ldmatrix<false>),
         sizeof r);
  return r;
}

// ---- cp.async ----

void cp_async(void* shared, const void* global, int size, int source_size) {
  Block& b = *running;
  if (((uintptr_t)shared | (source_size ? (uintptr_t)global : 0)) & (size - 1))
    fault(kMisalignedAddress, "cp.async of " + std::to_string(size) + " bytes is misaligned");
  if (source_size < 0 || source_size > size) fault(kLaunchFailed, "cp.async: the source is larger than the copy");
  if (!in_shared(b, shared, size)) fault(kIllegalAddress, "cp.async: the destination is not in shared memory");
  if (source_size) {
    check_global(b, global, source_size, false);
    note_global(b, global, source_size, false, __builtin_return_address(0));
    if (b.counting) b.counters.cp_async_bytes += source_size;
  }
  if (b.counting) b.logs.add(b, __builtin_return_address(0), shared, size, Space::Shared, true);
  begin_async_write(b, shared, size);
  Fibre& f = b.fibre();
  f.copies.push_back({(char*)shared, (const char*)global, size, source_size, f.copy_group});
}

void cp_async_commit() {
  running->fibre().copy_group++;
}

void cp_async_wait(int groups_left) {
  Block& b = *running;
  Fibre& f = b.fibre();
  size_t done = 0;
  for (; done < f.copies.size() && f.copies[done].group < f.copy_group - groups_left; done++) {
    const AsyncCopy& c = f.copies[done];
    memcpy(c.shared, c.global, c.source_size);
    memset(c.shared + c.source_size, 0, c.size - c.source_size);
    end_async_write(b, c.shared, c.size);
  }
  f.copies.erase(f.copies.begin(), f.copies.begin() + done);
}

void check_copies_done(Block&, Fibre& f) {
  if (!f.copies.empty()) fault(kLaunchFailed, "a thread returns with a cp.async that it has not waited for");
}

}  // namespace cuemu
