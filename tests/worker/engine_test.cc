// The engine as a whole, on groups of every shape: the same request gives the same bytes however it
// is served.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "model/dummy_weights.h"
#include "tests/worker/local_group.h"
#include "tests/worker/tiny_model.h"
#include "tests/worker/workload.h"

namespace bora {
namespace {

constexpr uint64_t kSeed = 20;

std::unique_ptr<LocalGroup> StartGroup(LocalGroupOptions options) {
  options.limits = TinyLimits();
  options.rank.poison_kv = true;
  absl::StatusOr<std::unique_ptr<LocalGroup>> group =
      LocalGroup::Start(DummyWeights(TinyConfig(), kSeed), options);
  EXPECT_TRUE(group.ok()) << group.status();
  return group.ok() ? *std::move(group) : nullptr;
}

std::vector<WorkOutcome> Expect(absl::StatusOr<std::vector<WorkOutcome>> outcomes) {
  EXPECT_TRUE(outcomes.ok()) << outcomes.status();
  return outcomes.ok() ? *std::move(outcomes) : std::vector<WorkOutcome>();
}

// Index of the first request whose outcomes differ, or -1.
int FirstDifference(const std::vector<WorkOutcome>& a, const std::vector<WorkOutcome>& b) {
  if (a.size() != b.size()) return 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i] != b[i]) return static_cast<int>(i);
  }
  return -1;
}

// Each request alone, on one rank.
std::vector<WorkOutcome> RunAloneOnOneRank(const std::vector<WorkRequest>& requests, DType dtype) {
  const auto group = StartGroup({.dtype = dtype});
  return Expect(RunAlone(*group, requests));
}

void ExpectAllFinite(const std::vector<WorkOutcome>& outcomes) {
  for (const WorkOutcome& outcome : outcomes) {
    for (const SampledToken& token : outcome.sampled) EXPECT_FALSE(token.non_finite);
    for (const SampledToken& token : outcome.prompt_logprobs) EXPECT_FALSE(token.non_finite);
  }
}

class EngineShapeTest : public testing::TestWithParam<std::tuple<int, int, DType>> {};

