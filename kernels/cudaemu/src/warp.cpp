// warp.cpp - __syncthreads, __syncwarp, shuffles, votes and reductions.
//
// Models: a collective needs every lane of its mask that has not returned, all
// with the same mask and in the same place of the source; a lane that is
// missing ends in a deadlock, which is reported. Shuffles read only lanes of
// the mask. Only __syncwarp and __syncthreads order memory; shuffles do not.
// Does not model: lockstep. Code that relies on it fails here.
#include "block.h"
#include "meet.h"

namespace cuemu {

// Waits until all lanes of the mask are here; the last one calls compute.
const uint32_t* meet(Collective kind, uint32_t mask, Site site, const uint32_t* words, int count, Compute compute) {
  Block& b = *running;
  Warp& w = b.warp();
  unsigned lane = b.lane();
  if (!(mask >> lane & 1)) fault(kLaunchFailed, "a lane calls a warp collective whose mask leaves it out");
  for (int i = 0; i < count; i++) w.input[lane][i] = words[i];
  w.arrivals[lane] = {kind, site, mask};
  w.arrived |= 1u << lane;
  uint32_t wanted = mask & w.alive;
  if ((w.arrived & wanted) != wanted) {
    w.ready &= ~(1u << lane);
    yield();
    return w.result[lane];
  }
  for (unsigned l = 0; l < 32; l++) {
    if (!(wanted >> l & 1)) continue;
    const Warp::Arrival& a = w.arrivals[l];
    if (a.kind != kind || a.site != site)
      fault(kLaunchFailed, "lanes of a warp meet in different collectives, at lines " + std::to_string(a.site) +
                               " and " + std::to_string(site));
    if (a.mask != mask) fault(kLaunchFailed, "lanes of a warp meet with different masks, line " + std::to_string(site));
  }
  w.arrived &= ~wanted;
  w.ready |= wanted;
  compute(b, w, wanted);
  if (b.counting) b.logs.flush(b, b.current >> 5);
  return w.result[lane];
}

// ---- the block's barrier ----

void release_barrier(Block& b) {
  b.arrived = 0;
  b.barrier_result[b.barrier_parity & 1] = b.barrier_tally;
  b.barrier_tally = {};
  b.barrier_parity++;
  b.last_barrier = ++b.time;
  for (unsigned i = 0; i < b.warp_count; i++) {
    b.warps[i].ready = b.warps[i].alive;
    if (b.counting) b.logs.flush(b, i);
  }
  if (b.counting) b.counters.barriers++;
}

int barrier(int predicate, Reduce kind, Site site) {
  Block& b = *running;
  if (b.warp().arrived)
    fault(kLaunchFailed,
          "__syncthreads at line " + std::to_string(site) + " while lanes of the warp wait in a collective");
  if (b.arrived && b.barrier_site != site)
    fault(kLaunchFailed, "threads of the block meet in different __syncthreads, at lines " +
                             std::to_string(b.barrier_site) + " and " + std::to_string(site));
  b.barrier_site = site;
  (predicate ? b.barrier_tally.nonzero : b.barrier_tally.zero)++;
  unsigned parity = b.barrier_parity & 1;
  if (++b.arrived == b.alive) {
    release_barrier(b);
  } else {
    b.warp().ready &= ~(1u << b.lane());
    yield();
  }
  // Still there: the barrier after this one needs the caller.
  Tally result = b.barrier_result[parity];
  switch (kind) {
    case Reduce::Or: return result.nonzero > 0;
    case Reduce::And: return result.zero == 0;
    default: return result.nonzero;
  }
}

// ---- __syncwarp ----

void sync_warp(uint32_t mask, Site site) {
  meet(Collective::Sync, mask, site, nullptr, 0, [](Block& b, Warp& w, uint32_t) { w.last_sync = ++b.time; });
}

// ---- shuffles ----

// The lane that a shuffle reads, by the rules of the PTX instruction.
static int source_lane(Shuffle kind, int lane, int argument, int width) {
  int base = lane & ~(width - 1), end = base + width;
  switch (kind) {
    case Shuffle::Index: return base + (argument & (width - 1));
    case Shuffle::Xor: return (lane ^ argument) < end ? lane ^ argument : lane;
    case Shuffle::Up: return lane - argument >= base ? lane - argument : lane;
    case Shuffle::Down: return lane + argument < end ? lane + argument : lane;
  }
  __builtin_unreachable();
}

uint64_t shuffle(Shuffle kind, uint32_t mask, uint64_t value, int argument, int width, Site site) {
  uint32_t words[5] = {(uint32_t)value, (uint32_t)(value >> 32), (uint32_t)argument, (uint32_t)width, (uint32_t)kind};
  const uint32_t* r = meet(Collective::Shuffle, mask, site, words, 5, [](Block& b, Warp& w, uint32_t mask) {
    b.counters.shuffles++;
    for (int lane = 0; lane < 32; lane++) {
      if (!(mask >> lane & 1)) continue;
      const uint32_t* in = w.input[lane];
      int source = source_lane((Shuffle)in[4], lane, (int)in[2], (int)in[3]);
      if (!(mask >> source & 1))
        fault(kLaunchFailed, "a shuffle reads lane " + std::to_string(source) + ", which takes no part");
      w.result[lane][0] = w.input[source][0];
      w.result[lane][1] = w.input[source][1];
    }
  });
  return r[0] | (uint64_t)r[1] << 32;
}

// ---- votes and reductions ----

// Only the lanes of the mask: others may still have to fetch an earlier result.
static void give_all(Warp& w, uint32_t mask, uint32_t value) {
  for (int lane = 0; lane < 32; lane++)
    if (mask >> lane & 1) w.result[lane][0] = value;
}

uint32_t ballot(uint32_t mask, bool predicate, Site site) {
  uint32_t word = predicate;
  return meet(Collective::Ballot, mask, site, &word, 1, [](Block& b, Warp& w, uint32_t mask) {
    b.counters.shuffles++;
    uint32_t votes = 0;
    for (int lane = 0; lane < 32; lane++)
      if (mask >> lane & 1) votes |= w.input[lane][0] << lane;
    give_all(w, mask, votes);
  })[0];
}

static uint32_t combine(Reduce kind, uint32_t a, uint32_t b) {
  switch (kind) {
    case Reduce::Or: return a | b;
    case Reduce::And: return a & b;
    case Reduce::Add: return a + b;
    case Reduce::Min: return std::min(a, b);
    case Reduce::Max: return std::max(a, b);
    case Reduce::SignedMin: return std::min((int)a, (int)b);
    case Reduce::SignedMax: return std::max((int)a, (int)b);
  }
  __builtin_unreachable();
}

uint32_t reduce(Reduce kind, uint32_t mask, uint32_t value, Site site) {
  uint32_t words[2] = {value, (uint32_t)kind};
  return meet(Collective::Reduce, mask, site, words, 2, [](Block& b, Warp& w, uint32_t mask) {
    b.counters.shuffles++;
    int first = __builtin_ctz(mask);
    uint32_t total = w.input[first][0];
    for (int lane = first + 1; lane < 32; lane++)
      if (mask >> lane & 1) total = combine((Reduce)w.input[first][1], total, w.input[lane][0]);
    give_all(w, mask, total);
  })[0];
}

}  // namespace cuemu
