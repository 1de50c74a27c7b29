// The search for 4-bit scales.
#pragma once
#include <cstdint>

#include "half.h"
#include "matrix.h"

namespace everloop {

constexpr float kMostWeight4 = 65504.0f * 7;  // the largest scale is a float16

// For one group of each output of a panel: the scale s and q in [-8, 7] that minimize
// sum (w - s q)^2 over a row of candidates; q + 8 is kept.
//
// A candidate maps the group's largest weight to some t: to -8 and somewhat beyond or less (the
// scale takes the sign), or near +7. Its q are rounded, and then the best scale for these q is
// sum(w q) / sum(q^2), with which the error is sum(w^2) - sum(w q)^2 / sum(q^2).
inline void quantize4(const float (*w)[kPanel], uint16_t* scales, uint8_t (*q)[kPanel]) {
  constexpr float kRound = 12582912.0f;
  static constexpr float kTargets[] = {-8.0f, -8.3f, -7.7f, -7.4f, -7.1f, -6.8f, -6.5f,
                                       7.0f,  7.3f,  6.7f,  6.4f};
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
        float v = w[k][n] * inverse[n];
        v = (v + kRound) - kRound;
        v = v < -8.0f ? -8.0f : v;
        v = v > 7.0f ? 7.0f : v;
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
  for (int n = 0; n < kPanel; ++n) {
    scales[n] = float_to_half(best[n]);
    const float scale = half_to_float(scales[n]);
    const float inverse = scale == 0.0f ? 0.0f : 1.0f / scale;
    for (int k = 0; k < kGroup; ++k) {
      float v = (w[k][n] * inverse + kRound) - kRound;
      v = v < -8.0f ? -8.0f : v;
      v = v > 7.0f ? 7.0f : v;
      q[k][n] = uint8_t(int(v) + 8);
    }
  }
}

}  // namespace everloop
