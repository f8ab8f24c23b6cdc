#include "kernels/paged_attention.h"

#include <gtest/gtest.h>

#include <cstring>

#include "kernels/cpu/cpu_device.h"
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

// What both operations made of the rows' current tokens.
struct RowsResult {
  std::vector<float> qkv;  // with rotated queries, as the attention saw them
  std::vector<float> out;  // [n_tokens, n_heads * head_dim]
};

RowsResult RunRows(CpuDevice& device, const Heads& heads, const RopeTable& rope, PagedRows* rows) {
  const StepTokensView tokens = rows->tokens();
  RowsResult result;
  for (int64_t t = 0; t < tokens.n_tokens; ++t) {
    const std::vector<float> row = QkvAt(heads, tokens.token_table_row[t], tokens.positions[t]);
    result.qkv.insert(result.qkv.end(), row.begin(), row.end());
  }
  RopeAndStoreKv(device, rope, tokens, heads.n_heads, result.qkv.data(), rows->cache());
  result.out.assign(tokens.n_tokens * heads.width(), NAN);
  PagedAttention(device, tokens, heads.n_heads, result.qkv.data(), rows->cache(),
                 result.out.data());
  return result;
}

// One query and what it attends to, in float64.
struct Query {
  std::vector<double> query, keys, values;  // [head_dim], [n, head_dim], [n, head_dim]
};

// Relative error of a weight before it is rounded, with S the greatest sum |q_d k_d| /
// sqrt(head_dim): head_dim roundings of the score, one of the scale, one of the difference from the
// maximum (at most 2 S), one of the maximum itself (S); 2^y within 2 more.
double WeightError(int64_t head_dim, double magnitude) {
  return ((static_cast<double>(head_dim) + 4) * magnitude + 2) * kFloatEps;
}

// Error of the result as far as it comes from float arithmetic, all |v| <= 1. An error of a weight
// moves the result by its share of |v - result| <= 2. The values of a split are summed in one
// rounding a position and its weights in a sixteenth; each split's merge takes two factors (the
// difference of maxima at most 2 S, 2^y, a product) and two sums; the division one.
double FloatTolerance(int64_t head_dim, double magnitude, int64_t n_positions) {
  const double n_of_split = static_cast<double>(std::min<int64_t>(n_positions, 512));
  const double n_splits = static_cast<double>(CeilDiv(n_positions, 512));
  return 2 * WeightError(head_dim, magnitude) +
         (n_of_split * 17 / 16 + 6 + (n_splits - 1) * (2 * (2 * magnitude + 3) + 4)) * kFloatEps;
}

// The result under a bf16 cache: weights rounded to bf16 relative to their split's maximum. Where
// the error before the rounding (2^-13.2 from the polynomial) may lead to the other neighbour,
// `slack` takes the difference, times 2 / sum.
std::vector<double> RoundedAttention(const Query& q, const std::vector<double>& scores,
                                     double weight_error, double* slack) {
  const int64_t head_dim = static_cast<int64_t>(q.query.size());
  const int64_t n = static_cast<int64_t>(scores.size());
  const double max = *std::max_element(scores.begin(), scores.end());
  const double error = weight_error + std::exp2(-13.2);
  std::vector<double> out(head_dim);
  double sum = 0;
  *slack = 0;
  for (int64_t begin = 0; begin < n; begin += 512) {
    const int64_t end = std::min<int64_t>(begin + 512, n);
    const double split_max = *std::max_element(&scores[begin], &scores[begin] + (end - begin));
    const double factor = std::exp(split_max - max);
    for (int64_t p = begin; p < end; ++p) {
      const double exact = std::exp(scores[p] - split_max);
      const auto rounded = [&](double weight) {
        return factor * RoundToBf16(static_cast<float>(weight));
      };
      const double weight = rounded(exact);
      *slack += rounded(exact * (1 + error)) - rounded(exact * (1 - error));
      sum += weight;
      for (int64_t d = 0; d < head_dim; ++d) out[d] += weight * q.values[p * head_dim + d];
    }
  }
  for (double& value : out) value /= sum;
  *slack *= 2 / sum;
  return out;
}

