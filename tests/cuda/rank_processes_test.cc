// Groups of GPU ranks as processes, with no coordinator: each makes the same plans. Linked twice:
// with the operations on the CPU and a library with NCCL's interface, and for a GPU with NCCL
// itself. There all ranks share one GPU: NCCL takes them for ranks of different hosts and connects
// them by sockets over loopback, which is slow and proves nothing about speed, but the collectives,
// their order, and what happens when a process dies are the real ones.
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/host/unique_fd.h"
#include "base/status_macros.h"
#include "model/checkpoint/dummy_weights.h"
#include "model/planning/partition.h"
#include "tests/cuda/cuda_ranks.h"
#include "tests/cuda/test_nccl.h"
#include "tests/worker/comm/comm_test_util.h"
#include "tests/worker/plan_builder.h"
#include "tests/worker/tiny_model.h"

namespace bora {
namespace {

constexpr uint64_t kSeed = 5;
constexpr int kSteps = 24;
constexpr int64_t kEpoch = 1;  // of ForkedRanks

ModelConfig Config() {
  ModelConfig config = TinyConfig();
  config.hidden_dim = 128;
  return config;
}

// Two prompts, one of them in two chunks, and then steps of decoding on tokens that no plan names.
std::vector<StepPlan> Plans() {
  PlanBuilder builder(TinyLimits(), kEpoch);
  std::vector<StepPlan> plans;
  std::vector<int32_t> prompt(30);
  for (size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<int32_t>(7 * i % 257);
  const absl::Span<const int32_t> tokens(prompt);
  SamplingParams sampling = {.temperature = 0.9f, .seed = 3, .n_logprobs = 2};
  builder.Open(0, 30, sampling);
  builder.AddRow(0, tokens.first(17), {});
  plans.push_back(builder.Take());
  sampling.temperature = 0;
  builder.Open(1, 5, sampling);
  builder.AddRow(0, tokens.subspan(17), {.sample = true});
  builder.AddRow(1, tokens.first(5), {.sample = true});
  plans.push_back(builder.Take());
  for (int step = 0; step < kSteps; ++step) {
    builder.AddLastSampledRow(0, true);
    builder.AddLastSampledRow(1, true);
    plans.push_back(builder.Take());
  }
  return plans;
}

// What lets NCCL see one GPU as several hosts': the rank's own name of its host.
void PrepareEnvironment(int rank) {
  setenv("NCCL_HOSTID", absl::StrCat("rank-", rank).c_str(), 1);
  setenv("NCCL_SOCKET_IFNAME", "=lo", 1);
  setenv("NCCL_IB_DISABLE", "1", 1);
  setenv("NCCL_MAX_CTAS", "2", 1);
}

absl::StatusOr<std::unique_ptr<StepExecutor>> MakeRank(const RankPlace& place,
                                                       const NcclLibrary* nccl) {
  ASSIGN_OR_RETURN(const Partition partition,
                   MakePartition(Config(), place.tp_size, place.pp_size));
  return CudaRanks({.poison_kv = true, .nccl = nccl})(
      DummyWeights(Config(), kSeed), ShapeOfRank(Config(), partition, place.stage, place.tp_rank));
}

absl::Status Begin(StepExecutor& rank, int pp_size, Mesh* mesh) {
  return rank.BeginEpoch({.epoch = kEpoch,
                          .limits = TinyLimits(),
                          .pp_size = pp_size,
                          .mesh = mesh,
                          .deadline = SteadyNow() + absl::Seconds(60)});
}

// All plans, as many at a time as the rank takes.
absl::StatusOr<std::vector<StepResult>> RunPlans(StepExecutor& rank) {
  std::vector<StepResult> results;
  int n_begun = 0;
  const auto finish = [&]() -> absl::Status {
    ASSIGN_OR_RETURN(auto result, rank.Finish());
    --n_begun;
    if (result.has_value()) results.push_back(*std::move(result));
    return absl::OkStatus();
  };
  for (const StepPlan& plan : Plans()) {
    while (n_begun == rank.max_begun()) RETURN_IF_ERROR(finish());
    RETURN_IF_ERROR(rank.Begin(plan));
    ++n_begun;
    // As a worker asks between two plans.
    rank.IsDone();
  }
  while (n_begun > 0) RETURN_IF_ERROR(finish());
  return results;
}

absl::Status ExpectSameResults(const std::vector<StepResult>& got,
                               const std::vector<StepResult>& want) {
  if (got.size() != want.size()) {
    return absl::InternalError(absl::StrCat(got.size(), " results, want ", want.size()));
  }
  for (size_t i = 0; i < want.size(); ++i) {
    if (got[i].sampled == want[i].sampled) continue;
    return absl::InternalError(absl::StrCat("plan ", i, " has other tokens or bits"));
  }
  return absl::OkStatus();
}

RankPlace PlaceOf(int rank, int tp_size, int pp_size) {
  return {
      .stage = rank / tp_size, .tp_rank = rank % tp_size, .pp_size = pp_size, .tp_size = tp_size};
}

// The life of a rank that has peers; the sampler compares with a rank of its own that has none.
absl::Status RunInGroup(Mesh& mesh, int tp_size, int pp_size) {
  const RankPlace place = PlaceOf(mesh.my_rank(), tp_size, pp_size);
  PrepareEnvironment(place.rank());
  ASSIGN_OR_RETURN(const auto nccl, OpenTestNccl());
  ASSIGN_OR_RETURN(const auto rank, MakeRank(place, nccl.get()));
  RETURN_IF_ERROR(Begin(*rank, pp_size, &mesh));
  ASSIGN_OR_RETURN(const auto results, RunPlans(*rank));
  // Nobody leaves while others have plans to finish: that counts as a failure.
  RETURN_IF_ERROR(mesh.Barrier(AllRanks(place.n_ranks())));
  rank->EndEpoch();
  if (!place.is_sampler()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const auto alone, MakeRank({}, nullptr));
  RETURN_IF_ERROR(Begin(*alone, 1, nullptr));
  ASSIGN_OR_RETURN(const auto want, RunPlans(*alone));
  return ExpectSameResults(results, want);
}

// Exit status of a child that has no device to run on.
bool HasDevice() {
  // In a child: a process that has used CUDA must not fork.
  const pid_t pid = fork();
  if (pid == 0) _exit(OpenCudaDevice(0).ok() ? 0 : 1);
  int status = 0;
  return waitpid(pid, &status, 0) == pid && status == 0;
}

class RankProcessesTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!HasDevice()) GTEST_SKIP() << "there is no GPU";
    if (const auto nccl = OpenTestNccl(); !nccl.ok()) GTEST_SKIP() << nccl.status().message();
  }
  void ExpectBytesOfOneRank(int tp_size, int pp_size) {
    const int n_ranks = tp_size * pp_size;
    ForkedRanks ranks(n_ranks, n_ranks, Wiring::kSharedMemory,
                      [&](Mesh& mesh) { return RunInGroup(mesh, tp_size, pp_size); });
    for (int rank = 0; rank < n_ranks; ++rank) EXPECT_EQ(ranks.Wait(rank), 0) << "rank " << rank;
  }
};

