// Constants that the host's division of a CUDA step's attention (attention_plan.cc) shares with the
// kernels that carry it out (cuda/paged_attention.cu). See kernels/paged_attention.h for the work
// items.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/int_math.h"

namespace bora {

// Queries of a prefill tile: tokens x the query heads that share a KV head, all of one row. They
// read keys and values together. Why 128: a multiprocessor reads 24 bytes per cycle from the
// second-level cache, which is 340 cycles for the 8 KiB of keys of 32 positions and as many for the
// values (head_dim 128); the tensor instructions of 128 queries take 840 cycles for the same 32
// positions, so arithmetic is the bound.
inline constexpr int64_t kAttentionTileQueries = 128;

// Most tokens of a prefill item. If the query heads of one KV head alone exceed
// kAttentionTileQueries, an item has one token, which the kernel computes in several tiles.
constexpr int64_t AttentionTileTokens(int64_t local_n_heads, int64_t local_n_kv_heads) {
  return std::max<int64_t>(1, kAttentionTileQueries * local_n_kv_heads / local_n_heads);
}

// Floats from one partial result to the next, a multiple of 4 (16 bytes). A partial result is what
// one split contributes to one token: [local_n_heads, head_dim] sums of weighted values, then
// [local_n_heads, 2] pairs of maximum score and sum of weights.
constexpr int64_t AttentionPartialFloats(int64_t local_n_heads, int64_t head_dim) {
  return RoundUp(local_n_heads * (head_dim + 2), 4);
}

}  // namespace bora
