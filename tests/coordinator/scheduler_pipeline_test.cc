// How well plans fill a pipeline: the scheduler against stages that take the time of a stated cost
// model, on a clock that is simulated.
#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "tests/coordinator/simulated_pipeline.h"

namespace bora {
namespace {

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
  SimulatedPipeline simulation(config, Limits(), 0);
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
    SimulatedPipeline simulation(config, Limits(), 0);
    simulation.Add(2048, 2);  // a first one to learn from
    simulation.Run(SimulatedPipeline::kForever);
    simulation.ResetIdle();
    simulation.Add(16000, 1);
    simulation.Run(SimulatedPipeline::kForever);
    EXPECT_LE(simulation.Bubble(), 0.20) << config.n_stages << " stages";
  }
}

TEST(SchedulerPipelineTest, PromptsBesideStreamsKeepTheStagesBusy) {
  for (const PipelineCase& config : {kTwoStages, kFourStages}) {
    SimulatedPipeline simulation(config, Limits(), 40e3);
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
