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

// The next panel, fetched while several tiles of this one are computed: each step of a tile's loop
// (4 inputs of 8 bits, 8 inputs of 4) takes a cache line of its first half and one of its second.
struct Ahead {
  const uint8_t* at;
  size_t half;   // bytes
  size_t bytes;  // a step goes forward by
  size_t steps;  // of a tile

  void step() {
    __builtin_prefetch(at, 0, 2);
    __builtin_prefetch(at + half, 0, 2);
    at += bytes;
  }
  void skip_tile() { at += bytes * steps; }
};

}  // namespace everloop::EVERLOOP_ISA
