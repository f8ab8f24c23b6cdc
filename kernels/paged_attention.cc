#include "kernels/paged_attention.h"

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "base/check.h"
#include "base/int_math.h"
#include "kernels/exact_math.h"
#include "kernels/simd.h"

namespace bora {
namespace {

constexpr int64_t kMaxHeadDim = 256;
// Queries (tokens x heads of a group) that share one pass over keys and values: their scores of a
// split (16 x 512 floats) and sums (2 x 16 x 256) take 64 KB of stack and of second-level cache.
constexpr int64_t kTileQueries = 16;
// Multiply-adds that take about as long as waking a helper (5 us at 15-25 G/s).
constexpr int64_t kGrainMultiplyAdds = 64 << 10;

struct AttentionCall {
  const SimdKernels& simd;
  const StepTokensView& tokens;
  const KvLayerView& cache;
  const float* qkv;
  float* out;
  int64_t n_heads;
  int64_t group;  // query heads per KV head
  float scale;

  int64_t qkv_stride() const {
    return (n_heads + 2 * cache.shape.local_n_kv_heads) * cache.shape.head_dim;
  }
};

// Queries of one row and one KV head that are worked on together, in ascending position.
struct QueryTile {
  int64_t n = 0;
  int64_t kv_head_idx = 0;
  const int32_t* block_ids = nullptr;  // the row's block table
  int64_t n_positions[kTileQueries];   // that each query attends to: its position + 1
  const float* queries[kTileQueries];  // each [head_dim]
  float* outputs[kTileQueries];        // each [head_dim]
};

// Running softmax of a tile over the splits so far.
struct TileState {
  alignas(64) float scores[kTileQueries * kAttentionSplitTokens];
  alignas(64) float split_sums[kTileQueries * kMaxHeadDim];
  alignas(64) float sums[kTileQueries * kMaxHeadDim];
  SoftmaxSums softmax[kTileQueries];
};

// Positions of a split, counted from its begin.
struct PositionRange {
  int64_t begin = 0;
  int64_t end = 0;
};

// Scores of slots [0, n_slots) of one block. Groups of 16 slots go through the vector kernel; what
// a block size that is no multiple of 16 leaves over takes the same steps one by one.
template <typename T>
void BlockScores(const AttentionCall& call, const QueryTile& tile, const T* keys, int64_t n_slots,
                 float* scores) {
  const int64_t block_size = call.cache.shape.block_size;
  const int64_t head_dim = call.cache.shape.head_dim;
  const auto kernel = std::is_same_v<T, Bf16> ? call.simd.scores_bf16 : call.simd.scores_f32;
  int64_t slot = 0;
  for (; slot < n_slots && slot + kSimdLanes <= block_size; slot += kSimdLanes) {
    kernel({.queries = tile.queries,
            .n_queries = tile.n,
            .keys = keys + slot,
            .key_stride = block_size,
            .head_dim = head_dim,
            .scores = scores + slot,
            .score_stride = kAttentionSplitTokens});
  }
  for (; slot < n_slots; ++slot) {
    for (int64_t i = 0; i < tile.n; ++i) {
      float sum = 0;
      for (int64_t d = 0; d < head_dim; ++d) {
        sum = tile.queries[i][d] * ElementToFloat(keys[d * block_size + slot]) + sum;
      }
      scores[i * kAttentionSplitTokens + slot] = sum;
    }
  }
}

// split_sums of queries [first, tile.n) += probabilities x values of split positions [begin, end).
template <typename T>
void AddValues(const AttentionCall& call, const QueryTile& tile, int64_t split_begin,
               PositionRange range, int64_t first, TileState* state) {
  const KvCacheShape& shape = call.cache.shape;
  const auto kernel = std::is_same_v<T, Bf16> ? call.simd.values_bf16 : call.simd.values_f32;
  while (range.begin < range.end) {
    const int64_t position = split_begin + range.begin;
    const int64_t slot = position % shape.block_size;
    const int64_t n_slots = std::min(shape.block_size - slot, range.end - range.begin);
    const int64_t block_id = tile.block_ids[position / shape.block_size];
    kernel({.probs = state->scores + first * kAttentionSplitTokens + range.begin,
            .prob_stride = kAttentionSplitTokens,
            .n_queries = tile.n - first,
            .values = static_cast<const T*>(call.cache.values) +
                      call.cache.BlockOffset(block_id, tile.kv_head_idx) + slot * shape.head_dim,
            .n_slots = n_slots,
            .head_dim = shape.head_dim,
            .sums = state->split_sums + first * kMaxHeadDim,
            .sum_stride = kMaxHeadDim});
    range.begin += n_slots;
  }
}

// Takes a query's result of one split into its running result: both are scaled to the common
// maximum. The first split is taken as it is.
void MergeSplit(int64_t head_dim, const SoftmaxSums& split, bool is_first, int64_t i,
                TileState* state) {
  float* sums = state->sums + i * kMaxHeadDim;
  const float* split_sums = state->split_sums + i * kMaxHeadDim;
  if (is_first) {
    state->softmax[i] = split;
    std::copy_n(split_sums, head_dim, sums);
    return;
  }
  SoftmaxSums& total = state->softmax[i];
  const float max = split.max > total.max ? split.max : total.max;
  const float old_scale = static_cast<float>(Exp(total.max - max));
  const float split_scale = static_cast<float>(Exp(split.max - max));
  total.max = max;
  total.sum = total.sum * old_scale + split.sum * split_scale;
  for (int64_t d = 0; d < head_dim; ++d) {
    sums[d] = sums[d] * old_scale + split_sums[d] * split_scale;
  }
}

// Adds positions [split_begin, split_begin + 512) to the tile's results.
template <typename T>
void AttendSplit(const AttentionCall& call, const QueryTile& tile, int64_t split_begin,
                 TileState* state) {
  const KvCacheShape& shape = call.cache.shape;
  const auto positions_of = [&](int64_t i) {
    return std::clamp<int64_t>(tile.n_positions[i] - split_begin, 0, kAttentionSplitTokens);
  };
  const int64_t n_positions = positions_of(tile.n - 1);
  for (int64_t p = 0; p < n_positions; p += shape.block_size) {
    const int64_t block_id = tile.block_ids[(split_begin + p) / shape.block_size];
    BlockScores<T>(
        call, tile,
        static_cast<const T*>(call.cache.keys) + call.cache.BlockOffset(block_id, tile.kv_head_idx),
        std::min(shape.block_size, n_positions - p), state->scores + p);
  }
  int64_t first = 0;
  while (positions_of(first) == 0) ++first;
  SoftmaxSums splits[kTileQueries];
  for (int64_t i = first; i < tile.n; ++i) {
    splits[i] =
        call.simd.softmax(state->scores + i * kAttentionSplitTokens, positions_of(i), call.scale);
    std::fill_n(state->split_sums + i * kMaxHeadDim, shape.head_dim, 0.0f);
  }
  // Queries attend to ever more positions: all take the range that the first has, those that have
  // more take the rest. A position beyond a query's own is never multiplied into it, not even by 0.
  int64_t begin = 0;
  for (int64_t i = first; i < tile.n; ++i) {
    AddValues<T>(call, tile, split_begin, {begin, positions_of(i)}, i, state);
    begin = positions_of(i);
  }
  for (int64_t i = first; i < tile.n; ++i) {
    MergeSplit(shape.head_dim, splits[i], split_begin == 0, i, state);
  }
}

template <typename T>
void AttendTile(const AttentionCall& call, const QueryTile& tile) {
  // 66 KB; every part is written before it is read.
  TileState state;
  const int64_t head_dim = call.cache.shape.head_dim;
  for (int64_t begin = 0; begin < tile.n_positions[tile.n - 1]; begin += kAttentionSplitTokens) {
    AttendSplit<T>(call, tile, begin, &state);
  }
  for (int64_t i = 0; i < tile.n; ++i) {
    const float* sums = state.sums + i * kMaxHeadDim;
    for (int64_t d = 0; d < head_dim; ++d) tile.outputs[i][d] = sums[d] / state.softmax[i].sum;
  }
}

// Attention of one KV head for tokens [begin, end) of the step, which may belong to several rows.
void AttendTokens(const AttentionCall& call, int64_t begin, int64_t end, int64_t kv_head_idx) {
  const StepTokensView& tokens = call.tokens;
  const int64_t head_dim = call.cache.shape.head_dim;
  QueryTile tile;
  tile.kv_head_idx = kv_head_idx;
  for (int64_t t = begin; t < end; ++t) {
    const int64_t row = tokens.token_row[t];
    tile.block_ids = tokens.block_table + row * tokens.max_blocks_per_row;
    for (int64_t h = kv_head_idx * call.group; h < (kv_head_idx + 1) * call.group; ++h) {
      tile.n_positions[tile.n] = tokens.positions[t] + 1;
      tile.queries[tile.n] = call.qkv + t * call.qkv_stride() + h * head_dim;
      tile.outputs[tile.n] = call.out + (t * call.n_heads + h) * head_dim;
      ++tile.n;
      const bool is_last = h + 1 == (kv_head_idx + 1) * call.group &&
                           (t + 1 == end || tokens.token_row[t + 1] != row);
      if (tile.n == kTileQueries || is_last) {
        if (call.cache.shape.dtype == DType::kBf16) {
          AttendTile<Bf16>(call, tile);
        } else {
          AttendTile<float>(call, tile);
        }
        tile.n = 0;
      }
    }
  }
}

}  // namespace

void PagedAttention(CpuDevice& device, const StepTokensView& tokens, int64_t local_n_heads,
                    const float* qkv, const KvLayerView& cache, float* out) {
  const KvCacheShape& shape = cache.shape;
  CHECK(shape.head_dim > 0 && shape.head_dim <= kMaxHeadDim)
      << "head_dim " << shape.head_dim << " not in [1, " << kMaxHeadDim << "]";
  CHECK(shape.block_size > 0 && kAttentionSplitTokens % shape.block_size == 0)
      << "block_size " << shape.block_size << " does not divide " << kAttentionSplitTokens;
  if (tokens.n_tokens == 0) return;
  const AttentionCall call = {
      .simd = device.simd(),
      .tokens = tokens,
      .cache = cache,
      .qkv = qkv,
      .out = out,
      .n_heads = local_n_heads,
      .group = DivExact(local_n_heads, shape.local_n_kv_heads),
      .scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(shape.head_dim)))};
  int64_t n_positions = 0;
  for (int64_t t = 0; t < tokens.n_tokens; ++t) n_positions += tokens.positions[t] + 1;
  // As many tokens share a pass as fill a tile, but fewer where the threads would run out of items.
  const int64_t n_kv_heads = shape.local_n_kv_heads;
  const int64_t tile_tokens =
      std::clamp<int64_t>(tokens.n_tokens * n_kv_heads / (4 * device.n_threads()), 1,
                          std::max<int64_t>(1, kTileQueries / call.group));
  const int64_t n_tiles = CeilDiv(tokens.n_tokens, tile_tokens);
  const int64_t multiply_adds = 2 * n_positions * local_n_heads * shape.head_dim;
  const int64_t grain = 1 + kGrainMultiplyAdds * n_tiles * n_kv_heads / multiply_adds;
  // Head by head: neighbouring tiles find the head's keys and values in the cache.
  device.ParallelFor(n_tiles * n_kv_heads, grain, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t t = item % n_tiles * tile_tokens;
      AttendTokens(call, t, std::min(t + tile_tokens, tokens.n_tokens), item / n_tiles);
    }
  });
}

}  // namespace bora
