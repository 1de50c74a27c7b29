// The Transformer, one step at a time: rows of many sequences through the layers, over the block
// cache, in weights of 8 or 4 bits. Layouts as in everloop.model.config: Llama, Mistral, Qwen2,
// Qwen3.
#pragma once
#include <memory>
#include <vector>

#include "exits.h"
#include "kernels.h"
#include "pool.h"
#include "sampler.h"

namespace everloop {

struct Shape {  // mirrored by library.py
  int32_t vocabulary, hidden, inner, layers, heads, kv_heads, head_dim, qk_norm;
  float eps;
  int32_t kv_bits;  // of a number in the cache: 16 or 8
};

struct Layer {
  Matrix qkv, o, gate_up, down;
  const float* before = nullptr;  // norm weights
  const float* after = nullptr;
  const float* q_norm = nullptr;
  const float* k_norm = nullptr;
  int window = 0;
};

// Consecutive tokens of one sequence.
struct Piece {  // mirrored by library.py
  int32_t start;   // position of the first
  int32_t length;
  int32_t first_id;  // where its ids begin in the batch's ids
  int32_t first_block;  // where its block table begins in the batch's tables
};

class Model {
 public:
  Model(const Shape& shape, const Kernels& kernels, int threads, int blocks, int max_tokens);
  ~Model();

  // Wiring, before the first step. The memory stays the caller's.
  void set_layer(int index, const Layer& layer) { layers_[index] = layer; }
  void set_ends(const Matrix& embedding, const Matrix& head, const float* norm,
                const float* frequencies);

  // After so many layers (fewer than all): who may leave there. The memory stays the caller's.
  void set_gate(int layer, const Gate& gate) { gates_[layer] = gate; }

  // What each piece of the next steps may do; none: everyone goes through all layers.
  void set_exits(const Exit* exits, int count);
  // Of every row of the steps since then, in order: 1 if it has left early.
  const std::vector<uint8_t>& trail() const { return trail_; }

  // Computes all tokens of the pieces; their keys and values go to the cache. `fine` (pieces) is 0
  // where a number is not finite.
  void forward(const Piece* pieces, int count, const int32_t* ids, const int32_t* tables,
               uint8_t* fine);
  // Of the last step: states after the final norm, and logits, of the given rows.
  void hidden(const int32_t* rows, int count, float* out);
  void logits(const int32_t* rows, int count, float* out);
  // Calls work(i, workspace) for i in [0, count): in order, on all threads if there are many.
  template <typename F>
  void each(int count, F&& work) {
    next_.store(0, std::memory_order_relaxed);
    const auto some = [&](int thread) {
      for (int i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count;)
        work(i, spaces_[thread]);
    };
    if (count < kMany)
      some(0);
    else
      pool_.run(some);
  }
  void clear(const int32_t* blocks, int count);

  const Shape& shape() const { return shape_; }
  const Kernels& kernels() const { return kernels_; }
  int threads() const { return pool_.count(); }
  int max_tokens() const { return max_tokens_; }

 private:
  struct Quantized {  // rows ready for a product
    std::vector<int8_t> q;
    std::vector<float> scale;
    std::vector<int32_t> sums;
    size_t stride = 0, groups = 0;
  };
  static constexpr int kMany = 4;
  struct Work {  // one piece of attention: a tile of a piece's tokens and one key/value head
    int32_t piece, row, token, tokens, head, heads;
  };

  void embed(int first, int last, const int32_t* ids);
  void layer(int index, int thread, const Piece* pieces, const int32_t* tables);
  void remember(int index, int first, int last);
  void attend(int index, int thread, const Piece* pieces, const int32_t* tables);
  void quantize(const float* x, size_t stride, int inputs, int first, int last);
  void multiply(const Matrix& matrix, int rows, int thread, float* out, size_t stride, Store store);
  uint8_t* block(uint8_t* base, int layer, int block, int head) const;
  void plan(const Piece* pieces, int count);
  // Adds the attention of consecutive tokens of a piece, one of `pieces`, to the work.
  void tile(int piece, int row, int token, int tokens, int pieces);
  int place(int row) const { return exits_.empty() ? row : place_[row]; }

  // Early exits: see exits.cpp.
  void begin_exits();
  void leave(int depth, int thread, const Piece* pieces);
  void part(const Piece* pieces);
  float judge(const Gate& gate, const float* x);
  void project_parted(const Matrix& qkv, int thread, float* out, size_t stride);

  const Shape shape_;
  const Kernels& kernels_;
  Pool pool_;
  const int blocks_, max_tokens_;
  const size_t head_bytes_;  // of one head's block of keys or values
  std::vector<Layer> layers_;
  Matrix embedding_, head_;
  const float* norm_ = nullptr;
  const float* frequencies_ = nullptr;

  uint8_t *keys_ = nullptr, *values_ = nullptr;
  size_t cache_bytes_ = 0;

  int tokens_ = 0;
  int active_ = 0;  // of these, the first ones, that have not left; others only give keys and values
  std::vector<Exit> exits_;  // of each piece, or none
  std::vector<Gate> gates_;  // by layers done
  std::vector<uint8_t> left_, trail_;   // by row
  std::vector<int32_t> place_, order_;  // where a row is among the states, and the other way round
  std::vector<float> x_, qkv_, attended_, inner_, normed_, cosine_, sine_;
  std::vector<int32_t> positions_, slots_;  // of each token: position, block
  std::vector<Work> work_;
  std::atomic<int> next_{0};
  Quantized rows_;
  std::vector<std::vector<float>> scratch_;
  std::vector<Workspace> spaces_;
};

}  // namespace everloop
