// Reads generation_config.json, in which the makers of a model recommend sampling parameters and
// name the tokens that end a turn.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace bora {

// Values for sampling parameters that a request leaves unset; nullopt: the API's own default
// applies. In the ranges of SamplingParams. A plain value.
struct SamplingDefaults {
  std::optional<float> temperature;
  std::optional<float> top_p;
  std::optional<int32_t> top_k;  // 0: no limit
  std::optional<float> min_p;
  std::optional<float> repetition_penalty;
  std::optional<int32_t> max_tokens;  // max_new_tokens of the file; >= 1

  bool operator==(const SamplingDefaults&) const = default;
};

// The contents of the file, as far as this server uses them. A plain value.
struct GenerationConfig {
  std::vector<int32_t> eos_ids;  // ascending, without duplicates; empty if the file names none
  SamplingDefaults sampling;
  // do_sample is false in the file. The server logs this and samples nevertheless.
  bool asks_for_greedy = false;
};

// Reads the text of a generation_config.json. Uses the fields that vLLM uses: eos_token_id,
// temperature, top_p, top_k (-1 and 0 mean no limit), min_p, repetition_penalty and max_new_tokens.
// All other fields are ignored. INVALID_ARGUMENT names the field, its value and its range.
absl::StatusOr<GenerationConfig> ParseGenerationConfig(absl::string_view text);

// Reads the file in the folder `dir`. Without the file, an empty GenerationConfig. Errors begin
// with the path.
absl::StatusOr<GenerationConfig> ReadGenerationConfig(const std::string& dir);

}  // namespace bora
