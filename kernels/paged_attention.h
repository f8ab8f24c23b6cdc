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

#include "kernels/device.h"
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

}  // namespace bora
