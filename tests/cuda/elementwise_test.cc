// Embed, AddRmsNorm, Add, SiluMul and RopeAndStoreKv of CUDA against float64; SumParts,
// JoinColumns.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/cpu/cpu_device.h"
#include "kernels/cuda/sum_parts.h"
#include "kernels/ops.h"
#include "tests/cuda/cuda_testing.h"
#include "tests/kernels/op_testing.h"
#include "tests/reference/reference.h"
#include "worker/comm/tree_sum.h"

namespace bora {
namespace {

class CudaElementwiseTest : public CudaTest {};
INSTANTIATE_TEST_SUITE_P(, CudaElementwiseTest, testing::ValuesIn(CudaRunModes()), CudaRunModeName);

std::vector<uint16_t> Bits(const std::vector<Bf16>& values) {
  std::vector<uint16_t> bits;
  for (const Bf16 value : values) bits.push_back(value.bits);
  return bits;
}

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
    for (int64_t dim : {1, 2, 15, 16, 17, 100, 132, 1000, 1031, 2056, 4096, 6148}) {
      for (bool with_delta : {false, true}) {
        DeviceArray<float> residual(RandomFloats(n * dim, 1));
        const DeviceArray<float> delta(RandomFloats(n * dim, 2));
        const DeviceArray<float> gain(RandomFloats(dim, 3));
        std::vector<float> want_residual = residual.ToHost();
        for (int64_t i = 0; with_delta && i < n * dim; ++i) want_residual[i] += delta.ToHost()[i];
        DeviceArray<Bf16> out(n * dim);
        AddRmsNorm(Device(), {n, dim, 1e-5f}, residual.data(), with_delta ? delta.data() : nullptr,
                   gain.data(), out.data());
        EXPECT_EQ(residual.ToHost(), want_residual);
        const std::vector<double> want =
            reference::RmsNorm(ToDoubles(want_residual), ToDoubles(gain.ToHost()), double{1e-5f});
        const std::vector<Bf16> got = out.ToHost();
        for (size_t i = 0; i < want.size(); ++i) {
          worst.Add(ToFloat(got[i]), want[i],
                    (NormRoundings(dim) * kFloatEps + kBf16Eps) * std::abs(want[i]));
        }
      }
    }
  }
}

TEST_P(CudaElementwiseTest, AddRmsNormOfATokenDoesNotDependOnTheOthers) {
  const int64_t n = 3, dim = 132;
  const DeviceArray<float> delta(RandomFloats(n * dim, 2)), gain(RandomFloats(dim, 3));
  DeviceArray<float> together(RandomFloats(n * dim, 1)), alone(RandomFloats(n * dim, 1));
  DeviceArray<Bf16> out_together(n * dim), out_alone(n * dim);
  AddRmsNorm(Device(), {n, dim, 1e-5f}, together.data(), delta.data(), gain.data(),
             out_together.data());
  for (int64_t t = 0; t < n; ++t) {
    AddRmsNorm(Device(), {1, dim, 1e-5f}, alone.data() + t * dim, delta.data() + t * dim,
               gain.data(), out_alone.data() + t * dim);
  }
  EXPECT_EQ(Bits(out_together.ToHost()), Bits(out_alone.ToHost()));
}

TEST_P(CudaElementwiseTest, AddAdds) {
  for (int64_t n : {0, 1, 7, 8, 1030, 4096}) {
    const std::vector<float> a = RandomFloats(n, 1), b = RandomFloats(n, 2);
    DeviceArray<float> residual(a);
    Add(Device(), n, DeviceArray<float>(b).data(), residual.data());
    const std::vector<float> got = residual.ToHost();
    for (int64_t i = 0; i < n; ++i) ASSERT_EQ(got[i], a[i] + b[i]);
  }
}

