#include "worker/comm/tree_sum.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <vector>

namespace bora {
namespace {

std::vector<const float*> Pointers(const std::vector<std::vector<float>>& sources) {
  std::vector<const float*> pointers;
  for (const std::vector<float>& source : sources) pointers.push_back(source.data());
  return pointers;
}

std::vector<float> SumOf(const std::vector<std::vector<float>>& sources) {
  std::vector<float> out(sources[0].size());
  TreeSum(Pointers(sources), static_cast<int64_t>(out.size()), out.data());
  return out;
}

// 2^24 + 1 rounds to 2^24 in float, so the brackets show in the result.
TEST(TreeSumTest, BracketsAreThoseOfTheContract) {
  constexpr float kBig = 16777216.0f;
  EXPECT_EQ(SumOf({{kBig}, {1}, {1}}), std::vector<float>{kBig});
  EXPECT_EQ(SumOf({{kBig}, {0}, {1}, {1}}), std::vector<float>{kBig + 2});
  EXPECT_EQ(SumOf({{0}, {1}, {1}, {0}, {kBig}}), std::vector<float>{kBig + 2});
  // (kBig + 0) + ((1 + 0) + 1) of six: the right half of the last two is summed first.
  EXPECT_EQ(SumOf({{kBig}, {0}, {0}, {0}, {1}, {1}}), std::vector<float>{kBig + 2});
  EXPECT_EQ(SumOf({{kBig}, {0}, {0}, {0}, {1}, {0}, {1}}), std::vector<float>{kBig + 2});
}

// What tensor parallelism rests on: ranks that hold sums of complete subtrees continue the tree.
TEST(TreeSumTest, SubtreesGiveTheBitsOfTheWholeTree) {
  constexpr size_t kFloats = 3000;  // more than one block
  std::vector<std::vector<float>> leaves(8, std::vector<float>(kFloats));
  uint32_t state = 1;
  for (std::vector<float>& leaf : leaves) {
    for (float& value : leaf) {
      state = state * 1664525u + 1013904223u;
      value = static_cast<float>(static_cast<int32_t>(state)) * 1e-7f;
    }
  }
  const std::vector<float> whole = SumOf(leaves);
  for (const size_t n_ranks : {2, 4}) {
    std::vector<std::vector<float>> ranks;
    for (size_t rank = 0; rank < n_ranks; ++rank) {
      const size_t n_each = 8 / n_ranks;
      ranks.push_back(SumOf({leaves.begin() + static_cast<std::ptrdiff_t>(rank * n_each),
                             leaves.begin() + static_cast<std::ptrdiff_t>((rank + 1) * n_each)}));
    }
    EXPECT_EQ(SumOf(ranks), whole) << n_ranks;
  }
}

TEST(TreeSumTest, OutputMayBeAnySource) {
  for (size_t target = 0; target < 5; ++target) {
    std::vector<std::vector<float>> sources;
    for (int k = 0; k < 5; ++k) sources.emplace_back(2500, static_cast<float>(1 << k));
    const std::vector<const float*> pointers = Pointers(sources);
    TreeSum(pointers, 2500, sources[target].data());
    EXPECT_EQ(sources[target], std::vector<float>(2500, 31.0f)) << target;
  }
}

TEST(TreeSumTest, SubnormalsCountAsZero) {
#if defined(__x86_64__)
  constexpr float kMin = std::numeric_limits<float>::min();
  EXPECT_EQ(SumOf({{kMin * 0.5f}, {0.0f}}), std::vector<float>{0.0f});
  EXPECT_EQ(SumOf({{1.5f * kMin}, {-kMin}}), std::vector<float>{0.0f});
  EXPECT_EQ(SumOf({{kMin}, {kMin}}), std::vector<float>{2 * kMin});
  volatile float half = 0.5f;  // not folded by the compiler
  EXPECT_NE(kMin * half, 0.0f) << "the mode must not outlive the call";
#else
  GTEST_SKIP() << "no such mode on this architecture";
#endif
}

}  // namespace
}  // namespace bora
