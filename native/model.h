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
#include "width.h"

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
  void set_layer(int index, const Layer& layer);
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
  // Calls work(i, workspace) for i in [0, count), on the threads of the last head's product.
  template <typename F>
  void each(int count, F&& work) {
    pool_.each(count, count < kMany ? kMany : 1, [&](int first, int last, int thread) {
      for (int i = first; i < last; ++i) work(i, benches_[thread].sampling);
    });
  }
  void clear(const int32_t* blocks, int count);

  void divide(int how) { dividing_ = how; }

  const Shape& shape() const { return shape_; }
  const Kernels& kernels() const { return kernels_; }
  int threads() const { return pool_.count(); }
  int max_tokens() const { return max_tokens_; }

 private:
  static constexpr int kMostRows = 96;  // that a thread is at: what it has of them stays in its cache
  static int padded(int inputs) { return (inputs + kGroup - 1) / kGroup * kGroup; }

  struct Span {
    int first, last;
    int count() const { return last - first; }
  };
  struct Bench {  // what a thread needs for the rows that it is at
    std::vector<float> normed, inner;  // rows
    std::vector<int8_t> q;             // rows ready for a product
    std::vector<float> scale;
    std::vector<int32_t> sums;
    std::vector<float> scores;  // attention's scratch
    Workspace sampling;
  };
  static constexpr int kMany = 4;
  struct Work {  // one piece of attention: a tile of a piece's tokens and one key/value head
    int32_t piece, row, token, tokens, head, heads;
  };

  void embed(Span rows);
  void write_apart(const Piece* pieces, int count, int share, const int32_t* tables);
  void read_on(const Piece* pieces, const int32_t* tables, bool together);
  // A layer up to its attention, and from there on. Threads have come with rows of their own, or
  // `together` with the same ones, of which they share each part.
  void before(int index, Span rows, Bench& bench, bool together);
  void after(int index, Span rows, Bench& bench, bool together);
  void remember(int index, Span rows);
  void attend(int index, Span tiles, int thread, const Piece* pieces, const int32_t* tables);
  // Rows of x, normed if there is a weight, to the bench's int8.
  void quantize(const float* x, int inputs, const float* norm, int rows, Bench& bench,
                bool together);
  // Rows of the bench times a matrix from one of its panels on; `out` is that of row 0.
  void multiply(const Matrix& matrix, Span rows, int panel, const Bench& bench, bool together,
                float* out, size_t stride, Store store);
  template <typename F>
  void each_row(int rows, bool together, F&& work);
  uint8_t* block(uint8_t* base, int layer, int block, int head) const;
  void plan(const Piece* pieces, int count);
  // Adds the attention of consecutive tokens of a piece, one of `pieces`, to the work.
  void tile(int piece, int row, int token, int tokens, int pieces);
  int place(int row) const { return exits_.empty() ? row : place_[row]; }

  // Early exits: see exits.cpp.
  void begin_exits();
  void leave(int depth, const Piece* pieces);
  void part(const Piece* pieces);
  float judge(const Gate& gate, const float* x);

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
  int64_t weights_ = 0, weight_bytes_ = 0;  // of all layers
  int64_t work_in_step_ = 0;                // multiplications
  int longest_ = 0;                         // tokens of a piece
  std::vector<int32_t> first_rows_, first_work_;  // of each piece, and the ends
  int active_ = 0;  // of these, the first ones, that have not left; others only give keys and values
  std::vector<Exit> exits_;  // of each piece, or none
  std::vector<Gate> gates_;  // by layers done
  std::vector<uint8_t> left_, trail_;   // by row
  std::vector<int32_t> place_, order_;  // where a row is among the states, and the other way round
  std::vector<float> x_, qkv_, attended_, cosine_, sine_;
  std::vector<int32_t> ids_, positions_, slots_;  // of each token: id, position, block
  std::vector<Work> work_;
  std::vector<Bench> benches_;  // of each thread
  int dividing_ = 0;            // see threads_api.cpp
  Width step_, ends_;           // of the layers, and of the head
};

}  // namespace everloop
