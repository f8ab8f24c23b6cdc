#include "coordinator/scheduler/scheduler.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/int_math.h"
#include "base/status_macros.h"
#include "coordinator/scheduler/sampled_token_check.h"

namespace bora {
namespace {

// A sequence that waits for blocks learns so much later that others have computed its prefix.
constexpr int32_t kPlansBetweenLooks = 16;

// What a completion adds to the mean length of completions.
constexpr double kMeanShare = 1.0 / 16;

// What a preemption adds to the expected growth, and what is left of it after each plan: half
// after 138.
constexpr double kGrowthOfPreemption = 0.125;
constexpr double kGrowthKept = 0.995;

}  // namespace

Scheduler::Scheduler(const SchedulerOptions& options)
    : options_(options),
      blocks_(options.limits.n_blocks, options.limits.block_size),
      cost_model_(options.limits.max_num_batched_tokens),
      queue_(options.tenant_weights) {
  CHECK_GT(options.n_stages, 0);
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
  EndPause(sequence);
  if (sequence->slot < 0) {
    LeaveQueue(sequence);
  } else {
    // Plans execute in order on every rank, so what is freed here may be given away in the next
    // plan even while a step that writes to it is in flight.
    to_close_.push_back(sequence->slot);
    GiveUpSlot(sequence);
  }
  const int32_t n_output = sequence->n_known() - sequence->n_prompt;
  if (n_output > 0 && !sequence->spec.is_calibration) {
    mean_output_tokens_ = mean_output_tokens_ == 0
                              ? n_output
                              : mean_output_tokens_ + kMeanShare * (n_output - mean_output_tokens_);
  }
  queue_.Close(sequence->tenant, now_us_);
  sequences_.erase(it);
}

void Scheduler::SetHeld(uint64_t handle, bool held) {
  const auto it = sequences_.find(handle);
  if (it == sequences_.end()) return;
  Sequence* sequence = it->second.get();
  if (sequence->held == held) return;
  EndPause(sequence);  // from now on it waits for its reader
  if (sequence->slot < 0) LeaveQueue(sequence);
  sequence->held = held;
  if (sequence->slot < 0) JoinQueue(sequence);
}

void Scheduler::JoinQueue(Sequence* sequence) {
  const int64_t n_cached = static_cast<int64_t>(FindNeeds(*sequence).match.block_ids.size()) *
                           options_.limits.block_size;
  sequence->n_waiting_tokens = static_cast<int32_t>(sequence->n_known() - n_cached);
  n_waiting_prompt_tokens_ += sequence->n_known();
  if (!sequence->held) queue_.Push(sequence);
}

void Scheduler::LeaveQueue(Sequence* sequence) {
  n_waiting_prompt_tokens_ -= sequence->n_known();
  queue_.Remove(sequence);
}

void Scheduler::GiveUpSlot(Sequence* sequence) {
  blocks_.Release(sequence->block_ids);
  sequence->block_ids.clear();
  free_slots_.push_back(sequence->slot);
  sequence->slot = -1;
  running_.erase(std::find(running_.begin(), running_.end(), sequence));
  --sequence->tenant->n_running;
  if (!sequence->InPrefill()) {
    decoding_.erase(std::find(decoding_.begin(), decoding_.end(), sequence));
  }
}

double Scheduler::oldest_plan_us() const {
  return in_flight_.empty() ? 0 : in_flight_.front().predicted_us;
}

bool Scheduler::IsRunning(uint64_t handle) const {
  const auto it = sequences_.find(handle);
  return it != sequences_.end() && it->second->slot >= 0;
}

absl::optional<StepPlan> Scheduler::PlanStep() {
  newly_admitted_.clear();
  if (n_in_flight() >= options_.n_stages + (options_.run_ahead ? 1 : 0)) return absl::nullopt;
  StepPlan plan;
  StepInFlight step;
  plan.epoch = options_.epoch;
  // Slots are closed first in a plan, so they are free for this plan's own admissions.
  plan.closed = std::move(to_close_);
  to_close_.clear();
  MakeRoomForNext(&plan);
  const int64_t n_preempted_before = n_preemptions_;
  n_decoding_ =
      static_cast<int32_t>(std::count_if(decoding_.begin(), decoding_.end(),
                                         [](const Sequence* sequence) { return !sequence->held; }));
  int32_t budget = PlanTokensMax();
  std::vector<Candidate> rows;
  ChooseDecodeRows(/*any_distance=*/false, &rows);
  ChooseChunks(budget, &rows);
  budget -= ProvideAndPlan(&rows, &plan, &step);
  // Blocks that were taken from somebody are not for newcomers.
  if (n_preemptions_ == n_preempted_before) AdmitAndPlan(budget, &plan, &step);
  if (plan.rows.empty()) {
    // Rather than nothing, rows that wait inside the pipeline for the tokens they go on from.
    rows.clear();
    ChooseDecodeRows(/*any_distance=*/true, &rows);
    ProvideAndPlan(&rows, &plan, &step);
  }
  if (plan.rows.empty()) {
    to_close_ = std::move(plan.closed);
    return absl::nullopt;
  }
  AddNextTokens(step, &plan);
  // Later plans are executed after this one, so from now on they may share what it fills.
  for (const RowInFlight& row : step.rows) Publish(sequences_.at(row.handle).get());
  // The longest ago planned stay in front.
  std::stable_partition(decoding_.begin(), decoding_.end(), [this](const Sequence* sequence) {
    return sequence->last_step < next_step_id_;
  });
  growth_ratio_ *= kGrowthKept;
  plan.step_id = next_step_id_++;
  step.step_id = plan.step_id;
  step.predicted_us = cost_model_.Predict(step.work);
  in_flight_.push_back(std::move(step));
  return plan;
}

void Scheduler::Provide(std::vector<Candidate>* rows, StepPlan* plan) {
  std::vector<Candidate*> by_age;
  by_age.reserve(rows->size());
  for (Candidate& row : *rows) {
    if (BlocksNeeded(*row.sequence, row.n_tokens) > 0) by_age.push_back(&row);
  }
  std::sort(by_age.begin(), by_age.end(), [](const Candidate* a, const Candidate* b) {
    return a->sequence->age < b->sequence->age;
  });
  for (Candidate* row : by_age) {
    Sequence* sequence = row->sequence;
    if (sequence->slot < 0) continue;  // preempted for an older one
    int32_t n_blocks = BlocksNeeded(*sequence, row->n_tokens);
    while (n_blocks > blocks_.n_available()) {
      Sequence* const victim = VictimFor(*sequence);
      if (victim == nullptr) break;
      Preempt(victim, plan);
      ExpectGrowth();
    }
    if (n_blocks > blocks_.n_available()) {
      n_blocks = blocks_.n_available();
      const int64_t n_fit = (static_cast<int64_t>(sequence->block_ids.size()) + n_blocks) *
                                options_.limits.block_size -
                            sequence->n_planned;
      row->n_tokens = static_cast<int32_t>(std::min<int64_t>(row->n_tokens, n_fit));
    }
    GrantBlocks(sequence, n_blocks, plan);
  }
  for (Candidate& row : *rows) {
    if (row.sequence->slot < 0) row.n_tokens = 0;
  }
}

int32_t Scheduler::ProvideAndPlan(std::vector<Candidate>* rows, StepPlan* plan,
                                  StepInFlight* step) {
  Provide(rows, plan);
  int32_t n_tokens = 0;
  for (const Candidate& row : *rows) {
    if (row.n_tokens == 0) continue;
    PlanRow(row.sequence, row.n_tokens, plan, step);
    n_tokens += row.n_tokens;
  }
  return n_tokens;
}

Scheduler::Sequence* Scheduler::VictimFor(const Sequence& sequence) const {
  const auto held = std::find_if(running_.rbegin(), running_.rend(), [&](const Sequence* other) {
    return other->held && other != &sequence;
  });
  if (held != running_.rend()) return *held;
  return running_.back() == &sequence ? nullptr : running_.back();
}

bool Scheduler::CanGrow(const Sequence& sequence) const {
  return BlocksNeeded(sequence, 1) == 0 || blocks_.n_available() > 0 ||
         VictimFor(sequence) != nullptr;
}

void Scheduler::Preempt(Sequence* sequence, StepPlan* plan) {
  plan->closed.push_back(sequence->slot);
  GiveUpSlot(sequence);
  JoinQueue(sequence);
  ++n_preemptions_;
}

void Scheduler::ExpectGrowth() {
  growth_ratio_ = std::min(1.0, growth_ratio_ + kGrowthOfPreemption);
}

int32_t Scheduler::BlocksNeeded(const Sequence& sequence, int32_t n_tokens) const {
  const int64_t n_blocks =
      CeilDiv(int64_t{sequence.n_planned} + n_tokens, options_.limits.block_size);
  return static_cast<int32_t>(
      std::max<int64_t>(0, n_blocks - static_cast<int64_t>(sequence.block_ids.size())));
}

int32_t Scheduler::BlocksDue() const {
  int32_t n_blocks = 0;
  for (const Sequence* sequence : running_) {
    const int32_t n_prefill =
        BlocksNeeded(*sequence, std::max(0, sequence->prefill_end - sequence->n_planned));
    n_blocks += n_prefill +
                std::max(1, GrowthExpected(*sequence,
                                           static_cast<int64_t>(n_prefill) +
                                               static_cast<int64_t>(sequence->block_ids.size())));
  }
  return n_blocks;
}

int32_t Scheduler::GrowthExpected(const Sequence& sequence, int64_t n_blocks) const {
  const int64_t n_blocks_max =
      CeilDiv(int64_t{sequence.n_prompt} + sequence.spec.max_tokens, options_.limits.block_size);
  return static_cast<int32_t>(growth_ratio_ * static_cast<double>(n_blocks_max - n_blocks));
}

void Scheduler::GrantBlocks(Sequence* sequence, int32_t n_blocks, StepPlan* plan) {
  for (int32_t i = 0; i < n_blocks; ++i) {
    const int32_t block_id = blocks_.Allocate();
    plan->grants.push_back(
        {sequence->slot, static_cast<int32_t>(sequence->block_ids.size()), block_id});
    sequence->block_ids.push_back(block_id);
  }
}

void Scheduler::PlanRow(Sequence* sequence, int32_t n_tokens, StepPlan* plan, StepInFlight* step) {
  StepRow row;
  row.slot = sequence->slot;
  row.position = sequence->n_planned;
  row.n_tokens = n_tokens;
  row.token_begin = static_cast<int32_t>(plan->tokens.size());
  const int32_t end = row.position + n_tokens;
  int32_t n_prompt_logprobs = 0;
  if (sequence->InPrefill()) {
    row.sample = end == sequence->prefill_end;
    const absl::Span<const int32_t> tokens = sequence->tokens();
    plan->tokens.insert(plan->tokens.end(), tokens.begin() + row.position, tokens.begin() + end);
    row.prompt_logprobs = sequence->WantsPromptLogprobs() && row.position < sequence->n_prompt;
    // The last token of the prompt predicts the first generated one, not a prompt token.
    if (row.prompt_logprobs) {
      n_prompt_logprobs = std::min(end, sequence->n_prompt - 1) - row.position;
    }
  } else {
    row.use_last_sampled = true;
    row.sample = true;
  }
  const bool was_in_prefill = sequence->InPrefill();
  sequence->n_planned = end;
  if (was_in_prefill && row.sample) decoding_.push_back(sequence);
  ++sequence->n_rows_in_flight;
  if (row.sample) ++sequence->n_samples_in_flight;
  sequence->last_step = next_step_id_;
  Charge(sequence);
  plan->rows.push_back(row);
  step->work.Add(row.position, row.n_tokens);
  step->rows.push_back({sequence->spec.handle, row.slot, row.position, row.n_tokens, row.sample,
                        n_prompt_logprobs, sequence->spec.sampling.n_logprobs,
                        sequence->spec.sampling.n_prompt_logprobs});
}

void Scheduler::Charge(Sequence* sequence) {
  const auto cost = [&](int32_t n_tokens) {
    const int32_t n_prompt = std::min(n_tokens, sequence->n_prompt);
    return n_prompt + kOutputTokenCost * (n_tokens - n_prompt);
  };
  // What is passed again after a preemption is charged once.
  const int32_t n_tokens = std::max(sequence->n_charged, sequence->n_planned);
  FairQueue::Charge(sequence->tenant, cost(n_tokens) - cost(sequence->n_charged));
  sequence->n_charged = n_tokens;
}

void Scheduler::AddNextTokens(const StepInFlight& step, StepPlan* plan) const {
  if (std::none_of(plan->rows.begin(), plan->rows.end(),
                   [](const StepRow& row) { return row.prompt_logprobs; })) {
    return;
  }
  plan->next_tokens.reserve(plan->rows.size());
  for (size_t i = 0; i < plan->rows.size(); ++i) {
    const StepRow& row = plan->rows[i];
    const Sequence& sequence = *sequences_.at(step.rows[i].handle);
    const int32_t next = row.position + row.n_tokens;
    plan->next_tokens.push_back(
        row.prompt_logprobs && next < sequence.n_prompt ? sequence.tokens()[next] : -1);
  }
}

void Scheduler::Publish(Sequence* sequence) {
  if (!sequence->spec.prefix_cache) return;
  const int32_t block_size = options_.limits.block_size;
  const int32_t n_full = std::min(sequence->n_planned, sequence->n_known()) / block_size;
  for (; sequence->n_published < n_full; ++sequence->n_published) {
    const int32_t i = sequence->n_published;
    sequence->content =
        blocks_.Publish(sequence->block_ids[i], sequence->spec.cache_salt, sequence->content,
                        sequence->tokens().subspan(int64_t{i} * block_size, block_size));
  }
}

void Scheduler::AdmitAndPlan(int32_t budget, StepPlan* plan, StepInFlight* step) {
  while (budget > 0 && !queue_.empty()) {
    Sequence* sequence = NextInQueue();
    const bool has_chunk = !plan->tokens.empty();
    if (FitTokens(step->work, 0, 1, has_chunk) == 0) return;
    if (!Admit(sequence, plan)) return;
    const int32_t n_tokens = std::max(
        1, FitTokens(step->work, sequence->n_planned,
                     std::min(budget, sequence->prefill_end - sequence->n_planned), has_chunk));
    GrantBlocks(sequence, BlocksNeeded(*sequence, n_tokens), plan);
    PlanRow(sequence, n_tokens, plan, step);
    budget -= n_tokens;
  }
}

Scheduler::Needs Scheduler::FindNeeds(const Sequence& sequence) const {
  Needs needs;
  const int32_t n_known = sequence.n_known();
  if (sequence.spec.prefix_cache && !sequence.WantsPromptLogprobs()) {
    needs.match =
        blocks_.FindPrefix(sequence.spec.cache_salt, sequence.tokens().subspan(0, n_known - 1));
  }
  const std::vector<int32_t>& cached = needs.match.block_ids;
  const int32_t n_blocks = static_cast<int32_t>(CeilDiv(n_known, options_.limits.block_size));
  const int32_t n_unheld = static_cast<int32_t>(std::count_if(
      cached.begin(), cached.end(), [this](int32_t id) { return blocks_.n_holders(id) == 0; }));
  needs.n_taken = n_blocks - static_cast<int32_t>(cached.size()) + n_unheld +
                  GrowthExpected(sequence, n_blocks);
  return needs;
}

void Scheduler::RememberBlocked(const Sequence& sequence, int32_t n_needs) {
  blocked_handle_ = sequence.spec.handle;
  n_blocked_needs_ = n_needs;
  n_blocked_plans_ = kPlansBetweenLooks;
}

bool Scheduler::IsBlocked(const Sequence& sequence) const {
  return blocked_handle_ == sequence.spec.handle &&
         n_blocked_needs_ > blocks_.n_available() - BlocksDue();
}

bool Scheduler::HasRoomForKnownTokens(const StepPlan& plan, int32_t n_known) {
  // 20 MB of a message's 64 at most, unless one sequence is longer.
  constexpr int64_t kMaxKnownTokens = int64_t{4} << 20;
  int64_t n_tokens = 0;
  for (const SlotOpen& open : plan.opened)
    n_tokens += static_cast<int64_t>(open.known_tokens.size());
  return n_tokens == 0 || n_tokens + n_known <= kMaxKnownTokens;
}

bool Scheduler::Admit(Sequence* sequence, StepPlan* plan) {
  // What a preempted sequence still had in flight may be a token that it must pass again.
  if (free_slots_.empty() || sequence->n_rows_in_flight > 0) return false;
  if (sequence->spec.sampling.has_penalties() &&
      !HasRoomForKnownTokens(*plan, sequence->n_known())) {
    return false;
  }
  const int32_t n_free = blocks_.n_available() - BlocksDue();
  if (blocked_handle_ == sequence->spec.handle && n_blocked_needs_ > n_free &&
      n_blocked_plans_-- > 0) {
    return false;
  }
  blocked_handle_.reset();
  Needs needs = FindNeeds(*sequence);
  if (needs.n_taken > n_free) {
    RememberBlocked(*sequence, needs.n_taken);
    return false;
  }
  BlockPool::Match& match = needs.match;
  const int32_t n_cached = static_cast<int32_t>(match.block_ids.size());
  const int32_t n_known = sequence->n_known();
  LeaveQueue(sequence);
  if (sequence->own_tokens.empty()) {
    sequence->own_tokens.assign(sequence->spec.prompt_tokens.begin(),
                                sequence->spec.prompt_tokens.end());
    sequence->spec.prompt_tokens = SharedTokens();
  }
  EndPause(sequence);
  sequence->slot_since_us = now_us_;
  sequence->slot = free_slots_.back();
  free_slots_.pop_back();
  running_.insert(
      std::upper_bound(running_.begin(), running_.end(), sequence,
                       [](const Sequence* a, const Sequence* b) { return a->age < b->age; }),
      sequence);
  ++sequence->tenant->n_running;
  sequence->n_planned = n_cached * options_.limits.block_size;
  sequence->n_charged = std::max(sequence->n_charged, sequence->n_planned);
  sequence->prefill_end = n_known;
  sequence->n_published = n_cached;
  sequence->content = match.content;
  SlotOpen open;
  open.slot = sequence->slot;
  open.n_prompt_tokens = sequence->n_prompt;
  open.n_generated_tokens = n_known - sequence->n_prompt;
  open.n_cached_tokens = sequence->n_planned;
  open.sampling = sequence->spec.sampling;
  if (!sequence->WantsPromptLogprobs()) open.sampling.n_prompt_logprobs = -1;
  if (open.sampling.has_penalties()) open.known_tokens = sequence->own_tokens;
  plan->opened.push_back(std::move(open));
  for (int32_t i = 0; i < n_cached; ++i) {
    blocks_.Hold(match.block_ids[i]);
    plan->grants.push_back({sequence->slot, i, match.block_ids[i]});
  }
  sequence->block_ids = std::move(match.block_ids);
  newly_admitted_.push_back(
      {sequence->spec.handle, sequence->n_planned, std::exchange(sequence->was_admitted, true)});
  return true;
}

absl::Status Scheduler::CheckResult(const StepInFlight& step, const StepResult& result) const {
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
  const auto check = [&](const SampledToken& token, const RowInFlight& row, int32_t position,
                         int32_t n_top) {
    if (token.slot != row.slot || token.position != position) {
      return absl::InternalError(absl::StrCat(
          "result of step ", result.step_id, " has a token of slot ", token.slot, " at position ",
          token.position, " where the plan asked for slot ", row.slot, ", position ", position));
    }
    absl::Status status = CheckSampledToken(token, n_top, options_.limits.vocab_size);
    if (status.ok()) return status;  // almost always: no words are put together for it
    return Annotate(status, absl::StrCat("result of step ", result.step_id, ", slot ", token.slot,
                                         ", position ", position));
  };
  auto sampled = result.sampled.begin();
  auto prompt_logprob = result.prompt_logprobs.begin();
  for (const RowInFlight& row : step.rows) {
    for (int32_t i = 1; i <= row.n_prompt_logprobs; ++i) {
      RETURN_IF_ERROR(check(*prompt_logprob++, row, row.position + i, row.n_prompt_top));
    }
    if (row.sample) RETURN_IF_ERROR(check(*sampled++, row, row.position + row.n_tokens, row.n_top));
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
  // A pipeline's pace is that of its slowest stage.
  if (!result.stage_us.empty()) {
    const int64_t us = *std::max_element(result.stage_us.begin(), result.stage_us.end());
    cost_model_.Observe(step.work, static_cast<double>(us));
  }
  std::vector<SequenceProgress> progress;
  progress.reserve(step.rows.size());
  auto sampled = result.sampled.begin();
  auto prompt_logprob = result.prompt_logprobs.begin();
  for (const RowInFlight& row : step.rows) {
    const auto prompt_logprob_end = prompt_logprob + row.n_prompt_logprobs;
    if (const auto it = sequences_.find(row.handle); it != sequences_.end()) {
      Sequence* const sequence = it->second.get();
      --sequence->n_rows_in_flight;
      SequenceProgress item;
      item.handle = row.handle;
      // Those of a chunk that was passed again after a preemption are known in part.
      for (; prompt_logprob != prompt_logprob_end; ++prompt_logprob) {
        if (prompt_logprob->position <= sequence->n_prompt_logprobs) continue;
        sequence->n_prompt_logprobs = prompt_logprob->position;
        item.prompt_logprobs.push_back(std::move(*prompt_logprob));
      }
      if (row.sample) {
        --sequence->n_samples_in_flight;
        sequence->own_tokens.push_back(sampled->token_id);
        if (sequence->slot < 0) ++n_waiting_prompt_tokens_;
        item.sampled = std::move(*sampled);
      }
      if (item.sampled.has_value() || !item.prompt_logprobs.empty()) {
        progress.push_back(std::move(item));
      }
    }
    if (row.sample) ++sampled;
    prompt_logprob = prompt_logprob_end;
  }
  return progress;
}

}  // namespace bora
