#include "model/planning/layout_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "model/planning/partition.h"
#include "tests/model/mistral_7b.h"

namespace bora {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

DeviceFleet H200s(int n_devices) {
  return {.n_devices = n_devices,
          .devices_per_host = std::min(n_devices, 8),
          .memory_bytes = 141'000'000'000};
}

PlannedLoad Load(int64_t context_tokens, int64_t n_sequences) {
  return {.context_tokens = context_tokens, .n_sequences = n_sequences};
}

LayoutPlan Find(const std::vector<LayoutPlan>& plans, const Layout& layout) {
  for (const LayoutPlan& plan : plans) {
    if (plan.layout == layout) return plan;
  }
  ADD_FAILURE() << "no " << layout.tp_size << "x" << layout.pp_size << "x" << layout.n_replicas;
  return plans.front();
}

std::string MessageOf(const LayoutPlan& plan) { return std::string(plan.fits.message()); }

TEST(LayoutPlanTest, ListsEveryWayToUseAllDevices) {
  const auto plans = PlanLayouts(Mistral7B(), H200s(8), Load(8192, 64));
  EXPECT_EQ(plans.size(), 10u);  // 4 + 3 + 2 + 1 divisors of 8, 4, 2 and 1
  for (const LayoutPlan& plan : plans) {
    EXPECT_EQ(plan.layout.n_ranks() * plan.layout.n_replicas, 8);
    EXPECT_TRUE(plan.fits.ok()) << plan.fits;
  }
  // Tensor groups stay inside a host.
  for (const LayoutPlan& plan : PlanLayouts(Mistral7B(), H200s(16), Load(8192, 64))) {
    EXPECT_LE(plan.layout.tp_size, 8);
  }
}

// 141 GB * 0.9 - 14.48 (weights) - 0.49 (2,048 tokens' activations, logits) - 0.54 (driver) leave
// 111.4 GB at 131,072 bytes a token.
TEST(LayoutPlanTest, CountsTheMemoryOfAWholeModel) {
  const auto plans = PlanLayouts(Mistral7B(), H200s(1), Load(8192, 16));
  ASSERT_EQ(plans.size(), 1u);
  const LayoutPlan& plan = plans[0];
  // bf16 but the gains of the norms, which are float.
  EXPECT_EQ(plan.memory.weight_bytes, 2 * ParameterCount(Mistral7B()) + 65 * 4096 * 2);
  EXPECT_NEAR(static_cast<double>(plan.memory.weight_bytes), 14.48e9, 5e6);
  EXPECT_NEAR(static_cast<double>(plan.memory.workspace_bytes), 0.49e9, 0.01e9);
  EXPECT_EQ(plan.memory.kv_token_bytes, 131'072);
  EXPECT_NEAR(static_cast<double>(plan.kv_tokens), 111.4e9 / 131'072, 1000);
  EXPECT_EQ(plan.n_requests, 103);
  EXPECT_EQ(plan.n_sequences, 16);
}

TEST(LayoutPlanTest, MoreRanksHaveMoreRoom) {
  for (const int n_devices : {2, 8, 32}) {
    const auto plans = PlanLayouts(Mistral7B(), H200s(n_devices), Load(8192, 64));
    for (const LayoutPlan& small : plans) {
      for (const LayoutPlan& large : plans) {
        if (small.layout.tp_size > large.layout.tp_size ||
            small.layout.pp_size > large.layout.pp_size) {
          continue;
        }
        EXPECT_LE(small.kv_tokens, large.kv_tokens);
        EXPECT_GE(small.memory.weight_bytes, large.memory.weight_bytes);
      }
    }
  }
}

TEST(LayoutPlanTest, PredictsOneDevice) {
  const LayoutPlan one = PlanLayouts(Mistral7B(), H200s(1), Load(1024, 32))[0];
  EXPECT_NEAR(one.decode_alone_us, 3307 + 1024 * 0.03114, 1);
  EXPECT_NEAR(one.decode_us, 3307 + 32 * 1024 * 0.03114, 2);
  EXPECT_NEAR(one.tokens_per_s, 32 / 4327e-6, 10);
  EXPECT_EQ(one.decode_communication_share, 0);
  const LayoutPlan deep = PlanLayouts(Mistral7B(), H200s(1), Load(8192, 1))[0];
  EXPECT_NEAR(deep.prefill_us, 167.6e3, 0.5e3);
}

// A stage of 16 layers takes half as long; two micro-batches of 64 keep both busy.
TEST(LayoutPlanTest, APipelineKeepsAMicroBatchInEachStage) {
  const auto plans = PlanLayouts(Mistral7B(), H200s(2), Load(1024, 128));
  const LayoutPlan pipeline = Find(plans, {1, 2, 1});
  const double half_us = 3307 / 2.0 + 64 * 1024 * 0.03114 / 2;
  const double hops_us = 2 * kHostHopLatencyUs + 64 * 16384 / 365e3;
  // The last stage has the head, 61 us, half of which the other one does not wait for.
  EXPECT_NEAR(pipeline.decode_us, 2 * half_us + std::max(hops_us, 61.0), 5);
  // Alone, one stage waits for the other: no gain and two hops.
  const double alone_us = PlanLayouts(Mistral7B(), H200s(1), Load(1024, 1))[0].decode_alone_us;
  EXPECT_NEAR(pipeline.decode_alone_us, alone_us + 2 * kHostHopLatencyUs + 16384 / 365e3, 0.1);
  // A prompt's chunks follow each other.
  const LayoutPlan long_prompt =
      Find(PlanLayouts(Mistral7B(), H200s(2), Load(32768, 1)), {1, 2, 1});
  const double one_us = PlanLayouts(Mistral7B(), H200s(1), Load(32768, 1))[0].prefill_us;
  EXPECT_GT(long_prompt.prefill_us, one_us / 2);
  EXPECT_LT(long_prompt.prefill_us, one_us * 0.6);
}

TEST(LayoutPlanTest, HopsAcrossHostsShareTheNetwork) {
  DeviceFleet fleet = H200s(16);
  const LayoutPlan apart = Find(PlanLayouts(Mistral7B(), fleet, Load(1024, 1)), {8, 2, 1});
  fleet.devices_per_host = 16;
  const LayoutPlan together = Find(PlanLayouts(Mistral7B(), fleet, Load(1024, 1)), {8, 2, 1});
  EXPECT_NEAR(apart.decode_alone_us - together.decode_alone_us,
              2 * (kNetworkHopLatencyUs - kHostHopLatencyUs) + 8 * 16384 / 50e3 - 16384 / 365e3,
              1e-6);
}

TEST(LayoutPlanTest, SlowerHardwareIsNeverFaster) {
  const PlannedLoad load = Load(8192, 64);
  const auto fast = PlanLayouts(Mistral7B(), H200s(16), load);
  for (const int part : {0, 1, 2, 3}) {
    DeviceFleet fleet = H200s(16);
    double* const rates[] = {&fleet.device.memory_bytes_per_s, &fleet.device.flop_per_s,
                             &fleet.device.collective_bytes_per_s, &fleet.network_bytes_per_s};
    *rates[part] /= 2;
    const auto slow = PlanLayouts(Mistral7B(), fleet, load);
    ASSERT_EQ(slow.size(), fast.size());
    for (size_t i = 0; i < fast.size(); ++i) {
      EXPECT_GE(slow[i].decode_us, fast[i].decode_us);
      EXPECT_GE(slow[i].prefill_us, fast[i].prefill_us);
      EXPECT_LE(slow[i].tokens_per_s, fast[i].tokens_per_s);
    }
  }
}

TEST(LayoutPlanTest, SaysWithNumbersWhatDoesNotFit) {
  DeviceFleet fleet = H200s(8);
  fleet.memory_bytes = 4'000'000'000;
  const auto plans = PlanLayouts(Mistral7B(), fleet, Load(8192, 8));
  const LayoutPlan whole = Find(plans, {1, 1, 8});
  EXPECT_EQ(whole.fits.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(MessageOf(whole),
              AllOf(HasSubstr("weights 14.48 GB"), HasSubstr("one request of 8192 tokens 1.074 GB"),
                    HasSubstr("takes 3.6 GB of 4 GB")));
  EXPECT_TRUE(Find(plans, {8, 1, 1}).fits.ok()) << Find(plans, {8, 1, 1}).fits;

  fleet = H200s(3);
  const auto thirds = PlanLayouts(Mistral7B(), fleet, Load(8192, 8));
  EXPECT_EQ(Find(thirds, {3, 1, 1}).fits.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(MessageOf(Find(thirds, {3, 1, 1})), HasSubstr("3 does not divide n_heads 32"));
  EXPECT_TRUE(Find(thirds, {1, 3, 1}).fits.ok());
}

TEST(LayoutPlanTest, DecodesNoMoreThanTheCacheHolds) {
  const LayoutPlan plan = PlanLayouts(Mistral7B(), H200s(1), Load(32768, 100))[0];
  EXPECT_EQ(plan.n_requests, 25);
  EXPECT_EQ(plan.n_sequences, 25);
  EXPECT_NEAR(plan.tokens_per_s, 25 / plan.decode_us * 1e6, 1e-6);
}

TEST(LayoutPlanTest, ReplicasWithoutARequestEarnNothing) {
  const LayoutPlan plan = Find(PlanLayouts(Mistral7B(), H200s(8), Load(1024, 3)), {1, 1, 8});
  EXPECT_EQ(plan.n_sequences, 1);
  EXPECT_NEAR(plan.tokens_per_s, 3 * plan.replica_tokens_per_s, 1e-6);
}

TEST(LayoutPlanTest, ChoosesTensorRanksForLatencyAndReplicasForThroughput) {
  const auto plans = PlanLayouts(Mistral7B(), H200s(8), Load(1024, 1024));
  const auto latency = ChooseLayout(plans, PlanObjective::kLatency);
  ASSERT_TRUE(latency.has_value());
  EXPECT_GE(plans[latency->best].layout.tp_size, 4);
  const auto throughput = ChooseLayout(plans, PlanObjective::kThroughput);
  ASSERT_TRUE(throughput.has_value());
  EXPECT_EQ(plans[throughput->best].layout, (Layout{1, 1, 8}));
  ASSERT_TRUE(throughput->next.has_value());
  EXPECT_NE(*throughput->next, throughput->best);
}

TEST(LayoutPlanTest, ChoosesNothingWhereNothingFits) {
  DeviceFleet fleet = H200s(2);
  fleet.memory_bytes = 1'000'000'000;
  const auto plans = PlanLayouts(Mistral7B(), fleet, Load(8192, 8));
  EXPECT_FALSE(ChooseLayout(plans, PlanObjective::kThroughput).has_value());
}

}  // namespace
}  // namespace bora
