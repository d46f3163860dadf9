// faults.cu - kernels that have one fault each if their last argument is 1, and
// none if it is 0. Blocks have 64 threads where nothing else is said, y and x
// 64 floats a block.
#include "port.h"

// ---- where memory ends ----

KERNEL write_past_end(float* y, const float* x, int broken) {
  int i = threadIdx.x;
  y[i + broken] = x[i];
}
CUEMU_KERNEL(write_past_end)

KERNEL write_before_start(float* y, const float* x, int broken) {
  int i = threadIdx.x;
  y[i - broken] = x[i];
}
CUEMU_KERNEL(write_before_start)

KERNEL read_past_end(float* y, const float* x, int broken) {
  int i = threadIdx.x;
  y[i] = x[i + broken];
}
CUEMU_KERNEL(read_past_end)

KERNEL write_far_away(float* y, const float* x, int broken) {
  long long i = threadIdx.x;
  y[i + broken * 1000000000000ll] = x[i];
}
CUEMU_KERNEL(write_far_away)

KERNEL read_null(float* y, const float* x, int broken) {
  int i = threadIdx.x;
  const float* p = broken ? nullptr : x;
  y[i] = p[i];
}
CUEMU_KERNEL(read_null)

// x holds a pointer to read from: host memory, or memory that was freed.
KERNEL follow_pointer(float* y, const float* const* x) {
  y[threadIdx.x] = (*x)[threadIdx.x];
}
CUEMU_KERNEL(follow_pointer)

KERNEL misaligned_vector(float* y, const float* x, int broken) {
  int i = threadIdx.x;
  if (i < 16) *(float4*)(y + 4 * i + broken) = *(const float4*)(x + 4 * i);
}
CUEMU_KERNEL(misaligned_vector)

KERNEL shared_past_end(float* y, const float* x, int broken) {  // 64 floats of dynamic shared memory
  DYN_SHARED(float, s);
  int i = threadIdx.x;
  s[i + broken] = x[i];
  y[i] = s[i + broken];
}
CUEMU_KERNEL(shared_past_end)

KERNEL shared_array_index(float* y, const float* x, int broken) {
  __shared__ float s[64];
  int i = threadIdx.x;
  s[i + broken] = x[i];
  y[i] = s[i + broken];
}
CUEMU_KERNEL(shared_array_index)

KERNEL local_array_index(float* y, const float* x, int broken) {
  float local[4];
  for (int k = 0; k < 4; k++) local[k] = x[threadIdx.x] * (k + 1);
  y[threadIdx.x] = local[0] + 0 * local[(threadIdx.x & 3) + broken];
}
CUEMU_KERNEL(local_array_index)

KERNEL uninitialised_shared(float* y, const float* x, int broken) {
  __shared__ float s[64];
  int i = threadIdx.x;
  if (i < 64 - broken) s[i] = x[i];
  __syncthreads();
  y[i] = s[63 - i];
}
CUEMU_KERNEL(uninitialised_shared)

KERNEL uninitialised_dynamic(float* y, const float* x, int broken) {
  DYN_SHARED(float, s);
  int i = threadIdx.x;
  if (i < 64 - broken) s[i] = x[i];
  __syncthreads();
  y[i] = s[63 - i];
}
CUEMU_KERNEL(uninitialised_dynamic)

// ---- missing barriers ----

KERNEL read_after_write(float* y, const float* x, int broken) {
  __shared__ float s[64];
  int i = threadIdx.x;
  s[i] = x[i];
  if (!broken) __syncthreads();
  y[i] = s[63 - i];
}
CUEMU_KERNEL(read_after_write)

KERNEL write_after_read(float* y, const float* x, int broken) {
  __shared__ float s[64];
  int i = threadIdx.x;
  float sum = 0;
  for (int round = 0; round < 4; round++) {
    s[i] = x[i] + round;
    __syncthreads();
    sum += s[(i + 33) & 63];
    if (!broken) __syncthreads();
  }
  y[i] = sum;
}
CUEMU_KERNEL(write_after_read)

