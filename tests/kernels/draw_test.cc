// The draw: its distribution, its independence, and that it is what its definition says.
#include "kernels/draw.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "kernels/cpu/cpu_device.h"
#include "kernels/cpu/simd/simd.h"
#include "kernels/sample.h"
#include "kernels/token_order.h"
#include "tests/kernels/draw_model.h"
#include "tests/kernels/op_testing.h"
#include "tests/reference/reference.h"

namespace bora {
namespace {

// The tokens of many draws from the same logits.
class Drawer {
 public:
  explicit Drawer(std::vector<float> logits, SimdLevel level = BestSimdLevel())
      : logits_(std::move(logits)), device_(1, level) {}

  int32_t Draw(const SamplingParams& sampling, int32_t position) {
    Sample(device_, static_cast<int64_t>(logits_.size()),
           {{.logits = logits_.data(), .sampling = &sampling, .position = position}}, &out_);
    return out_[0].token_id;
  }

 private:
  std::vector<float> logits_;
  CpuDevice device_;
  std::vector<SampledToken> out_;
};

// Logits with ties, in no order.
std::vector<float> Logits(int64_t n, float scale, uint64_t seed) {
  std::vector<float> logits = RandomFloats(n, seed);
  for (float& logit : logits) logit = std::round(logit * 16) / 16 * scale;
  return logits;
}

std::vector<float> Normals(int64_t n, float deviation, uint64_t seed) {
  std::vector<float> values(n);
  for (int64_t i = 0; i < n; ++i) {
    const auto words = Philox4x32(seed, i, 7);
    const double radius = std::sqrt(-2 * std::log((words[0] + 0.5) / 0x1p32));
    values[i] =
        deviation * static_cast<float>(radius * std::cos(6.283185307179586 / 0x1p32 * words[1]));
  }
  return values;
}

// Pearson's statistic of counts against expectations; cells expected fewer than 5 times are one.
struct ChiSquare {
  double statistic = 0;
  double degrees = -1;

  ChiSquare(const std::vector<double>& expected, const std::vector<int64_t>& counts) {
    double rest_expected = 0, rest_count = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      if (expected[i] >= 5) {
        AddCell(expected[i], static_cast<double>(counts[i]));
      } else {
        rest_expected += expected[i];
        rest_count += static_cast<double>(counts[i]);
        EXPECT_TRUE(expected[i] > 0 || counts[i] == 0) << "cell " << i;
      }
    }
    if (rest_expected > 0) AddCell(rest_expected, rest_count);
  }

  // Exceeded by a chi-square variable with a probability below e^-x for every number of degrees:
  // Laurent and Massart 2000, lemma 1. x = 10 makes it 4.5e-5, so that all of this file's hundred
  // or so would be exceeded by chance once in 200 choices of their seeds, which are fixed.
  double critical() const { return degrees + 2 * std::sqrt(10 * degrees) + 20; }

  void ExpectBelowCritical(const std::string& what) const {
    std::printf("chi-square %s: %.1f, degrees %.0f, critical %.1f\n", what.c_str(), statistic,
                degrees, critical());
    EXPECT_LE(statistic, critical()) << what;
  }

