// The whole engine against the float64 reference, which shares no code with it.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "model/checkpoint/dummy_weights.h"
#include "tests/reference/reference.h"
#include "tests/worker/local_group.h"
#include "tests/worker/reference_compare.h"
#include "tests/worker/tiny_model.h"
#include "tests/worker/workload.h"

namespace bora {
namespace {

constexpr uint64_t kSeed = 7;

// Six roundings of bf16 a layer: the inputs of four products, keys, values.
double Tolerance(DType dtype) { return dtype == DType::kF32 ? FloatTolerance() : Bf16Tolerance(6); }

// In float the engine's greedy token is the reference's, unless two are closer than rounding.
void ExpectGreedy(const WorkOutcome& outcome, const reference::Vector& logprobs, int64_t vocab_size,
                  double tolerance) {
  for (const SampledToken& token : outcome.sampled) {
    const auto row = logprobs.begin() + (token.position - 1) * vocab_size;
    const double best = *std::max_element(row, row + vocab_size);
    EXPECT_LE(best - row[token.token_id], 2 * tolerance) << "position " << token.position;
  }
}

class ReferenceModelTest : public testing::TestWithParam<std::tuple<int, int, DType>> {};

TEST_P(ReferenceModelTest, LogprobsAgreeWithFloat64) {
  const auto [tp_size, pp_size, dtype] = GetParam();
  const ModelConfig config = TinyConfig();
  const DummyWeights source(config, kSeed);
  const auto group = LocalGroup::Start(
      source, {.tp_size = tp_size, .pp_size = pp_size, .limits = TinyLimits(), .precision = dtype});
  ASSERT_TRUE(group.ok()) << group.status();
  const std::vector<WorkRequest> requests = GreedyRequests(kSeed);
  const auto outcomes = RunShuffled(**group, requests, 2, kSeed);
  ASSERT_TRUE(outcomes.ok()) << outcomes.status();

  double worst = 0;
  int64_t n_values = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    const WorkOutcome& outcome = (*outcomes)[i];
    const std::vector<int32_t> tokens = TokensOf(requests[i], outcome);
    const reference::Vector logprobs = ReferenceLogprobs(source, dtype, tokens);
    ASSERT_EQ(outcome.prompt_logprobs.size() + outcome.sampled.size(), tokens.size() - 1);
    worst = std::max({worst, WorstDifference(outcome.prompt_logprobs, logprobs, config.vocab_size),
                      WorstDifference(outcome.sampled, logprobs, config.vocab_size)});
    n_values += static_cast<int64_t>(tokens.size() - 1) * (1 + kMaxLogprobs);
    ExpectGreedy(outcome, logprobs, config.vocab_size, Tolerance(dtype));
  }
  std::printf("worst of %lld log-probabilities: %.3g, tolerance %.3g\n",
              static_cast<long long>(n_values), worst, Tolerance(dtype));
  EXPECT_LE(worst, Tolerance(dtype));
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, ReferenceModelTest,
    testing::Values(std::tuple(1, 1, DType::kF32), std::tuple(2, 2, DType::kF32),
                    std::tuple(4, 1, DType::kF32), std::tuple(8, 1, DType::kF32),
                    std::tuple(1, 1, DType::kBf16), std::tuple(2, 2, DType::kBf16)),
    [](const auto& info) {
      return "Tp" + std::to_string(std::get<0>(info.param)) + "Pp" +
             std::to_string(std::get<1>(info.param)) +
             (std::get<2>(info.param) == DType::kF32 ? "F32" : "Bf16");
    });

}  // namespace
}  // namespace bora
