#include "pack.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "compensate.h"
#include "half.h"
#include "pack4.h"

namespace everloop {
namespace {

constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: added and taken away, it rounds to even

uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}

// The largest |x|, or -1 if one is NaN or infinite. Bits of |x| are ordered like |x|.
float largest(const float* x, int n) {
  int32_t most = 0;
  for (int i = 0; i < n; ++i) {
    const int32_t bits = int32_t(bits_of(x[i]) & 0x7fffffff);
    most = bits > most ? bits : most;
  }
  if (most >= 0x7f800000) return -1.0f;
  float value;
  std::memcpy(&value, &most, 4);
  return value;
}

int64_t first_bad(const float* x, int n, float limit) {
  int i = 0;
  while (i < n - 1 && std::fabs(x[i]) <= limit) ++i;
  return i;
}

// q + 128 for each weight; the scale.
float quantize8(const float* x, int n, float most, uint8_t* q) {
  const bool zero = most < 1e-30f;
  const float inverse = zero ? 0.0f : 127.0f / most;
  for (int i = 0; i < n; ++i) {
    const float shifted = x[i] * inverse + (kRound + 128.0f);
    q[i] = uint8_t(bits_of(shifted));
  }
  return zero ? 0.0f : most / 127.0f;
}

// Rounding for one panel: plainly, or with directions in which errors are made up for.
class Rounder {
 public:
  explicit Rounder(const Directions& directions) : directions_(directions) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) work_ = compensate_avx2;
#endif
  }

  bool on() const { return directions_.x != nullptr; }
  void start() { std::memset(error_, 0, sizeof error_); }

  // Inputs [begin, begin + kGroup) of a panel; each q plus `zero` is kept.
  void round(const float (*w)[kPanel], const float* scale, int begin, float low, float high,
             int zero, uint8_t (*q)[kPanel]) {
    alignas(64) float inverse[kPanel], whole[kGroup][kPanel];
    for (int n = 0; n < kPanel; ++n) inverse[n] = scale[n] == 0.0f ? 0.0f : 1.0f / scale[n];
    const size_t at = size_t(begin) * kDirections;
    work_(w, kGroup, scale, inverse, low, high, directions_.x + at, directions_.y + at, error_,
          whole);
    for (int k = 0; k < kGroup; ++k)
      for (int n = 0; n < kPanel; ++n) q[k][n] = uint8_t(int(whole[k][n]) + zero);
  }

 private:
  const Directions directions_;
  Compensate work_ = compensate;
  alignas(64) float error_[kDirections][kPanel];
};

// The weights of inputs [begin, begin + count) with inputs as rows; the rest stay as they are.
void turn(const Matrix& m, const float* weight, const int* source, int begin, int count,
          float (*group)[kPanel]) {
  for (int n = 0; n < kPanel; ++n) {
    if (source[n] < 0) continue;
    const float* x = weight + int64_t(source[n]) * m.inputs + begin;
    for (int k = 0; k < count; ++k) group[k][n] = x[k];
  }
}

// The rows of `pack8` once more, with corrections.
void correct8(const Matrix& m, const float* weight, const int* source, const float* scales,
              Rounder& rounder, uint8_t* rows) {
  alignas(64) float group[kGroup][kPanel];
  uint8_t q[kGroup][kPanel];
  rounder.start();
  for (int begin = 0; begin < m.padded_inputs(); begin += kGroup) {
    std::memset(group, 0, sizeof group);
    turn(m, weight, source, begin, m.inputs - begin < kGroup ? m.inputs - begin : kGroup, group);
    rounder.round(group, scales, begin, -127.0f, 127.0f, 128, q);
    for (int n = 0; n < kPanel; ++n)
      for (int k = 0; k < kGroup; ++k) rows[size_t(n) * m.padded_inputs() + begin + k] = q[k][n];
  }
}

int64_t pack8(const Matrix& m, const float* weight, bool gate, int panel, uint8_t* out,
              Rounder& rounder, std::vector<uint8_t>& rows) {
  const int padded = m.padded_inputs();
  rows.assign(size_t(kPanel) * padded, 128);
  float scales[kPanel] = {};
  int source[kPanel];
  for (int n = 0; n < kPanel; ++n) {
    source[n] = source_of(m, gate, panel * kPanel + n);
    if (source[n] < 0) continue;
    const float* x = weight + size_t(source[n]) * m.inputs;
    const float most = largest(x, m.inputs);
    if (most < 0) return int64_t(source[n]) * m.inputs + first_bad(x, m.inputs, 3.4028235e38f);
    scales[n] = quantize8(x, m.inputs, most, rows.data() + size_t(n) * padded);
  }
  if (rounder.on()) correct8(m, weight, source, scales, rounder, rows.data());
  std::memcpy(out, scales, sizeof scales);
  out += sizeof scales;
  constexpr int kPiece = 64;  // inputs: a cache line of each output's bytes
  for (int begin = 0; begin < padded; begin += kPiece) {
    const int end = begin + kPiece < padded ? begin + kPiece : padded;
    for (int k = begin; k < end; k += 4)
      for (int n = 0; n < kPanel; ++n)
        std::memcpy(out + size_t(k) * kPanel + 4 * n, rows.data() + size_t(n) * padded + k, 4);
  }
  return -1;
}

