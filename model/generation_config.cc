#include "model/generation_config.h"

#include <algorithm>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/config.h"
#include "model/json.h"
#include "model/step/sampling_params.h"

namespace bora {
namespace {

using Json = nlohmann::json;

constexpr char kFileName[] = "generation_config.json";
// Stands for an exclusive lower limit of 0 in ReadFloat.
constexpr double kLeastPositive = std::numeric_limits<float>::min();

// INVALID_ARGUMENT: "FIELD is VALUE, must be ...". The value is cut to 80 characters.
absl::Status Bad(const char* field, const Json& value, absl::string_view must) {
  return absl::InvalidArgumentError(absl::StrCat(
      field, " is ", value.dump(-1, ' ', true, Json::error_handler_t::replace).substr(0, 80),
      ", must be ", must));
}

// The field's value; nullptr if the field is missing or null.
const Json* Find(const Json& json, const char* field) {
  const auto it = json.find(field);
  return it == json.end() || it->is_null() ? nullptr : &*it;
}

// A number in [low, high], or (0, high] if `low` is kLeastPositive; nullopt if it is missing.
absl::StatusOr<std::optional<float>> ReadFloat(const Json& json, const char* field, double low,
                                               double high) {
  const Json* value = Find(json, field);
  if (value == nullptr) return std::optional<float>();
  if (!value->is_number() || !(value->get<double>() >= low && value->get<double>() <= high)) {
    return Bad(field, *value,
               low == kLeastPositive ? absl::StrCat("a number in (0, ", high, "]")
                                     : absl::StrCat("a number in [", low, ", ", high, "]"));
  }
  return std::optional<float>(value->get<float>());
}

// As ReadFloat, for integers. Compares as double, since the number may not fit in any integer type.
absl::StatusOr<std::optional<int32_t>> ReadInt(const Json& json, const char* field, int64_t low,
                                               int64_t high) {
  const Json* value = Find(json, field);
  if (value == nullptr) return std::optional<int32_t>();
  const bool is_in_range = value->is_number_integer() &&
                           value->get<double>() >= static_cast<double>(low) &&
                           value->get<double>() <= static_cast<double>(high);
  if (!is_in_range) {
    return Bad(field, *value, absl::StrCat("an integer in [", low, ", ", high, "]"));
  }
  return std::optional<int32_t>(value->get<int32_t>());
}

// The ids of eos_token_id, which is one id or a list; ascending, without duplicates.
absl::StatusOr<std::vector<int32_t>> ReadEosIds(const Json& json) {
  std::vector<int32_t> ids;
  const Json* value = Find(json, "eos_token_id");
  if (value == nullptr) return ids;
  const Json list = value->is_array() ? *value : Json::array({*value});
  for (const Json& id : list) {
    if (!id.is_number_integer() || !(id.get<double>() >= 0 && id.get<double>() < kMaxVocabSize)) {
      return Bad("eos_token_id", id, "an id in [0, vocab_size), or a list of such");
    }
    ids.push_back(id.get<int32_t>());
  }
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

}  // namespace

absl::StatusOr<GenerationConfig> ParseGenerationConfig(absl::string_view text) {
  ASSIGN_OR_RETURN(const Json json, ParseJson(text));
  if (!json.is_object()) return absl::InvalidArgumentError("must be a JSON object");
  GenerationConfig config;
  ASSIGN_OR_RETURN(config.eos_ids, ReadEosIds(json));
  SamplingDefaults& sampling = config.sampling;
  ASSIGN_OR_RETURN(sampling.temperature, ReadFloat(json, "temperature", 0, kMaxTemperature));
  ASSIGN_OR_RETURN(sampling.top_p, ReadFloat(json, "top_p", kLeastPositive, 1));
  ASSIGN_OR_RETURN(sampling.top_k, ReadInt(json, "top_k", -1, kMaxTopK));
  // Both mean "no limit" in files; the API has only 0.
  if (sampling.top_k == -1) sampling.top_k = 0;
  ASSIGN_OR_RETURN(sampling.min_p, ReadFloat(json, "min_p", 0, 1));
  ASSIGN_OR_RETURN(
      sampling.repetition_penalty,
      ReadFloat(json, "repetition_penalty", kMinRepetitionPenalty, kMaxRepetitionPenalty));
  ASSIGN_OR_RETURN(sampling.max_tokens, ReadInt(json, "max_new_tokens", 1, kMaxPosition));
  const Json* do_sample = Find(json, "do_sample");
  config.asks_for_greedy = do_sample != nullptr && *do_sample == Json(false);
  return config;
}

absl::StatusOr<GenerationConfig> ReadGenerationConfig(const std::string& dir) {
  const std::string path = absl::StrCat(dir, "/", kFileName);
  const absl::StatusOr<std::string> text = ReadSmallFile(path, kMaxJsonBytes);
  if (absl::IsNotFound(text.status())) return GenerationConfig();
  RETURN_IF_ERROR(text.status());
  absl::StatusOr<GenerationConfig> config = ParseGenerationConfig(*text);
  if (!config.ok()) return Annotate(config.status(), path);
  return config;
}

}  // namespace bora
