#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace everloop {

namespace {

uint64_t mix(uint64_t x) {
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

// Below this a float32 weight underflows: only the largest logit counts there anyway.
constexpr float kCoolest = 1e-6f;

constexpr float kLightest = std::numeric_limits<float>::denorm_min();  // what can be drawn

constexpr int kStretch = 64;

// In eight sums that don't wait for each other, added in an order of their own.
double sum(const float* x, int count) {
  double part[8] = {};
  int i = 0;
  for (; i + 8 <= count; i += 8)
    for (int j = 0; j < 8; ++j) part[j] += double(x[i + j]);
  for (; i < count; ++i) part[i % 8] += double(x[i]);
  return ((part[0] + part[4]) + (part[1] + part[5])) + ((part[2] + part[6]) + (part[3] + part[7]));
}

}  // namespace

double uniform(uint64_t seed, uint64_t counter) {
  return double(mix(mix(seed) ^ (counter * 0x9E3779B97F4A7C15u)) >> 24) / 1099511627776.0;
}

Sampler::Sampler(const Rules& rules, const int32_t* prompt, int prompt_count,
                 const int32_t* bias_ids, const float* bias, int bias_count)
    : rules_(rules) {
  if (rules.repetition_penalty != 1.0f)
    for (int i = 0; i < prompt_count; ++i) find(prompt[i]);
  for (int i = 0; i < bias_count; ++i) bias_.emplace_back(bias_ids[i], bias[i]);
}

bool Sampler::penalizes() const {
  return rules_.presence_penalty != 0.0f || rules_.frequency_penalty != 0.0f ||
         rules_.repetition_penalty != 1.0f;
}

void Sampler::accept(int token) {
  ++drawn_;
  if (penalizes()) ++find(token).output;
}

Sampler::Seen& Sampler::find(int32_t token) {
  if (seen_.size() * 2 >= where_.size()) grow();
  const size_t mask = where_.size() - 1;
  size_t slot = size_t(mix(uint64_t(token))) & mask;
  while (where_[slot] >= 0 && seen_[where_[slot]].token != token) slot = (slot + 1) & mask;
  if (where_[slot] < 0) {
    where_[slot] = int32_t(seen_.size());
    seen_.push_back({token, 0});
  }
  return seen_[where_[slot]];
}

void Sampler::grow() {
  where_.assign(std::max<size_t>(64, where_.size() * 2), -1);
  const size_t mask = where_.size() - 1;
  for (size_t i = 0; i < seen_.size(); ++i) {
    size_t slot = size_t(mix(uint64_t(seen_[i].token))) & mask;
    while (where_[slot] >= 0) slot = (slot + 1) & mask;
    where_[slot] = int32_t(i);
  }
}

void Sampler::adjust(float* logits, int vocabulary) const {
  for (const Seen& seen : seen_) {
    if (seen.token < 0 || seen.token >= vocabulary) continue;
    float& x = logits[seen.token];
    if (rules_.repetition_penalty != 1.0f)
      x = x > 0 ? x / rules_.repetition_penalty : x * rules_.repetition_penalty;
    if (seen.output)
      x -= rules_.frequency_penalty * float(seen.output) + rules_.presence_penalty;
  }
  for (const auto& [token, value] : bias_)
    if (token >= 0 && token < vocabulary) logits[token] += value;
}

int Sampler::sample(const Kernels& kernels, const float* logits, int vocabulary,
                    Workspace& space) const {
  const float* row = logits;
  if (!bias_.empty() || !seen_.empty()) {
    space.logits.assign(logits, logits + vocabulary);
    adjust(space.logits.data(), vocabulary);
    row = space.logits.data();
  }
  if (rules_.temperature == 0.0f) return kernels.argmax(row, vocabulary);
  space.weights.resize(vocabulary);
  double total;
  if (!kernels.weigh(row, vocabulary, std::max(rules_.temperature, kCoolest),
                     space.weights.data(), &total))
    return -1;
  return draw(kernels, vocabulary, total, space);
}

int Sampler::draw(const Kernels& kernels, int vocabulary, double total, Workspace& space) const {
  const float* weights = space.weights.data();
  const double u = uniform(rules_.seed, drawn_);
  const bool cuts = rules_.top_k > 0 || rules_.top_p < 1.0f || rules_.min_p > 0.0f;
  if (!cuts) {
    // Sums of stretches first: only one of them is walked through token by token.
    auto& sums = space.sums;
    sums.clear();
    double limit = 0.0;
    for (int i = 0; i < vocabulary; i += kStretch) {
      sums.push_back(sum(weights + i, std::min(kStretch, vocabulary - i)));
      limit += sums.back();
    }
    limit *= u;
    double running = 0.0;
    size_t stretch = 0, last = 0;  // the last one with weight, where rounding passes all by
    for (; stretch < sums.size(); ++stretch) {
      if (sums[stretch] == 0.0) continue;
      last = stretch;
      if (running + sums[stretch] > limit) break;
      running += sums[stretch];
    }
    if (stretch == sums.size()) running -= sums[last];
    const int end = std::min(vocabulary, int(last + 1) * kStretch);
    int token = 0;
    for (int i = int(last) * kStretch; i < end; ++i) {
      if (weights[i] == 0.0f) continue;
      running += double(weights[i]);
      token = i;
      if (running > limit) break;
    }
    return token;
  }
  // Candidates above a floor, which falls until the cut is among them. Each cut keeps the first few
  // in their order, so the tightest is the one that keeps least weight.
  Order& order = space.order;
  const bool ranked = rules_.top_k > 0 && rules_.top_k < vocabulary;
  const float least = ranked ? kLightest : std::max(rules_.min_p, kLightest);
  double kept;
  for (float floor = 1e-2f;; floor *= 1e-2f) {
    const bool all = floor < 1e-12f || floor <= least;
    order.gather(kernels, weights, vocabulary, all ? least : floor);
    const bool enough = all || (ranked && order.count() >= rules_.top_k);
    kept = order.sum();
    if (ranked && order.count() > rules_.top_k) kept = order.at_rank(rules_.top_k - 1).sum();
    if (rules_.top_p < 1.0f) {
      const double limit = double(rules_.top_p) * (ranked ? kept : total);
      if (!enough && (ranked || kept < limit)) continue;
      // The first candidate with which the sum reaches the limit is the last that stays.
      kept = std::min(kept, order.at_sum(std::nextafter(limit, 0.0)).sum());
    } else if (!enough) {
      continue;
    }
    break;
  }
  if (ranked && rules_.min_p > 0.0f) {
    order.gather(kernels, weights, vocabulary, rules_.min_p);
    kept = std::min(kept, order.sum());
  }
  return order.at_sum(u * kept).token;
}

}  // namespace everloop
