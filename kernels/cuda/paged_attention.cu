#include <algorithm>
#include <bit>
#include <cmath>
#include <numbers>

#include "base/bf16.h"
#include "base/check.h"
#include "base/int_math.h"
#include "kernels/attention_plan.h"
#include "kernels/cuda/attention_device.h"
#include "kernels/cuda/matmul_plan.h"
#include "kernels/cuda/runtime/cuda_device.h"
#include "kernels/cuda/runtime/cuda_prelude.h"
#include "kernels/cuda/runtime/load_kernels.h"
#include "kernels/paged_attention.h"

namespace bora {
namespace {

// The arguments of the prefill and decode kernels.
struct Params {
  const AttentionItem* items;
  const int32_t* n_items;      // in device memory
  const int32_t* block_table;  // [n_slots, max_blocks_per_row]
  int64_t max_blocks_per_row;
  int n_heads;
  int n_kv_heads;
  int group;  // query heads per KV head
  const float* qkv;
  const Bf16* keys;
  const Bf16* values;
  int block_elements;  // elements of keys in a block, all KV heads
  int head_elements;   // elements of keys in a block, one KV head
  int log2_block_size;
  float scale;  // log2(e) / sqrt(head_dim)
  float* partials;
  int64_t partial_floats;
  Bf16* out;  // [n_tokens, n_heads * head_dim]
};

// Warps that work on the same keys and values, with 16 queries each, and the ring of stages in
// shared memory through which they read them. A stage is kStagePositions positions of keys and
// values. A team is one warp or a whole block.
template <int kHeadDim_, int kWarps_, int kStagePositions_, int kStages_>
struct Team {
  static constexpr int kHeadDim = kHeadDim_;
  static constexpr int kWarps = kWarps_;
  static constexpr int kThreads = kWarps * kWarpSize;
  static constexpr int kStagePositions = kStagePositions_;  // divides kAttentionSplitTokens
  static constexpr int kStages = kStages_;
  static constexpr int kStageElements = kStagePositions * kHeadDim;  // of keys, and of values
  // Unrolling of a warp's loop of copies. A team of one warp unrolls the whole loop, because no
  // other warp's work hides its latency; in larger teams more than 2 would spill registers.
  static constexpr int kCopyUnroll = kWarps == 1 ? kStagePositions : 2;

  // The calling thread's index in its team.
  static __device__ int Thread() { return threadIdx.x % kThreads; }
  static __device__ int Warp() { return Thread() / kWarpSize; }
  // A barrier for the team.
  static __device__ void Sync() {
    if constexpr (kWarps == 1) {
      __syncwarp();
    } else {
      __syncthreads();
    }
  }

  // The stages' arrays. At chooses by comparisons, because an array with an index that is not a
  // constant would be placed in memory.
  struct Ring {
    Bf16* stages[kStages];
    __device__ Bf16* At(int slot) const {
      Bf16* stage = stages[0];
#pragma unroll
      for (int i = 1; i < kStages; ++i) stage = slot == i ? stages[i] : stage;
      return stage;
    }
  };
  Ring keys, values;
};

// One pass of a team over an item's positions for one KV head, with up to kWarps * 16 queries, from
// query `row_begin` of the item on. An item's queries are ordered token by token, and within a
// token by head of the group.
template <typename Team>
struct Tile {
  // A pointer: the item is read again at each use, because registers are scarce.
  const AttentionItem* item;
  int kv_head_idx;
  int row_begin;

