// Pairs of neighbouring bfloat16 numbers, one pair in each lane of 32 bits, and their dot products
// in float32.
//
// AVX-512 BF16 multiplies two pairs in one instruction. Everywhere else a pair is taken apart: the
// upper 16 bits of a float are a bfloat16, so that costs a shift and a mask, and what waits to be
// multiplied with many pairs stays in float32, rounded to the same numbers.
#pragma once
#include "simd.h"

namespace everloop::EVERLOOP_ISA {

#if defined(__AVX512F__)
using Bits = __m512i;
inline Bits load_bits(const void* p) { return _mm512_loadu_si512(p); }
inline Vec as_floats(Bits b) { return _mm512_castsi512_ps(b); }
inline Bits as_bits(Vec v) { return _mm512_castps_si512(v); }
inline Bits shift_up(Bits b) { return _mm512_slli_epi32(b, 16); }
inline Bits upper(Bits b) { return _mm512_and_si512(b, _mm512_set1_epi32(int(0xffff0000))); }
inline Bits up_half(Bits b) {
  const Bits odd = _mm512_and_si512(_mm512_srli_epi32(b, 16), _mm512_set1_epi32(1));
  return _mm512_add_epi32(b, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
}
inline Vec unless_nan(Vec v, Vec other) {
  return _mm512_mask_mov_ps(other, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), v);
}
#elif defined(__AVX2__)
using Bits = __m256i;
inline Bits load_bits(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
inline Vec as_floats(Bits b) { return _mm256_castsi256_ps(b); }
inline Bits as_bits(Vec v) { return _mm256_castps_si256(v); }
inline Bits shift_up(Bits b) { return _mm256_slli_epi32(b, 16); }
inline Bits upper(Bits b) { return _mm256_and_si256(b, _mm256_set1_epi32(int(0xffff0000))); }
inline Bits up_half(Bits b) {
  const Bits odd = _mm256_and_si256(_mm256_srli_epi32(b, 16), _mm256_set1_epi32(1));
  return _mm256_add_epi32(b, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
}
inline Vec unless_nan(Vec v, Vec other) {
  return _mm256_blendv_ps(other, v, _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
}
#else
typedef uint32_t Bits __attribute__((vector_size(16)));
inline Bits load_bits(const void* p) {
  Bits b;
  std::memcpy(&b, p, sizeof b);
  return b;
}
inline Vec as_floats(Bits b) { return (Vec)b; }
inline Bits as_bits(Vec v) { return (Bits)v; }
inline Bits shift_up(Bits b) { return b << 16; }
inline Bits upper(Bits b) { return b & 0xffff0000u; }
inline Bits up_half(Bits b) { return b + ((b >> 16) & 1) + 0x7fff; }
inline Vec unless_nan(Vec v, Vec other) { return v == v ? other : v; }
#endif

// The nearest bfloat16, ties to even, in the upper half of a float.
inline Vec to_bfloat16(Vec v) { return unless_nan(v, as_floats(upper(up_half(as_bits(v))))); }

#if defined(__AVX512BF16__)

using Bf16Pairs = __m512bh;
using Part = uint16_t;  // a number that waits for its products
inline Bf16Pairs load_pairs(const uint16_t* p) { return (Bf16Pairs)_mm512_loadu_si512(p); }
inline Bf16Pairs spread(const Part* p) {
  int32_t pair;
  std::memcpy(&pair, p, 4);
  return (Bf16Pairs)_mm512_set1_epi32(pair);
}
inline Vec dot(Bf16Pairs a, Bf16Pairs b, Vec sum) { return _mm512_dpbf16_ps(sum, a, b); }
// Rounds 2 kLanes neighbours; returns `sums` with them added.
inline Vec narrow(Vec low, Vec high, Part* out, Vec sums) {
  const Bf16Pairs p = _mm512_cvtne2ps_pbh(high, low);
  _mm512_storeu_si512(out, (__m512i)p);
  return dot(p, (Bf16Pairs)_mm512_set1_epi16(0x3f80), sums);
}

#else

struct Bf16Pairs {
  Vec even, odd;
};
using Part = float;
inline Bf16Pairs load_pairs(const uint16_t* p) {
  const Bits b = load_bits(p);
  return {as_floats(shift_up(b)), as_floats(upper(b))};
}
inline Bf16Pairs spread(const Part* p) { return {set1(p[0]), set1(p[1])}; }
inline Vec dot(Bf16Pairs a, Bf16Pairs b, Vec sum) {
  return fma(a.even, b.even, fma(a.odd, b.odd, sum));
}
inline Vec narrow(Vec low, Vec high, Part* out, Vec sums) {
  low = to_bfloat16(low);
  high = to_bfloat16(high);
  store(out, low);
  store(out + kLanes, high);
  return sums + low + high;
}

#endif

}  // namespace everloop::EVERLOOP_ISA
