// Embed, AddRmsNorm, SiluMul and RopeAndStoreKv: CUDA's kernels on the CPU against float64.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
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

TEST_P(CudaElementwiseTest, EmbedCopiesRows) {
  for (int64_t dim : {1, 3, 16, 100, 1032}) {
    const std::vector<Bf16> table = ToBf16s(RandomFloats(7 * dim, 1));
    const std::vector<int32_t> tokens = {6, 0, 3, 3, 1};
    std::vector<float> out(tokens.size() * dim, NAN);
    Embed(device_, {DType::kBf16, table.data(), 7, dim}, tokens, out.data());
    for (size_t i = 0; i < out.size(); ++i) {
      ASSERT_EQ(out[i], ToFloat(table[tokens[i / dim] * dim + i % dim]));
    }
  }
}

// A cache in CUDA's layout with the element that a token stores.
Bf16& StoredElement(const void* elements, const PagedRows& rows, const KvLayerView& cache,
                    int64_t token_idx, int64_t head_idx, int64_t d) {
  const StepTokensView tokens = rows.tokens();
  const int64_t position = tokens.positions[token_idx];
  const int64_t block_id =
      tokens.block_table[tokens.token_row[token_idx] * tokens.max_blocks_per_row +
                         position / cache.shape.block_size];
  const int64_t slot = position % cache.shape.block_size;
  return static_cast<Bf16*>(
      const_cast<void*>(elements))[cache.RowMajorOffset(block_id, head_idx, slot) + d];
}

// Table entries are rounded once, each product once, their sum once: 3 roundings of |a| + |b|; keys
// are then rounded to bf16. What no token stores stays NaN.
TEST_P(CudaElementwiseTest, RopeAndStoreKvAgreesWithReference) {
  WorstRatio worst("rope_store_kv");
  for (int64_t head_dim : {2, 6, 16, 64}) {
    for (int64_t block_size : {4, 16}) {
      const int64_t n_heads = 3, n_kv_heads = 2;
      PagedRows rows({.dtype = DType::kBf16,
                      .local_n_kv_heads = n_kv_heads,
                      .block_size = block_size,
                      .head_dim = head_dim},
                     {{0, 5}, {37, 1}, {1020, 19}});
      const RopeTable rope(head_dim, 1039, 1e6);
      const StepTokensView tokens = rows.tokens();
      const KvLayerView cache = rows.cache();
      const int64_t stride = (n_heads + 2 * n_kv_heads) * head_dim;
      const std::vector<float> before = RandomFloats(tokens.n_tokens * stride, 5);
      std::vector<float> qkv = before;
      RopeAndStoreKv(device_, rope.view(), tokens, n_heads, qkv.data(), cache);
      for (int64_t t = 0; t < tokens.n_tokens; ++t) {
        for (int64_t h = 0; h < n_heads + n_kv_heads; ++h) {
          const float* head = &before[t * stride + h * head_dim];
          const std::vector<double> want =
              reference::Rope(std::vector<double>(head, head + head_dim), tokens.positions[t], 1e6);
          for (int64_t d = 0; d < head_dim; ++d) {
            const double magnitude =
                std::abs(head[d]) + std::abs(head[(d + head_dim / 2) % head_dim]);
            const bool is_query = h < n_heads;
            const double got =
                is_query ? qkv[t * stride + h * head_dim + d]
                         : ToFloat(StoredElement(cache.keys, rows, cache, t, h - n_heads, d));
            worst.Add(got, want[d], (3 * kFloatEps + (is_query ? 0 : kBf16Eps)) * magnitude);
          }
        }
        for (int64_t g = 0; g < n_kv_heads; ++g) {
          for (int64_t d = 0; d < head_dim; ++d) {
            const float value = before[t * stride + (n_heads + n_kv_heads + g) * head_dim + d];
            ASSERT_EQ(ToFloat(StoredElement(cache.values, rows, cache, t, g, d)),
                      RoundToBf16(value));
          }
        }
      }
      int64_t n_stored = 0;
      const int64_t n_elements = cache.shape.layer_elements();
      for (int64_t i = 0; i < n_elements; ++i) {
        n_stored += static_cast<const Bf16*>(cache.keys)[i].bits != 0xffff;
        n_stored += static_cast<const Bf16*>(cache.values)[i].bits != 0xffff;
      }
      EXPECT_EQ(n_stored, 2 * tokens.n_tokens * n_kv_heads * head_dim);
    }
  }
}

}  // namespace
}  // namespace bora::cuda_host