  __device__ int PositionBegin() const {
    return item->split_begin * static_cast<int>(kAttentionSplitTokens);
  }
  // The end of the positions that the item's last token sees; nothing from here on is read.
  __device__ int PositionEnd() const {
    return std::min(item->split_end * static_cast<int>(kAttentionSplitTokens),
                    item->position + item->n_tokens);
  }
};

// Begins to copy a stage's keys and values to shared memory, positions [begin, begin +
// kStagePositions), with zeros from `end` on. Each warp copies kPerWarp neighbouring positions.
// Each lane looks up the block of one of them, so that the block table is waited for once per
// stage.
// REQUIRES: begin < end.
template <typename Team>
__device__ __forceinline__ void CopyStage(const Params& params, const int32_t* table,
                                          int kv_head_idx, int begin, int end, Bf16* keys,
                                          Bf16* values) {
  constexpr int kHeadDim = Team::kHeadDim;
  constexpr int kChunks = kHeadDim / kChunk;
  constexpr int kTogether = kWarpSize / kChunks;  // positions that a warp copies at once
  constexpr int kPerWarp = Team::kStagePositions / Team::kWarps;
  // The second condition is for ChunkOffset: no chunk is permuted at a position where a warp
  // begins.
  static_assert(kPerWarp <= kWarpSize && kPerWarp % 8 == 0);
  const int lane = Team::Thread() % kWarpSize;
  const int warp_begin = Team::Warp() * kPerWarp;
  const int looked_up = std::min(begin + warp_begin + lane, end - 1);
  const int32_t lane_block_id = table[looked_up >> params.log2_block_size];
  const int first = lane / kChunks;
  const int chunk = lane % kChunks;
  // KvLayerView::RowMajorOffset without the terms of the block and the slot.
  const int head_chunk = kv_head_idx * params.head_elements + chunk * kChunk;
  const int first_to = ChunkOffset<kHeadDim>(first, chunk);
  keys += warp_begin * kHeadDim;
  values += warp_begin * kHeadDim;
#pragma unroll(Team::kCopyUnroll)
  for (int i = 0; i < kPerWarp; i += kTogether) {
    // From `end` on this is the last position's block, of which nothing is read.
    const int64_t block_id = __shfl_sync(kFullMask, lane_block_id, i + first);
    if (kTogether > kPerWarp && first >= kPerWarp) continue;
    const int position = begin + warp_begin + i + first;
    const int slot = position & ((1 << params.log2_block_size) - 1);
    const int64_t from = block_id * params.block_elements + (head_chunk + slot * kHeadDim);
    const int n_bytes = position < end ? 16 : 0;
    const int to = i * kHeadDim + (first_to ^ Swizzle<kHeadDim>(i) * kChunk);
    CopyAsync16(keys + to, params.keys + from, n_bytes);
    CopyAsync16(values + to, params.values + from, n_bytes);
  }
}

// The queries that a lane's two rows are. Rows beyond the item's last query see no position.
struct LaneRows {
  int token[2];  // index within the item
  int head_idx[2];
  int position[2];  // of the row's token; -1: there is no such row
  // The lowest and the highest position of the warp's rows; last_position is -1 if it has none.
  int first_position;
  int last_position;
};

// The calling lane's rows of a tile.
template <typename Team>
__device__ __forceinline__ LaneRows RowsOf(const Params& params, const Tile<Team>& tile) {
  const int warp_row = tile.row_begin + Team::Warp() * kTileRows;
  const int n_rows = tile.item->n_tokens * params.group;
  LaneRows rows;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int row = warp_row + threadIdx.x % kWarpSize / 4 + 8 * i;
    rows.token[i] = row / params.group;
    rows.head_idx[i] = tile.kv_head_idx * params.group + row % params.group;
    rows.position[i] = row < n_rows ? tile.item->position + rows.token[i] : -1;
  }
  rows.first_position = tile.item->position + warp_row / params.group;
  rows.last_position =
      warp_row < n_rows
          ? tile.item->position + std::min(warp_row + kTileRows - 1, n_rows - 1) / params.group
          : -1;
  return rows;
}

// Loads the warp's queries and rounds them to bf16; rows that do not exist are 0.
template <typename Team>
__device__ __forceinline__ QueryTile<Team::kHeadDim> LoadQuery(const Params& params,
                                                               const Tile<Team>& tile,
                                                               const LaneRows& rows) {
  const int64_t stride = int64_t{params.n_heads + 2 * params.n_kv_heads} * Team::kHeadDim;
  QueryTile<Team::kHeadDim> query;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float* from = params.qkv + (tile.item->token_begin + rows.token[i]) * stride +
                        rows.head_idx[i] * Team::kHeadDim + threadIdx.x % 4 * 2;
#pragma unroll
    for (int k = 0; k < Team::kHeadDim / 16; ++k) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        Floats<2> x = {{0, 0}};
        if (rows.position[i] >= 0) {
          x = *reinterpret_cast<const Floats<2>*>(from + k * 16 + half * 8);
        }
        query.a[k][half * 2 + i] = PackBf16(x.at[0], x.at[1]);
      }
    }
  }
  return query;
}

