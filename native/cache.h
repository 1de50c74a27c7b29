// How keys and values lie in a block of the cache: in pairs for `dot`.
//
// A block holds kBlock tokens of one head, `width` channels. Keys lie (width / 2, kBlock, 2): lanes
// are keys, a pair is two channels. Values lie (kBlock / 2, width, 2): lanes are channels, a pair
// is two tokens. In 16 bits they are bfloat16; in 8 bits whole numbers up to 127, which bfloat16
// holds exactly, and kBlock scales follow them, one a token.
#pragma once
#include "kernels.h"
#include "pairs.h"
#include "quantize_row.h"

namespace everloop::EVERLOOP_ISA {

constexpr int kWidest = 1024;  // channels of a head

// Where channel c of the token at `slot` lies.
inline size_t key_place(int c, int slot) {
  return (size_t(c / 2) * kBlock + size_t(slot)) * 2 + size_t(c % 2);
}
inline size_t value_place(int c, int slot, int width) {
  return (size_t(slot / 2) * width + size_t(c)) * 2 + size_t(slot % 2);
}

inline float* scales_of(uint8_t* block, int width) {
  return reinterpret_cast<float*>(block + size_t(kBlock) * width);
}
inline const float* scales_of(const uint8_t* block, int width) {
  return reinterpret_cast<const float*>(block + size_t(kBlock) * width);
}

inline void remember8(const float* x, int dim, int slot, uint8_t* block, bool value) {
  const int width = cache_width(dim);
  int8_t q[kWidest];
  int32_t sums[kWidest / kGroup];  // products want them
  quantize_row(x, dim, width, q, scales_of(block, width) + slot, sums);
  for (int c = 0; c < dim; ++c)
    block[value ? value_place(c, slot, width) : key_place(c, slot)] = uint8_t(q[c]);
}

inline void remember16(const float* x, int dim, int slot, uint16_t* block, bool value) {
  const int width = cache_width(dim);
  float lanes[16] = {};
  uint32_t bits[16];
  for (int c = 0; c < dim; c += 16) {
    const int some = dim - c < 16 ? dim - c : 16;
    std::memcpy(lanes, x + c, sizeof(float) * size_t(some));
    for (int i = 0; i < 16; i += kLanes) {
      const Vec rounded = to_bfloat16(load(lanes + i));
      std::memcpy(bits + i, &rounded, sizeof rounded);
    }
    for (int i = 0; i < some; ++i)
      block[value ? value_place(c + i, slot, width) : key_place(c + i, slot)] =
          uint16_t(bits[i] >> 16);
  }
}

inline void remember(const float* key, const float* value, int dim, int bits, int slot,
                     uint8_t* key_block, uint8_t* value_block) {
  if (bits == 8) {
    remember8(key, dim, slot, key_block, false);
    remember8(value, dim, slot, value_block, true);
  } else {
    remember16(key, dim, slot, reinterpret_cast<uint16_t*>(key_block), false);
    remember16(value, dim, slot, reinterpret_cast<uint16_t*>(value_block), true);
  }
}

// The 8-bit numbers of a block as bfloat16; `next` is read soon.
inline void widen(const uint8_t* block, const uint8_t* next, int count, uint16_t* out) {
  for (int i = 0; i < count; i += 64) {
    __builtin_prefetch(next + i, 0, 2);
#if defined(__AVX512BF16__)
    for (int j = i; j < i + 64; j += 32) {
      const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block + j));
      const __m512i low = _mm512_cvtepi8_epi32(_mm256_castsi256_si128(bytes));
      const __m512i high = _mm512_cvtepi8_epi32(_mm256_extracti128_si256(bytes, 1));
      const __m512bh both = _mm512_cvtne2ps_pbh(_mm512_cvtepi32_ps(high), _mm512_cvtepi32_ps(low));
      _mm512_storeu_si512(out + j, (__m512i)both);
    }
#else
    for (int j = i; j < i + 64; ++j) {
      const float x = float(int8_t(block[j]));
      uint32_t bits;
      std::memcpy(&bits, &x, 4);
      out[j] = uint16_t(bits >> 16);
    }
#endif
  }
}

}  // namespace everloop::EVERLOOP_ISA
