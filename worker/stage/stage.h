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
#include "kernels/device_views.h"
#include "kernels/ops.h"
#include "model/step/step.h"
#include "worker/stage/collectives.h"
#include "worker/weights/aligned_buffer.h"
#include "worker/weights/rank_weights.h"

namespace bora {

// What of a device decides the size of a stage's activations.
struct WorkspaceForm {
  int64_t input_bytes = sizeof(float);  // of StageTraits::Input
  int64_t head_tile_rows = 64;          // StageTraits::kHeadTileRows
  // MatMulSiluMul uses its working memory.
  bool keeps_gate_up = true;
};

// What differs from device to device. A specialisation has
//   Input                       what an operation hands to a matrix product
//   Buffer                      a block of the device's memory, with data() and bytes()
//   Rope                        the rotary table as the device takes it
//   Collectives                 of the tensor-parallel group, with AllReduceSum and GatherToFirst
//   kHeadTileRows               rows that pass through the LM head at once; bounds the logits to as
//                               many * vocab_size floats
//   Allocate, AllocateKv        StatusOr<Buffer> of (bytes, what)
//   FillWithNan                 of (device, buffer)
//   ReserveScratch              Status of (device, what operations take at most, buffer): no step
//                               makes the scratch grow
//   Form                        WorkspaceForm of (device)
//   Attend                      PagedAttention with the arguments that both have
template <typename Device>
struct StageTraits;

// What the operations of a stage's steps depend on.
struct StageScratchShape {
  const WeightPlan* weights = nullptr;
  KvCacheShape kv;
  int64_t max_rows = 0;
  int64_t max_tokens = 0;
  int64_t max_positions = 0;
};

template <>
struct StageTraits<CpuDevice> {
  using Input = float;
  using Buffer = AlignedBuffer;
  using Rope = RopeTable;
  using Collectives = bora::Collectives;
  // At 64 rows the product is bound by arithmetic, so that reading the head again for the next tile
  // is free.
  static constexpr int64_t kHeadTileRows = 64;

  static WorkspaceForm Form(const CpuDevice& device);
  static absl::StatusOr<AlignedBuffer> Allocate(int64_t n_bytes, absl::string_view what) {
    return AlignedBuffer::AllocatePopulated(n_bytes, what);
  }
  static absl::StatusOr<AlignedBuffer> AllocateKv(int64_t n_bytes) {
    return AlignedBuffer::AllocatePopulated(n_bytes, "KV cache");
  }
  static void FillWithNan(CpuDevice& device, const AlignedBuffer& buffer);
  static absl::Status ReserveScratch(CpuDevice& device, const StageScratchShape& shape,
                                     AlignedBuffer* buffer);
  static void Attend(CpuDevice& device, const StepTokensView& tokens, int64_t local_n_heads,
                     const float* qkv, const KvLayerView& cache, float* out) {
    PagedAttention(device, tokens, local_n_heads, qkv, cache, out);
  }
};

// CpuDevice::Scratch of the operations of such a stage; of shape.kv the sizes of a head count.
int64_t CpuScratchFloats(const CpuDevice& device, const StageScratchShape& shape);

inline constexpr int64_t kHeadTileRows = StageTraits<CpuDevice>::kHeadTileRows;

// Bytes of a stage's activations.
int64_t StageWorkspaceBytes(const ModelConfig& config, const RankShape& shape,
                            const GroupLimits& limits, const WorkspaceForm& form = {});

// Bytes that one KV block of block_size tokens costs on this rank, over all its layers.
int64_t KvBytesPerBlock(const ModelConfig& config, const RankShape& shape, DType dtype,
                        int64_t block_size);

// Owned by the rank thread. Device: CpuDevice (instantiated in stage.cc) or CudaDevice
// (cuda_stage.cc).
template <typename Device>
class Stage {
 public:
  using Traits = StageTraits<Device>;
  using Input = typename Traits::Input;
  using Collectives = typename Traits::Collectives;

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
  absl::Status RunLayers(const StepTokensView& tokens, const typename Traits::Rope& rope,
                         Collectives& collectives);

  // Last stage: the logits after the tokens at token_idx [n] of the step, n <= kHeadTileRows; both
  // in the device's memory.
  // Returns [n, vocab_size] on tensor rank 0, empty on the others; valid until the next call.
  absl::StatusOr<absl::Span<const float>> Logits(absl::Span<const int32_t> token_idx,
                                                 Collectives& collectives);

 private:
  KvLayerView KvLayer(int64_t layer) const;

  Device* const device_;
  const RankWeights* const weights_;

  typename Traits::Buffer workspace_;
  int64_t max_tokens_ = 0;
  float* residual_ = nullptr;   // [max_tokens, dim]
  Input* normed_ = nullptr;     // [max_tokens, dim]
  float* delta_ = nullptr;      // [max_tokens, dim]
  float* qkv_ = nullptr;        // [max_tokens, (local_n_heads + 2 * local_n_kv_heads) * head_dim]
  Input* attention_ = nullptr;  // [max_tokens, local_n_heads * head_dim]
  // Attention and FFN are never live together, so these share the memory of qkv_ and attention_.
  float* gate_up_ = nullptr;  // [max_tokens, 2 * local_hidden_dim]
  Input* hidden_ = nullptr;   // [max_tokens, local_hidden_dim]

  float* head_residual_ = nullptr;  // [kHeadTileRows, dim]
  Input* head_normed_ = nullptr;    // [kHeadTileRows, dim]
  float* local_logits_ = nullptr;   // [kHeadTileRows, local_vocab_size]
  float* all_logits_ = nullptr;     // [tp_size, kHeadTileRows, local_vocab_size] on tensor rank 0
  float* logits_ = nullptr;         // [kHeadTileRows, vocab_size] on tensor rank 0

  KvCacheShape kv_shape_;
  typename Traits::Buffer kv_;  // [local n_layers, {keys, values}] of layer_elements() each
  typename Traits::Buffer scratch_;
};

}  // namespace bora