// Writes a lane's part of a split's sums to a partial result, in the layout of
// AttentionPartialFloats.
template <typename Team>
__device__ __forceinline__ void StorePartial(const Params& params, int partial_idx,
                                             const Tile<Team>& tile,
                                             const AttentionSums<Team::kHeadDim>& sums) {
  const LaneRows rows = RowsOf(params, tile);
  float* partial = params.partials + partial_idx * params.partial_floats;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (rows.position[i] < 0) continue;
    float* to = partial + rows.head_idx[i] * Team::kHeadDim + threadIdx.x % 4 * 2;
#pragma unroll
    for (int n = 0; n < Team::kHeadDim / 8; ++n) {
      *reinterpret_cast<Floats<2>*>(to +
                                    8 * n) = {{sums.values[n][2 * i], sums.values[n][2 * i + 1]}};
    }
    if (threadIdx.x % 4 == 0) {
      float* tops = partial + params.n_heads * Team::kHeadDim;
      *reinterpret_cast<Floats<2>*>(tops +
                                    2 * rows.head_idx[i]) = {{sums.max[i], sums.weights[2 * i]}};
    }
  }
}

// Writes a lane's part of the final result.
template <typename Team>
__device__ __forceinline__ void StoreResult(const Params& params, const Tile<Team>& tile,
                                            const AttentionSums<Team::kHeadDim>& total) {
  const LaneRows rows = RowsOf(params, tile);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (rows.position[i] < 0) continue;
    const float inverse = 1.0f / total.weights[2 * i];
    const int64_t token = tile.item->token_begin + rows.token[i];
    Bf16* to = params.out + (token * params.n_heads + rows.head_idx[i]) * Team::kHeadDim +
               threadIdx.x % 4 * 2;
#pragma unroll
    for (int n = 0; n < Team::kHeadDim / 8; ++n) {
      *reinterpret_cast<Bf16s<2>*>(to +
                                   8 * n) = {{Normalized(total.values[n][2 * i], inverse),
                                              Normalized(total.values[n][2 * i + 1], inverse)}};
    }
  }
}

// Adds the positions of a stage to the warp's sums, as far as the warp's rows see them.
template <typename Team>
__device__ __forceinline__ void AttendStage(const QueryTile<Team::kHeadDim>& query,
                                            const Bf16* keys, const Bf16* values, int begin,
                                            const LaneRows& rows, float scale,
                                            AttentionSums<Team::kHeadDim>& sums) {
#pragma unroll 1
  for (int piece = 0; piece < Team::kStagePositions; piece += kPiecePositions) {
    if (begin + piece > rows.last_position) return;
    const bool masked = begin + piece + kPiecePositions - 1 > rows.first_position;
    AttendPiece<Team::kHeadDim>(query, keys + piece * Team::kHeadDim,
                                values + piece * Team::kHeadDim, begin + piece, rows.position,
                                masked, scale, sums);
  }
}

// Computes a tile: copies stage after stage, several ahead of the one in use, adds them up split by
// split, and writes either a partial result per split or the final result.
template <typename Team>
__device__ __forceinline__ void AttendTile(const Params& params, const Team& team,
                                           const Tile<Team>& tile) {
  constexpr int kSplit = static_cast<int>(kAttentionSplitTokens);
  static_assert(kSplit % Team::kStagePositions == 0 && Team::kStages > 1);
  const int end = tile.PositionEnd();
  const int32_t* table = params.block_table + tile.item->table_row * params.max_blocks_per_row;
  const auto copy = [&](int begin, int slot) {
    if (begin < end) {
      CopyStage<Team>(params, table, tile.kv_head_idx, begin, end, team.keys.At(slot),
                      team.values.At(slot));
    }
    CommitCopies();
  };
  // Other warps may still read the last stages of the tile before.
  Team::Sync();
#pragma unroll
  for (int slot = 0; slot + 1 < Team::kStages; ++slot) {
    copy(tile.PositionBegin() + slot * Team::kStagePositions, slot);
  }

  const LaneRows rows = RowsOf(params, tile);
  const QueryTile<Team::kHeadDim> query = LoadQuery(params, tile, rows);
  AttentionSums<Team::kHeadDim> sums, total;
  sums.Reset();
  total.Reset();
  int partial_idx = tile.item->partial_begin;
  int slot = 0;
#pragma unroll 1
  for (int begin = tile.PositionBegin(); begin < end; begin += Team::kStagePositions) {
    // The oldest group of copies is this stage's.
    AwaitCopies<Team::kStages - 2>();
    // Now all warps see the stage, and no warp reads the previous one any more, so that it can be
    // refilled.
    Team::Sync();
    copy(begin + (Team::kStages - 1) * Team::kStagePositions,
         slot == 0 ? Team::kStages - 1 : slot - 1);
    AttendStage<Team>(query, team.keys.At(slot), team.values.At(slot), begin, rows, params.scale,
                      sums);
    slot = slot + 1 == Team::kStages ? 0 : slot + 1;
    const int next = begin + Team::kStagePositions;
    // Inside a split the sums go on; at its end they are stored or merged.
    if (next % kSplit != 0 && next < end) continue;
    if (partial_idx >= 0) {
      StorePartial<Team>(params, partial_idx++, tile, sums);
    } else {
      MergeSplit<Team::kHeadDim>(sums, total);
    }
    sums.Reset();
  }
  if (partial_idx < 0) StoreResult(params, tile, total);
}

