// Causal grouped-query attention over the paged cache:
//   out[t, h, :] = sum_p softmax_p(q[t, h, :] . k[p, g, :] / sqrt(head_dim)) v[p, g, :]
// over positions p <= position of t in t's own sequence, g = h / (n_heads / n_kv_heads).
#pragma once

#include "kernels/device.h"
#include "kernels/kv_cache.h"

namespace bora {

// Positions are processed in splits of this many tokens at absolute positions [k*512, k*512 + 512),
// each with its own maximum and sum, merged in ascending order: so a token's result does not depend
// on how its sequence was chunked.
inline constexpr int64_t kAttentionSplitTokens = 512;

// qkv: as RopeAndStoreKv left it (queries at the front of each token's row); keys and values are
// read from the cache only, also those of this step. out: [n_tokens, local_n_heads * head_dim].
// Slots of blocks beyond a token's position never reach its result: they may hold NaN. Under a bf16
// cache the query is used in float. head_dim is even and at most 256.
//
// Order: a score is summed over ascending dimensions; a split's exponentials are summed in 16 lanes
// (position modulo 16) and a fixed tree; values are summed over ascending positions of a split.
void PagedAttention(CpuDevice& device, const StepTokensView& tokens, int64_t local_n_heads,
                    const float* qkv, const KvLayerView& cache, float* out);

}  // namespace bora
