// Groups of ranks on GPUs, each rank a thread of this process and linked with the others by a
// library with NCCL's interface: every division of a model gives the bits of one rank, and a group
// ends and begins anew whatever its ranks are doing.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "model/checkpoint/dummy_weights.h"
#include "tests/cuda/cuda_ranks.h"
#include "tests/cuda/cuda_testing.h"
#include "tests/cuda/test_nccl.h"
#include "tests/worker/local_group.h"
#include "tests/worker/reference_compare.h"
#include "tests/worker/tiny_model.h"
#include "tests/worker/workload.h"

namespace bora {
namespace {

constexpr uint64_t kSeed = 31;

const NcclLibrary& Nccl() {
  static const auto* const library =
      new absl::StatusOr<std::unique_ptr<NcclLibrary>>(OpenTestNccl());
  CHECK_OK(library->status());
  return ***library;
}

// Its matrices can be cut for eight ranks.
ModelConfig EightRanksConfig() {
  ModelConfig config = TinyConfig();
  config.hidden_dim = 128;
  return config;
}

struct Layout {
  int tp_size;
  int pp_size;
};

class CudaGroupTest : public CudaTest {
 protected:
  static absl::StatusOr<std::unique_ptr<LocalGroup>> Start(const Layout& layout,
                                                           CudaRankOptions options,
                                                           const ModelConfig& config) {
    options.nccl = &Nccl();
    options.poison_kv = true;
    return LocalGroup::Start(DummyWeights(config, kSeed), {.tp_size = layout.tp_size,
                                                           .pp_size = layout.pp_size,
                                                           .limits = TinyLimits(),
                                                           .precision = DType::kBf16,
                                                           .make_rank = CudaRanks(options)});
  }
  static std::unique_ptr<LocalGroup> StartGroup(const Layout& layout, CudaRankOptions options = {},
                                                const ModelConfig& config = EightRanksConfig()) {
    auto group = Start(layout, options, config);
    EXPECT_TRUE(group.ok()) << group.status();
    return group.ok() ? *std::move(group) : nullptr;
  }

  static std::vector<WorkOutcome> Alone(const std::vector<WorkRequest>& requests,
                                        const ModelConfig& config = EightRanksConfig()) {
    const auto group = StartGroup({1, 1}, {}, config);
    auto outcomes = RunAlone(*group, requests);
    EXPECT_TRUE(outcomes.ok()) << outcomes.status();
    return outcomes.ok() ? *std::move(outcomes) : std::vector<WorkOutcome>();
  }

