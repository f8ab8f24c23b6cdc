// Products of cuBLASLt against float64: of the library on a GPU, and of fake_cublas_lt.cc on the
// CPU.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda/runtime/cublas_lt.h"
#include "tests/cuda/cuda_testing.h"
#include "tests/kernels/op_testing.h"

namespace bora {
namespace {

class MatrixLibraryTest : public CudaTest {
 protected:
  void SetUp() override {
    CudaTest::SetUp();
    if (IsSkipped()) return;
    auto library = CublasLt::Create(BORA_CUBLAS_LT);
    // A machine with a GPU may lack the library, but not the fake one.
    if (absl::IsUnavailable(library.status()) && std::string(BORA_CUBLAS_LT).empty()) {
      GTEST_SKIP() << library.status().message();
    }
    ASSERT_TRUE(library.ok()) << library.status();
    library_ = *std::move(library);
  }

  std::unique_ptr<CublasLt> library_;
};
INSTANTIATE_TEST_SUITE_P(, MatrixLibraryTest, testing::ValuesIn(CudaRunModes()), CudaRunModeName);

struct Problem {
  Problem(int64_t m, int64_t n_rows, int64_t n_cols)
      : m(m),
        x(ToBf16s(RandomFloats(m * n_cols, 1))),
        w(ToBf16s(RandomFloats(n_rows * n_cols, 2))) {
    weight = {.format = WeightFormat::kBf16,
              .layout = WeightLayout::kRows,
              .n_rows = n_rows,
              .n_cols = n_cols};
  }

  int64_t m;
  std::vector<Bf16> x, w;
  PackedWeight weight;  // without data
};

// Products of two bf16 are exact in float. The order of n_cols additions is the library's, each may
// truncate: every one of them errs by at most 2^-23 of the magnitudes that were added up.
void Compare(const Problem& problem, const std::vector<float>& y, WorstRatio* worst) {
  const int64_t n_rows = problem.weight.n_rows, n_cols = problem.weight.n_cols;
  for (int64_t i = 0; i < problem.m; ++i) {
    for (int64_t n = 0; n < n_rows; ++n) {
      double want = 0, magnitude = 0;
      for (int64_t k = 0; k < n_cols; ++k) {
        const double product =
            double{ToFloat(problem.x[i * n_cols + k])} * double{ToFloat(problem.w[n * n_cols + k])};
        want += product;
        magnitude += std::abs(product);
      }
      worst->Add(y[i * n_rows + n], want, static_cast<double>(n_cols) * 0x1p-23 * magnitude);
    }
  }
}

// Numbers of rows at and beside the powers of two that algorithms are chosen for; the long columns
// are what the library cuts into pieces. What lies behind y keeps its NaN.
TEST_P(MatrixLibraryTest, MatMulAgreesWithReference) {
  WorstRatio worst("cublas_lt");
  for (const auto& [n_rows, n_cols] :
       std::vector<std::pair<int64_t, int64_t>>{{96, 64}, {1000, 272}, {128, 14336}}) {
    for (int64_t m : {1, 2, 65, 100, 128}) {
      Problem problem(m, n_rows, n_cols);
      const DeviceArray<Bf16> x(problem.x), w(problem.w);
      DeviceArray<float> y((m + 1) * n_rows);
      problem.weight.data = w.data();
      library_->Prepare(problem.weight, 128);
      library_->MatMul(Device(), x.data(), m, problem.weight, y.data());
      const std::vector<float> got = y.ToHost();
      Compare(problem, got, &worst);
      for (int64_t n = 0; n < n_rows; ++n) ASSERT_TRUE(std::isnan(got[m * n_rows + n]));
    }
  }
}

TEST_P(MatrixLibraryTest, TheSameProductHasTheSameBits) {
  Problem problem(100, 128, 14336);
  const DeviceArray<Bf16> x(problem.x), w(problem.w);
  problem.weight.data = w.data();
  library_->Prepare(problem.weight, 128);
  DeviceArray<float> first(100 * 128), second(100 * 128);
  library_->MatMul(Device(), x.data(), 100, problem.weight, first.data());
  library_->MatMul(Device(), x.data(), 100, problem.weight, second.data());
  EXPECT_EQ(first.ToHost(), second.ToHost());
}

}  // namespace
}  // namespace bora
