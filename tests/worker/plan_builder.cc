#include "tests/worker/plan_builder.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <utility>

#include "base/check.h"

namespace bora {

PlanBuilder::PlanBuilder(const GroupLimits& limits, int64_t epoch, uint64_t seed)
    : limits_(limits), slots_(limits.max_num_seqs), free_blocks_(limits.n_blocks) {
  plan_.epoch = epoch;
  std::iota(free_blocks_.begin(), free_blocks_.end(), 0);
  std::mt19937_64 random(seed);
  for (size_t i = free_blocks_.size(); i > 1; --i) {
    std::swap(free_blocks_[i - 1], free_blocks_[random() % i]);
  }
}

void PlanBuilder::Close(int32_t slot) {
  plan_.closed.push_back(slot);
  std::vector<int32_t>& block_ids = slots_.at(slot).block_ids;
  free_blocks_.insert(free_blocks_.end(), block_ids.begin(), block_ids.end());
  slots_[slot] = Slot();
}

void PlanBuilder::Open(int32_t slot, int32_t n_prompt_tokens, const SamplingParams& sampling,
                       int32_t n_generated_tokens) {
  plan_.opened.push_back({.slot = slot,
                          .n_prompt_tokens = n_prompt_tokens,
                          .n_generated_tokens = n_generated_tokens,
                          .sampling = sampling});
}

void PlanBuilder::Open(int32_t slot, absl::Span<const int32_t> known_tokens,
                       int32_t n_prompt_tokens, const SamplingParams& sampling) {
  Open(slot, n_prompt_tokens, sampling,
       static_cast<int32_t>(known_tokens.size()) - n_prompt_tokens);
  if (!sampling.has_penalties()) return;
  plan_.opened.back().known_tokens.assign(known_tokens.begin(), known_tokens.end());
}

void PlanBuilder::AddRow(int32_t slot, absl::Span<const int32_t> tokens,
                         const RowOptions& options) {
  StepRow row;
  row.slot = slot;
  row.n_tokens = static_cast<int32_t>(tokens.size());
  row.token_begin = static_cast<int32_t>(plan_.tokens.size());
  row.sample = options.sample;
  row.prompt_logprobs = options.prompt_logprobs;
  plan_.tokens.insert(plan_.tokens.end(), tokens.begin(), tokens.end());
  next_tokens_.push_back(options.prompt_logprobs ? options.next_token : -1);
  Append(row);
}

void PlanBuilder::AddLastSampledRow(int32_t slot, bool sample) {
  StepRow row;
  row.slot = slot;
  row.n_tokens = 1;
  row.use_last_sampled = true;
  row.sample = sample;
  next_tokens_.push_back(-1);
  Append(row);
}

void PlanBuilder::Append(StepRow row) {
  Slot& slot = slots_.at(row.slot);
  row.position = slot.n_tokens;
  slot.n_tokens += row.n_tokens;
  n_plan_tokens_ += row.n_tokens;
  while (static_cast<int64_t>(slot.block_ids.size()) * limits_.block_size < slot.n_tokens) {
    CHECK(!free_blocks_.empty()) << "the test uses more blocks than it has";
    plan_.grants.push_back(
        {row.slot, static_cast<int32_t>(slot.block_ids.size()), free_blocks_.back()});
    slot.block_ids.push_back(free_blocks_.back());
    free_blocks_.pop_back();
  }
  plan_.rows.push_back(row);
}

StepPlan PlanBuilder::Take() {
  const bool wanted = std::any_of(plan_.rows.begin(), plan_.rows.end(),
                                  [](const StepRow& row) { return row.prompt_logprobs; });
  if (wanted) plan_.next_tokens = next_tokens_;
  next_tokens_.clear();
  n_plan_tokens_ = 0;
  StepPlan next;
  next.epoch = plan_.epoch;
  next.step_id = plan_.step_id + 1;
  return std::exchange(plan_, std::move(next));
}

}  // namespace bora
