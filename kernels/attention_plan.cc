#include "kernels/attention_plan.h"

#include <algorithm>

#include "base/check.h"
#include "kernels/paged_attention.h"

namespace bora {
namespace {

// Most partial results of a step: 34 MB of scratch with 32 heads of 128. They are enough for
// contexts of a million tokens in total, which is what the cache of one GPU holds. Rows beyond that
// are not divided; by then there are enough rows to keep a GPU busy.
constexpr int64_t kMaxPartials = 2048;

// Positions that the row's sequence has at the end of the step.
int64_t EndOf(const AttentionRow& row) { return int64_t{row.position} + row.n_tokens; }

// Splits that the row's last token attends to.
int64_t SplitsOf(const AttentionRow& row) { return CeilDiv(EndOf(row), kAttentionSplitTokens); }

// The greatest number of splits of a decoding row that is not divided; longer decoding rows are. It
// is the least number with which the divided rows need at most kMaxPartials partial results.
int64_t LargestUndivided(absl::Span<const AttentionRow> rows) {
  for (int64_t n_splits = 1;; ++n_splits) {
    int64_t n_partials = 0;
    for (const AttentionRow& row : rows) {
      if (row.n_tokens == 1 && SplitsOf(row) > n_splits) n_partials += SplitsOf(row);
    }
    if (n_partials <= kMaxPartials) return n_splits;
  }
}

// Positions that an item covers: its length for the order of the items.
int64_t PositionsOf(const AttentionItem& item) {
  return std::min<int64_t>(item.position + item.n_tokens, item.split_end * kAttentionSplitTokens) -
         item.split_begin * kAttentionSplitTokens;
}

using ItemIterator = std::vector<AttentionItem>::iterator;

// Blocks take items in order, so the longest must not begin last. Equal lengths are ordered by
// token, which makes the plan a function of its inputs alone.
void SortLongestFirst(ItemIterator begin, ItemIterator end) {
  std::sort(begin, end, [](const AttentionItem& a, const AttentionItem& b) {
    const int64_t a_positions = PositionsOf(a), b_positions = PositionsOf(b);
    return a_positions != b_positions ? a_positions > b_positions : a.token_begin < b.token_begin;
  });
}

// The item for splits [begin, end) of a decoding row's one token.
AttentionItem DecodeItem(const AttentionRow& row, int64_t begin, int64_t end,
                         int64_t partial_begin) {
  return {.table_row = row.table_row,
          .token_begin = row.token_begin,
          .n_tokens = 1,
          .position = row.position,
          .split_begin = static_cast<int32_t>(begin),
          .split_end = static_cast<int32_t>(end),
          .partial_begin = static_cast<int32_t>(partial_begin)};
}

// Order of the items: undivided rows of several splits, then items of one full split, then the
// shorter last splits and rows of one split. The middle group has one length; only the first and
// the last group, with one item per row, have to be sorted.
void PlanDecoding(absl::Span<const AttentionRow> rows, AttentionWork* work) {
  const int64_t largest_undivided = LargestUndivided(rows);
  std::vector<AttentionItem>& items = work->decode_items;
  for (const AttentionRow& row : rows) {
    if (row.n_tokens != 1) continue;
    const int64_t n_splits = SplitsOf(row);
    if (n_splits > largest_undivided) {
      work->merges.push_back({.token_idx = row.token_begin,
                              .partial_begin = static_cast<int32_t>(work->n_partials),
                              .n_splits = static_cast<int32_t>(n_splits)});
      work->n_partials += n_splits;
    } else if (n_splits > 1) {
      items.push_back(DecodeItem(row, 0, n_splits, -1));
    }
  }
  SortLongestFirst(items.begin(), items.end());
  auto merge = work->merges.begin();
  for (const AttentionRow& row : rows) {
    if (row.n_tokens != 1 || SplitsOf(row) <= largest_undivided) continue;
    for (int64_t split = 0; split + 1 < merge->n_splits; ++split) {
      items.push_back(DecodeItem(row, split, split + 1, merge->partial_begin + split));
    }
    ++merge;
  }
  const auto n_long = static_cast<int64_t>(items.size());
  merge = work->merges.begin();
  for (const AttentionRow& row : rows) {
    if (row.n_tokens != 1) continue;
    const int64_t n_splits = SplitsOf(row);
    if (n_splits > largest_undivided) {
      const int64_t last = n_splits - 1;
      items.push_back(DecodeItem(row, last, n_splits, merge->partial_begin + last));
      ++merge;
    } else if (n_splits == 1) {
      items.push_back(DecodeItem(row, 0, 1, -1));
    }
  }
  SortLongestFirst(items.begin() + n_long, items.end());
}

// Prefill items are not divided: each has all splits of its tokens.
void PlanPrefill(int64_t tile_tokens, absl::Span<const AttentionRow> rows, AttentionWork* work) {
  std::vector<AttentionItem>& items = work->prefill_items;
  for (const AttentionRow& row : rows) {
    if (row.n_tokens == 1) continue;
    for (int64_t begin = 0; begin < row.n_tokens; begin += tile_tokens) {
      const int64_t n_tokens = std::min(tile_tokens, row.n_tokens - begin);
      const int64_t end = row.position + begin + n_tokens;
      items.push_back({.table_row = row.table_row,
                       .token_begin = static_cast<int32_t>(row.token_begin + begin),
                       .n_tokens = static_cast<int32_t>(n_tokens),
                       .position = static_cast<int32_t>(row.position + begin),
                       .split_begin = 0,
                       .split_end = static_cast<int32_t>(CeilDiv(end, kAttentionSplitTokens)),
                       .partial_begin = -1});
    }
  }
  SortLongestFirst(items.begin(), items.end());
}

}  // namespace

void PlanAttention(const AttentionLimits& limits, absl::Span<const AttentionRow> rows,
                   AttentionWork* work) {
  CHECK_LE(static_cast<int64_t>(rows.size()), limits.max_rows) << "rows";
  int64_t n_tokens = 0;
  for (const AttentionRow& row : rows) {
    CHECK_GT(row.n_tokens, 0) << "tokens of a row";
    CHECK_LE(EndOf(row), limits.max_positions) << "positions of a row";
    n_tokens += row.n_tokens;
  }
  CHECK_LE(n_tokens, limits.max_tokens) << "tokens";
  work->decode_items.clear();
  work->prefill_items.clear();
  work->merges.clear();
  work->n_partials = 0;
  PlanDecoding(rows, work);
  PlanPrefill(AttentionTileTokens(limits.local_n_heads, limits.local_n_kv_heads), rows, work);
}

AttentionWorkSizes MaxAttentionWork(const AttentionLimits& limits) {
  const int64_t max_splits = CeilDiv(limits.max_positions, kAttentionSplitTokens);
  const int64_t n_decoding = std::min(limits.max_rows, limits.max_tokens);
  AttentionWorkSizes sizes;
  if (max_splits > 1) {
    sizes.n_partials = std::min(n_decoding * max_splits, kMaxPartials);
    sizes.n_merges = std::min(n_decoding, sizes.n_partials / 2);
  }
  // An undivided row has one item, a divided row one for each of its partial results.
  sizes.n_decode_items = std::min(n_decoding * max_splits, n_decoding + sizes.n_partials);
  // In the worst case the last item of each row has a single token; all others are full.
  const int64_t tile_tokens = AttentionTileTokens(limits.local_n_heads, limits.local_n_kv_heads);
  // A prefill row has at least two tokens.
  const int64_t n_rows = std::min(limits.max_rows, limits.max_tokens / 2);
  sizes.n_prefill_items = (limits.max_tokens + n_rows * (tile_tokens - 1)) / tile_tokens;
  return sizes;
}

int64_t PagedAttentionScratchBytes(const AttentionLimits& limits) {
  return MaxAttentionWork(limits).n_partials *
         AttentionPartialFloats(limits.local_n_heads, limits.head_dim) *
         static_cast<int64_t>(sizeof(float));
}

}  // namespace bora