KERNEL write_after_write(float* y, const float* x, int broken) {
  DYN_SHARED(float, s);
  int i = threadIdx.x;
  s[63 - i] = 0;
  if (!broken) __syncthreads();
  s[i] = x[i];
  y[i] = s[i];
}
CUEMU_KERNEL(write_after_write)

KERNEL broadcast_then_write(float* y, const float* x, int broken) {  // all threads read one word, one writes it
  __shared__ float s;
  int i = threadIdx.x;
  if (i == 0) s = x[0];
  __syncthreads();
  float v = s;
  if (!broken) __syncthreads();
  if (i == 63) s = x[1];
  __syncthreads();
  y[i] = v + s;
}
CUEMU_KERNEL(broadcast_then_write)

KERNEL missing_syncwarp(float* y, const float* x, int broken) {  // each warp has its own part
  __shared__ float s[64];
  int i = threadIdx.x, other = i ^ 1;
  s[i] = x[i];
  if (!broken) __syncwarp();
  float v = s[other];
  s[other] = v + 1;
  __syncthreads();
  y[i] = s[i];
}
CUEMU_KERNEL(missing_syncwarp)

KERNEL shuffle_is_no_barrier(float* y, const float* x, int broken) {
  __shared__ float s[64];
  int i = threadIdx.x;
  s[i] = x[i];
  float v = __shfl_xor_sync(0xffffffffu, x[i], 1);
  if (!broken) __syncwarp();
  y[i] = v + s[i ^ 2];
}
CUEMU_KERNEL(shuffle_is_no_barrier)

KERNEL global_in_block(float* y, const float* x, int broken) {
  int i = threadIdx.x;
  y[i] = x[i];
  if (!broken) __syncthreads();
  float v = y[63 - i];
  __syncthreads();
  y[i] = v;
}
CUEMU_KERNEL(global_in_block)

KERNEL two_threads_one_word(float* y, const float* x, int broken) {
  int i = threadIdx.x;
  y[broken ? i / 2 * 2 : i] = x[i];
}
CUEMU_KERNEL(two_threads_one_word)

// ---- between blocks (4 of them) ----

KERNEL blocks_share_a_word(float* y, const float* x, int broken) {
  int i = blockIdx.x * 64 + threadIdx.x;
  y[i] = x[i];
  if (broken && threadIdx.x == 63) y[(i + 1) & 255] = x[(i + 1) & 255];
}
CUEMU_KERNEL(blocks_share_a_word)

KERNEL block_reads_another(float* y, const float* x, int broken) {
  int i = blockIdx.x * 64 + threadIdx.x;
  y[i] = x[i];
  if (broken && threadIdx.x == 0) y[i] += 0 * y[(i + 64) & 255];
}
CUEMU_KERNEL(block_reads_another)

KERNEL sum_without_atomic(float* y, const float* x, int broken) {
  int i = blockIdx.x * 64 + threadIdx.x;
  if (!broken)
    atomicAdd(y, x[i]);
  else if (threadIdx.x == 0)
    *y += x[i];
}
CUEMU_KERNEL(sum_without_atomic)

// The last block to arrive adds up what all have written.
KERNEL last_block_adds(float* y, const float* x, float* partial, unsigned* arrived, int broken) {
  __shared__ bool last;
  int i = threadIdx.x;
  if (i == 0) {
    float sum = 0;
    for (int k = 0; k < 64; k++) sum += x[blockIdx.x * 64 + k];
    partial[blockIdx.x] = sum;
    if (!broken) __threadfence();
    last = atomicAdd(arrived, 1u) == gridDim.x - 1;
  }
  __syncthreads();
  if (!last || i) return;
  float sum = 0;
  for (unsigned b = 0; b < gridDim.x; b++) sum += partial[b];
  *y = sum;
}
CUEMU_KERNEL(last_block_adds)

// ---- divergence ----

