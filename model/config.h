// The numbers that define a model, read from config.json (Hugging Face) or params.json (Mistral).
// A field that is unknown to this code and would change the results is an error, never ignored.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace bora {

// A plain value; immutable by convention once Validate() has accepted it.
struct ModelConfig {
  std::string architecture;  // "mistral" or "llama"; the decoder is the same, the defaults differ
  int64_t dim = 0;
  int64_t hidden_dim = 0;
  int64_t n_layers = 0;
  int64_t n_heads = 0;
  int64_t n_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t vocab_size = 0;
  int64_t max_position = 0;  // context length in tokens
  double rope_theta = 0;
  double norm_eps = 0;
  std::optional<int64_t> sliding_window;  // tokens; nullopt is full attention
  bool tie_word_embeddings = false;
  int32_t bos_id = 1;
  std::vector<int32_t> eos_ids = {2};
  // One sentence for each number that the file left out and a documented rule supplied. Whoever
  // opens the model logs them, so that nothing is defaulted silently. Not part of equality.
  std::vector<std::string> notes;

  bool operator==(const ModelConfig& other) const;
};

// Limits on what a config may ask for: far above any model of this family, and low enough that
// every product of them that the code forms fits in int64.
inline constexpr int64_t kMaxDim = int64_t{1} << 17;
inline constexpr int64_t kMaxHiddenDim = int64_t{1} << 20;
inline constexpr int64_t kMaxLayers = 1024;
inline constexpr int64_t kMaxHeads = 1024;
inline constexpr int64_t kMaxHeadDim = 1024;
inline constexpr int64_t kMaxVocabSize = int64_t{1} << 20;
inline constexpr int64_t kMaxPosition = int64_t{1} << 24;

// Larger files tokenizer.model are refused unread. A million pieces of 16 characters, three bytes
// each, fit; the files of this family have about 500 KB, Llama 3's largest 9 MB.
inline constexpr int64_t kMaxTokenizerModelBytes = int64_t{64} << 20;

// Reads the text of a Hugging Face config.json of MistralForCausalLM or LlamaForCausalLM.
// INVALID_ARGUMENT names the field, its value and the limit or the feature that is not supported
// (rope scaling, other activations, biases, experts, quantisation, partial rotary, ...).
// The result has passed Validate().
absl::StatusOr<ModelConfig> ParseHfConfig(absl::string_view json);

// Reads the text of a Mistral params.json. Without rope_theta it is 1e4 if a window is set and 1e6
// otherwise (the rule of the reference when the v0.1 file was published). Fails as ParseHfConfig.
absl::StatusOr<ModelConfig> ParseMistralParams(absl::string_view json);

// Checks ranges and divisibility; INVALID_ARGUMENT names field, value and limit.
absl::Status Validate(const ModelConfig& config);

// Whether the model is served exactly at this context length (tokens): at most max_position, and at
// most the sliding window, since attention here is always over the whole context.
absl::Status CheckContextLength(const ModelConfig& config, int64_t max_model_len);

// Number of weights, embeddings and head included (a tied head is counted once).
int64_t ParameterCount(const ModelConfig& config);

// The text of a config.json or params.json that parses back to an equal config; params.json says
// nothing of token ids and architecture, which then are 1, {2} and "mistral".
std::string ToHfConfigJson(const ModelConfig& config, absl::string_view torch_dtype);
std::string ToMistralParamsJson(const ModelConfig& config);

}  // namespace bora