// Also with a KV cache that is NaN wherever nothing was written.
TEST_P(EngineShapeTest, BatchedChunkedPreemptedEqualsAlone) {
  const auto [tp_size, pp_size, dtype] = GetParam();
  const auto group = StartGroup({.tp_size = tp_size, .pp_size = pp_size, .dtype = dtype});
  ASSERT_NE(group, nullptr);
  const std::vector<WorkRequest> requests = RandomRequests(TinyLimits(), 12, kSeed);
  const std::vector<WorkOutcome> alone = Expect(RunAlone(*group, requests));
  ExpectAllFinite(alone);
  for (const int max_in_flight : {1, 2, 5}) {
    const uint64_t seed = kSeed + max_in_flight;
    const std::vector<WorkOutcome> shuffled =
        Expect(RunShuffled(*group, requests, max_in_flight, seed));
    EXPECT_EQ(FirstDifference(alone, shuffled), -1)
        << "request of seed " << kSeed << ", plans of seed " << seed;
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, EngineShapeTest,
                         testing::Combine(testing::Values(1, 2, 4), testing::Values(1, 2, 4),
                                          testing::Values(DType::kF32, DType::kBf16)),
                         [](const auto& info) {
                           return "Tp" + std::to_string(std::get<0>(info.param)) + "Pp" +
                                  std::to_string(std::get<1>(info.param)) +
                                  (std::get<2>(info.param) == DType::kF32 ? "F32" : "Bf16");
                         });

class EnginePipelineTest : public testing::TestWithParam<std::vector<int64_t>> {};

TEST_P(EnginePipelineTest, StagesGiveTheBitsOfOneStage) {
  const std::vector<int64_t> layers = GetParam();
  const std::vector<WorkRequest> requests = RandomRequests(TinyLimits(), 8, kSeed + 1);
  for (const DType dtype : {DType::kF32, DType::kBf16}) {
    const auto group = StartGroup(
        {.pp_size = static_cast<int>(layers.size()), .layers_per_stage = layers, .dtype = dtype});
    ASSERT_NE(group, nullptr);
    EXPECT_EQ(FirstDifference(RunAloneOnOneRank(requests, dtype),
                              Expect(RunShuffled(*group, requests, 4, kSeed))),
              -1);
  }
}

INSTANTIATE_TEST_SUITE_P(LayerRanges, EnginePipelineTest,
                         testing::Values(std::vector<int64_t>{2, 2}, std::vector<int64_t>{1, 3},
                                         std::vector<int64_t>{3, 1}, std::vector<int64_t>{2, 1, 1},
                                         std::vector<int64_t>{1, 1, 1, 1}));

TEST(EngineTest, TcpLinksGiveTheBitsOfSharedMemory) {
  const std::vector<WorkRequest> requests = RandomRequests(TinyLimits(), 6, kSeed + 2);
  std::vector<WorkOutcome> outcomes[2];
  for (const bool shared : {false, true}) {
    const auto group = StartGroup({.tp_size = 2, .pp_size = 2, .allow_shared_memory = shared});
    ASSERT_NE(group, nullptr);
    outcomes[shared] = Expect(RunShuffled(*group, requests, 3, kSeed));
  }
  EXPECT_EQ(FirstDifference(outcomes[0], outcomes[1]), -1);
}

// Activations of a plan, up to 96 * 64 floats, are several times the smallest ring, and 32 plans in
// flight leave many messages with sampled tokens unreceived.
TEST(EngineTest, SmallLinkBuffersDoNotDeadlock) {
  const std::vector<WorkRequest> requests = RandomRequests(TinyLimits(), 10, kSeed + 3);
  const auto group = StartGroup({.tp_size = 2, .pp_size = 2, .link_buffer_bytes = 4096});
  ASSERT_NE(group, nullptr);
  const std::vector<WorkOutcome> alone = Expect(RunAlone(*group, requests));
  EXPECT_EQ(FirstDifference(alone, Expect(RunShuffled(*group, requests, 32, kSeed))), -1);
}

TEST(EngineTest, ThreadsOfADeviceDoNotChangeBits) {
  const std::vector<WorkRequest> requests = RandomRequests(TinyLimits(), 6, kSeed + 4);
  const auto group = StartGroup({.n_threads = 3});
  ASSERT_NE(group, nullptr);
  EXPECT_EQ(FirstDifference(RunAloneOnOneRank(requests, DType::kF32),
                            Expect(RunShuffled(*group, requests, 2, kSeed))),
            -1);
}

TEST(EngineTest, TensorParallelRunsAreDeterministic) {
  const std::vector<WorkRequest> requests = RandomRequests(TinyLimits(), 6, kSeed + 5);
  std::vector<WorkOutcome> first;
  for (int run = 0; run < 2; ++run) {
    const auto group = StartGroup({.tp_size = 4});
    ASSERT_NE(group, nullptr);
    std::vector<WorkOutcome> outcomes = Expect(RunShuffled(*group, requests, 2, kSeed + run));
    if (run == 0)
      first = std::move(outcomes);
    else
      EXPECT_EQ(FirstDifference(first, outcomes), -1);
  }
}

// TP changes only the order of float sums: log-probabilities of the same prompt differ by rounding.
// A sum of K terms cut in parts moves by about sqrt(K) units in the last place of its magnitude;
// the 2 sums per layer of up to K = 128 terms act like 8 independent errors on values of order 4
// (the logits' range): 4 * sqrt(8 * 128) * 2^-24 = 8e-6; four times that for the maximum over all
// values.
TEST(EngineTest, TensorParallelAgreesWithOneRankToRounding) {
  constexpr double kTolerance = 4 * 8e-6;
  std::vector<WorkRequest> requests = RandomRequests(TinyLimits(), 8, kSeed + 6);
  for (WorkRequest& request : requests) {
    request.sampling.n_prompt_logprobs = 0;
    request.n_generate = 1;
  }
  const std::vector<WorkOutcome> one = RunAloneOnOneRank(requests, DType::kF32);
  double worst = 0;
  for (const int tp_size : {2, 4}) {
    const auto group = StartGroup({.tp_size = tp_size});
    ASSERT_NE(group, nullptr);
    const std::vector<WorkOutcome> many = Expect(RunShuffled(*group, requests, 1, kSeed));
    ASSERT_EQ(many.size(), one.size());
    for (size_t i = 0; i < one.size(); ++i) {
      ASSERT_EQ(one[i].prompt_logprobs.size(), requests[i].prompt.size() - 1);
      ASSERT_EQ(many[i].prompt_logprobs.size(), one[i].prompt_logprobs.size());
      for (size_t j = 0; j < one[i].prompt_logprobs.size(); ++j) {
        worst = std::max(worst, std::abs(double{one[i].prompt_logprobs[j].logprob} -
                                         double{many[i].prompt_logprobs[j].logprob}));
      }
    }
  }
  std::printf("worst difference of a log-probability: %.3g, tolerance %.3g\n", worst, kTolerance);
  EXPECT_LE(worst, kTolerance);
}

}  // namespace
}  // namespace bora
