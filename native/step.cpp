// One step: rows of many sequences through all layers.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "model.h"
#include "pack.h"

namespace everloop {

namespace {

constexpr int kShareRows = 24;  // a share of a layer
constexpr int kFewRows = 4;  // a share of what is little work for each row
constexpr int kTiles = 2;    // a share of attention
constexpr int kMostStreams = 16;  // rows of a share that goes through all layers
constexpr int kTogether = 48;     // rows from which on each thread takes some of them
constexpr int64_t kCached = 16 << 20;  // bytes of weights that threads can read one by one

bool is_finite(const float* x, int n) {
  uint32_t broken = 0;
  for (int i = 0; i < n; ++i) {
    uint32_t bits;
    std::memcpy(&bits, x + i, 4);
    broken |= (bits & 0x7f800000) == 0x7f800000;
  }
  return !broken;
}

}  // namespace

void Model::forward(const Piece* pieces, int count, const int32_t* ids, const int32_t* tables,
                    uint8_t* fine) {
  plan(pieces, count);
  for (int i = 0, row = 0; i < count; ++i)
    for (int t = 0; t < pieces[i].length; ++t, ++row) {
      slots_[row] = tables[pieces[i].first_block + positions_[row] / kBlock];
      ids_[row] = ids[pieces[i].first_id + t];
    }
  begin_exits();
  pool_.use(step_.all(work_in_step_) || dividing_);
  each_row(tokens_, true, [&](Span rows) { embed(rows); });
  const int share = std::clamp((tokens_ + pool_.count() - 1) / pool_.count(), 2, kMostStreams);
  const bool large = dividing_ ? dividing_ == 2 : weight_bytes_ > kCached;
  if (!pool_.alone() && exits_.empty() && !large && longest_ <= share)
    write_apart(pieces, count, std::min(share * count / tokens_, kMostRows / longest_), tables);
  else
    read_on(pieces, tables, !pool_.alone() && large && tokens_ < kTogether);
  step_.done();
  if (!exits_.empty()) trail_.insert(trail_.end(), left_.begin(), left_.end());
  for (int i = 0, row = 0; i < count; ++i) {
    fine[i] = 1;
    for (int t = 0; t < pieces[i].length; ++t, ++row)
      fine[i] &= is_finite(x_.data() + size_t(place(row)) * shape_.hidden, shape_.hidden);
  }
}

// Sequences don't look at each other: a thread takes some of them through all layers.
void Model::write_apart(const Piece* pieces, int count, int share, const int32_t* tables) {
  pool_.each(count, std::max(share, 1), [&](int first, int last, int thread) {
    const Span rows{first_rows_[first], first_rows_[last]};
    for (int i = 0; i < shape_.layers; ++i) {
      before(i, rows, benches_[thread], false);
      attend(i, {first_work_[first], first_work_[last]}, thread, pieces, tables);
      after(i, rows, benches_[thread], false);
    }
  });
}

// All through one layer after the other. Threads take some rows each, or all of them share each
// part of a layer: weights from memory should come from there only once.
void Model::read_on(const Piece* pieces, const int32_t* tables, bool together) {
  const bool leaves = !exits_.empty();
  const int most = pool_.alone() ? kMostRows : kShareRows;
  const auto rows = [&](int count, auto&& work) {
    if (together) return work(Span{0, count}, benches_[0]);
    pool_.each(count, most, [&](int first, int last, int thread) {
      work(Span{first, last}, benches_[thread]);
    });
  };
  for (int i = 0; i <= shape_.layers; ++i) {
    if (i && leaves) {
      rows(active_, [&](Span some, Bench& bench) { after(i - 1, some, bench, together); });
      if (i < shape_.layers) leave(i, pieces);
    }
    if (i == shape_.layers && leaves) break;
    rows(tokens_, [&](Span some, Bench& bench) {
      if (i && !leaves) after(i - 1, some, bench, together);
      if (i < shape_.layers) before(i, some, bench, together);
    });
    if (i == shape_.layers) break;
    pool_.each(int(work_.size()), kTiles, [&](int first, int last, int thread) {
      attend(i, {first, last}, thread, pieces, tables);
    });
  }
}

void Model::embed(Span rows) {
  const int half = shape_.head_dim / 2;
  for (int row = rows.first; row < rows.last; ++row) {
    unpack_row(embedding_, ids_[row], x_.data() + size_t(row) * shape_.hidden);
    for (int i = 0; i < half; ++i) {
      const float angle = float(positions_[row]) * frequencies_[i];
      cosine_[size_t(row) * half + i] = std::cos(angle);
      sine_[size_t(row) * half + i] = std::sin(angle);
    }
  }
}

void Model::before(int index, Span rows, Bench& bench, bool together) {
  const Layer& layer = layers_[index];
  const size_t wide = size_t(shape_.heads + 2 * shape_.kv_heads) * shape_.head_dim;
  float* out = qkv_.data() + size_t(rows.first) * wide;
  quantize(x_.data() + size_t(rows.first) * shape_.hidden, shape_.hidden, layer.before,
           rows.count(), bench, together);
  // Rows that have left give keys and values only.
  const int whole = std::clamp(active_ - rows.first, 0, rows.count());
  const int queries = shape_.heads * shape_.head_dim / kPanel;
  multiply(layer.qkv, {0, whole}, 0, bench, together, out, wide, Store::kWrite);
  multiply(layer.qkv, {whole, rows.count()}, queries, bench, together, out, wide, Store::kWrite);
  each_row(rows.count(), together, [&](Span some) {
    remember(index, {rows.first + some.first, rows.first + some.last});
  });
}

void Model::after(int index, Span rows, Bench& bench, bool together) {
  const Layer& layer = layers_[index];
  const int hidden = shape_.hidden, inner = shape_.inner, n = rows.count();
  const int heads = shape_.heads * shape_.head_dim;
  float* x = x_.data() + size_t(rows.first) * hidden;
  quantize(attended_.data() + size_t(rows.first) * heads, heads, nullptr, n, bench, together);
  multiply(layer.o, {0, n}, 0, bench, together, x, hidden, Store::kAdd);
  quantize(x, hidden, layer.after, n, bench, together);
  multiply(layer.gate_up, {0, n}, 0, bench, together, bench.inner.data(), inner, Store::kGate);
  quantize(bench.inner.data(), inner, nullptr, n, bench, together);
  multiply(layer.down, {0, n}, 0, bench, together, x, hidden, Store::kAdd);
}

void Model::quantize(const float* x, int inputs, const float* norm, int rows, Bench& bench,
                     bool together) {
  const size_t width = size_t(padded(inputs));
  each_row(rows, together, [&](Span some) {
    for (int row = some.first; row < some.last; ++row) {
      const float* from = x + size_t(row) * inputs;
      if (norm) {
        float* normed = bench.normed.data() + size_t(row) * inputs;
        kernels_.norm(from, norm, inputs, shape_.eps, normed);
        from = normed;
      }
      kernels_.quantize(from, inputs, int(width), bench.q.data() + size_t(row) * width,
                        bench.scale.data() + row,
                        bench.sums.data() + size_t(row) * (width / kGroup));
    }
  });
}

void Model::multiply(const Matrix& matrix, Span rows, int panel, const Bench& bench, bool together,
                     float* out, size_t stride, Store store) {
  if (!rows.count()) return;
  Rows view;
  view.stride = size_t(matrix.padded_inputs());
  view.q = bench.q.data() + size_t(rows.first) * view.stride;
  view.scale = bench.scale.data() + rows.first;
  view.sums = bench.sums.data() + size_t(rows.first) * size_t(matrix.groups());
  view.count = rows.count();
  out += size_t(rows.first) * stride;
  const int panels = matrix.panels() - panel;
  const auto some = [&](int first, int last, int) {
    kernels_.multiply(matrix, view, panel + first, panel + last, out, stride, store);
  };
  if (together)
    pool_.each(panels, std::max(panels / (8 * pool_.count()), 1), some, Pool::Order::kFollowing);
  else
    some(0, panels, 0);
}

template <typename F>
void Model::each_row(int rows, bool together, F&& work) {
  if (!together) return work(Span{0, rows});
  pool_.each(rows, kFewRows, [&](int first, int last, int) { work(Span{first, last}); });
}

void Model::remember(int index, Span rows) {
  const Layer& layer = layers_[index];
  const int dim = shape_.head_dim, half = dim / 2;
  const size_t wide = size_t(shape_.heads + 2 * shape_.kv_heads) * dim;
  const float scale = 1.44269504f / std::sqrt(float(dim));  // weights are powers of two
  for (int row = rows.first; row < rows.last; ++row) {
    float* q = qkv_.data() + row * wide;
    float* k = q + size_t(shape_.heads) * dim;
    const float* v = k + size_t(shape_.kv_heads) * dim;
    const float* cosine = cosine_.data() + size_t(row) * half;
    const float* sine = sine_.data() + size_t(row) * half;
    for (int h = 0; h < shape_.heads && row < active_; ++h)
      kernels_.rotate(q + size_t(h) * dim, layer.q_norm, dim, shape_.eps, cosine, sine, scale);
    for (int h = 0; h < shape_.kv_heads; ++h) {
      kernels_.rotate(k + size_t(h) * dim, layer.k_norm, dim, shape_.eps, cosine, sine, 1.0f);
      kernels_.remember(k + size_t(h) * dim, v + size_t(h) * dim, dim, shape_.kv_bits,
                        positions_[row] % kBlock,
                        block(keys_, index, slots_[row], h), block(values_, index, slots_[row], h));
    }
  }
}

void Model::attend(int index, Span tiles, int thread, const Piece* pieces,
                   const int32_t* tables) {
  const int dim = shape_.head_dim, group = shape_.heads / shape_.kv_heads;
  const size_t wide = size_t(shape_.heads + 2 * shape_.kv_heads) * dim;
  const size_t narrow = size_t(shape_.heads) * dim;
  Attention a;
  a.token_stride = wide;
  a.out_stride = narrow;
  a.block_stride = size_t(shape_.kv_heads) * head_bytes_;
  a.head_stride = head_bytes_;
  a.bits = shape_.kv_bits;
  a.dim = dim;
  a.group = group;
  a.window = layers_[index].window;
  for (int i = tiles.first; i < tiles.last; ++i) {
    const Work& work = work_[i];
    const Piece& piece = pieces[work.piece];
    const size_t head = size_t(work.head) * group * dim;
    a.queries = qkv_.data() + size_t(work.row) * wide + head;
    a.out = attended_.data() + size_t(work.row) * narrow + head;
    a.keys = block(keys_, index, 0, work.head);
    a.values = block(values_, index, 0, work.head);
    a.table = tables + piece.first_block;
    a.heads = work.heads;
    a.tokens = work.tokens;
    a.position = piece.start + work.token;
    kernels_.attend(a, benches_[thread].scores.data());
  }
}

}  // namespace everloop