TEST_F(RankProcessesTest, TwoTensorRanksGiveTheBytesOfOne) { ExpectBytesOfOneRank(2, 1); }
TEST_F(RankProcessesTest, TwoStagesGiveTheBytesOfOne) { ExpectBytesOfOneRank(1, 2); }
TEST_F(RankProcessesTest, TwoByTwoGiveTheBytesOfOne) { ExpectBytesOfOneRank(2, 2); }

// A rank stops answering in the middle of its plans and is killed. The others wait in collectives
// that cannot end; each must notice, give up its communicators, and be able to go on.
TEST_F(RankProcessesTest, TheOthersOutliveAKilledRank) {
  constexpr int kVictim = 3;
  int reached[2];
  ASSERT_EQ(pipe(reached), 0);
  const UniqueFd from_victim(reached[0]);
  ForkedRanks ranks(4, 4, Wiring::kSharedMemory, [&](Mesh& mesh) -> absl::Status {
    const RankPlace place = PlaceOf(mesh.my_rank(), 2, 2);
    PrepareEnvironment(place.rank());
    ASSIGN_OR_RETURN(const auto nccl, OpenTestNccl());
    ASSIGN_OR_RETURN(const auto rank, MakeRank(place, nccl.get()));
    RETURN_IF_ERROR(Begin(*rank, 2, &mesh));
    if (place.rank() == kVictim) {
      RETURN_IF_ERROR(rank->Execute(Plans()[0]).status());
      if (write(reached[1], "x", 1) != 1) return absl::InternalError("pipe");
      while (true) pause();
    }
    const absl::Status status = RunPlans(*rank).status();
    const SteadyTime noticed = SteadyNow();
    rank->EndEpoch();
    const absl::Duration took = SteadyNow() - noticed;
    if (!absl::IsUnavailable(status)) {
      return absl::InternalError(absl::StrCat("plans ended with ", status.ToString()));
    }
    if (took > absl::Seconds(5)) {
      return absl::InternalError(
          absl::StrCat("the epoch took ", absl::FormatDuration(took), " to end"));
    }
    // Weights and device are fine: the rank's next epoch may be a group of another kind.
    if (!place.is_sampler()) return absl::OkStatus();
    ASSIGN_OR_RETURN(const auto alone, MakeRank({}, nullptr));
    RETURN_IF_ERROR(Begin(*alone, 1, nullptr));
    return RunPlans(*alone).status();
  });
  char byte = 0;
  ASSERT_EQ(read(from_victim.get(), &byte, 1), 1);
  kill(ranks.pid(kVictim), SIGKILL);
  for (int rank = 0; rank < 4; ++rank) {
    const int status = ranks.Wait(rank);
    EXPECT_EQ(status, rank == kVictim ? SIGKILL : 0) << "rank " << rank;
  }
}

}  // namespace
}  // namespace bora
