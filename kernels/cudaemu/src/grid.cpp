// grid.cpp - worker threads, each of which runs one block at a time, and the
// signal handler that turns a kernel's crash into an error code.
//
// Models: blocks in any order; shared memory that starts as NaNs; a fault that
// ends the launch.
// Does not model: how many blocks fit on a device at once.
#include "grid.h"

#include <link.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <atomic>
#include <condition_variable>
#include <csignal>
#include <cstdlib>
#include <mutex>
#include <thread>

#include "block.h"
#include "memory.h"
#include "options.h"

extern "C" void cuemu_resume();

namespace cuemu {

uint64_t option(const char* name, uint64_t otherwise) {
  const char* s = getenv((std::string("CUEMU_") + name).c_str());
  return s && *s ? strtoull(s, nullptr, 0) : otherwise;
}

// ---- seeds ----

static std::atomic<uint64_t> seed{option("SEED", 1)};
static std::atomic<uint64_t> drawn{0};

static uint64_t next_launch_seed() {
  uint64_t s = seed;
  return s ? s * 0x9E3779B97F4A7C15ull + 1000003 * ++drawn : 0;
}

uint64_t draw_order() {
  uint64_t s = next_launch_seed();
  s = (s ^ s >> 31) * 0xBF58476D1CE4E5B9ull;
  return s ^ s >> 29;
}

// ---- one launch ----

struct Job {
  Launch launch;
  uint64_t seed;
  uint64_t blocks;
  bool check_races, counting;
  std::atomic<uint64_t> next{0};
  std::atomic<bool> stop{false};
  LaunchSectors sectors;
  std::mutex mutex;  // guards what follows
  int status = kSuccess;
  std::string what;
  cuemuCounters counters{};
};

// A pseudo-random order of the blocks: a bijection on the next power of two,
// repeated until it falls inside.
static uint64_t permute(uint64_t i, uint64_t total, uint64_t seed) {
  if (!seed || total < 2) return i;
  uint64_t mask = ~0ull >> __builtin_clzll(total - 1);
  do {
    i = (i * (seed * 2 | 5) + seed * 7) & mask;
    i ^= i >> 3;
  } while (i >= total);
  return i;
}

static std::string place(const Block& b) {
  dim3 i = b.index;
  return std::string("kernel ") + b.kernel->name + ", block (" + std::to_string(i.x) + "," + std::to_string(i.y) + "," +
         std::to_string(i.z) + "), " + thread_name(b, b.current) + ": ";
}

// ---- a worker's memory ----

struct Range {
  char *begin = nullptr, *end = nullptr;
};

// Static __shared__ variables are thread_local: they lie in this library's block of thread-local storage.
static Range own_thread_locals() {
  Range r;
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* out) {
        for (int i = 0; i < info->dlpi_phnum; i++) {
          auto begin = (char*)info->dlpi_tls_data;
          auto end = begin + info->dlpi_phdr[i].p_memsz;
          if (info->dlpi_phdr[i].p_type != PT_TLS || !begin || (char*)&running < begin || (char*)&running >= end)
            continue;
          *(Range*)out = {begin, end};
          return 1;
        }
        return 0;
      },
      &r);
  return r;
}

static char* reserve(size_t size) {
  void* p = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) abort();
  return (char*)p;
}

static SharedShadow shadow_for(char* base, size_t size) {
  return {base, (ByteMark*)reserve(size * sizeof(ByteMark)), size};
}

static void prepare_worker(Block& b) {
  b.stacks = reserve(kMaxThreads * kStackSize);
  b.stacks_end = b.stacks + kMaxThreads * kStackSize;
  for (unsigned i = 0; i < kMaxThreads; i++) {
    b.fibres[i].stack = b.stacks + i * kStackSize;
    mprotect(b.fibres[i].stack, 4096, PROT_NONE);
  }
  char* dynamic = reserve(kMaxDynamicShared);
  b.dynamic_end = dynamic + kMaxDynamicShared;
  b.dynamic_shadow = shadow_for(dynamic, kMaxDynamicShared);
  Range tls = own_thread_locals();
  b.static_shared = tls.begin;
  b.static_shared_end = tls.end;
  b.static_shadow = shadow_for(tls.begin, tls.end - tls.begin);
}

