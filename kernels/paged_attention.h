// Causal grouped-query attention over the paged cache:
//   out[t, h, :] = sum_p softmax_p(q[t, h, :] . k[p, g, :] / sqrt(head_dim)) v[p, g, :]
// over positions p <= position of t in t's own sequence, g = h / (n_heads / n_kv_heads).
//
// Up to 48 queries, some tokens x the heads that share a KV head, pass over its keys and values
// together, split by split, 12 of them at a time in registers; a decoding token takes several KV
// heads, in the order in which they lie in memory. A token at the end of a long context reads
// 2 * context * n_kv_heads * head_dim * DTypeBytes from memory, and a chunk of tokens no more. Long
// sequences are divided among threads by splits.
#pragma once

#include <vector>

#include "absl/types/span.h"
#include "base/bf16.h"
#include "kernels/device_views.h"
#include "kernels/kv_cache.h"

namespace bora {

// Positions are processed in splits of this many tokens at absolute positions [k*512, k*512 + 512),
// each with its own maximum and sum, merged in ascending order: so a token's result does not depend
// on how its sequence was chunked, nor on who works on which split.
inline constexpr int64_t kAttentionSplitTokens = 512;

// qkv: as RopeAndStoreKv left it (queries at the front of each token's row); keys and values are
// read from the cache only, also those of this step. out: [n_tokens, local_n_heads * head_dim].
// Slots that were never written do not reach a result: they may hold NaN. A token that is not
// finite may make earlier tokens of its own sequence NaN as well, if they are in the same step; it
// never reaches another sequence. head_dim is even and at most kMaxCacheHeadDim. Uses the device's
// scratch.
//
// Rounding: under a bf16 cache the query is rounded to bf16, and so are the weights exp(score -
// split's maximum), before they are summed: the result is a convex combination of values. Scores,
// weights' exponents and sums are float.
//
// Order, with one rounding a product (fused multiply-add): a score is summed over ascending
// dimensions and then scaled; a split's weights are summed in 16 lanes (float: position modulo 16;
// bf16: pair of positions modulo 16) and a fixed tree; values are summed over ascending positions
// of a split. In bf16 the two of a pair (of dimensions, of positions) change places: the odd one is
// added first, as the dot-product instructions do.
//
// Error against exact arithmetic on the rounded query, keys and values, with eps = 2^-24, S the
// greatest sum |q_d k_d| / sqrt(head_dim) and V the greatest |v|: a weight's relative error is at
// most w = ((head_dim + 4) S + 2) eps, and 2^-8 + 2^-13.2 more in bf16; the result's is at most
// 2 V w + V (550 + (10 + 4 S) (splits - 1)) eps.
void PagedAttention(CpuDevice& device, const StepTokensView& tokens, int64_t local_n_heads,
                    const float* qkv, const KvLayerView& cache, float* out);

// Scratch that PagedAttention takes at most for steps of up to max_tokens tokens at positions below
// max_positions.
int64_t PagedAttentionScratchFloats(const CpuDevice& device, const KvCacheShape& cache,
                                    int64_t local_n_heads, int64_t max_tokens,
                                    int64_t max_positions);

// On a CudaDevice the host divides the work: it knows every row's place, only the tokens are the
// device's secret.

// Neighbouring tokens of one row against some splits of its sequence, for every KV head.
struct AttentionItem {
  int32_t table_row = 0;    // line of the block table
  int32_t token_begin = 0;  // of the step's tokens
  int32_t n_tokens = 0;
  int32_t position = 0;  // of the first token
  int32_t split_begin = 0;
  int32_t split_end = 0;
  // Where the first split's results go among the step's partial results, which are merged in a
  // second pass; -1: the item has all splits of its tokens and writes the result itself.
  int32_t partial_begin = -1;
};

// A token whose splits are merged from partial results [partial_begin, partial_begin + n_splits).
struct AttentionMerge {
  int32_t token_idx = 0;
  int32_t partial_begin = 0;
  int32_t n_splits = 0;
};

// How a step's attention is divided. Made once a step, the same for all layers.
struct AttentionWork {
  std::vector<AttentionItem> decode_items;   // one token each
  std::vector<AttentionItem> prefill_items;  // up to the prefill tile's tokens each
  std::vector<AttentionMerge> merges;
  int64_t n_partials = 0;
};

// What bounds a step's work.
struct AttentionLimits {
  int64_t local_n_heads = 0;
  int64_t local_n_kv_heads = 0;
  int64_t head_dim = 0;  // 16, 32, 64 or 128
  int64_t max_rows = 0;
  int64_t max_tokens = 0;
  int64_t max_positions = 0;
};

// One row of the step: n_tokens tokens from token_begin of the step on, the first at `position`.
struct AttentionRow {
  int32_t table_row = 0;
  int32_t token_begin = 0;
  int32_t n_tokens = 0;
  int32_t position = 0;
};

// Divides the rows' work; replaces the contents of `work` and allocates nothing once its vectors
// have MaxAttentionWork's sizes. No result depends on the division.
void PlanAttention(const AttentionLimits& limits, absl::Span<const AttentionRow> rows,
                   AttentionWork* work);

// The most that PlanAttention makes under the limits, for buffers and scratch.
struct AttentionWorkSizes {
  int64_t n_decode_items = 0;
  int64_t n_prefill_items = 0;
  int64_t n_merges = 0;
  int64_t n_partials = 0;
};
AttentionWorkSizes MaxAttentionWork(const AttentionLimits& limits);

// An AttentionWork in device memory. The counts are in device memory as well, so that a graph can
// be used again with other contents; the launches are as wide as max_... says (numbers that a graph
// keeps), and what is beyond the counts does nothing.
struct AttentionWorkView {
  const AttentionItem* decode_items = nullptr;   // [max_decode_items]
  const AttentionItem* prefill_items = nullptr;  // [max_prefill_items]
  const AttentionMerge* merges = nullptr;        // [max_merges]
  const int32_t* counts = nullptr;               // [3]: of the three
  int64_t max_decode_items = 0;
  int64_t max_prefill_items = 0;
  int64_t max_merges = 0;
  int64_t max_partials = 0;  // of AttentionWork::n_partials
};

// block_table: [.., max_blocks_per_row] in device memory. qkv: as RopeAndStoreKv left it, float.
// out: [n_tokens, local_n_heads * head_dim] bf16. Written for the tokens that the work names.
//
// A bf16 cache in CUDA's layout. The query is rounded to bf16. Every token's result is computed in
// one order, whatever the division: a split's keys are taken in pieces of 32 positions, ascending;
// of a piece, scores by tensor-core instructions over ascending dimensions, scaled, the running
// maximum raised (what was summed so far is scaled by 2^(old - new)), weights 2^(score - maximum)
// rounded to bf16, their sum and the values' added by instructions over ascending positions. Splits
// are merged in ascending order. Slots that were never written may hold NaN: neither they nor
// another sequence's values reach a result.
//
// Error against exact arithmetic on the rounded query, keys and values, with eps = 2^-24, S and V
// as above, the instructions' sums as in kernels/matmul.h and n_split <= 512 the positions of a
// split: a score's is at most s = (4 head_dim + 7) S eps; a weight's relative error before it is
// rounded to bf16 w = 2 s + (3 S + 4) eps; what a weight is scaled by later adds f = s + (31 S +
// 75) eps; the sums (4 n_split + 6 + (2 S + 6) (splits - 1)) eps each; 2 V of these, and the
// result's rounding.
void PagedAttention(CudaDevice& device, const AttentionWorkView& work, const int32_t* block_table,
                    int64_t max_blocks_per_row, int64_t local_n_heads, const float* qkv,
                    const KvLayerView& cache, Bf16* out);

// CudaDevice::Scratch that PagedAttention takes at most.
int64_t PagedAttentionScratchBytes(const AttentionLimits& limits);

}  // namespace bora
