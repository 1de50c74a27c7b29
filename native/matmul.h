// The matrix product: panels of weights against tiles of rows.
//
// A panel is read from memory once and meets all rows of a chunk while it is in the cache; the
// chunk is small enough to stay there too. Which tile a row falls into changes nothing in its
// result.
#pragma once
#if defined(__AVX512VNNI__)
#include "matmul_avx512.h"
#elif defined(__AVX2__)
#include "matmul_avx2.h"
#else
#include "matmul_portable.h"
#endif
#include "matmul_store.h"
#include "matrix.h"

namespace everloop::EVERLOOP_ISA {

constexpr int kChunk = 192;  // rows

inline int steps_of(const Matrix& w) { return w.padded_inputs() / (w.bits == 8 ? 4 : 8); }

// One tile reads its panel as fast as memory gives it, but of several only the first would wait for
// memory, so they all fetch a part of the next panel.
inline Ahead next_panel(const Matrix& w, int panel, int tiles) {
  const size_t half = w.panel_bytes() / 2;
  const size_t bytes = half / (size_t(steps_of(w)) * size_t(tiles)) + 1;
  return {w.data + size_t(panel + 1) * w.panel_bytes(), half,
          tiles == 1 ? 0 : bytes < 64 ? bytes : 64};
}

template <int R>
void tile(const Matrix& w, int panel, const Rows& x, int row, const int32_t* start, Ahead ahead,
          float* out, size_t stride, Store how) {
  const uint8_t* data = w.data + size_t(panel) * w.panel_bytes();
  const float* bias = w.bias ? w.bias + size_t(panel) * kPanel : nullptr;
  const int8_t* q = x.q + size_t(row) * x.stride;
  const int left = w.outputs - panel * kPanel;
  alignas(64) float y[kPanel];
  out += size_t(row) * stride + size_t(panel) * (how == Store::kGate ? kPanel / 2 : kPanel);
  if (w.bits == 8) {
    alignas(64) int32_t product[R][kPanel];
    product8<R>(data + kPanel * sizeof(float), w.padded_inputs(), q, x.stride, start, ahead,
                product);
    for (int r = 0; r < R; ++r, out += stride) {
      finish8(product[r], reinterpret_cast<const float*>(data), x.scale[row + r], bias, y);
      store_row(y, left, out, how);
    }
  } else {
    alignas(64) float product[R][kPanel];
    product4<R>(data, w.groups(), q, x.stride, x.sums + size_t(row) * w.groups(), ahead, product);
    for (int r = 0; r < R; ++r, out += stride) {
      finish4(product[r], x.scale[row + r], bias, y);
      store_row(y, left, out, how);
    }
  }
}

inline void multiply(const Matrix& w, const Rows& x, int first, int last, float* out,
                     size_t stride, Store how) {
  using Tile = void (*)(const Matrix&, int, const Rows&, int, const int32_t*, Ahead, float*,
                        size_t, Store);
  static constexpr Tile kTiles[] = {nullptr, tile<1>, tile<2>, tile<3>, tile<4>,
                                    tile<kTileRows < 5 ? 1 : 5>, tile<kTileRows < 6 ? 1 : 6>};
  static_assert(kTileRows <= 6);
  for (int begin = 0; begin < x.count; begin += kChunk) {
    const int rows = x.count - begin < kChunk ? x.count - begin : kChunk;
    int32_t start[kChunk];  // of the 8-bit sums: weights are stored plus 128
    if (w.bits == 8)
      for (int r = 0; r < rows; ++r) {
        int32_t total = 0;
        const int32_t* sums = x.sums + size_t(begin + r) * w.groups();
        for (int g = 0; g < w.groups(); ++g) total += sums[g];
        start[r] = -128 * total;
      }
    const int steps = steps_of(w), tiles = (rows + kTileRows - 1) / kTileRows;
    for (int panel = first; panel < last; ++panel) {
      Ahead ahead = next_panel(w, panel, tiles);
      for (int t = 0; t < tiles; ++t) {  // as even as can be: 8 rows are 4 and 4
        const int from = rows * t / tiles, to = rows * (t + 1) / tiles;
        kTiles[to - from](w, panel, x, begin + from, start + from, ahead, out, stride, how);
        ahead.at += ahead.bytes * size_t(steps);
      }
    }
  }
}

}  // namespace everloop::EVERLOOP_ISA
