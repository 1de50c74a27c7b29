// The plain C interface that engine/native/library.py calls.
//
// Functions that can fail return 0 for success; nothing is thrown across this border.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>

#include "writing.h"

using everloop::Draft;
using everloop::Exit;
using everloop::Gate;
using everloop::Kernels;
using everloop::Layer;
using everloop::Matrix;
using everloop::Model;
using everloop::Piece;
using everloop::Rules;
using everloop::Sampler;
using everloop::Shape;
using everloop::Stream;

namespace {

struct PlainMatrix {  // mirrored by library.py
  int32_t bits, outputs, inputs;
  const uint8_t* data;
  const float* bias;
};

struct PlainLayer {
  PlainMatrix qkv, o, gate_up, down;
  const float *before, *after, *q_norm, *k_norm;
  int32_t window;
};

Matrix matrix(const PlainMatrix& plain) {
  Matrix out;
  out.bits = plain.bits;
  out.outputs = plain.outputs;
  out.inputs = plain.inputs;
  out.data = plain.data;
  out.bias = plain.bias;
  return out;
}

template <typename F>
int guarded(F&& work) {
  try {
    work();
    return 0;
  } catch (...) {  // no memory, no thread: the caller says so
    return 1;
  }
}

}  // namespace

extern "C" {


// The sources that this library was compiled from: see build.py.
const char* everloop_fingerprint() { return EVERLOOP_FINGERPRINT; }

const char* everloop_isa(const char* name) {
  const Kernels* kernels = everloop::find_kernels(name);
  return kernels ? kernels->name : nullptr;
}

Model* everloop_model_new(const Shape* shape, const char* isa, int32_t threads, int32_t blocks,
                          int32_t max_tokens) {
  const Kernels* kernels = everloop::find_kernels(isa);
  if (!kernels) return nullptr;
  try {
    return new Model(*shape, *kernels, threads, blocks, max_tokens);
  } catch (...) {
    return nullptr;
  }
}

void everloop_model_free(Model* model) { delete model; }

void everloop_model_layer(Model* model, int32_t index, const PlainLayer* plain) {
  Layer layer;
  layer.qkv = matrix(plain->qkv);
  layer.o = matrix(plain->o);
  layer.gate_up = matrix(plain->gate_up);
  layer.down = matrix(plain->down);
  layer.before = plain->before;
  layer.after = plain->after;
  layer.q_norm = plain->q_norm;
  layer.k_norm = plain->k_norm;
  layer.window = plain->window;
  model->set_layer(index, layer);
}

void everloop_model_ends(Model* model, const PlainMatrix* embedding, const PlainMatrix* head,
                         const float* norm, const float* frequencies) {
  model->set_ends(matrix(*embedding), matrix(*head), norm, frequencies);
}

// A gate after `layer` layers: see exits.h.
void everloop_model_gate(Model* model, int32_t layer, int32_t inner, const float* into,
                         const float* offsets, const float* out) {
  model->set_gate(layer, {inner, into, offsets, out});
}

// What each piece of the next forward or write may leave out; count 0: nothing.
int32_t everloop_exits(Model* model, const Exit* exits, int32_t count) {
  return guarded([&] { model->set_exits(exits, count); });
}

// Of every row computed since then, in order, whether it left early; `rows` of them at most.
// Returns how many.
int32_t everloop_left(Model* model, int32_t rows, uint8_t* out) {
  const auto& trail = model->trail();
  const size_t count = std::min(trail.size(), size_t(rows));
  std::copy_n(trail.begin(), count, out);
  return int32_t(count);
}

int32_t everloop_forward(Model* model, const Piece* pieces, int32_t count, const int32_t* ids,
                         const int32_t* tables, uint8_t* fine) {
  return guarded([&] { model->forward(pieces, count, ids, tables, fine); });
}

void everloop_hidden(Model* model, const int32_t* rows, int32_t count, float* out) {
  model->hidden(rows, count, out);
}

void everloop_logits(Model* model, const int32_t* rows, int32_t count, float* out) {
  model->logits(rows, count, out);
}

// Writes for `count` sequences in step: see writing.h. Piece i begins at position pieces[i].start,
// after token ids[i]; `ends`, `drafts`, `out` and `left` have its part from *_at[i] to *_at[i + 1].
// It writes made[i] tokens; broken[i]: see Stream. Returns the steps done, or -1; `rows` is what they computed.
int32_t everloop_write(Model* model, const Piece* pieces, int32_t count, const int32_t* ids,
                       const int32_t* tables, Sampler* const* samplers, const int32_t* ends,
                       const int32_t* ends_at, const int32_t* drafts, const int32_t* drafts_at,
                       const int32_t* widths, int32_t steps, float* logits, int32_t* out,
                       const int32_t* out_at, uint8_t* left, int32_t* made, uint8_t* broken,
                       int32_t* rows) {
  int32_t done = 0;
  const int failed = guarded([&] {
    std::vector<Stream> streams;
    for (int i = 0; i < count; ++i)
      streams.push_back({pieces[i], ids[i], samplers[i], ends + ends_at[i], ends + ends_at[i + 1],
                         {drafts + drafts_at[i], drafts_at[i + 1] - drafts_at[i]}, widths[i],
                         out + out_at[i], left + out_at[i]});
    *rows = 0;
    done = everloop::write(*model, streams, tables, steps, logits, rows);
    for (int i = 0; i < count; ++i) {
      made[i] = streams[i].made;
      broken[i] = streams[i].broken;
    }
  });
  return failed ? -1 : done;
}

// Samples the tokens after a draft: see writing.h. Returns how many.
int32_t everloop_verify(Model* model, Sampler* sampler, const float* logits, const int32_t* draft,
                        int32_t count, int32_t* out) {
  int32_t made = 0;
  const Draft one{draft, count};
  const int failed =
      guarded([&] { everloop::verify(*model, &sampler, &one, 1, logits, out, &made); });
  return failed ? -1 : made;
}

// log p of each row's target and of its `top` best tokens (ids and values: rows x top, best first).
// NaN where the row is not finite.
int32_t everloop_logprobs(Model* model, const float* logits, int32_t rows, const int32_t* targets,
                          int32_t top, double* own, int32_t* ids, double* values) {
  return guarded([&] {
    const int n = model->shape().vocabulary;
    std::vector<float> weights(n);
    std::vector<int32_t> order(n);
    for (int row = 0; row < rows; ++row) {
      const float* x = logits + size_t(row) * n;
      double total;
      const int best = model->kernels().argmax(x, n);
      if (best < 0 || !model->kernels().weigh(x, n, 1.0f, weights.data(), &total)) {
        own[row] = std::nan("");
        for (int i = 0; i < top; ++i) {
          ids[size_t(row) * top + i] = 0;
          values[size_t(row) * top + i] = std::nan("");
        }
        continue;
      }
      const double base = double(x[best]) + std::log(total);
      own[row] = double(x[targets[row]]) - base;
      if (!top) continue;
      for (int i = 0; i < n; ++i) order[i] = i;
      std::partial_sort(order.begin(), order.begin() + top, order.end(), [x](int a, int b) {
        return x[a] != x[b] ? x[a] > x[b] : a < b;
      });
      for (int i = 0; i < top; ++i) {
        ids[size_t(row) * top + i] = order[i];
        values[size_t(row) * top + i] = double(x[order[i]]) - base;
      }
    }
  });
}

void everloop_clear(Model* model, const int32_t* blocks, int32_t count) {
  model->clear(blocks, count);
}

Sampler* everloop_sampler_new(const Rules* rules, const int32_t* prompt, int32_t prompt_count,
                              const int32_t* bias_ids, const float* bias, int32_t bias_count) {
  try {
    return new Sampler(*rules, prompt, prompt_count, bias_ids, bias, bias_count);
  } catch (...) {
    return nullptr;
  }
}

void everloop_sampler_free(Sampler* sampler) { delete sampler; }


}  // extern "C"
