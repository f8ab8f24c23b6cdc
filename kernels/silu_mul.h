// The gated activation of the feed-forward block: out = silu(gate) * up, with silu(x) = x / (1 +
// exp(-x)).
#pragma once

#include "base/bf16.h"
#include "kernels/device_views.h"

namespace bora {

// gate_up: [n_tokens, 2 * hidden_dim]; each token has its gate half, then its up half. out:
// [n_tokens, hidden_dim]. Called by the device's thread. The relative error is at most 6.5 * 2^-24
// (exp within 2.5, two products, a sum, a division). Below gate = -87.33 the result is 0, which is
// wrong by less than 1.1e-36 |up|.
void SiluMul(CpuDevice& device, int64_t n_tokens, int64_t hidden_dim, const float* gate_up,
             float* out);

// SiluMul on a GPU, queued on the device's stream; all pointers are device memory. gate_up:
// [n_tokens, 2 * hidden_dim], with the columns of each token in the order of
// WeightLayout::kGatedRows. out: [n_tokens, hidden_dim], rounded to bf16 after the same error as on
// a CpuDevice, with CUDA's expf (within 2 * 2^-24). Moves n_tokens * hidden_dim * 10 bytes.
// REQUIRES: hidden_dim is a multiple of 8.
void SiluMul(CudaDevice& device, int64_t n_tokens, int64_t hidden_dim, const float* gate_up,
             Bf16* out);

}  // namespace bora