static void poison(char* p, size_t size) {
  for (size_t i = 0; i + 4 <= size; i += 4) memcpy(p + i, &kPoison, 4);
}

static void poison_shared(Block& b) {
  Block* keep = running;  // lies among the static variables
  poison(b.static_shared, b.static_shared_end - b.static_shared);
  running = keep;
  poison(b.dynamic, b.dynamic_size);
}

// Block::time must not run over: old marks would seem to be of the future.
static void restart_time(Block& b) {
  for (SharedShadow* s : {&b.dynamic_shadow, &b.static_shadow})
    madvise(s->marks, s->size * sizeof(ByteMark), MADV_DONTNEED);
  b.time = 1;
}

// ---- one block ----

static void start_block(Block& b) {
  if (b.time > 0xf0000000u) restart_time(b);
  b.block_start = b.last_barrier = ++b.time;
  b.fenced = false;
  b.sectors.clear();
  b.alive = b.threads;
  b.arrived = 0;
  b.barrier_tally = {};
  for (unsigned i = 0; i < b.warp_count; i++) {
    unsigned lanes = b.threads - i * 32;
    Warp& w = b.warps[i];
    w.ready = w.alive = lanes >= 32 ? ~0u : (1u << lanes) - 1;
    w.arrived = 0;
    w.last_sync = 0;
  }
  poison_shared(b);
}

static void begin_job(Block& b, const Job& j) {
  const Launch& l = j.launch;
  b.kernel = l.kernel;
  b.args = l.args;
  b.grid = l.grid;
  b.size = l.block;
  b.threads = l.block.x * l.block.y * l.block.z;
  b.warp_count = (b.threads + 31) / 32;
  b.warps.resize(b.warp_count);
  b.seed = j.seed;
  b.dynamic_size = l.dynamic_shared;
  b.dynamic = b.dynamic_end - (l.dynamic_shared + 1023) / 1024 * 1024;
  b.status = kSuccess;
  b.check_races = j.check_races;
  b.counting = j.counting;
  b.counters = {};
  b.asked = {};
  for (unsigned i = 0; i < b.threads; i++)
    b.fibres[i].index = {i % l.block.x, i / l.block.x % l.block.y, i / l.block.x / l.block.y};
}

static void run_blocks(Job& j, Block& b) {
  begin_job(b, j);
  dim3 grid = j.launch.grid;
  for (uint64_t i; !j.stop && (i = j.next++) < j.blocks;) {
    i = permute(i, j.blocks, j.seed);
    b.random = (j.seed + i) * 0x9E3779B97F4A7C15ull + 1;
    b.index = {(unsigned)(i % grid.x), (unsigned)(i / grid.x % grid.y), (unsigned)(i / grid.x / grid.y)};
    start_block(b);
    start_fibres(b);
    if (b.counting)
      for (unsigned w = 0; w < b.warp_count; w++) b.logs.flush(b, w);
    if (b.status == kSuccess && (b.check_races || b.counting)) {
      b.fault = j.sectors.add(b);
      if (!b.fault.empty()) b.status = kLaunchFailed;
    }
    if (b.status != kSuccess) {
      std::lock_guard<std::mutex> lock(j.mutex);
      if (j.stop.exchange(true)) return;
      j.status = b.status;
      j.what = place(b) + b.fault;
      return;
    }
  }
  b.asked.collect();
  std::lock_guard<std::mutex> lock(j.mutex);
  add_counters(j.counters, b.counters);
}

// ---- crashes ----
// What the instrumentation cannot see (a call through a wild pointer, an
// endless recursion) or leaves to the processor (division by zero, the trap of
// -fsanitize=bounds) arrives as a signal.

static struct sigaction previous_action[32];
static constexpr int kSignals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};

