// float16 in plain code, for units that are not compiled for an instruction set of their own.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

namespace everloop {

inline float half_to_float(uint16_t h) {
  const uint32_t exponent = (h >> 10) & 31, fraction = h & 0x3ff;
  float magnitude;
  if (exponent == 31) {
    const uint32_t bits = 0x7f800000 | (fraction << 13);
    std::memcpy(&magnitude, &bits, 4);
  } else if (exponent == 0) {
    magnitude = float(fraction) * 0x1p-24f;
  } else {
    const uint32_t bits = ((exponent + 112) << 23) | (fraction << 13);
    std::memcpy(&magnitude, &bits, 4);
  }
  return h & 0x8000 ? -magnitude : magnitude;
}

// The nearest float16, ties to even; beyond 65520 infinity. `x` is a number.
inline uint16_t float_to_half(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  const uint16_t sign = uint16_t((bits >> 16) & 0x8000);
  bits &= 0x7fffffff;
  if (bits >= 0x477ff000) return sign | 0x7c00;
  if (bits < 0x38800000) return sign | uint16_t(std::nearbyint(std::fabs(x) * 0x1p24f));
  return sign | uint16_t((bits - (112u << 23) + 0xfff + ((bits >> 13) & 1)) >> 13);
}

}  // namespace everloop