// The teams of both kernels. The stages of all teams of a block take at most 96 KiB.
template <int kHeadDim>
using PrefillTeam = Team<kHeadDim, kAttentionTileQueries / kTileRows, 2 * kPiecePositions, 3>;

template <int kHeadDim>
using DecodeTeam = Team<kHeadDim, 1, kPiecePositions, 3>;

// Teams, of one warp each, in a block of the decode kernel.
template <int kHeadDim>
constexpr int kDecodeTeams = std::min(8, 256 / kHeadDim);

// Bytes of shared memory that the stages of n_teams teams take.
template <typename Team>
constexpr int64_t StagesBytes(int n_teams) {
  SharedBytes bytes;
  for (int i = 0; i < 2 * Team::kStages * n_teams; ++i) {
    bytes.Add<Bf16>(Team::kStageElements);
  }
  return bytes.bytes();
}

// Attention for items of several tokens. Blocks take (item, KV head) pairs in rounds, alternately
// in ascending and descending order. The items are sorted by length, so the block that had the
// longest pair of a round gets the shortest of the next.
template <int kHeadDim>
__global__ void __launch_bounds__(PrefillTeam<kHeadDim>::kThreads)
    PrefillAttentionKernel(Params params) {
  using Team = PrefillTeam<kHeadDim>;
  Shared shared;
  Team team;
#pragma unroll
  for (int i = 0; i < Team::kStages; ++i) {
    team.keys.stages[i] = shared.Take<Bf16>(Team::kStageElements);
    team.values.stages[i] = shared.Take<Bf16>(Team::kStageElements);
  }
  const int n_units = *params.n_items * params.n_kv_heads;
  const int n_blocks = gridDim.x;
  for (int begin = 0, round = 0; begin < n_units; begin += n_blocks, ++round) {
    const int in_round = blockIdx.x;
    const int unit = begin + (round % 2 == 0 ? in_round : n_blocks - 1 - in_round);
    if (unit >= n_units) continue;
    Tile<Team> tile = {params.items + unit / params.n_kv_heads, unit % params.n_kv_heads, 0};
    const int n_rows = tile.item->n_tokens * params.group;
    for (; tile.row_begin < n_rows; tile.row_begin += Team::kWarps * kTileRows) {
      AttendTile(params, team, tile);
    }
  }
}