// Compares the result of one query.
void CheckQuery(const Query& q, DType dtype, const float* out, WorstRatio* worst) {
  const int64_t head_dim = static_cast<int64_t>(q.query.size());
  const int64_t n = static_cast<int64_t>(q.keys.size()) / head_dim;
  const double scale = 1 / std::sqrt(static_cast<double>(head_dim));
  std::vector<double> magnitudes;
  std::vector<double> scores = reference::MatMul(q.query, 1, q.keys, n, &magnitudes);
  for (double& score : scores) score *= scale;
  const double magnitude = scale * *std::max_element(magnitudes.begin(), magnitudes.end());
  double tolerance = FloatTolerance(head_dim, magnitude, n);
  std::vector<double> want;
  if (dtype == DType::kF32) {
    want = reference::Attention(q.query, q.keys, q.values);
  } else {
    double slack = 0;
    want = RoundedAttention(q, scores, WeightError(head_dim, magnitude), &slack);
    tolerance += slack;
  }
  for (int64_t d = 0; d < head_dim; ++d) worst->Add(out[d], want[d], tolerance);
}

// Compares all heads of token t of the step, which is the row's `position`.
void CheckToken(const Heads& heads, const PagedRows& rows, const RowsResult& result, int64_t t,
                WorstRatio* worst) {
  const int64_t row = rows.tokens().token_table_row[t], position = rows.tokens().positions[t];
  const bool is_bf16 = rows.shape().dtype == DType::kBf16;
  for (int64_t h = 0; h < heads.n_heads; ++h) {
    const int64_t g = h / (heads.n_heads / heads.n_kv_heads);
    const float* head = &result.qkv[t * heads.stride() + h * heads.head_dim];
    Query q;
    q.query = ToDoubles(std::vector<float>(head, head + heads.head_dim), is_bf16);
    for (int64_t p = 0; p <= position; ++p) {
      for (int64_t d = 0; d < heads.head_dim; ++d) {
        q.keys.push_back(rows.Key(row, p, g, d));
        q.values.push_back(rows.Value(row, p, g, d));
      }
    }
    CheckQuery(q, rows.shape().dtype, &result.out[t * heads.width() + h * heads.head_dim], worst);
  }
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
  const RowsResult result = RunRows(device, heads, rope, &rows);
  for (size_t r = 0; r < last.size(); ++r) {
    for (int32_t i = 0; i < last[r].n_tokens; ++i) {
      CheckToken(heads, rows, result, rows.tokens().row_begin[r] + last[r].position + i, worst);
    }
  }
}

// The cache is full of NaN where no token was stored, so these also show that such slots never
// reach a result.
TEST(PagedAttentionTest, AgreesWithReference) {
  for (DType dtype : {DType::kF32, DType::kBf16}) {
    WorstRatio worst(dtype == DType::kF32 ? "paged_attention_f32" : "paged_attention_bf16");
    for (SimdLevel level : AvailableSimdLevels()) {
      CpuDevice device(2, level);
      for (const Heads& heads : std::vector<Heads>{{1, 1, 2},
                                                   {3, 1, 6},
                                                   {4, 2, 16},
                                                   {2, 2, 34},
                                                   {8, 2, 64},
                                                   {5, 1, 80},
                                                   {4, 1, 128},
                                                   {2, 1, 256},
                                                   {40, 1, 8},
                                                   {91, 13, 2},
                                                   {194, 2, 4}}) {
        CheckAgainstReference(heads, dtype, 16, {{0, 1}, {0, 3}, {14, 5}, {30, 2}}, device, &worst);
      }
      for (int64_t block_size : {2, 4, 8, 32, 512}) {
        CheckAgainstReference({4, 2, 20}, dtype, block_size, {{0, 19}, {60, 6}}, device, &worst);
      }
      CheckAgainstReference({2, 1, 16}, dtype, 16, {{509, 6}, {1022, 4}}, device, &worst);
    }
  }
}

