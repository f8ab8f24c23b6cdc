// CUDA's paged attention against float64, and that a token's bits depend on its sequence alone.
#include "kernels/paged_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "tests/cuda/cuda_testing.h"
#include "tests/kernels/op_testing.h"
#include "tests/reference/reference.h"

namespace bora {
namespace {

class CudaPagedAttentionTest : public CudaTest {};
INSTANTIATE_TEST_SUITE_P(, CudaPagedAttentionTest, testing::ValuesIn(CudaRunModes()),
                         CudaRunModeName);

struct Heads {
  int64_t n_heads = 0;
  int64_t n_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t stride() const { return (n_heads + 2 * n_kv_heads) * head_dim; }
  int64_t width() const { return n_heads * head_dim; }
};

// Groups of one head and of several, one that divides no tile among them.
const Heads kHeads[] = {{8, 2, 16}, {2, 2, 32}, {8, 1, 64}, {3, 1, 128}};

enum Kind { kQuery, kKey, kValue };

// A token's vector for all heads of a kind, a function of its sequence and position.
std::vector<float> VectorsOf(Kind kind, int64_t sequence, int64_t position, int64_t n) {
  return RandomFloats(n, static_cast<uint64_t>((sequence * 3 + kind) * 100'000 + position));
}

// Sequences in a cache of one layer: `stored` says how many positions of each. All other slots and
// blocks hold NaN; what the block table does not need is no block at all.
class Sequences {
 public:
  Sequences(const Heads& heads, int64_t block_size, const std::vector<int64_t>& stored)
      : heads_(heads) {
    shape_ = {.dtype = DType::kBf16,
              .n_layers = 1,
              .local_n_kv_heads = heads.n_kv_heads,
              .block_size = block_size,
              .head_dim = heads.head_dim};
    const auto n_sequences = static_cast<int64_t>(stored.size());
    max_blocks_ = 1;
    for (int64_t n : stored) max_blocks_ = std::max(max_blocks_, CeilDiv(n, block_size));
    shape_.n_blocks = max_blocks_ * n_sequences + 1;
    keys_.assign(shape_.layer_elements(), Bf16{0xffff});
    values_.assign(shape_.layer_elements(), Bf16{0xffff});
    block_table_.assign(max_blocks_ * n_sequences, 0x7fffffff);
    for (int64_t s = 0; s < n_sequences; ++s) {
      for (int64_t p = 0; p < stored[s]; ++p) {
        // Descending, those of the sequences in turn.
        block_table_[s * max_blocks_ + p / block_size] =
            static_cast<int32_t>(shape_.n_blocks - 1 - (p / block_size * n_sequences + s));
        Store(kKey, s, p, &keys_);
        Store(kValue, s, p, &values_);
      }
    }
  }

  const Heads& heads() const { return heads_; }
  const KvCacheShape& shape() const { return shape_; }
  int64_t max_blocks() const { return max_blocks_; }
  const std::vector<int32_t>& block_table() const { return block_table_; }
  const std::vector<Bf16>& keys() const { return keys_; }
  const std::vector<Bf16>& values() const { return values_; }

  // Makes what a sequence has stored NaN.
  void Poison(int64_t sequence, int64_t n_stored) {
    for (int64_t p = 0; p < n_stored; ++p) {
      for (int64_t g = 0; g < heads_.n_kv_heads; ++g) {
        const int64_t to = OffsetOf(sequence, p, g);
        std::fill_n(&keys_[to], heads_.head_dim, Bf16{0x7fc0});
        std::fill_n(&values_[to], heads_.head_dim, Bf16{0x7fc0});
      }
    }
  }

 private:
  int64_t OffsetOf(int64_t sequence, int64_t position, int64_t head_idx) const {
    const KvLayerView view = {nullptr, nullptr, shape_};
    return view.RowMajorOffset(block_table_[sequence * max_blocks_ + position / shape_.block_size],
                               head_idx, position % shape_.block_size);
  }
  void Store(Kind kind, int64_t sequence, int64_t position, std::vector<Bf16>* to) const {
    const std::vector<Bf16> from =
        ToBf16s(VectorsOf(kind, sequence, position, heads_.n_kv_heads * heads_.head_dim));
    for (int64_t g = 0; g < heads_.n_kv_heads; ++g) {
      std::copy_n(&from[g * heads_.head_dim], heads_.head_dim,
                  &(*to)[OffsetOf(sequence, position, g)]);
    }
  }

  Heads heads_;
  KvCacheShape shape_;
  int64_t max_blocks_ = 0;
  std::vector<Bf16> keys_, values_;
  std::vector<int32_t> block_table_;
};

// Tokens of sequences (table_row), one after the other in the step.
std::vector<AttentionRow> RowsOf(std::vector<AttentionRow> rows) {
  int32_t n_tokens = 0;
  for (AttentionRow& row : rows) {
    row.token_begin = n_tokens;
    n_tokens += row.n_tokens;
  }
  return rows;
}

int64_t TokensOf(const std::vector<AttentionRow>& rows) {
  return rows.empty() ? 0 : rows.back().token_begin + rows.back().n_tokens;
}

AttentionLimits LimitsOf(const Heads& heads, const std::vector<AttentionRow>& rows) {
  int64_t max_positions = 1;
  for (const AttentionRow& row : rows) {
    max_positions = std::max<int64_t>(max_positions, row.position + row.n_tokens);
  }
  return {.local_n_heads = heads.n_heads,
          .local_n_kv_heads = heads.n_kv_heads,
          .head_dim = heads.head_dim,
          .max_rows = static_cast<int64_t>(rows.size()),
          .max_tokens = TokensOf(rows),
          .max_positions = max_positions};
}

// An AttentionWork in device memory, with room for more that holds no item.
class DeviceWork {
 public:
  explicit DeviceWork(const AttentionWork& work)
      : decode_items_(WithRoom(work.decode_items)),
        prefill_items_(WithRoom(work.prefill_items)),
        merges_(WithRoom(work.merges)),
        counts_({static_cast<int32_t>(work.decode_items.size()),
                 static_cast<int32_t>(work.prefill_items.size()),
                 static_cast<int32_t>(work.merges.size())}),
        n_partials_(work.n_partials) {}

  AttentionWorkView view() const {
    return {.decode_items = decode_items_.data(),
            .prefill_items = prefill_items_.data(),
            .merges = merges_.data(),
            .counts = counts_.data(),
            .max_decode_items = decode_items_.size(),
            .max_prefill_items = prefill_items_.size(),
            .max_merges = merges_.size(),
            .max_partials = n_partials_};
  }

 private:
  template <typename T>
  static std::vector<T> WithRoom(std::vector<T> values) {
    constexpr int64_t kRoom = 3;
    T none;
    std::memset(static_cast<void*>(&none), 0x7f, sizeof(none));
    values.insert(values.end(), kRoom, none);
    return values;
  }

  DeviceArray<AttentionItem> decode_items_, prefill_items_;
  DeviceArray<AttentionMerge> merges_;
  DeviceArray<int32_t> counts_;
  int64_t n_partials_;
};

AttentionWork PlanOf(const Heads& heads, const std::vector<AttentionRow>& rows) {
  AttentionWork work;
  PlanAttention(LimitsOf(heads, rows), rows, &work);
  return work;
}

// The bits of the result, [n_tokens, n_heads * head_dim].
using Result = std::vector<Bf16>;

class Runner {
 public:
  explicit Runner(const Sequences& sequences)
      : sequences_(sequences),
        keys_(sequences.keys()),
        values_(sequences.values()),
        block_table_(sequences.block_table()) {}

  static int64_t ScratchBytes(const Heads& heads, const AttentionWork& work) {
    return work.n_partials * heads.n_heads * (heads.head_dim + 6) * 4;
  }

  Result Run(CudaDevice& device, const std::vector<AttentionRow>& rows, const AttentionWork& work) {
    const Heads& heads = sequences_.heads();
    std::vector<float> qkv;
    for (const AttentionRow& row : rows) {
      for (int32_t t = 0; t < row.n_tokens; ++t) {
        const std::vector<float> query =
            VectorsOf(kQuery, row.table_row, row.position + t, heads.width());
        qkv.insert(qkv.end(), query.begin(), query.end());
        // Keys and values are taken from the cache.
        qkv.insert(qkv.end(), heads.stride() - heads.width(), NAN);
      }
    }
    const DeviceArray<float> qkv_on_device(qkv);
    const DeviceWork work_on_device(work);
    DeviceArray<Bf16> out(TokensOf(rows) * heads.width());
    PagedAttention(device, work_on_device.view(), block_table_.data(), sequences_.max_blocks(),
                   heads.n_heads, qkv_on_device.data(),
                   {keys_.data(), values_.data(), sequences_.shape()}, out.data());
    return out.ToHost();
  }

 private:
  const Sequences& sequences_;
  DeviceArray<Bf16> keys_, values_;
  DeviceArray<int32_t> block_table_;
};

bool SameBits(const Bf16* a, const Bf16* b, int64_t n) {
  return std::memcmp(a, b, n * sizeof(Bf16)) == 0;
}

// One query and what it attends to, in float64.
struct Query {
  std::vector<double> query, keys, values;  // [head_dim], [n, head_dim], [n, head_dim]
};

// Where weights are rounded the reference has to round them as the contract says: relative to the
// greatest score of the split's pieces so far. An error of the weight before may lead to the
// other neighbour: `slack` takes the difference, times 2 / sum.
std::vector<double> PiecewiseAttention(const Query& q, const std::vector<double>& scores,
                                       double weight_error, double* slack) {
  struct Sums {
    double max = -INFINITY, weights = 0, slack = 0;
    std::vector<double> values;
    void Scale(double new_max) {
      const double factor = std::exp(max - new_max);
      weights *= factor;
      slack *= factor;
      for (double& value : values) value *= factor;
      max = new_max;
    }
  };
  const auto head_dim = static_cast<int64_t>(q.query.size());
  const auto n = static_cast<int64_t>(scores.size());
  Sums total;
  total.values.resize(head_dim);
  for (int64_t split_begin = 0; split_begin < n; split_begin += 512) {
    Sums split;
    split.values.resize(head_dim);
    const int64_t split_end = std::min(split_begin + 512, n);
    for (int64_t begin = split_begin; begin < split_end; begin += 32) {
      const int64_t end = std::min(begin + 32, split_end);
      const double max = *std::max_element(&scores[begin], &scores[begin] + (end - begin));
      if (max > split.max) split.Scale(max);
      for (int64_t p = begin; p < end; ++p) {
        const auto rounded = [&](double error) {
          return RoundToBf16(static_cast<float>(std::exp(scores[p] - split.max) * (1 + error)));
        };
        const double weight = rounded(0);
        split.slack += rounded(weight_error) - rounded(-weight_error);
        split.weights += weight;
        for (int64_t d = 0; d < head_dim; ++d) {
          split.values[d] += weight * q.values[p * head_dim + d];
        }
      }
    }
    const double max = std::max(total.max, split.max);
    total.Scale(max);
    split.Scale(max);
    total.weights += split.weights;
    total.slack += split.slack;
    for (int64_t d = 0; d < head_dim; ++d) total.values[d] += split.values[d];
  }
  for (double& value : total.values) value /= total.weights;
  *slack = 2 * total.slack / total.weights;
  return total.values;
}

// Of the contract in paged_attention.h, all |v| <= 1.
void CheckQuery(const Query& q, const Bf16* out, WorstRatio* worst) {
  const auto head_dim = static_cast<int64_t>(q.query.size());
  const int64_t n = static_cast<int64_t>(q.keys.size()) / head_dim;
  const double scale = 1 / std::sqrt(static_cast<double>(head_dim));
  std::vector<double> magnitudes;
  std::vector<double> scores = reference::MatMul(q.query, 1, q.keys, n, &magnitudes);
  for (double& score : scores) score *= scale;
  const double magnitude = scale * *std::max_element(magnitudes.begin(), magnitudes.end());
  const double score_error = (4 * static_cast<double>(head_dim) + 7) * magnitude * kFloatEps;
  const double weight_error = 2 * score_error + (3 * magnitude + 4) * kFloatEps;
  double slack = 0;
  const std::vector<double> want = PiecewiseAttention(q, scores, weight_error, &slack);
  const double n_of_split = static_cast<double>(std::min<int64_t>(n, 512));
  const double n_merges = static_cast<double>(CeilDiv(n, 512) - 1);
  const double factor_error = score_error + (31 * magnitude + 75) * kFloatEps;
  const double sum_error = (4 * n_of_split + 6 + n_merges * (2 * magnitude + 6)) * kFloatEps;
  const double tolerance = slack + 2 * (weight_error + factor_error + sum_error) + 2 * kFloatEps;
  for (int64_t d = 0; d < head_dim; ++d) {
    worst->Add(ToFloat(out[d]), want[d], tolerance + kBf16Eps * (std::abs(want[d]) + tolerance));
  }
}

// All heads of token `position` of a sequence.
void CheckToken(const Heads& heads, int64_t sequence, int64_t position, const Bf16* out,
                WorstRatio* worst) {
  const std::vector<float> query = VectorsOf(kQuery, sequence, position, heads.width());
  for (int64_t g = 0; g < heads.n_kv_heads; ++g) {
    Query q;
    const auto append = [&](Kind kind, std::vector<double>* to) {
      for (int64_t p = 0; p <= position; ++p) {
        const std::vector<float> all =
            VectorsOf(kind, sequence, p, heads.n_kv_heads * heads.head_dim);
        const float* head = &all[g * heads.head_dim];
        const std::vector<double> doubles =
            ToDoubles(std::vector<float>(head, head + heads.head_dim), true);
        to->insert(to->end(), doubles.begin(), doubles.end());
      }
    };
    append(kKey, &q.keys);
    append(kValue, &q.values);
    const int64_t group = heads.n_heads / heads.n_kv_heads;
    for (int64_t h = g * group; h < (g + 1) * group; ++h) {
      const float* head = &query[h * heads.head_dim];
      q.query = ToDoubles(std::vector<float>(head, head + heads.head_dim), true);
      CheckQuery(q, out + h * heads.head_dim, worst);
    }
  }
}

// Rows that decode next to rows of several tokens, at the bounds of pieces, blocks and splits.
TEST_P(CudaPagedAttentionTest, AgreesWithReference) {
  WorstRatio worst("cuda_paged_attention");
  for (const Heads& heads : kHeads) {
    for (const int64_t block_size : {16, 64}) {
      const std::vector<AttentionRow> rows =
          RowsOf({{.table_row = 0, .n_tokens = 1, .position = 0},
                  {.table_row = 1, .n_tokens = 5, .position = 14},
                  {.table_row = 2, .n_tokens = 1, .position = 31},
                  {.table_row = 3, .n_tokens = 1, .position = 511},
                  {.table_row = 4, .n_tokens = 4, .position = 510},
                  {.table_row = 5, .n_tokens = 1, .position = 1100},
                  {.table_row = 6, .n_tokens = 1, .position = 512},
                  {.table_row = 7, .n_tokens = 33, .position = 0}});
      std::vector<int64_t> stored;
      for (const AttentionRow& row : rows) stored.push_back(row.position + row.n_tokens);
      const Sequences sequences(heads, block_size, stored);
      const AttentionWork work = PlanOf(heads, rows);
      const Result result = Runner(sequences).Run(
          Device(PagedAttentionScratchBytes(LimitsOf(heads, rows))), rows, work);
      for (const AttentionRow& row : rows) {
        for (int32_t t = 0; t < row.n_tokens; ++t) {
          CheckToken(heads, row.table_row, row.position + t,
                     &result[(row.token_begin + t) * heads.width()], &worst);
        }
      }
    }
  }
}

// Whole sequences give what every token decoded by itself gives, and every chunk.
TEST_P(CudaPagedAttentionTest, BitsDoNotDependOnChunks) {
  for (const Heads& heads : {Heads{4, 2, 16}, Heads{3, 1, 32}}) {
    constexpr int32_t kTokens = 545;
    const Sequences whole(heads, 16, {kTokens, kTokens});
    const std::vector<AttentionRow> all = RowsOf({{.table_row = 0, .n_tokens = kTokens}});
    const Result want = Runner(whole).Run(Device(), all, PlanOf(heads, all));
    const auto expect_same = [&](const AttentionRow& row, const Result& result) {
      EXPECT_TRUE(SameBits(&result[row.token_begin * heads.width()],
                           &want[row.position * heads.width()], row.n_tokens * heads.width()))
          << "tokens " << row.position << " to " << row.position + row.n_tokens << " of "
          << TokensOf({row}) << " in the step";
    };
    // Nothing is stored behind a chunk; another sequence is in the step.
    for (const auto& [position, n_tokens] : std::vector<std::pair<int32_t, int32_t>>{
             {0, 7}, {7, 40}, {500, 13}, {500, 12}, {513, 32}, {544, 1}}) {
      const Sequences chunk(heads, 16, {position + n_tokens, 300});
      const std::vector<AttentionRow> rows =
          RowsOf({{.table_row = 1, .n_tokens = 3, .position = 297},
                  {.table_row = 0, .n_tokens = n_tokens, .position = position}});
      const AttentionWork work = PlanOf(heads, rows);
      expect_same(rows[1],
                  Runner(chunk).Run(Device(Runner::ScratchBytes(heads, work)), rows, work));
    }
    std::vector<AttentionRow> tokens;
    for (int32_t position = 0; position < kTokens; position += position == 39 ? 461 : 1) {
      tokens.push_back({.table_row = 0, .n_tokens = 1, .position = position});
    }
    tokens = RowsOf(tokens);
    const AttentionWork work = PlanOf(heads, tokens);
    const Result one_by_one =
        Runner(whole).Run(Device(Runner::ScratchBytes(heads, work)), tokens, work);
    for (const AttentionRow& token : tokens) expect_same(token, one_by_one);
  }
}

// Division 0 has items of one split, 1 of one or two, 2 a single one.
AttentionWork Divided(const AttentionRow& row, int division) {
  AttentionItem item = {.table_row = row.table_row,
                        .token_begin = row.token_begin,
                        .n_tokens = 1,
                        .position = row.position};
  const auto n_splits = static_cast<int32_t>(row.position / kAttentionSplitTokens + 1);
  AttentionWork work;
  if (division == 2) {
    item.split_end = n_splits;
    work.decode_items = {item};
    return work;
  }
  constexpr int32_t kFirstPartial = 2;
  for (int32_t begin = 0; begin < n_splits; begin = item.split_end) {
    item.split_begin = begin;
    item.split_end = std::min(begin + division + 1, n_splits);
    item.partial_begin = kFirstPartial + begin;
    work.decode_items.push_back(item);
  }
  work.merges = {
      {.token_idx = row.token_begin, .partial_begin = kFirstPartial, .n_splits = n_splits}};
  work.n_partials = kFirstPartial + n_splits;
  return work;
}

TEST_P(CudaPagedAttentionTest, BitsDoNotDependOnTheDivision) {
  for (const Heads& heads : kHeads) {
    const Sequences sequences(heads, 16, {1100});
    const std::vector<AttentionRow> rows =
        RowsOf({{.table_row = 0, .n_tokens = 1, .position = 1099}});
    std::vector<Result> results;
    for (int division = 0; division < 3; ++division) {
      const AttentionWork work = Divided(rows[0], division);
      results.push_back(
          Runner(sequences).Run(Device(Runner::ScratchBytes(heads, work)), rows, work));
    }
    for (const Result& result : results) {
      EXPECT_TRUE(SameBits(result.data(), results[0].data(), heads.width()));
    }
  }
}

// A sequence full of NaN is in the step and in the cache; what lies behind each sequence is NaN as
// well.
TEST_P(CudaPagedAttentionTest, NanOfASequenceStaysThere) {
  const Heads heads = {4, 2, 16};
  for (const auto& [position, n_tokens] :
       std::vector<std::pair<int32_t, int32_t>>{{40, 1}, {520, 1}, {20, 21}}) {
    Sequences sequences(heads, 16, {position + n_tokens, position + n_tokens});
    const std::vector<AttentionRow> rows =
        RowsOf({{.table_row = 0, .n_tokens = n_tokens, .position = position},
                {.table_row = 1, .n_tokens = n_tokens, .position = position}});
    const AttentionWork work = PlanOf(heads, rows);
    const int64_t scratch_bytes = Runner::ScratchBytes(heads, work);
    const Result want = Runner(sequences).Run(Device(scratch_bytes), rows, work);
    sequences.Poison(0, position + n_tokens);
    const Result got = Runner(sequences).Run(Device(scratch_bytes), rows, work);
    const int64_t half = n_tokens * heads.width();
    EXPECT_TRUE(SameBits(&got[half], &want[half], half)) << "position " << position;
    for (int64_t i = 0; i < half; ++i) ASSERT_TRUE(std::isnan(ToFloat(got[i])));
    for (const Bf16 value : want) ASSERT_TRUE(std::isfinite(ToFloat(value)));
  }
}

TEST_P(CudaPagedAttentionTest, NothingToDo) {
  const Heads heads = {4, 2, 16};
  const Sequences sequences(heads, 16, {1});
  EXPECT_TRUE(Runner(sequences).Run(Device(), {}, AttentionWork()).empty());
}

// What a plan must be, whatever it chooses.
void CheckPlan(const AttentionLimits& limits, const std::vector<AttentionRow>& rows,
               const AttentionWork& work) {
  // What becomes of a token's splits: 1 the result, 2 partial results.
  std::vector<std::vector<int>> splits(TokensOf(rows));
  std::vector<const AttentionRow*> row_of(TokensOf(rows));
  for (const AttentionRow& row : rows) {
    for (int32_t t = 0; t < row.n_tokens; ++t) {
      splits[row.token_begin + t].resize((row.position + t) / kAttentionSplitTokens + 1);
      row_of[row.token_begin + t] = &row;
    }
  }
  std::set<int32_t> partials;
  // By token: where its split 0 is.
  std::vector<int64_t> first_partial(TokensOf(rows), -1);
  const auto add = [&](const AttentionItem& item) {
    ASSERT_GE(item.n_tokens, 1);
    for (int32_t t = 0; t < item.n_tokens; ++t) {
      const int32_t token = item.token_begin + t;
      ASSERT_EQ(item.table_row, row_of[token]->table_row);
      ASSERT_EQ(item.position - item.token_begin,
                row_of[token]->position - row_of[token]->token_begin);
      const auto end = std::min<int64_t>(item.split_end, splits[token].size());
      for (int64_t split = item.split_begin; split < end; ++split) {
        ASSERT_EQ(splits[token][split], 0) << "token " << token << " split " << split;
        splits[token][split] = item.partial_begin < 0 ? 1 : 2;
      }
      if (item.partial_begin < 0) {
        ASSERT_EQ(item.split_begin, 0);
        ASSERT_EQ(end, static_cast<int64_t>(splits[token].size()));
        continue;
      }
      const int64_t first = item.partial_begin - item.split_begin;
      ASSERT_TRUE(first_partial[token] == -1 || first_partial[token] == first);
      first_partial[token] = first;
      for (int32_t split = item.split_begin; split < item.split_end; ++split) {
        ASSERT_TRUE(partials.insert(item.partial_begin + split - item.split_begin).second);
      }
    }
  };
  for (const AttentionItem& item : work.decode_items) {
    ASSERT_EQ(item.n_tokens, 1);
    add(item);
  }
  for (const AttentionItem& item : work.prefill_items) {
    ASSERT_EQ(item.partial_begin, -1);
    add(item);
  }
  for (const AttentionMerge& merge : work.merges) {
    ASSERT_EQ(merge.partial_begin, first_partial[merge.token_idx]);
    ASSERT_EQ(merge.n_splits, static_cast<int64_t>(splits[merge.token_idx].size()));
    first_partial[merge.token_idx] = -1;
  }
  for (int64_t token = 0; token < TokensOf(rows); ++token) {
    EXPECT_EQ(first_partial[token], -1) << "token " << token << " is never merged";
    for (const int part : splits[token]) EXPECT_EQ(part, splits[token][0]) << "token " << token;
    EXPECT_NE(splits[token][0], 0) << "token " << token;
  }
  if (!partials.empty()) {
    EXPECT_LT(*partials.rbegin(), work.n_partials);
  }
  const AttentionWorkSizes most = MaxAttentionWork(limits);
  EXPECT_LE(static_cast<int64_t>(work.decode_items.size()), most.n_decode_items);
  EXPECT_LE(static_cast<int64_t>(work.prefill_items.size()), most.n_prefill_items);
  EXPECT_LE(static_cast<int64_t>(work.merges.size()), most.n_merges);
  EXPECT_LE(work.n_partials, most.n_partials);
}

TEST(PlanAttentionTest, EveryTokenSeesItsSplitsOnce) {
  std::mt19937_64 random(7);
  const auto below = [&](int64_t n) { return static_cast<int64_t>(random() % n); };
  for (int trial = 0; trial < 300; ++trial) {
    AttentionLimits limits = {.local_n_heads = 8, .local_n_kv_heads = 2, .head_dim = 16};
    limits.max_rows = 1 + below(40);
    limits.max_tokens = 1 + below(300);
    limits.max_positions = 1 + below(trial % 2 == 0 ? 600 : 40'000);
    std::vector<AttentionRow> rows;
    int64_t n_left = limits.max_tokens;
    for (int32_t r = 0; r < limits.max_rows && n_left > 0; ++r) {
      const int64_t most = std::min(n_left, limits.max_positions);
      const auto n_tokens = static_cast<int32_t>(below(2) == 0 ? 1 : 1 + below(most));
      rows.push_back(
          {.table_row = r,
           .n_tokens = n_tokens,
           .position = static_cast<int32_t>(below(limits.max_positions - n_tokens + 1))});
      n_left -= n_tokens;
    }
    rows = RowsOf(rows);
    AttentionWork work;
    PlanAttention(limits, rows, &work);
    CheckPlan(limits, rows, work);
    if (testing::Test::HasFailure()) return;
  }
}

// 200 contexts of 32k have more splits than partial results may be kept.
TEST(PlanAttentionTest, ManyLongRowsStayWhole) {
  const AttentionLimits limits = {.local_n_heads = 32,
                                  .local_n_kv_heads = 8,
                                  .head_dim = 128,
                                  .max_rows = 200,
                                  .max_tokens = 512,
                                  .max_positions = 32'768};
  AttentionWork work;
  const AttentionWorkSizes sizes = MaxAttentionWork(limits);
  work.decode_items.reserve(sizes.n_decode_items);
  work.prefill_items.reserve(sizes.n_prefill_items);
  work.merges.reserve(sizes.n_merges);
  const auto* const decode_items = work.decode_items.data();
  std::vector<AttentionRow> rows;
  for (int32_t r = 0; r < 200; ++r) {
    rows.push_back({.table_row = r, .n_tokens = 1, .position = r < 150 ? 32'767 : 600});
  }
  for (const int64_t n_rows : {1, 10, 32, 150, 200}) {
    const std::vector<AttentionRow> step = RowsOf({rows.begin(), rows.begin() + n_rows});
    PlanAttention(limits, step, &work);
    CheckPlan(limits, step, work);
    EXPECT_EQ(work.merges.empty(), n_rows >= 150);
    EXPECT_EQ(work.decode_items.data(), decode_items);
  }
}

}  // namespace
}  // namespace bora
