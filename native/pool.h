// Threads that walk through a step together.
//
// The calling thread goes through the parts of a step one after the other and takes shares of each;
// the others take shares of whatever part it is at. Nobody waits for a thread that holds no share,
// so that one whose core is busy with something else costs at most the share it is at. Who waits
// spins for a moment and then sleeps: a step has hundreds of short parts, and a core that sleeps is
// one that the system can give to whoever is waited for.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <thread>
#include <type_traits>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace everloop {

class Pool {
 public:
  explicit Pool(int threads) : count_(std::max(threads, 1)), lanes_(size_t(count_)) {
    for (int i = 1; i < count_; ++i) workers_.emplace_back([this, i] { serve(i); });
  }
  ~Pool() {
    stopping_ = true;
    signal_.fetch_add(1);
    signal_.notify_all();
    for (auto& worker : workers_) worker.join();
  }
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int count() const { return count_; }

  // How many threads the next parts take: 1 or all.
  void use(bool all) { alone_ = !all || count_ == 1; }
  bool alone() const { return alone_; }

  // Calls work(first, last, thread) for all of [0, n), `share` of it at a time; returns when all is
  // done. Where it can be, a share is done by the thread that did it in the part before, which has
  // what belongs to it in its cache. A thread's shares are spread over all of [0, n), so that work
  // that grows towards the end is even, or follow each other, where it reads ahead.
  enum class Order { kSpread, kFollowing };
  template <typename F>
  void each(int n, int share, F&& work, Order order = Order::kSpread) {
    if (alone_ || n <= share) {
      for (int first = 0; first < n; first += share) work(first, std::min(n, first + share), 0);
      return;
    }
    using Work = std::remove_reference_t<F>;
    call_ = [](void* of, int first, int last, int thread) {
      (*static_cast<Work*>(of))(first, last, thread);
    };
    work_ = const_cast<void*>(static_cast<const void*>(&work));
    n_ = n;
    share_ = share;
    const int shares = (n + share - 1) / share;
    done_.store(0, std::memory_order_relaxed);
    ++part_;
    for (int i = 0; i < count_; ++i) {
      Lane& lane = lanes_[i];
      const bool spread = order == Order::kSpread;
      const int first = spread ? i : int(int64_t(shares) * i / count_);
      lane.step = spread ? count_ : 1;
      const int many = spread ? (shares + count_ - 1 - i) / count_
                              : int(int64_t(shares) * (i + 1) / count_) - first;
      lane.end = first + many * lane.step;
      lane.open.store(uint64_t(part_) << 32 | uint32_t(many), std::memory_order_release);
    }
    current_.store(part_);
    if (asleep_.load() && asleep_.exchange(0)) {
      signal_.fetch_add(1);
      signal_.notify_all();
    }
    const int others = shares - help(0, part_);
    int done;
    for (int spins = 0; (done = done_.load(std::memory_order_acquire)) != others;)
      if (++spins < kPatience)
        pause();
      else
        done_.wait(done, std::memory_order_acquire);
  }

 private:
  static constexpr int kPatience = 4000;  // spins, about 50 us

  static void pause() {
#if defined(__x86_64__)
    _mm_pause();
#endif
  }
  // Takes shares of the part that is open until none is left; returns how many. Its own lane first,
  // then what others have not come to.
  int help(int thread, uint32_t part) {
    int mine = 0;
    for (int i = 0; i < count_; ++i) {
      Lane& lane = lanes_[thread + i < count_ ? thread + i : thread + i - count_];
      std::atomic<uint64_t>& open = lane.open;
      uint64_t left = open.load(std::memory_order_acquire);
      while (uint32_t(left) && left >> 32 == part) {
        if (!open.compare_exchange_weak(left, left - 1, std::memory_order_acq_rel,
                                        std::memory_order_acquire))
          continue;
        // From here on the part stays open until this share is done.
        const int first = (lane.end - int(uint32_t(left)) * lane.step) * share_;
        call_(work_, first, std::min(n_, first + share_), thread);
        ++mine;
        if (thread) {
          done_.fetch_add(1);
          done_.notify_one();
        }
        left = open.load(std::memory_order_acquire);
      }
    }
    return mine;
  }

  void serve(int thread) {
    uint32_t seen = 0;
    while (!stopping_) {
      for (int spins = 0; spins < kPatience && current_.load(std::memory_order_acquire) == seen;
           ++spins)
        pause();
      if (const uint32_t part = current_.load(std::memory_order_acquire); part != seen) {
        help(thread, seen = part);
        continue;
      }
      const unsigned signal = signal_.load();
      asleep_.fetch_add(1);
      if (current_.load() == seen && !stopping_) signal_.wait(signal);
    }
  }

  struct alignas(64) Lane {  // the shares that are a thread's unless others are quicker
    std::atomic<uint64_t> open{0};  // number of the part and, below, how many nobody has taken
    int end = 0, step = 1;          // share `end - step` is the last
  };

  const int count_;
  bool alone_ = true;

  // The part that is open.
  void (*call_)(void*, int, int, int) = nullptr;
  void* work_ = nullptr;
  int n_ = 0, share_ = 1;
  uint32_t part_ = 0;
  std::vector<Lane> lanes_;
  alignas(64) std::atomic<uint32_t> current_{0};
  alignas(64) std::atomic<int> done_{0};  // shares, by others than the caller
  alignas(64) std::atomic<unsigned> signal_{0};
  std::atomic<int> asleep_{0};
  std::atomic<bool> stopping_{false};
  std::vector<std::thread> workers_;  // last: they use all of this
};

}  // namespace everloop
