// The shared memory cycles of matrix products, which only the CPU form of CUDA counts.
#include <gtest/gtest.h>

#include <vector>

#include "kernels/matmul_plan.h"
#include "tests/cuda_host/ops_testing.h"
#include "tests/cuda_host/ptx.h"

namespace bora::cuda_host {
namespace {

TEST(MatMulBanksTest, LoadsOfMatricesHaveNoConflicts) {
  constexpr int64_t kTokens = 40, kRows = 48, kCols = 4 * 80;
  const std::vector<Bf16> x(kTokens * kCols), w(kRows * kCols);
  std::vector<float> y(kTokens * kRows);
  const PackedWeight weight = {.format = WeightFormat::kBf16,
                               .layout = WeightLayout::kRows,
                               .data = w.data(),
                               .n_rows = kRows,
                               .n_cols = kCols,
                               .n_leaves = 4};
  CudaDevice device(nullptr);
  for (int tile = 0; tile < kNMatMulTiles; ++tile) {
    ResetBankCounts();
    MatMulByPlan(device, {static_cast<MatMulTileIdx>(tile), 1}, x.data(), kTokens, weight,
                 y.data());
    EXPECT_GT(bank_counts().n_phases, 0);
    EXPECT_EQ(bank_counts().n_extra_cycles, 0) << "tile " << tile;
  }
}

}  // namespace
}  // namespace bora::cuda_host