// The exponential weighs at most fully in the sigmoid; division, sum and two products add 4 more
// roundings, then comes bf16's. Where it overflows the result is 0, at most 89 exp(-88.7) <
// 1.1e-36.
TEST_P(CudaElementwiseTest, SiluMulAgreesWithReference) {
  WorstRatio worst("silu_mul");
  for (int64_t n : {0, 1, 3}) {
    for (int64_t hidden : {8, 16, 40, 504, 1032}) {
      for (float scale : {1.0f, 20.0f, 200.0f}) {
        std::vector<float> gate_up = RandomFloats(2 * n * hidden, 7);
        for (float& value : gate_up) value *= scale;
        DeviceArray<Bf16> out(n * hidden);
        SiluMul(Device(), n, hidden, DeviceArray<float>(gate_up).data(), out.data());
        const std::vector<Bf16> got = out.ToHost();
        for (int64_t i = 0; i < n * hidden; ++i) {
          const int64_t from = i / hidden * 2 * hidden + GatedRow(i % hidden);
          const double up = gate_up[from + kGatedGroupRows];
          const double want = reference::SiluMul({double{gate_up[from]}}, {up})[0];
          worst.Add(ToFloat(got[i]), want,
                    (6.5 * kFloatEps + kBf16Eps) * std::abs(want) + 1.1e-36 * std::abs(up));
        }
      }
    }
  }
}

TEST_P(CudaElementwiseTest, EmbedCopiesRows) {
  for (int64_t dim : {1, 3, 16, 100, 1032}) {
    const std::vector<Bf16> table = ToBf16s(RandomFloats(7 * dim, 1));
    const std::vector<float> float_table = RandomFloats(7 * dim, 2);
    const std::vector<int32_t> ids = {6, 0, 3, 3, 1};
    const DeviceArray<Bf16> on_device(table);
    const DeviceArray<float> floats_on_device(float_table);
    const DeviceArray<int32_t> tokens(ids);
    DeviceArray<float> out(ids.size() * dim), float_out(ids.size() * dim);
    Embed(Device(), {DType::kBf16, on_device.data(), 7, dim}, {tokens.data(), ids.size()},
          out.data());
    Embed(Device(), {DType::kF32, floats_on_device.data(), 7, dim}, {tokens.data(), ids.size()},
          float_out.data());
    const std::vector<float> got = out.ToHost(), float_got = float_out.ToHost();
    for (size_t i = 0; i < got.size(); ++i) {
      ASSERT_EQ(got[i], ToFloat(table[ids[i / dim] * dim + i % dim]));
      ASSERT_EQ(float_got[i], float_table[ids[i / dim] * dim + i % dim]);
    }
  }
}

TEST_P(CudaElementwiseTest, ResolveTokensTakesWhatTheSlotDrewLast) {
  const DeviceArray<int32_t> last_tokens(std::vector<int32_t>{40, 41, 42});
  std::vector<int32_t> ids(130, 7), want(130, 7);
  ids[1] = LastTokenOf(2), want[1] = 42;
  ids[129] = LastTokenOf(0), want[129] = 40;
  DeviceArray<int32_t> tokens(ids);
  ResolveTokens(Device(), 130, last_tokens.data(), tokens.data());
  EXPECT_EQ(tokens.ToHost(), want);
}

// Where a token's element of a head is in a cache in CUDA's layout.
int64_t StoredAt(const StepTokensView& tokens, const KvLayerView& cache, int64_t token_idx,
                 int64_t head_idx, int64_t d) {
  const int64_t position = tokens.positions[token_idx];
  const int64_t block_id =
      tokens.block_table[tokens.token_table_row[token_idx] * tokens.max_blocks_per_row +
                         position / cache.shape.block_size];
  return cache.RowMajorOffset(block_id, head_idx, position % cache.shape.block_size) + d;
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
      const KvCacheShape& shape = rows.shape();
      DeviceArray<Bf16> keys(shape.layer_elements()), values(shape.layer_elements());
      const KvLayerView cache = {keys.data(), values.data(), shape};
      const int64_t stride = (n_heads + 2 * n_kv_heads) * head_dim;
      const std::vector<float> before = RandomFloats(tokens.n_tokens * stride, 5);
      DeviceArray<float> qkv_on_device(before);
      const DeviceArray<float> cosines(
          std::vector<float>(rope.cosines(0), rope.cosines(0) + rope.n_positions() * head_dim / 2));
      const DeviceArray<float> sines(
          std::vector<float>(rope.sines(0), rope.sines(0) + rope.n_positions() * head_dim / 2));
      const DeviceTokens on_device(tokens);
      RopeAndStoreKv(Device(), RopeTableView{cosines.data(), sines.data(), rope.n_positions()},
                     on_device.view(), n_heads, qkv_on_device.data(), cache);
      const std::vector<float> qkv = qkv_on_device.ToHost();
      const std::vector<Bf16> got_keys = keys.ToHost(), got_values = values.ToHost();
      for (int64_t t = 0; t < tokens.n_tokens; ++t) {
        for (int64_t h = 0; h < n_heads + n_kv_heads; ++h) {
          const float* head = &before[t * stride + h * head_dim];
          const std::vector<double> want =
              reference::Rope(std::vector<double>(head, head + head_dim), tokens.positions[t], 1e6);
          for (int64_t d = 0; d < head_dim; ++d) {
            const double magnitude =
                std::abs(head[d]) + std::abs(head[(d + head_dim / 2) % head_dim]);
            const bool is_query = h < n_heads;
            const double got = is_query
                                   ? qkv[t * stride + h * head_dim + d]
                                   : ToFloat(got_keys[StoredAt(tokens, cache, t, h - n_heads, d)]);
            worst.Add(got, want[d], (3 * kFloatEps + (is_query ? 0 : kBf16Eps)) * magnitude);
          }
        }
        for (int64_t g = 0; g < n_kv_heads; ++g) {
          for (int64_t d = 0; d < head_dim; ++d) {
            const float value = before[t * stride + (n_heads + n_kv_heads + g) * head_dim + d];
            ASSERT_EQ(ToFloat(got_values[StoredAt(tokens, cache, t, g, d)]), RoundToBf16(value));
          }
        }
      }
      int64_t n_stored = 0;
      for (const Bf16 key : got_keys) n_stored += key.bits != 0xffff;
      for (const Bf16 value : got_values) n_stored += value.bits != 0xffff;
      EXPECT_EQ(n_stored, 2 * tokens.n_tokens * n_kv_heads * head_dim);
    }
  }
}

