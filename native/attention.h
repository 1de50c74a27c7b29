// Attention of a few queries of one sequence over its blocks of the key-value cache.
//
// Keys of a block lie transposed, (D, 32) float16, so that lanes are keys; values lie (32, D), so
// that lanes are channels. Each score is one chain of multiply-adds over the channels, each output
// one chain over the keys in their order; masked keys add exact zeros. So a query's bits are the
// same alone, in a chunk of any size, and next to anyone.
#pragma once
#include <limits>

#include "kernels.h"
#include "simd.h"

namespace everloop::EVERLOOP_ISA {

constexpr int kTile = 6;  // query rows in registers at once

// scores[r][0..32) for `rows` <= kTile queries, each `stride` floats apart in `out`.
template <int R>
inline void score_block(const float* const* q, const float* keys, int dim, float* out,
                        size_t stride) {
  constexpr int kVecs = kBlock / kLanes;
  constexpr int kStep = kVecs < 2 ? kVecs : 2;
  for (int v = 0; v < kVecs; v += kStep) {
    Vec acc[R][kStep];
    for (int r = 0; r < R; ++r)
      for (int j = 0; j < kStep; ++j) acc[r][j] = set1(0.0f);
    const float* k = keys + v * kLanes;
    for (int d = 0; d < dim; ++d, k += kBlock) {
      Vec key[kStep];
      for (int j = 0; j < kStep; ++j) key[j] = load(k + j * kLanes);
      for (int r = 0; r < R; ++r) {
        const Vec x = set1(q[r][d]);
        for (int j = 0; j < kStep; ++j) acc[r][j] = fma(x, key[j], acc[r][j]);
      }
    }
    for (int r = 0; r < R; ++r)
      for (int j = 0; j < kStep; ++j) store(out + r * stride + (v + j) * kLanes, acc[r][j]);
  }
}

// out[r][0..dim) += sum over `count` keys of p[r][key] * values[key], in the order of keys.
template <int R, int V>
inline void mix_channels(const float* p, size_t stride, const float* values, int dim, int count,
                         float* const* out, int channel) {
  Vec acc[R][V];
  for (int r = 0; r < R; ++r)
    for (int j = 0; j < V; ++j) acc[r][j] = load(out[r] + channel + j * kLanes);
  for (int s = 0; s < count; ++s) {
    Vec value[V];
    for (int j = 0; j < V; ++j) value[j] = load(values + size_t(s) * dim + channel + j * kLanes);
    for (int r = 0; r < R; ++r) {
      const Vec weight = set1(p[r * stride + s]);
      for (int j = 0; j < V; ++j) acc[r][j] = fma(weight, value[j], acc[r][j]);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int j = 0; j < V; ++j) store(out[r] + channel + j * kLanes, acc[r][j]);
}

template <int R>
inline void mix_block(const float* p, size_t stride, const float* values, int dim, int count,
                      float* const* out) {
  int c = 0;
  for (; c + 4 * kLanes <= dim; c += 4 * kLanes)
    mix_channels<R, 4>(p, stride, values, dim, count, out, c);
  for (; c + kLanes <= dim; c += kLanes)
    mix_channels<R, 1>(p, stride, values, dim, count, out, c);
  for (; c < dim; ++c)
    for (int r = 0; r < R; ++r) {
      float acc = out[r][c];
      for (int s = 0; s < count; ++s) {
#if defined(__FMA__)
        acc = __builtin_fmaf(p[r * stride + s], values[size_t(s) * dim + c], acc);
#else
        acc = p[r * stride + s] * values[size_t(s) * dim + c] + acc;
#endif
      }
      out[r][c] = acc;
    }
}

inline void widen(const uint16_t* from, int count, float* to) {
  for (int i = 0; i < count; i += kLanes) store(to + i, load_half(from + i));
}

template <template <int> class F, typename... Args>
inline void by_rows(int rows, Args... args) {
  switch (rows) {
    case 1: return F<1>::run(args...);
    case 2: return F<2>::run(args...);
    case 3: return F<3>::run(args...);
    case 4: return F<4>::run(args...);
    case 5: return F<5>::run(args...);
    default: return F<6>::run(args...);
  }
}
template <int R>
struct Score {
  static void run(const float* const* q, const float* k, int dim, float* out, size_t stride) {
    score_block<R>(q, k, dim, out, stride);
  }
};
template <int R>
struct Mix {
  static void run(const float* p, size_t stride, const float* values, int dim, int count,
                  float* const* out) {
    mix_block<R>(p, stride, values, dim, count, out);
  }
};

inline void attend(const Attention& a, float* scratch) {
  const int dim = a.dim, rows = a.tokens * a.group;
  const int last = a.position + a.tokens - 1;
  const int lowest = a.window ? (a.position - a.window + 1 > 0 ? a.position - a.window + 1 : 0) : 0;
  const int first_block = lowest / kBlock, end_block = last / kBlock + 1;
  const size_t width = size_t(end_block - first_block) * kBlock;
  float* wide = scratch;                          // one block of keys or values
  float* scores = scratch + size_t(kBlock) * dim;  // rows x width
  const float infinity = std::numeric_limits<float>::infinity();
  const float* q[kAttentionRows];
  float* out[kAttentionRows];
  for (int r = 0; r < rows; ++r) {
    const size_t at = size_t(r / a.group) * a.token_stride + size_t(r % a.group) * dim;
    q[r] = a.queries + at;
    out[r] = a.out + size_t(r / a.group) * a.out_stride + size_t(r % a.group) * dim;
    std::memset(out[r], 0, sizeof(float) * dim);
  }

  for (int b = first_block; b < end_block; ++b) {
    widen(a.keys + size_t(a.table[b]) * a.block_stride, kBlock * dim, wide);
    float* column = scores + size_t(b - first_block) * kBlock;
    for (int r = 0; r < rows; r += kTile)
      by_rows<Score>(rows - r < kTile ? rows - r : kTile, q + r, static_cast<const float*>(wide),
                     dim, column + r * width, width);
    const int begin = b * kBlock;
    for (int r = 0; r < rows; ++r) {
      const int position = a.position + r / a.group;
      const int from = a.window && position - a.window + 1 > 0 ? position - a.window + 1 : 0;
      if (begin >= from && begin + kBlock - 1 <= position) continue;
      for (int s = 0; s < kBlock; ++s)
        if (begin + s < from || begin + s > position) column[r * width + s] = -infinity;
    }
  }

  float total[kAttentionRows];
  for (int r = 0; r < rows; ++r) {
    float* row = scores + r * width;
    Vec best = set1(-infinity);
    for (size_t i = 0; i < width; i += kLanes) best = max(best, load(row + i));
    const Vec top = set1(largest(best));
    // The sum starts at the sequence's first key whatever the tile sees of it: lanes stay lanes,
    // and blocks that only other rows look at add zeros.
    Vec sums = set1(0.0f);
    for (size_t i = 0; i < width; i += kLanes) {
      const Vec p = exp(load(row + i) - top);
      store(row + i, p);
      sums = sums + p;
    }
    total[r] = sum(sums);
  }

  for (int b = first_block; b < end_block; ++b) {
    widen(a.values + size_t(a.table[b]) * a.block_stride, kBlock * dim, wide);
    const int count = last - b * kBlock + 1 < kBlock ? last - b * kBlock + 1 : kBlock;
    for (int r = 0; r < rows; r += kTile)
      by_rows<Mix>(rows - r < kTile ? rows - r : kTile,
                   static_cast<const float*>(scores + r * width + size_t(b - first_block) * kBlock),
                   width, static_cast<const float*>(wide), dim, count,
                   static_cast<float* const*>(out + r));
  }
  for (int r = 0; r < rows; ++r) {
    const float scale = 1.0f / total[r];
    for (int c = 0; c < dim; ++c) out[r][c] *= scale;
  }
}

}  // namespace everloop::EVERLOOP_ISA
