// Vectors of floats for the instruction set that this unit is compiled for.
//
// One source serves AVX-512, AVX2 and plain compilers. A lane's result never depends on the other
// lanes, and a sum over lanes has one fixed order, so equal inputs give equal bits wherever they
// stand in a batch.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace everloop::EVERLOOP_ISA {

#if defined(__AVX512F__)

using Vec = __m512;
constexpr int kLanes = 16;
inline Vec load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
inline Vec set1(float x) { return _mm512_set1_ps(x); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
inline Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
inline Vec min(Vec a, Vec b) { return _mm512_min_ps(a, b); }
inline Vec round(Vec a) { return _mm512_roundscale_ps(a, 0); }
// 2^n for whole n in [-126, 127].
inline Vec exp2_whole(Vec n) {
  const __m512i i = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
  return _mm512_castsi512_ps(_mm512_slli_epi32(i, 23));
}
inline Vec load_half(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline void store_half(uint16_t* p, Vec v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(v, 0));
}

#elif defined(__AVX2__)

using Vec = __m256;
constexpr int kLanes = 8;
inline Vec load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
inline Vec set1(float x) { return _mm256_set1_ps(x); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
inline Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
inline Vec min(Vec a, Vec b) { return _mm256_min_ps(a, b); }
inline Vec round(Vec a) { return _mm256_round_ps(a, 0); }
inline Vec round_down(Vec a) { return _mm256_floor_ps(a); }
inline Vec exp2_whole(Vec n) {
  const __m256i i = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(i, 23));
}
inline Vec load_half(const uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline void store_half(uint16_t* p, Vec v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, 0));
}

#else

typedef float Vec __attribute__((vector_size(16)));
constexpr int kLanes = 4;
inline Vec load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void store(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }
inline Vec set1(float x) { return Vec{x, x, x, x}; }
inline Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }
inline Vec max(Vec a, Vec b) { return a > b ? a : b; }
inline Vec min(Vec a, Vec b) { return a < b ? a : b; }
inline Vec round(Vec a) {
  for (int i = 0; i < kLanes; ++i) a[i] = std::nearbyint(a[i]);
  return a;
}
inline Vec round_down(Vec a) {
  for (int i = 0; i < kLanes; ++i) a[i] = std::floor(a[i]);
  return a;
}
inline Vec exp2_whole(Vec n) {
  for (int i = 0; i < kLanes; ++i) n[i] = std::ldexp(1.0f, int(n[i]));
  return n;
}
inline float from_half(uint16_t h) {
  const uint32_t sign = uint32_t(h & 0x8000) << 16, rest = h & 0x7fff;
  uint32_t bits = (rest << 13) + (112u << 23);
  float x;
  if (rest >= 0x7c00) {
    bits += 112u << 23;  // infinity and NaN
  } else if (rest < 0x0400) {
    const float small = float(rest) * 5.9604644775390625e-8f;  // 2^-24: subnormal
    std::memcpy(&bits, &small, 4);
  }
  bits |= sign;
  std::memcpy(&x, &bits, 4);
  return x;
}
inline uint16_t to_half(float x) {  // to the nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  const uint16_t sign = uint16_t((bits >> 16) & 0x8000);
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return sign | 0x7e00;
  if (bits >= 0x477ff000) return sign | 0x7c00;
  if (bits < 0x38800000) {
    float magnitude;
    std::memcpy(&magnitude, &bits, 4);
    return sign | uint16_t(std::nearbyint(magnitude * 16777216.0f));
  }
  bits += 0xfff + ((bits >> 13) & 1);
  return sign | uint16_t((bits - (112u << 23)) >> 13);
}
inline Vec load_half(const uint16_t* p) {
  return Vec{from_half(p[0]), from_half(p[1]), from_half(p[2]), from_half(p[3])};
}
inline void store_half(uint16_t* p, Vec v) {
  for (int i = 0; i < kLanes; ++i) p[i] = to_half(v[i]);
}

#endif

inline float sum(Vec v) {
  float lanes[kLanes];
  store(lanes, v);
  for (int half = kLanes / 2; half; half /= 2)
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  return lanes[0];
}

inline float largest(Vec v) {
  float lanes[kLanes];
  store(lanes, v);
  float best = lanes[0];
  for (int i = 1; i < kLanes; ++i) best = lanes[i] > best ? lanes[i] : best;
  return best;
}

// e^x for x <= 88, relative error below 2e-7; zero below -87.3 (and for -infinity), never NaN for
// a number. Cephes' polynomial after splitting off a power of two.
inline Vec exp(Vec x) {
  const Vec floor = set1(-87.33654f);
  const Vec clamped = max(min(x, set1(88.0f)), floor);
  const Vec n = round(clamped * set1(1.44269504088896341f));
  Vec r = fma(n, set1(-0.693359375f), clamped);
  r = fma(n, set1(2.12194440e-4f), r);
  Vec p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  p = fma(p, r * r, r) + set1(1.0f);
  p = p * exp2_whole(n);
#if defined(__AVX512F__)
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, floor, _CMP_GT_OQ), p);
#elif defined(__AVX2__)
  return _mm256_and_ps(p, _mm256_cmp_ps(x, floor, _CMP_GT_OQ));
#else
  return x > floor ? p : set1(0.0f);
#endif
}

// 2^x for x <= 0, relative error below 3e-6; zero for -infinity and below -126.
inline Vec exp2(Vec x) {
#if defined(__AVX512F__)
  const Vec r = _mm512_reduce_ps(x, 1);  // x - floor(x), zero for -infinity
#else
  const Vec floor = set1(-126.0f);
  const Vec clamped = max(x, floor), n = round_down(clamped), r = clamped - n;
#endif
  Vec p = set1(1.35341678e-2f);
  p = fma(p, r, set1(5.20114638e-2f));
  p = fma(p, r, set1(2.41442755e-1f));
  p = fma(p, r, set1(6.93003834e-1f));
  p = fma(p, r, set1(1.00000262f));
#if defined(__AVX512F__)
  return _mm512_scalef_ps(p, x);
#elif defined(__AVX2__)
  return _mm256_and_ps(p * exp2_whole(n), _mm256_cmp_ps(x, floor, _CMP_GE_OQ));
#else
  return x >= floor ? p * exp2_whole(n) : set1(0.0f);
#endif
}

}  // namespace everloop::EVERLOOP_ISA
