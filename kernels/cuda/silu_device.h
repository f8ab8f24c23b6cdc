// silu(gate) * up for one element. Every kernel that ends with the activation uses it, so that all
// of them give the same bits. Include kernels/cuda/runtime/cuda_prelude.h first.
#pragma once

namespace bora {

__device__ inline float SiluTimes(float gate, float up) { return gate / (1.0f + expf(-gate)) * up; }

}  // namespace bora
