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

// One call of multiply.
struct Product {
  const Matrix& w;
  const Rows& x;
  float* out;
  size_t stride;
  Store how;

  int tile_rows() const { return w.bits == 8 ? kTileRows8 : kTileRows4; }
  const uint8_t* panel(int p) const { return w.data + size_t(p) * w.panel_bytes(); }
  const float* bias(int p) const { return w.bias ? w.bias + size_t(p) * kPanel : nullptr; }
  const int8_t* row(int r) const { return x.q + size_t(r) * x.stride; }
  int width() const { return how == Store::kGate ? kPanel / 2 : kPanel; }
  float* place(int p, int r) const { return out + size_t(r) * stride + size_t(p) * width(); }
  // Tells the cache that row r of panel p will be written: many rows are far apart.
  void expect(int p, int r) const {
    for (int i = 0; i < width(); i += 16) __builtin_prefetch(place(p, r) + i, 1);
  }
  void put(const float* y, int p, int r) const {
    store_row(y, w.outputs - p * kPanel, place(p, r), how);
  }
};

// The next panel, fetched while several tiles of this one are computed: of these only the first
// would wait for memory, so they all fetch a part. One tile alone reads as fast as memory gives.
inline Ahead next_panel(const Product& a, int p, int tiles) {
  const size_t steps = size_t(a.w.padded_inputs() / (a.w.bits == 8 ? 4 : 8));
  const size_t half = a.w.panel_bytes() / 2, bytes = half / (steps * size_t(tiles)) + 1;
  return {a.panel(p + 1), half, tiles == 1 ? 0 : bytes < 64 ? bytes : 64, steps};
}

// `start` holds -128 times the sums of the tile's rows.
template <int R>
void tile8(const Product& a, int p, int row, const int32_t* start, Ahead ahead) {
  alignas(64) int32_t product[R][kPanel];
  alignas(64) float y[kPanel];
  const float* scales = reinterpret_cast<const float*>(a.panel(p));
  for (int r = 0; r < R; ++r) a.expect(p, row + r);
  product8<R>(a.panel(p) + sizeof(float) * kPanel, a.w.padded_inputs(), a.row(row), a.x.stride,
              start, ahead, product);
  for (int r = 0; r < R; ++r) {
    finish8(product[r], scales, a.x.scale[row + r], a.bias(p), y);
    a.put(y, p, row + r);
  }
}

template <int R>
void tile4(const Product& a, int p, int row, const int32_t*, Ahead ahead) {
  alignas(64) float product[R][kPanel];
  alignas(64) float y[kPanel];
  for (int r = 0; r < R; ++r) a.expect(p, row + r);
  product4<R>(a.panel(p), a.w.groups(), a.row(row), a.x.stride,
              a.x.sums + size_t(row) * a.w.groups(), ahead, product);
  for (int r = 0; r < R; ++r) {
    finish4(product[r], a.x.scale[row + r], a.bias(p), y);
    a.put(y, p, row + r);
  }
}

using Tile = void (*)(const Product&, int, int, const int32_t*, Ahead);
static_assert(kTileRows8 <= 6 && kTileRows4 <= 5);
constexpr Tile kTiles8[] = {tile8<1>, tile8<2>, tile8<3>, tile8<4>, tile8<kTileRows8 < 5 ? 1 : 5>,
                            tile8<kTileRows8 < 6 ? 1 : 6>};
constexpr Tile kTiles4[] = {tile4<1>, tile4<2>, tile4<3>, tile4<4>, tile4<kTileRows4 < 5 ? 1 : 5>};

inline void multiply(const Matrix& w, const Rows& x, int first, int last, float* out,
                     size_t stride, Store how) {
  const Product a{w, x, out, stride, how};
  int32_t start[kChunk];
  for (int begin = 0; begin < x.count; begin += kChunk) {
    const int rows = x.count - begin < kChunk ? x.count - begin : kChunk;
    for (int r = 0; w.bits == 8 && r < rows; ++r) {
      const int32_t* sums = x.sums + size_t(begin + r) * size_t(w.groups());
      int32_t total = 0;
      for (int g = 0; g < w.groups(); ++g) total += sums[g];
      start[r] = -128 * total;
    }
    const int tiles = (rows + a.tile_rows() - 1) / a.tile_rows();
    for (int p = first; p < last; ++p) {
      Ahead ahead = next_panel(a, p, tiles);
      for (int t = 0; t < tiles; ++t) {  // as even as can be: 8 rows are 4 and 4
        const int from = rows * t / tiles, to = rows * (t + 1) / tiles;
        const Tile tile = (w.bits == 8 ? kTiles8 : kTiles4)[to - from - 1];
        tile(a, p, begin + from, start + from, ahead);
        ahead.skip_tile();
      }
    }
  }
}

}  // namespace everloop::EVERLOOP_ISA
