// A step's inputs as flat int32 arrays, the only form in which operations see a plan. Sized once
// from the group's limits: a step allocates nothing here.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/kv_cache.h"
#include "model/step/step.h"

namespace bora {

// What one plan has at most under `limits`. Rows: each has at least one token. Tokens that pass the
// LM head: one drawn in each row, and prompt tokens to be scored. KV blocks of one row's sequence.
int64_t MaxRows(const GroupLimits& limits);
int64_t MaxHeadRows(const GroupLimits& limits);
int64_t MaxBlocksPerRow(const GroupLimits& limits);

// A token whose hidden state goes through the LM head, and what its logits are for.
struct HeadRow {
  int32_t token_idx = 0;  // in the step's tokens
  int32_t slot = 0;
  int32_t position = 0;            // of the token to be drawn or scored: one after the row's token
  int32_t n_generated_tokens = 0;  // before that token; draws only
  int32_t target_token_id = -1;    // -1: draw
};

// INVALID_ARGUMENT if the arrays that `limits` ask for are beyond any use (more than 2^28 block
// table entries, 1 GiB). REQUIRES: `limits` have passed ValidateLimits.
absl::Status CheckStepInputsLimits(const GroupLimits& limits);

// Bytes of the arrays.
int64_t StepInputsBytes(const GroupLimits& limits);

// Owned by the rank thread.
class StepInputs {
 public:
  // `limits` have passed CheckStepInputsLimits. Without block tables the view has none: for a
  // device that keeps them by slot.
  explicit StepInputs(const GroupLimits& limits, bool with_block_tables = true);

  // Fills the arrays from a plan that `slots` has just applied. last_tokens: [max_num_seqs], the
  // token that each slot sampled last, read for rows with use_last_sampled.
  void Build(const StepPlan& plan, const SlotTracker& slots, absl::Span<const int32_t> last_tokens);

  // Valid until the next Build.
  StepTokensView view() const;
  absl::Span<const int32_t> token_ids() const;  // [n_tokens]
  // First the n_draws() tokens to be drawn in row order, then the prompt tokens to be scored in row
  // order and ascending position.
  absl::Span<const HeadRow> head_rows() const { return head_rows_; }
  int64_t n_draws() const { return n_draws_; }
  int64_t n_tokens() const { return n_tokens_; }

 private:
  void AppendRow(const StepPlan& plan, const StepRow& row, int32_t last_token);
  void AppendHeadRows(const StepPlan& plan, const SlotTracker& slots);

  const bool with_block_tables_;
  int64_t max_blocks_per_row_ = 0;
  int64_t n_rows_ = 0;
  int64_t n_tokens_ = 0;
  int64_t n_draws_ = 0;
  std::vector<int32_t> token_ids_;     // [max_num_batched_tokens]
  std::vector<int32_t> positions_;     // [max_num_batched_tokens]
  std::vector<int32_t> token_row_;     // [max_num_batched_tokens]
  std::vector<int32_t> row_begin_;     // [max_rows + 1]
  std::vector<int32_t> row_position_;  // [max_rows]
  std::vector<int32_t> block_table_;   // [max_rows, max_blocks_per_row]
  std::vector<HeadRow> head_rows_;     // capacity MaxHeadRows
};

}  // namespace bora
