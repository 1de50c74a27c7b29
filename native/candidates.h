// Tokens with their weights as whole numbers that are ordered as tokens are drawn: the heaviest
// first, the lowest id among equals. Without sorting: in two parts by a pivot, again and again.
#pragma once
#include <cstdint>
#include <cstring>

#include "weigh.h"

namespace everloop::EVERLOOP_ISA {

inline uint64_t candidate(float weight, int token) {
  uint32_t bits;
  std::memcpy(&bits, &weight, 4);
  return uint64_t(bits) << 32 | ~uint32_t(token);
}

inline double weight_of(uint64_t candidate) {
  const uint32_t bits = uint32_t(candidate >> 32);
  float weight;
  std::memcpy(&weight, &bits, 4);
  return double(weight);
}

// The candidates of at least `floor`, above zero, to `out` (room for 8 more); returns how many and,
// in `sum`, their weights.
inline int gather(const float* weights, int n, float floor, uint64_t* out, double* sum) {
  int count = 0, i = 0;
  Sums sums;
#if defined(__AVX512F__)
  const __m512 least = _mm512_set1_ps(floor);
  __m512i ids = _mm512_xor_si512(_mm512_set1_epi32(-1), _mm512_setr_epi32(
      0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
  for (; i + 16 <= n; i += 16) {
    const __m512 w = _mm512_loadu_ps(weights + i);
    const __mmask16 hits = _mm512_cmp_ps_mask(w, least, _CMP_GE_OQ);
    if (hits) {
      const auto half = [&](__m256i bits, __m256i id, uint32_t mask) {
        const __m512i both = _mm512_or_si512(_mm512_slli_epi64(_mm512_cvtepu32_epi64(bits), 32),
                                             _mm512_cvtepu32_epi64(id));
        _mm512_storeu_si512(out + count, _mm512_maskz_compress_epi64(__mmask8(mask), both));
        count += __builtin_popcount(mask);
      };
      const __m512i bits = _mm512_castps_si512(w);
      sums.add(_mm512_maskz_mov_ps(hits, w));
      half(_mm512_castsi512_si256(bits), _mm512_castsi512_si256(ids), hits & 255);
      half(_mm512_extracti64x4_epi64(bits, 1), _mm512_extracti64x4_epi64(ids, 1), hits >> 8);
    }
    ids = _mm512_sub_epi32(ids, _mm512_set1_epi32(16));
  }
#endif
  double parts[8];
  sums.store(parts);
  for (; i < n; ++i) {
    const bool hit = weights[i] >= floor;
    out[count] = candidate(weights[i], i);
    parts[i % 8] += hit ? double(weights[i]) : 0.0;
    count += hit;
  }
  *sum = add(parts);
  return count;
}

// Moves candidates of at least `pivot` to the front; returns how many and, in `sum`, their weights.
// `spare` has room for n + 8.
inline int split(uint64_t* all, int n, uint64_t pivot, uint64_t* spare, double* sum) {
  int high = 0, low = 0, i = 0;
  double total = 0.0;
#if defined(__AVX512F__)
  const __m512i least = _mm512_set1_epi64(int64_t(pivot));
  __m512d sums = _mm512_setzero_pd();
  for (; i + 8 <= n; i += 8) {  // what is written over has been read
    const __m512i some = _mm512_loadu_si512(all + i);
    const __mmask8 mask = _mm512_cmpge_epu64_mask(some, least);
    const __m256 weights = _mm256_castsi256_ps(_mm512_cvtepi64_epi32(_mm512_srli_epi64(some, 32)));
    sums = _mm512_mask_add_pd(sums, mask, sums, _mm512_cvtps_pd(weights));
    _mm512_storeu_si512(all + high, _mm512_maskz_compress_epi64(mask, some));
    _mm512_storeu_si512(spare + low, _mm512_maskz_compress_epi64(__mmask8(~mask), some));
    const int hits = __builtin_popcount(mask);
    high += hits;
    low += 8 - hits;
  }
  double parts[8];
  _mm512_storeu_pd(parts, sums);
  total = add(parts);
#endif
  for (; i < n; ++i) {
    const uint64_t one = all[i];
    const bool hit = one >= pivot;
    total += hit ? weight_of(one) : 0.0;
    all[high] = one;
    spare[low] = one;
    high += hit;
    low += !hit;
  }
  std::memcpy(all + high, spare, sizeof(uint64_t) * size_t(low));
  *sum = total;
  return high;
}

}  // namespace everloop::EVERLOOP_ISA
