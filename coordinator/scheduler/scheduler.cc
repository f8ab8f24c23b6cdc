#include "coordinator/scheduler/scheduler.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "base/check.h"
#include "base/int_math.h"
#include "base/status_macros.h"

namespace bora {
namespace {

// Charges the sequence's tenant for the tokens that were planned since the last charge. A generated
// token costs kOutputTokenCost times as much as a prompt token.
void ChargeTenant(Sequence* sequence) {
  const auto cost = [&](int32_t n_tokens) {
    const int32_t n_prompt = std::min(n_tokens, sequence->n_prompt);
    return n_prompt + kOutputTokenCost * (n_tokens - n_prompt);
  };
  // n_planned restarts after a preemption; tokens that were charged before are not charged again.
  const int32_t n_tokens = std::max(sequence->n_charged, sequence->n_planned);
  FairQueue::Charge(sequence->tenant, cost(n_tokens) - cost(sequence->n_charged));
  sequence->n_charged = n_tokens;
}

}  // namespace

Scheduler::Scheduler(const SchedulerOptions& options)
    : options_(options),
      running_(options.limits.max_num_seqs),
      queue_(options.tenant_weights),
      blocks_(options.limits.n_blocks, options.limits.block_size),
      cost_model_(options.limits.max_num_batched_tokens),
      displacement_(options.limits.max_num_seqs),
      row_chooser_({.n_stages = options.n_stages,
                    .n_plan_tokens_max = options.limits.max_num_batched_tokens,
                    .run_ahead = options.run_ahead,
                    .step_time_budget_us = options.step_time_budget_us}),
      wait_predictor_({.n_stages = options.n_stages,
                       .n_plan_tokens_max = options.limits.max_num_batched_tokens}) {
  CHECK_GT(options.n_stages, 0);
}

void Scheduler::Add(SequenceSpec spec) {
  CHECK(!spec.prompt_tokens.empty());
  CHECK_GT(spec.max_tokens, 0);
  const int64_t n_tokens = static_cast<int64_t>(spec.prompt_tokens.size()) + spec.max_tokens;
  CHECK_LE(n_tokens, options_.limits.max_model_len);
  // A sequence that needs more blocks than the group has would block the queue for ever.
  CHECK_LE(CeilDiv(n_tokens, options_.limits.block_size), options_.limits.n_blocks);
  const uint64_t handle = spec.handle;
  AdvanceTo(spec.arrival_us);
  auto sequence = std::make_unique<Sequence>();
  sequence->priority = spec.priority;
  sequence->age = AgeOf(spec.arrival_us, spec.priority, next_order_++);
  sequence->tenant = queue_.Open(spec.tenant, now_us_);
  sequence->spec = std::move(spec);
  sequence->n_prompt = sequence->n_known();
  JoinQueue(sequence.get());
  CHECK(sequences_.emplace(handle, std::move(sequence)).second) << "handle " << handle;
}

void Scheduler::Remove(uint64_t handle) {
  const auto it = sequences_.find(handle);
  if (it == sequences_.end()) return;
  Sequence* sequence = it->second.get();
  displacement_.EndPause(sequence, now_us_);
  if (sequence->slot < 0) {
    LeaveQueue(sequence);
  } else {
    // Plans execute in order on every rank, so a slot and blocks that are freed here may be given
    // away in the next plan even while a step that writes to them is in flight.
    to_close_.push_back(sequence->slot);
    GiveUpSlot(sequence);
  }
  const int32_t n_output = sequence->n_known() - sequence->n_prompt;
  if (n_output > 0 && !sequence->spec.is_calibration) wait_predictor_.LearnCompletion(n_output);
  queue_.Close(sequence->tenant, now_us_);
  sequences_.erase(it);
}

void Scheduler::SetHeld(uint64_t handle, bool held) {
  const auto it = sequences_.find(handle);
  if (it == sequences_.end()) return;
  Sequence* sequence = it->second.get();
  if (sequence->held == held) return;
  // A pause is time that a sequence gives to others. A held sequence waits for its own client
  // instead, so its pause ends.
  displacement_.EndPause(sequence, now_us_);
  if (sequence->slot < 0) LeaveQueue(sequence);
  sequence->held = held;
  if (sequence->slot < 0) JoinQueue(sequence);
}

bool Scheduler::IsRunning(uint64_t handle) const {
  const auto it = sequences_.find(handle);
  return it != sequences_.end() && it->second->slot >= 0;
}

void Scheduler::JoinQueue(Sequence* sequence) {
  const int64_t n_cached =
      static_cast<int64_t>(FindCachedPrefix(*sequence, blocks_).block_ids.size()) *
      options_.limits.block_size;
  sequence->n_waiting_tokens = static_cast<int32_t>(sequence->n_known() - n_cached);
  n_waiting_prompt_tokens_ += sequence->n_known();
  if (!sequence->held) queue_.Push(sequence);
}

void Scheduler::LeaveQueue(Sequence* sequence) {
  n_waiting_prompt_tokens_ -= sequence->n_known();
  queue_.Remove(sequence);
}

Sequence* Scheduler::NextInQueue() const {
  Sequence* const front = static_cast<Sequence*>(queue_.Front());
  Sequence* const overdue = displacement_.FirstOverdue(now_us_);
  return overdue != nullptr && overdue->priority <= front->priority ? overdue : front;
}

const Sequence* Scheduler::NextToAdmit() const {
  if (queue_.empty() || running_.n_free_slots() == 0) return nullptr;
  const Sequence* const next = NextInQueue();
  return admission_.IsRefused(*next, running_, blocks_) ? nullptr : next;
}

std::optional<StepPlan> Scheduler::PlanStep() {
  newly_admitted_.clear();
  if (n_in_flight() >= options_.n_stages + (options_.run_ahead ? 1 : 0)) return std::nullopt;
  StepPlanBuilder plan(options_.epoch, next_step_id_, std::exchange(to_close_, {}));
  MakeRoomForNext(&plan);

  const RowSources sources = {running_, blocks_, cost_model_};
  const int64_t n_preemptions_before = n_preemptions_;
  int32_t n_left = row_chooser_.BeginPlan(next_step_id_, n_waiting_prompt_tokens_, sources);
  std::vector<RowChoice> rows = row_chooser_.ChooseDecodeRows(/*any_distance=*/false, sources);
  row_chooser_.AddPromptChunks(n_left, NextToAdmit(), sources, &rows);
  n_left -= PlanRows(std::move(rows), &plan);
  // If rows needed blocks so badly that a sequence was preempted for them, no sequence is admitted:
  // it would take the blocks that the preemption has freed.
  if (n_preemptions_ == n_preemptions_before) AdmitAndPlan(n_left, &plan);
  if (!plan.has_rows()) {
    // Nothing else to do: plan decode rows although their last token is still to be sampled by a
    // step that has not left the pipeline. They wait there for the token, which is better than no
    // plan.
    PlanRows(row_chooser_.ChooseDecodeRows(/*any_distance=*/true, sources), &plan);
  }
  if (!plan.has_rows()) {
    to_close_ = plan.TakeClosedSlots();
    return std::nullopt;
  }

  PublishBlocks(plan);
  running_.SortDecoding(next_step_id_);
  admission_.LowerGrowth();
  ++next_step_id_;
  in_flight_.push_back(plan.TakeStepInFlight(cost_model_.Predict(plan.work())));
  return plan.TakePlan();
}

void Scheduler::MakeRoomForNext(StepPlanBuilder* plan) {
  if (queue_.empty()) return;
  const Sequence& next = *NextInQueue();
  bool needs_slot = running_.n_free_slots() == 0;
  // `next` needs no one's slot if a slot is free, and needs blocks of others only if it was refused
  // for lack of blocks.
  if (next.n_rows_in_flight > 0 || (!needs_slot && !admission_.Remembers(next))) return;
  const std::vector<Sequence*> givers = displacement_.GiversFor(next, running_, queue_, now_us_);
  if (givers.empty()) return;
  int64_t n_missing =
      int64_t{admission_.RecallBlocks(next, blocks_)} - admission_.FreeBlocks(running_, blocks_);
  const bool needs_blocks = n_missing > 0;
  size_t n_givers = 0;
  for (; n_givers < givers.size() && (needs_slot || n_missing > 0); ++n_givers) {
    const std::vector<int32_t>& block_ids = givers[n_givers]->block_ids;
    needs_slot = false;
    // Only blocks that no other sequence shares become free.
    n_missing -= std::count_if(block_ids.begin(), block_ids.end(),
                               [this](int32_t id) { return blocks_.n_holders(id) == 1; });
  }
  if (needs_slot || n_missing > 0) return;  // not even all givers together free enough
  for (size_t i = 0; i < n_givers; ++i) {
    if (!givers[i]->held && givers[i]->priority == next.priority) {
      displacement_.BeginPause(givers[i], now_us_);
    }
    Preempt(givers[i], plan);
  }
  if (needs_blocks) admission_.RaiseGrowth();
}

int32_t Scheduler::PlanRows(std::vector<RowChoice> rows, StepPlanBuilder* plan) {
  GrantBlocksTo(&rows, plan);
  int32_t n_tokens = 0;
  for (const RowChoice& row : rows) {
    if (row.n_tokens == 0) continue;
    PlanRow(row.sequence, row.n_tokens, plan);
    n_tokens += row.n_tokens;
  }
  return n_tokens;
}

void Scheduler::GrantBlocksTo(std::vector<RowChoice>* rows, StepPlanBuilder* plan) {
  const int32_t block_size = options_.limits.block_size;
  std::vector<RowChoice*> by_age;  // rows that need blocks
  by_age.reserve(rows->size());
  for (RowChoice& row : *rows) {
    if (row.sequence->BlocksNeeded(row.n_tokens, block_size) > 0) by_age.push_back(&row);
  }
  std::sort(by_age.begin(), by_age.end(), [](const RowChoice* a, const RowChoice* b) {
    return a->sequence->age < b->sequence->age;
  });
  for (RowChoice* row : by_age) {
    Sequence* sequence = row->sequence;
    if (sequence->slot < 0) continue;  // preempted for an older sequence of this list
    int32_t n_blocks = sequence->BlocksNeeded(row->n_tokens, block_size);
    while (n_blocks > blocks_.n_available()) {
      Sequence* const victim = running_.VictimFor(*sequence);
      if (victim == nullptr) break;
      Preempt(victim, plan);
      admission_.RaiseGrowth();
    }
    // No running sequence gives way to this one: its row gets the blocks that are left.
    if (n_blocks > blocks_.n_available()) {
      n_blocks = blocks_.n_available();
      const int64_t n_fit =
          (int64_t{sequence->n_blocks()} + n_blocks) * block_size - sequence->n_planned;
      row->n_tokens = static_cast<int32_t>(std::min<int64_t>(row->n_tokens, n_fit));
    }
    GrantBlocks(sequence, n_blocks, plan);
  }
  // Rows of sequences that were preempted above are dropped.
  for (RowChoice& row : *rows) {
    if (row.sequence->slot < 0) row.n_tokens = 0;
  }
}

void Scheduler::AdmitAndPlan(int32_t n_tokens_max, StepPlanBuilder* plan) {
  const auto fit = [&](int32_t position, int32_t n_tokens, bool is_first) {
    return row_chooser_.FitTokens(plan->work(), {position, n_tokens, is_first}, cost_model_);
  };
  while (n_tokens_max > 0 && !queue_.empty()) {
    Sequence* sequence = NextInQueue();
    const bool is_first = !plan->has_prompt_chunk();
    if (fit(0, 1, is_first) == 0) return;
    if (!Admit(sequence, plan)) return;
    const int32_t n_wanted = std::min(n_tokens_max, sequence->n_prefill_left());
    const int32_t n_tokens = std::max(1, fit(sequence->n_planned, n_wanted, is_first));
    GrantBlocks(sequence, sequence->BlocksNeeded(n_tokens, options_.limits.block_size), plan);
    PlanRow(sequence, n_tokens, plan);
    n_tokens_max -= n_tokens;
  }
}

bool Scheduler::Admit(Sequence* sequence, StepPlanBuilder* plan) {
  // While rows of a preempted sequence are in flight, they may sample a token that must be among
  // the tokens that the sequence passes through the model again, so it is not admitted yet.
  if (running_.n_free_slots() == 0 || sequence->n_rows_in_flight > 0) return false;
  if (!plan->HasRoomToOpen(*sequence)) return false;
  std::optional<AdmissionControl::Needs> needs = admission_.Fit(*sequence, running_, blocks_);
  if (!needs.has_value()) return false;
  LeaveQueue(sequence);
  displacement_.EndPause(sequence, now_us_);
  if (sequence->own_tokens.empty()) {
    const SharedTokens prompt = std::exchange(sequence->spec.prompt_tokens, SharedTokens());
    sequence->own_tokens.assign(prompt.begin(), prompt.end());
  }
  sequence->slot_since_us = now_us_;
  running_.Add(sequence);
  // The sequence begins behind the cached prefix, whose blocks are published already.
  sequence->block_ids = std::move(needs->cached.block_ids);
  for (const int32_t block_id : sequence->block_ids) blocks_.Hold(block_id);
  sequence->n_published = sequence->n_blocks();
  sequence->content = needs->cached.content;
  sequence->n_planned = sequence->n_blocks() * options_.limits.block_size;
  sequence->prefill_end = sequence->n_known();
  sequence->n_charged = std::max(sequence->n_charged, sequence->n_planned);
  plan->OpenSlot(*sequence);
  newly_admitted_.push_back(
      {sequence->spec.handle, sequence->n_planned, std::exchange(sequence->was_admitted, true)});
  return true;
}

void Scheduler::PlanRow(Sequence* sequence, int32_t n_tokens, StepPlanBuilder* plan) {
  const bool was_in_prefill = sequence->InPrefill();
  const bool samples = plan->AddRow(*sequence, n_tokens);
  sequence->n_planned += n_tokens;
  if (was_in_prefill && samples) running_.BeginDecoding(sequence);
  ++sequence->n_rows_in_flight;
  if (samples) ++sequence->n_samples_in_flight;
  sequence->last_step = next_step_id_;
  ChargeTenant(sequence);
}

void Scheduler::GrantBlocks(Sequence* sequence, int32_t n_blocks, StepPlanBuilder* plan) {
  for (int32_t i = 0; i < n_blocks; ++i) {
    const int32_t block_id = blocks_.Allocate();
    plan->GrantBlock(*sequence, block_id);
    sequence->block_ids.push_back(block_id);
  }
}

void Scheduler::Preempt(Sequence* sequence, StepPlanBuilder* plan) {
  plan->CloseSlot(sequence->slot);
  GiveUpSlot(sequence);
  JoinQueue(sequence);
  ++n_preemptions_;
}

void Scheduler::GiveUpSlot(Sequence* sequence) {
  blocks_.Release(sequence->block_ids);
  sequence->block_ids.clear();
  running_.Remove(sequence);
}

void Scheduler::PublishBlocks(const StepPlanBuilder& plan) {
  const int32_t block_size = options_.limits.block_size;
  for (const RowInFlight& row : plan.rows()) {
    Sequence* const sequence = sequences_.at(row.handle).get();
    if (!sequence->spec.prefix_cache) continue;
    // Workers execute plans in order, so later plans may already share the blocks that this plan
    // fills.
    const int32_t n_full = std::min(sequence->n_planned, sequence->n_known()) / block_size;
    for (; sequence->n_published < n_full; ++sequence->n_published) {
      const int32_t i = sequence->n_published;
      sequence->content =
          blocks_.Publish(sequence->block_ids[i], sequence->spec.cache_salt, sequence->content,
                          sequence->tokens().subspan(int64_t{i} * block_size, block_size));
    }
  }
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
  RETURN_IF_ERROR(CheckStepResult(step, result, options_.limits.vocab_size));
  // The model learns the time of the slowest stage, which sets the pace of the pipeline.
  if (!result.stage_us.empty()) {
    const int64_t us = *std::max_element(result.stage_us.begin(), result.stage_us.end());
    cost_model_.Observe(step.work, static_cast<double>(us));
  }
  std::vector<SequenceProgress> progress;
  progress.reserve(step.rows.size());
  auto next_sampled = result.sampled.begin();
  absl::Span<SampledToken> prompt_logprobs = absl::MakeSpan(result.prompt_logprobs);
  for (const RowInFlight& row : step.rows) {
    SampledToken* const sampled = row.sample ? &*next_sampled++ : nullptr;
    const absl::Span<SampledToken> of_row = prompt_logprobs.subspan(0, row.n_prompt_logprobs);
    prompt_logprobs.remove_prefix(of_row.size());
    const auto it = sequences_.find(row.handle);
    if (it == sequences_.end()) continue;  // removed while the step was in flight
    Sequence* const sequence = it->second.get();
    TakeRow(of_row, sampled, sequence, &progress.emplace_back());
    // The token is a known token of a sequence that was preempted meanwhile and waits.
    if (sampled != nullptr && sequence->slot < 0) ++n_waiting_prompt_tokens_;
    if (sampled == nullptr && progress.back().prompt_logprobs.empty()) progress.pop_back();
  }
  return progress;
}

void Scheduler::TakeRow(absl::Span<SampledToken> prompt_logprobs, SampledToken* sampled,
                        Sequence* sequence, SequenceProgress* progress) {
  progress->handle = sequence->spec.handle;
  --sequence->n_rows_in_flight;
  for (SampledToken& token : prompt_logprobs) {
    // Skips log-probabilities that were reported before a preemption: after it the sequence passes
    // the same tokens again.
    if (token.position <= sequence->n_prompt_logprobs) continue;
    sequence->n_prompt_logprobs = token.position;
    progress->prompt_logprobs.push_back(std::move(token));
  }
  if (sampled != nullptr) {
    --sequence->n_samples_in_flight;
    sequence->own_tokens.push_back(sampled->token_id);
    progress->sampled = std::move(*sampled);
  }
}

double Scheduler::PromptTokenUs() const { return wait_predictor_.PromptTokenUs(wait_sources()); }

double Scheduler::PredictFirstTokenUs(const SequenceSpec& spec, double enough_us) const {
  return wait_predictor_.FirstTokenUs(spec, enough_us, wait_sources());
}

double Scheduler::PredictPromptUs(uint64_t handle, double prompt_token_us, double enough_us) const {
  const auto it = sequences_.find(handle);
  if (it == sequences_.end() || it->second->slot >= 0) return 0;
  const Sequence& sequence = *it->second;
  return WaitPredictor::PromptUs({sequence.spec, sequence.tokens(), prompt_token_us}, enough_us,
                                 blocks_);
}

double Scheduler::PredictVacancyUs() const {
  return wait_predictor_.SlotUs({n_waiting(), n_waiting_prompt_tokens_}, wait_sources());
}

double Scheduler::oldest_plan_us() const {
  return in_flight_.empty() ? 0 : in_flight_.front().predicted_us;
}

}  // namespace bora
