// What each instruction set provides: a table of functions, one table compiled per set.
#pragma once
#include "matrix.h"

namespace everloop {

constexpr int kBlock = 32;           // tokens in a block of the key-value cache
constexpr int kAttentionRows = 24;   // query rows of one piece of attention work

// Queries of `tokens` consecutive tokens of one sequence for the `group` query heads that share one
// key/value head. The token at `position` is the first; its own key is in the cache already.
struct Attention {
  const float* queries;  // rotated and scaled; a token's heads side by side
  size_t token_stride;   // floats between tokens
  const uint16_t* keys;    // of this layer and head: block b at keys + table[b] * block_stride
  const uint16_t* values;
  size_t block_stride;   // float16 values between blocks
  const int32_t* table;  // block numbers of the sequence
  float* out;
  size_t out_stride;  // floats between tokens
  int dim, group, tokens, position;
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
  // Writes one head's key (transposed) and value of a token into its block.
  void (*remember)(const float* key, const float* value, int dim, int slot, uint16_t* key_block,
                   uint16_t* value_block);
  void (*attend)(const Attention& work, float* scratch);
  // Index of the largest value, the lowest of equal ones; -1 if any is NaN or infinite.
  int (*argmax)(const float* x, int n);
  // w = exp((x - max) / temperature) and their sum in double, in order; false if not finite.
  bool (*weigh)(const float* x, int n, float temperature, float* w, double* sum);
};

// Floats of scratch that `attend` needs for a context of `tokens`.
inline size_t attention_scratch(int dim, int tokens) {
  const size_t width = (size_t(tokens) + 2 * kBlock - 1) / kBlock * kBlock;
  return size_t(kBlock + kAttentionRows) * dim + kAttentionRows * width;
}

namespace avx512vnni { extern const Kernels kernels; }
namespace avx2 { extern const Kernels kernels; }
namespace portable { extern const Kernels kernels; }

// The best that this CPU runs, or the one named; null if there is none of that name here.
const Kernels* find_kernels(const char* name);

}  // namespace everloop
