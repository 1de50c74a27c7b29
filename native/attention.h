// Attention of a few queries of one sequence over its blocks of the key-value cache.
//
// Keys of a block lie transposed, (D, 32) float16, so that lanes are keys; values lie (32, D), so
// that lanes are channels. Each score is one chain of multiply-adds over the channels, each output
// one chain over the keys in their order; masked keys add exact zeros. So a query's bits are the
// same alone, in a chunk of any size, and next to anyone.
#pragma once
#include <limits>
#include <type_traits>

#include "kernels.h"
#include "simd.h"

namespace everloop::EVERLOOP_ISA {

constexpr int kTile = 6;  // query rows in registers at once

inline Vec load_wide(const float* p) { return load(p); }
inline Vec load_wide(const uint16_t* p) { return load_half(p); }

// scores[r][32 b + key] for R queries, channel by channel in `q` (dim, R), and B blocks of keys,
// float16 or widened already.
template <int R, int B, typename T>
inline void score_blocks(const float* q, const T* const* keys, int dim, float* out,
                         size_t stride) {
  constexpr int kVecs = kBlock / kLanes;
  constexpr int kStep = kVecs < 2 ? kVecs : 2;
  for (int v = 0; v < kVecs; v += kStep) {
    Vec acc[R][B][kStep];
    for (int r = 0; r < R; ++r)
      for (int b = 0; b < B; ++b)
        for (int j = 0; j < kStep; ++j) acc[r][b][j] = set1(0.0f);
    for (int d = 0; d < dim; ++d) {
      const size_t at = size_t(d) * kBlock + size_t(v) * kLanes;
      Vec key[B][kStep];
      for (int b = 0; b < B; ++b)
        for (int j = 0; j < kStep; ++j) key[b][j] = load_wide(keys[b] + at + j * kLanes);
      for (int r = 0; r < R; ++r) {
        const Vec x = set1(q[size_t(d) * R + r]);
        for (int b = 0; b < B; ++b)
          for (int j = 0; j < kStep; ++j) acc[r][b][j] = fma(x, key[b][j], acc[r][b][j]);
      }
    }
    for (int r = 0; r < R; ++r)
      for (int b = 0; b < B; ++b)
        for (int j = 0; j < kStep; ++j)
          store(out + r * stride + b * kBlock + (v + j) * kLanes, acc[r][b][j]);
  }
}

// out[r][0..dim) += sum over `count` keys of p[r][key] * values[key], in the order of keys.
template <int R, int V, typename T>
inline void mix_channels(const float* p, size_t stride, const T* values, int dim, int count,
                         float* const* out, int channel) {
  Vec acc[R][V];
  for (int r = 0; r < R; ++r)
    for (int j = 0; j < V; ++j) acc[r][j] = load(out[r] + channel + j * kLanes);
  for (int s = 0; s < count; ++s) {
    Vec value[V];
    const T* row = values + size_t(s) * dim + channel;
    for (int j = 0; j < V; ++j) value[j] = load_wide(row + j * kLanes);
    for (int r = 0; r < R; ++r) {
      const Vec weight = set1(p[r * stride + s]);
      for (int j = 0; j < V; ++j) acc[r][j] = fma(weight, value[j], acc[r][j]);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int j = 0; j < V; ++j) store(out[r] + channel + j * kLanes, acc[r][j]);
}

// The channels from `c` on that fill no vector.
inline void mix_rest(const float* p, const float* values, int dim, int count, float* out, int c) {
  for (; c < dim; ++c) {
    float acc = out[c];
    for (int s = 0; s < count; ++s) {
#if defined(__FMA__)
      acc = __builtin_fmaf(p[s], values[size_t(s) * dim + c], acc);
#else
      acc = p[s] * values[size_t(s) * dim + c] + acc;
#endif
    }
    out[c] = acc;
  }
}

template <int R, typename T>
inline void mix_block(const float* p, size_t stride, const T* values, int dim, int count,
                      float* const* out) {
  int c = 0;
  for (; c + 4 * kLanes <= dim; c += 4 * kLanes)
    mix_channels<R, 4>(p, stride, values, dim, count, out, c);
  for (; c + kLanes <= dim; c += kLanes)
    mix_channels<R, 1>(p, stride, values, dim, count, out, c);
  if constexpr (sizeof(T) == sizeof(float))
    for (int r = 0; r < R; ++r) mix_rest(p + r * stride, values, dim, count, out[r], c);
}

inline void widen(const uint16_t* from, int count, float* to) {
  for (int i = 0; i < count; i += kLanes) store(to + i, load_half(from + i));
}

// Calls f with the number of rows as a constant: 1 to kTile.
template <typename F>
inline void by_rows(int rows, F&& f) {
  switch (rows) {
    case 1: return f(std::integral_constant<int, 1>{});
    case 2: return f(std::integral_constant<int, 2>{});
    case 3: return f(std::integral_constant<int, 3>{});
    case 4: return f(std::integral_constant<int, 4>{});
    case 5: return f(std::integral_constant<int, 5>{});
    default: return f(std::integral_constant<int, kTile>{});
  }
}

inline void attend(const Attention& a, float* scratch) {
  const int dim = a.dim, rows = a.tokens * a.group;
  const int last = a.position + a.tokens - 1;
  const int lowest = a.window ? (a.position - a.window + 1 > 0 ? a.position - a.window + 1 : 0) : 0;
  const int first_block = lowest / kBlock, end_block = last / kBlock + 1;
  const size_t width = size_t(end_block - first_block) * kBlock;
  float* wide = scratch;                         // one block of keys or values
  float* q = wide + size_t(kBlock) * dim;        // tiles of queries, each (dim, its rows)
  float* scores = q + size_t(kAttentionRows) * dim;  // rows x width
  const float infinity = std::numeric_limits<float>::infinity();
  float* out[kAttentionRows];
  for (int r = 0; r < rows; ++r) {
    const float* query = a.queries + size_t(r / a.group) * a.token_stride + size_t(r % a.group) * dim;
    const int tile = r / kTile * kTile, high = rows - tile < kTile ? rows - tile : kTile;
    float* to = q + size_t(tile) * dim + r % kTile;
    for (int d = 0; d < dim; ++d) to[size_t(d) * high] = query[d];
    out[r] = a.out + size_t(r / a.group) * a.out_stride + size_t(r % a.group) * dim;
    std::memset(out[r], 0, sizeof(float) * dim);
  }

  // Few queries read the float16 cache as it is; many share a widened copy of each block.
  const bool few = rows <= kTile && dim % kLanes == 0;
  const int pair = few && rows <= 2 ? 2 : 1;  // blocks at once: enough chains of additions
  for (int b = first_block; few && b < end_block;) {
    const uint16_t* keys[2];
    const int some = end_block - b < pair ? end_block - b : pair;
    for (int i = 0; i < some; ++i) keys[i] = a.keys + size_t(a.table[b + i]) * a.block_stride;
    float* column = scores + size_t(b - first_block) * kBlock;
    if (some == 2)
      rows == 1 ? score_blocks<1, 2>(q, keys, dim, column, width)
                : score_blocks<2, 2>(q, keys, dim, column, width);
    else
      by_rows(rows, [&](auto r) { score_blocks<r(), 1>(q, keys, dim, column, width); });
    b += some;
  }
  for (int b = first_block; b < end_block; ++b) {
    float* column = scores + size_t(b - first_block) * kBlock;
    if (!few) {
      widen(a.keys + size_t(a.table[b]) * a.block_stride, kBlock * dim, wide);
      const float* keys[1] = {wide};
      for (int r = 0; r < rows; r += kTile)
        by_rows(rows - r < kTile ? rows - r : kTile, [&](auto n) {
          score_blocks<n(), 1>(q + size_t(r) * dim, keys, dim, column + r * width, width);
        });
    }
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
    const uint16_t* values = a.values + size_t(a.table[b]) * a.block_stride;
    const int count = last - b * kBlock + 1 < kBlock ? last - b * kBlock + 1 : kBlock;
    const float* p = scores + size_t(b - first_block) * kBlock;
    if (few) {
      by_rows(rows, [&](auto n) { mix_block<n()>(p, width, values, dim, count, out); });
      continue;
    }
    widen(values, kBlock * dim, wide);
    for (int r = 0; r < rows; r += kTile)
      by_rows(rows - r < kTile ? rows - r : kTile, [&](auto n) {
        mix_block<n()>(p + r * width, width, static_cast<const float*>(wide), dim, count, out + r);
      });
  }
  for (int r = 0; r < rows; ++r) {
    const float scale = 1.0f / total[r];
    for (int c = 0; c < dim; ++c) out[r][c] *= scale;
  }
}

}  // namespace everloop::EVERLOOP_ISA
