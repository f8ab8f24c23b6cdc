#include "coordinator/scheduler.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/int_math.h"
#include "base/status_macros.h"

namespace bora {

Scheduler::Scheduler(const SchedulerOptions& options)
    : options_(options), blocks_(options.limits.n_blocks) {
  CHECK_GT(options.n_lanes, 0);
  CHECK_GT(options.limits.max_num_seqs, 0);
  CHECK_GT(options.limits.max_num_batched_tokens, 0);
  for (int32_t slot = options.limits.max_num_seqs - 1; slot >= 0; --slot) {
    free_slots_.push_back(slot);
  }
}

void Scheduler::Add(SequenceSpec spec) {
  CHECK(!spec.prompt_tokens.empty());
  CHECK_GT(spec.max_tokens, 0);
  const int64_t n_tokens = static_cast<int64_t>(spec.prompt_tokens.size()) + spec.max_tokens;
  CHECK_LE(n_tokens, options_.limits.max_model_len);
  // Otherwise it would wait for ever and everybody behind it too.
  CHECK_LE(CeilDiv(n_tokens, options_.limits.block_size), options_.limits.n_blocks);
  const uint64_t handle = spec.handle;
  auto sequence = std::make_unique<Sequence>();
  sequence->n_known = static_cast<int32_t>(spec.prompt_tokens.size());
  n_waiting_prompt_tokens_ += sequence->n_known;
  ++n_waiting_;
  sequence->spec = std::move(spec);
  CHECK(sequences_.emplace(handle, std::move(sequence)).second) << "handle " << handle;
  waiting_.push_back(handle);
}

void Scheduler::Remove(uint64_t handle) {
  const auto it = sequences_.find(handle);
  if (it == sequences_.end()) return;
  Sequence* sequence = it->second.get();
  if (sequence->slot < 0) {
    --n_waiting_;
    n_waiting_prompt_tokens_ -= sequence->n_prompt();
  } else {
    // Plans execute in order on every rank, so what is freed here may be given away in the next
    // plan even while a step that writes to it is in flight.
    blocks_.Release(sequence->block_ids, sequence->n_reserved);
    to_close_.push_back(sequence->slot);
    free_slots_.push_back(sequence->slot);
    const auto position = std::find(running_.begin(), running_.end(), sequence);
    const size_t index = position - running_.begin();
    running_.erase(position);
    if (next_decode_ > index) --next_decode_;
  }
  sequences_.erase(it);
  // While the first in the queue waits for blocks nobody passes it, so those who come and go behind
  // it must not add up. Half of the entries are dropped at a time: constant time for each removal.
  if (waiting_.size() > 2 * static_cast<size_t>(n_waiting_) + 16) {
    waiting_.erase(std::remove_if(waiting_.begin(), waiting_.end(),
                                  [this](uint64_t waiting) { return !Contains(waiting); }),
                   waiting_.end());
  }
}

void Scheduler::SetHeld(uint64_t handle, bool held) {
  const auto it = sequences_.find(handle);
  if (it != sequences_.end()) it->second->held = held;
}

bool Scheduler::IsRunning(uint64_t handle) const {
  const auto it = sequences_.find(handle);
  return it != sequences_.end() && it->second->slot >= 0;
}

absl::optional<StepPlan> Scheduler::PlanStep() {
  newly_admitted_.clear();
  if (n_in_flight() >= options_.n_lanes) return absl::nullopt;
  StepPlan plan;
  StepInFlight step;
  plan.epoch = options_.epoch;
  // Slots are closed first in a plan, so they are free for this plan's own admissions.
  plan.closed = std::move(to_close_);
  to_close_.clear();
  PlanDecodeRows(&plan, &step);
  PlanPromptRows(&plan, &step);
  AdmitAndPlan(&plan, &step);
  if (plan.rows.empty()) {
    to_close_ = std::move(plan.closed);
    return absl::nullopt;
  }
  const bool wants_next = std::any_of(plan.rows.begin(), plan.rows.end(),
                                      [](const StepRow& row) { return row.prompt_logprobs; });
  if (wants_next) {
    plan.next_tokens.reserve(plan.rows.size());
    for (size_t i = 0; i < plan.rows.size(); ++i) {
      const StepRow& row = plan.rows[i];
      const auto& prompt = sequences_.at(step.rows[i].handle)->spec.prompt_tokens;
      const size_t next = static_cast<size_t>(row.position) + row.n_tokens;
      plan.next_tokens.push_back(row.prompt_logprobs && next < prompt.size() ? prompt[next] : -1);
    }
  }
  plan.step_id = next_step_id_++;
  step.step_id = plan.step_id;
  in_flight_.push_back(std::move(step));
  return plan;
}

void Scheduler::PlanDecodeRows(StepPlan* plan, StepInFlight* step) {
  // Each lane takes its share of all sequences that decode, in flight or not, so that no lane takes
  // everything.
  int64_t n_decoding = 0;
  for (const Sequence* sequence : running_) {
    if (!sequence->InPrompt() && !sequence->held) ++n_decoding;
  }
  const int64_t n_rows_max = std::min<int64_t>(CeilDiv(n_decoding, options_.n_lanes),
                                               options_.limits.max_num_batched_tokens);
  const size_t n = running_.size();
  for (size_t i = 0; i < n && static_cast<int64_t>(plan->rows.size()) < n_rows_max; ++i) {
    Sequence* sequence = running_[(next_decode_ + i) % n];
    if (!sequence->ReadyToDecode()) continue;
    StepRow row;
    row.slot = sequence->slot;
    row.position = sequence->n_planned;
    row.n_tokens = 1;
    row.token_begin = static_cast<int32_t>(plan->tokens.size());
    row.use_last_sampled = true;
    row.sample = true;
    GrantBlocks(sequence, 1, plan);
    ++sequence->n_planned;
    plan->rows.push_back(row);
    step->rows.push_back({sequence->spec.handle, row.slot, row.position, row.n_tokens, true, 0});
    if (static_cast<int64_t>(plan->rows.size()) == n_rows_max)
      next_decode_ = (next_decode_ + i + 1) % n;
  }
}

void Scheduler::PlanPromptRows(StepPlan* plan, StepInFlight* step) {
  int32_t budget = options_.limits.max_num_batched_tokens - static_cast<int32_t>(plan->rows.size());
  for (Sequence* sequence : running_) {
    if (budget == 0) return;
    if (sequence->InPrompt() && !sequence->held) budget -= PlanChunk(sequence, budget, plan, step);
  }
}

void Scheduler::AdmitAndPlan(StepPlan* plan, StepInFlight* step) {
  int32_t budget = options_.limits.max_num_batched_tokens;
  for (const StepRow& row : plan->rows) budget -= row.n_tokens;
  while (budget > 0 && !waiting_.empty()) {
    const auto it = sequences_.find(waiting_.front());
    if (it != sequences_.end()) {
      Sequence* sequence = it->second.get();
      if (!Admit(sequence, plan)) return;
      budget -= PlanChunk(sequence, budget, plan, step);
    }
    waiting_.pop_front();
  }
}

bool Scheduler::Admit(Sequence* sequence, StepPlan* plan) {
  if (free_slots_.empty()) return false;
  const int32_t n_blocks = static_cast<int32_t>(CeilDiv(
      int64_t{sequence->n_prompt()} + sequence->spec.max_tokens, options_.limits.block_size));
  if (!blocks_.Reserve(n_blocks)) return false;
  sequence->n_reserved = n_blocks;
  sequence->slot = free_slots_.back();
  free_slots_.pop_back();
  running_.push_back(sequence);
  --n_waiting_;
  n_waiting_prompt_tokens_ -= sequence->n_prompt();
  newly_admitted_.push_back(sequence->spec.handle);
  SlotOpen open;
  open.slot = sequence->slot;
  open.n_prompt_tokens = sequence->n_prompt();
  open.sampling = sequence->spec.sampling;
  plan->opened.push_back(std::move(open));
  return true;
}

int32_t Scheduler::PlanChunk(Sequence* sequence, int32_t budget, StepPlan* plan,
                             StepInFlight* step) {
  const auto& prompt = sequence->spec.prompt_tokens;
  StepRow row;
  row.slot = sequence->slot;
  row.position = sequence->n_planned;
  row.n_tokens = std::min(budget, sequence->n_prompt() - sequence->n_planned);
  row.token_begin = static_cast<int32_t>(plan->tokens.size());
  row.sample = row.position + row.n_tokens == sequence->n_prompt();
  row.prompt_logprobs = sequence->spec.sampling.n_prompt_logprobs >= 0;
  plan->tokens.insert(plan->tokens.end(), prompt.begin() + row.position,
                      prompt.begin() + row.position + row.n_tokens);
  GrantBlocks(sequence, row.n_tokens, plan);
  sequence->n_planned += row.n_tokens;
  // The last token of the prompt predicts the first generated one, not a prompt token.
  const int32_t n_prompt_logprobs = row.prompt_logprobs ? row.n_tokens - (row.sample ? 1 : 0) : 0;
  plan->rows.push_back(row);
  step->rows.push_back(
      {sequence->spec.handle, row.slot, row.position, row.n_tokens, row.sample, n_prompt_logprobs});
  return row.n_tokens;
}

void Scheduler::GrantBlocks(Sequence* sequence, int32_t n_tokens, StepPlan* plan) {
  const int32_t n_needed = static_cast<int32_t>(
      CeilDiv(int64_t{sequence->n_planned} + n_tokens, options_.limits.block_size));
  while (static_cast<int32_t>(sequence->block_ids.size()) < n_needed) {
    const int32_t block_id = blocks_.Allocate();
    --sequence->n_reserved;
    plan->grants.push_back(
        {sequence->slot, static_cast<int32_t>(sequence->block_ids.size()), block_id});
    sequence->block_ids.push_back(block_id);
  }
}

absl::Status Scheduler::CheckResult(const StepInFlight& step, const StepResult& result) {
  size_t n_samples = 0;
  size_t n_prompt_logprobs = 0;
  for (const RowInFlight& row : step.rows) {
    n_samples += row.sample ? 1 : 0;
    n_prompt_logprobs += row.n_prompt_logprobs;
  }
  if (result.sampled.size() != n_samples || result.prompt_logprobs.size() != n_prompt_logprobs) {
    return absl::InternalError(absl::StrCat(
        "result of step ", result.step_id, " has ", result.sampled.size(), " sampled tokens and ",
        result.prompt_logprobs.size(), " prompt log-probabilities, the plan asked for ", n_samples,
        " and ", n_prompt_logprobs));
  }
  const auto check = [&](const SampledToken& token, const RowInFlight& row, int32_t position) {
    if (token.slot == row.slot && token.position == position) return absl::OkStatus();
    return absl::InternalError(absl::StrCat(
        "result of step ", result.step_id, " has a token of slot ", token.slot, " at position ",
        token.position, " where the plan asked for slot ", row.slot, ", position ", position));
  };
  auto sampled = result.sampled.begin();
  auto prompt_logprob = result.prompt_logprobs.begin();
  for (const RowInFlight& row : step.rows) {
    for (int32_t i = 1; i <= row.n_prompt_logprobs; ++i) {
      RETURN_IF_ERROR(check(*prompt_logprob++, row, row.position + i));
    }
    if (row.sample) RETURN_IF_ERROR(check(*sampled++, row, row.position + row.n_tokens));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<SequenceProgress>> Scheduler::CompleteStep(StepResult result) {
  if (in_flight_.empty() || in_flight_.front().step_id != result.step_id ||
      result.epoch != options_.epoch) {
    return absl::InternalError(absl::StrCat(
        "result of step ", result.step_id, " of epoch ", result.epoch, ", expected step ",
        in_flight_.empty() ? int64_t{-1} : in_flight_.front().step_id, " of epoch ",
        options_.epoch));
  }
  const StepInFlight step = std::move(in_flight_.front());
  in_flight_.pop_front();
  RETURN_IF_ERROR(CheckResult(step, result));
  std::vector<SequenceProgress> progress;
  progress.reserve(step.rows.size());
  auto sampled = result.sampled.begin();
  auto prompt_logprob = result.prompt_logprobs.begin();
  for (const RowInFlight& row : step.rows) {
    const auto prompt_logprob_end = prompt_logprob + row.n_prompt_logprobs;
    const auto it = sequences_.find(row.handle);
    if (it != sequences_.end() && (row.sample || row.n_prompt_logprobs > 0)) {
      SequenceProgress& item = progress.emplace_back();
      item.handle = row.handle;
      item.prompt_logprobs.assign(std::make_move_iterator(prompt_logprob),
                                  std::make_move_iterator(prompt_logprob_end));
      if (row.sample) {
        ++it->second->n_known;
        item.sampled = std::move(*sampled);
      }
    }
    if (row.sample) ++sampled;
    prompt_logprob = prompt_logprob_end;
  }
  return progress;
}

}  // namespace bora
