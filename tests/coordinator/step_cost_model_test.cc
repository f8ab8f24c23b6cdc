#include "coordinator/scheduler/step_cost_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "coordinator/scheduler/scheduler.h"
#include "tests/coordinator/scripted_group.h"

namespace bora {
namespace {

// A worker as measured: weights pass at the speed of memory until arithmetic takes longer,
// attention reads the cache and multiplies, and a step has a fixed cost.
double WorkerMicroseconds(const StepWork& work, double slowdown = 1) {
  const double products = std::max(60e3, 5e3 * static_cast<double>(work.n_tokens));
  return slowdown * (500 + products + 1.5 * static_cast<double>(work.context_tokens) +
                     0.15 * static_cast<double>(work.pairs));
}

// Steps as a server has them: some rows that decode at some depth, and a prompt's chunk or not.
StepWork RandomStep(std::mt19937_64* random) {
  const auto below = [random](uint64_t n) { return static_cast<int64_t>((*random)() % n); };
  StepWork work;
  const int64_t depth = 1 << below(14);
  for (int64_t row = below(33); row > 0; --row) work.Add(depth + below(100), 1);
  if (work.n_tokens == 0 || below(2) == 0) work.Add(below(2) == 0 ? 0 : depth, 1 + below(95));
  return work;
}

TEST(StepCostModelTest, KnowsNothingAtFirst) {
  StepCostModel model(128);
  StepWork work;
  work.Add(0, 10);
  EXPECT_EQ(model.Predict(work), 0);
  EXPECT_EQ(model.RelativeErrorP90(), 0);
  model.Observe(work, 0);  // a worker that does not tell
  EXPECT_EQ(model.n_observations(), 0);
}

TEST(StepCostModelTest, PredictsTheStepItHasJustSeen) {
  StepCostModel model(128);
  StepWork work;
  work.Add(0, 16);
  model.Observe(work, 1000);
  EXPECT_NEAR(model.Predict(work), 1000, 10);
  // More tokens are taken to cost more, in proportion; fewer not less.
  StepWork more, fewer;
  more.Add(0, 64);
  fewer.Add(0, 4);
  EXPECT_NEAR(model.Predict(more), 4000, 100);
  EXPECT_NEAR(model.Predict(fewer), 1000, 20);
}

TEST(StepCostModelTest, LearnsAWorkerAndFollowsItWhenItsSpeedChanges) {
  for (const uint64_t seed : {1, 2, 3}) {
    std::mt19937_64 random(seed);
    std::normal_distribution<double> noise(0, 0.05);
    StepCostModel model(128);
    for (const double slowdown : {1.0, 2.5, 0.8}) {
      // 600 steps: the last 256 are what the error is of.
      for (int i = 0; i < 600; ++i) {
        const StepWork work = RandomStep(&random);
        model.Observe(work, WorkerMicroseconds(work, slowdown) * std::exp(noise(random)));
      }
      std::printf("seed %d, slowdown %.1f: p90 error %.3f\n", static_cast<int>(seed), slowdown,
                  model.RelativeErrorP90());
      EXPECT_LE(model.RelativeErrorP90(), 0.2) << "seed " << seed << ", slowdown " << slowdown;
    }
  }
}

TEST(StepCostModelTest, OneDisturbedStepDoesNotTurnItOver) {
  std::mt19937_64 random(1);
  StepCostModel model(128);
  for (int i = 0; i < 300; ++i) {
    const StepWork work = RandomStep(&random);
    model.Observe(work, WorkerMicroseconds(work));
  }
  StepWork work;
  for (int row = 0; row < 16; ++row) work.Add(500, 1);
  const double before = model.Predict(work);
  model.Observe(work, 1000 * before);
  EXPECT_LT(model.Predict(work), 2.2 * before);
  EXPECT_GT(model.Predict(work), before);
}

// Eight streams decode when a prompt of 2,000 tokens comes.
class StepBudgetTest : public testing::Test {
 protected:
  static constexpr double kBudgetUs = 200e3;

