// Rows of logits to weights: the part of sampling that touches the whole vocabulary.
#pragma once
#include <limits>

#include "simd.h"

namespace everloop::EVERLOOP_ISA {

inline bool bounds(const float* x, int n, float* most) {
  const float infinity = std::numeric_limits<float>::infinity();
  Vec best = set1(-infinity), zero = set1(0.0f);
  int i = 0;
  // x * 0 is NaN for NaN and infinities alike, and NaN stays in a sum.
  for (; i + kLanes <= n; i += kLanes) {
    const Vec v = load(x + i);
    best = max(v, best);
    zero = fma(v, set1(0.0f), zero);
  }
  float top = largest(best), check = sum(zero);
  for (; i < n; ++i) {
    top = x[i] > top ? x[i] : top;
    check += x[i] * 0.0f;
  }
  *most = top;
  return check == 0.0f;
}

inline int argmax(const float* x, int n) {
  float top;
  if (!bounds(x, n, &top)) return -1;
  for (int i = 0; i < n; ++i)
    if (x[i] == top) return i;
  return -1;
}

inline bool weigh(const float* x, int n, float temperature, float* w, double* total) {
  float top;
  if (!bounds(x, n, &top)) return false;
  const float inverse = 1.0f / temperature;
  const Vec t = set1(top), s = set1(inverse);
  double parts[8] = {};
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const Vec v = exp((load(x + i) - t) * s);
    store(w + i, v);
    for (int j = 0; j < kLanes; ++j) parts[j % 8] += double(w[i + j]);
  }
  for (; i < n; ++i) {
    float one[kLanes] = {};
    one[0] = (x[i] - top) * inverse;
    store(one, exp(load(one)));
    w[i] = one[0];
    parts[0] += double(one[0]);
  }
  *total = ((parts[0] + parts[4]) + (parts[1] + parts[5])) +
           ((parts[2] + parts[6]) + (parts[3] + parts[7]));
  return true;
}

}  // namespace everloop::EVERLOOP_ISA
