// The member functions of Stage, for the files that instantiate it: stage.cc for the CPU,
// cuda_stage.cc for GPUs. All others include stage.h.
#pragma once

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/functional/function_ref.h"
#include "base/check.h"
#include "base/int_math.h"
#include "base/status_macros.h"
#include "worker/stage/stage.h"

namespace bora {
namespace stage_internal {

// Bytes of each buffer of a stage's workspace; the buffers lie one after another in this order,
// except that there are two of the size `residual`, the second after normed. Shapes: see the
// members of Stage.
struct WorkspacePlan {
  int64_t residual = 0;  // of residual and of delta
  int64_t normed = 0;
  int64_t wide = 0;    // shared by qkv and gate_up
  int64_t narrow = 0;  // shared by attention and hidden
  // The rest is 0 unless the rank has the LM head. The last two are 0 unless it also is tensor rank
  // 0 of several tensor ranks.
  int64_t head_residual = 0;
  int64_t head_normed = 0;
  int64_t local_logits = 0;
  int64_t all_logits = 0;
  int64_t logits = 0;

  int64_t n_bytes() const {
    return 2 * residual + normed + wide + narrow + head_residual + head_normed + local_logits +
           all_logits + logits;
  }
};

// The workspace for steps of up to `max_tokens` tokens.
WorkspacePlan PlanWorkspace(const ModelConfig& config, const RankShape& shape, int64_t max_tokens,
                            const WorkspaceForm& form);

// The KV cache of a rank with `n_blocks` blocks of `block_size` tokens.
KvCacheShape KvShape(const ModelConfig& config, const RankShape& shape, DType dtype,
                     int64_t n_blocks, int64_t block_size);

// The most that scratch_of gives for a matrix of the rank and the rows that it is multiplied with
// at most: max_tokens, or head_tile_rows for the LM head.
int64_t MaxOverMatrices(
    const WeightPlan& weights, int64_t max_tokens, int64_t head_tile_rows,
    absl::FunctionRef<int64_t(int64_t n_rows, const PackedWeight& matrix)> scratch_of);

inline const float* Gain(const Weight& weight) { return static_cast<const float*>(weight.data); }

}  // namespace stage_internal

template <typename Device>
Stage<Device>::Stage(Device* device, const RankWeights* weights)
    : device_(device), weights_(weights) {}

template <typename Device>
absl::Status Stage<Device>::Prepare(const GroupLimits& limits, bool poison_kv) {
  const ModelConfig& config = weights_->config();
  const RankShape& shape = weights_->shape();
  if (max_tokens_ != limits.max_num_batched_tokens) {
    // Freed first, because the old and the new one may not fit together. Stays empty on failure.
    workspace_ = {};
    max_tokens_ = 0;
    const stage_internal::WorkspacePlan plan = stage_internal::PlanWorkspace(
        config, shape, limits.max_num_batched_tokens, Traits::Form(*device_));
    ASSIGN_OR_RETURN(workspace_, Traits::Allocate(plan.n_bytes(), "activations"));
    max_tokens_ = limits.max_num_batched_tokens;
    uint8_t* next = workspace_.data();
    const auto take = [&next](int64_t n_bytes) { return std::exchange(next, next + n_bytes); };
    const auto floats = [&](int64_t n_bytes) { return reinterpret_cast<float*>(take(n_bytes)); };
    const auto inputs = [&](int64_t n_bytes) { return reinterpret_cast<Input*>(take(n_bytes)); };
    residual_ = floats(plan.residual);
    normed_ = inputs(plan.normed);
    delta_ = floats(plan.residual);
    qkv_ = gate_up_ = floats(plan.wide);
    attention_ = hidden_ = inputs(plan.narrow);
    head_residual_ = floats(plan.head_residual);
    head_normed_ = inputs(plan.head_normed);
    local_logits_ = floats(plan.local_logits);
    all_logits_ = floats(plan.all_logits);
    logits_ = floats(plan.logits);
  }
  kv_shape_ = stage_internal::KvShape(config, shape, weights_->kv_dtype(), limits.n_blocks,
                                      limits.block_size);
  if (kv_.bytes() != kv_shape_.total_bytes()) {
    kv_ = {};  // freed first, because the old and the new cache may not fit together
    ASSIGN_OR_RETURN(kv_, Traits::AllocateKv(kv_shape_.total_bytes()));
  }
  RETURN_IF_ERROR(Traits::ReserveScratch(*device_,
                                         {.weights = &weights_->plan(),
                                          .kv = kv_shape_,
                                          .max_rows = limits.max_num_seqs,
                                          .max_tokens = max_tokens_,
                                          .max_positions = limits.max_model_len},
                                         &scratch_));
  if (poison_kv) Traits::FillWithNan(*device_, kv_);
  return absl::OkStatus();
}

template <typename Device>
absl::Span<float> Stage<Device>::residual(int64_t n_tokens) {
  CHECK_LE(n_tokens, max_tokens_);
  return absl::MakeSpan(residual_, n_tokens * weights_->config().dim);
}

template <typename Device>
KvLayerView Stage<Device>::KvLayer(int64_t layer) const {
  const int64_t bytes = kv_shape_.layer_elements() * DTypeBytes(kv_shape_.dtype);
  uint8_t* const keys = kv_.data() + 2 * layer * bytes;
  return {.keys = keys, .values = keys + bytes, .shape = kv_shape_};
}

template <typename Device>
void Stage<Device>::EmbedTokens(absl::Span<const int32_t> token_ids) {
  CHECK_LE(static_cast<int64_t>(token_ids.size()), max_tokens_);
  Embed(*device_, weights_->tok_embeddings(), token_ids, residual_);
}

template <typename Device>
absl::Status Stage<Device>::RunLayers(const StepTokensView& tokens,
                                      const typename Traits::Rope& rope, Collectives& collectives) {
  const ModelConfig& config = weights_->config();
  const RankShape& shape = weights_->shape();
  const int64_t n = tokens.n_tokens;
  CHECK_LE(n, max_tokens_);
  const AddRmsNormShape norm = {n, config.dim, static_cast<float>(config.norm_eps)};
  const absl::Span<float> delta = absl::MakeSpan(delta_, n * config.dim);  // [n_tokens, dim]
  // The output of the layer before, which the next norm adds to the residual; none before layer 0.
  const float* pending = nullptr;
  for (size_t layer = 0; layer < weights_->layers().size(); ++layer) {
    const LayerWeights& w = weights_->layers()[layer];
    const KvLayerView cache = KvLayer(static_cast<int64_t>(layer));

    AddRmsNorm(*device_, norm, residual_, pending, stage_internal::Gain(w.attention_norm), normed_);
    MatMul(*device_, normed_, n, w.wqkv, qkv_);
    RopeAndStoreKv(*device_, rope, tokens, shape.local_n_heads, qkv_, cache);
    Traits::Attend(*device_, tokens, shape.local_n_heads, qkv_, cache, attention_);
    MatMul(*device_, attention_, n, w.wo, delta_);
    RETURN_IF_ERROR(collectives.AllReduceSum(delta));

    AddRmsNorm(*device_, norm, residual_, delta_, stage_internal::Gain(w.ffn_norm), normed_);
    MatMulSiluMul(*device_, normed_, n, w.w13, gate_up_, hidden_);
    MatMul(*device_, hidden_, n, w.w2, delta_);
    RETURN_IF_ERROR(collectives.AllReduceSum(delta));
    pending = delta_;
  }
  // The next stage or the LM head expects the residual with everything added.
  Add(*device_, n * config.dim, delta_, residual_);
  return absl::OkStatus();
}

template <typename Device>
absl::StatusOr<absl::Span<const float>> Stage<Device>::Logits(absl::Span<const int32_t> token_idx,
                                                              Collectives& collectives) {
  const ModelConfig& config = weights_->config();
  const RankShape& shape = weights_->shape();
  const int64_t n = static_cast<int64_t>(token_idx.size());
  CHECK_LE(n, Traits::kHeadTileRows);
  // Embed gathers rows of a table, here rows of the residual: only these go through the LM head.
  const Weight table = {
      .dtype = DType::kF32, .data = residual_, .n_rows = max_tokens_, .n_cols = config.dim};
  const AddRmsNormShape norm = {n, config.dim, static_cast<float>(config.norm_eps)};
  Embed(*device_, table, token_idx, head_residual_);
  AddRmsNorm(*device_, norm, head_residual_, nullptr, stage_internal::Gain(weights_->norm()),
             head_normed_);
  MatMul(*device_, head_normed_, n, weights_->output(), local_logits_);
  if (shape.tp_size == 1) return absl::MakeConstSpan(local_logits_, n * config.vocab_size);

  const int64_t n_local = n * shape.local_vocab_size;
  const bool is_first = shape.tp_rank == 0;
  RETURN_IF_ERROR(collectives.GatherToFirst(
      absl::MakeConstSpan(local_logits_, n_local),
      absl::MakeSpan(all_logits_, is_first ? shape.tp_size * n_local : 0)));
  if (!is_first) return absl::Span<const float>();
  JoinColumns(*device_,
              {.n_rows = n, .n_cols = config.vocab_size, .n_part_cols = shape.local_vocab_size},
              all_logits_, logits_);
  return absl::MakeConstSpan(logits_, n * config.vocab_size);
}

}  // namespace bora
