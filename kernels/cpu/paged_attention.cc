#include "kernels/paged_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <new>

#include "base/check.h"
#include "base/int_math.h"
#include "kernels/cpu/cpu_device.h"
#include "kernels/cpu/simd/simd.h"

namespace bora {
namespace {

// Most queries of an item. Tokens x heads of a group use a split of keys and values while it lies
// in the second-level cache, kAttentionQueries at a time. At the bf16 peak they are done with a
// split in the time in which 5 GB/s bring the next one.
constexpr int64_t kTileQueries = 48;
// A decoding token takes several KV heads together if each has at most this many queries: their
// keys and values are then read in the order in which they lie in memory.
constexpr int64_t kStreamedQueries = 8;
constexpr int64_t kFewQueries = 8;  // "few" for SimdChoice::bf16_attention
// Lanes of a block's maxima and of its sums, one for each of its queries. An item has at most as
// many blocks as queries.
constexpr int64_t kBlockLanes = 16;
constexpr int64_t kTileLanes = kTileQueries * kBlockLanes;
// The model of an item's time, for the division of work. An item streams 20 bytes/ns from memory or
// does 100 (bf16) or 50 (float) multiply-adds/ns, whichever takes longer, and needs 200 ns to begin
// and end. Waking a helper takes 5 us.
constexpr double kBytesPerNs = 20;
constexpr double kMultiplyAddsPerNs[] = {50, 100};  // by DType: kF32, kBf16
constexpr double kWakeNs = 5000;
constexpr double kItemNs = 200;

// Floats from one query's sums of values to the next query's.
int64_t SumStride(const KvCacheShape& cache) { return RoundUp(cache.head_dim, kSimdLanes); }

// The arguments of PagedAttention and what is derived from them once for the call.
struct AttentionCall {
  const SimdKernels& simd;
  // The loops for items with up to kFewQueries queries per KV head, and for items with more.
  const AttentionKernels* few_queries;
  const AttentionKernels* many_queries;
  const StepTokensView& tokens;
  const KvLayerView& cache;
  const float* qkv;
  float* out;
  int64_t n_heads;
  int64_t group;          // query heads per KV head
  int64_t run_positions;  // positions of a run: the lesser of block_size and 16
  float scale;  // factor of a score q . k: log2(e) / sqrt(head_dim), so that weights are 2^score

  int64_t qkv_stride() const {
    return (n_heads + 2 * cache.shape.local_n_kv_heads) * cache.shape.head_dim;
  }
  int64_t sum_stride() const { return SumStride(cache.shape); }
  const AttentionKernels& KernelsFor(int64_t n_queries) const {
    return n_queries <= kFewQueries ? *few_queries : *many_queries;
  }
};

// A unit of work: neighbouring queries of a row and a range of their splits. The queries are some
// tokens x some heads of one KV head, or one token x all heads of several KV heads. Every item is
// computed by itself.
struct Item {
  int32_t row = 0;          // of the step
  int32_t token_begin = 0;  // among the step's tokens
  int32_t n_tokens = 0;
  int32_t kv_head_idx = 0;  // the first of n_kv_heads
  int32_t n_kv_heads = 0;
  int32_t head_begin = 0;  // first query head within the KV head's group
  int32_t n_heads = 0;     // query heads per KV head
  int32_t split_begin = 0;
  int32_t split_end = 0;
  // Where the splits' results go, [splits of the tile, SplitFloats]. Null: the item has all splits
  // of its tile and merges them itself.
  float* partials = nullptr;

