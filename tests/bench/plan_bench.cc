// What the coordinator's scheduler takes for a step, pure: to plan a decode step of all running
// sequences and to complete it, by number of sequences, length of their contexts, and requests that
// wait. Prints `figure NAME VALUE UNIT [limit L ratio R]` rows; values are medians.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include "coordinator/scheduler/scheduler.h"

namespace bora {
namespace {

double MicrosecondsSince(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin)
      .count();
}

struct Load {
  int n_sequences;
  int n_context;
  int n_waiting;
};

struct Cost {
  double plan_us = 0;
  double complete_us = 0;
};

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

StepResult Answer(const StepPlan& plan) {
  StepResult result;
  result.step_id = plan.step_id;
  for (const StepRow& row : plan.rows) {
    if (!row.sample) continue;
    SampledToken& token = result.sampled.emplace_back();
    token.slot = row.slot;
    token.position = row.position + row.n_tokens;
    token.token_id = 9;
  }
  return result;
}

// False when the scheduler refuses its own plan's result.
bool Measure(const Load& load, Cost* cost) {
  constexpr int kSteps = 300;
  SchedulerOptions options;
  options.limits.max_num_seqs = load.n_sequences;
  options.limits.max_num_batched_tokens = 65536;
  options.limits.max_model_len = 32768;
  options.limits.n_blocks = load.n_sequences * 2048;
  options.limits.vocab_size = 32000;
  Scheduler scheduler(options);
  for (int i = 0; i < load.n_sequences + load.n_waiting; ++i) {
    SequenceSpec spec;
    spec.handle = i + 1;
    std::vector<int32_t> prompt(i < load.n_sequences ? load.n_context : 64, 7);
    prompt[0] = i % 31000;
    spec.prompt_tokens = std::move(prompt);
    spec.max_tokens = 700;
    scheduler.Add(std::move(spec));
  }
  std::vector<double> plan_us;
  std::vector<double> complete_us;
  while (static_cast<int>(plan_us.size()) < kSteps) {
    const auto plan_begin = std::chrono::steady_clock::now();
    const std::optional<StepPlan> plan = scheduler.PlanStep();
    const double planned_us = MicrosecondsSince(plan_begin);
    if (!plan.has_value()) return false;
    StepResult result = Answer(*plan);
    // Only whole decode steps count.
    const bool decode =
        static_cast<int>(plan->rows.size()) == load.n_sequences && plan->tokens.empty();
    const auto complete_begin = std::chrono::steady_clock::now();
    if (!scheduler.CompleteStep(std::move(result)).ok()) return false;
    if (decode) {
      plan_us.push_back(planned_us);
      complete_us.push_back(MicrosecondsSince(complete_begin));
    }
  }
  *cost = {Median(plan_us), Median(complete_us)};
  return true;
}

int Run() {
  // Of the few milliseconds that a step of a 7B model takes on a fast GPU.
  constexpr double kLimitUs = 100;
  for (const int n_sequences : {16, 256, 1024}) {
    for (const Load& load :
         {Load{n_sequences, 256, 0}, Load{n_sequences, 32000, 0}, Load{n_sequences, 256, 1000}}) {
      // 1024 contexts of 32,000 tokens take long to make and say no more than 256 do.
      if (n_sequences == 1024 && load.n_context > 256) continue;
      Cost cost;
      if (!Measure(load, &cost)) return 1;
      const std::string name = std::to_string(n_sequences) + "_ctx" +
                               std::to_string(load.n_context) + "_queue" +
                               std::to_string(load.n_waiting);
      std::printf("figure plan_%s %.1f us", name.c_str(), cost.plan_us);
      if (n_sequences == 256)
        std::printf(" limit %.0f ratio %.2f", kLimitUs, kLimitUs / cost.plan_us);
      std::printf("\nfigure complete_%s %.1f us", name.c_str(), cost.complete_us);
      if (n_sequences == 256) {
        std::printf(" limit %.0f ratio %.2f", kLimitUs, kLimitUs / cost.complete_us);
      }
      std::printf("\n");
    }
  }
  return 0;
}

}  // namespace
}  // namespace bora

int main() { return bora::Run(); }
