#include "worker/cuda/cuda_rank_memory.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/int_math.h"
#include "kernels/cuda/sum_parts.h"
#include "worker/cuda/cuda_collectives.h"
#include "worker/cuda/cuda_pipeline.h"
#include "worker/cuda/cuda_stage.h"

namespace bora {
namespace {

// Numbers of rows that get a graph. Reading the weights bounds the time of a step up to about 180
// rows, so that padding to the next number costs little; a graph takes some MB of device memory.
constexpr int64_t kGraphRows[] = {1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256};

// The rows of the largest graph. Padding tokens take positions 0, 1, 2... of one sequence, so that
// there can be no more of them than max_model_len.
int64_t MaxGraphRows(const GroupLimits& limits) {
  const int64_t largest = kGraphRows[std::size(kGraphRows) - 1];
  return std::min({largest, MaxRows(limits), int64_t{limits.max_model_len}});
}

// Room for the largest step that `limits` allow.
CudaStepCapacity MaxCapacity(const AttentionLimits& attention, const GroupLimits& limits) {
  const AttentionWorkSizes work = MaxAttentionWork(attention);
  return {.n_tokens = limits.max_num_batched_tokens,
          .n_head_rows = MaxHeadRows(limits),
          .n_merges = work.n_merges,
          .n_prefill_items = work.n_prefill_items,
          .n_decode_items = work.n_decode_items,
          .n_partials = work.n_partials};
}

}  // namespace

std::vector<int64_t> GraphSizes(const GroupLimits& limits) {
  std::vector<int64_t> sizes;
  for (const int64_t n_rows : kGraphRows) {
    if (n_rows < MaxGraphRows(limits)) sizes.push_back(n_rows);
  }
  sizes.push_back(MaxGraphRows(limits));
  return sizes;
}

AttentionLimits AttentionLimitsOf(const ModelConfig& config, const RankShape& shape,
                                  const GroupLimits& limits) {
  return {.local_n_heads = shape.local_n_heads,
          .local_n_kv_heads = shape.local_n_kv_heads,
          .head_dim = config.head_dim,
          .max_rows = MaxRows(limits),
          .max_tokens = limits.max_num_batched_tokens,
          .max_positions = limits.max_model_len};
}

int64_t TokenCountsBytes(const ModelConfig& config) {
  return config.vocab_size * static_cast<int64_t>(sizeof(uint32_t));
}

CudaRankBuffers PlanCudaRankBuffers(const ModelConfig& config, const RankShape& shape,
                                    const GroupLimits& limits) {
  constexpr int64_t kInt = sizeof(int32_t);
  const int64_t n_entries = limits.max_num_seqs * MaxBlocksPerRow(limits);
  const AttentionLimits attention = AttentionLimitsOf(config, shape, limits);
  CudaRankBuffers bytes;
  bytes.rope = config.head_dim * limits.max_model_len * static_cast<int64_t>(sizeof(float));
  bytes.inputs = CudaStepLayout(MaxCapacity(attention, limits)).n_bytes;
  // Every slot may be opened with all its blocks in one plan.
  bytes.entries = RoundUp(n_entries * static_cast<int64_t>(sizeof(TableEntry)), 256);
  bytes.opened = limits.max_num_seqs * static_cast<int64_t>(sizeof(SlotSampling));
  // One line more than slots, for padding.
  bytes.block_table = (n_entries + MaxBlocksPerRow(limits)) * kInt;
  bytes.sampling = limits.max_num_seqs * static_cast<int64_t>(sizeof(CudaSampling));
  bytes.last_tokens = limits.max_num_seqs * kInt;
  bytes.collectives =
      CudaCollectives::ScratchBytes(shape.tp_size, limits.max_num_batched_tokens * config.dim);
  if (!IsSampler(shape)) return bytes;
  bytes.token_counts = limits.max_num_seqs * TokenCountsBytes(config);
  bytes.sampled = MaxHeadRows(limits) * static_cast<int64_t>(sizeof(CudaSampledToken));
  return bytes;
}

int64_t PaddingBlocks(const GroupLimits& limits) {
  return CeilDiv(MaxGraphRows(limits), limits.block_size);
}

GroupLimits WithPadding(GroupLimits limits) {
  limits.n_blocks += static_cast<int32_t>(PaddingBlocks(limits));
  return limits;
}

CudaRankMemory PlanCudaRankMemory(const CudaDevice& device, const RankWeights& weights,
                                  const GroupLimits& limits) {
  const ModelConfig& config = weights.config();
  const RankShape& shape = weights.shape();
  CudaRankMemory memory;
  memory.workspace_bytes =
      StageWorkspaceBytes(config, shape, limits, StageTraits<CudaDevice>::Form(device)) +
      CudaScratchBytes(device, {.weights = &weights.plan(),
                                .kv = {.head_dim = config.head_dim},
                                .max_rows = limits.max_num_seqs,
                                .max_tokens = limits.max_num_batched_tokens,
                                .max_positions = limits.max_model_len}) +
      PlanCudaRankBuffers(config, shape, limits).total() +
      CudaPipeline::DeviceBytes(shape, limits, config.dim);
  memory.kv_bytes_per_block = KvBytesPerBlock(config, shape, weights.kv_dtype(), limits.block_size);
  memory.n_padding_blocks = PaddingBlocks(limits);
  return memory;
}

absl::Status CheckCudaModel(const ModelConfig& config, const RankShape& shape) {
  if (config.head_dim != 16 && config.head_dim != 32 && config.head_dim != 64 &&
      config.head_dim != 128) {
    return absl::InvalidArgumentError(absl::StrCat(
        "head_dim: ", config.head_dim, " is not 16, 32, 64 or 128, as a GPU's attention takes"));
  }
  if (shape.tp_size > kMaxSumParts) {
    return absl::InvalidArgumentError(absl::StrCat("tensor parallel size ", shape.tp_size,
                                                   " is more than ", kMaxSumParts,
                                                   ", the GPUs of a host"));
  }
  if (config.dim % shape.tp_size != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "dim: ", config.dim, " is not a multiple of tensor parallel size ", shape.tp_size));
  }
  const std::pair<const char*, int64_t> widths[] = {
      {"dim", config.dim},
      {"heads * head_dim of a rank", shape.local_n_heads * config.head_dim},
      {"hidden_dim of a rank", shape.local_hidden_dim}};
  for (const auto& [name, width] : widths) {
    if (width % kCudaLeafAlignment == 0) continue;
    return absl::InvalidArgumentError(absl::StrCat(name, ": ", width, " is not a multiple of ",
                                                   kCudaLeafAlignment, ", as a GPU takes it"));
  }
  return absl::OkStatus();
}

}  // namespace bora
