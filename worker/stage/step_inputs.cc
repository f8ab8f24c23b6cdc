#include "worker/stage/step_inputs.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/int_math.h"

namespace bora {
namespace {

// 1 GiB of int32.
constexpr int64_t kMaxBlockTableEntries = int64_t{1} << 28;

}  // namespace

int64_t MaxRows(const GroupLimits& limits) {
  return std::min(limits.max_num_seqs, limits.max_num_batched_tokens);
}

int64_t MaxHeadRows(const GroupLimits& limits) {
  return MaxRows(limits) + limits.max_num_batched_tokens;
}

int64_t MaxBlocksPerRow(const GroupLimits& limits) {
  return CeilDiv(limits.max_model_len, limits.block_size);
}

absl::Status CheckStepInputsLimits(const GroupLimits& limits) {
  if (MaxRows(limits) * MaxBlocksPerRow(limits) <= kMaxBlockTableEntries) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "group limits: a block table of ", MaxRows(limits), " rows x ", MaxBlocksPerRow(limits),
      " blocks is more than ", kMaxBlockTableEntries, " entries"));
}

int64_t StepInputsBytes(const GroupLimits& limits) {
  const int64_t n_rows = MaxRows(limits);
  const int64_t n_tokens = limits.max_num_batched_tokens;
  const int64_t n_ints = 3 * n_tokens + 2 * n_rows + 1 + n_rows * MaxBlocksPerRow(limits);
  return n_ints * static_cast<int64_t>(sizeof(int32_t)) +
         MaxHeadRows(limits) * static_cast<int64_t>(sizeof(HeadRow));
}

StepInputs::StepInputs(const GroupLimits& limits, bool with_block_tables)
    : with_block_tables_(with_block_tables),
      max_blocks_per_row_(MaxBlocksPerRow(limits)),
      token_ids_(limits.max_num_batched_tokens),
      positions_(limits.max_num_batched_tokens),
      token_row_(limits.max_num_batched_tokens),
      row_begin_(MaxRows(limits) + 1),
      row_position_(MaxRows(limits)),
      block_table_(with_block_tables ? MaxRows(limits) * MaxBlocksPerRow(limits) : 0) {
  CHECK_OK(CheckStepInputsLimits(limits));
  head_rows_.reserve(MaxHeadRows(limits));
}

void StepInputs::Build(const StepPlan& plan, const SlotTracker& slots,
                       absl::Span<const int32_t> last_tokens) {
  n_rows_ = 0;
  n_tokens_ = 0;
  for (const StepRow& row : plan.rows) {
    if (with_block_tables_) {
      const absl::Span<const int32_t> block_ids = slots.block_ids(row.slot);
      std::copy(block_ids.begin(), block_ids.end(),
                block_table_.begin() + n_rows_ * max_blocks_per_row_);
    }
    AppendRow(plan, row, last_tokens[row.slot]);
  }
  row_begin_[n_rows_] = static_cast<int32_t>(n_tokens_);
  AppendHeadRows(plan, slots);
}

void StepInputs::AppendRow(const StepPlan& plan, const StepRow& row, int32_t last_token) {
  row_begin_[n_rows_] = static_cast<int32_t>(n_tokens_);
  row_position_[n_rows_] = row.position;
  for (int32_t i = 0; i < row.n_tokens; ++i) {
    token_ids_[n_tokens_] = row.use_last_sampled ? last_token : plan.tokens[row.token_begin + i];
    positions_[n_tokens_] = row.position + i;
    token_row_[n_tokens_] = static_cast<int32_t>(n_rows_);
    ++n_tokens_;
  }
  ++n_rows_;
}

void StepInputs::AppendHeadRows(const StepPlan& plan, const SlotTracker& slots) {
  head_rows_.clear();
  for (size_t i = 0; i < plan.rows.size(); ++i) {
    const StepRow& row = plan.rows[i];
    if (!row.sample) continue;
    const int32_t position = row.position + row.n_tokens;
    head_rows_.push_back({.token_idx = row_begin_[i + 1] - 1,
                          .slot = row.slot,
                          .position = position,
                          .n_generated_tokens = position - slots.n_prompt_tokens(row.slot)});
  }
  n_draws_ = static_cast<int64_t>(head_rows_.size());
  for (size_t i = 0; i < plan.rows.size(); ++i) {
    const StepRow& row = plan.rows[i];
    if (!row.prompt_logprobs) continue;
    const int32_t n_prompt_tokens = slots.n_prompt_tokens(row.slot);
    for (int32_t j = 0; j < row.n_tokens && row.position + j + 1 < n_prompt_tokens; ++j) {
      // The token after the row's last one is not in the row: the plan names it, or -1.
      const int32_t target =
          j + 1 < row.n_tokens ? plan.tokens[row.token_begin + j + 1] : plan.next_tokens[i];
      if (target < 0) continue;
      head_rows_.push_back({.token_idx = row_begin_[i] + j,
                            .slot = row.slot,
                            .position = row.position + j + 1,
                            .target_token_id = target});
    }
  }
}

StepTokensView StepInputs::view() const {
  return {.n_rows = n_rows_,
          .n_tokens = n_tokens_,
          .row_begin = row_begin_.data(),
          .row_position = row_position_.data(),
          .positions = positions_.data(),
          .token_table_row = token_row_.data(),
          .block_table = with_block_tables_ ? block_table_.data() : nullptr,
          .max_blocks_per_row = max_blocks_per_row_};
}

absl::Span<const int32_t> StepInputs::token_ids() const {
  return absl::MakeConstSpan(token_ids_).subspan(0, n_tokens_);
}

}  // namespace bora
