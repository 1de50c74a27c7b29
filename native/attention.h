// Attention of a few queries of one sequence over its blocks of the key-value cache.
//
// Queries, keys, values and weights are bfloat16, sums float32 (of an 8-bit cache: see weigh_row). A score is one chain of pairs over
// the channels, an output one chain over pairs of keys in their order, a weight's sum one chain in
// each lane; masked keys add exact zeros. So a query's bits are the same alone, in a chunk of any
// size, and next to anyone.
#pragma once
#include <algorithm>
#include <limits>
#include <type_traits>

#include "cache.h"

namespace everloop::EVERLOOP_ISA {

#if defined(__AVX512BF16__)
constexpr int kTile = 6, kTogether = 2;  // query rows, and blocks of keys, in registers at once
#elif defined(__AVX512F__)
constexpr int kTile = 6, kTogether = 1;
#else
constexpr int kTile = 4, kTogether = 1;
#endif

// Few rows wait for memory: the blocks that follow are fetched meanwhile.
constexpr int kFew = 2;

// scores[r][32 b + key] of R queries and B blocks of keys. Those of `next` are
// read next.
template <int R, int B>
inline void score_blocks(const Part* queries, const uint16_t* const* keys,
                         const uint16_t* const* next, int width, float* out, size_t stride) {
  constexpr int kVecs = kBlock / kLanes, kStep = 2;
  for (int v = 0; v < kVecs; v += kStep) {
    Vec acc[R][B][kStep];
    for (int r = 0; r < R; ++r)
      for (int b = 0; b < B; ++b)
        for (int j = 0; j < kStep; ++j) acc[r][b][j] = set1(0.0f);
    for (int d = 0; d < width; d += 2) {
      const size_t at = size_t(d) * kBlock + 2 * size_t(v) * kLanes;
      Bf16Pairs key[B][kStep];
      for (int b = 0; b < B; ++b)
        for (int j = 0; j < kStep; ++j) key[b][j] = load_pairs(keys[b] + at + 2 * j * kLanes);
      if constexpr (R <= kFew)
        for (int b = 0; b < B; ++b)
          for (int j = 0; j < kStep; ++j) __builtin_prefetch(next[b] + at + 2 * j * kLanes, 0, 2);
      for (int r = 0; r < R; ++r) {
        const Bf16Pairs x = spread(queries + size_t(r) * width + d);
        for (int b = 0; b < B; ++b)
          for (int j = 0; j < kStep; ++j) acc[r][b][j] = dot(x, key[b][j], acc[r][b][j]);
      }
    }
    for (int r = 0; r < R; ++r)
      for (int b = 0; b < B; ++b)
        for (int j = 0; j < kStep; ++j)
          store(out + r * stride + b * kBlock + (v + j) * kLanes, acc[r][b][j]);
  }
}

// out[r][0 .. width) += sum over the keys of `blocks` blocks of weight[r][key] * values[key], V
// vectors from `channel` on. `stride` counts Parts.
template <int R, int V>
inline void mix_channels(const Part* weights, size_t stride, const uint16_t* const* values,
                         const uint16_t* const* next, int blocks, int width, float* out,
                         int channel) {
  Vec acc[R][V];
  for (int r = 0; r < R; ++r)
    for (int j = 0; j < V; ++j) acc[r][j] = load(out + size_t(r) * width + channel + j * kLanes);
  for (int b = 0; b < blocks; ++b, weights += kBlock) {
    const uint16_t *now = values[b] + 2 * channel, *soon = next[b] + 2 * channel;
    for (int s = 0; s < kBlock; s += 2, now += 2 * width, soon += 2 * width) {
      Bf16Pairs value[V];
      for (int j = 0; j < V; ++j) value[j] = load_pairs(now + 2 * j * kLanes);
      if constexpr (R <= kFew)
        for (int j = 0; j < V; ++j) __builtin_prefetch(soon + 2 * j * kLanes, 0, 2);
      for (int r = 0; r < R; ++r) {
        const Bf16Pairs weight = spread(weights + r * stride + s);
        for (int j = 0; j < V; ++j) acc[r][j] = dot(weight, value[j], acc[r][j]);
      }
    }
  }
  for (int r = 0; r < R; ++r)
    for (int j = 0; j < V; ++j) store(out + size_t(r) * width + channel + j * kLanes, acc[r][j]);
}

template <int R>
inline void mix_blocks(const Part* weights, size_t stride, const uint16_t* const* values,
                       const uint16_t* const* next, int blocks, int width, float* out) {
  int c = 0;
  if constexpr (R <= kFew && kTogether == 2)
    for (; c + 8 * kLanes <= width; c += 8 * kLanes)
      mix_channels<R, 8>(weights, stride, values, next, blocks, width, out, c);
  for (; c + 2 * kTogether * kLanes <= width; c += 2 * kTogether * kLanes)
    mix_channels<R, 2 * kTogether>(weights, stride, values, next, blocks, width, out, c);
  for (; c < width; c += kLanes)
    mix_channels<R, 1>(weights, stride, values, next, blocks, width, out, c);
}

// Calls f with the number of rows as a constant.
template <typename F>
inline void by_rows(int rows, F&& f) {
  switch (rows) {
    case 1: return f(std::integral_constant<int, 1>());
    case 2: return f(std::integral_constant<int, 2>());
    case 3: return f(std::integral_constant<int, 3>());
    case 4: return f(std::integral_constant<int, 4>());
    case 5: return f(std::integral_constant<int, 5>());
    default: return f(std::integral_constant<int, 6>());
  }
}

// Turns a row's `count` scores, of which it sees [from, until), into weights: as Parts, in place.
// The largest becomes 1. Returns their sum. With a cache of 8 bits, scores are multiplied by the
// keys' scales and weights by the values'.
inline float weigh_row(float* scores, int count, int from, int until, const float* key_scales,
                       const float* value_scales) {
  const int begin = from / kBlock * kBlock, end = (until + kBlock - 1) / kBlock * kBlock;
  if (key_scales)
    for (int i = begin; i < end; i += kLanes)
      store(scores + i, load(scores + i) * load(key_scales + i));
  std::fill(scores + begin, scores + from, -std::numeric_limits<float>::infinity());
  std::fill(scores + until, scores + end, -std::numeric_limits<float>::infinity());
  Vec best[2] = {load(scores + begin), load(scores + begin + kLanes)};
  for (int i = begin; i < end; i += 2 * kLanes)
    for (int j = 0; j < 2; ++j) best[j] = max(best[j], load(scores + i + j * kLanes));
  const Vec top = set1(largest(max(best[0], best[1])));
  Part* weights = reinterpret_cast<Part*>(scores);
  Vec sums = set1(0.0f);
  for (int i = begin; i < end; i += 2 * kLanes) {
    const Vec low = exp2(load(scores + i) - top), high = exp2(load(scores + i + kLanes) - top);
    if (value_scales) {
      narrow(low * load(value_scales + i), high * load(value_scales + i + kLanes), weights + i,
             sums);
      sums = sums + (low + high);
    } else {
      sums = narrow(low, high, weights + i, sums);
    }
  }
  std::fill(weights, weights + begin, Part(0));
  std::fill(weights + end, weights + count, Part(0));
  return sum(sums);
}

// One piece of work, its scratch, and the steps in their order. Rows of a head are side by side:
// its tokens, and in each the query heads that it serves.
class Attend {
 public:
  Attend(const Attention& a, float* scratch) : a(a) {
    mixed = scratch;
    queries = reinterpret_cast<Part*>(mixed + size_t(kAttentionRows) * width);
    wide = reinterpret_cast<uint16_t*>(mixed + 2 * size_t(kAttentionRows) * width);
    scores = mixed + (2 * size_t(kAttentionRows) + kBlock) * width;
    key_scales = scores + kAttentionRows * stride;
    value_scales = key_scales + size_t(kAttentionHeads) * stride;
  }

