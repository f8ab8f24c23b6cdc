#include "kernels/paged_attention.h"

#include <gtest/gtest.h>

#include <cstring>

#include "kernels/rope_store_kv.h"
#include "tests/kernels/op_testing.h"
#include "tests/reference/reference.h"

namespace bora {
namespace {

struct Heads {
  int64_t n_heads = 0;
  int64_t n_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t stride() const { return (n_heads + 2 * n_kv_heads) * head_dim; }
  int64_t width() const { return n_heads * head_dim; }
};

// qkv of one position of a sequence, however the sequence is chunked.
std::vector<float> QkvAt(const Heads& heads, int64_t sequence, int64_t position) {
  return RandomFloats(heads.stride(), static_cast<uint64_t>(sequence * 100000 + position));
}

// Runs the rows' current tokens through both operations. Returns [n_tokens, n_heads * head_dim].
std::vector<float> RunRows(CpuDevice& device, const Heads& heads, const RopeTable& rope,
                           PagedRows* rows) {
  const StepTokensView tokens = rows->tokens();
  std::vector<float> qkv;
  for (int64_t t = 0; t < tokens.n_tokens; ++t) {
    const std::vector<float> row = QkvAt(heads, tokens.token_row[t], tokens.positions[t]);
    qkv.insert(qkv.end(), row.begin(), row.end());
  }
  RopeAndStoreKv(device, rope, tokens, heads.n_heads, qkv.data(), rows->cache());
  std::vector<float> out(tokens.n_tokens * heads.width(), NAN);
  PagedAttention(device, tokens, heads.n_heads, qkv.data(), rows->cache(), out.data());
  return out;
}

// Errors, with S = sum |q_d k_d| / sqrt(head_dim) <= head_dim^0.5 * max and all |v| <= 1:
// a score: (head_dim + 3) roundings of S, which is the relative error of its weight; the weight's
// exp 4 and the difference from the maximum |score| <= S more; sums of weights and of weighted
// values: 512 roundings a split plus merging, of values whose weights add up to 1.
double Tolerance(const Heads& heads, double score_magnitude, int64_t n_positions) {
  const double head_dim = static_cast<double>(heads.head_dim);
  const double weight = 2 * ((head_dim + 4) * score_magnitude + 5);
  const double sums = static_cast<double>(std::min<int64_t>(n_positions, 512)) * 1.1 + 16 +
                      4 * static_cast<double>(n_positions) / 512;
  return (weight + sums) * kFloatEps;
}

void CheckAgainstReference(const Heads& heads, DType dtype, int64_t block_size,
                           std::vector<PagedRows::Row> last, CpuDevice& device, WorstRatio* worst) {
  const RopeTable rope(heads.head_dim, 2048, 1e4);
  std::vector<PagedRows::Row> all = last;
  for (PagedRows::Row& row : all) row = {0, row.position + row.n_tokens};
  PagedRows rows({.dtype = dtype,
                  .local_n_kv_heads = heads.n_kv_heads,
                  .block_size = block_size,
                  .head_dim = heads.head_dim},
                 all);
  const StepTokensView tokens = rows.tokens();
  const std::vector<float> out = RunRows(device, heads, rope, &rows);
  for (size_t r = 0; r < last.size(); ++r) {
    for (int32_t i = 0; i < last[r].n_tokens; ++i) {
      const int64_t position = last[r].position + i;
      const int64_t t = tokens.row_begin[r] + position;
      // The rotated queries as floats, since that is what the operation was given.
      std::vector<float> qkv = QkvAt(heads, static_cast<int64_t>(r), position);
      for (int64_t h = 0; h < heads.n_heads; ++h) {
        const int64_t g = h / (heads.n_heads / heads.n_kv_heads);
        const float* head = &qkv[h * heads.head_dim];
        const std::vector<double> query =
            reference::Rope(std::vector<double>(head, head + heads.head_dim), position, 1e4);
        std::vector<double> keys, values;
        for (int64_t p = 0; p <= position; ++p) {
          for (int64_t d = 0; d < heads.head_dim; ++d) {
            keys.push_back(rows.Key(static_cast<int64_t>(r), p, g, d));
            values.push_back(rows.Value(static_cast<int64_t>(r), p, g, d));
          }
        }
        std::vector<double> magnitudes;
        reference::MatMul(query, 1, keys, position + 1, &magnitudes);
        const double magnitude = *std::max_element(magnitudes.begin(), magnitudes.end()) /
                                 std::sqrt(static_cast<double>(heads.head_dim));
        const std::vector<double> want = reference::Attention(query, keys, values);
        for (int64_t d = 0; d < heads.head_dim; ++d) {
          worst->Add(out[t * heads.width() + h * heads.head_dim + d], want[d],
                     Tolerance(heads, magnitude, position + 1));
        }
      }
    }
  }
}

// The cache is full of NaN where no token was stored, so these also show that such slots never
// reach a result.
TEST(PagedAttentionTest, AgreesWithReference) {
  WorstRatio worst("paged_attention");
  for (SimdLevel level : AvailableSimdLevels()) {
    CpuDevice device(2, level);
    for (DType dtype : {DType::kF32, DType::kBf16}) {
      for (const Heads& heads : std::vector<Heads>{
               {1, 1, 2}, {3, 1, 6}, {4, 2, 16}, {2, 2, 34}, {8, 2, 64}, {2, 1, 256}, {40, 1, 8}}) {
        CheckAgainstReference(heads, dtype, 16, {{0, 1}, {0, 3}, {14, 5}, {30, 2}}, device, &worst);
      }
      CheckAgainstReference({4, 2, 20}, dtype, 8, {{0, 19}}, device, &worst);
      CheckAgainstReference({4, 2, 20}, dtype, 4, {{5, 6}}, device, &worst);
      CheckAgainstReference({4, 2, 20}, dtype, 32, {{60, 6}}, device, &worst);
      CheckAgainstReference({2, 1, 16}, dtype, 16, {{509, 6}, {1022, 4}}, device, &worst);
    }
  }
}

TEST(PagedAttentionTest, SameBitsForEveryChunkingLevelAndThreadCount) {
  for (DType dtype : {DType::kF32, DType::kBf16}) {
    for (const Heads& heads : std::vector<Heads>{{4, 2, 16}, {3, 3, 10}, {8, 1, 16}}) {
      const RopeTable rope(heads.head_dim, 2048, 1e4);
      const int32_t n_tokens = 600;  // more than one split
      const KvCacheShape shape = {.dtype = dtype,
                                  .local_n_kv_heads = heads.n_kv_heads,
                                  .block_size = 16,
                                  .head_dim = heads.head_dim};
      CpuDevice first(1, SimdLevel::kPortable);
      PagedRows whole(shape, {{0, n_tokens}});
      const std::vector<float> want = RunRows(first, heads, rope, &whole);
      int n_threads = 1;
      for (SimdLevel level : AvailableSimdLevels()) {
        for (int32_t chunk : {1, 7, 100, 512, 600}) {
          CpuDevice device(n_threads++ % 4 + 1, level);
          // A second sequence is in every step and must not matter.
          PagedRows rows(shape, {{0, n_tokens}, {0, n_tokens}});
          std::vector<float> got;
          // Small chunks only at the end: they are slow.
          const int32_t start = chunk == 1 ? n_tokens - 100 : chunk == 7 ? n_tokens - 120 : 0;
          if (start > 0) {
            rows.SetRows({{0, start}, {0, start}});
            got = RunRows(device, heads, rope, &rows);
            got.resize(start * heads.width());
          }
          for (int32_t begin = start; begin < n_tokens; begin += chunk) {
            const int32_t n = std::min(chunk, n_tokens - begin);
            rows.SetRows({{begin, n}, {begin, std::max(1, n / 2)}});
            const std::vector<float> out = RunRows(device, heads, rope, &rows);
            got.insert(got.end(), out.begin(), out.begin() + n * heads.width());
          }
          ASSERT_EQ(got.size(), want.size());
          EXPECT_EQ(std::memcmp(got.data(), want.data(), got.size() * sizeof(float)), 0)
              << "level " << static_cast<int>(level) << " chunk " << chunk;
        }
      }
    }
  }
}

TEST(PagedAttentionTest, NanOfOneSequenceStaysThere) {
  const Heads heads = {4, 2, 16};
  const RopeTable rope(16, 64, 1e4);
  CpuDevice device(1);
  PagedRows rows({.local_n_kv_heads = 2, .block_size = 16, .head_dim = 16}, {{0, 20}, {0, 20}});
  const StepTokensView tokens = rows.tokens();
  std::vector<float> qkv = RandomFloats(40 * heads.stride(), 1);
  // The values of the first sequence's token 9.
  std::fill_n(&qkv[9 * heads.stride() + 6 * 16], 32, NAN);
  RopeAndStoreKv(device, rope, tokens, heads.n_heads, qkv.data(), rows.cache());
  std::vector<float> out(40 * heads.width());
  PagedAttention(device, tokens, heads.n_heads, qkv.data(), rows.cache(), out.data());
  for (int64_t t = 0; t < 40; ++t) {
    EXPECT_EQ(std::isnan(out[t * heads.width()]), t >= 9 && t < 20) << t;
  }
}

}  // namespace
}  // namespace bora
