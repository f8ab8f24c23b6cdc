// What the host's division of a CUDA step's attention (attention_plan.cc) and the kernels
// (paged_attention.cu) have to agree on.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/int_math.h"

namespace bora {

// Queries (tokens x the heads that share a KV head) that pass over keys and values together when
// a row has several tokens. A multiprocessor reads 24 bytes a cycle from the second-level cache,
// 340 cycles for the 8 KiB of keys of 32 positions and as much for the values (head_dim 128); the
// tensor instructions of 128 queries take 840 cycles for them.
inline constexpr int64_t kAttentionTileQueries = 128;

// Tokens of a prefill item at most. Where a group of heads is larger than a tile, the item's one
// token takes several.
constexpr int64_t AttentionTileTokens(int64_t local_n_heads, int64_t local_n_kv_heads) {
  return std::max<int64_t>(1, kAttentionTileQueries * local_n_kv_heads / local_n_heads);
}

// A partial result: [local_n_heads, head_dim] sums of weighted values, then [local_n_heads, 2]
// maximum and sum of weights. Floats from one to the next, a multiple of 16 bytes.
constexpr int64_t AttentionPartialFloats(int64_t local_n_heads, int64_t head_dim) {
  return RoundUp(local_n_heads * (head_dim + 2), 4);
}

}  // namespace bora
