#include "tests/worker/workload.h"

#include <algorithm>
#include <deque>
#include <random>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "tests/worker/plan_builder.h"

namespace bora {
namespace {

void Append(SampledToken token, std::vector<SampledToken>* list) {
  token.slot = 0;
  list->push_back(std::move(token));
}

// A request while RunShuffled works on it.
struct Active {
  const WorkRequest* request = nullptr;
  WorkOutcome* outcome = nullptr;
  int32_t slot = 0;
  std::vector<int32_t> tokens;  // prompt and what has come back
  int32_t n_passed = 0;         // tokens in plans since the slot was opened
  int32_t n_draws = 0;          // planned, over all slots it had
  int n_in_flight = 0;          // rows
  bool last_row_sampled = false;
  bool replayed = false;

  int32_t n_prompt() const { return static_cast<int32_t>(request->prompt.size()); }
  bool AllPlanned() const { return n_draws == request->n_generate; }
  // Its next token is known, or on its way as the last sampled one.
  int32_t n_known() const { return static_cast<int32_t>(tokens.size()); }
};

// One run of RunShuffled.
class ShuffledRun {
 public:
  ShuffledRun(LocalGroup& group, absl::Span<const WorkRequest> requests, int max_in_flight,
              uint64_t seed)
      : group_(group),
        requests_(requests),
        max_in_flight_(max_in_flight),
        random_(seed),
        builder_(group.options().limits, group.epoch(), seed),
        outcomes_(requests.size()) {
    for (int32_t slot = 0; slot < group.options().limits.max_num_seqs; ++slot) {
      free_slots_.push_back(slot);
    }
  }

  absl::StatusOr<std::vector<WorkOutcome>> Run() {
    while (next_request_ < requests_.size() || !active_.empty() || !in_flight_.empty()) {
      const int n_in_flight = static_cast<int>(in_flight_.size());
      if (n_in_flight < max_in_flight_ && (n_in_flight == 0 || Chance(2))) {
        PlanStep();
      } else {
        RETURN_IF_ERROR(TakeResult());
      }
    }
    return outcomes_;
  }

 private:
  bool Chance(uint64_t one_in) { return random_() % one_in == 0; }
  int32_t UpTo(int64_t n) { return static_cast<int32_t>(1 + random_() % n); }

  // May submit an empty plan: ranks must take those too.
  void PlanStep() {
    for (size_t i = 0; i < active_.size(); ++i) {
      if (active_[i].AllPlanned() && active_[i].n_in_flight == 0) Retire(i--);
    }
    while (next_request_ < requests_.size() && !free_slots_.empty() && !Chance(4)) Admit();
    for (Active& active : active_) {
      if (active.AllPlanned() || Chance(4)) continue;
      if (active.n_in_flight == 0 && active.n_passed >= active.n_prompt() && Chance(8)) {
        Preempt(active);
      }
      AddRow(active);
    }
    const StepPlan plan = builder_.Take();
    in_flight_.push_back(plan);
    group_.Submit(plan);
  }

  void Admit() {
    Active active;
    active.request = &requests_[next_request_];
    active.outcome = &outcomes_[next_request_];
    ++next_request_;
    active.tokens = active.request->prompt;
    const size_t pick = random_() % free_slots_.size();
    active.slot = free_slots_[pick];
    free_slots_.erase(free_slots_.begin() + pick);
    builder_.Open(active.slot, active.tokens, active.n_prompt(), active.request->sampling);
    active_.push_back(std::move(active));
  }

  void Retire(size_t i) {
    builder_.Close(active_[i].slot);
    free_slots_.push_back(active_[i].slot);
    active_.erase(active_.begin() + i);
  }

  // Drops the sequence's KV and begins again with what is known, as after a failure.
  void Preempt(Active& active) {
    builder_.Close(active.slot);
    builder_.Open(active.slot, active.tokens, active.n_prompt(), active.request->sampling);
    active.n_passed = 0;
    active.last_row_sampled = false;
    active.replayed = true;
  }

  void AddRow(Active& active) {
    const int64_t budget =
        group_.options().limits.max_num_batched_tokens - builder_.n_plan_tokens();
    if (budget == 0) return;
    const bool is_known = active.n_passed < active.n_known();
    CHECK(is_known || active.last_row_sampled);
    const bool use_last = active.last_row_sampled && (!is_known || Chance(2));
    int32_t n = 1;
    if (!use_last) n = UpTo(std::min<int64_t>(budget, active.n_known() - active.n_passed));
    const int32_t end = active.n_passed + n;
    const bool sample = end == active.n_prompt() + active.n_draws;
    if (use_last) {
      builder_.AddLastSampledRow(active.slot, sample);
    } else {
      PlanBuilder::RowOptions options;
      options.sample = sample;
      options.prompt_logprobs = active.request->sampling.n_prompt_logprobs >= 0 && !active.replayed;
      if (end < active.n_prompt()) options.next_token = active.tokens[end];
      builder_.AddRow(active.slot, absl::MakeSpan(active.tokens).subspan(active.n_passed, n),
                      options);
    }
    active.n_passed = end;
    active.n_draws += sample ? 1 : 0;
    active.last_row_sampled = sample;
    ++active.n_in_flight;
  }

  Active& ActiveOf(int32_t slot) {
    for (Active& active : active_) {
      if (active.slot == slot) return active;
    }
    CHECK(false) << "no sequence in slot " << slot;
    return active_[0];
  }

