// A weight matrix in 8 or 4 bits, laid out for the multiply kernels, and the rows it meets.
//
// y[m][n] = sum_k x[m][k] W[n][k] + b[n]. Rows x are quantized to int8 with one scale a row
// ("per token"); weights with one scale an output (8 bits) or one per 32 inputs of an output
// (4 bits). All products accumulate in int32, so a result depends on its own row alone and is the
// same on every instruction set.
//
// Outputs are kept in panels of 64. A panel lies in one piece, in the order it is read:
//   8 bits:  float scale[64]; then for each 4 inputs: uint8 w[64][4], each w = q + 128
//   4 bits:  for each group of 32 inputs: float16 scale[64]; then for each 8 inputs:
//            uint8 w[64][4], low nibbles inputs 0..3, high nibbles inputs 4..7, each = q + 8
// Inputs are padded to a multiple of 32 and outputs to a multiple of 64 with q = 0 and scale = 0.
#pragma once
#include <cstddef>
#include <cstdint>

namespace everloop {

constexpr int kPanel = 64;  // outputs
constexpr int kGroup = 32;  // inputs that share a scale in 4 bits; inputs are padded to these

struct Matrix {
  int bits = 8;  // 8 or 4
  int outputs = 0;
  int inputs = 0;             // as the model has them
  const uint8_t* data = nullptr;  // 64-byte aligned, panels() * panel_bytes()
  const float* bias = nullptr;    // outputs, padded to panels, or null

  int padded_inputs() const { return (inputs + kGroup - 1) / kGroup * kGroup; }
  int groups() const { return padded_inputs() / kGroup; }
  int panels() const { return (outputs + kPanel - 1) / kPanel; }
  size_t panel_bytes() const {
    return bits == 8 ? kPanel * (sizeof(float) + size_t(padded_inputs()))
                     : size_t(groups()) * kPanel * (2 + kGroup / 2);
  }
  size_t bytes() const { return size_t(panels()) * panel_bytes(); }
};

// Rows quantized for a product: q = round(x / scale), |q| <= 127.
struct Rows {
  const int8_t* q = nullptr;  // rows x stride, zero beyond the inputs
  size_t stride = 0;          // padded inputs; a multiple of 32
  const float* scale = nullptr;   // a row
  const int32_t* sums = nullptr;  // rows x groups: sum of q over each group of 32 inputs
  int count = 0;
};

// What becomes of a product.
enum class Store {
  kWrite,  // out = y
  kAdd,    // out += y
  kGate,   // outputs come in pairs of 16 gates and 16 ups; out (half as wide) = silu(gate) * up
};

// Computes outputs of panels [first, last) for all rows into out (rows x stride floats, panel p
// begins at column 64 p, or 32 p for kGate). Never writes beyond the matrix's own outputs.
using Multiply = void (*)(const Matrix& matrix, const Rows& rows, int first, int last, float* out,
                          size_t stride, Store store);

}  // namespace everloop
