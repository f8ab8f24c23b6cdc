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
  float eps = 0;  // added to the mean square, as the checkpoint says
};

// residual: [n_tokens, dim], updated in place. delta: [n_tokens, dim], or null for no addition.
// gain: [dim]. out: [n_tokens, dim], must not overlap residual. Called by the device's thread.
//
// The sum of squares is accumulated in a fixed order that depends on dim alone: 64 lanes (index
// modulo 64) with one rounding per step, then a fixed tree over the lanes.
void AddRmsNorm(CpuDevice& device, const AddRmsNormShape& shape, float* residual,
                const float* delta, const float* gain, float* out);

// The same on a GPU; all pointers are device memory, and the call returns once the work is queued.
// Here, too, the order of the sum depends on dim alone: each thread of a block sums its elements
// with fused multiply-adds, then come a tree over the lanes of a warp and one over the warps. out
// is rounded to bf16, the type that the matrix products read. Moves n_tokens * dim * 6 bytes, or 14
// instead of 6 with delta: the second reading of the residual is served by the cache.
void AddRmsNorm(CudaDevice& device, const AddRmsNormShape& shape, float* residual,
                const float* delta, const float* gain, Bf16* out);

// residual[i] += delta[i] for i < n: the same addition for places where no norm follows.
void Add(CpuDevice& device, int64_t n, const float* delta, float* residual);
void Add(CudaDevice& device, int64_t n, const float* delta, float* residual);

}  // namespace bora