  void Run(double slowdown) {
    const GroupLimits limits = {.max_num_seqs = 16,
                                .max_num_batched_tokens = 256,
                                .max_model_len = 4096,
                                .block_size = 16,
                                .n_blocks = 1000,
                                .vocab_size = 100};
    Scheduler scheduler({.limits = limits, .step_time_budget_us = kBudgetUs});
    ScriptedGroup group(limits,
                        [](const SamplingParams&, int32_t) { return SampledToken{.token_id = 1}; });
    const auto add = [&scheduler](uint64_t handle, int32_t n_prompt, int32_t max_tokens) {
      SequenceSpec spec;
      spec.handle = handle;
      spec.prompt_tokens = std::vector<int32_t>(n_prompt, static_cast<int32_t>(handle));
      spec.max_tokens = max_tokens;
      scheduler.Add(std::move(spec));
    };
    for (uint64_t handle = 1; handle <= 8; ++handle) add(handle, 100, 500);
    for (int step = 0; step < 400; ++step) {
      if (step == 20) add(9, 2000, 4);
      const std::optional<StepPlan> plan = scheduler.PlanStep();
      ASSERT_TRUE(plan.has_value());
      StepWork work;
      bool decodes = false;
      for (const StepRow& row : plan->rows) {
        work.Add(row.position, row.n_tokens);
        decodes |= row.use_last_sampled;
      }
      auto result = group.Execute(*plan);
      ASSERT_TRUE(result.ok()) << result.status();
      const double us = WorkerMicroseconds(work, slowdown);
      // The slowest stage counts.
      result->stage_us = {1, static_cast<int64_t>(us), 2};
      if (decodes && step > 20) times_.push_back(us);
      if (!decodes) n_tokens_alone_ = std::max<int64_t>(n_tokens_alone_, work.n_tokens);
      auto progress = scheduler.CompleteStep(*std::move(result));
      ASSERT_TRUE(progress.ok()) << progress.status();
      for (const SequenceProgress& item : *progress) {
        if (item.handle == 9 && first_token_step_ < 0) first_token_step_ = step;
      }
    }
    std::sort(times_.begin(), times_.end());
  }

  std::vector<double> times_;  // of steps with decode rows, ascending
  int64_t n_tokens_alone_ = 0;
  int first_token_step_ = -1;
};

TEST_F(StepBudgetTest, APromptDoesNotMakeStepsLongerThanTheBudget) {
  Run(1);
  EXPECT_EQ(n_tokens_alone_, 256) << "nobody waits: no limit but the plan's";
  ASSERT_GE(first_token_step_, 0);
  EXPECT_LE(times_[times_.size() * 99 / 100], 1.5 * kBudgetUs);
  // 200 ms are about 35 tokens; less than that for the rows that decode, 2,000 take 80 steps.
  EXPECT_LE(first_token_step_, 20 + 100);
}

TEST_F(StepBudgetTest, APromptGetsOnWhereDecodingAloneTakesAsLong) {
  Run(10);
  ASSERT_GE(first_token_step_, 0);
  // The eight prompts before it, too, get sixteen tokens a step.
  EXPECT_LE(first_token_step_, (8 * 100 + 2000) / 16 + 1);
}

TEST(StepCostModelTest, RecoversFromTimesThatNobodyCanHaveTaken) {
  StepCostModel model(64);
  const StepWork work = {.n_tokens = 8, .context_tokens = 800, .pairs = 800};
  for (const double absurd : {1e300, 1e18, -1.0, 0.0, std::nan(""), 1e9})
    model.Observe(work, absurd);
  EXPECT_EQ(model.n_observations(), 0);
  // A minute where it is 10 ms, then a microsecond, a thousand times each.
  for (const double absurd : {60e6, 1.0}) {
    for (int i = 0; i < 1000; ++i) model.Observe(work, absurd);
    for (int i = 0; i < 200; ++i) model.Observe(work, 10e3);
    EXPECT_NEAR(model.Predict(work), 10e3, 1e3) << "after " << absurd;
  }
}

}  // namespace
}  // namespace bora
