// A step's inputs as flat int32 arrays, the only form in which operations see a plan. The arrays
// are allocated once, for the group's limits; a step allocates nothing here.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/kv_cache.h"
#include "model/step/step.h"

namespace bora {

// The most rows of a plan: a slot has at most one row, and a row at least one token.
int64_t MaxRows(const GroupLimits& limits);
// The most tokens of a plan whose hidden state goes through the LM head: one drawn in each row, and
// prompt tokens that are scored.
int64_t MaxHeadRows(const GroupLimits& limits);
// KV blocks of a sequence of the greatest length.
int64_t MaxBlocksPerRow(const GroupLimits& limits);

// A token whose hidden state goes through the LM head, and what its logits are for.
struct HeadRow {
  int32_t token_idx = 0;           // index of the token in the step's tokens
  int32_t slot = 0;                // of its sequence
  int32_t position = 0;            // position of the token that is drawn or scored
  int32_t n_generated_tokens = 0;  // generated before the drawn token; 0 if a token is scored
  int32_t target_token_id = -1;    // the token that is scored; -1: a token is drawn
};

// INVALID_ARGUMENT if `limits` ask for unreasonably large arrays: more than 2^28 block table
// entries, 1 GiB.
// REQUIRES: `limits` have passed ValidateLimits.
absl::Status CheckStepInputsLimits(const GroupLimits& limits);

// Bytes of the arrays of a StepInputs for `limits`, with block tables.
int64_t StepInputsBytes(const GroupLimits& limits);

// Owned by the rank thread.
class StepInputs {
 public:
  // REQUIRES: `limits` have passed CheckStepInputsLimits. with_block_tables: false for a device
  // that keeps the block table of each slot itself; view().block_table is null then.
  explicit StepInputs(const GroupLimits& limits, bool with_block_tables = true);

  // Fills the arrays from a plan that was just applied to `slots`. last_tokens: [max_num_seqs], the
  // token that each slot sampled last; only read for rows with use_last_sampled.
  void Build(const StepPlan& plan, const SlotTracker& slots, absl::Span<const int32_t> last_tokens);

  // The arrays of the last Build in the form that operations take; valid until the next Build.
  StepTokensView view() const;
  // The tokens of the step in row order. [n_tokens]
  absl::Span<const int32_t> token_ids() const;
  // First the n_draws() rows that draw a token, in row order; then the rows that score a prompt
  // token, in row order and ascending position.
  absl::Span<const HeadRow> head_rows() const { return head_rows_; }
  int64_t n_draws() const { return n_draws_; }
  int64_t n_tokens() const { return n_tokens_; }

 private:
  // Appends a row of the plan and its tokens; last_token as StepRow::use_last_sampled needs it.
  void AppendRow(const StepPlan& plan, const StepRow& row, int32_t last_token);
  // Fills head_rows_ and n_draws_, once all rows are appended.
  void AppendHeadRows(const StepPlan& plan, const SlotTracker& slots);

  const bool with_block_tables_;
  int64_t max_blocks_per_row_ = 0;
  int64_t n_rows_ = 0;
  int64_t n_tokens_ = 0;
  int64_t n_draws_ = 0;
  // The first n_tokens_ or n_rows_ entries are in use.
  std::vector<int32_t> token_ids_;     // [max_num_batched_tokens]
  std::vector<int32_t> positions_;     // [max_num_batched_tokens], in its sequence
  std::vector<int32_t> token_row_;     // [max_num_batched_tokens], index of the token's row
  std::vector<int32_t> row_begin_;     // [max_rows + 1], first token of each row, then n_tokens_
  std::vector<int32_t> row_position_;  // [max_rows], position of the row's first token
  std::vector<int32_t> block_table_;   // [max_rows, max_blocks_per_row], KV block ids; may be empty
  std::vector<HeadRow> head_rows_;     // capacity max_rows + max_num_batched_tokens
};

}  // namespace bora
