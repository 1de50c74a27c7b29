// What each instruction set provides: a table of functions, one table compiled per set.
#pragma once
#include "matrix.h"

namespace everloop {

constexpr int kBlock = 32;           // tokens in a block of the key-value cache
constexpr int kAttentionRows = 24;   // query rows of one piece of attention work
constexpr int kAttentionHeads = 8;   // its key/value heads at most

// Channels of a head in the cache: filled up with zeros to whole vectors.
inline int cache_width(int dim) { return (dim + 15) / 16 * 16; }

// Bytes of one head's block of keys or values, `bits` a number; 8 bits have a scale a token behind.
inline size_t head_bytes(int dim, int bits) {
  const size_t numbers = size_t(kBlock) * cache_width(dim);
  return bits == 8 ? numbers + kBlock * sizeof(float) : 2 * numbers;
}

// Queries of `tokens` consecutive tokens of one sequence for `heads` neighbouring key/value heads, of
// which each serves `group` query heads: kAttentionRows rows at most. The token at `position` is the
// first; its own key is in the cache already.
struct Attention {
  const float* queries;  // rotated and scaled by log2(e) / sqrt(dim); a token's heads side by side
  size_t token_stride;   // floats between tokens
  const uint8_t* keys;   // of this layer and the first head: block b at keys + table[b] * block_stride
  const uint8_t* values;
  size_t block_stride, head_stride;  // bytes
  const int32_t* table;  // block numbers of the sequence
  float* out;
  size_t out_stride;  // floats between tokens
  int bits;           // of a number in the cache: 16 or 8
  int dim, group, heads, tokens, position;
  int window;  // tokens that a query sees, itself included; 0: all
};

struct Kernels {
  const char* name;
  Multiply multiply;
  // Rows of floats to int8; `sums` holds padded_inputs / 32 numbers a row. A row with a NaN or an
  // infinity gets the scale NaN.
  void (*quantize)(const float* x, int inputs, int padded_inputs, int8_t* q, float* scale,
                   int32_t* sums);
  void (*norm)(const float* x, const float* weight, int n, float eps, float* out);
  void (*rotate)(float* head, const float* weight, int dim, float eps, const float* cosine,
                 const float* sine, float scale);
  // Writes one head's key and value of a token into its block: see cache.h.
  void (*remember)(const float* key, const float* value, int dim, int bits, int slot,
                   uint8_t* key_block, uint8_t* value_block);
  void (*attend)(const Attention& work, float* scratch);
  // Index of the largest value, the lowest of equal ones; -1 if any is NaN or infinite.
  int (*argmax)(const float* x, int n);
  // w = exp((x - max) / temperature) and their sum in double, in order; false if not finite.
  bool (*weigh)(const float* x, int n, float temperature, float* w, double* sum);
  // Candidates to draw from, as in candidates.h.
  int (*gather)(const float* weights, int n, float floor, uint64_t* out, double* sum);
  int (*split)(uint64_t* all, int n, uint64_t pivot, uint64_t* spare, double* sum);
};

// Floats between the scores of two rows over a context of `tokens`: not a power of two, which would
// put all rows into the same few places of the cache.
inline size_t score_stride(int tokens) {
  return (size_t(tokens) + 2 * kBlock - 1) / kBlock * kBlock + 16;
}

// Floats of scratch that `attend` needs for a context of `tokens`.
inline size_t attention_scratch(int dim, int tokens) {
  return (kBlock + 2 * kAttentionRows) * size_t(cache_width(dim)) +
         (kAttentionRows + 2 * kAttentionHeads) * score_stride(tokens);
}

namespace avx512bf16 { extern const Kernels kernels; }
namespace avx512vnni { extern const Kernels kernels; }
namespace avx2 { extern const Kernels kernels; }
namespace portable { extern const Kernels kernels; }

// The best that this CPU runs, or the one named; null if there is none of that name here.
const Kernels* find_kernels(const char* name);

}  // namespace everloop
