// What the loops of all tiles share.
#pragma once
#include "matrix.h"

// Before every loop over the rows or vectors of a tile: unless all of them are unrolled, the sums
// live in memory instead of registers.
#if defined(__clang__)
#define EVERLOOP_UNROLL _Pragma("unroll")
#else
#define EVERLOOP_UNROLL _Pragma("GCC unroll 8")
#endif

namespace everloop::EVERLOOP_ISA {

// A tile's loop calls step() at each step, which fetches a part of the next panel.
struct Ahead {
  const uint8_t* at;
  size_t bytes;  // a step, at most a cache line

  void step() {
    __builtin_prefetch(at, 0, 2);
    at += bytes;
  }
};

}  // namespace everloop::EVERLOOP_ISA
