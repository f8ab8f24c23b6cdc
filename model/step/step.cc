#include "model/step/step.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/check.h"
#include "base/int_math.h"
#include "base/status_macros.h"
#include "model/step/sampling_fields.h"

namespace bora {
namespace {

// Names one value of a plan for messages: "rows[3].slot". It is turned into text only if the value
// is wrong, since a plan with many values is checked in every step.
struct Field {
  absl::string_view list;  // member of StepPlan
  size_t index = 0;        // in the list
  absl::string_view name;  // member of the element; empty: the element itself
};

// "plan rows[3].slot".
std::string ToString(const Field& field) {
  return absl::StrCat("plan ", field.list, "[", field.index, "]", field.name.empty() ? "" : ".",
                      field.name);
}

// INVALID_ARGUMENT: "plan rows[3].slot: 9 is not in [0, 8)". `rule` follows the value.
template <typename Value>
absl::Status Bad(const Field& field, Value value, absl::string_view rule) {
  return absl::InvalidArgumentError(absl::StrCat(ToString(field), ": ", value, " ", rule));
}

// OK if begin <= value < end.
absl::Status CheckRange(const Field& field, int64_t value, int64_t begin, int64_t end) {
  if (value >= begin && value < end) return absl::OkStatus();
  return Bad(field, value, absl::StrCat("is not in [", begin, ", ", end, ")"));
}

// OK if 1 <= value <= max; `name` is a member of GroupLimits.
absl::Status CheckLimit(absl::string_view name, int64_t value, int64_t max) {
  if (value >= 1 && value <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("group limit ", name, ": ", value, " is not in [1, ", max, "]"));
}

// Checks the slot ids of one list: each in range and listed at most once.
class SlotSet {
 public:
  explicit SlotSet(const GroupLimits& limits) : seen_(limits.max_num_seqs) {}

  absl::Status Add(const Field& field, int32_t slot) {
    RETURN_IF_ERROR(CheckRange(field, slot, 0, static_cast<int64_t>(seen_.size())));
    if (seen_[slot]) return Bad(field, slot, "occurs twice");
    seen_[slot] = true;
    return absl::OkStatus();
  }

