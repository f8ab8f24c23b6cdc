// AddRmsNorm and SiluMul: CUDA's kernels on the CPU against float64.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/ops.h"
#include "tests/cuda_host/ops_testing.h"
#include "tests/kernels/op_testing.h"
#include "tests/reference/reference.h"

namespace bora::cuda_host {
namespace {

class CudaElementwiseTest : public CudaHostTest {};
INSTANTIATE_TEST_SUITE_P(, CudaElementwiseTest, testing::ValuesIn(AllRunOptions()), RunOptionsName);

// A thread adds at most CeilDiv(n_groups, n_threads) * width squares, the trees 10 times; the mean
// and eps add 2 more roundings, all halved by the root; root, division and two products add 4.
double NormRoundings(int64_t dim) {
  const int64_t width = dim % 4 == 0 ? 4 : 1;
  const int64_t n_threads = std::min<int64_t>(512, RoundUp(dim / width, 32));
  const int64_t n_sequential = CeilDiv(dim / width, n_threads) * width;
  return static_cast<double>(n_sequential + 12) / 2 + 4;
}

TEST_P(CudaElementwiseTest, AddRmsNormAgreesWithReference) {
  WorstRatio worst("add_rms_norm");
  for (int64_t n : {0, 1, 3}) {
    for (int64_t dim : {1, 2, 15, 16, 17, 100, 132, 1000, 2056, 4096}) {
      for (bool with_delta : {false, true}) {
        std::vector<float> residual = RandomFloats(n * dim, 1);
        const std::vector<float> delta = RandomFloats(n * dim, 2);
        const std::vector<float> gain = RandomFloats(dim, 3);
        std::vector<float> want_residual = residual;
        for (int64_t i = 0; with_delta && i < n * dim; ++i) want_residual[i] += delta[i];
        std::vector<float> out(n * dim, NAN);
        AddRmsNorm(device_, {n, dim, 1e-5f}, residual.data(), with_delta ? delta.data() : nullptr,
                   gain.data(), out.data());
        EXPECT_EQ(residual, want_residual);
        const std::vector<double> want =
            reference::RmsNorm(ToDoubles(want_residual), ToDoubles(gain), double{1e-5f});
        for (size_t i = 0; i < want.size(); ++i) {
          worst.Add(out[i], want[i], NormRoundings(dim) * kFloatEps * std::abs(want[i]));
        }
      }
    }
  }
}

TEST_P(CudaElementwiseTest, AddRmsNormOfATokenDoesNotDependOnTheOthers) {
  const int64_t n = 3, dim = 132;
  const std::vector<float> delta = RandomFloats(n * dim, 2), gain = RandomFloats(dim, 3);
  std::vector<float> together = RandomFloats(n * dim, 1), alone = together;
  std::vector<float> out_together(n * dim), out_alone(n * dim);
  AddRmsNorm(device_, {n, dim, 1e-5f}, together.data(), delta.data(), gain.data(),
             out_together.data());
  for (int64_t t = 0; t < n; ++t) {
    AddRmsNorm(device_, {1, dim, 1e-5f}, &alone[t * dim], &delta[t * dim], gain.data(),
               &out_alone[t * dim]);
  }
  EXPECT_EQ(out_together, out_alone);
}

// The exponential weighs at most fully in the sigmoid; division, sum and two products add 4 more
// roundings. Where it overflows the result is 0, at most 89 exp(-88.7) < 1.1e-36.
TEST_P(CudaElementwiseTest, SiluMulAgreesWithReference) {
  WorstRatio worst("silu_mul");
  for (int64_t n : {0, 1, 3}) {
    for (int64_t hidden : {1, 2, 15, 16, 33, 500, 1028}) {
      for (float scale : {1.0f, 20.0f, 200.0f}) {
        std::vector<float> gate_up = RandomFloats(2 * n * hidden, 7);
        for (float& value : gate_up) value *= scale;
        std::vector<float> out(n * hidden, NAN);
        SiluMul(device_, n, hidden, gate_up.data(), out.data());
        for (int64_t i = 0; i < n * hidden; ++i) {
          const int64_t from = i / hidden * 2 * hidden + i % hidden;
          const double up = gate_up[from + hidden];
          const double want = reference::SiluMul({double{gate_up[from]}}, {up})[0];
          worst.Add(out[i], want, 6.5 * kFloatEps * std::abs(want) + 1.1e-36 * std::abs(up));
        }
      }
    }
  }
}

}  // namespace
}  // namespace bora::cuda_host
