// Compiled once for each instruction set, with EVERLOOP_ISA naming the namespace: see build.py.
#include "kernels.h"

#include "attention.h"
#include "candidates.h"
#include "matmul.h"
#include "quantize_row.h"
#include "rowops.h"
#include "weigh.h"

namespace everloop::EVERLOOP_ISA {

namespace {

#define EVERLOOP_TEXT(x) #x
#define EVERLOOP_NAME(x) EVERLOOP_TEXT(x)

}  // namespace

const Kernels kernels = {
    EVERLOOP_NAME(EVERLOOP_ISA), multiply, quantize_row, norm_row, rotate_head,
    remember, attend, argmax, weigh, gather, split,
};

}  // namespace everloop::EVERLOOP_ISA