 private:
  void AddCell(double expected, double count) {
    statistic += (count - expected) * (count - expected) / expected;
    degrees += 1;
  }
};

struct Setting {
  int64_t n_tokens;
  float scale;
  SamplingParams sampling;
  std::vector<int32_t> banned;
};

std::vector<Setting> Settings() {
  return {
      {2, 1, {}, {}},
      {7, 2, {}, {}},
      {50, 3, {.temperature = 0.7f}, {}},
      {50, 3, {.temperature = 100}, {}},
      {64, 0, {}, {}},
      {600, 4, {}, {}},
      {3000, 6, {.temperature = 0.8f}, {}},
      {50, 3, {.top_k = 5}, {}},
      {50, 3, {.top_p = 0.8f}, {}},
      {50, 3, {.min_p = 0.05f}, {}},
      {50, 3, {.temperature = 1.5f, .top_p = 0.9f, .top_k = 20, .min_p = 0.02f}, {}},
      {50, 3, {.top_p = 0.5f, .top_k = 3}, {}},
      {400, 4, {.top_p = 0.95f}, {}},
      {400, 4, {.top_k = 300}, {}},
      {50, 3, {.top_p = 0.9f, .min_tokens = 1, .stop_token_ids = {3, 10, 49}}, {3, 10, 49}},
      {70, 3, {.temperature = 2, .min_tokens = 1, .stop_token_ids = {0, 69}}, {0, 69}},
  };
}

// With the draws of one seed at many positions, of many seeds at one position, and of neighbouring
// seeds (the candidates of a request) at neighbouring positions.
TEST(DrawTest, FollowsTheExactDistribution) {
  constexpr int32_t kDraws = 4000;
  const std::vector<Setting> settings = Settings();
  ASSERT_EQ(settings.size(), 16u);
  for (size_t c = 0; c < settings.size(); ++c) {
    const Setting& setting = settings[c];
    const std::vector<float> logits = Logits(setting.n_tokens, setting.scale, c);
    SamplingParams sampling = setting.sampling;
    std::vector<double> expected =
        reference::SamplingDistribution(ToDoubles(logits), {.temperature = sampling.temperature,
                                                            .top_k = sampling.top_k,
                                                            .top_p = sampling.top_p,
                                                            .min_p = sampling.min_p,
                                                            .banned_ids = setting.banned});
    for (double& value : expected) value *= kDraws;
    Drawer drawer(logits);
    const auto check = [&](const std::string& what, const std::function<int32_t(int32_t)>& draw) {
      std::vector<int64_t> counts(setting.n_tokens);
      for (int32_t i = 0; i < kDraws; ++i) ++counts.at(draw(i));
      ChiSquare(expected, counts).ExpectBelowCritical("setting " + std::to_string(c) + " " + what);
    };
    check("positions", [&](int32_t i) {
      sampling.seed = 12345 + c;
      return drawer.Draw(sampling, i);
    });
    check("seeds", [&](int32_t i) {
      sampling.seed = 1000 * c + static_cast<uint64_t>(i);
      return drawer.Draw(sampling, 100);
    });
    check("candidates", [&](int32_t i) {
      sampling.seed = ~uint64_t{0} - 7 + static_cast<uint64_t>(i % 16);
      return drawer.Draw(sampling, 500 + i / 16);
    });
  }
}

// Pairs of draws from 8 equally probable tokens fill the 64 cells alike.
TEST(DrawTest, NeighbouringSeedsAndPositionsAreIndependent) {
  constexpr int32_t kPairs = 20000;
  Drawer drawer(std::vector<float>(8, 0.0f));
  const auto draw = [&](uint64_t seed, int32_t position) {
    return drawer.Draw({.seed = seed}, position);
  };
  const std::vector<double> expected(64, kPairs / 64.0);
  struct Pair {
    const char* what;
    std::function<int32_t(int32_t)> first, second;
  };
  for (const Pair& pair : std::vector<Pair>{
           {"positions", [&](int32_t i) { return draw(3, 2 * i); },
            [&](int32_t i) { return draw(3, 2 * i + 1); }},
           {"positions far apart", [&](int32_t i) { return draw(4, i); },
            [&](int32_t i) { return draw(4, i + (1 << 30)); }},
           {"seeds", [&](int32_t i) { return draw(2 * uint64_t(i), 9); },
            [&](int32_t i) { return draw(2 * uint64_t(i) + 1, 9); }},
           {"seeds in the upper word", [&](int32_t i) { return draw(uint64_t(i), 9); },
            [&](int32_t i) { return draw(uint64_t(i) << 32 | 5, 9); }},
           {"the next candidate's next token", [&](int32_t i) { return draw(7, i); },
            [&](int32_t i) { return draw(8, i + 1); }},
       }) {
    std::vector<int64_t> counts(64);
    for (int32_t i = 0; i < kPairs; ++i) ++counts[8 * pair.first(i) + pair.second(i)];
    ChiSquare(expected, counts).ExpectBelowCritical(pair.what);
  }
}

// Upper four bits of the words of two tokens.
TEST(DrawTest, WordsOfNeighbouringTokensAreIndependent) {
  constexpr int32_t kPairs = 20000;
  const std::vector<double> expected(256, kPairs / 256.0);
  for (const int32_t distance : {1, 2, 3, 4, 64}) {
    for (const int32_t first : {0, 1, 3}) {
      std::vector<int64_t> counts(256);
      for (int32_t i = 0; i < kPairs; ++i) {
        ++counts[(DrawWord(5, i, first) >> 28 << 4) + (DrawWord(5, i, first + distance) >> 28)];
      }
      ChiSquare(expected, counts)
          .ExpectBelowCritical("tokens " + std::to_string(first) + " and " +
                               std::to_string(first + distance));
    }
  }
}

// Any combination of restrictions, from none to all.
SamplingParams RandomSampling(int64_t n_tokens, uint64_t seed) {
  const auto words = Philox4x32(seed, 99, 0), more = Philox4x32(seed, 99, 1);
  SamplingParams sampling = {
      .temperature = std::exp(4 * UniformFloat(words[0]) - 2),
      .top_p = words[1] % 3 == 0 ? 1.0f : 0.05f + 0.949f * UniformFloat(words[1]),
      .top_k = words[2] % 3 == 0 ? 0 : static_cast<int32_t>(words[2] % (n_tokens + 9)),
      .min_p = words[3] % 3 == 0 ? 0.05f * UniformFloat(words[3]) : 0.0f,
      .seed = seed * 0x9e3779b97f4a7c15u};
  if (more[1] % 3 == 0) {
    sampling.min_tokens = 1;
    for (int32_t id = more[2] % 5; id < n_tokens && sampling.stop_token_ids.size() < 50;
         id += 1 + more[3] % 40) {
      sampling.stop_token_ids.push_back(id);
    }
  }
  return sampling;
}

TEST(DrawTest, DrawsWhatTheDefinitionSaysAtEveryLevel) {
  for (const SimdLevel level : AvailableSimdLevels()) {
    for (uint64_t seed = 0; seed < 200; ++seed) {
      const int64_t n_tokens = 1 + Philox4x32(seed, 98, 0)[0] % (seed % 8 == 0 ? 5000 : 300);
      const SamplingParams sampling = RandomSampling(n_tokens, seed);
      const std::vector<float> logits = Logits(n_tokens, seed % 5 == 0 ? 40 : 5, seed);
      Drawer drawer(logits, level);
      for (const int32_t position : {0, 1, 77, 2147483647}) {
        EXPECT_EQ(drawer.Draw(sampling, position), ModelDraw(logits, sampling, position))
            << SimdLevelName(level) << " seed " << seed << " position " << position;
      }
    }
  }
}

TEST(DrawTest, DrawsFromTheLargestVocabulary) {
  const std::vector<float> flat(kMaxDrawTokens, 1.5f), spread = Normals(kMaxDrawTokens, 2, 3);
  // The sum of all weights is 2^63, half of it 2^19 tokens.
  EXPECT_LT(Drawer(flat).Draw({.top_p = 0.5f, .seed = 1}, 3), kMaxDrawTokens / 2);
  const int32_t of_flat = ModelDraw(flat, {.seed = 1}, 3);
  const int32_t of_spread = ModelDraw(spread, {.seed = 2}, 3);
  for (const SimdLevel level : AvailableSimdLevels()) {
    EXPECT_EQ(Drawer(flat, level).Draw({.seed = 1}, 3), of_flat);
    EXPECT_EQ(Drawer(spread, level).Draw({.seed = 2}, 3), of_spread);
  }
}

TEST(DrawTest, AnyoneCanPredictADraw) {
  std::ifstream file(BORA_SOURCE_DIR "/tests/kernels/testdata/draws.txt");
  int64_t n_tokens = 0;
  int n_draws = 0, case_idx = -1;
  std::string last_case;
  float temperature = 0;
  int32_t top_k = 0, position = 0, token_id = 0;
  int64_t seed = 0;
  double gumbel = 0;
  while (file >> n_tokens >> temperature >> top_k >> seed >> position >> token_id >> gumbel) {
    const std::string this_case = std::to_string(n_tokens) + "/" + std::to_string(temperature) +
                                  "/" + std::to_string(top_k) + "/" + std::to_string(seed);
    if (this_case != last_case) ++case_idx;
    last_case = this_case;
    std::vector<float> logits(n_tokens);
    for (int64_t id = 0; id < n_tokens; ++id) {
      logits[id] =
          static_cast<float>((id * 40503 + case_idx * 7919) % 65536) * (24.0f / 65536) - 12;
    }
    const SamplingParams sampling = {
        .temperature = temperature, .top_k = top_k, .seed = static_cast<uint64_t>(seed)};
    for (const SimdLevel level : AvailableSimdLevels()) {
      EXPECT_EQ(Drawer(logits, level).Draw(sampling, position), token_id)
          << this_case << " position " << position;
    }
    EXPECT_NEAR(GumbelOf(DrawWord(sampling.seed, position, token_id)), gumbel, 1e-11);
    ++n_draws;
  }
  EXPECT_EQ(n_draws, 66);
}

// The best of the parts' best scores is the whole's; a part is what is left when all other tokens
// are out of reach.
TEST(DrawTest, APartOfTheVocabularyDrawsAsInTheWhole) {
  constexpr int64_t kTokens = 1000;
  const std::vector<float> logits = Logits(kTokens, 4, 1);
  const SamplingParams sampling = {.temperature = 0.9f, .seed = 77};
  for (int32_t position = 0; position < 50; ++position) {
    const int32_t whole = Drawer(logits).Draw(sampling, position);
    double best = -INFINITY;
    int32_t winner = -1;
    for (const auto& [begin, end] :
         std::vector<std::pair<int64_t, int64_t>>{{0, 13}, {13, 500}, {500, 501}, {501, 1000}}) {
      std::vector<float> part(kTokens, -1e6f);
      std::copy(logits.begin() + begin, logits.begin() + end, part.begin() + begin);
      const int32_t id = Drawer(part).Draw(sampling, position);
      ASSERT_TRUE(begin <= id && id < end);
      const double score =
          DrawScore(logits[id], sampling.temperature, DrawWord(sampling.seed, position, id));
      if (score > best) {
        best = score;
        winner = id;
      }
    }
    EXPECT_EQ(winner, whole);
  }
}

// A draft whose logits are the target's and some noise, and which draws with the same seed and
// position, agrees with the target with probability sum_i 1 / sum_j max(p_j / p_i, q_j / q_i), here
// 0.84; rejection sampling would accept sum_i min(p_i, q_i), 0.87. A draft with random numbers of
// its own agrees in sum_i p_i q_i, 0.39.
TEST(DrawTest, ADraftWithTheSameNoiseAgreesAsOftenAsRejectionSamplingWouldAccept) {
  constexpr int kContexts = 1200;
  constexpr int64_t kTokens = 300;
  double agreed = 0, expected = 0, variance = 0, accepted = 0, independent = 0;
  for (int c = 0; c < kContexts; ++c) {
    std::vector<float> target = Normals(kTokens, 2, 10 + c);
    const std::vector<float> noise = Normals(kTokens, 0.5f, 100000 + c);
    for (int head = 0; head < 3; ++head) target[37 * head + 5] += 7;
    std::vector<float> draft(kTokens);
    for (int64_t i = 0; i < kTokens; ++i) draft[i] = target[i] + noise[i];
    const SamplingParams sampling = {.seed = 5};
    agreed += Drawer(target).Draw(sampling, c) == Drawer(draft).Draw(sampling, c) ? 1 : 0;
    const std::vector<double> p = reference::SamplingDistribution(ToDoubles(target), {});
    const std::vector<double> q = reference::SamplingDistribution(ToDoubles(draft), {});
    double agree = 0;
    for (int64_t i = 0; i < kTokens; ++i) {
      double sum = 0;
      for (int64_t j = 0; j < kTokens; ++j) sum += std::max(p[j] / p[i], q[j] / q[i]);
      agree += 1 / sum;
      accepted += std::min(p[i], q[i]);
      independent += p[i] * q[i];
    }
    expected += agree;
    variance += agree * (1 - agree);
  }
  std::printf("agreed %.3f, expected %.3f, rejection sampling %.3f, independent %.3f\n",
              agreed / kContexts, expected / kContexts, accepted / kContexts,
              independent / kContexts);
  EXPECT_NEAR(agreed, expected, 4 * std::sqrt(variance));
  EXPECT_GT(agreed, accepted - 0.06 * kContexts);
}

// Words around powers of two and at both ends, and 65536 between.
TEST(DrawTest, TheBoundIsAboveTheGumbelNumber) {
  std::vector<uint32_t> words;
  for (int bit = 0; bit < 32; ++bit) {
    for (const int32_t off : {-2, -1, 0, 1, 2}) {
      words.push_back((uint32_t{1} << bit) + off);
      words.push_back(~((uint32_t{1} << bit) + off));
    }
  }
  for (uint32_t i = 0; i < 65536; ++i) words.push_back(i * 65537 + 12345);
  double least = INFINITY, greatest = -INFINITY;
  for (const uint32_t word : words) {
    const double g = GumbelOf(word);
    EXPECT_NEAR(g, -std::log(-std::log((word + 0.5) / 0x1p32)), 1e-13 * (1 + std::abs(g)));
    // Its own roundings are in LeastToBeat.
    EXPECT_GE(GumbelBound(word) + 1e-4, g) << word;
    EXPECT_LE(g, double{kMaxGumbel});
    least = std::min(least, g);
    greatest = std::max(greatest, g);
  }
  EXPECT_NEAR(least, -3.13, 0.01);
  EXPECT_NEAR(greatest, 22.874, 0.001);
}

// Whatever beats a score passes the comparison that spares logarithms, at extreme temperatures too.
TEST(DrawTest, CandidatesAreAllThatBeatTheScore) {
  int n_better = 0;
  for (uint64_t seed = 0; seed < 300; ++seed) {
    const auto words = Philox4x32(seed, 97, 0);
    const float temperature = std::exp2(static_cast<float>(words[0] % 250) - 125);
    const float scale = std::exp2(static_cast<float>(words[1] % 250) - 125);
    std::vector<float> logits = Logits(200, 1, seed);
    for (float& logit : logits) logit *= scale;
    const int32_t rival = static_cast<int32_t>(words[2] % 200);
    const double score = DrawScore(logits[rival], temperature, DrawWord(seed, 1, rival));
    const DrawTask task = {.logits = logits.data(),
                           .seed = seed,
                           .position = 1,
                           .temperature = temperature,
                           .least = LeastToBeat(score, temperature),
                           .least_logit = std::numeric_limits<float>::lowest()};
    for (const SimdLevel level : AvailableSimdLevels()) {
      std::vector<DrawCandidate> found(256);
      const int64_t n = GetSimdKernels(level).draw_candidates(task, 0, 200, found.data());
      found.resize(n);
      auto next = found.begin();
      for (int32_t id = 0; id < 200; ++id) {
        const uint32_t word = DrawWord(seed, 1, id);
        const bool is_better = DrawScore(logits[id], temperature, word) > score;
        n_better += is_better ? 1 : 0;
        if (next != found.end() && next->token_id == id) {
          EXPECT_EQ(next->word, word);
          ++next;
        } else {
          EXPECT_FALSE(is_better) << "seed " << seed << " token " << id;
        }
      }
      EXPECT_EQ(next, found.end());
    }
  }
  EXPECT_GT(n_better, 1000);
}

TEST(DrawTest, WhatIsBehindTheTokensIsNotLookedAt) {
  std::vector<float> logits = Logits(130, 3, 1);
  std::vector<float> longer = logits;
  longer.insert(longer.end(), {NAN, 1e30f, INFINITY, 50.0f});
  CpuDevice device(1);
  for (const SamplingParams& sampling :
       {SamplingParams{.temperature = 0, .n_logprobs = 20}, SamplingParams{.n_logprobs = 20},
        SamplingParams{.top_p = 0.9f, .n_logprobs = 2}, SamplingParams{.top_k = 200}}) {
    std::vector<SampledToken> want, got;
    Sample(device, 130, {{.logits = logits.data(), .sampling = &sampling}}, &want);
    Sample(device, 130, {{.logits = longer.data(), .sampling = &sampling}}, &got);
    EXPECT_EQ(got, want);
    EXPECT_FALSE(got[0].non_finite);
  }
}

// Subnormal logits are zero and a subnormal temperature is greedy, whatever the mode of the thread.
TEST(DrawTest, SubnormalNumbersCountAsZero) {
  std::vector<float> logits = {-1e-39f, 1e-39f, 0, 2e-40f};
  EXPECT_EQ(Drawer(logits).Draw({.temperature = 0}, 0), 0);
  EXPECT_EQ(Drawer(logits).Draw({.temperature = 1e-40f}, 0), 0);
  for (int32_t position = 0; position < 50; ++position) {
    EXPECT_EQ(Drawer(logits).Draw({.temperature = 1e-37f, .seed = 1}, position),
              ModelDraw({0, 0, 0, 0}, {.temperature = 1e-37f, .seed = 1}, position));
  }
  EXPECT_EQ(OrderKey(1e-39f, 5), OrderKey(0, 5));
  EXPECT_EQ(OrderKey(-1e-39f, 5), OrderKey(-0.0f, 5));
}

}  // namespace
}  // namespace bora
