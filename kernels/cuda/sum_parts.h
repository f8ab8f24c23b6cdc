// The sum of what the ranks of a tensor-parallel group have computed, once it lies on one device.
#pragma once

#include <cstdint>

#include "kernels/cuda/runtime/cuda_device.h"

namespace bora {

// As many GPUs as share a host, and so a tensor-parallel group.
inline constexpr int kMaxSumParts = 8;

// out[i] = T(parts[0, i], parts[1, i], ...) in fp32 along the tree of worker/comm/tree_sum.h: of
// n_parts the left half are the largest power of two below n_parts, so 1, 2, 4 and 8 ranks that
// hold whole subtrees of a matrix product's tree continue it. parts: [n_parts, n], 1 to
// kMaxSumParts of them; out: [n], may be one of the parts. Moves n * (n_parts + 1) * 4 bytes.
void SumParts(CudaDevice& device, int n_parts, int64_t n, const float* parts, float* out);

}  // namespace bora
