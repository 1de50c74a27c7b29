// How steps are divided, for the tests: tests/engine/test_threads.py declares these.
#include "model.h"

using everloop::Model;
using everloop::Pool;
using everloop::Width;

extern "C" {

// From now on all threads do every step: 1 with rows of their own, 2 each part of a layer together;
// 0 as it was measured to be quickest.
void everloop_model_divide(Model* model, int32_t how) { model->divide(how); }

// Goes through `parts` parts of n items, with all threads in every second one; `done` (n) says how
// often each item was done.
void everloop_pool_try(int32_t threads, int32_t n, int32_t share, int32_t parts, int32_t* done) {
  Pool pool(threads);
  for (int part = 0; part < parts; ++part) {
    pool.use(part % 2 == 0);
    pool.each(n, share, [&](int first, int last, int) {
      for (int i = first; i < last; ++i) ++done[i];
    });
  }
}

Width* everloop_width_new() { return new Width; }
void everloop_width_free(Width* width) { delete width; }
int32_t everloop_width_all(Width* width, int64_t work) { return width->all(work); }
void everloop_width_took(Width* width, double seconds) { width->took(seconds); }

}  // extern "C"
