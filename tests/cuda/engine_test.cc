// A whole model through the stage on a GPU, every kernel of it included.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "model/checkpoint/dummy_weights.h"
#include "model/planning/partition.h"
#include "tests/cuda/cuda_ranks.h"
#include "tests/cuda/cuda_testing.h"
#include "tests/worker/local_group.h"
#include "tests/worker/plan_builder.h"
#include "tests/worker/reference_compare.h"
#include "tests/worker/tiny_model.h"
#include "tests/worker/workload.h"

namespace bora {
namespace {

constexpr uint64_t kSeed = 20;

class CudaEngineTest : public CudaTest {
 protected:
  std::unique_ptr<LocalGroup> StartGroup(const CudaRankOptions& options,
                                         const GroupLimits& limits = TinyLimits()) {
    auto group = LocalGroup::Start(
        DummyWeights(TinyConfig(), kSeed),
        {.limits = limits, .precision = DType::kBf16, .make_rank = CudaRanks(options)});
    EXPECT_TRUE(group.ok()) << group.status();
    return group.ok() ? *std::move(group) : nullptr;
  }
};
INSTANTIATE_TEST_SUITE_P(, CudaEngineTest, testing::ValuesIn(CudaRunModes()), CudaRunModeName);

// Eight roundings of bf16 a layer: the inputs of four products, queries, keys, values and the
// weights of values.
TEST_P(CudaEngineTest, LogprobsAgreeWithFloat64AndTheCpu) {
  const DummyWeights source(TinyConfig(), kSeed);
  const auto group = StartGroup({.poison_kv = true});
  ASSERT_NE(group, nullptr);
  const auto cpu = LocalGroup::Start(source, {.limits = TinyLimits(), .precision = DType::kBf16});
  ASSERT_TRUE(cpu.ok()) << cpu.status();
  const std::vector<WorkRequest> requests = GreedyRequests(kSeed);
  const auto outcomes = RunShuffled(*group, requests, 3, kSeed);
  ASSERT_TRUE(outcomes.ok()) << outcomes.status();
  double worst = 0, worst_cpu = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    const WorkOutcome& outcome = (*outcomes)[i];
    const std::vector<int32_t> tokens = TokensOf(requests[i], outcome);
    const int64_t vocab_size = TinyConfig().vocab_size;
    const reference::Vector logprobs = ReferenceLogprobs(source, DType::kBf16, tokens);
    ASSERT_EQ(outcome.prompt_logprobs.size() + outcome.sampled.size(), tokens.size() - 1);
    worst = std::max({worst, WorstDifference(outcome.prompt_logprobs, logprobs, vocab_size),
                      WorstDifference(outcome.sampled, logprobs, vocab_size)});
    // The CPU scores the same tokens.
    WorkRequest scored = requests[i];
    scored.prompt = tokens;
    scored.n_generate = 1;
    const auto on_cpu = RunAlone(**cpu, {scored});
    ASSERT_TRUE(on_cpu.ok()) << on_cpu.status();
    for (size_t j = 0; j < outcome.prompt_logprobs.size(); ++j) {
      const SampledToken& token = outcome.prompt_logprobs[j];
      const SampledToken& other = (*on_cpu)[0].prompt_logprobs[j];
      ASSERT_EQ(token.token_id, other.token_id);
      worst_cpu = std::max<double>(worst_cpu, std::abs(token.logprob - other.logprob));
    }
  }
  std::printf("worst: %.3g, tolerance %.3g; beside the CPU: %.3g, tolerance %.3g\n", worst,
              Bf16Tolerance(8), worst_cpu, Bf16Tolerance(8) + Bf16Tolerance(6));
  EXPECT_LE(worst, Bf16Tolerance(8));
  EXPECT_LE(worst_cpu, Bf16Tolerance(8) + Bf16Tolerance(6));
}

// Chunks, batches, preemption, tokens that the host has not seen yet, two plans at a time: no bit
// changes, with graphs or without, also when the KV cache is NaN wherever nothing was written.
TEST_P(CudaEngineTest, BatchedChunkedPreemptedEqualsAlone) {
  const std::vector<WorkRequest> requests = RandomRequests(TinyLimits(), 8, kSeed);
  const auto eager = StartGroup({.poison_kv = true, .use_graphs = false});
  ASSERT_NE(eager, nullptr);
  const auto alone = RunAlone(*eager, requests);
  ASSERT_TRUE(alone.ok()) << alone.status();
  for (const bool use_graphs : {false, true}) {
    const auto group = StartGroup({.poison_kv = true, .use_graphs = use_graphs});
    ASSERT_NE(group, nullptr);
    for (const int max_in_flight : use_graphs ? std::vector<int>{1, 4} : std::vector<int>{4}) {
      const auto shuffled = RunShuffled(*group, requests, max_in_flight, kSeed + max_in_flight);
      ASSERT_TRUE(shuffled.ok()) << shuffled.status();
      for (size_t i = 0; i < requests.size(); ++i) {
        ASSERT_EQ((*alone)[i], (*shuffled)[i])
            << "request " << i << " of seed " << kSeed << ", at most " << max_in_flight
            << " plans in flight, " << (use_graphs ? "with" : "without") << " graphs";
      }
    }
  }
}

TEST_P(CudaEngineTest, OtherLimitsInTheNextEpochChangeNoBit) {
  const std::vector<WorkRequest> requests = RandomRequests(TinyLimits(), 4, kSeed + 1);
  const auto group = StartGroup({.poison_kv = true});
  ASSERT_NE(group, nullptr);
  const auto before = RunAlone(*group, requests);
  ASSERT_TRUE(before.ok()) << before.status();
  GroupLimits limits = TinyLimits();
  limits.max_num_seqs = 3;
  limits.block_size = 16;
  limits.n_blocks = 40;
  limits.max_num_batched_tokens = 50;
  ASSERT_TRUE(group->NextEpoch(limits).ok());
  const auto after = RunShuffled(*group, requests, 2, kSeed);
  ASSERT_TRUE(after.ok()) << after.status();
  EXPECT_EQ(*before, *after);
}

// The answer that a plan is not done yet must not fail the next one. The copies that
// tests/cuda_host makes at once leave nothing to be answered so.
TEST_P(CudaEngineTest, PlansBeginAfterOthersWereSeenUnfinished) {
  constexpr int kPlans = 10;  // some of which grant blocks, by a kernel outside of the graph
  const bool at_once = absl::StartsWith(GetParam(), "Eager");
  const auto partition = MakePartition(TinyConfig(), 1, 1);
  ASSERT_TRUE(partition.ok()) << partition.status();
  std::vector<std::vector<int32_t>> drawn;
  for (const bool use_graphs : {false, true}) {
    const auto rank = CudaRanks({.use_graphs = use_graphs})(
        DummyWeights(TinyConfig(), kSeed), ShapeOfRank(TinyConfig(), *partition, 0, 0));
    ASSERT_TRUE(rank.ok()) << rank.status();
    const absl::Status begun = (*rank)->BeginEpoch({.epoch = 1, .limits = TinyLimits()});
    ASSERT_TRUE(begun.ok()) << begun;
    PlanBuilder builder(TinyLimits(), /*epoch=*/1, kSeed);
    builder.Open(/*slot=*/2, {7}, /*n_prompt_tokens=*/1, {.temperature = 0});
    builder.AddRow(2, {7}, {.sample = true});
    int n_unfinished = 0;
    std::vector<int32_t>& tokens = drawn.emplace_back();
    const auto finish = [&] {
      const absl::StatusOr<std::optional<StepResult>> result = (*rank)->Finish();
      ASSERT_TRUE(result.ok()) << result.status();
      ASSERT_TRUE(result->has_value() && (*result)->sampled.size() == 1);
      tokens.push_back((*result)->sampled[0].token_id);
    };
    for (int i = 0; i < kPlans; ++i) {
      if (i > 0) {
        n_unfinished += (*rank)->IsDone() ? 0 : 1;
        builder.AddLastSampledRow(2, /*sample=*/true);
      }
      const absl::Status status = (*rank)->Begin(builder.Take());
      ASSERT_TRUE(status.ok()) << status;
      if (i > 0) finish();
    }
    finish();
    // Kernels that the host queues one by one may be done as soon as it has queued the last.
    if (use_graphs) {
      EXPECT_EQ(n_unfinished > 0, !at_once);
    }
    EXPECT_EQ(tokens.size(), size_t{kPlans});
  }
  EXPECT_EQ(drawn[0], drawn[1]);
}

TEST_P(CudaEngineTest, ABadPlanIsRefusedAndTheNextEpochServes) {
  const auto group = StartGroup({});
  ASSERT_NE(group, nullptr);
  StepPlan plan;
  plan.epoch = group->epoch();
  plan.rows.push_back({.slot = 5, .n_tokens = 1});
  plan.tokens = {1};
  EXPECT_EQ(group->RunStep(plan).status().code(), absl::StatusCode::kInvalidArgument);
  const std::vector<WorkRequest> requests = RandomRequests(TinyLimits(), 1, kSeed);
  EXPECT_TRUE(RunAlone(*group, requests).ok());
}

TEST_P(CudaEngineTest, AModelThatKernelsDoNotTakeIsRefused) {
  ModelConfig config = TinyConfig();
  config.hidden_dim = 100;
  const auto group = LocalGroup::Start(DummyWeights(config, kSeed),
                                       {.limits = TinyLimits(), .make_rank = CudaRanks({})});
  EXPECT_EQ(group.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(group.status().message().find("hidden_dim of a rank: 100 is not a multiple of 16"),
            absl::string_view::npos)
      << group.status();
}

}  // namespace
}  // namespace bora
