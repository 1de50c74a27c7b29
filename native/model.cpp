#include "model.h"

#include <sys/mman.h>

#include <algorithm>
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

}  // namespace

Model::Model(const Shape& shape, const Kernels& kernels, int threads, int blocks, int max_tokens)
    : shape_(shape), kernels_(kernels), pool_(threads), blocks_(blocks), max_tokens_(max_tokens),
      head_bytes_(head_bytes(shape.head_dim, shape.kv_bits)), layers_(shape.layers), gates_(shape.layers) {
  const size_t heads = size_t(shape.heads) + 2 * size_t(shape.kv_heads);
  const size_t tokens = size_t(max_tokens);
  x_.resize(tokens * shape.hidden);
  qkv_.resize(tokens * heads * shape.head_dim);
  attended_.resize(tokens * shape.heads * shape.head_dim);
  cosine_.resize(tokens * (shape.head_dim / 2));
  sine_.resize(cosine_.size());
  positions_.resize(tokens);
  slots_.resize(tokens);
  ids_.resize(tokens);
  const int widest = std::max({shape.hidden, shape.inner, shape.heads * shape.head_dim});
  const size_t inputs = size_t(padded(widest));
  benches_.resize(size_t(pool_.count()));
  for (Bench& bench : benches_) {
    bench.normed.resize(size_t(kMostRows) * shape.hidden);
    bench.inner.resize(size_t(kMostRows) * shape.inner);
    bench.q.resize(kMostRows * inputs);
    bench.scale.resize(kMostRows);
    bench.sums.resize(kMostRows * inputs / kGroup);
  }
  cache_bytes_ = size_t(shape.layers) * blocks * shape.kv_heads * head_bytes_;
  keys_ = reserve(cache_bytes_);
  values_ = reserve(cache_bytes_);
}

Model::~Model() {
  if (keys_) munmap(keys_, cache_bytes_);
  if (values_) munmap(values_, cache_bytes_);
}

void Model::set_layer(int index, const Layer& layer) {
  layers_[index] = layer;
  for (const Matrix* matrix : {&layer.qkv, &layer.o, &layer.gate_up, &layer.down}) {
    weights_ += int64_t(matrix->inputs) * matrix->outputs;
    weight_bytes_ += matrix->bytes();
  }
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
  work_in_step_ = 0;
  work_.clear();
  first_rows_.clear();
  first_work_.clear();
  longest_ = 0;
  int longest = 0;
  for (int i = 0; i < count; ++i) {
    const Piece& piece = pieces[i];
    first_rows_.push_back(tokens_);
    first_work_.push_back(int(work_.size()));
    longest_ = std::max(longest_, piece.length);
    for (int t = 0; t < piece.length; t += most)
      tile(i, tokens_ + t, t, std::min(most, piece.length - t), count);
    for (int t = 0; t < piece.length; ++t) positions_[tokens_ + t] = piece.start + t;
    tokens_ += piece.length;
    const int64_t seen = int64_t(piece.length) * (2 * piece.start + piece.length + 1) / 2;
    work_in_step_ += seen * 2 * shape_.heads * shape_.head_dim * shape_.layers;
    longest = std::max(longest, piece.start + piece.length);
  }
  work_in_step_ += tokens_ * weights_;
  first_rows_.push_back(tokens_);
  first_work_.push_back(int(work_.size()));
  const size_t need = attention_scratch(shape_.head_dim, longest);
  for (Bench& bench : benches_)
    if (bench.scores.size() < need) bench.scores.resize(need * 5 / 4);
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

void Model::hidden(const int32_t* rows, int count, float* out) {
  for (int i = 0; i < count; ++i)
    kernels_.norm(x_.data() + size_t(place(rows[i])) * shape_.hidden, norm_, shape_.hidden, shape_.eps,
                  out + size_t(i) * shape_.hidden);
}

void Model::logits(const int32_t* rows, int count, float* out) {
  const int hidden = shape_.hidden;
  Bench& bench = benches_[0];
  for (int done = 0; done < count; done += kMostRows) {
    const int some = std::min(kMostRows, count - done);
    pool_.use(ends_.all(int64_t(some) * head_.inputs * head_.outputs) || dividing_);
    this->hidden(rows + done, some, bench.normed.data());
    quantize(bench.normed.data(), hidden, nullptr, some, bench, true);
    multiply(head_, {0, some}, 0, bench, true, out + size_t(done) * shape_.vocabulary,
             shape_.vocabulary, Store::kWrite);
    ends_.done();
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
