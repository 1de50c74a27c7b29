// Early exit: a row whose state is judged good enough after some layers leaves there (CALM, Schuster
// et al. 2022). The layers that it leaves out compute only the keys and values that later tokens
// look for, from the state that it left with.
#pragma once
#include <cstdint>
#include <vector>

namespace everloop {

// Judges states after a layer: a small network over the state, scaled to a mean square of 1. (The
// final norm's own weights may differ between files of one model.) Its output grows with the chance that the head says here what it would say after the last layer.
struct Gate {
  int inner = 0;                    // 0: there is none after this layer
  const float* into = nullptr;      // inner x hidden
  const float* offsets = nullptr;   // inner
  const float* out = nullptr;       // inner
};

// What one piece of a batch may do.
struct Exit {  // mirrored by library.py
  int32_t layer;    // after so many layers; 0: never
  int32_t from;     // the first position that may
  float threshold;  // of the gate
};

}  // namespace everloop
