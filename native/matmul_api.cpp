// Single products through a C interface: for packing weights, tests and measurements.
#include "kernels.h"
#include "pack.h"

using everloop::Matrix;
using everloop::Rows;
using everloop::Store;

namespace {
Matrix shape_of(int bits, int outputs, int inputs, const uint8_t* data, const float* bias) {
  Matrix matrix;
  matrix.bits = bits;
  matrix.outputs = outputs;
  matrix.inputs = inputs;
  matrix.data = data;
  matrix.bias = bias;
  return matrix;
}
}  // namespace

extern "C" {

// Bytes of a packed matrix, a multiple of 64; 0 if there is no such matrix.
size_t everloop_packed_bytes(int bits, int outputs, int inputs) {
  if ((bits != 8 && bits != 4) || outputs < 1 || inputs < 1 || inputs > everloop::kMaxInputs)
    return 0;
  return shape_of(bits, outputs, inputs, nullptr, nullptr).bytes();
}

// Packs panels [first, last) to `out`, where panel `first` begins; -1, or the index of a weight
// that is NaN, infinite or too large. `x` and `y` (padded inputs x 16): directions of the inputs and
// the responses to them, or null.
int64_t everloop_pack(int bits, const float* weight, int outputs, int inputs, int gate, int first,
                      int last, uint8_t* out, const float* x, const float* y) {
  return everloop::pack(shape_of(bits, outputs, inputs, nullptr, nullptr), weight, gate != 0,
                        first, last, out, {x, y});
}

// The responses y (inputs x 16) to components x; `rest` > 0 is what inputs hold besides.
void everloop_respond(const float* x, int inputs, double rest, float* y) {
  everloop::respond(x, inputs, rest, y);
}

void everloop_pack_bias(const float* bias, int outputs, int gate, float* out) {
  everloop::pack_bias(shape_of(8, outputs, 1, nullptr, nullptr), bias, gate != 0, out);
}

void everloop_unpack_row(int bits, const uint8_t* data, int outputs, int inputs, int n,
                         float* out) {
  everloop::unpack_row(shape_of(bits, outputs, inputs, data, nullptr), n, out);
}

// 1 if this processor runs the instruction set of that name.
int everloop_has(const char* isa) { return everloop::find_kernels(isa) != nullptr; }

// Rows of `inputs` floats, one after the other, to rows of padded int8 with scales and sums.
void everloop_quantize_rows(const char* isa, const float* x, int rows, int inputs, int8_t* q,
                            float* scale, int32_t* sums) {
  const everloop::Kernels* kernels = everloop::find_kernels(isa);
  const int padded = shape_of(8, 1, inputs, nullptr, nullptr).padded_inputs();
  for (int r = 0; r < rows; ++r)
    kernels->quantize(x + size_t(r) * inputs, inputs, padded, q + size_t(r) * padded, scale + r,
                      sums + size_t(r) * (padded / everloop::kGroup));
}

// `times` products one after the other, with `copies` of the matrix in turn, which lie behind each
// other. `store`: 0 write, 1 add, 2 gate. See Multiply.
void everloop_multiply(const char* isa, int times, int copies, int bits, const uint8_t* data,
                       int outputs, int inputs, const float* bias, const int8_t* q,
                       const float* scale, const int32_t* sums, int rows, int first, int last,
                       float* out, size_t stride, int store) {
  Matrix matrix = shape_of(bits, outputs, inputs, data, bias);
  Rows x;
  x.q = q;
  x.stride = size_t(matrix.padded_inputs());
  x.scale = scale;
  x.sums = sums;
  x.count = rows;
  const everloop::Multiply multiply = everloop::find_kernels(isa)->multiply;
  for (int i = 0; i < times; ++i) {
    matrix.data = data + size_t(i % copies) * matrix.bytes();
    multiply(matrix, x, first, last, out, stride, Store(store));
  }
}

}  // extern "C"
