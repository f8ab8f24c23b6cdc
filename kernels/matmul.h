// Matrix product with a packed weight: y[m, n] = sum_k x[m, k] * w[n, k].
#pragma once

#include "kernels/device.h"
#include "kernels/packed_weight.h"

namespace bora {

// x: [m, w.n_cols] float; y: [m, w.n_rows] float, overwritten, must not overlap x. m = 0 is
// allowed. Uses the device's scratch.
//
// Order: every leaf of w's columns is summed in ascending order, starting from zero; leaves are
// added up as a balanced binary tree. A step of a leaf is
//   kF32   one column: a fused multiply-add;
//   kBf16  two columns, x rounded to bf16 (nearest even): two fused multiply-adds, the odd column
//          first, as VDPBF16PS does;
//   kInt8  one group of columns: x is rounded to 8 bits with a scale of its own for each row and
//          group (the largest magnitude over 127), the integer dot product is exact, and one fused
//          multiply-add takes it times the product of both scales into the sum.
// So the bits depend on the row of x, the row of w and w's leaves alone: not on m, the threads or
// the instruction set. A row of x that is not finite makes its own row of y not finite.
//
// Error: a leaf of c columns adds at most c roundings of kF32 and kBf16 products, the tree 3 more:
// |error| <= (leaf_cols + 3) 2^-24 sum |x w|, for the rounded x.
//
// Bytes: w is read once from memory for up to 512 rows of x; x and y once.
void MatMul(CpuDevice& device, const float* x, int64_t m, const PackedWeight& w, float* y);

// Scratch that MatMul takes for at most max_rows rows of x.
int64_t MatMulScratchFloats(const CpuDevice& device, int64_t max_rows, const PackedWeight& w);

}  // namespace bora
