// Writes valid plans by hand: keeps positions, grants blocks when rows need them, numbers the
// steps.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "model/step/step.h"

namespace bora {

// Owned by one thread.
class PlanBuilder {
 public:
  // Blocks are handed out in an order shuffled by `seed`, so that a slot's blocks are scattered.
  PlanBuilder(const GroupLimits& limits, int64_t epoch, uint64_t seed = 1);

  // Takes effect in the next plan. The slot's blocks are free again in that plan.
  void Close(int32_t slot);
  // The prompt is the first of the known tokens, the others have been generated.
  void Open(int32_t slot, absl::Span<const int32_t> known_tokens, int32_t n_prompt_tokens,
            const SamplingParams& sampling);
  // The same where sampling has no penalties, which count tokens.
  void Open(int32_t slot, int32_t n_prompt_tokens, const SamplingParams& sampling,
            int32_t n_generated_tokens = 0);

  struct RowOptions {
    bool sample = false;
    bool prompt_logprobs = false;
    int32_t next_token = -1;  // with prompt_logprobs
  };
  // The slot's next tokens. At most one row a slot and plan.
  void AddRow(int32_t slot, absl::Span<const int32_t> tokens, const RowOptions& options);
  // The slot's next token is the one it sampled last.
  void AddLastSampledRow(int32_t slot, bool sample);

  int64_t n_free_blocks() const { return static_cast<int64_t>(free_blocks_.size()); }
  int64_t n_plan_tokens() const { return n_plan_tokens_; }
  bool plan_is_empty() const { return plan_.rows.empty() && plan_.closed.empty(); }

  // The plan so far; the next one begins.
  StepPlan Take();

 private:
  struct Slot {
    int32_t n_tokens = 0;
    std::vector<int32_t> block_ids;
  };

  void Append(StepRow row);

  const GroupLimits limits_;
  StepPlan plan_;
  std::vector<int32_t> next_tokens_;
  int64_t n_plan_tokens_ = 0;
  std::vector<Slot> slots_;
  std::vector<int32_t> free_blocks_;
};

}  // namespace bora
