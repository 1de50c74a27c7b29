// The search for 4-bit scales.
#pragma once
#include <cstdint>

#include "half.h"
#include "matrix.h"

namespace everloop {

constexpr float kMostWeight4 = 65504.0f * 4;  // so that every scale is a float16

// The nearest of -8 to 7.
inline __attribute__((always_inline)) float round4(float v) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: added and taken away, it rounds to even
  v = (v + kRound) - kRound;
  v = v < -8.0f ? -8.0f : v;
  return v > 7.0f ? 7.0f : v;
}

// For one group of each output of a panel: the scale s and q in [-8, 7] that minimize
// sum (w - s q)^2 over a few candidates; q + 8 is kept.
//
// A candidate maps the group's largest weight to some t, and the others, rounded, to their q. The
// best scale for these q is sum(w q) / sum(q^2), and the error with it
// sum(w^2) - sum(w q)^2 / sum(q^2). Beyond -8 the largest weight is clipped and the others are
// finer. The eight t were chosen one by one from a dense row, each for the most that it took from
// the error over normal, Laplace and Student's t (5) weights; they leave 0.2 % above the least.
inline __attribute__((always_inline)) void quantize4(const float (*w)[kPanel], uint16_t* scales,
                                                     uint8_t (*q)[kPanel]) {
  static constexpr float kTargets[] = {-8.2f, -8.6f, -7.8f, -7.1f, -8.9f, -8.0f, -8.4f, -7.3f};
  alignas(64) float most[kPanel] = {}, gain[kPanel], best[kPanel];
  for (int k = 0; k < kGroup; ++k)
    for (int n = 0; n < kPanel; ++n) {
      const float a = w[k][n] < 0 ? -w[k][n] : w[k][n], b = most[n] < 0 ? -most[n] : most[n];
      most[n] = a > b ? w[k][n] : most[n];
    }
  for (int n = 0; n < kPanel; ++n) gain[n] = -1.0f, best[n] = 0.0f;
  for (const float target : kTargets) {
    alignas(64) float inverse[kPanel], cross[kPanel] = {}, square[kPanel] = {};
    for (int n = 0; n < kPanel; ++n) inverse[n] = most[n] == 0.0f ? 0.0f : target / most[n];
    for (int k = 0; k < kGroup; ++k)
      for (int n = 0; n < kPanel; ++n) {
        const float v = round4(w[k][n] * inverse[n]);
        cross[n] += v * w[k][n];
        square[n] += v * v;
      }
    for (int n = 0; n < kPanel; ++n) {
      const float scale = square[n] > 0.0f ? cross[n] / square[n] : 0.0f;
      const float g = cross[n] * scale;
      best[n] = g > gain[n] ? scale : best[n];
      gain[n] = g > gain[n] ? g : gain[n];
    }
  }
  alignas(64) float inverse[kPanel];
  for (int n = 0; n < kPanel; ++n) {
    scales[n] = float_to_half(best[n]);
    const float scale = half_to_float(scales[n]);
    inverse[n] = scale == 0.0f ? 0.0f : 1.0f / scale;
  }
  for (int k = 0; k < kGroup; ++k)
    for (int n = 0; n < kPanel; ++n) q[k][n] = uint8_t(int(round4(w[k][n] * inverse[n])) + 8);
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) inline void quantize4_avx2(const float (*w)[kPanel],
                                                           uint16_t* scales,
                                                           uint8_t (*q)[kPanel]) {
  quantize4(w, scales, q);
}
#endif

}  // namespace everloop
