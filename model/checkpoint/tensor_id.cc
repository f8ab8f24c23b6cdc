#include "model/checkpoint/tensor_id.h"

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace bora {
namespace {

// The kinds inside a layer, in the order of the forward pass.
constexpr TensorKind kLayerKinds[] = {
    TensorKind::kAttentionNorm, TensorKind::kWq, TensorKind::kWk, TensorKind::kWv, TensorKind::kWo,
    TensorKind::kFfnNorm,       TensorKind::kW1, TensorKind::kW2, TensorKind::kW3};

const char* KindName(TensorKind kind) {
  switch (kind) {
    case TensorKind::kTokEmbeddings:
      return "tok_embeddings";
    case TensorKind::kAttentionNorm:
      return "attention_norm";
    case TensorKind::kWq:
      return "wq";
    case TensorKind::kWk:
      return "wk";
    case TensorKind::kWv:
      return "wv";
    case TensorKind::kWo:
      return "wo";
    case TensorKind::kFfnNorm:
      return "ffn_norm";
    case TensorKind::kW1:
      return "w1";
    case TensorKind::kW2:
      return "w2";
    case TensorKind::kW3:
      return "w3";
    case TensorKind::kNorm:
      return "norm";
    case TensorKind::kOutput:
      return "output";
  }
  CHECK(false) << "tensor kind " << static_cast<int>(kind);
  return "";
}

}  // namespace

bool IsLayerTensor(TensorKind kind) {
  return kind != TensorKind::kTokEmbeddings && kind != TensorKind::kNorm &&
         kind != TensorKind::kOutput;
}

std::string TensorName(TensorId id) {
  if (!IsLayerTensor(id.kind)) return KindName(id.kind);
  return absl::StrCat("layers.", id.layer, ".", KindName(id.kind));
}

TensorShape ShapeOf(const ModelConfig& config, TensorId id) {
  const int64_t q_dim = config.n_heads * config.head_dim;
  const int64_t kv_dim = config.n_kv_heads * config.head_dim;
  switch (id.kind) {
    case TensorKind::kTokEmbeddings:
    case TensorKind::kOutput:
      return {config.vocab_size, config.dim};
    case TensorKind::kAttentionNorm:
    case TensorKind::kFfnNorm:
    case TensorKind::kNorm:
      return {1, config.dim, /*is_vector=*/true};
    case TensorKind::kWq:
      return {q_dim, config.dim};
    case TensorKind::kWk:
    case TensorKind::kWv:
      return {kv_dim, config.dim};
    case TensorKind::kWo:
      return {config.dim, q_dim};
    case TensorKind::kW1:
    case TensorKind::kW3:
      return {config.hidden_dim, config.dim};
    case TensorKind::kW2:
      return {config.dim, config.hidden_dim};
  }
  CHECK(false) << "tensor kind " << static_cast<int>(id.kind);
  return {};
}

std::vector<TensorId> AllTensors(const ModelConfig& config) {
  std::vector<TensorId> ids = {{TensorKind::kTokEmbeddings, kNoLayer}};
  for (int64_t layer = 0; layer < config.n_layers; ++layer) {
    for (const TensorKind kind : kLayerKinds) ids.push_back({kind, layer});
  }
  ids.push_back({TensorKind::kNorm, kNoLayer});
  if (!config.tie_word_embeddings) ids.push_back({TensorKind::kOutput, kNoLayer});
  return ids;
}

}  // namespace bora
