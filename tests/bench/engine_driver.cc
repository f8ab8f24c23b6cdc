#include "tests/bench/engine_driver.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <utility>

#include "base/status_macros.h"

namespace bora {
namespace {

// Far above any step of any shape on a slow machine.
constexpr absl::Duration kStepTimeout = absl::Minutes(10);

using Clock = std::chrono::steady_clock;

double Seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

}  // namespace

double DrivenSteps::busy_seconds() const {
  double seconds = 0;
  for (const DrivenStep& step : steps) seconds += step.busy_seconds;
  return seconds;
}

double BusySeconds(const StepResult& result) {
  return 1e-6 * static_cast<double>(result.stage_us[0]);
}

PlanWork WorkOf(const StepPlan& plan) {
  PlanWork asked;
  for (const StepRow& row : plan.rows) {
    asked.work.Add(row.position, row.n_tokens);
    if (row.sample) ++asked.n_sampled;
  }
  return asked;
}

absl::StatusOr<StepResult> TakeFiniteResult(LocalGroup& group) {
  ASSIGN_OR_RETURN(StepResult result, group.WaitResult(kStepTimeout));
  for (const SampledToken& token : result.sampled) {
    if (token.non_finite) return absl::InternalError("logits that are not finite");
  }
  return result;
}

EngineDriver::EngineDriver(LocalGroup* group, int n_sequences, int chunk, uint64_t seed)
    : group_(group),
      n_sequences_(n_sequences),
      chunk_(chunk),
      builder_(group->options().limits, group->epoch()),
      random_(seed) {}

void EngineDriver::OpenAll(int n_prompt_tokens) {
  SamplingParams greedy;
  greedy.temperature = 0;
  for (int slot = 0; slot < n_sequences_; ++slot) builder_.Open(slot, n_prompt_tokens, greedy);
}

void EngineDriver::CloseAll() {
  for (int slot = 0; slot < n_sequences_; ++slot) builder_.Close(slot);
}

absl::StatusOr<DrivenSteps> EngineDriver::Prefill(int n_tokens) {
  const auto begin = Clock::now();
  DrivenSteps done;
  for (int slot = 0; slot < n_sequences_; ++slot) {
    for (int passed = 0; passed < n_tokens;) {
      const int room = chunk_ - static_cast<int>(builder_.n_plan_tokens());
      const int n_row = std::min(room, n_tokens - passed);
      passed += n_row;
      builder_.AddRow(slot, RandomTokens(n_row), {.sample = passed == n_tokens});
      if (n_row == room) RETURN_IF_ERROR(RunPrefillStep(&done));
    }
  }
  if (builder_.n_plan_tokens() > 0) RETURN_IF_ERROR(RunPrefillStep(&done));
  done.seconds = Seconds(Clock::now() - begin);
  return done;
}

absl::Status EngineDriver::RunPrefillStep(DrivenSteps* done) {
  const auto begin = Clock::now();
  const StepPlan plan = builder_.Take();
  group_->Submit(plan);
  ASSIGN_OR_RETURN(const StepResult result, TakeFiniteResult(*group_));
  done->steps.push_back({Seconds(Clock::now() - begin), BusySeconds(result), WorkOf(plan)});
  return absl::OkStatus();
}

absl::StatusOr<DrivenSteps> EngineDriver::Decode(int n_steps, int n_in_flight, bool random_tokens) {
  const auto begin = Clock::now();
  auto previous = begin;
  DrivenSteps done;
  std::deque<PlanWork> in_flight;
  int n_submitted = 0;
  for (int n_done = 0; n_done < n_steps; ++n_done) {
    for (; n_submitted < std::min(n_steps, n_done + n_in_flight); ++n_submitted) {
      const StepPlan plan = DecodePlan(random_tokens);
      in_flight.push_back(WorkOf(plan));
      group_->Submit(plan);
    }
    ASSIGN_OR_RETURN(const StepResult result, TakeFiniteResult(*group_));
    const auto now = Clock::now();
    done.steps.push_back({Seconds(now - previous), BusySeconds(result), in_flight.front()});
    in_flight.pop_front();
    previous = now;
  }
  done.seconds = Seconds(Clock::now() - begin);
  return done;
}

StepPlan EngineDriver::DecodePlan(bool random_tokens) {
  for (int slot = 0; slot < n_sequences_; ++slot) {
    if (random_tokens) {
      builder_.AddRow(slot, RandomTokens(1), {.sample = true});
    } else {
      builder_.AddLastSampledRow(slot, /*sample=*/true);
    }
  }
  return builder_.Take();
}

std::vector<int32_t> EngineDriver::RandomTokens(int n) {
  std::vector<int32_t> tokens(n);
  const uint64_t vocab_size = group_->options().limits.vocab_size;
  for (int32_t& token : tokens) token = static_cast<int32_t>(random_() % vocab_size);
  return tokens;
}

}  // namespace bora
