// Matrix product with a weight: y[m, n] = sum_k x[m, k] * w[n, k].
#pragma once

#include "kernels/device.h"

namespace bora {

// x: [m, w.n_cols] float; y: [m, w.n_rows] float, overwritten, must not overlap x. When w is bf16,
// x is rounded to bf16 (nearest even) first; products are exact in float then. Accumulation is in
// float, per output element in an order that depends on w.n_cols alone: the same bits for every m,
// every blocking, every thread count and every instruction set: 16 lanes (k modulo 16), each
// ascending in k with one rounding a step for bf16 weights and two (product, sum) for float
// weights, then a fixed tree over the lanes. m = 0 is allowed. Uses the device's scratch.
void MatMul(CpuDevice& device, const float* x, int64_t m, const Weight& w, float* y);

}  // namespace bora
