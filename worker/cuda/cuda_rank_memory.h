// What a rank on a GPU allocates: sizes of its buffers and of its recorded steps as functions of
// the model and of the group's limits, so that a worker knows before it allocates what is left for
// KV blocks.
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

// INVALID_ARGUMENT names a size of the model that the operations do not take: head_dim must be 16,
// 32, 64 or 128, the width of every matrix on this rank a multiple of 16, and the tensor group no
// larger than kMaxSumParts.
absl::Status CheckCudaModel(const ModelConfig& config, const RankShape& shape);

// Device memory that a rank takes under limits beside weights and KV blocks: activations, scratch,
// step inputs and results, the rotary table, what is exchanged with peers. `limits`' n_blocks do
// not matter.
struct CudaRankMemory {
  int64_t workspace_bytes = 0;
  int64_t kv_bytes_per_block = 0;
  int64_t n_padding_blocks = 0;  // KV blocks beside those of the limits
};
CudaRankMemory PlanCudaRankMemory(const CudaDevice& device, const RankWeights& weights,
                                  const GroupLimits& limits);

// What follows is CudaRank's own.

// Bytes of the rank's buffers, in the order of CudaRank's members.
struct CudaRankBuffers {
  int64_t rope = 0;
  int64_t inputs = 0;
  int64_t entries = 0;  // of deltas, then those of opened slots
  int64_t opened = 0;
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

CudaRankBuffers PlanCudaRankBuffers(const ModelConfig& config, const RankShape& shape,
                                    const GroupLimits& limits);

// Whether the rank samples, and so has what belongs to that.
inline bool IsSampler(const RankShape& shape) { return shape.has_head && shape.tp_rank == 0; }

int64_t TokenCountsBytes(const ModelConfig& config);  // of one slot
AttentionLimits AttentionLimitsOf(const ModelConfig& config, const RankShape& shape,
                                  const GroupLimits& limits);

// Numbers of rows for which steps of decoding are recorded, ascending.
std::vector<int64_t> GraphSizes(const GroupLimits& limits);
// KV blocks that the padding of those steps writes to, and the limits with them.
int64_t PaddingBlocks(const GroupLimits& limits);
GroupLimits WithPadding(GroupLimits limits);

}  // namespace bora
