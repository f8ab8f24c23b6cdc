// The simulated device takes the time that it is told, gives the same tokens however a request is
// served, and checks plans as a real one does.
#include "worker/sim/sim_rank.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/clock.h"
#include "model/checkpoint/dummy_weights.h"
#include "tests/worker/local_group.h"
#include "tests/worker/plan_builder.h"
#include "tests/worker/tiny_model.h"
#include "tests/worker/workload.h"

namespace bora {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr uint64_t kSeed = 31;
constexpr SimCost kNoCost = {.base_us = 0, .token_us = 0, .context_us = 0};

std::unique_ptr<LocalGroup> StartGroup(LocalGroupOptions options, const SimCost& cost) {
  options.limits = TinyLimits();
  options.sim_cost = cost;
  auto group = LocalGroup::Start(DummyWeights(TinyConfig(), kSeed), options);
  CHECK_OK(group.status());
  return *std::move(group);
}

// One request of three prompt tokens; its first two tokens, the second run ahead or not.
std::vector<SampledToken> FirstTokens(const SamplingParams& sampling, bool run_ahead) {
  const auto group = StartGroup({.pp_size = 2}, kNoCost);
  PlanBuilder builder(TinyLimits(), group->epoch());
  builder.Open(0, 3, sampling);
  builder.AddRow(0, {1, 2, 3}, {.sample = true});
  const StepPlan first = builder.Take();
  std::vector<SampledToken> tokens;
  const auto take = [&] {
    const auto result = group->WaitResult();
    CHECK_OK(result.status());
    tokens.insert(tokens.end(), result->sampled.begin(), result->sampled.end());
  };
  group->Submit(first);
  if (!run_ahead) take();
  if (run_ahead) {
    builder.AddLastSampledRow(0, true);
  } else {
    builder.AddRow(0, {tokens[0].token_id}, {.sample = true});
  }
  group->Submit(builder.Take());
  while (tokens.size() < 2) take();
  return tokens;
}

class SimRankShapeTest : public testing::TestWithParam<std::pair<int, int>> {};

TEST_P(SimRankShapeTest, BatchedChunkedPreemptedEqualsAloneOnOneRank) {
  const auto [tp_size, pp_size] = GetParam();
  const std::vector<WorkRequest> requests = RandomRequests(TinyLimits(), 12, kSeed);
  const auto alone = RunAlone(*StartGroup({}, kNoCost), requests);
  ASSERT_TRUE(alone.ok()) << alone.status();
  const auto group = StartGroup({.tp_size = tp_size, .pp_size = pp_size},
                                {.base_us = 100, .token_us = 1, .context_us = 0});
  for (const int max_in_flight : {1, 5}) {
    const auto shuffled = RunShuffled(*group, requests, max_in_flight, kSeed);
    ASSERT_TRUE(shuffled.ok()) << shuffled.status();
    EXPECT_EQ(*shuffled, *alone);
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, SimRankShapeTest,
                         testing::Values(std::pair(1, 1), std::pair(2, 1), std::pair(1, 4),
                                         std::pair(2, 2)),
                         [](const auto& info) {
                           return "Tp" + std::to_string(info.param.first) + "Pp" +
                                  std::to_string(info.param.second);
                         });

TEST(SimRankTest, ATokenDependsOnSeedAndPosition) {
  const auto ids = [](const SamplingParams& sampling) {
    const std::vector<SampledToken> tokens = FirstTokens(sampling, false);
    return std::pair(tokens[0].token_id, tokens[1].token_id);
  };
  const auto one = ids({.seed = 1});
  EXPECT_NE(one.first, one.second);
  EXPECT_EQ(ids({.seed = 1}), one);
  EXPECT_NE(ids({.seed = 2}), one);
  EXPECT_EQ(ids({.temperature = 0, .seed = 1}), ids({.temperature = 0, .seed = 2}));
}

TEST(SimRankTest, RunningAheadChangesNoToken) {
  const SamplingParams sampling = {.seed = 9, .n_logprobs = 2};
  EXPECT_EQ(FirstTokens(sampling, true), FirstTokens(sampling, false));
}

TEST(SimRankTest, GivesNoStopToken) {
  SamplingParams sampling = {.seed = 1};
  const int32_t drawn = FirstTokens(sampling, false)[0].token_id;
  ASSERT_LT(drawn, 255);
  sampling.stop_token_ids = {drawn, drawn + 1};
  EXPECT_EQ(FirstTokens(sampling, false)[0].token_id, drawn + 2);
}

TEST(SimRankTest, ReportsEqualProbabilities) {
  const float logprob = -std::log(257.0f);
  const SampledToken token = FirstTokens({.seed = 5, .n_logprobs = 3}, false)[0];
  EXPECT_EQ(token.position, 3);
  EXPECT_FLOAT_EQ(token.logprob, logprob);
  EXPECT_EQ(token.rank, 1);
  std::set<int32_t> ids;
  for (const TokenLogprob& top : token.top) {
    EXPECT_EQ(top.logprob, token.logprob);
    ids.insert(top.token_id);
  }
  EXPECT_EQ(ids.size(), 3u);
  EXPECT_EQ(token.top[0].token_id, token.token_id);
  EXPECT_TRUE(FirstTokens({.seed = 5}, false)[0].top.empty());
}

TEST(SimRankTest, RefusesBadPlans) {
  SimRank rank(TinyConfig(), ShapeOfRank(TinyConfig(), {1, 1, {{0, 4}}}, 0, 0), kNoCost);
  StepPlan plan;
  plan.epoch = 5;
  EXPECT_EQ(rank.Execute(plan).status().code(), absl::StatusCode::kFailedPrecondition);
  EpochOptions options = {.epoch = 5, .limits = TinyLimits()};
  options.limits.vocab_size = 258;
  EXPECT_EQ(rank.BeginEpoch(options).code(), absl::StatusCode::kInvalidArgument);
  options.limits.vocab_size = 257;
  ASSERT_TRUE(rank.BeginEpoch(options).ok());
  plan.epoch = 4;
  EXPECT_EQ(rank.Execute(plan).status().code(), absl::StatusCode::kFailedPrecondition);
  plan.epoch = 5;
  EXPECT_TRUE(rank.Execute(plan).ok());
  plan.rows.push_back({.slot = 0, .position = 0, .n_tokens = 1});
  EXPECT_EQ(rank.Execute(plan).status().code(), absl::StatusCode::kInvalidArgument);
  const auto after = rank.Execute(plan);
  EXPECT_EQ(after.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(after.status().message()), HasSubstr("epoch 5 has failed"));
  rank.EndEpoch();
  EXPECT_TRUE(rank.BeginEpoch(options).ok());
}

// Three tokens behind nothing: 80 + 3 * 4 + 3 * 2 = 98 ms, of which each layer has a quarter. The
// last stage waits for the first at least 72 ms, which is no part of its time.
TEST(SimRankTest, AStageTakesItsLayersShareOfTheStep) {
  const auto group = StartGroup({.pp_size = 2, .layers_per_stage = {3, 1}},
                                {.base_us = 80'000, .token_us = 4'000, .context_us = 2'000});
  PlanBuilder builder(TinyLimits(), group->epoch());
  builder.Open(0, 3, {});
  builder.AddRow(0, {1, 2, 3}, {.sample = true});
  const SteadyTime begin = SteadyNow();
  const auto result = group->RunStep(builder.Take());
  const absl::Duration took = SteadyNow() - begin;
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_EQ(result->stage_us.size(), 2u);
  std::printf("stages %lld and %lld us, step %.1f ms\n",
              static_cast<long long>(result->stage_us[0]),
              static_cast<long long>(result->stage_us[1]), absl::ToDoubleMilliseconds(took));
  EXPECT_GE(result->stage_us[0], 73'500);
  EXPECT_GE(result->stage_us[1], 24'500);
  EXPECT_LT(result->stage_us[1], 73'500);
  EXPECT_GE(took, absl::Milliseconds(98));
  const auto empty = group->RunStep(builder.Take());
  ASSERT_TRUE(empty.ok()) << empty.status();
  EXPECT_THAT(empty->stage_us, ElementsAre(0, 0));
}

}  // namespace
}  // namespace bora