KERNEL barrier_in_branch(float* y, const float* x, int broken) {
  int i = threadIdx.x;
  if (!broken || i < 48)
    __syncthreads();
  else
    __syncwarp(0xffff0000u);
  if (broken && i >= 48)
    y[i] = __shfl_sync(0xffffffffu, x[i], 0);
  else
    y[i] = x[i];
}
CUEMU_KERNEL(barrier_in_branch)

KERNEL two_barriers(float* y, const float* x, int broken) {
  int i = threadIdx.x;
  if (broken && i >= 32) {
    __syncthreads();
    y[i] = x[i];
  } else {
    __syncthreads();
    y[i] = x[i];
  }
}
CUEMU_KERNEL(two_barriers)

KERNEL lane_returns_early(float* y, const float* x, int broken) {
  int i = threadIdx.x;
  bool here = !broken || i != 5;
  if (here) y[i] = 0.5f * (x[i] + __shfl_xor_sync(0xffffffffu, x[i], 0));
  if (!here) __syncthreads();
}
CUEMU_KERNEL(lane_returns_early)

KERNEL shuffle_reads_absent_lane(float* y, const float* x, int broken) {
  int i = threadIdx.x;
  float v = x[i];
  if (i % 32 < 16) v = __shfl_xor_sync(0xffffu, v, broken ? 16 : 0);
  y[i] = v;
}
CUEMU_KERNEL(shuffle_reads_absent_lane)

KERNEL caller_not_in_mask(float* y, const float* x, int broken) {
  int i = threadIdx.x;
  if (i % 32 < 16) __syncwarp(broken ? 0xfffeu : 0xffffu);
  y[i] = x[i];
}
CUEMU_KERNEL(caller_not_in_mask)

KERNEL masks_differ(float* y, const float* x, int broken) {
  int i = threadIdx.x, lane = i % 32;
  unsigned mask = broken && lane < 16 ? 0x0000ffffu | 0x10000u : 0xffffffffu;
  __syncwarp(mask);
  y[i] = x[i];
}
CUEMU_KERNEL(masks_differ)

// ---- cp.async, ldmatrix, mma ----

KERNEL missing_wait(float* y, const float* x, int broken) {  // 16 threads copy, 64 read
  DYN_SHARED(float, s);
  int i = threadIdx.x;
  if (i < 16) cp_async16(s + 4 * i, x + 4 * i);
  cp_async_commit();
  if (!broken) cp_async_wait<0>();
  __syncthreads();
  y[i] = s[i];
  cp_async_wait<0>();
}
CUEMU_KERNEL(missing_wait)

KERNEL waits_for_one_too_few(float* y, const float* x, int broken) {  // two stages
  DYN_SHARED(float, s);
  int i = threadIdx.x;
  for (int stage = 0; stage < 2; stage++) {
    if (i < 8) cp_async16(s + 32 * stage + 4 * i, x + 32 * stage + 4 * i);
    cp_async_commit();
  }
  if (broken)
    cp_async_wait<2>();
  else
    cp_async_wait<1>();
  __syncthreads();
  if (i < 32) y[i] = s[i];
  cp_async_wait<0>();
  __syncthreads();
  if (i >= 32) y[i] = s[i];
}
CUEMU_KERNEL(waits_for_one_too_few)

KERNEL wait_without_barrier(float* y, const float* x, int broken) {
  DYN_SHARED(float, s);
  int i = threadIdx.x;
  if (i < 16) cp_async16(s + 4 * i, x + 4 * i);
  cp_async_commit();
  cp_async_wait<0>();
  if (!broken) __syncthreads();
  y[i] = s[i];
}
CUEMU_KERNEL(wait_without_barrier)

KERNEL returns_without_wait(float* y, const float* x, int broken) {
  DYN_SHARED(float, s);
  int i = threadIdx.x;
  if (i < 16) cp_async16(s + 4 * i, x + 4 * i);
  cp_async_commit();
  y[i] = x[i];
  if (!broken) cp_async_wait<0>();
}
CUEMU_KERNEL(returns_without_wait)