  // The order of an item's queries: by KV head, then by token (ascending position), then by head.
  int64_t queries_of_kv_head() const { return int64_t{n_tokens} * n_heads; }
  int64_t n_queries() const { return n_kv_heads * queries_of_kv_head(); }
  int64_t n_blocks() const {
    return n_kv_heads > 1 ? n_kv_heads : CeilDiv(n_queries(), kAttentionQueries);
  }
};

// Queries [begin, begin + n) of an item, which the kernels take together.
struct Block {
  int64_t begin = 0;
  int64_t n = 0;
};

// Block i of an item. The blocks of one KV head have nearly equal heights: 13 queries are split as
// 6 + 7.
Block BlockOf(const Item& item, int64_t i) {
  const int64_t begin = item.n_queries() * i / item.n_blocks();
  return {begin, item.n_queries() * (i + 1) / item.n_blocks() - begin};
}

// The result of one split for an item's queries.
struct SplitResult {
  float* values = nullptr;  // [n_queries, AttentionCall::sum_stride()]
  float* max = nullptr;     // [Item::n_blocks(), kBlockLanes]
  float* sum = nullptr;     // [Item::n_blocks(), kBlockLanes]
};

// Floats of one SplitResult.
int64_t SplitFloats(const Item& item, int64_t sum_stride) {
  return item.n_queries() * sum_stride + 2 * kBlockLanes * item.n_blocks();
}

// Pointers to the runs of a split's keys, then of its values, then to the memory that is read next.
// A run is the neighbouring positions of a block that the kernels take as one vector.
struct Runs {
  int64_t n = 0;
  const char* pointers[2 * kAttentionSplitTokens + kExtraRuns];

  const char* const* keys() const { return pointers; }
  const char* const* values() const { return pointers + n; }
};

// The computation of one item. The object takes 230 KB of stack, of which small items touch little.
// Owned by one thread.
class ItemWork {
 public:
  ItemWork(const AttentionCall& call, const Item& item) : call_(call), item_(item) {
    for (int64_t i = 0; i < n_queries_; ++i) {
      const auto [t, head] = PlaceOf(i);
      n_positions_[i] = call.tokens.positions[t] + 1;
      out_[i] = call.out + (t * call.n_heads + head) * call.cache.shape.head_dim;
    }
    std::fill_n(split_max_, item.n_blocks() * kBlockLanes, 0.0f);
    std::fill_n(split_sum_, item.n_blocks() * kBlockLanes, 0.0f);
  }

  // Computes the item's splits, and the final result unless the splits' results are partial.
  void Attend();

  // Computes the final result from the partial results of all splits of the tile.
  void MergePartials();

 private:
  // The token (of the step) and the query head of a query.
  struct Place {
    int64_t t = 0;
    int64_t head = 0;
  };

  Place PlaceOf(int64_t query) const {
    const int64_t of_kv_head = query % item_.queries_of_kv_head();
    const int64_t kv_head_idx = item_.kv_head_idx + query / item_.queries_of_kv_head();
    return {item_.token_begin + of_kv_head / item_.n_heads,
            kv_head_idx * call_.group + item_.head_begin + of_kv_head % item_.n_heads};
  }

  // Packs the item's queries for the kernels.
  void LoadQueries();
  // Fills runs_ for a split.
  void FindRuns(int64_t split);
  // Computes one split for block i; if the item has several KV heads, for all blocks (i = 0).
  void AttendBlock(int64_t i, int64_t split, const SplitResult& result);
  // Merges one split's result into the running results of block i.
  void MergeBlock(int64_t i, int64_t split, const SplitResult& result);
  // Divides the running sums of values by the sums of weights.
  void Finish();

  // Positions of the split that the query attends to.
  int64_t PositionsOf(int64_t query, int64_t split) const {
    return std::clamp<int64_t>(n_positions_[query] - split * kAttentionSplitTokens, 0,
                               kAttentionSplitTokens);
  }
  // How many of the block's queries have no position in the split. They are its first queries,
  // because positions ascend within a block.
  int64_t QueriesBefore(const Block& block, int64_t split) const {
    int64_t n = 0;
    while (n < block.n && PositionsOf(block.begin + n, split) == 0) ++n;
    return n;
  }
  // Where the result of a split lies in the item's partials.
  SplitResult Partial(int64_t split) const {
    float* const values = item_.partials + split * SplitFloats(item_, call_.sum_stride());
    float* const max = values + n_queries_ * call_.sum_stride();
    return {values, max, max + item_.n_blocks() * kBlockLanes};
  }

