// meet.h - what warp.cpp and matrix.cpp share: all lanes of a warp hand in
// words, one of them computes every lane's result.
#pragma once
#include "block.h"

namespace cuemu {

using Compute = void (*)(Block&, Warp&, uint32_t mask);

// Blocks until every lane of mask has arrived; returns the caller's four words of result.
const uint32_t* meet(Collective, uint32_t mask, Site, const uint32_t* words, int count, Compute);

}  // namespace cuemu
