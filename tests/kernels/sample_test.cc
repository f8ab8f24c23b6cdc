#include "kernels/sample.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "kernels/cpu/cpu_device.h"
#include "kernels/cpu/simd/simd.h"
#include "kernels/exact_math.h"
#include "tests/kernels/op_testing.h"
#include "tests/reference/reference.h"

namespace bora {
namespace {

std::vector<SampledToken> RunSample(int64_t vocab_size, const std::vector<SampleRow>& rows,
                                    int n_threads = 1) {
  CpuDevice device(n_threads);
  std::vector<SampledToken> out;
  Sample(device, vocab_size, rows, &out);
  return out;
}

SampledToken SampleOne(const std::vector<float>& logits, const SamplingParams& sampling,
                       int32_t position = 0, int32_t n_generated = 0) {
  return RunSample(static_cast<int64_t>(logits.size()),
                   {{logits.data(), &sampling, 0, position, n_generated}})[0];
}

// Logits with ties, in no order.
std::vector<float> Logits(int64_t vocab_size, float scale, uint64_t seed) {
  std::vector<float> logits = RandomFloats(vocab_size, seed);
  for (float& logit : logits) logit = std::round(logit * 16) / 16 * scale;
  return logits;
}

TEST(SampleTest, GreedyTakesLowestIdAmongEquals) {
  EXPECT_EQ(SampleOne({1, 3, 2, 3}, {.temperature = 0}).token_id, 1);
  EXPECT_EQ(SampleOne({-1, -3, -0.0f, 0.0f}, {.temperature = 0}).token_id, 2);
  EXPECT_EQ(SampleOne({-3e38f, -1e38f}, {.temperature = 0}).token_id, 1);
  EXPECT_EQ(SampleOne({5}, {.temperature = 0}).token_id, 0);
}

// Against a plain loop, at every level: ties, zeros of both signs, sizes around a vector and around
// the pieces of 1024 that are scanned together.
TEST(SampleTest, ScanFindsTheFirstGreatestLogit) {
  for (SimdLevel level : AvailableSimdLevels()) {
    const SimdKernels& simd = GetSimdKernels(level);
    for (int64_t n : {1, 2, 15, 16, 17, 33, 1023, 1024, 1025, 3000}) {
      for (uint64_t seed = 0; seed < 20; ++seed) {
        std::vector<float> logits = Logits(n, seed % 2 == 0 ? 0.05f : -3.0f, seed);
        const auto best = std::max_element(logits.begin(), logits.end());
        const LogitScan scan = simd.scan_logits(logits.data(), n);
        EXPECT_TRUE(scan.all_finite);
        EXPECT_EQ(scan.max, *best);
        EXPECT_EQ(scan.argmax, best - logits.begin());
        for (int64_t id = 0; id < n; id += 1 + n / 7) {
          int64_t want = 0;
          for (int64_t i = 0; i < n; ++i) {
            want += logits[i] > logits[id] || (logits[i] == logits[id] && i < id) ? 1 : 0;
          }
          EXPECT_EQ(simd.count_before(logits.data(), n, id), want);
        }
        for (float bad : {NAN, INFINITY, -INFINITY, -NAN}) {
          std::vector<float> poisoned = logits;
          poisoned[seed * 31 % n] = bad;
          EXPECT_FALSE(simd.scan_logits(poisoned.data(), n).all_finite);
        }
      }
    }
  }
}

TEST(SampleTest, ExponentialsHaveSameBitsAtEveryLevel) {
  const std::vector<float> logits = Logits(1000, 30, 3);
  for (double temperature : {1.0, 0.3, 50.0}) {
    for (SimdLevel level : AvailableSimdLevels()) {
      std::vector<double> got(logits.size());
      GetSimdKernels(level).exp_logits(logits.data(), 1000, 30.0, temperature, got.data());
      for (size_t i = 0; i < got.size(); ++i) {
        EXPECT_EQ(got[i], Exp((static_cast<double>(logits[i]) - 30.0) / temperature));
      }
    }
  }
}

TEST(SampleTest, DrawDependsOnSeedAndPositionAlone) {
  const std::vector<float> logits = Logits(300, 2, 1), other = Logits(300, 2, 2);
  const SamplingParams sampling = {.seed = 5}, filler = {.top_p = 0.5f, .seed = 6};
  std::vector<SampleRow> rows;
  for (int32_t i = 0; i < 200; ++i) {
    rows.push_back({logits.data(), &sampling, i % 8, i, i});
    rows.push_back({other.data(), &filler, i % 7, 3 * i, 0});
  }
  const std::vector<SampledToken> want = RunSample(300, rows);
  for (int n_threads : {2, 3, 4}) EXPECT_EQ(RunSample(300, rows, n_threads), want);
  for (int32_t i = 0; i < 200; ++i) {
    EXPECT_EQ(SampleOne(logits, sampling, i).token_id, want[2 * i].token_id);
  }
}

// All numbers are multiples of 1/64, so that penalties are exact.
TEST(SampleTest, PenaltiesMoveTheLogitsOfKnownTokens) {
  int n_moved = 0;
  for (uint64_t seed = 0; seed < 100; ++seed) {
    const auto words = Philox4x32(seed, 98, 0), more = Philox4x32(seed, 98, 1);
    const int64_t vocab_size = 1 + words[0] % 60;
    std::vector<float> logits = Logits(vocab_size, 5, seed);
    for (float& logit : logits) logit = std::round(logit * 16) / 16;
    std::vector<int32_t> known(words[1] % 40);
    for (size_t i = 0; i < known.size(); ++i) {
      known[i] = static_cast<int32_t>(Philox4x32(seed, i, 2)[0] % vocab_size);
    }
    const auto n_prompt = static_cast<int64_t>(words[2] % (known.size() + 1));
    const SamplingParams plain = {.temperature = seed % 3 == 0 ? 0.0f : 1.0f,
                                  .top_p = seed % 2 == 0 ? 1.0f : 0.9f,
                                  .seed = seed,
                                  .n_logprobs = 3};
    SamplingParams sampling = plain;
    sampling.repetition_penalty = std::exp2(static_cast<float>(more[0] % 5) - 2);
    sampling.frequency_penalty = (static_cast<float>(more[1] % 17) - 8) / 4;
    sampling.presence_penalty = (static_cast<float>(more[2] % 17) - 8) / 4;
    const std::vector<double> want =
        reference::Penalize(ToDoubles(logits), {known.begin(), known.begin() + n_prompt},
                            {known.begin() + n_prompt, known.end()}, sampling.repetition_penalty,
                            sampling.frequency_penalty, sampling.presence_penalty);
    const std::vector<float> penalized(want.begin(), want.end());
    std::vector<uint32_t> counts(vocab_size, 77);
    CountTokens(known, n_prompt, absl::MakeSpan(counts));
    for (int32_t position = 0; position < 4; ++position) {
      const std::vector<SampledToken> got =
          RunSample(vocab_size, {{.logits = logits.data(),
                                  .sampling = &sampling,
                                  .position = position,
                                  .token_counts = counts.data()}});
      EXPECT_EQ(got[0].token_id, SampleOne(penalized, plain, position).token_id) << "seed " << seed;
      // What is reported is not penalized.
      const SampledToken without = SampleOne(logits, plain, position);
      EXPECT_EQ(got[0].top, without.top);
      n_moved += got[0].token_id != without.token_id ? 1 : 0;
    }
  }
  EXPECT_GT(n_moved, 100);
}

TEST(SampleTest, PenaltiesStayFinite) {
  const std::vector<float> logits = {-3e38f, 3e38f, 0, -1};
  const std::vector<uint32_t> counts(4, kTokenInPrompt | 5);
  for (const float repetition_penalty : {kMinRepetitionPenalty, kMaxRepetitionPenalty}) {
    for (const float penalty : {-kMaxPenalty, kMaxPenalty}) {
      const SamplingParams sampling = {.repetition_penalty = repetition_penalty,
                                       .frequency_penalty = penalty,
                                       .presence_penalty = penalty};
      const std::vector<SampledToken> got = RunSample(
          4, {{.logits = logits.data(), .sampling = &sampling, .token_counts = counts.data()}});
      EXPECT_EQ(got[0].token_id, 1);
      EXPECT_FALSE(got[0].non_finite);
    }
  }
}

TEST(SampleTest, ExtremeParametersGiveTheirLimit) {
  const std::vector<float> logits = {0.5f, 2.0f, 1.9999f, 2.0f, -3e38f, 1.0f};
  for (int32_t position = 0; position < 200; ++position) {
    // The two best tie; everything else is 100 temperatures away or more.
    EXPECT_THAT(SampleOne(logits, {.temperature = 1e-6f}, position).token_id, testing::AnyOf(1, 3));
    EXPECT_THAT(SampleOne(logits, {.temperature = 1e-45f}, position).token_id,
                testing::AnyOf(1, 3));
    EXPECT_EQ(SampleOne(logits, {.top_p = 1e-9f}, position).token_id, 1);
    EXPECT_EQ(SampleOne(logits, {.top_k = 1}, position).token_id, 1);
    EXPECT_THAT(SampleOne(logits, {.min_p = 1.0f}, position).token_id, testing::AnyOf(1, 3));
    // -3e38 has no weight even at temperature 100.
    EXPECT_NE(SampleOne(logits, {.temperature = 100}, position).token_id, 4);
    EXPECT_NE(SampleOne(logits, {.top_k = kMaxTopK}, position).token_id, 4);
  }
}

TEST(SampleTest, MinTokensBansStopTokensUntilReached) {
  const std::vector<float> logits = {9, 1, 8, 0};
  const SamplingParams sampling = {
      .temperature = 0, .n_logprobs = 2, .min_tokens = 3, .stop_token_ids = {0, 2}};
  const SampledToken banned = SampleOne(logits, sampling, 0, 2);
  EXPECT_EQ(banned.token_id, 1);
  // Log-probabilities still include them.
  EXPECT_EQ(banned.rank, 3);
  EXPECT_EQ(banned.top[0].token_id, 0);
  EXPECT_EQ(SampleOne(logits, sampling, 0, 3).token_id, 0);
}

TEST(SampleTest, BansThatLeaveNothingAreVoid) {
  const std::vector<float> logits = {1, 2, 0};
  EXPECT_EQ(SampleOne(logits, {.temperature = 0, .min_tokens = 1, .stop_token_ids = {0, 1, 2, 50}})
                .token_id,
            1);
}

TEST(SampleTest, NonFiniteRowFailsAlone) {
  const std::vector<float> good = Logits(100, 3, 1);
  const SamplingParams sampling = {.n_logprobs = 1};
  const SampledToken want = SampleOne(good, sampling);
  for (float poison : {NAN, INFINITY, -INFINITY}) {
    std::vector<float> bad = good;
    bad[99] = poison;
    const std::vector<SampledToken> got = RunSample(
        100, {{good.data(), &sampling}, {bad.data(), &sampling}, {good.data(), &sampling}});
    EXPECT_EQ(got[0], want);
    EXPECT_EQ(got[2], want);
    EXPECT_TRUE(got[1].non_finite);
    EXPECT_EQ(got[1].token_id, -1);
    EXPECT_TRUE(got[1].top.empty());
  }
}

// In double, then rounded to float once: half a unit in the last place, and 1e-12 for the sum.
TEST(SampleTest, LogprobsRanksAndAlternativesAgreeWithReference) {
  WorstRatio worst("logprob");
  for (int64_t vocab_size : {1, 2, 7, 8, 9, 100, 3001}) {
    const std::vector<float> logits = Logits(vocab_size, 8, vocab_size);
    const std::vector<double> want = reference::LogSoftmax(ToDoubles(logits));
    std::vector<int32_t> order(vocab_size);
    for (int32_t i = 0; i < vocab_size; ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(),
                     [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
    for (int32_t n : {0, 1, 5, 20}) {
      const SamplingParams sampling = {.n_prompt_logprobs = n};
      for (int64_t target = 0; target < vocab_size; target += 1 + vocab_size / 9) {
        const SampleRow row = {.logits = logits.data(),
                               .sampling = &sampling,
                               .target_token_id = static_cast<int32_t>(target)};
        const SampledToken got = RunSample(vocab_size, {row})[0];
        EXPECT_EQ(got.token_id, target);
        const auto near = [&](float value, int64_t id) {
          worst.Add(value, want[id], kFloatEps * std::abs(want[id]) + 1e-12);
        };
        near(got.logprob, target);
        EXPECT_EQ(order[got.rank - 1], target);
        ASSERT_EQ(static_cast<int64_t>(got.top.size()), std::min<int64_t>(n, vocab_size));
        for (size_t i = 0; i < got.top.size(); ++i) {
          EXPECT_EQ(got.top[i].token_id, order[i]);
          near(got.top[i].logprob, order[i]);
        }
      }
    }
  }
}

TEST(SampleTest, NoLogprobsUnlessAsked) {
  const SampledToken token = SampleOne({1, 2}, {.temperature = 0});
  EXPECT_EQ(token.rank, 0);
  EXPECT_EQ(token.logprob, 0);
  EXPECT_TRUE(token.top.empty());
}

}  // namespace
}  // namespace bora
