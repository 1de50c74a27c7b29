// Fetching weights before they are needed.
#pragma once
#include "matrix.h"

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
