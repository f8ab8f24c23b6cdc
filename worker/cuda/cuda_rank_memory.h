// The memory of a rank on a GPU: the sizes of its buffers and of its recorded steps as functions of
// the model and the group's limits, so that a worker knows before it allocates how much is left for
// KV blocks. All functions are pure.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "kernels/cuda/runtime/cuda_device.h"
#include "kernels/paged_attention.h"
#include "model/config.h"
#include "model/planning/partition.h"
#include "model/step/step.h"
#include "worker/cuda/cuda_step.h"
#include "worker/stage/step_inputs.h"
#include "worker/weights/rank_weights.h"

namespace bora {

// INVALID_ARGUMENT names a size of the model that the GPU's operations do not support: head_dim
// must be 16, 32, 64 or 128; the width of every matrix on this rank a multiple of 16; dim a
// multiple of the size of the tensor group; and that size at most kMaxSumParts.
absl::Status CheckCudaModel(const ModelConfig& config, const RankShape& shape);

// The device memory of a rank, without its weights.
struct CudaRankMemory {
  // Everything except KV blocks: activations, scratch, step inputs and results, the rotary table,
  // and buffers for the exchange with peers.
  int64_t workspace_bytes = 0;
  int64_t kv_bytes_per_block = 0;  // over all layers of the rank
  int64_t n_padding_blocks = 0;    // KV blocks that are needed besides those of the limits
};
// The memory that a rank on `device` with these weights takes under `limits`, whose n_blocks does
// not matter.
CudaRankMemory PlanCudaRankMemory(const CudaDevice& device, const RankWeights& weights,
                                  const GroupLimits& limits);

// Everything below is internal to CudaRank and this file.

// Bytes of CudaRank's buffers, in the order of its members; shapes are given there.
struct CudaRankBuffers {
  int64_t rope = 0;
  int64_t inputs = 0;
  int64_t entries = 0;  // first part of the deltas: TableEntry of every block of every slot
  int64_t opened = 0;   // second part of the deltas: SlotSampling of every slot
  int64_t block_table = 0;
  int64_t sampling = 0;
  int64_t last_tokens = 0;
  int64_t token_counts = 0;
  int64_t sampled = 0;
  int64_t collectives = 0;

  int64_t deltas() const { return entries + opened; }
  int64_t total() const {
    return rope + inputs + deltas() + block_table + sampling + last_tokens + token_counts +
           sampled + collectives;
  }
};

// The buffers of a rank of this shape for `limits`; token_counts and sampled: 0 unless it samples.
CudaRankBuffers PlanCudaRankBuffers(const ModelConfig& config, const RankShape& shape,
                                    const GroupLimits& limits);

// Whether a rank of this shape samples.
inline bool IsSampler(const RankShape& shape) { return shape.has_head && shape.tp_rank == 0; }

int64_t TokenCountsBytes(const ModelConfig& config);  // of one slot
AttentionLimits AttentionLimitsOf(const ModelConfig& config, const RankShape& shape,
                                  const GroupLimits& limits);

// The numbers of rows for which decoding steps are recorded as graphs, ascending.
std::vector<int64_t> GraphSizes(const GroupLimits& limits);
// Number of KV blocks to which the padding tokens of these graphs write their keys and values.
int64_t PaddingBlocks(const GroupLimits& limits);
// `limits` with the padding blocks added to n_blocks.
GroupLimits WithPadding(GroupLimits limits);

}  // namespace bora
