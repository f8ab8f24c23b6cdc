#include "worker/stage.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/int_math.h"
#include "base/status_macros.h"

namespace bora {
namespace {

// Floats of each buffer of the workspace, rounded up to a cache line.
struct WorkspacePlan {
  int64_t tokens_by_dim = 0;
  int64_t wide = 0;    // qkv or gate_up
  int64_t narrow = 0;  // attention or hidden
  int64_t head_by_dim = 0;
  int64_t local_logits = 0;
  int64_t all_logits = 0;
  int64_t logits = 0;

  int64_t n_floats() const {
    return 3 * tokens_by_dim + wide + narrow + 2 * head_by_dim + local_logits + all_logits + logits;
  }
};

WorkspacePlan PlanWorkspace(const ModelConfig& config, const RankShape& shape, int64_t max_tokens) {
  const auto floats = [](int64_t n_rows, int64_t n_cols) { return RoundUp(n_rows * n_cols, 16); };
  const int64_t q_cols = shape.local_n_heads * config.head_dim;
  const int64_t kv_cols = shape.local_n_kv_heads * config.head_dim;
  WorkspacePlan plan;
  plan.tokens_by_dim = floats(max_tokens, config.dim);
  plan.wide = floats(max_tokens, std::max(q_cols + 2 * kv_cols, 2 * shape.local_hidden_dim));
  plan.narrow = floats(max_tokens, std::max(q_cols, shape.local_hidden_dim));
  if (!shape.has_head) return plan;
  plan.head_by_dim = floats(kHeadTileRows, config.dim);
  plan.local_logits = floats(kHeadTileRows, shape.local_vocab_size);
  if (shape.tp_rank != 0 || shape.tp_size == 1) return plan;
  plan.all_logits = floats(shape.tp_size * kHeadTileRows, shape.local_vocab_size);
  plan.logits = floats(kHeadTileRows, config.vocab_size);
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

const float* Gain(const Weight& weight) { return static_cast<const float*>(weight.data); }

// residual += delta, elementwise: the addition that AddRmsNorm makes, for the end of a stage, where
// no norm follows.
void Add(CpuDevice& device, absl::Span<const float> delta, absl::Span<float> residual) {
  // 16 Ki floats take about as long as waking a thread.
  device.ParallelFor(static_cast<int64_t>(delta.size()), 16 << 10, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) residual[i] += delta[i];
  });
}

// all: [tp_size, n_rows, local_vocab_size] -> logits: [n_rows, vocab_size], without the padding.
void JoinVocabulary(const float* all, const RankShape& shape, int64_t n_rows, int64_t vocab_size,
                    float* logits) {
  for (int64_t tp = 0; tp < shape.tp_size; ++tp) {
    const int64_t begin = std::min(tp * shape.local_vocab_size, vocab_size);
    const int64_t end = std::min(begin + shape.local_vocab_size, vocab_size);
    for (int64_t row = 0; row < n_rows; ++row) {
      const float* part = all + (tp * n_rows + row) * shape.local_vocab_size;
      std::copy(part, part + (end - begin), logits + row * vocab_size + begin);
    }
  }
}

}  // namespace

int64_t StageWorkspaceBytes(const ModelConfig& config, const RankShape& shape,
                            const GroupLimits& limits) {
  return PlanWorkspace(config, shape, limits.max_num_batched_tokens).n_floats() *
         static_cast<int64_t>(sizeof(float));
}

int64_t KvBytesPerBlock(const ModelConfig& config, const RankShape& shape, DType dtype,
                        int64_t block_size) {
  return KvShape(config, shape, dtype, 1, block_size).total_bytes();
}

template <typename Device>
Stage<Device>::Stage(Device* device, const RankWeights* weights)
    : device_(device), weights_(weights) {}

template <typename Device>
absl::Status Stage<Device>::Prepare(const GroupLimits& limits, bool poison_kv) {
  const ModelConfig& config = weights_->config();
  const RankShape& shape = weights_->shape();
  if (max_tokens_ != limits.max_num_batched_tokens) {
    workspace_ = AlignedBuffer();
    max_tokens_ = 0;
    const int64_t bytes = StageWorkspaceBytes(config, shape, limits);
    ASSIGN_OR_RETURN(workspace_, AlignedBuffer::Allocate(bytes, "activations"));
    max_tokens_ = limits.max_num_batched_tokens;
    const WorkspacePlan plan = PlanWorkspace(config, shape, max_tokens_);
    float* next = reinterpret_cast<float*>(workspace_.data());
    const auto take = [&next](int64_t n_floats) { return std::exchange(next, next + n_floats); };
    residual_ = take(plan.tokens_by_dim);
    normed_ = take(plan.tokens_by_dim);
    delta_ = take(plan.tokens_by_dim);
    qkv_ = gate_up_ = take(plan.wide);
    attention_ = hidden_ = take(plan.narrow);
    head_residual_ = take(plan.head_by_dim);
    head_normed_ = take(plan.head_by_dim);
    local_logits_ = take(plan.local_logits);
    all_logits_ = take(plan.all_logits);
    logits_ = take(plan.logits);
  }
  kv_shape_ = KvShape(config, shape, weights_->dtype(), limits.n_blocks, limits.block_size);
  if (kv_.bytes() != kv_shape_.total_bytes()) {
    kv_ = AlignedBuffer();  // the old one first: both may not fit
    ASSIGN_OR_RETURN(kv_, AlignedBuffer::AllocatePopulated(kv_shape_.total_bytes(), "KV cache"));
  }
  device_->Scratch(ScratchFloats(limits));  // so that no step makes it grow
  // All ones is a NaN in float and in bf16.
  if (poison_kv) std::memset(kv_.data(), 0xff, kv_.bytes());
  return absl::OkStatus();
}

