// Embed, AddRmsNorm, SiluMul, RopeAndStoreKv, and the exp and log that others are built on.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "kernels/cpu/cpu_device.h"
#include "kernels/cpu/simd/simd.h"
#include "kernels/exact_math.h"
#include "kernels/ops.h"
#include "tests/kernels/op_testing.h"
#include "tests/reference/reference.h"

namespace bora {
namespace {

TEST(ExactMathTest, ExpIsWithinFourUlps) {
  WorstRatio worst("exp_double");
  for (int64_t i = 0; i < 400000; ++i) {
    const double x = i < 200000 ? -708.0 * UniformDouble(Philox4x32(1, i, 0)[0], 0)
                                : 10.0 * UniformDouble(Philox4x32(2, i, 0)[0], 0) - 5.0;
    worst.Add(Exp(x), std::exp(x), 4 * 0x1p-53 * std::exp(x));
  }
  EXPECT_EQ(Exp(0.0), 1.0);
  EXPECT_EQ(Exp(-709.0), 0.0);
  EXPECT_EQ(Exp(-1e300), 0.0);
  EXPECT_EQ(Exp(-INFINITY), 0.0);
  EXPECT_TRUE(std::isnan(Exp(NAN)));
}

TEST(ExactMathTest, LogIsWithinFourUlps) {
  WorstRatio worst("log_double");
  for (int64_t i = 0; i < 400000; ++i) {
    const double u = UniformDouble(Philox4x32(1, i, 0)[0], 0);
    const double x =
        i % 2 == 0 ? 1 + 100000 * u : std::ldexp(1 + u, static_cast<int>(i % 600) - 300);
    worst.Add(Log(x), std::log(x), 4 * 0x1p-53 * std::abs(std::log(x)) + 0x1p-54);
  }
  EXPECT_EQ(Log(1.0), 0.0);
}

// A weight as softmax leaves it: pairs of bf16, or floats.
float WeightAt(const std::vector<float>& scores, const AttentionKernels& kernels, DType dtype,
               int64_t i) {
  return dtype == DType::kF32 || kernels.step_floats == 2
             ? scores[i]
             : ToFloat(reinterpret_cast<const Bf16*>(&scores[0])[i]);
}

// Weights are 2^(score * scale - max). The difference is rounded once (times ln 2 in the weight),
// 2^y errs by 2 eps, or 2^-13.2 and a rounding to bf16. Below 2^-126 a weight is 0.
TEST(SimdTest, SoftmaxAgreesWithReference) {
  for (DType dtype : {DType::kF32, DType::kBf16}) {
    WorstRatio worst(dtype == DType::kF32 ? "softmax_f32" : "softmax_bf16");
    const double eps = dtype == DType::kF32 ? 2 * kFloatEps : std::exp2(-13.2) + kBf16Eps;
    for (SimdLevel level : AvailableSimdLevels()) {
      for (int64_t n : {1, 2, 15, 16, 17, 31, 33, 100, 511, 512}) {
        std::vector<float> scores = RandomFloats(kScoreFloats, n);
        for (float& score : scores) score *= 130;
        const std::vector<float> original = scores;
        const int64_t n_padded = RoundUp(n, 32) < 512 ? RoundUp(n, 32) + 32 : 512;
        const AttentionKernels& kernels = GetSimdKernels(level).attention[static_cast<int>(dtype)];
        const SoftmaxSums sums = kernels.softmax(scores.data(), n, n_padded, 0.5f);
        EXPECT_EQ(sums.max, 0.5f * *std::max_element(&original[0], &original[0] + n));
        double sum = 0;
        for (int64_t i = 0; i < n; ++i) {
          // 0.5f is a power of two: the scaled score is exact.
          const double y = 0.5 * original[i] - static_cast<double>(sums.max);
          worst.Add(WeightAt(scores, kernels, dtype, i), std::exp2(y),
                    (eps - y * std::log(2.0) * kFloatEps) * std::exp2(y) + 0x1p-126);
          sum += WeightAt(scores, kernels, dtype, i);
        }
        worst.Add(sums.sum, sum, (static_cast<double>(n) / 16 + 5) * kFloatEps * sum);
        for (int64_t i = n; i < n_padded; ++i) EXPECT_EQ(WeightAt(scores, kernels, dtype, i), 0.0f);
      }
    }
  }
}

TEST(SimdTest, SoftmaxSendsNanThrough) {
  for (SimdLevel level : AvailableSimdLevels()) {
    for (const AttentionKernels& kernels : GetSimdKernels(level).attention) {
      for (float bad : {NAN, -NAN, INFINITY, std::bit_cast<float>(0xffffffffu)}) {
        std::vector<float> scores(kScoreFloats, 1.0f);
        scores[5] = bad;
        EXPECT_TRUE(std::isnan(kernels.softmax(scores.data(), 40, 64, 1.0f).sum));
        scores.assign(kScoreFloats, bad);
        EXPECT_TRUE(std::isnan(kernels.softmax(scores.data(), 40, 64, 1.0f).sum));
      }
    }
  }
}

TEST(EmbedTest, CopiesRowsOfAllTypes) {
  CpuDevice device(2);
  for (int64_t dim : {1, 3, 16, 100}) {
    const std::vector<float> table = RandomFloats(7 * dim, 1);
    const std::vector<Bf16> rounded = ToBf16s(table);
    const std::vector<Half> halves = ToHalves(table);
    const std::vector<int32_t> tokens = {6, 0, 3, 3, 1};
    std::vector<float> out(tokens.size() * dim), out16(tokens.size() * dim),
        out_half(tokens.size() * dim);
    Embed(device, {DType::kF32, table.data(), 7, dim}, tokens, out.data());
    Embed(device, {DType::kBf16, rounded.data(), 7, dim}, tokens, out16.data());
    Embed(device, {DType::kF16, halves.data(), 7, dim}, tokens, out_half.data());
    for (size_t i = 0; i < out.size(); ++i) {
      const size_t from = tokens[i / dim] * dim + i % dim;
      EXPECT_EQ(out[i], table[from]);
      EXPECT_EQ(out16[i], ToFloat(rounded[from]));
      EXPECT_EQ(out_half[i], ToFloat(halves[from]));
    }
  }
}

TEST(EmbedDeathTest, RefusesTokenOutsideVocabulary) {
  CpuDevice device(1);
  const std::vector<float> table(6);
  std::vector<float> out(3);
  EXPECT_DEATH(Embed(device, {DType::kF32, table.data(), 2, 3}, {2}, out.data()),
               "token id 2 not in \\[0, 2\\)");
}

// The sum of squares has a relative error of (dim/64 + 7) eps, halved by the root; division, root,
// the two products and the addition of delta add 6 more roundings.
TEST(AddRmsNormTest, AgreesWithReference) {
  WorstRatio worst("add_rms_norm");
  for (SimdLevel level : AvailableSimdLevels()) {
    CpuDevice device(3, level);
    for (int64_t n : {0, 1, 2, 5, 64}) {
      for (int64_t dim : {1, 2, 15, 16, 17, 100, 1000}) {
        for (bool with_delta : {false, true}) {
          std::vector<float> residual = RandomFloats(n * dim, 1);
          const std::vector<float> delta = RandomFloats(n * dim, 2);
          const std::vector<float> gain = RandomFloats(dim, 3);
          std::vector<float> want_residual = residual;
          for (int64_t i = 0; with_delta && i < n * dim; ++i) want_residual[i] += delta[i];
          std::vector<float> out(n * dim, NAN);
          AddRmsNorm(device, {n, dim, 1e-5f}, residual.data(), with_delta ? delta.data() : nullptr,
                     gain.data(), out.data());
          EXPECT_EQ(residual, want_residual);
          const std::vector<double> want =
              reference::RmsNorm(ToDoubles(want_residual), ToDoubles(gain), double{1e-5f});
          const double roundings = static_cast<double>(CeilDiv(dim, 64) + 7) / 2 + 6;
          for (size_t i = 0; i < want.size(); ++i) {
            worst.Add(out[i], want[i], roundings * kFloatEps * std::abs(want[i]));
          }
        }
      }
    }
  }
}

// exp within 2.5 eps weighs at most fully in the sigmoid; division, sum and two products add 4 more
// roundings. Below -87.33 the result is flushed, at most 88 exp(-87.33) < 1.1e-36.
TEST(SiluMulTest, AgreesWithReference) {
  WorstRatio worst("silu_mul");
  for (SimdLevel level : AvailableSimdLevels()) {
    CpuDevice device(2, level);
    for (int64_t n : {0, 1, 3, 64}) {
      for (int64_t hidden : {1, 2, 15, 16, 33, 500}) {
        for (float scale : {1.0f, 20.0f, 200.0f}) {
          std::vector<float> gate_up = RandomFloats(2 * n * hidden, 7);
          for (float& value : gate_up) value *= scale;
          std::vector<float> out(n * hidden, NAN);
          SiluMul(device, n, hidden, gate_up.data(), out.data());
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
}

TEST(SimdTest, RowOperationsHaveSameBitsAtEveryLevel) {
  for (int64_t n : {1, 15, 16, 77, 512}) {
    std::vector<float> gate = RandomFloats(n, 1);
    for (float& value : gate) value *= 30;
    const std::vector<float> up = RandomFloats(n, 2), gain = RandomFloats(n, 3);
    std::vector<float> want;
    for (SimdLevel level : AvailableSimdLevels()) {
      const SimdKernels& simd = GetSimdKernels(level);
      std::vector<float> got(6 * 512 + 4), residual = gate;
      simd.silu_mul(gate.data(), up.data(), n, &got[0]);
      simd.add_rms_norm(residual.data(), up.data(), gain.data(), n, 1e-5f, &got[512]);
      for (int dtype : {0, 1}) {
        std::vector<float> scores(kScoreFloats);
        std::copy(gate.begin(), gate.end(), scores.begin());
        const AttentionKernels& kernels = simd.attention[dtype];
        const SoftmaxSums sums = kernels.softmax(&scores[0], n, RoundUp(n, 32), 0.37f);
        for (int64_t i = 0; i < n; ++i) {
          got[1024 + 512 * dtype + i] = WeightAt(scores, kernels, static_cast<DType>(dtype), i);
        }
        got[2048 + 2 * dtype] = sums.max;
        got[2049 + 2 * dtype] = sums.sum;
      }
      simd.round_to_bf16(gate.data(), n, reinterpret_cast<Bf16*>(&got[2052]));
      std::copy(gate.begin(), gate.end(), &got[2564]);
      // One head of n & ~1 dimensions.
      simd.rotate(&got[2564], 1, n & ~int64_t{1}, up.data(), gain.data());
      if (want.empty()) want = got;
      EXPECT_EQ(std::memcmp(got.data(), want.data(), got.size() * sizeof(float)), 0)
          << "level " << static_cast<int>(level) << " n " << n;
    }
  }
}

// Table entries are rounded once, each product once, their sum once: 3 roundings of |a| + |b|.
TEST(RopeAndStoreKvTest, AgreesWithReference) {
  WorstRatio worst("rope_store_kv");
  for (DType dtype : {DType::kF32, DType::kBf16}) {
    for (int64_t head_dim : {2, 6, 16, 64}) {
      for (int64_t block_size : {4, 16}) {
        const int64_t n_heads = 3, n_kv_heads = 2;
        PagedRows rows({.dtype = dtype,
                        .local_n_kv_heads = n_kv_heads,
                        .block_size = block_size,
                        .head_dim = head_dim},
                       {{0, 5}, {37, 1}, {1020, 19}});
        const RopeTable rope(head_dim, 2048, 1e6);
        const StepTokensView tokens = rows.tokens();
        const int64_t stride = (n_heads + 2 * n_kv_heads) * head_dim;
        const std::vector<float> before = RandomFloats(tokens.n_tokens * stride, 5);
        std::vector<float> qkv = before;
        CpuDevice device(2);
        RopeAndStoreKv(device, rope, tokens, n_heads, qkv.data(), rows.cache());
        const double store_eps = dtype == DType::kBf16 ? kBf16Eps : 0;
        for (int64_t t = 0; t < tokens.n_tokens; ++t) {
          const int64_t row = tokens.token_table_row[t], position = tokens.positions[t];
          for (int64_t h = 0; h < n_heads + n_kv_heads; ++h) {
            const float* head = &before[t * stride + h * head_dim];
            const std::vector<double> want =
                reference::Rope(std::vector<double>(head, head + head_dim), position, 1e6);
            for (int64_t d = 0; d < head_dim; ++d) {
              const double magnitude =
                  std::abs(head[d]) + std::abs(head[(d + head_dim / 2) % head_dim]);
              const bool is_query = h < n_heads;
              const double got = is_query ? qkv[t * stride + h * head_dim + d]
                                          : rows.Key(row, position, h - n_heads, d);
              worst.Add(got, want[d], (3 * kFloatEps + (is_query ? 0 : store_eps)) * magnitude);
            }
          }
          for (int64_t g = 0; g < n_kv_heads; ++g) {
            for (int64_t d = 0; d < head_dim; ++d) {
              const float value = before[t * stride + (n_heads + n_kv_heads + g) * head_dim + d];
              EXPECT_EQ(rows.Value(row, position, g, d),
                        double{dtype == DType::kBf16 ? RoundToBf16(value) : value});
            }
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace bora
