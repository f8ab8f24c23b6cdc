// The gated activation of the feed-forward block: out = silu(gate) * up, silu(x) = x / (1 +
// exp(-x)).
#pragma once

#include "base/bf16.h"
#include "kernels/device_views.h"

namespace bora {

// gate_up: [n_tokens, 2 * hidden_dim], for each token the gate half, then the up half. out:
// [n_tokens, hidden_dim]. The relative error is at most 6.5 * 2^-24 (exp within 2.5, two products,
// a sum, a division); below gate = -87.33 the result is 0, which errs by less than 1.1e-36 |up|.
void SiluMul(CpuDevice& device, int64_t n_tokens, int64_t hidden_dim, const float* gate_up,
             float* out);

// gate_up: [n_tokens, 2 * hidden_dim], for each token the columns in the order of
// WeightLayout::kGatedRows, hidden_dim a multiple of 8. out: [n_tokens, hidden_dim], rounded to
// bf16 behind the same error, with CUDA's expf (within 2 * 2^-24). Moves n_tokens * hidden_dim * 10
// bytes.
void SiluMul(CudaDevice& device, int64_t n_tokens, int64_t hidden_dim, const float* gate_up,
             Bf16* out);

}  // namespace bora