 private:
  std::vector<bool> seen_;
};

// Checks the sampling parameters of plan.opened[i].
absl::Status ValidateSampling(const SamplingParams& sampling, size_t i, const GroupLimits& limits) {
  const auto field = [i](absl::string_view name) { return Field{"opened", i, name}; };
  absl::Status status;
  ForEachSamplingField([&](const auto& parameter) {
    const auto value = sampling.*parameter.member;
    if (!status.ok() || parameter.Contains(value)) return;
    status = Bad(field(parameter.name), value, absl::StrCat("is not in ", parameter.RangeText()));
  });
  RETURN_IF_ERROR(status);
  RETURN_IF_ERROR(CheckRange(field("n_logprobs"), sampling.n_logprobs, -1, kMaxLogprobs + 1));
  RETURN_IF_ERROR(
      CheckRange(field("n_prompt_logprobs"), sampling.n_prompt_logprobs, -1, kMaxLogprobs + 1));
  RETURN_IF_ERROR(
      CheckRange(field("min_tokens"), sampling.min_tokens, 0, int64_t{limits.max_model_len} + 1));
  RETURN_IF_ERROR(CheckRange(field("stop_token_ids.size"),
                             static_cast<int64_t>(sampling.stop_token_ids.size()), 0,
                             kMaxStopTokenIds + 1));
  int32_t previous = -1;
  for (const int32_t id : sampling.stop_token_ids) {
    RETURN_IF_ERROR(CheckRange(field("stop_token_ids"), id, 0, limits.vocab_size));
    if (id <= previous) {
      return Bad(field("stop_token_ids"), id, absl::StrCat("follows ", previous));
    }
    previous = id;
  }
  return absl::OkStatus();
}

// Checks that known_tokens of plan.opened[i] are there exactly if penalties need them.
absl::Status ValidateKnownTokens(const SlotOpen& open, size_t i, const GroupLimits& limits) {
  const int64_t n_known =
      open.sampling.has_penalties() ? open.n_prompt_tokens + open.n_generated_tokens : 0;
  if (static_cast<int64_t>(open.known_tokens.size()) != n_known) {
    return Bad({"opened", i, "known_tokens.size"}, open.known_tokens.size(),
               absl::StrCat("is not ", n_known));
  }
  for (const int32_t id : open.known_tokens) {
    RETURN_IF_ERROR(CheckRange({"opened", i, "known_tokens"}, id, 0, limits.vocab_size));
  }
  return absl::OkStatus();
}

// Checks `closed` and `opened`. A slot may be in both: it is closed first and then opened again.
absl::Status ValidateSlotLists(const StepPlan& plan, const GroupLimits& limits) {
  SlotSet closed(limits);
  for (size_t i = 0; i < plan.closed.size(); ++i) {
    RETURN_IF_ERROR(closed.Add({"closed", i, ""}, plan.closed[i]));
  }
  SlotSet opened(limits);
  for (size_t i = 0; i < plan.opened.size(); ++i) {
    const SlotOpen& open = plan.opened[i];
    RETURN_IF_ERROR(opened.Add({"opened", i, "slot"}, open.slot));
    RETURN_IF_ERROR(CheckRange({"opened", i, "n_prompt_tokens"}, open.n_prompt_tokens, 1,
                               int64_t{limits.max_model_len} + 1));
    RETURN_IF_ERROR(CheckRange({"opened", i, "n_generated_tokens"}, open.n_generated_tokens, 0,
                               int64_t{limits.max_model_len} - open.n_prompt_tokens + 1));
    RETURN_IF_ERROR(CheckRange({"opened", i, "n_cached_tokens"}, open.n_cached_tokens, 0,
                               int64_t{limits.max_model_len}));
    if (open.n_cached_tokens % limits.block_size != 0) {
      return Bad({"opened", i, "n_cached_tokens"}, open.n_cached_tokens,
                 absl::StrCat("is not a multiple of block_size ", limits.block_size));
    }
    RETURN_IF_ERROR(ValidateSampling(open.sampling, i, limits));
    RETURN_IF_ERROR(ValidateKnownTokens(open, i, limits));
  }
  return absl::OkStatus();
}

// Checks that ids and indices of `grants` are in range; their order is for SlotTracker to check.
absl::Status ValidateGrants(const StepPlan& plan, const GroupLimits& limits) {
  const int64_t max_blocks_per_slot = CeilDiv(limits.max_model_len, limits.block_size);
  for (size_t i = 0; i < plan.grants.size(); ++i) {
    const BlockGrant& grant = plan.grants[i];
    RETURN_IF_ERROR(CheckRange({"grants", i, "slot"}, grant.slot, 0, limits.max_num_seqs));
    RETURN_IF_ERROR(
        CheckRange({"grants", i, "block_idx"}, grant.block_idx, 0, max_blocks_per_slot));
    RETURN_IF_ERROR(CheckRange({"grants", i, "block_id"}, grant.block_id, 0, limits.n_blocks));
  }
  return absl::OkStatus();
}

// Checks plan.rows[i] by itself, except its slot and token_begin.
absl::Status ValidateRow(const StepRow& row, size_t i, const GroupLimits& limits) {
  const auto field = [i](absl::string_view name) { return Field{"rows", i, name}; };
  RETURN_IF_ERROR(CheckRange(field("position"), row.position, 0, limits.max_model_len));
  // The bound of n_tokens keeps the sum position + n_tokens below 2^31.
  RETURN_IF_ERROR(CheckRange(field("n_tokens"), row.n_tokens, 1,
                             int64_t{limits.max_model_len} - row.position + 1));
  if (row.use_last_sampled && row.n_tokens != 1) {
    return Bad(field("n_tokens"), row.n_tokens, "must be 1 with use_last_sampled");
  }
  if (row.use_last_sampled && row.prompt_logprobs) {
    return Bad(field("prompt_logprobs"), 1, "cannot be with use_last_sampled");
  }
  if (row.sample && row.position + row.n_tokens >= limits.max_model_len) {
    return Bad(field("sample"), 1,
               absl::StrCat("would make a token at position ", row.position + row.n_tokens,
                            ", max_model_len is ", limits.max_model_len));
  }
  return absl::OkStatus();
}

// Checks all rows together with the list of their tokens.
absl::Status ValidateRows(const StepPlan& plan, const GroupLimits& limits) {
  SlotSet slots(limits);
  int64_t n_tokens = 0;         // of all rows
  int64_t n_listed_tokens = 0;  // of rows without use_last_sampled: indices in plan.tokens
  for (size_t i = 0; i < plan.rows.size(); ++i) {
    const StepRow& row = plan.rows[i];
    RETURN_IF_ERROR(slots.Add({"rows", i, "slot"}, row.slot));
    RETURN_IF_ERROR(ValidateRow(row, i, limits));
    n_tokens += row.n_tokens;
    if (row.use_last_sampled) continue;
    if (row.token_begin != n_listed_tokens) {
      return Bad({"rows", i, "token_begin"}, row.token_begin,
                 absl::StrCat("is not the sum of the tokens before, ", n_listed_tokens));
    }
    n_listed_tokens += row.n_tokens;
  }
  if (n_tokens > limits.max_num_batched_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("plan rows: ", n_tokens,
                                                   " tokens, max_num_batched_tokens is ",
                                                   limits.max_num_batched_tokens));
  }
  if (n_listed_tokens != static_cast<int64_t>(plan.tokens.size())) {
    return absl::InvalidArgumentError(absl::StrCat("plan tokens: ", plan.tokens.size(),
                                                   " are given, rows need ", n_listed_tokens));
  }
  for (size_t i = 0; i < plan.tokens.size(); ++i) {
    RETURN_IF_ERROR(CheckRange({"tokens", i, ""}, plan.tokens[i], 0, limits.vocab_size));
  }
  return absl::OkStatus();
}

// Checks that next_tokens has an entry for each row if any row has prompt_logprobs, else none.
absl::Status ValidateNextTokens(const StepPlan& plan, const GroupLimits& limits) {
  const bool wanted = std::any_of(plan.rows.begin(), plan.rows.end(),
                                  [](const StepRow& row) { return row.prompt_logprobs; });
  const size_t n_wanted = wanted ? plan.rows.size() : 0;
  if (plan.next_tokens.size() != n_wanted) {
    return absl::InvalidArgumentError(absl::StrCat("plan next_tokens: ", plan.next_tokens.size(),
                                                   " are given, rows need ", n_wanted));
  }
  for (size_t i = 0; i < plan.next_tokens.size(); ++i) {
    RETURN_IF_ERROR(CheckRange({"next_tokens", i, ""}, plan.next_tokens[i], -1, limits.vocab_size));
    if (plan.next_tokens[i] >= 0 && !plan.rows[i].prompt_logprobs) {
      return Bad({"next_tokens", i, ""}, plan.next_tokens[i],
                 "must be -1: the row has no prompt_logprobs");
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ValidateLimits(const GroupLimits& limits) {
  RETURN_IF_ERROR(CheckLimit("max_num_seqs", limits.max_num_seqs, kMaxNumSeqs));
  RETURN_IF_ERROR(
      CheckLimit("max_num_batched_tokens", limits.max_num_batched_tokens, kMaxNumBatchedTokens));
  RETURN_IF_ERROR(CheckLimit("max_model_len", limits.max_model_len, kMaxModelLen));
  RETURN_IF_ERROR(CheckLimit("block_size", limits.block_size, kMaxBlockSize));
  // At least 2: a bf16 cache stores values in pairs of positions.
  if (limits.block_size < 2 || (limits.block_size & (limits.block_size - 1)) != 0) {
    return absl::InvalidArgumentError(absl::StrCat("group limit block_size: ", limits.block_size,
                                                   " is not a power of two from 2 on"));
  }
  RETURN_IF_ERROR(CheckLimit("n_blocks", limits.n_blocks, INT32_MAX));
  return CheckLimit("vocab_size", limits.vocab_size, INT32_MAX);
}

absl::Status ValidatePlan(const StepPlan& plan, const GroupLimits& limits) {
  if (plan.epoch < 0 || plan.step_id < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("plan epoch ", plan.epoch, ", step_id ", plan.step_id, ": both must be >= 0"));
  }
  RETURN_IF_ERROR(ValidateSlotLists(plan, limits));
  RETURN_IF_ERROR(ValidateGrants(plan, limits));
  RETURN_IF_ERROR(ValidateRows(plan, limits));
  return ValidateNextTokens(plan, limits);
}

SlotTracker::SlotTracker(const GroupLimits& limits) : limits_(limits) {
  CHECK_OK(ValidateLimits(limits));
  slots_.resize(limits.max_num_seqs);
  blocks_.resize(limits.n_blocks);
}

absl::Status SlotTracker::Apply(const StepPlan& plan) {
  RETURN_IF_ERROR(ValidatePlan(plan, limits_));
  if (plan.step_id != next_step_id_) {
    return absl::InvalidArgumentError(
        absl::StrCat("plan step_id: ", plan.step_id, ", expected ", next_step_id_));
  }
  ++next_step_id_;
  // Closed slots go first, so that this plan can open them again and grant their blocks.
  for (const int32_t slot : plan.closed) RETURN_IF_ERROR(Close(slot));
  for (const SlotOpen& open : plan.opened) RETURN_IF_ERROR(Open(open));
  for (const BlockGrant& grant : plan.grants) RETURN_IF_ERROR(Grant(grant));
  for (const StepRow& row : plan.rows) RETURN_IF_ERROR(ApplyRow(row));
  return absl::OkStatus();
}

absl::Span<const int32_t> SlotTracker::block_ids(int32_t slot) const {
  CHECK(slots_.at(slot).open) << "slot " << slot;
  return slots_[slot].block_ids;
}

int32_t SlotTracker::n_prompt_tokens(int32_t slot) const {
  CHECK(slots_.at(slot).open) << "slot " << slot;
  return slots_[slot].n_prompt_tokens;
}

absl::Status SlotTracker::Close(int32_t slot_id) {
  Slot& slot = slots_[slot_id];
  if (!slot.open) {
    return absl::InvalidArgumentError(absl::StrCat("plan closes slot ", slot_id, ": not open"));
  }
  for (const int32_t block_id : slot.block_ids) --blocks_[block_id].n_slots;
  slot.block_ids.clear();
  slot.open = false;
  return absl::OkStatus();
}

absl::Status SlotTracker::Open(const SlotOpen& open) {
  Slot& slot = slots_[open.slot];
  if (slot.open) {
    return absl::InvalidArgumentError(absl::StrCat("plan opens slot ", open.slot, ": is open"));
  }
  slot.open = true;
  slot.n_tokens = open.n_cached_tokens;
  slot.n_cached_tokens = open.n_cached_tokens;
  slot.n_prompt_tokens = open.n_prompt_tokens;
  slot.wants_prompt_logprobs = open.sampling.n_prompt_logprobs >= 0;
  slot.has_sampled = false;
  return absl::OkStatus();
}

absl::Status SlotTracker::Grant(const BlockGrant& grant) {
  Slot& slot = slots_[grant.slot];
  if (!slot.open) {
    return absl::InvalidArgumentError(
        absl::StrCat("plan grants block ", grant.block_id, " to slot ", grant.slot, ": not open"));
  }
  if (grant.block_idx != static_cast<int64_t>(slot.block_ids.size())) {
    return absl::InvalidArgumentError(absl::StrCat("plan grants slot ", grant.slot, " block_idx ",
                                                   grant.block_idx, ", expected ",
                                                   slot.block_ids.size()));
  }
  Block& block = blocks_[grant.block_id];
  const auto bad = [&grant](const auto&... what) {
    return absl::InvalidArgumentError(
        absl::StrCat("plan grants block ", grant.block_id, " to slot ", grant.slot, ": ", what...));
  };
  // A block of cached tokens is read only, so slots may share it, if it is full. Any other block
  // will be written by this slot alone.
  if (grant.block_idx < slot.n_cached_tokens / limits_.block_size) {
    if (block.n_tokens < limits_.block_size) {
      return bad("it holds ", block.n_tokens, " of ", limits_.block_size, " cached tokens");
    }
  } else {
    if (block.n_slots > 0) return bad("another slot has it");
    block.n_tokens = 0;
  }
  ++block.n_slots;
  slot.block_ids.push_back(grant.block_id);
  return absl::OkStatus();
}

absl::Status SlotTracker::ApplyRow(const StepRow& row) {
  Slot& slot = slots_[row.slot];
  const auto bad = [&row](const auto&... what) {
    return absl::InvalidArgumentError(absl::StrCat("plan row of slot ", row.slot, ": ", what...));
  };
  if (!slot.open) return bad("the slot is not open");
  if (row.position != slot.n_tokens) {
    return bad("position ", row.position, ", the slot has ", slot.n_tokens, " tokens");
  }
  const int32_t end = row.position + row.n_tokens;
  const int64_t capacity = static_cast<int64_t>(slot.block_ids.size()) * limits_.block_size;
  if (end > capacity) {
    return bad("ends at ", end, ", its ", slot.block_ids.size(), " blocks hold ", capacity);
  }
  if (row.use_last_sampled && !slot.has_sampled) {
    return bad("use_last_sampled, but the row before sampled no token");
  }
  if (row.sample && end < slot.n_prompt_tokens) {
    return bad("samples position ", end, " inside the prompt of ", slot.n_prompt_tokens);
  }
  if (row.prompt_logprobs && !slot.wants_prompt_logprobs) {
    return bad("prompt_logprobs, but the slot was opened with n_prompt_logprobs -1");
  }
  // Records how full the written blocks are: only full ones may be shared.
  for (int32_t idx = row.position / limits_.block_size; idx * limits_.block_size < end; ++idx) {
    blocks_[slot.block_ids[idx]].n_tokens =
        std::min(limits_.block_size, end - idx * limits_.block_size);
  }
  slot.n_tokens = end;
  slot.has_sampled = row.sample;
  return absl::OkStatus();
}

}  // namespace bora
