// Candidates in the order in which tokens are drawn, sorted only where somebody looks.
//
// They lie in segments, each heavier than the next; a segment that is looked into is split by a
// pivot until it is small, and then sorted: to find one place among n costs about 2 n steps.
#pragma once
#include <cstdint>
#include <vector>

#include "kernels.h"

namespace everloop {

class Order {
 public:
  struct Place {
    int rank;       // candidates before it
    double before;  // the sum of their weights
    float weight;
    int token;

    double sum() const { return before + double(weight); }
  };

  // The candidates with a weight of at least `floor`, which is above zero.
  void gather(const Kernels& kernels, const float* weights, int n, float floor);
  int count() const { return count_; }
  double sum() const;

  // The candidate of that rank; the last one if there are fewer.
  Place at_rank(int rank);
  // The first candidate with which the sum exceeds `goal`; the last one if none does.
  Place at_sum(double goal);

 private:
  struct Segment {
    int first, count;
    double sum;
    bool sorted;
  };
  template <typename F>
  Place find(F&& holds);
  void divide(size_t index);

  const Kernels* kernels_ = nullptr;
  std::vector<uint64_t> all_, spare_;
  std::vector<Segment> segments_;
  int count_ = 0;
};

}  // namespace everloop
