// options.h - settings from the environment.
#pragma once
#include <cstdint>

namespace cuemu {

// The value of CUEMU_<name>, or the default.
uint64_t option(const char* name, uint64_t otherwise);

}  // namespace cuemu
