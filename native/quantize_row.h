// Rows of floats to int8 with one scale, as the products take them.
#pragma once
#include <limits>

#include "matrix.h"
#include "simd.h"

namespace everloop::EVERLOOP_ISA {

// q = round(x / scale), ties to even, |q| <= 127, zeros beyond `inputs`; sums of each kGroup.
// A row with a NaN or an infinity becomes zeros with the scale NaN: the products are NaN then. A
// row below 1e-30 throughout is zero.
inline void quantize_row(const float* x, int inputs, int padded, int8_t* q, float* scale,
                         int32_t* sums) {
  uint32_t most = 0;  // the bits of |x| are ordered like |x|, with infinities and NaN on top
  for (int i = 0; i < inputs; ++i) {
    uint32_t bits;
    std::memcpy(&bits, x + i, 4);
    bits &= 0x7fffffff;
    most = bits > most ? bits : most;
  }
  float largest;
  std::memcpy(&largest, &most, 4);
  float inverse = 0.0f;
  if (most >= 0x7f800000) {
    *scale = std::numeric_limits<float>::quiet_NaN();
    std::memset(q, 0, size_t(padded));
    std::memset(sums, 0, sizeof(int32_t) * size_t(padded / kGroup));
    return;
  }
  if (largest >= 1e-30f) {
    *scale = largest / 127.0f;
    inverse = 127.0f / largest;
  } else {
    *scale = 0.0f;
  }
  // Adding 1.5 * 2^23 leaves the rounded number in the low bits.
  for (int i = 0; i < inputs; ++i) {
    const float shifted = x[i] * inverse + 12582912.0f;
    int32_t bits;
    std::memcpy(&bits, &shifted, 4);
    q[i] = int8_t(bits);
  }
  for (int i = inputs; i < padded; ++i) q[i] = 0;
  for (int g = 0; g < padded / kGroup; ++g) {
    int32_t total = 0;
    for (int i = 0; i < kGroup; ++i) total += q[g * kGroup + i];
    sums[g] = total;
  }
}

}  // namespace everloop::EVERLOOP_ISA