  void run() {
    take_queries();
    score();
    if (a.bits == 8) take_scales();
    weigh();
    mix();
    give();
  }

 private:
  int position(int row) const { return a.position + row / a.group; }
  int sees_from(int row) const {
    return a.window ? std::max(0, position(row) - a.window + 1) : 0;
  }
  // The rows of the tile at `row` see nothing from this block on.
  int tile_end(int row) const { return position(std::min(row + kTile, rows) - 1) / kBlock + 1; }
  int tile(int row) const { return std::min(rows - row, kTile); }
  const uint8_t* block(const uint8_t* base, int head, int b) const {
    return base + size_t(a.table[std::min(b, end_block - 1)]) * a.block_stride +
           size_t(head) * a.head_stride;
  }
  // Points `now` to the numbers of blocks b and following as bfloat16, `next` to those after them.
  void take(const uint8_t* base, int head, int b) {
    for (int i = 0; i < kTogether; ++i) {
      const uint8_t *found = block(base, head, b + i), *after = block(base, head, b + i + kTogether);
      if (a.bits == 16) {
        now[i] = reinterpret_cast<const uint16_t*>(found);
        next[i] = reinterpret_cast<const uint16_t*>(after);
      } else {
        uint16_t* out = wide + size_t(i) * kBlock * width;
        if (b + i < end_block) widen(found, after, kBlock * width, out);
        now[i] = next[i] = out;
      }
    }
  }

