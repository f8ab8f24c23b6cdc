#include "coordinator/engine/calibration.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <vector>

#include "tests/coordinator/scripted_group.h"

namespace bora {
namespace {

// Weights at the speed of memory until arithmetic takes longer, attention, and a fixed cost.
double WorkerMicroseconds(const StepWork& work, double slowness) {
  return slowness *
         (200 + std::max(5e3, 50 * static_cast<double>(work.n_tokens)) +
          0.1 * static_cast<double>(work.context_tokens) + 0.01 * static_cast<double>(work.pairs));
}

struct Outcome {
  double elapsed_us = 0;
  int n_sequences = 0;
  StepCostModel model{1};
};

Outcome Calibrate(const GroupLimits& limits, double budget_us, double slowness) {
  Scheduler scheduler({.limits = limits, .epoch = 1});
  ScriptedGroup group(limits,
                      [](const SamplingParams&, int32_t) { return SampledToken{.token_id = 1}; });
  Calibration calibration(limits, budget_us);
  Outcome outcome;
  while (true) {
    std::vector<SequenceSpec> round =
        calibration.NextRound(scheduler.cost_model(), outcome.elapsed_us, outcome.n_sequences + 1);
    if (round.empty()) break;
    std::map<uint64_t, int32_t> n_left;
    for (SequenceSpec& spec : round) {
      n_left[spec.handle] = spec.max_tokens;
      ++outcome.n_sequences;
      scheduler.Add(std::move(spec));
    }
    while (const std::optional<StepPlan> plan = scheduler.PlanStep()) {
      StepWork work;
      for (const StepRow& row : plan->rows) work.Add(row.position, row.n_tokens);
      auto result = group.Execute(*plan);
      EXPECT_TRUE(result.ok()) << result.status();
      const double us = WorkerMicroseconds(work, slowness);
      outcome.elapsed_us += us;
      result->stage_us = {static_cast<int64_t>(us)};
      auto progress = scheduler.CompleteStep(*std::move(result));
      EXPECT_TRUE(progress.ok()) << progress.status();
      for (const SequenceProgress& item : *progress) {
        if (item.sampled.has_value() && --n_left[item.handle] == 0) scheduler.Remove(item.handle);
      }
    }
  }
  EXPECT_EQ(scheduler.n_running() + scheduler.n_waiting(), 0);
  EXPECT_EQ(scheduler.blocks().n_held(), 0);
  outcome.model = scheduler.cost_model();
  return outcome;
}

GroupLimits Limits() {
  return {.max_num_seqs = 64,
          .max_num_batched_tokens = 512,
          .max_model_len = 8192,
          .block_size = 16,
          .n_blocks = 4096,
          .vocab_size = 1000};
}

TEST(CalibrationTest, TeachesWhatStepsTake) {
  const Outcome outcome = Calibrate(Limits(), 2e6, 1);
  EXPECT_LE(outcome.elapsed_us, 2e6);
  for (const int64_t n_tokens : {1, 16, 64, 256, 512}) {
    StepWork work;
    work.Add(0, n_tokens);
    const double us = WorkerMicroseconds(work, 1);
    EXPECT_NEAR(outcome.model.Predict(work) / us, 1, 0.2) << n_tokens << " tokens";
  }
}

TEST(CalibrationTest, ASlowModelIsAskedLess) {
  const Outcome slow = Calibrate(Limits(), 2e6, 50);
  // The first round is not predicted; the others are left out where they would take too long.
  EXPECT_LE(slow.elapsed_us, 1.5 * 2e6);
  EXPECT_GT(slow.model.n_observations(), 0);
  EXPECT_LT(slow.n_sequences, Calibrate(Limits(), 2e6, 1).n_sequences);
}

TEST(CalibrationTest, FitsTheSmallestGroup) {
  // Of all rounds only the one of a one-token prompt and a one-token completion fits; it is made
  // twice, and each time is a step that teaches the model.
  const auto expect_two_steps = [](const GroupLimits& limits) {
    const Outcome outcome = Calibrate(limits, 2e6, 1);
    EXPECT_EQ(outcome.n_sequences, 2);
    EXPECT_EQ(outcome.model.n_observations(), 2);
    StepWork work;
    work.Add(0, 1);
    EXPECT_NEAR(outcome.model.Predict(work) / WorkerMicroseconds(work, 1), 1, 0.01);
  };
  GroupLimits limits = {.max_num_seqs = 1,
                        .max_num_batched_tokens = 1,
                        .max_model_len = 4,
                        .block_size = 2,
                        .n_blocks = 2,
                        .vocab_size = 2};
  expect_two_steps(limits);
  limits.max_model_len = 2;
  limits.n_blocks = 1;
  expect_two_steps(limits);
}

}  // namespace
}  // namespace bora
