// Time to plan and complete one decode step, pure: 256 running sequences of 32,768 tokens.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <vector>

#include "coordinator/scheduler.h"

namespace bora {
namespace {

double MicrosecondsSince(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin)
      .count();
}

int Run() {
  constexpr int kSequences = 256;
  constexpr int kPromptTokens = 32000;
  SchedulerOptions options;
  options.limits.max_num_seqs = kSequences;
  options.limits.max_num_batched_tokens = 65536;
  options.limits.max_model_len = 32768;
  options.limits.n_blocks = kSequences * 2048;
  options.limits.vocab_size = 32000;
  Scheduler scheduler(options);
  for (int i = 0; i < kSequences; ++i) {
    SequenceSpec spec;
    spec.handle = i + 1;
    spec.prompt_tokens.assign(kPromptTokens, 7);
    spec.max_tokens = 768;
    scheduler.Add(std::move(spec));
  }
  std::vector<double> plan_us;
  std::vector<double> complete_us;
  while (plan_us.size() < 500) {
    const auto plan_begin = std::chrono::steady_clock::now();
    const absl::optional<StepPlan> plan = scheduler.PlanStep();
    const double planned_us = MicrosecondsSince(plan_begin);
    StepResult result;
    result.step_id = plan->step_id;
    for (const StepRow& row : plan->rows) {
      if (!row.sample) continue;
      SampledToken& token = result.sampled.emplace_back();
      token.slot = row.slot;
      token.position = row.position + row.n_tokens;
      token.token_id = 9;
    }
    // Only whole decode steps count.
    const bool decode = plan->rows.size() == kSequences && plan->tokens.empty();
    const auto complete_begin = std::chrono::steady_clock::now();
    if (!scheduler.CompleteStep(std::move(result)).ok()) return 1;
    if (decode) {
      plan_us.push_back(planned_us);
      complete_us.push_back(MicrosecondsSince(complete_begin));
    }
  }
  std::sort(plan_us.begin(), plan_us.end());
  std::sort(complete_us.begin(), complete_us.end());
  constexpr double kLimitUs = 100;
  const double p50 = plan_us[plan_us.size() / 2];
  std::printf("figure plan_us_256x32k %.1f us limit %.0f ratio %.2f\n", p50, kLimitUs,
              kLimitUs / p50);
  std::printf("figure complete_us_256x32k %.1f us\n", complete_us[complete_us.size() / 2]);
  return 0;
}

}  // namespace
}  // namespace bora

int main() { return bora::Run(); }
