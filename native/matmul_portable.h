// Products of one panel with a few rows, for any processor that the compiler knows.
//
// 16-bit lanes hold two neighbouring inputs of an output. q * x is at most 127 * 127, so two of
// them fit a lane, and in 4 bits all of a group.
#pragma once
#include <cstring>

#include "tile.h"
#include "half.h"
#include "matrix.h"

namespace everloop::EVERLOOP_ISA {

constexpr int kTileRows8 = 4, kTileRows4 = 4;

typedef int16_t Shorts __attribute__((vector_size(16)));
typedef uint16_t Words __attribute__((vector_size(16)));
typedef int32_t Ints __attribute__((vector_size(16)));

// Inputs 0 and 2, and 1 and 3, of each output.
struct Pairs {
  Shorts even, odd;
};

inline Pairs split(Words bytes) {  // of signed bytes, on any byte order that puts input 0 lowest
  return {Shorts(bytes << 8) >> 8, Shorts(bytes) >> 8};
}

inline Pairs broadcast4(const int8_t* x) {
  const int16_t a = x[0], b = x[1], c = x[2], d = x[3];
  return {Shorts{a, c, a, c, a, c, a, c}, Shorts{b, d, b, d, b, d, b, d}};
}

inline Words load_words(const uint8_t* p) {
  Words v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

// The sums of neighbouring lanes.
inline Ints add_pairs(Shorts v) {
  const Ints both = Ints(v);
  return ((both << 16) >> 16) + (both >> 16);
}

template <int R>
inline void product8(const uint8_t* w, int inputs, const int8_t* x, size_t stride, const int32_t*,
                     Ahead ahead, int32_t (*tile)[kPanel]) {
  Words flip;
  for (int i = 0; i < 8; ++i) flip[i] = 0x8080;
  EVERLOOP_UNROLL
  for (int r = 0; r < R; ++r) std::memset(tile[r], 0, sizeof tile[r]);
  for (int k = 0; k < inputs; k += 4, w += 4 * kPanel) {
    ahead.step();
    Pairs four[R];
    EVERLOOP_UNROLL
    for (int r = 0; r < R; ++r) four[r] = broadcast4(x + r * stride + k);
    for (int n = 0; n < kPanel; n += 4) {
      const Pairs q = split(load_words(w + 4 * n) ^ flip);
      EVERLOOP_UNROLL
      for (int r = 0; r < R; ++r) {
        Ints total;
        std::memcpy(&total, tile[r] + n, sizeof total);
        total += add_pairs(q.even * four[r].even + q.odd * four[r].odd);
        std::memcpy(tile[r] + n, &total, sizeof total);
      }
    }
  }
}

template <int R>
inline void product4(const uint8_t* w, int groups, const int8_t* x, size_t stride,
                     const int32_t* sums, Ahead ahead, float (*tile)[kPanel]) {
  EVERLOOP_UNROLL
  for (int r = 0; r < R; ++r) std::memset(tile[r], 0, sizeof tile[r]);
  for (int g = 0; g < groups; ++g, x += kGroup, w += kPanel * (2 + kGroup / 2)) {
    const uint8_t* weights = w + 2 * kPanel;
    Pairs fours[R][kGroup / 4];
    EVERLOOP_UNROLL
    for (int r = 0; r < R; ++r)
      for (int k = 0; k < kGroup; k += 4) fours[r][k / 4] = broadcast4(x + r * stride + k);
    for (int n = 0; n < kPanel; n += 4) {
      if (n % 16 == 0) ahead.step();
      Shorts acc[R] = {};
      for (int k = 0; k < kGroup; k += 8) {
        const Words packed = load_words(weights + k / 8 * 4 * kPanel + 4 * n);
        const Pairs low = split(packed & 0x0f0f), high = split((packed >> 4) & 0x0f0f);
        EVERLOOP_UNROLL
        for (int r = 0; r < R; ++r) {
          const Pairs &first = fours[r][k / 4], &second = fours[r][k / 4 + 1];
          acc[r] += low.even * first.even + low.odd * first.odd;
          acc[r] += high.even * second.even + high.odd * second.odd;
        }
      }
      float scale[4];
      for (int i = 0; i < 4; ++i) {
        uint16_t half;
        std::memcpy(&half, w + 2 * (n + i), sizeof half);
        scale[i] = half_to_float(half);
      }
      EVERLOOP_UNROLL
      for (int r = 0; r < R; ++r) {
        const Ints product = add_pairs(acc[r]) - 8 * sums[r * groups + g];
        for (int i = 0; i < 4; ++i) {
          const float part = float(product[i]) * scale[i];
          tile[r][n + i] += part;
        }
      }
    }
  }
}

}  // namespace everloop::EVERLOOP_ISA
