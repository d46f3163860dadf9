// grid.h - running a grid of blocks, for the driver API.
#pragma once
#include <string>

#include "cuemu.h"

namespace cuemu {

struct Launch {
  const Kernel* kernel;
  dim3 grid, block;
  size_t dynamic_shared;
  void** args;
};

// Runs all blocks on the worker threads; returns a CUresult. what explains a fault.
int run_grid(const Launch&, std::string* what);

// Random bits that depend on the seed and on what was drawn before.
uint64_t draw_order();

}  // namespace cuemu