  absl::Status TakeResult() {
    ASSIGN_OR_RETURN(const StepResult result, group_.WaitResult());
    const StepPlan plan = std::move(in_flight_.front());
    in_flight_.pop_front();
    if (result.step_id != plan.step_id || result.epoch != plan.epoch) {
      return absl::InternalError(
          absl::StrCat("result of step ", result.step_id, ", expected ", plan.step_id));
    }
    for (const StepRow& row : plan.rows) --ActiveOf(row.slot).n_in_flight;
    for (const SampledToken& token : result.sampled) {
      Active& active = ActiveOf(token.slot);
      active.tokens.push_back(token.token_id);
      Append(token, &active.outcome->sampled);
    }
    for (const SampledToken& token : result.prompt_logprobs) {
      Append(token, &ActiveOf(token.slot).outcome->prompt_logprobs);
    }
    return absl::OkStatus();
  }

  LocalGroup& group_;
  const absl::Span<const WorkRequest> requests_;
  const int max_in_flight_;
  std::mt19937_64 random_;
  PlanBuilder builder_;
  std::vector<WorkOutcome> outcomes_;
  size_t next_request_ = 0;
  std::vector<int32_t> free_slots_;
  std::vector<Active> active_;
  std::deque<StepPlan> in_flight_;
};

}  // namespace

std::vector<int32_t> WorkOutcome::token_ids() const {
  std::vector<int32_t> ids;
  for (const SampledToken& token : sampled) ids.push_back(token.token_id);
  return ids;
}

std::vector<WorkRequest> RandomRequests(const GroupLimits& limits, int n_requests, uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto below = [&random](uint64_t n) { return static_cast<int32_t>(random() % n); };
  std::vector<WorkRequest> requests(n_requests);
  for (WorkRequest& request : requests) {
    // Short prompts as often as long ones.
    request.prompt.resize(1 + below(below(2) == 0 ? 8 : 100));
    for (int32_t& token : request.prompt) token = below(limits.vocab_size);
    request.n_generate = 1 + below(12);
    SamplingParams& sampling = request.sampling;
    sampling.temperature = below(2) == 0 ? 0.0f : 0.25f * (1 + below(8));
    sampling.top_p = below(2) == 0 ? 1.0f : 0.1f * (1 + below(9));
    sampling.top_k = below(2) == 0 ? 0 : 1 + below(50);
    sampling.min_p = below(2) == 0 ? 0.0f : 0.01f * below(20);
    sampling.seed = random();
    sampling.n_logprobs = below(7) - 1;
    sampling.n_prompt_logprobs = below(2) == 0 ? -1 : below(4);
    if (below(3) == 0) {
      sampling.min_tokens = below(10);
      const int32_t third = std::min(20, limits.vocab_size / 3);
      sampling.stop_token_ids = {below(third), third + below(third), 2 * third + below(third)};
    }
    if (below(3) == 0) {
      // Tokens occur seldom among so many: penalties are rewards as often, so that some repeat.
      sampling.repetition_penalty = below(2) == 0 ? 1.0f : 0.25f * (1 + below(8));
      sampling.frequency_penalty = 0.5f * (below(9) - 4);
      sampling.presence_penalty = below(2) == 0 ? 0.0f : 0.5f * (below(9) - 4);
    }
  }
  return requests;
}

absl::StatusOr<std::vector<WorkOutcome>> RunAlone(LocalGroup& group,
                                                  absl::Span<const WorkRequest> requests) {
  RETURN_IF_ERROR(group.NextEpoch());
  const GroupLimits limits = group.options().limits;
  PlanBuilder builder(limits, group.epoch());
  std::vector<WorkOutcome> outcomes(requests.size());
  for (size_t i = 0; i < requests.size(); ++i) {
    const WorkRequest& request = requests[i];
    const int32_t n_prompt = static_cast<int32_t>(request.prompt.size());
    builder.Open(0, request.prompt, n_prompt, request.sampling);
    std::vector<int32_t> tokens = request.prompt;
    int32_t n_passed = 0;
    while (static_cast<int32_t>(outcomes[i].sampled.size()) < request.n_generate) {
      const int32_t n =
          std::min(static_cast<int32_t>(tokens.size()) - n_passed, limits.max_num_batched_tokens);
      PlanBuilder::RowOptions options;
      options.sample = n_passed + n >= n_prompt;
      options.prompt_logprobs = request.sampling.n_prompt_logprobs >= 0 && n_passed < n_prompt;
      if (n_passed + n < n_prompt) options.next_token = tokens[n_passed + n];
      builder.AddRow(0, absl::MakeSpan(tokens).subspan(n_passed, n), options);
      n_passed += n;
      ASSIGN_OR_RETURN(const StepResult result, group.RunStep(builder.Take()));
      for (const SampledToken& token : result.prompt_logprobs) {
        Append(token, &outcomes[i].prompt_logprobs);
      }
      for (const SampledToken& token : result.sampled) {
        Append(token, &outcomes[i].sampled);
        tokens.push_back(token.token_id);
      }
    }
    builder.Close(0);
  }
  return outcomes;
}

absl::StatusOr<std::vector<WorkOutcome>> RunShuffled(LocalGroup& group,
                                                     absl::Span<const WorkRequest> requests,
                                                     int max_in_flight, uint64_t seed) {
  RETURN_IF_ERROR(group.NextEpoch());
  return ShuffledRun(group, requests, max_in_flight, seed).Run();
}

}  // namespace bora