static void explain(Block& b, int signal, const char* address) {
  char text[100];
  b.status = kLaunchFailed;
  if (signal == SIGILL) {
    b.fault = "index outside a fixed-size array";
  } else if (signal == SIGFPE) {
    b.fault = "integer division by zero";
  } else if (address >= b.fibre().stack - kStackSize && address < b.fibre().stack + 4096) {
    b.fault = "the thread's stack is exhausted";
  } else {
    snprintf(text, sizeof text, "access to %p, no memory of the kernel", address);
    b.status = kIllegalAddress;
    b.fault = text;
  }
}

static void on_signal(int signal, siginfo_t* info, void* context) {
  Block* b = running;
  if (b && b->inside) {  // goes on in the worker, as if the fibre had left the block
    explain(*b, signal, (const char*)info->si_addr);
    auto registers = ((ucontext_t*)context)->uc_mcontext.gregs;
    registers[REG_RSP] = (greg_t)b->worker_stack_pointer;
    registers[REG_RIP] = (greg_t)&cuemu_resume;
    return;
  }
  struct sigaction& before = previous_action[signal];  // not ours: the Go runtime's handler, or the default
  if (before.sa_flags & SA_SIGINFO) {
    before.sa_sigaction(signal, info, context);
  } else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
    before.sa_handler(signal);
  } else {
    ::signal(signal, SIG_DFL);
    raise(signal);
  }
}

static void catch_signals() {
  struct sigaction action = {};
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigfillset(&action.sa_mask);
  for (int s : kSignals) sigaction(s, &action, &previous_action[s]);
}

// ---- workers ----

class Workers {
 public:
  Workers() {
    catch_signals();
    sigset_t others, before;  // the Go runtime's signals are not for the workers
    sigfillset(&others);
    for (int s : kSignals) sigdelset(&others, s);
    pthread_sigmask(SIG_SETMASK, &others, &before);
    count_ = std::max<uint64_t>(1, option("THREADS", std::thread::hardware_concurrency()));
    for (unsigned i = 0; i < count_; i++) std::thread([this] { work(); }).detach();
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  void run(Job& j) {
    std::unique_lock<std::mutex> lock(mutex_);
    job_ = &j;
    generation_++;
    busy_ = count_;
    start_.notify_all();
    done_.wait(lock, [&] { return busy_ == 0; });
  }

 private:
  [[noreturn]] void work() {
    stack_t signal_stack = {};
    signal_stack.ss_size = 64 * 1024;
    signal_stack.ss_sp = malloc(signal_stack.ss_size);
    sigaltstack(&signal_stack, nullptr);
    auto b = new Block;  // as the thread, for as long as the process
    running = b;
    prepare_worker(*b);
    for (uint64_t seen = 0;;) {
      std::unique_lock<std::mutex> lock(mutex_);
      start_.wait(lock, [&] { return generation_ != seen; });
      seen = generation_;
      Job* j = job_;
      lock.unlock();
      run_blocks(*j, *b);
      lock.lock();
      if (--busy_ == 0) done_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable start_, done_;
  Job* job_ = nullptr;
  uint64_t generation_ = 0;
  unsigned count_, busy_ = 0;
};

int run_grid(const Launch& launch, std::string* what) {
  static Workers* workers = new Workers;  // never destroyed: its threads outlive main
  Job j;
  j.launch = launch;
  j.seed = next_launch_seed();
  j.blocks = (uint64_t)launch.grid.x * launch.grid.y * launch.grid.z;
  j.check_races = option("RACES", 1);
  j.counting = counting_on();
  workers->run(j);
  if (j.counting && j.status == kSuccess) {
    j.counters.kernel = launch.kernel->name;
    j.counters.threads = j.blocks * launch.block.x * launch.block.y * launch.block.z;
    j.sectors.totals(&j.counters.unique_read_sectors, &j.counters.unique_write_sectors);
    keep_counters(j.counters);
  }
  *what = j.what;
  return j.status;
}

}  // namespace cuemu

extern "C" void cuemuSeed(uint64_t s) {
  cuemu::seed = s;
  cuemu::drawn = 0;
}
