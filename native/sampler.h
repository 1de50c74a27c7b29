// The next token of one request, by its own rules and its own noise.
//
// The same rules in the same order as the PyTorch sampler (engine/native/sampler.py): bias and
// penalties, temperature, top_k, top_p, min_p, draw. The draw is a counter-based number, so a
// token depends on nothing but its logits, the request's seed and the token's number.
#pragma once
#include <cstdint>
#include <utility>
#include <vector>

#include "kernels.h"
#include "order.h"

namespace everloop {

struct Rules {
  float temperature, top_p, min_p;
  float presence_penalty, frequency_penalty, repetition_penalty;
  int32_t top_k;
  uint64_t seed;
};

struct Workspace {  // of one thread
  std::vector<float> logits, weights;
  std::vector<double> sums;
  Order order;
};

class Sampler {
 public:
  Sampler(const Rules& rules, const int32_t* prompt, int prompt_count, const int32_t* bias_ids,
          const float* bias, int bias_count);

  // A token id, or -1 if the logits are not finite. `logits` is left as it is.
  int sample(const Kernels& kernels, const float* logits, int vocabulary, Workspace& space) const;
  // Records a token as part of the output.
  void accept(int token);
  // Whether what it wrote changes what it writes.
  bool penalizes() const;
  // Itself after `tokens` more, which must not matter to it otherwise.
  Sampler after(int tokens) const {
    Sampler later(*this);
    later.drawn_ += uint64_t(tokens);
    return later;
  }

 private:
  void adjust(float* logits, int vocabulary) const;
  int draw(const Kernels& kernels, int vocabulary, double total, Workspace& space) const;

  struct Seen {
    int32_t token;
    int32_t output;  // times in the output; 0: only in the prompt
  };
  Rules rules_;
  uint64_t drawn_ = 0;  // tokens so far
  std::vector<Seen> seen_;        // for penalties: each token once
  std::vector<int32_t> where_;    // open addressing: token -> index in seen_, -1 free
  std::vector<std::pair<int32_t, float>> bias_;

  Seen& find(int32_t token);
  void grow();
};

// SplitMix64 over seed and counter: 40 random bits in [0, 1); see noise.py.
double uniform(uint64_t seed, uint64_t counter);

}  // namespace everloop
