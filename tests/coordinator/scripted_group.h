// What a group of ranks answers to plans, with tokens from a script instead of a model.
#pragma once

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "base/status_macros.h"
#include "model/step/step.h"

namespace bora {

// Owned by one thread.
class ScriptedGroup {
 public:
  // The token that a sequence with these sampling parameters has at `position`; slot and position
  // are filled in.
  using Script = std::function<SampledToken(const SamplingParams& sampling, int32_t position)>;

  ScriptedGroup(const GroupLimits& limits, Script script)
      : tracker_(limits), sampling_(limits.max_num_seqs), script_(std::move(script)) {}

  // As SlotTracker::Apply; then one result for every row that asks for one.
  absl::StatusOr<StepResult> Execute(const StepPlan& plan) {
    RETURN_IF_ERROR(tracker_.Apply(plan));
    for (const SlotOpen& open : plan.opened) sampling_[open.slot] = open.sampling;
    StepResult result;
    result.epoch = plan.epoch;
    result.step_id = plan.step_id;
    for (size_t i = 0; i < plan.rows.size(); ++i) {
      const StepRow& row = plan.rows[i];
      const int32_t end = row.position + row.n_tokens;
      if (row.prompt_logprobs) {
        const int32_t n_prompt = tracker_.n_prompt_tokens(row.slot);
        for (int32_t position = row.position + 1; position <= end && position < n_prompt;
             ++position) {
          SampledToken token;
          token.slot = row.slot;
          token.position = position;
          token.token_id = position == end ? plan.next_tokens[i]
                                           : plan.tokens[row.token_begin + position - row.position];
          token.logprob = -1;
          token.rank = 1;
          result.prompt_logprobs.push_back(token);
        }
      }
      if (!row.sample) continue;
      SampledToken& token =
          result.sampled.emplace_back(script_(sampling_[row.slot], row.position + row.n_tokens));
      token.slot = row.slot;
      token.position = end;
    }
    return result;
  }

  const SlotTracker& tracker() const { return tracker_; }

 private:
  SlotTracker tracker_;
  std::vector<SamplingParams> sampling_;  // [max_num_seqs]
  const Script script_;
};

}  // namespace bora
