// The forward pass of one pipeline stage on one tensor-parallel rank, written once for every device
// and read top to bottom: it is the architecture.
//
// What crosses a stage boundary is the float residual stream [n_tokens, dim] with everything added
// to it, so that a stage continues with exactly the bits that a single stage would have had: the
// sum residual + delta is one float addition per element, whether a norm makes it or a boundary.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/ops.h"
#include "model/step.h"
#include "worker/aligned_buffer.h"
#include "worker/collectives.h"
#include "worker/rank_weights.h"

namespace bora {

// Rows that pass through the LM head at once: bounds the logits to 64 * vocab_size floats. At 64
// rows the product is bound by arithmetic, so that reading the head again for the next tile is
// free.
inline constexpr int64_t kHeadTileRows = 64;

// Bytes of a stage's activations.
int64_t StageWorkspaceBytes(const ModelConfig& config, const RankShape& shape,
                            const GroupLimits& limits);

// Bytes that one KV block of block_size tokens costs on this rank, over all its layers.
int64_t KvBytesPerBlock(const ModelConfig& config, const RankShape& shape, DType dtype,
                        int64_t block_size);

// Owned by the rank thread. Device: CpuDevice (instantiated in stage.cc).
template <typename Device>
class Stage {
 public:
  // Both outlive the stage.
  Stage(Device* device, const RankWeights* weights);

  // Allocates activations, scratch and KV cache for `limits`; what has the right size already is
  // kept. RESOURCE_EXHAUSTED when memory is short. With poison_kv the cache is filled with NaN
  // every time, so that a read of a slot that was not written shows in the results.
  absl::Status Prepare(const GroupLimits& limits, bool poison_kv);

  // The activations of a step: written by Embed or by the receiver of the stage before, read by the
  // sender to the stage after. [n_tokens, dim], n_tokens <= max_num_batched_tokens.
  absl::Span<float> residual(int64_t n_tokens);

  // First stage: residual <- embeddings of token_ids [n_tokens].
  void EmbedTokens(absl::Span<const int32_t> token_ids);

  // residual <- residual after this stage's layers; keys and values of the tokens enter the cache.
  // Errors are those of the collectives.
  absl::Status RunLayers(const StepTokensView& tokens, const RopeTable& rope,
                         Collectives& collectives);

  // Last stage: the logits after the tokens at token_idx [n] of the step, n <= kHeadTileRows.
  // Returns [n, vocab_size] on tensor rank 0, empty on the others; valid until the next call.
  absl::StatusOr<absl::Span<const float>> Logits(absl::Span<const int32_t> token_idx,
                                                 Collectives& collectives);

 private:
  // What the operations of a step take at most.
  int64_t ScratchFloats(const GroupLimits& limits) const;
  KvLayerView KvLayer(int64_t layer) const;

  Device* const device_;
  const RankWeights* const weights_;

  AlignedBuffer workspace_;
  int64_t max_tokens_ = 0;
  float* residual_ = nullptr;   // [max_tokens, dim]
  float* normed_ = nullptr;     // [max_tokens, dim]
  float* delta_ = nullptr;      // [max_tokens, dim]
  float* qkv_ = nullptr;        // [max_tokens, (local_n_heads + 2 * local_n_kv_heads) * head_dim]
  float* attention_ = nullptr;  // [max_tokens, local_n_heads * head_dim]
  // Attention and FFN are never live together, so these share the memory of qkv_ and attention_.
  float* gate_up_ = nullptr;  // [max_tokens, 2 * local_hidden_dim]
  float* hidden_ = nullptr;   // [max_tokens, local_hidden_dim]

  float* head_residual_ = nullptr;  // [kHeadTileRows, dim]
  float* head_normed_ = nullptr;    // [kHeadTileRows, dim]
  float* local_logits_ = nullptr;   // [kHeadTileRows, local_vocab_size]
  float* all_logits_ = nullptr;     // [tp_size, kHeadTileRows, local_vocab_size] on tensor rank 0
  float* logits_ = nullptr;         // [kHeadTileRows, vocab_size] on tensor rank 0

  KvCacheShape kv_shape_;
  AlignedBuffer kv_;  // [local n_layers, {keys, values}] of KvCacheShape::layer_elements()
};

}  // namespace bora
