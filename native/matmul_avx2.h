// Products of one panel with a few rows, with AVX2.
//
// vpmaddubsw adds two products of bytes in 16 bits and saturates, so it gets numbers that can't
// reach that: 8-bit weights as |q| <= 128 with their sign moved to the row (2 * 128 * 127 fits),
// and 4-bit weights as they are, 0 to 15 (16 of those products fit too, so that a whole group is
// summed before it is widened).
#pragma once
#include <immintrin.h>

#include "tile.h"
#include "matrix.h"

namespace everloop::EVERLOOP_ISA {

constexpr int kTileRows8 = 4, kTileRows4 = 4;

inline __m256i load_bytes(const uint8_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}

inline __m256i broadcast4(const int8_t* x) {
  int32_t four;
  __builtin_memcpy(&four, x, 4);
  return _mm256_set1_epi32(four);
}

// `R` rows by `J` vectors of 8 outputs from n on, so many that the sums stay in registers.
template <int R, int J>
inline void strip8(const uint8_t* w, int n, int inputs, const int8_t* x, size_t stride,
                   Ahead ahead, int32_t (*tile)[kPanel]) {
  const __m256i ones = _mm256_set1_epi16(1), flip = _mm256_set1_epi8(-128);
  __m256i acc[R][J];
  EVERLOOP_UNROLL
  for (int r = 0; r < R; ++r)
    EVERLOOP_UNROLL
    for (int j = 0; j < J; ++j) acc[r][j] = _mm256_setzero_si256();
  for (int k = 0; k < inputs; k += 4, w += 4 * kPanel) {
    if (n == 0) ahead.step();
    __m256i four[R];
    EVERLOOP_UNROLL
    for (int r = 0; r < R; ++r) four[r] = broadcast4(x + r * stride + k);
    EVERLOOP_UNROLL
    for (int j = 0; j < J; ++j) {
      const __m256i q = _mm256_xor_si256(load_bytes(w + 32 * j), flip);
      const __m256i magnitude = _mm256_abs_epi8(q);
      EVERLOOP_UNROLL
      for (int r = 0; r < R; ++r) {
        const __m256i pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(four[r], q));
        acc[r][j] = _mm256_add_epi32(acc[r][j], _mm256_madd_epi16(pairs, ones));
      }
    }
  }
  EVERLOOP_UNROLL
  for (int r = 0; r < R; ++r)
    EVERLOOP_UNROLL
    for (int j = 0; j < J; ++j)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(tile[r] + n + 8 * j), acc[r][j]);
}

// tile[r][n] = sum_k q[n][k] x[r][k] in integers. Nothing is needed to start from.
template <int R>
inline void product8(const uint8_t* w, int inputs, const int8_t* x, size_t stride, const int32_t*,
                     Ahead ahead, int32_t (*tile)[kPanel]) {
  constexpr int J = R == 1 ? 8 : R == 2 ? 4 : 2;
  for (int n = 0; n < kPanel; n += 8 * J)
    strip8<R, J>(w + 4 * n, n, inputs, x, stride, ahead, tile);
}

// One group's integer products of J vectors of outputs, without the 8 that is in each weight.
template <int R, int J>
inline void group4(const uint8_t* w, int n, const int8_t* x, size_t stride, Ahead& ahead,
                   __m256i (&acc)[R][J]) {
  const __m256i low = _mm256_set1_epi8(15);
  EVERLOOP_UNROLL
  for (int r = 0; r < R; ++r)
    EVERLOOP_UNROLL
    for (int j = 0; j < J; ++j) acc[r][j] = _mm256_setzero_si256();
  for (int k = 0; k < kGroup; k += 8, w += 4 * kPanel) {
    if (n == 0) ahead.step();
    EVERLOOP_UNROLL
    for (int j = 0; j < J; ++j) {
      const __m256i packed = load_bytes(w + 32 * j);
      const __m256i first = _mm256_and_si256(packed, low);
      const __m256i second = _mm256_and_si256(_mm256_srli_epi16(packed, 4), low);
      EVERLOOP_UNROLL
      for (int r = 0; r < R; ++r) {
        const int8_t* eight = x + r * stride + k;
        acc[r][j] =
            _mm256_add_epi16(acc[r][j], _mm256_maddubs_epi16(first, broadcast4(eight)));
        acc[r][j] =
            _mm256_add_epi16(acc[r][j], _mm256_maddubs_epi16(second, broadcast4(eight + 4)));
      }
    }
  }
}

// tile[r][n] = sum over groups, in order, of scale[group][n] times the group's integer product;
// `sums` holds each row's sums over the groups.
template <int R>
inline void product4(const uint8_t* w, int groups, const int8_t* x, size_t stride,
                     const int32_t* sums, Ahead ahead, float (*tile)[kPanel]) {
  constexpr int J = R == 1 ? 8 : R == 2 ? 4 : 2;
  const __m256i ones = _mm256_set1_epi16(1);
  EVERLOOP_UNROLL
  for (int r = 0; r < R; ++r)
    for (int n = 0; n < kPanel; ++n) tile[r][n] = 0.0f;
  for (int g = 0; g < groups; ++g, x += kGroup) {
    const uint8_t* scales = w;
    w += 2 * kPanel;
    for (int n = 0; n < kPanel; n += 8 * J) {
      __m256i acc[R][J];
      group4<R, J>(w + 4 * n, n, x, stride, ahead, acc);
      EVERLOOP_UNROLL
      for (int j = 0; j < J; ++j) {
        const int at = n + 8 * j;
        const __m256 scale = _mm256_cvtph_ps(
            _mm_loadu_si128(reinterpret_cast<const __m128i*>(scales + 2 * at)));
        EVERLOOP_UNROLL
        for (int r = 0; r < R; ++r) {
          const __m256i product = _mm256_add_epi32(_mm256_madd_epi16(acc[r][j], ones),
                                                   _mm256_set1_epi32(-8 * sums[r * groups + g]));
          float* total = tile[r] + at;
          _mm256_storeu_ps(total, _mm256_add_ps(_mm256_loadu_ps(total),
                                                _mm256_mul_ps(_mm256_cvtepi32_ps(product), scale)));
        }
      }
    }
    w += kPanel * kGroup / 2;
  }
}

}  // namespace everloop::EVERLOOP_ISA