KERNEL misaligned_cp_async(float* y, const float* x, int broken) {
  DYN_SHARED(float, s);
  int i = threadIdx.x;
  if (i < 15) cp_async16(s + 4 * i, x + 4 * i + broken);
  cp_async_commit();
  cp_async_wait<0>();
  y[i] = x[i];
}
CUEMU_KERNEL(misaligned_cp_async)

KERNEL cp_async_past_end(float* y, const float* x, int broken) {
  DYN_SHARED(float, s);
  int i = threadIdx.x;
  if (i < 16) cp_async16(s + 4 * i, x + 4 * (i + broken));
  cp_async_commit();
  cp_async_wait<0>();
  y[i] = x[i];
}
CUEMU_KERNEL(cp_async_past_end)

KERNEL misaligned_ldmatrix(float* y, const float* x, int broken) {
  DYN_SHARED(float, s);
  int i = threadIdx.x;
  for (int k = i; k < 160; k += 64) s[k] = 0;
  __syncthreads();
  uint32_t r[4];
  ldmatrix_x4(r, s + 4 * (i % 32) + broken);
  y[i] = x[i] + (float)r[0];
}
CUEMU_KERNEL(misaligned_ldmatrix)

KERNEL ldmatrix_of_global(float* y, const float* x, int broken) {
  DYN_SHARED(float, s);
  int i = threadIdx.x;
  for (int k = i; k < 128; k += 64) s[k] = 0;
  __syncthreads();
  uint32_t r[4];
  ldmatrix_x4(r, broken ? x : s + 4 * (i % 32));
  y[i] = x[i] + (broken ? 0.f : (float)r[0]);
}
CUEMU_KERNEL(ldmatrix_of_global)

KERNEL ldmatrix_without_barrier(float* y, const float* x, int broken) {
  DYN_SHARED(float, s);
  int i = threadIdx.x;
  for (int k = i; k < 128; k += 64) s[k] = 0;
  if (!broken) __syncthreads();
  uint32_t r[4];
  ldmatrix_x4(r, s + 4 * (i % 32));
  y[i] = x[i] + (float)r[0];
}
CUEMU_KERNEL(ldmatrix_without_barrier)

KERNEL mma_in_branch(float* y, const float* x, int broken) {
  int i = threadIdx.x;
  float d[4] = {};
  uint32_t a[4] = {}, b[2] = {};
  if (!broken || i % 32 < 31) mma_bf16_16816(d, a, b);
  y[i] = x[i] + d[0];
}
CUEMU_KERNEL(mma_in_branch)

KERNEL ldmatrix_in_branch(float* y, const float* x, int broken) {
  DYN_SHARED(float, s);
  int i = threadIdx.x;
  for (int k = i; k < 128; k += 64) s[k] = 0;
  __syncthreads();
  uint32_t r[4] = {};
  if (!broken || i % 32 < 31) ldmatrix_x4(r, s + 4 * (i % 32));
  y[i] = x[i] + (float)r[0];
}
CUEMU_KERNEL(ldmatrix_in_branch)

// ---- arithmetic, atomics, the stack ----

KERNEL misaligned_atomic(float* y, const float* x, int broken) {
  int i = threadIdx.x;
  y[i] = 0;
  __syncthreads();
  if (i < 63) atomicAdd((float*)((char*)(y + i) + broken), x[i]);
  if (i == 63) y[i] = x[i];
}
CUEMU_KERNEL(misaligned_atomic)

__device__ __attribute__((noinline)) float descend(float v, int depth) {
  volatile float keep[64];
  keep[depth & 63] = v;
  if (depth > 0) v = descend(v, depth - 1);
  return v + 0 * keep[depth & 63];
}
KERNEL endless_recursion(float* y, const float* x, int broken) {
  y[threadIdx.x] = descend(x[threadIdx.x], broken ? 1 << 20 : 2);
}
CUEMU_KERNEL(endless_recursion)

KERNEL division_by_zero(float* y, const float* x, int broken) {
  int i = threadIdx.x;
  y[i] = x[i] + 0.f * (float)(100 / ((i & 1) + 1 - broken));
}
CUEMU_KERNEL(division_by_zero)
