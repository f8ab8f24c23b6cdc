// Sums the partial results of the ranks of a tensor-parallel group, once all of them lie on one
// device.
#pragma once

#include <cstdint>

#include "kernels/cuda/runtime/cuda_device.h"

namespace bora {

// Most parts: the GPUs of one host, which is the largest tensor-parallel group.
inline constexpr int kMaxSumParts = 8;

// out[i] = T(parts[0, i], parts[1, i], ...) in fp32, with the tree T of worker/comm/tree_sum.h: the
// left half of n_parts is the largest power of two below n_parts. So 1, 2, 4 and 8 ranks that hold
// whole subtrees of a matrix product's tree continue that tree. parts: [n_parts, n] with n_parts in
// [1, kMaxSumParts]. out: [n], may be one of the parts. Queued on the device's stream. Moves n *
// (n_parts + 1) * 4 bytes.
void SumParts(CudaDevice& device, int n_parts, int64_t n, const float* parts, float* out);

}  // namespace bora
