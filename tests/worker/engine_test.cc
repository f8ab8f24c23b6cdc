// The engine as a whole, on groups of every shape: the same request gives the same bytes however it
// is served.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "model/checkpoint/dummy_weights.h"
#include "tests/worker/local_group.h"
#include "tests/worker/tiny_model.h"
#include "tests/worker/workload.h"

namespace bora {
namespace {

constexpr uint64_t kSeed = 20;

std::unique_ptr<LocalGroup> StartGroup(LocalGroupOptions options,
                                       const ModelConfig& config = TinyConfig()) {
  options.limits = TinyLimits();
  options.rank.poison_kv = true;
  absl::StatusOr<std::unique_ptr<LocalGroup>> group =
      LocalGroup::Start(DummyWeights(config, kSeed), options);
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
std::vector<WorkOutcome> RunAloneOnOneRank(const std::vector<WorkRequest>& requests,
                                           const Precision& precision,
                                           const ModelConfig& config = TinyConfig()) {
  const auto group = StartGroup({.precision = precision}, config);
  return Expect(RunAlone(*group, requests));
}

void ExpectAllFinite(const std::vector<WorkOutcome>& outcomes) {
  for (const WorkOutcome& outcome : outcomes) {
    for (const SampledToken& token : outcome.sampled) EXPECT_FALSE(token.non_finite);
    for (const SampledToken& token : outcome.prompt_logprobs) EXPECT_FALSE(token.non_finite);
  }
}

class EngineShapeTest : public testing::TestWithParam<std::tuple<int, int, WeightFormat>> {};

// Tensor and pipeline parallelism change no bit. Also with a KV cache that is NaN wherever nothing
// was written.
TEST_P(EngineShapeTest, BatchedChunkedPreemptedEqualsAloneOnOneRank) {
  const auto [tp_size, pp_size, format] = GetParam();
  const Precision precision = PrecisionOf(format);
  const auto group = StartGroup({.tp_size = tp_size, .pp_size = pp_size, .precision = precision});
  ASSERT_NE(group, nullptr);
  const std::vector<WorkRequest> requests = RandomRequests(TinyLimits(), 12, kSeed);
  const std::vector<WorkOutcome> alone = RunAloneOnOneRank(requests, precision);
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
                                          testing::Values(WeightFormat::kF32, WeightFormat::kBf16,
                                                          WeightFormat::kInt8, WeightFormat::kF16)),
                         [](const auto& info) {
                           return "Tp" + std::to_string(std::get<0>(info.param)) + "Pp" +
                                  std::to_string(std::get<1>(info.param)) +
                                  FormatName(std::get<2>(info.param));
                         });

class EngineKvHeadsTest : public testing::TestWithParam<std::tuple<int, WeightFormat>> {};

// Also where ranks hold copies of a KV head, and with pipeline stages of such ranks.
TEST_P(EngineKvHeadsTest, TensorRanksChangeNoBit) {
  const auto [n_kv_heads, format] = GetParam();
  const Precision precision = PrecisionOf(format);
  ModelConfig config = TinyConfig();
  config.n_kv_heads = n_kv_heads;
  const std::vector<WorkRequest> requests = RandomRequests(TinyLimits(), 8, kSeed + 7);
  const std::vector<WorkOutcome> alone = RunAloneOnOneRank(requests, precision, config);
  ExpectAllFinite(alone);
  for (const auto& [tp_size, pp_size] : {std::pair(2, 1), {4, 1}, {8, 1}, {4, 2}}) {
    const auto group =
        StartGroup({.tp_size = tp_size, .pp_size = pp_size, .precision = precision}, config);
    ASSERT_NE(group, nullptr);
    EXPECT_EQ(FirstDifference(alone, Expect(RunShuffled(*group, requests, 3, kSeed))), -1)
        << tp_size << " tensor ranks, " << pp_size << " stages";
  }
}

INSTANTIATE_TEST_SUITE_P(KvHeads, EngineKvHeadsTest,
                         testing::Combine(testing::Values(1, 2, 4, 8),
                                          testing::Values(WeightFormat::kF32, WeightFormat::kBf16,
                                                          WeightFormat::kInt8, WeightFormat::kF16)),
                         [](const auto& info) {
                           return "Kv" + std::to_string(std::get<0>(info.param)) +
                                  FormatName(std::get<1>(info.param));
                         });

class EnginePipelineTest : public testing::TestWithParam<std::vector<int64_t>> {};

TEST_P(EnginePipelineTest, StagesGiveTheBitsOfOneStage) {
  const std::vector<int64_t> layers = GetParam();
  const std::vector<WorkRequest> requests = RandomRequests(TinyLimits(), 8, kSeed + 1);
  for (const Precision precision : {DType::kF32, DType::kBf16}) {
    const auto group = StartGroup({.pp_size = static_cast<int>(layers.size()),
                                   .layers_per_stage = layers,
                                   .precision = precision});
    ASSERT_NE(group, nullptr);
    EXPECT_EQ(FirstDifference(RunAloneOnOneRank(requests, precision),
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

// Each instruction set by itself, and one for each number of rows with panels widened or not.
TEST(EngineTest, InstructionSetsDoNotChangeBits) {
  const std::vector<WorkRequest> requests = RandomRequests(TinyLimits(), 12, kSeed + 9);
  const std::vector<SimdLevel> levels = AvailableSimdLevels();
  std::vector<SimdChoice> choices(levels.begin(), levels.end());
  SimdChoice mixed(levels[0]);
  for (int i = 0; i < kNumRowClasses; ++i) {
    mixed.bf16_products[i] = {levels[(i + 1) % levels.size()], i % 2 == 0};
  }
  mixed.f16_widened = true;
  mixed.bf16_attention[1] = levels.back();
  choices.push_back(mixed);
  for (WeightFormat format :
       {WeightFormat::kBf16, WeightFormat::kInt8, WeightFormat::kF32, WeightFormat::kF16}) {
    std::vector<WorkOutcome> first;
    for (const SimdChoice& choice : choices) {
      const auto group =
          StartGroup({.precision = PrecisionOf(format), .n_threads = 2, .simd = choice});
      ASSERT_NE(group, nullptr);
      const std::vector<WorkOutcome> outcomes = Expect(RunShuffled(*group, requests, 3, kSeed));
      ExpectAllFinite(outcomes);
      if (first.empty()) first = outcomes;
      EXPECT_EQ(FirstDifference(first, outcomes), -1)
          << FormatName(format) << ": " << DescribeSimdChoice(choice);
    }
  }
}

// Shapes that are multiples of little: what two, four and eight ranks serve has the bits of one.
TEST(EngineTest, WhatIsServedOfOddShapesHasTheBitsOfOneRank) {
  struct Shape {
    int64_t dim, hidden_dim, n_heads, n_kv_heads, head_dim, vocab_size;
  };
  int n_served = 0, n_refused = 0;
  for (const Shape& shape : {Shape{64, 136, 8, 4, 16, 257},
                             {52, 104, 6, 2, 8, 101},
                             {36, 72, 8, 1, 10, 33},
                             {60, 40, 4, 4, 6, 7},
                             {28, 96, 8, 8, 2, 3},
                             {64, 200, 12, 4, 12, 258}}) {
    ModelConfig config = TinyConfig();
    config.dim = shape.dim;
    config.hidden_dim = shape.hidden_dim;
    config.n_heads = shape.n_heads;
    config.n_kv_heads = shape.n_kv_heads;
    config.head_dim = shape.head_dim;
    config.vocab_size = shape.vocab_size;
    GroupLimits limits = TinyLimits();
    limits.vocab_size = static_cast<int32_t>(config.vocab_size);
    const std::vector<WorkRequest> requests = RandomRequests(limits, 4, kSeed + 8);
    for (const WeightFormat format :
         {WeightFormat::kF32, WeightFormat::kBf16, WeightFormat::kInt8}) {
      std::vector<WorkOutcome> alone;
      for (const int tp_size : {1, 2, 4, 8}) {
        const auto group = LocalGroup::Start(
            DummyWeights(config, kSeed),
            {.tp_size = tp_size, .limits = limits, .precision = PrecisionOf(format)});
        if (!group.ok()) {
          EXPECT_EQ(group.status().code(), absl::StatusCode::kInvalidArgument) << group.status();
          EXPECT_GT(tp_size, 1);
          ++n_refused;
          continue;
        }
        const auto outcomes = Expect(RunShuffled(**group, requests, 3, kSeed));
        if (tp_size == 1) alone = outcomes;
        EXPECT_EQ(FirstDifference(alone, outcomes), -1)
            << tp_size << " ranks, " << FormatName(format) << ", dim " << shape.dim;
        n_served += tp_size > 1 ? 1 : 0;
      }
    }
  }
  std::printf("%d groups served, %d refused\n", n_served, n_refused);
  EXPECT_GE(n_served, 15);
  EXPECT_GE(n_refused, 9);
}

// Three ranks do not divide the 8 leaves of a sum: each has a tree of its own, and
// log-probabilities differ by rounding. A sum of K terms in another order moves by about sqrt(K)
// units in the last place of its magnitude; the 2 sums per layer of up to K = 96 terms act like 8
// independent errors on values of order 4 (the logits' range): 4 * sqrt(8 * 96) * 2^-24 = 7e-6;
// four times that for the maximum over all values.
TEST(EngineTest, ThreeRanksAgreeWithOneToRounding) {
  constexpr double kTolerance = 4 * 7e-6;
  ModelConfig config = TinyConfig();
  config.n_heads = 6;
  config.n_kv_heads = 3;
  std::vector<WorkRequest> requests = RandomRequests(TinyLimits(), 8, kSeed + 6);
  for (WorkRequest& request : requests) {
    request.sampling.n_prompt_logprobs = 0;
    request.n_generate = 1;
  }
  std::vector<WorkOutcome> outcomes[2];
  for (const int tp_size : {1, 3}) {
    auto group = LocalGroup::Start(DummyWeights(config, kSeed),
                                   {.tp_size = tp_size, .limits = TinyLimits()});
    ASSERT_TRUE(group.ok()) << group.status();
    outcomes[tp_size / 3] = Expect(RunShuffled(**group, requests, 1, kSeed));
  }
  double worst = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    const std::vector<SampledToken>& one = outcomes[0][i].prompt_logprobs;
    const std::vector<SampledToken>& three = outcomes[1][i].prompt_logprobs;
    ASSERT_EQ(one.size(), requests[i].prompt.size() - 1);
    ASSERT_EQ(three.size(), one.size());
    for (size_t j = 0; j < one.size(); ++j) {
      worst = std::max(worst, std::abs(double{one[j].logprob} - double{three[j].logprob}));
    }
  }
  std::printf("worst difference of a log-probability: %.3g, tolerance %.3g\n", worst, kTolerance);
  EXPECT_LE(worst, kTolerance);
}

}  // namespace
}  // namespace bora
