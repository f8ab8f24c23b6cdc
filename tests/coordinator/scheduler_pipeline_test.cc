// How well plans fill a pipeline: the scheduler against stages that take the time of a stated cost
// model, on a clock that is simulated.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <deque>
#include <map>
#include <random>
#include <utility>
#include <vector>

#include "coordinator/scheduler.h"
#include "tests/coordinator/scripted_group.h"

namespace bora {
namespace {

struct PipelineCase {
  int32_t n_stages;
  // Of a plan or a result on its way between coordinator and workers, and of what passes between
  // stages. Microseconds.
  double coordinator_us;
  double link_us;
  bool run_ahead = true;
};

// One stage of a model: weights are read once, then a token costs arithmetic and a context memory.
double StageMicroseconds(const StepWork& work) {
  return std::max(2000.0, 20.0 * static_cast<double>(work.n_tokens)) +
         0.05 * static_cast<double>(work.context_tokens) + 0.001 * static_cast<double>(work.pairs);
}

// Runs sequences through a pipeline on a simulated clock.
class PipelineSimulation {
 public:
  PipelineSimulation(const PipelineCase& config, const GroupLimits& limits,
                     double step_time_budget_us)
      : config_(config),
        scheduler_({.limits = limits,
                    .epoch = 1,
                    .n_stages = config.n_stages,
                    .run_ahead = config.run_ahead,
                    .step_time_budget_us = step_time_budget_us}),
        group_(limits, [](const SamplingParams&, int32_t) { return SampledToken{.token_id = 1}; }),
        stages_(config.n_stages),
        token_us_(limits.max_num_seqs, 0) {}

  void Add(int32_t n_prompt, int32_t max_tokens) {
    SequenceSpec spec;
    spec.handle = next_handle_++;
    for (int32_t i = 0; i < n_prompt; ++i) {
      spec.prompt_tokens.push_back((static_cast<int32_t>(spec.handle) * 131 + i) % 997);
    }
    spec.max_tokens = max_tokens;
    n_tokens_left_[spec.handle] = max_tokens;
    scheduler_.Add(std::move(spec));
  }

  // Until nobody is left, or the clock says `end_us`.
  void Run(double end_us) {
    while (now_us_ < end_us) {
      while (const absl::optional<StepPlan> plan = scheduler_.PlanStep()) Execute(*plan);
      if (in_flight_.empty()) return;
      InFlight step = std::move(in_flight_.front());
      in_flight_.pop_front();
      now_us_ = std::max(now_us_, step.result_us);
      auto progress = scheduler_.CompleteStep(std::move(step.result));
      ASSERT_TRUE(progress.ok()) << progress.status();
      for (const SequenceProgress& item : *progress) {
        if (!item.sampled.has_value()) continue;
        if (--n_tokens_left_.at(item.handle) == 0) scheduler_.Remove(item.handle);
      }
    }
  }

  // Forgets the past of the stages.
  void ResetIdle() {
    for (Stage& stage : stages_) stage.busy_us = stage.idle_us = 0;
  }

  // Of the stage that idles most, the part of its time.
  double Bubble() const {
    double bubble = 0;
    for (const Stage& stage : stages_) {
      bubble = std::max(bubble, stage.idle_us / (stage.idle_us + stage.busy_us));
    }
    return bubble;
  }

  double now_us() const { return now_us_; }
  int32_t n_waiting() const { return scheduler_.n_waiting(); }

 private:
  struct Stage {
    double free_us = 0;
    double busy_us = 0;
    double idle_us = 0;
  };
  struct InFlight {
    StepResult result;
    double result_us;
  };

  void Execute(const StepPlan& plan) {
    StepWork work;
    double ready_us = now_us_ + config_.coordinator_us;
    for (const StepRow& row : plan.rows) {
      work.Add(row.position, row.n_tokens);
      if (row.use_last_sampled) ready_us = std::max(ready_us, token_us_[row.slot]);
    }
    const double step_us = StageMicroseconds(work);
    for (Stage& stage : stages_) {
      const double begin_us = std::max(ready_us, stage.free_us);
      stage.idle_us += begin_us - stage.free_us;
      stage.busy_us += step_us;
      stage.free_us = begin_us + step_us;
      ready_us = stage.free_us + config_.link_us;
    }
    auto result = group_.Execute(plan);
    ASSERT_TRUE(result.ok()) << result.status();
    for (const SampledToken& token : result->sampled) token_us_[token.slot] = ready_us;
    result->stage_us.assign(config_.n_stages, static_cast<int64_t>(step_us));
    in_flight_.push_back({*std::move(result), ready_us + config_.coordinator_us});
  }

