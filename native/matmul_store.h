// What becomes of a tile: scales, bias, and the three ways to store.
//
// The order of operations is the same for every tile and instruction set, without fused
// multiply-adds, so a row has the same bits in a tile of any height, on AVX2 as on AVX-512.
#pragma once
#include "matrix.h"
#include "simd.h"

namespace everloop::EVERLOOP_ISA {

// x / (1 + e^-x), never NaN for a number: below -88 it is zero to any use, and e^88 is finite.
inline Vec silu(Vec x) {
  const Vec least = max(set1(-88.0f), x);  // in this order a NaN stays
  return least / (set1(1.0f) + exp(set1(0.0f) - least));
}

inline Vec to_floats(const int32_t* p) {
#if defined(__AVX512F__)
  return _mm512_cvtepi32_ps(_mm512_loadu_si512(p));
#elif defined(__AVX2__)
  return _mm256_cvtepi32_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#else
  float lanes[kLanes];
  for (int i = 0; i < kLanes; ++i) lanes[i] = float(p[i]);
  return load(lanes);
#endif
}

// y in one go for a row of a tile of 8-bit weights: acc * scale_w * scale_x + bias.
inline void finish8(const int32_t* tile, const float* scales, float scale, const float* bias,
                    float* y) {
  const Vec s = set1(scale);
  for (int n = 0; n < kPanel; n += kLanes) {
    Vec v = to_floats(tile + n) * load(scales + n) * s;
    if (bias) v = v + load(bias + n);
    store(y + n, v);
  }
}

inline void finish4(const float* tile, float scale, const float* bias, float* y) {
  const Vec s = set1(scale);
  for (int n = 0; n < kPanel; n += kLanes) {
    Vec v = load(tile + n) * s;
    if (bias) v = v + load(bias + n);
    store(y + n, v);
  }
}

// `outputs` counts what is left of the matrix's from this panel on.
inline void store_row(const float* y, int outputs, float* out, Store how) {
  float kept[kPanel];
  float* to = out;
  int count = outputs < kPanel ? outputs : kPanel;
  if (how == Store::kGate) count = outputs / 2 < kPanel / 2 ? outputs / 2 : kPanel / 2;
  const bool whole = count == kPanel || (how == Store::kGate && count == kPanel / 2);
  if (!whole) {
    to = kept;
    for (int n = 0; n < kPanel; ++n) kept[n] = n < count ? out[n] : 0.0f;
  }
  if (how == Store::kGate) {
    for (int pair = 0; pair < kPanel / 2; pair += 16)
      for (int n = 0; n < 16; n += kLanes)
        store(to + pair + n, silu(load(y + 2 * pair + n)) * load(y + 2 * pair + 16 + n));
  } else {
    for (int n = 0; n < kPanel; n += kLanes)
      store(to + n, how == Store::kAdd ? load(to + n) + load(y + n) : load(y + n));
  }
  if (!whole)
    for (int n = 0; n < count; ++n) out[n] = kept[n];
}

}  // namespace everloop::EVERLOOP_ISA
