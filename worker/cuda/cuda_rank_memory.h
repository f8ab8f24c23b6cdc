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

// The device memory of a rank in bytes, without its weights. A plain value.
struct CudaRankMemory {
  // Everything except KV blocks: activations, scratch, step inputs and results, the rotary table,
  // and buffers for the exchange with peers.
  int64_t workspace_bytes = 0;
  int64_t kv_bytes_per_block = 0;  // over all layers of the rank
  int64_t n_padding_blocks = 0;    // KV blocks to allocate besides limits.n_blocks (PaddingBlocks)
};
// Returns the memory that a rank on `device` with these weights takes besides the weights. `limits`
// are those of the group; n_blocks is not used, since the result is per block.
CudaRankMemory PlanCudaRankMemory(const CudaDevice& device, const RankWeights& weights,
                                  const GroupLimits& limits);

// The rest of this file is for CudaRank, which allocates what PlanCudaRankMemory counts.

// Bytes of each buffer of CudaRank, in the order of its members, whose comments give the shapes. A
// plain value.
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

// Returns the bytes of the buffers of a rank of this shape under `limits`. token_counts and sampled
// are 0 unless the rank samples.
CudaRankBuffers PlanCudaRankBuffers(const ModelConfig& config, const RankShape& shape,
                                    const GroupLimits& limits);

// Whether a rank of this shape samples tokens: the first tensor rank of the last stage does.
inline bool IsSampler(const RankShape& shape) { return shape.has_head && shape.tp_rank == 0; }

// Bytes of the token counts of one slot, which penalties need: one uint32 per token id.
int64_t TokenCountsBytes(const ModelConfig& config);
// The limits of attention in one step of a rank of this shape under `limits`.
AttentionLimits AttentionLimitsOf(const ModelConfig& config, const RankShape& shape,
                                  const GroupLimits& limits);

// Returns the numbers of rows for which decoding steps are recorded as CUDA graphs, ascending. A
// step with another number of rows is padded to the next of them, if there is one.
std::vector<int64_t> GraphSizes(const GroupLimits& limits);
// Returns the number of KV blocks for padding tokens: they compute keys and values like others, and
// write them to blocks that no sequence has.
int64_t PaddingBlocks(const GroupLimits& limits);
// Returns `limits` with PaddingBlocks(limits) added to n_blocks.
GroupLimits WithPadding(GroupLimits limits);

}  // namespace bora
