#include "coordinator/engine/calibration.h"

#include <algorithm>
#include <string>

namespace bora {
namespace {

// A token id for position i. Any id will do: the cost of a step depends on the number of tokens,
// not on their ids.
int32_t AnyToken(int32_t i, int32_t vocab_size) {
  return static_cast<int32_t>(int64_t{i} * 7919 % vocab_size);
}

}  // namespace

Calibration::Calibration(const GroupLimits& limits, double budget_us)
    : limits_(limits), budget_us_(budget_us) {
  constexpr int32_t kSteps = 4;  // output tokens of a round that decodes
  rounds_.push_back({1, 1, kSteps});
  for (int32_t n = 16; n < limits.max_num_batched_tokens; n *= 4) rounds_.push_back({1, n, 1});
  rounds_.push_back({1, limits.max_num_batched_tokens, 1});
  for (const int32_t n : {8, 32}) {
    if (n <= limits.max_num_seqs) rounds_.push_back({n, 1, kSteps});
  }
  rounds_.push_back({1, 4 * std::min(limits.max_num_batched_tokens, kMaxNumBatchedTokens), kSteps});
  // All rounds twice, since the model corrects only a part of each error at once.
  const std::vector<Round> once = rounds_;
  rounds_.insert(rounds_.end(), once.begin(), once.end());
}

std::vector<SequenceSpec> Calibration::NextRound(const StepCostModel& model, double elapsed_us,
                                                 uint64_t first_handle) {
  std::vector<SequenceSpec> specs;
  for (; next_ < rounds_.size() && specs.empty(); ++next_) {
    const Round& round = rounds_[next_];
    // The longest sequence that fits the context and an equal part of the KV blocks.
    const int64_t n_len = std::min<int64_t>(
        limits_.max_model_len, int64_t{limits_.n_blocks} / round.n_sequences * limits_.block_size);
    const int32_t n_prompt =
        static_cast<int32_t>(std::min<int64_t>(round.n_prompt, n_len - round.n_output));
    if (n_prompt < 1) continue;
    // The predicted time of the round: its decode steps, and the chunks of one prompt.
    StepWork decode;
    for (int32_t i = 0; i < round.n_sequences; ++i) decode.Add(n_prompt, 1);
    double us = (round.n_output - 1) * model.Predict(decode);
    for (int32_t position = 0; position < n_prompt; position += limits_.max_num_batched_tokens) {
      StepWork chunk;
      chunk.Add(position, std::min(limits_.max_num_batched_tokens, n_prompt - position));
      us += model.Predict(chunk);
    }
    if (elapsed_us + us > budget_us_) continue;
    for (int32_t i = 0; i < round.n_sequences; ++i) {
      SequenceSpec& spec = specs.emplace_back();
      spec.handle = first_handle + i;
      std::vector<int32_t> prompt;
      prompt.reserve(n_prompt);
      for (int32_t t = 0; t < n_prompt; ++t) {
        prompt.push_back(AnyToken(t, limits_.vocab_size));
      }
      spec.prompt_tokens = std::move(prompt);
      spec.max_tokens = round.n_output;
      spec.prefix_cache = false;
      spec.tenant = std::string(1, '\xff');  // not UTF-8, so no request can have this tenant
      spec.is_calibration = true;
    }
  }
  return specs;
}

}  // namespace bora
