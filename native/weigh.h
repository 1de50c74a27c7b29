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
  constexpr int kStretch = 256;
  for (int i = 0; i < n; i += kStretch) {
    const int end = i + kStretch < n ? i + kStretch : n;
    int found = 0;
    for (int j = i; j < end; ++j) found += x[j] == top;  // no branch: many at once
    for (int j = i; found && j < end; ++j)
      if (x[j] == top) return j;
  }
  return -1;
}

// Eight sums in double: lane i of a vector adds to sum i mod 8.
struct Sums {
#if defined(__AVX512F__)
  __m512d sums = _mm512_setzero_pd();
  void add(Vec v) {
    sums = _mm512_add_pd(sums, _mm512_cvtps_pd(_mm512_castps512_ps256(v)));
    sums = _mm512_add_pd(sums, _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1)));
  }
  void store(double* to) const { _mm512_storeu_pd(to, sums); }
#elif defined(__AVX2__)
  __m256d low = _mm256_setzero_pd(), high = _mm256_setzero_pd();
  void add(Vec v) {
    low = _mm256_add_pd(low, _mm256_cvtps_pd(_mm256_castps256_ps128(v)));
    high = _mm256_add_pd(high, _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1)));
  }
  void store(double* to) const {
    _mm256_storeu_pd(to, low);
    _mm256_storeu_pd(to + 4, high);
  }
#else
  double sums[8] = {};
  void add(Vec v) {
    for (int j = 0; j < kLanes; ++j) sums[j] += double(v[j]);
  }
  void store(double* to) const { std::memcpy(to, sums, sizeof sums); }
#endif
};

inline double add(const double* parts) {
  return ((parts[0] + parts[4]) + (parts[1] + parts[5])) +
         ((parts[2] + parts[6]) + (parts[3] + parts[7]));
}

inline bool weigh(const float* x, int n, float temperature, float* w, double* total) {
  float top;
  if (!bounds(x, n, &top)) return false;
  const float inverse = 1.0f / temperature;
  const Vec t = set1(top), s = set1(inverse);
  Sums sums;
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const Vec v = exp((load(x + i) - t) * s);
    store(w + i, v);
    sums.add(v);
  }
  double parts[8];
  sums.store(parts);
  for (; i < n; ++i) {
    float one[kLanes] = {};
    one[0] = (x[i] - top) * inverse;
    store(one, exp(load(one)));
    w[i] = one[0];
    parts[0] += double(one[0]);
  }
  *total = add(parts);
  return true;
}

}  // namespace everloop::EVERLOOP_ISA
