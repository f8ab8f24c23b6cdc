#include "worker/cuda/cuda_stage.h"

#include <algorithm>

#include "worker/stage/stage_impl.h"

namespace bora {

void StageTraits<CudaDevice>::FillWithNan(CudaDevice& device, const CudaBuffer& buffer) {
  // A bf16 with all bits set is a NaN.
  FillDevice(device.stream(), buffer.data(), 0xff, buffer.bytes());
}

int64_t CudaScratchBytes(const CudaDevice& device, const StageScratchShape& shape) {
  // Operations run one after another and share the scratch, so that the largest need counts.
  constexpr int64_t kHeadRows = StageTraits<CudaDevice>::kHeadTileRows;
  const RankShape& rank = shape.weights->shape;
  const int64_t attention_bytes =
      PagedAttentionScratchBytes({.local_n_heads = rank.local_n_heads,
                                  .local_n_kv_heads = rank.local_n_kv_heads,
                                  .head_dim = shape.kv.head_dim,
                                  .max_rows = shape.max_rows,
                                  .max_tokens = shape.max_tokens,
                                  .max_positions = shape.max_positions});
  const int64_t product_bytes = stage_internal::MaxOverMatrices(
      *shape.weights, shape.max_tokens, kHeadRows, [&](int64_t n_rows, const PackedWeight& matrix) {
        return MatMulScratchBytes(device, n_rows, matrix);
      });
  const int64_t sample_bytes =
      rank.has_head ? SampleScratchBytes(kHeadRows, shape.weights->config.vocab_size) : 0;
  return std::max({attention_bytes, product_bytes, sample_bytes});
}

absl::Status StageTraits<CudaDevice>::ReserveScratch(CudaDevice& device,
                                                     const StageScratchShape& shape,
                                                     CudaBuffer* buffer) {
  const int64_t n_bytes = CudaScratchBytes(device, shape);
  if (buffer->bytes() < n_bytes) {
    *buffer = CudaBuffer();
    ASSIGN_OR_RETURN(*buffer, CudaBuffer::Allocate(n_bytes, "working memory"));
  }
  device.SetScratch(buffer->data(), buffer->bytes());
  return absl::OkStatus();
}

void StageTraits<CudaDevice>::Attend(CudaDevice& device, const StepTokensView& tokens,
                                     int64_t local_n_heads, const float* qkv,
                                     const KvLayerView& cache, Bf16* out) {
  PagedAttention(device, *tokens.attention_work, tokens.block_table, tokens.max_blocks_per_row,
                 local_n_heads, qkv, cache, out);
}

template class Stage<CudaDevice>;

}  // namespace bora