  const AttentionCall& call_;
  const Item& item_;
  const AttentionKernels& kernels_ = call_.KernelsFor(item_.queries_of_kv_head());
  const int64_t n_queries_ = item_.n_queries();
  int64_t n_positions_[kTileQueries];  // ascending: position + 1 of each query
  float* out_[kTileQueries];  // each [head_dim]; holds the running sum of values until Finish
  Runs runs_;
  alignas(64) float queries_[kTileQueries * kQueryFloats];
  alignas(64) float scores_[kTileQueries * kScoreFloats];
  alignas(64) float split_values_[kTileQueries * kMaxCacheHeadDim];
  alignas(64) float split_max_[kTileLanes];
  alignas(64) float split_sum_[kTileLanes];
  alignas(64) float max_[kTileLanes];
  alignas(64) float sum_[kTileLanes];
};

void ItemWork::LoadQueries() {
  const int64_t head_dim = call_.cache.shape.head_dim;
  for (int64_t i = 0; i < n_queries_; ++i) {
    const auto [t, head] = PlaceOf(i);
    const float* query = call_.qkv + t * call_.qkv_stride() + head * head_dim;
    kernels_.pack_query(query, head_dim, queries_ + i * kQueryFloats);
  }
}

void ItemWork::FindRuns(int64_t split) {
  const KvCacheShape& shape = call_.cache.shape;
  const int64_t run_positions = call_.run_positions;
  const int64_t runs_of_block = shape.block_size / run_positions;
  const int64_t key_bytes = 4 * run_positions;
  const int64_t value_bytes = run_positions * shape.head_dim * DTypeBytes(shape.dtype);
  const int32_t* const block_ids = call_.tokens.block_table +
                                   item_.row * call_.tokens.max_blocks_per_row +
                                   split * (kAttentionSplitTokens / shape.block_size);
  const auto block_offset = [&](int64_t block) {
    return call_.cache.BlockOffset(block_ids[block], item_.kv_head_idx) * DTypeBytes(shape.dtype);
  };
  const char* const keys = static_cast<const char*>(call_.cache.keys);
  const char* const values = static_cast<const char*>(call_.cache.values);
  runs_.n = CeilDiv(PositionsOf(n_queries_ - 1, split), run_positions);
  const char** const value_runs = runs_.pointers + runs_.n;
  for (int64_t i = 0, block = 0; i < runs_.n; ++block) {
    const int64_t offset = block_offset(block);
    for (int64_t j = 0; j < runs_of_block && i < runs_.n; ++j, ++i) {
      runs_.pointers[i] = keys + offset + j * key_bytes;
      value_runs[i] = values + offset + j * value_bytes;
    }
  }
  // After the last values come the first keys of the next split, for the kernels to fetch early. If
  // there is no next run, the last pointer is repeated: it only has to be valid.
  const char** const extra = value_runs + runs_.n;
  const int64_t n_next = split + 1 < item_.split_end
                             ? CeilDiv(PositionsOf(n_queries_ - 1, split + 1), run_positions)
                             : 0;
  for (int64_t i = 0; i < kExtraRuns; ++i) {
    extra[i] =
        i < n_next
            ? keys + block_offset((kAttentionSplitTokens + i * run_positions) / shape.block_size) +
                  i % runs_of_block * key_bytes
            : extra[i - 1];
  }
}

void ItemWork::AttendBlock(int64_t i, int64_t split, const SplitResult& result) {
  const KvCacheShape& shape = call_.cache.shape;
  const Block block = BlockOf(item_, i);
  const HeadsOfRun heads = {.n = item_.n_kv_heads,
                            .bytes = shape.block_size * shape.head_dim * DTypeBytes(shape.dtype)};
  const int64_t first = QueriesBefore(block, split);
  std::fill_n(result.max + i * kBlockLanes, first, -std::numeric_limits<float>::infinity());
  std::fill_n(result.sum + i * kBlockLanes, first, 0.0f);
  if (first == block.n) return;
  const int64_t begin = block.begin + first, n = block.n - first;
  const int64_t n_positions = PositionsOf(begin + n - 1, split);
  kernels_.scores({.queries = queries_ + begin * kQueryFloats,
                   .n_queries = n,
                   .heads = heads,
                   .keys = runs_.keys(),
                   .n_runs = CeilDiv(n_positions, call_.run_positions),
                   .run_positions = call_.run_positions,
                   .n_steps = shape.head_dim * DTypeBytes(shape.dtype) / 4,
                   .step_bytes = shape.block_size * 4,
                   .scores = scores_});
  const int64_t n_padded = RoundUp(n_positions, 2 * kSimdLanes);
  for (int64_t head = 0; head < heads.n; ++head) {
    for (int64_t q = 0; q < n; ++q) {
      const SoftmaxSums sums =
          kernels_.softmax(scores_ + (head * n + q) * kScoreFloats, PositionsOf(begin + q, split),
                           n_padded, call_.scale);
      const int64_t lane = (i + head) * kBlockLanes + first + q;
      result.max[lane] = sums.max;
      result.sum[lane] = sums.sum;
    }
  }
  kernels_.values({.probs = scores_,
                   .n_queries = n,
                   .heads = heads,
                   .values = runs_.values(),
                   .run_positions = call_.run_positions,
                   .n_positions = n_positions,
                   .head_dim = shape.head_dim,
                   .sums = result.values + begin * call_.sum_stride(),
                   .sum_stride = call_.sum_stride()});
}

void ItemWork::MergeBlock(int64_t i, int64_t split, const SplitResult& result) {
  const Block block = BlockOf(item_, i);
  const int64_t lanes = i * kBlockLanes;
  const int64_t head_dim = call_.cache.shape.head_dim;
  if (split == 0) {
    std::copy_n(result.max + lanes, kBlockLanes, max_ + lanes);
    std::copy_n(result.sum + lanes, kBlockLanes, sum_ + lanes);
    for (int64_t q = block.begin; q < block.begin + block.n; ++q) {
      std::copy_n(result.values + q * call_.sum_stride(), head_dim, out_[q]);
    }
    return;
  }
  const int64_t first = QueriesBefore(block, split);
  if (first == block.n) return;
  call_.simd.merge_split({.first = first,
                          .n_queries = block.n,
                          .head_dim = head_dim,
                          .out = out_ + block.begin,
                          .max = max_ + lanes,
                          .sum = sum_ + lanes,
                          .split_values = result.values + block.begin * call_.sum_stride(),
                          .split_stride = call_.sum_stride(),
                          .split_max = result.max + lanes,
                          .split_sum = result.sum + lanes});
}

void ItemWork::Finish() {
  for (int64_t i = 0; i < item_.n_blocks(); ++i) {
    const Block block = BlockOf(item_, i);
    for (int64_t q = 0; q < block.n; ++q) {
      float* const out = out_[block.begin + q];
      call_.simd.divide_row(out, call_.cache.shape.head_dim, sum_[i * kBlockLanes + q], out);
    }
  }
}

void ItemWork::Attend() {
  LoadQueries();
  const int64_t n_blocks = item_.n_blocks();
  for (int64_t split = item_.split_begin; split < item_.split_end; ++split) {
    FindRuns(split);
    const bool is_partial = item_.partials != nullptr;
    const SplitResult result =
        is_partial ? Partial(split) : SplitResult{split_values_, split_max_, split_sum_};
    const int64_t n_attended = item_.n_kv_heads > 1 ? 1 : n_blocks;
    for (int64_t i = 0; i < n_attended; ++i) AttendBlock(i, split, result);
    for (int64_t i = 0; !is_partial && i < n_blocks; ++i) MergeBlock(i, split, result);
  }
  if (item_.partials == nullptr) Finish();
}

void ItemWork::MergePartials() {
  const int64_t n_splits = CeilDiv(n_positions_[n_queries_ - 1], kAttentionSplitTokens);
  for (int64_t split = 0; split < n_splits; ++split) {
    for (int64_t i = 0; i < item_.n_blocks(); ++i) MergeBlock(i, split, Partial(split));
  }
  Finish();
}

// The modelled time of an item with all splits up to its last token, in nanoseconds.
double ItemNs(const AttentionCall& call, const Item& item) {
  const KvCacheShape& shape = call.cache.shape;
  const double n_elements = static_cast<double>(2 * item.n_kv_heads * shape.head_dim);
  const double n_queries = static_cast<double>(item.queries_of_kv_head());
  const double rate = kMultiplyAddsPerNs[static_cast<int>(shape.dtype)];
  const double bytes = static_cast<double>(DTypeBytes(shape.dtype));
  const int64_t last = item.token_begin + item.n_tokens - 1;
  return kItemNs + static_cast<double>(call.tokens.positions[last] + 1) * n_elements *
                       std::max(bytes / kBytesPerNs, n_queries / rate);
}

// How rows are cut into tiles: items with all of their splits.
struct Tiling {
  int64_t head_parts = 1;  // parts that a group of heads is cut into
  int64_t tokens = 1;      // most tokens of a tile
  int64_t kv_parts = 1;    // parts that the KV heads of a decoding token are cut into
};

// Whether a row's tiles take several KV heads together: it has one token and few queries per KV
// head.
bool IsStreamed(const AttentionCall& call, int64_t row) {
  return call.group <= kStreamedQueries &&
         call.tokens.row_begin[row + 1] - call.tokens.row_begin[row] == 1;
}

// The item for a row's first token with all KV heads and all splits.
Item DecodingItem(const AttentionCall& call, int64_t row) {
  const int64_t t = call.tokens.row_begin[row];
  return {.row = static_cast<int32_t>(row),
          .token_begin = static_cast<int32_t>(t),
          .n_tokens = 1,
          .n_kv_heads = static_cast<int32_t>(call.cache.shape.local_n_kv_heads),
          .n_heads = static_cast<int32_t>(call.group),
          .split_end =
              static_cast<int32_t>(CeilDiv(call.tokens.positions[t] + 1, kAttentionSplitTokens))};
}

// Chooses the largest tiles that give the threads enough items to share.
Tiling ChooseTiling(const AttentionCall& call, int n_threads) {
  const int64_t n_kv_heads = call.cache.shape.local_n_kv_heads;
  Tiling tiling;
  tiling.head_parts = CeilDiv(call.group, kTileQueries);
  tiling.tokens = std::max<int64_t>(1, kTileQueries / CeilDiv(call.group, tiling.head_parts));
  // As many KV heads together as fit a tile, at least one; larger groups than kStreamedQueries are
  // not streamed.
  tiling.kv_parts = CeilDiv(n_kv_heads, std::max<int64_t>(1, kTileQueries / call.group));
  if (n_threads == 1) return tiling;
  // Smaller tiles if there are too few for the threads: the aim is four items per thread, each of
  // at least 2 us.
  const int64_t n_wanted = 4 * n_threads;
  tiling.tokens = std::clamp<int64_t>(
      call.tokens.n_tokens * n_kv_heads * tiling.head_parts / n_wanted, 1, tiling.tokens);
  int64_t n_splits = 0;
  double ns = 0;
  for (int64_t row = 0; row < call.tokens.n_rows; ++row) {
    if (!IsStreamed(call, row)) continue;
    const Item item = DecodingItem(call, row);
    n_splits += item.split_end;
    ns += ItemNs(call, item);
  }
  if (n_splits == 0) return tiling;
  const int64_t n_parts = std::min(CeilDiv(n_wanted, n_splits), static_cast<int64_t>(ns / 2000));
  tiling.kv_parts = std::clamp(n_parts, tiling.kv_parts, n_kv_heads);
  return tiling;
}

// Calls add(item) for every tile, with all of its splits. The order is row by row and within a row
// head by head, so that neighbouring tiles find their keys and values in the cache.
template <typename Add>
void ForEachTile(const AttentionCall& call, const Tiling& tiling, Add add) {
  const StepTokensView& tokens = call.tokens;
  const int64_t n_kv_heads = call.cache.shape.local_n_kv_heads;
  for (int64_t row = 0; row < tokens.n_rows; ++row) {
    const int64_t begin = tokens.row_begin[row];
    const int64_t n_tokens = tokens.row_begin[row + 1] - begin;
    Item item = DecodingItem(call, row);
    if (IsStreamed(call, row)) {
      for (int64_t part = 0; part < tiling.kv_parts; ++part) {
        item.kv_head_idx = static_cast<int32_t>(n_kv_heads * part / tiling.kv_parts);
        item.n_kv_heads =
            static_cast<int32_t>(n_kv_heads * (part + 1) / tiling.kv_parts - item.kv_head_idx);
        add(item);
      }
      continue;
    }
    item.n_kv_heads = 1;
    const int64_t n_tiles = CeilDiv(n_tokens, tiling.tokens);
    for (int64_t i = 0; i < n_kv_heads * tiling.head_parts * n_tiles; ++i) {
      const int64_t tile = i % n_tiles;
      const int64_t part = i / n_tiles % tiling.head_parts;
      item.kv_head_idx = static_cast<int32_t>(i / n_tiles / tiling.head_parts);
      item.head_begin = static_cast<int32_t>(call.group * part / tiling.head_parts);
      item.n_heads =
          static_cast<int32_t>(call.group * (part + 1) / tiling.head_parts - item.head_begin);
      item.token_begin = static_cast<int32_t>(begin + n_tokens * tile / n_tiles);
      item.n_tokens =
          static_cast<int32_t>(begin + n_tokens * (tile + 1) / n_tiles - item.token_begin);
      item.split_end = static_cast<int32_t>(CeilDiv(
          tokens.positions[item.token_begin + item.n_tokens - 1] + 1, kAttentionSplitTokens));
      add(item);
    }
  }
}

// The number of items that a tile is cut into, by splits. Long tiles are cut so that no thread is
// idle when there are few: the modelled time of an item is about 1 / kItemsPerThread of a thread's
// share of the call, or kWakeNs if that is longer.
constexpr int64_t kItemsPerThread = 4;
int64_t ItemsOf(const AttentionCall& call, const Item& tile, double share_ns) {
  const double n_items = ItemNs(call, tile) / std::max(kWakeNs, share_ns / kItemsPerThread);
  return std::clamp<int64_t>(std::llround(n_items), 1, tile.split_end);
}

// Divides the call into items, runs them, then merges the partial results of tiles that were cut.
void Run(CpuDevice& device, const AttentionCall& call) {
  const Tiling tiling = ChooseTiling(call, device.n_threads());
  double total_ns = 0;
  ForEachTile(call, tiling, [&](const Item& tile) { total_ns += ItemNs(call, tile); });
  const double share_ns = total_ns / device.n_threads();
  const auto items_of = [&](const Item& tile) {
    return device.n_threads() == 1 ? 1 : ItemsOf(call, tile, share_ns);
  };
  const auto partial_floats = [&](const Item& tile) {
    return items_of(tile) == 1 ? 0 : tile.split_end * SplitFloats(tile, call.sum_stride());
  };
  int64_t n_items = 0, n_floats = 0;
  ForEachTile(call, tiling, [&](const Item& tile) {
    n_items += items_of(tile);
    n_floats += partial_floats(tile);
  });
  // The scratch has the partial results first, then the items.
  float* partials = device.Scratch(n_floats + CeilDiv(n_items * sizeof(Item), sizeof(float)));
  Item* const items = reinterpret_cast<Item*>(partials + n_floats);
  int64_t next = 0;
  ForEachTile(call, tiling, [&](Item tile) {
    const int64_t n = items_of(tile);
    if (n > 1) tile.partials = partials;
    partials += partial_floats(tile);
    const int32_t n_splits = tile.split_end;
    for (int64_t i = 0; i < n; ++i) {
      tile.split_begin = static_cast<int32_t>(n_splits * i / n);
      tile.split_end = static_cast<int32_t>(n_splits * (i + 1) / n);
      new (items + next++) Item(tile);
    }
  });
  const int64_t grain = 1 + static_cast<int64_t>(kWakeNs * static_cast<double>(n_items) / total_ns);
  device.ParallelFor(n_items, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) ItemWork(call, items[i]).Attend();
  });
  if (n_floats == 0) return;
  // A tile's merge is short and runs as one unit, on behalf of the tile's first item.
  device.ParallelFor(n_items, 4 * grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (items[i].partials != nullptr && items[i].split_begin == 0) {
        ItemWork(call, items[i]).MergePartials();
      }
    }
  });
}

}  // namespace