// Attention for items of one token; each warp takes (item, KV head) pairs by itself. The first
// pairs, which are the longest, go to different blocks. Two blocks share a multiprocessor's
// registers. The launch bound says so (2) except for head_dim 128 (0: unspecified), where a thread
// needs all registers that it can have.
template <int kHeadDim>
__global__ void __launch_bounds__(kDecodeTeams<kHeadDim>* kWarpSize, kHeadDim == 128 ? 0 : 2)
    DecodeAttentionKernel(Params params) {
  using Team = DecodeTeam<kHeadDim>;
  const int warp_idx = threadIdx.x / kWarpSize;
  Shared shared;
  Team team;
#pragma unroll
  for (int warp = 0; warp < kDecodeTeams<kHeadDim>; ++warp) {
#pragma unroll
    for (int i = 0; i < Team::kStages; ++i) {
      // Every thread takes all arrays, and keeps its own warp's.
      Bf16* keys = shared.Take<Bf16>(Team::kStageElements);
      Bf16* values = shared.Take<Bf16>(Team::kStageElements);
      if (warp == 0 || warp == warp_idx) {
        team.keys.stages[i] = keys;
        team.values.stages[i] = values;
      }
    }
  }
  const int n_units = *params.n_items * params.n_kv_heads;
  const int n_warps = gridDim.x * kDecodeTeams<kHeadDim>;
  const int first = blockIdx.x + warp_idx * gridDim.x;
  for (int unit = first; unit < n_units; unit += n_warps) {
    Tile<Team> tile = {params.items + unit / params.n_kv_heads, unit % params.n_kv_heads, 0};
    const int n_rows = tile.item->n_tokens * params.group;
    for (; tile.row_begin < n_rows; tile.row_begin += kTileRows) AttendTile(params, team, tile);
  }
}

// The arguments of the merge kernel.
struct MergeParams {
  const AttentionMerge* merges;
  const int32_t* n_merges;
  int n_heads;
  const float* partials;
  int64_t partial_floats;
  Bf16* out;
};

constexpr int kMergeWarps = 4;

// The second pass: merges the partial results of tokens whose splits were divided. A warp has one
// head of a token, a lane kWidth neighbouring dimensions of it.
template <int kHeadDim>
__global__ void __launch_bounds__(kMergeWarps* kWarpSize) MergeAttentionKernel(MergeParams params) {
  constexpr int kWidth = kHeadDim < kWarpSize ? 1 : kHeadDim / kWarpSize;
  const int d = static_cast<int>(threadIdx.x) % kWarpSize * kWidth;
  if (d >= kHeadDim) return;
  const int n_units = *params.n_merges * params.n_heads;
  const int n_warps = gridDim.x * kMergeWarps;
  for (int unit = blockIdx.x * kMergeWarps + threadIdx.x / kWarpSize; unit < n_units;
       unit += n_warps) {
    const AttentionMerge merge = params.merges[unit / params.n_heads];
    const int head_idx = unit % params.n_heads;
    float max = -INFINITY, weights = 0;
    Floats<kWidth> values = {};
#pragma unroll 4
    for (int split = 0; split < merge.n_splits; ++split) {
      const float* partial =
          params.partials + (merge.partial_begin + split) * params.partial_floats;
      const auto top =
          *reinterpret_cast<const Floats<2>*>(partial + params.n_heads * kHeadDim + 2 * head_idx);
      const auto sums = *reinterpret_cast<const Floats<kWidth>*>(partial + head_idx * kHeadDim + d);
      // The same as MergeSplit, with selections instead of a branch: the loads of the next splits
      // would have to wait for a branch.
      const bool has_any = top.at[1] != 0.0f;
      const MergeFactors factors = MergeFactorsOf(max, top.at[0]);
      max = has_any ? factors.max : max;
      weights = has_any ? Merged(factors, weights, top.at[1]) : weights;
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        values.at[k] = has_any ? Merged(factors, values.at[k], sums.at[k]) : values.at[k];
      }
    }
    const float inverse = 1.0f / weights;
    Bf16s<kWidth> out;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) out.at[k] = Normalized(values.at[k], inverse);
    const int64_t token = merge.token_idx;
    *reinterpret_cast<Bf16s<kWidth>*>(params.out + (token * params.n_heads + head_idx) * kHeadDim +
                                      d) = out;
  }
}

