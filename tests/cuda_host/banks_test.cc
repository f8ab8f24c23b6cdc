// The shared memory cycles of matrix products and attention, which only the CPU form of CUDA
// counts.
#include <gtest/gtest.h>

#include <vector>

#include "kernels/cuda/matmul_plan.h"
#include "kernels/paged_attention.h"
#include "tests/cuda_host/ops_testing.h"
#include "tests/cuda_host/ptx.h"

namespace bora::cuda_host {
namespace {

TEST(BanksTest, LoadsOfMatMulHaveNoConflicts) {
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

TEST(BanksTest, LoadsOfPagedAttentionHaveNoConflicts) {
  constexpr int32_t kTokens = 40;
  for (const int64_t head_dim : {16, 32, 64, 128}) {
    const KvCacheShape shape = {.dtype = DType::kBf16,
                                .n_layers = 1,
                                .n_blocks = 1,
                                .local_n_kv_heads = 1,
                                .block_size = 64,
                                .head_dim = head_dim};
    std::vector<Bf16> keys(shape.layer_elements()), values(shape.layer_elements());
    const std::vector<float> qkv(kTokens * 3 * head_dim);
    std::vector<Bf16> out(kTokens * head_dim);
    const int32_t block = 0;
    CudaDevice device(nullptr);
    for (const bool decodes : {false, true}) {
      const AttentionItem item = {
          .n_tokens = decodes ? 1 : kTokens, .position = decodes ? kTokens - 1 : 0, .split_end = 1};
      const int32_t counts[3] = {decodes ? 1 : 0, decodes ? 0 : 1, 0};
      ResetBankCounts();
      PagedAttention(device,
                     {.decode_items = &item,
                      .prefill_items = &item,
                      .counts = counts,
                      .max_decode_items = 1,
                      .max_prefill_items = 1},
                     &block, 1, 1, qkv.data(), {keys.data(), values.data(), shape}, out.data());
      EXPECT_GT(bank_counts().n_phases, 0);
      EXPECT_EQ(bank_counts().n_extra_cycles, 0) << "head_dim " << head_dim;
    }
  }
}

}  // namespace
}  // namespace bora::cuda_host
