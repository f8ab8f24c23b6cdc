#include "kernels/matmul.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "base/int_math.h"
#include "kernels/cpu/cpu_device.h"
#include "tests/kernels/op_testing.h"
#include "tests/reference/reference.h"

namespace bora {
namespace {

struct Problem {
  std::vector<float> x;       // [m, n_cols]
  std::vector<float> w;       // [n_rows, n_cols], as stored
  std::vector<uint8_t> data;  // with room to align
  PackedWeight weight;
};

void Pack(Problem* problem) {
  PackedWeight& weight = problem->weight;
  problem->data.assign(weight.bytes() + 64, 0);
  uint8_t* const data =
      problem->data.data() + 64 - reinterpret_cast<uintptr_t>(problem->data.data()) % 64;
  // In pieces that do not begin at a panel, as a loader does.
  for (int64_t row = 0; row < weight.n_rows; row += 7) {
    const int64_t n = std::min<int64_t>(7, weight.n_rows - row);
    const float* from = problem->w.data() + row * weight.n_cols;
    if (weight.format == WeightFormat::kBf16) {
      const std::vector<Bf16> rows = ToBf16s({from, from + n * weight.n_cols});
      PackRows(weight, row, n, rows.data(), data);
    } else if (weight.format == WeightFormat::kF16) {
      const std::vector<Half> rows = ToHalves({from, from + n * weight.n_cols});
      PackRows(weight, row, n, rows.data(), data);
    } else {
      PackRows(weight, row, n, from, data);
    }
  }
  weight.data = data;
  for (int64_t i = 0; i < weight.n_rows * weight.n_cols; ++i) {
    problem->w[i] = PackedElement(weight, i / weight.n_cols, i % weight.n_cols);
  }
}

Problem MakeProblem(WeightFormat format, int64_t m, int64_t n, int64_t k, int64_t n_leaves) {
  Problem problem;
  problem.x = RandomFloats(m * k, 1);
  problem.w = RandomFloats(n * k, 2);
  problem.weight = {.format = format, .n_rows = n, .n_cols = k, .n_leaves = n_leaves};
  Pack(&problem);
  return problem;
}

std::vector<float> RunMatMul(CpuDevice& device, const Problem& problem, int64_t m) {
  std::vector<float> y(m * problem.weight.n_rows, NAN);
  const int64_t scratch = MatMulScratchFloats(device, m, problem.weight);
  const int64_t n_floats = std::max(device.scratch_floats(), RoundUp(scratch, 1024));
  MatMul(device, problem.x.data(), m, problem.weight, y.data());
  EXPECT_LE(device.scratch_floats(), n_floats);
  return y;
}

// The row as the product sees it, in float: rounded to bf16, or to bytes group by group.
std::vector<float> RoundedRow(const PackedWeight& weight, const float* x) {
  std::vector<float> row(x, x + weight.n_cols);
  if (weight.format == WeightFormat::kBf16) {
    for (float& value : row) value = RoundToBf16(value);
  }
  if (weight.format == WeightFormat::kInt8) {
    for (int64_t col = 0; col < weight.n_cols; col += weight.group_cols()) {
      const int64_t end = std::min(col + weight.group_cols(), weight.n_cols);
      float max = 0;
      for (int64_t i = col; i < end; ++i) max = std::max(max, std::abs(row[i]));
      for (int64_t i = col; i < end && max > 0; ++i) {
        row[i] = std::nearbyint(row[i] * (127.0f / max)) * (max / 127.0f);
      }
    }
  }
  return row;
}

// One level, all products with widened panels or none.
SimdChoice Widened(SimdLevel level, bool widened) {
  SimdChoice choice(level);
  for (ProductLoops& loops : choice.bf16_products) loops.widened = widened;
  choice.f16_widened = widened;
  return choice;
}

class MatMulTest : public testing::TestWithParam<WeightFormat> {};

constexpr int64_t kShapes[][2] = {{1, 1},    {2, 2},    {3, 7},   {5, 16},  {16, 33},
                                  {33, 100}, {40, 256}, {31, 96}, {65, 320}};

// The bound of matmul.h, with 4 more roundings for the scales of int8. 2^-126 a product that is
// flushed to zero does not show at these magnitudes.
TEST_P(MatMulTest, AgreesWithReference) {
  WorstRatio worst("matmul_" + std::to_string(static_cast<int>(GetParam())));
  for (SimdLevel level : AvailableSimdLevels()) {
    CpuDevice device(2, level);
    for (int64_t m : {0, 1, 2, 3, 5, 13, 26, 64}) {
      for (const auto& [n, k] : kShapes) {
        const Problem problem = MakeProblem(GetParam(), m, n, k, LeafCount(k, 8));
        const PackedWeight& weight = problem.weight;
        const std::vector<float> y = RunMatMul(device, problem, m);
        std::vector<float> x;
        for (int64_t i = 0; i < m; ++i) {
          const std::vector<float> row = RoundedRow(weight, &problem.x[i * k]);
          x.insert(x.end(), row.begin(), row.end());
        }
        std::vector<double> magnitude;
        const std::vector<double> want =
            reference::MatMul(ToDoubles(x), m, ToDoubles(problem.w), n, &magnitude);
        const double n_roundings = static_cast<double>(weight.leaf_cols()) + 7;
        for (size_t i = 0; i < want.size(); ++i) {
          worst.Add(y[i], want[i], n_roundings * kFloatEps * magnitude[i]);
        }
      }
    }
  }
}

// One output element, in the words of matmul.h.
float InDocumentedOrder(const PackedWeight& weight, const float* x, const float* w) {
  const std::vector<float> row = RoundedRow(weight, x);
  std::vector<float> sums;
  for (int64_t leaf = 0; leaf < weight.n_leaves; ++leaf) {
    float sum = 0;
    for (int64_t i = 0; i < weight.leaf_cols(); i += 2) {
      const auto at = [&](const float* from, int64_t c) {
        return c < weight.n_cols ? from[c] : 0.0f;
      };
      const int64_t col = leaf * weight.leaf_cols() + i;
      const int64_t first = weight.format == WeightFormat::kBf16 ? col + 1 : col;
      const int64_t second = weight.format == WeightFormat::kBf16 ? col : col + 1;
      sum = std::fma(at(row.data(), first), at(w, first), sum);
      sum = std::fma(at(row.data(), second), at(w, second), sum);
    }
    sums.push_back(sum);
  }
  for (; sums.size() > 1; sums.resize(sums.size() / 2)) {
    for (size_t i = 0; 2 * i < sums.size(); ++i) sums[i] = sums[2 * i] + sums[2 * i + 1];
  }
  return sums[0];
}

// The integer sums of int8 have no order.
TEST(MatMulOrderTest, FloatFormatsSumInTheDocumentedOrder) {
  CpuDevice device(1);
  for (WeightFormat format : {WeightFormat::kF32, WeightFormat::kBf16, WeightFormat::kF16}) {
    for (const auto& [n, k] : kShapes) {
      const Problem problem = MakeProblem(format, 3, n, k, LeafCount(k, 4));
      const std::vector<float> y = RunMatMul(device, problem, 3);
      for (int64_t i = 0; i < 3 * n; ++i) {
        EXPECT_EQ(y[i],
                  InDocumentedOrder(problem.weight, &problem.x[i / n * k], &problem.w[i % n * k]))
            << n << " x " << k << " element " << i;
      }
    }
  }
}

TEST_P(MatMulTest, SameBitsForEveryLevelThreadCountAndNumberOfRows) {
  for (int64_t k : {5, 64, 352}) {
    const int64_t n = 203, m_max = 550;
    const Problem problem = MakeProblem(GetParam(), m_max, n, k, LeafCount(k, 16));
    CpuDevice first(1, SimdLevel::kPortable);
    const std::vector<float> want = RunMatMul(first, problem, m_max);
    for (SimdLevel level : AvailableSimdLevels()) {
      for (int n_threads : {1, 2, 3}) {
        CpuDevice device(n_threads, Widened(level, n_threads != 2));
        for (int64_t m : {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 64, 257, 550}) {
          const std::vector<float> got = RunMatMul(device, problem, m);
          EXPECT_EQ(std::memcmp(got.data(), want.data(), got.size() * sizeof(float)), 0)
              << SimdLevelName(level) << " threads " << n_threads << " m " << m << " k " << k;
        }
      }
    }
  }
}

// Panels longer than what is widened at a time, and leaves too long for it: the bits of the loop
// that widens every step, and the scratch that was said.
TEST(MatMulWidenedTest, SameBitsForLongPanels) {
  struct Case {
    int64_t n_cols, n_leaves;
  };
  for (const Case& c : {Case{8192, 8}, Case{6144, 2}, Case{4096, 1}, Case{5000, 1}}) {
    const int64_t m = 61, n = 70;
    for (WeightFormat format : {WeightFormat::kBf16, WeightFormat::kF16}) {
      const Problem problem = MakeProblem(format, m, n, c.n_cols, c.n_leaves);
      for (SimdLevel level : AvailableSimdLevels()) {
        CpuDevice in_loop(1, Widened(level, false));
        const std::vector<float> want = RunMatMul(in_loop, problem, m);
        CpuDevice device(3, Widened(level, true));
        EXPECT_EQ(RunMatMul(device, problem, m), want)
            << SimdLevelName(level) << " " << c.n_cols << " columns in " << c.n_leaves << " leaves";
      }
    }
  }
}

// Every class of rows with a level of its own.
TEST(MatMulWidenedTest, SameBitsWhateverIsChosenForEachNumberOfRows) {
  const std::vector<SimdLevel> levels = AvailableSimdLevels();
  SimdChoice mixed(levels[0]);
  for (int i = 0; i < kNumRowClasses; ++i) {
    mixed.bf16_products[i] = {levels[i % levels.size()], i % 2 == 0};
  }
  const int64_t m_max = 60, n = 67, k = 96;
  const Problem problem = MakeProblem(WeightFormat::kBf16, m_max, n, k, 4);
  CpuDevice plain(1), device(2, mixed);
  const std::vector<float> want = RunMatMul(plain, problem, m_max);
  for (int64_t m = 1; m <= m_max; ++m) {
    const std::vector<float> got = RunMatMul(device, problem, m);
    EXPECT_EQ(std::memcmp(got.data(), want.data(), got.size() * sizeof(float)), 0) << m << " rows";
  }
}

// Ranks with the leaves of 1/2, 1/4 or 1/8 of the columns whose sums are added in a balanced tree
// give the bits of one rank with all columns.
TEST_P(MatMulTest, SubtreesAddUpToTheWhole) {
  CpuDevice device(1);
  const int64_t n = 37, k = 8 * 48, m = 5;
  const Problem whole = MakeProblem(GetParam(), m, n, k, 8);
  const std::vector<float> want = RunMatMul(device, whole, m);
  for (int64_t n_ranks : {2, 4, 8}) {
    const int64_t local = k / n_ranks;
    std::vector<std::vector<float>> parts;
    for (int64_t rank = 0; rank < n_ranks; ++rank) {
      Problem part = MakeProblem(GetParam(), m, n, local, 8 / n_ranks);
      const std::vector<float> w = RandomFloats(n * k, 2);
      for (int64_t row = 0; row < n; ++row) {
        std::copy_n(&w[row * k + rank * local], local, &part.w[row * local]);
      }
      for (int64_t row = 0; row < m; ++row) {
        std::copy_n(&whole.x[row * k + rank * local], local, &part.x[row * local]);
      }
      Pack(&part);
      parts.push_back(RunMatMul(device, part, m));
    }
    for (; parts.size() > 1; parts.resize(parts.size() / 2)) {
      for (size_t i = 0; 2 * i < parts.size(); ++i) {
        std::vector<float> sum = parts[2 * i];
        for (size_t e = 0; e < sum.size(); ++e) sum[e] += parts[2 * i + 1][e];
        parts[i] = sum;
      }
    }
    EXPECT_EQ(parts[0], want) << n_ranks << " ranks";
  }
}

// Products that underflow or lie 2^30 apart, where one rounding and two differ and where results
// are subnormal.
TEST_P(MatMulTest, SameBitsForExtremeMagnitudes) {
  const int64_t n = 9, k = 96, m = 7;
  Problem problem = MakeProblem(GetParam(), m, n, k, 4);
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const auto scaled = [&](int64_t i, uint64_t stream) {
      const auto words = Philox4x32(seed, i, stream);
      const int exponent = static_cast<int>(words[0] % 120) - 90;
      return std::ldexp(2 * UniformFloat(words[1]) - 1, exponent);
    };
    for (int64_t i = 0; i < m * k; ++i) problem.x[i] = scaled(i, 1);
    // Float16 ends at 2^16; its smallest numbers are subnormal.
    const bool is_f16 = GetParam() == WeightFormat::kF16;
    for (int64_t i = 0; i < n * k; ++i) {
      problem.w[i] = is_f16 ? std::ldexp(scaled(i, 2), 10) : scaled(i, 2);
      if (is_f16) problem.w[i] = std::clamp(problem.w[i], -65504.0f, 65504.0f);
    }
    Pack(&problem);
    std::vector<float> want;
    for (SimdLevel level : AvailableSimdLevels()) {
      CpuDevice device(1, level);
      const std::vector<float> got = RunMatMul(device, problem, m);
      if (want.empty()) want = got;
      EXPECT_EQ(std::memcmp(got.data(), want.data(), got.size() * sizeof(float)), 0)
          << SimdLevelName(level) << " seed " << seed;
    }
  }
}

TEST_P(MatMulTest, NonFiniteRowStaysAlone) {
  for (float bad : {NAN, INFINITY}) {
    Problem problem = MakeProblem(GetParam(), 5, 8, 20, 1);
    CpuDevice device(1);
    const std::vector<float> clean = RunMatMul(device, problem, 5);
    problem.x[2 * 20 + 3] = bad;
    const std::vector<float> got = RunMatMul(device, problem, 5);
    for (int64_t i = 0; i < 5 * 8; ++i) {
      if (i / 8 == 2) {
        EXPECT_FALSE(std::isfinite(got[i]));
      } else {
        EXPECT_EQ(got[i], clean[i]);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, MatMulTest,
                         testing::Values(WeightFormat::kF32, WeightFormat::kBf16,
                                         WeightFormat::kInt8, WeightFormat::kF16));

// Float16 is a float with fewer digits: the same weights as floats give the same bits.
TEST(MatMulF16Test, GivesTheBitsOfTheSameWeightsAsFloats) {
  const int64_t m = 53, n = 67, k = 352;
  const Problem halves = MakeProblem(WeightFormat::kF16, m, n, k, 8);
  Problem floats = halves;
  floats.weight.format = WeightFormat::kF32;
  Pack(&floats);
  CpuDevice device(2);
  EXPECT_EQ(RunMatMul(device, halves, m), RunMatMul(device, floats, m));
}

// Every finite float16, subnormal ones too, times 1 is itself, in each instruction set and with
// panels widened or not, though subnormal floats count as zero there.
TEST(MatMulF16Test, EveryWeightIsExact) {
  const int64_t n = 1 << 16, m = 61;
  Problem problem;
  problem.weight = {.format = WeightFormat::kF16, .n_rows = n, .n_cols = 2};
  problem.x.assign(m * 2, 0.0f);
  for (int64_t i = 0; i < m; ++i) problem.x[2 * i + i % 2] = 1.0f;
  std::vector<float> want(n, 0.0f);
  for (int64_t i = 0; i < n; ++i) {
    const float value = HalfToFloat(static_cast<uint16_t>(i));
    if (std::isfinite(value)) want[i] = value;
  }
  for (float value : want) problem.w.insert(problem.w.end(), {value, value});
  Pack(&problem);
  for (SimdLevel level : AvailableSimdLevels()) {
    for (const bool widened : {false, true}) {
      CpuDevice device(1, Widened(level, widened));
      const std::vector<float> got = RunMatMul(device, problem, m);
      for (int64_t i = 0; i < m * n; ++i) {
        ASSERT_EQ(got[i], want[i % n]) << SimdLevelName(level) << " float16 " << i % n;
      }
    }
  }
}

TEST(PackedWeightTest, Int8IsTheNearestOf255Steps) {
  const int64_t n = 33, k = 200;
  const std::vector<float> w = RandomFloats(n * k, 2);
  const Problem problem = MakeProblem(WeightFormat::kInt8, 1, n, k, 1);
  ASSERT_EQ(problem.weight.group_cols(), 100);
  for (int64_t row = 0; row < n; ++row) {
    for (int64_t group = 0; group < k; group += 100) {
      float max = 0;
      for (int64_t i = group; i < group + 100; ++i) max = std::max(max, std::abs(w[row * k + i]));
      for (int64_t i = group; i < group + 100; ++i) {
        // Half a step, and the roundings of the scale and the quotient.
        EXPECT_NEAR(problem.w[row * k + i], w[row * k + i], max / 254 * (1 + 4 * 255 * kFloatEps));
      }
    }
  }
}

TEST(PackedWeightTest, LeavesFollowFromTheNumberOfColumns) {
  EXPECT_EQ(LeafCount(4096, 1), 8);
  EXPECT_EQ(LeafCount(14336, 1), 8);
  EXPECT_EQ(LeafCount(128, 1), 8);
  EXPECT_EQ(LeafCount(128, 256), 1);
  EXPECT_EQ(LeafCount(1024, 256), 4);
  EXPECT_EQ(LeafCount(48, 1), 4);
  EXPECT_EQ(LeafCount(17, 1), 1);
}

}  // namespace
}  // namespace bora