  const PipelineCase config_;
  Scheduler scheduler_;
  ScriptedGroup group_;
  std::vector<Stage> stages_;
  std::vector<double> token_us_;  // [slot] when its last token is in the first stage
  std::deque<InFlight> in_flight_;
  std::map<uint64_t, int32_t> n_tokens_left_;
  uint64_t next_handle_ = 1;
  double now_us_ = 0;
};

GroupLimits Limits() {
  return {.max_num_seqs = 64,
          .max_num_batched_tokens = 2048,
          .max_model_len = 32768,
          .block_size = 16,
          .n_blocks = 16384,
          .vocab_size = 1000};
}

// Idle part of the worst stage while `contexts` decode.
double DecodeBubble(const PipelineCase& config, const std::vector<int32_t>& contexts) {
  PipelineSimulation simulation(config, Limits(), 0);
  for (const int32_t n_tokens : contexts) simulation.Add(n_tokens, 4000);
  simulation.Run(20e6);
  EXPECT_EQ(simulation.n_waiting(), 0);
  simulation.ResetIdle();
  simulation.Run(simulation.now_us() + 2e6);
  return simulation.Bubble();
}

// A stage takes 2 ms, the way to the coordinator and back 0.6, a link 0.02.
constexpr PipelineCase kTwoStages = {2, 300, 20};
constexpr PipelineCase kFourStages = {4, 300, 20};

TEST(SchedulerPipelineTest, EveryStageHasAMicroBatchWhileStreamsDecode) {
  for (const PipelineCase& config : {kTwoStages, kFourStages}) {
    for (const int n_streams : {8, 9, 11, 16, 31}) {
      const double bubble = DecodeBubble(config, std::vector<int32_t>(n_streams, 100));
      EXPECT_LE(bubble, 0.10) << config.n_stages << " stages, " << n_streams << " streams";
    }
  }
}

TEST(SchedulerPipelineTest, WithoutRunAheadStagesWaitForTheCoordinator) {
  PipelineCase config = kFourStages;
  config.run_ahead = false;
  const std::vector<int32_t> contexts(16, 100);
  EXPECT_GT(DecodeBubble(config, contexts), 2 * DecodeBubble(kFourStages, contexts));
}

TEST(SchedulerPipelineTest, MicroBatchesAreBalancedByTimeNotByCount) {
  // A context of 30,000 takes 1.5 ms of a stage, a short one next to nothing.
  std::vector<int32_t> contexts(12, 100);
  for (const int i : {0, 1, 2, 3}) contexts[i] = 28000;
  EXPECT_LE(DecodeBubble(kFourStages, contexts), 0.10);
  contexts[4] = contexts[5] = contexts[6] = 14000;
  EXPECT_LE(DecodeBubble(kTwoStages, contexts), 0.10);
}

TEST(SchedulerPipelineTest, ALongPromptFlowsThroughTheStages) {
  // One after the other, four stages would idle three quarters of their time.
  for (const PipelineCase& config : {kTwoStages, kFourStages}) {
    PipelineSimulation simulation(config, Limits(), 0);
    simulation.Add(2048, 2);  // a first one to learn from
    simulation.Run(1e9);
    simulation.ResetIdle();
    simulation.Add(16000, 1);
    simulation.Run(1e9);
    EXPECT_LE(simulation.Bubble(), 0.20) << config.n_stages << " stages";
  }
}

TEST(SchedulerPipelineTest, PromptsBesideStreamsKeepTheStagesBusy) {
  for (const PipelineCase& config : {kTwoStages, kFourStages}) {
    PipelineSimulation simulation(config, Limits(), 40e3);
    for (int i = 0; i < 8; ++i) simulation.Add(200, 8000);
    simulation.Run(2e6);
    simulation.ResetIdle();
    std::mt19937_64 random(1);
    for (int i = 0; i < 100; ++i) simulation.Add(static_cast<int32_t>(50 + random() % 2000), 20);
    simulation.Run(simulation.now_us() + 2e6);
    EXPECT_GT(simulation.n_waiting(), 0);
    EXPECT_LE(simulation.Bubble(), 0.10) << config.n_stages << " stages";
  }
}

}  // namespace
}  // namespace bora
