// From rows of float32 weights to the panels that products read, and back.
#pragma once
#include "compensate.h"
#include "matrix.h"

namespace everloop {

constexpr int kMaxInputs = 65536;  // more could overflow an int32 sum of products of bytes

// Quantizes the outputs of panels [first, last) of `shape` (its data and bias don't matter) into
// `out`, where panel `first` begins. `weight` holds the whole matrix, outputs x inputs. With
// `gate` its first half are gates and its second half ups, and they are interleaved by 16 as
// Store::kGate wants them.
//
// 8 bits: one symmetric scale an output, the largest weight is 127. 4 bits: a float16 scale a
// group, searched for the least squared error. With `directions`, of this matrix's inputs, weights
// are rounded so that errors cancel along these.
//
// Returns -1, or the index in `weight` of one that has no place: NaN, an infinity, or in 4 bits a
// number beyond float16's range of scales. What has been written then means nothing.
int64_t pack(const Matrix& shape, const float* weight, bool gate, int first, int last,
             uint8_t* out, const Directions& directions = {});

// A bias in the order of the packed outputs, padded with zeros to whole panels.
void pack_bias(const Matrix& shape, const float* bias, bool gate, float* out);

// The row of the unpacked matrix that packed output n holds, -1 for padding.
int source_of(const Matrix& shape, bool gate, int n);

// The weights of packed output n as floats: `inputs` of them.
void unpack_row(const Matrix& matrix, int n, float* out);

}  // namespace everloop
