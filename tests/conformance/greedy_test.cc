// Greedy continuations and log-probabilities against the public reference implementation, by the
// way a request takes: plans through a group of ranks with real links, the sampler at the end, and
// decoding steps that are issued before the token they continue is known.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/status_macros.h"
#include "model/checkpoint/checkpoint.h"
#include "model/checkpoint/weights_source.h"
#include "tests/conformance/golden.h"
#include "tests/worker/local_group.h"
#include "tests/worker/plan_builder.h"

namespace bora {
namespace {

struct Continuation {
  std::vector<int32_t> greedy;
  // What was reported of the token at a position: prompt tokens and sampled ones. A token at
  // position p was scored by the logits after position p - 1.
  absl::flat_hash_map<int32_t, SampledToken> by_position;
};

absl::StatusOr<std::unique_ptr<LocalGroup>> StartGroup(const ConformanceCase& test,
                                                       const GroupLimits& limits) {
  ASSIGN_OR_RETURN(Checkpoint checkpoint, Checkpoint::Open(GoldenPath(test.checkpoint)));
  const CheckpointWeights weights(std::move(checkpoint));
  return LocalGroup::Start(weights, {.tp_size = test.tp_size,
                                     .pp_size = test.pp_size,
                                     .limits = limits,
                                     .precision = test.dtype,
                                     .rank = {.poison_kv = true}});
}

// Prefills the golden's prompt in odd chunks and lets the group decode as many tokens as the golden
// has, all plans in flight at once.
absl::StatusOr<Continuation> Continue(const ConformanceCase& test, const Golden& golden) {
  const size_t n_prompt = golden.prompt.size();
  const size_t n_greedy = golden.greedy.size();
  const GroupLimits limits =
      LimitsForSequence(golden.vocab_size, static_cast<int64_t>(n_prompt + n_greedy));
  ASSIGN_OR_RETURN(const std::unique_ptr<LocalGroup> group, StartGroup(test, limits));

  SamplingParams sampling;
  sampling.temperature = 0;
  sampling.n_logprobs = kMaxLogprobs;
  sampling.n_prompt_logprobs = kMaxLogprobs;
  PlanBuilder plans(limits, group->epoch());
  plans.Open(kSlot, static_cast<int32_t>(n_prompt), sampling);
  size_t n_plans = 0;
  size_t n_fed = 0;
  for (const absl::Span<const int32_t> chunk : OddChunks(golden.prompt, limits)) {
    n_fed += chunk.size();
    const bool is_last = n_fed == n_prompt;
    plans.AddRow(kSlot, chunk,
                 {.sample = is_last,
                  .prompt_logprobs = true,
                  .next_token = is_last ? -1 : golden.prompt[n_fed]});
    group->Submit(plans.Take());
    ++n_plans;
  }
  for (size_t i = 1; i < n_greedy; ++i) {
    plans.AddLastSampledRow(kSlot, /*sample=*/true);
    group->Submit(plans.Take());
    ++n_plans;
  }

  Continuation continuation;
  for (size_t i = 0; i < n_plans; ++i) {
    ASSIGN_OR_RETURN(const StepResult result, group->WaitResult());
    for (const SampledToken& token : result.prompt_logprobs) {
      continuation.by_position[token.position] = token;
    }
    for (const SampledToken& token : result.sampled) {
      continuation.greedy.push_back(token.token_id);
      continuation.by_position[token.position] = token;
    }
  }
  return continuation;
}

std::vector<double> LogSoftmax(absl::Span<const float> logits) {
  const double max = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - max);
  std::vector<double> logprobs;
  for (const float logit : logits) logprobs.push_back(logit - max - std::log(sum));
  return logprobs;
}

// Largest difference between what was reported of one token and the golden's row, relative to the
// row's largest logit. Alternatives must be right in place and in value.
double LogprobError(const SampledToken& token, absl::Span<const float> golden_logits) {
  const std::vector<double> golden = LogSoftmax(golden_logits);
  std::vector<double> sorted = golden;
  std::sort(sorted.begin(), sorted.end(), std::greater<>());
  double worst = std::abs(token.logprob - golden.at(token.token_id));
  for (size_t i = 0; i < token.top.size(); ++i) {
    const TokenLogprob& top = token.top[i];
    worst = std::max({worst, std::abs(top.logprob - golden.at(top.token_id)),
                      std::abs(top.logprob - sorted[i])});
  }
  return worst / MaxAbs(golden_logits);
}

class GreedyTest : public testing::TestWithParam<ConformanceCase> {};

TEST_P(GreedyTest, ContinuesAsTheReferenceWithItsLogprobs) {
  const absl::StatusOr<Golden> golden = LoadGolden(GetParam().golden);
  ASSERT_TRUE(golden.ok()) << golden.status();
  const absl::StatusOr<Continuation> continuation = Continue(GetParam(), *golden);
  ASSERT_TRUE(continuation.ok()) << continuation.status();
  EXPECT_EQ(continuation->greedy, golden->greedy);

  // An error e of every logit moves their logsumexp by up to e: a log-probability by up to 2 e.
  const double tolerance = 2 * kLogitTolerance;
  double worst = 0;
  for (size_t i = 0; i < golden->positions.size(); ++i) {
    const int32_t position = golden->positions[i] + 1;
    const auto reported = continuation->by_position.find(position);
    ASSERT_NE(reported, continuation->by_position.end()) << "no token at position " << position;
    ASSERT_FALSE(reported->second.non_finite) << "position " << position;
    ASSERT_EQ(reported->second.top.size(), static_cast<size_t>(kMaxLogprobs));
    const double error = LogprobError(reported->second, golden->Row(golden->logits, i));
    EXPECT_LE(error, tolerance) << "token at position " << position;
    worst = std::max(worst, error);
  }
  std::printf("largest log-probability error %.2g of %.2g allowed, %zu rows\n", worst, tolerance,
              golden->positions.size());
}

INSTANTIATE_TEST_SUITE_P(
    Conformance, GreedyTest,
    testing::Values(ConformanceCase{"gqa4_hf", "gqa4"}, ConformanceCase{"gqa4_mistral", "gqa4"},
                    ConformanceCase{"gqa4_hf", "gqa4", 4, 1},
                    ConformanceCase{"gqa4_mistral", "gqa4", 2, 2},
                    ConformanceCase{"gqa4_hf", "gqa4_long", 1, 2},
                    ConformanceCase{"gqa4_mistral", "gqa4_long"},
                    ConformanceCase{"wide_hf_sharded", "wide"},
                    ConformanceCase{"wide_hf_sharded", "wide", 2, 1},
                    ConformanceCase{"wide_hf_sharded", "wide", 1, 2},
                    ConformanceCase{"wide_hf_sharded", "wide", 2, 2},
                    ConformanceCase{"wide_hf_sharded", "wide", 4, 1},
                    ConformanceCase{"wide_hf_sharded", "wide_long", 2, 2},
                    ConformanceCase{"wide_hf_bf16", "wide_bf16"},
                    ConformanceCase{"wide_mistral_bf16", "wide_bf16", 2, 1},
                    ConformanceCase{"wide_hf_bf16", "wide_bf16", 1, 1, DType::kF16},
                    ConformanceCase{"wide_mistral_bf16", "wide_bf16", 2, 2, DType::kF16}),
    CaseName);

}  // namespace
}  // namespace bora
