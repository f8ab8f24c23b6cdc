// Causal grouped-query attention over the paged cache:
//   out[t, h, :] = sum_p softmax_p(q[t, h, :] . k[p, g, :] / sqrt(head_dim)) v[p, g, :]
// over positions p <= position of t in t's own sequence, with KV head g = h / (n_heads /
// n_kv_heads). A query is one head of one token; the n_heads / n_kv_heads heads that share a KV
// head are its group.
//
// On a CpuDevice up to 48 queries (some tokens x heads of one group) read the keys and values of
// their KV head together, split by split, 12 queries at a time in registers. A decoding token reads
// several KV heads in the order in which they lie in memory. A token at the end of a long context
// reads 2 * context * n_kv_heads * head_dim * DTypeBytes bytes from memory, and a chunk of several
// tokens reads no more. Long sequences are divided among threads by splits.
#pragma once

#include <vector>

#include "absl/types/span.h"
#include "base/bf16.h"
#include "kernels/device_views.h"
#include "kernels/kv_cache.h"

namespace bora {

// Positions of a split. The positions of a sequence are processed in splits [k * 512, k * 512 +
// 512), each with its own maximum and sum of weights; splits are merged in ascending order. So a
// token's result does not depend on how its sequence was cut into chunks, nor on which thread
// computes which split.
inline constexpr int64_t kAttentionSplitTokens = 512;

// qkv: [n_tokens, (local_n_heads + 2 * local_n_kv_heads) * head_dim] as RopeAndStoreKv left it;
// only the queries at the front of each token's row are read. Keys and values come from the cache,
// this step's as well. out: [n_tokens, local_n_heads * head_dim]. Called by the device's thread;
// uses the device's scratch.
// REQUIRES: head_dim is even and at most kMaxCacheHeadDim; block_size divides kAttentionSplitTokens
// and is even for a bf16 cache; every block that holds a position up to the token's own is in the
// block table.
//
// Cache slots that were never written may hold NaN; they do not reach a result. A token that is not
// finite may make earlier tokens of its own sequence NaN as well if they are in the same step; it
// never reaches another sequence.
//
// Rounding: with a bf16 cache the query is rounded to bf16, and so are the weights exp(score -
// maximum of the split) before they are summed, so that the result is a convex combination of
// values. Scores, the weights' exponents and all sums are float.
//
// Order, with one rounding per product (fused multiply-add): a score is summed over ascending
// dimensions and then scaled; a split's weights are summed in 16 lanes (float: position modulo 16;
// bf16: pair of positions modulo 16) and a fixed tree; values are summed over the ascending
// positions of a split. In bf16 the two elements of a pair (of dimensions or of positions) change
// places: the odd one is added first, as the dot-product instructions do.
//
// Error against exact arithmetic on the rounded query, keys and values, with eps = 2^-24, S the
// greatest sum |q_d k_d| / sqrt(head_dim) and V the greatest |v|: the relative error of a weight is
// at most w = ((head_dim + 4) S + 2) eps, and 2^-8 + 2^-13.2 more in bf16; the error of the result
// is at most 2 V w + V (550 + (10 + 4 S) (splits - 1)) eps.
void PagedAttention(CpuDevice& device, const StepTokensView& tokens, int64_t local_n_heads,
                    const float* qkv, const KvLayerView& cache, float* out);

// CpuDevice::Scratch in floats that PagedAttention takes at most, for steps of up to max_tokens
// tokens at positions below max_positions.
int64_t PagedAttentionScratchFloats(const CpuDevice& device, const KvCacheShape& cache,
                                    int64_t local_n_heads, int64_t max_tokens,
                                    int64_t max_positions);

// On a CudaDevice the host divides the work into items before the step is queued. It can, because
// it knows every row's positions; only the token ids may still be unknown to it.

// One item of work: neighbouring tokens of one row against splits [split_begin, split_end) of their
// sequence, for every KV head.
struct AttentionItem {
  int32_t table_row = 0;    // the row's line of the block table
  int32_t token_begin = 0;  // index of the first token among the step's tokens
  int32_t n_tokens = 0;
  int32_t position = 0;  // absolute position of the first token
  int32_t split_begin = 0;
  int32_t split_end = 0;
  // Index of the first split's partial result among the step's; the following splits' results
  // follow it, and a second pass merges them. -1: the item has all splits of its tokens and writes
  // the final result itself.
  int32_t partial_begin = -1;
};

// One token of the second pass: its partial results [partial_begin, partial_begin + n_splits) are
// merged in ascending order.
struct AttentionMerge {
  int32_t token_idx = 0;  // among the step's tokens
  int32_t partial_begin = 0;
  int32_t n_splits = 0;
};

// How a step's attention is divided. Made once per step; the same for all layers.
struct AttentionWork {
  std::vector<AttentionItem> decode_items;   // one token each
  std::vector<AttentionItem> prefill_items;  // up to AttentionTileTokens tokens each, at least 1
  std::vector<AttentionMerge> merges;
  int64_t n_partials = 0;  // of all merges
};

// The limits of any one step. local_n_heads must be a multiple of local_n_kv_heads.
struct AttentionLimits {
  int64_t local_n_heads = 0;
  int64_t local_n_kv_heads = 0;
  int64_t head_dim = 0;       // 16, 32, 64 or 128
  int64_t max_rows = 0;       // of a step
  int64_t max_tokens = 0;     // of a step
  int64_t max_positions = 0;  // of a sequence
};

// One row of the step: its tokens [token_begin, token_begin + n_tokens) of the step's tokens, the
// first of which is at absolute position `position`. table_row is the row's line of the block
// table.
struct AttentionRow {
  int32_t table_row = 0;
  int32_t token_begin = 0;
  int32_t n_tokens = 0;
  int32_t position = 0;
};

// Divides the work of the step's rows: replaces the contents of `work`. Allocates nothing once
// work's vectors have the capacities that MaxAttentionWork gives. The division never changes a
// result.
// REQUIRES: the rows keep to the limits, and each has at least one token.
void PlanAttention(const AttentionLimits& limits, absl::Span<const AttentionRow> rows,
                   AttentionWork* work);

// The greatest sizes that PlanAttention can produce under the limits; buffers and scratch are sized
// by them.
struct AttentionWorkSizes {
  int64_t n_decode_items = 0;
  int64_t n_prefill_items = 0;
  int64_t n_merges = 0;
  int64_t n_partials = 0;
};
AttentionWorkSizes MaxAttentionWork(const AttentionLimits& limits);

// An AttentionWork in device memory. The counts lie in device memory as well, so that a captured
// graph can be launched again for another step. A graph keeps its launch sizes; these follow the
// max_... members, and blocks beyond the counts do nothing.
struct AttentionWorkView {
  const AttentionItem* decode_items = nullptr;   // [max_decode_items]
  const AttentionItem* prefill_items = nullptr;  // [max_prefill_items]
  const AttentionMerge* merges = nullptr;        // [max_merges]
  const int32_t* counts = nullptr;               // [3] decode items, prefill items, merges
  int64_t max_decode_items = 0;
  int64_t max_prefill_items = 0;
  int64_t max_merges = 0;
  int64_t max_partials = 0;  // most AttentionWork::n_partials
};

// PagedAttention on a GPU: queued on the device's stream; uses its scratch. All pointers are device
// memory. block_table: [n_slots, max_blocks_per_row]. qkv: float, as RopeAndStoreKv left it. cache:
// bf16 in CUDA's layout, block_size a power of two. out: [n_tokens, local_n_heads * head_dim] bf16,
// written for the tokens that `work` names.
//
// Order: the query is rounded to bf16. Each token's result is computed in one order, whatever the
// division of the work. A split is taken in pieces of 32 positions, ascending. For each piece: the
// scores are computed by tensor-core instructions over ascending dimensions and scaled; the running
// maximum is raised, and what was summed so far is multiplied by 2^(old - new); the weights
// 2^(score - maximum) are rounded to bf16; their sum, and the sum of weighted values, are added by
// instructions over ascending positions. Splits are merged in ascending order. Cache slots that
// were never written may hold NaN: neither they nor another sequence's values reach a result.
//
// Error against exact arithmetic on the rounded query, keys and values, with eps = 2^-24, S and V
// as for the CPU above, the instructions' sums as in kernels/matmul.h, and n_split <= 512 the
// positions of a split: a score's error is at most s = (4 head_dim + 7) S eps; a weight's relative
// error before it is rounded to bf16 is at most w = 2 s + (3 S + 4) eps; the factors that a weight
// is multiplied by later add f = s + (31 S + 75) eps; the sums add (4 n_split + 6 + (2 S + 6)
// (splits - 1)) eps each; the result has 2 V times all of these, and its own rounding.
void PagedAttention(CudaDevice& device, const AttentionWorkView& work, const int32_t* block_table,
                    int64_t max_blocks_per_row, int64_t local_n_heads, const float* qkv,
                    const KvLayerView& cache, Bf16* out);

// CudaDevice::Scratch in bytes that PagedAttention takes at most.
int64_t PagedAttentionScratchBytes(const AttentionLimits& limits);

}  // namespace bora
