// Rounding that makes up for its own errors.
//
// A weight's rounding error moves its output by the error times the input. Inputs of a layer are
// far from independent: a few directions hold most of what they are. So each weight is rounded
// after a correction that leaves the outputs along these directions where they should be, at the
// least cost elsewhere. With x_k the component of input k in the directions, d_j the errors made
// so far and H = X X' + lambda, the correction that is best for all weights still to come is
//   -y_k . e,  e = sum_j<k d_j x_j,  y_k = (lambda + sum_j>=k x_j x_j')^-1 x_k
// (optimal brain quantization with this H, Frantar and others 2022, arXiv 2208.11580 and
// 2210.17323, written in the few directions instead of the many inputs).
#pragma once
#include <cstring>

#include "matrix.h"

namespace everloop {

constexpr int kDirections = 16;

// Of each padded input: its components and its responses, kDirections of each.
struct Directions {
  const float* x = nullptr;
  const float* y = nullptr;
};

// The responses y to the components x; `rest` is lambda.
inline void respond(const float* x, int inputs, double rest, float* y) {
  double inverse[kDirections][kDirections] = {};
  for (int i = 0; i < kDirections; ++i) inverse[i][i] = 1.0 / rest;
  for (int k = inputs - 1; k >= 0; --k) {
    const float* xk = x + size_t(k) * kDirections;
    double a[kDirections] = {}, whole = 1.0;
    for (int i = 0; i < kDirections; ++i) {
      for (int j = 0; j < kDirections; ++j) a[i] += inverse[i][j] * double(xk[j]);
      whole += a[i] * double(xk[i]);
    }
    for (int i = 0; i < kDirections; ++i) {
      y[size_t(k) * kDirections + i] = float(a[i] / whole);
      for (int j = 0; j < kDirections; ++j) inverse[i][j] -= a[i] * a[j] / whole;
    }
  }
}

// Rounds `count` inputs of a panel's outputs to whole numbers in [low, high], in order. `scale` and
// `inverse` are one an output, `error` is e of each output and is carried on.
inline __attribute__((always_inline)) void compensate(const float (*w)[kPanel], int count,
                                                      const float* scale, const float* inverse,
                                                      float low, float high, const float* x,
                                                      const float* y, float (*error)[kPanel],
                                                      float (*q)[kPanel]) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: added and taken away, it rounds to even
  for (int k = 0; k < count; ++k, x += kDirections, y += kDirections) {
    alignas(64) float shift[kPanel] = {}, made[kPanel];
    for (int d = 0; d < kDirections; ++d)
      for (int n = 0; n < kPanel; ++n) shift[n] += error[d][n] * y[d];
    for (int n = 0; n < kPanel; ++n) {
      float v = (w[k][n] - shift[n]) * inverse[n];
      v = v > low ? v : low;  // in this order no NaN gets through
      v = v < high ? v : high;
      v = (v + kRound) - kRound;
      q[k][n] = v;
      made[n] = v * scale[n] - w[k][n];
    }
    for (int d = 0; d < kDirections; ++d)
      for (int n = 0; n < kPanel; ++n) error[d][n] += made[n] * x[d];
  }
}

using Compensate = decltype(&compensate);

#if defined(__x86_64__)
__attribute__((target("avx2"))) inline void compensate_avx2(
    const float (*w)[kPanel], int count, const float* scale, const float* inverse, float low,
    float high, const float* x, const float* y, float (*error)[kPanel], float (*q)[kPanel]) {
  compensate(w, count, scale, inverse, low, high, x, y, error, q);
}
#endif

}  // namespace everloop
