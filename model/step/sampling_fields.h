// The sampling parameters that a request may set, as one list with name, member and range. The
// check of requests, the check of plans, the worker protocol and the table in docs/api.md all
// iterate over it. To add a parameter, add a member to SamplingParams, an entry here, a field to
// both protos, its effect in the kernels, and a flag of the client.
//
// Not in the list, since they have no fixed range or are handled apart: seed (any value),
// n_logprobs, n_prompt_logprobs, min_tokens and stop_token_ids.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "model/step/sampling_params.h"

namespace bora {

// One parameter. T is float or int32_t. A plain value.
template <typename T>
struct SamplingField {
  // Name of the field, both in SamplingOptions of the public API and in SamplingParams of the
  // worker protocol.
  const char* name;
  T SamplingParams::*member;  // where the parameter is kept
  // Allowed values: [low, high], or (low, high] if low_is_excluded.
  T low;
  T high;
  bool low_is_excluded;
  const char* meaning;  // one phrase for the table in docs/api.md

  // Whether `value` is in the range. NaN is in no range.
  bool Contains(T value) const {
    return (low_is_excluded ? value > low : value >= low) && value <= high;
  }
  // The range for error messages: "[0, 100]" or "(0, 1]".
  std::string RangeText() const {
    return absl::StrCat(low_is_excluded ? "(" : "[", low, ", ", high, "]");
  }
  // The value for a request that does not set the field, unless the model has its own default.
  T default_value() const { return SamplingParams().*member; }
};

// In the order of the fields in SamplingOptions.
inline constexpr auto kSamplingFields = std::make_tuple(
    SamplingField<float>{"temperature", &SamplingParams::temperature, 0.0f, kMaxTemperature, false,
                         "divides the logits before the softmax; 0 is greedy"},
    SamplingField<float>{"top_p", &SamplingParams::top_p, 0.0f, 1.0f, true,
                         "smallest set of most probable tokens whose probability reaches this"},
    SamplingField<int32_t>{"top_k", &SamplingParams::top_k, 0, kMaxTopK, false,
                           "this many most probable tokens; 0 is no limit"},
    SamplingField<float>{"min_p", &SamplingParams::min_p, 0.0f, 1.0f, false,
                         "tokens at least this many times as probable as the best"},
    SamplingField<float>{"repetition_penalty", &SamplingParams::repetition_penalty,
                         kMinRepetitionPenalty, kMaxRepetitionPenalty, false,
                         "of tokens in prompt or completion, divides positive logits and "
                         "multiplies others"},
    SamplingField<float>{"frequency_penalty", &SamplingParams::frequency_penalty, -kMaxPenalty,
                         kMaxPenalty, false,
                         "subtracted from a token's logit for each time it was generated"},
    SamplingField<float>{"presence_penalty", &SamplingParams::presence_penalty, -kMaxPenalty,
                         kMaxPenalty, false,
                         "subtracted from the logit of a token that was generated, once"});

// Number of entries of kSamplingFields.
inline constexpr size_t kNumSamplingFields = std::tuple_size_v<decltype(kSamplingFields)>;

// Calls visit(field) for each SamplingField of kSamplingFields, in the order of the list. `visit`
// must accept SamplingField<float> and SamplingField<int32_t>.
template <typename Visit>
void ForEachSamplingField(Visit visit) {
  std::apply([&visit](const auto&... fields) { (visit(fields), ...); }, kSamplingFields);
}

}  // namespace bora
