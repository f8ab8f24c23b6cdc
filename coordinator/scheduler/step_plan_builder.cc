#include "coordinator/scheduler/step_plan_builder.h"

#include <algorithm>
#include <utility>

#include "absl/types/span.h"

namespace bora {

StepPlanBuilder::StepPlanBuilder(int64_t epoch, int64_t step_id, std::vector<int32_t> to_close) {
  plan_.epoch = epoch;
  plan_.step_id = step_id;
  plan_.closed = std::move(to_close);
  step_.step_id = step_id;
}

void StepPlanBuilder::OpenSlot(const Sequence& sequence) {
  SlotOpen open;
  open.slot = sequence.slot;
  open.n_prompt_tokens = sequence.n_prompt;
  open.n_generated_tokens = sequence.prefill_end - sequence.n_prompt;
  open.n_cached_tokens = sequence.n_planned;
  open.sampling = sequence.spec.sampling;
  if (!sequence.WantsPromptLogprobs()) open.sampling.n_prompt_logprobs = -1;
  if (open.sampling.has_penalties()) open.known_tokens = sequence.own_tokens;
  plan_.opened.push_back(std::move(open));
  for (int32_t i = 0; i < sequence.n_blocks(); ++i) {
    plan_.grants.push_back({sequence.slot, i, sequence.block_ids[i]});
  }
}

void StepPlanBuilder::GrantBlock(const Sequence& sequence, int32_t block_id) {
  plan_.grants.push_back({sequence.slot, sequence.n_blocks(), block_id});
}

bool StepPlanBuilder::AddRow(const Sequence& sequence, int32_t n_tokens) {
  StepRow row;
  row.slot = sequence.slot;
  row.position = sequence.n_planned;
  row.n_tokens = n_tokens;
  row.token_begin = static_cast<int32_t>(plan_.tokens.size());
  int32_t n_prompt_logprobs = 0;
  if (sequence.InPrefill()) {
    const int32_t end = row.position + n_tokens;
    row.sample = end == sequence.prefill_end;
    const absl::Span<const int32_t> tokens = sequence.tokens().subspan(row.position, n_tokens);
    plan_.tokens.insert(plan_.tokens.end(), tokens.begin(), tokens.end());
    row.prompt_logprobs = sequence.WantsPromptLogprobs() && row.position < sequence.n_prompt;
    // The last token of the prompt predicts the first generated one, not a prompt token.
    if (row.prompt_logprobs) {
      n_prompt_logprobs = std::min(end, sequence.n_prompt - 1) - row.position;
    }
  } else {
    row.use_last_sampled = true;
    row.sample = true;
  }
  AddNextToken(sequence, row);
  plan_.rows.push_back(row);
  step_.work.Add(row.position, row.n_tokens);
  step_.rows.push_back({.handle = sequence.spec.handle,
                        .slot = row.slot,
                        .position = row.position,
                        .n_tokens = row.n_tokens,
                        .sample = row.sample,
                        .n_prompt_logprobs = n_prompt_logprobs,
                        .n_top = sequence.spec.sampling.n_logprobs,
                        .n_prompt_top = sequence.spec.sampling.n_prompt_logprobs});
  return row.sample;
}

void StepPlanBuilder::AddNextToken(const Sequence& sequence, const StepRow& row) {
  std::vector<int32_t>& next_tokens = plan_.next_tokens;
  if (row.prompt_logprobs) {
    // The rows before the first such row have none.
    if (next_tokens.empty()) next_tokens.assign(plan_.rows.size(), -1);
    const int32_t next = row.position + row.n_tokens;
    next_tokens.push_back(next < sequence.n_prompt ? sequence.tokens()[next] : -1);
  } else if (!next_tokens.empty()) {
    next_tokens.push_back(-1);
  }
}

bool StepPlanBuilder::HasRoomToOpen(const Sequence& sequence) const {
  // 20 MB of a message's 64 at most, unless one sequence alone is longer.
  constexpr int64_t kMaxKnownTokens = int64_t{4} << 20;
  if (!sequence.spec.sampling.has_penalties()) return true;
  int64_t n_tokens = 0;
  for (const SlotOpen& open : plan_.opened) {
    n_tokens += static_cast<int64_t>(open.known_tokens.size());
  }
  return n_tokens == 0 || n_tokens + sequence.n_known() <= kMaxKnownTokens;
}

StepInFlight StepPlanBuilder::TakeStepInFlight(double predicted_us) {
  step_.predicted_us = predicted_us;
  return std::move(step_);
}

}  // namespace bora