// The order of sums shows in numbers that lose bits: the tree of the host's transport is its model.
TEST_P(CudaElementwiseTest, SumPartsAddsAlongTheTreeOfRanks) {
  for (int n_parts = 1; n_parts <= kMaxSumParts; ++n_parts) {
    for (int64_t n : {0, 1, 3, 4, 255, 1030, 4096}) {
      const std::vector<float> host = RandomFloats(n_parts * n, 10 + n_parts);
      std::vector<const float*> sources;
      for (int part = 0; part < n_parts; ++part) sources.push_back(host.data() + part * n);
      std::vector<float> want(n);
      TreeSum(sources, n, want.data());
      DeviceArray<float> parts(host);
      DeviceArray<float> out(n);
      SumParts(Device(), n_parts, n, parts.data(), out.data());
      EXPECT_EQ(out.ToHost(), want) << n_parts << " parts of " << n;
      // In the place of any part.
      const int place = n_parts / 2;
      SumParts(Device(), n_parts, n, parts.data(), parts.data() + place * n);
      const std::vector<float> in_place = parts.ToHost();
      EXPECT_TRUE(std::equal(want.begin(), want.end(), in_place.begin() + place * n));
    }
  }
}

TEST_P(CudaElementwiseTest, JoinColumnsPutsPartsSideBySide) {
  for (int64_t n_rows : {0, 1, 5}) {
    for (const auto& [n_cols, n_parts] :
         {std::pair<int64_t, int64_t>{1, 1}, {7, 2}, {300, 4}, {9, 8}}) {
      const int64_t n_part_cols = CeilDiv(n_cols, n_parts);
      std::vector<float> host(n_parts * n_rows * n_part_cols, NAN);  // padding
      std::vector<float> want(n_rows * n_cols);
      for (int64_t row = 0; row < n_rows; ++row) {
        for (int64_t col = 0; col < n_cols; ++col) {
          const float value = static_cast<float>(1000 * row + col);
          host[(col / n_part_cols * n_rows + row) * n_part_cols + col % n_part_cols] = value;
          want[row * n_cols + col] = value;
        }
      }
      const JoinShape shape = {.n_rows = n_rows, .n_cols = n_cols, .n_part_cols = n_part_cols};
      const DeviceArray<float> parts(host);
      DeviceArray<float> out(n_rows * n_cols);
      JoinColumns(Device(), shape, parts.data(), out.data());
      EXPECT_EQ(out.ToHost(), want) << n_rows << " x " << n_cols << " of " << n_parts;
      CpuDevice cpu(1);
      std::vector<float> on_cpu(n_rows * n_cols);
      JoinColumns(cpu, shape, host.data(), on_cpu.data());
      EXPECT_EQ(on_cpu, want);
    }
  }
}

}  // namespace
}  // namespace bora
