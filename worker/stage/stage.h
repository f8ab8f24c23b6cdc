// The forward pass of one pipeline stage on one tensor-parallel rank, written once for every
// device. RunLayers in stage_impl.h reads top to bottom like the model's architecture.
//
// The float residual stream [n_tokens, dim] crosses a stage boundary, with the output of every
// layer added to it. So the next stage continues with exactly the bits that a single stage would
// have had: the sum residual + delta is one float addition per element, whether the next layer's
// norm computes it or the end of RunLayers.
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

// The properties of a device that decide the size of a stage's activations; by default the CPU's.
struct WorkspaceForm {
  int64_t input_bytes = sizeof(float);  // of one StageTraits::Input
  int64_t head_tile_rows = 64;          // StageTraits::kHeadTileRows
  bool keeps_gate_up = true;            // MatMulSiluMul uses the memory of its gate_up argument
};

// Everything that differs from device to device. A specialisation has these members:
//   Input           element type of the operands of matrix products
//   Buffer          a block of the device's memory, with data() and bytes(); its owner
//   Rope            the rotary table as the device takes it
//   Collectives     of the tensor-parallel group, with AllReduceSum and GatherToFirst
//   kHeadTileRows   rows that pass through the LM head at once; bounds the logits to
//                   kHeadTileRows * vocab_size floats
//   Allocate        StatusOr<Buffer> of (n_bytes, what); `what` names the memory in errors
//   AllocateKv      StatusOr<Buffer> of (n_bytes)
//   FillWithNan     void of (device, buffer)
//   ReserveScratch  Status of (device, StageScratchShape, Buffer*): obtains the working memory for
//                   the largest step, so that no step makes it grow; in the buffer, or in the
//                   device
//   Form            WorkspaceForm of (device)
//   Attend          PagedAttention, with the arguments that it has on every device
template <typename Device>
struct StageTraits;

// The sizes that decide how much working memory the operations of a stage's largest step take.
struct StageScratchShape {
  const WeightPlan* weights = nullptr;
  KvCacheShape kv;
  int64_t max_rows = 0;       // sequences of one step
  int64_t max_tokens = 0;     // tokens of one step
  int64_t max_positions = 0;  // tokens of one sequence
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
  // The pages are populated now, so that no step pays for page faults.
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

// Floats of CpuDevice::Scratch that the operations of a stage of this shape take at most. Of
// shape.kv the number of blocks does not matter.
int64_t CpuScratchFloats(const CpuDevice& device, const StageScratchShape& shape);

inline constexpr int64_t kHeadTileRows = StageTraits<CpuDevice>::kHeadTileRows;

// Bytes of the activations that Stage::Prepare allocates for `limits`, without KV cache and
// scratch. `form` is StageTraits::Form of the device.
int64_t StageWorkspaceBytes(const ModelConfig& config, const RankShape& shape,
                            const GroupLimits& limits, const WorkspaceForm& form = {});

// Bytes that one KV block of `block_size` tokens takes on a rank of this shape, over all its
// layers, keys and values together. `dtype` is the type of a cached element.
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

  // `device` and `weights` must outlive the stage.
  Stage(Device* device, const RankWeights* weights);

  // Allocates activations, scratch and KV cache for `limits`; memory that has the right size
  // already is kept. With `poison_kv` the cache is filled with NaN in every call, so that a read of
  // a cache position that was not written shows in the results. RESOURCE_EXHAUSTED if memory is
  // short; then Prepare must succeed before a step may run.
  // REQUIRES: no step is running, and `limits` are valid.
  absl::Status Prepare(const GroupLimits& limits, bool poison_kv);

  // The residual stream of a step, [n_tokens, dim], n_tokens <= max_num_batched_tokens, in the
  // device's memory. On the first stage EmbedTokens fills it; on the others the caller fills it
  // with the output of the stage before. After RunLayers the caller sends it to the next stage.
  absl::Span<float> residual(int64_t n_tokens);

  // First stage only: residual <- the embeddings of token_ids. [n_tokens] in the device's memory.
  void EmbedTokens(absl::Span<const int32_t> token_ids);

  // residual <- the residual stream after this stage's layers, for the step `tokens`; writes the
  // keys and values of the tokens into the cache. Every rank of the tensor-parallel group must call
  // it with the same step. Errors are those of the collectives.
  absl::Status RunLayers(const StepTokensView& tokens, const typename Traits::Rope& rope,
                         Collectives& collectives);

  // Last stage only, after RunLayers: computes the logits for the tokens with the indices
  // token_idx [n] in the step, n <= kHeadTileRows. Returns [n, vocab_size] on tensor rank 0 and an
  // empty span on the others, valid until the next call. token_idx and the result lie in the
  // device's memory. Every rank of the tensor-parallel group must call it. Errors as of RunLayers.
  absl::StatusOr<absl::Span<const float>> Logits(absl::Span<const int32_t> token_idx,
                                                 Collectives& collectives);

 private:
  // The cache of the layer with index `layer` among this stage's layers.
  KvLayerView KvLayer(int64_t layer) const;

  Device* const device_;
  const RankWeights* const weights_;

  typename Traits::Buffer workspace_;  // the pointers below, up to logits_, point into it
  int64_t max_tokens_ = 0;             // max_num_batched_tokens of workspace_; 0: not allocated
  float* residual_ = nullptr;          // [max_tokens, dim]
  Input* normed_ = nullptr;            // [max_tokens, dim]
  float* delta_ = nullptr;             // [max_tokens, dim]
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
  typename Traits::Buffer kv_;       // [local n_layers, {keys, values}] of layer_elements() each
  typename Traits::Buffer scratch_;  // of the operations, on devices that do not keep their own
};

}  // namespace bora
