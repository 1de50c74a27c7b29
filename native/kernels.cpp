// Compiled once for each instruction set, with EVERLOOP_ISA naming the namespace: see build.py.
#include "kernels.h"

#include "attention.h"
#include "matmul.h"
#include "quantize_row.h"
#include "rowops.h"
#include "weigh.h"

namespace everloop::EVERLOOP_ISA {

namespace {

void remember(const float* key, const float* value, int dim, int slot, uint16_t* key_block,
              uint16_t* value_block) {
  uint16_t* row = value_block + size_t(slot) * dim;
  int i = 0;
  for (; i + kLanes <= dim; i += kLanes) store_half(row + i, load(value + i));
  float lanes[kLanes] = {};
  uint16_t halves[kLanes];
  for (; i < dim; i += kLanes) {
    const int left = dim - i < kLanes ? dim - i : kLanes;
    for (int j = 0; j < left; ++j) lanes[j] = value[i + j];
    store_half(halves, load(lanes));
    for (int j = 0; j < left; ++j) row[i + j] = halves[j];
  }
  for (i = 0; i < dim; i += kLanes) {
    const int left = dim - i < kLanes ? dim - i : kLanes;
    for (int j = 0; j < left; ++j) lanes[j] = key[i + j];
    store_half(halves, load(lanes));
    for (int j = 0; j < left; ++j) key_block[size_t(i + j) * kBlock + slot] = halves[j];
  }
}

#define EVERLOOP_TEXT(x) #x
#define EVERLOOP_NAME(x) EVERLOOP_TEXT(x)

}  // namespace

const Kernels kernels = {
    EVERLOOP_NAME(EVERLOOP_ISA), multiply, quantize_row, norm_row, rotate_head,
    remember, attend, argmax, weigh,
};

}  // namespace everloop::EVERLOOP_ISA