TEST(PagedAttentionTest, SameBitsForEveryChunkingLevelAndThreadCount) {
  for (DType dtype : {DType::kF32, DType::kBf16}) {
    for (const Heads& heads : std::vector<Heads>{{4, 2, 16}, {3, 3, 10}, {8, 1, 16}, {2, 1, 64}}) {
      const RopeTable rope(heads.head_dim, 2048, 1e4);
      const int32_t n_tokens = 601;  // more than one split, half a pair at the end
      const KvCacheShape shape = {.dtype = dtype,
                                  .local_n_kv_heads = heads.n_kv_heads,
                                  .block_size = 16,
                                  .head_dim = heads.head_dim};
      CpuDevice first(1, SimdLevel::kPortable);
      PagedRows whole(shape, {{0, n_tokens}});
      const std::vector<float> want = RunRows(first, heads, rope, &whole).out;
      int n_threads = 1;
      for (SimdLevel level : AvailableSimdLevels()) {
        for (int32_t chunk : {1, 7, 100, 512, 601}) {
          CpuDevice device(n_threads++ % 4 + 1, level);
          // A second sequence is in every step and must not matter.
          PagedRows rows(shape, {{0, n_tokens}, {0, n_tokens}});
          std::vector<float> got;
          // Small chunks only at the end: they are slow.
          const int32_t start = chunk == 1 ? n_tokens - 100 : chunk == 7 ? n_tokens - 120 : 0;
          if (start > 0) {
            rows.SetRows({{0, start}, {0, start}});
            got = RunRows(device, heads, rope, &rows).out;
            got.resize(start * heads.width());
          }
          for (int32_t begin = start; begin < n_tokens; begin += chunk) {
            const int32_t n = std::min(chunk, n_tokens - begin);
            rows.SetRows({{begin, n}, {begin, std::max(1, n / 2)}});
            const std::vector<float> out = RunRows(device, heads, rope, &rows).out;
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

// Devices take the scratch before the first step, so none of these may make it grow: contexts of
// all lengths, few sequences (whose splits are shared out) and many, decoding and not.
TEST(PagedAttentionTest, TakesNoMoreScratchThanItSays) {
  constexpr int32_t kMaxTokens = 40, kMaxPositions = 4500;
  for (const Heads& heads : std::vector<Heads>{{2, 1, 16}, {6, 2, 10}, {60, 1, 4}}) {
    const KvCacheShape shape = {
        .local_n_kv_heads = heads.n_kv_heads, .block_size = 16, .head_dim = heads.head_dim};
    PagedRows rows(shape, std::vector<PagedRows::Row>(8, {0, kMaxPositions}));
    std::vector<float> qkv(kMaxTokens * heads.stride(), 0.5f), out(kMaxTokens * heads.width());
    for (const int n_threads : {1, 2, 3, 8}) {
      CpuDevice device(n_threads);
      const int64_t n_floats =
          PagedAttentionScratchFloats(device, shape, heads.n_heads, kMaxTokens, kMaxPositions);
      for (const std::vector<PagedRows::Row>& step : std::vector<std::vector<PagedRows::Row>>{
               {{kMaxPositions - 1, 1}},
               {{kMaxPositions - kMaxTokens, kMaxTokens}},
               {{4000, 13}, {2000, 13}, {100, 14}},
               {{4499, 1}, {4096, 1}, {4095, 1}, {0, 1}, {4400, 3}},
               std::vector<PagedRows::Row>(8, {4000, 5}),
               std::vector<PagedRows::Row>(8, {4000, 1}),
               {{0, kMaxTokens}}}) {
        rows.SetRows(step);
        PagedAttention(device, rows.tokens(), heads.n_heads, qkv.data(), rows.cache(), out.data());
        EXPECT_LE(device.scratch_floats(), RoundUp(n_floats, 1024)) << n_threads << " threads";
      }
    }
  }
}

// Long enough that threads share a KV head: its splits are merged afterwards.
TEST(PagedAttentionTest, ThreadsShareOneLongSequence) {
  for (DType dtype : {DType::kF32, DType::kBf16}) {
    WorstRatio worst(dtype == DType::kF32 ? "long_sequence_f32" : "long_sequence_bf16");
    const Heads heads = {6, 2, 64};
    const int32_t n_tokens = 5003;
    const RopeTable rope(heads.head_dim, n_tokens, 1e4);
    PagedRows rows({.dtype = dtype, .local_n_kv_heads = 2, .block_size = 16, .head_dim = 64},
                   {{0, n_tokens}});
    std::vector<float> qkv;
    for (int32_t p = 0; p < n_tokens; ++p) {
      const std::vector<float> row = QkvAt(heads, 0, p);
      qkv.insert(qkv.end(), row.begin(), row.end());
    }
    CpuDevice storer(1);
    RopeAndStoreKv(storer, rope, rows.tokens(), heads.n_heads, qkv.data(), rows.cache());
    // Two tokens that end in different splits (position 4607 is the last of its), then the last.
    for (const PagedRows::Row& row : {PagedRows::Row{4607, 2}, PagedRows::Row{n_tokens - 1, 1}}) {
      rows.SetRows({row});
      std::vector<float> want;
      for (SimdLevel level : AvailableSimdLevels()) {
        for (int n_threads : {1, 2, 5}) {
          CpuDevice device(n_threads, level);
          const RowsResult result = RunRows(device, heads, rope, &rows);
          if (want.empty()) {
            for (int32_t t = 0; t < row.n_tokens; ++t) CheckToken(heads, rows, result, t, &worst);
            want = result.out;
          }
          EXPECT_EQ(std::memcmp(result.out.data(), want.data(), want.size() * sizeof(float)), 0)
              << "level " << static_cast<int>(level) << " threads " << n_threads;
        }
      }
    }
  }
}

// More KV heads than a decoding token takes together, and queries beyond the registers of a level.
TEST(PagedAttentionTest, DecodingTokenTakesManyHeads) {
  for (DType dtype : {DType::kF32, DType::kBf16}) {
    for (const Heads& heads : std::vector<Heads>{{53, 53, 6}, {56, 7, 16}, {64, 32, 80}}) {
      const RopeTable rope(heads.head_dim, 64, 1e4);
      PagedRows rows({.dtype = dtype,
                      .local_n_kv_heads = heads.n_kv_heads,
                      .block_size = 16,
                      .head_dim = heads.head_dim},
                     {{0, 41}, {0, 39}});
      CpuDevice first(1, SimdLevel::kPortable);
      const std::vector<float> all = RunRows(first, heads, rope, &rows).out;
      std::vector<float> want(all.begin() + 40 * heads.width(), all.begin() + 41 * heads.width());
      want.insert(want.end(), all.end() - heads.width(), all.end());
      rows.SetRows({{40, 1}, {38, 1}});
      for (SimdLevel level : AvailableSimdLevels()) {
        for (int n_threads : {1, 3}) {
          CpuDevice device(n_threads, level);
          const std::vector<float> got = RunRows(device, heads, rope, &rows).out;
          EXPECT_EQ(std::memcmp(got.data(), want.data(), want.size() * sizeof(float)), 0)
              << "level " << static_cast<int>(level) << " heads " << heads.n_heads;
        }
      }
    }
  }
}

// A weight of 0 times a value that underflows leaves a 0 of either sign on the way.
TEST(PagedAttentionTest, ZerosHaveOneSign) {
  const Heads heads = {1, 1, 16};
  const RopeTable rope(16, 64, 1e4);
  for (DType dtype : {DType::kF32, DType::kBf16}) {
    CpuDevice device(1);
    PagedRows rows({.dtype = dtype, .local_n_kv_heads = 1, .block_size = 16, .head_dim = 16},
                   {{0, 9}});
    std::vector<float> qkv(9 * heads.stride(), 0.0f);
    for (int64_t t = 0; t < 9; ++t) std::fill_n(&qkv[t * heads.stride() + 32], 16, -1e-38f);
    RopeAndStoreKv(device, rope, rows.tokens(), 1, qkv.data(), rows.cache());
    std::vector<float> out(9 * 16, NAN);
    PagedAttention(device, rows.tokens(), 1, qkv.data(), rows.cache(), out.data());
    rows.SetRows({{6, 1}});
    std::vector<float> alone(16, NAN);
    PagedAttention(device, rows.tokens(), 1, &qkv[6 * heads.stride()], rows.cache(), alone.data());
    EXPECT_EQ(std::memcmp(alone.data(), &out[6 * 16], 16 * sizeof(float)), 0);
  }
}

// Earlier tokens of the same sequence may see it too.
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
    if (t < 9) continue;
    EXPECT_EQ(std::isnan(out[t * heads.width()]), t < 20) << t;
  }
}

}  // namespace
}  // namespace bora
