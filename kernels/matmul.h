// Matrix product with a packed weight: y[m, n] = sum_k x[m, k] * w[n, k].
#pragma once

#include "base/bf16.h"
#include "kernels/device_views.h"
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
//   kF16   two columns, the even one first: a fused multiply-add each of the float x, which is not
//          rounded, and the weight as a float, which is exact;
//   kInt8  one group of columns: x is rounded to 8 bits with a scale of its own for each row and
//          group (the largest magnitude over 127), the integer dot product is exact, and one fused
//          multiply-add takes it times the product of both scales into the sum.
// So the bits depend on the row of x, the row of w and w's leaves alone: not on m, the threads or
// the instruction set. A row of x that is not finite makes its own row of y not finite.
//
// Error: a leaf of c columns adds at most c roundings of kF32, kBf16 and kF16 products, the tree 3
// more: |error| <= (leaf_cols + 3) 2^-24 sum |x w|, for the rounded x.
//
// Bytes: w is read once from memory for up to 512 rows of x; x and y once.
void MatMul(CpuDevice& device, const float* x, int64_t m, const PackedWeight& w, float* y);

// Scratch that MatMul takes for at most max_rows rows of x.
int64_t MatMulScratchFloats(const CpuDevice& device, int64_t max_rows, const PackedWeight& w);

// The gate and up projections and the activation between them, as MatMul and SiluMul:
//   hidden[m, i] = silu(sum_k x[m, k] gate[i, k]) * sum_k x[m, k] up[i, k]
// w: the gate's rows, then the up projection's. gate_up: [m, w.n_rows] float, working memory.
// hidden: [m, w.n_rows / 2].
void MatMulSiluMul(CpuDevice& device, const float* x, int64_t m, const PackedWeight& w,
                   float* gate_up, float* hidden);

// On a CudaDevice w is bf16 in layout kRows, x and w.n_cols / w.n_leaves a multiple of
// kCudaLeafAlignment, w.n_leaves at most kMaxCudaLeaves. x: [m, w.n_cols], y: [m, w.n_rows].
//
// Order: every leaf is a chain of tensor-core instructions over 16 columns each, ascending, that
// starts from zero; leaves are added up as a balanced binary tree. The instruction, the side of it
// that w is on (its m16 side), the leaves and the tree are the same for every m and every way to
// divide the work, so a row's bits depend on the row and w alone, given that the instruction treats
// all its rows and columns alike. How it adds its 17 terms is not documented; taken as any order
// with truncation, |error| <= (2 leaf_cols + 3) 2^-23 sum |x w|.
//
// A device with a matrix library leaves products of more than kOwnKernelRows rows to it, in
// whatever order it sums.
//
// Bytes: w once for up to 64 rows of x (x from the cache), then compute-bound.
inline constexpr int64_t kOwnKernelRows = 64;
void MatMul(CudaDevice& device, const Bf16* x, int64_t m, const PackedWeight& w, float* y);

// w in layout kGatedRows. hidden: [m, w.n_rows / 2]. gate_up: [m, w.n_rows] float, working memory
// that only a matrix library needs; null without one. The products' order is MatMul's; the
// activation's error is SiluMul's, then hidden is rounded to bf16.
void MatMulSiluMul(CudaDevice& device, const Bf16* x, int64_t m, const PackedWeight& w,
                   float* gate_up, Bf16* hidden);

// CudaDevice::Scratch that either takes for at most max_rows rows of x.
int64_t MatMulScratchBytes(const CudaDevice& device, int64_t max_rows, const PackedWeight& w);

}  // namespace bora
