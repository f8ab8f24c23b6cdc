// Matrix product with a packed weight: y[m, n] = sum_k x[m, k] * w[n, k].
#pragma once

#include "base/bf16.h"
#include "kernels/device_views.h"
#include "kernels/packed_weight.h"

namespace bora {

// x: [m, w.n_cols] float. y: [m, w.n_rows] float, overwritten, must not overlap x. w: in layout
// kPanels. m = 0 is allowed. Called by the device's thread; uses the device's scratch.
//
// Order: each leaf of w's columns is summed in ascending order, starting from zero; the leaves'
// sums are added as a balanced binary tree. One step of a leaf's sum takes
//   kF32   one column: a fused multiply-add;
//   kBf16  two columns, with x rounded to bf16 (nearest even): two fused multiply-adds, the odd
//   column
//          first, as VDPBF16PS does;
//   kF16   two columns, the even one first: a fused multiply-add each of the float x, which is not
//          rounded, and the weight as a float, which is exact;
//   kInt8  one group of columns: x is rounded to 8 bits with a scale of its own for each row and
//          group (the largest magnitude over 127), the integer dot product is exact, and one fused
//          multiply-add takes it times the product of both scales into the sum.
// So the bits of an element depend on the row of x, the row of w and w's leaves alone: not on m,
// the number of threads or the instruction set. A row of x that is not finite makes only its own
// row of y not finite.
//
// Error: a leaf of c columns makes at most c roundings for kF32, kBf16 and kF16, the tree 3 more:
// |error| <= (leaf_cols + 3) 2^-24 sum |x w|, for the rounded x.
//
// Bytes: w is read from memory once for up to 512 rows of x; x and y once.
void MatMul(CpuDevice& device, const float* x, int64_t m, const PackedWeight& w, float* y);

// CpuDevice::Scratch that MatMul takes for any number of rows of x up to max_rows, in floats.
int64_t MatMulScratchFloats(const CpuDevice& device, int64_t max_rows, const PackedWeight& w);

// The gate and up projections and the activation between them; the same results as MatMul and then
// SiluMul:
//   hidden[m, i] = silu(sum_k x[m, k] gate[i, k]) * sum_k x[m, k] up[i, k]
// w: the gate's rows, then the up projection's. gate_up: [m, w.n_rows] float, working memory.
// hidden: [m, w.n_rows / 2].
void MatMulSiluMul(CpuDevice& device, const float* x, int64_t m, const PackedWeight& w,
                   float* gate_up, float* hidden);

// A CudaDevice with a matrix library leaves products of more than this many rows of x to the
// library.
inline constexpr int64_t kOwnKernelRows = 64;

// MatMul on a GPU. x: [m, w.n_cols] bf16. y: [m, w.n_rows] float. w: bf16 in layout kRows, with the
// columns of a leaf (w.n_cols / w.n_leaves) a multiple of kCudaLeafAlignment and at most
// kMaxCudaLeaves leaves. All in device memory; queued on the device's stream; uses its scratch.
//
// Order: each leaf is a chain of tensor-core instructions over 16 columns each, in ascending order,
// that starts from zero; the leaves' sums are added as a balanced binary tree. The instruction, the
// operand that w is (the m16 one), the leaves and the tree are the same for every m and every
// division of the work, so the bits of a row depend on that row and w alone, given that the
// instruction treats all its rows and columns alike. NVIDIA does not document how the instruction
// adds its 17 terms; assuming any order with truncation, |error| <= (2 leaf_cols + 3) 2^-23 sum |x
// w|.
//
// A device with a matrix library leaves products of more than kOwnKernelRows rows to the library,
// which sums in an order of its own.
//
// Bytes: w is read once for up to 64 rows of x (x comes from the cache); beyond that arithmetic is
// the bound.
void MatMul(CudaDevice& device, const Bf16* x, int64_t m, const PackedWeight& w, float* y);

// MatMulSiluMul on a GPU. w: in layout kGatedRows, otherwise as for MatMul. hidden: [m, w.n_rows /
// 2] bf16. gate_up: [m, w.n_rows] float, working memory that is used only with a matrix library;
// null if the device has none. The products are summed in MatMul's order; the activation has
// SiluMul's error, then hidden is rounded to bf16.
void MatMulSiluMul(CudaDevice& device, const Bf16* x, int64_t m, const PackedWeight& w,
                   float* gate_up, Bf16* hidden);

// CudaDevice::Scratch in bytes that MatMul (w in kRows) or MatMulSiluMul (w in kGatedRows) takes
// for any number of rows of x up to max_rows.
int64_t MatMulScratchBytes(const CudaDevice& device, int64_t max_rows, const PackedWeight& w);

}  // namespace bora
