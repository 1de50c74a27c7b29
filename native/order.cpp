#include "order.h"

#include <algorithm>
#include <cstring>
#include <functional>

namespace everloop {

namespace {

constexpr int kFew = 48;  // candidates that are sorted rather than split

float weight_of(uint64_t candidate) {
  const uint32_t bits = uint32_t(candidate >> 32);
  float weight;
  std::memcpy(&weight, &bits, 4);
  return weight;
}

}  // namespace

void Order::gather(const Kernels& kernels, const float* weights, int n, float floor) {
  kernels_ = &kernels;
  if (int(all_.size()) < n + 8) {
    all_.resize(size_t(n) + 8);
    spare_.resize(size_t(n) + 8);
  }
  double sum;
  count_ = kernels.gather(weights, n, floor, all_.data(), &sum);
  segments_.assign(1, {0, count_, sum, false});
}

double Order::sum() const {
  double sum = 0.0;
  for (const Segment& segment : segments_) sum += segment.sum;
  return sum;
}

Order::Place Order::at_rank(int rank) {
  return find([rank](int before, double, int count, double) { return before + count > rank; });
}

Order::Place Order::at_sum(double goal) {
  return find([goal](int, double before, int, double sum) { return before + sum > goal; });
}

// `holds` tells of a run of candidates (rank, sum before it, count, sum) whether it holds the place.
template <typename F>
Order::Place Order::find(F&& holds) {
  int rank = 0;
  double before = 0.0;
  for (size_t i = 0; i < segments_.size();) {
    const Segment segment = segments_[i];
    const bool last = i + 1 == segments_.size();
    if (!last && !holds(rank, before, segment.count, segment.sum)) {
      rank += segment.count;
      before += segment.sum;
      ++i;
    } else if (!segment.sorted) {
      divide(i);
    } else {
      for (int j = 0;; ++j) {
        const uint64_t one = all_[size_t(segment.first + j)];
        const float weight = weight_of(one);
        const bool end = j + 1 == segment.count;
        if (end || holds(rank, before, 1, double(weight)))
          return {rank, before, weight, int(~uint32_t(one))};
        ++rank;
        before += double(weight);
      }
    }
  }
  return {0, 0.0, 0.0f, 0};  // there are none
}

// Sorts a segment or makes two of it.
void Order::divide(size_t index) {
  Segment& segment = segments_[index];
  uint64_t* all = all_.data() + segment.first;
  if (segment.count <= kFew) {
    std::sort(all, all + segment.count, std::greater<>());
    segment.sorted = true;
    return;
  }
  // The median of nine. Candidates differ, so both parts get some.
  uint64_t some[9];
  for (int i = 0; i < 9; ++i) some[i] = all[size_t(segment.count - 1) * size_t(i) / 8];
  std::nth_element(some, some + 4, some + 9);
  double sum;
  const int high = kernels_->split(all, segment.count, some[4], spare_.data(), &sum);
  const Segment rest{segment.first + high, segment.count - high, segment.sum - sum, false};
  segment.count = high;
  segment.sum = sum;
  segments_.insert(segments_.begin() + long(index) + 1, rest);
}

}  // namespace everloop