  static void ExpectSame(LocalGroup& group, const std::vector<WorkRequest>& requests,
                         const std::vector<WorkOutcome>& want, int max_in_flight,
                         const std::string& what) {
    const auto got = RunShuffled(group, requests, max_in_flight, kSeed + max_in_flight);
    ASSERT_TRUE(got.ok()) << what << ": " << got.status();
    ASSERT_EQ(got->size(), want.size());
    for (size_t i = 0; i < want.size(); ++i) {
      ASSERT_EQ((*got)[i], want[i])
          << what << ", request " << i << ", at most " << max_in_flight << " plans in flight";
    }
  }
};
// Orders of threads inside a kernel are other tests' concern: the two extremes of streams.
std::vector<std::string> StreamModes() {
  std::vector<std::string> modes = CudaRunModes();
  modes.resize(2);
  return modes;
}
INSTANTIATE_TEST_SUITE_P(, CudaGroupTest, testing::ValuesIn(StreamModes()), CudaRunModeName);

TEST_P(CudaGroupTest, EveryLayoutGivesTheBitsOfOneRank) {
  const std::vector<WorkRequest> requests = RandomRequests(TinyLimits(), 4, kSeed);
  const std::vector<WorkOutcome> alone = Alone(requests);
  for (const Layout layout : {Layout{2, 1}, {1, 2}, {2, 2}, {4, 1}, {1, 4}}) {
    const auto group = StartGroup(layout);
    ASSERT_NE(group, nullptr);
    const std::string what = absl::StrCat("TP ", layout.tp_size, " PP ", layout.pp_size);
    ExpectSame(*group, requests, alone, 1 + layout.pp_size, what);
  }
}

// A GPU's matrices have four leaves at most, so that eight ranks have bits of their own; those do
// not depend on the load either. Two of the ranks share each KV head.
TEST_P(CudaGroupTest, EightRanksGiveTheSameBitsAtAnyLoad) {
  const std::vector<WorkRequest> requests = RandomRequests(TinyLimits(), 3, kSeed + 3);
  const auto group = StartGroup({8, 1});
  ASSERT_NE(group, nullptr);
  const auto alone = RunAlone(*group, requests);
  ASSERT_TRUE(alone.ok()) << alone.status();
  ExpectSame(*group, requests, *alone, 2, "TP 8");
}

TEST_P(CudaGroupTest, GraphsChangeNoBit) {
  const std::vector<WorkRequest> requests = RandomRequests(TinyLimits(), 4, kSeed + 1);
  const std::vector<WorkOutcome> alone = Alone(requests);
  const auto group = StartGroup({2, 2}, {.use_graphs = false});
  ASSERT_NE(group, nullptr);
  ExpectSame(*group, requests, alone, 4, "without graphs");
}

// Sums of another order are other bits, but right ones: greedy tokens of this model agree.
TEST_P(CudaGroupTest, SumsByNcclGiveTheSameTokens) {
  std::vector<WorkRequest> requests = GreedyRequests(kSeed);
  requests.resize(2);
  const std::vector<WorkOutcome> alone = Alone(requests);
  const auto group = StartGroup({2, 1}, {.deterministic = false});
  ASSERT_NE(group, nullptr);
  const auto got = RunAlone(*group, requests);
  ASSERT_TRUE(got.ok()) << got.status();
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_EQ(TokensOf(requests[i], (*got)[i]), TokensOf(requests[i], alone[i]));
  }
}

TEST_P(CudaGroupTest, ANewEpochServesWhateverTheLastOneWasDoing) {
  const std::vector<WorkRequest> requests = RandomRequests(TinyLimits(), 2, kSeed + 2);
  const std::vector<WorkOutcome> alone = Alone(requests);
  const auto group = StartGroup({2, 2});
  ASSERT_NE(group, nullptr);
  ExpectSame(*group, requests, alone, 3, "first epoch");
  ASSERT_TRUE(group->NextEpoch().ok());
  ExpectSame(*group, requests, alone, 3, "after an idle epoch");
  // One rank has a plan that its peers never get: it waits in the middle of a step.
  for (const int rank : {0, 1, 2, 3}) {
    StepPlan plan;
    plan.epoch = group->epoch();
    plan.opened = {{.slot = 0, .n_prompt_tokens = 3}};
    plan.grants = {{0, 0, 0}};
    plan.rows = {{.slot = 0, .n_tokens = 3, .sample = true}};
    plan.tokens = {1, 2, 3};
    group->SubmitTo(rank, plan);
    const absl::Status next = group->NextEpoch();
    ASSERT_TRUE(next.ok()) << "rank " << rank << ": " << next;
  }
  ExpectSame(*group, requests, alone, 3, "after ranks that were left alone");
}

// The sampler has a step that never gets its activations, and then a plan with more prompts to
// count than it has room for at a time.
TEST_P(CudaGroupTest, ARankThatCountsPromptsBehindAStuckStepLeavesTheGroup) {
  GroupLimits limits = TinyLimits();
  limits.max_num_seqs = 12;
  auto started = LocalGroup::Start(DummyWeights(EightRanksConfig(), kSeed),
                                   {.pp_size = 2,
                                    .limits = limits,
                                    .precision = DType::kBf16,
                                    .make_rank = CudaRanks({.nccl = &Nccl()})});
  ASSERT_TRUE(started.ok()) << started.status();
  LocalGroup& group = **started;
  StepPlan stuck;
  stuck.epoch = group.epoch();
  stuck.opened = {{.slot = 0, .n_prompt_tokens = 3}};
  stuck.grants = {{0, 0, 0}};
  stuck.rows = {{.slot = 0, .n_tokens = 3, .sample = true}};
  stuck.tokens = {1, 2, 3};
  group.SubmitTo(1, stuck);
  StepPlan counts;
  counts.epoch = group.epoch();
  counts.step_id = 1;
  for (int32_t slot = 1; slot <= 10; ++slot) {
    counts.opened.push_back({.slot = slot,
                             .n_prompt_tokens = 3,
                             .sampling = {.presence_penalty = 1},
                             .known_tokens = {1, 2, 3}});
  }
  group.SubmitTo(1, counts);
  const absl::Status next = group.NextEpoch();
  ASSERT_TRUE(next.ok()) << next;
  EXPECT_TRUE(RunAlone(group, RandomRequests(limits, 1, kSeed)).ok());
}

TEST_P(CudaGroupTest, ABadPlanIsRefusedAndTheNextEpochServes) {
  const auto group = StartGroup({2, 2});
  ASSERT_NE(group, nullptr);
  StepPlan plan;
  plan.epoch = group->epoch();
  plan.rows.push_back({.slot = 5, .n_tokens = 1});
  plan.tokens = {1};
  EXPECT_EQ(group->RunStep(plan).status().code(), absl::StatusCode::kInvalidArgument);
  ASSERT_TRUE(group->NextEpoch().ok());
  const std::vector<WorkRequest> requests = RandomRequests(TinyLimits(), 1, kSeed);
  EXPECT_TRUE(RunAlone(*group, requests).ok());
}

TEST_P(CudaGroupTest, WhatDoesNotFitAGroupIsRefusedByName) {
  ModelConfig config = TinyConfig();  // 96 hidden columns: 24 for each of four ranks
  EXPECT_EQ(Start({4, 1}, {}, config).status().message(),
            "rank 0: hidden_dim of a rank: 24 is not a multiple of 16, as a GPU takes it");
  const auto without_nccl =
      LocalGroup::Start(DummyWeights(config, kSeed), {.tp_size = 2,
                                                      .limits = TinyLimits(),
                                                      .precision = DType::kBf16,
                                                      .make_rank = CudaRanks({})});
  EXPECT_EQ(without_nccl.status().message(), "rank 0: a group of 2 GPUs needs NCCL");
}

}  // namespace
}  // namespace bora