template <typename Device>
int64_t Stage<Device>::ScratchFloats(const GroupLimits& limits) const {
  const RankShape& shape = weights_->shape();
  int64_t n_floats = PagedAttentionScratchFloats(*device_, kv_shape_, shape.local_n_heads,
                                                 max_tokens_, limits.max_model_len);
  for (const LayerWeights& w : weights_->layers()) {
    for (const PackedWeight* weight : {&w.wqkv, &w.wo, &w.w13, &w.w2}) {
      n_floats = std::max(n_floats, MatMulScratchFloats(*device_, max_tokens_, *weight));
    }
  }
  if (!shape.has_head) return n_floats;
  return std::max(n_floats, MatMulScratchFloats(*device_, kHeadTileRows, weights_->output()));
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
absl::Status Stage<Device>::RunLayers(const StepTokensView& tokens, const RopeTable& rope,
                                      Collectives& collectives) {
  const ModelConfig& config = weights_->config();
  const RankShape& shape = weights_->shape();
  const int64_t n = tokens.n_tokens;
  CHECK_LE(n, max_tokens_);
  const AddRmsNormShape norm = {n, config.dim, static_cast<float>(config.norm_eps)};
  const absl::Span<float> delta = absl::MakeSpan(delta_, n * config.dim);  // [n_tokens, dim]
  const float* pending = nullptr;  // delta, once there is one that the residual lacks
  for (size_t layer = 0; layer < weights_->layers().size(); ++layer) {
    const LayerWeights& w = weights_->layers()[layer];
    const KvLayerView cache = KvLayer(static_cast<int64_t>(layer));

    AddRmsNorm(*device_, norm, residual_, pending, Gain(w.attention_norm), normed_);
    MatMul(*device_, normed_, n, w.wqkv, qkv_);
    RopeAndStoreKv(*device_, rope, tokens, shape.local_n_heads, qkv_, cache);
    PagedAttention(*device_, tokens, shape.local_n_heads, qkv_, cache, attention_);
    MatMul(*device_, attention_, n, w.wo, delta_);
    RETURN_IF_ERROR(collectives.AllReduceSum(delta));

    AddRmsNorm(*device_, norm, residual_, delta_, Gain(w.ffn_norm), normed_);
    MatMul(*device_, normed_, n, w.w13, gate_up_);
    SiluMul(*device_, n, shape.local_hidden_dim, gate_up_, hidden_);
    MatMul(*device_, hidden_, n, w.w2, delta_);
    RETURN_IF_ERROR(collectives.AllReduceSum(delta));
    pending = delta_;
  }
  Add(*device_, delta, residual(n));
  return absl::OkStatus();
}

template <typename Device>
absl::StatusOr<absl::Span<const float>> Stage<Device>::Logits(absl::Span<const int32_t> token_idx,
                                                              Collectives& collectives) {
  const ModelConfig& config = weights_->config();
  const RankShape& shape = weights_->shape();
  const int64_t n = static_cast<int64_t>(token_idx.size());
  CHECK_LE(n, kHeadTileRows);
  // Picking rows of the residual is looking tokens up in a table of float rows.
  const Weight table = {
      .dtype = DType::kF32, .data = residual_, .n_rows = max_tokens_, .n_cols = config.dim};
  const AddRmsNormShape norm = {n, config.dim, static_cast<float>(config.norm_eps)};
  Embed(*device_, table, token_idx, head_residual_);
  AddRmsNorm(*device_, norm, head_residual_, nullptr, Gain(weights_->norm()), head_normed_);
  MatMul(*device_, head_normed_, n, weights_->output(), local_logits_);
  if (shape.tp_size == 1) return absl::MakeConstSpan(local_logits_, n * config.vocab_size);

  const int64_t n_local = n * shape.local_vocab_size;
  const bool is_first = shape.tp_rank == 0;
  RETURN_IF_ERROR(collectives.GatherToFirst(
      absl::MakeConstSpan(local_logits_, n_local),
      absl::MakeSpan(all_logits_, is_first ? shape.tp_size * n_local : 0)));
  if (!is_first) return absl::Span<const float>();
  JoinVocabulary(all_logits_, shape, n, config.vocab_size, logits_);
  return absl::MakeConstSpan(logits_, n * config.vocab_size);
}

template class Stage<CpuDevice>;

}  // namespace bora
