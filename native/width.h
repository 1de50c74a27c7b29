// Whether a step is computed by one thread or by all, learnt from the time that steps take.
//
// More threads are not always quicker: waking them and waiting for them costs time, and much more
// where their cores are busy with something else. So what all of them lose against one thread is
// added up, and they may lose no more than a small share of the time.
#pragma once
#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstdint>

namespace everloop {

class Width {
 public:
  // Whether all threads should do the next step, of `work` multiplications.
  bool all(int64_t work) {
    work_ = double(work);
    size_ = &sizes_[std::bit_width(uint64_t(work))];
    all_ = work >= kSmall && !size_->probes && (size_->trying || size_->loss <= 0.0);
    began_ = Clock::now();
    return all_;
  }

  // That step is done.
  void done() { took(std::chrono::duration<double>(Clock::now() - began_).count()); }

  // The same with the time given.
  void took(double seconds) {
    if (work_ < kSmall) return;
    Size& size = *size_;
    const bool brief = seconds < kMoment;
    if (!all_) {
      // The first step after those of all threads warms up.
      if (!size.warming || !size.rate) size.learn(seconds / work_);
      size.warming = false;
      size.loss -= kShare * seconds;
      size.probes -= size.probes > 0;
      size.trying = size.loss <= 0.0;
      size.tried = 0.0;
      return;
    }
    size.warming = brief;
    if (++size.since >= kAgain) {
      size.probes = brief ? kProbes : 1;
      size.since = 0;
    }
    if (!size.rate) return;
    size.tried += seconds;
    const double lost = seconds - kGain * size.rate * work_;
    size.loss = std::clamp(size.loss + lost, -kCredit, std::ldexp(kLeast, size.failures));
    if (size.trying && (size.tried >= kMoment || size.loss >= kMoment)) {
      size.trying = false;
      size.failures = std::clamp(size.failures + (size.loss > 0.0 ? 1 : -1), 0, kFailures);
    }
  }

 private:
  using Clock = std::chrono::steady_clock;

  static constexpr int64_t kSmall = 12'000'000;  // less work takes no longer than waking a thread
  static constexpr double kGain = 0.9;  // of one thread's time: gaining less isn't worth a core
  static constexpr double kShare = 0.01;    // of the time may be lost
  static constexpr double kCredit = 0.005;  // seconds gained before that make up for a loss
  static constexpr double kLeast = 0.0002;  // seconds of a loss that count, twice as many after each
  static constexpr int kFailures = 6;       // trial that failed, so often
  static constexpr double kMoment = 0.001;  // seconds of a trial
  static constexpr int kAgain = 256, kFirst = 16;  // steps of all until one is timed: again, first
  static constexpr int kProbes = 3;               // steps of it

  struct Size {        // steps of about the same work
    double rate = 0;   // seconds of a multiplication by one thread; 0: not known
    double loss = 0;   // seconds that all threads lost; below 0: gained
    double tried = 0;  // seconds of the trial
    int since = kAgain - kFirst;  // steps of all threads since one was timed
    int probes = 0;               // steps of one thread still to be timed
    int failures = 0;             // of trials lately
    bool trying = false, warming = true;

    // What is quick counts more: a step is held up by much, and sped up by nothing.
    void learn(double now) {
      if (!rate)
        rate = now;
      else
        rate += (now < rate ? 0.5 : 0.1) * (std::min(now, 2 * rate) - rate);
    }
  };

  std::array<Size, 65> sizes_{};
  Size* size_ = &sizes_[0];
  double work_ = 0;
  bool all_ = false;
  Clock::time_point began_;
};

}  // namespace everloop
