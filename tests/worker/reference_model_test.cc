// The whole engine against the float64 reference, which shares no code with it.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "model/dummy_weights.h"
#include "tests/reference/reference.h"
#include "tests/worker/local_group.h"
#include "tests/worker/reference_inputs.h"
#include "tests/worker/tiny_model.h"
#include "tests/worker/workload.h"

namespace bora {
namespace {

constexpr uint64_t kSeed = 7;

// Greedy requests that report as many log-probabilities as there may be.
std::vector<WorkRequest> GreedyRequests() {
  std::vector<WorkRequest> requests = RandomRequests(TinyLimits(), 5, kSeed);
  for (WorkRequest& request : requests) {
    request.n_generate = 12;
    request.sampling = {
        .temperature = 0, .n_logprobs = kMaxLogprobs, .n_prompt_logprobs = kMaxLogprobs};
  }
  return requests;
}

// Rounding errors, as independent errors relative to values of order one: the logits' standard
// deviation. In float, each of 5 sums a layer (qkv, scores and values, wo, w13, w2) of at most
// K = 96 terms errs by about sqrt(K) 2^-24. In bf16, each of 6 roundings a layer (the inputs of
// four products, keys, values) errs by 2^-9 / sqrt(3), the standard deviation of a uniform relative
// error up to 2^-9. 4 layers and the head add up in squares; 6 standard deviations bound the
// maximum over some ten thousand values.
double Tolerance(DType dtype) {
  if (dtype == DType::kF32) return 6 * std::sqrt(4 * 5 + 1.0) * std::sqrt(96.0) * 0x1p-24;
  return 6 * std::sqrt(4 * 6 + 1.0) * 0x1p-9 / std::sqrt(3.0);
}

double WorstDifference(const std::vector<SampledToken>& tokens, const reference::Vector& logprobs,
                       int64_t vocab_size) {
  double worst = 0;
  const auto expect = [&](int32_t position, int32_t token_id) {
    return logprobs[(position - 1) * vocab_size + token_id];
  };
  for (const SampledToken& token : tokens) {
    worst = std::max(worst, std::abs(token.logprob - expect(token.position, token.token_id)));
    for (const TokenLogprob& top : token.top) {
      worst = std::max(worst, std::abs(top.logprob - expect(token.position, top.token_id)));
    }
  }
  return worst;
}

// reference::LogSoftmax of each row of logits [n, vocab_size].
reference::Vector LogSoftmaxRows(const reference::Vector& logits, int64_t vocab_size) {
  reference::Vector out;
  for (auto row = logits.begin(); row != logits.end(); row += vocab_size) {
    const reference::Vector logprobs =
        reference::LogSoftmax(reference::Vector(row, row + vocab_size));
    out.insert(out.end(), logprobs.begin(), logprobs.end());
  }
  return out;
}

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
  const std::vector<WorkRequest> requests = GreedyRequests();
  const auto outcomes = RunShuffled(**group, requests, 2, kSeed);
  ASSERT_TRUE(outcomes.ok()) << outcomes.status();

  const reference::Weights weights = ReferenceWeights(source, dtype);
  double worst = 0;
  int64_t n_values = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    const WorkOutcome& outcome = (*outcomes)[i];
    std::vector<int32_t> tokens = requests[i].prompt;
    for (const int32_t token_id : outcome.token_ids()) tokens.push_back(token_id);
    const reference::Vector logprobs = LogSoftmaxRows(
        reference::Forward(ReferenceConfig(config), weights, tokens), config.vocab_size);
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

INSTANTIATE_TEST_SUITE_P(Shapes, ReferenceModelTest,
                         testing::Values(std::tuple(1, 1, DType::kF32),
                                         std::tuple(2, 2, DType::kF32),
                                         std::tuple(4, 1, DType::kF32),
                                         std::tuple(1, 1, DType::kBf16),
                                         std::tuple(2, 2, DType::kBf16)),
                         [](const auto& info) {
                           return "Tp" + std::to_string(std::get<0>(info.param)) + "Pp" +
                                  std::to_string(std::get<1>(info.param)) +
                                  (std::get<2>(info.param) == DType::kF32 ? "F32" : "Bf16");
                         });

}  // namespace
}  // namespace bora
