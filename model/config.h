// The numbers that define a model, read from config.json (Hugging Face) or params.json (Mistral). A
// field that this code does not support and that would change the results is an error, never
// ignored.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace bora {

// The dimensions and constants of one decoder. A plain value; treated as immutable once Validate()
// has accepted it.
struct ModelConfig {
  // "mistral" or "llama": the same decoder, other defaults in config.json.
  std::string architecture;
  int64_t dim = 0;         // width of the residual stream
  int64_t hidden_dim = 0;  // width of the feed-forward network
  int64_t n_layers = 0;
  int64_t n_heads = 0;                    // query heads
  int64_t n_kv_heads = 0;                 // key/value heads; divides n_heads
  int64_t head_dim = 0;                   // elements of a head, even
  int64_t vocab_size = 0;                 // tokens, rows of the embedding table
  int64_t max_position = 0;               // context length in tokens
  double rope_theta = 0;                  // base of the rotary frequencies
  double norm_eps = 0;                    // added to the mean square in RMSNorm
  std::optional<int64_t> sliding_window;  // tokens that attention looks back; nullopt: all
  bool tie_word_embeddings = false;       // the LM head is the embedding table
  int32_t bos_id = 1;                     // beginning-of-sequence token
  std::vector<int32_t> eos_ids = {2};     // tokens that end a sequence, 1 to 64
  // One sentence for each number that was missing in the file and came from a documented rule. The
  // code that opens the model logs them, so that no default is silent. Not part of equality.
  std::vector<std::string> notes;

  bool operator==(const ModelConfig& other) const;
};

// Upper limits of a config's fields (the lower limit is 1): far above any model of this family, and
// low enough that every product of fields that the code forms fits in int64.
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

// Reads the text of a Hugging Face config.json for MistralForCausalLM or LlamaForCausalLM. The
// result has passed Validate(). INVALID_ARGUMENT names the field, its value, and the limit or the
// unsupported feature (rope scaling, other activations, biases, experts, quantisation, partial
// rotary embedding and so on).
absl::StatusOr<ModelConfig> ParseHfConfig(absl::string_view json);

// Reads the text of a Mistral params.json. If rope_theta is missing, it is 1e4 if sliding_window is
// set and 1e6 otherwise (the rule of the reference implementation when the v0.1 file was
// published). The result has passed Validate(). Errors as for ParseHfConfig.
absl::StatusOr<ModelConfig> ParseMistralParams(absl::string_view json);

// Checks every field's range, that n_kv_heads divides n_heads, that head_dim is even, and that
// token ids are in the vocabulary. INVALID_ARGUMENT names field, value and limit.
absl::Status Validate(const ModelConfig& config);

// OK if sequences of `max_model_len` tokens are served exactly: at most max_position, and at most
// the sliding window, since attention here always covers the whole context. INVALID_ARGUMENT names
// both numbers.
absl::Status CheckContextLength(const ModelConfig& config, int64_t max_model_len);

// Number of weights of the model, embedding table and LM head included. A tied head is counted
// once.
int64_t ParameterCount(const ModelConfig& config);

// The text of a config.json or params.json that parses back to an equal config. `torch_dtype`: the
// element type of the weights, for example "bfloat16". params.json has no fields for token ids and
// architecture: it parses back to bos_id 1, eos_ids {2} and "mistral".
std::string ToHfConfigJson(const ModelConfig& config, absl::string_view torch_dtype);
std::string ToMistralParamsJson(const ModelConfig& config);

}  // namespace bora
