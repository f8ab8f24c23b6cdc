// generation_config.json: how the makers of a model mean it to be sampled, and what ends its turns.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace bora {

// Values for what a request leaves unset; nullopt leaves the API's own default in force. In the
// ranges of SamplingParams. A plain value.
struct SamplingDefaults {
  std::optional<float> temperature;
  std::optional<float> top_p;
  std::optional<int32_t> top_k;
  std::optional<float> min_p;
  std::optional<float> repetition_penalty;
  std::optional<int32_t> max_tokens;  // max_new_tokens of the file; >= 1

  bool operator==(const SamplingDefaults&) const = default;
};

struct GenerationConfig {
  std::vector<int32_t> eos_ids;  // ascending, unique; empty when the file names none
  SamplingDefaults sampling;
  // The file asks for greedy decoding (do_sample false beside a temperature): said, not obeyed.
  bool asks_for_greedy = false;
};

// Reads the text of a generation_config.json: eos_token_id, temperature, top_p, top_k (-1 and 0 are
// no limit), min_p, repetition_penalty and max_new_tokens, as vLLM does; do_sample does not count,
// and other fields say nothing to this server. INVALID_ARGUMENT names the field, its value and the
// range.
absl::StatusOr<GenerationConfig> ParseGenerationConfig(absl::string_view text);

// The one in `dir`; without a file an empty one.
absl::StatusOr<GenerationConfig> ReadGenerationConfig(const std::string& dir);

}  // namespace bora
