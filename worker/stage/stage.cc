#include "worker/stage/stage.h"

#include <algorithm>
#include <cstring>

#include "base/int_math.h"
#include "kernels/cpu/cpu_device.h"
#include "worker/stage/stage_impl.h"

namespace bora {
namespace stage_internal {

// Bytes; every buffer begins on a multiple: a cache line of the host, and an address that suits the
// widest loads of a GPU.
constexpr int64_t kBufferAlignment = 256;

WorkspacePlan PlanWorkspace(const ModelConfig& config, const RankShape& shape, int64_t max_tokens,
                            const WorkspaceForm& form) {
  const int64_t input_bytes = form.input_bytes;
  const int64_t head_tile_rows = form.head_tile_rows;
  const auto bytes = [](int64_t n_rows, int64_t n_cols, int64_t element_bytes) {
    return RoundUp(n_rows * n_cols * element_bytes, kBufferAlignment);
  };
  constexpr int64_t kFloat = sizeof(float);
  const int64_t q_cols = shape.local_n_heads * config.head_dim;
  const int64_t kv_cols = shape.local_n_kv_heads * config.head_dim;
  WorkspacePlan plan;
  plan.residual = bytes(max_tokens, config.dim, kFloat);
  plan.normed = bytes(max_tokens, config.dim, input_bytes);
  // Attention and FFN take turns in `wide` and `narrow`, so that the larger need counts.
  plan.wide = bytes(max_tokens, std::max(q_cols + 2 * kv_cols, 2 * shape.local_hidden_dim), kFloat);
  plan.narrow = bytes(max_tokens, std::max(q_cols, shape.local_hidden_dim), input_bytes);

  if (!shape.has_head) return plan;
  plan.head_residual = bytes(head_tile_rows, config.dim, kFloat);
  plan.head_normed = bytes(head_tile_rows, config.dim, input_bytes);
  plan.local_logits = bytes(head_tile_rows, shape.local_vocab_size, kFloat);
  if (shape.tp_rank != 0 || shape.tp_size == 1) return plan;
  plan.all_logits = bytes(shape.tp_size * head_tile_rows, shape.local_vocab_size, kFloat);
  plan.logits = bytes(head_tile_rows, config.vocab_size, kFloat);
  return plan;
}

KvCacheShape KvShape(const ModelConfig& config, const RankShape& shape, DType dtype,
                     int64_t n_blocks, int64_t block_size) {
  return {.dtype = dtype,
          .n_layers = shape.layers.n_layers(),
          .n_blocks = n_blocks,
          .local_n_kv_heads = shape.local_n_kv_heads,
          .block_size = block_size,
          .head_dim = config.head_dim};
}

int64_t MaxOverMatrices(
    const WeightPlan& weights, int64_t max_tokens, int64_t head_tile_rows,
    absl::FunctionRef<int64_t(int64_t n_rows, const PackedWeight& matrix)> scratch_of) {
  int64_t most = 0;
  for (const PlannedWeight& weight : weights.weights) {
    const auto* const matrix = std::get_if<PackedWeight>(&weight.form);
    if (matrix == nullptr) continue;
    const bool is_head = weight.field == WeightField::kOutput;
    most = std::max(most, scratch_of(is_head ? head_tile_rows : max_tokens, *matrix));
  }
  return most;
}

}  // namespace stage_internal

int64_t StageWorkspaceBytes(const ModelConfig& config, const RankShape& shape,
                            const GroupLimits& limits, const WorkspaceForm& form) {
  return stage_internal::PlanWorkspace(config, shape, limits.max_num_batched_tokens, form)
      .n_bytes();
}

int64_t KvBytesPerBlock(const ModelConfig& config, const RankShape& shape, DType dtype,
                        int64_t block_size) {
  return stage_internal::KvShape(config, shape, dtype, 1, block_size).total_bytes();
}

WorkspaceForm StageTraits<CpuDevice>::Form(const CpuDevice&) { return {}; }

void StageTraits<CpuDevice>::FillWithNan(CpuDevice&, const AlignedBuffer& buffer) {
  // A float or bf16 with all bits set is a NaN.
  std::memset(buffer.data(), 0xff, buffer.bytes());
}

int64_t CpuScratchFloats(const CpuDevice& device, const StageScratchShape& shape) {
  const int64_t attention_floats = PagedAttentionScratchFloats(
      device, shape.kv, shape.weights->shape.local_n_heads, shape.max_tokens, shape.max_positions);
  const int64_t product_floats =
      stage_internal::MaxOverMatrices(*shape.weights, shape.max_tokens, kHeadTileRows,
                                      [&](int64_t n_rows, const PackedWeight& matrix) {
                                        return MatMulScratchFloats(device, n_rows, matrix);
                                      });
  return std::max(attention_floats, product_floats);
}

absl::Status StageTraits<CpuDevice>::ReserveScratch(CpuDevice& device,
                                                    const StageScratchShape& shape,
                                                    AlignedBuffer*) {
  return device.ReserveScratch(CpuScratchFloats(device, shape));
}

template class Stage<CpuDevice>;

}  // namespace bora