int64_t PagedAttentionScratchFloats(const CpuDevice& device, const KvCacheShape& cache,
                                    int64_t local_n_heads, int64_t max_tokens,
                                    int64_t max_positions) {
  const int64_t group = DivExact(local_n_heads, cache.local_n_kv_heads);
  const int64_t n_tiles = max_tokens * cache.local_n_kv_heads * CeilDiv(group, kTileQueries);
  // ItemsOf rounds to the nearest integer, so a tile that is cut has 1.5 items or more before
  // rounding. All tiles together have at most kItemsPerThread items per thread, plus one item per
  // tile by rounding.
  const int64_t n_cut = device.n_threads() == 1 ? 0 : kItemsPerThread * device.n_threads() * 2 / 3;
  const int64_t n_items = n_tiles + kItemsPerThread * device.n_threads();
  const int64_t split_floats = kTileQueries * SumStride(cache) + 2 * kTileLanes;
  return n_cut * CeilDiv(max_positions, kAttentionSplitTokens) * split_floats +
         CeilDiv(n_items * static_cast<int64_t>(sizeof(Item)), static_cast<int64_t>(sizeof(float)));
}

void PagedAttention(CpuDevice& device, const StepTokensView& tokens, int64_t local_n_heads,
                    const float* qkv, const KvLayerView& cache, float* out) {
  const KvCacheShape& shape = cache.shape;
  CHECK(shape.head_dim > 0 && shape.head_dim <= kMaxCacheHeadDim && shape.head_dim % 2 == 0)
      << "head_dim " << shape.head_dim << " is not even or not in [2, " << kMaxCacheHeadDim << "]";
  CHECK(shape.block_size > 0 && kAttentionSplitTokens % shape.block_size == 0)
      << "block_size " << shape.block_size << " does not divide " << kAttentionSplitTokens;
  CHECK(shape.dtype == DType::kF32 || shape.dtype == DType::kBf16) << "type of a KV cache";
  CHECK(shape.dtype == DType::kF32 || shape.block_size % 2 == 0)
      << "block_size " << shape.block_size << " is odd: a bf16 cache holds pairs of positions";
  if (tokens.n_tokens == 0) return;
  const auto kernels = [&](int i) {
    const SimdChoice& choice = device.simd_choice();
    const bool is_bf16 = shape.dtype == DType::kBf16;
    return &GetSimdKernels(is_bf16 ? choice.bf16_attention[i] : choice.level)
                .attention[static_cast<int>(shape.dtype)];
  };
  Run(device, {.simd = device.simd(),
               .few_queries = kernels(0),
               .many_queries = kernels(1),
               .tokens = tokens,
               .cache = cache,
               .qkv = qkv,
               .out = out,
               .n_heads = local_n_heads,
               .group = DivExact(local_n_heads, shape.local_n_kv_heads),
               .run_positions = std::min<int64_t>(shape.block_size, kSimdLanes),
               .scale = static_cast<float>(1 / std::log(2.0) /
                                           std::sqrt(static_cast<double>(shape.head_dim)))});
}

}  // namespace bora
