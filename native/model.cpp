#include "model.h"

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>

#include "pack.h"

namespace everloop {

namespace {

uint8_t* reserve(size_t bytes) {
  // Pages become resident when a block is first used; huge ones, where there are any, spare looking
  // up addresses.
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  madvise(memory, bytes, MADV_HUGEPAGE);
  return static_cast<uint8_t*>(memory);
}

int round_up(int x, int multiple) { return (x + multiple - 1) / multiple * multiple; }

}  // namespace

Model::Model(const Shape& shape, const Kernels& kernels, int threads, int blocks, int max_tokens)
    : shape_(shape), kernels_(kernels), pool_(threads), blocks_(blocks), max_tokens_(max_tokens),
      head_bytes_(head_bytes(shape.head_dim, shape.kv_bits)), layers_(shape.layers), gates_(shape.layers) {
  const size_t heads = size_t(shape.heads) + 2 * size_t(shape.kv_heads);
  const size_t tokens = size_t(max_tokens);
  x_.resize(tokens * shape.hidden);
  normed_.resize(tokens * shape.hidden);
  qkv_.resize(tokens * heads * shape.head_dim);
  attended_.resize(tokens * shape.heads * shape.head_dim);
  inner_.resize(tokens * shape.inner);
  cosine_.resize(tokens * (shape.head_dim / 2));
  sine_.resize(cosine_.size());
  positions_.resize(tokens);
  slots_.resize(tokens);
  const int widest = std::max({shape.hidden, shape.inner, shape.heads * shape.head_dim});
  rows_.stride = size_t(round_up(widest, 64));
  rows_.groups = rows_.stride / kGroup;
  rows_.q.resize(tokens * rows_.stride);
  rows_.scale.resize(tokens);
  rows_.sums.resize(tokens * rows_.groups);
  scratch_.resize(threads < 1 ? 1 : threads);
  spaces_.resize(scratch_.size());
  cache_bytes_ = size_t(shape.layers) * blocks * shape.kv_heads * head_bytes_;
  keys_ = reserve(cache_bytes_);
  values_ = reserve(cache_bytes_);
}

Model::~Model() {
  if (keys_) munmap(keys_, cache_bytes_);
  if (values_) munmap(values_, cache_bytes_);
}

void Model::set_ends(const Matrix& embedding, const Matrix& head, const float* norm,
                     const float* frequencies) {
  embedding_ = embedding;
  head_ = head;
  norm_ = norm;
  frequencies_ = frequencies;
}

uint8_t* Model::block(uint8_t* base, int layer, int block, int head) const {
  return base + ((size_t(layer) * blocks_ + block) * shape_.kv_heads + head) * head_bytes_;
}

void Model::plan(const Piece* pieces, int count) {
  const int group = shape_.heads / shape_.kv_heads;
  const int most = std::max(1, kAttentionRows / group);
  tokens_ = 0;
  work_.clear();
  int longest = 0;
  for (int i = 0; i < count; ++i) {
    const Piece& piece = pieces[i];
    for (int t = 0; t < piece.length; t += most)
      tile(i, tokens_ + t, t, std::min(most, piece.length - t), count);
    for (int t = 0; t < piece.length; ++t) positions_[tokens_ + t] = piece.start + t;
    tokens_ += piece.length;
    longest = std::max(longest, piece.start + piece.length);
  }
  const size_t need = attention_scratch(shape_.head_dim, longest);
  for (auto& scratch : scratch_)
    if (scratch.size() < need) scratch.resize(need * 5 / 4);
}

void Model::tile(int piece, int row, int token, int tokens, int pieces) {
  // Few rows wait for memory, which gives neighbouring heads faster together: as many as leave
  // something to do for every thread.
  const int heads = shape_.kv_heads, rows = tokens * (shape_.heads / heads);
  const int parts = std::max(1, pool_.count() / pieces);
  const int most = std::min((heads + parts - 1) / parts, kAttentionHeads);
  const int together = std::clamp(kAttentionRows / rows, 1, most);
  for (int head = 0; head < heads; head += together)
    work_.push_back({piece, row, token, tokens, head, std::min(together, heads - head)});
}

void Model::forward(const Piece* pieces, int count, const int32_t* ids, const int32_t* tables,
                    uint8_t* fine) {
  plan(pieces, count);
  for (int i = 0, row = 0; i < count; ++i)
    for (int t = 0; t < pieces[i].length; ++t, ++row)
      slots_[row] = tables[pieces[i].first_block + positions_[row] / kBlock];
  std::vector<int32_t> flat(tokens_);
  for (int i = 0, row = 0; i < count; ++i)
    for (int t = 0; t < pieces[i].length; ++t) flat[row++] = ids[pieces[i].first_id + t];
  begin_exits();
  pool_.run([&](int thread) {
    int first, last;
    pool_.share(tokens_, thread, &first, &last);
    embed(first, last, flat.data());
    for (int i = 0; i < shape_.layers; ++i) {
      if (i && !exits_.empty()) leave(i, thread, pieces);
      layer(i, thread, pieces, tables);
    }
  });
  if (!exits_.empty()) trail_.insert(trail_.end(), left_.begin(), left_.end());
  for (int i = 0, row = 0; i < count; ++i) {
    float check = 0.0f;
    for (int t = 0; t < pieces[i].length; ++t, ++row)
      for (int c = 0; c < shape_.hidden; ++c)
        check += x_[size_t(place(row)) * shape_.hidden + c] * 0.0f;
    fine[i] = check == 0.0f;
  }
}

void Model::embed(int first, int last, const int32_t* ids) {
  const int half = shape_.head_dim / 2;
  for (int row = first; row < last; ++row) {
    unpack_row(embedding_, ids[row], x_.data() + size_t(row) * shape_.hidden);
    for (int i = 0; i < half; ++i) {
      const float angle = float(positions_[row]) * frequencies_[i];
      cosine_[size_t(row) * half + i] = std::cos(angle);
      sine_[size_t(row) * half + i] = std::sin(angle);
    }
  }
}

void Model::layer(int index, int thread, const Piece* pieces, const int32_t* tables) {
  const Layer& layer = layers_[index];
  const int hidden = shape_.hidden, dim = shape_.head_dim, tokens = active_;
  const size_t wide = size_t(shape_.heads + 2 * shape_.kv_heads) * dim;
  int first, last;
  pool_.share(tokens_, thread, &first, &last);

  const auto norm = [&](const float* weight) {
    for (int row = first; row < last; ++row)
      kernels_.norm(x_.data() + size_t(row) * hidden, weight, hidden, shape_.eps,
                    normed_.data() + size_t(row) * hidden);
    quantize(normed_.data(), hidden, hidden, first, last);
    if (thread == 0) next_.store(0, std::memory_order_relaxed);
    pool_.barrier();
  };
  norm(layer.before);
  if (tokens == tokens_)
    multiply(layer.qkv, tokens, thread, qkv_.data(), wide, Store::kWrite);
  else
    project_parted(layer.qkv, thread, qkv_.data(), wide);
  pool_.barrier();
  remember(index, first, last);
  pool_.barrier();
  if (!tokens) return;
  pool_.share(tokens, thread, &first, &last);
  attend(index, thread, pieces, tables);
  pool_.barrier();
  quantize(attended_.data(), size_t(shape_.heads) * dim, shape_.heads * dim, first, last);
  pool_.barrier();
  multiply(layer.o, tokens, thread, x_.data(), hidden, Store::kAdd);
  pool_.barrier();
  norm(layer.after);
  multiply(layer.gate_up, tokens, thread, inner_.data(), shape_.inner, Store::kGate);
  pool_.barrier();
  quantize(inner_.data(), shape_.inner, shape_.inner, first, last);
  pool_.barrier();
  multiply(layer.down, tokens, thread, x_.data(), hidden, Store::kAdd);
  pool_.barrier();
}

void Model::quantize(const float* x, size_t stride, int inputs, int first, int last) {
  const int padded = round_up(inputs, kGroup);
  for (int row = first; row < last; ++row)
    kernels_.quantize(x + size_t(row) * stride, inputs, padded,
                      rows_.q.data() + size_t(row) * size_t(padded),
                      rows_.scale.data() + row,
                      rows_.sums.data() + size_t(row) * size_t(padded / kGroup));
}

void Model::multiply(const Matrix& matrix, int rows, int thread, float* out, size_t stride,
                     Store store) {
  int first, last;
  pool_.share(matrix.panels(), thread, &first, &last);
  Rows view;
  view.q = rows_.q.data();
  view.stride = size_t(matrix.padded_inputs());
  view.scale = rows_.scale.data();
  view.sums = rows_.sums.data();
  view.count = rows;
  if (first < last) kernels_.multiply(matrix, view, first, last, out, stride, store);
}

void Model::remember(int index, int first, int last) {
  const Layer& layer = layers_[index];
  const int dim = shape_.head_dim, half = dim / 2;
  const size_t wide = size_t(shape_.heads + 2 * shape_.kv_heads) * dim;
  const float scale = 1.44269504f / std::sqrt(float(dim));  // weights are powers of two
  for (int row = first; row < last; ++row) {
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

void Model::attend(int index, int thread, const Piece* pieces, const int32_t* tables) {
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
  const int all = int(work_.size());
  for (int i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < all;) {
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
    kernels_.attend(a, scratch_[thread].data());
  }
}

void Model::hidden(const int32_t* rows, int count, float* out) {
  for (int i = 0; i < count; ++i)
    kernels_.norm(x_.data() + size_t(place(rows[i])) * shape_.hidden, norm_, shape_.hidden, shape_.eps,
                  out + size_t(i) * shape_.hidden);
}

void Model::logits(const int32_t* rows, int count, float* out) {
  for (int done = 0; done < count; done += max_tokens_) {
    const int some = std::min(max_tokens_, count - done);
    pool_.run([&](int thread) {
      int first, last;
      pool_.share(some, thread, &first, &last);
      hidden(rows + done + first, last - first,
             normed_.data() + size_t(first) * shape_.hidden);
      quantize(normed_.data(), shape_.hidden, shape_.hidden, first, last);
      pool_.barrier();
      multiply(head_, some, thread, out + size_t(done) * shape_.vocabulary, shape_.vocabulary,
               Store::kWrite);
    });
  }
}

void Model::clear(const int32_t* blocks, int count) {
  for (int layer = 0; layer < shape_.layers; ++layer)
    for (int i = 0; i < count; ++i) {
      const size_t bytes = head_bytes_ * shape_.kv_heads;
      std::memset(block(keys_, layer, blocks[i], 0), 0, bytes);
      std::memset(block(values_, layer, blocks[i], 0), 0, bytes);
    }
}

}  // namespace everloop
