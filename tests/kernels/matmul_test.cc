#include "kernels/matmul.h"

#include <gtest/gtest.h>

#include <cstring>

#include "tests/kernels/op_testing.h"
#include "tests/reference/reference.h"

namespace bora {
namespace {

struct Problem {
  std::vector<float> x;
  std::vector<float> w32;
  std::vector<Bf16> w16;
  Weight weight;
};

Problem MakeProblem(DType dtype, int64_t m, int64_t n, int64_t k) {
  Problem problem;
  problem.x = RandomFloats(m * k, 1);
  problem.w32 = RandomFloats(n * k, 2);
  problem.w16 = ToBf16s(problem.w32);
  if (dtype == DType::kBf16) {
    for (int64_t i = 0; i < n * k; ++i) problem.w32[i] = ToFloat(problem.w16[i]);
    problem.weight = {dtype, problem.w16.data(), n, k};
  } else {
    problem.weight = {dtype, problem.w32.data(), n, k};
  }
  return problem;
}

std::vector<float> RunMatMul(CpuDevice& device, const Problem& problem, int64_t m) {
  std::vector<float> y(m * problem.weight.n_rows, NAN);
  MatMul(device, problem.x.data(), m, problem.weight, y.data());
  return y;
}

class MatMulTest : public testing::TestWithParam<DType> {};

// Each lane adds k/16 terms with at most two roundings each (product, sum), the tree adds 4 more:
// |error| <= (2 + k/16 + 4) * eps * sum |x w| to first order.
TEST_P(MatMulTest, AgreesWithReference) {
  WorstRatio worst(GetParam() == DType::kBf16 ? "matmul_bf16" : "matmul_f32");
  for (SimdLevel level : AvailableSimdLevels()) {
    CpuDevice device(2, level);
    for (int64_t m : {0, 1, 2, 3, 5, 17, 64}) {
      for (int64_t n : {1, 2, 3, 5, 16, 33}) {
        for (int64_t k : {1, 2, 7, 15, 16, 17, 48, 100, 257}) {
          const Problem problem = MakeProblem(GetParam(), m, n, k);
          const std::vector<float> y = RunMatMul(device, problem, m);
          std::vector<double> magnitude;
          const std::vector<double> want =
              reference::MatMul(ToDoubles(problem.x, GetParam() == DType::kBf16), m,
                                ToDoubles(problem.w32), n, &magnitude);
          for (size_t i = 0; i < want.size(); ++i) {
            worst.Add(y[i], want[i],
                      (6.0 + static_cast<double>(CeilDiv(k, 16))) * kFloatEps * magnitude[i]);
          }
        }
      }
    }
  }
}

TEST_P(MatMulTest, SameBitsForEveryLevelThreadCountAndNumberOfRows) {
  for (int64_t k : {5, 64, 331}) {
    const int64_t n = 203, m_max = 300;
    const Problem problem = MakeProblem(GetParam(), m_max, n, k);
    CpuDevice first(1, SimdLevel::kPortable);
    const std::vector<float> want = RunMatMul(first, problem, m_max);
    for (SimdLevel level : AvailableSimdLevels()) {
      for (int n_threads : {1, 2, 3, 4}) {
        CpuDevice device(n_threads, level);
        for (int64_t m : {1, 2, 3, 4, 5, 6, 7, 8, 13, 64, 257, 300}) {
          const std::vector<float> got = RunMatMul(device, problem, m);
          EXPECT_EQ(std::memcmp(got.data(), want.data(), got.size() * sizeof(float)), 0)
              << "level " << static_cast<int>(level) << " threads " << n_threads << " m " << m;
        }
      }
    }
  }
}

// Products that underflow or lie 2^30 apart, where one rounding and two differ: the portable level
// must do what the fused instruction does.
TEST_P(MatMulTest, SameBitsForExtremeMagnitudes) {
  const int64_t n = 9, k = 96, m = 7;
  Problem problem = MakeProblem(GetParam(), m, n, k);
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const auto scaled = [&](int64_t i, uint64_t stream) {
      const auto words = Philox4x32(seed, i, stream);
      const int exponent = static_cast<int>(words[0] % 120) - 90;
      return RoundToBf16(std::ldexp(2 * UniformFloat(words[1]) - 1, exponent));
    };
    for (int64_t i = 0; i < m * k; ++i) problem.x[i] = scaled(i, 1);
    for (int64_t i = 0; i < n * k; ++i) {
      problem.w32[i] = scaled(i, 2);
      problem.w16[i] = ToBf16(problem.w32[i]);
    }
    std::vector<float> want;
    for (SimdLevel level : AvailableSimdLevels()) {
      CpuDevice device(1, level);
      const std::vector<float> got = RunMatMul(device, problem, m);
      if (want.empty()) want = got;
      EXPECT_EQ(std::memcmp(got.data(), want.data(), got.size() * sizeof(float)), 0)
          << "level " << static_cast<int>(level) << " seed " << seed;
    }
  }
}

TEST_P(MatMulTest, NonFiniteRowStaysAlone) {
  Problem problem = MakeProblem(GetParam(), 5, 8, 20);
  CpuDevice device(1);
  const std::vector<float> clean = RunMatMul(device, problem, 5);
  problem.x[2 * 20 + 3] = NAN;
  const std::vector<float> got = RunMatMul(device, problem, 5);
  for (int64_t i = 0; i < 5 * 8; ++i) {
    if (i / 8 == 2) {
      EXPECT_TRUE(std::isnan(got[i]));
    } else {
      EXPECT_EQ(got[i], clean[i]);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(DTypes, MatMulTest, testing::Values(DType::kF32, DType::kBf16));

}  // namespace
}  // namespace bora