int64_t pack4(const Matrix& m, const float* weight, bool gate, int panel, uint8_t* out,
              Rounder& rounder) {
  auto* search = quantize4;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) search = quantize4_avx2;
#endif
  alignas(64) float group[kGroup][kPanel];
  int source[kPanel];
  for (int n = 0; n < kPanel; ++n) source[n] = source_of(m, gate, panel * kPanel + n);
  rounder.start();
  for (int begin = 0; begin < m.padded_inputs(); begin += kGroup) {
    const int count = m.inputs - begin < kGroup ? m.inputs - begin : kGroup;
    std::memset(group, 0, sizeof group);
    for (int n = 0; n < kPanel; ++n) {
      if (source[n] < 0) continue;
      const int64_t at = int64_t(source[n]) * m.inputs + begin;
      const float most = largest(weight + at, count);
      if (most < 0 || most > kMostWeight4)
        return at + first_bad(weight + at, count, kMostWeight4);
    }
    turn(m, weight, source, begin, count, group);
    uint16_t scales[kPanel];
    uint8_t q[kGroup][kPanel];
    search(group, scales, q);
    if (rounder.on()) {
      alignas(64) float wide[kPanel];
      for (int n = 0; n < kPanel; ++n) wide[n] = half_to_float(scales[n]);
      rounder.round(group, wide, begin, -8.0f, 7.0f, 8, q);
    }
    std::memcpy(out, scales, sizeof scales);
    out += sizeof scales;
    for (int k = 0; k < kGroup; k += 8)
      for (int n = 0; n < kPanel; ++n)
        for (int i = 0; i < 4; ++i) *out++ = uint8_t(q[k + i][n] | q[k + 4 + i][n] << 4);
  }
  return -1;
}

}  // namespace

int source_of(const Matrix& shape, bool gate, int n) {
  if (!gate) return n < shape.outputs ? n : -1;
  const int half = shape.outputs / 2, within = n % 32;
  const int unit = n / 32 * 16 + within % 16;
  if (unit >= half) return -1;
  return within < 16 ? unit : half + unit;
}

int64_t pack(const Matrix& shape, const float* weight, bool gate, int first, int last,
             uint8_t* out, const Directions& directions) {
  std::vector<uint8_t> rows;
  Rounder rounder(directions);
  for (int panel = first; panel < last; ++panel, out += shape.panel_bytes()) {
    const int64_t bad = shape.bits == 8 ? pack8(shape, weight, gate, panel, out, rounder, rows)
                                        : pack4(shape, weight, gate, panel, out, rounder);
    if (bad >= 0) return bad;
  }
  return -1;
}

void pack_bias(const Matrix& shape, const float* bias, bool gate, float* out) {
  for (int n = 0; n < shape.panels() * kPanel; ++n) {
    const int source = source_of(shape, gate, n);
    out[n] = source < 0 ? 0.0f : bias[source];
  }
}

void unpack_row(const Matrix& matrix, int n, float* out) {
  const uint8_t* panel = matrix.data + size_t(n / kPanel) * matrix.panel_bytes();
  const int column = n % kPanel, inputs = matrix.inputs;
  float piece[8];  // of 4 or 8 inputs, which lie together
  if (matrix.bits == 8) {
    float scale;
    std::memcpy(&scale, panel + 4 * column, 4);
    const uint8_t* w = panel + kPanel * sizeof(float) + 4 * column;
    for (int k = 0; k < inputs; k += 4, w += 4 * kPanel) {
      for (int i = 0; i < 4; ++i) piece[i] = scale * float(int(w[i]) - 128);
      std::memcpy(out + k, piece, inputs - k < 4 ? sizeof(float) * size_t(inputs - k) : 16);
    }
    return;
  }
  for (int k = 0; k < inputs; k += 8) {
    const uint8_t* group = panel + size_t(k / kGroup) * kPanel * (2 + kGroup / 2);
    uint16_t half;
    std::memcpy(&half, group + 2 * column, 2);
    const float scale = half_to_float(half);
    const uint8_t* w = group + 2 * kPanel + k % kGroup / 8 * 4 * kPanel + 4 * column;
    for (int i = 0; i < 4; ++i) {
      piece[i] = scale * float(int(w[i] & 15) - 8);
      piece[4 + i] = scale * float(int(w[i] >> 4) - 8);
    }
    std::memcpy(out + k, piece, inputs - k < 8 ? sizeof(float) * size_t(inputs - k) : 32);
  }
}

}  // namespace everloop
