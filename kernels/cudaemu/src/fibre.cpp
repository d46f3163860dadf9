// fibre.cpp - context switches and the choice of the next thread.
//
// Models: any interleaving of threads at their synchronisation points, as the
// hardware since Volta may choose it. Seed 0 runs lanes in order.
// Does not model: interleaving between two synchronisation points; there
// races are found by src/race.cpp instead of by their consequences.
#include "block.h"

extern "C" void cuemu_switch(void** save, void* load);
asm(R"(
.text
.globl cuemu_switch, cuemu_resume
.hidden cuemu_switch, cuemu_resume
.type cuemu_switch,@function
cuemu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
cuemu_resume:
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");

namespace cuemu {

constinit thread_local Block* running = nullptr;

constexpr int kNobody = -1;

uint32_t draw(Block& b) {
  b.random = b.random * 6364136223846793005ull + 1442695040888963407ull;
  return b.random >> 33;
}

// A random ready lane, mostly of the same warp: changing warps costs cache misses.
static int pick(Block& b) {
  unsigned w = b.current >> 5;
  if (b.seed && draw(b) % 8 == 0) w = draw(b) % b.warp_count;
  for (unsigned i = 0; i < b.warp_count; i++) {
    if (uint32_t ready = b.warps[w].ready) {
      unsigned shift = b.seed ? draw(b) & 31 : 0;
      uint32_t rotated = shift ? ready >> shift | ready << (32 - shift) : ready;
      return w * 32 + ((__builtin_ctz(rotated) + shift) & 31);
    }
    w = w + 1 < b.warp_count ? w + 1 : 0;
  }
  return kNobody;
}

static void switch_to(Block& b, void** save, int thread) {
  b.current = thread;
  cuemu_switch(save, b.fibres[thread].stack_pointer);
}

void leave_block() {
  void* never_resumed;
  cuemu_switch(&never_resumed, running->worker_stack_pointer);
  __builtin_unreachable();
}

void fault(Status status, const std::string& what) {
  running->status = status;
  running->fault = what;
  leave_block();
}

void yield() {
  Block& b = *running;
  unsigned me = b.current;
  int next = pick(b);
  if (next == kNobody) fault(kLaunchFailed, "deadlock: the threads of the block wait in different barriers");
  if (next != (int)me) switch_to(b, &b.fibres[me].stack_pointer, next);
}

// What happens to the others when a thread returns.
static void retire(Block& b) {
  Warp& w = b.warp();
  uint32_t bit = 1u << b.lane();
  check_copies_done(b, b.fibre());
  w.ready &= ~bit;
  w.alive &= ~bit;
  b.alive--;
  if (w.arrived && (w.arrived & w.alive) == w.alive)
    fault(kLaunchFailed, "a lane returned while its warp waits for it in a collective");
  if (!w.alive && b.counting) b.logs.flush(b, b.current >> 5);
  if (b.alive && b.arrived == b.alive) release_barrier(b);
}

static void fibre_main() {
  running->kernel->call(running->kernel->function, running->args);
  Block& b = *running;
  retire(b);
  if (!b.alive) leave_block();
  int next = pick(b);
  if (next == kNobody) fault(kLaunchFailed, "deadlock: threads wait for one that has returned");
  void* never_resumed;
  switch_to(b, &never_resumed, next);
  __builtin_unreachable();
}

void start_fibres(Block& b) {
  for (unsigned i = 0; i < b.threads; i++) {
    // Stacks at equal offsets would compete for the same cache sets.
    auto top = (void**)(b.fibres[i].stack + kStackSize - 64 - i % 16 * 192);
    *--top = nullptr;  // keeps the stack aligned for a function's entry
    *--top = (void*)&fibre_main;
    for (int saved = 0; saved < 6; saved++) *--top = nullptr;
    b.fibres[i].stack_pointer = top;
    b.fibres[i].copies.clear();
    b.fibres[i].copy_group = 0;
  }
  b.current = 0;
  int first = pick(b);
  b.inside = true;
  switch_to(b, &b.worker_stack_pointer, first);
  b.inside = false;
}

std::string thread_name(const Block& b, unsigned thread) {
  dim3 t = b.fibres[thread].index;
  return "thread (" + std::to_string(t.x) + "," + std::to_string(t.y) + "," + std::to_string(t.z) + ")";
}

dim3 thread_index() {
  return running->fibre().index;
}
dim3 block_index() {
  return running->index;
}
dim3 block_size() {
  return running->size;
}
dim3 grid_size() {
  return running->grid;
}
char* dynamic_shared() {
  return running->dynamic;
}

}  // namespace cuemu