  void take_scales() {
    for (int b = first_block; b < end_block; ++b)
      for (int h = 0; h < a.heads; ++h) {
        const size_t at = size_t(h) * stride + size_t(b - first_block) * kBlock;
        std::memcpy(key_scales + at, scales_of(block(a.keys, h, b), width), sizeof(float) * kBlock);
        std::memcpy(value_scales + at, scales_of(block(a.values, h, b), width),
                    sizeof(float) * kBlock);
      }
  }

  void take_queries() {
    alignas(64) float lanes[2 * kLanes] = {};
    for (int h = 0, at = 0; h < a.heads; ++h)
      for (int r = 0; r < rows; ++r, ++at) {
        const float* query = a.queries + size_t(r / a.group) * a.token_stride +
                             size_t(h * a.group + r % a.group) * a.dim;
        for (int d = 0; d < width; d += 2 * kLanes) {
          const int some = std::min(a.dim - d, 2 * kLanes);
          std::memcpy(lanes, query + d, sizeof(float) * size_t(some));
          std::fill(lanes + some, lanes + 2 * kLanes, 0.0f);
          narrow(load(lanes), load(lanes + kLanes), queries + size_t(at) * width + d, set1(0.0f));
        }
      }
  }

  void score() {
    for (int b = first_block; b < end_block; b += kTogether)
      for (int h = 0; h < a.heads; ++h) {
        take(a.keys, h, b);
        for (int r = 0; r < rows; r += kTile) {
          const int left = tile_end(r) - b;
          if (left <= 0) continue;
          const size_t row = size_t(h) * rows + r;
          float* out = scores + row * stride + size_t(b - first_block) * kBlock;
          const Part* q = queries + row * width;
          by_rows(tile(r), [&](auto n) {
            if (left < kTogether)
              score_blocks<n(), 1>(q, now, next, width, out, stride);
            else
              score_blocks<n(), kTogether>(q, now, next, width, out, stride);
          });
        }
      }
  }

  void weigh() {
    const int base = first_block * kBlock;
    for (int h = 0, at = 0; h < a.heads; ++h)
      for (int r = 0; r < rows; ++r, ++at) {
        const size_t scales = size_t(h) * stride;
        total[at] = weigh_row(scores + at * stride, tile_end(r / kTile * kTile) * kBlock - base,
                              sees_from(r) - base, position(r) + 1 - base,
                              a.bits == 8 ? key_scales + scales : nullptr,
                              a.bits == 8 ? value_scales + scales : nullptr);
      }
  }

  void mix() {
    constexpr size_t kParts = sizeof(float) / sizeof(Part);
    std::memset(mixed, 0, sizeof(float) * size_t(a.heads * rows) * width);
    for (int b = first_block; b < end_block; b += kTogether)
      for (int h = 0; h < a.heads; ++h) {
        take(a.values, h, b);
        for (int r = 0; r < rows; r += kTile) {
          const int left = std::min(tile_end(r) - b, kTogether);
          if (left <= 0) continue;
          const size_t row = size_t(h) * rows + r;
          const Part* weights = reinterpret_cast<const Part*>(scores + row * stride) +
                                size_t(b - first_block) * kBlock;
          by_rows(tile(r), [&](auto n) {
            mix_blocks<n()>(weights, kParts * stride, now, next, left, width, mixed + row * width);
          });
        }
      }
  }

  void give() const {
    for (int h = 0, at = 0; h < a.heads; ++h)
      for (int r = 0; r < rows; ++r, ++at) {
        const float scale = 1.0f / total[at];
        float* out = a.out + size_t(r / a.group) * a.out_stride +
                     size_t(h * a.group + r % a.group) * a.dim;
        for (int c = 0; c < a.dim; ++c) out[c] = mixed[size_t(at) * width + c] * scale;
      }
  }

  const Attention& a;
  const int rows = a.tokens * a.group;  // of a head
  const int width = cache_width(a.dim);
  const int first_block = sees_from(0) / kBlock;
  const int end_block = (a.position + a.tokens - 1) / kBlock + 1;
  const size_t stride = score_stride((end_block - first_block) * kBlock);
  float *mixed, *scores, *key_scales, *value_scales;
  Part* queries;
  uint16_t* wide;  // kTogether blocks
  const uint16_t *now[kTogether], *next[kTogether];
  float total[kAttentionRows];
};

inline void attend(const Attention& work, float* scratch) { Attend(work, scratch).run(); }

}  // namespace everloop::EVERLOOP_ISA
