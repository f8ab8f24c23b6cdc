#include "tests/reference/reference.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "tests/reference/forward_at.h"

namespace bora::reference {
namespace {

TEST(ReferenceTest, ForwardEqualsPublicImplementation) {
  const ModelConfig config = {.dim = 12,
                              .hidden_dim = 20,
                              .n_layers = 2,
                              .n_heads = 4,
                              .n_kv_heads = 2,
                              .head_dim = 6,
                              .vocab_size = 9,
                              .norm_eps = 1e-5,
                              .rope_theta = 1e4};
  Weights weights;
  // The formula of make_golden.py: n counts the tensors, n_cols = 0 makes a gain.
  const auto add = [&](const std::string& name, int64_t n_rows, int64_t n_cols) {
    const double n = static_cast<double>(weights.size());
    Vector tensor(n_cols == 0 ? n_rows : n_rows * n_cols);
    for (size_t i = 0; i < tensor.size(); ++i) {
      const double wave = std::sin(0.7 * static_cast<double>(i) + n);
      tensor[i] = n_cols == 0 ? 1 + 0.1 * wave : wave / std::sqrt(static_cast<double>(n_cols));
    }
    weights[name] = tensor;
  };
  add("tok_embeddings", 9, 12);
  for (int layer = 0; layer < 2; ++layer) {
    const std::string prefix = "layers." + std::to_string(layer) + ".";
    add(prefix + "attention_norm", 12, 0);
    add(prefix + "wq", 24, 12);
    add(prefix + "wk", 12, 12);
    add(prefix + "wv", 12, 12);
    add(prefix + "wo", 12, 24);
    add(prefix + "ffn_norm", 12, 0);
    add(prefix + "w1", 20, 12);
    add(prefix + "w2", 12, 20);
    add(prefix + "w3", 20, 12);
  }
  add("norm", 12, 0);
  add("output", 9, 12);
  const Vector logits = Forward(config, weights, {3, 1, 4, 1, 5, 8, 2, 6});
  // Printed by make_golden.py, with 12 decimals.
  const std::map<int, Vector> expected = {
      {0,
       {0.747808490832, -1.312905167834, 0.615745024343, 0.673406357894, -1.315129586872,
        0.692457388417, 0.595959056343, -1.311406940971, 0.766038434410}},
      {3,
       {0.788489507494, 0.455266798540, -1.261319273649, 0.854710777509, 0.373636055025,
        -1.242760705796, 0.917067013579, 0.290315715364, -1.218582327779}},
      {7,
       {0.893044641529, -1.213540225748, 0.367310699562, 0.832059668112, -1.231468989959,
        0.446916080653, 0.767312089909, -1.243829005565, 0.524500490594}}};
  for (const auto& [position, row] : expected) {
    for (int id = 0; id < 9; ++id) {
      EXPECT_NEAR(logits[position * 9 + id], row[id], 2e-12) << position << " " << id;
    }
  }
}

// Sums in another order, of at most 600 terms of order one, through three layers: some 600 * 2^-53.
TEST(ReferenceTest, ForwardAtIsForwardAtThosePositions) {
  const ModelConfig config = {.dim = 12,
                              .hidden_dim = 20,
                              .n_layers = 3,
                              .n_heads = 6,
                              .n_kv_heads = 2,
                              .head_dim = 10,
                              .vocab_size = 9,
                              .norm_eps = 1e-5,
                              .rope_theta = 1e4};
  constexpr int64_t kTokens = 600;  // more than two blocks of keys
  std::mt19937 random(1);
  Weights weights;
  const auto add = [&](const std::string& name, int64_t n_rows, int64_t n_cols) {
    for (int64_t i = 0; i < n_rows * n_cols; ++i) {
      // Uniform in [-sqrt(3), sqrt(3)] / sqrt(n_cols); gains up to 1.8.
      const double uniform = static_cast<double>(random()) / 0x1p31 - 1;
      weights[name].push_back(uniform * std::sqrt(3.0 / static_cast<double>(n_cols)));
    }
  };
  add("tok_embeddings", 9, 12);
  for (int layer = 0; layer < 3; ++layer) {
    const std::string prefix = "layers." + std::to_string(layer) + ".";
    add(prefix + "attention_norm", 12, 1);
    add(prefix + "wq", 60, 12);
    add(prefix + "wk", 20, 12);
    add(prefix + "wv", 20, 12);
    add(prefix + "wo", 12, 60);
    add(prefix + "ffn_norm", 12, 1);
    add(prefix + "w1", 20, 12);
    add(prefix + "w2", 12, 20);
    add(prefix + "w3", 20, 12);
  }
  add("norm", 12, 1);
  add("output", 9, 12);
  std::vector<int32_t> tokens(kTokens);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % 9);
  const std::vector<int64_t> positions = {0, 1, 7, 8, 255, 256, 257, 511, 513, 599};
  const Vector all = Forward(config, weights, tokens);
  const Vector some = ForwardAt(config, weights, tokens, positions);
  ASSERT_EQ(some.size(), positions.size() * 9);
  double worst = 0;
  for (size_t i = 0; i < some.size(); ++i) {
    worst = std::max(worst, std::abs(some[i] - all[positions[i / 9] * 9 + i % 9]));
  }
  std::printf("worst difference: %.3g\n", worst);
  EXPECT_LE(worst, 600 * 0x1p-53);
}

TEST(ReferenceTest, SamplingDistributionAppliesRestrictionsInOrder) {
  const Vector logits = {std::log(1.0), std::log(4.0), std::log(2.0), std::log(3.0)};
  using testing::DoubleNear;
  using testing::ElementsAre;
  const auto near = [](double value) { return DoubleNear(value, 1e-15); };
  EXPECT_THAT(SamplingDistribution(logits, {}),
              ElementsAre(near(.1), near(.4), near(.2), near(.3)));
  EXPECT_THAT(SamplingDistribution(logits, {.top_k = 2}),
              ElementsAre(0, near(4.0 / 7), 0, near(3.0 / 7)));
  // After top_k 3 the first two hold 7/9 of the probability.
  EXPECT_THAT(SamplingDistribution(logits, {.top_k = 3, .top_p = 0.75}),
              ElementsAre(0, near(4.0 / 7), 0, near(3.0 / 7)));
  EXPECT_THAT(SamplingDistribution(logits, {.min_p = 0.6}),
              ElementsAre(0, near(4.0 / 7), 0, near(3.0 / 7)));
  EXPECT_THAT(SamplingDistribution(logits, {.top_p = 0.01}), ElementsAre(0, 1, 0, 0));
  EXPECT_THAT(SamplingDistribution(logits, {.temperature = 0, .banned_ids = {1}}),
              ElementsAre(0, 0, 0, 1));
}

// By hand: 0 is in no list, 1 in the prompt, 2 in both, 3 was generated twice.
TEST(ReferenceTest, PenalizeFollowsTheDefinition) {
  EXPECT_THAT(Penalize({4, 4, -4, 4, -4}, {1, 2}, {3, 2, 3}, 2, 0.5, 0.25),
              testing::ElementsAre(4, 2, -8.75, 0.75, -4));
}

}  // namespace
}  // namespace bora::reference
