// Threads that walk through one step together.
//
// A step has hundreds of short parts, so threads wait for each other by spinning, but only for a
// moment: on a machine that is busy with other things they give the core away instead.
#pragma once
#include <atomic>
#include <functional>
#include <thread>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace everloop {

class Pool {
 public:
  explicit Pool(int threads) : count_(threads < 1 ? 1 : threads) {
    for (int i = 1; i < count_; ++i) workers_.emplace_back([this, i] { serve(i); });
  }
  ~Pool() {
    stopping_ = true;
    generation_.fetch_add(1);
    generation_.notify_all();
    for (auto& worker : workers_) worker.join();
  }
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int count() const { return count_; }

  // Runs work(thread) on every thread, the caller's too, and waits for all.
  template <typename F>
  void run(F&& work) {
    if (count_ == 1) return work(0);
    const std::function<void(int)> call = [&work](int i) { work(i); };
    work_ = &call;
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
    work(0);
    barrier();
  }

  // All threads wait here for each other; only within `run`.
  void barrier() {
    if (count_ == 1) return;
    const unsigned phase = phase_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == count_ - 1) {
      arrived_.store(0, std::memory_order_relaxed);
      phase_.store(phase + 1, std::memory_order_release);
      return;
    }
    wait(phase_, phase, kPatience);
  }

  // A thread's share of `n` equal parts: [first, last).
  void share(int n, int thread, int* first, int* last) const {
    *first = int(int64_t(n) * thread / count_);
    *last = int(int64_t(n) * (thread + 1) / count_);
  }

 private:
  static constexpr int kPatience = 4000;  // spins before the core is given away, about 50 us

  static void pause() {
#if defined(__x86_64__)
    _mm_pause();
#endif
  }
  static void wait(std::atomic<unsigned>& value, unsigned old, int patience) {
    for (int spins = 0; value.load(std::memory_order_acquire) == old; ++spins) {
      if (spins < patience)
        pause();
      else
        std::this_thread::yield();
    }
  }
  void serve(int thread) {
    unsigned seen = 0;
    for (;;) {
      for (int spins = 0; generation_.load(std::memory_order_acquire) == seen && spins < kPatience;
           ++spins)
        pause();
      generation_.wait(seen, std::memory_order_acquire);
      seen = generation_.load(std::memory_order_acquire);
      if (stopping_) return;
      (*work_)(thread);
      barrier();
    }
  }

  const int count_;
  std::vector<std::thread> workers_;
  const std::function<void(int)>* work_ = nullptr;
  std::atomic<unsigned> generation_{0}, phase_{0};
  std::atomic<int> arrived_{0};
  std::atomic<bool> stopping_{false};
};

}  // namespace everloop
