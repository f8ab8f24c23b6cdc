#include "model/config.h"

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace bora {
namespace {

// OK if value is in [1, max].
absl::Status CheckRange(const char* field, int64_t value, int64_t max) {
  if (value >= 1 && value <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, " is ", value, ", must be in [1, ", max, "]"));
}

}  // namespace

bool ModelConfig::operator==(const ModelConfig& other) const {
  return architecture == other.architecture && dim == other.dim && hidden_dim == other.hidden_dim &&
         n_layers == other.n_layers && n_heads == other.n_heads && n_kv_heads == other.n_kv_heads &&
         head_dim == other.head_dim && vocab_size == other.vocab_size &&
         max_position == other.max_position && rope_theta == other.rope_theta &&
         norm_eps == other.norm_eps && sliding_window == other.sliding_window &&
         tie_word_embeddings == other.tie_word_embeddings && bos_id == other.bos_id &&
         eos_ids == other.eos_ids;
}

absl::Status Validate(const ModelConfig& config) {
  if (config.architecture != "mistral" && config.architecture != "llama") {
    return absl::InvalidArgumentError(absl::StrCat("architecture is \"", config.architecture,
                                                   "\", supported are mistral and llama"));
  }
  RETURN_IF_ERROR(CheckRange("dim", config.dim, kMaxDim));
  RETURN_IF_ERROR(CheckRange("hidden_dim", config.hidden_dim, kMaxHiddenDim));
  RETURN_IF_ERROR(CheckRange("n_layers", config.n_layers, kMaxLayers));
  RETURN_IF_ERROR(CheckRange("n_heads", config.n_heads, kMaxHeads));
  RETURN_IF_ERROR(CheckRange("n_kv_heads", config.n_kv_heads, kMaxHeads));
  RETURN_IF_ERROR(CheckRange("head_dim", config.head_dim, kMaxHeadDim));
  RETURN_IF_ERROR(CheckRange("vocab_size", config.vocab_size, kMaxVocabSize));
  RETURN_IF_ERROR(CheckRange("max_position", config.max_position, kMaxPosition));
  if (config.sliding_window.has_value()) {
    RETURN_IF_ERROR(CheckRange("sliding_window", *config.sliding_window, kMaxPosition));
  }
  if (config.n_heads % config.n_kv_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "n_heads ", config.n_heads, " is not a multiple of n_kv_heads ", config.n_kv_heads));
  }
  if (config.head_dim % 2 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("head_dim is ", config.head_dim, ", must be even for rotary embeddings"));
  }
  // The comparisons are negated so that NaN fails them too.
  if (!(config.rope_theta >= 1 && config.rope_theta <= 1e12)) {
    return absl::InvalidArgumentError(
        absl::StrCat("rope_theta is ", config.rope_theta, ", must be in [1, 1e12]"));
  }
  if (!(config.norm_eps > 0 && config.norm_eps <= 0.01)) {
    return absl::InvalidArgumentError(
        absl::StrCat("norm_eps is ", config.norm_eps, ", must be in (0, 0.01]"));
  }
  if (config.eos_ids.empty() || config.eos_ids.size() > 64) {
    return absl::InvalidArgumentError(
        absl::StrCat(config.eos_ids.size(), " eos ids, must be 1 to 64"));
  }
  std::vector<int32_t> ids = config.eos_ids;
  ids.push_back(config.bos_id);
  for (const int32_t id : ids) {
    if (id < 0 || id >= config.vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat(
          "token id ", id, " (bos or eos) must be in [0, vocab_size ", config.vocab_size, ")"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckContextLength(const ModelConfig& config, int64_t max_model_len) {
  if (max_model_len < 1 || max_model_len > config.max_position) {
    return absl::InvalidArgumentError(absl::StrCat("--max-model-len is ", max_model_len,
                                                   ", the model's context length is ",
                                                   config.max_position));
  }
  if (config.sliding_window.has_value() && *config.sliding_window < max_model_len) {
    const int64_t window = *config.sliding_window;
    return absl::InvalidArgumentError(absl::StrCat(
        "sliding window ", window, " is not supported at a context length of ", max_model_len,
        ": limit --max-model-len to ", window, " to serve the model exactly"));
  }
  return absl::OkStatus();
}

// Per layer: wq and wo, wk and wv, three FFN matrices, two norms.
int64_t ParameterCount(const ModelConfig& config) {
  const int64_t q_dim = config.n_heads * config.head_dim;
  const int64_t kv_dim = config.n_kv_heads * config.head_dim;
  const int64_t per_layer =
      2 * config.dim * (q_dim + kv_dim) + 3 * config.dim * config.hidden_dim + 2 * config.dim;
  const int64_t n_vocab_matrices = config.tie_word_embeddings ? 1 : 2;
  return config.n_layers * per_layer + n_vocab_matrices * config.vocab_size * config.dim +
         config.dim;
}

}  // namespace bora