// Queues the three kernels for one head_dim. Each finds the number of its items in work.counts.
template <int kHeadDim>
void Launch(CudaDevice& device, const AttentionWorkView& work, Params params) {
  using Prefill = PrefillTeam<kHeadDim>;
  using Decode = DecodeTeam<kHeadDim>;
  constexpr int kTeams = kDecodeTeams<kHeadDim>;
  static_assert(std::max(StagesBytes<Prefill>(1), StagesBytes<Decode>(kTeams)) <=
                kMaxTileSharedBytes);
  const int64_t n_multiprocessors = device.limits().n_multiprocessors;

  params.items = work.prefill_items;
  params.n_items = work.counts + 1;
  // As many blocks as the multiprocessors hold at once: with head_dim 128 the registers of a
  // multiprocessor are enough for one block.
  const int64_t prefill_blocks = (kHeadDim == 128 ? 1 : 2) * n_multiprocessors;
  LaunchKernel(device,
               {.n_blocks_x = std::min(work.max_prefill_items * params.n_kv_heads, prefill_blocks),
                .n_threads = Prefill::kThreads,
                .shared_bytes = StagesBytes<Prefill>(1)},
               PrefillAttentionKernel<kHeadDim>, params);

  params.items = work.decode_items;
  params.n_items = work.counts;
  LaunchKernel(
      device,
      {.n_blocks_x = std::min(work.max_decode_items * params.n_kv_heads, 2 * n_multiprocessors),
       .n_threads = kTeams * kWarpSize,
       .shared_bytes = StagesBytes<Decode>(kTeams)},
      DecodeAttentionKernel<kHeadDim>, params);

  const MergeParams merge_params = {.merges = work.merges,
                                    .n_merges = work.counts + 2,
                                    .n_heads = params.n_heads,
                                    .partials = params.partials,
                                    .partial_floats = params.partial_floats,
                                    .out = params.out};
  LaunchKernel(device,
               {.n_blocks_x = std::min(CeilDiv(work.max_merges * params.n_heads, kMergeWarps),
                                       8 * n_multiprocessors),
                .n_threads = kMergeWarps * kWarpSize},
               MergeAttentionKernel<kHeadDim>, merge_params);
}

}  // namespace

void PagedAttention(CudaDevice& device, const AttentionWorkView& work, const int32_t* block_table,
                    int64_t max_blocks_per_row, int64_t local_n_heads, const float* qkv,
                    const KvLayerView& cache, Bf16* out) {
  const KvCacheShape& shape = cache.shape;
  CHECK(shape.dtype == DType::kBf16) << "the cache must be bf16";
  CHECK(std::has_single_bit(static_cast<uint64_t>(shape.block_size)))
      << "blocks of " << shape.block_size << " tokens";
  CHECK_LE(shape.block_elements(), INT32_MAX) << "elements of a block";
  const int64_t partial_floats = AttentionPartialFloats(local_n_heads, shape.head_dim);
  const int64_t scratch_bytes =
      work.max_partials * partial_floats * static_cast<int64_t>(sizeof(float));
  Params params = {
      .items = nullptr,
      .n_items = nullptr,
      .block_table = block_table,
      .max_blocks_per_row = max_blocks_per_row,
      .n_heads = static_cast<int>(local_n_heads),
      .n_kv_heads = static_cast<int>(shape.local_n_kv_heads),
      .group = static_cast<int>(DivExact(local_n_heads, shape.local_n_kv_heads)),
      .qkv = qkv,
      .keys = static_cast<const Bf16*>(cache.keys),
      .values = static_cast<const Bf16*>(cache.values),
      .block_elements = static_cast<int>(shape.block_elements()),
      .head_elements = static_cast<int>(shape.block_size * shape.head_dim),
      .log2_block_size = std::countr_zero(static_cast<uint64_t>(shape.block_size)),
      .scale = static_cast<float>(std::numbers::log2e / std::sqrt(double(shape.head_dim))),
      .partials = reinterpret_cast<float*>(device.Scratch(scratch_bytes)),
      .partial_floats = partial_floats,
      .out = out};
  switch (shape.head_dim) {
    case 16:
      return Launch<16>(device, work, params);
    case 32:
      return Launch<32>(device, work, params);
    case 64:
      return Launch<64>(device, work, params);
    case 128:
      return Launch<128>(device, work, params);
    default:
      CHECK(false) << "head_dim " << shape.head_dim;
  }
}

void LoadPagedAttentionKernels() {
  LoadKernels(PrefillAttentionKernel<16>, PrefillAttentionKernel<32>, PrefillAttentionKernel<64>,
              PrefillAttentionKernel<128>);
  LoadKernels(DecodeAttentionKernel<16>, DecodeAttentionKernel<32>, DecodeAttentionKernel<64>,
              DecodeAttentionKernel<128>);
  LoadKernels(MergeAttentionKernel<16>, MergeAttentionKernel<32>, MergeAttentionKernel<64>,
              MergeAttentionKernel<128>);
}

}  // namespace bora
