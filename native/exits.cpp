#include "exits.h"

#include <algorithm>
#include <cmath>

#include "model.h"

namespace everloop {

void Model::set_exits(const Exit* exits, int count) {
  exits_.assign(exits, exits + count);
  trail_.clear();
}

void Model::begin_exits() {
  active_ = tokens_;
  if (exits_.empty()) return;
  left_.assign(tokens_, 0);
  order_.resize(tokens_);
  for (int row = 0; row < tokens_; ++row) order_[row] = row;
  place_ = order_;
}

float Model::judge(const Gate& gate, const float* x) {
  const int hidden = shape_.hidden;
  const auto dot = [hidden](const float* a, const float* b) {
    float sums[16] = {};
    int c = 0;
    for (; c + 16 <= hidden; c += 16)
      for (int j = 0; j < 16; ++j) sums[j] += a[c + j] * b[c + j];
    for (; c < hidden; ++c) sums[0] += a[c] * b[c];
    float sum = 0.0f;
    for (float part : sums) sum += part;
    return sum;
  };
  const float scale = 1.0f / std::sqrt(dot(x, x) / float(hidden) + shape_.eps);
  float score = 0.0f;
  for (int i = 0; i < gate.inner; ++i) {
    const float sum = scale * dot(gate.into + size_t(i) * hidden, x) + gate.offsets[i];
    score += std::max(sum, 0.0f) * gate.out[i];
  }
  return score;
}

void Model::leave(int depth, const Piece* pieces) {
  bool changed = false;
  int row = 0;
  for (size_t i = 0; i < exits_.size(); ++i) {
    const Exit& exit = exits_[i];
    for (int t = 0; t < pieces[i].length; ++t, ++row) {
      if (exit.layer != depth || pieces[i].start + t < exit.from) continue;
      const float* x = x_.data() + size_t(place_[row]) * shape_.hidden;
      if (!(judge(gates_[depth], x) >= exit.threshold)) continue;
      left_[row] = 1;
      changed = true;
    }
  }
  if (changed) part(pieces);
}

// Puts the rows that go on before those that have left, each in the order of the batch.
void Model::part(const Piece* pieces) {
  const std::vector<int32_t> before = place_;
  order_.clear();
  for (int left = 0; left < 2; ++left) {
    for (int row = 0; row < tokens_; ++row)
      if (left_[row] == left) order_.push_back(row);
    if (!left) active_ = int(order_.size());
  }
  bool moved = false;
  for (int to = 0; to < tokens_; ++to) {
    moved |= place_[order_[to]] != to;
    place_[order_[to]] = to;
  }
  if (moved) {
    const auto gather = [&](auto& values, size_t width) {
      const std::vector old(values.begin(), values.begin() + size_t(tokens_) * width);
      for (int row = 0; row < tokens_; ++row)
        std::copy_n(old.begin() + size_t(before[row]) * width, width,
                    values.begin() + size_t(place_[row]) * width);
    };
    gather(x_, shape_.hidden);
    gather(cosine_, shape_.head_dim / 2);
    gather(sine_, shape_.head_dim / 2);
    gather(positions_, 1);
    gather(slots_, 1);
  }
  // Attention for the rows that are left, in tiles of consecutive tokens.
  const int most = std::max(1, kAttentionRows / (shape_.heads / shape_.kv_heads));
  work_.clear();
  int row = 0;
  for (size_t i = 0; i < exits_.size(); ++i) {
    for (int t = 0; t < pieces[i].length;) {
      int run = 0;
      while (t + run < pieces[i].length && run < most && !left_[row + t + run]) ++run;
      if (run) tile(int(i), place_[row + t], t, run, int(exits_.size()));
      t += std::max(run, 1);
    }
    row += pieces[i].length;
  }
}

}  // namespace everloop
