// Products of one panel with a few rows, with AVX-512 VNNI.
//
// A tile of 6 rows x 64 outputs fills 24 of the 32 registers: each load of weights meets 6 rows.
#pragma once
#include <immintrin.h>

#include "tile.h"
#include "matrix.h"

namespace everloop::EVERLOOP_ISA {

constexpr int kTileRows8 = 6, kTileRows4 = 5;

inline __m512i broadcast4(const int8_t* x) {
  int32_t four;
  __builtin_memcpy(&four, x, 4);
  return _mm512_set1_epi32(four);
}

// tile[r][n] = sum_k w[n][k] x[r][k] in integers; `start` holds -128 times each row's sum.
template <int R>
inline void product8(const uint8_t* w, int inputs, const int8_t* x, size_t stride,
                     const int32_t* start, Ahead ahead, int32_t (*tile)[kPanel]) {
  __m512i acc[R][4];
  EVERLOOP_UNROLL
  for (int r = 0; r < R; ++r)
    EVERLOOP_UNROLL
    for (int j = 0; j < 4; ++j) acc[r][j] = _mm512_set1_epi32(start[r]);
  for (int k = 0; k < inputs; k += 4, w += 4 * kPanel) {
    __m512i weights[4];
    EVERLOOP_UNROLL
    for (int j = 0; j < 4; ++j) weights[j] = _mm512_loadu_si512(w + 64 * j);
    ahead.step();
    EVERLOOP_UNROLL
    for (int r = 0; r < R; ++r) {
      const __m512i four = broadcast4(x + r * stride + k);
      EVERLOOP_UNROLL
      for (int j = 0; j < 4; ++j) acc[r][j] = _mm512_dpbusd_epi32(acc[r][j], weights[j], four);
    }
  }
  EVERLOOP_UNROLL
  for (int r = 0; r < R; ++r)
    EVERLOOP_UNROLL
    for (int j = 0; j < 4; ++j) _mm512_storeu_si512(tile[r] + 16 * j, acc[r][j]);
}

// tile[r][n] = sum over groups, in order, of scale[group][n] times the group's integer product;
// `sums` holds each row's sums over the groups.
template <int R>
inline void product4(const uint8_t* w, int groups, const int8_t* x, size_t stride,
                     const int32_t* sums, Ahead ahead, float (*tile)[kPanel]) {
  const __m512i low = _mm512_set1_epi8(15);
  EVERLOOP_UNROLL
  for (int r = 0; r < R; ++r)
    EVERLOOP_UNROLL
    for (int j = 0; j < 4; ++j) _mm512_storeu_ps(tile[r] + 16 * j, _mm512_setzero_ps());
  for (int g = 0; g < groups; ++g, x += kGroup) {
    const uint8_t* scales = w;
    w += 2 * kPanel;
    __m512i acc[R][4];
    EVERLOOP_UNROLL
    for (int r = 0; r < R; ++r)
      EVERLOOP_UNROLL
      for (int j = 0; j < 4; ++j) acc[r][j] = _mm512_set1_epi32(-8 * sums[r * groups + g]);
    EVERLOOP_UNROLL
    for (int k = 0; k < kGroup; k += 8, w += 4 * kPanel) {
      __m512i packed[4], weights[4];
      EVERLOOP_UNROLL
      for (int j = 0; j < 4; ++j) packed[j] = _mm512_loadu_si512(w + 64 * j);
      ahead.step();
      EVERLOOP_UNROLL
      for (int j = 0; j < 4; ++j) weights[j] = _mm512_and_si512(packed[j], low);
      EVERLOOP_UNROLL
      for (int r = 0; r < R; ++r) {
        const __m512i four = broadcast4(x + r * stride + k);
        EVERLOOP_UNROLL
        for (int j = 0; j < 4; ++j) acc[r][j] = _mm512_dpbusd_epi32(acc[r][j], weights[j], four);
      }
      EVERLOOP_UNROLL
      for (int j = 0; j < 4; ++j)
        weights[j] = _mm512_and_si512(_mm512_srli_epi16(packed[j], 4), low);
      EVERLOOP_UNROLL
      for (int r = 0; r < R; ++r) {
        const __m512i four = broadcast4(x + r * stride + k + 4);
        EVERLOOP_UNROLL
        for (int j = 0; j < 4; ++j) acc[r][j] = _mm512_dpbusd_epi32(acc[r][j], weights[j], four);
      }
    }
    __m512 scale[4];
    EVERLOOP_UNROLL
    for (int j = 0; j < 4; ++j)
      scale[j] = _mm512_cvtph_ps(
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(scales + 32 * j)));
    EVERLOOP_UNROLL
    for (int r = 0; r < R; ++r)
      EVERLOOP_UNROLL
      for (int j = 0; j < 4; ++j) {
        float* total = tile[r] + 16 * j;
        _mm512_storeu_ps(total,
                         _mm512_add_ps(_mm512_loadu_ps(total),
                                       _mm512_mul_ps(_mm512_cvtepi32_ps(acc[r][j]), scale[j])));
      }
  }
}

}  // namespace everloop::EVERLOOP_ISA
