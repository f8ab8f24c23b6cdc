// Fused residual addition and RMSNorm (Zhang & Sennrich 2019):
//   residual[t, :] += delta[t, :]                        (skipped when delta is null)
//   out[t, i] = residual[t, i] / sqrt(mean_j residual[t, j]^2 + eps) * gain[i]
#pragma once

#include "base/bf16.h"
#include "kernels/device_views.h"

namespace bora {

struct AddRmsNormShape {
  int64_t n_tokens = 0;
  int64_t dim = 0;
  float eps = 0;  // as the checkpoint says
};

// residual: [n_tokens, dim], updated in place. delta: [n_tokens, dim] or null. gain: [dim]. out:
// [n_tokens, dim], must not overlap residual. The sum of squares is accumulated in a fixed order
// that depends on dim alone: 64 lanes (index modulo 64), one rounding a step, and a fixed tree.
void AddRmsNorm(CpuDevice& device, const AddRmsNormShape& shape, float* residual,
                const float* delta, const float* gain, float* out);

// Here the order depends on dim alone, too: each thread of a block sums its elements with fused
// multiply-adds, then a tree over lanes and one over warps. out is rounded to bf16, as the products
// that follow take it. Moves n_tokens * dim * (6 or, with delta, 14) bytes: the residual's second
// reading is from the cache.
void AddRmsNorm(CudaDevice& device, const AddRmsNormShape& shape, float* residual,
                const float* delta, const float* gain, Bf16* out);

// residual[i] += delta[i], i < n: the same addition where no norm follows.
void Add(CpuDevice& device, int64_t n, const float* delta, float* residual);
void Add(CudaDevice& device, int64_t n, const float* delta, float* residual);

}  // namespace bora
