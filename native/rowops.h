// Work on single rows: norms and the rotary embedding.
#pragma once
#include "simd.h"

namespace everloop::EVERLOOP_ISA {

// 1 / sqrt(mean(x^2) + eps) over n values.
inline float rms_scale(const float* x, int n, float eps) {
  Vec total = set1(0.0f);
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const Vec v = load(x + i);
    total = fma(v, v, total);
  }
  float rest = 0.0f;
  for (; i < n; ++i) rest += x[i] * x[i];
  return 1.0f / std::sqrt((sum(total) + rest) / float(n) + eps);
}

// Root-mean-square norm (Zhang and Sennrich 2019) of one row; `out` may be `x`.
inline void norm_row(const float* x, const float* weight, int n, float eps, float* out) {
  const float scale = rms_scale(x, n, eps);
  const Vec s = set1(scale);
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) store(out + i, load(x + i) * s * load(weight + i));
  for (; i < n; ++i) out[i] = x[i] * scale * weight[i];
}

// Norms (unless `weight` is null) and rotates one head of `dim` channels in the half-split form;
// `cosine` and `sine` have dim/2 values; the result is scaled.
inline void rotate_head(float* x, const float* weight, int dim, float eps, const float* cosine,
                        const float* sine, float scale) {
  if (weight) norm_row(x, weight, dim, eps, x);
  const int half = dim / 2;
  const Vec s = set1(scale);
  int i = 0;
  for (; i + kLanes <= half; i += kLanes) {
    const Vec c = load(cosine + i) * s, n = load(sine + i) * s;
    const Vec low = load(x + i), high = load(x + half + i);
    store(x + i, fma(low, c, set1(0.0f) - high * n));
    store(x + half + i, fma(high, c, low * n));
  }
  for (; i < half; ++i) {
    const float c = cosine[i] * scale, n = sine[i] * scale, low = x[i], high = x[half + i];
    x[i] = low * c - high * n;
    x[half + i] = high * c + low * n;
  }
}

}  // namespace everloop::EVERLOOP_ISA
